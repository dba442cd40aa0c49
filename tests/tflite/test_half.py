"""Half precision: files made by hand that overflow or lose, and what is said of each."""

import json

import keras
import numpy as np
import pytest
from keras import layers as kl
from PIL import Image

import kseg
import kseg.tflite
from kseg.card import CARD_ENTRY
from kseg.cli import main
from kseg.file_card import FileCard
from kseg.layers import Resize
from kseg.tflite import check_half
from kseg.tflite.export import to_flatbuffer
from kseg.tflite.flatbuffer import Flatbuffer, operator_outputs
from kseg.tflite.gpu import compare
from kseg.tflite.half import LARGEST, added_up, rounded
from kseg.tflite.predictors import TFLitePredictor
from kseg.tflite.quantise import activations, quantise_int8, quantise_weights
from kseg.tflite.rewrite import average_by_axes
from kseg.tflite.stepwise import Stepwise

SIZE = (16, 32)
IMAGE = np.random.default_rng(5).integers(150, 256, (*SIZE, 3)).astype(np.uint8)
PIXELS = IMAGE.astype(np.float64)
CLASSES = 3


def file_of(layers, path, half=False, rewrite=lambda graph: graph, then=lambda content: content):
    """A .tflite file as the converter makes it, without kseg's rewrites but the given one.

    ``then`` changes its bytes.
    """
    image = keras.Input((*SIZE, 3), batch_size=1)
    graph = keras.Model(image, layers(image), name="made")
    stated = FileCard(mean=(0, 0, 0), std=(1, 1, 1), num_classes=CLASSES)
    card = stated.card("made", "logits", 1, SIZE)
    entries = {CARD_ENTRY: json.dumps(card.to_json()).encode()}
    content = then(to_flatbuffer(rewrite(graph), half=half).content)
    path.write_bytes(Flatbuffer(content).with_entries(entries).content)
    return path


def conv(name, kernel, bias=None):
    """A convolution of these weights."""
    height, width, channels, filters = np.shape(kernel)
    layer = kl.Conv2D(
        filters, (height, width), padding="same", use_bias=bias is not None, name=name
    )
    layer.build((None, None, None, channels))
    layer.set_weights([np.asarray(w, np.float32) for w in (kernel, bias) if w is not None])
    return layer


def scaling(name, factor):
    return conv(name, factor * np.eye(3)[None, None])


def operator(report, layer):
    (found,) = [each for each in report.operators if each.layer == layer]
    return found


def pooled(x):
    gate = kl.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
    return kl.Multiply(name="gated")([scaling("small", 1 / 255)(x), scaling("gate", 0.01)(gate)])


def test_a_mean_that_overflows(tmp_path, capsys):
    """512 pixels of 150 and more: their sum is above 65,504 though the mean is below 256."""
    path = file_of(pooled, tmp_path / "x.tflite")
    report = check_half(path, [IMAGE])
    pool = operator(report, "pool")
    # float32 sums of 512 integers below 2**24 are exact
    assert pool.total == pool.partial == PIXELS.sum((0, 1)).max()
    assert pool.total > LARGEST > pool.largest == pytest.approx(PIXELS.mean((0, 1)).max(), rel=1e-6)
    assert report.overflows == [pool]
    assert not report.safe
    assert (report.same_class, report.decibels, report.difference) == (0, -np.inf, np.inf)
    Image.fromarray(IMAGE).save(tmp_path / "x.png")
    command = ["check-half", str(path), "--images", str(tmp_path / "x.png")]
    assert main([*command, "--json", str(tmp_path / "x.json")]) == 1
    text = capsys.readouterr().out
    assert "AT RISK" in text
    assert f"at risk: pool (MEAN): its sum reaches {pool.total:,.0f}, in every order" in text
    facts = json.loads((tmp_path / "x.json").read_text())
    assert facts["safe"] is False
    assert facts["decibels"] is None


def test_the_same_mean_as_it_is_exported(tmp_path):
    """Over columns, then over rows: no sum of more than 32 pixels, and the same numbers."""
    whole, by_axes = (
        file_of(pooled, tmp_path / f"{i}.tflite", rewrite=rewrite)
        for i, rewrite in enumerate((lambda graph: graph, average_by_axes))
    )
    report = check_half(by_axes, [IMAGE])
    assert report.safe
    assert report.most("partial").partial == PIXELS.sum(1).max()
    first, second = (TFLitePredictor(path)(IMAGE) for path in (whole, by_axes))
    # float32 means of integers in another order
    np.testing.assert_allclose(first, second, rtol=1e-6)


def test_the_same_mean_with_a_factor(tmp_path, capsys):
    """A factor before the mean, and its inverse after it: nothing is at risk."""

    def layers(x):
        gate = kl.GlobalAveragePooling2D(keepdims=True, name="pool")(scaling("down", 1 / 16)(x))
        small, gate = scaling("small", 1 / 255)(x), scaling("gate", 0.16)(gate)
        return kl.Multiply(name="gated")([small, gate])

    path = file_of(layers, tmp_path / "x.tflite")
    report = check_half(path, [IMAGE])
    assert operator(report, "pool").total == pytest.approx(PIXELS.sum((0, 1)).max() / 16)
    assert report.safe
    assert report.overflows == report.noisy == []
    assert main(["check-half", str(path)]) == 0
    assert "safe in half precision" in capsys.readouterr().out


