"""Colours and sharpness, held to Pillow's and SciPy's own operations."""

import io
import itertools

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

import kseg
import kseg.training
from kseg.training import photometric
from kseg.training.augment import Augmentation
from kseg.training.photometric import OPERATIONS, distort

RNG = np.random.default_rng(5)
# Smooth and coloured, noise, narrow ranges, one value, and what has no inside.
ROWS, COLUMNS = np.indices((37, 26))
IMAGES = {
    "smooth": np.stack([6 * ROWS, 9 * COLUMNS, 60 + 3 * ROWS + COLUMNS], -1),
    "noise": RNG.integers(0, 256, (37, 26, 3)),
    "no extremes": RNG.integers(20, 220, (24, 20, 3)),
    "narrow": RNG.integers([90, 10, 200], [130, 60, 203], (40, 30, 3)),
    "two values": RNG.choice([30, 31], (9, 9, 3)),
    "one value": np.full((5, 7, 3), 80),
    "one row": RNG.integers(0, 256, (1, 9, 3)),
}
IMAGES = {name: np.uint8(image) for name, image in IMAGES.items()}
# Pillow cuts results down to whole levels and rounds the grey, the mean and the smooth image
# beforehand, which at most 0.9 of a change makes 0.45.
LEVELS = 1.5
STRENGTHS = (-1.0, -0.4, 0.0, 0.3, 1.0)
# Statistics of random draws may exceed these bounds with one seed in a million.
CHANCE = 1e-6


def seeds(count):
    return [tf.constant([7, i]) for i in range(count)]


def as_floats(image):
    return tf.constant(image, tf.float32)


PILLOW = {
    "identity": lambda image, strength: image,
    "auto_contrast": lambda image, strength: ImageOps.autocontrast(image),
    "equalize": lambda image, strength: ImageOps.equalize(image),
    "solarize": lambda image, strength: ImageOps.solarize(image, 256 * (1 - abs(strength))),
    "posterize": lambda image, strength: ImageOps.posterize(image, 8 - round(4 * abs(strength))),
    "saturation": lambda image, strength: ImageEnhance.Color(image).enhance(1 + 0.9 * strength),
    "contrast": lambda image, strength: ImageEnhance.Contrast(image).enhance(1 + 0.9 * strength),
    "brightness": lambda image, strength: ImageEnhance.Brightness(image).enhance(
        1 + 0.9 * strength
    ),
    "sharpness": lambda image, strength: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * strength),
}
EXACT = ("identity", "equalize", "solarize", "posterize")


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_pillows(name, image):
    for strength in STRENGTHS:
        got = OPERATIONS[name](as_floats(image), tf.constant(strength)).numpy()
        want = np.asarray(PILLOW[name](Image.fromarray(image), strength), int)
        assert 0 <= got.min() <= got.max() <= 255
        np.testing.assert_allclose(got, want, atol=0 if name in EXACT else LEVELS)
        if strength == 0 and name not in ("auto_contrast", "equalize"):
            np.testing.assert_allclose(got, image, atol=1e-3)


def variants(image, magnitude):
    """What one operation may give: both signs of each."""
    return [
        (name, change(image, tf.constant(sign * magnitude / 30)).numpy())
        for name, change in OPERATIONS.items()
        for sign in (-1.0, 1.0)
    ]


def test_operations_are_drawn_evenly():
    image = as_floats(IMAGES["no extremes"])
    options = variants(image, 21)
    draw = tf.function(lambda seed: photometric.randomly_augmented(image, seed, 1, 21))
    found = {name: [] for name in OPERATIONS}
    for seed in seeds(400):
        result = draw(seed).numpy()
        distances = [np.abs(result - value).max() for _, value in options]
        assert min(distances) < 1e-3
        found[options[np.argmin(distances)][0]].append(int(np.argmin(distances)) % 2)
    counts = [len(signs) for signs in found.values()]
    assert scipy.stats.chisquare(counts).pvalue > CHANCE
    for name in ("saturation", "contrast", "brightness", "sharpness"):
        ups = sum(found[name])
        assert scipy.stats.binomtest(ups, len(found[name])).pvalue > CHANCE


def test_operations_follow_each_other():
    image = as_floats(IMAGES["no extremes"])
    once = variants(image, 9)
    twice = [value for _, first in once for _, value in variants(tf.constant(first), 9)]
    draw = tf.function(lambda seed: photometric.randomly_augmented(image, seed, 2, 9))
    results = [draw(seed).numpy() for seed in seeds(30)]
    for result in results:
        assert min(np.abs(result - value).max() for value in twice) < 1e-3
    alone = [min(np.abs(result - value).max() for _, value in once) for result in results]
    # Two of them are none in sum only where the identity or one operation twice was drawn.
    assert np.mean(np.array(alone) > 1) > 0.5


