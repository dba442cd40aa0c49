"""Augmentation as the batches show it: places, their distribution, and colours.

The images are ramps: red is four times the column, green four times the row. Bilinear
resizing of a plane samples the plane, so every pixel of a batch says where in the source it
comes from. NumPy computes the same places from the definition.
"""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import kseg.training
from kseg.training import augment

EXTENT = 64
STEP = 4
# Labels repeat after so many rows and columns: as many classes as uint8 has below 255.
PERIOD = 15
PADDING = (255, 255, 255)
# In source pixels: float32 noise of values up to 255 over the ramp's step. The least
# distance between places of different windows is ten times as large.
PLACE = 1e-3
# Statistics of so many draws may exceed their bounds with one seed in a million: by the
# Dvoretzky-Kiefer-Wolfowitz inequality, and by the normal distribution.
DRAWS = 600
KOLMOGOROV = np.sqrt(np.log(2e6) / (2 * DRAWS))
SIGMAS = 5


def write_folder(folder, images, label):
    for kind, pictures in (("images", images), ("labels", [label] * len(images))):
        (folder / kind / "train").mkdir(parents=True)
        for i, pixels in enumerate(pictures):
            Image.fromarray(np.uint8(pixels)).save(folder / kind / "train" / f"{i}.png")
    (folder / "classes.txt").write_text("".join(f"{i}\n" for i in range(PERIOD**2)))
    return folder


@pytest.fixture(scope="module")
def ramps(tmp_path_factory):
    """Eight ramps, numbered in blue."""
    rows, columns = np.indices((EXTENT, EXTENT))
    images = [np.stack([STEP * columns, STEP * rows, 0 * rows + i], -1) for i in range(8)]
    label = rows % PERIOD * PERIOD + columns % PERIOD
    return write_folder(tmp_path_factory.mktemp("ramps"), images, label)


