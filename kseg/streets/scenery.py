"""The picture of a street: sky, ground, houses and gardens, the things on it, the lens."""

from __future__ import annotations

import math
import random

import numpy as np
from numpy import ndarray

from kseg.streets import surfaces, things
from kseg.streets.colors import pick, pick_by, planes, rgb
from kseg.streets.drawing import Frame, Height, Pen, Place, Shader
from kseg.streets.noise import clouds, fraction, grain, nearest, normal, smooth
from kseg.streets.plan import CURB, GRASS, IDS, PARKING, ROAD, START, STOP, WALK, Lot, Street

_GROUND_IDS = np.array(
    [IDS[n] for n in ("road", "sidewalk", "sidewalk", "terrain", "parking", "rail track")],
    np.uint16,
)


def draw(street: Street) -> tuple[ndarray, ndarray]:
    """The image (H, W, 3) uint8 and its instance ids (H, W) uint16; once for a street."""
    canvas = street.canvas
    _sky(street)
    _skyline(street)
    _ground(street)
    for corners, factor in street.shadows:
        canvas.darken(corners, factor)
    for x, z, radius, factor in street.spots:
        canvas.dim(x, z, radius, factor)
    _ground_haze(street)
    if street.end < STOP:
        _facing(street)
    for lot in sorted(street.lots, key=lambda lot: -lot.start):
        _lot(street, lot)
    for thing in street.things:
        canvas.start(thing.value, thing.pen.frame.z, thing.pen.light.around())
        thing.draw()
    if street.rng.random() < 0.6:
        _bonnet(street)
    return _photograph(street), canvas.ids


# ---- the sky and what stands far away


def _sky(street: Street) -> None:
    canvas, rng, rim = street.canvas, street.rng, street.rim
    rows = math.ceil(canvas.horizon + 1)
    up = np.clip((canvas.horizon - canvas.ys[:rows]) / canvas.focal, 0, None)[:, None]
    blend = np.clip(up * 2.6, 0, 1)
    color = planes(rim) + planes(street.zenith - rim) * blend
    across = (canvas.xs - canvas.center)[None, :] / canvas.focal
    lift = 1 / (up + 0.12)
    ox, oy = rng.random() * 256, rng.random() * 256
    wide = rng.uniform(10, 26)
    noise = smooth(clouds(), across * lift * wide + ox, lift * wide * 1.6 + oy)
    cover = rng.uniform(-0.3, 0.7)
    amount = np.clip((noise + cover) * 0.8, 0, 1) * rng.uniform(0.4, 1.0)
    white = planes(rim * 1.06 + 8)
    canvas.rgb[:, :rows] = color + amount * (white * (0.92 + 0.1 * noise) - color)
    canvas.rgb[:, rows:] = planes(rim)
    canvas.ids[:] = IDS["sky"]
    canvas.haze = street.haze


def _skyline(street: Street) -> None:
    """Far houses and woods along the horizon."""
    canvas, rng = street.canvas, street.rng
    depth = 170.0
    along = ((canvas.xs - canvas.center) / canvas.focal * depth).astype(np.float32)
    ox = rng.random() * 256
    rows = math.ceil(canvas.horizon + 1)
    y = canvas.eye - (canvas.ys[:rows] - canvas.horizon)[:, None] * (depth / canvas.focal)
    wood, stone = pick(rng, "far wood"), pick(rng, "far house")
    high = rng.uniform(4, 16)
    ambient = street.light.ambient
    if rng.random() < 0.7:
        block = np.floor(along / 9)
        dice = nearest(grain(), block + 512 + ox, block * 0 + 7)
        top = high * (0.4 + dice) * (dice > 0.25)
        tone = 0.8 + 0.4 * nearest(grain(), block + 600, block * 0 + 9)
        windows = (fraction(along * 0.5) < 0.5)[None, :] & (fraction(y / 3) < 0.5)
        lum = tone[None, :] * np.where(windows, 0.75, 1.0)
        canvas.start(IDS["building"], depth)
        canvas.paint((0, 0, y < top[None, :]), planes(stone * ambient) * lum)
    hill = smooth(clouds(), along * 0.25 + ox, along * 0 + 3.5)
    edge = nearest(clouds(), along * 4 + ox + 512, along * 0 + 60)
    top = high * (0.45 + 0.5 * hill) + 0.9 * edge
    lum = 0.9 + 0.22 * nearest(clouds(), along[None, :] * 3 + 1024, y * 3 + 1024)
    canvas.start(IDS["vegetation"], depth)
    canvas.paint((0, 0, y < top[None, :]), planes(wood * ambient) * lum)


