"""DeepLab v2, PSPNet and ICNet on plain ResNets: counts and sizes of their papers."""

import keras
import numpy as np
import pytest

import kseg
from kseg.zoo import find_variant

# torchvision's ResNets without their 2048 x 1000 classifiers.
RESNET_50 = 25_557_032 - 2049 * 1000
RESNET_101 = 44_549_160 - 2049 * 1000


def parameters(model: keras.Model) -> int:
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def test_deeplab_v2():
    """ResNet-101 and four 3x3 classifiers of 21 classes; 321 gives 41."""
    want = RESNET_101 + 4 * (9 * 2048 + 1) * 21
    assert find_variant("deeplab_v2_resnet101").parameters == want
    model = kseg.create_model("deeplab_v2_resnet101", num_classes=21, input_shape=(321, 321, 3))
    assert parameters(model) == want
    assert model.get_layer("aspp.sum").output.shape[1:] == (41, 41, 21)
    rates = [model.get_layer(f"aspp.c{i}").dilation_rate[0] for i in range(4)]
    assert rates == [6, 12, 18, 24]
    names = [f"layer{i}.block1.conv3x3.conv" for i in (2, 3, 4, 5)]
    assert [model.get_layer(name).dilation_rate[0] for name in names] == [1, 1, 2, 4]


def test_deeplab_v2_features_agree_on_the_shared_grid():
    image = np.random.default_rng(0).uniform(0, 255, (1, 65, 97, 3)).astype("float32")
    row, weights, want = "deeplab_v2_resnet101", None, None
    for output_stride in (32, 8):
        model = kseg.create_model(row, num_classes=2, output_stride=output_stride)
        weights = weights or model.get_weights()
        model.set_weights(weights)
        features = model.get_layer("block4.unit_3.relu").output
        got = np.asarray(keras.Model(model.inputs[0], features)(image, training=False))
        assert got.shape[1:3] == (64 // output_stride + 1, 96 // output_stride + 1)
        if want is not None:
            np.testing.assert_allclose(got[:, ::4, ::4], want, atol=1e-5 * np.abs(want).max())
        want = got


def test_pspnet():
    """ResNet-50 with a deep stem, which also widens the first unit, and two heads."""
    stem = 9 * (3 * 64 + 64 * 64 + 64 * 128) + 2 * (64 + 64 + 128)
    backbone = RESNET_50 - (49 * 3 * 64 + 2 * 64) + stem + 64 * 64 + 64 * 256
    pyramid = 4 * (2048 * 512 + 2 * 512)
    head = 9 * 4096 * 512 + 2 * 512 + 513 * 19
    assert find_variant("pspnet_resnet50").parameters == backbone + pyramid + head
    model = kseg.create_model("pspnet_resnet50", input_shape=(713, 713, 3), auxiliary=True)
    auxiliary = 9 * 1024 * 256 + 2 * 256 + 257 * 19
    assert parameters(model) == backbone + pyramid + head + auxiliary
    assert list(model.output) == ["logits", "aux"]
    # The prototxt's 90 at 713.
    assert model.get_layer("cls.4").output.shape[1:] == (90, 90, 19)
    assert model.get_layer("aux.4").output.shape[1:] == (90, 90, 19)
    dilations = [model.get_layer(f"layer{i}.0.conv2").dilation_rate[0] for i in (1, 2, 3, 4)]
    assert dilations == [1, 1, 2, 4]


def test_icnet():
    """Sizes of the prototxt at 1025x2049; half of ResNet-50's channels in its blocks."""
    row = "icnet_resnet50"
    model = kseg.create_model(row, input_shape=(1025, 2049, 3), auxiliary=True)
    sizes = {
        "conv3_1_3x3": (65, 129, 64),
        "conv5_3_sum": (33, 65, 1024),
        "conv3_sub1": (129, 257, 64),
        "sub4_out": (65, 129, 19),
        "sub24_out": (129, 257, 19),
        "conv6_cls": (257, 513, 19),
    }
    got = {name: model.get_layer(name).output.shape[1:] for name in sizes}
    assert got == sizes
    assert list(model.output) == ["logits", "sub24", "sub4"]
    assert find_variant(row).parameters == parameters(model) - 19 * (128 + 1 + 256 + 1)


def test_icnet_of_full_width_is_resnet_50():
    """Its blocks without stem: torchvision's, whose stem gives them 64 channels, not 128."""
    model = kseg.create_model("icnet_resnet50", width=64)
    backbone = find_variant("icnet_resnet50").backbone
    names = {layer.name: layer for layer in model.layers}
    blocks = [names[n] for n in names if n.startswith(backbone) and not n.startswith("conv1_")]
    count = sum(int(np.prod(v.shape)) for layer in blocks for v in layer.trainable_variables)
    assert count == RESNET_50 - (49 * 3 * 64 + 2 * 64) + 64 * 64 + 64 * 256


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("deeplab_v2_resnet101", {"atrous_rates": ()}, r"atrous_rates is \(\)"),
        ("deeplab_v2_resnet101", {"output_stride": 4}, "output_stride is 4"),
        ("pspnet_resnet50", {"bins": (1, 0)}, r"bins is \(1, 0\)"),
        ("pspnet_resnet50", {"output_stride": 64}, "output_stride is 64"),
        ("icnet_resnet50", {"width": 0}, "width is 0"),
    ],
)
def test_bad_options(name: str, options: dict, message: str):
    with pytest.raises(kseg.KsegError, match=message):
        kseg.create_model(name, **options)
