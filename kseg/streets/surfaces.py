"""The surfaces of a street: fronts of houses, walls, fences, hedges, sides of vehicles.

Each function returns a shader for ``Canvas.wall``. Looks come from ``rng`` alone and never
from pixels, so that a surface looks the same at every image size.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from kseg.streets.drawing import (
    Color,
    Shaded,
    Shader,
    clouds,
    grain,
    leaves,
    nearest,
    planes,
    rgb,
)

# Colours overlap between classes on purpose: what a pixel is follows from its surroundings.
PLASTER = [
    (150, 148, 142), (186, 178, 160), (168, 140, 110), (138, 90, 74), (112, 112, 114),
    (204, 200, 190), (176, 158, 118), (104, 96, 90), (142, 152, 162), (196, 166, 128),
    (92, 98, 106), (128, 124, 112), (160, 112, 88), (118, 128, 108),
]  # fmt: skip
PAINT = [
    (24, 25, 28), (38, 40, 44), (62, 64, 68), (62, 66, 74), (104, 107, 111), (126, 128, 130),
    (150, 152, 154), (196, 196, 194), (214, 214, 212), (116, 32, 32), (36, 46, 84), (38, 54, 46),
    (108, 96, 78), (72, 92, 116), (150, 134, 64),
]  # fmt: skip
CLOTHES = [
    (28, 28, 32), (40, 42, 56), (58, 62, 74), (92, 92, 94), (140, 138, 132), (190, 186, 178),
    (128, 36, 38), (44, 62, 108), (62, 82, 56), (118, 92, 66), (150, 112, 80), (168, 140, 60),
    (96, 60, 88), (70, 110, 130), (200, 120, 60),
]  # fmt: skip
FOLIAGE = [
    (58, 78, 34), (74, 92, 44), (46, 62, 36), (98, 102, 48), (70, 84, 58), (88, 96, 60),
    (122, 100, 46), (128, 84, 42), (90, 78, 62), (52, 70, 50),
]  # fmt: skip
GLASS = rgb(44, 50, 56)
POLE = [(96, 98, 100), (120, 122, 124), (70, 74, 76), (58, 66, 60), (146, 148, 148), (48, 48, 50)]


def pick(rng: random.Random, colors: Sequence[tuple[int, int, int]], spread: float = 0.1) -> Color:
    """One of the colours, a little off."""
    color = rgb(*colors[int(rng.random() * len(colors))])
    return color * rgb(*(1 + spread * (rng.random() * 2 - 1) for _ in range(3)))


def pick_by(index: np.ndarray, palette: Sequence[Color]) -> np.ndarray:
    """(3, h, w): the colours that (h, w) indices name."""
    return np.stack(palette, 1).take(index, 1)


def panel(color: Color, parts: Sequence[tuple[float, float, float, float, Color]]) -> Shader:
    """A plain side with rectangles (s0, t0, s1, t1, colour) in metres."""

    def shade(s: np.ndarray, t: np.ndarray, z: np.ndarray) -> Shaded:
        index = np.zeros(t.shape, np.uint8)
        for number, (s0, t0, s1, t1, _) in enumerate(parts, 1):
            np.putmask(index, ((s >= s0) & (s < s1))[None, :] & (t >= t0) & (t < t1), number)
        return pick_by(index, [color, *(part[4] for part in parts)]), None

    return shade


def coach_side(
    color: Color,
    stripe: Color,
    glass: Color,
    *,
    pitch: float,
    sill: float,
    lintel: float,
    doors: Sequence[float],
    length: float,
    skirt: float,
) -> Shader:
    """The long side of a bus or a train: a band of windows, doors, a stripe, a skirt."""

    def shade(s: np.ndarray, t: np.ndarray, z: np.ndarray) -> Shaded:
        index = np.zeros(t.shape, np.uint8)
        part = s / pitch - np.floor(s / pitch)
        np.putmask(index, t < skirt, 3)
        np.putmask(index, (t > sill - 0.35) & (t < sill - 0.12), 1)
        pane = (part > 0.05) & (part < 0.95) & (s > 0.25) & (s < length - 0.25)
        np.putmask(index, pane[None, :] & (t > sill) & (t < lintel), 2)
        for door in doors:
            near = np.abs(s - door)
            np.putmask(index, (near < 0.72)[None, :] & (t > skirt) & (t < lintel), 4)
            np.putmask(
                index, ((near < 0.64) & (near > 0.05))[None, :] & (t > 0.55) & (t < lintel - 0.1), 2
            )
        color_ = pick_by(index, [color, stripe, glass, color * 0.4, color * 0.6])
        sheen = 0.75 + 0.5 * nearest(clouds(), s * 9, s * 0 + 40)[None, :] * (index == 2)
        return color_ * (sheen + 0.25), None

    return shade


def hedge(rng: random.Random, height: float) -> Shader:
    """A hedge with an uneven top."""
    leaf = pick(rng, FOLIAGE, 0.12)
    ox = rng.random() * 256

    def shade(s: np.ndarray, t: np.ndarray, z: np.ndarray) -> Shaded:
        clumps = nearest(leaves(), s * 16 + ox, t * 16 + 256)
        opacity = t < height - 0.15 + 0.16 * clumps
        lum = 0.62 + 0.3 * t / height + 0.34 * clumps
        return np.maximum(lum, 0.1) * planes(leaf), opacity.astype(np.float32)

    return shade


def facade(rng: random.Random, height: float, length: float, *, shadow: float = 0.0) -> Shader:
    """A front with windows; ``shadow`` is the height up to which the opposite side shades it."""
    plain = rng.random() < 0.12
    wall = pick(rng, PLASTER) * rng.uniform(0.8, 1.12)
    trim = rng.choice((wall * 1.18, wall * 0.72, rgb(206, 204, 198), wall * 1.08))
    brick = rng.random() < 0.3
    storey = rng.uniform(2.8, 3.5)
    bays = max(1, round(length / rng.uniform(2.0, 4.2)))
    bay = length / bays
    ground = rng.uniform(3.0, 4.2)
    storeys = max(0, int((height - ground - 0.5) / storey))
    half_wide, half_high = rng.uniform(0.2, 0.36), rng.uniform(0.26, 0.36)
    ribbon = rng.random() < 0.12
    shop = rng.random() < 0.45
    awning = shop and rng.random() < 0.4
    sign = pick(
        rng,
        [(150, 40, 36), (40, 60, 110), (50, 90, 60), (190, 160, 60), (40, 40, 42), (206, 204, 196)],
    )
    glass = GLASS * rng.uniform(0.7, 1.6)
    bright = glass + rng.uniform(40, 110)
    curtain = pick(rng, [(170, 164, 150), (120, 112, 100), (196, 194, 188)])
    balcony = rng.random() < 0.22
    palette = [
        wall, trim, glass, bright, curtain, wall * rng.uniform(0.55, 0.8), sign,
        pick(rng, [(70, 52, 40), (50, 60, 56), (120, 118, 114), (36, 36, 40)]), rgb(226, 222, 210),
        wall * 0.6,
    ]  # fmt: skip
    table = np.stack(palette, 1)
    ox, oy = int(rng.random() * 256), int(rng.random() * 256)
    door_bay = int(rng.random() * bays)

    def shade(s: np.ndarray, t: np.ndarray, z: np.ndarray) -> Shaded:
        index = np.zeros(t.shape, np.uint8)
        column = np.floor(s / bay)
        fs = np.abs(s / bay - column - 0.5)
        up = (t - ground) / storey
        row = np.floor(up)
        ft = up - row
        pixel = z / 500
        if plain:
            np.putmask(index, (t > height - 0.3), 1)
        else:
            upper = (up >= 0) & (row < storeys)
            off = np.abs(ft - 0.5)
            wide = half_wide if not ribbon else 0.6
            frame = (fs < wide + 0.1 / bay)[None, :] & (off < half_high + 0.1 / storey) & upper
            np.putmask(index, frame, 1)
            pane = (fs < wide)[None, :] & (off < half_high) & upper
            dice = nearest(grain(), column[None, :] * 7 + ox, row * 13 + (oy + 512))
            look = np.where(dice < 0.55, 2, np.where(dice < 0.78, 3, 4)).astype(np.uint8)
            np.copyto(index, look, where=pane)
            # a mullion, where it is wider than a pixel
            mullion = ((fs * bay < 0.05) & (pixel < 0.06))[None, :]
            np.putmask(index, mullion & pane, 1)
            if balcony:
                slab = (ft < 0.3) & (ft > 0.0) & upper & (row > 0)
                rail = slab & (fs < 0.45)[None, :]
                np.putmask(index, rail, 9)
                np.putmask(index, rail & (ft < 0.06), 5)
            below = t < ground
            if shop:
                np.putmask(
                    index, below & (fs < 0.43)[None, :] & (t > 0.45) & (t < ground - 0.75), 3
                )
                np.putmask(index, below & (fs < 0.4)[None, :] & (t > 0.5) & (t < ground - 0.8), 2)
                band = below & (t > ground - 0.62) & (t < ground - 0.08)
                np.putmask(index, band, 6)
                letters = nearest(grain(), s * 3 + ox, s * 0 + oy) > 0.55
                lettered = (letters & (fs < 0.3))[None, :] & (np.abs(t - ground + 0.35) < 0.14)
                np.putmask(index, lettered & band, 8)
                if awning:
                    stripes = (s * 2 - np.floor(s * 2) < 0.5)[None, :]
                    cloth = below & (t > ground - 1.5) & (t < ground - 0.7) & (fs < 0.45)[None, :]
                    np.putmask(index, cloth, 6)
                    np.putmask(index, cloth & stripes, 8)
            else:
                pane = (fs < half_wide)[None, :] & below & (t > 1.0) & (t < 2.4)
                np.putmask(
                    index, (fs < half_wide + 0.1 / bay)[None, :] & below & (t > 0.9) & (t < 2.5), 1
                )
                np.copyto(index, np.where(dice < 0.5, 2, 4).astype(np.uint8), where=pane)
            np.putmask(index, below & (t < 0.45), 5)
            door = (column == door_bay) & (fs * bay < 0.55)
            np.putmask(index, door[None, :] & below & (t < 2.3), 7)
            np.putmask(index, np.abs(t - ground) < 0.1, 1)
            np.putmask(index, t > height - 0.35, 1)
        dirt = nearest(clouds(), s * 14 + ox, t * 14 + 256)
        lum = 0.97 + 0.09 * dirt
        if brick:
            seen = np.clip(1.4 - z / 22, 0, 1)[None, :]
            course = t / 0.16
            joint = (course - np.floor(course)) < 0.22
            lum = lum - 0.16 * seen * (joint & (index == 0))
        glassy = (index == 2) | (index == 3)
        lum = lum + glassy * (0.25 * dirt + 0.012 * t)
        if shadow > 0:
            lum = np.where(t < shadow, lum * 0.6, lum)
        return table.take(index, 1) * lum, None

    return shade


def blind_side(rng: random.Random, wall: Color | None = None) -> Shader:
    """The blind side of a house."""
    wall = pick(rng, PLASTER) if wall is None else wall
    ox = rng.random() * 256

    def shade(s: np.ndarray, t: np.ndarray, z: np.ndarray) -> Shaded:
        dirt = nearest(clouds(), s * 10 + ox, t * 10 + 256)
        return planes(wall) * (0.95 + 0.12 * dirt), None

    return shade


def wall(rng: random.Random, height: float) -> Shader:
    """A garden or retaining wall: plaster, concrete, brick or stone, coped, sometimes sprayed."""
    color = pick(rng, PLASTER) * rng.uniform(0.75, 1.05)
    kind = rng.choice(("plaster", "concrete", "brick", "stone"))
    coping = color * rng.choice((0.65, 1.2))
    sprayed = rng.random() < 0.3
    paint = pick(rng, [(60, 90, 140), (150, 50, 60), (70, 120, 80), (200, 190, 90), (40, 40, 44)])
    ox = rng.random() * 256
    size = {"plaster": 0.0, "concrete": 2.4, "brick": 0.28, "stone": 0.6}[kind]

    def shade(s: np.ndarray, t: np.ndarray, z: np.ndarray) -> Shaded:
        dirt = nearest(clouds(), s * 12 + ox, t * 12 + 256)
        lum = 0.9 + 0.14 * dirt + 0.06 * t / height
        if size:
            seen = np.clip(1.5 - z / (12 + 14 * size), 0, 1)[None, :]
            tall = size * (1.2 if kind == "concrete" else 0.5)
            course = np.floor(t / tall)
            shifted = s[None, :] / size + 0.5 * (course % 2)
            cell = np.floor(shifted)
            joint = (shifted - cell < 0.07) | (t / tall - course < 0.12)
            lum = lum - 0.2 * seen * joint
            lum = lum + 0.2 * seen * (nearest(grain(), cell + 512, course + 512) - 0.5)
        shaded = planes(color) * lum
        if sprayed:
            spot = nearest(clouds(), s * 5 + ox, t * 8 + 300) > 0.62
            shaded = np.where(spot & (t < height * 0.8), planes(paint), shaded)
        shaded = np.where(t > height - 0.14, planes(coping), shaded)
        return shaded, None

    return shade


def fence(rng: random.Random, height: float) -> Shader:
    """A fence: boards, or posts with bars or netting that the ground behind shines through."""
    kind = rng.choice(("boards", "bars", "netting", "rails"))
    color = pick(
        rng,
        [(110, 84, 60), (72, 82, 62), (128, 130, 130), (52, 56, 58), (196, 194, 188), (92, 96, 100),
         (64, 90, 80)],
    )  # fmt: skip
    pitch = {"boards": 0.2, "bars": 0.16, "netting": 0.1, "rails": 1.4}[kind]
    span = rng.uniform(1.8, 2.6)

    def shade(s: np.ndarray, t: np.ndarray, z: np.ndarray) -> Shaded:
        part = s / pitch - np.floor(s / pitch)
        post = (np.abs(s / span - np.round(s / span)) * span < np.maximum(0.05, z / 900))[None, :]
        rail = (np.abs(t - height + 0.08) < 0.06) | (np.abs(t - 0.25) < 0.05)
        if kind == "boards":
            tone = 0.8 + 0.3 * nearest(grain(), s / pitch, s * 0)
            gap = np.where((part < 0.14) & (z < 22), 0.5, 1.0)
            lum = np.broadcast_to(tone * gap, t.shape)
            return planes(color) * np.where(post, np.float32(0.8), lum), None
        if kind == "rails":
            rail |= np.abs(t - height * 0.55) < 0.09
            solid = rail | post
            lum = np.where(rail, 1.08, 0.85)
            return planes(color) * lum, np.where(solid, 1.0, 0.3).astype(np.float32)
        if kind == "bars":
            fill = np.where(z < 14, np.where(part < 0.3, 1.0, 0.25), 0.5)[None, :]
        else:
            cross = (s[None, :] + t) / pitch
            other = (s[None, :] - t) / pitch
            line = (cross - np.floor(cross) < 0.2) | (other - np.floor(other) < 0.2)
            fill = np.where((z < 9)[None, :], np.where(line, 0.9, 0.25), 0.42)
        opacity = np.where(rail | post, 1.0, fill).astype(np.float32)
        lum = np.where(rail | post, 0.9, 1.0)
        return planes(color) * lum, opacity

    return shade
