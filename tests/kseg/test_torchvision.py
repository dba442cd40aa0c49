"""LR-ASPP and DeepLabv3 as torchvision has them: its files, counts, strides and training head.

Their numbers are held against the fixtures in test_fixtures.py.
"""

import math
from pathlib import Path

import keras
import numpy as np
import pytest
from safetensors.numpy import save_file

import kseg
from kseg.backbones import Features
from kseg.backbones.mobilenet_v3 import BLOCKS, mobilenet_v3_large
from kseg.backbones.resnet import RESNET_50, TORCHVISION, resnet
from kseg.card import IMAGENET
from kseg.checkpoints import assign, published_shapes
from kseg.data import VOC
from kseg.importing import import_checkpoint
from kseg.networks.deeplab_torchvision import deeplab_torchvision
from support import outputs_of, random_tensors

LRASPP = "lraspp_mobilenet_v3_large"


def file_of(tensors: dict[str, np.ndarray], folder: Path) -> Path:
    """With the counters that PyTorch keeps beside every BatchNorm's statistics."""
    counters = {
        name.replace("running_mean", "num_batches_tracked"): np.array(7)
        for name in tensors
        if name.endswith("running_mean")
    }
    save_file({**tensors, **counters}, folder / "x.safetensors")
    return folder / "x.safetensors"


def test_a_published_file(tmp_path):
    """What torchvision publishes is complete without another word."""
    model = kseg.create_model(LRASPP, num_classes=21)
    want = random_tensors(model)
    model, unsaid = import_checkpoint(LRASPP, file_of(want, tmp_path))
    assert not unsaid
    card = model.card
    assert (card.dataset, card.class_names, card.void_channels) == ("voc", VOC.names, ())
    assert (card.normalization, card.resize) == (IMAGENET, "half_pixel")
    for name, tensor in kseg.checkpoints.published(model).items():
        np.testing.assert_array_equal(tensor, want[name])


def test_an_encoder_of_imagenet(tmp_path):
    """torchvision's names of the encoder alone, whose classifier is left out."""
    model = kseg.create_model(LRASPP)
    tensors = {
        name.replace("backbone.", "features."): tensor
        for name, tensor in random_tensors(model).items()
        if name.startswith("backbone.")
    }
    head = {"classifier.0.weight": np.zeros((8, 960)), "classifier.3.bias": np.zeros(1000)}
    model = kseg.create_model(LRASPP, weights=file_of({**tensors, **head}, tmp_path))
    assert model.card.weights == "x.safetensors, encoder alone"
    (kernel,) = model.get_layer("backbone.0.0").get_weights()
    np.testing.assert_array_equal(kernel, tensors["features.0.0.weight"].transpose(2, 3, 1, 0))


def test_the_training_head():
    """torchvision's 42,004,074 parameters, its file, and the encoder's of ImageNet."""
    model = kseg.create_model("deeplab_v3_resnet50", num_classes=21, auxiliary=True)
    assert list(model.output) == ["logits", "aux"]
    assert sum(math.prod(w.shape) for w in model.trainable_weights) == 42_004_074
    file = {name: np.full(s, 0.5, "float32") for name, s in published_shapes(model).items()}
    head = [name for name in file if name.startswith("aux_classifier.")]
    assert sum(file[name].size for name in head if ".running_" not in name) == 2_365_205
    alone = {
        name.removeprefix("backbone."): np.full(tensor.shape, 0.25, "float32")
        for name, tensor in file.items()
        if name.startswith("backbone.")
    }
    assign(model, file)
    assign(model, {**alone, "fc.weight": np.zeros((1000, 2048))}, part="backbone")
    for layer in model.layers:
        value = 0.25 if layer.name.startswith("backbone.") else 0.5
        assert all(np.all(np.equal(weight, value)) for weight in layer.weights), layer.name
    with pytest.raises(kseg.KsegError, match="missing"):
        assign(model, {name: file[name] for name in file if name not in head})


def test_the_training_head_by_hand():
    """A 3x3 convolution to a quarter of the channels, BatchNorm, ReLU and a 1x1 convolution."""
    high, last = keras.Input((5, 7, 8)), keras.Input((5, 7, 4))
    heads = deeplab_torchvision(Features(last, high_level=high), 3, auxiliary=True)
    model = keras.Model([high, last], heads)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.uniform(0.1, 1, weight.shape) - 0.5 * (len(weight.shape) == 4))
    x = rng.normal(size=(1, 5, 7, 8)).astype("float32")
    got = outputs_of(model, [x, x[..., :4]])["aux"]

    (kernel,) = model.get_layer("aux_classifier.0").get_weights()
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = sum(padded[:, i : i + 5, j : j + 7] @ kernel[i, j] for i in range(3) for j in range(3))
    gamma, beta, mean, variance = model.get_layer("aux_classifier.1").get_weights()
    y = np.maximum((y - mean) / np.sqrt(variance + 1e-5) * gamma + beta, 0)
    kernel, bias = model.get_layer("aux_classifier.4").get_weights()
    # float32 sums in another order
    np.testing.assert_allclose(got, y @ kernel[0, 0] + bias, atol=1e-5 * np.abs(got).max())


def test_rates_of_the_pyramid():
    """Those of the published stride, scaled, or others; none below 1."""
    image = keras.Input((9, 9, 4))
    for options, want in (
        ({}, [12, 24, 36]),
        ({"output_stride": 16}, [6, 12, 18]),
        ({"atrous_rates": (2, 3)}, [2, 3]),
    ):
        model = keras.Model(image, deeplab_torchvision(Features(image), 2, **options))
        layers = [model.get_layer(f"classifier.0.convs.{i + 1}.0") for i in range(len(want))]
        assert [layer.dilation_rate[0] for layer in layers] == want
    with pytest.raises(kseg.KsegError, match=r"atrous_rates is \(0,\)"):
        kseg.create_model("deeplab_v3_resnet50", atrous_rates=(0,))


@pytest.mark.parametrize(
    ("output_stride", "wants"), [(8, (1, 2, 4)), (16, (1, 1, 2)), (32, (1, 1, 1))]
)
def test_dilations_of_mobilenet(output_stride: int, wants: tuple[int, int, int]):
    """The block that loses its stride is dilated as well: blocks 7 and 13 are those of a stride."""
    image = keras.Input((65, 97, 3))
    features = mobilenet_v3_large(image, output_stride=output_stride)
    assert features.output.shape[1:3] == (64 // output_stride + 1, 96 // output_stride + 1)
    model = keras.Model(image, features.output)
    layers = [x for x in model.layers if isinstance(x, keras.layers.DepthwiseConv2D)]
    got = [layer.dilation_rate[0] for layer in layers]
    first, second, third = wants
    assert got == [first] * 6 + [second] * 6 + [third] * 3
    assert len(got) == len(BLOCKS)


def test_dilations_of_resnet():
    """The first unit of layer 4 has the dilation of layer 3; at stride 8 the fixture shows it."""
    image = keras.Input((65, 97, 3))
    features = resnet(image, RESNET_50, style=TORCHVISION, output_stride=16)
    model = keras.Model(image, features.output)
    units = [model.get_layer(f"backbone.layer4.{i}.conv2") for i in range(3)]
    assert [unit.dilation_rate[0] for unit in units] == [1, 2, 2]
    assert model.get_layer("backbone.layer3.5.conv2").dilation_rate[0] == 1
