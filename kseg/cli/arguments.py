"""Arguments and small views that several subcommands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kseg import shipped
from kseg.crf import DenseCRF
from kseg.data import list_datasets
from kseg.errors import KsegError
from kseg.evaluation import LabelMaps
from kseg.predictor import KerasPredictor, Predictor

FILES = ".keras, .tflite, .onnx or shipped WEIGHTS:MODEL"
"""What ``load_predictor`` takes."""


def add_data(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """--dataset and --data-dir."""
    parser.add_argument(
        "--dataset", required=required, metavar="D", help=", ".join(list_datasets())
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


def add_way(parser: argparse.ArgumentParser) -> None:
    """How images become label maps."""
    add_size(parser, "--input-size", "of the network (the image's, or the file's)")
    add_size(parser, "--pad-to", "pad with the mean to this (DeepLab: 1025 2049)")
    parser.add_argument(
        "--scales",
        type=float,
        nargs="+",
        default=(1.0,),
        metavar="S",
        help="of the input; mean of the softmax (DeepLab: 0.5 0.75 1 1.25 1.5 1.75)",
    )
    parser.add_argument("--flip", action="store_true", help="the mirrored input as well")
    add_size(parser, "--window", "of the network, slid over inputs that do not fit")
    parser.add_argument(
        "--overlap", type=float, default=1 / 3, metavar="F", help="of windows, 0 to 1 (1/3)"
    )
    parser.add_argument(
        "--output-stride", type=int, metavar="N", help="of a .keras, other than it was trained at"
    )
    parser.add_argument("--runtime", default="cpu", help="of a .tflite: cpu or litert-gpu")
    parser.add_argument(
        "--crf",
        action="store_const",
        const=DenseCRF(),
        help="refine by the dense CRF of DeepLab v1 and v2 (extra crf)",
    )


def way(args: argparse.Namespace) -> dict[str, Any]:
    """What ``add_way`` parsed, as ``predict_labels`` takes it."""
    return {
        "input_size": size(args.input_size),
        "pad_to": size(args.pad_to),
        "scales": tuple(args.scales),
        "flip": args.flip,
        "window": size(args.window),
        "overlap": args.overlap,
        "crf": args.crf,
    }


def size(value: list[int] | None) -> tuple[int, int] | None:
    """What ``add_size`` parsed, as the library takes it."""
    return None if value is None else (value[0], value[1])


def load_predictor(file: Path, runtime: str = "cpu", output_stride: int | None = None) -> Predictor:
    """The Predictor for a file, by its suffix."""
    if runtime not in ("cpu", "litert-gpu") or (runtime != "cpu" and file.suffix != ".tflite"):
        raise KsegError(f"{file}: runtime is {runtime!r}; a .tflite takes cpu or litert-gpu")
    if file.suffix == ".keras" or shipped.is_name(str(file)):
        return KerasPredictor(file, output_stride=output_stride)
    if file.suffix == ".tflite":
        if output_stride is not None:
            raise KsegError(f"{file}: --output-stride is for .keras files; convert one with it")
        from kseg.tflite import GpuPredictor, TFLitePredictor

        return TFLitePredictor(file) if runtime == "cpu" else GpuPredictor(file)
    if file.suffix == ".onnx":
        from kseg.tflite import OnnxPredictor

        return OnnxPredictor(file)
    names = ", ".join(shipped.list_shipped())
    raise KsegError(f"{file}: is neither .keras nor .tflite nor .onnx, nor shipped ({names})")


def load_source(file: Path, runtime: str, output_stride: int | None) -> Predictor | LabelMaps:
    """As ``load_predictor``; a folder is one of label maps."""
    if not file.is_dir():
        return load_predictor(file, runtime, output_stride)
    if runtime != "cpu" or output_stride is not None:
        raise KsegError(f"{file}: is a folder of label maps; leave runtime and output-stride out")
    return LabelMaps(file)
