"""PNG files made quick to read, and their checksums."""

from __future__ import annotations

import os
from pathlib import Path

from zlib_ng import zlib_ng

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = 33  # bytes with the signature and the chunk IHDR
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # Portable Network Graphics, Table 11.1
_MAX_PIXELS = 2**25  # Larger ones are left to Pillow: several copies are in memory at once.


def has_late_text(path: Path) -> bool:
    """Whether a PNG has EXIF or text behind its pixels, where a header's reader does not look.

    Raises:
        OSError: the file cannot be read.
    """
    # Without a buffer, since little is read of each chunk.
    with path.open("rb", buffering=0) as file:
        file.seek(len(_SIGNATURE))
        behind = False
        while len(head := file.read(8)) == 8:  # Section 5.3: length and name
            name = head[4:]
            if behind and name in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
                return True
            behind = behind or name == b"IDAT"
            file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return False


def with_stored_pixels(content: bytes) -> bytes:
    """The same PNG with its pixels stored instead of compressed.

    Pillow inflates row by row with the system's zlib, which is half of the time that a label
    takes. zlib-ng inflates all rows at once, in a tenth of that; what Pillow has left to do is
    to copy. All other chunks are kept. What is interlaced, larger than 2^25 pixels or no PNG
    comes back as it is.

    Pillow looks at the checksums of the chunks before the pixels alone, and at that of all rows
    where it happens to reach it; here all are verified, up to the end of the picture.

    Args:
        content: of a file whose header Pillow has read.

    Raises:
        ValueError: a checksum is wrong, the file is cut, or the pixels cannot be inflated.
    """
    if not content.startswith(_SIGNATURE) or len(content) < _HEADER:
        return content
    view, pixels, begin, behind, place = memoryview(content), [], 0, 0, len(_SIGNATURE)
    name = b""
    while place < len(content) and name != b"IEND":  # Section 5.3
        name = content[place + 4 : place + 8]
        end = place + 12 + int.from_bytes(view[place : place + 4], "big")
        checksum = zlib_ng.crc32(view[place + 4 : end - 4])
        if content[end - 4 : end] != checksum.to_bytes(4, "big"):
            raise ValueError(f"damaged chunk {name.decode('latin1')} at byte {place}")
        if name == b"IDAT" and behind in (0, place):
            begin, behind = begin or place, end
            pixels.append(view[place + 8 : end - 4])
        place = end
    width, height = (int.from_bytes(view[i : i + 4], "big") for i in (16, 20))
    depth, kind, interlaced = content[24], content[25], content[28]
    usual = kind in _CHANNELS and not interlaced and width * height <= _MAX_PIXELS
    if not pixels or not usual:
        return content
    size = height * (1 + (width * depth * _CHANNELS[kind] + 7) // 8)
    inflate = zlib_ng.decompressobj()
    try:
        # One byte more than needed: its end is looked at, and no file can inflate beyond it.
        rows = inflate.decompress(b"".join(pixels), size + 1)
    except zlib_ng.error as error:  # type: ignore[misc]  # its stub calls it a value
        raise ValueError(f"the pixels are damaged: {error}") from error
    if not inflate.eof or inflate.unused_data or len(rows) != size:
        return content
    chunk = b"IDAT" + zlib_ng.compress(rows, 0)
    length, checksum = len(chunk) - 4, zlib_ng.crc32(chunk)
    parts = (length.to_bytes(4, "big"), chunk, checksum.to_bytes(4, "big"))
    return b"".join((view[:begin], *parts, view[behind:]))
