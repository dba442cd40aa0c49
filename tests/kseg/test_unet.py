"""U-Net against Figure 1 of its paper."""

import itertools

import keras
import pytest

import kseg
from kseg.zoo import find_variant


def test_layers_and_parameters():
    """23 convolutions: the channels of Figure 1, two classes, here with three colours."""
    model = kseg.create_model("unet", num_classes=2, input_shape=(64, 96, 3))
    down = [3, 64, 64, 128, 128, 256, 256, 512, 512, 1024, 1024]
    pairs = [(3, i, o) for i, o in itertools.pairwise(down)]
    for width in (512, 256, 128, 64):
        pairs += [(2, 2 * width, width), (3, 2 * width, width), (3, width, width)]
    pairs.append((1, 64, 2))
    convs = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Conv2DTranspose)
    ]
    assert len(convs) == len(pairs) == 23
    got = [(c.kernel_size[0], c.input.shape[-1], c.filters) for c in convs]
    assert got == pairs
    want = sum(size**2 * inputs * outputs + outputs for size, inputs, outputs in pairs)
    assert find_variant("unet").parameters == want
    # With the grey images of the paper, 31.03 million.
    assert round((want - 2 * 9 * 64) / 1e6, 2) == 31.03


def test_smaller():
    model = kseg.create_model("unet", filters=4, input_shape=(50, 75, 3))
    assert model.get_layer("down4.relu2").output.shape[1:] == (3, 4, 64)
    assert model.get_layer("classifier").output.shape[1:] == (50, 75, 19)


@pytest.mark.parametrize(
    ("options", "message"), [({"filters": 0}, "filters is 0"), ({"dropout": 1}, "dropout is 1")]
)
def test_bad_options(options: dict, message: str):
    with pytest.raises(kseg.KsegError, match=message):
        kseg.create_model("unet", **options)
