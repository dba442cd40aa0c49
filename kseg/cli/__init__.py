"""The `kseg` command: arguments and calls. Each subcommand is a module here."""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import io
import keyword
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import TextIO

from kseg import progress
from kseg._version import __version__
from kseg.errors import KsegError, KsegWarning
from kseg.quiet import quiet_stderr

SUBCOMMANDS = {
    "models": "the zoo as a table, with published facts",
    "encoders": "encoders and heads that go together, as HEAD.ENCODER",
    "streets": "make a procedural street data set",
    "check-data": "class histogram, bad ids, missing pairs, pictures",
    "prepare": "a split as records that training reads fast",
    "train": "train a model, or take up a run that was left",
    "evaluate": "score a file on a data set",
    "merge": "the score or report of a split from its shards",
    "compare": "where two files disagree: pixels, classes, pictures",
    "predict": "train-id PNGs and overlays of images",
    "import": "a published checkpoint into a .keras file",
    "convert": "a .keras file into a .tflite or .onnx file",
    "qat": "train a .keras file for int8 and write the .tflite file",
    "prune": "train a .keras file until most of its weights are zero",
    "cluster": "train a .keras file until each kernel has a few values",
    "quantisation-report": "what int8 costs in every layer of a .keras file",
    "check-gpu": "a .tflite file on CPU and GPU accelerator, compared",
    "check-half": "whether a .tflite file's numbers fit into half precision",
    "check-phone": "a .tflite file on a phone's GPU, over adb, and here, compared",
    "android": "a .tflite file as an Android app: a Gradle project",
    "web": "a .tflite file as a web page that runs it in the browser",
    "push": "a .keras file to the Hugging Face Hub, with a page about it",
    "benchmark": "latency, memory and size of files, measured in turns",
    "demo": "train, convert, score and compare once, on streets that it draws",
}

# These read and draw pictures; the others start by loading Keras, which takes seconds.
_WITHOUT_KERAS = ("streets", "check-data", "prepare", "android", "web")

# These train, on what tf.data's threads make.
_TRAINING = ("cluster", "demo", "prune", "qat", "train")


def parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the command; a subcommand leaves its function as ``run``.

    Only the subcommand that ``argv`` names is imported.
    """
    top = argparse.ArgumentParser(prog="kseg", description="Semantic segmentation in Keras.")
    top.add_argument("--version", action="version", version=f"kseg {__version__}")
    subparsers = top.add_subparsers(required=True, metavar="SUBCOMMAND", dest="subcommand")
    for name, text in SUBCOMMANDS.items():
        if name not in argv[:1]:
            subparsers.add_parser(name, help=text)
            continue
        # A module cannot be named by a keyword.
        file = name.replace("-", "_") + "_" * keyword.iskeyword(name)
        module = importlib.import_module(f"kseg.cli.{file}")
        subparser = subparsers.add_parser(name, help=text, description=module.__doc__)
        module.add_arguments(subparser)
        subparser.add_argument(
            "--quiet", action="store_true", help="no progress, but results, warnings and errors"
        )
        subparser.set_defaults(run=module.run)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand; 0 when it did, 1 with one line on stderr when it could not."""
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        # Names of classes and files may have characters that the terminal has not.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    args = parser(argv).parse_args(argv)
    status = _run(args)
    if status and args.subcommand in _TRAINING:
        # What failed may have left tf.data's threads in a cycle of objects. They end here; where
        # the interpreter ends first, one that waits for it would keep the process.
        gc.collect()
    return status


def _run(args: argparse.Namespace) -> int:
    """The exit status of a subcommand."""
    try:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        if args.subcommand not in _WITHOUT_KERAS:
            _load_keras()
        with _plain_warnings(args), progress.quiet(args.quiet):
            return args.run(args) or 0
    except KsegError as error:
        progress.note(f"kseg: {_with_flags(str(error), args)}")
        return 1
    except KeyboardInterrupt:
        progress.note("kseg: interrupted")
        return 130
    except BrokenPipeError:
        # The reader of our output left; nobody is there to be told.
        sys.stderr.close()
        return 1


@contextlib.contextmanager
def _plain_warnings(args: argparse.Namespace) -> Iterator[None]:
    """Within it, every KsegWarning is one line on stderr, without place and source line."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", KsegWarning)
        show = warnings.showwarning

        def show_plain(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, KsegWarning):
                text = _with_flags(str(message), args)
                progress.note(f"kseg: warning: {text}")
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = show_plain
        yield


def _load_keras() -> None:
    """Imports Keras and its backend, whose greetings would stand before our errors.

    TensorFlow's C++ side writes to standard error before any log level is in force.
    """
    with quiet_stderr():
        importlib.import_module("keras")


def _with_flags(text: str, args: argparse.Namespace) -> str:
    """The library's message with the command's flags for its arguments' names.

    A subcommand's ``FLAGS`` are those whose names are not the argument's with dashes.
    """
    flags = {name: f"--{name.replace('_', '-')}" for name in vars(args) if "_" in name}
    flags |= getattr(sys.modules[args.run.__module__], "FLAGS", {})
    for name, flag in flags.items():
        # Not where it is part of a path.
        text = re.sub(rf"(?<![\w./-]){name}(?![\w./-])", flag, text)
    return text
