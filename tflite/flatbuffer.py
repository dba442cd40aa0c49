"""What kseg reads from and writes into a .tflite flatbuffer.

The functions read a few facts straight from the bytes of a file; a ``Flatbuffer`` is for
changes.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import struct
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from kseg.card import CARD_ENTRY, Card
from kseg.errors import KsegError, first_line
from kseg.files import parse_json

_IDENTIFIER = b"TFL3"

_OPERATOR_NAMES = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")
}

_PRODUCTS = {"CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL"}

# Of constants.
_DTYPES: dict[int, np.dtype] = {
    schema.TensorType.FLOAT32: np.dtype(np.float32),
    schema.TensorType.FLOAT16: np.dtype(np.float16),
    schema.TensorType.INT8: np.dtype(np.int8),
    schema.TensorType.UINT8: np.dtype(np.uint8),
    schema.TensorType.INT32: np.dtype(np.int32),
    schema.TensorType.INT64: np.dtype(np.int64),
    schema.TensorType.BOOL: np.dtype(np.bool_),
}

# The axis of the output channels in the kernel.
_OUTPUT_CHANNELS = {
    schema.BuiltinOperator.CONV_2D: 0,
    schema.BuiltinOperator.DEPTHWISE_CONV_2D: 3,
}


def operators(content: bytes) -> Counter[str]:
    """How often each operator occurs, over all subgraphs; custom ones by their own name."""
    return Flatbuffer(content).operators()


def operator_outputs(content: bytes) -> dict[int, tuple[str, str]]:
    """(operator, tensor name) of the main subgraph's operators by their output tensor.

    In the order in which they run.
    """
    model = schema.Model.GetRootAs(content)
    names = _opcode_names(model)
    graph = model.Subgraphs(0)
    outputs = {}
    for i in range(graph.OperatorsLength()):
        operator = graph.Operators(i)
        for j in range(operator.OutputsLength()):
            index = operator.Outputs(j)
            outputs[index] = names[operator.OpcodeIndex()], graph.Tensors(index).Name().decode()
    return outputs


def operator_inputs(content: bytes) -> dict[str, list[str]]:
    """The input tensors of the main subgraph's operators, by their output tensors; by name."""
    graph = schema.Model.GetRootAs(content).Subgraphs(0)
    names = [graph.Tensors(i).Name().decode() for i in range(graph.TensorsLength())]
    found: dict[str, list[str]] = {}
    for i in range(graph.OperatorsLength()):
        operator = graph.Operators(i)
        sources = [names[j] for j in operator.InputsAsNumpy().tolist() if j >= 0]
        found |= {names[j]: sources for j in operator.OutputsAsNumpy().tolist()}
    return found


def shapes(content: bytes) -> dict[str, tuple[int, ...]]:
    """The shapes of the main subgraph's tensors, by their names."""
    graph = schema.Model.GetRootAs(content).Subgraphs(0)
    tensors = [graph.Tensors(i) for i in range(graph.TensorsLength())]
    return {
        tensor.Name().decode(): tuple(tensor.Shape(i) for i in range(tensor.ShapeLength()))
        for tensor in tensors
    }


def slice_forms(content: bytes) -> dict[str, str]:
    """STRIDED_SLICEs of the main subgraph that a GPU may not run, by the output's name.

    Returns:
        "backwards" of a negative stride, "beyond the end" where one ends behind its input.
    """
    model = schema.Model.GetRootAs(content)
    names, graph = _opcode_names(model), model.Subgraphs(0)

    def constant(tensor: int) -> np.ndarray:
        buffer = model.Buffers(graph.Tensors(tensor).Buffer())
        return np.frombuffer(buffer.DataAsNumpy() if buffer.DataLength() else b"", np.int32)

    found = {}
    for i in range(graph.OperatorsLength()):
        operator = graph.Operators(i)
        if names[operator.OpcodeIndex()] != "STRIDED_SLICE":
            continue
        source, _, end, strides = operator.InputsAsNumpy().tolist()
        ends, extents = constant(end), graph.Tensors(source).ShapeAsNumpy()[: len(constant(end))]
        name = graph.Tensors(operator.Outputs(0)).Name().decode()
        if np.any(constant(strides) < 0):
            found[name] = "backwards"
        elif np.any(ends > extents):
            found[name] = "beyond the end"
    return found


