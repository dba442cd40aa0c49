"""Models to .tflite files that run whole on the GPU delegate, and to .onnx files.

The way of a model: its inference graph, rewritten (``export``, ``rewrite``); a float .tflite
model of that (``export``, ``flatbuffer``); quantised (``quantise``); with its card and its
metadata (``metadata``), the file.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kseg import shipped
from kseg.card import Card
from kseg.errors import KsegError, KsegWarning
from kseg.files import atomic_write, check_not_input
from kseg.loading import load
from kseg.model import SegmentationModel, check_backend, check_card, dtype_policy, leaf_layers
from kseg.tflite.export import export_graph, to_flatbuffer, to_onnx_file
from kseg.tflite.flatbuffer import Flatbuffer
from kseg.tflite.metadata import with_metadata
from kseg.tflite.naming import layer_names, tensors_of, with_layer_names
from kseg.tflite.operators import check_operators
from kseg.tflite.options import ExportOptions
from kseg.tflite.quantise import calibration_images, quantise_int8, quantise_weights
from kseg.tflite.weights import check_half


def convert(
    model: SegmentationModel | str | Path,
    path: str | Path,
    *,
    precision: str = "fp32",
    output: str = "logits",
    input_size: tuple[int, int] | None = None,
    input_type: str = "float",
    calibration: Iterable[np.ndarray] | None = None,
    calibration_method: str = "percentile",
    keep_float: Collection[str] = (),
    sparse: bool = False,
    dynamic_batch: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes ``model`` as a .tflite file with a static RGB input (1, H, W, 3) 0..255.

    Where ``path`` ends in .onnx it is an ONNX file of the same graph, opset 17.

    Args:
        model: a SegmentationModel or its ``.keras`` file.
        path: of the file, made whole or not at all.
        precision: "fp32", of .onnx the only one; "fp16", weights in half precision; "w8",
            weights in 8 bits; or "int8", weights and activations in 8 bits.
        output: "logits" (1, H, W, C); "stride-logits", those before the last resizing
            (1, h, w, C); or "argmax", channel numbers (1, H, W) uint8. Logits are
            float32, of an int8 file int8 with their scale.
        input_size: (H, W); None is the one that the model was built for, else the card's,
            else 512 x 1024.
        input_type: "float" (float32) or "uint8".
        calibration: RGB images (h, w, 3) 0..255, uint8 or float, for int8: some of the
            training images.
        calibration_method: "min-max", "moving-average" or "percentile", what the images
            make of an activation's range (``quantise_int8``).
        keep_float: layers of the model whose operators stay in float32, of int8 only.
        sparse: kernels without their zeros, of a pruned model in fp32 or fp16: a smaller
            file with an operator, DENSIFY, that runs on the CPU but not on a GPU.
        dynamic_batch: any number of images at once, (N, H, W, 3), of .onnx only.
        progress: called with (images done, images in all) of a calibration by percentiles.

    Raises:
        KsegError: a value out of range; calibration images of another form or range; weights
            that are not finite or, for fp16, beyond half precision; a model whose graph is
            not the network of its card; a network without low-resolution logits; an operator
            that the GPU delegate does not run or ONNX does not have; a missing extra; or a
            path that cannot be written or is the model's.

    Warns:
        KsegWarning: a layer whose weights are too small for half precision, of fp16 only; a
            layer that no GPU delegate runs, such as ``DeformableConv2D``, of .tflite only.
    """
    options = ExportOptions(
        precision=precision,
        output=output,
        input_size=input_size,
        input_type=input_type,
        calibration_method=calibration_method,
        keep_float=keep_float,
        sparse=sparse,
        dynamic_batch=dynamic_batch,
    )
    _convert_files(model, [(Path(path), options)], calibration, progress)


def convert_each(
    model: SegmentationModel | str | Path,
    paths: Mapping[str, str | Path],
    *,
    calibration: Iterable[np.ndarray] | None = None,
    keep_float: Collection[str] = (),
    **options: Any,
) -> None:
    """``convert`` to several precisions, which takes little longer than one.

    Args:
        model: as for ``convert``.
        paths: the file of each precision.
        calibration, keep_float: as for ``convert``, of the int8 file.
        **options: the other keywords of ``convert``, the same for all files.

    Raises:
        KsegError: what ``convert`` raises.
    """
    files = []
    for precision, path in paths.items():
        kept = keep_float if precision == "int8" or "int8" not in paths else ()
        form = ExportOptions(precision=precision, keep_float=kept, **options)
        files.append((Path(path), form))
    _convert_files(model, files, calibration)


