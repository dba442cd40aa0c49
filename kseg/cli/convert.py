"""A .keras file into a .tflite file that runs whole on the GPU delegate."""

from __future__ import annotations

import argparse
from pathlib import Path

from kseg.cli import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files and the form."""
    parser.add_argument("file", type=Path, metavar="FILE", help=".keras")
    parser.add_argument("out", type=Path, metavar="OUT.tflite")
    parser.add_argument("--precision", default="fp32", help="fp32")
    parser.add_argument("--output", default="logits", help="logits, stride-logits or argmax")
    arguments.add_size(parser, "--input-size", "of the file (the data set's, else 512 1024)")


def run(args: argparse.Namespace) -> None:
    """Converts."""
    from kseg.tflite import convert

    convert(
        args.file,
        args.out,
        precision=args.precision,
        output=args.output,
        input_size=arguments.size(args.input_size),
    )
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB")
