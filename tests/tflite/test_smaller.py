"""Pruned and clustered models: where the zeros and values are, and what files make of them."""

import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import kseg
from kseg.cli import main
from kseg.tflite import cluster, convert, prune
from kseg.tflite.bridge import to_tf_keras
from kseg.tflite.flatbuffer import operators
from kseg.tflite.predictors import TFLitePredictor
from kseg.training.losses import cross_entropy
from kseg.zoo import build
from support import write_camvid

pytestmark = pytest.mark.usefixtures("small_row")

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def kernels(model: keras.Model) -> list[np.ndarray]:
    return [
        layer.get_weights()[0] for layer in model.layers if isinstance(layer, keras.layers.Conv2D)
    ]


def fixed_kernels(path) -> list[np.ndarray]:
    """The int8 kernels of a file's convolutions."""
    interpreter = TFLitePredictor(path)._interpreter
    indices = [
        operator["inputs"][1]
        for operator in interpreter._get_ops_details()
        if operator["op_name"] == "CONV_2D"
    ]
    found = [interpreter.get_tensor(index) for index in indices]
    return [kernel for kernel in found if kernel.dtype == np.int8]


@pytest.fixture(scope="module")
def run(tiny_camvid, tmp_path_factory):
    """A command that trains, with what all share; its model and file."""

    def run(command, file, *options):
        out = tmp_path_factory.mktemp(command) / "x.keras"
        args = ["--dataset", "camvid", "--data-dir", tiny_camvid, "--steps", 8, "--batch-size", 2]
        args += ["--crop", 48, 64, *options]
        assert main([command, *map(str, [file, out, *args])]) == 0
        return kseg.load(out), out

    return run


@pytest.fixture(scope="module")
def pruned(run, small_keras):
    return run("prune", small_keras, "--sparsity", 0.75)


@pytest.fixture(scope="module")
def clustered(run, pruned):
    """Of the pruned model; its learning rate moves every weight of a kernel."""
    return run("cluster", pruned[1], "--clusters", 8, "--learning-rate", 1e-2)[0]


def assert_trained(after: keras.Model, before: keras.Model) -> None:
    """In every kernel something other than to zero; and it computes what was trained."""
    pairs = zip(kernels(after), kernels(before), strict=True)
    assert min(np.abs(x - y)[x != 0].max() for x, y in pairs) > 0
    want = np.asarray(to_tf_keras(after).model(IMAGE[None].astype("float32")))
    # float32 sums of the same operators in another graph
    np.testing.assert_allclose(after(IMAGE[None]), want, atol=1e-5 * np.abs(want).max())


def test_share_of_zeros(pruned, small_model):
    model, _ = pruned
    for kernel in kernels(model):
        # The library rounds the number of zeros.
        assert (kernel == 0).sum() == pytest.approx(0.75 * kernel.size, abs=1)
    assert model.card.weights == f"{small_model.card.weights}; 75% of weights pruned"
    assert_trained(model, small_model)


def test_two_of_four(run, small_keras):
    """In every four consecutive input channels; the image has only three."""
    model, _ = run("prune", small_keras, "--structure", "2:4")
    for kernel in kernels(model):
        whole = kernel.shape[2] // 4 * 4
        groups = np.moveaxis(kernel[:, :, :whole], 2, -1).reshape(-1, 4)
        assert ((groups == 0).sum(-1) == 2).all()


def test_values(clustered, pruned, small_model):
    """At most eight a kernel, zero among them where it was; the rest is in use."""
    for kernel, before in zip(kernels(clustered), kernels(pruned[0]), strict=True):
        assert 3 <= len(np.unique(kernel)) <= 8
        assert not kernel[before == 0].any()
    assert clustered.card.weights.endswith("75% of weights pruned; 8 values a kernel")
    assert_trained(clustered, pruned[0])


def test_zeros_in_int8(pruned, tmp_path):
    """After post-training quantisation."""
    convert(pruned[0], tmp_path / "x.tflite", precision="int8", calibration=[IMAGE])
    assert zeros(tmp_path / "x.tflite") > 0.74


