"""What the pixels of a label file mean: bits, palettes, colours, loss, EXIF."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kseg
from kseg.data import CAMVID, CITYSCAPES, VOC
from kseg.data.class_files import read_classes
from kseg.data.reading import read_label
from kseg.errors import KsegWarning

ROAD, CAR, SKY = (128, 64, 128), (64, 0, 128), (10, 20, 30)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "label.png"


@pytest.fixture
def classes(tmp_path):
    """By name: road, car and sky, with colours."""
    (tmp_path / "classes.txt").write_text("road #804080\ncar #400080\nsky #0A141E\n")
    return read_classes(tmp_path / "classes.txt")


@pytest.fixture
def table(tmp_path):
    def table(text):
        (tmp_path / "classes.txt").write_text(text)
        return read_classes(tmp_path / "classes.txt")

    return table


@pytest.fixture
def twenty(table):
    return table("\n".join(f"c{i}" for i in range(20)))


def ids_of(count: int, height=7, width=9) -> np.ndarray:
    """(height, width) uint8, every id below ``count``; odd sides, so that rows are padded."""
    return (np.arange(height * width).reshape(height, width) % count).astype(np.uint8)


def packed(ids: np.ndarray, bits: int) -> np.ndarray:
    """Rows of bytes with the first pixel in the highest bits (PNG, Section 7.2)."""
    spread = np.unpackbits(ids[..., None], axis=-1)[..., 8 - bits :]
    return np.packbits(spread.reshape(len(ids), -1), axis=1)


def png(ids: np.ndarray, bits: int, color_type: int = 0, more: bytes = b"") -> bytes:
    """A PNG of these samples, written by hand; ``more`` are chunks before the pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    height, width = ids.shape
    rows = b"".join(b"\0" + row.tobytes() for row in packed(ids, bits))
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(range(3 * 2**bits))) if color_type == 3 else b""
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            palette,
            more,
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        )
    )


def tiff(ids: np.ndarray, bits: int, photometric: int = 1) -> bytes:
    """An uncompressed little-endian TIFF of one strip (TIFF 6.0, Section 2)."""
    height, width = ids.shape
    strip = packed(ids, bits).tobytes()
    fields = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 277: 1, 278: height}
    fields |= {273: 8, 279: len(strip)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, fields[tag]) for tag in sorted(fields))
    strip += b"\0" * (len(strip) % 2)
    directory = struct.pack("<H", len(fields)) + entries + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + directory


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_bits(bits, path, twenty):
    """Ids as stored: no viewer's scaling to 0..255, in PNG and TIFF, and in palettes."""
    ids = ids_of(min(2**bits, 16))
    path.write_bytes(png(ids, bits))
    np.testing.assert_array_equal(read_label(path, twenty), ids)
    path.write_bytes(tiff(ids, bits))
    np.testing.assert_array_equal(read_label(path, twenty), ids)
    if bits < 8:
        path.write_bytes(png(ids, bits, color_type=3))
        np.testing.assert_array_equal(read_label(path, twenty), ids)


def test_grey_bits_of_other_writers(path, twenty):
    """What Pillow itself writes: 1 bit in PNG, BMP and TIFF; 8 bits in lossless formats."""
    ids = ids_of(2)
    for name in ("a.png", "a.bmp", "a.tif"):
        Image.fromarray(ids * 255).convert("1").save(path.with_name(name))
        np.testing.assert_array_equal(read_label(path.with_name(name), twenty), ids)
    ids = ids_of(20)
    for name, options in (
        ("b.bmp", {}),
        ("b.tif", {"compression": "tiff_lzw"}),
        ("b.tiff", {"compression": "tiff_adobe_deflate"}),
        ("b.png", {"bits": 8}),
        ("b.gif", {}),
    ):
        Image.fromarray(ids).save(path.with_name(name), **options)
        np.testing.assert_array_equal(read_label(path.with_name(name), twenty), ids)


def test_an_opaque_alpha_channel_says_nothing(path, classes):
    ids = ids_of(3)
    Image.merge("LA", (Image.fromarray(ids), Image.new("L", ids.shape[::-1], 255))).save(path)
    np.testing.assert_array_equal(read_label(path, classes), ids)
    picture = np.array(classes.colors, np.uint8)[ids]
    Image.fromarray(picture).convert("RGBA").save(path)
    np.testing.assert_array_equal(read_label(path, classes), ids)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.png", {"format": "JPEG"}, "holds JPEG; labels are PNG, BMP"),
        ("a.bmp", {"format": "JPEG2000"}, "holds JPEG2000; labels are PNG"),
        ("a.png", {"format": "WEBP"}, "holds lossy WEBP; labels are PNG"),
        ("a.webp", {"format": "WEBP", "exif": exif(1)}, "holds lossy WEBP; labels are PNG"),
        ("a.tif", {"compression": "jpeg"}, "is a TIFF with lossy compression"),
        ("a.png", {"exif": exif(6)}, "is a label that EXIF turns; save it upright"),
        ("a.tif", {"tiffinfo": {274: 3}}, "is a label that EXIF turns; save it upright"),
    ],
)
def test_refused_by_content(name, options, message, path, twenty):
    Image.fromarray(ids_of(20, 32, 48)).save(path.with_name(name), **options)
    with pytest.raises(kseg.KsegError, match=message) as error:
        read_label(path.with_name(name), twenty)
    assert str(path.with_name(name)) in str(error.value)


