"""What stands in a street: vehicles, people, plants, posts.

Each function draws one thing, in metres, on a canvas whose ``start`` has been called with
its id and distance. Looks come from ``rng`` alone and never from pixels, so that a thing
looks the same at every image size.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import numpy as np

from kseg.streets.drawing import (
    Canvas,
    Color,
    Frame,
    Light,
    Shaded,
    Shader,
    clouds,
    leaves,
    patch,
    planes,
    rgb,
)
from kseg.streets.surfaces import (
    CLOTHES,
    FOLIAGE,
    GLASS,
    PAINT,
    PLASTER,
    POLE,
    coach_side,
    panel,
    pick,
    pick_by,
)

_TYRE = rgb(24, 24, 25)

# ---- vehicles

# length, width, height, belt, nose height, cabin at the belt (rear, front), roof (rear, front)
_CARS = {
    "hatch": (4.0, 1.76, 1.47, 0.92, 0.74, -0.49, 0.24, -0.42, 0.06),
    "sedan": (4.6, 1.82, 1.44, 0.93, 0.74, -0.36, 0.21, -0.22, 0.05),
    "wagon": (4.6, 1.82, 1.48, 0.93, 0.74, -0.49, 0.22, -0.45, 0.07),
    "offroad": (4.5, 1.90, 1.72, 1.06, 0.92, -0.49, 0.24, -0.45, 0.09),
    "van": (4.9, 1.94, 1.96, 1.10, 0.92, -0.49, 0.40, -0.48, 0.20),
}


def car(canvas: Canvas, frame: Frame, light: Light, rng: random.Random) -> None:
    """A car of one of five shapes, its front ahead."""
    kind = list(_CARS)[min(int(rng.random() * 5.6), 4)]
    length, width, height, belt, nose, back, front, roof_back, roof_front = _CARS[kind]
    paint = pick(rng, PAINT)
    taxi = rng.random() < 0.05
    glass = GLASS * rng.uniform(0.6, 1.5)
    braking = rng.random() < 0.3
    broad, drop = rng.choice(((0.18, 0.62), (0.24, 0.68), (0.1, 0.45)))
    plate = pick(rng, [(190, 190, 180), (180, 160, 60)])
    half, side = length / 2, width / 2
    low = 0.24
    detailed = canvas.scale(frame.z) * width > 20

    def tint(a: float, b: float) -> None:
        canvas.tint = light.on(*_normal(frame, a, b))

    # the body: two sides, two ends, bonnet and boot
    outline = (
        (-half, low),
        (half, low),
        (half, nose),
        (front * length, belt),
        (-half, belt - 0.04),
    )
    sill = ((-half, low), (half, low), (half, low + 0.1), (-half, low + 0.1))
    for b in (-1, 1):
        if _turned_here(frame, 0, b, side):
            tint(0, b)
            canvas.surface([frame.at(a, b * side, y) for a, y in outline], paint, fade=0.45)
            if detailed:
                canvas.surface([frame.at(a, b * side, y) for a, y in sill], paint * 0.35)
    canvas.tint = light.above()
    canvas.face(_flat(frame, front * length, half, side, belt, nose), paint)
    canvas.face(_flat(frame, -half, front * length, side, belt - 0.04, belt), paint)
    tail = rgb(215, 40, 34) if braking else rgb(130, 22, 20)
    lamp = rgb(216, 216, 206)
    tint(-1, 0)
    canvas.face(
        _end(frame, -half, side, low, belt - 0.04),
        paint,
        fade=0.3,
        insets=(
            (0, 0, 1, 0.22, paint * 0.4),
            (0.01, drop, 0.01 + broad, 0.9, tail),
            (0.99 - broad, drop, 0.99, 0.9, tail),
            (0.36, 0.42, 0.64, 0.58, plate),
        )
        if detailed
        else ((0.02, 0.5, 0.98, 0.8, tail * 0.6 + paint * 0.4),),
    )
    tint(1, 0)
    canvas.face(
        _end(frame, half, -side, low, nose),
        paint,
        fade=0.3,
        insets=(
            (0.22, 0.1, 0.78, 0.42, rgb(22, 23, 25)),
            (0.3, 0.6, 0.7, 0.86, rgb(30, 31, 34)),
            (0.02, 0.58, 0.24, 0.86, lamp),
            (0.76, 0.58, 0.98, 0.86, lamp),
            (0.36, 0.34, 0.64, 0.48, plate),
        )
        if detailed
        else ((0.02, 0.55, 0.98, 0.86, lamp * 0.5 + paint * 0.5),),
    )
    if detailed:
        _wheels(canvas, frame, light, side, 0.33, (-0.31 * length, 0.32 * length))
    # the cabin
    inner, narrow = side * 0.96, side * 0.76
    base, top = (back * length, front * length), (roof_back * length, roof_front * length)
    roof = height - 0.03
    pillar = 0.42 + 0.1 * rng.random()
    for b in (-1, 1):
        tint(0, b)
        rear, fore = (0, 1) if b > 0 else (1, 0)
        canvas.face(
            [
                frame.at(base[rear], b * inner, belt - 0.07),
                frame.at(base[fore], b * inner, belt - 0.07),
                frame.at(top[fore], b * narrow, roof),
                frame.at(top[rear], b * narrow, roof),
            ],
            paint * 0.9,
            insets=(
                (0.07, 0.17, pillar, 0.86, glass),
                (pillar + 0.05, 0.17, 0.94, 0.86, glass),
            )
            if detailed
            else ((0.1, 0.2, 0.9, 0.85, glass),),
            fade=0.5,
        )
    for a, place, upper, b in ((-1, base[0], top[0], 1), (1, base[1], top[1], -1)):
        tint(a, 0)
        canvas.face(
            [
                frame.at(place, -b * inner, belt - 0.07),
                frame.at(place, b * inner, belt - 0.07),
                frame.at(upper, b * narrow, roof),
                frame.at(upper, -b * narrow, roof),
            ],
            paint * 0.85,
            insets=((0.06, 0.14, 0.94, 0.9, glass),),
            fade=0.6,
        )
    canvas.tint = light.above()
    canvas.face(_flat(frame, top[0], top[1], narrow, roof, roof), paint * 1.05)
    if taxi:
        canvas.surface(
            [
                frame.at(0, b, height + y)
                for b, y in ((-0.3, 0), (0.3, 0), (0.3, 0.16), (-0.3, 0.16))
            ],
            rgb(220, 190, 60),
        )


def _normal(frame: Frame, a: float, b: float) -> tuple[float, float]:
    """The direction (x, z) of a local direction along an axis."""
    return (
        a * frame.ahead[0] + b * frame.right[0],
        a * frame.ahead[1] + b * frame.right[1],
    )


def _turned_here(frame: Frame, a: float, b: float, offset: float) -> bool:
    """Whether a side with the local normal (a, b), so far from the middle, faces the camera."""
    x, z = _normal(frame, a, b)
    return x * frame.x + z * frame.z + abs(offset) < 0


def _end(frame: Frame, a: float, side: float, low: float, high: float) -> list:
    """A face across the frame; a negative ``side`` makes it look ahead."""
    return [
        frame.at(a, -side, low),
        frame.at(a, side, low),
        frame.at(a, side, high),
        frame.at(a, -side, high),
    ]


def _flat(frame: Frame, rear: float, fore: float, side: float, low: float, high: float) -> list:
    """A face seen from above, between two places along the frame at two heights."""
    return [
        frame.at(rear, -side, low),
        frame.at(rear, side, low),
        frame.at(fore, side, high),
        frame.at(fore, -side, high),
    ]


def _wheels(
    canvas: Canvas,
    frame: Frame,
    light: Light,
    side: float,
    radius: float,
    places: Sequence[float],
) -> None:
    """The wheels of the side that is seen; the tread of those seen from the end."""
    canvas.tint = light.around()
    end = -1 if frame.ahead[0] * frame.x + frame.ahead[1] * frame.z > 0 else 1
    for b in (-1, 1):
        outer = max(places) + radius if end > 0 else min(places) - radius
        corners = [
            (b * side, 0.0),
            (b * (side - 0.22), 0.0),
            (b * (side - 0.22), radius),
            (b * side, radius),
        ]
        if abs(frame.ahead[0] * frame.x + frame.ahead[1] * frame.z) > 0.3 * math.hypot(
            frame.x, frame.z
        ):
            canvas.surface([frame.at(outer, at, y) for at, y in corners], _TYRE)
        if not _turned_here(frame, 0, b, side):
            continue
        for a in places:
            canvas.wheel(frame, a, b * side, radius, radius, _TYRE)
            canvas.wheel(frame, a, b * side, radius, radius * 0.58, rgb(112, 114, 116))
            canvas.wheel(frame, a, b * side, radius, radius * 0.2, rgb(50, 50, 52))


def _box(
    canvas: Canvas,
    frame: Frame,
    light: Light,
    span: tuple[float, float],
    side: float,
    low: float,
    high: float,
    long: Shader,
    rear: Shader,
    fore: Shader,
) -> None:
    """A box along the frame whose top is not seen; ``long`` runs from the rear to the front."""
    a0, a1 = span
    length = a1 - a0

    def backwards(s: np.ndarray, t: np.ndarray, z: np.ndarray) -> Shaded:
        return long(length - s, t, z)

    for a, b, start, end, shader in (
        (0, 1, (a0, side), (a1, side), long),
        (0, -1, (a1, -side), (a0, -side), backwards),
        (-1, 0, (a0, -side), (a0, side), rear),
        (1, 0, (a1, side), (a1, -side), fore),
    ):
        canvas.tint = light.on(*_normal(frame, a, b))
        canvas.wall(frame.ground(*start), frame.ground(*end), low, high, shader, flat=True)


def bus(canvas: Canvas, frame: Frame, light: Light, rng: random.Random) -> None:
    """A city bus."""
    length, side, high = rng.uniform(9, 13), 1.27, rng.uniform(2.95, 3.2)
    color = pick(
        rng,
        [
            (206, 204, 196),
            (176, 40, 36),
            (196, 160, 48),
            (60, 92, 140),
            (70, 110, 70),
            (120, 60, 110),
        ],
    )
    stripe = pick(rng, [(190, 40, 40), (220, 220, 214), (40, 60, 110), (60, 60, 62)])
    glass = GLASS * rng.uniform(0.6, 1.3)
    board = rgb(36, 34, 30)
    amber = rgb(226, 160, 50)
    wide = side * 2
    rear = panel(
        color,
        [
            (0, 0.3, wide, 0.75, color * 0.45),
            (0.25, 1.6, wide - 0.25, 2.6, glass),
            (0.7, 2.68, wide - 0.7, 2.9, board),
            (0.1, 0.9, 0.35, 1.4, rgb(150, 24, 22)),
            (wide - 0.35, 0.9, wide - 0.1, 1.4, rgb(150, 24, 22)),
            (0.8, 0.85, wide - 0.8, 1.35, color * 0.7),
        ],
    )
    fore = panel(
        color,
        [
            (0, 0.3, wide, 0.55, rgb(40, 40, 42)),
            (0.1, 1.05, wide - 0.1, 2.5, glass),
            (0.3, 2.55, wide - 0.3, 2.9, board),
            (0.6, 2.62, wide - 0.6, 2.82, amber),
            (0.12, 0.62, 0.5, 0.85, rgb(224, 224, 214)),
            (wide - 0.5, 0.62, wide - 0.12, 0.85, rgb(224, 224, 214)),
            (1.0, 0.58, 1.54, 0.7, rgb(200, 200, 190)),
        ],
    )
    doors = (length - 1.2, length * 0.52)
    long = coach_side(
        color, stripe, glass, pitch=rng.uniform(1.2, 1.8), sill=1.15, lintel=2.45, doors=doors,
        length=length, skirt=0.5,
    )  # fmt: skip
    half = length / 2
    _box(canvas, frame, light, (-half, half), side, 0.28, high, long, rear, fore)
    _wheels(canvas, frame, light, side, 0.46, (-0.28 * length, 0.27 * length))


def train(canvas: Canvas, frame: Frame, light: Light, rng: random.Random) -> None:
    """A tram of two to four carriages, with its current collector."""
    carriages = 2 + int(rng.random() * 3)
    piece, side, high = rng.uniform(7, 10), 1.22, rng.uniform(3.3, 3.6)
    color = pick(
        rng,
        [
            (206, 202, 190),
            (176, 34, 34),
            (206, 176, 70),
            (52, 88, 70),
            (70, 100, 140),
            (120, 122, 124),
        ],
    )
    stripe = pick(rng, [(180, 40, 40), (226, 226, 220), (44, 62, 110), (50, 50, 52)])
    glass = GLASS * rng.uniform(0.6, 1.2)
    wide = side * 2
    end = panel(
        color,
        [
            (0, 0.3, wide, 0.8, color * 0.4),
            (0.15, 1.35, wide - 0.15, 2.75, glass),
            (0.35, 2.85, wide - 0.35, 3.15, rgb(36, 34, 30)),
            (0.8, 2.92, wide - 0.8, 3.08, rgb(226, 170, 60)),
            (0.2, 0.9, 0.55, 1.15, rgb(232, 232, 220)),
            (wide - 0.55, 0.9, wide - 0.2, 1.15, rgb(232, 232, 220)),
            (0.1, 1.2, wide - 0.1, 1.32, stripe),
        ],
    )
    joint = panel(rgb(44, 44, 46), [])
    long = coach_side(
        color, stripe, glass, pitch=rng.uniform(1.3, 2.0), sill=1.45, lintel=2.65,
        doors=(piece * 0.3, piece * 0.75), length=piece, skirt=0.7,
    )  # fmt: skip
    places = [(k - (carriages - 1) / 2) * piece for k in range(carriages)]
    for middle in sorted(places, key=lambda a: -math.hypot(*frame.ground(a, 0))):
        gap = 0.25
        _box(canvas, frame, light, (middle - piece / 2, middle + piece / 2), side - 0.25, 0.5,
             high - 0.3, joint, joint, joint)  # fmt: skip
        fore = end if middle == places[-1] else joint
        rear = end if middle == places[0] else joint
        _box(canvas, frame, light, (middle - piece / 2 + gap, middle + piece / 2 - gap), side, 0.25,
             high, long, rear, fore)  # fmt: skip
    canvas.tint = light.around()
    wire = rgb(40, 40, 42)
    canvas.limb(frame.at(-0.6, 0, high), frame.at(0.4, 0, high + 0.7), wire, 0.04)
    canvas.limb(frame.at(0.4, 0, high + 0.7), frame.at(-0.3, 0, high + 1.4), wire, 0.04)
    canvas.limb(frame.at(-0.3, -0.8, high + 1.4), frame.at(-0.3, 0.8, high + 1.4), wire, 0.05)


def truck(canvas: Canvas, frame: Frame, light: Light, rng: random.Random) -> None:
    """A lorry: a cab ahead of a box, a canvas or an open load."""
    length, side, high = rng.uniform(6, 9.5), rng.uniform(1.1, 1.25), rng.uniform(2.7, 3.7)
    cab, cab_high = rng.uniform(1.6, 2.1), min(high, rng.uniform(2.3, 2.9))
    paint = pick(rng, PAINT)
    load = pick(
        rng,
        [(204, 204, 200), (150, 152, 150), (60, 84, 128), (150, 46, 40), (96, 110, 84),
         (190, 160, 70), (120, 116, 108)],
    )  # fmt: skip
    logo = pick(rng, PAINT)
    half, wide = length / 2, side * 2
    ribs = rng.choice((0.0, 0.35, 0.9))
    split = half - cab - 0.25
    body = split + half

    def long(s: np.ndarray, t: np.ndarray, z: np.ndarray) -> Shaded:
        index = np.zeros(t.shape, np.uint8)
        mark = (s > 0.2 * body) & (s < 0.7 * body)
        np.putmask(index, mark[None, :] & (t > 1.9) & (t < high - 0.5), 1)
        np.putmask(index, (t < 1.15) | (t > high - 0.08), 2)
        shade = np.ones_like(s)
        if ribs:
            shade = 0.86 + 0.14 * (np.abs(s / ribs - np.floor(s / ribs) - 0.5) < 0.38)
        return pick_by(index, [load, logo, load * 0.7]) * shade, None

    rear = panel(
        load,
        [
            (side - 0.03, 1.1, side + 0.03, high - 0.1, load * 0.45),
            (0, high - 0.1, wide, high, load * 0.6),
            (0, 0.9, wide, 1.1, rgb(60, 60, 62)),
            (0.1, 0.9, 0.4, 1.1, rgb(160, 26, 24)),
            (wide - 0.4, 0.9, wide - 0.1, 1.1, rgb(160, 26, 24)),
        ],
    )
    under = panel(rgb(36, 36, 38), [])
    plain = panel(load * 0.85, [])
    door = panel(
        paint,
        [(0.35 * cab, 1.5, 0.9 * cab, cab_high - 0.35, GLASS), (0, 0.45, cab, 0.7, paint * 0.4)],
    )
    front = panel(
        paint,
        [
            (0.12, 1.45, wide - 0.12, cab_high - 0.3, GLASS),
            (0.3, 0.75, wide - 0.3, 1.25, paint * 0.45),
            (0, 0.4, wide, 0.65, rgb(40, 40, 42)),
            (0.1, 0.55, 0.45, 0.8, rgb(226, 226, 216)),
            (wide - 0.45, 0.55, wide - 0.1, 0.8, rgb(226, 226, 216)),
        ],
    )

    def draw_load() -> None:
        _box(canvas, frame, light, (-half, split), side * 0.8, 0.45, 0.95, under, under, under)
        _box(canvas, frame, light, (-half, split), side, 0.9, high, long, rear, plain)
        _wheels(canvas, frame, light, side, 0.47, (-half + 1.2, -half + 2.3))

    def draw_cab() -> None:
        span = (half - cab, half)
        _box(canvas, frame, light, span, side * 0.97, 0.4, cab_high, door, plain, front)
        _wheels(canvas, frame, light, side * 0.97, 0.47, (half - 0.55 * cab,))

    away = math.hypot(*frame.ground(half, 0)) > math.hypot(*frame.ground(-half, 0))
    for part in (draw_cab, draw_load) if away else (draw_load, draw_cab):
        part()


def bicycle(canvas: Canvas, frame: Frame, rng: random.Random) -> None:
    """A bicycle; between the spokes its ground shines through."""
    paint = pick(rng, CLOTHES)
    dark = rgb(34, 34, 36)
    wheel = 0.34
    for a in sorted((-0.52, 0.52), key=lambda a: -frame.at(a, 0, 0)[2]):
        canvas.wheel(frame, a, 0, wheel, wheel, rgb(120, 120, 122), opacity=0.4)
        canvas.wheel(frame, a, 0, wheel, wheel, dark, inner=0.86)
        # the tyre, where the wheel is seen edge on
        canvas.limb(frame.at(a, 0, 0.03), frame.at(a, 0, 2 * wheel - 0.03), dark, 0.02)
    bracket, seat, head = (-0.05, 0.3), (-0.2, 0.82), (0.36, 0.8)
    for (a0, y0), (a1, y1) in (
        ((-0.52, wheel), bracket),
        ((-0.52, wheel), seat),
        (bracket, seat),
        (bracket, head),
        (seat, head),
        ((0.52, wheel), (0.34, 0.95)),
    ):
        canvas.limb(frame.at(a0, 0, y0), frame.at(a1, 0, y1), paint, 0.028)
    canvas.limb(frame.at(-0.32, 0, 0.9), frame.at(-0.08, 0, 0.9), dark, 0.05)
    canvas.limb(frame.at(0.32, -0.28, 1.0), frame.at(0.32, 0.28, 1.0), dark, 0.025)
    if rng.random() < 0.3:
        canvas.limb(frame.at(0.5, 0, 0.72), frame.at(0.58, 0, 0.9), rgb(110, 90, 60), 0.16)
    if rng.random() < 0.5:
        canvas.limb(frame.at(-0.6, 0, 0.74), frame.at(-0.58, 0, 0.76), rgb(160, 30, 28), 0.04)


def motorcycle(canvas: Canvas, frame: Frame, rng: random.Random) -> None:
    """A motorcycle or a scooter."""
    paint = pick(rng, PAINT)
    dark = rgb(28, 28, 30)
    scooter = rng.random() < 0.45
    radius, reach = (0.24, 0.58) if scooter else (0.31, 0.7)
    for a in (-reach, reach):
        canvas.wheel(frame, a, 0, radius, radius, dark)
        canvas.limb(frame.at(a, 0, 0.1), frame.at(a, 0, radius * 1.9), dark, 0.08)
        canvas.wheel(frame, a, 0, radius, radius * 0.5, rgb(126, 126, 128))
    if scooter:
        canvas.limb(frame.at(-0.6, 0, 0.55), frame.at(-0.1, 0, 0.6), paint, 0.2)
        canvas.limb(frame.at(0.4, 0, 0.4), frame.at(0.36, 0, 0.9), paint, 0.2, 0.14)
        canvas.limb(frame.at(-0.1, 0, 0.3), frame.at(0.4, 0, 0.3), paint * 0.6, 0.1)
    else:
        canvas.limb(frame.at(-0.3, 0, 0.45), frame.at(0.3, 0, 0.48), rgb(92, 92, 94), 0.2)
        canvas.limb(frame.at(-0.65, 0, 0.72), frame.at(0.3, 0, 0.8), paint, 0.13, 0.19)
        canvas.limb(frame.at(-0.6, 0, 0.4), frame.at(-0.2, 0.15, 0.35), rgb(150, 150, 150), 0.05)
    canvas.limb(frame.at(-0.55, 0, 0.82), frame.at(-0.02, 0, 0.84), dark, 0.09)
    canvas.limb(frame.at(reach, 0, radius), frame.at(0.42, 0, 1.0), rgb(110, 110, 112), 0.05)
    canvas.limb(frame.at(0.4, -0.34, 1.02), frame.at(0.4, 0.34, 1.02), dark, 0.035)
    toward = frame.ahead[0] * frame.x + frame.ahead[1] * frame.z < 0
    if toward:
        canvas.limb(frame.at(0.5, 0, 0.85), frame.at(0.52, 0, 0.85), rgb(236, 232, 210), 0.09)
    else:
        canvas.limb(frame.at(-0.72, -0.05, 0.7), frame.at(-0.72, 0.05, 0.7), rgb(170, 30, 26), 0.06)
        canvas.limb(frame.at(-0.74, 0, 0.5), frame.at(-0.74, 0, 0.58), rgb(196, 196, 186), 0.09)


# ---- people

_TROUSERS = [(26, 27, 32), (36, 42, 60), (54, 62, 84), (82, 78, 70), (116, 104, 84), (70, 70, 72)]
_SKIN = [(206, 164, 138), (188, 140, 112), (148, 104, 80), (104, 72, 56)]
_HAIR = [(30, 24, 20), (62, 44, 30), (112, 84, 52), (150, 146, 140), (40, 40, 52), (120, 30, 30)]


def person(canvas: Canvas, frame: Frame, rng: random.Random) -> None:
    """Somebody who stands or walks; children, bags, skirts and umbrellas occur."""
    size = rng.uniform(0.62, 0.8) if rng.random() < 0.12 else rng.uniform(0.93, 1.07)
    coat, trousers = pick(rng, CLOTHES), pick(rng, _TROUSERS)
    skin, hair = pick(rng, _SKIN), pick(rng, _HAIR)
    stride = rng.choice((0.03, 0.14, 0.24, 0.3)) * size
    swing = rng.choice((-1, 1))
    skirt = rng.random() < 0.2
    bag = rng.random()
    wide = size * (0.2 + 0.06 * rng.random())

    def at(a: float, b: float, y: float) -> tuple[float, float, float]:
        return frame.at(a, b, y * size)

    def arm(b: float) -> None:
        hand = at(-swing * b * stride * 2.2, b * 1.35, 0.86)
        canvas.limb(at(0, b, 1.4), hand, coat * 0.9, 0.065 * size, 0.05 * size)
        canvas.limb(hand, at(-swing * b * stride * 2.2, b * 1.35, 0.8), skin, 0.045 * size)

    if canvas.scale(frame.z) * size < 13:  # a few pixels each
        for b in (-1, 1):
            legs = skin if skirt else trousers
            canvas.limb(at(0, b * 0.08, 0.85), at(b * swing * stride, b * 0.1, 0.06), legs, 0.08)
        canvas.limb(at(0, 0, 0.9), at(0, 0, 1.34), coat, 0.18 * size, 0.2 * size)
        x, y = canvas.project(at(0, 0, 1.65))
        scale = canvas.scale(frame.z) * size
        canvas.ellipse(x, y, 0.12 * scale, 0.15 * scale, (skin + hair) * 0.5)
        return
    far, near = (-1, 1) if frame.right[0] * frame.x + frame.right[1] * frame.z < 0 else (1, -1)
    arm(far * wide)
    for b in (far, near):
        foot = b * swing * stride
        legs = skin if skirt else trousers
        canvas.limb(
            at(0, b * 0.09, 0.88), at(foot * 0.6, b * 0.1, 0.48), legs, 0.1 * size, 0.075 * size
        )
        canvas.limb(
            at(foot * 0.6, b * 0.1, 0.48), at(foot, b * 0.1, 0.08), legs, 0.075 * size, 0.055 * size
        )
        canvas.limb(
            at(foot - 0.03, b * 0.1, 0.05),
            at(foot + 0.12, b * 0.1, 0.04),
            trousers * 0.5,
            0.05 * size,
        )
    if skirt:
        canvas.limb(at(0, 0, 0.95), at(0, 0, 0.62), trousers, 0.17 * size, 0.24 * size)
    hip, chest = 0.14 * size, 0.155 * size
    spread = wide * 0.45
    for b in (far, near):
        canvas.limb(at(0, b * spread * 0.5, 0.92), at(0, b * spread, 1.36), coat, hip, chest)
    if bag < 0.2:
        canvas.limb(at(-0.2, 0, 1.05), at(-0.2, 0, 1.32), pick(rng, CLOTHES), 0.15 * size)
    elif bag < 0.4:
        canvas.limb(
            at(0, near * wide * 1.5, 0.8),
            at(0, near * wide * 1.5, 0.62),
            pick(rng, CLOTHES),
            0.09,
            0.15,
        )
    arm(near * wide)
    _head(canvas, at(0.02, 0, 1.63), size, skin, hair, frame)
    if bag > 0.96:
        shade = pick(rng, CLOTHES)
        top = at(0.05, 0.05, 2.15)
        canvas.limb(at(0.1, 0.1, 1.2), top, rgb(60, 60, 60), 0.02)
        x, y = canvas.project(top)
        scale = canvas.scale(frame.z)
        canvas.ellipse(x, y + 0.1 * scale, 0.55 * scale, 0.36 * scale, shade, above=y + 0.1 * scale)


def _head(
    canvas: Canvas,
    middle: tuple[float, float, float],
    size: float,
    skin: Color,
    hair: Color,
    frame: Frame,
    helmet: bool = False,
) -> None:
    x, y = canvas.project(middle)
    scale = canvas.scale(middle[2]) * size
    away = frame.ahead[0] * frame.x + frame.ahead[1] * frame.z > 0
    canvas.limb((middle[0], middle[1] - 0.2 * size, middle[2]), middle, skin * 0.85, 0.06 * size)
    canvas.ellipse(x, y, 0.105 * scale, 0.14 * scale, skin)
    cover = y + (0.06 if away and not helmet else -0.03) * scale
    grow = 1.25 if helmet else 1.08
    canvas.ellipse(
        x, y - 0.02 * scale, 0.105 * scale * grow, 0.14 * scale * grow, hair, above=cover
    )


def rider(canvas: Canvas, frame: Frame, rng: random.Random, *, low: bool = False) -> None:
    """Who sits on a bicycle, or lower, on a motorcycle."""
    coat, trousers = pick(rng, CLOTHES), pick(rng, _TROUSERS)
    skin, hair = pick(rng, _SKIN), pick(rng, _HAIR + PAINT)
    helmet = low or rng.random() < 0.5
    seat = (-0.3, 0.86) if low else (-0.2, 0.98)
    lean = rng.uniform(0.1, 0.3)
    shoulder = (seat[0] + lean, seat[1] + 0.5)
    pedal = rng.uniform(-0.14, 0.14)
    far, near = (-1, 1) if frame.right[0] * frame.x + frame.right[1] * frame.z < 0 else (1, -1)

    def arm(b: float) -> None:
        elbow = frame.at(shoulder[0] + 0.16, b * 0.26, shoulder[1] - 0.22)
        canvas.limb(
            frame.at(shoulder[0], b * 0.2, shoulder[1] - 0.04), elbow, coat * 0.9, 0.065, 0.055
        )
        canvas.limb(elbow, frame.at(0.34, b * 0.26, 1.04), coat * 0.9, 0.055, 0.045)

    def leg(b: float) -> None:
        foot = (0.1, 0.3) if low else (-0.02 + b * pedal, 0.26 + b * pedal)
        knee = (seat[0] + 0.44, (seat[1] + foot[1]) / 2 + 0.14)
        canvas.limb(
            frame.at(*seat[:1], b * 0.09, seat[1]),
            frame.at(knee[0], b * 0.13, knee[1]),
            trousers,
            0.1,
            0.075,
        )
        canvas.limb(
            frame.at(knee[0], b * 0.13, knee[1]),
            frame.at(foot[0], b * 0.12, foot[1]),
            trousers,
            0.075,
            0.055,
        )
        canvas.limb(
            frame.at(foot[0], b * 0.12, foot[1]),
            frame.at(foot[0] + 0.14, b * 0.12, foot[1] - 0.03),
            trousers * 0.5,
            0.05,
        )

    leg(far)
    arm(far)
    for b in (far, near):
        canvas.limb(
            frame.at(seat[0], b * 0.07, seat[1]),
            frame.at(shoulder[0], b * 0.1, shoulder[1]),
            coat,
            0.14,
            0.15,
        )
    leg(near)
    arm(near)
    middle = frame.at(shoulder[0] + 0.06, 0, shoulder[1] + 0.28)
    _head(canvas, middle, 1.0, skin, hair, frame, helmet=helmet)


# ---- plants


def tree(
    canvas: Canvas,
    x: float,
    z: float,
    height: float,
    light: Light,
    rng: random.Random,
    kinds: Sequence[str] = ("round", "round", "tall", "sparse"),
) -> None:
    """A tree whose crown is lobed noise: round, tall, sparse or a conifer."""
    kind = rng.choice(kinds)
    leaf = pick(rng, FOLIAGE, 0.14)
    bark = pick(rng, [(84, 72, 58), (70, 66, 60), (104, 98, 88), (56, 48, 42)])
    radius = height * {"round": 0.36, "tall": 0.2, "sparse": 0.32, "conifer": 0.22}[kind]
    radius *= rng.uniform(0.85, 1.15)
    foot = {"round": 0.3, "tall": 0.14, "sparse": 0.28, "conifer": 0.08}[kind] * height
    lean = rng.uniform(-0.04, 0.04) * height
    ox, oy = rng.random() * 256, rng.random() * 256
    thick = 0.022 * height
    canvas.tint = light.around()
    middle = (foot + height) / 2
    canvas.limb((x, 0, z), (x + lean, middle, z), bark, thick * 1.2, thick * 0.7)
    if kind in ("round", "sparse"):
        for side in (-1, 1):
            canvas.limb(
                (x + lean * 0.7, foot * 1.1, z),
                (x + lean + side * radius * 0.55, middle * 1.1, z),
                bark, thick * 0.7, thick * 0.35,
            )  # fmt: skip
    canvas.tint = light.ambient
    crown(canvas, x + lean, middle, z, radius, (height - foot) / 2, leaf, light, (ox, oy), kind)


def crown(
    canvas: Canvas,
    x: float,
    y: float,
    z: float,
    rx: float,
    ry: float,
    leaf: Color,
    light: Light,
    offset: tuple[float, float],
    kind: str = "round",
) -> None:
    """Foliage within about (rx, ry) metres around a point."""
    cx, cy = canvas.project((x, y, z))
    scale = canvas.scale(z)
    box = canvas.box(
        cx - 1.25 * rx * scale,
        cy - 1.25 * ry * scale,
        cx + 1.25 * rx * scale,
        cy + 1.25 * ry * scale,
    )
    if box is None:
        return
    r0, r1, c0, c1 = box
    a = (canvas.xs[c0:c1] - cx) / (rx * scale)
    b = ((canvas.ys[r0:r1] - cy) / (ry * scale))[:, None]
    # metres to noise cells: clumps of half a metre on lobes of two
    u, v = a * (rx * 14) + (offset[0] + 512), b[:, 0] * (ry * 14) + (offset[1] + 512)
    clumps = patch(leaves(), u, v)
    lobes = patch(clouds(), u * 0.6, v * 0.6)
    if kind == "conifer":
        shape = np.abs(a) * 1.9 - (b + 1.05) * 0.85 + np.maximum(b - 0.75, 0) * 5
        mask = shape + 0.25 * clumps < 0
        light_lobes = 0.6 * np.sin(b * (ry * 5)) + 0 * a
    else:
        shape = a * a + b * b + 0.42 * lobes
        mask = shape + 0.24 * clumps < 0.84
        if kind == "sparse":
            mask &= clumps + 0.6 * lobes < 0.5
        light_lobes = lobes
    side = 1.0 if light.toward[0] > 0 else -1.0
    glow = 0.3 - 0.5 * b + 0.35 * side * a + 0.5 * clumps + 0.2 * light_lobes
    np.clip(glow, 0, 1.3, out=glow)
    shade = 0.74 - 0.24 * b + 0.3 * clumps + 0.14 * light_lobes
    np.maximum(shade, 0.12, out=shade)
    color = (glow * planes(light.sun) + planes(light.ambient)) * (shade * planes(leaf))
    canvas.paint(r0, c0, mask, color)


# ---- posts, lights, signs and what is left over


def pole(canvas: Canvas, x: float, z: float, height: float, radius: float, color: Color) -> None:
    """An upright post."""
    canvas.limb((x, 0, z), (x, height, z), color, radius * 1.1, radius * 0.85, least=0.6)


def lamp(canvas: Canvas, x: float, z: float, side: float, rng: random.Random) -> None:
    """A street lamp with its arm toward ``side``."""
    color = pick(rng, POLE)
    height = rng.uniform(5.5, 8.5)
    pole(canvas, x, z, height, 0.09, color)
    if rng.random() < 0.7:
        reach = side * rng.uniform(1.0, 2.2)
        canvas.limb((x, height, z), (x + reach, height + 0.35, z), color, 0.06, least=0.5)
        head = (x + reach * 0.8, height + 0.3, z), (x + reach * 1.3, height + 0.42, z)
        canvas.limb(*head, color * 0.8, 0.12)
    else:
        canvas.limb((x, height, z), (x, height + 0.4, z), rgb(200, 198, 186), 0.2, 0.26)


def traffic_light(
    canvas: Canvas, x: float, y: float, z: float, rng: random.Random, *, back: bool = False
) -> None:
    """The head of a traffic light around (x, y, z); from behind only its case shows."""
    case = pick(rng, [(26, 28, 28), (36, 52, 42), (70, 76, 72), (30, 32, 36), (150, 130, 50)])
    wide, high = 0.21, 0.56
    scale = canvas.scale(z)
    cx, cy = canvas.project((x, y, z))
    if rng.random() < 0.35:
        canvas.rectangle(cx, cy, 0.34 * scale, 0.72 * scale, case * 0.8)
        if rng.random() < 0.5:
            canvas.rectangle(cx, cy, 0.31 * scale, 0.69 * scale, rgb(200, 200, 196))
            canvas.rectangle(cx, cy, 0.28 * scale, 0.66 * scale, case * 0.8)
    canvas.rectangle(cx, cy, max(wide * scale, 1.0), max(high * scale, 1.5), case)
    if back:
        return
    state = int(rng.random() * 3)
    dark = (rgb(70, 20, 18), rgb(70, 56, 18), rgb(18, 56, 34))
    on = (rgb(255, 50, 40), rgb(255, 190, 50), rgb(60, 235, 150))
    tint, canvas.tint = canvas.tint, np.ones(3, np.float32)
    for k in range(3):
        color = on[k] if k == state else dark[k]
        canvas.ellipse(cx, cy + (k - 1) * 0.35 * scale, 0.14 * scale, 0.14 * scale, color)
    canvas.tint = tint


_RED, _WHITE, _BLUE, _YELLOW = (
    rgb(178, 34, 34), rgb(216, 216, 212), rgb(36, 72, 150), rgb(214, 168, 40)
)  # fmt: skip


def traffic_sign(
    canvas: Canvas, x: float, y: float, z: float, rng: random.Random, *, large: bool = False
) -> float:
    """A sign whose middle is at (x, y, z); returns its half height in metres."""
    scale = canvas.scale(z)
    cx, cy = canvas.project((x, y, z))
    if large:
        wide, high = rng.uniform(0.9, 1.8), rng.uniform(0.35, 0.8)
        color = rng.choice((_BLUE, _YELLOW, _WHITE, rgb(40, 100, 70)))
        ink = rgb(40, 40, 42) if color is _YELLOW or color is _WHITE else _WHITE
        canvas.rectangle(cx, cy, wide * scale, high * scale, ink)
        canvas.rectangle(cx, cy, (wide - 0.06) * scale, (high - 0.06) * scale, color)
        for k in range(int(high / 0.25)):
            start = -wide + 0.2
            stop = start + rng.uniform(0.4, 0.9) * (2 * wide - 0.4)
            row = cy + (-high + 0.28 + 0.42 * k) * scale
            middle, half = (start + stop) / 2 * scale, (stop - start) / 2 * scale
            canvas.rectangle(cx + middle, row, half, 0.09 * scale, ink)
        return high
    kind = rng.choice(
        ("ban", "ban", "order", "warning", "yield", "priority", "park", "stop", "name")
    )
    r = rng.uniform(0.33, 0.42)
    pixels = max(r * scale, 1.3)
    if kind == "ban":
        canvas.ellipse(cx, cy, pixels, pixels, _RED)
        canvas.ellipse(cx, cy, pixels * 0.72, pixels * 0.72, rng.choice((_WHITE, _WHITE, _BLUE)))
        canvas.rectangle(cx, cy, pixels * 0.38, pixels * 0.26, rgb(36, 36, 38))
    elif kind == "order":
        canvas.ellipse(cx, cy, pixels, pixels, _BLUE)
        canvas.polygon(
            [(cx - 0.5 * pixels, cy), (cx, cy - 0.6 * pixels), (cx + 0.5 * pixels, cy)], _WHITE
        )
        canvas.rectangle(cx, cy + 0.2 * pixels, 0.16 * pixels, 0.35 * pixels, _WHITE)
    elif kind in ("warning", "yield"):
        up = -1 if kind == "warning" else 1
        for part, color in ((1.15, _RED), (0.72, _WHITE)):
            p = pixels * part
            shift = up * pixels * 0.12
            canvas.polygon(
                [(cx - p, cy - up * p * 0.75 + shift), (cx + p, cy - up * p * 0.75 + shift),
                 (cx, cy + up * p + shift)],
                color,
            )  # fmt: skip
        if kind == "warning":
            canvas.rectangle(cx, cy + 0.1 * pixels, 0.1 * pixels, 0.32 * pixels, rgb(36, 36, 38))
    elif kind == "priority":
        for part, color in ((1.1, _WHITE), (0.78, _YELLOW)):
            p = pixels * part
            canvas.polygon([(cx - p, cy), (cx, cy - p), (cx + p, cy), (cx, cy + p)], color)
    elif kind == "park":
        canvas.rectangle(cx, cy, pixels, pixels * 1.2, _BLUE)
        canvas.rectangle(cx - 0.3 * pixels, cy, 0.14 * pixels, 0.8 * pixels, _WHITE)
        canvas.ellipse(cx + 0.05 * pixels, cy - 0.35 * pixels, 0.5 * pixels, 0.42 * pixels, _WHITE)
        canvas.ellipse(cx + 0.05 * pixels, cy - 0.35 * pixels, 0.24 * pixels, 0.2 * pixels, _BLUE)
    elif kind == "stop":
        corners = [(k + 0.5) * math.pi / 4 for k in range(8)]
        for part, color in ((1.08, _WHITE), (0.96, _RED)):
            canvas.polygon(
                [
                    (cx + part * pixels * math.cos(q), cy + part * pixels * math.sin(q))
                    for q in corners
                ],
                color,
            )
        canvas.rectangle(cx, cy, 0.7 * pixels, 0.2 * pixels, _WHITE)
    else:
        wide = pixels * 2.2
        color = rng.choice((_BLUE, _WHITE, _YELLOW))
        canvas.rectangle(cx, cy, wide, pixels * 0.5, color)
        ink = _WHITE if color is _BLUE else rgb(40, 40, 42)
        canvas.rectangle(cx, cy, wide * 0.75, pixels * 0.16, ink)
    return r


def box_thing(
    canvas: Canvas, frame: Frame, light: Light, rng: random.Random, size: Sequence[float]
) -> None:
    """A bin, a cabinet, a kiosk, a poster column: a box of (length, width, height)."""
    color = pick(rng, PLASTER + PAINT)
    length, width, height = size
    poster = pick(rng, CLOTHES)
    parts = (
        [(0.1 * width, 0.35 * height, 0.9 * width, 0.9 * height, poster)]
        if rng.random() < 0.4
        else []
    )
    side = panel(color, parts)
    _box(canvas, frame, light, (-length / 2, length / 2), width / 2, 0.0, height, side, side, side)


def heap(canvas: Canvas, x: float, z: float, rng: random.Random) -> None:
    """A sack, a pushcart, a dog: something small that does not stay."""
    color = pick(rng, CLOTHES)
    size = rng.uniform(0.18, 0.34)
    canvas.limb((x - size, size * 0.9, z), (x + size, size, z), color, size * 0.9, size * 0.7)
    if rng.random() < 0.5:
        canvas.limb((x + size, size, z), (x + size * 1.5, size * 2.4, z), color * 0.8, size * 0.35)


Draw = Callable[[Canvas, Frame, Light, random.Random], None]
VEHICLES: dict[str, Draw] = {"car": car, "truck": truck, "bus": bus, "train": train}
