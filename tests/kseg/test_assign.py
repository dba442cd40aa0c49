"""Every layer that a checkpoint fills, against the runtime that the checkpoint is of."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

import kseg
from kseg import checkpoints
from kseg.layers import GroupedPointwiseConv, SharedPReLU
from kseg.model import Normalization
from kseg.zoo import VARIANTS, Variant

# float32 sums in another order, on values of size 1
FLOAT32 = 1e-5

NORMALIZATION = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def torch_layers(x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    """One of each layer; no kernel is square and no two axes of one are alike."""
    x = kl.Conv2D(6, (2, 3), name="stem.conv")(x)
    x = kl.BatchNormalization(epsilon=1e-5, name="stem.norm")(x)
    x = kl.PReLU(shared_axes=(1, 2), name="stem.act")(x)
    x = kl.DepthwiseConv2D((3, 2), name="depthwise")(x)
    x = SharedPReLU(name="shared")(x)
    x = GroupedPointwiseConv(8, 2, name="grouped")(x)
    pieces = []
    for i in range(2):
        piece = kl.Conv2D(3, (1, 2), name=f"pieces.conv.group{i}")(x[..., 4 * i : 4 * (i + 1)])
        pieces.append(kl.BatchNormalization(epsilon=1e-5, name=f"pieces.norm.group{i}")(piece))
    x = kl.Concatenate()(pieces)
    x = kl.Conv2DTranspose(5, (2, 3), strides=2, name="up")(x)
    x = kl.Conv2D(5, 1, name="classifier.hidden")(x)
    return kl.Conv2D(num_classes, 1, name="classifier.linear")(x)


def encoder_layers(x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    """Layers of the same name but for the scope, one of which others take for a wrapper."""
    x = kl.Conv2D(3, 1, name="encoder.conv")(x)
    x = kl.Conv2D(3, 1, name="conv")(x)
    x = kl.Conv2D(3, 1, name="module.conv")(x)
    return kl.Conv2D(num_classes, 1, name="classifier")(x)


def encoder_alone(x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    return kl.Conv2D(num_classes, 1, name="classifier")(kl.Conv2D(3, 1, name="conv")(x))


def slim_layers(x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    x = kl.Conv2D(4, (2, 3), use_bias=False, name="net.conv")(x)
    x = kl.BatchNormalization(epsilon=1e-3, name="net.conv.BatchNorm")(x)
    x = kl.DepthwiseConv2D((3, 2), name="net.depthwise")(x)
    x = kl.SeparableConv2D(5, (2, 3), name="net.separable")(x)
    return kl.Conv2D(num_classes, 1, name="logits.semantic")(x)


@pytest.fixture(autouse=True)
def rows(monkeypatch):
    common = dict(normalization=NORMALIZATION, unused=("spare",))
    for name, row in {
        "torch_layers": Variant(
            builder=torch_layers,
            backbone=("stem", "depthwise"),
            classifier=("classifier.",),
            **common,
        ),
        "encoder_layers": Variant(
            builder=encoder_layers, backbone=("encoder.",), classifier=("classifier",), **common
        ),
        "encoder_alone": Variant(
            builder=encoder_alone, backbone=("conv",), classifier=("classifier",), **common
        ),
        "slim_layers": Variant(
            builder=slim_layers,
            tensors="tf_slim",
            backbone=("net.",),
            classifier=("logits.",),
            **common,
        ),
    }.items():
        monkeypatch.setitem(VARIANTS, name, row)


def row(name: str, num_classes: int = 3) -> kseg.SegmentationModel:
    return kseg.create_model(name, num_classes=num_classes, preprocessing=False)


def network_output(model: keras.Model, last: str, image: np.ndarray) -> np.ndarray:
    """Before the resizing to the image's size."""
    return np.asarray(keras.Model(model.input, model.get_layer(last).output)(image))


