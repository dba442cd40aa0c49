"""Any file on any runtime as a Predictor; the one module that may import ``kseg.tflite``."""

from __future__ import annotations

from pathlib import Path

from kseg import shipped
from kseg.errors import KsegError
from kseg.evaluation import LabelMaps
from kseg.file_card import FileCard, read_file_card
from kseg.files import check_is_file, suffix_of
from kseg.model import SegmentationModel
from kseg.predictor import KerasPredictor, Predictor
from kseg.tflite.options import RUNTIMES


def open_predictor(
    file: str | Path | SegmentationModel,
    *,
    runtime: str | None = None,
    threads: int | None = None,
    output_stride: int | None = None,
    card: str | Path | FileCard | None = None,
) -> Predictor:
    """The Predictor of a model, or of a file by its suffix.

    Args:
        file: a model, a ``.keras``, ``.tflite`` or ``.onnx`` file, or shipped WEIGHTS:MODEL.
        runtime: "cpu"; for .tflite files also "litert-gpu", the LiteRT GPU accelerator, and
            "litert-fp16", half precision on the CPU. None is "cpu", which for Keras means
            whatever its backend runs on.
        threads: of the CPU, for .tflite and .onnx files; None takes all cores.
        output_stride: of a Keras model, where it is not the one it was trained at.
        card: of a .tflite or .onnx file of others, as ``kseg.file_card.FileCard`` or its JSON
            file.

    Raises:
        KsegError: a missing or damaged file, one of others without ``card``, or an option that
            it does not take.
    """
    path = Path(file) if isinstance(file, str | Path) else None
    name = path or "the model"
    suffix = suffix_of(path) if path else ""
    runtime = runtime or "cpu"
    if runtime not in RUNTIMES or (runtime != "cpu" and suffix != ".tflite"):
        raise KsegError(f"{name}: runtime is {runtime!r}; a .tflite takes {', '.join(RUNTIMES)}")
    if isinstance(card, str | Path):
        card = read_file_card(card)
    if path is None or shipped.is_model(path):
        if card is not None:
            raise KsegError(f"{name}: has a card of its own; leave card out")
        if threads is not None:
            raise KsegError(f"{name}: threads is {threads}; only .tflite and .onnx files take it")
        return KerasPredictor(file, output_stride=output_stride)
    if suffix not in (".tflite", ".onnx"):
        if path.is_dir():
            check_is_file(path, "a .keras, .tflite or .onnx file")
        names = ", ".join(shipped.list_shipped())
        raise KsegError(f"{name}: is neither .keras nor .tflite nor .onnx, nor shipped ({names})")
    if output_stride is not None:
        raise KsegError(f"{name}: output_stride is for .keras files; convert one with it")
    if suffix == ".onnx":
        from kseg.tflite.predictors import OnnxPredictor

        return OnnxPredictor(path, threads, card)
    if runtime == "litert-gpu":
        from kseg.tflite.gpu import GpuPredictor

        if threads is not None:
            raise KsegError(f"{name}: threads is {threads}; the GPU accelerator takes none")
        return GpuPredictor(path, stated=card)
    if runtime == "litert-fp16":
        from kseg.tflite.gpu import HalfPredictor

        return HalfPredictor(path, stated=card, threads=threads)
    from kseg.tflite.predictors import TFLitePredictor

    return TFLitePredictor(path, threads, card)


def open_source(
    file: str | Path,
    *,
    runtime: str | None = None,
    output_stride: int | None = None,
    card: str | Path | None = None,
) -> Predictor | LabelMaps:
    """What ``kseg.evaluation.evaluate`` scores: a Predictor, or a folder of label maps.

    Args:
        file: of ``open_predictor``, or a folder.
        runtime, output_stride, card: of ``open_predictor``; a folder takes none of them.

    Raises:
        KsegError: as ``open_predictor``, or an option that a folder does not take.
    """
    if not Path(file).is_dir() or (Path(file) / "saved_model.pb").is_file():
        return open_predictor(file, runtime=runtime, output_stride=output_stride, card=card)
    if runtime not in (None, "cpu") or output_stride is not None or card is not None:
        raise KsegError(
            f"{file}: is a folder of label maps; leave runtime, output_stride and card out"
        )
    return LabelMaps(Path(file))
