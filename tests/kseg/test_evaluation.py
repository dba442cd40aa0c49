"""Scores against closed forms, and the way from image to label map."""

import dataclasses
import importlib
import inspect
import json
import pkgutil

import numpy as np
import pytest
from PIL import Image

import kseg
from kseg.data import Shard, open_dataset, read_shards
from kseg.evaluation import (
    ConfusionMatrix,
    InferenceSettings,
    compare,
    evaluate,
    evaluate_shard,
    format_report,
    merge_shards,
)
from kseg.pictures import overlay, spread_colors
from kseg.predictor import KerasPredictor, predict_labels


class Constant:
    """A Predictor that gives what it is told."""

    def __init__(self, card, output, input_size=None):
        self.card, self.output, self.input_size, self.runtime = card, output, input_size, "test"
        self.seen = None

    def __call__(self, image):
        self.seen = image
        return self.output


def test_confusion_matrix():
    matrix = ConfusionMatrix(4)
    labels = np.array([[0, 0, 1, 1], [1, 255, 255, 0]], np.uint8)
    predictions = np.array([[0, 1, 1, 2], [9, 0, 3, 0]], np.uint8)
    matrix.update(labels, predictions)
    # class 0: 2 hits, 1 missed; class 1: 1 hit, 1 false alarm, 2 missed (one as void);
    # class 2: one false alarm; class 3: only where ignored
    assert matrix.iou() == [2 / 3, 1 / 4, 0.0, None]
    assert matrix.mean_iou() == pytest.approx((2 / 3 + 1 / 4) / 3)
    assert matrix.pixel_accuracy() == 3 / 6


def test_confusion_matrix_counts_beyond_float32_and_int32():
    zeros = np.zeros((1, 1), np.uint8)
    for count in (2**24, 2**31):
        matrix = ConfusionMatrix(1)
        matrix.counts[0, 0] = count
        matrix.update(zeros, zeros)
        # int(): NumPy takes the number beside a float32 to float32 too, where they are equal
        assert int(matrix.counts[0, 0]) == count + 1


def test_confusion_matrix_of_many_pixels():
    matrix = ConfusionMatrix(1)
    zeros = np.zeros((4096, 4097), np.uint8)
    matrix.update(zeros, zeros)
    assert int(matrix.counts[0, 0]) == 4096 * 4097


def test_confusion_matrix_without_labels():
    matrix = ConfusionMatrix(2)
    matrix.update(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8))
    assert (matrix.iou(), matrix.mean_iou(), matrix.pixel_accuracy()) == ([None, None], None, None)


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([0, 5], [0, 0], r"train ids \[5\], not below 2 and not 255"),
        ([0, 2], [0, 0], r"train ids \[2\]"),
        ([0, 254], [0, 0], r"train ids \[254\]"),
        ([0, 1], [0], "differ"),
        ([[0, 1]], [[0], [1]], "differ"),
    ],
)
def test_confusion_matrix_refuses(labels, predictions, message):
    with pytest.raises(kseg.KsegError, match=message):
        ConfusionMatrix(2).update(np.uint8(labels), np.uint8(predictions))


def test_ids_of_other_types():
    """Of those that 8 bits do not hold, -1 would count in the row above."""
    ids, matrix = np.array([[0, 1, 1, 255]]), ConfusionMatrix(2)
    matrix.update(ids, ids)
    matrix.update(ids[:0], ids[:0])
    np.testing.assert_array_equal(matrix.counts, [[1, 0, 0], [0, 2, 0]])
    for bad, shown in ((-1, "int64, -1 to 1"), (256, "int64, 0 to 256"), (0.5, "float64, 0.0")):
        wrong = np.array([[0, 1, 1, bad]])
        for name, pair in (("labels", (wrong, ids)), ("predictions", (ids, wrong))):
            with pytest.raises(kseg.KsegError, match=f"{name} are of {shown}"):
                matrix.update(*pair)


