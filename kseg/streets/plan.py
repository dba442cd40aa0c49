"""The plan of one street, in metres, and its drawing."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable

import numpy as np

from kseg.data.classes import CITYSCAPES
from kseg.streets import surfaces, things
from kseg.streets.drawing import (
    Canvas,
    Color,
    Frame,
    Light,
    Shader,
    clouds,
    grain,
    nearest,
    normal,
    planes,
    rgb,
    sample,
)

_ID = dict(zip(CITYSCAPES.names, CITYSCAPES.file_ids, strict=True)) | {
    # void ids of cityscapesScripts, helpers/labels.py
    "ego vehicle": 1,
    "static": 4,
    "dynamic": 5,
    "parking": 9,
    "rail track": 10,
    "bridge": 15,
}
_FIRST_WITH_INSTANCES = 24

# How often a side of the street has what, by the part of town.
_LOTS = {
    "centre": {"row": 0.86, "wall": 0.04, "park": 0.06, "fence": 0.04},
    "suburb": {"row": 0.22, "garden": 0.44, "wall": 0.12, "park": 0.12, "fence": 0.1},
    "works": {"row": 0.3, "hall": 0.26, "wall": 0.2, "fence": 0.2, "park": 0.04},
    "avenue": {"row": 0.56, "garden": 0.14, "park": 0.16, "wall": 0.07, "fence": 0.07},
    "green": {"park": 0.5, "garden": 0.16, "fence": 0.14, "wall": 0.12, "row": 0.08},
}

_ROAD, _WALK, _CURB, _GRASS, _PARKING, _RAIL = range(6)
_GROUND_IDS = np.array(
    [_ID[n] for n in ("road", "sidewalk", "sidewalk", "terrain", "parking", "rail track")],
    np.uint16,
)

_START, _STOP = -12, 190  # metres along the street that profiles cover


@dataclasses.dataclass
class _Lot:
    """A piece of one side, from ``start`` to ``stop`` metres along the street."""

    kind: str
    side: int
    start: float
    stop: float
    seed: int
    height: float = 0.0
    setback: float = 0.0


@dataclasses.dataclass
class _Thing:
    """What is drawn at a depth, from far to near; ``nearer`` is a part's way to the front.

    Vehicles have a frame and a (length, width), to be before or behind as a whole.
    """

    place: tuple[float, float]
    depth: float
    nearer: float
    value: int
    tint: Color
    draw: Callable[[], object]
    frame: Frame | None = None
    size: tuple[float, float] = (0.0, 0.0)


class Street:
    """One street: its weather, cross-section, lots on both sides, furniture, traffic, people.

    Street coordinates: u metres to the right of the road's middle, v metres ahead of the
    camera. Everything random comes from ``rng`` in an order that does not depend on pixels,
    so a seed is the same street at every size.
    """

    def __init__(self, seed: int, height: int, width: int) -> None:
        self.rng = rng = random.Random(seed)
        side = math.sqrt(2 * height * width)
        self.canvas = Canvas(
            height,
            width,
            focal=side * rng.uniform(0.75, 1.0),
            center=width * rng.uniform(0.46, 0.54),
            horizon=height * rng.uniform(0.37, 0.46),
            eye=rng.uniform(1.3, 1.8),
        )
        self.town = rng.choice(list(_LOTS))
        self.yaw = rng.gauss(0, 0.045)
        self.curve = rng.choice((0, 0, 1)) * rng.gauss(0, 0.0011)
        self.things: list[_Thing] = []
        self.shadows: list[tuple[list[tuple[float, float]], float]] = []
        self.spots: list[tuple[float, float, float, float]] = []
        self.numbers: dict[int, int] = {}
        self.taken: list[tuple[float, float, float, float]] = []
        self._weather()
        self._section()
        self._plan()

    def _weather(self) -> None:
        """Sky, light and haze."""
        rng = self.rng
        kind = rng.choice(("sun", "sun", "sun", "clouds", "clouds", "grey", "evening"))
        angle = rng.uniform(-math.pi, math.pi)
        if kind == "sun":
            self.zenith, self.rim = rgb(96, 140, 200), rgb(192, 208, 222)
            light = (rgb(0.5, 0.53, 0.58), rgb(0.84, 0.8, 0.72), rng.uniform(0.5, 1.8))
            self.haze = rng.uniform(0.0008, 0.003)
        elif kind == "clouds":
            self.zenith, self.rim = rgb(168, 176, 188), rgb(206, 210, 212)
            light = (rgb(0.68, 0.7, 0.73), rgb(0.3, 0.29, 0.27), 0.0)
            self.haze = rng.uniform(0.001, 0.006)
        elif kind == "grey":
            self.zenith, self.rim = rgb(158, 162, 166), rgb(182, 184, 184)
            light = (rgb(0.72, 0.73, 0.74), rgb(0.14, 0.14, 0.13), 0.0)
            self.haze = rng.uniform(0.006, 0.016)
        else:
            self.zenith, self.rim = rgb(108, 118, 158), rgb(222, 184, 150)
            light = (rgb(0.54, 0.53, 0.58), rgb(0.78, 0.62, 0.46), rng.uniform(2.0, 3.2))
            self.haze = rng.uniform(0.001, 0.005)
        self.zenith = self.zenith * rng.uniform(0.85, 1.1)
        self.canvas.veil = self.rim
        self.light = Light(light[0], light[1], angle - self.yaw, light[2])
        self.sun = (math.sin(angle), math.cos(angle))

    def _section(self) -> None:
        """The cross-section: lanes, parked cars, verge, pavement."""
        rng = self.rng
        lane = rng.uniform(2.9, 3.5)
        lanes = rng.choice((1, 1, 1, 1, 1, 2)) if self.town != "avenue" else rng.choice((1, 2))
        tram = rng.random() < {"centre": 0.2, "avenue": 0.32}.get(self.town, 0.06)
        self.median = rng.uniform(1.6, 2.2) if tram else 0.0
        if not tram and self.town == "avenue" and rng.random() < 0.4:
            self.median = rng.uniform(0.8, 2.5)
        self.tram = tram
        self.median_kind = _RAIL if tram and rng.random() < 0.6 else _ROAD if tram else _GRASS
        self.parked = {s: rng.random() < 0.4 for s in (-1, 1)}
        strip = 2.1 if any(self.parked.values()) else 0.3
        self.half = self.median + lane * lanes + strip
        self.strip = strip
        self.parking_ground = strip > 1 and rng.random() < 0.22
        self.lane, self.lanes = lane, lanes
        self.verge = rng.uniform(1.0, 2.4) if rng.random() < 0.2 else 0.0
        self.front = self.half + self.verge + rng.uniform(2.0, 4.4)
        self.own = self.median + lane * (0.5 + (lanes - 1) * rng.choice((0, 1)))
        self.own += rng.gauss(0, 0.2)
        self.end = rng.uniform(55, 110) if rng.random() < 0.35 else _STOP
        self.crossings: list[tuple[float, float]] = []
        if rng.random() < 0.55:
            start = rng.uniform(14, 60)
            if start + 25 < self.end:
                self.crossings.append((start, start + rng.uniform(6, 10)))
        if self.end < _STOP:
            self.crossings.append((self.end - 9, self.end))

    # -- geometry

    def place(self, u: float, v: float) -> tuple[float, float]:
        """Street to camera coordinates."""
        x = u - self.own + self.curve * max(v, 0) ** 2
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        return x * cos - v * sin, x * sin + v * cos

    def frame(self, u: float, v: float, heading: float = 0.0) -> Frame:
        """A frame whose heading is relative to the street."""
        course = math.atan(2 * self.curve * max(v, 0))
        return Frame(*self.place(u, v), course - self.yaw + heading)

    def crossing(self, v: float, margin: float = 0.0) -> bool:
        """Whether a side street meets this one at v."""
        return any(v0 - margin < v < v1 + margin for v0, v1 in self.crossings)

    def shaded(self, u: float, v: float) -> bool:
        """Whether a house keeps the sun from a place on the ground."""
        for side in (-1, 1):
            across = side * self.sun[0]
            if self.light.slope and across > 0.08:
                way = (self.front - side * u) / across
                at = min(max(int(v + way * self.sun[1]) - _START, 0), _STOP - _START - 1)
                if way > 0 and self.heights[side][at] > way / self.light.slope:
                    return True
        return False

    # -- the plan

    def _plan(self) -> None:
        """Fills the lists of lots, things and shadows."""
        self.lots = [lot for side in (-1, 1) for lot in self._lots(side)]
        cells = _STOP - _START
        self.heights = {side: np.zeros(cells, np.float32) for side in (-1, 1)}
        self.yards = {side: np.full(cells, _GRASS, np.uint8) for side in (-1, 1)}
        for lot in self.lots:
            span = slice(max(int(lot.start) - _START, 0), max(int(lot.stop) - _START, 0))
            if lot.kind in ("row", "hall"):
                self.heights[lot.side][span] = lot.height
            if lot.kind in ("row", "hall", "wall"):
                self.yards[lot.side][span] = _WALK
        self._furniture()
        self._traffic()
        self._people()

    def _lots(self, side: int) -> list[_Lot]:
        rng = self.rng
        weights = _LOTS[self.town]
        base = rng.uniform(9, 20) if self.town in ("centre", "avenue") else rng.uniform(5.5, 11)
        lots, v = [], float(_START)
        edges = [*self.crossings, (self.end, self.end)]
        while v < self.end - 1:
            blocked = next((c for c in edges if c[1] > v), edges[-1])
            if v >= blocked[0] - 1:
                v = blocked[1] + 0.01
                continue
            kind = rng.choices(list(weights), list(weights.values()))[0]
            length = min(rng.uniform(8, 22), blocked[0] - v)
            if blocked[0] - v - length < 5:
                length = blocked[0] - v
            lots.append(
                _Lot(
                    kind,
                    side,
                    v,
                    v + length,
                    rng.getrandbits(32),
                    height=max(4.5, base * rng.uniform(0.75, 1.3)),
                    setback=rng.uniform(3, 8) if kind == "garden" else 0.0,
                )
            )
            v += length
        return lots

    def add(
        self,
        name: str,
        place: tuple[float, float],
        draw: Callable[[random.Random, Light], object],
        *,
        at: tuple[float, float] | None = None,
        nearer: float = 0.0,
        frame: Frame | None = None,
        size: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """Something to draw at a place in camera space; ``at`` is the same in the street.

        Things of one depth are drawn in the order of their adding.
        """
        light = self.light.shaded() if at is not None and self.shaded(*at) else self.light
        rng = random.Random(self.rng.getrandbits(32))
        value = _ID[name]
        if value >= _FIRST_WITH_INSTANCES:
            number = self.numbers.get(value, 0)
            self.numbers[value] = number + 1
            value = value * 1000 + number
        self.things.append(
            _Thing(
                place,
                place[1],
                nearer,
                value,
                light.around(),
                lambda: draw(rng, light),
                frame,
                size,
            )
        )

    def free(self, u: float, v: float, half_u: float, half_v: float) -> bool:
        """Takes a rectangle of the ground, if nothing else has."""
        mine = (u - half_u, u + half_u, v - half_v, v + half_v)
        for other in self.taken:
            if (
                mine[0] < other[1]
                and other[0] < mine[1]
                and mine[2] < other[3]
                and other[2] < mine[3]
            ):
                return False
        self.taken.append(mine)
        return True

    def cast(self, u: float, v: float, half: float, height: float) -> None:
        """The shadow of something upright on the ground, and a dim spot below it."""
        x, z = self.place(u, v)
        self.spots.append((x, z, 1.4 * half, 0.72))
        if self.light.slope and not self.shaded(u, v):
            length = height * self.light.slope
            sx, sz = self.light.toward
            far = (x - sx * length, z - sz * length)
            self.shadows.append(
                (
                    [
                        (x - sz * half, z + sx * half),
                        (far[0] - sz * half, far[1] + sx * half),
                        (far[0] + sz * half, far[1] - sx * half),
                        (x + sz * half, z - sx * half),
                    ],
                    0.55,
                )
            )

    def cast_box(
        self, frame: Frame, at: tuple[float, float], size: tuple[float, float, float]
    ) -> None:
        """The shadow of a vehicle of (length, width, height)."""
        self.shadows.append((_footprint(frame, size[0] * 1.04, size[1] * 1.12), 0.42))
        if self.light.slope and not self.shaded(*at):
            length = size[2] * self.light.slope * 0.9
            sx, sz = self.light.toward
            corners = _footprint(frame, size[0], size[1])
            moved = [(x - sx * length, z - sz * length) for x, z in corners]
            self.shadows.append((_hull(corners + moved), 0.55))

    def _furniture(self) -> None:
        """Street trees, lamps, signs, traffic lights, bins, parked bicycles."""
        rng = self.rng
        last = min(self.end - 10, 120)
        for side in (-1, 1):
            edge = side * (self.half + 0.55)
            trees = rng.random() < {"avenue": 0.8, "green": 0.5, "suburb": 0.35}.get(self.town, 0.3)
            pitch = rng.uniform(9, 18)
            tall = rng.uniform(5.5, 11)
            v = rng.uniform(6, 6 + pitch)
            while trees and v < last:
                if not self.crossing(v, 4) and rng.random() < 0.85:
                    self._tree(edge + side * self.verge * 0.3, v, tall * rng.uniform(0.8, 1.2))
                v += pitch * rng.uniform(0.9, 1.1)
            pitch, v = rng.uniform(18, 32), rng.uniform(5, 25)
            lamps = rng.random() < 0.75
            while lamps and v < last:
                if not self.crossing(v, 2):
                    u = edge - side * 0.15
                    x, z = self.place(u, v)
                    self.cast(u, v, 0.08, 6)
                    self.add("pole", (x, z), self._lamp(x, z, -side), at=(u, v))
                v += pitch
            for _ in range(rng.choice((0, 1, 1, 2, 2, 3))):
                self._sign(edge + rng.uniform(-0.1, 0.3) * side, rng.uniform(7, 55))
            if rng.random() < 0.3:
                self._bollards(side)
            if rng.random() < 0.16:
                self._barrier(side)
            for _ in range(rng.choice((0, 0, 1, 1, 2))):
                self._bin(side)
            for _ in range(rng.choice((0, 1, 1, 2))):
                self._rack(side)
        for start, stop in self.crossings:
            if start < 70 and rng.random() < 0.9:
                self._signals(start, stop)
        if rng.random() < 0.35:
            self._signals(rng.uniform(14, 40), None)
        if rng.random() < 0.05 and self.end > 60:
            self._bridge(rng.uniform(28, 50))

    def _lamp(self, x: float, z: float, side: int) -> Callable:
        return lambda rng, light: things.lamp(self.canvas, x, z, side, rng)

    def _tree(self, u: float, v: float, height: float) -> None:
        if not self.free(u, v, 0.4, 1.0):
            return
        x, z = self.place(u, v)
        if z < 5:
            return
        if self.light.slope and not self.shaded(u, v):
            sx, sz = self.light.toward
            self.cast(u, v, 0.15, height * 0.4)
            for part, reach in ((0.45, 0.26), (0.62, 0.3), (0.8, 0.22)):
                away = height * part * self.light.slope
                self.spots.append((x - sx * away, z - sz * away, reach * height, 0.74))
        else:
            self.cast(u, v, 0.3, height)
        self.add(
            "vegetation",
            (x, z),
            lambda rng, light: things.tree(self.canvas, x, z, height, light, rng),
            at=(u, v),
        )

    def _sign(self, u: float, v: float) -> None:
        rng = self.rng
        if self.crossing(v) or v > self.end - 10 or not self.free(u, v, 0.3, 0.6):
            return
        x, z = self.place(u, v)
        if z < 4:
            return
        large = v > 16 and rng.random() < 0.14
        high = rng.uniform(2.1, 2.7)
        shift = 0.9 if large else 0.0
        top = high + (0.9 if large else 0.35)
        self.cast(u, v, 0.05, top)

        def post(rng: random.Random, light: Light) -> None:
            color = surfaces.pick(rng, surfaces.POLE)
            for dx in (-shift, shift) if large else (0.0,):
                things.pole(self.canvas, x + dx, z, top, 0.045, color)

        self.add("pole", (x, z), post, at=(u, v))
        if rng.random() < 0.1:  # its back, which has no class of its own but the pole's
            return
        count = 1 if large else rng.choice((1, 1, 1, 2))

        def plate(rng: random.Random, light: Light) -> None:
            y = high + (0.35 if large else 0.0)
            for _ in range(count):
                half = things.traffic_sign(self.canvas, x, y, z, rng, large=large)
                y -= 2.1 * half

        self.add("traffic sign", (x, z), plate, at=(u, v), nearer=0.01)

    def _signals(self, start: float, stop: float | None) -> None:
        """Traffic lights before a crossing, on both sides and perhaps above the road."""
        rng, canvas = self.rng, self.canvas
        arm = rng.random() < 0.3
        for side in (-1, 1):
            u, v = side * (self.half + 0.4), start - 1.0
            if side < 0 and rng.random() < 0.4:
                v = (stop or start + 4) + 1.0
            x, z = self.place(u, v)
            if z < 8 or not self.free(u, v, 0.25, 0.4):
                continue
            high = rng.uniform(2.3, 2.9)
            reach = -side * rng.uniform(2.5, 4.5) if arm and side > 0 else 0.0
            back = side < 0 and rng.random() < 0.3
            self.cast(u, v, 0.08, high)

            def post(rng, light, x=x, z=z, high=high, reach=reach) -> None:
                color = surfaces.pick(rng, surfaces.POLE)
                things.pole(canvas, x, z, 5.6 if reach else high + 0.6, 0.08, color)
                if reach:
                    canvas.limb((x, 5.5, z), (x + reach, 5.7, z), color, 0.08)

            def head(rng, light, x=x, z=z, high=high, reach=reach, back=back) -> None:
                things.traffic_light(canvas, x, high, z, rng, back=back)
                if reach:
                    things.traffic_light(canvas, x + reach * 0.95, 5.3, z, rng, back=back)

            self.add("pole", (x, z), post, at=(u, v))
            self.add("traffic light", (x, z), head, at=(u, v), nearer=0.01)

    def _bollards(self, side: int) -> None:
        start = self.rng.uniform(6, 30)
        color = surfaces.pick(self.rng, [*surfaces.POLE, (170, 60, 50), (200, 198, 190)])
        for k in range(self.rng.randrange(3, 8)):
            u, v = side * (self.half + 0.35), start + 1.6 * k
            if self.crossing(v) or not self.free(u, v, 0.15, 0.15):
                continue
            x, z = self.place(u, v)
            if z < 4:
                continue
            self.cast(u, v, 0.08, 0.9)
            self.add(
                "pole",
                (x, z),
                lambda rng, light, x=x, z=z: things.pole(self.canvas, x, z, 0.95, 0.075, color),
                at=(u, v),
            )

    def _barrier(self, side: int) -> None:
        """A railing along the kerb, in pieces so that others may stand before and behind."""
        rng = self.rng
        start, count = rng.uniform(7, 30), rng.randrange(4, 12)
        height = rng.uniform(0.95, 1.2)
        shader = surfaces.fence(random.Random(rng.getrandbits(32)), height)
        u = side * (self.half + 0.3)
        for k in range(count):
            v0, v1 = start + 2 * k, start + 2 * k + 2
            if self.crossing(v0, 2) or v1 > self.end - 10 or not self.free(u, v0 + 1, 0.1, 0.9):
                continue
            p0, p1 = self.place(u, v0), self.place(u, v1)
            middle = ((p0[0] + p1[0]) / 2, (p0[1] + p1[1]) / 2)
            self.add(
                "fence",
                middle,
                lambda rng, light, p0=p0, p1=p1: self.canvas.wall(
                    p0, p1, 0.05, height, shader, both=True
                ),
                at=(u, v0),
            )

    def _bin(self, side: int) -> None:
        rng = self.rng
        u, v = side * rng.uniform(self.half + 0.6, self.front - 0.6), rng.uniform(7, 45)
        sizes = [(0.5, 0.5, 1.0), (0.7, 0.9, 1.2), (0.4, 0.9, 1.3)]
        if v > 16:
            sizes += [(1.0, 1.0, 2.8), (1.2, 3.0, 2.4)]
        size = rng.choice(sizes)
        if self.crossing(v, 2) or not self.free(u, v, size[1] / 2, size[0] / 2):
            return
        frame = self.frame(u, v)
        if frame.z < 6:
            return
        self.cast_box(frame, (u, v), size)
        self.add(
            "static",
            (frame.x, frame.z),
            lambda rng, light: things.box_thing(self.canvas, frame, light, rng, size),
            at=(u, v),
        )

    def _rack(self, side: int) -> None:
        """Parked bicycles or motorcycles in a row."""
        rng = self.rng
        name = "bicycle" if rng.random() < 0.68 else "motorcycle"
        v = rng.uniform(6, 32)
        heading = rng.choice((math.pi / 2, rng.uniform(0.6, 2.5), 0.0)) * rng.choice((-1, 1))
        u = side * (self.half + rng.uniform(0.9, 1.4))
        for _ in range(rng.choice((1, 1, 2, 3, 4))):
            v += rng.uniform(0.7, 1.4) if abs(math.sin(heading)) > 0.5 else 2.2
            self._cycle(name, u, v, heading + rng.gauss(0, 0.12), None)

    def _cycle(self, name: str, u: float, v: float, heading: float, who: str | None) -> None:
        wide = 0.35 + 0.5 * abs(math.sin(heading))
        long = 0.35 + 0.5 * abs(math.cos(heading))
        if (self.crossing(v, 1) and who is None) or not self.free(u, v, wide, long):
            return
        frame = self.frame(u, v, heading)
        if frame.z < 4.5:
            return
        self.cast_box(frame, (u, v), (1.5, 0.3, 1.7 if who else 0.9))
        draw = things.bicycle if name == "bicycle" else things.motorcycle
        self.add(
            name,
            (frame.x, frame.z),
            lambda rng, light: draw(self.canvas, frame, rng),
            at=(u, v),
        )
        if who:
            low = name == "motorcycle"
            self.add(
                "rider",
                (frame.x, frame.z),
                lambda rng, light: things.rider(self.canvas, frame, rng, low=low),
                at=(u, v),
                nearer=0.01,
            )

    def _bridge(self, v: float) -> None:
        rng = self.rng
        low, thick = rng.uniform(4.6, 5.4), rng.uniform(1.0, 1.8)
        p0, p1 = self.place(-self.front, v), self.place(self.front, v)
        shader = surfaces.blind_side(random.Random(rng.getrandbits(32)))
        wide = rng.uniform(4, 9)
        strip = [self.place(u, w) for u, w in ((-30, v), (30, v), (30, v + wide), (-30, v + wide))]
        self.shadows.append((strip, 0.55))
        for side in (-1, 1):
            u = side * (self.front - 0.6)
            q0, q1 = self.place(u - 0.6, v + 1), self.place(u + 0.6, v + 1)
            self.add(
                "bridge",
                ((q0[0] + q1[0]) / 2, (q0[1] + q1[1]) / 2),
                lambda rng, light, q0=q0, q1=q1: self.canvas.wall(q0, q1, 0, low, shader),
            )
        self.add(
            "bridge",
            ((p0[0] + p1[0]) / 2, (p0[1] + p1[1]) / 2),
            lambda rng, light: self.canvas.wall(p0, p1, low, low + thick, shader),
        )

    def _vehicle(self, name: str, u: float, v: float, heading: float) -> None:
        rough = {"car": (4.6, 1.9, 1.5), "truck": (8.5, 2.5, 3.2), "bus": (12, 2.6, 3.1)}
        size = rough.get(name, (30, 2.5, 3.4))
        across, along = abs(math.sin(heading)), abs(math.cos(heading))
        half_u = (size[0] * across + size[1] * along) / 2
        half_v = (size[0] * along + size[1] * across) / 2
        frame = self.frame(u, v, heading)
        nearest_z = min(z for _, z in _footprint(frame, size[0], size[1]))
        if (
            nearest_z < 3.5
            or v + half_v > self.end + 6
            or not self.free(u, v, half_u + 0.15, half_v + 0.5)
        ):
            return
        self.cast_box(frame, (u, v), size)
        draw = things.VEHICLES[name]
        self.add(
            name,
            (frame.x, frame.z),
            lambda rng, light: draw(self.canvas, frame, light, rng),
            at=(u, v),
            frame=frame,
            size=size[:2],
        )

    def _traffic(self) -> None:
        """Trams, large vehicles, parked and moving cars, riders."""
        rng = self.rng
        if self.tram and rng.random() < 0.85:
            toward = rng.random() < 0.5
            u = (-0.5 if toward else 0.5) * self.median * 0.9
            self._vehicle("train", u, rng.uniform(24, 60), math.pi if toward else 0.0)
        elif not self.tram and rng.random() < 0.05 and self.crossings:
            start, stop = self.crossings[0]
            self._vehicle("train", rng.uniform(-9, 9), (start + stop) / 2, math.pi / 2)
        lanes = [self.median + self.lane * (k + 0.5) for k in range(self.lanes)]
        for name, chance in (("bus", 0.2), ("truck", 0.26 if self.town != "works" else 0.5)):
            if rng.random() < chance:
                toward = rng.random() < 0.5
                u = rng.choice(lanes) * (-1 if toward else 1)
                self._vehicle(name, u, rng.uniform(13, 60), math.pi if toward else 0.0)
        density = rng.choice((0.2, 0.6, 1.0))
        for side in (-1, 1):
            if self.parked[side]:
                v = rng.uniform(3, 12)
                fill = rng.uniform(0.35, 0.95)
                while v < min(self.end - 14, 100):
                    if rng.random() < fill and not self.crossing(v, 5):
                        u = side * (self.half - 1.0)
                        kind = "truck" if rng.random() < 0.02 else "car"
                        turn = 0 if side > 0 or rng.random() < 0.3 else math.pi
                        self._vehicle(kind, u, v, turn + rng.gauss(0, 0.02))
                    v += rng.uniform(5.3, 6.4)
            for lane in lanes:
                v = rng.uniform(9, 28)
                while v < min(self.end, 100):
                    if rng.random() < density:
                        u = side * lane + rng.gauss(0, 0.15)
                        self._vehicle(
                            "car", u, v, rng.gauss(0, 0.03) + (math.pi if side < 0 else 0)
                        )
                    v += rng.uniform(9, 24)
        for start, stop in self.crossings:
            if start < 60 and rng.random() < 0.35:
                turn = rng.choice((-1, 1)) * math.pi / 2 + rng.gauss(0, 0.15)
                name = "car" if rng.random() < 0.85 else "bus"
                self._vehicle(name, rng.uniform(-9, 9), (start + stop) / 2, turn)
        for _ in range(rng.choice((0, 0, 1, 1, 2))):
            side = rng.choice((-1, 1))
            u = side * (self.half - self.strip - rng.uniform(0.3, 0.9))
            name = "bicycle" if rng.random() < 0.68 else "motorcycle"
            turn = 0 if side > 0 else math.pi
            if rng.random() < 0.12:
                turn = rng.choice((-1, 1)) * math.pi / 2
            self._cycle(name, u, rng.uniform(7, 34), turn + rng.gauss(0, 0.15), "rider")

    def _people(self) -> None:
        """People on the pavement, alone and in groups, and some who cross the road."""
        rng = self.rng
        crowd = rng.choice((1, 3, 6, 10)) * (1.6 if self.town == "centre" else 1)
        for _ in range(int(crowd)):
            side = rng.choice((-1, 1))
            u = side * rng.uniform(self.half + 0.5, max(self.front - 0.4, self.half + 0.6))
            v = 6 + 50 * rng.random() ** 1.4
            for _ in range(rng.choice((1, 1, 1, 2, 2, 3))):
                turn = rng.choice((0, math.pi)) + rng.gauss(0, 0.3)
                self._person(u + rng.uniform(-0.5, 0.5), v + rng.uniform(-0.6, 0.6), turn)
        for _ in range(rng.choice((0, 0, 0, 1, 2, 3))):
            v = rng.uniform(9, 35)
            if self.crossings and self.crossings[0][0] < 40:
                v = self.crossings[0][0] - rng.uniform(1, 3.5)
            turn = rng.choice((-1, 1)) * math.pi / 2
            self._person(rng.uniform(-self.half, self.half), v, turn + rng.gauss(0, 0.2))
        if rng.random() < 0.35:
            self._heap()

    def _heap(self) -> None:
        side = self.rng.choice((-1, 1))
        u = side * self.rng.uniform(self.half + 0.5, self.front - 0.3)
        v = self.rng.uniform(6, 25)
        x, z = self.place(u, v)
        if z > 5 and self.free(u, v, 0.3, 0.3):
            self.cast(u, v, 0.3, 0.5)
            self.add(
                "dynamic",
                (x, z),
                lambda rng, light: things.heap(self.canvas, x, z, rng),
                at=(u, v),
            )

    def _person(self, u: float, v: float, heading: float) -> None:
        if v > self.end - 1 or not self.free(u, v, 0.25, 0.25):
            return
        frame = self.frame(u, v, heading)
        if frame.z < 4.5:
            return
        self.cast(u, v, 0.22, 1.7)
        self.add(
            "person",
            (frame.x, frame.z),
            lambda rng, light: things.person(self.canvas, frame, rng),
            at=(u, v),
        )

    # -- the drawing

    def draw(self) -> tuple[np.ndarray, np.ndarray]:
        """The image (H, W, 3) uint8 and its instance ids (H, W) uint16."""
        self._sky()
        self._skyline()
        self._ground()
        for corners, factor in self.shadows:
            self.canvas.darken(corners, factor)
        for x, z, radius, factor in self.spots:
            self.canvas.dim(x, z, radius, factor)
        self._ground_haze()
        if self.end < _STOP:
            self._facing()
        for lot in sorted(self.lots, key=lambda lot: -lot.start):
            self._lot(lot)
        self._order()
        for thing in self.things:
            self.canvas.start(thing.value, thing.place[1], thing.tint)
            thing.draw()
        if self.rng.random() < 0.6:
            self._bonnet()
        return self._photograph(), self.canvas.ids

    def _order(self) -> None:
        """Sorts the things from far to near, each on the right side of every vehicle."""
        vehicles = [thing for thing in self.things if thing.frame is not None]
        for vehicle in sorted(vehicles, key=lambda thing: -thing.depth):
            length, width = (side / 2 + 0.2 for side in vehicle.size)
            eye = vehicle.frame.local(0, 0)
            for thing in self.things:
                a, b = vehicle.frame.local(*thing.place)
                if thing is vehicle or (abs(a) > length and abs(b) > width):
                    continue
                before = b * eye[1] > 0 if abs(a) <= length else a * eye[0] > 0
                if before != (thing.depth < vehicle.depth):
                    thing.depth = vehicle.depth + (-0.05 if before else 0.05)
        self.things.sort(key=lambda thing: thing.nearer - thing.depth)

    def _sky(self) -> None:
        canvas, rng = self.canvas, self.rng
        rows = max(min(math.ceil(canvas.horizon + 1), canvas.height), 1)
        up = np.clip((canvas.horizon - canvas.ys[:rows]) / canvas.focal, 0, None)[:, None]
        blend = np.clip(up * 2.6, 0, 1)
        color = planes(self.rim) + planes(self.zenith - self.rim) * blend
        across = (canvas.xs - canvas.center)[None, :] / canvas.focal
        lift = 1 / (up + 0.12)
        ox, oy = rng.random() * 256, rng.random() * 256
        wide = rng.uniform(10, 26)
        noise = sample(clouds(), across * lift * wide + ox, lift * wide * 1.6 + oy)
        cover = rng.uniform(-0.3, 0.7)
        amount = np.clip((noise + cover) * 0.8, 0, 1) * rng.uniform(0.4, 1.0)
        white = planes(self.rim * 1.06 + 8)
        color = color + amount * (white * (0.92 + 0.1 * noise) - color)
        canvas.rgb[:, :rows] = color
        canvas.rgb[:, rows:] = planes(self.rim)
        canvas.ids[:] = _ID["sky"]
        canvas.haze = self.haze

    def _skyline(self) -> None:
        """Far houses and woods along the horizon."""
        canvas, rng = self.canvas, self.rng
        depth = 170.0
        along = ((canvas.xs - canvas.center) / canvas.focal * depth).astype(np.float32)
        ox = rng.random() * 256
        rows = max(min(math.ceil(canvas.horizon + 1), canvas.height), 1)
        y = canvas.eye - (canvas.ys[:rows] - canvas.horizon)[:, None] * (depth / canvas.focal)
        leaf = surfaces.pick(rng, [(70, 84, 58), (88, 96, 60), (96, 92, 66)])
        stone = surfaces.pick(rng, [(150, 146, 140), (120, 112, 108), (170, 156, 140)])
        high = rng.uniform(4, 16)
        canvas.tint = self.light.ambient
        if rng.random() < 0.7:
            block = np.floor(along / 9)
            dice = nearest(grain(), block + 512 + ox, block * 0 + 7)
            top = high * (0.4 + dice) * (dice > 0.25)
            canvas.start(_ID["building"], depth)
            tone = 0.8 + 0.4 * nearest(grain(), block + 600, block * 0 + 9)
            windows = (along * 0.5 - np.floor(along * 0.5) < 0.5)[None, :] & (
                y / 3 - np.floor(y / 3) < 0.5
            )
            lum = tone[None, :] * np.where(windows, 0.75, 1.0)
            canvas.paint(0, 0, y < top[None, :], planes(stone * self.light.ambient) * lum)
        hill = sample(clouds(), along * 0.25 + ox, along * 0 + 3.5)
        edge = nearest(clouds(), along * 4 + ox + 512, along * 0 + 60)
        top = high * (0.45 + 0.5 * hill) + 0.9 * edge
        canvas.start(_ID["vegetation"], depth)
        texture = nearest(clouds(), along[None, :] * 3 + 1024, y * 3 + 1024)
        lum = 0.9 + 0.22 * texture
        canvas.paint(0, 0, y < top[None, :], planes(leaf * self.light.ambient) * lum)

    def _ground(self) -> None:
        """Road, pavement, verges and yards, with markings and the shadows of houses."""
        canvas, rng = self.canvas, self.rng
        first = max(min(math.floor(canvas.horizon) + 1, canvas.height), 0)
        ys = canvas.ys[first:]
        if not len(ys):
            return
        z = canvas.eye * canvas.focal / np.maximum(ys - canvas.horizon, 0.02)[:, None]
        x = (canvas.xs - canvas.center)[None, :] * (z / canvas.focal)
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        v = z * np.float32(cos) - x * np.float32(sin)
        u = x * np.float32(cos) + z * np.float32(sin)
        u += np.float32(self.own) - np.float32(self.curve) * v * v
        metre = z / canvas.focal  # of a pixel, across
        cell = np.clip(v - _START, 0, _STOP - _START - 1).astype(np.int32)
        side = np.where(u < 0, self.yards[-1][cell], self.yards[1][cell])
        out = np.abs(u) - self.half
        kind = np.where(out > self.front - self.half, side, _WALK).astype(np.uint8)
        if self.verge:
            kind[(out > 0.2) & (out < self.verge)] = _GRASS
        kind[out < 0.16] = _CURB
        kind[out < 0] = _ROAD
        if self.parking_ground:
            kind[(out < 0) & (out > -self.strip)] = _PARKING
        if self.median:
            middle = np.abs(u) < self.median
            kind[middle] = self.median_kind
            if self.median_kind == _GRASS:
                kind[middle & (np.abs(u) > self.median - 0.15)] = _CURB
        for v0, v1 in self.crossings:
            kind[(v > v0) & (v < v1)] = _ROAD

        road = surfaces.pick(
            rng, [(92, 92, 94), (110, 108, 106), (74, 76, 80), (122, 116, 110), (104, 96, 94)], 0.03
        )
        walk = surfaces.pick(
            rng,
            [(132, 130, 126), (112, 112, 112), (146, 138, 126), (126, 112, 104), (98, 98, 100)],
            0.03,
        )
        grass = surfaces.pick(
            rng, [(84, 98, 48), (104, 108, 58), (122, 112, 74), (70, 84, 44), (112, 98, 78)]
        )
        table = np.stack(
            [
                road,
                walk,
                walk * rng.uniform(1.05, 1.3),
                grass,
                surfaces.pick(rng, [(112, 108, 104), (124, 104, 94), (96, 96, 98)]),
                surfaces.pick(rng, [(104, 96, 88), (92, 102, 58), (118, 114, 108)]),
            ],
            1,
        )
        paved = (kind == _WALK) | (kind == _PARKING)
        near = np.clip(1.3 - metre * 14, 0, 1)
        slab = rng.choice((0.4, 0.6, 1.0))
        ou, ov = rng.random() * 256, rng.random() * 256
        coarse = nearest(clouds(), u * 7 + (ou + 4096), v * 3 + (ov + 256))
        fine = nearest(grain(), u * 46 + 8192, v * 46 + 8192) - 0.5
        lum = 1 + 0.08 * coarse
        lum += fine * np.clip(1.2 - metre * 30, 0.15, 1) * np.where(kind == _GRASS, 0.5, 0.2)
        lum += (kind == _GRASS) * 0.14 * coarse
        joint = (u / slab - np.floor(u / slab) < 0.1) | (v / slab - np.floor(v / slab) < 0.1)
        lum -= (joint & paved) * (0.2 * near)
        if rng.random() < 0.6:  # the tracks of the wheels
            track = np.abs(np.abs(u - np.float32(self.own)) - 0.8) < 0.3
            lum += (track & (kind == _ROAD)) * np.float32(rng.uniform(-0.07, 0.07))
        if self.tram:
            rails = np.abs(np.abs(np.abs(u) - self.median * 0.47) - 0.72)
            cover = np.clip((0.06 - rails) / metre + 0.5, 0, 1) * np.minimum(1, 0.12 / metre)
            lum -= 0.35 * cover * (np.abs(u) < self.median)
        color = table.take(kind, 1) * lum
        self._markings(color, kind, u, v, metre)
        light = planes(self.light.above())
        if self.light.slope:
            shade = np.zeros(u.shape, bool)
            for s in (-1, 1):
                across = s * self.sun[0]
                if across > 0.08:
                    way = np.maximum((self.front - s * u) / across, 0)
                    at = np.clip(v + way * self.sun[1] - _START, 0, _STOP - _START - 1)
                    shade |= self.heights[s][at.astype(np.int32)] > way / self.light.slope
            light = np.where(shade, planes(self.light.shaded().above()), light)
        canvas.rgb[:, first:] = color * light
        canvas.ids[first:] = _GROUND_IDS[kind]
        for _ in range(rng.randrange(0, 9)):  # patches and manholes
            at_u, at_v = rng.uniform(-self.half, self.half), rng.uniform(4, 30)
            wide, long = rng.choice(((0.35, 0.35), (rng.uniform(0.3, 1.6), rng.uniform(0.8, 5))))
            corners = ((-wide, -long), (wide, -long), (wide, long), (-wide, long))
            canvas.darken(
                [self.place(at_u + a, at_v + b) for a, b in corners], rng.uniform(0.8, 1.1)
            )

    def _ground_haze(self) -> None:
        canvas = self.canvas
        first = max(min(math.floor(canvas.horizon) + 1, canvas.height), 0)
        z = canvas.eye * canvas.focal / np.maximum(canvas.ys[first:] - canvas.horizon, 0.02)
        ground = canvas.rgb[:, first:]
        ground -= planes(self.rim)
        ground *= canvas.clearness(np.minimum(z, 400))[:, None]
        ground += planes(self.rim)

    def _markings(
        self, color: np.ndarray, kind: np.ndarray, u: np.ndarray, v: np.ndarray, metre: np.ndarray
    ) -> None:
        """Paints lines on ``color``, as wide as they are and no wider."""
        rng = self.rng
        strength = rng.uniform(0.35, 0.95)
        paint = rgb(206, 206, 200)
        cover = np.zeros(u.shape, np.float32)

        def line(at: float, width: float, dash: float, gap: float) -> None:
            part = np.clip((width / 2 - np.abs(u - at)) / metre + 0.5, 0, 1)
            part *= np.minimum(1, width / metre)
            if gap:
                phase = (v + dash) / (dash + gap)
                part *= phase - np.floor(phase) < dash / (dash + gap)
            np.maximum(cover, part, out=cover)

        dash, gap = rng.choice(((3, 6), (4, 4), (1.5, 1.5), (6, 0)))
        if not self.median and rng.random() < 0.75:
            line(0.0, 0.14, dash, gap)
        for k in range(1, self.lanes):
            for s in (-1, 1):
                line(s * (self.median + self.lane * k), 0.14, 3, 6)
        if rng.random() < 0.5:
            for s in (-1, 1):
                edge = self.median + self.lane * self.lanes
                line(s * edge, 0.13, 1, 0 if self.strip < 1 else 1)
        for v0, v1 in self.crossings:
            cover[(v > v0 - 4.5) & (v < v1 + 1)] = 0
        zebras = [v0 - 4 for v0, _ in self.crossings if rng.random() < 0.7]
        if rng.random() < 0.18:
            zebras.append(rng.uniform(9, 30))
        for at in zebras:
            stripes = (u - np.floor(u) < 0.5) & (v > at) & (v < at + 3.2)
            cover[stripes] = 1
            if rng.random() < 0.6:
                cover[(v > at - 1.4) & (v < at - 1.0) & (u > self.median)] = 1
        worn = nearest(clouds(), u * 18 + 4096, v * 18 + 4096)
        cover *= np.clip(strength + 0.3 * worn, 0, 1) * (kind == _ROAD)
        color += cover * (planes(paint) - color)

    def _facing(self) -> None:
        """What stands across the end of the street."""
        rng, canvas = self.rng, self.canvas
        base, u = rng.uniform(6, 15), -70.0
        # what the eye meets: a front turned to the camera
        facing = self.light.on(math.sin(self.yaw), -math.cos(self.yaw))
        green = rng.random() < 0.3
        while u < 70:
            wide = rng.uniform(9, 20)
            left, right = self.place(u, self.end), self.place(u + wide, self.end)
            canvas.start(_ID["building"], right[1], facing)
            height = base * rng.uniform(0.8, 1.25)
            if green and rng.random() < 0.6:
                x, z = self.place(u + wide / 2, self.end + 3)
                canvas.start(_ID["vegetation"], z)
                things.tree(canvas, x, z, height, self.light, random.Random(rng.getrandbits(32)))
                things.tree(
                    canvas,
                    x + 5,
                    z - 2,
                    height * 0.8,
                    self.light,
                    random.Random(rng.getrandbits(32)),
                )
            else:
                shader = surfaces.facade(random.Random(rng.getrandbits(32)), height, wide)
                canvas.wall(left, right, 0, height, shader)
            u += wide

    def _lot(self, lot: _Lot) -> None:
        """A lot from its back to its front line."""
        rng = random.Random(lot.seed)
        if lot.kind in ("row", "hall", "garden"):
            self._house(lot, rng)
        if lot.kind != "row":
            if lot.kind in ("park", "garden", "wall", "fence"):
                self._plants(lot, rng)
            self._border(lot, rng)

    def _along(
        self,
        name: str,
        side: int,
        out: float,
        span: tuple[float, float],
        height: float,
        shader: Shader,
    ) -> None:
        """A vertical face along one side of the street that looks at it."""
        ends = (span[1], span[0]) if side > 0 else span
        left, right = (self.place(side * out, v) for v in ends)
        normal = self.frame(0, span[0]).right
        tint = self.light.on(-side * normal[0], -side * normal[1])
        self.canvas.start(_ID[name], (left[1] + right[1]) / 2, tint)
        self.canvas.wall(left, right, 0, height, shader)

    def _across(
        self, name: str, side: int, outs: tuple[float, float], v: float, height, shader: Shader
    ) -> None:
        """A vertical face that looks back along the street."""
        near, far = (self.place(side * out, v) for out in outs)
        left, right = (near, far) if side > 0 else (far, near)
        ahead = self.frame(0, v).ahead
        self.canvas.start(_ID[name], left[1], self.light.on(-ahead[0], -ahead[1]))
        self.canvas.wall(left, right, 0, height, shader)

    def _house(self, lot: _Lot, rng: random.Random) -> None:
        side, out = lot.side, self.front + lot.setback
        v0, v1 = lot.start, lot.stop
        if lot.kind == "garden":
            v0, v1 = v0 + 1.5, max(v1 - rng.uniform(1.5, 5), v0 + 5)
        height = lot.height if lot.kind != "garden" else min(lot.height, rng.uniform(4.5, 8))
        shadow = 0.0
        if self.light.slope and side * self.sun[0] < -0.08:
            at = min(max(int((v0 + v1) / 2) - _START, 0), _STOP - _START - 1)
            way = (out + self.front) / abs(self.sun[0])
            shadow = float(self.heights[-side][at]) - way / self.light.slope
        deep = rng.uniform(7, 11)
        roof = rng.uniform(1.5, 4.5) if rng.random() < 0.6 and lot.kind != "hall" else 0.0
        shader = surfaces.facade(rng, height, v1 - v0, shadow=shadow)
        wall = surfaces.blind_side(rng)
        half = deep / 2
        gable = height if not roof else lambda s: height + roof * (1 - np.abs(s - half) / half)
        self._across("building", side, (out, out + deep), v0, gable, wall)
        self._along("building", side, out, (v0, v1), height, shader)
        if roof and (out - side * self.own) * roof > (height - self.canvas.eye) * half:
            tile = surfaces.pick(rng, [(112, 62, 48), (84, 72, 68), (66, 66, 70), (132, 84, 62)])
            corners = ((out, height, v0), (out, height, v1), (out + half, height + roof, v1),
                       (out + half, height + roof, v0))  # fmt: skip
            points = []
            for at, y, v in corners:
                x, z = self.place(side * at, v)
                points.append((x, y, z))
            self.canvas.tint = self.light.above()
            self.canvas.surface(points, tile)

    def _plants(self, lot: _Lot, rng: random.Random) -> None:
        """Trees and shrubs behind the front line."""
        canvas, side = self.canvas, lot.side
        if lot.kind == "park" and rng.random() < 0.6:
            height = rng.uniform(5, 12)
            self._along("vegetation", side, self.front + 13, (lot.start, lot.stop), height,
                        surfaces.hedge(rng, height))  # fmt: skip
        room = lot.setback if lot.kind == "garden" else 11.0
        many = {"park": 5, "garden": 3, "wall": 4, "fence": 3}[lot.kind]
        spots = sorted(
            (
                (rng.uniform(lot.start, lot.stop), rng.uniform(1.2, max(room, 1.5)))
                for _ in range(rng.randrange(many // 2, many + 1))
            ),
            reverse=True,
        )
        for v, out in spots:
            x, z = self.place(side * (self.front + out), v)
            if z < 6:
                continue
            canvas.start(_ID["vegetation"], z)
            if rng.random() < 0.7:
                things.tree(
                    canvas,
                    x,
                    z,
                    rng.uniform(5, 12),
                    self.light,
                    rng,
                    ("round", "round", "tall", "conifer"),
                )
            else:
                size = rng.uniform(0.5, 1.4)
                leaf = surfaces.pick(rng, [(74, 92, 44), (58, 78, 34), (98, 102, 48)])
                things.crown(canvas, x, size * 0.8, z, size * 1.2, size, leaf, self.light,
                             (rng.random() * 256, rng.random() * 256))  # fmt: skip

    def _border(self, lot: _Lot, rng: random.Random) -> None:
        """The front line: a wall, a fence, a hedge or nothing."""
        kind = lot.kind
        if kind in ("garden", "park"):
            kind = rng.choice(
                ("fence", "wall", "hedge", "open", "open" if kind == "park" else "fence")
            )
        if kind in ("open", "hall"):
            return
        height = {"wall": rng.uniform(1.1, 3.4), "fence": rng.uniform(1.0, 2.2)}.get(
            kind, rng.uniform(0.8, 2.2)
        )
        if lot.kind == "garden":
            height = min(height, 1.6)
        name, shader = {
            "wall": ("wall", surfaces.wall),
            "fence": ("fence", surfaces.fence),
            "hedge": ("vegetation", surfaces.hedge),
        }[kind]
        shader = shader(rng, height)
        self._across(name, lot.side, (self.front, self.front + 0.3), lot.start, height, shader)
        self._along(name, lot.side, self.front, (lot.start, lot.stop), height, shader)

    def _photograph(self) -> np.ndarray:
        """The canvas through a lens and a sensor, (H, W, 3) uint8."""
        canvas, rng = self.canvas, self.rng
        # a lens that is a little soft and darker to its corners
        pixels = canvas.rgb
        blur = np.float32(rng.uniform(0.06, 0.2))
        for ahead, middle, behind in (
            (pixels[:, 2:], pixels[:, 1:-1], pixels[:, :-2]),
            (pixels[:, :, 2:], pixels[:, :, 1:-1], pixels[:, :, :-2]),
        ):
            beside = ahead + behind
            beside *= blur
            middle *= 1 - 2 * blur
            middle += beside
        across = (canvas.xs / canvas.width - 0.5) ** 2
        down = (canvas.ys[:, None] / canvas.height - 0.5) ** 2
        corner = 1 - np.float32(rng.uniform(0, 0.5)) * (across + down)
        balance = rgb(rng.gauss(1, 0.02), rng.gauss(1.01, 0.015), rng.gauss(1, 0.03))
        pixels *= corner * planes(balance * rng.uniform(0.78, 1.2))
        # black level, then noise that grows with light
        pixels += np.float32(rng.uniform(-6, 10))
        sigma = rng.uniform(1.2, 4.5)
        noise = pixels * np.float32(sigma / 300)
        noise += np.float32(sigma * 0.6)
        pool, start = normal(), rng.randrange(2**20)
        flat, done = noise.reshape(-1), 0
        while done < len(flat):  # the pool, from anywhere, again and again
            piece = pool[start : start + len(flat) - done]
            flat[done : done + len(piece)] *= piece
            done, start = done + len(piece), 0
        pixels += noise
        np.rint(pixels, out=pixels)
        np.clip(pixels, 0, 255, out=pixels)
        return np.ascontiguousarray(pixels.astype(np.uint8).transpose(1, 2, 0))

    def _bonnet(self) -> None:
        """The camera's own car along the lower edge; void in Cityscapes."""
        canvas, rng = self.canvas, self.rng
        x = (canvas.xs - canvas.width * rng.uniform(0.47, 0.53)) / canvas.width
        high = rng.uniform(0.03, 0.09)
        top = canvas.height * (1 - high * (1 - 2.2 * x * x))
        first = max(math.floor(canvas.height * (1 - high)), 0)
        down = (canvas.ys[first:, None] - top[None, :]) / (canvas.height * high)
        mask = down >= 0
        paint = surfaces.pick(rng, [(30, 32, 36), (70, 74, 80), (24, 26, 30)])
        mirror = 0.4 * np.exp(-6 * np.clip(down, 0, None))
        color = planes(paint) + mirror * planes(self.rim - paint)
        canvas.start(_ID["ego vehicle"], 0.0)
        canvas.paint(first, 0, mask, color)


def _footprint(frame: Frame, length: float, width: float) -> list[tuple[float, float]]:
    """The corners (x, z) of a rectangle around a frame."""
    return [
        frame.ground(a * length / 2, b * width / 2) for a, b in ((-1, -1), (-1, 1), (1, 1), (1, -1))
    ]


def _hull(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The convex hull, in order."""
    points = sorted(set(points))

    def half(ordered: list[tuple[float, float]]) -> list[tuple[float, float]]:
        kept: list[tuple[float, float]] = []
        for point in ordered:
            while (
                len(kept) > 1
                and (
                    (kept[-1][0] - kept[-2][0]) * (point[1] - kept[-2][1])
                    - (kept[-1][1] - kept[-2][1]) * (point[0] - kept[-2][0])
                )
                <= 0
            ):
                kept.pop()
            kept.append(point)
        return kept[:-1]

    return half(points) + half(points[::-1])
