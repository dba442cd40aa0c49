"""What a finished model trains further on."""

import numpy as np
import pytest

import kseg
from kseg.data import open_dataset
from kseg.training.fine_tune import fine_tuning
from kseg.training.losses import class_weights

WAY = dict(batch_size=2, crop=(48, 64))


def test_from_the_model_itself(tiny_model, tiny_camvid):
    """Its own answer costs nothing, another one more; labels have no part."""
    batches, loss, steps = fine_tuning(tiny_model, "camvid", tiny_camvid, **WAY)
    assert steps == 3
    images, targets = next(iter(batches))
    logits = tiny_model(images)
    # The same network in another graph: float32 sums.
    np.testing.assert_allclose(targets, logits, atol=1e-4)
    np.testing.assert_allclose(loss(targets, logits), 0, atol=1e-5)
    other = logits + np.random.default_rng(0).standard_normal(logits.shape).astype("float32")
    assert (np.asarray(loss(targets, other)) > 1e-3).all()


def test_from_labels(tiny_model, tiny_camvid):
    """Cross-entropy by its definition, weighted by the shares of the classes."""
    batches, loss, _ = fine_tuning(tiny_model, "camvid", tiny_camvid, learn_from="labels", **WAY)
    images, labels = next(iter(batches))
    labels = labels.numpy()
    logits = np.asarray(tiny_model(images), "float64")
    valid = labels != 255
    weights = class_weights(open_dataset("camvid", tiny_camvid, "train").class_pixels())
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    truth = np.where(valid, labels, 0)[..., None]
    want = -np.log(np.take_along_axis(chances, truth, -1)[..., 0]) * np.take(weights, truth[..., 0])
    np.testing.assert_allclose(loss(labels, logits), want * valid, rtol=1e-5)


def test_labels_of_a_model_with_a_void_channel(tiny_model, tiny_camvid):
    """The channel behind it is the first class; the loss is that of the model without it."""
    plain = fine_tuning(tiny_model, "camvid", tiny_camvid, learn_from="labels", **WAY)
    model = kseg.create_model("cgnet_m3n21", num_classes=12, m=2, n=2)
    model.card = tiny_model.card.replace(num_classes=12, void_channels=(0,))
    batches, loss, _ = fine_tuning(model, "camvid", tiny_camvid, learn_from="labels", **WAY)
    logits = np.random.default_rng(0).standard_normal((2, 48, 64, 12)).astype("float32")
    # No chance for what is void, which the other model does not know.
    logits[..., 0] = -1e4
    want = plain[1](next(iter(plain[0]))[1], logits[..., 1:])
    np.testing.assert_allclose(loss(next(iter(batches))[1], logits), want, rtol=1e-5)


def test_other_classes_of_the_same_number(tiny_model, tiny_camvid):
    names = tuple(f"other {i}" for i in range(11))
    model = kseg.SegmentationModel(
        tiny_model.inputs, tiny_model.outputs, card=tiny_model.card.replace(class_names=names)
    )
    difference = r"\(class 0 is 'other 0' here and 'sky' there\)"
    with pytest.raises(kseg.KsegError, match=rf"11 classes {difference}\. Name the data set"):
        fine_tuning(model, "camvid", tiny_camvid, **WAY)


@pytest.mark.parametrize("steps", [2, None])
def test_the_number_of_steps(tiny_model, tiny_camvid, steps):
    found = fine_tuning(tiny_model, "camvid", tiny_camvid, steps=steps, epochs=2, **WAY)[2]
    assert found == (steps or 6)
