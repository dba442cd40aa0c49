"""Image and label files to arrays, and what is said of those that mean something else."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from kseg.data.classes import BAD, IGNORE, ClassTable, color_of
from kseg.data.png import has_late_text, with_stored_pixels
from kseg.errors import KsegError, KsegWarning, first_line
from kseg.pictures import Color
from kseg.quiet import quiet_stderr

Tell = Callable[[str, Path, str], None]
"""Takes what is doubtful: its kind, the file, and a text without the file's name."""

MAX_PIXELS = "KSEG_MAX_PIXELS"
"""The environment variable with the pixels that an image may have, instead of Pillow's limit."""

# The formats in which a label's pixels are what was saved, and TIFF's compressions that are.
_EXACT_FORMATS = ("BMP", "GIF", "PNG", "TIFF", "WEBP")
_EXACT_COMPRESSIONS = (1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000)
_BITS_PER_SAMPLE, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = (
    258,
    259,
    262,
    ExifTags.Base.Orientation,
)

# EXIF: what turns a stored picture upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Where Pillow finds the orientation of a PNG.
_HAS_EXIF = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}

_warned: set[tuple[str, str]] = set()
_warned_lock = threading.Lock()


def warn_once(
    place: str, kind: str, path: Path, text: str, more: str = " (said of the first such file only)"
) -> None:
    """A KsegWarning, but one alone of each kind and place (a data set, a folder) in a process."""
    with _warned_lock:
        if (place, kind) in _warned:
            return
        _warned.add((place, kind))
    warnings.warn(f"{path}: {text}{more}", KsegWarning, stacklevel=3)


def read_image(path: str | Path, tell: Tell | None = None) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright as viewers show it: EXIF's orientation is applied.

    An alpha channel is dropped, and of several pictures in a file the first is read, both
    with a KsegWarning for the first such file in a folder.

    Args:
        path: of the image.
        tell: takes the warnings instead.

    Raises:
        KsegError: missing, damaged, of more than 8 bits a channel, or of more pixels than
            Pillow's limit (178,956,970) or the environment variable KSEG_MAX_PIXELS allow.
    """
    return _read_upright(Path(path), tell)[0]


def check_jpeg(path: Path) -> None:
    """``check_jpegs`` of one file."""
    check_jpegs([path])


def check_jpegs(paths: Iterable[Path], threads: int = 1) -> None:
    """Decodes those of the files that are JPEGs as training from records does.

    Pillow fills up what is missing behind a cut or a broken marker; TensorFlow, which decodes
    the windows of records, refuses such a file. Other files are fine.

    Args:
        threads: that decode; TensorFlow needs Python for none of it.

    Raises:
        KsegError: the first file that is missing, or a JPEG that TensorFlow refuses.
    """
    # Once for all threads, which share it: libjpeg writes there of what it can repair.
    with quiet_stderr(), ThreadPoolExecutor(threads) as pool:
        fault = next((fault for fault in pool.map(_jpeg_fault, paths) if fault), None)
        # The others need no look then.
        pool.shutdown(cancel_futures=True)
    if fault:
        raise KsegError(fault)


def _jpeg_fault(path: Path) -> str | None:
    """What is wrong with a file that is a JPEG; None for nothing."""
    try:
        content = _content(path)
    except KsegError as error:
        return str(error)
    if not content.startswith(b"\xff\xd8"):
        return None
    again = "replace it, or save it again if it looks right"
    if content.find(b"\xff\xd9", content.rfind(b"\xff\xda")) < 0:
        return f"{path}: is a JPEG that is cut short (no end-of-image marker); {again}"
    import tensorflow as tf

    try:
        with tf.device("CPU"):
            tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE")
    except tf.errors.InvalidArgumentError:
        return (
            f"{path}: is a JPEG that TensorFlow refuses, which decodes the images of records, "
            f"whatever viewers show; {again}"
        )
    return None


def _read_upright(path: Path, tell: Tell | None) -> tuple[np.ndarray, int]:
    """The image, and the orientation that was undone, 1 for none."""
    content = _content(path)
    with _opened(path, content, load=False) as image:
        # Pillow cuts these off at 255, and leaves the lower bytes of three channels out.
        deep = any(re.search(r"[A-Z];16[BLN]", str(tile)) for tile in image.tile)
        if image.mode.startswith(("I", "F")) or deep:
            raise KsegError(
                f"{path}: is an image of mode {image.mode}{' with 16 bits' * deep}; images are "
                "8-bit, so scale its values to 0..255 and save it again"
            )
        with _one_line(path):
            image = _loaded(image, content)
        tell = tell or functools.partial(warn_once, str(path.parent))
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            tell("alpha", path, "has an alpha channel, which is dropped: colours below it show")
        # Not MPO: a camera's JPEG with a preview or a gain map behind it.
        if image.format in ("GIF", "PNG", "TIFF", "WEBP") and getattr(image, "is_animated", False):
            tell("frames", path, "holds several pictures; the first alone is read")
        pixels = image if image.mode == "RGB" else image.convert("RGB")
        if image.format == "TIFF":
            # Pillow turned it while it loaded, and forgot how.
            return np.asarray(pixels), orientation_of(path)[0]
        orientation = _exif_orientation(path, image)
        if orientation == 1:
            return np.asarray(pixels), 1
        return np.asarray(pixels.transpose(_TURNS[orientation])), orientation


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) that ``read_image`` gives, from the header alone.

    Raises:
        KsegError: missing, or no image.
    """
    return orientation_of(path)[1]


