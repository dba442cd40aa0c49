"""Which TensorFlow Lite operators the LiteRT GPU accelerator runs, and what to write instead."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from kseg.errors import KsegError
from kseg.tflite.flatbuffer import (
    operator_inputs,
    operator_outputs,
    operators,
    shapes,
    slice_forms,
)

# Operators that the LiteRT GPU accelerator was seen to compute right; a file with any
# other is refused, since the delegate would fall back to the CPU or worse.
GPU_OPERATORS = frozenset(
    [
        "ABS",
        "ADD",
        "ARG_MAX",
        "AVERAGE_POOL_2D",
        "BATCH_MATMUL",
        "CAST",
        "CEIL",
        "CONCATENATION",
        "CONV_2D",
        "COS",
        "CUMSUM",
        "DEPTHWISE_CONV_2D",
        "DEPTH_TO_SPACE",
        "DEQUANTIZE",
        "DIV",
        "ELU",
        "EXP",
        "FLOOR",
        "FLOOR_MOD",
        "FULLY_CONNECTED",
        "GATHER",
        "GELU",
        "GREATER",
        "GREATER_EQUAL",
        "HARD_SWISH",
        "LEAKY_RELU",
        "LESS",
        "LOG",
        "LOGICAL_AND",
        "LOGISTIC",
        "MAXIMUM",
        "MAX_POOL_2D",
        "MEAN",
        "MINIMUM",
        "MUL",
        "NEG",
        "PAD",
        "POW",
        "PRELU",
        "QUANTIZE",
        "REDUCE_MAX",
        "REDUCE_MIN",
        "REDUCE_PROD",
        "RELU",
        "RELU6",
        "RESHAPE",
        "RESIZE_BILINEAR",
        "RESIZE_NEAREST_NEIGHBOR",
        "ROUND",
        "RSQRT",
        "SELECT",
        "SELECT_V2",
        "SIGN",
        "SIN",
        "SOFTMAX",
        "SPACE_TO_DEPTH",
        "SQRT",
        "SQUARE",
        "SQUARED_DIFFERENCE",
        "STRIDED_SLICE",
        "SUB",
        "SUM",
        "TANH",
        "TILE",
        "TRANSPOSE",
        "TRANSPOSE_CONV",
    ]
)

# What computes the same and runs, of operators that do not.
_INSTEAD = {
    "BATCH_TO_SPACE_ND": "a dilated convolution of one operator, at a static batch and size",
    "BROADCAST_TO": "the sum or product alone, which repeats by itself",
    "EQUAL": "x >= y, since EQUAL gives wrong numbers in 8 bits",
    "LOG_SOFTMAX": "the logits alone",
    "MIRROR_PAD": "ZeroPadding2D",
    "PACK": "Concatenate",
    "SPACE_TO_BATCH_ND": "a dilated convolution of one operator, at a static batch and size",
    "SPLIT": "slices x[..., a:b], since SPLIT gives wrong numbers",
    "SPLIT_V": "slices x[..., a:b], since SPLIT_V gives wrong numbers",
    "UNPACK": "slices x[..., a:b]",
}

_SLICES_INSTEAD = {
    "backwards": "instead of x[:, ::-1] a Concatenate of slices in the other order",
    "beyond the end": "a slice that ends where its input does, x[..., 8:] in place of x[..., 8:16]",
}

# Tensors of more are refused, whatever the operator is.
_DIMENSIONS = 4

# Layers of one operator that a message names.
_NAMED = 3


def check_operators(
    name: str, content: bytes, layers: Mapping[str, list[str]], beside: Collection[str] = ()
) -> None:
    """Raises KsegError where the GPU delegate would not run an operator of a file.

    Args:
        name: of the model, for the message.
        content: of the .tflite model.
        layers: whose operator it is, by its output tensor (``naming.layer_names``).
        beside: operators that may be there, though no GPU runs them.
    """
    found: dict[str, list[str]] = {}
    instead: list[str] = []
    makers = operator_inputs(content)
    # A file that is for the CPU anyway may have known operators in any form.
    forms = {} if beside else _refused_forms(content, makers)
    for kind, tensor in operator_outputs(content).values():
        if kind in beside or (kind in GPU_OPERATORS and tensor not in forms):
            continue
        what, way = kind, f"instead of {kind} {_INSTEAD[kind]}" if kind in _INSTEAD else ""
        if kind in GPU_OPERATORS:
            form, way = forms[tensor]
            what = f"{kind} {form}"
        found.setdefault(what, []).extend(_owners(tensor, layers, makers))
        if way and way not in instead:
            instead.append(way)
    # Of graphs inside, such as loops, too.
    for kind in set(operators(content)) - GPU_OPERATORS - set(beside):
        found.setdefault(kind, [])
    if not found:
        return
    listed = [f"{what}{_of_layers(names)}" for what, names in sorted(found.items())]
    write = "; ".join(instead) or "the layer with those of kseg.tflite.operators.GPU_OPERATORS"
    raise KsegError(f"{name}: {', '.join(listed)} would not run on the GPU delegate; write {write}")


def _refused_forms(content: bytes, inputs: Mapping[str, list[str]]) -> dict[str, tuple[str, str]]:
    """By output tensor, the form of an operator that runs in others, and what to write instead.

    As the LiteRT GPU accelerator of ai-edge-litert 2.3 was seen to do it: it refuses slices
    backwards and beyond the end, ends its process on a product of a tensor with itself, and
    gives wrong numbers for one of unequal batches.
    """
    sizes, slices = shapes(content), slice_forms(content)
    forms = {}
    for kind, tensor in operator_outputs(content).values():
        if len(sizes[tensor]) > _DIMENSIONS:
            forms[tensor] = (
                f"of {len(sizes[tensor])} dimensions",
                "instead of five dimensions four, such as a shuffle by Concatenate of slices",
            )
        elif tensor in slices:
            forms[tensor] = slices[tensor], _SLICES_INSTEAD[slices[tensor]]
        elif kind == "BATCH_MATMUL":
            first, second = inputs[tensor]
            if first == second:
                forms[tensor] = (
                    "of a tensor with itself",
                    "the factors of a product as two tensors, each by a convolution of its own",
                )
            elif sizes[first][:-2] != sizes[second][:-2]:
                forms[tensor] = (
                    "of unequal batches",
                    "the factors of a product with equal batches, one repeated by Concatenate",
                )
    return forms


def _owners(
    tensor: str, layers: Mapping[str, list[str]], inputs: Mapping[str, list[str]]
) -> list[str]:
    """The layers whose operator gives a tensor; of an operation that is no layer, those before."""
    seen: set[str] = set()
    pending = [tensor]
    while pending:
        name = pending.pop(0)
        if owners := layers.get(name):
            return owners if name == tensor else [f"behind {owner}" for owner in owners]
        seen.add(name)
        pending += [source for source in inputs.get(name, []) if source not in seen]
    return []


def _of_layers(names: list[str]) -> str:
    unique = list(dict.fromkeys(names))
    if not unique:
        return ""
    more = f" and {len(unique) - _NAMED} others" if len(unique) > _NAMED else ""
    return f" ({', '.join(unique[:_NAMED])}{more})"
