"""Reading and assigning published checkpoints."""

import ast
import collections
import io
import os
import pickle
import struct
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest

import kseg
from kseg import checkpoints
from support import ROOT, random_tensors

ROW = dict(name="cgnet_m3n21", num_classes=5, m=2, n=2, preprocessing=False)


@pytest.fixture(scope="module")
def model():
    return kseg.create_model(**ROW)


# --- a writer of both PyTorch formats that needs no PyTorch ---------------------------


class _Storage:
    def __init__(self, key: str, array: np.ndarray) -> None:
        self.key, self.array = key, array


class _FloatStorage:
    pass


def _rebuild_tensor_v2(*args):
    raise AssertionError("only pickled by name")


class _Tensor:
    def __init__(self, storage: _Storage, offset: int, shape: tuple, strides: tuple) -> None:
        self.args = (storage, offset, shape, strides, False, collections.OrderedDict())

    def __reduce__(self):
        return _rebuild_tensor_v2, self.args


_FloatStorage.__module__, _FloatStorage.__qualname__ = "torch", "FloatStorage"
_FloatStorage.__name__ = "FloatStorage"
_rebuild_tensor_v2.__module__ = "torch._utils"
_rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"


class _Pickler(pickle._Pickler):
    def persistent_id(self, obj):
        if isinstance(obj, _Storage):
            return ("storage", _FloatStorage, obj.key, "cpu", obj.array.size)
        return None


