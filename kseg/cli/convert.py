"""Converts a .keras file to a .tflite file that runs entirely on the GPU delegate, or to .onnx."""

from __future__ import annotations

import argparse
from pathlib import Path

from kseg.cli import arguments
from kseg.files import check_not_input
from kseg.progress import Countdown

FLAGS = {"calibration_method": "--calibration", "input_type": "--input"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files and the form."""
    parser.add_argument("file", type=Path, metavar="FILE", help=".keras or shipped WEIGHTS:MODEL")
    parser.add_argument("out", type=Path, metavar="OUT", help=".tflite or .onnx")
    parser.add_argument(
        "--precision",
        default="fp32",
        help="fp32, fp16, w8 or int8; an .onnx file is always fp32 (default: fp32)",
    )
    arguments.add_form(parser)
    parser.add_argument(
        "--sparse",
        action="store_true",
        help="leave the zeros of a pruned model out of the file; fp32 or fp16, for CPUs only",
    )
    parser.add_argument(
        "--dynamic-batch",
        action="store_true",
        help="an .onnx file that takes any number of images at once",
    )
    arguments.add_calibration(parser)


def run(args: argparse.Namespace) -> None:
    """Converts."""
    from kseg.loading import load
    from kseg.tflite import convert

    check_not_input([args.out], [args.file])
    model = load(args.file)
    calibration = None
    if args.precision == "int8":
        calibration = arguments.calibration(args, model, args.out)
    else:
        arguments.refuse_calibration(args)
    convert(
        model,
        args.out,
        precision=args.precision,
        output=args.output,
        input_size=arguments.size(args.input_size),
        input_type=args.input,
        calibration=calibration,
        calibration_method=args.calibration or "percentile",
        keep_float=args.keep_float,
        sparse=args.sparse,
        dynamic_batch=args.dynamic_batch,
        progress=Countdown(),
    )
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB")
