"""Deformable convolution against its reference and against sums by hand."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from kseg.layers import DeformableConv2D

FIXTURES = Path(__file__).parents[1] / "data" / "fixtures"
MANIFEST = json.loads((FIXTURES / "deform_conv2d_a.json").read_text())
# Times the reference's own float32 noise.
NOISE_FACTOR = 10


def layer_of(case: dict) -> DeformableConv2D:
    return DeformableConv2D(
        case["weight_shape"][0],
        tuple(case["kernel"]),
        strides=tuple(case["stride"]),
        padding=tuple(case["padding"]),
        dilation_rate=tuple(case["dilation"]),
        groups=case["groups"],
        offset_groups=case["offset_groups"],
        use_bias=case["bias"],
    )


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return dict(np.load(FIXTURES / "deform_conv2d_a.npz"))


@pytest.mark.parametrize("case", MANIFEST["cases"], ids=lambda case: case["name"])
def test_fixture(case: dict, arrays: dict):
    """torchvision's, of any image size."""
    names = ("input", "offset", "mask", "weight", "bias", "output")
    x, offset, mask, weight, bias, want = (arrays.get(f"{case['name']}/{n}") for n in names)
    given = [value for value in (x, offset, mask) if value is not None]
    layer = layer_of(case)
    inputs = [keras.Input((None, None, value.shape[-1])) for value in given]
    model = keras.Model(inputs, layer(*inputs))
    layer.set_weights([w for w in (weight.transpose(2, 3, 1, 0), bias) if w is not None])
    got = np.asarray(model(given))
    assert got.shape == want.shape == layer.compute_output_shape(*[v.shape for v in given])
    np.testing.assert_allclose(got, want, rtol=0, atol=NOISE_FACTOR * case["fp32_noise"])
    # Two images at once, of which each has its own places.
    got = np.asarray(model([np.concatenate([0 * v, v]) for v in given]))[1:]
    np.testing.assert_allclose(got, want, rtol=0, atol=NOISE_FACTOR * case["fp32_noise"])
