"""The colours of the streets.

They overlap between classes on purpose: what a pixel is follows from its surroundings.
"""

from __future__ import annotations

import random

import numpy as np
from numpy import ndarray

Color = ndarray
"""(3,) float32 RGB, 0..255 for surfaces in full light."""

_PALETTES = {
    # fronts and walls
    "plaster": "96948e bab2a0 a88c6e 8a5a4a 707072 ccc8be b09e76 68605a 8e98a2 c4a680 5c626a "
    "807c70 a07058 76806c",
    "shop sign": "962824 283c6e 325a3c bea03c 28282a ceccc4",
    "curtain": "aaa496 787064 c4c2bc",
    "door": "463428 323c38 787672 242428",
    "roof": "703e30 544844 424246 84543e",
    "graffiti": "3c5a8c 96323c 467850 c8be5a 28282c",
    "fence": "6e543c 48523e 808282 34383a c4c2bc 5c6064 405a50",
    "far house": "96928c 78706c aa9c8c",
    # the ground
    "road": "5c5c5e 6e6c6a 4a4c50 7a746e 68605e",
    "pavement": "84827e 707070 928a7e 7e7068 626264",
    "grass": "546230 686c3a 7a704a 46542c 70624e",
    "parking": "706c68 7c685e 606062",
    "track bed": "686058 5c663a 76726c",
    # plants
    "foliage": "3a4e22 4a5c2c 2e3e24 626630 46543a 58603c 7a642e 80542a 5a4e3e 344632",
    "shrub": "4a5c2c 3a4e22 626630",
    "far wood": "46543a 58603c 605c42",
    "bark": "54483a 46423c 686258 38302a",
    # vehicles
    "paint": "18191c 26282c 3e4044 3e424a 686b6f 7e8082 96989a c4c4c2 d6d6d4 742020 242e54 26362e "
    "6c604e 485c74 968640",
    "bonnet": "1e2024 464a50 181a1e",
    "number plate": "bebeb4 b4a03c",
    "load": "ccccc8 969896 3c5480 962e28 606e54 bea046 78746c",
    "bus": "ceccc4 b02824 c4a030 3c5c8c 466e46 783c6e",
    "bus stripe": "be2828 dcdcd6 283c6e 3c3c3e",
    "train": "cecabe b02222 ceb046 345846 46648c 787a7c",
    "train stripe": "b42828 e2e2dc 2c3e6e 323234",
    # people
    "clothes": "1c1c20 282a38 3a3e4a 5c5c5e 8c8a84 bebab2 802426 2c3e6c 3e5238 765c42 967050 "
    "a88c3c 603c58 466e82 c8783c",
    "trousers": "1a1b20 242a3c 363e54 524e46 746854 464648",
    "skin": "cea48a bc8c70 946850 684838",
    "hair": "1e1814 3e2c1e 705434 96928c 282834 781e1e",
    # posts
    "pole": "606264 787a7c 464a4c 3a423c 929494 303032",
    "bollard": "aa3c32 c8c6be",
    "signal case": "1a1c1c 24342a 464c48 1e2024 968232",
}
_COLORS = {
    name: [tuple(bytes.fromhex(color)) for color in colors.split()]
    for name, colors in _PALETTES.items()
}


def rgb(red: float, green: float, blue: float) -> Color:
    """A colour, 0..255."""
    return np.array((red, green, blue), np.float32)


def planes(color: Color) -> ndarray:
    """(3, 1, 1), to broadcast over (h, w)."""
    return color[:, None, None]


def pick(rng: random.Random, *palettes: str, spread: float = 0.1) -> Color:
    """One of the colours of the palettes, each channel off by up to ``spread`` of itself."""
    colors = [color for name in palettes for color in _COLORS[name]]
    color = rgb(*colors[int(rng.random() * len(colors))])
    return color * rgb(*(1 + spread * (rng.random() * 2 - 1) for _ in range(3)))


def pick_by(index: ndarray, colors: list[Color]) -> ndarray:
    """(3, h, w): the colours that (h, w) indices name."""
    return np.stack(colors, 1).take(index, 1)


GLASS = rgb(44, 50, 56)
