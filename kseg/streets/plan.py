"""The plan of one street, in metres: what stands where, and in what light."""

from __future__ import annotations

import dataclasses
import functools
import math
import random
from collections.abc import Callable

import numpy as np

from kseg.data.classes import CITYSCAPES
from kseg.streets import surfaces, things, vehicles
from kseg.streets.colors import pick, rgb
from kseg.streets.drawing import Canvas, Frame, Light, Pen, Place, Shader

# void ids of cityscapesScripts, helpers/labels.py
_VOID = {"ego vehicle": 1, "static": 4, "dynamic": 5, "parking": 9, "rail track": 10, "bridge": 15}
IDS = dict(zip(CITYSCAPES.names, CITYSCAPES.file_ids, strict=True)) | _VOID
_FIRST_WITH_INSTANCES = 24

NOT_SIMPLE = (
    *("wall", "fence", "traffic light", "rider", "truck", "bus", "train", "motorcycle", "bicycle"),
)
"""Classes that simple streets do not have."""

# How often a side of the street has what, by the part of town.
_LOTS = {
    "centre": {"row": 0.86, "wall": 0.04, "park": 0.06, "fence": 0.04},
    "suburb": {"row": 0.22, "garden": 0.44, "wall": 0.12, "park": 0.12, "fence": 0.1},
    "works": {"row": 0.3, "hall": 0.26, "wall": 0.2, "fence": 0.2, "park": 0.04},
    "avenue": {"row": 0.56, "garden": 0.14, "park": 0.16, "wall": 0.07, "fence": 0.07},
    "green": {"park": 0.5, "garden": 0.16, "fence": 0.14, "wall": 0.12, "row": 0.08},
}

ROAD, WALK, CURB, GRASS, PARKING, RAIL = range(6)
"""Kinds of ground."""

START, STOP = -12, 190
"""Metres along the street that profiles cover."""

# zenith and rim of the sky, light of the sky and of the sun; the ranges of metres of shadow for
# a metre of height and of haze
_WEATHER = {
    "sun": ((96, 140, 200), (192, 208, 222), (0.5, 0.53, 0.58), (0.84, 0.8, 0.72),
            (0.5, 1.8), (0.0008, 0.003)),
    "clouds": ((168, 176, 188), (206, 210, 212), (0.68, 0.7, 0.73), (0.3, 0.29, 0.27),
               None, (0.001, 0.006)),
    "grey": ((158, 162, 166), (182, 184, 184), (0.72, 0.73, 0.74), (0.14, 0.14, 0.13),
             None, (0.006, 0.016)),
    "evening": ((108, 118, 158), (222, 184, 150), (0.54, 0.53, 0.58), (0.78, 0.62, 0.46),
                (2.0, 3.2), (0.001, 0.005)),
}  # fmt: skip

# (length, width, height) in metres, about
_VEHICLES = {
    "car": (vehicles.car, (4.6, 1.9, 1.5)),
    "truck": (vehicles.truck, (8.5, 2.5, 3.2)),
    "bus": (vehicles.bus, (12, 2.6, 3.1)),
    "train": (vehicles.train, (30, 2.5, 3.4)),
}


@dataclasses.dataclass
class Lot:
    """A piece of one side, from ``start`` to ``stop`` metres along the street."""

    kind: str
    side: int
    start: float
    stop: float
    seed: int
    height: float
    setback: float


@dataclasses.dataclass
class Thing:
    """What is drawn at a depth, from far to near; ``nearer`` is a part's way to the front.

    Vehicles have a (length, width), to be before or behind as a whole.
    """

    pen: Pen
    depth: float
    nearer: float
    value: int
    draw: Callable[[], None]
    size: tuple[float, float] | None


