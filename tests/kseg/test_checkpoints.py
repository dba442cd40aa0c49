"""Reading and assigning published checkpoints."""

import ast
from pathlib import Path

import keras
import numpy as np
import pytest

import kseg
from kseg import checkpoints
from support import ROOT, random_tensors, randomize_statistics

ROW = dict(name="cgnet_m3n21", num_classes=5, m=2, n=2, preprocessing=False)


@pytest.fixture(scope="module")
def model():
    return kseg.create_model(**ROW)


def test_reads_safetensors(tmp_path):
    from safetensors.numpy import save_file

    save_file({"a": np.arange(3, dtype="float32")}, tmp_path / "x.safetensors")
    np.testing.assert_array_equal(checkpoints.read(tmp_path / "x.safetensors")["a"], [0, 1, 2])


def test_reads_tensorflow(tmp_path):
    import tensorflow as tf

    with tf.Graph().as_default():
        variable = tf.compat.v1.get_variable("a/weights", initializer=tf.constant([1.0, 2.0]))
        with tf.compat.v1.Session() as session:
            session.run(variable.initializer)
            tf.compat.v1.train.Saver().save(session, str(tmp_path / "model.ckpt"))
    for name in ("model.ckpt", "model.ckpt.index"):
        np.testing.assert_array_equal(checkpoints.read(tmp_path / name)["a/weights"], [1, 2])


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".ckpt.index", ".h5"])
def test_damaged_file(suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"\x80\x02garbage" * 20)
    with pytest.raises(kseg.KsegError, match=r"x\.\w+.*: not a readable checkpoint"):
        checkpoints.read(path)


def test_missing_file(tmp_path):
    with pytest.raises(kseg.KsegError, match=r"none\.pth: no such checkpoint"):
        checkpoints.read(tmp_path / "none.pth")


# --- assignment ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        *("{}", "module.{}", "model.module.{}", "state_dict.{}", "net.{}", "network.{}"),
        *("_orig_mod.{}", "module._orig_mod.{}", "model_state_dict._orig_mod.module.{}"),
        *("model_state.{}", "state_dict.model.{}"),
    ],
)
def test_assign_unwraps(wrap, model):
    tensors = random_tensors(model)
    checkpoints.assign(model, {wrap.format(k): v for k, v in tensors.items()})
    kernel = model.get_layer("level1_0.conv").kernel
    want = tensors["level1_0.conv.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(np.asarray(kernel), want)


def test_assign_takes_nested_dicts(model):
    tensors = random_tensors(model)
    checkpoints.assign(model, {"epoch": 3, "model": tensors, "optimizer": {"lr": np.zeros(1)}})
    slopes = np.asarray(model.get_layer("b1.act").alpha).ravel()
    np.testing.assert_array_equal(slopes, tensors["b1.act.weight"])


def test_weights_that_are_there_twice(model):
    """A trainer's average beside the weights: the file does not say which are meant."""
    tensors = random_tensors(model)
    others = {name: 2 * tensor for name, tensor in tensors.items()}
    checkpoints.assign(model, {"model": tensors, "state_dict": tensors})
    with pytest.raises(kseg.KsegError, match=r"weights under 'state_dict\.' than under 'model\."):
        checkpoints.assign(model, {"model": tensors, "state_dict": others})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "b1.act.weight is not finite"),
        (np.inf, "b1.act.weight is not finite"),
        (np.int8(3), "b1.act.weight is of type int8"),  # quantised, without its scale
        (1j, "b1.act.weight is of type complex"),
    ],
)
def test_tensors_that_are_no_weights(value, message, model):
    tensors = random_tensors(model)
    before = [np.asarray(v) for v in model.variables]
    slopes = tensors["b1.act.weight"]
    tensors["b1.act.weight"] = np.full_like(slopes, value, dtype=np.result_type(value))
    with pytest.raises(kseg.KsegError, match=f"1 damaged .{message}"):
        checkpoints.assign(model, tensors)
    for old, now in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, np.asarray(now))


