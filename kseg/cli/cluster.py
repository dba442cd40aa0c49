"""Trains a .keras file on while the weights of each kernel come to share a few values."""

from __future__ import annotations

import argparse

from kseg.cli import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files, the training and the number of values."""
    arguments.add_smaller(parser)
    parser.add_argument(
        "--clusters",
        type=int,
        default=16,
        metavar="N",
        help="different values in a kernel, 3 to 256 (default: 16)",
    )


def run(args: argparse.Namespace) -> None:
    """Trains and saves."""
    arguments.check_installed("tensorflow_model_optimization", "qat")
    from kseg.tflite import cluster

    arguments.save_smaller(args, cluster, clusters=args.clusters)
