"""Inference functions to ONNX models, by tf2onnx (extra ``onnx``)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kseg.card import CARD_ENTRY, Card
from kseg.errors import KsegError, first_line
from kseg.quiet import quiet_stderr
from kseg.tflite.metadata import description
from kseg.tflite.naming import Names, known_in, operator_names

if TYPE_CHECKING:
    import tensorflow as tf

OPSET = 17


def to_onnx(
    function: tf.types.experimental.PolymorphicFunction,
    card: Card,
    weights: Mapping[str, np.ndarray] | None = None,
    layers: Sequence[str] = (),
) -> bytes:
    """An ONNX model of opset 17 with the card as JSON in ``metadata_props``.

    Dilated convolutions stay one operator each where height and width are static,
    whatever the batch.

    Args:
        function: a tf.function with an input signature.
        card: of its model.
        weights: what inputs of the function are constants of the file, by their names. For
            large ones: tf2onnx copies the others on every pass over the graph, 400 MB of
            FCN's until 20 GB are full.
        layers: of the function's graph, in order; operators and tensors get their names, as in
            ``naming.with_layer_names``.

    Raises:
        KsegError: tf2onnx is not installed, or does not know an operator.
    """
    try:
        import onnx
        import tf2onnx
    except ImportError as error:
        raise KsegError(f"onnx: needs {error.name}; install kseg[onnx]") from None
    with quiet_stderr():
        model, _ = tf2onnx.convert.from_function(
            function,
            input_signature=function.input_signature,
            opset=OPSET,
            custom_rewriter=[_resize_to_sizes],
        )
    for name, value in (weights or {}).items():
        _make_constant(model.graph, name, value)
    _leave_out_empty(model.graph)
    try:
        # tf2onnx leaves what it does not know under TensorFlow's name.
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise KsegError(
            f"{card.name}: has no ONNX form ({first_line(error)}); convert it to .tflite"
        ) from error
    onnx.helper.set_model_props(model, {CARD_ENTRY: json.dumps(card.to_json())})
    _name_by_layers(model.graph, layers)
    model.graph.name, model.graph.doc_string = card.name, description(card)
    return model.SerializeToString()


def _name_by_layers(graph: Any, layers: Sequence[str]) -> None:
    """Names operators, constants and tensors by their layers; inputs and outputs keep theirs.

    Those that tf2onnx has made belong to the layer of their weights, else to that of the
    operator that reads them: a resizing's size to the resizing.
    """
    from onnx import defs

    known = {layer: place for place, layer in enumerate(layers)}
    ends = {entry.name for entry in (*graph.input, *graph.output)}
    constants = {tensor.name for tensor in graph.initializer}
    owners: dict[str, list[str]] = {}
    read_by: dict[str, list[str]] = {}
    for node in reversed(graph.node):
        weights = [name for name in node.input if name in constants and node.op_type == "Conv"]
        named, made = (
            known_in(";".join(re.sub(r"(__\d+)?(:\d+)?$", "", name) for name in each), known)
            for each in ((node.name, *node.output), weights)
        )
        reader = read_by.get(node.output[0], []) if "/" not in node.name else []
        owners[node.name] = named or made or reader
        read_by |= dict.fromkeys(node.input, owners[node.name])
    names = Names({name: name for name in ends})
    pairs = [(";".join(owners[node.name]), node.op_type) for node in graph.node]
    for node, label in zip(graph.node, operator_names(pairs), strict=True):
        if not owners[node.name]:
            continue
        for tensor in node.output:
            names.give(tensor, label)
        inputs = defs.get_schema(node.op_type, OPSET, node.domain).inputs
        for place, tensor in enumerate(node.input):
            if tensor in constants:
                # The last one stands for all that follow.
                role = inputs[min(place, len(inputs) - 1)].name
                names.give(tensor, f"{owners[node.name][0]}/{role}")
        node.name = label if node.output[0] in ends else names.given[node.output[0]]
    for node in graph.node:
        node.input[:] = [names.given.get(name, name) for name in node.input]
        node.output[:] = [names.given.get(name, name) for name in node.output]
    for entry in (*graph.initializer, *graph.value_info):
        entry.name = names.given.get(entry.name, entry.name)


def _leave_out_empty(graph: Any) -> None:
    """Inputs of Resize that tf2onnx gives as tensors without values: left out, as ONNX has it.

    Tools that change a file's types, such as ONNX Runtime's for half precision, take them for
    scales.
    """
    empty = {tensor.name for tensor in graph.initializer if list(tensor.dims) == [0]}
    for node in graph.node:
        if node.op_type == "Resize":
            node.input[:] = ["" if name in empty else name for name in node.input]
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name in empty - used]:
        graph.initializer.remove(tensor)


def _make_constant(graph: Any, name: str, value: np.ndarray) -> None:
    """An input of a graph into a constant, transposed where it was transposed."""
    from onnx import numpy_helper

    (source,) = [entry for entry in graph.input if entry.name == name]
    graph.input.remove(source)
    for node in [node for node in graph.node if name in node.input]:
        constant, array = name, value
        if node.op_type == "Transpose":
            (order,) = [list(a.ints) for a in node.attribute if a.name == "perm"]
            constant, array = node.output[0], value.transpose(order)
            graph.node.remove(node)
        if constant not in {entry.name for entry in graph.initializer}:
            tensor = numpy_helper.from_array(np.ascontiguousarray(array), constant)
            graph.initializer.append(tensor)


def _resize_to_sizes(graph: Any, nodes: list[Any]) -> list[Any]:
    """Keeps tf2onnx from resizing by scales where it knows the size.

    In float32 a row gets lost by them: floor(7 * (25 / 7)) is 24. A size that is no
    constant stays a size.
    """
    for node in list(nodes):
        if node.type in ("ResizeBilinear", "ResizeNearestNeighbor"):
            graph.insert_new_node_on_input(node, "Identity", node.input[1], input_index=1)
    return graph.get_nodes()