def test_zeros_after_quantisation_aware_training(pruned, tiny_camvid, tmp_path):
    out = tmp_path / "x.tflite"
    args = ["--dataset", "camvid", "--data-dir", tiny_camvid, "--steps", 4, "--batch-size", 2]
    args += ["--learning-rate", 1e-2, "--crop", 48, 64]
    assert main(["qat", *map(str, [pruned[1], out, *args])]) == 0
    assert zeros(out) > 0.74


def zeros(path) -> float:
    """The share of zeros in a file's int8 kernels."""
    values = np.concatenate([kernel.ravel() for kernel in fixed_kernels(path)])
    return (values == 0).mean()


def with_kernels(model: kseg.SegmentationModel, change) -> kseg.SegmentationModel:
    """A copy whose convolutions have other kernels."""
    copy = build(model.card, weights_of=model)
    for layer in copy.layers:
        if isinstance(layer, keras.layers.Conv2D):
            kernel, *bias = layer.get_weights()
            layer.set_weights([change(kernel), *bias])
    return copy


def test_what_files_weigh(tiny_model, tmp_path):
    """Zeros and few values tell once a file is compressed, zeros also in a sparse file."""
    pruned = with_kernels(
        tiny_model,
        lambda kernel: np.where(abs(kernel) < np.quantile(abs(kernel), 0.75), 0, kernel),
    )
    # -3 to 3 steps
    clustered = with_kernels(
        pruned, lambda kernel: np.rint(kernel / abs(kernel).max() * 3) * abs(kernel).max() / 3
    )
    files = {}
    for name, model, sparse in (
        ("dense", tiny_model, False),
        ("pruned", pruned, False),
        ("clustered", clustered, False),
        ("sparse", pruned, True),
    ):
        convert(model, tmp_path / "x.tflite", sparse=sparse)
        files[name] = (tmp_path / "x.tflite").read_bytes()
    sizes = {name: len(content) for name, content in files.items()}
    packed = {name: len(zlib.compress(content)) for name, content in files.items()}
    assert packed["clustered"] < packed["pruned"] < packed["dense"]
    assert sizes["pruned"] == pytest.approx(sizes["dense"], rel=0.01)
    assert sizes["sparse"] < sizes["pruned"]
    assert "DENSIFY" in operators(files["sparse"])
    (tmp_path / "pruned.tflite").write_bytes(files["pruned"])
    want = TFLitePredictor(tmp_path / "pruned.tflite")(IMAGE)
    got = TFLitePredictor(tmp_path / "x.tflite")(IMAGE)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "either sparsity or structure"),
        (["--sparsity", 1.5], "sparsity is 1.5"),
        (["--structure", "1:3"], "structure is '1:3'"),
        (["--sparsity", 0.5, "--steps", 3], "steps is 3"),
        (["--clusters", 2], "clusters is 2"),
        (["--clusters", 8, "--steps", 0], "steps is 0"),
        (["--clusters", 8, "--seed", -1], "seed is -1; it must be 0 to 4294967295"),
    ],
)
def test_refusals(options, message, small_keras, tiny_camvid, tmp_path, capsys):
    out = tmp_path / "x.keras"
    args = ["--dataset", "camvid", "--data-dir", tiny_camvid, "--batch-size", 2, "--crop", 48, 64]
    command = "cluster" if "--clusters" in options else "prune"
    assert main([command, *map(str, [small_keras, out, *args, *options])]) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_few_weights_that_are_not_zero(small_model):
    """Fewer than there are to be values in some kernels, which stay as they are."""
    model = keras.models.clone_model(small_model)
    model.set_weights(small_model.get_weights())
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            kernel, *bias = layer.get_weights()
            layer.set_weights([kernel * (rng.random(kernel.shape) < 0.1), *bias])
    model = kseg.SegmentationModel(model.input, model.output, card=small_model.card)
    labels = np.zeros((1, 48, 64), np.uint8)
    batches = tf.data.Dataset.from_tensors((IMAGE[None].astype("float32"), labels))
    result = cluster(model, batches=batches, loss=cross_entropy, steps=1, clusters=64)
    before, after = kernels(model), kernels(result)
    few = [np.unique(kernel).size <= 64 for kernel in before]
    assert any(few)
    assert not all(few)
    for is_few, was, now in zip(few, before, after, strict=True):
        assert not now[was == 0].any()
        assert np.unique(now).size <= 64
        assert not is_few or (now == was).all()