def test_logits_are_resized_before_the_argmax(tiny_model):
    """Half-pixel: 2 columns to 8; class 1 wins where its interpolated logit does."""
    logits = np.zeros((1, 2, 11), np.float32)
    logits[0, :, 1] = -1, 2  # crosses 0 at a third of the way between the two centres
    predictor = Constant(tiny_model.card, logits, (1, 2))
    labels = predict_labels(predictor, np.zeros((1, 2, 3), np.uint8), size=(2, 8))
    # output centres lie at 0, 0, 0, 1/8 -> clipped; 1/8, 3/8, 5/8, 7/8 between the two
    np.testing.assert_array_equal(labels[0], [0, 0, 0, 1, 1, 1, 1, 1])


def test_argmax_output_takes_the_nearest(tiny_model):
    card = tiny_model.card.replace(output="argmax")
    predictor = Constant(card, np.array([[4, 7]], np.uint8), (1, 2))
    labels = predict_labels(predictor, np.zeros((1, 2, 3), np.uint8), size=(2, 6))
    np.testing.assert_array_equal(labels, [[4, 4, 4, 7, 7, 7]] * 2)


def test_padding_is_the_mean_and_is_cropped(tiny_model):
    logits = np.zeros((4, 6, 11), np.float32)
    logits[:2, :3, 5] = 1
    logits[2:, :, 8] = logits[:, 3:, 8] = 9
    predictor = Constant(tiny_model.card, logits)
    labels = predict_labels(predictor, np.full((2, 3, 3), 250, np.uint8), pad_to=(4, 6))
    np.testing.assert_array_equal(labels, np.full((2, 3), 5))
    mean = tiny_model.card.normalization.rgb_mean
    np.testing.assert_allclose(predictor.seen[2:], np.broadcast_to(mean, (2, 6, 3)), rtol=1e-6)
    np.testing.assert_array_equal(predictor.seen[:2, :3], 250)


def test_predict_labels_refuses(tiny_model):
    image = np.zeros((4, 4, 3), np.uint8)
    predictor = Constant(tiny_model.card, np.full((4, 4, 11), np.nan, np.float32), (4, 4))
    with pytest.raises(kseg.KsegError, match="not finite"):
        predict_labels(predictor, image)
    with pytest.raises(kseg.KsegError, match=r"takes \(4, 4\) .* only, not \(8, 8\)"):
        predict_labels(predictor, image, input_size=(8, 8))
    with pytest.raises(kseg.KsegError, match="pad_to"):
        predict_labels(predictor, image, pad_to=(2, 2))


def test_keras_predictor_takes_any_size(tiny_model, tiny_keras):
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    want = np.asarray(tiny_model(image[None]))[0]
    got = KerasPredictor(tiny_keras)(image)
    # float32 noise between the graph and the eager run
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_a_model_without_preprocessing_is_scored_on_rgb(tiny_model):
    raw = kseg.create_model("cgnet_m3n21", num_classes=11, m=2, n=2, preprocessing=False)
    raw.set_weights(tiny_model.get_weights())
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    want, got = KerasPredictor(tiny_model)(image), KerasPredictor(raw)(image)
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_evaluate(tiny_model, tiny_camvid):
    data = open_dataset("camvid", tiny_camvid, "val")
    sky = np.zeros((48, 64, 11), np.float32)
    sky[..., 0] = 1
    scores = evaluate(Constant(tiny_model.card, sky), data)
    labels = np.stack([data.labelled(s)[1] for s in data.samples])
    share = (labels == 0).sum() / (labels != 255).sum()
    assert scores.pixel_accuracy == pytest.approx(share)
    assert scores.class_iou["sky"] == pytest.approx(share)
    assert scores.class_iou["road"] == 0
    assert scores.class_iou["tree"] is None
    assert scores.mean_iou == pytest.approx(share / 2)
    assert np.sum(scores.confusion_matrix) == (labels != 255).sum()
    assert json.loads(json.dumps(scores.to_json()))["class_iou"] == scores.class_iou
    assert f"{100 * share / 2:.2f}" in format_report(scores)


