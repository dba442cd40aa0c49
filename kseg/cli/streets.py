"""Make a procedural street data set, train and val, in Cityscapes' layout."""

from __future__ import annotations

import argparse
from pathlib import Path

from kseg.progress import Countdown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``kseg streets`` takes."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="new or empty folder")
    parser.add_argument(
        "--count",
        type=int,
        required=True,
        metavar="N",
        help="number of images; a fifth of them are val",
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(256, 512),
        metavar=("H", "W"),
        help="size of the images (default: 256 512)",
    )
    parser.add_argument(
        "--simple",
        action="store_true",
        help="ten classes, without rare ones, in the layout of the data set `folder`",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="another seed gives other streets (default: 0)"
    )


def run(args: argparse.Namespace) -> None:
    """Writes the data set."""
    from kseg.streets import write_streets

    write_streets(
        args.folder,
        args.count,
        size=tuple(args.size),
        seed=args.seed,
        simple=args.simple,
        progress=Countdown("streets"),
    )
    print(f"{args.folder}: {args.count} streets of {args.size[0]}x{args.size[1]}")
