"""What kseg reads from and writes into a .tflite flatbuffer."""

from __future__ import annotations

import copy
import json
from collections import Counter

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from kseg.model import Card

CARD_ENTRY = "KSEG_CARD"
_IDENTIFIER = b"TFL3"

_OPERATOR_NAMES = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")
}


def operators(content: bytes) -> Counter[str]:
    """How often each operator occurs, over all subgraphs; custom ones by their own name."""
    model = schema.Model.GetRootAs(content)
    names = []
    for i in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(i)
        builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        custom = code.CustomCode()
        names.append(custom.decode() if custom else _OPERATOR_NAMES.get(builtin, str(builtin)))
    counts: Counter[str] = Counter()
    for i in range(model.SubgraphsLength()):
        graph = model.Subgraphs(i)
        for j in range(graph.OperatorsLength()):
            counts[names[graph.Operators(j).OpcodeIndex()]] += 1
    return counts


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


def with_card(content: bytes, card: Card) -> bytes:
    """The same model with the card among its metadata, in place of one there."""
    model = _unpack(content)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(json.dumps(card.to_json()).encode(), np.uint8)
    entry = schema.MetadataT()
    entry.name = CARD_ENTRY
    entry.buffer = len(model.buffers)
    model.buffers.append(buffer)
    others = [m for m in model.metadata or [] if m.name != CARD_ENTRY.encode()]
    model.metadata = [*others, entry]
    return _pack(model, len(content))


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
    builder = flatbuffers.Builder(size + 4096)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())
