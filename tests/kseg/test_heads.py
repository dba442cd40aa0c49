"""Heads alone, on features of a few channels: their channels are options."""

import math

import keras
import pytest

from kseg.backbones import Features
from kseg.zoo import HEADS

CLASSES = 5
OUT, HIGH, MID, LOW, STEM = 32, 16, 8, 6, 4


def features(height: int = 64, width: int = 96) -> Features:
    output, high, mid, low, stem = (
        keras.Input((-(-height // stride), -(-width // stride), channels))
        for stride, channels in ((32, OUT), (16, HIGH), (8, MID), (4, LOW), (2, STEM))
    )
    return Features(output, low, mid, high, stem)


def build(head: str, **options) -> tuple[int, tuple[int, ...]]:
    """Trainable parameters, and the shape of the logits of a 64x96 image."""
    given = features()
    logits = HEADS[head].function(given, CLASSES, **options)
    model = keras.Model(list(given), logits)
    return sum(math.prod(w.shape) for w in model.trainable_weights), logits.shape[1:]


def conv(i: int, o: int, kernel: int = 1) -> int:
    """Parameters of a convolution and its BatchNorm."""
    return kernel**2 * i * o + 2 * o


def score(i: int) -> int:
    """Parameters of a classifier with a bias."""
    return (i + 1) * CLASSES


@pytest.mark.parametrize("filters", [12, 128])
def test_lraspp(filters: int):
    parameters, shape = build("lraspp", filters=filters)
    want = conv(OUT, filters) + OUT * filters + score(filters) + score(MID)
    assert (parameters, shape) == (want, (8, 12, CLASSES))


@pytest.mark.parametrize("filters", [(16, 12, 8, 4), (256, 128, 64, 32)])
def test_unet(filters: tuple[int, ...]):
    parameters, shape = build("unet", filters=filters)
    want, below = score(filters[-1]), OUT
    for width, skip in zip(filters, (HIGH, MID, LOW, STEM), strict=True):
        want += conv(below + skip, width, 3) + conv(width, width, 3)
        below = width
    assert (parameters, shape) == (want, (32, 48, CLASSES))


def test_unet_of_dense_features():
    """At an output stride of 8 there is nothing to refine at 16 and at 8."""
    given = features()._replace(output=keras.Input((8, 12, OUT)))
    logits = HEADS["unet"].function(given, CLASSES, output_stride=8)
    model = keras.Model(list(given), logits)
    names = {layer.name for layer in model.layers}
    assert {"up4.conv1", "up2.conv1"} <= names
    assert not {"up8.conv1", "up16.conv1"} & names


@pytest.mark.parametrize(("filters", "kernel_size"), [(64, 3), (16, 7)])
def test_fcn(filters: int, kernel_size: int):
    parameters, shape = build("fcn", filters=filters, kernel_size=kernel_size, stride=16)
    want = (kernel_size**2 * OUT + 1) * filters + (filters + 1) * filters
    assert (parameters, shape) == (want + score(filters) + score(HIGH), (4, 6, CLASSES))


@pytest.mark.parametrize("filters", [16, 512])
def test_pspnet(filters: int):
    parameters, shape = build("pspnet", filters=filters, bins=(1, 2))
    want = 2 * conv(OUT, OUT // 2) + conv(2 * OUT, filters, 3) + score(filters)
    assert (parameters, shape) == (want, (2, 3, CLASSES))


@pytest.mark.parametrize(("filters", "low_level_channels"), [(96, 48), (24, None), (24, 7)])
def test_liteseg(filters: int, low_level_channels: int | None):
    def separable(i: int, o: int, kernel: int = 1) -> int:
        return kernel**2 * i + i * o + 2 * o

    parameters, shape = build("liteseg", filters=filters, low_level_channels=low_level_channels)
    branch = separable(OUT, filters, 3) + separable(filters, filters, 3)
    want = separable(OUT, filters) + 3 * branch + conv(OUT, filters)
    want += separable(OUT + 5 * filters, filters)
    if low_level_channels:
        want += separable(LOW, low_level_channels)
    want += separable(filters + (low_level_channels or LOW), filters, 3)
    want += separable(filters, filters, 3) + score(filters)
    assert (parameters, shape) == (want, (16, 24, CLASSES))


@pytest.mark.parametrize(
    ("head", "options", "message"),
    [
        ("lraspp", {"filters": 0}, "filters is 0"),
        ("unet", {"filters": (8, 8)}, r"filters is \(8, 8\); it must be four"),
        ("fcn", {"kernel_size": 4}, "kernel_size 4; they must be at least 1, and kernel_size odd"),
        ("pspnet", {"filters": 0}, "filters is 0"),
        ("liteseg", {"low_level_channels": 0}, "low_level_channels 0"),
    ],
)
def test_refusals(head: str, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        build(head, **options)


@pytest.mark.parametrize("head", HEADS)
def test_a_head_takes_what_it_says(head: str):
    """Without a level that it needs one line says so; the levels that it needs are enough."""
    needs = HEADS[head].needs
    options = HEADS[head].options
    own = {k: v for k, v in options.items() if k != "output_stride"}
    fields = {4: "low_level", 8: "mid_level", 16: "high_level"}
    for stride in needs:
        given = features()._replace(**{fields[stride]: None})
        with pytest.raises(ValueError, match=f"needs features at stride {stride}, and"):
            HEADS[head].function(given, CLASSES, **own)
    # LiteSeg takes those at stride 8 where there are none at 4.
    enough = {*needs, *([8] if head == "liteseg" else [])}
    given = features()._replace(
        stem=None, **{field: None for stride, field in fields.items() if stride not in enough}
    )
    HEADS[head].function(given, CLASSES, **own)
