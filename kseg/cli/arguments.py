"""Arguments and small views that several subcommands share."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kseg.crf import DenseCRF
from kseg.errors import KsegError
from kseg.predictor import KerasPredictor, Predictor


def add_data(parser: argparse.ArgumentParser) -> None:
    """--dataset and --data-dir."""
    parser.add_argument(
        "--dataset", required=True, metavar="D", help="camvid, cityscapes or streets"
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="P",
        help="its root; the default for Cityscapes is the variable CITYSCAPES_DATASET",
    )


def add_size(parser: argparse.ArgumentParser, flag: str, text: str) -> None:
    """An option of a height and a width."""
    parser.add_argument(flag, type=int, nargs=2, metavar=("H", "W"), help=text)


def add_crf(parser: argparse.ArgumentParser) -> None:
    """--crf."""
    parser.add_argument(
        "--crf",
        action="store_const",
        const=DenseCRF(),
        help="refine by the dense CRF of DeepLab v1 and v2 (extra crf)",
    )


def size(value: list[int] | None) -> tuple[int, int] | None:
    """What ``add_size`` parsed, as the library takes it."""
    return None if value is None else (value[0], value[1])


def load_predictor(file: Path, runtime: str = "cpu") -> Predictor:
    """The Predictor for a file, by its suffix."""
    if runtime not in ("cpu", "litert-gpu") or (runtime != "cpu" and file.suffix != ".tflite"):
        raise KsegError(f"{file}: runtime is {runtime!r}; a .tflite takes cpu or litert-gpu")
    if file.suffix == ".keras":
        return KerasPredictor(file)
    if file.suffix == ".tflite":
        from kseg.tflite import GpuPredictor, TFLitePredictor

        return TFLitePredictor(file) if runtime == "cpu" else GpuPredictor(file)
    if file.suffix == ".onnx":
        from kseg.tflite import OnnxPredictor

        return OnnxPredictor(file)
    raise KsegError(f"{file}: is neither .keras nor .tflite nor .onnx")


def show_progress(done: int, total: int, what: str = "images") -> None:
    """A counter on one line of a terminal; nothing where the output is kept."""
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{done}/{total} {what}", end=end, file=sys.stderr, flush=True)
