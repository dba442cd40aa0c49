"""Trains a .keras file with the noise of 8 bits and writes the int8 .tflite file."""

from __future__ import annotations

import argparse
from pathlib import Path

from kseg.cli import arguments

FLAGS = {"input_type": "--input"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files, the training and the form."""
    parser.add_argument("file", type=Path, metavar="FILE", help=".keras")
    parser.add_argument("out", type=Path, metavar="OUT", help=".tflite")
    arguments.add_fine_tuning(parser, learning_rate=1e-5)
    arguments.add_form(parser)


def run(args: argparse.Namespace) -> None:
    """Trains and converts."""
    arguments.check_installed("tensorflow_model_optimization", "qat")
    from kseg.loading import load
    from kseg.tflite import train_quantised
    from kseg.training.pipeline import reader_errors

    arguments.data_outputs(args, ["train"], [args.out], [args.file])
    model = load(args.file)
    with reader_errors():
        train_quantised(
            model,
            args.out,
            **arguments.fine_tuning(args, model),
            output=args.output,
            input_size=arguments.size(args.input_size),
            input_type=args.input,
        )
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB")
