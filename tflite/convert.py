"""Models to .tflite files that run whole on the GPU delegate, and to .onnx files."""

from __future__ import annotations

import contextlib
import difflib
import io
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kseg.card import Card
from kseg.errors import KsegError
from kseg.files import check_output, whole
from kseg.loading import load
from kseg.model import SegmentationModel
from kseg.quiet import quiet_stderr
from kseg.tflite.flatbuffer import (
    operator_outputs,
    operators,
    with_input_type,
    with_signature,
)
from kseg.tflite.metadata import with_metadata
from kseg.tflite.quantise import check_calibration, quantise_int8, quantise_weights
from kseg.tflite.rewrite import (
    fold_batch_norms,
    normalise_by_convolution,
    relu_into_branches,
    split_wide_convolutions,
)
from kseg.tflite.to_onnx import to_onnx
from kseg.zoo import build

if TYPE_CHECKING:
    # Imported where it converts: a process that only runs a file goes without.
    import tensorflow as tf

PRECISIONS = ("fp32", "fp16", "w8", "int8")
OUTPUTS = ("logits", "stride-logits", "argmax")
INPUTS = ("float", "uint8")

# Operators that the LiteRT GPU accelerator was seen to compute right; a file with any
# other is refused, since the delegate would fall back to the CPU or worse.
GPU_OPERATORS = frozenset(
    [
        "ADD",
        "ARG_MAX",
        "AVERAGE_POOL_2D",
        "CAST",
        "CONCATENATION",
        "CONV_2D",
        "DEPTH_TO_SPACE",
        "DEPTHWISE_CONV_2D",
        "DEQUANTIZE",
        "GREATER_EQUAL",
        "HARD_SWISH",
        "LEAKY_RELU",
        "LOGISTIC",
        "MAX_POOL_2D",
        "MAXIMUM",
        "MEAN",
        "MUL",
        "PAD",
        "PRELU",
        "QUANTIZE",
        "RELU",
        "RELU6",
        "RESHAPE",
        "RESIZE_BILINEAR",
        "SELECT_V2",
        "SPACE_TO_DEPTH",
        "STRIDED_SLICE",
        "SUB",
        "TRANSPOSE",
        "TRANSPOSE_CONV",
    ]
)

_DEFAULT_SIZE = (512, 1024)

