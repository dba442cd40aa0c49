"""Wrapped models in kseg's training and in Keras' own."""

import json

import keras
import numpy as np
import pytest
from keras import layers as kl

import kseg
import kseg.evaluation
import kseg.training
from kseg.model import leaf_layers
from kseg.training import losses, train
from kseg.training.fine_tune import fine_tuning
from kseg.training.initial import initial_model
from kseg.training.inputs import from_model
from kseg.training.optimizers import decayed_variables
from support import outputs_of, write_camvid

IMAGE = np.random.default_rng(0).integers(0, 256, (1, 48, 64, 3)).astype(np.float32)
SETTINGS = dict(steps=2, batch_size=2, crop=(48, 64))


def wrapped(classes: int = 11) -> kseg.SegmentationModel:
    """An encoder inside a model, BatchNorm in it."""
    keras.utils.set_random_seed(1)
    encoder = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            kl.Rescaling(1 / 127.5, -1),
            kl.Conv2D(8, 3, strides=2, padding="same"),
            kl.BatchNormalization(name="norm"),
            kl.ReLU(),
        ],
        name="encoder",
    )
    image = keras.Input((None, None, 3))
    return kseg.wrap(keras.Model(image, kl.Conv2D(classes, 1)(encoder(image)), name="mine"))


def statistics(model) -> np.ndarray:
    (norm,) = [x for x in leaf_layers(model) if isinstance(x, kl.BatchNormalization)]
    return np.asarray(norm.moving_mean)


@pytest.mark.parametrize("batch_norm", ["train", "frozen"])
def test_train(batch_norm, tiny_camvid, tmp_path):
    """Layers inside the model follow the settings; the given model stays as it is."""
    model = wrapped()
    before = [weight.copy() for weight in model.get_weights()]
    data = kseg.data.open_dataset("camvid", tiny_camvid, "train")
    result = train(model, data, tmp_path / "run", batch_norm=batch_norm, **SETTINGS)
    assert (np.abs(statistics(result)).max() > 0) == (batch_norm == "train")
    for weight, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
    again = kseg.load(tmp_path / "run/model.keras")
    np.testing.assert_array_equal(outputs_of(again, IMAGE), outputs_of(result, IMAGE))
    assert again.card.class_names == kseg.data.CAMVID.names
    assert any((a != b).any() for a, b in zip(result.get_weights(), before, strict=True))


def test_what_the_user_has_frozen_stays_so(tiny_camvid):
    """Kernels, and BatchNorm too, which would follow the new images."""
    model = wrapped()
    for layer in [x for x in leaf_layers(model) if x.weights][:2]:
        layer.trainable = False
    data = kseg.data.open_dataset("camvid", tiny_camvid, "train")
    config, *_ = from_model(model, data, SETTINGS)
    with pytest.warns(kseg.errors.KsegWarning, match="mine: 1 BatchNorm layers, such as norm, are"):
        start = initial_model(config, data, model)
    trained = [x.trainable for x in leaf_layers(start) if x.weights]
    assert trained == [False, False, True]


def test_other_classes(tiny_camvid, tmp_path):
    data = kseg.data.open_dataset("camvid", tiny_camvid, "train")
    with pytest.raises(kseg.KsegError, match="mine: has 5 channels and camvid 11 classes; wrap"):
        train(wrapped(5), data, tmp_path / "run", **SETTINGS)


def test_labels_that_would_not_follow(tiny_camvid, tmp_path):
    """The images, which a layer inside the model mirrors."""
    image = keras.Input((None, None, 3))
    mirrored = keras.Sequential([keras.Input((None, None, 3)), kl.RandomFlip(name="flip")])(image)
    model = kseg.wrap(keras.Model(image, kl.Conv2D(11, 1)(mirrored), name="mine"))
    data = kseg.data.open_dataset("camvid", tiny_camvid, "train")
    with pytest.raises(kseg.KsegError, match="mine: its RandomFlip 'flip' would move the images"):
        train(model, data, tmp_path / "run", **SETTINGS)


def fixed() -> kseg.SegmentationModel:
    image = keras.Input((48, 64, 3))
    return kseg.wrap(keras.Model(image, kl.Conv2D(11, 1)(image), name="mine"))


def test_a_model_of_one_size_is_trained_at_it(tiny_camvid, tmp_path):
    """Whatever the size of the images is, which are scaled and padded."""
    write_camvid(tmp_path, {"train": 2}, (60, 100))
    data = kseg.data.open_dataset("camvid", tmp_path, "train")
    train(fixed(), data, tmp_path / "run", steps=1, batch_size=2)
    record = json.loads((tmp_path / "run/config.json").read_text())
    assert record["config"]["crop"] == [48, 64]
    batches, _, _ = fine_tuning(fixed(), "camvid", tmp_path, batch_size=2)
    assert next(iter(batches))[0].shape == (2, 48, 64, 3)


@pytest.mark.parametrize("what", ["crop", "final_crop", "val"])
def test_another_size_is_refused_before_the_run(what, tiny_camvid, tmp_path):
    write_camvid(tmp_path, {"val": 1}, (40, 64))
    val = kseg.data.open_dataset("camvid", tmp_path, "val")
    data = kseg.data.open_dataset("camvid", tiny_camvid, "train")
    settings = {"crop": {"crop": (40, 64)}, "final_crop": {"final_crop": (40, 64)}}.get(what, {})
    with pytest.raises(kseg.KsegError, match=rf"{what}.*: mine: takes .* 48x64 .*, not of 40x64"):
        train(
            fixed(),
            (data, val) if what == "val" else data,
            tmp_path / "run",
            final_epochs=int(what == "final_crop"),
            **settings,
        )
    assert not (tmp_path / "run").exists()


def test_images_that_its_layers_do_not_take(tiny_camvid, tmp_path):
    """Of 48 x 64, where the skip connection meets at multiples of 32 alone."""
    image = keras.Input((None, None, 3))
    x = kl.UpSampling2D(32)(kl.MaxPooling2D(32)(image))
    model = kseg.wrap(keras.Model(image, kl.Conv2D(11, 1)(kl.Concatenate()([image, x]))))
    data = [kseg.data.open_dataset("camvid", tiny_camvid, split) for split in ("train", "val")]
    message = r"does not run on an image of 48x64 \(HxW; .*\); a U-Net takes sides that"
    with pytest.raises(kseg.KsegError, match=f"{message} its stride divides; choose another crop"):
        train(model, data[0], tmp_path / "run", **SETTINGS)
    with pytest.raises(kseg.KsegError, match=rf"val/00.\.png: .*{message} .*evaluate with an inp"):
        train(model, data, tmp_path / "run", **{**SETTINGS, "crop": (64, 64)})
    with pytest.raises(kseg.KsegError, match=rf"val/000\.png: .*{message}"):
        kseg.evaluation.evaluate(kseg.open_predictor(model), data[1])
    assert not (tmp_path / "run").exists()


def test_fit():
    """Keras' own loop with kseg's loss lowers it."""
    model = wrapped()
    model.compile(keras.optimizers.SGD(0.1), losses.SegmentationLoss())
    labels = (IMAGE[..., 0] > 128).astype(np.int32)
    history = model.fit(IMAGE, labels, epochs=5, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]


def test_weight_decay_reaches_the_kernels_inside():
    """By the kinds of the layers inside, each variable once."""
    found = decayed_variables(wrapped(), "kernels")
    assert sorted(tuple(v.shape) for v in found) == [(1, 1, 8, 11), (3, 3, 3, 8)]
    assert len(decayed_variables(wrapped(), "all")) == 6
