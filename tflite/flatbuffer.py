"""What kseg reads from and writes into a .tflite flatbuffer."""

from __future__ import annotations

import copy
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from kseg.card import Card

CARD_ENTRY = "KSEG_CARD"
_IDENTIFIER = b"TFL3"

_OPERATOR_NAMES = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")
}

_PRODUCTS = {"CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL"}

# The axis of the output channels in the kernel.
_OUTPUT_CHANNELS = {
    schema.BuiltinOperator.CONV_2D: 0,
    schema.BuiltinOperator.DEPTHWISE_CONV_2D: 3,
}


def operators(content: bytes) -> Counter[str]:
    """How often each operator occurs, over all subgraphs; custom ones by their own name."""
    model = schema.Model.GetRootAs(content)
    names = _opcode_names(model)
    counts: Counter[str] = Counter()
    for i in range(model.SubgraphsLength()):
        graph = model.Subgraphs(i)
        for j in range(graph.OperatorsLength()):
            counts[names[graph.Operators(j).OpcodeIndex()]] += 1
    return counts


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
    names = []
    for i in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(i)
        builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        custom = code.CustomCode()
        names.append(custom.decode() if custom else _OPERATOR_NAMES.get(builtin, str(builtin)))
    return names


def read_card(content: bytes) -> Card | None:
    """The card of a file that kseg wrote, None in another's."""
    model = schema.Model.GetRootAs(content)
    for i in range(model.MetadataLength()):
        entry = model.Metadata(i)
        if entry.Name() == CARD_ENTRY.encode():
            data = model.Buffers(entry.Buffer()).DataAsNumpy()
            return Card.from_json(json.loads(np.asarray(data).tobytes()))
    return None


def input_name(content: bytes) -> tuple[str, str, str]:
    """The image input's tensor, its signature and its name there."""
    signature = schema.Model.GetRootAs(content).SignatureDefs(0)
    entry = signature.Inputs(0)
    graph = schema.Model.GetRootAs(content).Subgraphs(signature.SubgraphIndex())
    tensor = graph.Tensors(entry.TensorIndex()).Name()
    return tensor.decode(), signature.SignatureKey().decode(), entry.Name().decode()


def with_quantisable_biases(content: bytes, ranges: Mapping[str, tuple[float, float]]) -> bytes:
    """A float model whose convolutions' biases fit into 32 bits once it is quantised.

    A bias is counted in input step times weight step. Where weight decay has driven a
    channel's kernel to nothing, that step is so small that the bias overflows, and a
    channel that was a constant is garbage (half of ESPNet's last features). One weight of
    such a channel is raised until the bias fits, which moves the output by less than
    ``2 ** -14`` of the bias.

    Args:
        content: of the float32 model.
        ranges: (lowest, highest) value by tensor name.
    """
    model = _unpack(content)
    graph = model.subgraphs[0]
    for operator in graph.operators:
        axis = _OUTPUT_CHANNELS.get(model.operatorCodes[operator.opcodeIndex].builtinCode)
        if axis is None or len(operator.inputs) < 3 or operator.inputs[2] < 0:
            continue
        source, kernel, bias = (graph.tensors[i] for i in operator.inputs[:3])
        weights, shifts = _constant(model, kernel), _constant(model, bias)
        if source.name.decode() not in ranges or weights is None or shifts is None:
            continue
        low, high = ranges[source.name.decode()]
        raised = with_least_weights(weights, axis, least_weights(shifts, low, high))
        if not np.array_equal(raised, weights):
            kernel.buffer = len(model.buffers)
            model.buffers.append(_buffer(raised.tobytes()))
    return _pack(model, len(content))


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


def with_input_type(content: bytes, dtype: str) -> bytes:
    """An int8 model behind a QUANTIZE operator, so that it takes "float32" or "uint8".

    The int8 input has scale 1 and zero point -128: 0..255 of either type maps to it
    without loss.
    """
    model = _unpack(content)
    graph = model.subgraphs[0]
    (inner,) = graph.inputs
    tensor = copy.deepcopy(graph.tensors[inner])
    tensor.name = b"image_" + dtype.encode()
    tensor.buffer = 0
    if dtype == "uint8":
        tensor.type = schema.TensorType.UINT8
        tensor.quantization.zeroPoint = np.array([0], np.int64)
    else:
        tensor.type = schema.TensorType.FLOAT32
        tensor.quantization = None
    outer = len(graph.tensors)
    graph.tensors.append(tensor)
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.QUANTIZE
    code.version = 2
    model.operatorCodes.append(code)
    operator = schema.OperatorT()
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.inputs, operator.outputs = [outer], [inner]
    operator.builtinOptionsType = schema.BuiltinOptions.QuantizeOptions
    operator.builtinOptions = schema.QuantizeOptionsT()
    graph.operators.insert(0, operator)
    graph.inputs = [outer]
    for signature in model.signatureDefs or []:
        signature.inputs[0].tensorIndex = outer
    return _pack(model, len(content))


def with_signature(content: bytes, source: str, output: str) -> bytes:
    """A model of one input and one output with a signature that names them so."""
    model = _unpack(content)
    graph = model.subgraphs[0]
    signature = schema.SignatureDefT()
    signature.signatureKey = "serving_default"
    signature.subgraphIndex = 0
    signature.inputs = [_named(source, *graph.inputs)]
    signature.outputs = [_named(output, *graph.outputs)]
    model.signatureDefs = [signature]
    return _pack(model, len(content))


def _named(name: str, index: int) -> schema.TensorMapT:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, index
    return entry


def with_entries(content: bytes, entries: Mapping[str, bytes]) -> bytes:
    """The same model with these entries among its metadata, in place of those there."""
    model = _unpack(content)
    kept = [entry for entry in model.metadata or [] if entry.name.decode() not in entries]
    for name, data in entries.items():
        entry = schema.MetadataT()
        entry.name = name
        entry.buffer = len(model.buffers)
        model.buffers.append(_buffer(data))
        kept.append(entry)
    model.metadata = kept
    return _pack(model, len(content))


def _constant(model: schema.ModelT, tensor: schema.TensorT) -> np.ndarray | None:
    """A tensor's float32 values, None where it has none in the file."""
    data = model.buffers[tensor.buffer].data
    if data is None or tensor.type != schema.TensorType.FLOAT32:
        return None
    return np.frombuffer(np.asarray(data, np.uint8).tobytes(), np.float32).reshape(tensor.shape)


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
    for number, buffer in enumerate(model.buffers):
        if number not in used:
            buffer.data = None
    builder = flatbuffers.Builder(size + 4096)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())
