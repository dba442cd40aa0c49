"""Scores a .keras, .tflite or .onnx file on a data set, one image at a time, at label size."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from kseg.cli import arguments
from kseg.data import open_dataset
from kseg.evaluation import evaluate, format_report
from kseg.files import whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, the data and the way to score."""
    parser.add_argument("file", type=Path, metavar="FILE", help=".keras, .tflite or .onnx")
    arguments.add_data(parser)
    parser.add_argument("--split", default="val", metavar="S", help="(val)")
    arguments.add_size(parser, "--input-size", "of the network (the image's, or the file's)")
    arguments.add_size(parser, "--pad-to", "pad with the mean to this (DeepLab: 1025 2049)")
    parser.add_argument("--runtime", default="cpu", help="of a .tflite: cpu or litert-gpu")
    arguments.add_crf(parser)
    parser.add_argument("--json", type=Path, metavar="F", help="the score as a file")


def run(args: argparse.Namespace) -> None:
    """Prints the table and writes the JSON."""
    data = open_dataset(args.dataset, args.data_dir, args.split)
    report = evaluate(
        arguments.load_predictor(args.file, args.runtime),
        data,
        input_size=arguments.size(args.input_size),
        pad_to=arguments.size(args.pad_to),
        crf=args.crf,
        progress=arguments.show_progress,
    )
    report["file"] = str(args.file)
    print(format_report(report))
    if args.json:
        with whole(args.json) as path:
            path.write_text(json.dumps(report, indent=1) + "\n")
