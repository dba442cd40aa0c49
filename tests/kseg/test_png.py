"""PNG files with stored pixels: the same pixels, and Pillow's word on what is damaged."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import kseg
from kseg.data import png, read_image
from kseg.data.png import with_stored_pixels


def written(mode: str, **options) -> bytes:
    pixels = np.random.default_rng(3).integers(0, 256, (40, 37, 4), np.uint8)
    pixels[:, 10:] = pixels[:, 10:11]
    stream = io.BytesIO()
    if mode == "I;16":
        image = Image.fromarray(pixels[..., :2].copy().view(np.uint16)[..., 0])
    else:
        image = Image.fromarray(pixels, "RGBA").convert(mode)
    more = PngImagePlugin.PngInfo()
    more.add_text("Comment", "before")
    more.add(b"teSt", b"behind", after_idat=True)
    image.save(stream, "png", pnginfo=more, **options)
    return stream.getvalue()


def chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Name and content of each; the checksums must be right."""
    found, place = [], 8
    while place < len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        name, data = content[place + 4 : place + 8], content[place + 8 : place + 8 + length]
        checksum = content[place + 8 + length : place + 12 + length]
        assert zlib.crc32(name + data).to_bytes(4, "big") == checksum
        found.append((name, data))
        place += 12 + length
    return found


def file_of(parts: list[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")
        for name, data in parts
    )


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("1", {}),
        ("L", {}),
        ("L", {"transparency": 7}),
        ("P", {"bits": 2}),
        ("P", {"transparency": bytes(range(9))}),
        ("LA", {}),
        ("RGB", {}),
        ("RGBA", {}),
        ("I;16", {}),
    ],
)
def test_stored_pixels_are_the_pixels(mode, options):
    content = written(mode, **options)
    stored = with_stored_pixels(content)
    want, got = ([part for part in chunks(x) if part[0] != b"IDAT"] for x in (content, stored))
    assert want == got
    rows, again = (
        zlib.decompress(b"".join(data for name, data in chunks(x) if name == b"IDAT"))
        for x in (content, stored)
    )
    assert rows == again
    # Deflate's stored blocks (RFC 1951, 3.2.4): the bytes themselves.
    assert rows[:30] in stored
    image, other = (Image.open(io.BytesIO(x)) for x in (content, stored))
    np.testing.assert_array_equal(np.asarray(image), np.asarray(other))
    assert (image.mode, image.info) == (other.mode, other.info)


def test_what_is_unusual_stays_as_it_is(monkeypatch):
    content = written("RGB")
    parts = chunks(content)
    place = [name for name, _ in parts].index(b"IDAT")
    rows = zlib.decompress(parts[place][1])

    def with_pixels(*data: bytes) -> bytes:
        return file_of([*parts[:place], *((b"IDAT", d) for d in data), *parts[place + 1 :]])

    whole = parts[place][1]
    halves = with_pixels(whole[:500], whole[500:])
    assert with_stored_pixels(halves) == with_stored_pixels(content) != content
    interlaced = bytearray(parts[0][1])
    interlaced[12] = 1
    for unchanged in (
        b"GIF89a",
        content[:8],
        file_of([part for part in parts if part[0] != b"IDAT"]),
        file_of([(b"IHDR", bytes(interlaced)), *parts[1:]]),
        with_pixels(whole[:-9]),
        with_pixels(whole, b"more"),
        with_pixels(zlib.compress(rows[:-1])),
        with_pixels(zlib.compress(rows + b"\0")),
        # Would fill a gibibyte.
        with_pixels(zlib.compress(bytes(2**20)) * 2**10),
    ):
        assert with_stored_pixels(unchanged) is unchanged
    monkeypatch.setattr(png, "_MAX_PIXELS", 40 * 37 - 1)
    assert with_stored_pixels(content) is content


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_a_file_that_is_cut(share):
    """Within the pixels, and behind them, where Pillow does not look."""
    content = written("RGB")
    with pytest.raises(ValueError, match=r"damaged chunk (IDAT|teSt|IEND)"):
        with_stored_pixels(content[: int(share * len(content))])


def test_a_flipped_bit_of_the_pixels_is_found(tmp_path):
    """By the chunk's checksum, and by the one of all rows where that was made right."""
    content, path = written("RGB"), tmp_path / "a.png"
    parts = dict(chunks(content))
    (begin,) = (i for i in range(len(content)) if content[i : i + 4] == b"IDAT")
    end = begin + 4 + len(parts[b"IDAT"])
    for place in (*range(begin + 4, end, 97), *range(end - 4, end + 4)):
        data = bytearray(content)
        data[place] ^= 16
        path.write_bytes(data)
        with pytest.raises(kseg.KsegError, match=r"a\.png: not .*damaged chunk IDAT"):
            read_image(path)
        if place < end:
            pixels = bytes(data[begin + 4 : end])
            path.write_bytes(file_of([*{**parts, b"IDAT": pixels}.items()]))
            with pytest.raises(kseg.KsegError, match=r"a\.png: not a readable image"):
                read_image(path)
