"""The bytes of TFRecord files of tf.train.Example, without TensorFlow.

The format is TensorFlow's ``tensorflow/core/lib/io/record_writer.h``: length, its masked
CRC-32C, the bytes, their masked CRC-32C. The messages are those of
``tensorflow/core/example/example.proto`` and ``feature.proto``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

HEADER, FOOTER = 12, 4
"""Bytes before and behind a record's own."""

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, its bits reversed
_LANE = 256  # bytes that one lane of the checksum reads


def framed(content: bytes) -> bytes:
    """A record as it stands in the file."""
    length = struct.pack("<Q", len(content))
    return length + _masked(length) + content + _masked(content)


def serialized_example(**features: bytes) -> bytes:
    """A tf.train.Example with a list of one text each, in the order of their names."""
    entries = b"".join(
        # An entry of Features' map: key and Feature; Feature's field 1 is a BytesList.
        _field(1, _field(1, name.encode()) + _field(2, _field(1, _field(1, value))))
        for name, value in sorted(features.items())
    )
    return _field(1, entries)


def _field(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer: number and wire type 2, length, bytes."""
    return bytes(_varint(number << 3 | 2)) + bytes(_varint(len(content))) + content


def _varint(value: int) -> Iterator[int]:
    """Seven bits a byte, lowest first; all but the last have the eighth."""
    while value > 127:
        yield value & 127 | 128
        value >>= 7
    yield value


def _masked(content: bytes) -> bytes:
    """The checksum as TFRecord stores it: rotated by 15 bits, plus a constant."""
    checksum = crc32c(content)
    rotated = (checksum >> 15 | checksum << 17) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)


def crc32c(content: bytes) -> int:
    """CRC-32C (RFC 3720, Section 12.1).

    A register is linear in its start and in the bytes, so lanes of ``_LANE`` bytes are read
    side by side, each from zero. Then neighbours are joined, and their neighbours: the left
    one moves on by the right one's length and both are added. A megabyte takes 17 ms, and
    byte by byte 135 ms.
    """
    data = np.frombuffer(content, np.uint8)
    # Zeros in front leave a register of zero as it is.
    lanes = 1 << max(-(-len(data) // _LANE) - 1, 0).bit_length()
    padded = np.zeros(lanes * _LANE, np.uint8)
    padded[len(padded) - len(data) :] = data
    registers = np.zeros(lanes, np.uint32)
    for column in padded.reshape(lanes, _LANE).T.astype(np.uint32):
        registers = _TABLE.take((registers ^ column) & 255) ^ (registers >> 8)
    shift, start, length = _LANE_SHIFT, np.array([0xFFFFFFFF], np.uint32), len(data)
    while len(registers) > 1:
        registers = _times(shift, registers[::2]) ^ registers[1::2]
        shift = _times(shift, shift)
    # The register starts with ones, which the length moves on.
    shift = _BYTE_SHIFT
    while length:
        if length & 1:
            start = _times(shift, start)
        shift = _times(shift, shift)
        length >>= 1
    return int(registers[0] ^ start[0]) ^ 0xFFFFFFFF


def _times(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """A 32x32 matrix of bits, (32,) uint32 by columns, times each of (N,) uint32."""
    result = np.zeros_like(vectors)
    for bit, column in enumerate(matrix):
        result ^= np.where(vectors >> np.uint32(bit) & np.uint32(1), column, np.uint32(0))
    return result


def _make_table() -> np.ndarray:
    """(256,) uint32: what a byte makes of a register."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table.astype(np.uint32)


_TABLE = _make_table()
# What one byte of zeros, and a lane of them, make of each bit of a register.
_BITS = np.uint32(1) << np.arange(32, dtype=np.uint32)
_BYTE_SHIFT = _TABLE[_BITS & 255] ^ (_BITS >> np.uint32(8))
_LANE_SHIFT = _BYTE_SHIFT
for _ in range(_LANE.bit_length() - 1):
    _LANE_SHIFT = _times(_LANE_SHIFT, _LANE_SHIFT)
