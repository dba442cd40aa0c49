"""Inference functions to ONNX models, by tf2onnx (extra ``onnx``)."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from kseg._startup import quiet_stderr
from kseg.errors import KsegError
from kseg.model import Card, first_line
from kseg.tflite.flatbuffer import CARD_ENTRY

OPSET = 17

# Weights of a network that is not copied before every pass over its graph.
_LARGE = 100_000_000


def to_onnx(function: Callable[..., Any], card: Card) -> bytes:
    """An ONNX model of opset 17 with the card as JSON in ``metadata_props``.

    Dilated convolutions stay one operator each where height and width are static,
    whatever the batch.

    Args:
        function: a tf.function with an input signature.
        card: of its model.

    Raises:
        KsegError: tf2onnx is not installed, or does not know an operator.
    """
    try:
        import onnx
        import tf2onnx
    except ImportError as error:
        raise KsegError(f"onnx: needs {error.name}; install kseg[onnx]") from None
    weights = function.get_concrete_function().variables
    large = sum(weight.shape.num_elements() for weight in weights) > _LARGE
    with quiet_stderr(), _copies(not large):
        model, _ = tf2onnx.convert.from_function(
            function,
            input_signature=function.input_signature,
            opset=OPSET,
            custom_rewriter=[_resize_to_sizes],
        )
    try:
        # tf2onnx leaves what it does not know under TensorFlow's name.
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise KsegError(
            f"{card.name}: has no ONNX form ({first_line(error)}); convert it to .tflite"
        ) from error
    onnx.helper.set_model_props(model, {CARD_ENTRY: json.dumps(card.to_json())})
    return model.SerializeToString()


@contextlib.contextmanager
def _copies(wanted: bool) -> Iterator[None]:
    """Whether tf2onnx keeps a copy of the graph in case that a pass fails.

    One does on a scalar that is added (MobileNetV3's activations). The copies of half a
    gigabyte of weights (FCN) took more than 20.
    """
    name = "TF2ONNX_CATCH_ERRORS"
    if wanted or name in os.environ:
        yield
        return
    # tf2onnx 1.17 takes any value for "no".
    os.environ[name] = "FALSE"
    try:
        yield
    finally:
        del os.environ[name]


def _resize_to_sizes(graph: Any, nodes: list[Any]) -> list[Any]:
    """Keeps tf2onnx from resizing by scales where it knows the size.

    In float32 a row gets lost by them: floor(7 * (25 / 7)) is 24. A size that is no
    constant stays a size.
    """
    for node in list(nodes):
        if node.type == "ResizeBilinear":
            graph.insert_new_node_on_input(node, "Identity", node.input[1], input_index=1)
    return graph.get_nodes()
