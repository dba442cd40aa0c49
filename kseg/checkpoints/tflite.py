"""TensorFlow Lite files as checkpoints: the kernels and biases of their convolutions."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from kseg.card import CARD_ENTRY
from kseg.errors import KsegError

_CONV, _DEPTHWISE, _DEQUANTIZE = (
    getattr(schema.BuiltinOperator, name) for name in ("CONV_2D", "DEPTHWISE_CONV_2D", "DEQUANTIZE")
)
_TYPES = {
    schema.TensorType.FLOAT32: "<f4",
    schema.TensorType.FLOAT16: "<f2",
    schema.TensorType.INT8: "i1",
    schema.TensorType.UINT8: "u1",
    schema.TensorType.INT32: "<i4",
}
_TYPE_NAMES = {code: name for name, code in vars(schema.TensorType).items() if name.isupper()}

# What stands behind the scope in a kernel's name: its own, the operator's, and what tools
# for graphs add to them.
_BEHIND_THE_SCOPE = re.compile(
    r"/(read|(depthwise_)?weights\w*|Conv2D\w*|(Fused)?BatchNorm\w*|batch_norm\w*|FakeQuant\w*"
    r"|mul_fold|depthwise(?<=/depthwise/depthwise))$"
)


def read_tflite(path: Path) -> dict[str, np.ndarray]:
    """The weights of a file's convolutions under TF-Slim's names and in its layout.

    A convolution whose kernel is named in the scope ``S`` gives ``S/weights`` (H, W, I, O),
    or depthwise ``S/depthwise_weights`` (H, W, C, multiplier), and its bias ``S/biases``.
    Constants of other operators that have several float elements keep their own names.
    Weights in 8 bits or in half precision become the float32 numbers that they stand for.

    Raises:
        KsegError: no TensorFlow Lite file, one that kseg converted, two convolutions of one
            scope, or weights of a type that is not known here.
    """
    model, codes = _load(path)
    if any(entry.name == CARD_ENTRY.encode() for entry in model.metadata or ()):
        raise KsegError(
            "a file that kseg converted, whose layers are joined for running; take the .keras "
            "file that it was made of"
        )
    graph = model.subgraphs[0]

    def is_constant(index: int) -> bool:
        return index >= 0 and model.buffers[graph.tensors[index].buffer].data is not None

    # Half precision is made float32 by an operator of its own.
    sources = {
        operator.outputs[0]: operator.inputs[0]
        for operator in graph.operators
        if codes[operator.opcodeIndex] == _DEQUANTIZE and is_constant(operator.inputs[0])
    }
    tensors: dict[str, np.ndarray] = {}
    for operator in graph.operators:
        code = codes[operator.opcodeIndex]
        if code == _DEQUANTIZE:
            continue
        inputs = [sources.get(index, index) for index in operator.inputs]
        constants = [
            (graph.tensors[index], model.buffers[graph.tensors[index].buffer].data)
            for index in inputs
            if is_constant(index)
        ]
        if code in (_CONV, _DEPTHWISE) and is_constant(inputs[1]):
            kernel, *bias = (_values(*constant) for constant in constants)
            scope = _scope(constants[0][0].name.decode())
            if code == _DEPTHWISE:
                multiplier = operator.builtinOptions.depthMultiplier
                kernel = kernel.reshape(*kernel.shape[1:3], -1, multiplier)
                found = {f"{scope}/depthwise_weights": kernel}
            else:
                found = {f"{scope}/weights": np.ascontiguousarray(kernel.transpose(1, 2, 3, 0))}
            if bias:
                found[f"{scope}/biases"] = bias[0]
        else:
            found = {
                tensor.name.decode(): _values(tensor, data)
                for tensor, data in constants
                if tensor.type in (schema.TensorType.FLOAT32, schema.TensorType.FLOAT16)
                and np.prod(tensor.shape) > 1
            }
        if code in (_CONV, _DEPTHWISE) and (double := found.keys() & tensors.keys()):
            raise KsegError(f"two convolutions have the weights {', '.join(sorted(double))}")
        tensors |= found
    if not tensors:
        raise KsegError("it holds no weights; name a file with a network in it")
    return tensors


def dilations(path: Path) -> dict[str, int]:
    """Dilation by scope of the file's convolutions of more than one tap.

    Empty where an old converter wrote dilations as operators of their own.
    """
    model, codes = _load(path)
    graph = model.subgraphs[0]
    if schema.BuiltinOperator.SPACE_TO_BATCH_ND in codes:
        return {}
    return {
        _scope(kernel.name.decode()): operator.builtinOptions.dilationHFactor
        for operator in graph.operators
        if codes[operator.opcodeIndex] in (_CONV, _DEPTHWISE)
        and np.prod((kernel := graph.tensors[operator.inputs[1]]).shape[1:3]) > 1
    }


def _load(path: Path) -> tuple[schema.ModelT, list[int]]:
    """The file and the operators that its codes stand for."""
    content = path.read_bytes()
    if content[4:8] != b"TFL3":
        raise KsegError("not a readable checkpoint (no TensorFlow Lite file); fetch it again")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    return model, [max(c.builtinCode, c.deprecatedBuiltinCode) for c in model.operatorCodes]


def _scope(name: str) -> str:
    """``S`` of ``S/weights``; converters list the names of what they joined, the kernel's first."""
    name = name.split(";")[0]
    while (shorter := _BEHIND_THE_SCOPE.sub("", name)) != name:
        name = shorter
    return name


def _values(tensor: schema.TensorT, data: np.ndarray) -> np.ndarray:
    """The float32 numbers that a constant stands for."""
    if tensor.type not in _TYPES or tensor.sparsity is not None:
        kind = "sparse" if tensor.sparsity is not None else _TYPE_NAMES[tensor.type]
        raise KsegError(f"{tensor.name.decode()} is {kind}; take the file in float32 or int8")
    values = np.frombuffer(data.tobytes(), _TYPES[tensor.type]).reshape(tensor.shape)
    how = tensor.quantization
    if how is None or how.scale is None or values.dtype.kind == "f":
        if values.dtype.kind != "f":
            raise KsegError(f"{tensor.name.decode()} has integers without a scale")
        return values.astype(np.float32)
    shape = [1] * values.ndim
    if len(how.scale) > 1:
        shape[how.quantizedDimension] = -1
    zero_point = np.reshape(how.zeroPoint, shape if len(how.zeroPoint) > 1 else [1] * values.ndim)
    return ((values - zero_point) * np.reshape(how.scale, shape)).astype(np.float32)