def test_refused_by_meaning(path, twenty):
    ids = ids_of(4)
    path.write_bytes(tiff(ids, 2, photometric=0))
    with pytest.raises(kseg.KsegError, match="is a TIFF in which 0 is white"):
        read_label(path, twenty)
    Image.fromarray(ids.astype(np.uint16)).save(path)
    with pytest.raises(kseg.KsegError, match="mode I;16 with 16 bits; labels are 8-bit, so"):
        read_label(path, twenty)
    pages = [Image.fromarray(ids), Image.fromarray(ids + 1)]
    for name in ("a.tif", "a.png"):
        file = path.with_name(name)
        pages[0].save(file, save_all=True, append_images=pages[1:])
        with pytest.raises(kseg.KsegError, match="holds several pictures; save the label as one"):
            read_label(file, twenty)
    half = Image.merge("LA", (pages[0], Image.new("L", pages[0].size, 128)))
    half.save(path)
    with pytest.raises(kseg.KsegError, match="is a label with transparent pixels"):
        read_label(path, twenty)
    with pytest.raises(kseg.KsegError, match=r"gone\.png: no such file"):
        read_label(path.with_name("gone.png"), twenty)


def palette(ids: np.ndarray, colors, path: Path) -> None:
    image = Image.fromarray(ids)
    image.putpalette([value for color in colors for value in color])
    assert image.mode == "P"
    image.save(path)


def test_a_palette_in_another_order(path, classes):
    """Indices by frequency, as quantising programs give them; the colours are the classes'."""
    ids = ids_of(3)
    palette(np.array([2, 0, 1], np.uint8)[ids], (CAR, SKY, ROAD), path)
    with pytest.warns(KsegWarning, match=r"label\.png: has its palette in another order"):
        np.testing.assert_array_equal(read_label(path, classes), ids)
    # The same colours twice, and more indices than classes
    palette(np.array([4, 1, 2], np.uint8)[ids], ((0, 0, 0), CAR, SKY, CAR, ROAD), path)
    np.testing.assert_array_equal(read_label(path, classes), ids)


def test_a_palette_with_what_is_ignored(path, table):
    classes = table("ignore #000000\nroad #804080\ncar #400080\n")
    ids = ids_of(3)
    palette(ids, (ROAD, (0, 0, 0), CAR), path)
    np.testing.assert_array_equal(read_label(path, classes), np.array([0, 255, 1])[ids])


@pytest.mark.parametrize(
    "colors",
    [
        (ROAD, CAR, SKY),
        [(i, i, i) for i in range(256)],
        VOC.colors,
        [(200, 200, 200)] * 256,
    ],
)
def test_palettes_that_agree_or_say_nothing(colors, path, classes, recwarn):
    ids = ids_of(3)
    palette(ids, colors, path)
    np.testing.assert_array_equal(read_label(path, classes), ids)
    assert not recwarn.list


def test_a_palette_without_colours_in_classes(path, table):
    """Classes without colours: indices are ids, whatever the palette."""
    ids = ids_of(3)
    palette(ids, ((9, 8, 7), (1, 2, 3), (200, 0, 0)), path)
    np.testing.assert_array_equal(read_label(path, table("a\nb\nc\n")), ids)


def test_a_palette_of_one_colour(path, table, recwarn):
    """Also where a class has that colour: ids, in a file of one id as well."""
    classes = table("road #000000\ncar #400080\nsky #0A141E\n")
    for ids in (ids_of(3), ids_of(3) * 0 + 2):
        palette(ids, [(0, 0, 0)] * 3, path)
        np.testing.assert_array_equal(read_label(path, classes), ids)
    assert not recwarn.list


@pytest.mark.parametrize("last", [2, 255])
def test_a_palette_filled_up_with_the_colour_of_a_class(last, path, table):
    """Neither by index nor by colour is it clear what the last id is."""
    classes = table("road #000000\ncar #400080\nsky #0A141E\n")
    ids = np.array([[0, 1, last]], np.uint8)
    palette(ids, [(0, 0, 0), SKY, *[(0, 0, 0)] * 254], path)
    message = f"#000000 at the indices 0 and {last}, which are two ids"
    with pytest.raises(kseg.KsegError, match=message):
        read_label(path, classes)


