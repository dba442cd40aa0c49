"""What every head on every encoder keeps: pairs that stand for both, or all with --all-rows."""

import keras
import numpy as np
import pytest

import kseg
import kseg.tflite
from kseg.backbones.encoders import ENCODERS
from kseg.zoo import HEADS
from support import outputs_of, varied

# Every head, and every kind of encoder: whose features lie at strides that others have not,
# whose maps are not the rounded-up ones, whose names or layouts are of another kind.
PAIRS = (
    "deeplab_v3_plus.MobileNetV2Slim",
    "deeplab_v3.MobileNetV2PyTorch",
    "dilation8.SEResNet50",
    "fcn.VGG16Caffe",
    "hypercolumns.EfficientNetLite0",
    "liteseg.GoogLeNet",
    "lraspp.MobileNetV3Small",
    "pspnet.DarkNet19",
    "skipnet.ShuffleNet",
    "unet.EfficientNetLite0",
)
EVERY = [f"{h}.{e}" for h, head in HEADS.items() for e, x in ENCODERS.items() if head.fits(x)]
# No stride divides it.
SIZE = (65, 97)
IMAGE = np.random.default_rng(1).integers(0, 256, (1, *SIZE, 3), np.uint8)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "pair" in metafunc.fixturenames:
        every = metafunc.config.getoption("--all-rows")
        metafunc.parametrize("pair", EVERY if every else PAIRS)


def test_pairs_stand_for_every_head():
    assert {pair.partition(".")[0] for pair in PAIRS} == set(HEADS)
    assert set(PAIRS) <= set(EVERY)


def test_pairs_that_do_not_fit():
    """Their error names the stride that the encoder lacks, in one line."""
    others = {f"{h}.{e}" for h in HEADS for e in ENCODERS} - set(EVERY)
    assert others == {"deeplab_v3_plus.ShuffleNet", "fcn.DarkNet19", "skipnet.DarkNet19"}
    for pair in others:
        stride = 4 if "Shuffle" in pair else 16
        message = f"^{pair}: the head needs features at stride {stride}, .* lists what fits$"
        with pytest.raises(kseg.KsegError, match=message):
            kseg.create_model(pair)


def test_pair(pair: str, tmp_path):
    """Of any size; the same from a file of Keras, at a fixed size, and as .tflite on a CPU."""
    keras.utils.set_random_seed(0)
    model = varied(kseg.create_model(pair, num_classes=5))
    want = outputs_of(model, IMAGE.astype("float32"))
    assert want.shape == (1, *SIZE, 5)
    # Of float32 sums in another order.
    atol = 1e-4 * np.ptp(want)

    model.save(tmp_path / "model.keras")
    loaded = kseg.load(tmp_path / "model.keras")
    assert loaded.card == model.card
    np.testing.assert_allclose(outputs_of(loaded, IMAGE.astype("float32")), want, atol=atol)

    kseg.tflite.convert(model, tmp_path / "x.tflite", input_size=SIZE)
    got = kseg.tflite.TFLitePredictor(tmp_path / "x.tflite")(IMAGE[0])
    np.testing.assert_allclose(got, want[0], atol=atol)

    # The prefixes are of the encoder's layers and of nothing of the head.
    encoder = ENCODERS[pair.partition(".")[2]]
    image = keras.Input((None, None, 3))
    features = encoder.function(image)
    alone = keras.Model(image, [features.output, *features.levels().values()])
    own, every = ({layer.name for layer in m.layers if layer.weights} for m in (alone, model))
    backbone = {name for name in every if f"{name}.".startswith(encoder.prefixes)}
    assert backbone
    assert backbone == own & every


def test_hypercolumns_are_one_classifier_of_all_levels():
    """Resized levels one above the other, and one kernel: resizing and sums may change places."""
    model = kseg.create_model("hypercolumns.EfficientNetLite0", num_classes=5)
    levels = [model.get_layer(f"score_{stride}").input for stride in (2, 4, 8, 16, 32)]
    tap = model.get_layer("score_sum").output
    *columns, got = outputs_of(keras.Model(model.inputs, [*levels, tap]), IMAGE.astype("float32"))
    size = columns[0].shape[1:3]
    resized = [keras.ops.image.resize(x, size, "bilinear", antialias=False) for x in columns]
    parts = [model.get_layer(f"score_{stride}").get_weights() for stride in (2, 4, 8, 16, 32)]
    kernel = np.concatenate([kernel[0, 0] for kernel, _ in parts])
    want = np.concatenate(resized, axis=-1) @ kernel + sum(bias for _, bias in parts)
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())
