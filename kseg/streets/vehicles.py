"""What drives in a street or is parked in it.

Each function draws one vehicle, its front ahead, on a canvas whose ``start`` has been called
with its id and distance. Looks come from ``rng`` alone and never from pixels, so that a
vehicle looks the same at every image size.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from kseg.streets.colors import GLASS, Color, pick, pick_by, rgb
from kseg.streets.drawing import Insets, Pen, Point, Shaded, Shader
from kseg.streets.noise import fraction
from kseg.streets.surfaces import coach_side, panel

_TYRE, _DARK, _BOARD = rgb(24, 24, 25), rgb(40, 40, 42), rgb(36, 34, 30)


class _Shape(NamedTuple):
    """A car's measures in metres; the ends of its cabin are shares of its length."""

    length: float
    width: float
    height: float
    belt: float
    nose: float
    cabin: tuple[float, float]
    roof: tuple[float, float]


_CARS = (
    _Shape(4.0, 1.76, 1.47, 0.92, 0.74, (-0.49, 0.24), (-0.42, 0.06)),  # hatchback
    _Shape(4.6, 1.82, 1.44, 0.93, 0.74, (-0.36, 0.21), (-0.22, 0.05)),  # sedan
    _Shape(4.6, 1.82, 1.48, 0.93, 0.74, (-0.49, 0.22), (-0.45, 0.07)),  # estate
    _Shape(4.5, 1.90, 1.72, 1.06, 0.92, (-0.49, 0.24), (-0.45, 0.09)),  # offroad
    _Shape(4.9, 1.94, 1.96, 1.10, 0.92, (-0.49, 0.40), (-0.48, 0.20)),  # van
)


def car(pen: Pen, rng: random.Random) -> None:
    """A car of one of five shapes."""
    shape = _CARS[min(int(rng.random() * 5.6), 4)]
    paint = pick(rng, "paint")
    taxi = rng.random() < 0.05
    glass = GLASS * rng.uniform(0.6, 1.5)
    tail = rgb(215, 40, 34) if rng.random() < 0.3 else rgb(130, 22, 20)
    broad, drop = rng.choice(((0.18, 0.62), (0.24, 0.68), (0.1, 0.45)))
    plate = pick(rng, "number plate")
    lamp = rgb(216, 216, 206)
    detailed = pen.canvas.scale(pen.frame.z) * shape.width > 20
    rear: Insets
    fore: Insets
    if detailed:
        rear = (
            (0, 0, 1, 0.22, paint * 0.4),
            *_pair(0.01, drop, 0.01 + broad, 0.9, tail, 1),
            (0.36, 0.42, 0.64, 0.58, plate),
        )
        fore = (
            (0.22, 0.1, 0.78, 0.42, rgb(22, 23, 25)),
            (0.3, 0.6, 0.7, 0.86, rgb(30, 31, 34)),
            *_pair(0.02, 0.58, 0.24, 0.86, lamp, 1),
            (0.36, 0.34, 0.64, 0.48, plate),
        )
    else:
        rear = ((0.02, 0.5, 0.98, 0.8, tail * 0.6 + paint * 0.4),)
        fore = ((0.02, 0.55, 0.98, 0.86, lamp * 0.5 + paint * 0.5),)
    _car_body(pen, shape, paint, rear, fore, sill=detailed)
    if detailed:
        length = shape.length
        _wheels(pen, shape.width / 2, 0.33, (-0.31 * length, 0.32 * length))
    pillar = 0.42 + 0.1 * rng.random()
    windows: Insets
    if detailed:
        windows = ((0.07, 0.17, pillar, 0.86, glass), (pillar + 0.05, 0.17, 0.94, 0.86, glass))
    else:
        windows = ((0.1, 0.2, 0.9, 0.85, glass),)
    _car_cabin(pen, shape, paint, windows, ((0.06, 0.14, 0.94, 0.9, glass),))
    if taxi:
        low, high = shape.height, shape.height + 0.16
        pen.surface(_slope((0, 0.3, low), (0, 0.3, high)), rgb(220, 190, 60))


def _pair(s0: float, t0: float, s1: float, t1: float, color: Color, wide: float) -> Insets:
    """A rectangle and its mirror image on a panel of that width."""
    return [(s0, t0, s1, t1, color), (wide - s1, t0, wide - s0, t1, color)]


def _slope(low: Point, high: Point) -> list[Point]:
    """A face between two edges across the vehicle, each (along, half width, height).

    Negative widths turn it round.
    """
    (a0, b0, y0), (a1, b1, y1) = low, high
    return [(a0, -b0, y0), (a0, b0, y0), (a1, b1, y1), (a1, -b1, y1)]


