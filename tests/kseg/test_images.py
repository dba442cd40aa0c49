"""Images as people have them: turned by EXIF, with alpha, huge, in other modes."""

import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

import kseg
from kseg.data import open_dataset, read_image
from kseg.data.check import check_data
from kseg.data.reading import image_size
from kseg.errors import KsegWarning
from kseg.training import prepare


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


# TIFF 6.0, Orientation: what the first row and the first column of the stored pixels are.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


def picture(height=6, width=10) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp"])
def test_exif(name, orientation, tmp_path):
    stored, path = picture(), tmp_path / name
    options = {"a.webp": {"lossless": True}, "a.tif": {"tiffinfo": {274: orientation}}}.get(
        name, {}
    )
    if name != "a.tif":
        options["exif"] = exif(orientation)
    Image.fromarray(stored).save(path, **options)
    if name == "a.jpg":
        with Image.open(path) as image:
            stored = np.asarray(image)
    image = read_image(path)
    np.testing.assert_array_equal(image, UPRIGHT[orientation](stored))
    with Image.open(path) as viewer:
        np.testing.assert_array_equal(image, np.asarray(ImageOps.exif_transpose(viewer)))


@pytest.mark.parametrize("form", ["eXIf", "tEXt", "zTXt", "iTXt"])
@pytest.mark.parametrize("place", ["before", "behind"])
def test_exif_of_a_png_wherever_it_stands(form, place, tmp_path):
    """In a chunk of its own, as ImageMagick's text, or as XMP; sizes come from the header."""
    tags = exif(6).tobytes()
    profile = b"\nexif\n%8d\n%s\n" % (len(tags), tags.hex().encode())
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6"/></x:xmpmeta>'
    content = {
        "eXIf": tags.removeprefix(b"Exif\0\0"),
        "tEXt": b"Raw profile type exif\0" + profile,
        "zTXt": b"Raw profile type exif\0\0" + zlib.compress(profile),
        "iTXt": b"XML:com.adobe.xmp\0\0\0\0\0" + xmp,
    }[form]
    body = form.encode() + content
    chunk = struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))
    path = tmp_path / "a.png"
    stored = picture()
    Image.fromarray(stored).save(path)
    png = path.read_bytes()
    at = png.index(b"IDAT") - 4 if place == "before" else png.index(b"IEND") - 4
    path.write_bytes(png[:at] + chunk + png[at:])
    image = read_image(path)
    np.testing.assert_array_equal(image, UPRIGHT[6](stored))
    assert image_size(path) == image.shape[:2]


@pytest.fixture
def own(tmp_path):
    """Makes a pair whose image is stored turned; the label as it is given."""

    def make(stored: np.ndarray, orientation: int, label: np.ndarray, name="a.png") -> Path:
        for folder in ("images/train", "labels/train"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "classes.txt").write_text("dark\nbright\n")
        Image.fromarray(stored).save(tmp_path / "images/train" / name, exif=exif(orientation))
        Image.fromarray(label).save(tmp_path / "labels/train/a.png")
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("drawn_on", "orientation"),
    # A picture and its half turn have one size, which cannot tell what a label was drawn on.
    [*(("upright", o) for o in range(2, 9)), *(("stored", o) for o in range(5, 9))],
)
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_labels_of_turned_images(orientation, drawn_on, name, own):
    """A label of the stored picture's size is turned with it; any other is upright already."""
    stored = picture()
    bright = (stored[..., 0] > 127).astype(np.uint8)
    upright = UPRIGHT[orientation](bright)
    root = own(stored, orientation, bright if drawn_on == "stored" else upright, name)
    data = open_dataset("folder", root, "train")
    assert data.size == upright.shape
    with pytest.warns(KsegWarning, match=r"images/train/a\.\w+: is turned upright as EXIF says"):
        image, label = data.labelled(data.samples[0])
    np.testing.assert_array_equal(image, UPRIGHT[orientation](stored))
    np.testing.assert_array_equal(label, upright)
    np.testing.assert_array_equal(data.label(data.samples[0]), upright)
    report = check_data("folder", root, "train")
    assert (report.problems, report.sizes) == ([], {upright.shape: 1})
    assert report.pixels.tolist() == np.bincount(upright.ravel()).tolist()
    words = {"stored": "and its label with it", "upright": "as drawn on the upright picture"}
    assert words[drawn_on] in report.warnings[0]


