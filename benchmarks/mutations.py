"""Damage to valid files for ``benchmarks/fuzz.py``: by bytes, and by what the bytes mean.

Every function takes a ``random.Random`` and the bytes of a valid file and gives a file's bytes.
"""

from __future__ import annotations

import io
import itertools
import json
import pickletools
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

Mutator = Callable[[random.Random, bytes], bytes]

INTEGERS = (
    *(0, 1, 2, 3, 7, 16, 127, 128, 255, 256, 32767, 65535, 65536, 10**6, 2**24, 10**9),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1),
    *(-1, -2, -128, -32768, -(2**31), -(2**63)),
)
_DEEP = 200_000


# --- bytes ---------------------------------------------------------------------------


def damaged(rng: random.Random, content: bytes) -> bytes:
    """One to three flips, overwritten numbers, cuts, insertions or moves."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _damage(rng, data)
    return bytes(data)


def _damage(rng: random.Random, data: bytearray) -> None:
    place = (
        rng.randrange(len(data) + 1) if rng.random() < 0.8 else rng.randrange(len(data) // 8 + 1)
    )
    kind = rng.randrange(8)
    if kind == 0 and place < len(data):
        data[place] ^= 1 << rng.randrange(8)
    elif kind == 1 and place < len(data):
        data[place] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    elif kind == 2:  # a number of 16, 32 or 64 bits, as most formats align them
        width = rng.choice((2, 4, 4, 8))
        place -= place % width
        if place + width <= len(data):
            number = rng.choice(INTEGERS) % 256**width
            data[place : place + width] = number.to_bytes(width, rng.choice(("little", "big")))
    elif kind == 3:
        del data[place:]
    elif kind == 4:
        data[place:place] = rng.randbytes(rng.choice((1, 4, 100)))
    elif kind == 5:
        del data[place : place + rng.choice((1, 4, 100))]
    elif kind == 6:
        end = place + rng.choice((1, 8, 64))
        data[place:end] = bytes(len(data[place:end]))
    else:
        piece = data[place : place + rng.choice((4, 32, 200))]
        other = rng.randrange(len(data) + 1)
        data[other : other + len(piece) * rng.randrange(2)] = piece


# --- JSON ----------------------------------------------------------------------------

_NESTED = "deep nesting stands here"
VALUES = (
    *(None, True, False, 0, 1, -1, 2, 3.5, -0.0, 1e-320, 1e308, 10**30, 2**31, 2**63, 2**64),
    *(float("nan"), float("inf"), -float("inf"), "", "a", "0", "two\nlines", "\u2028", "\ud800"),
    *("x" * 5000, "1" * 5000, "/etc/passwd", [], {}, [[]], [None], [0, 1], {"": 0}, _NESTED),
)


def json_damaged(rng: random.Random, content: bytes) -> bytes:
    """Another value, a value's removal or doubling, or another key, once or twice."""
    value = json.loads(content)
    for _ in range(rng.choice((1, 1, 2))):
        value = changed(rng, value)
    return _dumped(value)


def _dumped(value: Any) -> bytes:
    text = json.dumps(value)
    kind = ("[", "]") if len(text) % 2 else ('{"a":', "}")
    deep = kind[0] * _DEEP + "0" + kind[1] * _DEEP
    return text.replace(f'"{_NESTED}"', deep).encode()


