"""Label maps as pictures that a person can read."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]


def spread_colors(count: int) -> tuple[Color, ...]:
    """``count`` different colours, for classes that have none: hues around the circle."""
    colors = []
    for i in range(count):
        red, green, blue = colorsys.hsv_to_rgb(i / count, 0.8, 0.9 - 0.3 * (i % 2))
        colors.append((round(255 * red), round(255 * green), round(255 * blue)))
    return tuple(colors)


def colorize(labels: np.ndarray, colors: Sequence[Color]) -> np.ndarray:
    """(H, W) uint8 train ids to (H, W, 3) uint8 RGB; ids without a colour are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colors)] = colors
    return table[labels]


def cover(
    image: np.ndarray, labels: np.ndarray, colors: Sequence[Color], opacity: float = 0.55
) -> np.ndarray:
    """(H, W, 3) uint8 RGB: the label map over the image, which ids without a colour leave as it is.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 train ids.
        colors: by train id.
        opacity: of the colours, 0..1.
    """
    covered = (labels < len(colors))[..., None]
    mixed = (1 - opacity) * image + opacity * colorize(labels, colors)
    return np.where(covered, mixed, image).astype(np.uint8)


def overlay(
    image: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    colors: Sequence[Color],
    legend: Sequence[int] | None = None,
) -> Image.Image:
    """The label map over the image, with a legend below.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 train ids; those without a name leave the image as it is.
        names, colors: by train id.
        legend: ids of the classes in it, None for those that occur.
    """
    picture = Image.fromarray(cover(image, labels, colors))
    if legend is None:
        legend = [i for i in np.unique(labels) if i < len(names)]
    return _with_legend(picture, [names[i] for i in legend], [colors[i] for i in legend])


def side_by_side(pictures: Sequence[np.ndarray], gap: int = 4) -> Image.Image:
    """(H, W, 3) uint8 pictures of one height in a row, ``gap`` white pixels between them."""
    return _joined(pictures, gap, 1)


def stacked(pictures: Sequence[Image.Image], gap: int = 4) -> Image.Image:
    """Pictures of one width, the first on top, ``gap`` white pixels between them."""
    return _joined([np.asarray(picture) for picture in pictures], gap, 0)


def _joined(pictures: Sequence[np.ndarray], gap: int, axis: int) -> Image.Image:
    shape = list(pictures[0].shape)
    shape[axis] = gap
    space = np.full(shape, 255, np.uint8)
    parts = [part for picture in pictures for part in (picture, space)][:-1]
    return Image.fromarray(np.concatenate(parts, axis=axis))


def _with_legend(
    picture: Image.Image, names: Sequence[str], colors: Sequence[Color]
) -> Image.Image:
    """The picture with rows of colours and names below it; a name may be wider than it."""
    draw = ImageDraw.Draw(picture)
    names = [_legible(name) for name in names]
    line = 16
    cell = max((int(draw.textlength(name)) for name in names), default=0) + 28
    columns = max(1, picture.width // cell)
    rows = -(-len(names) // columns)
    width = max(picture.width, cell if names else 0)
    result = Image.new("RGB", (width, picture.height + rows * line), "white")
    result.paste(picture)
    draw = ImageDraw.Draw(result)
    for i, (name, color) in enumerate(zip(names, colors, strict=True)):
        x, y = i % columns * cell + 4, picture.height + i // columns * line
        draw.rectangle((x, y + 3, x + 14, y + line - 4), fill=tuple(color), outline="black")
        draw.text((x + 20, y + 2), name, fill="black")
    return result


def _legible(name: str) -> str:
    """The name with escapes for the characters that Pillow's own font lacks."""
    font = ImageFont.load_default()
    if not isinstance(font, ImageFont.FreeTypeFont):
        return name.encode("ascii", "backslashreplace").decode()
    # What a font lacks is drawn as the picture of a character that does not exist.
    lacking = bytes(font.getmask("\uffff"))
    return "".join(
        c if c.isspace() or bytes(font.getmask(c)) != lacking else ascii(c)[1:-1] for c in name
    )