def orientation_of(path: Path) -> tuple[int, tuple[int, int]]:
    """EXIF's orientation, 1 for none, and (H, W) upright, from the header alone.

    Raises:
        KsegError: missing, or no image.
    """
    with _opened(path, load=False) as image:
        # Pillow would decode every PNG to look for EXIF behind its pixels.
        if image.format == "PNG" and not (_HAS_EXIF & image.info.keys() or has_late_text(path)):
            orientation = 1
        else:
            orientation = _exif_orientation(path, image)
        size = image.height, image.width
        # A TIFF's size is the upright one from the beginning.
        sideways = orientation >= 5 and image.format != "TIFF"
    return orientation, size[::-1] if sideways else size


def read_label(path: Path, classes: ClassTable, tell: Tell | None = None) -> np.ndarray:
    """(H, W) uint8 train ids, 255 ignored.

    Grey files hold ids, as stored also in 1, 2 and 4 bits. Colour pictures are read by the
    colours of the classes, exact matches alone. The indices of a palette are ids, unless
    its colours say otherwise: then they are read by colour where all are known.

    Args:
        path: PNG, BMP, GIF or TIFF, or lossless WebP; the content decides, not the suffix.
        classes: ids and colours.
        tell: takes warnings on palettes; None gives the first one of a folder as KsegWarning.

    Raises:
        KsegError: missing, damaged, lossy, transparent, turned by EXIF or of more than 8
            bits; an id or colour that the data set does not have.
    """
    label, unknown = read_train_ids(path, classes, tell)
    if unknown:
        raise KsegError(f"{path}: has {unknown}")
    return label


def read_train_ids(
    path: Path, classes: ClassTable, tell: Tell | None = None
) -> tuple[np.ndarray, str]:
    """As ``read_label``; what is unknown is BAD in the label and told in the text.

    Returns:
        (H, W) uint8, and a text for what is unknown, "" for nothing.
    """
    tell = tell or functools.partial(warn_once, str(path.parent))
    image, scale = _stored(path)
    with image:
        if image.mode in ("LA", "RGBA"):
            image = _without_alpha(path, image)
        if image.mode == "RGB":
            return _by_color(path, np.asarray(image), classes)
        table = _palette_table(path, image, classes, tell) if image.mode == "P" else None
        ids = np.asarray(image).astype(np.uint8, copy=False)
    if scale > 1:
        ids = ids // scale
    by_index = classes.label_table()
    label = (by_index if table is None else table).take(ids)  # faster than an index
    unknown = label == BAD
    if not unknown.any():
        return label, ""
    bad = sorted(set(ids[unknown].tolist()))
    text = f"ids {bad} that the data set does not know; correct them or map them to 255"
    if bad == [classes.num_classes] and classes.file_ids == tuple(range(classes.num_classes)):
        text += "; if ids start at 1, make `ignore` the first line of classes.txt"
    return label, text


