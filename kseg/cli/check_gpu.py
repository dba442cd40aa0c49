"""Compares a .tflite file on the CPU and on the LiteRT GPU accelerator, by numbers.

Needs a Vulkan driver; the software driver in Debian's chromium package is enough.
Exit code 0: they agree (0.1 % of the logits' range, int8 the same class on 99 % of the
pixels), 1: they differ, 3: there is no accelerator here. Of a float file the second line is half
precision on the CPU, in which a phone may compute; the accelerator here computes in float32.
"""

from __future__ import annotations

import argparse
import sys

from kseg.cli import arguments
from kseg.file_card import read_file_card


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file and what to run it on."""
    arguments.add_check(parser)
    arguments.add_timeout(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the comparison."""
    from kseg.tflite.gpu import NoAccelerator, compare

    card = args.card and read_file_card(args.card)
    try:
        result = compare(args.file, arguments.check_images(args), args.timeout, card)
    except NoAccelerator as error:
        print(f"kseg: {error}", file=sys.stderr)
        return 3
    print(f"{args.file}: {'agrees' if result.agrees else 'DIFFERS'}; {result}")
    if not result.quantised:
        half = compare(args.file, arguments.check_images(args), args.timeout, card, "litert-fp16")
        print(f"half precision on the CPU: {half}")
    return 0 if result.agrees else 1
