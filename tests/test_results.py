"""The committed figures are of the zoo as it is now, and of all of it."""

import contextlib
import csv
import functools
import itertools
import json
import os
from pathlib import Path

import camvid as camvid_results
import half
import keras
import latency
import numpy as np
import operators
import page
import pairs
import plot
import pytest
import quantisation
import table

import evaluation
import kseg
import matrix
from kseg import shipped
from kseg.backbones import Encoder, Features
from kseg.backbones.encoders import ENCODERS
from kseg.networks import Head
from kseg.zoo import HEADS, VARIANTS, find_variant
from matrix import PRECISIONS, digest, graph_of, with_random_weights
from support import ROOT, SMALL

TABLES = {title: table.read(ROOT / f"results/{title}.csv") for title in matrix.TABLES}
COUNTED = {row["model"]: row for row in TABLES["zoo"]}


@pytest.mark.parametrize("title", TABLES)
def test_every_row_is_measured(title):
    rows = [row["model"] for row in TABLES[title]]
    each = PRECISIONS if title == "gpu" else [None]
    assert rows == [name for name in kseg.list_models() for _ in each], "run `make matrix`"
    if title == "gpu":
        assert [row["precision"] for row in TABLES[title]] == [*PRECISIONS] * len(COUNTED)


@pytest.mark.parametrize("title", TABLES)
def test_columns_and_versions(title):
    kind = matrix.TABLES[title]
    assert [*TABLES[title][0]] == [*kind.all_columns()]
    facts = json.loads((ROOT / f"results/{title}.json").read_text())
    assert facts.keys() == {"versions", "machine"}
    assert facts["versions"].keys() >= {"kseg", "keras", *kind.packages}


@pytest.mark.parametrize("name", COUNTED)
def test_the_graph_is_the_one_measured(name):
    graphs = {row["graph"] for rows in TABLES.values() for row in rows if row["model"] == name}
    assert graphs == {graph_of(name)}, "run `make matrix`"


@pytest.mark.parametrize("name", COUNTED)
def test_counts(name):
    row = COUNTED[name]
    if VARIANTS[name].parameters:
        assert row["parameters"] == row["published_parameters"]
    if VARIANTS[name].multiply_adds:
        # Published to two decimals of a billion, and kept to four digits.
        published = float(row["published_multiply_adds"])
        assert abs(int(row["multiply_adds"]) - published) < max(5.1e6, 5e-4 * published)


@pytest.mark.parametrize("row", TABLES["gpu"], ids=lambda row: f"{row['model']}-{row['precision']}")
def test_files(row):
    assert int(row["bytes"]) > 0
    if row["precision"] == "fp32":
        # float32 sums in another order
        assert float(row["keras"]) < 1e-4
        assert row["operators"]
    if row["note"]:
        return
    if row["precision"] == "int8":
        assert float(row["same_class"]) >= 0.99
    else:
        assert float(row["gpu"]) <= 1e-3


@pytest.mark.parametrize("row", TABLES["onnx"], ids=lambda row: row["model"])
def test_onnx_files(row):
    if not row["note"]:
        assert int(row["bytes"]) > 0
        assert float(row["keras"]) < 1e-4


def test_pairs_of_head_and_encoder():
    """All of them, in order."""
    rows = table.read(pairs.TABLE)
    assert [row["model"] for row in rows] == pairs.list_pairs()
    # By what was published, see benchmarks/pairs.py.
    apart = ("MobileNetV3LargePyTorch", "ResNet50C", "SEResNet50", "VGG16Caffe")
    for row in rows:
        assert int(row["output_stride"]) == pairs.stride_of(row["model"])
        # float32 sums in another order
        assert float(row["keras"]) < 1e-4, row["model"]
        assert float(row["gpu"]) < 1e-4, row["model"]
        assert not row["note"], row["model"]
        if row["strides"] and not row["model"].endswith(apart):
            assert float(row["strides"]) < 1e-4, row["model"]


def test_parameters_of_published_pairs():
    """Rows of the zoo that are a head on an encoder as it is have the parameters of the pair."""
    counted = {row["model"]: int(row["parameters"]) for row in table.read(pairs.TABLE)}
    for pair in counted:
        own = find_variant(pair)
        for name, row in VARIANTS.items():
            if (row.builder, row.options, row.num_classes) == (own.builder, own.options, 19):
                assert counted[pair] == row.parameters, name