def _stored(path: Path) -> tuple[Image.Image, int]:
    """A label file, and by how much Pillow multiplied its ids."""
    content = _content(path)
    image = _opened(path, content, load=False)
    lossy_webp = _is_lossy_webp(content)
    if lossy_webp or image.format not in _EXACT_FORMATS:
        raise KsegError(
            f"{path}: holds {'lossy ' * lossy_webp}{image.format}; labels are PNG, BMP, GIF, TIFF "
            "or lossless WebP, since loss changes ids; make it again from its source as PNG"
        )
    bits, grey = 8, False
    if image.format == "PNG":  # Portable Network Graphics, Section 11.2.1: IHDR
        bits, grey = content[24], content[25] in (0, 4)
    elif isinstance(image, TiffImageFile):
        tags = image.tag_v2
        bits, grey = max(tags.get(_BITS_PER_SAMPLE, (1,))), image.mode in ("1", "L")
        if tags.get(_COMPRESSION, 1) not in _EXACT_COMPRESSIONS:
            raise KsegError(
                f"{path}: is a TIFF with lossy compression, which changes ids; make the label "
                "again from its source and save it as PNG"
            )
        if tags.get(_PHOTOMETRIC) == 0:
            raise KsegError(
                f"{path}: is a TIFF in which 0 is white, so its ids would be turned round; save "
                "it with 0 as black (photometric MINISBLACK) or as PNG"
            )
        # Pillow turns it while it loads.
        _refuse_orientation(path, tags.get(_ORIENTATION, 1))
    if bits > 8 or image.mode not in ("1", "L", "P", "LA", "RGB", "RGBA"):
        raise KsegError(
            f"{path}: is a label of mode {image.mode}{f' with {bits} bits' * (bits > 8)}; labels "
            "are 8-bit, so save its ids (0 to 254, and 255 for no class) as PNG of one channel"
        )
    if getattr(image, "is_animated", False):
        raise KsegError(f"{path}: holds several pictures; save the label as one")
    with _one_line(path):
        image = _loaded(image, content)
    _refuse_orientation(path, _exif_orientation(path, image))
    # Pillow gives greys of 2 and 4 bits as 0..255, those of 1 bit as False and True.
    return image, 255 // (2**bits - 1) if grey and image.mode == "L" else 1


def _refuse_orientation(path: Path, orientation: int) -> None:
    if orientation in _TURNS:
        raise KsegError(
            f"{path}: is a label that EXIF turns; save it upright without the tag Orientation"
        )


def _is_lossy_webp(content: bytes) -> bool:
    """Whether a WebP has a lossy picture (WebP Container Specification)."""
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP":
        return False
    place = 12
    while place + 8 <= len(content):
        kind, length = content[place : place + 4], content[place + 4 : place + 8]
        if kind == b"VP8 ":
            return True
        place += 8 + int.from_bytes(length, "little") + int.from_bytes(length, "little") % 2
    return False


def _without_alpha(path: Path, image: Image.Image) -> Image.Image:
    if np.asarray(image.getchannel("A")).min() < 255:
        raise KsegError(
            f"{path}: is a label with transparent pixels, whose class is not clear; give them "
            "a class or 255 and save it without an alpha channel"
        )
    return image.getchannel("L") if image.mode == "LA" else image.convert("RGB")


