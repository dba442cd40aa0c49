"""Uploads a .keras file, and files made of it, to the Hugging Face Hub, with a page about it.

`hf auth login` states who you are. Others then name the model as hf://USER/NAME.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kseg import hub
from kseg.files import suffix_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files and the repository."""
    parser.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="one .keras file, and files made of it"
    )
    parser.add_argument("name", metavar="hf://USER/NAME")
    parser.add_argument("--private", action="store_true", help="make a new repository private")


def run(args: argparse.Namespace) -> None:
    """Uploads."""
    from kseg.loading import load

    models = [path for path in args.files if suffix_of(path) == ".keras"]
    card = load(models[0] if models else args.files[0]).card
    print(hub.push(args.files, card, args.name, private=args.private))