# ---- the ground


def _ground(street: Street) -> None:
    """Road, pavement, verges and yards, with markings and the shadows of houses."""
    canvas, rng = street.canvas, street.rng
    first = math.floor(canvas.horizon) + 1
    z = canvas.eye * canvas.focal / (canvas.ys[first:] - canvas.horizon)[:, None]
    x = (canvas.xs - canvas.center)[None, :] * (z / canvas.focal)
    cos, sin = math.cos(street.yaw), math.sin(street.yaw)
    v = z * np.float32(cos) - x * np.float32(sin)
    u = x * np.float32(cos) + z * np.float32(sin)
    u += np.float32(street.own) - np.float32(street.curve) * v * v
    metre = z / canvas.focal  # of a pixel, across
    kind = _ground_kinds(street, u, v)
    color = _ground_colors(street, kind, u, v, metre)
    _markings(street, color, kind, u, v, metre)
    light = planes(street.light.above())
    if street.light.slope:
        shade = planes(street.light.shaded().above())
        light = np.where(_house_shade(street, u, v), shade, light)
    canvas.rgb[:, first:] = color * light
    canvas.ids[first:] = _GROUND_IDS[kind]
    for _ in range(rng.randrange(0, 9)):  # patches and manholes
        at_u, at_v = rng.uniform(-street.half, street.half), rng.uniform(4, 30)
        wide, long = rng.choice(((0.35, 0.35), (rng.uniform(0.3, 1.6), rng.uniform(0.8, 5))))
        corners = ((-wide, -long), (wide, -long), (wide, long), (-wide, long))
        places = [street.place(at_u + a, at_v + b) for a, b in corners]
        canvas.darken(places, rng.uniform(0.8, 1.1))


def _ground_kinds(street: Street, u: ndarray, v: ndarray) -> ndarray:
    """(h, w) uint8: the kind of ground at street coordinates."""
    cell = np.clip(v - START, 0, STOP - START - 1).astype(np.int32)
    yard = np.where(u < 0, street.yards[-1][cell], street.yards[1][cell])
    out = np.abs(u) - street.half
    kind = np.where(out > street.front - street.half, yard, WALK).astype(np.uint8)
    if street.verge:
        kind[(out > 0.2) & (out < street.verge)] = GRASS
    kind[out < 0.16] = CURB
    kind[out < 0] = ROAD
    if street.parking_ground:
        kind[(out < 0) & (out > -street.strip)] = PARKING
    if street.median:
        middle = np.abs(u) < street.median
        kind[middle] = street.median_kind
        if street.median_kind == GRASS:
            kind[middle & (np.abs(u) > street.median - 0.15)] = CURB
    for v0, v1 in street.crossings:
        kind[(v > v0) & (v < v1)] = ROAD
    return kind