def _palette_table(
    path: Path, image: Image.Image, classes: ClassTable, tell: Tell
) -> np.ndarray | None:
    """(256,) uint8 from a palette's indices to train ids; None where indices are ids."""
    colors = _palette(image)
    if len(colors) > 1 and len(set(colors)) == 1:
        return None  # Some programs write such a palette whatever the ids mean.
    # Indices beyond the palette have no colour: they can be nothing but ids.
    used = [i for i, count in enumerate(image.histogram()) if count and i < len(colors)]
    by_index, chosen = classes.label_table(), classes.chosen_colors
    known = _known_colors(classes)
    wrong, foreign = [], []
    for index in used:
        color, train_id = colors[index], int(by_index[index])
        if train_id < BAD and classes.colors[train_id] == color:
            continue
        meant = known.get(color)
        if train_id == IGNORE:
            # Writers fill the rest of a palette with black.
            if meant not in (None, IGNORE) and any(color):
                wrong.append(index)
        elif meant is not None:
            wrong.append(index)
        elif train_id == BAD or chosen[train_id]:
            foreign.append(index)
    if not wrong and not foreign:
        return None
    if all(colors[index] in known for index in used):
        _refuse_shared_color(path, colors, used, by_index)
        tell("palette", path, "has its palette in another order than the ids; it is read by colour")
        table = by_index.copy()
        table[used] = [_train_id(path, colors[index], known) for index in used]
        return table
    if not wrong and _says_nothing(colors, used):
        return None
    index = (wrong or foreign)[0]
    own = int(by_index[index])
    belongs = f", the colour of {_class_name(known[colors[index]], classes)}" if wrong else ""
    unknown = next(_hex(colors[i]) for i in used if colors[i] not in known)
    raise KsegError(
        f"{path}: its palette has {_hex(colors[index])}{belongs} at index {index}, the id of "
        f"{_class_name(own, classes)}, and {unknown}, which no class has; save it with the ids "
        "in one grey channel, or with the classes' own colours"
    )


def _refuse_shared_color(
    path: Path, colors: Sequence[Color], used: list[int], by_index: np.ndarray
) -> None:
    """Raises KsegError where two ids of the data set have one colour: which is meant is open."""
    first: dict[Color, int] = {}
    for index in used:
        if by_index[index] == BAD:
            continue
        other = first.setdefault(colors[index], index)
        if by_index[other] != by_index[index]:
            raise KsegError(
                f"{path}: its palette has {_hex(colors[index])} at the indices {other} and "
                f"{index}, which are two ids, and other colours than the classes'; save it with "
                "the ids in one grey channel, or with the classes' own colours"
            )


def read_palette(path: Path) -> tuple[Color, ...]:
    """RGB by index, as far as the file says; nothing for a file without a palette.

    Raises:
        KsegError: missing, or no image.
    """
    with _opened(path, load=False) as image:
        return _palette(image) if image.mode == "P" else ()


def _palette(image: Image.Image) -> tuple[Color, ...]:
    values = image.getpalette("RGB") or []
    return tuple(zip(values[::3], values[1::3], values[2::3], strict=True))


def _says_nothing(colors: Sequence[Color], used: list[int]) -> bool:
    """Whether a palette is one that programs write whatever the ids mean."""
    usual = (tuple((i, i, i) for i in range(256)), _voc_colormap())
    return any(all(colors[i] == row[i] for i in used) for row in usual)


def _class_name(train_id: int, classes: ClassTable) -> str:
    if train_id in (IGNORE, BAD, _TWICE):
        names = {IGNORE: "what is ignored", BAD: "no class", _TWICE: "two classes"}
        return names[train_id]
    return repr(classes.names[train_id])


_TWICE = -1


