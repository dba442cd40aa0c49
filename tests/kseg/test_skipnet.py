"""SkipNet: its encoders' counts and its three strides."""

import keras
import numpy as np
import pytest

import kseg
from kseg.zoo import find_variant


def weights_of(model: keras.Model, prefix: str) -> int:
    layers = [layer for layer in model.layers if layer.name.startswith(prefix)]
    return sum(int(np.prod(v.shape)) for layer in layers for v in layer.trainable_variables)


@pytest.mark.parametrize(
    ("name", "encoder", "channels"),
    [
        # keras.applications' MobileNet, 4,231,976, less a classifier of 1000 classes.
        ("skipnet_mobilenet", 4_231_976 - 1025 * 1000, (1024, 512, 256)),
        ("skipnet_shufflenet", None, (960, 480, 240)),
    ],
)
def test_layers(name: str, encoder: int | None, channels: tuple[int, ...]):
    model = kseg.create_model(name, input_shape=(97, 161, 3))
    scores = [model.get_layer(f"score_{level}") for level in ("fr", "feed1", "feed2")]
    assert tuple(layer.input.shape[-1] for layer in scores) == channels
    for layer, stride in zip(scores, (32, 16, 8), strict=True):
        assert layer.output.shape[1:3] == (-(-97 // stride), -(-161 // stride))
    variant = find_variant(name)
    decoder = sum((c + 1) * 19 for c in channels)
    assert weights_of(model, "score_") == decoder
    assert weights_of(model, variant.backbone) == variant.parameters - decoder
    if encoder:
        assert variant.parameters == encoder + decoder


def test_shufflenet_has_the_units_of_its_paper():
    """Table 1 of arXiv:1707.01083: four, eight and four units."""
    model = kseg.create_model("skipnet_shufflenet")
    units = {".".join(layer.name.split(".")[2:4]) for layer in model.layers}
    counts = [sum(unit.startswith(f"stage{i}.") for unit in units) for i in (2, 3, 4)]
    assert counts == [4, 8, 4]
