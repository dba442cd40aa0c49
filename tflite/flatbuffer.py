"""What kseg reads from and writes into a .tflite flatbuffer."""

from __future__ import annotations

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


def with_card(content: bytes, card: Card) -> bytes:
    """The same model with the card among its metadata, in place of one there."""
    model = schema.ModelT.InitFromPackedBuf(content)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(json.dumps(card.to_json()).encode(), np.uint8)
    entry = schema.MetadataT()
    entry.name = CARD_ENTRY
    entry.buffer = len(model.buffers)
    model.buffers.append(buffer)
    others = [m for m in model.metadata or [] if m.name != CARD_ENTRY.encode()]
    model.metadata = [*others, entry]
    builder = flatbuffers.Builder(len(content) + 4096)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())
