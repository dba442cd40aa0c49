"""Deformable convolution against its reference and against sums by hand."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

import kseg
from kseg.layers import DeformableConv2D
from kseg.zoo import find_variant

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


def loss(layer: DeformableConv2D, weights: list, values: list, factor: np.ndarray):
    """A sum of products, in float64."""
    weights, values = (
        [ops.convert_to_tensor(x, "float64") for x in part] for part in (weights, values)
    )
    return ops.sum(layer.call_with_weights(values, *weights) * factor)


def gradients(layer: DeformableConv2D, weights: list, values: list, factor: np.ndarray) -> list:
    """Of the loss to weights and values, by the backend."""
    if keras.backend.backend() == "jax":
        import jax

        function = jax.grad(lambda w, v: loss(layer, w, v, factor), argnums=(0, 1))
        return [x for part in function(weights, values) for x in part]
    import tensorflow as tf

    weights, values = ([tf.constant(x) for x in part] for part in (weights, values))
    with tf.GradientTape() as tape:
        tape.watch([*weights, *values])
        result = loss(layer, weights, values, factor)
    return tape.gradient(result, [*weights, *values])


@pytest.mark.parametrize("name", ["v1_s1_d2_g1", "v2_s2_d2_g4", "v2_s1_d1_g1_far"])
def test_gradients_are_differences(name: str, arrays: dict):
    """To each weight and input, along a random direction."""
    (case,) = (case for case in MANIFEST["cases"] if case["name"] == name)
    layer = layer_of({**case, "bias": True})
    given = [arrays.get(f"{name}/{n}") for n in ("input", "offset", "mask")]
    given = [value.astype("float64") for value in given if value is not None]
    rng = np.random.default_rng(0)
    kernel = arrays[f"{name}/weight"].transpose(2, 3, 1, 0).astype("float64")
    arguments = [kernel, rng.normal(size=kernel.shape[-1:]), *given]
    factor = rng.normal(size=case["output_shape"])
    found = gradients(layer, arguments[:2], arguments[2:], factor)
    assert len(found) == len(arguments)
    step = 1e-6
    for i, gradient in enumerate(found):
        direction = rng.normal(size=arguments[i].shape)
        ends = []
        for sign in (1, -1):
            moved = [*arguments]
            moved[i] = arguments[i] + sign * step * direction
            ends.append(float(loss(layer, moved[:2], moved[2:], factor)))
        want = (ends[0] - ends[1]) / (2 * step)
        assert float(np.sum(np.asarray(gradient) * direction)) == pytest.approx(want, rel=1e-6)
        assert abs(want) > 1e-3


def test_the_same_on_jax():
    """A case's numbers and gradients on the other backend."""
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_ENABLE_X64": "1"}
    # Each operator is compiled on its own, which takes longer than to run it as it is.
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    command = [sys.executable, "-m", "pytest", "-q", "-n0", __file__, "-k", "v2_s2_d2_g4"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert "2 passed" in result.stdout, result.stdout[-3000:]


def test_any_size_and_its_copy():
    """Padding by default keeps the size; half precision's offsets are added in float32."""
    x, offset = keras.Input((None, None, 4)), keras.Input((None, None, 18))
    layer = DeformableConv2D(6, 3, dilation_rate=2)
    model = keras.Model([x, offset], layer(x, offset))
    copy = DeformableConv2D.from_config(layer.get_config())
    copy.build((None, 30, 500, 4), (None, 30, 500, 18))
    copy.set_weights(layer.get_weights())
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 5, 500, 4)).astype("float32")
    shift = np.zeros((2, 5, 500, 18), "float32")
    shift[..., 1::2] = 0.25
    got = np.asarray(model([image, shift]))
    assert got.shape == (2, 5, 500, 6)
    np.testing.assert_allclose(copy(image, shift), got, rtol=0, atol=1e-6)
    kernel, bias = layer.get_weights()
    # A quarter of a column to the right is so much of the next column.
    right = np.pad(image[:, :, 1:], ((0, 0), (0, 0), (0, 1), (0, 0)))
    padded = [np.pad(v, ((0, 0), (2, 2), (2, 2), (0, 0))) for v in (image, right)]
    # The column left of the image has its share of the first.
    padded[1][:, 2:-2, 1] = image[:, :, 0]
    mixed = 0.75 * padded[0] + 0.25 * padded[1]
    want = bias + sum(
        mixed[:, 2 * i : 2 * i + 5, 2 * j : 2 * j + 500] @ kernel[i, j]
        for i in range(3)
        for j in range(3)
    )
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    shift = ops.cast(shift, "bfloat16")
    low = layer.call_with_weights([image, shift], kernel, bias)
    np.testing.assert_allclose(low, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "shapes", "message"),
    [
        ({}, (8, 36), r"offset is \(9, 11, 36\).*must be \(9, 11, 18\)"),
        ({"strides": 2}, (8, 18), r"offset is \(9, 11, 18\).*must be \(5, 6, 18\)"),
        ({}, (8, 18, 18), r"modulation is \(9, 11, 18\).*must be \(9, 11, 9\)"),
        ({"offset_groups": 3}, (8, 54), r"offset_groups is 3; it must divide \(8,\)"),
        ({"groups": 4}, (8, 18), r"groups is 4; it must divide \(8, 6\)"),
        ({"padding": "same"}, (8, 18), "padding is 'same'"),
    ],
)
def test_refusals(options: dict, shapes: tuple[int, ...], message: str):
    with pytest.raises(ValueError, match=message):
        DeformableConv2D(6, 3, **options)(*(keras.Input((9, 11, depth)) for depth in shapes))


def test_the_network_begins_as_the_plain_one():
    """Offsets of zero: the same sums, in another order through three units."""
    image = np.random.default_rng(0).uniform(0, 255, (1, 65, 97, 3)).astype("float32")
    row = "deeplab_resnet101_deformable"
    deformable, plain = (kseg.create_model(row, deformable_units=n) for n in (3, 0))
    for layer in plain.layers:
        layer.set_weights(deformable.get_layer(layer.name).get_weights())
    names = [layer.name for layer in deformable.layers if isinstance(layer, DeformableConv2D)]
    assert names == [f"res5{unit}_branch2b" for unit in "abc"]
    got, want = (np.asarray(model(image, training=False)) for model in (deformable, plain))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
    # The offsets are of use: another one, another result.
    offset = deformable.get_layer("res5a_branch2b_offset")
    offset.set_weights([w + 0.5 for w in offset.get_weights()])
    other = np.asarray(deformable(image, training=False))
    assert np.abs(other - want).max() > 1e-2 * np.abs(want).max()


def test_the_network_of_the_paper():
    """Stride 16 with a dilation of 2 in the last block; a 7 x 7 stem; torchvision's count."""
    row = "deeplab_resnet101_deformable"
    model = kseg.create_model(row, input_shape=(513, 513, 3))
    # ResNet-101's 44,549,160 without its classifier; offsets, fc6 and score.
    want = 44_549_160 - 2049 * 1000 + 3 * (9 * 512 + 1) * 18 + 2049 * 1024 + 1025 * 19
    assert find_variant(row).parameters == want
    assert sum(math.prod(w.shape) for w in model.trainable_weights) == want
    assert model.get_layer("score").output.shape[1:] == (32, 32, 19)
    assert model.get_layer("res5a_branch2b").dilation_rate == (2, 2)
    assert model.get_layer("res4b22_branch2b").dilation_rate == (1, 1)
    with pytest.raises(kseg.KsegError, match="deformable_units is 34; it must be 0 to 33"):
        kseg.create_model(row, deformable_units=34)