def between(content: bytes, kinds: Collection[str]) -> list[str]:
    """Tensor names of what only moves or scales values for operators of these kinds.

    Operators without sums of products (concatenations, a lone BatchNorm's 1x1 depthwise
    convolution) that only such kinds read, and of which they make at least one source;
    other such operators count as well. Means may be read by any, since they are small.
    """
    model = schema.Model.GetRootAs(content)
    names = _opcode_names(model)
    graph = model.Subgraphs(0)
    makers: dict[int, int] = {}
    readers: dict[int, set[int]] = defaultdict(set)
    inside, candidates, means = set(), set(), set()
    for i in range(graph.OperatorsLength()):
        operator = graph.Operators(i)
        kind, inputs = names[operator.OpcodeIndex()], operator.InputsAsNumpy()
        makers |= dict.fromkeys(operator.OutputsAsNumpy().tolist(), i)
        for tensor in inputs.tolist():
            readers[tensor].add(i)
        if kind in kinds:
            inside.add(i)
        elif kind not in _PRODUCTS and not (
            kind == "DEPTHWISE_CONV_2D" and any(graph.Tensors(inputs[1]).ShapeAsNumpy()[1:3] > 1)
        ):
            candidates.add(i)
        if kind == "MEAN":
            means.add(i)

    def belongs(i: int) -> bool:
        operator = graph.Operators(i)
        sources = {makers[tensor] for tensor in operator.InputsAsNumpy() if tensor in makers}
        results = operator.OutputsAsNumpy().tolist()
        read = set().union(*(readers[tensor] for tensor in results))
        # The model's own outputs have no reader.
        return bool(sources & (inside | candidates)) and (
            i in means or (bool(read) and read <= inside | candidates)
        )

    while lost := {i for i in candidates if not belongs(i)}:
        candidates -= lost
    outputs = [graph.Operators(i).Outputs(0) for i in sorted(candidates)]
    return [graph.Tensors(tensor).Name().decode() for tensor in outputs]


def int8_ranges(content: bytes) -> dict[str, tuple[float, float]]:
    """(lowest, highest) value that each int8 tensor with one scale can hold, by its name."""
    graph = schema.Model.GetRootAs(content).Subgraphs(0)
    ranges = {}
    for i in range(graph.TensorsLength()):
        tensor = graph.Tensors(i)
        how = tensor.Quantization()
        if tensor.Type() == schema.TensorType.INT8 and how and how.ScaleLength() == 1:
            scale, zero_point = how.Scale(0), how.ZeroPoint(0)
            ranges[tensor.Name().decode()] = (
                scale * (-128 - zero_point),
                scale * (127 - zero_point),
            )
    return ranges


def _opcode_names(model: schema.Model) -> list[str]:
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    return [
        _opcode_name(code.BuiltinCode(), code.DeprecatedBuiltinCode(), code.CustomCode())
        for code in codes
    ]


def _opcode_name(builtin: int, deprecated: int, custom: bytes | None) -> str:
    code = max(builtin, deprecated)
    return custom.decode() if custom else _OPERATOR_NAMES.get(code, str(code))


def read_card(content: bytes) -> Card | None:
    """The card of a file that kseg wrote, None in another's."""
    model = schema.Model.GetRootAs(content)
    for i in range(model.MetadataLength()):
        entry = model.Metadata(i)
        if entry.Name() == CARD_ENTRY.encode():
            data = model.Buffers(entry.Buffer()).DataAsNumpy()
            return Card.from_json(parse_json(np.asarray(data).tobytes()))
    return None


def input_name(content: bytes) -> tuple[str, str, str]:
    """The image input's tensor, its signature and its name there.

    Raises:
        KsegError: there is no such signature.
    """
    try:
        signature = schema.Model.GetRootAs(content).SignatureDefs(0)
        entry = signature.Inputs(0)
        graph = schema.Model.GetRootAs(content).Subgraphs(signature.SubgraphIndex())
        tensor = graph.Tensors(entry.TensorIndex()).Name()
        return tensor.decode(), signature.SignatureKey().decode(), entry.Name().decode()
    except (AttributeError, TypeError, ValueError, struct.error) as error:
        raise KsegError(
            f"the file's signature names no input ({first_line(error)}); convert the model again"
        ) from error


