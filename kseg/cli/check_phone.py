"""Compares a .tflite file on the GPU of a phone with the CPU here, by numbers, over adb.

Pushes the file, an image and TensorFlow Lite's benchmark_model to the phone, runs its GPU delegate
once in half precision and once in float32, and pulls the outputs. Exit code 0: half precision
has the same class on 99 % of the pixels, 1: it has not.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kseg.cli import arguments
from kseg.data import read_image
from kseg.file_card import read_file_card


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, the image and the phone."""
    parser.add_argument("file", type=Path, metavar="FILE.tflite")
    parser.add_argument("image", type=Path, metavar="IMAGE", help="a photograph")
    parser.add_argument(
        "--tool",
        type=Path,
        required=True,
        metavar="F",
        help="TensorFlow Lite's benchmark_model, built for the phone (docs/android.md)",
    )
    parser.add_argument(
        "--serial", metavar="S", help="serial number of the phone, if several are connected"
    )
    arguments.add_card(parser)
    arguments.add_timeout(parser)


def run(args: argparse.Namespace) -> int:
    """Prints a line for each precision."""
    from kseg.tflite.phone import check_phone

    found = check_phone(
        args.file,
        read_image(args.image),
        args.tool,
        stated=args.card and read_file_card(args.card),
        serial=args.serial,
        timeout=args.timeout,
    )
    for precision, agreement in found.items():
        print(f"{args.file} in {precision} on the phone: {agreement}")
    return 0 if found["half"].same_class >= 0.99 else 1