def examples(folder, count, **options):
    """Images (count, H, W, 3) and labels (count, H, W) of a stream."""
    options = dict(batch_size=8, jitter=0, pad_value=PADDING, start_step=0) | options
    stream = kseg.training.dataset("folder", folder, "train", **options)
    batches = list(stream.take(-(-count // options["batch_size"])).as_numpy_iterator())
    return tuple(np.concatenate(part)[:count] for part in zip(*batches, strict=True))


def places(images):
    """Where rows (n, H) and columns (n, W) come from, -1 for padding; which are mirrored.

    Columns of a mirrored image are turned back.
    """
    padding = (images == PADDING).all(-1)
    found = np.where(padding[..., None], -1, images[..., :2] / STEP)
    rows, columns = found[..., 1].max(2), found[..., 0].max(1)
    inside = (rows >= 0)[:, :, None] & (columns >= 0)[:, None]
    np.testing.assert_array_equal(padding, ~inside)
    want = np.stack(np.broadcast_arrays(columns[:, None], rows[:, :, None]), -1)
    np.testing.assert_allclose(found[inside], want[inside], atol=PLACE)
    ends = [line[line >= 0][[0, -1]] for line in columns]
    mirrored = np.array([first > last for first, last in ends])
    return rows, np.where(mirrored[:, None], columns[:, ::-1], columns), mirrored


def window(crop, length, start):
    """(crop,) places along an axis by the definition, -1 for padding.

    ``length`` source pixels from ``start`` on, which may lie partly outside, fill the crop.
    What is inside is resized by half-pixel centres, without looking beyond the window, to
    one pixel at least.
    """
    first, last = max(start, 0), min(start + length, EXTENT)
    begin, end = (round((edge - start) / length * crop) for edge in (first, last))
    if begin == end:
        begin = min(begin, crop - 1)
        end = begin + 1
    centres = (np.arange(end - begin) + 0.5) * (last - first) / (end - begin) - 0.5
    result = np.full(crop, -1.0)
    result[begin:end] = first + centres.clip(0, last - first - 1)
    return result


def identify(lines, lengths):
    """(n, 2): length and start of the window that each line of places shows."""
    keys = [
        (length, start)
        for length in lengths
        for start in range(min(EXTENT - length, 0), max(EXTENT - length, 0) + 1)
    ]
    table = np.stack([window(lines.shape[1], *key) for key in keys])
    distances = np.stack([np.abs(table - line).max(1) for line in lines])
    assert distances.min(1).max() < PLACE
    return np.array(keys)[distances.argmin(1)]


def assert_uniform(values, low, high, rounding=0.0):
    """By the largest distance of the distributions, ``rounding`` that of discrete values."""
    shares = (np.sort(values) - low) / (high - low)
    steps = np.arange(len(values) + 1) / len(values)
    distance = max((steps[1:] - shares).max(), (shares - steps[:-1]).max())
    assert distance < KOLMOGOROV * np.sqrt(DRAWS / len(values)) + rounding


def assert_uncorrelated(*lines):
    correlations = np.corrcoef(lines)[np.triu_indices(len(lines), 1)]
    assert np.abs(correlations).max() < SIGMAS / np.sqrt(len(lines[0]))


@pytest.mark.parametrize(
    ("crop", "factor", "lengths"),
    [
        ((32, 40), 1.0, (32, 40)),
        ((32, 40), 1.6, (20, 25)),
        ((48, 40), 0.8, (60, 50)),
        ((21, 10), 0.7, (30, 14)),
        ((23, 27), 0.8, (29, 34)),  # 28.75 and 33.75, rounded
        ((32, 20), 0.5, (64, 40)),
        ((30, 40), 0.5, (60, 80)),  # columns are padded
        ((40, 29), 0.4, (100, 72)),
        ((5, 9), 0.1, (50, 90)),
        ((16, 9), 0.005, (3200, 1800)),
        ((1, 2), 8.0, (1, 1)),
    ],
)
def test_a_window_of_the_source_is_resized(crop, factor, lengths, ramps):
    """Images bilinear, labels by the nearest pixel, both at half-pixel centres."""
    images, labels = examples(ramps, 16, crop=crop, scale=(factor, factor))
    rows, columns, mirrored = places(images)
    identify(rows, lengths[:1])
    identify(columns, lengths[1:])
    labels = np.where(mirrored[:, None, None], labels[:, :, ::-1], labels)
    # The pixel that holds the place; a place between two belongs to the second.
    down, along = (np.floor(lines + 0.5 + PLACE) % PERIOD for lines in (rows, columns))
    want = down[:, :, None] * PERIOD + along[:, None]
    inside = (rows >= 0)[:, :, None] & (columns >= 0)[:, None]
    np.testing.assert_array_equal(labels, np.where(inside, want, 255))


def test_scale_place_and_mirror_are_uniform_and_independent(ramps):
    images, _ = examples(ramps, DRAWS, crop=(32, 32), scale=(0.5, 2.0))
    rows, columns, mirrored = places(images)
    (length, top), (across, left) = (identify(x, range(16, 65)).T for x in (rows, columns))
    np.testing.assert_array_equal(length, across)
    factor = 32 / length
    # A length of 16 stands for factors from 1.94 to 2, 0.06 of the range of 1.5.
    assert_uniform(factor, 0.5, 2.0, rounding=0.04)
    slack = EXTENT - length
    free = slack >= 16
    for start in (top, left):
        assert_uniform(((start + 0.5) / (slack + 1))[free], 0, 1, rounding=1 / 34)
    assert abs(mirrored.mean() - 0.5) < SIGMAS * 0.5 / np.sqrt(DRAWS)
    assert_uncorrelated(*(x[free] for x in (factor, top / slack.clip(1), left / slack.clip(1))))
    assert_uncorrelated(factor, mirrored)
    assert_uncorrelated(top - slack / 2, mirrored)
    assert_uncorrelated(left - slack / 2, mirrored)


@pytest.mark.parametrize("crop", [60, 68])
def test_every_place_is_as_likely(crop, ramps):
    """Four pixels more or fewer than the image leave five places an axis."""
    images, _ = examples(ramps, DRAWS, crop=(crop, crop), scale=(1, 1))
    for lines in places(images)[:2]:
        starts, counts = np.unique(identify(lines, [crop])[:, 1], return_counts=True)
        np.testing.assert_array_equal(starts, np.arange(5) + min(EXTENT - crop, 0))
        deviation = np.sqrt(DRAWS * 0.2 * 0.8)
        np.testing.assert_allclose(counts, DRAWS / 5, atol=SIGMAS * deviation)


def test_no_flip(ramps):
    images, _ = examples(ramps, 32, crop=(32, 32), flip=False)
    assert not places(images)[2].any()


def test_order_and_windows_follow_seed_pass_and_position(ramps):
    """Sixteen examples are two passes over the eight images."""
    options = dict(crop=(32, 32), scale=(1, 1), flip=False)
    orders, tops = [], []
    for seed in (0, 1):
        images, _ = examples(ramps, 16, seed=seed, **options)
        orders += images[:, 0, 0, 2].reshape(2, 8).tolist()
        tops += places(images)[0][:, 0].reshape(2, 8).tolist()
        # Windows of a pass differ, though a few of 33 places may coincide.
        assert min(len(set(line)) for line in tops) > 4
    for order in orders:
        assert sorted(order) == list(range(8))
    for a, b in itertools.combinations(range(4), 2):
        assert orders[a] != orders[b]
        # By position and by image: neither decides the window alone.
        assert tops[a] != tops[b]
        assert dict(zip(orders[a], tops[a], strict=True)) != dict(
            zip(orders[b], tops[b], strict=True)
        )


ROTATE = 25.0


@pytest.mark.parametrize("factor", [0.4, 0.8, 1.25, 2.0])
def test_rotation(factor, ramps):
    """About the middle of the window that the same example has without it.

    Every pixel says its place, which NumPy computes from the window and the angle; these are
    those of the ramps' slopes.
    """
    count, crop = 48, np.array([32, 40])
    options = dict(crop=(32, 40), scale=(factor, factor))
    images, labels = examples(ramps, count, rotate=ROTATE, flip=False, **options)
    middles = np.indices(crop) + 0.5 - crop[:, None, None] / 2
    lengths = np.round(crop / factor)
    angles, starts = [], []
    for image, label in zip(images, labels, strict=True):
        padding = (image == PADDING).all(-1)
        at = image[..., 1::-1] / STEP
        # Beside the border the places are the border's.
        sloped = ~padding & (at > 0.01).all(-1) & (at < EXTENT - 1.01).all(-1)
        points = np.stack([*middles, np.ones(crop)], -1)[sloped]
        fit, *_ = np.linalg.lstsq(points, at[sloped], rcond=None)
        np.testing.assert_allclose(at[sloped], points @ fit, atol=PLACE)
        steps = lengths / crop
        cosine, sine = fit[:2, 0] / steps[0]
        angles.append(np.degrees(np.arctan2(sine, cosine)))
        # Float noise of the fit, over ten pixels at least
        assert np.hypot(sine, cosine) == pytest.approx(1, abs=2e-4)
        start = fit[2] + 0.5 - lengths / 2
        np.testing.assert_allclose(start, np.round(start), atol=2 * PLACE)
        starts.append(np.round(start))
        y, x = middles
        turned = np.stack([cosine * y + sine * x, cosine * x - sine * y], -1)
        want = starts[-1] + lengths / 2 + steps * turned
        # What lies on a pixel's border to float noise may be of either side.
        certain = (np.abs(want - np.round(want)) > 5 * PLACE).all(-1)
        inside = (want >= 0).all(-1) & (want < EXTENT).all(-1)
        np.testing.assert_array_equal(padding[certain], ~inside[certain])
        pixel = np.floor(want).astype(int) % PERIOD
        ids = np.where(inside, pixel[..., 0] * PERIOD + pixel[..., 1], 255)
        np.testing.assert_array_equal(label[certain], ids[certain])
        shown = (want - 0.5).clip(0, EXTENT - 1)
        np.testing.assert_allclose(at[inside & certain], shown[inside & certain], atol=5 * PLACE)
    assert_uniform(np.array(angles), -ROTATE, ROTATE)
    slack = EXTENT - lengths
    assert (np.minimum(slack, 0) <= starts).all()
    assert (starts <= np.maximum(slack, 0)).all()
    if (slack >= 0).all():
        plain = places(examples(ramps, count, flip=False, **options)[0])
        for axis in (0, 1):
            known = identify(plain[axis], [int(lengths[axis])])[:, 1]
            np.testing.assert_array_equal(np.array(starts)[:, axis], known)


def test_rotation_and_mirror(ramps):
    options = dict(crop=(32, 40), rotate=ROTATE)
    plain = examples(ramps, 64, **options, flip=False)
    found = examples(ramps, 64, **options)
    mirrored = [not np.array_equal(a, b) for a, b in zip(found[1], plain[1], strict=True)]
    for got, want in zip(found, plain, strict=True):
        np.testing.assert_array_equal(got[mirrored][:, :, ::-1], want[mirrored])
    assert abs(np.mean(mirrored) - 0.5) < SIGMAS * 0.5 / np.sqrt(64)


# Pillow's places have 16 bits behind the point: of a thousand pixels one may be its neighbour.
FIXED_POINT = 2e-3


@pytest.mark.parametrize("degrees", [-37.0, 5.0, 90.0, 135.0])
def test_rotation_is_pillows(degrees):
    """Counter-clockwise; labels and what lies outside to the pixel."""
    rows, columns = np.indices((41, 33))
    image = np.uint8(np.stack([6 * rows, 7 * columns, 255 - 3 * rows - 3 * columns], -1))
    label = np.random.default_rng(0).integers(0, 200, (41, 33), np.uint8)
    windows = [(tf.constant(0), tf.constant(extent)) for extent in label.shape]
    (down, along), rotation = augment.rotated_window(
        tf.constant(label.shape), label.shape, windows, tf.constant(np.radians(degrees), tf.float32)
    )
    window = slice(*down.numpy()), slice(*along.numpy())
    got, ids, inside = augment.rotated(image[window], label[window], rotation, label.shape)
    want = Image.fromarray(label).rotate(degrees, Image.Resampling.NEAREST, fillcolor=255)
    assert (ids != np.asarray(want)).numpy().mean() < FIXED_POINT
    assert (inside != (np.asarray(want) != 255)).numpy().mean() < FIXED_POINT
    want = np.asarray(Image.fromarray(image).rotate(degrees, Image.Resampling.BILINEAR), int)
    # Pillow rounds to levels, and leaves out what lies beyond the outer pixels' centres.
    common = inside.numpy() & (want > 0).any(-1)
    assert common.mean() > 0.5
    np.testing.assert_allclose(got.numpy()[common], want[common], atol=1 + PLACE)


# Two greys and a colour that no factor of 1 +- 0.3 brings to a limit, then some that reach it.
PALETTE = (
    *((100, 100, 100), (150, 150, 150), (150, 110, 100)),
    *((255, 0, 0), (0, 0, 255), (255, 255, 255), (10, 250, 20), (0, 0, 0)),
)


def jittered(folder, count, size, jitter):
    """Factors (count, 3) of brightness, contrast and saturation, and colours (count, n, 3)."""
    pixels = np.reshape(PALETTE[: size[0] * size[1]], (*size, 3))
    write_folder(folder, [pixels], np.zeros(size))
    options = dict(crop=size, scale=(1, 1), flip=False, batch_size=1)
    colours = examples(folder, count, jitter=jitter, **options)[0].reshape(count, -1, 3)
    colours = colours.astype("float64")
    # A grey v becomes b (c (v - 127.5) + 127.5), whatever the saturation.
    slope = (colours[:, 1] - colours[:, 0]).mean(-1) / 50
    brightness = (colours[:, 0].mean(-1) + 27.5 * slope) / 127.5
    saturation = (colours[:, 2, 0] - colours[:, 2, 2]) / 50 / slope
    return np.stack([brightness, slope / brightness, saturation], -1), colours


@pytest.mark.parametrize("size", [(2, 4), (2, 3), (1, 5)])
def test_jitter_of_a_palette(size, tmp_path):
    """Saturation about the Rec. 601 grey, contrast about 127.5, brightness, then the limits."""
    factors, got = jittered(tmp_path, 50, size, 0.3)
    rgb = np.float64(PALETTE[: got.shape[1]])
    brightness, contrast, saturation = factors.T[..., None, None]
    grey = (rgb @ [0.299, 0.587, 0.114])[:, None]
    want = grey + saturation * (rgb - grey)
    want = brightness * (contrast * (want - 127.5) + 127.5)
    # float32, and factors that come from differences of 50
    np.testing.assert_allclose(got, want.clip(0, 255), atol=5e-3)
    assert want.min() < -5
    assert want.max() > 260


def test_jitter_is_uniform_and_independent(tmp_path):
    factors, _ = jittered(tmp_path, DRAWS, (2, 4), 0.3)
    for values in factors.T:
        assert values.min() > 0.7 - 1e-4
        assert values.max() < 1.3 + 1e-4
        assert_uniform(values, 0.7, 1.3)
    assert_uncorrelated(*factors.T)


def test_defaults_are_the_documented_ones(ramps):
    def batches(**options):
        stream = kseg.training.dataset(
            "folder", ramps, "train", crop=(48, 80), start_step=0, **options
        )
        return list(stream.take(2).as_numpy_iterator())

    documented = dict(
        batch_size=8,
        augment=True,
        scale=(0.5, 2.0),
        flip=True,
        jitter=0.2,
        rotate=0,
        randaugment=None,
        blur=0,
        noise=0,
        jpeg=None,
        class_uniform=0,
        class_mix=0,
        pad_value=(127.5, 127.5, 127.5),
        seed=0,
    )
    for plain, explicit in zip(batches(), batches(**documented), strict=True):
        assert plain[0].shape == (8, 48, 80, 3)
        assert (plain[0] == 127.5).all(-1).any()
        for got, want in zip(plain, explicit, strict=True):
            np.testing.assert_array_equal(got, want)
