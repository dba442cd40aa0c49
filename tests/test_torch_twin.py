"""The PyTorch twin is the same function with the same gradients."""

import numpy as np
import pytest
import tensorflow as tf

import kseg
from support import randomize_statistics

torch = pytest.importorskip("torch", reason="torch is not installed; .ci/run installs it")

from torch_twin import twin  # noqa: E402  (it needs torch)
from training_step import CLASSES, network, without_dropout  # noqa: E402

NETWORKS = {
    "cgnet_m3n21": {"m": 2, "n": 2},
    "liteseg_mobilenet_v2": {},
    "deeplab_v3_plus_mobilenet_v2": {},
    "espnet": {"p": 1, "q": 1},
}


def make(name: str) -> kseg.SegmentationModel:
    # He's scale, so that logits differ by pixel and class, as Keras' default does not here.
    model = network(name, **NETWORKS[name])
    randomize_statistics(model)
    without_dropout(model)
    return model


@pytest.fixture(scope="module", params=NETWORKS)
def model(request: pytest.FixtureRequest) -> kseg.SegmentationModel:
    return make(request.param)


def channels_first(x: np.ndarray) -> "torch.Tensor":
    return torch.from_numpy(x).permute(0, 3, 1, 2)


def batch(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (2, *size, 3)).astype(np.float32)
    return images, rng.integers(0, CLASSES, (2, *size))


@pytest.mark.parametrize("size", [(64, 96), (65, 91)])
def test_logits(model: kseg.SegmentationModel, size: tuple[int, int]):
    images, _ = batch(size)
    want = model(images, training=False).numpy()
    with torch.inference_mode():
        got = twin(model)(channels_first(images)).permute(0, 2, 3, 1).numpy()
    # float32 sums in another order, through some 60 convolutions
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * np.ptp(want))


@pytest.mark.parametrize("training", [False, True])
def test_gradients(model: kseg.SegmentationModel, training: bool):
    """Of the mean cross-entropy by every trainable weight, BatchNorm in both modes."""
    images, labels = batch((65, 91))
    statistics = [variable.numpy() for variable in model.non_trainable_variables]
    module = twin(model).train(training)
    with tf.GradientTape() as tape:
        logits = model(images, training=training)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    got = torch.nn.functional.cross_entropy(
        module(channels_first(images)), torch.from_numpy(labels)
    )
    got.backward()
    # a mean over 12,000 pixels of float32 logits
    assert abs(got.item() - loss.numpy()) < 1e-5 * loss.numpy()
    for variable, value in zip(model.non_trainable_variables, statistics, strict=True):
        variable.assign(value)

    # As weights of the same network they lie where the twin's parameters do.
    weights = [variable.numpy() for variable in model.trainable_variables]
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        variable.assign(gradient)
    wanted = dict(twin(model).named_parameters())
    for variable, value in zip(model.trainable_variables, weights, strict=True):
        variable.assign(value)
    found = dict(module.named_parameters())
    assert found.keys() == wanted.keys()
    assert sum(p.numel() for p in found.values()) == sum(w.size for w in weights)
    errors = {name: found[name].grad - want.detach() for name, want in wanted.items()}
    off, length = (
        sum(float((x**2).sum()) for x in values) ** 0.5
        for values in (errors.values(), (want.detach() for want in wanted.values()))
    )
    assert length > 1e-3
    # Sums of float32 in another order. Batch statistics of a few pixels, through some 60
    # BatchNorms and ReLU6, multiply that; a wrong mode, padding or stride is of length one.
    assert off < (5e-2 if training else 1e-4) * length


def test_unknown_layers():
    model = kseg.create_model("unet")
    with pytest.raises(kseg.KsegError, match=r"MaxPooling2D has no twin; write it in"):
        twin(model)
