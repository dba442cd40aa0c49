"""People, plants, posts, and what else stands in a street.

Each function draws one thing on a canvas whose ``start`` has been called with its id and
distance. Looks come from ``rng`` alone and never from pixels, so that a thing looks the same
at every image size.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np

from kseg.streets.colors import Color, pick, planes, rgb
from kseg.streets.drawing import Pen, Place, Point
from kseg.streets.noise import clouds, leaves, patch
from kseg.streets.surfaces import panel

# ---- people


def person(pen: Pen, rng: random.Random) -> None:
    """Somebody who stands or walks; children, bags, skirts and umbrellas occur."""
    pen.size = size = rng.uniform(0.62, 0.8) if rng.random() < 0.12 else rng.uniform(0.93, 1.07)
    coat, trousers = pick(rng, "clothes"), pick(rng, "trousers")
    skin, hair = pick(rng, "skin"), pick(rng, "hair")
    stride = rng.choice((0.03, 0.14, 0.24, 0.3)) * size
    swing = rng.choice((-1, 1))
    skirt = rng.random() < 0.2
    legs = skin if skirt else trousers
    bag = rng.random()
    wide = size * (0.2 + 0.06 * rng.random())
    if pen.canvas.scale(pen.frame.z) * size < 13:  # a few pixels each
        for b in (-1, 1):
            pen.limb((0, b * 0.08, 0.85), (b * swing * stride, b * 0.1, 0.06), legs, 0.08)
        pen.limb((0, 0, 0.9), (0, 0, 1.34), coat, 0.18 * size, 0.2 * size)
        x, y, scale = pen.spot((0, 0, 1.65))
        scale *= size
        pen.canvas.ellipse(x, y, 0.12 * scale, 0.15 * scale, (skin + hair) * 0.5)
        return

    def arm(b: float) -> None:
        forward, out = -swing * b * stride * 2.2, b * 1.35
        pen.limb((0, b, 1.4), (forward, out, 0.86), coat * 0.9, 0.065 * size, 0.05 * size)
        pen.limb((forward, out, 0.86), (forward, out, 0.8), skin, 0.045 * size)

    near = 1 if pen.frame.aside < 0 else -1  # the side of the camera
    far = -near
    arm(far * wide)
    for b in (far, near):
        foot, out = b * swing * stride, b * 0.1
        hip, knee, ankle = (0, b * 0.09, 0.88), (foot * 0.6, out, 0.48), (foot, out, 0.08)
        heel, toe = (foot - 0.03, out, 0.05), (foot + 0.12, out, 0.04)
        _leg(pen, (hip, knee, ankle), (heel, toe), legs, trousers * 0.5)
    if skirt:
        pen.limb((0, 0, 0.95), (0, 0, 0.62), trousers, 0.17 * size, 0.24 * size)
    spread = wide * 0.45
    for b in (far, near):
        hip, chest = (0, b * spread * 0.5, 0.92), (0, b * spread, 1.36)
        pen.limb(hip, chest, coat, 0.14 * size, 0.155 * size)
    if bag < 0.2:
        pen.limb((-0.2, 0, 1.05), (-0.2, 0, 1.32), pick(rng, "clothes"), 0.15 * size)
    elif bag < 0.4:
        beside = near * wide * 1.5
        pen.limb((0, beside, 0.8), (0, beside, 0.62), pick(rng, "clothes"), 0.09, 0.15)
    arm(near * wide)
    _head(pen, (0.02, 0, 1.63), skin, hair)
    if bag > 0.96:
        shade, top = pick(rng, "clothes"), (0.05, 0.05, 2.15)
        pen.limb((0.1, 0.1, 1.2), top, rgb(60, 60, 60), 0.02)
        x, y, _ = pen.spot(top)
        scale = pen.canvas.scale(pen.frame.z)
        y += 0.1 * scale
        pen.canvas.ellipse(x, y, 0.55 * scale, 0.36 * scale, shade, above=y)


def _leg(
    pen: Pen, joints: Sequence[Point], foot: tuple[Point, Point], cloth: Color, shoe: Color
) -> None:
    """A leg through hip, knee and ankle, and a foot from heel to toe."""
    size, (hip, knee, ankle), (heel, toe) = pen.size, joints, foot
    pen.limb(hip, knee, cloth, 0.1 * size, 0.075 * size)
    pen.limb(knee, ankle, cloth, 0.075 * size, 0.055 * size)
    pen.limb(heel, toe, shoe, 0.05 * size)


def _head(pen: Pen, middle: Point, skin: Color, hair: Color, *, helmet: bool = False) -> None:
    """A neck, a head and what covers it."""
    canvas, size = pen.canvas, pen.size
    a, b, height = middle
    pen.limb((a, b, height - 0.2), middle, skin * 0.85, 0.06 * size)
    x, y, scale = pen.spot(middle)
    scale *= size
    canvas.ellipse(x, y, 0.105 * scale, 0.14 * scale, skin)
    cover = y + (0.06 if pen.frame.away > 0 and not helmet else -0.03) * scale
    grow = 1.25 if helmet else 1.08
    rx, ry = 0.105 * scale * grow, 0.14 * scale * grow
    canvas.ellipse(x, y - 0.02 * scale, rx, ry, hair, above=cover)


def rider(pen: Pen, rng: random.Random, low: bool) -> None:
    """Who sits on a bicycle, or lower, on a motorcycle."""
    coat, trousers = pick(rng, "clothes"), pick(rng, "trousers")
    skin, hair = pick(rng, "skin"), pick(rng, "hair", "paint")
    helmet = low or rng.random() < 0.5
    seat, seat_y = (-0.3, 0.86) if low else (-0.2, 0.98)
    shoulder, shoulder_y = seat + rng.uniform(0.1, 0.3), seat_y + 0.5
    pedal = rng.uniform(-0.14, 0.14)

    def arm(b: float) -> None:
        start = (shoulder, b * 0.2, shoulder_y - 0.04)
        elbow = (shoulder + 0.16, b * 0.26, shoulder_y - 0.22)
        pen.limb(start, elbow, coat * 0.9, 0.065, 0.055)
        pen.limb(elbow, (0.34, b * 0.26, 1.04), coat * 0.9, 0.055, 0.045)

    def leg(b: float) -> None:
        foot, foot_y = (0.1, 0.3) if low else (-0.02 + b * pedal, 0.26 + b * pedal)
        hip = (seat, b * 0.09, seat_y)
        knee = (seat + 0.44, b * 0.13, (seat_y + foot_y) / 2 + 0.14)
        ankle, toe = (foot, b * 0.12, foot_y), (foot + 0.14, b * 0.12, foot_y - 0.03)
        _leg(pen, (hip, knee, ankle), (ankle, toe), trousers, trousers * 0.5)

    near = 1 if pen.frame.aside < 0 else -1  # the side of the camera
    far = -near
    leg(far)
    arm(far)
    for b in (far, near):
        pen.limb((seat, b * 0.07, seat_y), (shoulder, b * 0.1, shoulder_y), coat, 0.14, 0.15)
    leg(near)
    arm(near)
    _head(pen, (shoulder + 0.06, 0, shoulder_y + 0.28), skin, hair, helmet=helmet)


# ---- plants

# radius of the crown and height of its lower end, as shares of the tree's height
_TREES = {
    "round": (0.36, 0.3),
    "tall": (0.2, 0.14),
    "sparse": (0.32, 0.28),
    "conifer": (0.22, 0.08),
}


def tree(
    pen: Pen,
    rng: random.Random,
    height: float,
    kinds: Sequence[str] = ("round", "round", "tall", "sparse"),
) -> None:
    """A tree whose crown is lobed noise, of one of ``kinds``: round, tall, sparse, conifer."""
    kind = rng.choice(kinds)
    leaf, bark = pick(rng, "foliage", spread=0.14), pick(rng, "bark")
    radius, foot = (share * height for share in _TREES[kind])
    radius *= rng.uniform(0.85, 1.15)
    lean = rng.uniform(-0.04, 0.04) * height
    offset = rng.random() * 256, rng.random() * 256
    thick, middle = 0.022 * height, (foot + height) / 2
    pen.canvas.tint = pen.light.around()
    pen.limb((0, 0, 0), (0, lean, middle), bark, thick * 1.2, thick * 0.7)
    if kind in ("round", "sparse"):
        for side in (-1, 1):
            start = (0, lean * 0.7, foot * 1.1)
            end = (0, lean + side * radius * 0.55, middle * 1.1)
            pen.limb(start, end, bark, thick * 0.7, thick * 0.35)
    crown(pen, (0, lean, middle), (radius, (height - foot) / 2), leaf, offset, kind)


def shrub(pen: Pen, rng: random.Random) -> None:
    """A round bush."""
    size, leaf = rng.uniform(0.5, 1.4), pick(rng, "shrub")
    offset = rng.random() * 256, rng.random() * 256
    crown(pen, (0, 0, size * 0.8), (size * 1.2, size), leaf, offset)


def crown(
    pen: Pen, middle: Point, radii: Place, leaf: Color, offset: Place, kind: str = "round"
) -> None:
    """Foliage within about ``radii`` metres around a point; ``offset`` is into the noise."""
    canvas, light, (rx, ry) = pen.canvas, pen.light, radii
    cx, cy, scale = pen.spot(middle)
    wide, high = 1.25 * rx * scale, 1.25 * ry * scale
    grid = canvas.grid(cx - wide, cy - high, cx + wide, cy + high)
    if grid is None:
        return
    top, left, xs, ys = grid
    a, b = (xs - cx) / (rx * scale), (ys - cy) / (ry * scale)
    # metres to noise cells: clumps of half a metre on lobes of two
    u, v = a * (rx * 14) + (offset[0] + 512), b[:, 0] * (ry * 14) + (offset[1] + 512)
    clumps = patch(leaves(), u, v)
    lobes = patch(clouds(), u * 0.6, v * 0.6)
    if kind == "conifer":
        shape = np.abs(a) * 1.9 - (b + 1.05) * 0.85 + np.maximum(b - 0.75, 0) * 5
        mask = shape + 0.25 * clumps < 0
        lit = 0.6 * np.sin(b * (ry * 5)) + 0 * a
    else:
        mask = a * a + b * b + 0.42 * lobes + 0.24 * clumps < 0.84
        if kind == "sparse":
            mask &= clumps + 0.6 * lobes < 0.5
        lit = lobes
    side = 1.0 if light.toward[0] > 0 else -1.0
    glow = 0.3 - 0.5 * b + 0.35 * side * a + 0.5 * clumps + 0.2 * lit
    np.clip(glow, 0, 1.3, out=glow)
    shade = 0.74 - 0.24 * b + 0.3 * clumps + 0.14 * lit
    np.maximum(shade, 0.12, out=shade)
    color = (glow * planes(light.sun) + planes(light.ambient)) * (shade * planes(leaf))
    canvas.paint((top, left, mask), color)


# ---- posts, lights and signs, which face the camera


def pole(
    pen: Pen, rng: random.Random, height: float, radius: float, color: Color, b: float = 0.0
) -> None:
    """An upright post ``b`` metres to the right."""
    pen.limb((0, b, 0), (0, b, height), color, radius * 1.1, radius * 0.85, least=0.6)


def lamp(pen: Pen, rng: random.Random, side: int) -> None:
    """A street lamp with its arm toward ``side``."""
    color = pick(rng, "pole")
    height = rng.uniform(5.5, 8.5)
    pole(pen, rng, height, 0.09, color)
    if rng.random() < 0.7:
        reach = side * rng.uniform(1.0, 2.2)
        pen.limb((0, 0, height), (0, reach, height + 0.35), color, 0.06)
        head = (0, reach * 0.8, height + 0.3), (0, reach * 1.3, height + 0.42)
        pen.limb(*head, color * 0.8, 0.12)
    else:
        pen.limb((0, 0, height), (0, 0, height + 0.4), rgb(200, 198, 186), 0.2, 0.26)


def signal_post(pen: Pen, rng: random.Random, high: float, reach: float) -> None:
    """The post of traffic lights, with an arm above the road if ``reach`` is not 0."""
    color = pick(rng, "pole")
    pole(pen, rng, 5.6 if reach else high + 0.6, 0.08, color)
    if reach:
        pen.limb((0, 0, 5.5), (0, reach, 5.7), color, 0.08)


def signals(pen: Pen, rng: random.Random, high: float, reach: float, back: bool) -> None:
    """What hangs on a ``signal_post``."""
    _signal(pen, rng, (0, 0, high), back)
    if reach:
        _signal(pen, rng, (0, reach * 0.95, 5.3), back)


def _signal(pen: Pen, rng: random.Random, middle: Point, back: bool) -> None:
    """The head of a traffic light; from behind only its case shows."""
    canvas = pen.canvas
    case = pick(rng, "signal case")
    cx, cy, scale = pen.spot(middle)
    if rng.random() < 0.35:
        canvas.rectangle(cx, cy, 0.34 * scale, 0.72 * scale, case * 0.8)
        if rng.random() < 0.5:
            canvas.rectangle(cx, cy, 0.31 * scale, 0.69 * scale, rgb(200, 200, 196))
            canvas.rectangle(cx, cy, 0.28 * scale, 0.66 * scale, case * 0.8)
    canvas.rectangle(cx, cy, max(0.21 * scale, 1.0), max(0.56 * scale, 1.5), case)
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
_INK, _GRAY = rgb(36, 36, 38), rgb(40, 40, 42)


def _scaled(part: float, corners: Sequence[Place]) -> list[Place]:
    return [(part * x, part * y) for x, y in corners]


def _triangle(part: float, up: int) -> list[Place]:
    y = up * (0.12 - 0.75 * part)
    return [(-part, y), (part, y), (0, up * (0.12 + part))]


_DIAMOND = [(-1, 0), (0, -1), (1, 0), (0, 1)]
_OCTAGON = [
    (math.cos((k + 0.5) * math.pi / 4), math.sin((k + 0.5) * math.pi / 4)) for k in range(8)
]

_Box = tuple[float, float, float, float]

# The colours that some kinds of signs draw from.
_CHOICES: dict[str, list[tuple[Color, ...]]] = {
    "ban": [(_WHITE,), (_WHITE,), (_BLUE,)],
    "name": [(_BLUE, _WHITE), (_WHITE, _GRAY), (_YELLOW, _GRAY)],
}

# The parts of signs: kind, shape, colour or which of those drawn; in radii of the sign, the
# middle and half sides, or the corners.
_PARTS: tuple[tuple[str, str, Color | int, _Box | list[Place]], ...] = (
    ("ban", "ellipse", _RED, (0, 0, 1, 1)),
    ("ban", "ellipse", 0, (0, 0, 0.72, 0.72)),
    ("ban", "rectangle", _INK, (0, 0, 0.38, 0.26)),
    ("order", "ellipse", _BLUE, (0, 0, 1, 1)),
    ("order", "polygon", _WHITE, [(-0.5, 0), (0, -0.6), (0.5, 0)]),
    ("order", "rectangle", _WHITE, (0, 0.2, 0.16, 0.35)),
    ("warning", "polygon", _RED, _triangle(1.15, -1)),
    ("warning", "polygon", _WHITE, _triangle(0.72, -1)),
    ("warning", "rectangle", _INK, (0, 0.1, 0.1, 0.32)),
    ("yield", "polygon", _RED, _triangle(1.15, 1)),
    ("yield", "polygon", _WHITE, _triangle(0.72, 1)),
    ("priority", "polygon", _WHITE, _scaled(1.1, _DIAMOND)),
    ("priority", "polygon", _YELLOW, _scaled(0.78, _DIAMOND)),
    ("park", "rectangle", _BLUE, (0, 0, 1, 1.2)),
    ("park", "rectangle", _WHITE, (-0.3, 0, 0.14, 0.8)),
    ("park", "ellipse", _WHITE, (0.05, -0.35, 0.5, 0.42)),
    ("park", "ellipse", _BLUE, (0.05, -0.35, 0.24, 0.2)),
    ("stop", "polygon", _WHITE, _scaled(1.08, _OCTAGON)),
    ("stop", "polygon", _RED, _scaled(0.96, _OCTAGON)),
    ("stop", "rectangle", _WHITE, (0, 0, 0.7, 0.2)),
    ("name", "rectangle", 0, (0, 0, 2.2, 0.5)),
    ("name", "rectangle", 1, (0, 0, 1.65, 0.16)),
)
_KINDS = ("ban", *dict.fromkeys(part[0] for part in _PARTS))


def sign_post(pen: Pen, rng: random.Random, height: float, spread: float) -> None:
    """One post, or two that are ``spread`` metres from the middle."""
    color = pick(rng, "pole")
    for b in (-spread, spread) if spread else (0.0,):
        pole(pen, rng, height, 0.045, color, b)


def traffic_signs(pen: Pen, rng: random.Random, y: float, count: int, large: bool) -> None:
    """``count`` signs below each other, the middle of the first at a height of ``y``."""
    for _ in range(count):
        y -= 2.1 * (_guide if large else _sign)(pen, rng, y)


def _guide(pen: Pen, rng: random.Random, y: float) -> float:
    """A large sign with lines of text; returns its half height in metres."""
    canvas = pen.canvas
    cx, cy, scale = pen.spot((0, 0, y))
    wide, high = rng.uniform(0.9, 1.8), rng.uniform(0.35, 0.8)
    colors = ((_BLUE, _WHITE), (_YELLOW, _GRAY), (_WHITE, _GRAY), (rgb(40, 100, 70), _WHITE))
    color, ink = rng.choice(colors)
    canvas.rectangle(cx, cy, wide * scale, high * scale, ink)
    canvas.rectangle(cx, cy, (wide - 0.06) * scale, (high - 0.06) * scale, color)
    for k in range(int(high / 0.25)):
        start = -wide + 0.2
        stop = start + rng.uniform(0.4, 0.9) * (2 * wide - 0.4)
        row = cy + (-high + 0.28 + 0.42 * k) * scale
        middle, half = (start + stop) / 2 * scale, (stop - start) / 2 * scale
        canvas.rectangle(cx + middle, row, half, 0.09 * scale, ink)
    return high


def _sign(pen: Pen, rng: random.Random, y: float) -> float:
    """A sign by the rules of the road; returns its half height in metres."""
    canvas = pen.canvas
    cx, cy, scale = pen.spot((0, 0, y))
    kind = rng.choice(_KINDS)
    radius = rng.uniform(0.33, 0.42)
    pixels = max(radius * scale, 1.3)
    chosen = rng.choice(_CHOICES[kind]) if kind in _CHOICES else ()
    for name, shape, ink, where in _PARTS:
        if name != kind:
            continue
        color = chosen[ink] if isinstance(ink, int) else ink
        if isinstance(where, list):
            canvas.polygon([(cx + x * pixels, cy + y * pixels) for x, y in where], color)
        else:
            x, y, rx, ry = where
            draw = canvas.ellipse if shape == "ellipse" else canvas.rectangle
            draw(cx + x * pixels, cy + y * pixels, rx * pixels, ry * pixels, color)
    return radius


# ---- what is left over


def box_thing(pen: Pen, rng: random.Random, size: Sequence[float]) -> None:
    """A bin, a cabinet, a kiosk, a poster column: a box of (length, width, height)."""
    color, poster = pick(rng, "plaster", "paint"), pick(rng, "clothes")
    length, width, height = size
    parts = [(0.1 * width, 0.35 * height, 0.9 * width, 0.9 * height, poster)]
    side = panel(color, parts if rng.random() < 0.4 else ())
    pen.box((-length / 2, length / 2), width / 2, 0.0, height, [side] * 3)


def heap(pen: Pen, rng: random.Random) -> None:
    """A sack, a pushcart, a dog: something small that does not stay."""
    color = pick(rng, "clothes")
    size = rng.uniform(0.18, 0.34)
    pen.limb((0, -size, size * 0.9), (0, size, size), color, size * 0.9, size * 0.7)
    if rng.random() < 0.5:
        pen.limb((0, size, size), (0, size * 1.5, size * 2.4), color * 0.8, size * 0.35)
