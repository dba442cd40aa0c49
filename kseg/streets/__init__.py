"""Procedural streets in Cityscapes' layout: a data set that needs no download.

A seed is a street: its course, houses, gardens, traffic, people, light, weather and
camera. Colours overlap between classes and every surface has texture, light and noise,
so that a pixel's class follows from its surroundings and not from its colour. Labels are
exact, since every shape paints colour and id through one mask.

The modules: ``plan`` puts everything in its place, ``scenery`` draws the plan; for them
``vehicles`` and ``things`` draw what stands in a street, ``surfaces`` what fronts, walls and
fences look like, on the canvas of ``drawing``, with ``colors`` and ``noise``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from kseg.data.classes import CITYSCAPES, IGNORE
from kseg.errors import KsegError
from kseg.files import atomic_folder, make_folder
from kseg.streets.plan import NOT_SIMPLE, Street
from kseg.streets.scenery import draw

SIZE = (256, 512)
"""(H, W) unless said otherwise."""

_CITIES = {
    "train": ("ahornstadt", "birkenau", "eichenberg", "erlenbach", "kiefernthal", "lindenfurt"),
    "val": ("ulmenried", "weidenbruck"),
}

# The classes of simple streets: Cityscapes' label id and colour by name.
_SIMPLE = {
    name: (file_id, color)
    for name, file_id, color in zip(
        CITYSCAPES.names, CITYSCAPES.file_ids, CITYSCAPES.colors, strict=True
    )
    if name not in NOT_SIMPLE
}


@dataclasses.dataclass(frozen=True)
class Scene:
    """A street as its camera sees it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8, Cityscapes' label ids (7 is road; not train ids).
        instances: (H, W) uint16 as in gtFine_instanceIds: id * 1000 + number for the ids
            from 24 on, the plain id for others.
    """

    image: np.ndarray
    labels: np.ndarray
    instances: np.ndarray


def draw_scene(
    seed: int, height: int = SIZE[0], width: int = SIZE[1], *, simple: bool = False
) -> Scene:
    """The street of a seed; a seed is the same street at every size.

    Args:
        simple: another street, without the classes of ``plan.NOT_SIMPLE``.

    Raises:
        KsegError: a negative seed or a side below 16.
    """
    _check((height, width), seed)
    image, instances = draw(Street(seed, height, width, simple=simple))
    labels = np.where(instances >= 1000, instances // 1000, instances).astype(np.uint8)
    return Scene(image, labels, instances)


def write_streets(
    folder: str | Path,
    count: int,
    *,
    size: tuple[int, int] = SIZE,
    seed: int = 0,
    simple: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes ``count`` streets, a fifth of them as val: Cityscapes' layout, or simple ones.

    Streets of a split depend on ``seed`` and their number alone, so a larger data set
    begins with the smaller one's streets, and train and val never share one.

    Args:
        folder: must not exist, or be empty; appears when all is written.
        count: train and val together, at least 2.
        size: (H, W).
        simple: streets without the classes of ``plan.NOT_SIMPLE``, in the layout of the data
            set "folder": ``images/SPLIT``, ``labels/SPLIT`` and a ``classes.txt`` with the ten
            of Cityscapes' classes that are left.
        progress: is called with the numbers of streets drawn and of all.

    Raises:
        KsegError: a count below 2, a size below 16, or what cannot be written.
    """
    if count < 2:
        raise KsegError(f"count is {count}; streets need one for train and one for val, so 2")
    _check(size, seed)
    val = max(1, round(count / 5))
    make_folder(Path(folder).resolve().parent)
    with atomic_folder(folder) as root:
        places = [("train", i) for i in range(count - val)] + [("val", i) for i in range(val)]
        for done, (split, index) in enumerate(places):
            scene = draw_scene(_scene_seed(seed, split, index), *size, simple=simple)
            (_write_simple if simple else _write)(root, split, index, scene)
            if progress is not None:
                progress(done + 1, count)
        if simple:
            lines = [f"{name} #{bytes(color).hex()}" for name, (_, color) in _SIMPLE.items()]
            (root / "classes.txt").write_text("\n".join(lines) + "\n")


def _check(size: tuple[int, int], seed: int) -> None:
    if min(size) < 16:
        raise KsegError(f"size {size[0]}x{size[1]}: streets have 16 pixels a side at least")
    if seed < 0:
        raise KsegError(f"seed {seed}: must not be negative")


def _scene_seed(seed: int, split: str, index: int) -> int:
    stream = np.random.SeedSequence([seed, list(_CITIES).index(split), index])
    return int(stream.generate_state(1, np.uint64)[0])


def _write(root: Path, split: str, index: int, scene: Scene) -> None:
    """The three files of a street; cities take turns."""
    cities = _CITIES[split]
    city = cities[index % len(cities)]
    stem = f"{city}_{index // len(cities):06d}_000019"
    for kind, suffix, pixels in (
        ("leftImg8bit", "leftImg8bit", scene.image),
        ("gtFine", "gtFine_labelIds", scene.labels),
        ("gtFine", "gtFine_instanceIds", scene.instances),
    ):
        path = root / kind / split / city / f"{stem}_{suffix}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def _write_simple(root: Path, split: str, index: int, scene: Scene) -> None:
    table = np.full(256, IGNORE, np.uint8)
    table[[file_id for file_id, _ in _SIMPLE.values()]] = range(len(_SIMPLE))
    for kind, pixels in (("images", scene.image), ("labels", table[scene.labels])):
        path = root / kind / split / f"{index:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