def test_square_images_are_taken_as_upright(own):
    stored = picture(8, 8)
    label = (UPRIGHT[6](stored)[..., 0] > 127).astype(np.uint8)
    root = own(stored, 6, label)
    data = open_dataset("folder", root, "train")
    with pytest.warns(KsegWarning, match="its label is taken as drawn on the upright picture"):
        image, found = data.labelled(data.samples[0])
    np.testing.assert_array_equal(found, (image[..., 0] > 127).astype(np.uint8))


def test_a_label_of_neither_size(own):
    root = own(picture(), 6, np.zeros((6, 9), np.uint8))
    data = open_dataset("folder", root, "train")
    with pytest.raises(kseg.KsegError, match="is 6x9 but its image is 10x6"):
        data.labelled(data.samples[0])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_alpha(mode, tmp_path):
    """Dropped with one warning a folder: the colour below shows, transparent or not."""
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    alpha = Image.fromarray(grey * 5)
    want = np.repeat(grey[..., None], 3, axis=2)
    if mode == "P":
        image, options = Image.fromarray(grey).convert("P"), {"transparency": 3}
    else:
        image, options = Image.merge("LA", (Image.fromarray(grey), alpha)), {}
        image = image.convert(mode) if mode != "LA" else image
    names = ("a.tif", "b.tif") if mode == "PA" else ("a.png", "b.png")
    for name in names:
        image.save(tmp_path / name, **options)
    with pytest.warns(KsegWarning, match="has an alpha channel, which is dropped") as told:
        found = [read_image(tmp_path / name) for name in names]
    np.testing.assert_array_equal(found[0], want)
    np.testing.assert_array_equal(found[1], want)
    assert len(told) == 1


def test_one_warning_a_data_set(own):
    root = own(picture(), 1, np.zeros((6, 10), np.uint8))
    for name in ("b/x", "c/x"):
        for kind, pixels in (("images", picture()), ("labels", np.zeros((6, 10), np.uint8))):
            file = root / kind / "train" / f"{name}.png"
            file.parent.mkdir(exist_ok=True)
            image = Image.fromarray(pixels)
            (image.convert("RGBA") if kind == "images" else image).save(file)
    data = open_dataset("folder", root, "train")
    with pytest.warns(KsegWarning, match="alpha") as told:
        assert len([data.labelled(sample) for sample in data.samples] + list(data.images())) == 6
    assert len(told) == 1
    assert any("alpha" in line and "(2 such" in line for line in (
        check_data("folder", root, "train").warnings
    ))  # fmt: skip


def test_several_pictures(tmp_path):
    pages = [Image.fromarray(picture()), Image.fromarray(255 - picture())]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.warns(KsegWarning, match="holds several pictures; the first alone is read"):
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), picture())


def test_other_modes(tmp_path, recwarn):
    rgb = Image.fromarray(picture())
    for mode in ("CMYK", "L", "1", "YCbCr"):
        rgb.convert(mode).save(tmp_path / "a.tif")
        want = np.asarray(rgb.convert(mode).convert("RGB"))
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), want)
    assert not recwarn.list
    for dtype in (np.uint16, np.float32):
        Image.fromarray(np.ones((4, 4), dtype)).save(tmp_path / "b.tif")
        with pytest.raises(kseg.KsegError, match=r"b\.tif: is an image of mode [IF].*scale its va"):
            read_image(tmp_path / "b.tif")


