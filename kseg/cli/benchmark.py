"""Times files in turns: copy, run and argmax separately; with peak memory and file size.

Every file runs in a process of its own. Copy is from RGB bytes into the input tensor and
out of the output tensor (a .keras file copies within its run, an .onnx file not at all);
argmax is the host's, on logits at their own size, those at a stride then enlarged to the
input's. Of the peak memory, "added" came after the libraries were loaded. --profile adds
what kinds of operators the time of .tflite files on the CPU goes to.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from kseg.cli import arguments
from kseg.environment import environment
from kseg.files import check_not_input, check_output, write_json
from kseg.progress import Countdown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files and how to run them."""
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help=arguments.FILES)
    arguments.add_card(parser, of="all files without one")
    parser.add_argument(
        "--runtime",
        default="cpu",
        help="what runs .tflite files: cpu, litert-gpu or litert-fp16 (default: cpu)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    parser.add_argument(
        "--runs", type=int, default=20, metavar="N", help="measured runs of each file (default: 20)"
    )
    parser.add_argument(
        "--warm-up", type=int, default=3, metavar="N", help="runs before measuring (default: 3)"
    )
    arguments.add_size(
        parser,
        "--input-size",
        "input size of .keras files (default: the data set's, else 512 1024)",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="show the time by kind of operator, for .tflite files on the CPU",
    )
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures to this file")


def run(args: argparse.Namespace) -> None:
    """Prints the table and writes the JSON."""
    from kseg.tflite.predictors import stated_for
    from kseg.tflite.profile import format_profiles, operator_profile
    from kseg.tflite.timing import benchmark, format_timings

    if args.json:
        check_output(args.json)
        check_not_input([args.json], [*args.files, args.card])
    profiles = [
        operator_profile(
            file,
            threads=args.threads,
            runs=args.runs,
            warm_up=args.warm_up,
            stated=stated_for(file, args.card),
        )
        for file in (args.files if args.profile else ())
    ]
    timings = benchmark(
        args.files,
        threads=args.threads,
        runs=args.runs,
        warm_up=args.warm_up,
        runtime=args.runtime,
        card=args.card,
        input_size=arguments.size(args.input_size),
        progress=Countdown("rounds"),
    )
    print(format_timings(timings))
    if profiles:
        print(format_profiles(profiles))
    if args.json:
        report = {
            **environment(),
            "files": [dataclasses.asdict(timing) for timing in timings],
            "profiles": [dataclasses.asdict(profile) for profile in profiles],
        }
        write_json(args.json, report)