@pytest.fixture
def tiny_encoder(monkeypatch):
    """The name of an encoder of five convolutions."""

    def tiny(x):
        levels = []
        for i in range(5):
            x = keras.layers.Conv2D(8, 3, 2, "same", activation="relu", name=f"tiny.{i}")(x)
            levels.append(x)
        stem, low, mid, high, output = levels
        return Features(output, low, mid, high, stem)

    channels = dict.fromkeys((2, 4, 8, 16, 32), 8)
    encoder = Encoder(tiny, ENCODERS["MobileNetSlim"].normalization, ("tiny.",), 1, channels)
    monkeypatch.setitem(ENCODERS, "tiny", encoder)
    return "tiny"


def test_pairs_together(tiny_encoder, tmp_path):
    """What heads compute on one encoder is what they compute on their own; one file has them."""
    heads = ("deeplab_v3", "deeplab_v3_plus", "liteseg", "pspnet")
    names = [f"{head}.{tiny_encoder}" for head in heads]
    together = pairs.Together(names)
    with pairs.as_row(together.row) as row:
        model = with_random_weights(row, num_classes=4 * 5, input_shape=(*pairs.SIZE, 3))
        # Refused where TensorFlow joins what dilated convolutions begin with.
        kseg.tflite.convert(model, tmp_path / "x.tflite", input_size=pairs.SIZE)
    assert row not in kseg.list_models()
    image = matrix.photograph(pairs.SIZE)[None].astype("float32")
    got = np.split(np.asarray(model(image, training=False)), 4, axis=-1)
    for name, logits, tensor in zip(names, got, together.logits, strict=True):
        alone = kseg.create_model(name, num_classes=5)
        for layer in alone.layers:
            own = [name.partition(".")[0]] * (not layer.name.startswith("tiny."))
            if layer.weights:
                source = model.get_layer(".".join([*own, layer.name]))
                layer.set_weights(source.get_weights())
        want = np.asarray(alone(image, training=False))
        # float32 sums in another order
        np.testing.assert_allclose(logits, want, atol=1e-5 * np.ptp(want))
        assert pairs.parameters(tensor) == sum(w.numpy().size for w in alone.trainable_weights)


def test_names_that_an_encoder_has_too(tiny_encoder, monkeypatch):
    def head(features, num_classes):
        return keras.layers.Conv2D(num_classes, 1, name="tiny.4")(features.output)

    monkeypatch.setitem(HEADS, "same", Head(head))
    with (
        pairs.as_row(pairs.Together([f"same.{tiny_encoder}"]).row) as row,
        pytest.raises(kseg.KsegError, match="head and encoder both have layers tiny"),
    ):
        kseg.create_model(row)


def test_pairs_by_turns():
    """Pairs of an encoder and a stride together; every encoder once before one is there twice."""
    turns = pairs.by_turns(pairs.list_pairs())
    assert sorted(itertools.chain(*turns)) == sorted(pairs.list_pairs())
    kinds = [{(name.partition(".")[2], pairs.stride_of(name)) for name in group} for group in turns]
    assert all(len(kind) == 1 for kind in kinds)
    encoders = [next(iter(kind))[0] for kind in kinds]
    first = len(kseg.list_encoders())
    assert sorted(encoders[:first]) == kseg.list_encoders()
    assert {name.partition(".")[0] for group in turns[:first] for name in group} == {
        *kseg.list_heads()
    }


def test_a_worker_that_ends():
    """Its call fails, and the next has another process."""
    with contextlib.closing(matrix.Worker()) as worker:
        with pytest.raises(kseg.KsegError, match="its process was killed"):
            worker(os._exit, 1)
        assert worker(os.getpid) != os.getpid()


def test_pairs_that_fail_together():
    """One of them fails, or ends the process: the others have their rows."""

    def worker(_function, names):
        if "b" in names:
            raise kseg.KsegError("its process was killed")
        return [{"model": name} for name in names]

    rows = pairs.measure_each(worker, ["a", "b", "c"])
    assert [next(rows), next(rows)] == [[{"model": "a"}], [{"model": "c"}]]
    with pytest.raises(kseg.KsegError, match=r"^b: its process was killed$"):
        next(rows)


