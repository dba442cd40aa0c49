"""The surfaces of a street: fronts of houses, walls, fences, hedges, sides of vehicles.

Each function returns a shader for ``Canvas.wall``. Looks come from ``rng`` alone and never
from pixels, so that a surface looks the same at every image size.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from numpy import ndarray

from kseg.streets.colors import GLASS, Color, pick, pick_by, planes, rgb
from kseg.streets.drawing import Insets, Shaded, Shader
from kseg.streets.noise import clouds, fraction, grain, leaves, nearest


def _within(columns: ndarray, t: ndarray, low: float, high: float) -> ndarray:
    """Which of the columns (w,) lie between two heights, (h, w)."""
    return columns[None, :] & (t > low) & (t < high)


def panel(color: Color, parts: Insets = ()) -> Shader:
    """A plain side with rectangles (s0, t0, s1, t1, colour) in metres."""

    def shade(s: ndarray, t: ndarray, z: ndarray) -> Shaded:
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

    def shade(s: ndarray, t: ndarray, z: ndarray) -> Shaded:
        index = np.zeros(t.shape, np.uint8)
        np.putmask(index, t < skirt, 3)
        np.putmask(index, (t > sill - 0.35) & (t < sill - 0.12), 1)
        part = fraction(s / pitch)
        pane = (part > 0.05) & (part < 0.95) & (s > 0.25) & (s < length - 0.25)
        np.putmask(index, _within(pane, t, sill, lintel), 2)
        for door in doors:
            near = np.abs(s - door)
            np.putmask(index, _within(near < 0.72, t, skirt, lintel), 4)
            leaf = (near < 0.64) & (near > 0.05)
            np.putmask(index, _within(leaf, t, 0.55, lintel - 0.1), 2)
        colors = pick_by(index, [color, stripe, glass, color * 0.4, color * 0.6])
        sheen = 0.75 + 0.5 * nearest(clouds(), s * 9, s * 0 + 40)[None, :] * (index == 2)
        return colors * (sheen + 0.25), None

    return shade


def hedge(rng: random.Random, height: float) -> Shader:
    """A hedge with an uneven top."""
    leaf = pick(rng, "foliage", spread=0.12)
    ox = rng.random() * 256

    def shade(s: ndarray, t: ndarray, z: ndarray) -> Shaded:
        clumps = nearest(leaves(), s * 16 + ox, t * 16 + 256)
        opacity = t < height - 0.15 + 0.16 * clumps
        lum = 0.62 + 0.3 * t / height + 0.34 * clumps
        return np.maximum(lum, 0.1) * planes(leaf), opacity.astype(np.float32)

    return shade


class Facade:
    """A front with windows, a shader.

    Args:
        length: metres along the street.
        shadow: the height up to which the houses opposite shade it.
    """

    # What a pixel of it is: an index into its colours.
    _WALL, _TRIM, _DARK, _BRIGHT, _CURTAIN, _BASE, _SIGN, _DOOR, _LETTER, _RAIL = range(10)

    def __init__(
        self, rng: random.Random, height: float, length: float, *, shadow: float = 0.0
    ) -> None:
        self.height, self.shadow = height, shadow
        self.plain = rng.random() < 0.12
        wall = pick(rng, "plaster") * rng.uniform(0.8, 1.12)
        trim = rng.choice((wall * 1.18, wall * 0.72, rgb(206, 204, 198), wall * 1.08))
        self.brick = rng.random() < 0.3
        self.storey = rng.uniform(2.8, 3.5)
        bays = max(1, round(length / rng.uniform(2.0, 4.2)))
        self.bay = length / bays
        self.ground = rng.uniform(3.0, 4.2)
        self.storeys = max(0, int((height - self.ground - 0.5) / self.storey))
        self.half_wide, self.half_high = rng.uniform(0.2, 0.36), rng.uniform(0.26, 0.36)
        self.ribbon = rng.random() < 0.12
        self.shop = rng.random() < 0.45
        self.awning = self.shop and rng.random() < 0.4
        sign = pick(rng, "shop sign")
        glass = GLASS * rng.uniform(0.7, 1.6)
        bright = glass + rng.uniform(40, 110)
        curtain = pick(rng, "curtain")
        self.balcony = rng.random() < 0.22
        base, door = wall * rng.uniform(0.55, 0.8), pick(rng, "door")
        letter, rail = rgb(226, 222, 210), wall * 0.6
        self.colors = [wall, trim, glass, bright, curtain, base, sign, door, letter, rail]
        self.ox, self.oy = int(rng.random() * 256), int(rng.random() * 256)
        self.door_bay = int(rng.random() * bays)

    def __call__(self, s: ndarray, t: ndarray, z: ndarray) -> Shaded:
        """``Shader``."""
        index = np.zeros(t.shape, np.uint8)
        if self.plain:
            np.putmask(index, t > self.height - 0.3, self._TRIM)
        else:
            column = np.floor(s / self.bay)
            off = np.abs(s / self.bay - column - 0.5)  # bays from the middle of one
            up = (t - self.ground) / self.storey
            row = np.floor(up)
            dice = nearest(grain(), column[None, :] * 7 + self.ox, row * 13 + (self.oy + 512))
            self._storeys(index, off, row, up - row, z, dice)
            if self.shop:
                self._shop_front(index, off, s, t)
            else:
                np.putmask(index, _within(off < self.half_wide + 0.1 / self.bay, t, 0.9, 2.5), 1)
                pane = _within(off < self.half_wide, t, 1.0, 2.4)
                look = np.where(dice < 0.5, self._DARK, self._CURTAIN)
                np.copyto(index, look.astype(np.uint8), where=pane)
            np.putmask(index, t < 0.45, self._BASE)
            door = (column == self.door_bay) & (off * self.bay < 0.55)
            np.putmask(index, door[None, :] & (t < 2.3), self._DOOR)
            np.putmask(index, np.abs(t - self.ground) < 0.1, self._TRIM)
            np.putmask(index, t > self.height - 0.35, self._TRIM)
        dirt = nearest(clouds(), s * 14 + self.ox, t * 14 + 256)
        lum = 0.97 + 0.09 * dirt
        if self.brick:
            seen = np.clip(1.4 - z / 22, 0, 1)[None, :]
            joint = fraction(t / 0.16) < 0.22
            lum = lum - 0.16 * seen * (joint & (index == self._WALL))
        glassy = (index == self._DARK) | (index == self._BRIGHT)
        lum = lum + glassy * (0.25 * dirt + 0.012 * t)
        if self.shadow > 0:
            lum = np.where(t < self.shadow, lum * 0.6, lum)
        return pick_by(index, self.colors) * lum, None

    def _storeys(
        self, index: ndarray, off: ndarray, row: ndarray, up: ndarray, z: ndarray, dice: ndarray
    ) -> None:
        """The windows above the ground floor, with balconies."""
        upper = (row >= 0) & (row < self.storeys)
        down = np.abs(up - 0.5)
        wide = self.half_wide if not self.ribbon else 0.6
        frame = (off < wide + 0.1 / self.bay)[None, :] & (down < self.half_high + 0.1 / self.storey)
        np.putmask(index, frame & upper, self._TRIM)
        pane = (off < wide)[None, :] & (down < self.half_high) & upper
        look = np.where(dice < 0.55, 2, np.where(dice < 0.78, 3, 4)).astype(np.uint8)
        np.copyto(index, look, where=pane)
        # a mullion, where it is wider than a pixel
        mullion = (off * self.bay < 0.05) & (z / 500 < 0.06)
        np.putmask(index, mullion[None, :] & pane, self._TRIM)
        if self.balcony:
            rail = (up < 0.3) & (up > 0.0) & upper & (row > 0) & (off < 0.45)[None, :]
            np.putmask(index, rail, self._RAIL)
            np.putmask(index, rail & (up < 0.06), self._BASE)

    def _shop_front(self, index: ndarray, off: ndarray, s: ndarray, t: ndarray) -> None:
        """The ground floor as a shop window under a sign."""
        top = self.ground
        np.putmask(index, _within(off < 0.43, t, 0.45, top - 0.75), self._BRIGHT)
        np.putmask(index, _within(off < 0.4, t, 0.5, top - 0.8), self._DARK)
        np.putmask(index, (t > top - 0.62) & (t < top - 0.08), self._SIGN)
        letters = (nearest(grain(), s * 3 + self.ox, s * 0 + self.oy) > 0.55) & (off < 0.3)
        np.putmask(index, letters[None, :] & (np.abs(t - top + 0.35) < 0.14), self._LETTER)
        if self.awning:
            cloth = _within(off < 0.45, t, top - 1.5, top - 0.7)
            np.putmask(index, cloth, self._SIGN)
            np.putmask(index, cloth & (fraction(s * 2) < 0.5)[None, :], self._LETTER)


def blind_side(rng: random.Random) -> Shader:
    """The blind side of a house."""
    color = pick(rng, "plaster")
    ox = rng.random() * 256

    def shade(s: ndarray, t: ndarray, z: ndarray) -> Shaded:
        dirt = nearest(clouds(), s * 10 + ox, t * 10 + 256)
        return planes(color) * (0.95 + 0.12 * dirt), None

    return shade


def wall(rng: random.Random, height: float) -> Shader:
    """A garden or retaining wall: plaster, concrete, brick or stone, coped, sometimes sprayed."""
    color = pick(rng, "plaster") * rng.uniform(0.75, 1.05)
    # length and height of a stone
    long, tall = rng.choice(((0, 0), (2.4, 2.4 * 1.2), (0.28, 0.28 * 0.5), (0.6, 0.6 * 0.5)))
    coping = color * rng.choice((0.65, 1.2))
    sprayed = rng.random() < 0.3
    paint = pick(rng, "graffiti")
    ox = rng.random() * 256

    def shade(s: ndarray, t: ndarray, z: ndarray) -> Shaded:
        dirt = nearest(clouds(), s * 12 + ox, t * 12 + 256)
        lum = 0.9 + 0.14 * dirt + 0.06 * t / height
        if long:
            seen = np.clip(1.5 - z / (12 + 14 * long), 0, 1)[None, :]
            course = np.floor(t / tall)
            shifted = s[None, :] / long + 0.5 * (course % 2)
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
    kind, pitch = rng.choice((("boards", 0.2), ("bars", 0.16), ("netting", 0.1), ("rails", 1.4)))
    color = pick(rng, "fence")
    span = rng.uniform(1.8, 2.6)

    def shade(s: ndarray, t: ndarray, z: ndarray) -> Shaded:
        part = fraction(s / pitch)
        post = (np.abs(s / span - np.round(s / span)) * span < np.maximum(0.05, z / 900))[None, :]
        if kind == "boards":
            tone = 0.8 + 0.3 * nearest(grain(), s / pitch, s * 0)
            gap = np.where((part < 0.14) & (z < 22), 0.5, 1.0)
            return planes(color) * np.where(post, np.float32(0.8), tone * gap), None
        rail = (np.abs(t - height + 0.08) < 0.06) | (np.abs(t - 0.25) < 0.05)
        if kind == "rails":
            rail |= np.abs(t - height * 0.55) < 0.09
            opacity = np.where(rail | post, 1.0, 0.3).astype(np.float32)
            return planes(color) * np.where(rail, 1.08, 0.85), opacity
        if kind == "bars":
            fill = np.where(z < 14, np.where(part < 0.3, 1.0, 0.25), 0.5)[None, :]
        else:
            line = (fraction((s + t) / pitch) < 0.2) | (fraction((s - t) / pitch) < 0.2)
            fill = np.where(z < 9, np.where(line, 0.9, 0.25), 0.42)
        opacity = np.where(rail | post, 1.0, fill).astype(np.float32)
        return planes(color) * np.where(rail | post, 0.9, 1.0), opacity

    return shade
