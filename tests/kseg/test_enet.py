"""ENet's pooling and unpooling against PyTorch's, and its dropout."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kseg
from kseg.layers import MatchSize, MaxUnpooling, SharedPReLU, max_pool

SIZES = ((8, 12), (9, 13), (8, 13))


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="the reference is PyTorch, which is not installed")


def channels_first(torch, x: np.ndarray):
    return torch.tensor(x).permute(0, 3, 1, 2).requires_grad_()


def channels_last(x) -> np.ndarray:
    return x.detach().permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("size", SIZES)
def test_max_unpooling(size: tuple[int, int], torch):
    """Values and gradients, with ties in most windows and windows of one value."""
    rng = np.random.default_rng(0)
    x = rng.integers(-1, 2, (2, *size, 5)).astype("float32")
    x[:, :4, :4] = 0
    y = rng.standard_normal((2, size[0] // 2, size[1] // 2, 5)).astype("float32")
    weight = rng.standard_normal(x.shape).astype("float32")

    reference = channels_first(torch, y)
    _, indices = torch.nn.functional.max_pool2d(channels_first(torch, x), 2, return_indices=True)
    want = torch.nn.MaxUnpool2d(2)(reference, indices, output_size=size)
    (want * channels_first(torch, weight)).sum().backward()

    value = tf.constant(y)
    with tf.GradientTape() as tape:
        tape.watch(value)
        got = MatchSize()(MaxUnpooling()(value, x), x)
        loss = tf.reduce_sum(got * weight)
    np.testing.assert_array_equal(got, channels_last(want))
    np.testing.assert_array_equal(tape.gradient(loss, value), channels_last(reference.grad))


@pytest.mark.parametrize("size", SIZES)
def test_max_pool(size: tuple[int, int], torch):
    """The padding never wins, also where all is negative."""
    x = np.random.default_rng(0).standard_normal((2, *size, 3)).astype("float32") - 5
    want = torch.nn.functional.max_pool2d(channels_first(torch, x), 3, stride=2, padding=1)
    np.testing.assert_array_equal(max_pool(x, "pool"), channels_last(want))


def test_shared_slope():
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 5)).astype("float32")
    layer = SharedPReLU()
    np.testing.assert_array_equal(layer(x), np.where(x > 0, x, np.float32(0.25) * x))
    assert layer.alpha.shape == (1, 1, 1)
    names = kseg.checkpoints.published_shapes(kseg.create_model("enet"))
    assert names["regular1_1.out_activation.weight"] == (1,)


def test_dropout():
    def rates(model: keras.Model) -> dict[str, float]:
        kind = keras.layers.SpatialDropout2D
        return {layer.name: layer.rate for layer in model.layers if isinstance(layer, kind)}

    published = rates(kseg.create_model("enet"))
    early = {name for name, rate in published.items() if rate == 0.01}
    assert early == {
        f"{name}.ext_regul" for name in ("downsample1_0", *(f"regular1_{i}" for i in range(1, 5)))
    }
    assert [rate for name, rate in published.items() if name not in early] == [0.1] * 22
    assert not rates(kseg.create_model("enet", dropout=False))


@pytest.mark.parametrize("size", [(6, 7), (7, 6), (1, 1), (2, 40)])
def test_images_that_are_too_small(size, tmp_path):
    """In a prediction, a conversion's static graph and a score's resizing; 7x7 has room."""
    model = kseg.create_model("enet", num_classes=3)
    message = rf"enet: an input of {size[0]}x{size[1]} \(HxW\) is too small; it takes 7x7 at least"
    with pytest.raises(kseg.KsegError, match=message):
        kseg.open_predictor(model)(np.zeros((*size, 3), np.uint8))
    with pytest.raises(kseg.KsegError, match=message):
        kseg.create_model("enet", num_classes=3, input_shape=(*size, 3))
    least = kseg.open_predictor(model)(np.zeros((7, 7, 3), np.uint8))
    assert least.shape == (7, 7, 3)