@pytest.mark.parametrize("kind", [2, 6])
def test_sixteen_bits_of_three_channels(kind, tmp_path):
    """Pillow reads them as 8 bits: of 12-bit values the darkest 16 levels are left."""
    channels = {2: 3, 6: 4}[kind]
    rows = np.random.default_rng(0).integers(0, 4096, (4, 5, channels)).astype(">u2")
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in (
        (b"IHDR", struct.pack(">IIBBBBB", 5, 4, 16, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))),
        (b"IEND", b""),
    ):
        content += struct.pack(">I", len(data)) + name + data
        content += struct.pack(">I", zlib.crc32(name + data))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(kseg.KsegError, match=r"a\.png: is an image of mode RGBA? with 16 bits; "):
        read_image(tmp_path / "a.png")


def test_large_images(tmp_path, monkeypatch):
    """Above Pillow's limit: the message names the variable, which allows what it says."""
    path = tmp_path / "a.png"
    Image.fromarray(picture(20, 20)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
    with pytest.raises(kseg.KsegError, match=r"a\.png: has more than 300 pixels.*KSEG_MAX_PIXELS"):
        read_image(path)
    monkeypatch.setenv("KSEG_MAX_PIXELS", "400")
    np.testing.assert_array_equal(read_image(path), picture(20, 20))
    monkeypatch.setenv("KSEG_MAX_PIXELS", "399")
    with pytest.raises(kseg.KsegError, match="has 400 pixels, more than the 399 of KSEG_MAX_PIXE"):
        read_image(path)
    monkeypatch.setenv("KSEG_MAX_PIXELS", "many")
    with pytest.raises(kseg.KsegError, match="KSEG_MAX_PIXELS is 'many'; it is a number"):
        read_image(path)


def test_a_jpeg_that_one_decoder_refuses(tmp_path):
    """Pillow shows it whole, TensorFlow refuses it: check-data and prepare name it."""
    images, labels = tmp_path / "images/train", tmp_path / "labels/train"
    for folder in (images, labels):
        folder.mkdir(parents=True)
    (tmp_path / "classes.txt").write_text("rest\nthing\n")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    Image.fromarray(pixels).save(images / "a.jpg", quality=90)
    Image.fromarray(np.arange(32 * 48).reshape(32, 48).astype(np.uint8) % 2).save(labels / "a.png")
    for name in "bc":
        shutil.copy(images / "a.jpg", images / f"{name}.jpg")
        shutil.copy(labels / "a.png", labels / f"{name}.png")
    assert check_data("folder", tmp_path, "train").problems == []

    whole = (images / "a.jpg").read_bytes()
    middle = whole.index(b"\xff\xda") + len(whole) // 2
    damages = {
        "is a JPEG that is cut short": whole[:-2] + b"\0" * 10,
        # The segment of a comment begins among the pixels and goes beyond the file.
        "is a JPEG that TensorFlow refuses": whole[:middle]
        + b"\xff\xfe\xff\xff"
        + whole[middle + 4 :],
    }
    # The first is named, whichever thread is done first.
    (images / "c.jpg").write_bytes(whole[:-2])
    for (message, content), workers in zip(damages.items(), (1, 2), strict=True):
        (images / "a.jpg").write_bytes(content)
        assert read_image(images / "a.jpg").shape == (32, 48, 3)
        with pytest.raises(tf.errors.InvalidArgumentError):
            tf.io.decode_and_crop_jpeg(content, [0, 0, 32, 48], channels=3)
        problem, _ = check_data("folder", tmp_path, "train").problems
        assert f"a.jpg: {message}" in problem
        with pytest.raises(kseg.KsegError, match=rf"a\.jpg: {message}"):
            prepare(
                open_dataset("folder", tmp_path, "train"), tmp_path / "records", workers=workers
            )
        assert not [*(tmp_path / "r").glob("shard*")]
