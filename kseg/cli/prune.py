"""Trains a .keras file on while the smallest weights of its convolutions become zero."""

from __future__ import annotations

import argparse

from kseg.cli import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files, the training and the zeros."""
    arguments.add_smaller(parser)
    parser.add_argument(
        "--sparsity", type=float, metavar="S", help="share of the weights that become zero, 0 to 1"
    )
    parser.add_argument(
        "--structure", metavar="2:4", help="two zeros in every four weights, in place of --sparsity"
    )


def run(args: argparse.Namespace) -> None:
    """Trains and saves."""
    arguments.check_installed("tensorflow_model_optimization", "qat")
    from kseg.tflite import prune

    arguments.save_smaller(args, prune, sparsity=args.sparsity, structure=args.structure)