def test_what_is_missing_is_measured(tmp_path, monkeypatch, capsys):
    """A model that is not in every table, one that changed, one that is new."""
    calls = []
    failing = []

    def measures(title: str) -> matrix.Table:
        def measure(name):
            calls.append((title, name))
            if name in failing:
                raise kseg.KsegError("x.tflite: the accelerator fails (lost)")
            return [{"value": str(len(calls))}]

        return matrix.Table(measure, ("value",), matrix.TABLES[title].packages)

    kinds = {title: measures(title) for title in matrix.TABLES}
    monkeypatch.setattr(matrix, "RESULTS", tmp_path)
    monkeypatch.setattr(matrix, "TABLES", kinds)
    monkeypatch.setattr(matrix, "apart", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(matrix, "graph_of", lambda _name: "g")
    monkeypatch.setattr(kseg, "list_models", lambda: ["enet", "erfnet", "unet"])
    for title, kind in kinds.items():
        rows = [{"model": "unet", "value": "a", "graph": "old"}]
        if title != "onnx":
            rows.insert(0, {"model": "enet", "value": "b", "graph": "g"})
        table.write(tmp_path / f"{title}.csv", kind.all_columns(), rows, kind.environment())

    def values(title: str) -> dict[str, str]:
        return {row["model"]: row["value"] for row in table.read(tmp_path / f"{title}.csv")}

    assert matrix.main([]) == 0
    new = [(title, name) for name in ("erfnet", "unet") for title in kinds]
    assert calls == [("onnx", "enet"), *new]
    assert [*values("gpu")] == ["enet", "erfnet", "unet"]
    assert values("gpu")["enet"] == "b"
    assert matrix.main([]) == 0
    assert len(calls) == 7
    # What fails keeps its row, is said, and does not keep others from being measured.
    failing.append("enet")
    assert matrix.main(["enet", "unet"]) == 1
    assert "gpu: enet: x.tflite: the accelerator fails (lost)" in capsys.readouterr().err
    assert values("gpu")["enet"] == "b"
    assert values("gpu")["unet"] == "12"
    # Of another ONNX Runtime only its table is measured anew; of another LiteRT all are.
    failing.clear()
    for package, titles in (("onnxruntime", ["onnx"]), ("ai-edge-litert", [*kinds])):
        calls.clear()
        for title in kinds:
            facts = json.loads((tmp_path / f"{title}.json").read_text())
            if package in facts["versions"]:
                facts["versions"][package] = "0"
            (tmp_path / f"{title}.json").write_text(json.dumps(facts))
        assert matrix.main([]) == 0
        assert calls == [(title, name) for name in kseg.list_models() for title in titles]


def test_what_scoring_costs(tmp_path, monkeypatch):
    """The rows on small streets; the official script, to the same score, is slower."""
    # For this test alone: others compare the zoo with the tables.
    monkeypatch.setitem(VARIANTS, "small", SMALL["small"])
    monkeypatch.setattr(evaluation, "peak_of", lambda *_: 2**30)
    monkeypatch.setattr(evaluation, "NETWORK", "small")
    rows = evaluation.measure(tmp_path, count=5, size=(128, 256), input_size=(64, 128), repeats=3)
    evaluation.write(rows, tmp_path)
    with (tmp_path / "evaluation.csv").open() as file:
        written = {row["what"]: row for row in csv.DictReader(file)}
    threads = {f"{kind}_{n}" for kind in ("kseg", "ratio") for n in (1, os.cpu_count())}
    alone = {"official", "pillow", "decoding", "ratio_decoding", "peak_memory"}
    alone |= {"network", "reading", "together", "ratio_together"}
    assert written.keys() == threads | alone
    assert all(float(row["value"]) > 0 and row["command"] for row in written.values())
    assert float(written["peak_memory"]["value"]) == 1
    slower = max(float(written[name]["value"]) for name in ("network", "reading"))
    ratio = float(written["together"]["value"]) / slower
    # of three digits each
    assert float(written["ratio_together"]["value"]) == pytest.approx(ratio, rel=0.015)
    facts = json.loads((tmp_path / "evaluation.json").read_text())
    assert {"pillow", "zlib-ng", "cityscapesscripts"} <= facts["versions"].keys()


def test_what_quantisation_costs(tiny_camvid, tmp_path, monkeypatch):
    """Rows by row, commands in turn, and what is there is not measured again."""
    monkeypatch.setattr(quantisation, "TABLE", tmp_path / "quantisation.csv")
    calibration = "--calibration-dataset camvid --calibration-dir $CAMVID --calibration-count 2"
    files = {
        "fp32": ["convert MODEL x.tflite --input-size 48 64"],
        "twice": [
            "models",
            f"convert MODEL x.tflite --input-size 48 64 --precision int8 {calibration}",
        ],
    }
    monkeypatch.setattr(quantisation, "FILES", files)
    monkeypatch.setattr(shipped, "list_shipped", lambda: ["camvid-train:cgnet_m3n21"])
    quantisation.main(tiny_camvid, {})
    rows = quantisation.read_rows({})
    assert list(rows) == [("cgnet_m3n21", "fp32"), ("cgnet_m3n21", "twice")]
    whole, small = rows.values()
    assert (whole["points"], small["command"].count(" && ")) == ("+0.00", 1)
    assert float(small["points"]) == pytest.approx(
        float(small["mean_iou"]) - float(whole["mean_iou"])
    )
    assert int(small["packed"]) < int(small["bytes"]) < int(whole["bytes"])
    assert "$CAMVID" in small["command"]
    assert "camvid-train:cgnet_m3n21 x.tflite" in small["command"]
    monkeypatch.setattr(quantisation, "measure", None)
    quantisation.main(tiny_camvid, {})
    # Of other weights all is measured.
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"other")
    assert not quantisation.read_rows({"cgnet_m3n21": other})
    assert quantisation.read_rows({"espnet_camvid": other}) == rows