@dtype_policy("float32")
def _convert_files(
    model: SegmentationModel | str | Path,
    files: Sequence[tuple[Path, ExportOptions]],
    calibration: Iterable[np.ndarray] | None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes each file in its form."""
    for path, options in files:
        options.check_path(path)
    given = model if isinstance(model, str | Path) else None
    check_not_input([path for path, _ in files], [given and shipped.file_of(Path(given))])
    precisions = [options.precision for _, options in files]
    if ("int8" in precisions) != (calibration is not None):
        need = "int8 needs" if "int8" in precisions else f"{', '.join(precisions)} takes no"
        raise KsegError(f"precision {need} calibration images")
    images = () if calibration is None else calibration_images(calibration)
    exporter = _Exporter(_checked_model(model))
    exporter.warn_of_cpu_layers([path for path, _ in files])
    for path, options in files:
        if path.suffix == ".onnx":
            content = to_onnx_file(*exporter.graph(options))
        else:
            content = exporter.tflite(path, options, images, progress)
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)


def _checked_model(model: SegmentationModel | str | Path) -> SegmentationModel:
    """The model, read where it is a file's name, if this backend can convert it."""
    if keras.backend.backend() != "tensorflow":
        raise KsegError(
            f"conversion needs the TensorFlow backend, not {keras.backend.backend()}; "
            "set KERAS_BACKEND=tensorflow"
        )
    check_backend()
    if isinstance(model, str | Path):
        model = load(model)
    check_card(model)
    return model


class _Exporter:
    """A model's graphs and float .tflite models; each is made once for all files of a call.

    Args:
        model: of TensorFlow's backend.
    """

    def __init__(self, model: SegmentationModel) -> None:
        self._model = model
        self._graphs: dict[str, tuple[keras.Model, Card]] = {}
        self._floats: dict[tuple[str, bool], Flatbuffer] = {}

    def graph(self, options: ExportOptions) -> tuple[keras.Model, Card]:
        """The graph that the file is made of, and the file's card.

        The options of a call differ in precision only, which tells in the graph's input.
        """
        dtype = _graph_dtype(options)
        if dtype not in self._graphs:
            self._graphs[dtype] = export_graph(
                self._model,
                options.output,
                options.input_size,
                dtype,
                None if options.dynamic_batch else 1,
                # The normalisation's kernel, a diagonal, would pass for a pruned one.
                rewritten=not options.sparse,
            )
        return self._graphs[dtype]

    def tflite(
        self,
        path: Path,
        options: ExportOptions,
        calibration: Sequence[np.ndarray],
        progress: Callable[[int, int], None] | None,
    ) -> bytes:
        """The .tflite file: graph to float model, quantised, with its card."""
        graph, card = self.graph(options)
        model = self._float_model(options, half=options.precision == "fp16")
        if options.precision == "fp16":

            def exact() -> Flatbuffer:
                return self._float_model(options, half=False)

            check_half(model, exact, graph, card.name)
        if options.precision == "w8":
            model = Flatbuffer(quantise_weights(model.content))
        elif options.precision == "int8":
            model = to_int8(model, graph, calibration, options, progress)
        if options.sparse and "DENSIFY" not in model.operators():
            raise KsegError(f"{path}: too few weights are zero; prune the model first")
        beside = {operator for layer in cpu_layers(graph) for operator in layer.cpu_operators}
        return finished(model, card, graph, beside | ({"DENSIFY"} if options.sparse else set()))

    def warn_of_cpu_layers(self, paths: Sequence[Path]) -> None:
        """Warns once, where one of the files is for a GPU delegate, which cannot run it."""
        path = next((path for path in paths if path.suffix == ".tflite"), None)
        if path is not None and (layers := cpu_layers(self._model)):
            names = ", ".join(f"{layer.name} ({type(layer).__name__})" for layer in layers)
            warnings.warn(
                f"{path}: no GPU delegate runs {names}; the file is for the CPU, and an .onnx "
                "file is for ONNX Runtime",
                KsegWarning,
                stacklevel=2,
            )

    def _float_model(self, options: ExportOptions, *, half: bool) -> Flatbuffer:
        """The graph's model in float32, or with weights in half precision."""
        key = (_graph_dtype(options), half)
        if key not in self._floats:
            graph, _ = self.graph(options)
            self._floats[key] = to_flatbuffer(graph, half=half, sparse=options.sparse)
        return self._floats[key]


def cpu_layers(model: keras.Model) -> list[Any]:
    """The layers with operators that no GPU delegate runs (``cpu_operators``)."""
    return [layer for layer in leaf_layers(model) if getattr(layer, "cpu_operators", ())]


def _graph_dtype(options: ExportOptions) -> str:
    """Of the graph's input; int8 files get their input's type after quantisation."""
    return "float32" if options.precision == "int8" else options.dtype


def to_int8(
    model: Flatbuffer,
    graph: keras.Model,
    calibration: Sequence[np.ndarray],
    options: ExportOptions,
    progress: Callable[[int, int], None] | None = None,
) -> Flatbuffer:
    """The int8 form of a float model, which takes the file's input.

    Args:
        model: of the graph, float32 with a float32 input.
        graph: whose layers ``options.keep_float`` names.
        calibration: of ``calibration_images``.
        options: calibration method, layers in float and input type.
        progress: as for ``convert``.

    Raises:
        KsegError: a layer without an operator, or activations that are not finite.
    """
    # Places in a picture are not for 256 steps.
    keep_float = {*options.keep_float, *(layer.name for layer in cpu_layers(graph))}
    content = quantise_int8(
        model.content,
        calibration,
        graph.input_shape[1:3],
        calibration=options.calibration_method,
        keep_float=tensors_of(sorted(keep_float), model.content, graph),
        progress=progress,
    )
    return Flatbuffer(content).with_input_type(options.dtype)


def finished(
    model: Flatbuffer, card: Card, graph: keras.Model, beside: Collection[str] = ()
) -> bytes:
    """The file: the model with its card, and its layers' names.

    Args:
        model: all of it but the metadata, named as it was traced.
        card: its card.
        graph: of Keras 3, that the model was made of.
        beside: operators that may be there, though no GPU runs them.

    Raises:
        KsegError: an operator that the GPU delegate does not run.
    """
    check_operators(card.name, model.content, layer_names(model.content, graph), beside)
    return with_metadata(with_layer_names(model, graph), card)
