"""Whether the numbers of a .tflite file fit into half precision, in which phones' GPUs compute.

Measures every tensor and every sum on images, in float32, and simulates half precision: see
docs/android.md. Exit code 0: safe, 1: at risk. A file is at risk if a value, a sum or a partial
sum in the worst order goes beyond 65,504, or if the simulation gives another class on more
than 1 % of the pixels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kseg.cli import arguments
from kseg.file_card import read_file_card
from kseg.files import check_not_input, check_output, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file and what to run it on."""
    arguments.add_check(parser)
    parser.add_argument(
        "--json", type=Path, metavar="F", help="write the figures of every operator to this file"
    )


def run(args: argparse.Namespace) -> int:
    """Prints the report."""
    from kseg.tflite.half import check_half, format_half

    if args.json:
        check_output(args.json)
        check_not_input([args.json], [args.file, args.card, *(args.images or ())])
    card = args.card and read_file_card(args.card)
    report = check_half(args.file, arguments.check_images(args), stated=card)
    print(format_half(report, str(args.file)))
    if args.json:
        write_json(args.json, {"file": str(args.file), **report.to_json()})
    return 0 if report.safe else 1