def with_quantisable_biases(content: bytes, ranges: Mapping[str, tuple[float, float]]) -> bytes:
    """A float model whose convolutions' biases fit into 32 bits once it is quantised.

    A bias is counted in input step times weight step. Where weight decay has driven a
    channel's kernel to nothing, that step is so small that the bias overflows, and a
    channel that was a constant is garbage (half of ESPNet's last features). One weight of
    such a channel is raised until the bias fits, which moves the output by less than
    ``2 ** -14`` of the bias.

    Args:
        content: of the float32 model; most need no change and come back as they are.
        ranges: (lowest, highest) value by tensor name.
    """
    raised = _raised_kernels(content, ranges)
    return Flatbuffer(content).with_constants(raised).content if raised else content


def _raised_kernels(
    content: bytes, ranges: Mapping[str, tuple[float, float]]
) -> dict[int, np.ndarray]:
    """The kernels that need a larger weight, with it, by the number of their tensor."""
    model = schema.Model.GetRootAs(content)
    graph = model.Subgraphs(0)
    raised: dict[int, np.ndarray] = {}
    for i in range(graph.OperatorsLength()):
        operator = graph.Operators(i)
        code = model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode()
        axis = _OUTPUT_CHANNELS.get(code)
        if axis is None or operator.InputsLength() < 3 or operator.Inputs(2) < 0:
            continue
        source, kernel, bias = (operator.Inputs(j) for j in range(3))
        name = graph.Tensors(source).Name().decode()
        weights = raised.get(kernel, _constant(model, graph.Tensors(kernel)))
        shifts = _constant(model, graph.Tensors(bias))
        if name not in ranges or weights is None or shifts is None:
            continue
        larger = with_least_weights(weights, axis, least_weights(shifts, *ranges[name]))
        if not np.array_equal(larger, weights):
            raised[kernel] = larger
    return raised


def constants(content: bytes, dtype: type[np.floating]) -> dict[str, np.ndarray]:
    """The constants of the main subgraph that are float16 or float32, by their tensors' names."""
    kind = {np.float16: schema.TensorType.FLOAT16, np.float32: schema.TensorType.FLOAT32}[dtype]
    model = schema.Model.GetRootAs(content)
    graph = model.Subgraphs(0)
    found = {}
    for i in range(graph.TensorsLength()):
        tensor = graph.Tensors(i)
        buffer = model.Buffers(tensor.Buffer())
        if tensor.Type() == kind and buffer.DataLength():
            values = np.frombuffer(buffer.DataAsNumpy(), dtype)
            # A sparse tensor keeps fewer values than its shape has.
            shape = tensor.ShapeAsNumpy() if tensor.ShapeLength() else ()
            whole = values.size == int(np.prod(shape))
            found[tensor.Name().decode()] = values.reshape(shape) if whole else values[None]
    return found


def _constant(model: schema.Model, tensor: schema.Tensor) -> np.ndarray | None:
    """A tensor's float32 values, None where it has none in the file."""
    buffer = model.Buffers(tensor.Buffer())
    if buffer.DataLength() == 0 or tensor.Type() != schema.TensorType.FLOAT32:
        return None
    return np.frombuffer(buffer.DataAsNumpy(), np.float32).reshape(tensor.ShapeAsNumpy())


def least_weights(biases: np.ndarray, low: float, high: float) -> np.ndarray:
    """What a channel's largest weight must be, that its bias fits into 32 bits.

    Args:
        biases: of the channels.
        low, high: range of the input.
    """
    # The largest weight is 127 steps, the input's range 255.
    return np.abs(biases) * 127 * 255 / (max(high - low, 1e-30) * 2**30)


def with_least_weights(kernel: np.ndarray, axis: int, least: np.ndarray) -> np.ndarray:
    """The kernel, one weight raised of each channel whose weights are all below its least.

    Args:
        kernel: of four dimensions.
        axis: of the channels.
        least: by channel.
    """
    channels = np.moveaxis(kernel.copy(), axis, 0)
    dead = np.abs(channels).max((1, 2, 3)) < least
    channels[dead, 0, 0, 0] = least[dead]
    return np.moveaxis(channels, 0, axis)