def _ground_colors(
    street: Street, kind: ndarray, u: ndarray, v: ndarray, metre: ndarray
) -> ndarray:
    """(3, h, w): the ground in full light, without markings."""
    rng = street.rng
    road, walk = pick(rng, "road", spread=0.03), pick(rng, "pavement", spread=0.03)
    grass, curb = pick(rng, "grass"), walk * rng.uniform(1.05, 1.3)
    colors = [road, walk, curb, grass, pick(rng, "parking"), pick(rng, "track bed")]
    slab = rng.choice((0.4, 0.6, 1.0))
    ou, ov = rng.random() * 256, rng.random() * 256
    coarse = nearest(clouds(), u * 7 + (ou + 4096), v * 3 + (ov + 256))
    fine = nearest(grain(), u * 46 + 8192, v * 46 + 8192) - 0.5
    lum = 1 + 0.08 * coarse
    lum += fine * np.clip(1.2 - metre * 30, 0.15, 1) * np.where(kind == GRASS, 0.5, 0.2)
    lum += (kind == GRASS) * 0.14 * coarse
    joint = (fraction(u / slab) < 0.1) | (fraction(v / slab) < 0.1)
    joint &= (kind == WALK) | (kind == PARKING)
    lum -= joint * (0.2 * np.clip(1.3 - metre * 14, 0, 1))
    if rng.random() < 0.6:  # the tracks of the wheels
        track = np.abs(np.abs(u - np.float32(street.own)) - 0.8) < 0.3
        lum += (track & (kind == ROAD)) * np.float32(rng.uniform(-0.07, 0.07))
    if street.tram:
        rails = np.abs(np.abs(np.abs(u) - street.median * 0.47) - 0.72)
        cover = np.clip((0.06 - rails) / metre + 0.5, 0, 1) * np.minimum(1, 0.12 / metre)
        lum -= 0.35 * cover * (np.abs(u) < street.median)
    return pick_by(kind, colors) * lum


def _markings(
    street: Street, color: ndarray, kind: ndarray, u: ndarray, v: ndarray, metre: ndarray
) -> None:
    """Paints lines on ``color``, as wide as they are and no wider."""
    rng = street.rng
    strength = rng.uniform(0.35, 0.95)
    cover = np.zeros(u.shape, np.float32)

    def line(at: float, width: float, dash: float, gap: float) -> None:
        part = np.clip((width / 2 - np.abs(u - at)) / metre + 0.5, 0, 1)
        part *= np.minimum(1, width / metre)
        if gap:
            part *= fraction((v + dash) / (dash + gap)) < dash / (dash + gap)
        np.maximum(cover, part, out=cover)

    dash, gap = rng.choice(((3, 6), (4, 4), (1.5, 1.5), (6, 0)))
    if not street.median and rng.random() < 0.75:
        line(0.0, 0.14, dash, gap)
    for k in range(1, street.lanes):
        for side in (-1, 1):
            line(side * (street.median + street.lane * k), 0.14, 3, 6)
    if rng.random() < 0.5:
        for side in (-1, 1):
            edge = street.median + street.lane * street.lanes
            line(side * edge, 0.13, 1, 0 if street.strip < 1 else 1)
    for v0, v1 in street.crossings:
        cover[(v > v0 - 4.5) & (v < v1 + 1)] = 0
    zebras = [v0 - 4 for v0, _ in street.crossings if rng.random() < 0.7]
    if rng.random() < 0.18:
        zebras.append(rng.uniform(9, 30))
    for at in zebras:
        cover[(fraction(u) < 0.5) & (v > at) & (v < at + 3.2)] = 1
        if rng.random() < 0.6:
            cover[(v > at - 1.4) & (v < at - 1.0) & (u > street.median)] = 1
    worn = nearest(clouds(), u * 18 + 4096, v * 18 + 4096)
    cover *= np.clip(strength + 0.3 * worn, 0, 1) * (kind == ROAD)
    color += cover * (planes(rgb(206, 206, 200)) - color)


def _house_shade(street: Street, u: ndarray, v: ndarray) -> ndarray:
    """(h, w) bool: where a house keeps the sun from the ground; ``Street.shaded`` for all."""
    shade = np.zeros(u.shape, bool)
    for side in (-1, 1):
        across = side * street.sun[0]
        if across > 0.08:
            way = np.maximum((street.front - side * u) / across, 0)
            at = np.clip(v + way * street.sun[1] - START, 0, STOP - START - 1)
            shade |= street.heights[side][at.astype(np.int32)] > way / street.light.slope
    return shade