def _car_body(
    pen: Pen, shape: _Shape, paint: Color, rear: Insets, fore: Insets, sill: bool
) -> None:
    """Two sides, two ends, bonnet and boot."""
    half, side, low, belt = shape.length / 2, shape.width / 2, 0.24, shape.belt
    front = shape.cabin[1] * shape.length
    outline = ((-half, low), (half, low), (half, shape.nose), (front, belt), (-half, belt - 0.04))
    foot = ((-half, low), (half, low), (half, low + 0.1), (-half, low + 0.1))
    for b in (-1, 1):
        if pen.shows(b, side):
            pen.side(0, b)
            pen.surface([(a, b * side, y) for a, y in outline], paint, fade=0.45)
            if sill:
                pen.surface([(a, b * side, y) for a, y in foot], paint * 0.35)
    pen.canvas.tint = pen.light.above()
    pen.face(_slope((front, side, belt), (half, side, shape.nose)), paint)
    pen.face(_slope((-half, side, belt - 0.04), (front, side, belt)), paint)
    pen.side(-1, 0)
    end = _slope((-half, side, low), (-half, side, belt - 0.04))
    pen.face(end, paint, fade=0.3, insets=rear)
    pen.side(1, 0)
    end = _slope((half, -side, low), (half, -side, shape.nose))
    pen.face(end, paint, fade=0.3, insets=fore)


def _car_cabin(pen: Pen, shape: _Shape, paint: Color, windows: Insets, screen: Insets) -> None:
    """Above the belt: two sides, two ends, the roof."""
    inner, narrow = shape.width / 2 * 0.96, shape.width / 2 * 0.76
    low, high = shape.belt - 0.07, shape.height - 0.03
    base = [share * shape.length for share in shape.cabin]
    top = [share * shape.length for share in shape.roof]
    for b in (-1, 1):
        pen.side(0, b)
        rear, fore = (0, 1) if b > 0 else (1, 0)
        corners = [(base[rear], b * inner, low), (base[fore], b * inner, low),
                   (top[fore], b * narrow, high), (top[rear], b * narrow, high)]  # fmt: skip
        pen.face(corners, paint * 0.9, insets=windows, fade=0.5)
    for end, b in ((0, 1), (1, -1)):
        pen.side(-b, 0)
        corners = _slope((base[end], b * inner, low), (top[end], b * narrow, high))
        pen.face(corners, paint * 0.85, insets=screen, fade=0.6)
    pen.canvas.tint = pen.light.above()
    pen.face(_slope((top[0], narrow, high), (top[1], narrow, high)), paint * 1.05)


def _wheels(pen: Pen, side: float, radius: float, places: Sequence[float]) -> None:
    """The wheels of the side that is seen; the tread of those seen from the end."""
    frame = pen.frame
    pen.canvas.tint = pen.light.around()
    outer = min(places) - radius if frame.away > 0 else max(places) + radius
    for b in (-1, 1):
        if abs(frame.away) > 0.3 * math.hypot(frame.x, frame.z):
            tread = ((side, 0.0), (side - 0.22, 0.0), (side - 0.22, radius), (side, radius))
            pen.surface([(outer, b * at, y) for at, y in tread], _TYRE)
        if not pen.shows(b, side):
            continue
        for a in places:
            for part, color in ((1, _TYRE), (0.58, rgb(112, 114, 116)), (0.2, rgb(50, 50, 52))):
                pen.wheel((a, b * side, radius), radius * part, color)


def bus(pen: Pen, rng: random.Random) -> None:
    """A city bus."""
    length, side, high = rng.uniform(9, 13), 1.27, rng.uniform(2.95, 3.2)
    color, stripe = pick(rng, "bus"), pick(rng, "bus stripe")
    glass = GLASS * rng.uniform(0.6, 1.3)
    wide = side * 2
    rear = [
        (0, 0.3, wide, 0.75, color * 0.45),
        (0.25, 1.6, wide - 0.25, 2.6, glass),
        (0.7, 2.68, wide - 0.7, 2.9, _BOARD),
        *_pair(0.1, 0.9, 0.35, 1.4, rgb(150, 24, 22), wide),
        (0.8, 0.85, wide - 0.8, 1.35, color * 0.7),
    ]
    fore = [
        (0, 0.3, wide, 0.55, _DARK),
        (0.1, 1.05, wide - 0.1, 2.5, glass),
        (0.3, 2.55, wide - 0.3, 2.9, _BOARD),
        (0.6, 2.62, wide - 0.6, 2.82, rgb(226, 160, 50)),
        *_pair(0.12, 0.62, 0.5, 0.85, rgb(224, 224, 214), wide),
        (1.0, 0.58, 1.54, 0.7, rgb(200, 200, 190)),
    ]
    long = coach_side(
        color, stripe, glass, pitch=rng.uniform(1.2, 1.8), sill=1.15, lintel=2.45,
        doors=(length - 1.2, length * 0.52), length=length, skirt=0.5,
    )  # fmt: skip
    span = (-length / 2, length / 2)
    pen.box(span, side, 0.28, high, (long, panel(color, rear), panel(color, fore)))
    _wheels(pen, side, 0.46, (-0.28 * length, 0.27 * length))