@pytest.mark.parametrize(
    ("colors", "message"),
    [
        ((CAR, (1, 2, 3), ROAD), "#400080, the colour of 'car' at index 0, the id of 'road', and"),
        (((129, 64, 128), CAR, SKY), "#814080 at index 0, the id of 'road', and #814080, which no"),
        (((1, 2, 3), (4, 5, 6), (7, 8, 9)), "#010203 at index 0, the id of 'road', and #010203"),
    ],
)  # fmt: skip
def test_a_palette_that_contradicts(colors, message, path, classes):
    palette(ids_of(3), colors, path)
    with pytest.raises(kseg.KsegError, match=message) as error:
        read_label(path, classes)
    assert "label.png: its palette has" in str(error.value)


def test_palettes_of_published_data_sets(path):
    """VOC's own, its 255 in any colour; train ids in Cityscapes' colours become its classes."""
    ids = np.array([[0, 20, 255]], np.uint8)
    rest = [(224, 224, 192)] * 235
    for filler in (rest, [(0, 0, 0)] * 235, []):
        palette(ids, [*VOC.colors, *filler], path)
        np.testing.assert_array_equal(read_label(path, VOC), ids)
    palette(ids_of(19), CITYSCAPES.colors, path)
    np.testing.assert_array_equal(read_label(path, CITYSCAPES), ids_of(19))
    palette(ids_of(12), [*CAMVID.colors, (0, 0, 0)], path)
    want = np.where(ids_of(12) == 11, 255, ids_of(12))
    np.testing.assert_array_equal(read_label(path, CAMVID), want)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.webp"])
def test_colour_pictures(name, path, table):
    classes = table("ignore #000000\nroad #804080\ncar #400080\nsky #0A141E\n")
    ids = ids_of(4, 32, 48)
    picture = np.array([(0, 0, 0), ROAD, CAR, SKY], np.uint8)[ids]
    options = {"lossless": True, "exact": True} if name.endswith("webp") else {}
    Image.fromarray(picture).save(path.with_name(name), **options)
    want = np.array([255, 0, 1, 2])[ids]
    np.testing.assert_array_equal(read_label(path.with_name(name), classes), want)


def test_colour_pictures_of_published_data_sets(path):
    ids = ids_of(21)
    Image.fromarray(np.array(VOC.colors, np.uint8)[ids]).save(path)
    np.testing.assert_array_equal(read_label(path, VOC), ids)
    picture = np.array(VOC.colors, np.uint8)[ids]
    picture[0, 0] = 224, 224, 192
    Image.fromarray(picture).save(path)
    assert read_label(path, VOC)[0, :2].tolist() == [255, 1]


def test_unknown_colours(path, classes, table):
    picture = np.array(classes.colors, np.uint8)[ids_of(3)]
    picture[2, 3] = 129, 64, 128
    Image.fromarray(picture).save(path)
    with pytest.raises(kseg.KsegError, match=r"label\.png: has the colours #814080 that no class"):
        read_label(path, classes)
    for row in range(7):
        picture[row, 0] = row, 1, 1
    Image.fromarray(picture).save(path)
    with pytest.raises(kseg.KsegError, match=r"#000101, #010101, .*, #040101 and 3 more that no"):
        read_label(path, classes)
    with pytest.raises(kseg.KsegError, match=r"mode RGB, and classes\.txt has no colours to read"):
        read_label(path, table("a\nb\nc\n"))
    Image.fromarray(np.repeat(ids_of(3)[..., None], 3, axis=2)).save(path)
    with pytest.raises(kseg.KsegError, match="if its three channels hold an id, save one of them"):
        read_label(path, classes)


def test_one_colour_for_two_classes(path, table):
    classes = table("road #804080\ncar #400080\nlane #804080\n")
    Image.fromarray(np.array(classes.colors, np.uint8)[ids_of(2)]).save(path)
    with pytest.raises(kseg.KsegError, match="#804080 is the colour of two classes; give each"):
        read_label(path, classes)
    palette(ids_of(3), classes.colors, path)
    np.testing.assert_array_equal(read_label(path, classes), ids_of(3))


def test_ids_from_one(path, table):
    Image.fromarray(ids_of(3) + 1).save(path)
    with pytest.raises(kseg.KsegError, match=r"has ids \[3\] .*make `ignore` the first line of"):
        read_label(path, table("a\nb\nc\n"))
    np.testing.assert_array_equal(read_label(path, table("ignore\na\nb\nc\n")), ids_of(3))
