"""What create_model makes, and what it refuses."""

import keras
import numpy as np
import pytest

import kseg
from kseg.loading import load


def test_preprocessing_is_the_published_normalisation():
    raw = kseg.create_model("cgnet_m3n21", num_classes=3, m=2, n=2, preprocessing=False)
    whole = kseg.create_model("cgnet_m3n21", num_classes=3, m=2, n=2)
    whole.set_weights(raw.get_weights())
    image = np.random.default_rng(0).integers(0, 256, (1, 40, 48, 3), np.uint8)
    mean = np.float32([72.39239876, 82.90891754, 73.15835921])
    want = np.asarray(raw(image.astype("float32") - mean))
    np.testing.assert_allclose(np.asarray(whole(image)), want, atol=1e-6)


def test_a_model_without_a_card(tmp_path):
    """Keras saves and loads it; kseg, which could not say what it is, does not."""
    image = keras.Input((8, 8, 3))
    model = kseg.SegmentationModel(image, keras.layers.Conv2D(2, 1)(image))
    model.save(tmp_path / "x.keras")
    assert keras.models.load_model(tmp_path / "x.keras").card is None
    with pytest.raises(kseg.KsegError, match=r"x\.keras: holds a SegmentationModel without a card"):
        load(tmp_path / "x.keras")
    with pytest.raises(kseg.KsegError, match=r"x\.h5: Keras could not load .* save it as \.keras"):
        model.save(tmp_path / "x.h5")
    model.save_weights(tmp_path / "x.weights.h5")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(name="cgnet"), "unknown model 'cgnet'; did you mean .*cgnet_m3n"),
        (dict(name="cgnet_m3n21", rate=2), "has no option 'rate'"),
        (dict(name="cgnet_m3n21", output_stride=8), "has no option 'output_stride'"),
        (dict(name="cgnet_m3n21", auxiliary=True), "has no option 'auxiliary'"),
        (dict(name="cgnet_m3n21", residual="big"), "residual is 'big'"),
        (dict(name="cgnet_m3n21", m=1), "m is 1"),
        (dict(name="cgnet_m3n21", m="3"), "m is '3'; it takes no str and is 3 by default"),
        (dict(name="cgnet_m3n21", m=True), "m is True; it takes no bool and is 3"),
        (dict(name="cgnet_m3n21", m=2.5), r"cannot be built with m=2\.5 \("),
        (dict(name="cgnet_m3n21", input_injection="no"), "is 'no'; it must be True or False"),
        (dict(name="cgnet_m3n21", residual=3), "residual is 3; it must be a text"),
        (dict(name="unet.ResNet50", output_stride="8"), "output_stride is '8'; it takes no str"),
        (dict(name="icnet_resnet50", auxiliary="no"), "auxiliary is 'no'; it must be True or F"),
        (dict(name="deeplab_v2_resnet101", atrous_rates="6"), "is '6'; it takes no str and is No"),
        (dict(name=None), "the name of a model is None"),
        (dict(name="cgnet_m3n21", input_shape=(64.0, 64, 3)), r"input_shape is 64\.0; .* whole"),
        (dict(name="cgnet_m3n21", input_shape=(-64, 64, 3)), "input_shape has -64; .* at least 1"),
        (dict(name="cgnet_m3n21", batch_size=0), "batch_size has 0; .* at least 1, or None"),
        (dict(name="cgnet_m3n21", batch_size="2"), "batch_size is '2'; it must be a whole"),
        (dict(name="cgnet_m3n21", weights=True), "weights is True; it must be a file, shipped"),
        (dict(name="cgnet_m3n21", weights="a.keras"), "a.keras', a whole model; kseg.load reads"),
        (dict(name="enet", weights="camvid:cgnet_m3n21"), "cgnet_m3n21', a whole model"),
        (dict(name="cgnet_m3n21", num_classes=0), "num_classes is 0"),
        (dict(name="cgnet_m3n21", num_classes=256), "num_classes is 256; it must be 2 to 255"),
        (dict(name="cgnet_m3n21", input_shape=(64, 64, 1)), "input_shape is"),
        (dict(name="cgnet_m3n21", weights="none.pth"), "none.pth: no such checkpoint"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(kseg.KsegError, match=message) as error:
        kseg.create_model(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("thing", [None, 3, keras.Sequential([keras.Input((8, 8, 3))])])
def test_what_is_no_model(thing):
    with pytest.raises(kseg.KsegError, match=r"load is given a .*; it takes the name of a \.keras"):
        kseg.load(thing)
    with pytest.raises(kseg.KsegError, match=r"without a card; make it with kseg\.create"):
        kseg.open_predictor(thing)


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("unet", 16),
        ("liteseg_darknet19", 13),
        ("liteseg.VGG16", 32),
    ],
)
def test_least_sizes(name, least, monkeypatch):
    """The least size has a graph and is computed; below, one line names it, not Keras."""
    model = kseg.create_model(name, num_classes=2)
    predictor = kseg.open_predictor(model)
    for size in ((least, least), (least + 1, 40), (41, least)):
        assert predictor(np.zeros((*size, 3), np.uint8)).shape == (*size, 2)
    small = (least - 1, 40)
    message = rf"{name}: an input of {least - 1}x40 \(HxW\) is too small; it takes {least}x{least}"
    with pytest.raises(kseg.KsegError, match=message):
        predictor(np.zeros((*small, 3), np.uint8))
    monkeypatch.setattr(kseg.zoo, "check_size", lambda *size: None)
    with pytest.raises(kseg.KsegError, match=f"{name}: .*negative") as error:
        kseg.create_model(name, num_classes=2, input_shape=(*small, 3))
    assert "\n" not in str(error.value)


def test_a_backend_that_kseg_does_not_run_on(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(kseg.KsegError, match="set KERAS_BACKEND to tensorflow or jax"):
        kseg.create_model("cgnet_m3n21")