@pytest.fixture
def published_torch():
    """The network in PyTorch, with statistics as after training."""
    torch = pytest.importorskip("torch", reason="torch is not installed; .ci/run installs it")
    nn = torch.nn
    torch.manual_seed(0)
    stem = nn.Sequential()
    for name, part in (("conv", nn.Conv2d(3, 6, (2, 3))), ("norm", nn.BatchNorm2d(6))):
        stem.add_module(name, part)
    stem.add_module("act", nn.PReLU(6))
    network = nn.Sequential()
    network.add_module("stem", stem)
    network.add_module("depthwise", nn.Conv2d(6, 6, (3, 2), groups=6))
    network.add_module("shared", nn.PReLU())
    network.add_module("grouped", nn.Conv2d(6, 8, 1, groups=2))
    pieces = nn.Sequential()
    pieces.add_module("conv", nn.Conv2d(8, 6, (1, 2), groups=2))
    pieces.add_module("norm", nn.BatchNorm2d(6))
    network.add_module("pieces", pieces)
    network.add_module("up", nn.ConvTranspose2d(6, 5, (2, 3), stride=2))
    network.add_module("classifier", nn.Sequential())
    network.classifier.add_module("hidden", nn.Conv2d(5, 5, 1))
    network.classifier.add_module("linear", nn.Conv2d(5, 3, 1))
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5).mul_(torch.sign(torch.randn(tensor.shape)))
        # Slopes as they are in use, and variances above 0.
        slopes = stem.act.weight, network.shared.weight
        for tensor in (*slopes, stem.norm.running_var, pieces.norm.running_var):
            tensor.abs_().mul_(0.5)
    return network.eval()


def test_equals_torch_layer_by_layer(published_torch, tmp_path):
    import torch

    torch.save({"state_dict": published_torch.state_dict()}, tmp_path / "x.pth")
    model = row("torch_layers")
    checkpoints.assign(model, checkpoints.read(tmp_path / "x.pth"))
    image = np.random.default_rng(1).normal(size=(1, 7, 9, 3)).astype("float32")
    with torch.no_grad():
        want = published_torch(torch.from_numpy(image).permute(0, 3, 1, 2))
    want = want.permute(0, 2, 3, 1).numpy()
    got = network_output(model, "classifier.linear", image)
    np.testing.assert_allclose(got, want, atol=FLOAT32 * np.abs(want).max())


def test_published_tensors_load_into_torch(published_torch):
    """Names, shapes and values; counters are all that a model does not have."""
    import torch

    state = {name: tensor.numpy() for name, tensor in published_torch.state_dict().items()}
    model = row("torch_layers")
    checkpoints.assign(model, state)
    for norm in ("stem", "pieces"):
        state.pop(f"{norm}.norm.num_batches_tracked")
    shapes = checkpoints.published_shapes(model)
    assert shapes == {name: tensor.shape for name, tensor in state.items()}
    published = checkpoints.published(model)
    tensors = {name: torch.from_numpy(tensor) for name, tensor in published.items()}
    published_torch.load_state_dict(tensors, strict=False)
    for name, tensor in published_torch.state_dict().items():
        if name in state:
            np.testing.assert_array_equal(tensor.numpy(), state[name])


def slim_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        "net/conv/weights": (2, 3, 3, 4),
        **{f"net/conv/BatchNorm/{name}": (4,) for name in ("gamma", "beta", "moving_mean")},
        "net/conv/BatchNorm/moving_variance": (4,),
        "net/depthwise/depthwise_weights": (3, 2, 4, 1),
        "net/depthwise/biases": (4,),
        "net/separable/depthwise_weights": (2, 3, 4, 1),
        "net/separable/pointwise_weights": (1, 1, 4, 5),
        "net/separable/biases": (5,),
        "logits/semantic/weights": (1, 1, 5, 3),
        "logits/semantic/biases": (3,),
    }
    return {name: rng.uniform(0.1, 1, shape).astype("float32") for name, shape in shapes.items()}


