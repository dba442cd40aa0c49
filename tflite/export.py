"""From a model to its inference graph, and from a graph to a float .tflite or .onnx file."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kseg.card import Card
from kseg.errors import KsegError
from kseg.layers import Resize
from kseg.model import SegmentationModel, dtype_policy, fixed_size
from kseg.quiet import quiet_stderr
from kseg.tflite.flatbuffer import Flatbuffer
from kseg.tflite.flatten import flatten
from kseg.tflite.foreign import for_accelerator
from kseg.tflite.onnx_export import to_onnx
from kseg.tflite.options import check_input_size
from kseg.tflite.rewrite import (
    average_by_axes,
    fold_batch_norms,
    normalise_by_convolution,
    pad_before_max_pooling,
    relu_into_branches,
    split_wide_convolutions,
)
from kseg.tflite.weights import check_finite
from kseg.zoo import build

if TYPE_CHECKING:
    # Imported where it converts: a process that only runs a file goes without.
    import tensorflow as tf

_DEFAULT_SIZE = (512, 1024)

# Of the logits' range: what a wrapped model's graph may differ by where it is rewritten, its
# sums in another order.
_SAME = 1e-3

# (H, W) that every network's stride divides.
_DIVISIBLE = (512, 512)

# Values of a variable that tf2onnx does not get to see: FCN's widest.
_LARGE = 2**24


@dtype_policy("float32")
def export_graph(
    model: SegmentationModel,
    output: str,
    input_size: tuple[int, int] | None,
    dtype: str = "float32",
    batch_size: int | None = 1,
    rewritten: bool = True,
    like: keras.Model | None = None,
) -> tuple[keras.Model, Card]:
    """The inference graph at a static size with the model's weights, and its card.

    Args:
        model: with a card.
        output: "logits", "stride-logits" or "argmax".
        input_size: (H, W); None is the one that the model was built for, else the card's,
            else 512 x 1024.
        dtype: of the input, "float32" or "uint8".
        batch_size: None leaves the batch open. For .tflite it is as static as height and
            width: only then does a dilated convolution stay one operator.
        rewritten: False leaves normalisation and wide convolutions as they are.
        like: the model's graph at another size, whose layers this is to have
            (``average_by_axes``).

    Returns:
        A graph from (N, H, W, 3) to the output, in float32 whatever the user's policy is, and
        the card of its file.

    Raises:
        KsegError: a size below 32, a network without low-resolution logits, weights that are
            not finite, or a model whose graph is not the network of its card.
    """
    check_finite(model, model.card.name)
    height, width = input_size or _own_size(model)
    check_input_size((height, width))
    card = model.card.for_inference().replace(input_size=(height, width), output=output)
    at_stride = output == "stride-logits"
    graph = build(
        card,
        input_shape=(height, width, 3),
        batch_size=batch_size,
        dtype=dtype,
        output="stride-logits" if at_stride and not card.wrapped else "logits",
        weights_of=model,
    )
    network = graph
    if card.wrapped:
        graph = for_accelerator(flatten(network))
    if rewritten:
        graph = normalise_by_convolution(split_wide_convolutions(graph))
    graph = average_by_axes(relu_into_branches(fold_batch_norms(graph)), like)
    graph = pad_before_max_pooling(graph)
    check_finite(graph, card.name)
    if card.wrapped:
        _check_same(network, graph, card)
        graph = _before_resizing(graph, card) if at_stride else graph
    if at_stride:
        stride = _output_stride(card, (height, width), graph.output_shape[1:3])
        if stride == 1:
            raise KsegError(
                f"{card.name} has no low-resolution logits: it computes them at full size; "
                "use output logits or argmax"
            )
        card = card.replace(output_stride=stride)
    if output == "argmax":
        graph = keras.Model(graph.input, ArgMax(name="argmax")(graph.output))
    return graph, card


def _check_same(graph: keras.Model, rewritten: keras.Model, card: Card) -> None:
    """Compares a wrapped model's graph on an image with what has become of it.

    Raises:
        KsegError: it has become another function, which no network has shown yet.
    """
    image = np.random.default_rng(0).integers(0, 256, (1, *graph.input_shape[1:]))
    image = image.astype(graph.input.dtype)
    want, got = (np.asarray(each(image, training=False)) for each in (graph, rewritten))
    if not np.allclose(got, want, rtol=0, atol=_SAME * np.ptp(want), equal_nan=True):
        raise KsegError(
            f"{card.name}: rewritten for export it computes something else, by "
            f"{np.abs(got - want).max() / np.ptp(want):.2g} of the logits' range; please report it "
            "with the model's summary"
        )


def _before_resizing(graph: keras.Model, card: Card) -> keras.Model:
    """The graph up to its last resizing."""
    tensor = graph.outputs[0]
    # The last layers may be resizings to the size that the logits have already.
    while isinstance(layer := tensor._keras_history.operation, Resize):
        if layer.convention != card.resize:
            break
        before = layer._inbound_nodes[tensor._keras_history.node_index].input_tensors[0]
        resized = tuple(before.shape) != tuple(tensor.shape)
        tensor = before
        if resized:
            break
    return keras.Model(graph.inputs, tensor, name=graph.name)


def _own_size(model: SegmentationModel) -> tuple[int, int]:
    """(H, W) that the model was built for; what it leaves open is the card's."""
    usual = model.card.input_size or _DEFAULT_SIZE
    height, width = (own or other for own, other in zip(fixed_size(model), usual, strict=True))
    return height, width


def _output_stride(card: Card, size: tuple[int, int], output_size: tuple[int, int]) -> int:
    """Input pixels to one of the stride logits; a power of two.

    Where it does not divide the size, the last row and column lie beyond the image or are cut
    off: how many there are says little of a small size.
    """
    if card.wrapped:
        return 2 ** round(math.log2(size[0] / output_size[0]))
    strides = {n // out for n, out in zip(size, output_size, strict=True) if n % out == 0}
    divided = all(n % out == 0 for n, out in zip(size, output_size, strict=True))
    if not divided or len(strides) > 1 or (stride := strides.pop()) & (stride - 1):
        probe = build(card, input_shape=(*_DIVISIBLE, 3), batch_size=1, output="stride-logits")
        return _DIVISIBLE[0] // probe.output_shape[1]
    return stride


class ArgMax(keras.layers.Layer):
    """(N, H, W, C) to (N, H, W) uint8; keras.ops.argmax brings operators no GPU runs."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        return tf.cast(tf.argmax(x, -1, output_type=tf.int32), tf.uint8)

    def compute_output_spec(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return keras.KerasTensor(x.shape[:-1], "uint8")


def to_flatbuffer(
    graph: Any, *, half: bool = False, sparse: bool = False, quantised: bool = False
) -> Flatbuffer:
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
        content = converter.convert()
    return Flatbuffer(content).with_signature("image", "output_0")


def to_onnx_file(graph: keras.Model, card: Card) -> bytes:
    """An .onnx model of a graph of Keras 3, with its card.

    Raises:
        KsegError: what ``to_onnx`` raises.
    """
    large = [variable for variable in graph.variables if math.prod(variable.shape) >= _LARGE]
    apart = {f"weight_{i}": variable for i, variable in enumerate(large)}
    weights = {name: np.asarray(variable) for name, variable in apart.items()}
    layers = [operation.name for operation in graph.operations]
    return to_onnx(_serving(graph, apart), card, weights, layers)


def _serving(
    graph: Any, apart: Mapping[str, keras.Variable] | None = None
) -> tf.types.experimental.PolymorphicFunction:
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
