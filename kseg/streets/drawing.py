"""A pinhole camera over flat ground, and a canvas that keeps colours and ids.

Every shape is a mask of pixel centres that colour and id share, so labels are
exact for what is drawn. Masks are numpy comparisons, without any library's rasteriser.

Camera space is metres: x to the right, y up from the ground, z ahead. A vertical face is
given by its bottom corners from left to right as seen from outside.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy import ndarray

from kseg.streets.colors import Color, planes, rgb

Place = tuple[float, float]
"""(x, z) on the ground, or (column, row) in the image."""

Point = tuple[float, float, float]
"""(x, y, z) in camera space, or (a, b, y) of a frame."""

Found = tuple[int, int, ndarray] | None
"""First row, first column and mask of a shape; None outside the image."""

Amount = float | ndarray | None
"""A share for all pixels, (w,) or (h, w) of them; None as the function says."""

Insets = Sequence[tuple[float, float, float, float, Color]]
"""Rectangles within a face: left, bottom, right, top and a colour."""

Shaded = tuple[ndarray, ndarray | None]
"""RGB (3, h, w) and opacity: None, all opaque, or (h, w) float32, where 0 is a hole."""

Shader = Callable[[ndarray, ndarray, ndarray], Shaded]
"""(w,) metres along a face, (h, w) height and (w,) depth to what is seen there."""

Height = float | Callable[[ndarray], ndarray]
"""Metres, the same everywhere or of (w,) metres along a face."""

Depth = TypeVar("Depth", float, ndarray)
"""Metres from the camera, one number or an array."""

NEAR = 0.6
"""Metres before the camera where surfaces are cut off."""


class Light:
    """Sun and sky.

    Attributes:
        ambient, sun: colours of the light, 1 is full.
        toward: unit vector (x, z) along the ground toward the sun.
        slope: metres of shadow for each metre of height; 0 under clouds.
    """

    def __init__(self, ambient: Color, sun: Color, angle: float, slope: float) -> None:
        self.ambient, self.sun, self.slope = ambient, sun, slope
        self.toward = (math.sin(angle), math.cos(angle))
        self._height = 1 / math.sqrt(1 + slope * slope)

    def shaded(self) -> Light:
        """The same light in the shadow of a house."""
        shaded = copy.copy(self)
        shaded.sun = self.sun * 0.12
        return shaded

    def on(self, x: float, z: float) -> Color:
        """The light on a vertical face with the outward normal (x, z)."""
        facing = max(0.0, x * self.toward[0] + z * self.toward[1])
        sideways = math.sqrt(1 - self._height * self._height) if self.slope else 0.5
        return self.ambient + self.sun * (facing * sideways)

    def above(self) -> Color:
        """The light on the ground."""
        return self.ambient + self.sun * self._height

    def around(self) -> Color:
        """The light on something round."""
        return self.ambient + self.sun * 0.6


class Frame:
    """Where a thing stands: a place on the ground and a heading, in camera space.

    Local coordinates are metres: a ahead, b to the right, y up. At angle 0 the thing
    faces away from the camera.
    """

    def __init__(self, x: float, z: float, angle: float = 0.0) -> None:
        self.x, self.z = x, z
        self.ahead = (math.sin(angle), math.cos(angle))
        self.right = (math.cos(angle), -math.sin(angle))

    def direction(self, a: float, b: float) -> tuple[float, float]:
        """(x, z) of a local direction."""
        return a * self.ahead[0] + b * self.right[0], a * self.ahead[1] + b * self.right[1]

    def ground(self, a: float, b: float) -> Place:
        """(x, z) of a local place."""
        return (
            self.x + a * self.ahead[0] + b * self.right[0],
            self.z + a * self.ahead[1] + b * self.right[1],
        )

    def local(self, x: float, z: float) -> tuple[float, float]:
        """(a, b) of a place (x, z)."""
        x, z = x - self.x, z - self.z
        return x * self.ahead[0] + z * self.ahead[1], x * self.right[0] + z * self.right[1]

    def footprint(self, length: float, width: float) -> list[Place]:
        """The corners (x, z) of a rectangle around the place."""
        a, b = length / 2, width / 2
        return [self.ground(*corner) for corner in ((-a, -b), (-a, b), (a, b), (a, -b))]

    @property
    def away(self) -> float:
        """Above 0 where the back is seen, below where the front is."""
        return self.ahead[0] * self.x + self.ahead[1] * self.z

    @property
    def aside(self) -> float:
        """Above 0 where the left side is seen, below where the right is."""
        return self.right[0] * self.x + self.right[1] * self.z


class Canvas:
    """An image under construction.

    Attributes:
        rgb: (3, H, W) float32; planes, since numpy is slow along axes of three.
        ids: (H, W) uint16, what ``start`` was given.
        focal, center, horizon: pixels; eye: the camera's height in metres.
        haze: how fast things fade into ``veil`` with their distance, for each metre.
        veil: the colour of the haze.
        tint: the light on what is painted next.
    """

    def __init__(
        self, height: int, width: int, focal: float, center: float, horizon: float, eye: float
    ) -> None:
        self.height, self.width = height, width
        self.focal, self.center, self.horizon, self.eye = focal, center, horizon, eye
        self.rgb = np.zeros((3, height, width), np.float32)
        self.ids = np.zeros((height, width), np.uint16)
        self.xs = np.arange(width, dtype=np.float32) + 0.5
        self.ys = np.arange(height, dtype=np.float32) + 0.5
        self.haze, self.veil = 0.0, rgb(200, 200, 200)
        self.tint = np.ones(3, np.float32)
        self._id, self._clear = 0, 1.0

    def start(self, value: int, depth: float, tint: Color | None = None) -> None:
        """What is painted from here on has this id, distance and light."""
        self._id, self._clear = value, self.clearness(depth)
        self.tint = np.ones(3, np.float32) if tint is None else tint

    def clearness(self, depth: Depth) -> Depth:
        """How much of a colour the haze leaves, 0..1."""
        thick = depth * self.haze
        return 1 / (1 + thick + 0.5 * thick * thick)

    def project(self, point: Point) -> Place:
        """Column and row of a point in camera space."""
        scale = self.focal / max(point[2], NEAR)
        return self.center + point[0] * scale, self.horizon + (self.eye - point[1]) * scale

    def scale(self, z: float) -> float:
        """How many pixels a metre has at a depth."""
        return self.focal / max(z, NEAR)

    def paint(
        self, found: Found, color: ndarray, opacity: Amount = None, clear: Amount = None
    ) -> None:
        """Gives a shape colour and id.

        Args:
            color: (3,) or what broadcasts to (3, h, w), already lit.
            opacity: of the colour alone; None is opaque.
            clear: what the haze leaves; None is as ``start`` said.
        """
        if found is None:
            return
        top, left, mask = found
        rows, columns = slice(top, top + mask.shape[0]), slice(left, left + mask.shape[1])
        pixels = self.rgb[:, rows, columns]
        if color.ndim == 1:
            color = planes(color)
        if self.haze:
            veil = planes(self.veil)
            color = veil + (self._clear if clear is None else clear) * (color - veil)
        if opacity is not None:
            color = pixels + np.float32(opacity) * (color - pixels)
        np.copyto(pixels, color, where=mask)
        np.copyto(self.ids[rows, columns], np.uint16(self._id), where=mask)

    def darken(self, corners: Sequence[Place], factor: float) -> None:
        """Multiplies a convex area of the ground, given by its (x, z), as a shadow does."""
        points = [self.project(point) for point in _clip([(x, 0.0, z) for x, z in corners])]
        self._multiply(self._convex(points), factor)

    def dim(self, x: float, z: float, radius: float, factor: float) -> None:
        """Multiplies a round spot on the ground."""
        if z > NEAR + radius:
            cx, cy = self.project((x, 0.0, z))
            flat = radius / z * (self.eye * self.scale(z))
            self._multiply(self._oval(cx, cy, radius * self.scale(z), flat), factor)

    def _multiply(self, found: Found, factor: float) -> None:
        if found is not None:
            top, left, mask = found
            pixels = self.rgb[:, top : top + mask.shape[0], left : left + mask.shape[1]]
            np.multiply(pixels, np.float32(factor), out=pixels, where=mask)

    def grid(
        self, left: float, top: float, right: float, bottom: float
    ) -> tuple[int, int, ndarray, ndarray] | None:
        """The pixels whose centres lie within; None outside the image.

        Returns:
            First row, first column, columns' centres (w,), rows' centres (h, 1).
        """
        c0, c1 = max(math.ceil(left - 0.5), 0), min(math.floor(right - 0.5) + 1, self.width)
        r0, r1 = max(math.ceil(top - 0.5), 0), min(math.floor(bottom - 0.5) + 1, self.height)
        if r0 >= r1 or c0 >= c1:
            return None
        return r0, c0, self.xs[c0:c1], self.ys[r0:r1, None]

    def _convex(self, points: Sequence[Place]) -> Found:
        """The mask of a convex polygon and its first pixel."""
        if len(points) < 3:
            return None
        columns, rows = zip(*points, strict=True)
        grid = self.grid(min(columns), min(rows), max(columns), max(rows))
        if grid is None:
            return None
        top, left, xs, ys = grid
        turn = 1.0 if _area(points) > 0 else -1.0
        mask: ndarray | None = None
        x0, y0 = points[-1]
        for x1, y1 in points:
            across, down = (x1 - x0) * turn, (y1 - y0) * turn
            # down * (x - x0) <= across * (y - y0)
            inside = down * xs + (across * y0 - down * x0) <= across * ys
            mask = inside if mask is None else np.logical_and(mask, inside, out=mask)
            x0, y0 = x1, y1
        return None if mask is None else (top, left, mask)

    def _oval(self, x: float, y: float, rx: float, ry: float, above: float = math.inf) -> Found:
        """The mask of an ellipse and its first pixel."""
        grid = self.grid(x - rx, y - ry, x + rx, min(y + ry, above))
        if grid is None:
            return None
        top, left, xs, ys = grid
        across, down = (xs - x) / rx, (ys - y) / ry
        return top, left, across * across <= 1 - down * down

    def polygon(self, points: Sequence[Place], color: Color, *, fade: float = 0.0) -> None:
        """A convex polygon in pixels; ``fade`` is how much lighter its top is than its foot."""
        found = self._convex(points)
        color = color * self.tint
        if fade and found is not None and len(found[2]) > 2:
            high = len(found[2])
            color = planes(color) * ((1 + fade / 2) - self.ys[:high] * (fade / high))[:, None]
        self.paint(found, color)

    def rectangle(self, x: float, y: float, rx: float, ry: float, color: Color) -> None:
        """An upright rectangle in pixels, by its middle and half sides."""
        grid = self.grid(x - rx, y - ry, x + rx, y + ry)
        if grid is not None:
            top, left, xs, ys = grid
            self.paint((top, left, np.ones((len(ys), len(xs)), bool)), color * self.tint)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, color: Color, above: float = math.inf
    ) -> None:
        """An ellipse in pixels, or what of it lies above a row; never less than a pixel."""
        self.paint(self._oval(x, y, max(rx, 0.5), max(ry, 0.5), above), color * self.tint)

    def wall(
        self,
        left: Place,
        right: Place,
        bottom: float,
        top: Height,
        shader: Shader,
        *,
        both: bool = False,
        flat: bool = False,
    ) -> None:
        """A vertical face between two places (x, z) on the ground.

        Args:
            bottom, top: heights in metres.
            both: draw it from behind too.
            flat: as hazy as ``start`` said instead of as its own depth.
        """
        if not both and left[0] * right[1] - right[0] * left[1] >= 0:
            return
        run, rise = right[0] - left[0], right[1] - left[1]
        if max(left[1], right[1]) < NEAR:
            return
        c0, c1 = 0, self.width
        if min(left[1], right[1]) > NEAR:
            edges = sorted(self.center + x * self.focal / z for x, z in (left, right))
            c0 = min(max(math.floor(edges[0]), 0), self.width)
            c1 = max(min(math.ceil(edges[1]), self.width), c0)
        slope = (self.xs[c0:c1] - self.center) / self.focal
        along = (left[1] * slope - left[0]) / (run - rise * slope + 1e-9)
        z = left[1] + along * rise
        seen = np.flatnonzero((along >= 0) & (along <= 1) & (z > NEAR))
        if not len(seen):
            return
        c0 += int(seen[0])
        along, z = along[seen[0] : seen[-1] + 1], z[seen[0] : seen[-1] + 1]
        s = along * math.hypot(run, rise)
        roof = top(s) if callable(top) else top
        first = float((self.horizon + (self.eye - roof) * self.focal / z).min())
        last = float((self.horizon + (self.eye - bottom) * self.focal / z).max())
        grid = self.grid(0, first, self.width, last)
        if grid is None:
            return
        t = self.eye - (grid[3] - self.horizon) * (z / self.focal)[None, :]
        mask = (t >= bottom) & (t <= roof)
        color, opacity = shader(s, t, z)
        if opacity is not None:
            mask &= opacity > 0
        clear = None if flat else self.clearness(z)
        self.paint((grid[0], c0, mask), color * planes(self.tint), opacity, clear)


class Pen:
    """Draws in the coordinates of one thing: (a, b, y), metres ahead, to the right and up.

    Attributes:
        canvas, frame, light: where to draw, where the thing stands, what falls on it.
        size: scales heights, 1 unless set.
    """

    def __init__(self, canvas: Canvas, frame: Frame, light: Light) -> None:
        self.canvas, self.frame, self.light, self.size = canvas, frame, light, 1.0

    def at(self, point: Point) -> Point:
        """A point in camera space."""
        a, b, y = point
        x, z = self.frame.ground(a, b)
        return x, y * self.size, z

    def spot(self, point: Point) -> tuple[float, float, float]:
        """Column and row of a point, and how many pixels a metre has there."""
        x, y, z = self.at(point)
        return *self.canvas.project((x, y, z)), self.canvas.scale(z)

    def side(self, a: float, b: float) -> None:
        """What is painted next has the light of a side with the local normal (a, b)."""
        self.canvas.tint = self.light.on(*self.frame.direction(a, b))

    def shows(self, b: float, offset: float) -> bool:
        """Whether the camera sees the right side (b = 1) or the left (-1), so far out."""
        return b * self.frame.aside + offset < 0

    def limb(
        self, start: Point, end: Point, color: Color, *radii: float, least: float = 0.5
    ) -> None:
        """A round bar between two points, at least ``least`` pixels thick.

        One radius or two are metres; the side turned to the right is a little darker.
        """
        canvas = self.canvas
        x0, y0, scale0 = self.spot(start)
        x1, y1, scale1 = self.spot(end)
        r0, r1 = max(radii[0] * scale0, least), max(radii[-1] * scale1, least)
        left, right = min(x0 - r0, x1 - r1), max(x0 + r0, x1 + r1)
        grid = canvas.grid(left, min(y0 - r0, y1 - r1), right, max(y0 + r0, y1 + r1))
        if grid is None:
            return
        top, left, xs, ys = grid
        across, down = x1 - x0, y1 - y0
        length2 = max(across * across + down * down, 1e-6)
        px, py = xs - x0, ys - y0
        along = px * (across / length2) + py * (down / length2)
        np.clip(along, 0, 1, out=along)
        dx, dy = px - along * across, py - along * down
        reach = r0 + along * (r1 - r0)
        mask = dx * dx + dy * dy <= reach * reach
        color = color * canvas.tint
        if max(r0, r1) > 1.5:
            color = planes(color) * (1 - 0.25 * dx / reach)
        canvas.paint((top, left, mask), color)

    def wheel(
        self, hub: Point, radius: float, color: Color, *, inner: float = 0.0, opacity: Amount = None
    ) -> None:
        """A disc that stands along the frame, or the ring outside ``inner`` of its radius."""
        canvas, (a, b, y) = self.canvas, hub
        cx, cy, scale = self.spot(hub)
        ex, ey, _ = self.spot((a + radius, b, y))
        across, skew, down = ex - cx, ey - cy, radius * scale
        if abs(across) < 0.3:
            return
        wide, high = abs(across), down + abs(skew)
        grid = canvas.grid(cx - wide, cy - high, cx + wide, cy + high)
        if grid is None:
            return
        top, left, xs, ys = grid
        s = (xs - cx) / across
        t = (ys - cy - s * skew) / down
        reach = t * t + s * s
        mask = reach <= 1
        if inner:
            mask &= reach >= inner * inner
        canvas.paint((top, left, mask), color * canvas.tint, opacity)

    def surface(self, corners: Sequence[Point], color: Color, *, fade: float = 0.0) -> None:
        """A convex polygon, seen from both sides."""
        points = _clip([self.at(corner) for corner in corners])
        self.canvas.polygon([self.canvas.project(point) for point in points], color, fade=fade)

    def face(
        self, corners: Sequence[Point], color: Color, *, insets: Insets = (), fade: float = 0.0
    ) -> None:
        """Four corners from the bottom left, counter-clockwise as seen from outside.

        Not drawn from behind. ``insets`` are in 0..1.
        """
        canvas, corners = self.canvas, [self.at(corner) for corner in corners]
        quad = [canvas.project(corner) for corner in corners]
        if min(corner[2] for corner in corners) < NEAR or _area(quad) >= 0:
            return
        canvas.polygon(quad, color, fade=fade)
        for left, bottom, right, top, inset in insets:
            places = ((left, bottom), (right, bottom), (right, top), (left, top))
            points = [canvas.project(_between(corners, *place)) for place in places]
            canvas.polygon(points, inset, fade=fade)

    def box(
        self, span: Place, side: float, low: float, high: float, shaders: Sequence[Shader]
    ) -> None:
        """A box whose top is not seen, from ``span[0]`` to ``span[1]`` and 2 ``side`` wide.

        ``shaders`` are of the long sides, from the rear to the front, of the rear, of the front.
        """
        long, rear, fore = shaders
        a0, a1 = span

        def backwards(s: ndarray, t: ndarray, z: ndarray) -> Shaded:
            return long(a1 - a0 - s, t, z)

        for normal, start, end, shader in (
            ((0, 1), (a0, side), (a1, side), long),
            ((0, -1), (a1, -side), (a0, -side), backwards),
            ((-1, 0), (a0, -side), (a0, side), rear),
            ((1, 0), (a1, side), (a1, -side), fore),
        ):
            self.side(*normal)
            ground = self.frame.ground
            self.canvas.wall(ground(*start), ground(*end), low, high, shader, flat=True)


def _area(points: Sequence[Place]) -> float:
    """Twice the signed area: positive clockwise, as rows go down."""
    total = 0.0
    x0, y0 = points[-1]
    for x1, y1 in points:
        total += x0 * y1 - x1 * y0
        x0, y0 = x1, y1
    return total


def _between(corners: Sequence[Point], across: float, up: float) -> Point:
    """The point of a face with four corners at (across, up) in 0..1."""
    p, q = (1 - across) * (1 - up), across * (1 - up)
    r, s = across * up, (1 - across) * up
    x, y, z = (p * k + q * m + r * n + s * o for k, m, n, o in zip(*corners, strict=True))
    return x, y, z


def _clip(corners: Sequence[Point]) -> list[Point]:
    """A convex polygon in camera space without what lies behind ``NEAR``."""
    if all(corner[2] >= NEAR for corner in corners):
        return list(corners)
    kept = []
    for start, end in zip(corners, [*corners[1:], corners[0]], strict=True):
        if start[2] >= NEAR:
            kept.append(start)
        if (start[2] >= NEAR) != (end[2] >= NEAR):
            part = (NEAR - start[2]) / (end[2] - start[2])
            x, y, z = (p + part * (q - p) for p, q in zip(start, end, strict=True))
            kept.append((x, y, z))
    return kept