class Street:
    """One street: its weather, cross-section, lots on both sides, furniture, traffic, people.

    Street coordinates: u metres to the right of the road's middle, v metres ahead of the
    camera. Everything random comes from ``rng`` in an order that does not depend on pixels,
    so a seed is the same street at every size.

    Attributes:
        simple: there is nothing of the classes ``NOT_SIMPLE``.
        half, front: from the middle to the kerb, and to the front line of the lots.
        own, yaw: the camera's u, and how far it is turned from the street.
        end: where the street ends, ``STOP`` if it is not seen to.
        lots, things: what to draw; things from far to near.
        heights, yards: of each side, for each metre from ``START`` to ``STOP``, the height of
            the houses and the kind of ground.
        shadows, spots: (corners, factor) and (x, z, radius, factor), to multiply the ground by.
    """

    def __init__(self, seed: int, height: int, width: int, *, simple: bool = False) -> None:
        self.rng = rng = random.Random(seed)
        self.simple = simple
        side = math.sqrt(2 * height * width)
        focal, center = side * rng.uniform(0.75, 1.0), width * rng.uniform(0.46, 0.54)
        horizon, eye = height * rng.uniform(0.37, 0.46), rng.uniform(1.3, 1.8)
        self.canvas = Canvas(height, width, focal, center, horizon, eye)
        self.town = rng.choice(list(_LOTS))
        self.yaw = rng.gauss(0, 0.045)
        self.curve = rng.choice((0, 0, 1)) * rng.gauss(0, 0.0011)
        self.things: list[Thing] = []
        self.shadows: list[tuple[list[Place], float]] = []
        self.spots: list[tuple[float, float, float, float]] = []
        self._numbers: dict[int, int] = {}
        self._taken: list[tuple[float, float, float, float]] = []
        self._weather()
        self._section()
        self._lots()
        self._furniture()
        self._traffic()
        self._people()
        self._order()

    def _weather(self) -> None:
        """Sky, light and haze."""
        rng = self.rng
        kind = rng.choice(("sun", "sun", "sun", "clouds", "clouds", "grey", "evening"))
        zenith, rim, sky, sun, slopes, haze = _WEATHER[kind]
        angle = rng.uniform(-math.pi, math.pi)
        slope = rng.uniform(*slopes) if slopes else 0.0
        self.haze = rng.uniform(*haze)
        self.zenith, self.rim = rgb(*zenith) * rng.uniform(0.85, 1.1), rgb(*rim)
        self.canvas.veil = self.rim
        self.light = Light(rgb(*sky), rgb(*sun), angle - self.yaw, slope)
        self.sun = (math.sin(angle), math.cos(angle))

    def _section(self) -> None:
        """The cross-section: lanes, parked cars, verge, pavement; and the crossings."""
        rng = self.rng
        self.lane = rng.uniform(2.9, 3.5)
        self.lanes = rng.choice((1, 1, 1, 1, 1, 2)) if self.town != "avenue" else rng.choice((1, 2))
        self.tram = rng.random() < {"centre": 0.2, "avenue": 0.32}.get(self.town, 0.06)
        self.tram = self.tram and not self.simple
        self.median = rng.uniform(1.6, 2.2) if self.tram else 0.0
        if not self.tram and self.town == "avenue" and rng.random() < 0.4:
            self.median = rng.uniform(0.8, 2.5)
        self.median_kind = GRASS
        if self.tram:
            self.median_kind = RAIL if rng.random() < 0.6 else ROAD
        self.parked = {s: rng.random() < 0.4 for s in (-1, 1)}
        self.strip = 2.1 if any(self.parked.values()) else 0.3
        self.half = self.median + self.lane * self.lanes + self.strip
        self.parking_ground = self.strip > 1 and rng.random() < 0.22
        self.verge = rng.uniform(1.0, 2.4) if rng.random() < 0.2 else 0.0
        self.front = self.half + self.verge + rng.uniform(2.0, 4.4)
        self.own = self.median + self.lane * (0.5 + (self.lanes - 1) * rng.choice((0, 1)))
        self.own += rng.gauss(0, 0.2)
        self.end = rng.uniform(55, 110) if rng.random() < 0.35 else STOP
        self.crossings: list[tuple[float, float]] = []
        if rng.random() < 0.55:
            start = rng.uniform(14, 60)
            if start + 25 < self.end:
                self.crossings.append((start, start + rng.uniform(6, 10)))
        if self.end < STOP:
            self.crossings.append((self.end - 9, self.end))

    # -- geometry

    def place(self, u: float, v: float) -> Place:
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

    def roof(self, side: int, v: float) -> np.float32:
        """The height of the houses on a side at v."""
        return self.heights[side][min(max(int(v) - START, 0), STOP - START - 1)]

    def shaded(self, u: float, v: float) -> bool:
        """Whether a house keeps the sun from a place on the ground."""
        for side in (-1, 1):
            across = side * self.sun[0]
            if self.light.slope and across > 0.08:
                way = (self.front - side * u) / across
                if way > 0 and self.roof(side, v + way * self.sun[1]) > way / self.light.slope:
                    return True
        return False

    # -- the lots

    def _lots(self) -> None:
        """The lots on both sides, and their profiles: heights of houses, kinds of yards."""
        self.lots = [lot for side in (-1, 1) for lot in self._lots_of(side)]
        cells = STOP - START
        self.heights = {side: np.zeros(cells, np.float32) for side in (-1, 1)}
        self.yards = {side: np.full(cells, GRASS, np.uint8) for side in (-1, 1)}
        for lot in self.lots:
            span = slice(int(lot.start) - START, max(int(lot.stop) - START, 0))
            if lot.kind in ("row", "hall"):
                self.heights[lot.side][span] = lot.height
            if lot.kind in ("row", "hall", "wall"):
                self.yards[lot.side][span] = WALK

    def _lots_of(self, side: int) -> list[Lot]:
        rng = self.rng
        weights = dict(_LOTS[self.town])
        if self.simple:
            del weights["wall"], weights["fence"]
        base = rng.uniform(9, 20) if self.town in ("centre", "avenue") else rng.uniform(5.5, 11)
        lots, v = [], float(START)
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
            seed, height = rng.getrandbits(32), max(4.5, base * rng.uniform(0.75, 1.3))
            setback = rng.uniform(3, 8) if kind == "garden" else 0.0
            lots.append(Lot(kind, side, v, v + length, seed, height, setback))
            v += length
        return lots

    # -- room, things and their shadows

    def free(self, u: float, v: float, half_u: float, half_v: float) -> bool:
        """Takes a rectangle of the ground, if nothing else has."""
        u0, u1, v0, v1 = u - half_u, u + half_u, v - half_v, v + half_v
        if any(u0 < b1 and b0 < u1 and v0 < d1 and d0 < v1 for b0, b1, d0, d1 in self._taken):
            return False
        self._taken.append((u0, u1, v0, v1))
        return True

    def site(
        self, at: Place, half: tuple[float, float], least: float, heading: float | None = None
    ) -> Frame | None:
        """Takes the ground around (u, v) for a thing.

        Args:
            half: half sides of its rectangle.
            least: metres that it must be away from the camera.
            heading: relative to the street; None faces the camera.

        Returns:
            None if the ground is taken or too near.
        """
        if not self.free(*at, *half):
            return None
        frame = Frame(*self.place(*at)) if heading is None else self.frame(*at, heading)
        return frame if frame.z >= least else None

    def add(
        self,
        name: str,
        at: Place | None,
        frame: Frame,
        draw: Callable[..., None],
        *args: object,
        nearer: float = 0.0,
        size: tuple[float, float] | None = None,
    ) -> None:
        """A thing that ``draw(pen, rng, *args)`` will draw.

        Things of one depth are drawn in the order of their adding.

        Args:
            at: (u, v), where a house may shade it; None: never shaded.
        """
        light = self.light.shaded() if at is not None and self.shaded(*at) else self.light
        rng = random.Random(self.rng.getrandbits(32))
        value = IDS[name]
        if value >= _FIRST_WITH_INSTANCES:
            number = self._numbers.get(value, 0)
            self._numbers[value] = number + 1
            value = value * 1000 + number
        pen = Pen(self.canvas, frame, light)
        draws = functools.partial(draw, pen, rng, *args)
        self.things.append(Thing(pen, frame.z, nearer, value, draws, size))

    def _upright(
        self,
        name: str,
        at: Place | None,
        ends: tuple[Place, Place],
        bottom: float,
        top: float,
        shader: Shader,
    ) -> None:
        """``Canvas.wall`` between two places, as a thing."""
        (x0, z0), (x1, z1) = ends
        frame = Frame((x0 + x1) / 2, (z0 + z1) / 2)

        def draw(pen: Pen, rng: random.Random) -> None:
            self.canvas.wall(*ends, bottom, top, shader, both=True)

        self.add(name, at, frame, draw)

    def _order(self) -> None:
        """Sorts the things from far to near, each on the right side of every vehicle."""
        large = [(thing, thing.size) for thing in self.things if thing.size]
        for vehicle, size in sorted(large, key=lambda pair: -pair[0].depth):
            length, width = (side / 2 + 0.2 for side in size)
            eye = vehicle.pen.frame.local(0, 0)
            for thing in self.things:
                a, b = vehicle.pen.frame.local(thing.pen.frame.x, thing.pen.frame.z)
                if thing is vehicle or (abs(a) > length and abs(b) > width):
                    continue
                before = b * eye[1] > 0 if abs(a) <= length else a * eye[0] > 0
                if before != (thing.depth < vehicle.depth):
                    thing.depth = vehicle.depth + (-0.05 if before else 0.05)
        self.things.sort(key=lambda thing: thing.nearer - thing.depth)

    def cast(self, u: float, v: float, half: float, height: float) -> None:
        """The shadow of something upright on the ground, and a dim spot below it."""
        x, z = self.place(u, v)
        self.spots.append((x, z, 1.4 * half, 0.72))
        if self.light.slope and not self.shaded(u, v):
            length = height * self.light.slope
            sx, sz = self.light.toward
            far_x, far_z = x - sx * length, z - sz * length
            dx, dz = sz * half, sx * half
            near = (x - dx, z + dz), (x + dx, z - dz)
            far = (far_x - dx, far_z + dz), (far_x + dx, far_z - dz)
            self.shadows.append(([near[0], *far, near[1]], 0.55))

    def cast_box(self, frame: Frame, at: Place, size: tuple[float, float, float]) -> None:
        """The shadow of a vehicle of (length, width, height)."""
        self.shadows.append((frame.footprint(size[0] * 1.04, size[1] * 1.12), 0.42))
        if self.light.slope and not self.shaded(*at):
            length = size[2] * self.light.slope * 0.9
            sx, sz = self.light.toward
            corners = frame.footprint(size[0], size[1])
            moved = [(x - sx * length, z - sz * length) for x, z in corners]
            self.shadows.append((_hull(corners + moved), 0.55))

    # -- furniture

    def _furniture(self) -> None:
        """Street trees, lamps, signs, traffic lights, bins, parked bicycles."""
        rng = self.rng
        for side in (-1, 1):
            edge = side * (self.half + 0.55)
            self._trees(side, edge)
            self._lamps(side, edge)
            for _ in range(rng.choice((0, 1, 1, 2, 2, 3))):
                self._sign(edge + rng.uniform(-0.1, 0.3) * side, rng.uniform(7, 55))
            if rng.random() < 0.3:
                self._bollards(side)
            if rng.random() < 0.16 and not self.simple:
                self._barrier(side)
            for _ in range(rng.choice((0, 0, 1, 1, 2))):
                self._bin(side)
            if not self.simple:
                for _ in range(rng.choice((0, 1, 1, 2))):
                    self._rack(side)
        if not self.simple:
            for start, stop in self.crossings:
                if start < 70 and rng.random() < 0.9:
                    self._signals(start, stop)
            if rng.random() < 0.35:
                self._signals(rng.uniform(14, 40), None)
        if rng.random() < 0.05 and self.end > 60:
            self._bridge(rng.uniform(28, 50))

    def _trees(self, side: int, edge: float) -> None:
        rng = self.rng
        trees = rng.random() < {"avenue": 0.8, "green": 0.5, "suburb": 0.35}.get(self.town, 0.3)
        pitch, tall = rng.uniform(9, 18), rng.uniform(5.5, 11)
        v = rng.uniform(6, 6 + pitch)
        while trees and v < min(self.end - 10, 120):
            if not self.crossing(v, 4) and rng.random() < 0.85:
                self._tree(edge + side * self.verge * 0.3, v, tall * rng.uniform(0.8, 1.2))
            v += pitch * rng.uniform(0.9, 1.1)

    def _tree(self, u: float, v: float, height: float) -> None:
        frame = self.site((u, v), (0.4, 1.0), 5)
        if frame is None:
            return
        if self.light.slope and not self.shaded(u, v):
            sx, sz = self.light.toward
            self.cast(u, v, 0.15, height * 0.4)
            for part, reach in ((0.45, 0.26), (0.62, 0.3), (0.8, 0.22)):
                away = height * part * self.light.slope
                spot = frame.x - sx * away, frame.z - sz * away
                self.spots.append((*spot, reach * height, 0.74))
        else:
            self.cast(u, v, 0.3, height)
        self.add("vegetation", (u, v), frame, things.tree, height)

    def _lamps(self, side: int, edge: float) -> None:
        rng = self.rng
        pitch, v = rng.uniform(18, 32), rng.uniform(5, 25)
        lamps = rng.random() < 0.75
        while lamps and v < min(self.end - 10, 120):
            if not self.crossing(v, 2):
                at = (edge - side * 0.15, v)
                self.cast(*at, 0.08, 6)
                self.add("pole", at, Frame(*self.place(*at)), things.lamp, -side)
            v += pitch

    def _sign(self, u: float, v: float) -> None:
        rng, at = self.rng, (u, v)
        if self.crossing(v) or v > self.end - 10:
            return
        frame = self.site(at, (0.3, 0.6), 4)
        if frame is None:
            return
        large = v > 16 and rng.random() < 0.14
        high = rng.uniform(2.1, 2.7)
        top = high + (0.9 if large else 0.35)
        self.cast(u, v, 0.05, top)
        self.add("pole", at, frame, things.sign_post, top, 0.9 if large else 0.0)
        if rng.random() < 0.1:  # its back, which has no class of its own but the pole's
            return
        count = 1 if large else rng.choice((1, 1, 1, 2))
        y = high + (0.35 if large else 0.0)
        self.add("traffic sign", at, frame, things.traffic_signs, y, count, large, nearer=0.01)

    def _signals(self, start: float, stop: float | None) -> None:
        """Traffic lights before a crossing, on both sides and perhaps above the road."""
        rng = self.rng
        arm = rng.random() < 0.3
        for side in (-1, 1):
            at = u, v = side * (self.half + 0.4), start - 1.0
            if side < 0 and rng.random() < 0.4:
                at = u, v = u, (stop or start + 4) + 1.0
            frame = Frame(*self.place(u, v))
            if frame.z < 8 or not self.free(u, v, 0.25, 0.4):
                continue
            high = rng.uniform(2.3, 2.9)
            reach = -side * rng.uniform(2.5, 4.5) if arm and side > 0 else 0.0
            back = side < 0 and rng.random() < 0.3
            self.cast(u, v, 0.08, high)
            self.add("pole", at, frame, things.signal_post, high, reach)
            self.add("traffic light", at, frame, things.signals, high, reach, back, nearer=0.01)

    def _bollards(self, side: int) -> None:
        start = self.rng.uniform(6, 30)
        color = pick(self.rng, "pole", "bollard")
        for k in range(self.rng.randrange(3, 8)):
            at = u, v = side * (self.half + 0.35), start + 1.6 * k
            frame = None if self.crossing(v) else self.site(at, (0.15, 0.15), 4)
            if frame is not None:
                self.cast(u, v, 0.08, 0.9)
                self.add("pole", at, frame, things.pole, 0.95, 0.075, color)

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
            ends = self.place(u, v0), self.place(u, v1)
            self._upright("fence", (u, v0), ends, 0.05, height, shader)

    def _bin(self, side: int) -> None:
        rng = self.rng
        at = u, v = side * rng.uniform(self.half + 0.6, self.front - 0.6), rng.uniform(7, 45)
        sizes = [(0.5, 0.5, 1.0), (0.7, 0.9, 1.2), (0.4, 0.9, 1.3)]
        if v > 16:
            sizes += [(1.0, 1.0, 2.8), (1.2, 3.0, 2.4)]
        size = rng.choice(sizes)
        if self.crossing(v, 2):
            return
        frame = self.site((u, v), (size[1] / 2, size[0] / 2), 6, 0.0)
        if frame is not None:
            self.cast_box(frame, at, size)
            self.add("static", at, frame, things.box_thing, size)

    def _rack(self, side: int) -> None:
        """Parked bicycles or motorcycles in a row."""
        rng = self.rng
        name = "bicycle" if rng.random() < 0.68 else "motorcycle"
        v = rng.uniform(6, 32)
        heading = rng.choice((math.pi / 2, rng.uniform(0.6, 2.5), 0.0)) * rng.choice((-1, 1))
        u = side * (self.half + rng.uniform(0.9, 1.4))
        for _ in range(rng.choice((1, 1, 2, 3, 4))):
            v += rng.uniform(0.7, 1.4) if abs(math.sin(heading)) > 0.5 else 2.2
            self._cycle(name, u, v, heading + rng.gauss(0, 0.12))

    def _bridge(self, v: float) -> None:
        rng = self.rng
        low, thick = rng.uniform(4.6, 5.4), rng.uniform(1.0, 1.8)
        shader = surfaces.blind_side(random.Random(rng.getrandbits(32)))
        wide = rng.uniform(4, 9)
        strip = [self.place(u, w) for u, w in ((-30, v), (30, v), (30, v + wide), (-30, v + wide))]
        self.shadows.append((strip, 0.55))
        for side in (-1, 1):
            u = side * (self.front - 0.6)
            ends = self.place(u - 0.6, v + 1), self.place(u + 0.6, v + 1)
            self._upright("bridge", None, ends, 0, low, shader)
        ends = self.place(-self.front, v), self.place(self.front, v)
        self._upright("bridge", None, ends, low, low + thick, shader)

    # -- traffic and people

    def _traffic(self) -> None:
        """Trams, large vehicles, parked and moving cars, riders."""
        rng = self.rng
        lanes = [self.median + self.lane * (k + 0.5) for k in range(self.lanes)]
        if self.simple:
            self._cars(lanes)
            return
        if self.tram and rng.random() < 0.85:
            toward = rng.random() < 0.5
            u = (-0.5 if toward else 0.5) * self.median * 0.9
            self._vehicle("train", u, rng.uniform(24, 60), math.pi if toward else 0.0)
        elif not self.tram and rng.random() < 0.05 and self.crossings:
            start, stop = self.crossings[0]
            self._vehicle("train", rng.uniform(-9, 9), (start + stop) / 2, math.pi / 2)
        for name, chance in (("bus", 0.2), ("truck", 0.26 if self.town != "works" else 0.5)):
            if rng.random() < chance:
                toward = rng.random() < 0.5
                u = rng.choice(lanes) * (-1 if toward else 1)
                self._vehicle(name, u, rng.uniform(13, 60), math.pi if toward else 0.0)
        self._cars(lanes)
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
            v = rng.uniform(7, 34)
            self._cycle(name, u, v, turn + rng.gauss(0, 0.15), ridden=True)

    def _cars(self, lanes: list[float]) -> None:
        """Cars parked along the kerb and moving in the lanes, whose middles are given."""
        rng = self.rng
        density = rng.choice((0.2, 0.6, 1.0))
        for side in (-1, 1):
            if self.parked[side]:
                v = rng.uniform(3, 12)
                fill = rng.uniform(0.35, 0.95)
                while v < min(self.end - 14, 100):
                    if rng.random() < fill and not self.crossing(v, 5):
                        name = "truck" if rng.random() < 0.02 and not self.simple else "car"
                        turn = 0 if side > 0 or rng.random() < 0.3 else math.pi
                        u = side * (self.half - 1.0)
                        self._vehicle(name, u, v, turn + rng.gauss(0, 0.02))
                    v += rng.uniform(5.3, 6.4)
            for lane in lanes:
                v = rng.uniform(9, 28)
                while v < min(self.end, 100):
                    if rng.random() < density:
                        u = side * lane + rng.gauss(0, 0.15)
                        turn = rng.gauss(0, 0.03) + (math.pi if side < 0 else 0)
                        self._vehicle("car", u, v, turn)
                    v += rng.uniform(9, 24)

    def _vehicle(self, name: str, u: float, v: float, heading: float) -> None:
        draw, size = _VEHICLES[name]
        across, along = abs(math.sin(heading)), abs(math.cos(heading))
        half_u = (size[0] * across + size[1] * along) / 2
        half_v = (size[0] * along + size[1] * across) / 2
        frame = self.frame(u, v, heading)
        if min(z for _, z in frame.footprint(*size[:2])) < 3.5 or v + half_v > self.end + 6:
            return
        if self.free(u, v, half_u + 0.15, half_v + 0.5):
            self.cast_box(frame, (u, v), size)
            self.add(name, (u, v), frame, draw, size=size[:2])

    def _cycle(
        self, name: str, u: float, v: float, heading: float, *, ridden: bool = False
    ) -> None:
        if self.crossing(v, 1) and not ridden:
            return
        half = 0.35 + 0.5 * abs(math.sin(heading)), 0.35 + 0.5 * abs(math.cos(heading))
        at, frame = (u, v), self.site((u, v), half, 4.5, heading)
        if frame is None:
            return
        self.cast_box(frame, at, (1.5, 0.3, 1.7 if ridden else 0.9))
        low = name == "motorcycle"
        self.add(name, at, frame, vehicles.motorcycle if low else vehicles.bicycle)
        if ridden:
            self.add("rider", at, frame, things.rider, low, nearer=0.01)

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

    def _person(self, u: float, v: float, heading: float) -> None:
        frame = self.site((u, v), (0.25, 0.25), 4.5, heading) if v <= self.end - 1 else None
        if frame is not None:
            self.cast(u, v, 0.22, 1.7)
            self.add("person", (u, v), frame, things.person)

    def _heap(self) -> None:
        u = self.rng.choice((-1, 1)) * self.rng.uniform(self.half + 0.5, self.front - 0.3)
        at = u, v = u, self.rng.uniform(6, 25)
        frame = self.site(at, (0.3, 0.3), 5)
        if frame is not None:
            self.cast(u, v, 0.3, 0.5)
            self.add("dynamic", at, frame, things.heap)


def _hull(points: list[Place]) -> list[Place]:
    """The convex hull, in order."""
    points = sorted(set(points))

    def half(ordered: list[Place]) -> list[Place]:
        kept: list[Place] = []
        for x, z in ordered:
            while len(kept) > 1:
                (x0, z0), (x1, z1) = kept[-2:]
                if (x1 - x0) * (z - z0) - (z1 - z0) * (x - x0) > 0:
                    break
                kept.pop()
            kept.append((x, z))
        return kept[:-1]

    return half(points) + half(points[::-1])