def test_equals_tensorflow_layer_by_layer():
    tensors = slim_tensors()
    counters = {"global_step": np.int64(7), "mean_rgb": np.zeros(3)}
    slots = {
        f"logits/semantic/weights/{slot}": np.zeros((1, 1, 5, 3))
        for slot in ("Momentum", "ExponentialMovingAverage", "Adam", "Adam_1", "RMSProp")
    }
    model = row("slim_layers")
    checkpoints.assign(model, tensors | counters | slots | {"spare/weights": np.zeros(2)})

    given = iter(tensors.values())
    image = np.random.default_rng(1).normal(size=(1, 9, 11, 3)).astype("float32")
    x = tf.nn.conv2d(image, next(given), 1, "VALID")
    gamma, beta, mean, variance = (next(given) for _ in range(4))
    x = tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-3)
    x = tf.nn.depthwise_conv2d(x, next(given), (1, 1, 1, 1), "VALID") + next(given)
    depthwise, pointwise = next(given), next(given)
    x = tf.nn.separable_conv2d(x, depthwise, pointwise, (1, 1, 1, 1), "VALID") + next(given)
    want = np.asarray(tf.nn.conv2d(x, next(given), 1, "VALID") + next(given))
    got = network_output(model, "logits.semantic", image)
    np.testing.assert_allclose(got, want, atol=FLOAT32 * np.abs(want).max())


def test_published_tensors_are_those_assigned():
    tensors = slim_tensors()
    model = row("slim_layers")
    checkpoints.assign(model, tensors)
    published = checkpoints.published(model)
    assert published.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(published[name], tensor)


@pytest.mark.parametrize("extra", ["net/conv/weights/Momentun", "logits/spare/weights", "spar"])
def test_names_like_those_left_out(extra):
    """A slot's or a spare part's name in another place is an unknown tensor."""
    tensors = slim_tensors() | {extra: np.zeros(3, "float32")}
    with pytest.raises(kseg.KsegError, match=rf"1 unexpected \({extra}\)"):
        checkpoints.assign(row("slim_layers"), tensors)


def torch_tensors(num_classes: int = 3) -> dict[str, np.ndarray]:
    shapes = checkpoints.published_shapes(row("torch_layers", num_classes))
    rng = np.random.default_rng(0)
    return {name: rng.uniform(0.1, 1, shape).astype("float32") for name, shape in shapes.items()}


def test_a_linear_layer_is_a_1x1_convolution():
    """(O, I), as of a classifier after global pooling."""
    tensors = torch_tensors()
    kernel = tensors["classifier.linear.weight"][:, :, 0, 0]
    model = row("torch_layers")
    checkpoints.assign(model, tensors | {"classifier.linear.weight": kernel})
    np.testing.assert_array_equal(model.get_layer("classifier.linear").kernel[0, 0], kernel.T)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        # The right number of values in another shape; the right ends; a linear layer for 3 x 3.
        ("stem.conv.weight", (3, 6, 2, 3)),
        ("stem.conv.weight", (6, 3, 3, 2)),
        ("stem.conv.weight", (6, 3)),
        ("classifier.linear.weight", (3, 5, 2, 2)),
        ("classifier.linear.weight", (1, 1, 3, 5)),
        ("stem.norm.weight", (1, 6)),
        ("shared.weight", (6,)),
    ],
)
def test_misshapen_tensors(name, shape):
    tensors = torch_tensors() | {name: np.zeros(shape, "float32")}
    with pytest.raises(kseg.KsegError, match=rf"1 misshapen \({name} is "):
        checkpoints.assign(row("torch_layers"), tensors)


@pytest.mark.parametrize(
    "wrap", ["module.{}", "state_dict.{}", "state_dict.module.{}", "model.state_dict.{}"]
)
def test_wrappers_come_off(wrap):
    """Where the classes are counted and where they are assigned; a counter stands beside."""
    tensors = torch_tensors(7)
    wrapped = {wrap.format(name): tensor for name, tensor in tensors.items()} | {"epoch": 3}
    assert checkpoints.count_classes("torch_layers", wrapped) == 7
    model = row("torch_layers", 7)
    checkpoints.assign(model, wrapped)
    for name, tensor in checkpoints.published(model).items():
        np.testing.assert_array_equal(tensor, tensors[name])


