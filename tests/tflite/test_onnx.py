""".onnx files against the Keras model they come from, and what is inside them."""

import json
import sys
from collections import Counter

import keras
import numpy as np
import pytest

import kseg
import kseg.tflite
from kseg.card import Card
from kseg.cli import main
from kseg.layers import NearestResize
from kseg.tflite import export
from kseg.tflite.onnx_export import to_onnx
from kseg.tflite.predictors import OnnxPredictor
from kseg.tflite.timing_worker import start, time_round
from support import values_of_layers

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("tf2onnx")

# float32 sums in another order, by the range of the logits
FLOAT32 = 1e-4

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def files(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    paths = {}
    for output in ("logits", "stride-logits", "argmax"):
        paths[output] = folder / f"{output}.onnx"
        kseg.tflite.convert(tiny_model, paths[output], output=output)
    return paths


def test_logits(tiny_model, files):
    want = np.asarray(tiny_model(IMAGE[None]))[0]
    predictor = OnnxPredictor(files["logits"])
    assert predictor.input_size == (48, 64)
    np.testing.assert_allclose(predictor(IMAGE), want, atol=FLOAT32 * np.ptp(want))


def test_a_suffix_in_capitals(files, tmp_path):
    copy = tmp_path / "FILE.ONNX"
    copy.write_bytes(files["logits"].read_bytes())
    found, wanted = (kseg.open_predictor(path)(IMAGE) for path in (copy, files["logits"]))
    np.testing.assert_array_equal(found, wanted)


def test_stride_logits(tiny_model, files):
    low = keras.Model(tiny_model.input, tiny_model.get_layer("classifier.0.conv").output)
    want = np.asarray(low(IMAGE[None]))[0]
    got = OnnxPredictor(files["stride-logits"])(IMAGE)
    assert got.shape == (6, 8, 11)
    np.testing.assert_allclose(got, want, atol=FLOAT32 * np.ptp(want))


def test_argmax(tiny_model, files):
    logits = np.asarray(tiny_model(IMAGE[None]))[0]
    got = OnnxPredictor(files["argmax"])(IMAGE)
    assert got.dtype == np.uint8
    ordered = np.sort(logits, -1)
    clear = ordered[..., -1] - ordered[..., -2] > FLOAT32 * np.ptp(logits)
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(got[clear], logits.argmax(-1)[clear])


def test_what_is_inside(tiny_model, files):
    """Opset, card, static shape and dilations, read by onnx itself."""
    for output, path in files.items():
        model = onnx.load(path)
        assert {o.version for o in model.opset_import if not o.domain} == {17}
        (entry,) = model.metadata_props
        assert entry.key == "KSEG_CARD"
        stride = 8 if output == "stride-logits" else 1
        want = tiny_model.card.replace(output=output, output_stride=stride)
        assert Card.from_json(json.loads(entry.value)) == want
        (source,) = model.graph.input
        assert [d.dim_value for d in source.type.tensor_type.shape.dim] == [1, 48, 64, 3]
        # 2 blocks a stage: the surrounding branch at 2, then at 4
        dilations = Counter(
            tuple(attribute.ints)
            for node in model.graph.node
            for attribute in node.attribute
            if node.op_type == "Conv" and attribute.name == "dilations"
        )
        assert (dilations[2, 2], dilations[4, 4]) == (2, 2)
        assert not {"SpaceToDepth", "DepthToSpace"} & {node.op_type for node in model.graph.node}


def test_tensors_are_what_their_names_say(tiny_model, files):
    """A tensor has the values of the layer whose name it has."""
    model = onnx.load(files["logits"])
    assert model.graph.name == tiny_model.card.name
    nodes = [node.name for node in model.graph.node]
    tensors = [name for node in model.graph.node for name in node.output]
    assert len(set(nodes)) == len(nodes) == len(set(tensors)) == len(tensors)
    graph, _ = export.export_graph(tiny_model, "logits", None)
    # Operators inside a layer have its name and their kind.
    assert {name.split("/")[0].split(";")[-1] for name in nodes} <= {
        layer.name for layer in graph.layers
    }
    found = {name: name.split(";")[-1] for name in tensors if "/" not in name}
    (output,) = model.graph.output
    assert output.name == "output_0"
    del found["output_0"]
    assert {"level1_0.conv;level1_0.bn", "level1_0.act", "level2_0.F_glo.scale"} < set(found)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in found)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    values = session.run([*found], {"image": IMAGE[None].astype(np.float32)})
    wants = values_of_layers(graph, list(found.values()), IMAGE[None])
    for (name, layer), value in zip(found.items(), values, strict=True):
        want = wants[layer]
        got = np.moveaxis(value, 1, -1) if value.ndim == 4 else value
        np.testing.assert_allclose(got, want, atol=FLOAT32 * np.ptp(want), err_msg=name)
    kernels = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    want = tiny_model.get_layer("classifier.0.conv").kernel
    np.testing.assert_array_equal(kernels["classifier.0.conv/W"].transpose(2, 3, 1, 0), want)


