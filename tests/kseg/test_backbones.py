"""Backbones alone: names, features, output strides."""

import keras
import numpy as np
import pytest
from reference import FIXTURES, open_reference

from kseg.backbones.googlenet import googlenet
from kseg.backbones.mobilenet_v2 import PYTORCH, TF_SLIM, mobilenet_v2
from kseg.backbones.se_resnet import se_resnet50
from support import outputs_of, varied


def slim_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """A model's variables under TF-Slim's names."""
    variables = {}
    for layer in model.layers:
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        for variable in layer.weights:
            kernel = "depthwise_weights" if depthwise else "weights"
            suffix = kernel if variable.name == "kernel" else variable.name
            variables[f"{layer.name.replace('.', '/')}/{suffix}"] = variable
    return variables


def backbone(size: tuple[int | None, int | None], **options) -> keras.Model:
    image = keras.Input((*size, 3))
    return keras.Model(image, list(mobilenet_v2(image, **options)[:2]))


def randomize(model: keras.Model) -> None:
    """BatchNorm statistics and offsets that show a wrong border."""
    rng = np.random.default_rng(7)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.beta.assign(rng.normal(size=layer.beta.shape))
            layer.moving_mean.assign(rng.normal(size=layer.beta.shape) * 0.1)


def test_slim_mobilenet_v2_equals_its_reference():
    reference = open_reference("deeplab_mnv2_os16_a")
    image = reference.image

    model = backbone(image.shape[1:3], output_stride=16)
    for name, variable in slim_variables(model).items():
        variable.assign(reference.tensors[name])
    taps = {
        "conv": "Conv.relu6",
        "expanded_conv": "expanded_conv.project.BatchNorm",
        "expanded_conv_2": "expanded_conv_2.project.sum",
        "expanded_conv_5": "expanded_conv_5.project.sum",
        "expanded_conv_9": "expanded_conv_9.project.sum",
        "expanded_conv_13": "expanded_conv_13.project.BatchNorm",
        "expanded_conv_16": "expanded_conv_16.project.BatchNorm",
    }
    outputs = {tap: model.get_layer(f"MobilenetV2.{name}").output for tap, name in taps.items()}
    # (2/255) x RGB - 1 is inside the reference.
    got = outputs_of(keras.Model(model.inputs, outputs), image * (2 / 255) - 1)

    for tap in taps:
        reference.check(tap, got[tap])


@pytest.mark.parametrize(
    ("published", "depth_multiplier"),
    [("deeplab_mnv2_os16", 1.0), ("deeplab_mnv2_dm05_os16", 0.5)],
)
def test_slim_mobilenet_v2_has_the_published_variables(published: str, depth_multiplier: float):
    lines = (FIXTURES / f"{published}.variables.txt").read_text().splitlines()
    want = dict(line.split(" ", 1) for line in lines if line.startswith("MobilenetV2/"))
    model = backbone((None, None), output_stride=16, depth_multiplier=depth_multiplier)
    assert {n: str(tuple(v.shape)) for n, v in slim_variables(model).items()} == want


@pytest.mark.parametrize("style", [TF_SLIM, PYTORCH], ids=["slim", "pytorch"])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_mobilenet_v2_strides_agree_on_the_shared_grid(style, output_stride: int):
    """Less stride with dilation computes the same features, more densely."""
    image = np.random.default_rng(0).normal(size=(1, 65, 129, 3)).astype("float32")
    coarse = backbone((None, None), style=style, output_stride=2 * output_stride)
    randomize(coarse)
    dense = backbone((None, None), style=style, output_stride=output_stride)
    dense.set_weights(coarse.get_weights())
    want, want_low = outputs_of(coarse, image)
    got, got_low = outputs_of(dense, image)
    assert got.shape[1:3] == (64 // output_stride + 1, 128 // output_stride + 1)
    np.testing.assert_allclose(got[:, ::2, ::2], want, atol=1e-5 * np.abs(want).max())
    np.testing.assert_array_equal(got_low, want_low)


@pytest.mark.parametrize(
    ("style", "channels", "low_level"), [(TF_SLIM, 320, 144), (PYTORCH, 1280, 24)]
)
@pytest.mark.parametrize("size", [(96, 160), (97, 161), (100, 150)])
def test_mobilenet_v2_shapes(size: tuple[int, int], style, channels: int, low_level: int):
    image = np.zeros((1, *size, 3), "float32")
    features = outputs_of(backbone((None, None), style=style), image)
    static = backbone(size, style=style).outputs
    for got, fixed, stride, depth in zip(
        features, static, (32, 4), (channels, low_level), strict=True
    ):
        assert got.shape == (1, -(-size[0] // stride), -(-size[1] // stride), depth)
        assert got.shape[1:] == fixed.shape[1:]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"output_stride": 4}, "output_stride is 4"), ({"depth_multiplier": 0}, "multiplier is 0")],
)
def test_mobilenet_v2_refuses_bad_options(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        backbone((None, None), **options)


@pytest.mark.parametrize("function", [se_resnet50, googlenet])
def test_pytorch_backbone_strides_agree_on_the_shared_grid(function):
    # Each of the poolings meets an even number of rows or columns, and an odd one.
    image = np.random.default_rng(0).normal(size=(1, 121, 167, 3)).astype("float32")
    weights, want = None, None
    for output_stride in (32, 16, 8):
        inputs = keras.Input((None, None, 3))
        features = function(inputs, output_stride=output_stride)
        model = keras.Model(inputs, [features.output, features.mid_level])
        if weights is None:
            for layer in varied(model).layers:
                # Squeeze-and-excitation is a mean over all pixels, of which there are more now.
                if layer.name.endswith("se_module.fc1"):
                    layer.set_weights([0 * weight for weight in layer.get_weights()])
            weights = model.get_weights()
        model.set_weights(weights)
        got = outputs_of(model, image)
        if want is not None:
            atol = 1e-5 * np.abs(want[0]).max()
            np.testing.assert_allclose(got[0][:, ::2, ::2], want[0], rtol=0, atol=atol)
            np.testing.assert_array_equal(got[1], want[1])
        want = got


@pytest.mark.parametrize("function", [se_resnet50, googlenet])
def test_pytorch_backbone_refuses_an_output_stride(function):
    with pytest.raises(ValueError, match="output_stride is 12"):
        function(keras.Input((64, 64, 3)), output_stride=12)
