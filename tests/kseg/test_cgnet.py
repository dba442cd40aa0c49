"""CGNet's options: what each changes, by count and by function."""

import keras
import numpy as np
import pytest

import kseg


def parameters(**options) -> int:
    model = kseg.create_model("cgnet_m3n21", **options)
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


@pytest.mark.parametrize(
    # counted for the published M3 ablation
    ("n", "count"),
    [(9, 351_058), (12, 387_370), (15, 423_682), (18, 459_994), (21, 496_306)],
)
def test_depth(n, count):
    assert parameters(n=n) == count


def test_parts_taken_out():
    full = parameters(m=2, n=2)
    # the classifier sees no image: BatchNorm and slope of 3 channels twice, and two
    # 3x3 convolutions over 3 channels less
    assert full - parameters(m=2, n=2, input_injection=False) == 2 * 9 + 27 * (64 + 128)
    # two linear layers with bias a block: C -> C/r -> C
    attention = 2 * (64 * 8 * 2 + 8 + 64) + 2 * (128 * 8 * 2 + 8 + 128)
    assert full - parameters(m=2, n=2, global_context=False) == attention
    for option in ({"surrounding_context": False}, {"residual": "local"}, {"residual": "none"}):
        assert parameters(m=2, n=2, **option) == full


def test_every_option_changes_the_function():
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    outputs = {}
    reference = None
    for options in (
        {},
        {"residual": "local"},
        {"residual": "none"},
        {"surrounding_context": False},
    ):
        model = kseg.create_model("cgnet_m3n21", num_classes=3, m=2, n=2, **options)
        reference = reference or model.get_weights()
        model.set_weights(reference)
        outputs[str(options)] = np.asarray(keras.ops.convert_to_numpy(model(image)))
    values = list(outputs.values())
    for i, first in enumerate(values):
        for second in values[i + 1 :]:
            assert np.abs(first - second).max() > 1e-3