def test_nested_wrappers_come_off():
    tensors = torch_tensors()
    nested: dict = {}
    for name, tensor in tensors.items():
        *scopes, last = name.split(".")
        inner = nested
        for scope in scopes:
            inner = inner.setdefault(scope, {})
        inner[last] = tensor
    model = row("torch_layers")
    checkpoints.assign(model, {"model": {"module": nested}, "epoch": 3})
    for name, tensor in checkpoints.published(model).items():
        np.testing.assert_array_equal(tensor, tensors[name])


def zeroed(name: str, num_classes: int = 3) -> kseg.SegmentationModel:
    model = row(name, num_classes)
    model.set_weights([np.zeros(weight.shape) for weight in model.weights])
    return model


def filled(model: keras.Model) -> set[str]:
    """Layers of which some weight is not zero."""
    return {layer.name for layer in model.layers if any(map(np.any, layer.get_weights()))}


BACKBONE = {"stem.conv", "stem.norm", "stem.act", "depthwise"}
MIDDLE = {
    *("shared", "grouped", "up"),
    *(f"pieces.{part}.group{i}" for part in ("conv", "norm") for i in range(2)),
}


def test_parts_from_another_model():
    """Layer by layer; with other classes all but the classifier, and nothing where one lacks."""
    source = row("torch_layers", 4)
    source.set_weights([np.full(weight.shape, 0.5) for weight in source.weights])
    model = zeroed("torch_layers")
    with pytest.raises(kseg.KsegError, match=r"classifier\.linear has .*, not "):
        checkpoints.copy(model, source)
    assert filled(model) == set()
    checkpoints.copy(model, source, part="backbone")
    assert filled(model) == BACKBONE
    checkpoints.copy(model, source, part="all-but-classifier")
    assert filled(model) == BACKBONE | MIDDLE
    with pytest.raises(kseg.KsegError, match=r"stem\.conv is missing; .*depthwise is missing"):
        checkpoints.copy(model, row("slim_layers"), part="backbone")


def test_layers_whose_names_differ_by_a_scope_stay_apart():
    source = row("encoder_layers")
    copied, assigned = row("encoder_layers"), row("encoder_layers")
    checkpoints.copy(copied, source)
    checkpoints.assign(assigned, checkpoints.published(source))
    for model in (copied, assigned):
        for got, want in zip(model.get_weights(), source.get_weights(), strict=True):
            np.testing.assert_array_equal(got, want)


def test_an_encoder_alone_has_no_scope():
    source, model = row("encoder_alone"), row("encoder_layers")
    checkpoints.copy(model, source, part="backbone")
    for got, want in zip(
        model.get_layer("encoder.conv").get_weights(),
        source.get_layer("conv").get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(got, want)
    assert not np.array_equal(model.get_layer("conv").kernel, source.get_layer("conv").kernel)


def test_classes_are_those_of_the_last_layer():
    """Not of one before it; by the bias where the kernel is a linear layer's."""
    assert checkpoints.count_classes("torch_layers", torch_tensors(7)) == 7
    tensors = {"logits/semantic/weights": np.zeros((1, 1, 5, 7))}
    assert checkpoints.count_classes("slim_layers", tensors) == 7
    tensors = {"logits/semantic/weights": np.zeros((5, 7)), "logits/semantic/biases": np.zeros(7)}
    assert checkpoints.count_classes("slim_layers", tensors) == 7


def test_parts_of_a_checkpoint():
    model = zeroed("torch_layers")
    checkpoints.assign(model, torch_tensors(4), part="backbone")
    assert filled(model) == BACKBONE
    checkpoints.assign(model, torch_tensors(4), part="all-but-classifier")
    assert filled(model) == BACKBONE | MIDDLE
    checkpoints.assign(model, torch_tensors())
    assert filled(model) == BACKBONE | MIDDLE | {"classifier.hidden", "classifier.linear"}
