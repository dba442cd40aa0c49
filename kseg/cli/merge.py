"""Makes of the files of all shards what one process would give: a score, or a report of data.

The files are those of `kseg evaluate --shard` or of `kseg check-data --shard`, in any order.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kseg.cli import arguments
from kseg.data import read_shards
from kseg.data.check import merge_data_shards
from kseg.errors import KsegError
from kseg.files import check_not_input, check_output, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files of all shards, and the file of the score."""
    parser.add_argument("files", type=Path, nargs="+", metavar="F", help="files of all shards")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the score to this file")


def run(args: argparse.Namespace) -> int:
    """Prints the table and writes the JSON, or prints the report."""
    check_not_input([args.json], args.files)
    if args.json:
        check_output(args.json)
    shards = read_shards(args.files)
    if shards[0].kind == "data":
        if args.json:
            raise KsegError(f"{shards[0].path}: is no score but of check-data; leave json out")
        return arguments.print_reports(merge_data_shards(shards))
    from kseg.evaluation import format_report, merge_shards

    scores, file = merge_shards(shards)
    if args.json:
        write_json(args.json, {**scores.to_json(), "file": file})
    print(format_report(scores))
    return 0
