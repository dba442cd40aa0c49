"""What int8 costs in every layer of a model: signal to quantisation noise, worst first.

The model is converted to int8 and to float32, and both run on the calibration images.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path

from kseg.cli import arguments
from kseg.files import check_not_input, check_output, write_json
from kseg.progress import Countdown

FLAGS = {"calibration_method": "--calibration"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file and how it becomes int8."""
    parser.add_argument("file", type=Path, metavar="FILE", help=".keras")
    arguments.add_size(
        parser,
        "--input-size",
        "input size (default: the model's own, else its data set's, else 512 1024)",
    )
    arguments.add_calibration(parser)
    parser.add_argument(
        "--json",
        type=Path,
        metavar="F",
        help="write the table to this file; dB are null without noise, -inf without signal",
    )


def run(args: argparse.Namespace) -> None:
    """Prints the table, writes the JSON."""
    from kseg.loading import load
    from kseg.tflite import format_noise, quantisation_noise

    if args.json:
        check_output(args.json)
        check_not_input([args.json], [args.file])
    model = load(args.file)
    rows = quantisation_noise(
        model,
        arguments.calibration(args, model, args.json),
        input_size=arguments.size(args.input_size),
        calibration_method=args.calibration or "percentile",
        keep_float=args.keep_float,
        progress=Countdown(),
    )
    print(format_noise(rows))
    if args.json:
        table = [dataclasses.asdict(row) for row in rows]
        for row in table:
            # JSON has no infinity.
            row["decibels"] = {math.inf: None, -math.inf: "-inf"}.get(
                row["decibels"], row["decibels"]
            )
        write_json(args.json, table)