def test_commands_of_a_published_checkpoint():
    """Imported first, and at the size of CamVid's images, which its file does not tell."""
    assert quantisation.commands_of("espnet_camvid", "fp16", Path("e.pth")) == [
        "import espnet_camvid e.pth m.keras",
        "convert m.keras x.tflite --precision fp16 --input-size 360 480",
    ]


def test_turns():
    """Each in its turn, the first round not measured."""
    calls = []
    works = {name: functools.partial(calls.append, name) for name in "ab"}
    seconds = evaluation.by_turns(works, 2)
    assert calls == ["a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def small(**options) -> keras.Model:
    inputs = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(4, 3, name="conv", **options)(inputs)
    return keras.Model(inputs, keras.layers.ReLU(name="relu")(x))


def test_digest():
    """Weights, initialisers and decay leave it; what is computed changes it."""
    same = digest(small())
    assert digest(small()) == same
    assert digest(small(kernel_initializer="zeros", kernel_regularizer="l2")) == same
    for options in (dict(dilation_rate=2), dict(padding="same"), dict(activation="relu")):
        assert digest(small(**options)) != same


def test_latency(tmp_path, monkeypatch):
    """Files of a small network; the table keeps other networks' rows, and other CPUs'."""
    monkeypatch.setattr(latency, "OUTPUTS", ("stride-logits",))
    monkeypatch.setattr(latency, "PRECISIONS", ("fp32", "int8"))
    model = kseg.create_model("cgnet_m3n21", m=2, n=2, input_shape=(48, 64, 3))
    monkeypatch.setattr(latency, "with_random_weights", lambda _name, **_: model)
    rows = latency.measure("cgnet_m3n21", size=(48, 64))
    assert [(row["output"], row["precision"], row["cpu"]) for row in rows] == [
        ("stride-logits", "fp32", table.cpu()),
        ("stride-logits", "int8", table.cpu()),
    ]
    rows = [{**row, "cpu": "avx2"} for row in rows]
    latency.write(rows, tmp_path)
    latency.write([{**row, "model": "enet"} for row in rows], tmp_path)
    latency.write([{**row, "cpu": "amx_int8"} for row in rows], tmp_path)
    latency.write(rows, tmp_path)
    written = latency.read_rows(tmp_path)
    assert [(row["model"], row["cpu"]) for row in written[::2]] == [
        ("cgnet_m3n21", "amx_int8"),
        ("cgnet_m3n21", "avx2"),
        ("enet", "avx2"),
    ]
    assert len(written) == 6
    assert all(float(row["run_ms"]) > 0 for row in written)
    assert float(written[0]["times"]) == 1
    assert int(written[1]["bytes"]) < int(written[0]["bytes"])


def test_operators(tiny_model, monkeypatch):
    """Of the small CGNet's files, what XNNPACK says; shares add up to all of it."""
    monkeypatch.setattr(operators, "OUTPUTS", ("stride-logits",))
    monkeypatch.setattr(operators, "with_random_weights", lambda _name, **_: tiny_model)
    rows = operators.measure("cgnet_m3n21", size=(48, 64), runs=2)
    for precision in ("fp32", "int8"):
        own = {row["operator"]: row for row in rows if row["precision"] == precision}
        assert own["PReLU (ND)"]["count"] == len(
            [layer for layer in tiny_model.layers if isinstance(layer, keras.layers.PReLU)]
        )
        # Each is rounded to a thousandth.
        assert sum(float(row["share"]) for row in own.values()) == pytest.approx(1, abs=0.01)


def test_the_graphs_are_those_timed():
    """As the table of counts has them, which is held against the networks above."""
    for row in latency.read_rows():
        name = row["model"]
        assert row["graph"] == COUNTED[name]["graph"], f"run `python benchmarks/latency.py {name}`"


@pytest.mark.parametrize("path", page.pages(), ids=lambda path: path.name)
def test_the_pages(path):
    """Their tables are those of the zoo and of the .csv files."""
    text, tables = path.read_text(), page.pages()[path]
    assert page.filled(text, tables) == text, "run `python benchmarks/page.py`"
    name = next(iter(tables))
    with pytest.raises(ValueError, match=f"no place for {name}"):
        page.filled(text.replace(f"<!-- {name} -->", ""), tables)


def test_half_precision():
    """Every network with trained weights at every size, and what scores lose in half precision."""
    rows = table.read(half.TABLE)
    assert [*rows[0]] == [*half.COLUMNS]
    subjects = [each for each in half.subjects(Path("weights")) if each.file]
    wanted = {
        (each.model, each.weights, "{}x{}".format(*size))
        for each in subjects
        for size in each.sizes()
    }
    assert {half.key(row) for row in rows if row["weights"] != "random"} == wanted
    for row in rows:
        if row["weights"] == "random":
            # As export is to keep sums; classes of random weights say nothing.
            assert float(row["partial"]) < 16_384, half.key(row)
            continue
        assert row["safe"] == "yes", half.key(row)
        assert float(row["same_class"]) > 0.99
        # points, as files in half precision may lose
        assert abs(float(row["points"] or 0)) <= 0.1
    sums = {half.key(row): float(row["partial"]) for row in rows}
    for (model, weights, size), partial in sums.items():
        if size == "512x1024":
            # Twice as wide, and what another size of the same street makes of its features.
            assert sums[model, weights, "1024x2048"] < 2.2 * partial


def test_the_plot(tmp_path):
    """What both tables have: files that are not timed, and another form of output, are not in."""
    timed = [("logits", "fp32", "90.0"), ("logits", "int8", "50.0"), ("argmax", "int8", "70.0")]
    scores = {"fp32": "66.00", "int8": "65.70", "int8, quantisation-aware": "65.90", "pruned": "1"}
    keys = ("output", "precision", "run_ms")
    rows = [{"model": "enet", "cpu": "a", **dict(zip(keys, row, strict=True))} for row in timed]
    rows.append({**rows[0], "cpu": "b", "run_ms": "60.0"})
    table.write(tmp_path / "tflite.csv", [*rows[0]], rows, {"versions": {}})
    rows = [{"model": "enet", "file": file, "mean_iou": iou} for file, iou in scores.items()]
    table.write(tmp_path / "quantisation.csv", [*rows[0]], rows, {"versions": {}})
    found = plot.points(tmp_path)
    assert found == {
        "enet, a": {"fp32": (90.0, 66.0), "int8": (50.0, 65.7)},
        "enet, b": {"fp32": (60.0, 66.0)},
    }
    (axes,) = plot.draw(found).axes
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [(50, 65.7), (90, 66)])