def _ground_haze(street: Street) -> None:
    canvas = street.canvas
    first = math.floor(canvas.horizon) + 1
    z = canvas.eye * canvas.focal / (canvas.ys[first:] - canvas.horizon)
    ground = canvas.rgb[:, first:]
    ground -= planes(street.rim)
    ground *= canvas.clearness(np.minimum(z, 400))[:, None]
    ground += planes(street.rim)


# ---- houses and gardens


def _facing(street: Street) -> None:
    """What stands across the end of the street."""
    rng, canvas = street.rng, street.canvas
    base, u = rng.uniform(6, 15), -70.0
    # what the eye meets: a front turned to the camera
    facing = street.light.on(math.sin(street.yaw), -math.cos(street.yaw))
    green = rng.random() < 0.3
    while u < 70:
        wide = rng.uniform(9, 20)
        height = base * rng.uniform(0.8, 1.25)
        if green and rng.random() < 0.6:
            x, z = street.place(u + wide / 2, street.end + 3)
            canvas.start(IDS["vegetation"], z)
            for frame, tall in ((Frame(x, z), height), (Frame(x + 5, z - 2), height * 0.8)):
                pen = Pen(canvas, frame, street.light)
                things.tree(pen, random.Random(rng.getrandbits(32)), tall)
        else:
            left, right = street.place(u, street.end), street.place(u + wide, street.end)
            canvas.start(IDS["building"], right[1], facing)
            shader = surfaces.Facade(random.Random(rng.getrandbits(32)), height, wide)
            canvas.wall(left, right, 0, height, shader)
        u += wide


def _lot(street: Street, lot: Lot) -> None:
    """A lot from its back to its front line."""
    rng = random.Random(lot.seed)
    if lot.kind in ("row", "hall", "garden"):
        _house(street, lot, rng)
    if lot.kind in ("park", "garden", "wall", "fence"):
        _plants(street, lot, rng)
        _border(street, lot, rng)


def _along(
    street: Street, name: str, side: int, out: float, span: Place, height: float, shader: Shader
) -> None:
    """A vertical face along one side of the street that looks at it."""
    ends = (span[1], span[0]) if side > 0 else span
    left, right = (street.place(side * out, v) for v in ends)
    x, z = street.frame(0, span[0]).right
    tint = street.light.on(-side * x, -side * z)
    street.canvas.start(IDS[name], (left[1] + right[1]) / 2, tint)
    street.canvas.wall(left, right, 0, height, shader)


def _across(
    street: Street, name: str, side: int, outs: Place, v: float, height: Height, shader: Shader
) -> None:
    """A vertical face that looks back along the street, between two distances from its middle."""
    near, far = (street.place(side * out, v) for out in outs)
    left, right = (near, far) if side > 0 else (far, near)
    x, z = street.frame(0, v).ahead
    street.canvas.start(IDS[name], left[1], street.light.on(-x, -z))
    street.canvas.wall(left, right, 0, height, shader)


def _house(street: Street, lot: Lot, rng: random.Random) -> None:
    side, out, shade = lot.side, street.front + lot.setback, street.light.slope
    v0, v1, height = lot.start, lot.stop, lot.height
    if lot.kind == "garden":
        v0, v1 = v0 + 1.5, max(v1 - rng.uniform(1.5, 5), v0 + 5)
        height = min(height, rng.uniform(4.5, 8))
    shadow = 0.0
    if shade and side * street.sun[0] < -0.08:
        way = (out + street.front) / abs(street.sun[0])
        shadow = float(street.roof(-side, (v0 + v1) / 2)) - way / shade
    deep = rng.uniform(7, 11)
    roof = rng.uniform(1.5, 4.5) if rng.random() < 0.6 and lot.kind != "hall" else 0.0
    front = surfaces.Facade(rng, height, v1 - v0, shadow=shadow)
    half = deep / 2
    gable = height if not roof else lambda s: height + roof * (1 - np.abs(s - half) / half)
    _across(street, "building", side, (out, out + deep), v0, gable, surfaces.blind_side(rng))
    _along(street, "building", side, out, (v0, v1), height, front)
    if roof and (out - side * street.own) * roof > (height - street.canvas.eye) * half:
        slope = []
        for at, y, v in ((out, height, v0), (out, height, v1), (out + half, height + roof, v1),
                         (out + half, height + roof, v0)):  # fmt: skip
            x, z = street.place(side * at, v)
            slope.append((z, x, y))
        street.canvas.tint = street.light.above()
        Pen(street.canvas, Frame(0, 0), street.light).surface(slope, pick(rng, "roof"))


