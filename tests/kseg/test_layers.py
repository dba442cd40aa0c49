"""The shared layers against closed forms."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import kseg
from kseg.layers import (
    AdaptiveAveragePooling,
    ChannelSum,
    DilatedPooling,
    Normalize,
    PaddedAveragePooling,
    Resize,
    align_corners_resize,
    transposed_conv,
)
from kseg.resize import resize_bilinear, resize_nearest

# One rounding of float32 at the size of the values, with room for another order of sums.
FLOAT32 = 1e-5


def positions(extent: int, size: int, convention: str) -> np.ndarray:
    i = np.arange(size)
    if convention == "align_corners":
        return i * (extent - 1) / max(size - 1, 1)
    return np.clip((i + 0.5) * extent / size - 0.5, 0, extent - 1)


@pytest.mark.parametrize("convention", ["half_pixel", "align_corners"])
@pytest.mark.parametrize(
    ("source", "target"), [((5, 7), (9, 20)), ((9, 9), (4, 3)), ((1, 1), (3, 4))]
)
def test_resize_of_a_plane(convention, source, target):
    """Bilinear resizing of a plane samples the plane itself."""

    def plane(rows, columns):
        return (2 * rows[:, None] + 3 * columns[None] + 1).astype("float32")

    x = plane(np.arange(source[0]), np.arange(source[1]))[..., None]
    want = plane(*(positions(s, t, convention) for s, t in zip(source, target, strict=True)))
    by_layer = Resize(convention)(x[None], np.zeros((1, *target, 3)))
    by_size = Resize(convention, size=target)(x[None])
    for got in (by_layer[0], by_size[0], resize_bilinear(x, target, convention)):
        np.testing.assert_allclose(np.asarray(got)[..., 0], want, atol=FLOAT32 * want.max())
    if convention == "align_corners":
        got = align_corners_resize(keras.ops.convert_to_tensor(x[None]), *target)
        np.testing.assert_allclose(np.asarray(got)[0, ..., 0], want, atol=FLOAT32 * want.max())


@pytest.mark.parametrize("convention", ["half_pixel", "align_corners"])
def test_resize_in_numpy_equals_the_layer(convention):
    x = np.random.default_rng(0).normal(size=(13, 17, 5)).astype("float32")
    for size in ((29, 40), (7, 11), (13, 30)):
        want = np.asarray(Resize(convention, size=size)(x[None])[0])
        np.testing.assert_allclose(resize_bilinear(x, size, convention), want, atol=FLOAT32)


def test_resize_nearest_is_the_block():
    x = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(resize_nearest(x, (4, 9)), x.repeat(2, 0).repeat(3, 1))


@pytest.mark.parametrize("size", [(3, 12), (7, 5), (1, 1), (6, 8), (11, 9)])
@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_resize_in_numpy_equals_tensorflow(method, size):
    """Of uint8 pixels, by TensorFlow's half-pixel resizing."""
    x = np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)
    want = tf.image.resize(x, size, method).numpy()
    if method == "nearest":
        np.testing.assert_array_equal(resize_nearest(x[..., 0], size), want[..., 0])
        return
    got = resize_bilinear(x, size)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=FLOAT32 * 255)


def test_one_pixel_with_align_corners_is_the_first():
    """As TensorFlow defines it."""
    x = np.random.default_rng(1).normal(size=(6, 8, 3)).astype("float32")
    for size in ((1, 1), (1, 5), (9, 1)):
        want = tf.compat.v1.image.resize_bilinear(x[None], size, align_corners=True)[0]
        np.testing.assert_allclose(resize_bilinear(x, size, "align_corners"), want, atol=FLOAT32)
    np.testing.assert_array_equal(resize_bilinear(x, (1, 1), "align_corners")[0, 0], x[0, 0])


def test_resize_refuses_other_conventions():
    with pytest.raises(ValueError, match="asymmetric"):
        Resize("asymmetric")


def test_resize_refuses_to_guess_a_size():
    with pytest.raises(ValueError, match="give it size, or a tensor"):
        Resize()(keras.Input((4, 6, 3)))


