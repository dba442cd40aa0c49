"""FCN, DeepLab v1 and Dilation8 on VGG16, against their papers."""

import keras
import numpy as np
import pytest

import kseg
from kseg.backbones import Features
from kseg.networks.dilation8 import dilation8
from kseg.zoo import find_variant
from support import outputs_of

# torchvision's VGG16 has 138,357,544 parameters, its last layer 4096 x 1000 of them.
VGG16 = 138_357_544 - 4097 * 1000


def receptive_field(model: keras.Model, last: str) -> int:
    """Rows of the image that a row of that layer sees, by the layers in their order."""
    field = jump = 1
    for layer in model.layers:
        size = getattr(layer, "kernel_size", getattr(layer, "pool_size", (1, 1)))[0]
        dilation = getattr(layer, "dilation_rate", (1, 1))[0]
        field += (size - 1) * dilation * jump
        jump *= getattr(layer, "strides", (1, 1))[0]
        if layer.name == last:
            return field
    raise AssertionError(last)


@pytest.mark.parametrize(
    ("stride", "skips"), [(32, ()), (16, (512,)), (8, (512, 256))], ids=["32s", "16s", "8s"]
)
def test_fcn(stride: int, skips: tuple[int, ...]):
    """VGG16's layers with another classifier, and a 1x1 classifier a skip; 21 classes."""
    name = f"fcn_{stride}s_vgg16"
    want = VGG16 + sum((channels + 1) * 21 for channels in (4096, *skips))
    assert find_variant(name).parameters == want
    model = kseg.create_model(name, num_classes=21, input_shape=(97, 161, 3))
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == want
    assert (model.card.dataset, model.card.class_names[15]) == ("voc", "person")
    size = (-(-97 // stride), -(-161 // stride))
    assert model.layers[-2].output.shape[1:3] == size
    if stride == 32:  # Table 1 of the paper
        assert receptive_field(model, "fc7") == 404


def test_skips_are_summed_at_their_strides():
    """With the last classifier silent, FCN-8s' scores are those of its skips."""
    model = kseg.create_model("fcn_8s_vgg16", num_classes=2, input_shape=(64, 96, 3))
    last = model.get_layer("score_fr")
    last.set_weights([np.zeros_like(w) for w in last.get_weights()])
    names = ("score_pool4", "score_pool3", "fuse_pool3")
    outputs = [model.get_layer(name).output for name in names]
    image = np.random.default_rng(0).uniform(0, 255, (1, 64, 96, 3)).astype("float32")
    coarse, fine, fused = outputs_of(keras.Model(model.inputs, outputs), image)
    assert coarse.shape[1:3] == (4, 6)
    # Twice bilinear by half-pixels: each new pixel is 3/4 and 1/4 of its two neighbours.
    padded = np.pad(coarse, ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")
    rows = np.stack(
        [
            0.25 * padded[:, :-2] + 0.75 * padded[:, 1:-1],
            0.75 * padded[:, 1:-1] + 0.25 * padded[:, 2:],
        ],
        axis=2,
    ).reshape(1, 8, 8, 2)
    up = np.stack(
        [
            0.25 * rows[:, :, :-2] + 0.75 * rows[:, :, 1:-1],
            0.75 * rows[:, :, 1:-1] + 0.25 * rows[:, :, 2:],
        ],
        axis=3,
    ).reshape(1, 8, 12, 2)
    np.testing.assert_allclose(fused, up + fine, atol=1e-4 * np.abs(fused).max())


def test_deeplab_v1():
    """20.5 M parameters (Table 2), 321 gives 41 (the prototxt's sizes)."""
    model = kseg.create_model("deeplab_v1_vgg16", num_classes=21, input_shape=(321, 321, 3))
    assert model.get_layer("fc8").output.shape[1:] == (41, 41, 21)
    # VGG16 without its three linear layers, then fc6, fc7 and fc8.
    convs = VGG16 - (49 * 512 + 1) * 4096 - 4097 * 4096
    want = convs + (9 * 512 + 1) * 1024 + 1025 * 1024 + 1025 * 21
    assert find_variant("deeplab_v1_vgg16").parameters == want
    assert round(want / 1e6, 1) == 20.5
    assert model.get_layer("conv5_3").dilation_rate == (2, 2)


@pytest.mark.parametrize(("output_stride", "rate"), [(8, 12), (16, 6), (32, 3)])
def test_deeplab_v1_output_strides(output_stride: int, rate: int):
    """The same field of view at every stride."""
    model = kseg.create_model("deeplab_v1_vgg16", output_stride=output_stride)
    assert model.get_layer("fc6").dilation_rate == (rate, rate)


def test_deeplab_v1_features_agree_on_the_shared_grid():
    """Those before the last poolings, which are published without dilation."""
    image = np.random.default_rng(0).uniform(0, 255, (1, 65, 97, 3)).astype("float32")
    features, weights = [], None
    for output_stride in (16, 8):
        model = kseg.create_model("deeplab_v1_vgg16", output_stride=output_stride)
        weights = weights or model.get_weights()
        model.set_weights(weights)
        output = model.get_layer("conv5_3.relu").output
        features.append(np.asarray(keras.Model(model.inputs[0], output)(image)))
    coarse, dense = features
    np.testing.assert_allclose(dense[:, ::2, ::2], coarse, atol=1e-5 * np.abs(coarse).max())


def test_dilation8_front_end():
    """Section 4: two poolings less, and what is behind them dilated.

    An output sees its 8x8 pixels and 186 on each side, the reference's ``label_margin``.
    """
    model = kseg.create_model("dilation8_vgg16", num_classes=11, input_shape=(97, 161, 3))
    assert model.get_layer("ctx_final").output.shape[1:] == (13, 21, 11)
    assert receptive_field(model, "fc7") == 186 + 8 + 186
    names = ("conv4_3", "conv5_1", "conv5_3", "fc6", "fc7")
    assert [model.get_layer(name).dilation_rate[0] for name in names] == [1, 2, 2, 4, 1]
    pools = [layer.name for layer in model.layers if layer.name.startswith("pool")]
    assert pools == ["pool1", "pool2", "pool3"]
    # 3x3 convolutions of as many channels as there are classes.
    want = VGG16 + 4097 * 11 + 7 * (9 * 11 + 1) * 11 + 12 * 11
    assert find_variant("dilation8_vgg16").parameters == want
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == want


def test_dilation8_context_begins_as_the_identity():
    """Section 3, equation 4, and the truncation of Table 1: bit for bit."""
    features = keras.Input((None, None, 8))
    model = keras.Model(features, dilation8(Features(features, None), 5))
    scores = keras.Model(features, model.get_layer("final").output)
    x = np.random.default_rng(0).normal(size=(2, 40, 30, 8)).astype("float32")
    want = np.maximum(np.asarray(scores(x)), 0)
    assert 0.1 < (want > 0).mean() < 0.9
    np.testing.assert_array_equal(np.asarray(model(x)), want)


def test_dilation8_context_sees_67_by_67():
    """Table 1: what a single point reaches, layer by layer."""
    features = keras.Input((80, 80, 2))
    model = keras.Model(features, dilation8(Features(features, None), 2))
    for layer in model.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            layer.set_weights([np.ones_like(kernel), bias])
    x = np.zeros((1, 80, 80, 2), "float32")
    x[0, 40, 40] = 1
    convs = [layer for layer in model.layers if layer.name.startswith("ctx") and layer.weights]
    outputs = outputs_of(keras.Model(features, [layer.output for layer in convs]), x)
    seen = [int((y[0, 40, :, 0] > 0).sum()) for y in outputs]
    # The dilated ones leave no gap: each 3x3 joins what is around.
    assert seen == [3, 5, 9, 17, 33, 65, 67, 67]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fcn_8s_vgg16", {"stride": 4}, "stride is 4"),
        ("deeplab_v1_vgg16", {"output_stride": 4}, "output_stride is 4"),
    ],
)
def test_bad_options(name: str, options: dict, message: str):
    with pytest.raises(kseg.KsegError, match=message):
        kseg.create_model(name, **options)