def test_a_value_that_overflows(tmp_path):
    path = file_of(lambda x: scaling("down", 1e-3)(scaling("up", 500)(x)), tmp_path / "x.tflite")
    report = check_half(path, [IMAGE])
    up = operator(report, "up")
    assert up.largest == 500 * PIXELS.max()
    assert up.overflow == f"its values reach {500 * PIXELS.max():,.0f}"
    assert report.overflows == [up]


def test_a_weight_that_overflows(tmp_path):
    path = file_of(lambda x: scaling("up", 1e5)(scaling("down", 1e-4)(x)), tmp_path / "x.tflite")
    (found,) = check_half(path, [IMAGE]).overflows
    assert found.overflow == "its weights reach 100,000"


def test_the_worst_order_of_a_convolution(tmp_path):
    """Its sums fit, those of the positive or of the negative terms alone do not."""
    rng = np.random.default_rng(2)
    kernel, bias = rng.uniform(-90, 90, (3, 3, 3, CLASSES)), rng.uniform(-1e4, 1e4, CLASSES)
    kernel = (kernel - kernel.mean((0, 1, 2))).astype(np.float32).astype(np.float64)
    bias = bias.astype(np.float32).astype(np.float64)

    def layers(x):
        return kl.ReLU(name="relu")(conv("conv", kernel, bias)(x))

    report = check_half(file_of(layers, tmp_path / "x.tflite"), [IMAGE])
    padded = np.pad(PIXELS, ((1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (0, 1))
    terms = np.einsum("hwcij,ijcf->hwfijc", windows, kernel).reshape(*SIZE, CLASSES, -1)
    terms = np.concatenate([terms, np.broadcast_to(bias[:, None], (*SIZE, CLASSES, 1))], -1)
    want = max(terms.clip(0).sum(-1).max(), -terms.clip(None, 0).sum(-1).min())
    found = next(each for each in report.operators if each.operator == "CONV_2D")
    # float32 sums of 28 terms
    assert found.partial == pytest.approx(want, rel=1e-5)
    assert found.total == pytest.approx(np.abs(terms.sum(-1)).max(), rel=1e-5)
    assert found.partial > LARGEST > found.total
    assert "in the worst order" in found.overflow
    assert not report.safe


def test_values_that_vanish(tmp_path):
    """Behind 1e-7 pixels are below 2^-14, where many GPUs have zero; no factor brings them back.

    A channel of nothing that nobody scales up is no loss.
    """
    path = file_of(lambda x: scaling("up", 6e4)(scaling("down", 1e-7)(x)), tmp_path / "x.tflite")
    report = check_half(path, [IMAGE])
    assert report.overflows == []
    assert not report.safe
    assert [each.layer for each in report.noisy] == ["down"]
    assert operator(report, "down").vanishing == 3

    kernel = np.zeros((1, 1, 3, CLASSES))
    kernel[0, 0, :, 0], kernel[0, 0, 0, 1], kernel[0, 0, 1, 2] = 1, 2, 1e-8
    report = check_half(file_of(conv("dead", kernel), tmp_path / "x.tflite"), [IMAGE])
    assert operator(report, "the output").vanishing == 1
    assert report.safe


def test_rounding_and_adding_up_are_numpys():
    rng = np.random.default_rng(1)
    x = np.float32(10) ** rng.uniform(-9, 6, 4000).astype(np.float32)
    with np.errstate(over="ignore"):
        want = x.astype(np.float16)
    want[want < np.float16(2**-14)] = 0
    np.testing.assert_array_equal(rounded(x), want.astype(np.float32))
    terms = rng.normal(1, 1, (300, 7)).astype(np.float16)
    want = np.zeros(7, np.float16)
    for term in terms:
        want = want + term
    np.testing.assert_array_equal(added_up(terms.astype(np.float32)), want.astype(np.float32))


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_pooling(padding, tmp_path):
    """Sums of the windows, and the simulation, against NumPy's half precision by loops."""
    layer = kl.AveragePooling2D(5, 3, padding, name="pool")
    report = check_half(file_of(layer, tmp_path / "x.tflite"), [IMAGE])
    sums = []
    halves = IMAGE.astype(np.float16)
    rows = range(0, 12, 3) if padding == "valid" else range(-2, 14, 3)
    columns = range(0, 28, 3) if padding == "valid" else range(-1, 31, 3)
    noise = signal = 0.0
    for i in rows:
        for j in columns:
            window = halves[max(i, 0) : i + 5, max(j, 0) : j + 5].reshape(-1, 3)
            exact = window.astype(np.float64).sum(0)
            sums.append(exact)
            total = np.zeros(3, np.float16)
            for term in window:
                total = total + term
            mean = (total.astype(np.float32) / len(window)).astype(np.float16)
            exact = exact / len(window)
            noise, signal = noise + ((mean - exact) ** 2).sum(), signal + (exact**2).sum()
    pool = operator(report, "the output")
    assert pool.total == np.max(sums)
    assert report.decibels == pytest.approx(10 * np.log10(signal / noise), abs=0.01)


def test_a_whole_network(tiny_model, tmp_path):
    """Not accused; every tensor is what LiteRT's interpreter of the whole file has there."""
    path = tmp_path / "x.tflite"
    kseg.tflite.convert(tiny_model, path)
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    report = check_half(path, [image])
    assert report.safe
    assert report.close == report.overflows == []
    content = path.read_bytes()
    (values,) = [dict(each) for each in activations(content, [image[None]])]
    kinds = operator_outputs(content).values()
    for each, (kind, name) in zip(report.operators, kinds, strict=True):
        assert each.operator == kind
        # XNNPACK has other kernels for some operators together
        assert each.largest == pytest.approx(np.abs(values[name]).max(), rel=1e-4)


@pytest.mark.parametrize("change", [{"half": True}, {"then": quantise_weights}])
def test_weights_in_fewer_bits(change, tmp_path):
    """Run operator by operator a file gives what it gives as a whole."""
    path = file_of(pooled, tmp_path / "x.tflite", **change)
    predictor = TFLitePredictor(path)
    model = Stepwise(path.read_bytes())
    assert "DEQUANTIZE" not in {each.kind for each in model.operators}
    (source,), (result,) = model.inputs, model.outputs
    values = {source: predictor.io.encode(IMAGE)}
    for each, ends in model.in_order():
        values |= model.run(each, values)
        for i in set(ends) - {result}:
            del values[i]
    assert values.keys() == {result}
    # of float32's roundings, a few
    np.testing.assert_allclose(values[result][0], predictor(IMAGE), rtol=1e-6)


def test_xnnpack_computes_in_16_bits(tmp_path):
    kernel = np.random.default_rng(3).uniform(0.1, 1, (1, 1, 3, CLASSES))
    path = file_of(conv("conv", kernel), tmp_path / "x.tflite")
    with kseg.open_predictor(path, runtime="litert-fp16", threads=1) as predictor:
        got = predictor(IMAGE)
    assert predictor.runtime.endswith("cpu in half precision, 1 threads")
    np.testing.assert_array_equal(got, got.astype(np.float16))
    want = PIXELS @ kernel[0, 0].astype(np.float16).astype(np.float64)
    # 2**-11 is a rounding to half precision; where the CPU adds up in it, there are three
    np.testing.assert_allclose(got, want, rtol=3 * 2.0**-11)
    # As docs/android.md has it, a resizing stays in float32.
    path = file_of(Resize(size=(17, 33)), tmp_path / "x.tflite")
    with kseg.open_predictor(path, runtime="litert-fp16", threads=1) as predictor:
        got = predictor(IMAGE)
    assert (got != got.astype(np.float16)).mean() > 0.5


def test_half_precision_in_the_commands(tiny_model, tiny_camvid, tmp_path):
    """A runtime like the others; the simulation has as much noise as XNNPACK."""
    path = tmp_path / "x.tflite"
    kseg.tflite.convert(tiny_model, path)
    data = ["--dataset", "camvid", "--data-dir", str(tiny_camvid)]
    report = tmp_path / "x.json"
    command = ["compare", str(path), str(path), *data, "--runtime-b", "litert-fp16"]
    assert main([*command, "--json", str(report)]) == 0
    facts = json.loads(report.read_text())
    assert "half precision" in facts["files"][1]["runtime"]
    assert facts["same"] > 0.9
    (timing,) = kseg.tflite.benchmark([path], runs=1, warm_up=0, threads=1, runtime="litert-fp16")
    assert timing.runtime.endswith("cpu in half precision, 1 threads")

    images = [kseg.data.read_image(image) for image in sorted((tiny_camvid / "val").iterdir())]
    agreement = compare(path, images, runtime="litert-fp16")
    # the same roundings but for sums, of which XNNPACK makes some in float32
    assert check_half(path, images).decibels == pytest.approx(agreement.decibels, abs=3)


def test_what_cannot_be_checked(tmp_path, capsys):
    path = file_of(
        pooled,
        tmp_path / "x.tflite",
        then=lambda content: quantise_int8(content, [IMAGE], SIZE, calibration="min-max"),
    )
    assert main(["check-half", str(path)]) == 1
    assert "computes in 8 bits; half precision is for float files" in capsys.readouterr().err
    with pytest.raises(kseg.KsegError, match="computes in 8 bits"):
        kseg.tflite.benchmark([path], runs=1, runtime="litert-fp16")
    with pytest.raises(kseg.KsegError, match="there are no images to check with"):
        check_half(file_of(scaling("a", 1), path), [])
    infinite = conv("a", np.full((1, 1, 3, CLASSES), np.inf))
    with pytest.raises(
        kseg.KsegError, match="the output: its values are not finite in float32 either"
    ):
        check_half(file_of(infinite, path), [IMAGE])