def test_dynamic_batch(tiny_model, tmp_path):
    path = tmp_path / "x.onnx"
    kseg.tflite.convert(tiny_model, path, dynamic_batch=True)
    images = np.stack([IMAGE, IMAGE[::-1], IMAGE[:, ::-1]]).astype(np.float32)
    want = np.asarray(tiny_model(images))
    (got,) = onnxruntime.InferenceSession(path).run(None, {"image": images})
    np.testing.assert_allclose(got, want, atol=FLOAT32 * np.ptp(want))
    one = OnnxPredictor(path)(IMAGE)
    np.testing.assert_allclose(one, want[0], atol=FLOAT32 * np.ptp(want))


def test_camera_bytes(files, tmp_path, tiny_model):
    path = tmp_path / "x.onnx"
    kseg.tflite.convert(tiny_model, path, input_type="uint8")
    predictor = OnnxPredictor(path)
    assert predictor.io.input_type == np.uint8
    np.testing.assert_allclose(predictor(IMAGE), OnnxPredictor(files["logits"])(IMAGE), atol=1e-6)


# The first resizes with corners aligned, to sizes that scales in float32 miss by one (25
# columns from 7); the second has max unpooling and transposed convolutions.
@pytest.mark.parametrize(
    ("name", "resizes"),
    [("deeplab_v3_plus_mobilenet_v2", {b"align_corners"}), ("enet", set())],
)
def test_families_export(name, resizes, tmp_path):
    keras.utils.set_random_seed(3)
    model = kseg.create_model(name, num_classes=6)
    path = tmp_path / "x.onnx"
    kseg.tflite.convert(model, path, input_size=(65, 97), dynamic_batch=True)
    image = np.random.default_rng(1).integers(0, 256, (65, 97, 3), np.uint8)
    want = np.asarray(model(image[None].astype(np.float32)))[0]
    np.testing.assert_allclose(OnnxPredictor(path)(image), want, atol=FLOAT32 * np.ptp(want))
    modes = [a.s for n in onnx.load(path).graph.node for a in n.attribute if "coord" in a.name]
    assert set(modes) == resizes


def test_threads_and_runtime(files):
    predictor = OnnxPredictor(files["logits"], threads=1)
    assert predictor.runtime == f"onnxruntime {onnxruntime.__version__} cpu, 1 threads"
    assert predictor._session.get_session_options().intra_op_num_threads == 1


