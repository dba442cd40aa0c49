"""Reads every image and label of a data set and says what is wrong with them.

With --shard I/N --json F it reads only part I of the images; `kseg merge` makes the report of the
N files.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kseg.cli import arguments
from kseg.data.check import find_problems, write_data_shard
from kseg.errors import KsegError
from kseg.files import check_output
from kseg.progress import Countdown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--dataset, --data-dir, --split, --out."""
    arguments.add_data(parser)
    parser.add_argument("--split", nargs="+", default=["train", "val"], metavar="S")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="draw the labels over some images into this folder"
    )
    arguments.add_shard(parser, "the images")
    parser.add_argument(
        "--json", type=Path, metavar="F", help="write what this shard found to this file"
    )


def run(args: argparse.Namespace) -> int:
    """Prints a report a split; 1 when there are problems, warnings leave it 0."""
    shard = arguments.shard(args)
    # Each part of what other commands take as one split, once.
    splits = list(dict.fromkeys(part for split in args.split for part in split.split("+")))
    if (args.shard is None) != (args.json is None):
        raise KsegError("shard and json belong together; give --shard I/N --json F, or neither")
    if args.out or args.json:
        arguments.data_outputs(args, splits, [args.out, args.json])
    if args.json:
        check_output(args.json)
    found = [
        find_problems(args.dataset, args.data_dir, split, shard, out=args.out, progress=Countdown())
        for split in splits
    ]
    if args.json:
        write_data_shard(args.json, shard, found)
        images = sum(split.sizes.total() for split in found)
        print(f"{args.json}: shard {shard}, {images} images")
        return 0
    return arguments.print_reports([split.report() for split in found])
