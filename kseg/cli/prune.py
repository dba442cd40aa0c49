"""Trains a .keras file on while the smallest weights of its convolutions become zero."""

from __future__ import annotations

import argparse
from pathlib import Path

from kseg.cli import arguments
from kseg.files import whole
from kseg.model import load_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files, the training and the zeros."""
    parser.add_argument("file", type=Path, metavar="FILE", help=".keras")
    parser.add_argument("out", type=Path, metavar="OUT", help=".keras")
    arguments.add_fine_tuning(parser, learning_rate=1e-4)
    parser.add_argument("--sparsity", type=float, metavar="S", help="share of zeros, 0 to 1")
    parser.add_argument("--structure", metavar="N:M", help="2:4, two zeros in every four")


def run(args: argparse.Namespace) -> None:
    """Trains and saves."""
    arguments.check_installed("tensorflow_model_optimization", "qat")
    from kseg.tflite.prune import prune

    model = load_model(args.file)
    result = prune(
        model,
        **arguments.fine_tuning(args, model),
        sparsity=args.sparsity,
        structure=args.structure,
    )
    with whole(args.out) as path:
        result.save(path)
    print(f"{args.out}: {result.card.weights}")