def test_stages_of_a_run(tmp_path):
    """A run that began with another's weights; one that began with a published file."""
    for name, init, steps in (("a", "/weights/espnet.pth", (5, 9)), ("b", tmp_path / "a/x", (4,))):
        (tmp_path / name).mkdir()
        config = {"config": {"init": str(init)}}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        rows = "".join(f"{step},1.0\n" for step in steps)
        (tmp_path / name / "history.csv").write_text(f"step,loss\n{rows}")
    runs = camvid_results.stages(tmp_path / "b")
    assert [run.name for run in runs] == ["a", "b"]
    assert [row["step"] for row in camvid_results.history(runs)] == ["5", "9", "13"]
    words = ["/x/kseg", "train", "--data-dir", "/data", "--run-dir", "/r", "--init", "/r/a/x"]
    assert camvid_results.command(words, 2, "runs/camvid-1/model.keras") == (
        "kseg train --data-dir $CAMVID --run-dir runs/camvid-2 --init runs/camvid-1/model.keras"
    )
    words = ["/x/kseg", "train", "--init", "imagenet", "--teacher", "/r/lite0/model.keras"]
    assert camvid_results.command(words, 1, "imagenet") == (
        "kseg train --init imagenet --teacher lite0/model.keras"
    )


def test_shipped_weights_are_a_stage():
    """The next run's facts begin with how they were made."""
    facts = shipped.facts("camvid-train:cgnet_m3n21")
    recipe, commands, last = camvid_results.before("camvid-train:cgnet_m3n21")
    assert recipe == facts["recipe"]
    assert " && ".join(commands) == facts["command"]
    assert last == f"runs/camvid-{len(recipe)}/checkpoints/best.keras"
    assert camvid_results.before("imagenet") == ([], [], None)
