"""Reads every image and label of a data set and says what is wrong with them."""

from __future__ import annotations

import argparse
from pathlib import Path

from kseg.cli import arguments
from kseg.data.check import check_data
from kseg.progress import Countdown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--dataset, --data-dir, --split, --out."""
    arguments.add_data(parser)
    parser.add_argument("--split", nargs="+", default=["train", "val"], metavar="S")
    parser.add_argument("--out", type=Path, metavar="DIR", help="pictures of labels over images")


def run(args: argparse.Namespace) -> int:
    """Prints a report a split; 1 when there are problems, warnings leave it 0."""
    if args.out:
        arguments.data_outputs(args, args.split, [args.out])
    reports = [
        check_data(args.dataset, args.data_dir, split, out=args.out, progress=Countdown())
        for split in args.split
    ]
    print("\n".join(map(str, reports)))
    return int(any(report.problems for report in reports))