def train(pen: Pen, rng: random.Random) -> None:
    """A tram of two to four carriages, with its current collector."""
    carriages = 2 + int(rng.random() * 3)
    piece, side, high = rng.uniform(7, 10), 1.22, rng.uniform(3.3, 3.6)
    color, stripe = pick(rng, "train"), pick(rng, "train stripe")
    glass = GLASS * rng.uniform(0.6, 1.2)
    wide = side * 2
    parts = [
        (0, 0.3, wide, 0.8, color * 0.4),
        (0.15, 1.35, wide - 0.15, 2.75, glass),
        (0.35, 2.85, wide - 0.35, 3.15, _BOARD),
        (0.8, 2.92, wide - 0.8, 3.08, rgb(226, 170, 60)),
        *_pair(0.2, 0.9, 0.55, 1.15, rgb(232, 232, 220), wide),
        (0.1, 1.2, wide - 0.1, 1.32, stripe),
    ]
    end, joint = panel(color, parts), panel(rgb(44, 44, 46))
    long = coach_side(
        color, stripe, glass, pitch=rng.uniform(1.3, 2.0), sill=1.45, lintel=2.65,
        doors=(piece * 0.3, piece * 0.75), length=piece, skirt=0.7,
    )  # fmt: skip
    places = [(k - (carriages - 1) / 2) * piece for k in range(carriages)]
    for middle in sorted(places, key=lambda a: -math.hypot(*pen.frame.ground(a, 0))):
        rear, fore = middle - piece / 2, middle + piece / 2
        pen.box((rear, fore), side - 0.25, 0.5, high - 0.3, [joint] * 3)
        ends = (end if middle == places[k] else joint for k in (0, -1))
        pen.box((rear + 0.25, fore - 0.25), side, 0.25, high, (long, *ends))
    pen.canvas.tint = pen.light.around()
    pen.limb((-0.6, 0, high), (0.4, 0, high + 0.7), _DARK, 0.04)
    pen.limb((0.4, 0, high + 0.7), (-0.3, 0, high + 1.4), _DARK, 0.04)
    pen.limb((-0.3, -0.8, high + 1.4), (-0.3, 0.8, high + 1.4), _DARK, 0.05)


def truck(pen: Pen, rng: random.Random) -> None:
    """A lorry: a cab ahead of a box, a canvas or an open load."""
    length, side, high = rng.uniform(6, 9.5), rng.uniform(1.1, 1.25), rng.uniform(2.7, 3.7)
    cab, cab_high = rng.uniform(1.6, 2.1), min(high, rng.uniform(2.3, 2.9))
    paint, load, logo = pick(rng, "paint"), pick(rng, "load"), pick(rng, "paint")
    half, wide = length / 2, side * 2
    ribs = rng.choice((0.0, 0.35, 0.9))
    split = half - cab - 0.25
    rear = [
        (side - 0.03, 1.1, side + 0.03, high - 0.1, load * 0.45),
        (0, high - 0.1, wide, high, load * 0.6),
        (0, 0.9, wide, 1.1, rgb(60, 60, 62)),
        *_pair(0.1, 0.9, 0.4, 1.1, rgb(160, 26, 24), wide),
    ]
    fore = [
        (0.12, 1.45, wide - 0.12, cab_high - 0.3, GLASS),
        (0.3, 0.75, wide - 0.3, 1.25, paint * 0.45),
        (0, 0.4, wide, 0.65, _DARK),
        *_pair(0.1, 0.55, 0.45, 0.8, rgb(226, 226, 216), wide),
    ]
    window = (0.35 * cab, 1.5, 0.9 * cab, cab_high - 0.35, GLASS)
    door = panel(paint, [window, (0, 0.45, cab, 0.7, paint * 0.4)])
    under, plain = panel(rgb(36, 36, 38)), panel(load * 0.85)
    long = _load_side(load, logo, split + half, high, ribs)

    def draw_load() -> None:
        pen.box((-half, split), side * 0.8, 0.45, 0.95, [under] * 3)
        pen.box((-half, split), side, 0.9, high, (long, panel(load, rear), plain))
        _wheels(pen, side, 0.47, (-half + 1.2, -half + 2.3))

    def draw_cab() -> None:
        span = (half - cab, half)
        pen.box(span, side * 0.97, 0.4, cab_high, (door, plain, panel(paint, fore)))
        _wheels(pen, side * 0.97, 0.47, (half - 0.55 * cab,))

    ground = pen.frame.ground
    away = math.hypot(*ground(half, 0)) > math.hypot(*ground(-half, 0))
    for part in (draw_cab, draw_load) if away else (draw_load, draw_cab):
        part()