def changed(rng: random.Random, value: Any) -> Any:
    """Plain JSON with one change anywhere."""
    if isinstance(value, dict) and value and rng.random() < 0.93:
        key = rng.choice(list(value))
        kind = rng.randrange(12)
        if kind == 0:
            return {k: v for k, v in value.items() if k != key}
        if kind == 1:
            return {**value, rng.choice(("x", "", "two\nlines", key.upper())): value[key]}
        if kind == 2:
            return {**value, key: value[rng.choice(list(value))]}
        return {**value, key: changed(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.85:
        place = rng.randrange(len(value))
        kind = rng.randrange(8)
        if kind == 0:
            return value[:place] + value[place + 1 :]
        if kind == 1:
            return value[:place] + [value[place]] * rng.choice((2, 3, 300)) + value[place + 1 :]
        return [*value[:place], changed(rng, value[place]), *value[place + 1 :]]
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.3:
        return rng.choice((value + 1, -value, value * 1000, value + 0.5, str(value), [value]))
    return rng.choice(VALUES)


# --- text ----------------------------------------------------------------------------

_TEXTS = (
    *("", " ", "\t", "#", "#12345", "#GGGGGG", "ignore", "ignore: 1, 2", "3: a", "3,a", "a,1,2,3"),
    *("1 2 3 a", "a,1,2,300", "id,name,r,g,b", "name", "# label:color_rgb:parts:actions"),
    *("a:1,2,3::", '"', '"a', "a;b", "\0", "\ufeff", "\r", "\u2028", "\x85", "9" * 5000, "\u0663"),
    *("x" * 200_000, "1 " * 20_000, "a" + " " * 50_000 + "b", "ignore " + "1," * 20_000, "-1: a"),
    *(
        "255: a",
        "256: a",
        "1e3: a",
        "\u00b2: a",
        "ignore: " + "9" * 5000,
        "a #\u0661\u0662\u0663456",
    ),
)


def text_damaged(rng: random.Random, content: bytes) -> bytes:
    """Lines changed, doubled, removed, swapped or replaced; or another encoding."""
    lines = content.decode().split("\n")
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(lines))
        kind = rng.randrange(7)
        if kind == 0:
            lines.insert(place, rng.choice(_TEXTS))
        elif kind == 1:
            lines[place] = rng.choice(_TEXTS)
        elif kind == 2:
            lines[place:place] = [rng.choice(lines)] * rng.choice((1, 300))
        elif kind == 3 and len(lines) > 1:
            del lines[place]
        elif kind == 4:
            cut = rng.randrange(len(lines[place]) + 1)
            lines[place] = lines[place][:cut] + rng.choice(_TEXTS) + lines[place][cut:]
        elif kind == 5:
            other = rng.randrange(len(lines))
            lines[place], lines[other] = lines[other], lines[place]
        else:
            lines[place] = lines[place][::-1]
    text = rng.choice(("\n", "\n", "\r\n", "\r")).join(lines)
    encoding = rng.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32"))
    return text.encode(encoding, "surrogatepass")


# --- PNG and JPEG --------------------------------------------------------------------


def png_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and content of the chunks (PNG, Section 5.3)."""
    chunks, place = [], 8
    while place < len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    return chunks


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG of these chunks, with right checksums."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def png_damaged(rng: random.Random, content: bytes) -> bytes:
    """Chunks and pixels changed, with right checksums."""
    chunks = png_chunks(content)
    for _ in range(rng.choice((1, 1, 2))):
        _damage_chunks(rng, chunks)
    return png_of(chunks)


def _damage_chunks(rng: random.Random, chunks: list[tuple[bytes, bytes]]) -> None:
    place = rng.randrange(len(chunks))
    kind, data = chunks[place]
    choice = rng.randrange(8)
    if choice == 0:
        del chunks[place]
        chunks.append((b"IEND", b""))
    elif choice == 1:
        chunks.insert(rng.randrange(len(chunks) + 1), chunks[place])
    elif choice == 2:
        chunks[place] = rng.choice((b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"xxxx", b"eXIf")), data
    elif choice == 3:
        chunks[place] = kind, damaged(rng, data) if data else b"\0"
    elif choice == 4:
        bomb = zlib.compress(bytes(rng.choice((10, 10**5, 10**6))))
        chunks.insert(
            rng.randrange(1, len(chunks) + 1),
            rng.choice(
                (
                    (b"zTXt", b"a\0\0" + bomb),
                    (b"iTXt", b"a\0\1\0\0\0" + bomb),
                    (b"iCCP", b"a\0\0" + bomb),
                    (b"eXIf", b"MM\0*" + rng.randbytes(40)),
                    (b"eXIf", struct.pack(">2sHIHHHI", b"MM", 42, 8, 1, 0x112, 3, 1) + b"\0\6"),
                    (b"tRNS", rng.randbytes(rng.choice((1, 2, 6, 300)))),
                    (b"acTL", struct.pack(">II", rng.choice(INTEGERS) % 2**32, 0)),
                    (b"fcTL", rng.randbytes(26)),
                    (b"fdAT", rng.randbytes(26)),
                    (b"gAMA", rng.randbytes(4)),
                    (b"pHYs", rng.randbytes(rng.choice((0, 9)))),
                )
            ),
        )
    elif choice == 5:
        fields = list(struct.unpack(">IIBBBBB", chunks[0][1])) if len(chunks[0][1]) == 13 else []
        if fields:
            field = rng.randrange(7)
            sizes = (0, 1, fields[0] + 1, 1000, 13000, 20000, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
            fields[field] = rng.choice(sizes) if field < 2 else rng.choice((0, 1, 2, 3, 4, 6, 16))
            chunks[0] = b"IHDR", struct.pack(">IIBBBBB", *fields)
    else:
        # Pixels: another number of rows, filters that do not exist, a stream of another kind.
        for number, (kind, data) in enumerate(chunks):
            if kind == b"IDAT":
                try:
                    rows = zlib.decompress(data)
                except zlib.error:
                    return
                rows = rng.choice(
                    (
                        rows[: len(rows) // 2],
                        rows[:-1],
                        b"",
                        rows * 2,
                        bytes([rng.randrange(256)]) + rows[1:],
                        damaged(rng, rows),
                    )
                )
                stream = zlib.compress(rows, rng.randrange(10))
                chunks[number] = kind, stream[: -rng.choice((1, 4))] if choice == 6 else stream


def jpeg_damaged(rng: random.Random, content: bytes) -> bytes:
    """Segments removed, doubled, moved or changed, with right lengths."""
    segments, place = [], 2
    while content[place + 1] != 0xDA:
        end = place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        segments.append((content[place + 1], content[place + 4 : end]))
        place = end
    rest = content[place:]
    for _ in range(rng.choice((1, 1, 2))):
        place = rng.randrange(len(segments)) if segments else 0
        kind = rng.randrange(7)
        if kind == 0 and segments:
            del segments[place]
        elif kind == 1 and segments:
            segments.insert(rng.randrange(len(segments) + 1), segments[place])
        elif kind == 2 and segments:
            segments[place] = segments[place][0], damaged(rng, segments[place][1] or b"\0")
        elif kind == 3 and segments:
            segments[place] = (
                rng.choice((0xC0, 0xC2, 0xC4, 0xDB, 0xDD, 0xE1, 0xEE)),
                segments[place][1],
            )
        elif kind == 4:
            tags = struct.pack(
                ">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x112, 3, 1, rng.randrange(12), 0, 0
            )
            exif = b"Exif\0\0" + (tags if rng.random() < 0.5 else damaged(rng, tags))
            segments.insert(rng.randrange(len(segments) + 1), (0xE1, exif))
        elif kind == 5:
            for number, (marker, data) in enumerate(segments):
                if marker in (0xC0, 0xC2):
                    size = struct.pack(">H", rng.choice((0, 1, 16, 5000, 65535)))
                    where = rng.choice((1, 3))
                    segments[number] = marker, data[:where] + size + data[where + 2 :]
        else:
            rest = damaged(rng, rest)
    parts = [bytes((0xFF, m)) + struct.pack(">H", min(len(d) + 2, 65535)) + d for m, d in segments]
    return content[:2] + b"".join(parts) + rest


# --- archives and pickles ------------------------------------------------------------


def zip_damaged(inner: Callable[[random.Random, str, bytes], bytes]) -> Mutator:
    """Of an archive: entries changed by ``inner``, removed, renamed, doubled, or bombs."""

    def mutate(rng: random.Random, content: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = [(name, archive.read(name)) for name in archive.namelist()]
        method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        for _ in range(rng.choice((1, 1, 2))):
            place = rng.randrange(len(entries))
            name, data = entries[place]
            kind = rng.randrange(14)
            if kind == 0 and len(entries) > 1:
                del entries[place]
            elif kind == 1:
                entries[place] = f"{name}{rng.choice(('x', '/', '/../x'))}", data
            elif kind == 2:
                entries.append((name, rng.choice(entries)[1]))
            elif kind == 3:
                entries[place] = name, bytes(rng.choice((0, 1, 10**5, 10**7)))
                method = zipfile.ZIP_DEFLATED
            elif kind == 4:
                entries[place] = name, rng.choice(entries)[1]
            else:
                entries[place] = name, inner(rng, name, data)
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method, compresslevel=1) as archive:
            for name, data in entries:
                if not (name in archive.namelist() and rng.random() < 0.5):
                    archive.writestr(zipfile.ZipInfo(name), data, method)
        whole = file.getvalue()
        if rng.random() < 0.15:
            whole = _other_sizes(rng, whole)
        return whole

    return mutate


def _other_sizes(rng: random.Random, content: bytes) -> bytes:
    """Another number in an entry of the central directory (APPNOTE, Section 4.3.12)."""
    data = bytearray(content)
    places = []
    place = data.find(b"PK\1\2")
    while place >= 0:
        places.append(place)
        place = data.find(b"PK\1\2", place + 4)
    offset, width = rng.choice(((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (42, 4)))
    start = rng.choice(places) + offset
    data[start : start + width] = (rng.choice(INTEGERS) % 256**width).to_bytes(width, "little")
    return bytes(data)


def pickle_damaged(rng: random.Random, content: bytes) -> bytes:
    """A pickle's operations with other arguments, doubled, removed, moved; bombs in front."""
    end = 0
    ops = []
    stream = io.BytesIO(content)
    for op, arg, place in pickletools.genops(stream):
        ops.append((op, arg, place))
    end = stream.tell()
    rest = content[end:]
    places = [place for _, _, place in ops] + [end]
    parts = [content[a:b] for a, b in itertools.pairwise(places)]
    for _ in range(rng.choice((1, 1, 2))):
        place = rng.randrange(len(parts))
        kind = rng.randrange(9)
        if kind == 0:
            del parts[place]
            if not parts:
                parts = [b"."]
        elif kind == 1:
            parts.insert(rng.randrange(len(parts) + 1), parts[place])
        elif kind == 2:
            parts[place] = _integer(rng)
        elif kind == 3:
            numbers = [i for i, part in enumerate(parts) if part[:1] in b"KMJ\x8aIL"]
            if numbers:
                parts[rng.choice(numbers)] = _integer(rng)
        elif kind == 4:
            parts.insert(place, rng.choice(_BOMBS)(rng))
        elif kind == 5:
            parts[place] = damaged(rng, parts[place])
        elif kind == 6:
            names = [i for i, part in enumerate(parts) if part[:1] in b"cX\x8cU"]
            if names:
                parts[rng.choice(names)] = rng.choice(
                    (
                        b"cos\nsystem\n",
                        b"cbuiltins\neval\n",
                        b"ctorch\nSize\n",
                        b"ctorch\nFloatStorage\n",
                        b"X\x05\x00\x00\x00a\nb\xff\xfe",
                        b"X\x04\x00\x00\x00a\n\nb",
                    )
                )
        elif kind == 7:
            other = rng.randrange(len(parts))
            parts[place], parts[other] = parts[other], parts[place]
        else:
            parts[place] = rng.choice(
                (b"N", b"]", b"}", b")", b"(", b"0", b"2", b"\x85", b"e", b"u")
            )
    return b"".join(parts) + rest


def _integer(rng: random.Random) -> bytes:
    number = rng.choice(INTEGERS)
    if -(2**31) <= number < 2**31:
        return b"J" + struct.pack("<i", number)
    return b"\x8a\x09" + number.to_bytes(9, "little", signed=True)


_BOMBS: tuple[Callable[[random.Random], bytes], ...] = (
    lambda rng: b"}" + b")" + b"\x85" * _DEEP + b"Ns0",  # a nested tuple as a key
    lambda rng: b"]" * _DEEP + b"a" * (_DEEP - 1) + b"0",  # nested lists
    lambda rng: (
        b"N" + b"r" + struct.pack("<I", rng.choice((2**20, 2**27, 2**31, 2**32 - 1))) + b"0"
    ),
    lambda rng: b"\x96" + struct.pack("<Q", rng.choice((2**30, 2**33, 2**40, 2**62))) + b"aaaa",
    lambda rng: b"\x8e" + struct.pack("<Q", rng.choice((2**30, 2**33, 2**62))) + b"aaaa",
    lambda rng: b"\x95" + struct.pack("<Q", rng.choice((0, 2**33, 2**62))),
    lambda rng: b"cnumpy\ndtype\n(X\x06\x00\x00\x00U99999K\0K\1tR0",
    lambda rng: b"ccollections\nOrderedDict\n)R(NNu0",
    lambda rng: b"X\1\0\0\0b)" + b"2\x86" * 60,  # 2^60 times the same
    lambda rng: (
        b"cnumpy._core.numeric\n_frombuffer\n(C\0cnumpy\ndtype\nX\2\0\0\0S0K\0K\1\x87R"
        + _integer(rng)
        + b"\x85X\1\0\0\0CtR0"
    ),
)