@pytest.fixture
def fake_torch(monkeypatch: pytest.MonkeyPatch):
    """Lets pickle find the names of torch while a file is written."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch.FloatStorage = _FloatStorage
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)


def dump(value, protocol: int = 2) -> bytes:
    file = io.BytesIO()
    _Pickler(file, protocol).dump(value)
    return file.getvalue()


def as_torch(arrays: dict[str, np.ndarray]) -> tuple[dict, list[_Storage]]:
    storages = [_Storage(str(i), a.ravel()) for i, a in enumerate(arrays.values())]
    value = collections.OrderedDict()
    for (name, array), storage in zip(arrays.items(), storages, strict=True):
        strides = tuple(s // array.itemsize for s in array.strides)
        value[name] = _Tensor(storage, 0, array.shape, strides)
    return value, storages


def write_zip(path: Path, value, storages: list[_Storage]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", dump(value))
        for storage in storages:
            archive.writestr(f"archive/data/{storage.key}", storage.array.tobytes())


def write_legacy(path: Path, value, storages: list[_Storage]) -> None:
    with path.open("wb") as file:
        file.write(dump(0x1950A86A20F9469CFC6C) + dump(1001) + dump({"little_endian": True}))
        file.write(dump(value) + dump([s.key for s in storages]))
        for storage in storages:
            file.write(struct.pack("<q", storage.array.size) + storage.array.tobytes())


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_reads_pytorch(write, tmp_path, fake_torch):
    arrays = {
        "a.weight": np.arange(6, dtype="float32").reshape(2, 3),
        "a.bias": np.float32([7, 8]),
    }
    value, storages = as_torch(arrays)
    write(tmp_path / "x.pth", {"epoch": 3, "state_dict": value}, storages)
    got = checkpoints.read(tmp_path / "x.pth")
    assert list(got) == ["state_dict.a.weight", "state_dict.a.bias"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(got[f"state_dict.{name}"], array)


def test_reads_strided_views(tmp_path, fake_torch):
    storage = _Storage("0", np.arange(12, dtype="float32"))
    view = _Tensor(storage, 1, (3, 2), (1, 4))
    write_zip(tmp_path / "x.pth", {"v": view}, [storage])
    want = np.array([[1, 5], [2, 6], [3, 7]], "float32")
    np.testing.assert_array_equal(checkpoints.read(tmp_path / "x.pth")["v"], want)


def test_refuses_storages_that_are_parts_of_others(tmp_path, fake_torch, monkeypatch):
    """As PyTorch wrote them before 0.4."""
    storage = _Storage("0", np.arange(4, dtype="float32"))
    whole = _Pickler.persistent_id

    def part(self, obj):
        found = whole(self, obj)
        return found and (*found, ("1", 2, 4))

    monkeypatch.setattr(_Pickler, "persistent_id", part)
    write_legacy(tmp_path / "x.pth", {"v": _Tensor(storage, 0, (4,), (1,))}, [storage])
    with pytest.raises(kseg.KsegError, match="storages that are parts of others"):
        checkpoints.read(tmp_path / "x.pth")


def test_refuses_views_beyond_the_storage(tmp_path, fake_torch):
    storage = _Storage("0", np.arange(4, dtype="float32"))
    write_zip(tmp_path / "x.pth", {"v": _Tensor(storage, 2, (3,), (1,))}, [storage])
    with pytest.raises(kseg.KsegError, match="needs element 4 of 4"):
        checkpoints.read(tmp_path / "x.pth")


@pytest.mark.parametrize(("offset", "strides"), [(-1, (1,)), (3, (-1,))])
def test_refuses_views_before_the_storage(offset, strides, tmp_path, fake_torch):
    storage = _Storage("0", np.arange(4, dtype="float32"))
    write_zip(tmp_path / "x.pth", {"v": _Tensor(storage, offset, (2,), strides)}, [storage])
    with pytest.raises(kseg.KsegError, match="a tensor has a negative extent"):
        checkpoints.read(tmp_path / "x.pth")


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_reads_views_of_one_storage_in_containers(write, tmp_path, fake_torch):
    """Each an array of its own, which may be written to."""
    storage = _Storage("0", np.arange(6, dtype="float32"))
    first, second = (_Tensor(storage, offset, (3,), (1,)) for offset in (0, 3))
    write(tmp_path / "x.pth", {"a": (first, [second, second]), "b": "text"}, [storage])
    got = checkpoints.read(tmp_path / "x.pth")
    assert list(got) == ["a.0", "a.1.0", "a.1.1"]
    got["a.1.0"] += 10
    for name, want in (("a.0", [0, 1, 2]), ("a.1.0", [13, 14, 15]), ("a.1.1", [3, 4, 5])):
        np.testing.assert_array_equal(got[name], want)


def test_reads_tensors_of_no_values(tmp_path, fake_torch):
    storage = _Storage("0", np.zeros(0, "float32"))
    write_zip(tmp_path / "x.pth", {"v": _Tensor(storage, 0, (3, 0), (1, 1))}, [storage])
    assert checkpoints.read(tmp_path / "x.pth")["v"].shape == (3, 0)


def test_reads_a_sequence_at_the_top(tmp_path, fake_torch):
    storage = _Storage("0", np.arange(2, dtype="float32"))
    write_zip(tmp_path / "x.pth", [3, _Tensor(storage, 0, (2,), (1,))], [storage])
    assert list(checkpoints.read(tmp_path / "x.pth")) == ["1"]


def write_archive(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


@pytest.fixture
def zipped(fake_torch) -> dict[str, bytes]:
    """The files of an archive with one tensor, 0 1 2 3."""
    storage = _Storage("0", np.arange(4, dtype="float32"))
    value = {"weight": _Tensor(storage, 0, (4,), (1,))}
    return {"x/data.pkl": dump(value), "x/data/0": storage.array.tobytes()}


@pytest.mark.parametrize(
    "files",
    [
        {"x/byteorder": b"little"},
        # Other pickles beside it; strings as Python 2 writes them; a tensor's older name.
        {"x/extradata.pkl": b"other"},
        {"x/data.pkl": (b"X\x06\x00\x00\x00weight", b"U\x06weight")},
        {"x/data.pkl": (b"_rebuild_tensor_v2", b"_rebuild_tensor")},
    ],
)
def test_reads_archives_as_others_write_them(files, zipped, tmp_path):
    for name, content in files.items():
        if isinstance(content, tuple):
            assert content[0] in zipped[name]
            content = zipped[name].replace(*content)
        zipped[name] = content
    write_archive(tmp_path / "y.pth", zipped)
    np.testing.assert_array_equal(checkpoints.read(tmp_path / "y.pth")["weight"], [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"x/byteorder": b"big"}, "written on a big-endian machine"),
        ({"y/data.pkl": b"other"}, "no data.pkl inside"),
        ({"x/data/0": bytes(8)}, "storage 0 has 2 of 4 elements"),
        # Allowed names, but of another module.
        ({"x/data.pkl": b"\x80\x02cevil\nSize\n(tR."}, "refused to load evil.Size"),
        ({"x/data.pkl": b"\x80\x02ctorch._utils\nSize\n."}, "refused to load torch._utils.Size"),
        ({"x/data.pkl": dump({"epoch": 3})}, "it holds no tensors"),
    ],
)
def test_refuses_archives(files, message, zipped, tmp_path):
    write_archive(tmp_path / "x.pth", zipped | files)
    with pytest.raises(kseg.KsegError, match=message):
        checkpoints.read(tmp_path / "x.pth")


def test_refuses_other_persistent_objects(tmp_path, fake_torch, monkeypatch):
    storage = _Storage("0", np.arange(4, dtype="float32"))
    value = {"v": _Tensor(storage, 0, (4,), (1,))}
    pid = _Pickler.persistent_id
    for kind in ("module", "storage"):
        dtype = _FloatStorage if kind == "module" else "FloatStorage"

        def other(self, obj, kind=kind, dtype=dtype):
            found = pid(self, obj)
            return found and (kind, dtype, *found[2:])

        monkeypatch.setattr(_Pickler, "persistent_id", other)
        write_zip(tmp_path / "x.pth", value, [storage])
        with pytest.raises(kseg.KsegError, match=f"an unknown persistent object '{kind}'"):
            checkpoints.read(tmp_path / "x.pth")


def test_refuses_tensors_without_a_storage(tmp_path, fake_torch):
    write_zip(tmp_path / "x.pth", {"v": _Tensor(5, 0, (4,), (1,))}, [])
    with pytest.raises(kseg.KsegError, match="a tensor without a storage"):
        checkpoints.read(tmp_path / "x.pth")


MAGIC = 0x1950A86A20F9469CFC6C


@pytest.mark.parametrize(
    ("magic", "protocol", "system", "count", "cut", "message"),
    [
        (MAGIC, 1001, {"little_endian": True}, 4, 0, None),
        (MAGIC, 1001, {}, 4, 0, None),
        (MAGIC + 1, 1001, {}, 4, 0, "no PyTorch file"),
        (MAGIC, 1002, {}, 4, 0, "no PyTorch file"),
        (MAGIC, 1001, {"little_endian": False}, 4, 0, "written on a big-endian machine"),
        (MAGIC, 1001, {}, 3, 4, "storage 0 is cut short"),
        (MAGIC, 1001, {}, 4, 4, "storage 0 is cut short"),
    ],
)
def test_legacy_files(magic, protocol, system, count, cut, message, tmp_path, fake_torch):
    """As PyTorch wrote them before 1.6: numbers, facts, the pickle, then the storages."""
    storage = _Storage("0", np.arange(4, dtype="float32"))
    # The view ends before what is cut off.
    value = {"v": _Tensor(storage, 0, (2,), (1,))}
    content = b"".join(map(dump, (magic, protocol, system, value, ["0"])))
    content += struct.pack("<q", count) + storage.array.tobytes()
    (tmp_path / "x.pth").write_bytes(content[: len(content) - cut])
    if message is None:
        np.testing.assert_array_equal(checkpoints.read(tmp_path / "x.pth")["v"], [0, 1])
        return
    with pytest.raises(kseg.KsegError, match=message):
        checkpoints.read(tmp_path / "x.pth")


class _RunsCode:
    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_refuses_code(write, tmp_path, monkeypatch, fake_torch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "x.pth", {"a": _RunsCode()}, [])
    with pytest.raises(kseg.KsegError, match=r"x\.pth: refused to load (posix|nt)\.system"):
        checkpoints.read(tmp_path / "x.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "dtype",
    [
        *("float32", "float64", "float16", "bfloat16", "bool"),
        *("int64", "int32", "int16", "int8", "uint8"),
    ],
)
def test_equals_torch(dtype, legacy, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed; .ci/run installs it")
    tensor = 200 * torch.randn(3, 4, 5)
    if not getattr(torch, dtype).is_floating_point:
        # Of both signs; in 8 bits it wraps around.
        tensor = tensor.to(torch.int64)
    tensor = tensor.to(getattr(torch, dtype))
    value = {
        "module": {"x": tensor.permute(2, 0, 1)[1:], "y": torch.nn.Parameter(tensor.float())},
        "shape": tensor.shape,
    }
    torch.save(value, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    got = checkpoints.read(tmp_path / "x.pth")
    assert got.keys() == {"module.x", "module.y"}
    for name, want in value["module"].items():
        want = want.detach()
        want = want.float() if dtype == "bfloat16" else want
        np.testing.assert_array_equal(got[f"module.{name}"], want.numpy())


def test_reads_real_weights(weights):
    """The published ESPNet files, against the count in the fixtures' README."""
    tensors = checkpoints.read(weights / "espnet_decoder_p_2_q_8.pth")
    assert sum(t.size for t in tensors.values()) == 364_569 + 3_772


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


def test_truncated_file(weights, tmp_path):
    whole = (weights / "espnet_encoder_p_2_q_8.pth").read_bytes()
    path = tmp_path / "cut.pth"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(kseg.KsegError, match=r"cut\.pth: not a readable checkpoint"):
        checkpoints.read(path)


def test_missing_file(tmp_path):
    with pytest.raises(kseg.KsegError, match=r"none\.pth: no such checkpoint"):
        checkpoints.read(tmp_path / "none.pth")


# --- assignment ------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", ["{}", "module.{}", "model.module.{}", "state_dict.{}"])
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
    import keras

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


def test_keras_applications_of_another_network(tmp_path):
    """Its ResNet is not DeepLab's; its MobileNetV2 at another width does not fit."""
    import keras

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