def _by_color(path: Path, picture: np.ndarray, classes: ClassTable) -> tuple[np.ndarray, str]:
    """A label picture (H, W, 3) to train ids, and a text for unknown colours."""
    if not any(classes.chosen_colors):
        raise KsegError(
            f"{path}: is a label of mode RGB, and classes.txt has no colours to read it by; "
            "write NAME #RRGGBB there, or save the ids themselves in one channel"
        )
    codes = picture[..., 0].astype(np.uint32) << 16
    codes |= picture[..., 1].astype(np.uint32) << 8
    codes |= picture[..., 2]
    known = _known_colors(classes)
    table = _color_table(tuple(known.items()))
    label = table.take(codes)
    unsure = label == BAD
    if not unsure.any():
        return label, ""
    colors = [color_of(f"{code:06x}") for code in np.unique(codes[unsure]).tolist()]
    for color in colors:
        if color in known:
            _train_id(path, color, known)
    shown = ", ".join(map(_hex, colors[:5])) + (f" and {len(colors) - 5} more" * (len(colors) > 5))
    grey = (picture[..., :1] == picture).all()
    return label, (
        f"the colours {shown} that no class has; correct them, or write them in classes.txt as "
        "NAME #RRGGBB or ignore #RRGGBB"
        + ("; if its three channels hold an id, save one of them" if grey else "")
    )


@functools.lru_cache(maxsize=8)
def _known_colors(classes: ClassTable) -> dict[Color, int]:
    """Train id, or IGNORE, by colour; _TWICE where two classes have chosen one colour."""
    known: dict[Color, int] = {}
    chosen = classes.chosen_colors
    for train_id in sorted(range(classes.num_classes), key=chosen.__getitem__):
        color = classes.colors[train_id]
        other = known.get(color)
        # A hue that kseg gave yields to a colour that somebody chose.
        clash = other is not None and (other == _TWICE or chosen[other])
        known[color] = _TWICE if clash else train_id
    for color in classes.void_colors:
        other = known.get(color, IGNORE)
        known[color] = IGNORE if other == IGNORE or not chosen[other] else _TWICE
    return known


def _train_id(path: Path, color: Color, known: dict[Color, int]) -> int:
    if known[color] == _TWICE:
        raise KsegError(
            f"{path}: {_hex(color)} is the colour of two classes; give each its own, or save "
            "the label as ids"
        )
    return known[color]


@functools.lru_cache(maxsize=2)
def _color_table(known: tuple[tuple[Color, int], ...]) -> np.ndarray:
    """(2^24,) uint8 from colour to train id; BAD where it is unknown or stands for two."""
    table = np.full(2**24, BAD, np.uint8)
    for color, train_id in known:
        if train_id != _TWICE:
            table[int.from_bytes(bytes(color), "big")] = train_id
    return table


@functools.cache
def _voc_colormap() -> tuple[Color, ...]:
    """VOClabelcolormap.m, which many tools write: an id's bits, three by three from the top."""

    def value(i: int, channel: int) -> int:
        return sum((i >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8))

    return tuple((value(i, 0), value(i, 1), value(i, 2)) for i in range(256))


def _hex(color: Color) -> str:
    return "#{:02X}{:02X}{:02X}".format(*color)


def read_pair(
    image: Path, label: Path, classes: ClassTable, tell: Tell | None = None
) -> tuple[np.ndarray, np.ndarray, str]:
    """An image (H, W, 3) uint8, its label, and what ``read_train_ids`` says is unknown.

    The label of an image that EXIF turns is taken as drawn on the upright picture. One of
    the size of the stored picture is turned with it.

    Raises:
        KsegError: as ``read_image`` and ``read_label``; sizes are not compared.
    """
    pixels, orientation = _read_upright(image, tell)
    train_ids, unknown = read_train_ids(label, classes, tell)
    if orientation > 1:
        train_ids = upright_label(train_ids, orientation, pixels.shape[:2], image, tell)
    return pixels, train_ids, unknown