@dataclasses.dataclass(frozen=True)
class Operator:
    """An operator of a model's main subgraph.

    Attributes:
        number: in the order in which they run.
        kind: TensorFlow Lite's name.
        name: of its first output's tensor.
        inputs, outputs: numbers of its tensors; an input that it goes without is -1.
        options: a table of the schema, such as ``Pool2DOptionsT``; None without any.
    """

    number: int
    kind: str
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any


class Flatbuffer:
    """A .tflite model that is unpacked for its first change and packed when it is read.

    A change gives another Flatbuffer; both share what the change leaves alone, so that no
    tensor's values are copied.

    Args:
        content: of the model.
    """

    def __init__(self, content: bytes) -> None:
        self._content: bytes | None = content
        self._size = len(content)

    @functools.cached_property
    def _model(self) -> schema.ModelT:
        return _unpack(self.content)

    @property
    def content(self) -> bytes:
        """The model's bytes."""
        if self._content is None:
            self._content = _pack(self._model, self._size)
        return self._content

    def _changed(self, **fields: Any) -> Flatbuffer:
        """With other fields of the model."""
        other = copy.copy(self)
        other._content = None
        other._model = _replaced(self._model, **fields)
        return other

    def operators(self) -> Counter[str]:
        """How often each operator occurs, over all subgraphs; custom ones by their own name."""
        names = self._kinds()
        graphs = self._model.subgraphs
        return Counter(names[operator.opcodeIndex] for g in graphs for operator in g.operators)

    def _kinds(self) -> list[str]:
        """The names of its operator codes."""
        return [
            _opcode_name(code.builtinCode, code.deprecatedBuiltinCode, code.customCode)
            for code in self._model.operatorCodes
        ]

    @property
    def graphs(self) -> int:
        """The number of subgraphs: the main one, and others such as loops' bodies."""
        return len(self._model.subgraphs)

    @property
    def ends(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The numbers of the main subgraph's inputs and outputs."""
        graph = self._model.subgraphs[0]
        return tuple(map(int, graph.inputs)), tuple(map(int, graph.outputs))

    def main_operators(self) -> list[Operator]:
        """The main subgraph's operators in the order in which they run."""
        graph = self._model.subgraphs[0]
        names = self._kinds()
        return [
            Operator(
                number=number,
                kind=names[operator.opcodeIndex],
                name=graph.tensors[operator.outputs[0]].name.decode(),
                inputs=tuple(map(int, operator.inputs)),
                outputs=tuple(map(int, operator.outputs)),
                options=operator.builtinOptions,
            )
            for number, operator in enumerate(graph.operators)
        ]

    def main_constants(self) -> dict[int, np.ndarray]:
        """The main subgraph's constants by their tensors' numbers.

        Those with scales, such as 8-bit weights, as the float32 that they stand for.

        Raises:
            KsegError: one that is sparse, of an unusual type or damaged.
        """
        found = {}
        for number, tensor in enumerate(self._model.subgraphs[0].tensors):
            data = self._model.buffers[tensor.buffer].data
            if data is None or not len(data):
                continue
            name = tensor.name.decode()
            if tensor.sparsity is not None:
                raise KsegError(f"{name} is sparse, for CPUs alone; convert the model without it")
            if tensor.type not in _DTYPES:
                raise KsegError(f"{name} is a constant of a type that kseg does not read")
            shape = tensor.shape if tensor.shape is not None else ()
            try:
                values = np.frombuffer(data, _DTYPES[tensor.type]).reshape(shape)
            except ValueError as error:
                raise KsegError(f"{name} is damaged ({error}); convert the model again") from error
            found[number] = _dequantised(values, tensor.quantization)
        return found

    def alone(
        self,
        operator: Operator,
        constants: Mapping[int, np.ndarray],
        shapes: Mapping[int, tuple[int, ...]],
        activation: bool = True,
    ) -> Flatbuffer:
        """A model of one of the main subgraph's operators alone.

        Args:
            operator: of ``main_operators``.
            constants: values of some of its inputs, by their numbers.
            shapes: of its other inputs, which are the model's inputs in this order.
            activation: False leaves out the one that is fused into the operator.
        """
        graph = self._model.subgraphs[0]
        numbers = {-1: -1}
        tensors: list[schema.TensorT] = []
        buffers = [_buffer(b"")]
        for number in dict.fromkeys((*operator.inputs, *operator.outputs)):
            if number < 0:
                continue
            fields = dict.fromkeys(("shapeSignature", "sparsity"))
            if number in constants:
                value = constants[number]
                fields |= {
                    "type": next(code for code, kind in _DTYPES.items() if kind == value.dtype),
                    "shape": np.array(value.shape, np.int32),
                    "quantization": None,
                    "buffer": len(buffers),
                }
                buffers.append(_buffer(value.tobytes()))
            else:
                shape = shapes.get(number, graph.tensors[number].shape)
                fields |= {"shape": np.array(shape, np.int32), "buffer": 0}
            numbers[number] = len(tensors)
            tensors.append(_replaced(graph.tensors[number], **fields))
        original = graph.operators[operator.number]
        inner = _replaced(
            original,
            opcodeIndex=0,
            inputs=[numbers[i] for i in operator.inputs],
            outputs=[numbers[i] for i in operator.outputs],
        )
        if not activation and hasattr(operator.options, "fusedActivationFunction"):
            none = schema.ActivationFunctionType.NONE
            inner.builtinOptions = _replaced(operator.options, fusedActivationFunction=none)
        alone = _replaced(
            graph,
            tensors=tensors,
            inputs=[numbers[i] for i in shapes],
            outputs=inner.outputs,
            operators=[inner],
        )
        other = self._changed(
            operatorCodes=[self._model.operatorCodes[original.opcodeIndex]],
            subgraphs=[alone],
            buffers=buffers,
            metadata=None,
            signatureDefs=None,
        )
        other._size = sum(len(buffer.data) for buffer in buffers)
        return other

    def with_signature(self, source: str, output: str) -> Flatbuffer:
        """With a signature that names the one input and the one output so."""
        graph = self._model.subgraphs[0]
        signature = schema.SignatureDefT()
        signature.signatureKey = "serving_default"
        signature.subgraphIndex = 0
        signature.inputs = [_named(source, *graph.inputs)]
        signature.outputs = [_named(output, *graph.outputs)]
        return self._changed(signatureDefs=[signature])

    def with_tensor_names(self, names: Mapping[int, str]) -> Flatbuffer:
        """With other names of tensors of the main subgraph, by their numbers."""
        graph, *others = self._model.subgraphs
        tensors = [
            _replaced(tensor, name=names[number].encode()) if number in names else tensor
            for number, tensor in enumerate(graph.tensors)
        ]
        return self._changed(subgraphs=[_replaced(graph, tensors=tensors), *others])

    def with_constants(self, values: Mapping[int, np.ndarray]) -> Flatbuffer:
        """With other values, of the same type and shape, in tensors of the main subgraph.

        Args:
            values: by the number of their tensor.
        """
        graph, *others = self._model.subgraphs
        tensors, buffers = [*graph.tensors], [*self._model.buffers]
        for number, value in values.items():
            tensors[number] = _replaced(tensors[number], buffer=len(buffers))
            buffers.append(_buffer(value.tobytes()))
        return self._changed(
            subgraphs=[_replaced(graph, tensors=tensors), *others], buffers=buffers
        )

    def with_input_type(self, dtype: str) -> Flatbuffer:
        """An int8 model behind a QUANTIZE operator, so that it takes "float32" or "uint8".

        The int8 input has scale 1 and zero point -128: 0..255 of either type maps to it
        without loss.

        Raises:
            KsegError: the input is of another type or scale.
        """
        model = self._model
        graph, *others = model.subgraphs
        (inner,) = graph.inputs
        if not _takes_pixels(graph.tensors[inner]):
            raise KsegError(
                "the int8 model's input has not scale 1 and zero point -128; please report it with "
                "the network's summary"
            )
        outer = len(graph.tensors)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(model.operatorCodes)
        operator.inputs, operator.outputs = [outer], [inner]
        operator.builtinOptionsType = schema.BuiltinOptions.QuantizeOptions
        operator.builtinOptions = schema.QuantizeOptionsT()
        graph = _replaced(
            graph,
            tensors=[*graph.tensors, _input_tensor(graph.tensors[inner], dtype)],
            operators=[operator, *graph.operators],
            inputs=[outer],
        )
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.QUANTIZE
        code.version = 2
        return self._changed(
            subgraphs=[graph, *others],
            operatorCodes=[*model.operatorCodes, code],
            signatureDefs=[
                _replaced(signature, inputs=[_replaced(signature.inputs[0], tensorIndex=outer)])
                for signature in model.signatureDefs or []
            ],
        )

    def with_entries(self, entries: Mapping[str, bytes]) -> Flatbuffer:
        """With these entries among its metadata, in place of those there."""
        buffers = [*self._model.buffers]
        metadata = [e for e in self._model.metadata or [] if e.name.decode() not in entries]
        for name, data in entries.items():
            entry = schema.MetadataT()
            entry.name, entry.buffer = name.encode(), len(buffers)
            buffers.append(_buffer(data))
            metadata.append(entry)
        return self._changed(metadata=metadata, buffers=buffers)


def _dequantised(values: np.ndarray, how: schema.QuantizationParametersT | None) -> np.ndarray:
    """Float32 for integers with a scale, one or one for each slice along a dimension."""
    if how is None or how.scale is None or not len(how.scale):
        return values
    axes = [1] * values.ndim
    if values.ndim:
        axes[how.quantizedDimension if len(how.scale) > 1 else 0] = len(how.scale)
    scale, zero_point = (np.reshape(x, axes) for x in (how.scale, how.zeroPoint))
    return ((values.astype(np.float32) - zero_point) * scale).astype(np.float32)


def _replaced(table: Any, **fields: Any) -> Any:
    """A copy of one of the schema's tables with other values in these fields."""
    table = copy.copy(table)
    for name, value in fields.items():
        setattr(table, name, value)
    return table


def _input_tensor(inner: schema.TensorT, dtype: str) -> schema.TensorT:
    """What a file takes in place of an int8 input of scale 1 and zero point -128."""
    tensor = _replaced(inner, name=b"image_" + dtype.encode(), buffer=0)
    if dtype == "uint8":
        tensor.type = schema.TensorType.UINT8
        tensor.quantization = _replaced(inner.quantization, zeroPoint=np.array([0], np.int64))
    else:
        tensor.type = schema.TensorType.FLOAT32
        tensor.quantization = None
    return tensor


def _takes_pixels(tensor: schema.TensorT) -> bool:
    """Whether it is int8 and holds 0..255 without loss."""
    how = tensor.quantization
    if tensor.type != schema.TensorType.INT8 or how is None or how.scale is None:
        return False
    # The scale is of float32 and comes of ranges.
    return np.allclose(how.scale, 1, rtol=1e-6) and np.array_equal(how.zeroPoint, [-128])


def _named(name: str, index: int) -> schema.TensorMapT:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, index
    return entry


def _buffer(content: bytes) -> schema.BufferT:
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(content, np.uint8)
    return buffer


def _unpack(content: bytes) -> schema.ModelT:
    model = schema.ModelT.InitFromPackedBuf(content)
    for buffer in model.buffers:
        # litert-quantizer keeps large buffers behind the flatbuffer, by offset.
        if buffer.offset > 1:
            end = buffer.offset + buffer.size
            buffer.data = np.frombuffer(content[buffer.offset : end], np.uint8)
            buffer.offset = buffer.size = 0
    return model


def _pack(model: schema.ModelT, size: int) -> bytes:
    # What nothing refers to any more would stay in the file.
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    used |= {entry.buffer for entry in model.metadata or []}
    buffers = [
        buffer if number in used else _replaced(buffer, data=None)
        for number, buffer in enumerate(model.buffers)
    ]
    builder = flatbuffers.Builder(size + 4096)
    packed = _replaced(model, buffers=buffers).Pack(builder)
    builder.Finish(packed, file_identifier=_IDENTIFIER)
    return bytes(builder.Output())