@pytest.mark.parametrize("shape", [(6, 8), (5, 7), (16, 33), (1, 2)])
@pytest.mark.parametrize(("strides", "size"), [(2, 3), (1, 3), (2, 5), (4, 9), (8, 17)])
def test_padded_average_pooling(shape, strides, size):
    """Also built for any size, and from its configuration."""
    x = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype("float32")
    around = (size // 2,) * 2
    padded = np.pad(x, ((0, 0), around, around, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))
    want = windows.sum((-1, -2))[:, ::strides, ::strides] / size**2
    layer = PaddedAveragePooling(strides, size)
    np.testing.assert_allclose(np.asarray(layer(x)), want, atol=FLOAT32)
    assert layer.compute_output_shape(x.shape) == want.shape
    assert PaddedAveragePooling.from_config(layer.get_config()).size == size
    image = keras.Input((None, None, 3))
    np.testing.assert_allclose(keras.Model(image, layer(image))(x), want, atol=FLOAT32)


def test_channel_sum():
    """In both forms."""
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype("float32")
    layer = ChannelSum(name="sum")
    np.testing.assert_allclose(np.asarray(layer(x)), x.sum(-1, keepdims=True), atol=FLOAT32)
    image = keras.Input((3, 4, 5))
    twin = keras.Model(image, layer.as_convolutions(image))
    np.testing.assert_allclose(twin(x), x.sum(-1, keepdims=True), atol=FLOAT32)


def test_normalize():
    rgb = np.array([[[[10, 20, 30]]]], np.uint8)
    layer = Normalize((1, 2, 3), (2, 4, 5), "BGR")
    np.testing.assert_allclose(np.asarray(layer(rgb))[0, 0, 0], [29 / 2, 18 / 4, 7 / 5], rtol=1e-6)
    copy = Normalize.from_config(layer.get_config())
    np.testing.assert_array_equal(np.asarray(copy(rgb)), np.asarray(layer(rgb)))
    with pytest.raises(ValueError, match="GRB"):
        Normalize((0, 0, 0), (1, 1, 1), "GRB")


def test_normalize_ignores_the_policy():
    """bfloat16 holds 8 bits: 255 - 0.5 would be 255 or 254."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        got = Normalize((0.5, 0.5, 0.5), (1, 1, 1))(np.full((1, 1, 1, 3), 255.0, "float32"))
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.asarray(got).dtype == np.float32
    np.testing.assert_array_equal(np.asarray(got), 254.5)


@pytest.mark.parametrize("shape", [(12, 18), (13, 17), (4, 5)])
@pytest.mark.parametrize("static", [True, False])
def test_adaptive_average_pooling(shape, static):
    """PyTorch's windows: floor(i H / 6) to ceil((i + 1) H / 6), each the mean of a box."""
    x = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype("float32")
    image = keras.Input((*(shape if static else (None, None)), 3))
    model = keras.Model(image, AdaptiveAveragePooling(6)(image))
    assert model.output.shape == (None, 6, 6, 3)
    rows, columns = (
        [slice(i * n // 6, math.ceil((i + 1) * n / 6)) for i in range(6)] for n in shape
    )
    want = np.stack([[x[:, r, c].mean((1, 2)) for c in columns] for r in rows])
    got = model.predict(x, verbose=0)
    np.testing.assert_allclose(got, want.transpose(2, 0, 1, 3), atol=FLOAT32)


@pytest.mark.parametrize(
    ("mode", "size", "padding"),
    [("average", 2, "valid"), ("max", 2, "valid"), ("max", 3, "same"), ("max", 2, "same")],
)
@pytest.mark.parametrize("shape", [(9, 13), (3, 5)])
def test_dilated_pooling_is_pooling_of_every_second_pixel(mode, size, padding, shape):
    """The even rows and columns of the result come from the even ones of the image."""
    x = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype("float32")
    kind = {"max": keras.layers.MaxPooling2D, "average": keras.layers.AveragePooling2D}[mode]
    want = kind(size, strides=1, padding=padding)(x[:, ::2, ::2])
    got = np.asarray(DilatedPooling(mode, size, 2, padding)(x))
    np.testing.assert_allclose(got[:, ::2, ::2], want, atol=FLOAT32)
    lost = 2 * (size - 1) if padding == "valid" else 0
    assert got.shape == (2, shape[0] - lost, shape[1] - lost, 3)


def test_dilated_pooling_refuses_what_it_has_not():
    with pytest.raises(ValueError, match="no dilated average pooling with padding 'same'"):
        DilatedPooling("average", 2, 2, "same")


@pytest.mark.parametrize("name", ["enet", "erfnet", "espnet", "unet"])
def test_networks_upsample_by_resizing(name: str):
    options = {"filters": 8} if name == "unet" else {}
    model = kseg.create_model(name, input_shape=(33, 49, 3), upsampling="resize", **options)
    assert "Conv2DTranspose" not in {type(layer).__name__ for layer in model.layers}
    assert model.output.shape == (None, 33, 49, 19)


@pytest.mark.parametrize("kernel_size", [2, 3])
def test_upsampling_by_resizing_has_no_checkerboard(kernel_size: int):
    """Of a constant map; transposed convolutions give the four positions other values each."""
    steps = {}
    for upsampling in ("transposed", "resize"):
        x, like = keras.Input((9, 9, 4)), np.zeros((1, 17, 17, 1), "float32")
        up = transposed_conv(x, 2, kernel_size, like, upsampling=upsampling, name="up")
        got = np.asarray(keras.Model(x, up)(np.ones((1, 9, 9, 4), "float32")))
        assert got.shape == (1, 17, 17, 2)
        steps[upsampling] = np.abs(np.diff(got[:, 2:-2, 2:-2], axis=1)).max()
    assert steps["resize"] < FLOAT32
    assert steps["transposed"] > 0.1


def test_unknown_upsampling():
    with pytest.raises(kseg.KsegError, match="upsampling is 'nearest', not transposed or resize"):
        kseg.create_model("erfnet", upsampling="nearest")