def test_the_score_has_its_settings(tiny_model, tiny_camvid):
    """As one object, and field by field in the JSON; input size as the network got it."""
    data = open_dataset("camvid", tiny_camvid, "val")
    logits = np.zeros((24, 32, 11), np.float32)
    settings = InferenceSettings(scales=(1.0,), flip=True)
    network = Constant(tiny_model.card, logits, (24, 32))
    scores = evaluate(network, data, settings)
    assert scores.settings == InferenceSettings(input_size=(24, 32), flip=True)
    report = json.loads(json.dumps(scores.to_json()))
    fields = ("input_size", "pad_to", "scales", "flip", "window", "overlap", "crf")
    assert [report[name] for name in fields] == [[24, 32], None, [1.0], True, None, None, None]
    assert "settings" not in report
    assert evaluate(network, data, flip=True).to_json() == {
        **scores.to_json(),
        "seconds": pytest.approx(0, abs=60),
    }
    with pytest.raises(kseg.KsegError, match="settings and flip are both given"):
        evaluate(network, data, settings, flip=True)


def test_no_module_hides_a_function():
    """``kseg.evaluation.evaluate`` is the function, whatever was imported before."""
    names = {module.name for module in pkgutil.iter_modules(kseg.evaluation.__path__)}
    for name in names:
        importlib.import_module(f"kseg.evaluation.{name}")
    assert not names & set(kseg.evaluation.__all__)
    assert inspect.isfunction(kseg.evaluation.evaluate)
    assert inspect.isfunction(kseg.evaluation.compare)


def test_void_channels_are_misses(tiny_model, tiny_camvid):
    data = open_dataset("camvid", tiny_camvid, "val")
    logits = np.zeros((48, 64, 12), np.float32)
    logits[..., 11] = 1
    card = tiny_model.card.replace(num_classes=12, void_channels=(11,))
    scores = evaluate(Constant(card, logits), data)
    assert scores.pixel_accuracy == 0
    assert scores.class_iou["sky"] == scores.class_iou["road"] == 0
    assert scores.class_iou["tree"] is None


def test_train_ids(tiny_model):
    card = tiny_model.card.replace(num_classes=4, void_channels=(1,), class_names=None, colors=None)
    np.testing.assert_array_equal(card.train_ids()[:6], [0, 255, 1, 2, 255, 255])


def test_other_classes_are_refused(tiny_model, tiny_camvid):
    data = open_dataset("camvid", tiny_camvid, "val")
    more = tiny_model.card.replace(num_classes=12, class_names=None, colors=None)
    with pytest.raises(kseg.KsegError, match="has 12 channels, 0 of them void"):
        evaluate(Constant(more, None), data)
    named = tiny_model.card.replace(dataset="other", class_names=tuple("abcdefghijk"))
    with pytest.raises(kseg.KsegError, match="the classes of other"):
        evaluate(Constant(named, None), data)


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (np.full((48, 64, 11), np.inf), "the logits are not finite"),
        (
            np.where(np.arange(11) == 10, np.nan, np.zeros((48, 64, 11))),
            "the logits are not finite",
        ),
        (np.zeros((24, 32, 11)), r"the output is \(24, 32, 11\), not \(48, 64, 11\) as the card"),
        (np.zeros((48, 64, 12)), r"the output is \(48, 64, 12\), not \(48, 64, 11\) as the card"),
    ],
)
def test_errors_name_the_image(tiny_model, tiny_camvid, logits, message):
    """One that is not the first."""
    data = open_dataset("camvid", tiny_camvid, "val")
    predictor = Constant(tiny_model.card, None)
    outputs = iter([np.zeros((48, 64, 11), np.float32), logits.astype(np.float32)])
    predictor.__class__ = type("Each", (Constant,), {"__call__": lambda *_: next(outputs)})
    with pytest.raises(kseg.KsegError, match=rf"val/001\.png: .*{message}"):
        evaluate(predictor, data)