def test_assign_lists_every_problem_and_assigns_nothing(model):
    tensors = random_tensors(model)
    before = [np.asarray(v) for v in model.variables]
    del tensors["b1.bn.weight"]
    tensors["level9.weight"] = np.zeros(3, "float32")
    tensors["classifier.0.conv.weight"] = np.zeros((7, 256, 1, 1), "float32")
    with pytest.raises(kseg.KsegError) as error:
        checkpoints.assign(model, tensors)
    text = str(error.value)
    assert "\n" not in text
    assert "1 missing (b1.bn.weight)" in text
    assert "1 unexpected (level9.weight)" in text
    assert "classifier.0.conv.weight is (7, 256, 1, 1), not (5, 256, 1, 1)" in text
    for was, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(np.asarray(variable), was)


def test_assign_parts(model):
    tensors = random_tensors(model)
    tensors["classifier.0.conv.weight"] = np.zeros((7, 256, 1, 1), "float32")
    head = np.asarray(model.get_layer("classifier.0.conv").kernel).copy()
    for part in ("backbone", "all-but-classifier"):
        checkpoints.assign(model, tensors, part=part)
    np.testing.assert_array_equal(np.asarray(model.get_layer("classifier.0.conv").kernel), head)
    del tensors["level1_0.conv.weight"]
    with pytest.raises(kseg.KsegError, match=r"missing \(level1_0\.conv\.weight\)"):
        checkpoints.assign(model, tensors, part="backbone")
    with pytest.raises(kseg.KsegError, match="part is 'head'"):
        checkpoints.assign(model, tensors, part="head")


def test_weights_decide_the_classes(model, tmp_path):
    from safetensors.numpy import save_file

    full = kseg.create_model("cgnet_m3n21", num_classes=5)
    tensors = random_tensors(full)
    save_file(tensors, tmp_path / "x.safetensors")
    got = kseg.create_model("cgnet_m3n21", weights=tmp_path / "x.safetensors")
    assert got.card.num_classes == 5
    assert got.card.weights == "x.safetensors"
    with pytest.raises(kseg.KsegError, match="has no classifier of cgnet_m3n21"):
        checkpoints.count_classes("cgnet_m3n21", {"fc.weight": np.zeros((3, 3))})


# --- ImageNet checkpoints of backbones ---------------------------------------------------

# Tensors of TF-Slim's files that a segmentation network does not take.
IMAGENET = {
    "deeplab_v3_plus_xception65": ("deeplab_x65_os16", "xception_65/", "logits"),
    "deeplab_v3_plus_resnet101": ("deeplab_resnet101beta_os16", "resnet_v1_101/", "logits"),
    "deeplab_v3_mobilenet_v2": (
        "deeplab_mnv2_os16",
        "MobilenetV2/",
        "Logits/Conv2d_1c_1x1",
    ),
}


def write_tensorflow(prefix: Path, tensors: dict[str, np.ndarray]) -> None:
    """As TF1's Saver writes."""
    import tensorflow as tf

    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )


@pytest.mark.parametrize("name", IMAGENET)
def test_tf_slim_imagenet_checkpoint(name, tmp_path):
    """The reference's variables of the backbone, with its ImageNet head and slots."""
    fixture, scope, head = IMAGENET[name]
    lines = (ROOT / f"tests/data/fixtures/{fixture}.variables.txt").read_text().splitlines()
    published = dict(line.split(maxsplit=1) for line in lines)
    rng = np.random.default_rng(0)
    tensors = {
        variable: rng.uniform(0.1, 1, ast.literal_eval(shape)).astype("float32")
        for variable, shape in published.items()
        if variable.startswith(scope)
    }
    extra = {
        f"{scope}{head}/weights": np.zeros((1, 1, 8, 1001), "float32"),
        f"{scope}{head}/biases": np.zeros(1001, "float32"),
        "global_step": np.zeros((), "float32"),
    }
    for variable in list(tensors)[:5]:
        for slot in ("Momentum", "RMSProp", "RMSProp_1", "ExponentialMovingAverage"):
            extra[f"{variable}/{slot}"] = np.zeros_like(tensors[variable])
    write_tensorflow(tmp_path / "model.ckpt", tensors | extra)
    model = kseg.create_model(name)
    head_before = np.asarray(model.get_layer("logits.semantic").kernel)
    checkpoints.assign(model, checkpoints.read(tmp_path / "model.ckpt"), part="backbone")
    values = {f"{v.path}": np.asarray(v) for v in model.weights}
    for variable, tensor in tensors.items():
        layer, _, last = variable.rpartition("/")
        keras_name = {"weights": "kernel", "depthwise_weights": "kernel"}.get(last, last)
        np.testing.assert_array_equal(values[f"{layer.replace('/', '.')}/{keras_name}"], tensor)
    np.testing.assert_array_equal(model.get_layer("logits.semantic").kernel, head_before)
    with pytest.raises(kseg.KsegError, match=r"missing .*logits/semantic/weights"):
        checkpoints.assign(model, tensors)


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5"])
def test_keras_applications_mobilenet_v2(suffix, tmp_path):
    """An unmodified network of Keras, by its features of an image."""
    size = (97, 130)
    keras.utils.set_random_seed(3)
    theirs = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(*size, 3))
    for i, weight in enumerate(theirs.weights):
        # Statistics that no layer would have by itself.
        if "moving" in weight.name:
            weight.assign(np.random.default_rng(i).uniform(0.5, 1.5, weight.shape))
    file = tmp_path / f"mobilenet{suffix}"
    (theirs.save_weights if suffix == ".weights.h5" else theirs.save)(file)
    ours = kseg.create_model("deeplab_v3_mobilenet_v2", output_stride=32, input_shape=(*size, 3))
    checkpoints.assign(ours, checkpoints.read(file), part="backbone")
    image = np.random.default_rng(1).integers(0, 256, (1, *size, 3)).astype("float32")
    layer = theirs.get_layer("block_16_project_BN").output
    want = keras.Model(theirs.input, layer)(image / 127.5 - 1)
    layer = ours.get_layer("MobilenetV2.expanded_conv_16.project.BatchNorm").output
    got = keras.Model(ours.input, layer)(image)
    # float32 sums in another order
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max(), rtol=0)


def test_tf_slim_mobilenet_v2_in_the_encoder_of_keras():
    """One network under two names: the features of an image are the same."""
    theirs = kseg.create_model("lraspp.MobileNetV2Slim", num_classes=2, output_stride=32)
    randomize_statistics(theirs)
    ours = kseg.create_model("lraspp.MobileNetV2", num_classes=2, output_stride=32)
    tensors = checkpoints.published(theirs)
    # ImageNet's last convolution, which DeepLab leaves out
    tensors["MobilenetV2/Conv_1/weights"] = np.zeros((1, 1, 320, 1280), "float32")
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        tensors[f"MobilenetV2/Conv_1/BatchNorm/{name}"] = np.ones(1280, "float32")
    checkpoints.assign(ours, tensors, part="backbone")
    image = np.random.default_rng(1).integers(0, 256, (1, 97, 129, 3)).astype("float32")
    want, got = (
        keras.Model(model.input, model.get_layer(name).output)(image)
        for model, name in (
            (theirs, "MobilenetV2.expanded_conv_16.project.BatchNorm"),
            (ours, "encoder.block_16_project_BN"),
        )
    )
    # float32 sums in another order
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max(), rtol=0)


def test_keras_applications_of_another_network(tmp_path):
    """Its ResNet is not DeepLab's; its MobileNetV2 at another width does not fit."""
    resnet = {"conv1_conv/kernel": np.zeros((7, 7, 3, 64), "float32")}
    with pytest.raises(kseg.KsegError, match=r"ResNet is not DeepLab's.* resnet_v1_101_beta"):
        checkpoints.assign(kseg.create_model("deeplab_v3_plus_resnet101"), resnet, part="backbone")
    slim = keras.applications.MobileNetV2(
        alpha=0.5, weights=None, include_top=False, input_shape=(96, 96, 3)
    )
    slim.save_weights(tmp_path / "x.weights.h5")
    model = kseg.create_model("deeplab_v3_mobilenet_v2")
    with pytest.raises(kseg.KsegError, match=r"\d+ misshapen \(MobilenetV2/Conv/weights is"):
        checkpoints.assign(model, checkpoints.read(tmp_path / "x.weights.h5"), part="backbone")
