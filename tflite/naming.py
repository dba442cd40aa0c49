"""Which layers of a graph the operators of its .tflite file compute."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

import keras

from kseg.errors import KsegError
from kseg.tflite.flatbuffer import operator_outputs


def layer_names(content: bytes, graph: keras.Model) -> dict[str, list[str]]:
    """The layers of the graph that each operator computes, by its output tensor.

    Args:
        content: what ``to_flatbuffer`` made of the graph: names are those of its layers,
            numbered where they were traced more than once.
        graph: of Keras 3.

    Returns:
        Names by output tensor; none of an operation that is no layer.
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
        owners[tensor] = found
    if owners:
        # The output has the signature's name instead.
        last = list(owners)[-1]
        owners[last] = owners[last] or [graph.operations[-1].name]
    return owners


def layers_in(tensor: str) -> str:
    """The layers that a tensor's name has, where the graph is not at hand; else ""."""
    scopes = [part.split("/")[1:-1] for part in tensor.split(";")]
    names = ["/".join(re.sub(r"_\d+$", "", scope) for scope in each) for each in scopes]
    return " ".join(dict.fromkeys(filter(None, names)))


def tensors_of(layers: Collection[str], content: bytes, graph: keras.Model) -> list[str]:
    """The output tensors of the layers' operators.

    A BatchNorm or a mean that export has split stands for its parts.

    Raises:
        KsegError: a layer that is not there or has no operator of its own.
    """
    owners = layer_names(content, graph)
    tensors = []
    for layer in layers:
        pattern = re.compile(re.escape(layer) + r"(\.branch\d+|\.depthwise|\.columns)?")
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
