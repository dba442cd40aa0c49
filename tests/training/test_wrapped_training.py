"""Wrapped models in kseg's training and in Keras' own."""

import keras
import numpy as np
import pytest
from keras import layers as kl

import kseg
import kseg.evaluation
import kseg.training
from kseg.model import leaf_layers
from kseg.training import losses, train
from kseg.training.optimizers import decayed_variables
from support import outputs_of

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


def test_other_classes(tiny_camvid, tmp_path):
    data = kseg.data.open_dataset("camvid", tiny_camvid, "train")
    with pytest.raises(kseg.KsegError, match="mine: has 5 channels and camvid 11 classes; wrap"):
        train(wrapped(5), data, tmp_path / "run", **SETTINGS)


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
