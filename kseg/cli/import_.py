"""A published checkpoint (PyTorch, TF1, safetensors) into a .keras file."""

from __future__ import annotations

import argparse
from pathlib import Path

from kseg.files import check_output, whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The network, the checkpoint and the file."""
    parser.add_argument("name", metavar="NAME", help="a name of `kseg models`")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    parser.add_argument("out", type=Path, metavar="OUT.keras")


def run(args: argparse.Namespace) -> None:
    """Builds the network with the checkpoint's classes and saves it."""
    from kseg.loading import create_model

    check_output(args.out, ".keras")
    model = create_model(args.name, weights=args.checkpoint)
    with whole(args.out) as path:
        model.save(path)
    print(f"{args.out}: {args.name} with {model.card.num_classes} classes")