def upright_label(
    label: np.ndarray,
    orientation: int,
    size: tuple[int, int],
    image: Path,
    tell: Tell | None,
) -> np.ndarray:
    """The label of an image that EXIF turned to ``size`` = (H, W), turned where it must be."""
    tell = tell or functools.partial(warn_once, str(image.parent))
    if orientation >= 5 and label.shape != size and label.shape == size[::-1]:
        tell("turned label", image, "is turned upright as EXIF says, and its label with it")
        return np.asarray(Image.fromarray(label).transpose(_TURNS[orientation]))
    tell(
        "turned image",
        image,
        "is turned upright as EXIF says; its label is taken as drawn on the upright picture",
    )
    return label


def read_instances(path: Path) -> np.ndarray:
    """(H, W) uint16: the ids of a file of instances as they stand there.

    Raises:
        KsegError: missing, damaged, or not of 16 bits.
    """
    with _opened(path) as image:
        if image.mode not in ("I;16", "I", "L"):
            raise KsegError(f"{path}: is of mode {image.mode}; instances are 16-bit ids")
        return np.asarray(image).astype(np.uint16, copy=False)


def _opened(path: Path, content: bytes | None = None, *, load: bool = True) -> ImageFile.ImageFile:
    """A Pillow image of a file or its ``content``, every failure turned into one line."""
    with _one_line(path):
        limit = _max_pixels()
        if load and content is None:
            content = _content(path)
        image = Image.open(path if content is None else io.BytesIO(content))
        if image.format in _PROGRAMS:
            raise KsegError(f"{path}: holds {image.format}, a program; save the picture as PNG")
        if limit is not None and image.width * image.height > limit:
            raise KsegError(
                f"{path}: has {image.width * image.height} pixels, more than the {limit} of "
                f"{MAX_PIXELS}; set that environment variable to a larger number, or cut the "
                "image into tiles"
            )
        return _loaded(image, content) if load else image


# Pillow gives PostScript to Ghostscript.
_PROGRAMS = ("EPS",)


def _loaded(image: ImageFile.ImageFile, content: bytes | None) -> ImageFile.ImageFile:
    """The opened image with its pixels.

    Args:
        content: of the file, where it is a PNG.
    """
    if image.format == "PNG" and content is not None:
        image.close()
        image = Image.open(io.BytesIO(with_stored_pixels(content)))
    image.load()
    return image


@contextlib.contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Within it, whatever Pillow raises of a file becomes a KsegError."""
    try:
        yield
    except KsegError:
        raise
    except FileNotFoundError:
        raise KsegError(f"{path}: no such file") from None
    except Image.DecompressionBombError:
        guard = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise KsegError(
            f"{path}: has more than {guard} pixels, Pillow's guard against files that fill the "
            f"memory; set the environment variable {MAX_PIXELS} to the number that you allow, "
            "or cut the image into tiles"
        ) from None
    except UnidentifiedImageError:
        raise KsegError(
            f"{path}: not a readable image (empty, or of no format that Pillow knows); replace it"
        ) from None
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error
        raise KsegError(
            f"{path}: not a readable image ({first_line(error)}); replace it"
        ) from error


def _exif_orientation(path: Path, image: Image.Image) -> int:
    """EXIF's orientation, 1 for none."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception as error:  # as in _one_line
        raise KsegError(
            f"{path}: has EXIF that cannot be read ({first_line(error)}), so that it is not known "
            "which side is up; save it without"
        ) from error
    return orientation if orientation in _TURNS else 1


def _max_pixels() -> int | None:
    """What the environment allows; Pillow's own limit is off then."""
    text = os.environ.get(MAX_PIXELS)
    if not text:
        return None
    if not text.isdecimal() or not int(text):
        raise KsegError(f"{MAX_PIXELS} is {text!r}; it is a number of pixels, above 0")
    Image.MAX_IMAGE_PIXELS = None
    return int(text)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise KsegError(f"{path}: no such file") from None
    except OSError as error:
        raise KsegError(f"{path}: cannot be read ({error.strerror})") from error