def test_a_damaged_image_is_named(small_keras, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    write_camvid(tmp_path / "images", {"train": 2})
    image = tmp_path / "images/train/001.png"
    image.write_bytes(image.read_bytes()[:-200])
    args = ["--dataset", "camvid", "--data-dir", tmp_path / "images", "--batch-size", 2]
    args += ["--crop", 48, 64, "--steps", 1, "--clusters", 8]
    assert main(["cluster", *map(str, [small_keras, tmp_path / "x.keras", *args])]) == 1
    assert f"{image}: not a readable image" in capsys.readouterr().err.splitlines()[-1]


def test_a_name_that_keras_does_not_write(small_keras, tmp_path, capsys):
    """Told before the training."""
    out = tmp_path / "x.h5"
    assert main(["prune", *map(str, [small_keras, out, "--dataset", "camvid"])]) == 1
    assert f"{out}: the file's name must end in .keras" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("x.tflite", {}, r"x\.tflite: too few weights are zero; prune the model first"),
        ("x.tflite", dict(precision="w8"), r"x\.tflite: only .tflite files in fp32 and fp16"),
        ("x.onnx", {}, r"x\.onnx: only .tflite files in fp32 and fp16"),
    ],
)
def test_sparse_refusals(name, options, message, small_model, tmp_path):
    with pytest.raises(kseg.KsegError, match=message):
        convert(small_model, tmp_path / name, sparse=True, **options)
    assert list(tmp_path.iterdir()) == []


def wrapped(shared: bool = False) -> kseg.SegmentationModel:
    """A network with a model inside, whose layers have names of the outer one's."""
    keras.utils.set_random_seed(1)
    encoder = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            keras.layers.Conv2D(8, 3, strides=2, padding="same", name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.ReLU(),
        ],
        name="encoder",
    )
    image = keras.Input((None, None, 3))
    x = encoder(keras.layers.Rescaling(1 / 255)(image))
    conv = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="conv")
    x = conv(conv(x)) if shared else conv(x)
    return kseg.wrap(keras.Model(image, keras.layers.Conv2D(5, 1, name="scores")(x), name="own"))


def test_wrapped_models():
    """All of their convolutions; the rest of the graph, and the model itself, stay as they are."""
    labels = np.zeros((1, 48, 64), np.uint8)
    batches = tf.data.Dataset.from_tensors((IMAGE[None].astype("float32"), labels))
    options = dict(batches=batches, loss=cross_entropy)
    model = wrapped()
    before, paths = model.get_weights(), [weight.path for weight in model.weights]
    results = [
        prune(model, steps=4, sparsity=0.5, **options),
        cluster(model, steps=1, clusters=4, **options),
    ]
    for result in results:
        assert [tuple(weight.shape) for weight in result.weights] == [w.shape for w in before]
        assert [weight.path for weight in result.weights] == paths
        changed = [
            not np.array_equal(new, old)
            for new, old in zip(result.get_weights(), before, strict=True)
        ]
        assert all(changed)
        found = [weight for weight in result.get_weights() if weight.ndim == 4]
        assert len(found) == 3
        for kernel in found:
            if result is results[0]:
                assert (kernel == 0).sum() == kernel.size // 2
            else:
                assert np.unique(kernel).size <= 4
    for new, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(new, old)
    with pytest.raises(kseg.KsegError, match=r"own: calls \S*conv twice"):
        cluster(wrapped(shared=True), steps=1, clusters=4, **options)