# Values of a variable that tf2onnx does not get to see: FCN's widest.
_LARGE = 2**24


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
        input_size: (H, W); None is the card's, else 512 x 1024.
        input_type: "float" (float32) or "uint8".
        calibration: RGB images (h, w, 3) uint8 for int8: some of the training images.
        calibration_method: "min-max", "moving-average" or "percentile", what the images
            make of an activation's range (``quantise_int8``).
        keep_float: layers of the model whose operators stay in float32, of int8 only.
        sparse: kernels without their zeros, of a pruned model in fp32 or fp16: a smaller
            file with an operator, DENSIFY, that runs on the CPU but not on a GPU.
        dynamic_batch: any number of images at once, (N, H, W, 3), of .onnx only.

    Raises:
        KsegError: a value out of range, a network without low-resolution logits, an
            operator that the GPU delegate does not run or ONNX does not have, a missing
            extra, or a path that cannot be written.
    """
    convert_each(
        model,
        {precision: path},
        output=output,
        input_size=input_size,
        input_type=input_type,
        calibration=calibration,
        calibration_method=calibration_method,
        keep_float=keep_float,
        sparse=sparse,
        dynamic_batch=dynamic_batch,
    )


def convert_each(
    model: SegmentationModel | str | Path,
    paths: Mapping[str, str | Path],
    *,
    output: str = "logits",
    input_size: tuple[int, int] | None = None,
    input_type: str = "float",
    calibration: Iterable[np.ndarray] | None = None,
    calibration_method: str = "percentile",
    keep_float: Collection[str] = (),
    sparse: bool = False,
    dynamic_batch: bool = False,
) -> None:
    """``convert`` to several precisions, which takes little longer than one.

    Args:
        model: as for ``convert``.
        paths: the file of each precision.
        output, input_size, input_type, calibration, calibration_method, keep_float, sparse,
            dynamic_batch: as for ``convert``.
    """
    for precision, path in paths.items():
        suffix = Path(path).suffix
        if suffix not in (".tflite", ".onnx"):
            raise KsegError(f"{path}: the file's name must end in .tflite or .onnx")
        check_output(path)
        if precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise KsegError(f"precision is {precision!r}; it must be one of {known}")
        if suffix == ".onnx" and precision != "fp32":
            raise KsegError(f"{path}: precision is {precision!r}; an .onnx file has fp32 only")
        if suffix != ".onnx" and dynamic_batch:
            raise KsegError(f"{path}: a .tflite file has a batch of 1; leave --dynamic-batch out")
        if sparse and (suffix == ".onnx" or precision not in ("fp32", "fp16")):
            raise KsegError(f"{path}: only .tflite files in fp32 and fp16 can be sparse")
    if output not in OUTPUTS:
        raise KsegError(f"output is {output!r}; it must be one of {', '.join(OUTPUTS)}")
    if keras.backend.backend() != "tensorflow":
        raise KsegError(
            f"conversion needs the TensorFlow backend, not {keras.backend.backend()}; "
            "set KERAS_BACKEND=tensorflow"
        )
    if isinstance(model, str | Path):
        model = load(model)
    if not isinstance(model, SegmentationModel) or model.card is None:
        raise KsegError(
            f"the model is a {type(model).__name__} without a card; make it with kseg.create_model"
        )
    if input_type not in INPUTS:
        raise KsegError(f"input is {input_type!r}; it must be one of {', '.join(INPUTS)}")
    check_calibration(calibration_method)
    if ("int8" in paths) != (calibration is not None):
        need = "int8 needs" if "int8" in paths else f"{', '.join(paths)} takes no"
        raise KsegError(f"precision {need} calibration images")
    if keep_float and "int8" not in paths:
        raise KsegError(f"precision {', '.join(paths)} keeps all in float; leave --keep-float out")
    dtype = "uint8" if input_type == "uint8" else "float32"
    graphs: dict[str, tuple[keras.Model, Card]] = {}
    floats: dict[tuple[str, bool], bytes] = {}
    for precision, path in paths.items():
        # int8 files get their input's type after quantisation.
        key = ("float32" if precision == "int8" else dtype, precision == "fp16")
        if key[0] not in graphs:
            batch_size = None if dynamic_batch else 1
            # The normalisation's kernel, a diagonal, would pass for a pruned one.
            graphs[key[0]] = export_graph(
                model, output, input_size, key[0], batch_size, rewritten=not sparse
            )
        graph, card = graphs[key[0]]
        if Path(path).suffix == ".onnx":
            large = [v for v in graph.variables if math.prod(v.shape) >= _LARGE]
            apart = {f"weight_{i}": variable for i, variable in enumerate(large)}
            weights = {name: np.asarray(variable) for name, variable in apart.items()}
            content = to_onnx(_serving(graph, apart), card, weights)
        else:
            if key not in floats:
                floats[key] = to_flatbuffer(graph, half=key[1], sparse=sparse)
            content = floats[key]
            if precision == "w8":
                content = quantise_weights(content)
            if precision == "int8":
                content = quantise_int8(
                    content,
                    calibration,
                    card.input_size,
                    calibration=calibration_method,
                    keep_float=tensors_of(keep_float, content, graph),
                )
                content = with_input_type(content, dtype)
            content = gpu_clean(content, card, beside={"DENSIFY"} if sparse else set())
            if sparse and "DENSIFY" not in operators(content):
                raise KsegError(f"{path}: too few weights are zero; prune the model first")
        with whole(path) as temporary:
            temporary.write_bytes(content)


def layer_names(content: bytes, graph: keras.Model) -> dict[str, list[str]]:
    """The layers of the graph that each operator computes, by its output tensor.

    Args:
        content: what ``to_flatbuffer`` made of the graph: names are those of its layers,
            numbered where they were traced more than once.
        graph: of Keras 3.
    """
    known = {operation.name for operation in graph.operations}
    owners = {}
    for _, tensor in operator_outputs(content).values():
        found = []
        for part in tensor.split(";"):
            for scope in part.split("/")[1:-1]:
                for name in (re.sub(r"_\d+$", "", scope), scope):
                    if name in known and name not in found:
                        found.append(name)
                        break
        # The output has the signature's name instead.
        owners[tensor] = found or [graph.operations[-1].name]
    return owners


def tensors_of(layers: Collection[str], content: bytes, graph: keras.Model) -> list[str]:
    """The output tensors of the layers' operators.

    A BatchNorm that ``fold_batch_norms`` has split stands for its parts.

    Raises:
        KsegError: a layer that is not there or has no operator of its own.
    """
    owners = layer_names(content, graph)
    tensors = []
    for layer in layers:
        pattern = re.compile(re.escape(layer) + r"(\.branch\d+|\.depthwise)?")
        found = [t for t, names in owners.items() if any(map(pattern.fullmatch, names))]
        if not found:
            names = sorted({name for names in owners.values() for name in names})
            near = difflib.get_close_matches(layer, names, 3, 0) or names[:3]
            raise KsegError(
                f"{layer}: no operator of the file is of such a layer; near ones are "
                + ", ".join(near)
            )
        tensors += found
    return tensors


def gpu_clean(content: bytes, card: Card, beside: Collection[str] = ()) -> bytes:
    """The file with its card.

    Args:
        content: the file.
        card: its card.
        beside: operators that may be there, though no GPU runs them.

    Raises:
        KsegError: an operator that the GPU delegate does not run.
    """
    if refused := sorted(set(operators(content)) - GPU_OPERATORS - set(beside)):
        raise KsegError(
            f"{card.name}: {', '.join(refused)} would not run on the GPU delegate; "
            "write the layer with those of kseg.tflite.convert"
        )
    return with_metadata(content, card)


def export_graph(
    model: SegmentationModel,
    output: str,
    input_size: tuple[int, int] | None,
    dtype: str = "float32",
    batch_size: int | None = 1,
    rewritten: bool = True,
) -> tuple[keras.Model, Card]:
    """The inference graph at a static size with the model's weights, and its card.

    Batch, height and width are all static for .tflite: only then does a dilated
    convolution stay one operator. ``batch_size`` None leaves the batch open,
    ``rewritten`` False leaves normalisation and wide convolutions as they are.
    """
    height, width = input_size or model.card.input_size or _DEFAULT_SIZE
    if min(height, width) < 32:
        raise KsegError(f"input size is {height}x{width}; both sides must be at least 32")
    card = model.card.for_inference().replace(input_size=(height, width), output=output)
    graph = build(
        card,
        input_shape=(height, width, 3),
        batch_size=batch_size,
        dtype=dtype,
        output="stride-logits" if output == "stride-logits" else "logits",
        weights_of=model,
    )
    if output == "stride-logits":
        # All are powers of two; the last row of the output may lie beyond the image's.
        stride = 2 ** round(math.log2(height / graph.output_shape[1]))
        if stride == 1:
            raise KsegError(
                f"{card.name} has no low-resolution logits: it computes them at full size; "
                "use --output logits or argmax"
            )
        card = card.replace(output_stride=stride)
    if rewritten:
        graph = normalise_by_convolution(split_wide_convolutions(graph))
    graph = relu_into_branches(fold_batch_norms(graph))
    if output == "argmax":
        graph = keras.Model(graph.input, ArgMax(name="argmax")(graph.output))
    return graph, card


class ArgMax(keras.layers.Layer):
    """(N, H, W, C) to (N, H, W) uint8; keras.ops.argmax brings operators no GPU runs."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        return tf.cast(tf.argmax(x, -1, output_type=tf.int32), tf.uint8)

    def compute_output_spec(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return keras.KerasTensor(x.shape[:-1], "uint8")


def _serving(graph: Any, apart: Mapping[str, keras.Variable] | None = None) -> Callable[..., Any]:
    """The graph as a tf.function from "image" to "output_0".

    Args:
        graph: of Keras 3, or of tf_keras.
        apart: variables, of Keras 3 only, that are inputs of the function by these names.
    """
    import tensorflow as tf

    (source,) = graph.inputs
    apart = apart or {}
    signature = [tf.TensorSpec(source.shape, source.dtype, name="image")]
    signature += [tf.TensorSpec(v.shape, v.dtype, name=name) for name, v in apart.items()]

    def serve(image: tf.Tensor, *weights: tf.Tensor) -> dict[str, tf.Tensor]:
        with keras.StatelessScope(list(zip(apart.values(), weights, strict=True))):
            return {"output_0": graph(image, training=False)}

    return tf.function(serve, input_signature=signature, autograph=False)


def to_flatbuffer(
    graph: Any, *, half: bool = False, sparse: bool = False, quantised: bool = False
) -> bytes:
    """A .tflite model of a graph with one image input and one output.

    Args:
        graph: of Keras 3, or of tf_keras.
        half: weights in half precision.
        sparse: kernels of mostly zeros without them.
        quantised: the graph rounds its tensors; input and output become int8.
    """
    import tensorflow as tf

    # Through a saved model, as from_keras_model goes, it takes two to three times as long.
    function = _serving(graph).get_concrete_function()
    # Both report on both streams; only a failure is worth reading.
    with quiet_stderr(), contextlib.redirect_stdout(io.StringIO()):
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
        converter.experimental_lower_to_saved_model = False
        if half or quantised:
            converter.optimizations.add(tf.lite.Optimize.DEFAULT)
        if sparse:
            converter.optimizations.add(tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
        if half:
            converter.target_spec.supported_types = [tf.float16]
        if quantised:
            converter.inference_input_type = tf.int8
            if graph.output.dtype == tf.float32:
                converter.inference_output_type = tf.int8
        return with_signature(converter.convert(), "image", "output_0")
