"""The score of a split from the files of `kseg evaluate --shard`, as one run would give it."""

from __future__ import annotations

import argparse
from pathlib import Path

from kseg.files import check_not_input, check_output, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files of all shards, and the file of the score."""
    parser.add_argument("files", type=Path, nargs="+", metavar="F", help="of all shards")
    parser.add_argument("--json", type=Path, metavar="OUT", help="the score as a file")


def run(args: argparse.Namespace) -> None:
    """Prints the table and writes the JSON."""
    from kseg.evaluation import format_report, merge_shards

    check_not_input([args.json], args.files)
    if args.json:
        check_output(args.json)
    scores, file = merge_shards(args.files)
    if args.json:
        write_json(args.json, {**scores.to_json(), "file": file})
    print(format_report(scores))