def _load_side(load: Color, logo: Color, length: float, high: float, ribs: float) -> Shader:
    """The long side of a lorry's load; ``ribs`` is their distance, 0 for none."""

    def shade(s: ndarray, t: ndarray, z: ndarray) -> Shaded:
        index = np.zeros(t.shape, np.uint8)
        mark = (s > 0.2 * length) & (s < 0.7 * length)
        np.putmask(index, mark[None, :] & (t > 1.9) & (t < high - 0.5), 1)
        np.putmask(index, (t < 1.15) | (t > high - 0.08), 2)
        lum = np.ones_like(s)
        if ribs:
            lum = 0.86 + 0.14 * (np.abs(fraction(s / ribs) - 0.5) < 0.38)
        return pick_by(index, [load, logo, load * 0.7]) * lum, None

    return shade


def bicycle(pen: Pen, rng: random.Random) -> None:
    """A bicycle; between the spokes its ground shines through."""
    paint, dark = pick(rng, "clothes"), rgb(34, 34, 36)
    wheel = 0.34
    for a in sorted((-0.52, 0.52), key=lambda a: -pen.at((a, 0, 0))[2]):
        pen.wheel((a, 0, wheel), wheel, rgb(120, 120, 122), opacity=0.4)
        pen.wheel((a, 0, wheel), wheel, dark, inner=0.86)
        # the tyre, where the wheel is seen edge on
        pen.limb((a, 0, 0.03), (a, 0, 2 * wheel - 0.03), dark, 0.02)
    bracket, seat, head = (-0.05, 0, 0.3), (-0.2, 0, 0.82), (0.36, 0, 0.8)
    rear, fore = (-0.52, 0, wheel), (0.52, 0, wheel)
    tubes = [(rear, bracket), (rear, seat), (bracket, seat), (bracket, head), (seat, head)]
    for start, end in (*tubes, (fore, (0.34, 0, 0.95))):
        pen.limb(start, end, paint, 0.028)
    pen.limb((-0.32, 0, 0.9), (-0.08, 0, 0.9), dark, 0.05)
    pen.limb((0.32, -0.28, 1.0), (0.32, 0.28, 1.0), dark, 0.025)
    if rng.random() < 0.3:
        pen.limb((0.5, 0, 0.72), (0.58, 0, 0.9), rgb(110, 90, 60), 0.16)
    if rng.random() < 0.5:
        pen.limb((-0.6, 0, 0.74), (-0.58, 0, 0.76), rgb(160, 30, 28), 0.04)


def motorcycle(pen: Pen, rng: random.Random) -> None:
    """A motorcycle or a scooter."""
    paint, dark = pick(rng, "paint"), rgb(28, 28, 30)
    scooter = rng.random() < 0.45
    radius, reach = (0.24, 0.58) if scooter else (0.31, 0.7)
    for a in (-reach, reach):
        pen.wheel((a, 0, radius), radius, dark)
        pen.limb((a, 0, 0.1), (a, 0, radius * 1.9), dark, 0.08)
        pen.wheel((a, 0, radius), radius * 0.5, rgb(126, 126, 128))
    if scooter:
        pen.limb((-0.6, 0, 0.55), (-0.1, 0, 0.6), paint, 0.2)
        pen.limb((0.4, 0, 0.4), (0.36, 0, 0.9), paint, 0.2, 0.14)
        pen.limb((-0.1, 0, 0.3), (0.4, 0, 0.3), paint * 0.6, 0.1)
    else:
        pen.limb((-0.3, 0, 0.45), (0.3, 0, 0.48), rgb(92, 92, 94), 0.2)
        pen.limb((-0.65, 0, 0.72), (0.3, 0, 0.8), paint, 0.13, 0.19)
        pen.limb((-0.6, 0, 0.4), (-0.2, 0.15, 0.35), rgb(150, 150, 150), 0.05)
    pen.limb((-0.55, 0, 0.82), (-0.02, 0, 0.84), dark, 0.09)
    pen.limb((reach, 0, radius), (0.42, 0, 1.0), rgb(110, 110, 112), 0.05)
    pen.limb((0.4, -0.34, 1.02), (0.4, 0.34, 1.02), dark, 0.035)
    if pen.frame.away < 0:
        pen.limb((0.5, 0, 0.85), (0.52, 0, 0.85), rgb(236, 232, 210), 0.09)
    else:
        pen.limb((-0.72, -0.05, 0.7), (-0.72, 0.05, 0.7), rgb(170, 30, 26), 0.06)
        pen.limb((-0.74, 0, 0.5), (-0.74, 0, 0.58), rgb(196, 196, 186), 0.09)
