"""PyTorch files: read without PyTorch, and what may run code refused."""

import builtins
import collections
import io
import os
import pickle
import struct
import sys
import tracemalloc
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest

import kseg
from kseg import checkpoints

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


def test_truncated_file(weights, tmp_path):
    whole = (weights / "espnet_encoder_p_2_q_8.pth").read_bytes()
    path = tmp_path / "cut.pth"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(kseg.KsegError, match=r"cut\.pth: not a readable checkpoint"):
        checkpoints.read(path)


# --- NumPy's numbers beside the tensors -------------------------------------------------


def write_pickle(path: Path, content: bytes) -> Path:
    """A zip file whose pickle is written as it is."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    return path


ARRAYS = {
    "float64": np.linspace(0, 1, 11),
    "float32": np.arange(6, dtype="float32").reshape(2, 3),
    "int64": np.arange(-3, 3),
    "big_endian": np.arange(4, dtype=">i4"),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "bool": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "empty": np.zeros((0, 3)),
    "no_axes": np.array(2.5),
}


@pytest.mark.parametrize("protocol", range(6))
def test_reads_numpy(protocol, tmp_path):
    """Arrays as they were, whatever stands beside them."""
    beside = {
        "best": np.float64(0.5),
        "epoch": np.int64(3),
        "flag": np.bool_(True),
        "name": np.str_("x"),
        "types": [np.float64, np.dtype("float32")],
        "words": np.array(["road", "sky"]),
    }
    file = write_pickle(tmp_path / "x.pth", pickle.dumps(ARRAYS | beside, protocol))
    got = checkpoints.read(file)
    assert got.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(got[name], array)
        assert got[name].dtype == array.dtype.newbyteorder("=")


def test_reads_numpy_of_older_versions(tmp_path):
    """NumPy 1's name of the module, and bytes as Python 2 pickled them."""
    number = np.float64(-1 / 3)
    dtype = b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
    data = b"U" + bytes([8]) + number.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    state = b"(I1\n(I1\nt" + dtype + b"I00\n" + data + b"tb"
    file = write_pickle(tmp_path / "x.pth", b"\x80\x02}U\x01a" + array + state + b"s.")
    np.testing.assert_array_equal(checkpoints.read(file)["a"], [number])


def test_training_checkpoint_equals_torch(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed; .ci/run installs it")
    value = {
        "state_dict": {"w": torch.randn(2, 3)},
        "miou": np.float64(0.25),
        "iou": np.array([0.5, 0.0]),
        "epoch": np.int64(9),
        "optimizer": {"param_groups": [{"lr": np.float32(1e-3)}]},
    }
    torch.save(value, tmp_path / "x.pth")
    got = checkpoints.read(tmp_path / "x.pth")
    want = torch.load(tmp_path / "x.pth", weights_only=False)
    assert got.keys() == {"state_dict.w", "iou"}
    np.testing.assert_array_equal(got["state_dict.w"], want["state_dict"]["w"].numpy())
    np.testing.assert_array_equal(got["iou"], want["iou"])


class _Call:
    """Pickled as a call of a function."""

    def __init__(self, function, *args) -> None:
        self.call = function, args

    def __reduce__(self):
        return self.call


_SCALAR, (_FLOAT64, _) = np.float64(0).__reduce__()
_RECONSTRUCT = np.zeros(1).__reduce__()[0]
_TOUCH = _Call(os.system, "touch ran")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (_Call(builtins.eval, "open('ran', 'w')"), r"refused to load \w+\.eval"),
        (_Call(builtins.getattr, np.zeros(1), "dtype"), r"refused to load \w+\.getattr"),
        (_Call(np.load, "x.npy"), "refused to load numpy.load"),
        (_Call(np.frombuffer, b"abcd"), "refused to load numpy.frombuffer"),
        (_Call(np.memmap, "ran", "uint8", "w+", 0, (1,)), "refused to load numpy.memmap"),
        (_Call(pickle.loads, b"N."), r"refused to load \w+\.loads"),
        # inside what is allowed
        (_Call(_SCALAR, _FLOAT64, _TOUCH), r"refused to load (posix|nt)\.system"),
        (_Call(_RECONSTRUCT, _TOUCH, (0,), b"b"), r"refused to load (posix|nt)\.system"),
        ({"a": [np.float64(1), (_TOUCH,)]}, r"refused to load (posix|nt)\.system"),
        # objects, which NumPy would unpickle
        (np.array([_TOUCH], object), "a NumPy array of type 'O8'"),
        (_Call(_SCALAR, np.dtype("O"), pickle.dumps(_TOUCH)), "a NumPy array of type 'O8'"),
        (np.zeros(1, [("a", "f4")]), "a NumPy array of type 'V4'"),
        (_Call(np.dtype, _TOUCH), r"refused to load (posix|nt)\.system"),
        (_Call(np.dtype, [("a", "O")]), "a NumPy array of type"),
        (_Call(_RECONSTRUCT, dict, (0,), b"b"), r"refused to load \w+\.dict"),
        (_Call(_RECONSTRUCT, np.float64, (0,), b"b"), "a subclass of NumPy's array"),
        (_Call(np.float64, 1.0), "not a readable checkpoint"),
        # what does not add up
        (_Call(_SCALAR, _FLOAT64, b"1234"), "with 4 bytes"),
        (_Call(_SCALAR, 3, b"1234"), "a NumPy array without a type"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_refuses_code_beside_numpy(value, message, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = write_pickle(tmp_path / "x.pth", pickle.dumps({"a": value}, protocol))
    with pytest.raises(kseg.KsegError, match=rf"x\.pth: .*{message}"):
        checkpoints.read(file)
    assert not (tmp_path / "ran").exists()


def test_refuses_an_array_of_another_size(tmp_path):
    """A state that asks for more elements than it has bytes."""
    content = pickle.dumps({"a": np.zeros(3, "float32")}, 2)
    assert content.count(b"K\x03\x85") == 1  # the shape, (3,)
    file = write_pickle(tmp_path / "x.pth", content.replace(b"K\x03\x85", b"K\x04\x85"))
    with pytest.raises(kseg.KsegError, match=r"a NumPy array \(4,\) of float32 with 12 bytes"):
        checkpoints.read(file)


def test_memory(tmp_path):
    """What reading a large file takes: its storages and, one at a time, the tensors of them."""
    torch = pytest.importorskip("torch", reason="torch is not installed; .ci/run installs it")
    size = 2**22
    torch.save({f"w{i}": torch.ones(size) for i in range(4)}, tmp_path / "x.pth")
    tracemalloc.start()
    checkpoints.read(tmp_path / "x.pth")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Storages and copies of all four, float32, and the file's small parts.
    assert peak < 2 * 4 * 4 * size * 1.05
