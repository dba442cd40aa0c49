"""The `kseg` command: arguments and calls. Each subcommand is a module here."""

from __future__ import annotations

import argparse
import importlib
import keyword
import sys
from collections.abc import Sequence

from kseg._version import __version__
from kseg.errors import KsegError

SUBCOMMANDS = {
    "models": "the zoo as a table, with published facts",
    "streets": "make a procedural street data set",
    "check-data": "class histogram, bad ids, missing pairs, pictures",
    "prepare": "a split as records that training reads fast",
    "train": "train a model, or take up a run that was left",
    "evaluate": "score a file on a data set",
    "compare": "where two files disagree: pixels, classes, pictures",
    "predict": "train-id PNGs and overlays of images",
    "import": "a published checkpoint into a .keras file",
    "convert": "a .keras file into a .tflite or .onnx file",
    "qat": "train a .keras file for int8 and write the .tflite file",
    "prune": "train a .keras file until most of its weights are zero",
    "cluster": "train a .keras file until each kernel has a few values",
    "quantisation-report": "what int8 costs in every layer of a .keras file",
    "check-gpu": "a .tflite file on CPU and GPU accelerator, compared",
    "benchmark": "latency, memory and size of files, by turns",
    "demo": "the whole way on streets that it draws, with a report",
}


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command; a subcommand leaves its function as ``run``."""
    top = argparse.ArgumentParser(prog="kseg", description="Semantic segmentation in Keras.")
    top.add_argument("--version", action="version", version=f"kseg {__version__}")
    subparsers = top.add_subparsers(required=True, metavar="SUBCOMMAND")
    for name, text in SUBCOMMANDS.items():
        # A module cannot be named by a keyword.
        file = name.replace("-", "_") + "_" * keyword.iskeyword(name)
        module = importlib.import_module(f"kseg.cli.{file}")
        subparser = subparsers.add_parser(name, help=text, description=module.__doc__)
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand; 0 when it did, 1 with one line on stderr when it could not."""
    args = parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except KsegError as error:
        print(f"kseg: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("kseg: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output left; nobody is there to be told.
        sys.stderr.close()
        return 1