def test_benchmark(files):
    """What the process of a file says and times; labels are those of its argmax."""
    options = dict(runtime="cpu", threads=1, input_size=None)
    runner, dtype, facts = start(files["stride-logits"], options)
    assert facts["runtime"].startswith("onnxruntime")
    assert (facts["input_size"], facts["output"]) == ((48, 64), "stride-logits")
    labels, seconds = time_round(runner, IMAGE, dtype)
    want = OnnxPredictor(files["stride-logits"])(IMAGE).argmax(-1)
    np.testing.assert_array_equal(labels, want.repeat(8, 0).repeat(8, 1))
    assert 0 <= seconds["copy"] < seconds["run"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("x.onnx", dict(precision="fp16"), r"x\.onnx: precision is 'fp16'; .* fp32 only"),
        ("x.onnx", dict(calibration=[IMAGE]), "fp32 takes no calibration images"),
        ("x.tflite", dict(dynamic_batch=True), r"x\.tflite: .* leave dynamic_batch out"),
        ("x.pb", {}, r"x\.pb: the file's name must end in \.tflite or \.onnx"),
    ],
)
def test_refusals(name, options, message, tiny_model, tmp_path):
    with pytest.raises(kseg.KsegError, match=message):
        kseg.tflite.convert(tiny_model, tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


def test_large_weights_go_round_tf2onnx(tiny_model, files, tmp_path, monkeypatch):
    """The same function by them; they are no inputs, and constants where they are read."""
    # Kernels of the widest convolutions, and of no depthwise one.
    monkeypatch.setattr(export, "_LARGE", 4000)
    kseg.tflite.convert(tiny_model, tmp_path / "x.onnx")
    graphs = [onnx.load(path).graph for path in (files["logits"], tmp_path / "x.onnx")]
    assert [entry.name for entry in graphs[1].input] == ["image"]
    kinds = [Counter(node.op_type for node in graph.node) for graph in graphs]
    # By the order of a set, tf2onnx leaves reshapes of pooled vectors or takes them away.
    for kind in kinds:
        del kind["Reshape"]
    # A BatchNorm behind them, a Mul and an Add, is not folded into them.
    assert kinds[1] - kinds[0] == Counter(
        dict.fromkeys(("Mul", "Add"), kinds[1]["Add"] - kinds[0]["Add"])
    )
    want = OnnxPredictor(files["logits"])(IMAGE)
    got = OnnxPredictor(tmp_path / "x.onnx")(IMAGE)
    np.testing.assert_allclose(got, want, atol=FLOAT32 * np.ptp(want))


def test_the_nearest_resize(tiny_model):
    """To sizes that scales in float32 miss by one: floor(9 * (17 / 9)) is 16."""
    import tensorflow as tf

    spec = tf.TensorSpec((1, 9, 5, 3), tf.float32, name="image")
    layer, like = NearestResize(), np.zeros((1, 17, 9, 1), np.float32)
    function = tf.function(lambda image: {"output_0": layer(image, like)}, [spec])
    image = np.random.default_rng(0).normal(size=spec.shape).astype(np.float32)
    session = onnxruntime.InferenceSession(to_onnx(function, tiny_model.card))
    (got,) = session.run(None, {"image": image})
    rows, columns = (np.arange(size) * extent // size for extent, size in ((9, 17), (5, 9)))
    np.testing.assert_array_equal(got, image[:, rows][:, :, columns])


def test_an_operator_without_onnx_form(tiny_model):
    import tensorflow as tf

    spec = tf.TensorSpec((1, 4), tf.float32, name="image")
    function = tf.function(lambda image: {"output_0": tf.math.lgamma(image)}, [spec])
    with pytest.raises(kseg.KsegError, match=r"cgnet_m3n21: has no ONNX form \(.*Lgamma"):
        to_onnx(function, tiny_model.card)


@pytest.mark.parametrize("missing", ["tf2onnx", "onnxruntime"])
def test_missing_extra(missing, files, tiny_keras, tmp_path, monkeypatch, capsys):
    # As Python does where a package is not there.
    monkeypatch.setitem(sys.modules, missing, None)
    command = {
        "tf2onnx": ["convert", str(tiny_keras), str(tmp_path / "x.onnx")],
        "onnxruntime": ["predict", str(files["logits"]), "x.png", "--out", str(tmp_path)],
    }[missing]
    assert main(command) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"needs {missing}; install kseg[onnx]")
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_a_card_is_refused(files, tmp_path):
    model = onnx.load(files["logits"])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(kseg.KsegError, match=r"x\.onnx: has no card"):
        OnnxPredictor(tmp_path / "x.onnx")


@pytest.mark.parametrize("kept", [0, 7, 300, 100_000])
def test_damaged_file(kept, files, tmp_path):
    path = tmp_path / "cut.onnx"
    path.write_bytes(files["logits"].read_bytes()[:kept])
    with pytest.raises(kseg.KsegError, match=r"cut\.onnx: not a readable \.onnx file") as error:
        OnnxPredictor(path)
    assert len(str(error.value).splitlines()) == 1


def test_missing_file(tmp_path):
    with pytest.raises(kseg.KsegError, match=r"none\.onnx: no such file"):
        OnnxPredictor(tmp_path / "none.onnx")
