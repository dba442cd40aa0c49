"""Reads every image and label of a data set and says what is wrong with them.

With --shard I/N --json F it reads only part I of the images; `kseg merge` makes the report of the
N files.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

from kseg.cli import arguments
from kseg.data.check import find_problems, write_data_shard
from kseg.data.finding import MissingSplit, Pairs, find_pairs
from kseg.errors import KsegError, KsegWarning
from kseg.files import check_output
from kseg.progress import Countdown, clear

_DEFAULT_SPLITS = ("train", "val")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--dataset, --data-dir, --split, --out."""
    arguments.add_data(parser)
    parser.add_argument(
        "--split", nargs="+", metavar="S", help="splits (default: train and val, if they exist)"
    )
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
    named = args.split or _DEFAULT_SPLITS
    splits = list(dict.fromkeys(part for split in named for part in split.split("+")))
    if (args.shard is None) != (args.json is None):
        raise KsegError("shard and json belong together; give --shard I/N --json F, or neither")
    if args.out or args.json:
        arguments.data_outputs(args, splits, [args.out, args.json])
    if args.json:
        check_output(args.json)
    status, found = 0, []
    for split, pairs in _find_splits(args, splits).items():
        found.append(
            find_problems(args.dataset, split, pairs, shard, out=args.out, progress=Countdown())
        )
        if not args.json:
            clear()
            status |= arguments.print_reports([found[-1].report()])
    if args.json:
        write_data_shard(args.json, shard, found)
        images = sum(split.sizes.total() for split in found)
        print(f"{args.json}: shard {shard}, {images} images")
    return status


def _find_splits(args: argparse.Namespace, splits: Sequence[str]) -> dict[str, Pairs]:
    """The files of every split, before any is read; the default splits may be missing."""
    found, missing = {}, []
    for split in splits:
        try:
            found[split] = find_pairs(args.dataset, args.data_dir, split)
        except MissingSplit as error:
            missing.append(error)
    if missing and (args.split or not found):
        raise missing[0]
    for reason in missing:
        warnings.warn(f"{reason}; the split is left out", KsegWarning, stacklevel=2)
    return found