@pytest.mark.parametrize("sigma", [0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_blur_is_scipys(sigma, image):
    reach = 8
    got = photometric.blurred(as_floats(image), tf.constant(sigma), reach)
    want = np.float64(image)
    if sigma:
        for axis in (0, 1):
            want = scipy.ndimage.gaussian_filter1d(want, sigma, axis, mode="nearest", radius=reach)
    # float32 sums of 17 values up to 255
    np.testing.assert_allclose(got, want, atol=5e-4)


def test_blur_is_uniform():
    """A spot's neighbour has exp(-1 / 2 sigma^2) of it."""
    image = np.zeros((15, 15, 3), np.float32)
    image[7, 7] = 255
    draw = tf.function(lambda seed: distort(tf.constant(image), seed, blur=2.0))
    results = np.stack([draw(seed).numpy()[7, 7:9, 0] for seed in seeds(200)])
    wide = results[:, 1] > 1e-3
    sigma = np.sqrt(-0.5 / np.log(results[wide, 1] / results[wide, 0]))
    # Below a quarter of a pixel the neighbours have nothing.
    low = sigma > 0.25
    uniform = scipy.stats.uniform(0.25, 1.75)
    assert scipy.stats.kstest(sigma[low], uniform.cdf).pvalue > CHANCE
    assert scipy.stats.binomtest(int(low.sum()), 200, 1.75 / 2).pvalue > CHANCE


def test_noise_is_normal_and_its_strength_uniform():
    image = tf.fill((24, 20, 3), 127.0)
    draw = tf.function(lambda seed: distort(image, seed, noise=20.0) - image)
    results = np.stack([draw(seed).numpy() for seed in seeds(200)]).reshape(200, -1)
    strengths = results.std(1)
    assert scipy.stats.kstest(strengths / 20, scipy.stats.uniform.cdf).pvalue > CHANCE
    values = results / strengths[:, None]
    assert scipy.stats.kstest(values.ravel(), scipy.stats.norm.cdf).pvalue > CHANCE
    for a, b in itertools.pairwise(values[:20]):
        assert scipy.stats.pearsonr(a, b).pvalue > CHANCE
    white = distort(tf.fill((24, 20, 3), 255.0), seeds(1)[0], noise=20.0).numpy()
    assert white.max() == 255
    assert white.min() < 255


def pillow_jpeg(image, quality):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=2)
    return np.asarray(Image.open(buffer), int)


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("quality", [1, 30, 75, 100])
def test_compression_is_pillows(quality, image):
    got = photometric.compressed(as_floats(image) + 0.3, tf.constant(quality)).numpy()
    # Two builds of libjpeg decode alike but for a level of rounding in the colours.
    np.testing.assert_allclose(got, pillow_jpeg(image, quality), atol=2)


def test_qualities_are_even():
    image = as_floats(IMAGES["noise"])
    options = np.stack(
        [photometric.compressed(image, tf.constant(q)).numpy() for q in range(90, 101)]
    )
    draw = tf.function(lambda seed: distort(image, seed, jpeg=90))
    counts = np.zeros(11)
    for seed in seeds(220):
        (found,) = np.flatnonzero((options == draw(seed).numpy()).all((1, 2, 3)))
        counts[found] += 1
    assert scipy.stats.chisquare(counts).pvalue > CHANCE


ALL = dict(randaugment=(2, 15), blur=1.0, noise=10.0, jpeg=40)


def batches(folder, count, **options):
    options = {"crop": (32, 40), "batch_size": 2, "start_step": 0, **options}
    stream = kseg.training.dataset("camvid", folder, "train", **options)
    return [tuple(t.numpy() for t in batch) for batch in stream.take(count)]


@pytest.mark.parametrize("rotate", [0.0, 30.0])
def test_in_the_stream(rotate, tiny_camvid):
    """Labels and padding stay; each setting changes the image, alone and after the others."""
    options = dict(scale=(0.4, 1.5), rotate=rotate, pad_value=(1, 2, 3))
    plain, seen = batches(tiny_camvid, 6, **options), []
    alone = [{name: value} for name, value in ALL.items()]
    for chosen in (*alone[: 4 if rotate else 0], ALL):
        found = batches(tiny_camvid, 6, **options, **chosen)
        seen.append(np.concatenate([image for image, _ in found]))
        for (image, label), (was, label_was) in zip(found, plain, strict=True):
            np.testing.assert_array_equal(label, label_was)
            padding = (was == (1, 2, 3)).all(-1)
            assert (label_was[padding] == 255).all()
            assert (image[padding] == (1, 2, 3)).all()
            assert 0 <= image.min() <= image.max() <= 255
    seen.insert(0, np.concatenate([image for image, _ in plain]))
    for a, b in itertools.combinations(seen, 2):
        assert not np.array_equal(a, b)
    rest = batches(tiny_camvid, 2, **options, **ALL, start_step=4)
    np.testing.assert_array_equal(np.concatenate([image for image, _ in rest]), seen[-1][8:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(rotate=-1), "rotate is -1; it must be 0 to 180 degrees"),
        (dict(blur=-1), "blur is -1; it must be 0 to 20"),
        (dict(noise=300), "noise is 300; it must be 0 to 255"),
        (dict(jpeg=0), "jpeg is 0; it must be a quality of 1 to 100"),
        (dict(randaugment=(0, 9)), r"randaugment is \(0, 9\); .* at least 1"),
        (dict(randaugment=(2, 31)), r"magnitude of 0 to 30"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(kseg.KsegError, match=message):
        Augmentation((8, 8), (1, 1), False, 0.0, (0, 0, 0), **options)
