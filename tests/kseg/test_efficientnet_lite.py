"""EfficientNet-Lite's graph. Its numbers are held against the fixture in test_fixtures.py."""

import keras
import numpy as np
import pytest

from kseg.backbones.efficientnet_lite import efficientnet_lite
from support import outputs_of, randomize_statistics

# Millions of parameters with the classifier, from the TensorFlow TPU repository's table.
PUBLISHED = {0: 4.7, 1: 5.4, 2: 6.1, 3: 8.2, 4: 13.0}


def encoder(size: tuple[int | None, int | None] = (None, None), **options) -> keras.Model:
    image = keras.Input((*size, 3))
    return keras.Model(image, [*efficientnet_lite(image, **options)])


@pytest.mark.parametrize("variant", PUBLISHED)
def test_parameters_are_the_published_ones(variant: int):
    model = encoder(variant=variant)
    channels = model.outputs[0].shape[-1]
    head = channels * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    trainable = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    # To the table's rounding.
    assert abs((trainable + head) / 1e6 - PUBLISHED[variant]) <= 0.05 + 1e-9


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (33, 50)])
def test_levels_at_any_size(size):
    image = np.zeros((1, *size, 3), "float32")
    features = outputs_of(encoder(output_stride=16), image)
    for got, stride, channels in zip(
        features, (16, 4, 8, 16, 2), (320, 24, 40, 112, 16), strict=True
    ):
        assert got.shape == (1, -(-size[0] // stride), -(-size[1] // stride), channels)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_output_strides_agree_where_grids_meet(output_stride: int):
    image = np.random.default_rng(0).normal(size=(1, 65, 97, 3)).astype("float32")
    coarse, dense = encoder(), encoder(output_stride=output_stride)
    randomize_statistics(coarse)
    dense.set_weights(coarse.get_weights())
    want, got = outputs_of(coarse, image), outputs_of(dense, image)
    step = 32 // output_stride
    # Rounding of float32 alone.
    np.testing.assert_allclose(
        got[0][:, ::step, ::step], want[0], atol=1e-5 * np.abs(want[0]).max()
    )
    # Levels at strides 4, 8 and 2 are before any dilation.
    for level in (1, 2, 4):
        np.testing.assert_array_equal(got[level], want[level])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"output_stride": 4}, "output_stride is 4"), ({"variant": 5}, "variant is 5")],
)
def test_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        encoder(**options)