def _plants(street: Street, lot: Lot, rng: random.Random) -> None:
    """Trees and shrubs behind the front line."""
    if lot.kind == "park" and rng.random() < 0.6:
        height = rng.uniform(5, 12)
        hedge = surfaces.hedge(rng, height)
        span = lot.start, lot.stop
        _along(street, "vegetation", lot.side, street.front + 13, span, height, hedge)
    room = lot.setback if lot.kind == "garden" else 11.0
    most = {"park": 5, "garden": 3, "wall": 4, "fence": 3}[lot.kind]
    count = rng.randrange(most // 2, most + 1)
    spots = [
        (rng.uniform(lot.start, lot.stop), rng.uniform(1.2, max(room, 1.5))) for _ in range(count)
    ]
    for v, out in sorted(spots, reverse=True):
        frame = Frame(*street.place(lot.side * (street.front + out), v))
        if frame.z < 6:
            continue
        pen = Pen(street.canvas, frame, street.light)
        street.canvas.start(IDS["vegetation"], frame.z)
        if rng.random() < 0.7:
            things.tree(pen, rng, rng.uniform(5, 12), ("round", "round", "tall", "conifer"))
        else:
            things.shrub(pen, rng)


def _border(street: Street, lot: Lot, rng: random.Random) -> None:
    """The front line: a wall, a fence, a hedge or nothing."""
    kind = lot.kind
    if kind in ("garden", "park"):
        kinds = ("fence", "wall", "hedge", "open", "open" if kind == "park" else "fence")
        kind = rng.choice(("hedge", "open") if street.simple else kinds)
    if kind == "open":
        return
    height, name, look = {
        "wall": (rng.uniform(1.1, 3.4), "wall", surfaces.wall),
        "fence": (rng.uniform(1.0, 2.2), "fence", surfaces.fence),
        "hedge": (rng.uniform(0.8, 2.2), "vegetation", surfaces.hedge),
    }[kind]
    if lot.kind == "garden":
        height = min(height, 1.6)
    shader = look(rng, height)
    outs, span = (street.front, street.front + 0.3), (lot.start, lot.stop)
    _across(street, name, lot.side, outs, lot.start, height, shader)
    _along(street, name, lot.side, street.front, span, height, shader)


# ---- the camera


def _bonnet(street: Street) -> None:
    """The camera's own car along the lower edge; void in Cityscapes."""
    canvas, rng = street.canvas, street.rng
    x = (canvas.xs - canvas.width * rng.uniform(0.47, 0.53)) / canvas.width
    high = rng.uniform(0.03, 0.09)
    top = canvas.height * (1 - high * (1 - 2.2 * x * x))
    first = math.floor(canvas.height * (1 - high))
    down = (canvas.ys[first:, None] - top[None, :]) / (canvas.height * high)
    paint = pick(rng, "bonnet")
    mirror = 0.4 * np.exp(-6 * np.clip(down, 0, None))
    color = planes(paint) + mirror * planes(street.rim - paint)
    canvas.start(IDS["ego vehicle"], 0.0)
    canvas.paint((first, 0, down >= 0), color)


def _photograph(street: Street) -> ndarray:
    """The canvas through a lens and a sensor, (H, W, 3) uint8."""
    canvas, rng, pixels = street.canvas, street.rng, street.canvas.rgb
    # a lens that is a little soft and darker to its corners
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