def test_a_height_in_place_of_the_width(tiny_model, tiny_camvid, recwarn):
    data = open_dataset("camvid", tiny_camvid, "val")
    evaluate(Constant(tiny_model.card, np.zeros((48, 64, 11))), data, input_size=(48, 64))
    assert not recwarn.list
    message = r"val/000\.png: is 48x64 and the network's input 64x48 \(HxW\).*the height first"
    with pytest.warns(kseg.errors.KsegWarning, match=message):
        evaluate(Constant(tiny_model.card, np.zeros((64, 48, 11))), data, input_size=(64, 48))
    # A file's own size, which nobody states
    first, second = (
        Constant(tiny_model.card, np.zeros((height, 40, 11)), (height, 40)) for height in (44, 46)
    )
    with pytest.warns(kseg.errors.KsegWarning, match="the network's input 44x40"):
        evaluate(first, data)
    with pytest.warns(kseg.errors.KsegWarning, match="the network's input 46x40"):
        compare(second, second, data)


def test_weights_that_saw_the_images(tiny_model, tiny_camvid, tmp_path, recwarn):
    """A score of them is no score; that of the training split is a user's choice."""
    train, val = (open_dataset("camvid", tiny_camvid, split) for split in ("train", "val"))
    predictor = Constant(tiny_model.card.trained_on(train), np.zeros((48, 64, 11)))
    both = open_dataset("camvid", tiny_camvid, "train+val")
    for data in (train, val):
        assert evaluate(predictor, data).trained_splits == ("camvid train",)
    assert not recwarn.list
    predictor.card = tiny_model.card.trained_on(both)
    message = "weights are trained on camvid val; the score on val says nothing of new images"
    evaluate_shard(predictor, val, Shard(1, 1)).write(tmp_path / "shard.json")
    for score in (
        evaluate,
        lambda *args: compare(predictor, *args),
        lambda *_: merge_shards(read_shards([tmp_path / "shard.json"])),
    ):
        with pytest.warns(kseg.errors.KsegWarning, match=message):
            score(predictor, val)


def test_something_else_than_a_predictor(tiny_model, tiny_camvid):
    data = open_dataset("camvid", tiny_camvid, "val")
    for source in (tiny_model, "x.keras"):
        message = f"a {type(source).__name__} is given for a Predictor; kseg.open_predictor"
        for call in (
            lambda source=source: evaluate(source, data),
            lambda source=source: compare(Constant(tiny_model.card, None), source, data),
            lambda source=source: predict_labels(source, np.zeros((48, 64, 3), np.uint8)),
        ):
            with pytest.raises(kseg.KsegError, match=message):
                call()
    with pytest.raises(kseg.KsegError, match=r"data is a str; kseg\.data\.open_dataset"):
        evaluate(Constant(tiny_model.card, None), "camvid")


def test_no_images(tiny_model, tiny_camvid):
    data = dataclasses.replace(open_dataset("camvid", tiny_camvid, "val"), samples=())
    with pytest.raises(kseg.KsegError, match="camvid val has no images"):
        evaluate(Constant(tiny_model.card, None), data)


def test_overlay_has_the_colours(tmp_path):
    labels = np.array([[0, 1, 255]] * 40, np.uint8).repeat(30, 1)
    picture = overlay(
        np.zeros((40, 90, 3), np.uint8), labels, ["a", "b"], [(200, 0, 0), (0, 200, 0)]
    )
    pixels = np.asarray(picture)
    assert pixels.shape[0] > 40
    np.testing.assert_array_equal(pixels[5, 5], [110, 0, 0])
    np.testing.assert_array_equal(pixels[5, 40], [0, 110, 0])
    np.testing.assert_array_equal(pixels[5, 80], [0, 0, 0])
    assert len(set(spread_colors(40))) == 40
    assert Image.fromarray(pixels).size == picture.size


def test_the_legend_of_a_narrow_image():
    """A name that is wider than the image is whole, as below a wide one."""
    legends = []
    for width in (20, 400):
        labels = np.zeros((8, width), np.uint8)
        image = np.zeros((8, width, 3), np.uint8)
        picture = np.asarray(overlay(image, labels, ["a class of a long name"], [(9, 9, 9)]))
        legends.append(picture[8:])
        np.testing.assert_array_equal(picture[:8, :width].max(), 4)
    narrow, wide = legends
    np.testing.assert_array_equal(wide[:, : narrow.shape[1]], narrow)
    assert (wide[:, narrow.shape[1] :] == 255).all()
