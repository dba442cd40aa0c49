"""Published checkpoints as models: options, class names, void channels, normalisation."""

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from PIL import Image
from safetensors.numpy import save_file

import kseg
import kseg.tflite
from kseg import checkpoints
from kseg.card import CARD_ENTRY
from kseg.cli import main
from kseg.data import CAMVID, CITYSCAPES, ClassTable, open_dataset
from kseg.evaluation import evaluate
from kseg.importing import import_checkpoint
from kseg.predictor import KerasPredictor
from support import random_tensors

DEEPLAB = dict(depth_multiplier=0.5, output_stride=8)


@pytest.fixture
def checkpoint(tmp_path):
    """A function that writes random weights of a row with so many channels."""

    def write(name: str, channels: int, **options) -> Path:
        path = tmp_path / f"{name}_{channels}.safetensors"
        model = kseg.create_model(name, num_classes=channels, **options)
        save_file(random_tensors(model), path)
        return path

    return write


def test_cgnet_of_its_authors_for_camvid(weights, camvid):
    """All 101 images give 85.68 %, measured once; here every tenth, for the time.

    The weights have seen them. With Cityscapes' mean 36.9 % of the test split is left of 65.5.
    """
    model, unsaid = import_checkpoint("cgnet_camvid", weights / "cgnet_m3n21_camvid.pth")
    assert not unsaid
    assert (model.card.dataset, model.card.class_names) == ("camvid", CAMVID.names)
    score = evaluate(KerasPredictor(model), open_dataset("camvid", camvid, "val").some(10))
    # Pixels between two classes may fall to the other on another CPU.
    assert score.mean_iou == pytest.approx(0.84833, abs=2e-4)


def test_another_mean(weights):
    """The same weights by the row for Cityscapes, with what the file does not say."""
    file = weights / "cgnet_m3n21_camvid.pth"
    right = kseg.create_model("cgnet_camvid", weights=file)
    mean = right.card.normalization.mean
    model, unsaid = import_checkpoint("cgnet_m3n21", file, classes="camvid", mean=mean)
    assert not unsaid
    assert model.card.replace(name="cgnet_camvid") == right.card
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3)).astype("float32")
    np.testing.assert_array_equal(model.predict_on_batch(image), right.predict_on_batch(image))
    model, unsaid = import_checkpoint("cgnet_m3n21", file)
    assert (model.card.dataset, model.card.class_names) == (None, None)
    assert len(unsaid) == 2
    assert "has 11 channels, cgnet_m3n21's published weights have 19" in unsaid[0]
    assert "or import it as cgnet_camvid" in unsaid[0]
    assert "72.39 82.91 73.16 of R, G, B; state mean" in unsaid[1]


def test_mean_and_std_are_of_rgb(weights):
    """ESPNet takes BGR."""
    model, _ = import_checkpoint(
        "espnet", weights / "espnet_decoder_p_2_q_8.pth", mean=(1, 2, 3), std=(4, 5, 6)
    )
    normalization = model.card.normalization
    assert (normalization.mean, normalization.std) == ((3, 2, 1), (6, 5, 4))
    assert normalization.channel_order == "BGR"


@pytest.mark.parametrize("q", [3, 5])
def test_options_of_espnet(q, weights):
    file = weights / f"espnet_decoder_p_2_q_{q}.pth"
    model, unsaid = import_checkpoint("espnet", file, options={"q": q})
    assert not unsaid
    assert model.card.options == {"q": q}
    assert (model.card.class_names, model.card.void_channels) == (CITYSCAPES.names, (19,))
    tensors = checkpoints.read(file)
    for name, tensor in checkpoints.published(model).items():
        np.testing.assert_array_equal(tensor, tensors.get(name, tensors.get(f"module.{name}")))
    with pytest.raises(kseg.KsegError, match=r"missing|unexpected"):
        import_checkpoint("espnet", file)


@pytest.mark.parametrize("classes", ["cityscapes", "file", "file with the void channel"])
def test_unlabelled_first(classes, checkpoint, tmp_path):
    """As in davidtvs' ENet for Cityscapes: channel 0 is no class."""
    file = checkpoint("enet", 20)
    if classes != "cityscapes":
        names = ["unlabelled"] * classes.endswith("channel") + [*CITYSCAPES.names]
        classes = tmp_path / "classes.txt"
        classes.write_text("\n".join(names))
    model, unsaid = import_checkpoint("enet", file, classes=classes, void_channels=[0])
    assert not unsaid
    assert model.card.class_names == CITYSCAPES.names
    assert len(model.card.colors) == 19
    assert model.card.void_channels == (0,)
    np.testing.assert_array_equal(model.card.train_ids()[:20], [255, *range(19)])


def test_ids_of_the_table_are_channels(checkpoint):
    """A table with an id for every channel says which are void, and in which order they are."""
    table = ClassTable(
        names=("sky", "road"), colors=((1, 1, 1), (2, 2, 2)), file_ids=(2, 1), void_ids=(0, 255)
    )
    model, unsaid = import_checkpoint("enet", checkpoint("enet", 3), classes=table)
    assert not unsaid
    assert model.card.class_names == ("road", "sky")
    assert model.card.colors == ((2, 2, 2), (1, 1, 1))
    assert model.card.void_channels == (0,)


def test_without_names(checkpoint):
    """Nineteen channels need not be Cityscapes' where the published weights have others."""
    file = checkpoint("espnet", 19)
    model, unsaid = import_checkpoint("espnet", file)
    assert (model.card.dataset, model.card.class_names) == (None, None)
    assert len(unsaid) == 2
    model, unsaid = import_checkpoint("espnet", file, classes="cityscapes", mean=(1, 2, 3))
    assert not unsaid
    assert model.card.class_names == CITYSCAPES.names
    # Normalised as most networks are, and so without a question.
    model, unsaid = import_checkpoint("enet", checkpoint("enet", 4), void_channels=[3])
    assert model.card.void_channels == (3,)
    assert len(unsaid) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": "cityscapes"}, "cityscapes: has 19 classes, the checkpoint 20 channels"),
        ({"classes": "camvid", "void_channels": [0]}, "camvid: has 11 classes, .* with 1 void"),
        ({"classes": "none.txt"}, r"none\.txt: no such file"),
        ({"void_channels": [20]}, r"void_channels is \(20,\); the checkpoint has channels 0 to 19"),
        ({"options": {"num_classes": 3}}, "enet has no option 'num_classes'"),
        ({"options": {"q": 3}}, "enet has no option 'q'"),
        ({"mean": (1, 2)}, r"mean is \(1, 2\); it must be three numbers"),
        ({"std": (1, 0, 1)}, r"std is \(1, 0, 1\)"),
    ],
)
def test_refuses(arguments, message, enet):
    with pytest.raises(kseg.KsegError, match=message):
        import_checkpoint("enet", enet, **arguments)


@pytest.fixture(scope="module")
def enet(tmp_path_factory):
    path = tmp_path_factory.mktemp("enet") / "enet.safetensors"
    save_file(random_tensors(kseg.create_model("enet", num_classes=20)), path)
    return path


def test_command(enet, tmp_path, capsys):
    out = tmp_path / "x.keras"
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join(f"c{i} #0000{i:02x}" for i in range(19)))
    arguments = ["import", "enet", str(enet), str(out), "--options", '{"dropout": false}']
    said = ["--classes", str(classes), "--void-channels", "0", "--mean", "1", "2", "3"]
    assert main([*arguments, *said]) == 0
    printed = capsys.readouterr()
    assert "enet with 20 classes, of which 1 void" in printed.out
    assert "kseg:" not in printed.err
    card = kseg.load(out).card
    assert card.options == {"dropout": False}
    assert (card.class_names[2], card.colors[2]) == ("c2", (0, 0, 2))
    assert (card.void_channels, card.normalization.mean) == ((0,), (1, 2, 3))
    out.unlink()
    assert main(arguments) == 0
    assert "the model has no class names; state classes\n" in capsys.readouterr().err
    for text in ('{"dropout"', "[3]"):
        assert main(["import", "enet", str(enet), str(out), "--options", text]) == 1
        assert "options is" in capsys.readouterr().err


# --- TensorFlow Lite files --------------------------------------------------------------


@pytest.fixture(scope="module")
def folded(weights):
    """DeepLabv3 with its BatchNorm folded, as published for phones."""
    return weights / "deeplabv3_257_mv_gpu.tflite"


def test_labels_of_a_tflite_file(folded, camvid):
    """On every pixel of photographs those of the file itself."""
    model, unsaid = import_checkpoint(
        "deeplab_v3_mobilenet_v2", folded, options=DEEPLAB, classes="voc"
    )
    assert not unsaid
    runtime = Interpreter(str(folded))
    runtime.allocate_tensors()
    source, target = runtime.get_input_details()[0], runtime.get_output_details()[0]
    found = set()
    for path in sorted((camvid / "val").iterdir())[::25]:
        image = Image.open(path).convert("RGB").resize((257, 257), Image.Resampling.BILINEAR)
        image = np.asarray(image, "float32")[None]
        runtime.set_tensor(source["index"], image / np.float32(127.5) - 1)
        runtime.invoke()
        want = runtime.get_tensor(target["index"])
        got = model.predict_on_batch(image)
        # float32 sums in another order
        np.testing.assert_allclose(got, want, atol=1e-5 * np.ptp(want), rtol=0)
        np.testing.assert_array_equal(got.argmax(-1), want.argmax(-1))
        found |= set(want.argmax(-1).flat)
    assert len(found) > 1


def test_a_tflite_file_at_another_stride(folded):
    """Right weights, but not the labels of the file."""
    options = {**DEEPLAB, "output_stride": 16}
    _, unsaid = import_checkpoint("deeplab_v3_mobilenet_v2", folded, options=options)
    assert "has 21 channels" in unsaid[0]
    assert "dilates MobilenetV2/expanded_conv_7/depthwise by 2, the model by 1" in unsaid[1]


def test_an_encoder_alone_of_a_tflite_file(weights):
    """It gives no labels that a stride could change."""
    file = weights / "mobilenet_v2_1.0_224_int8.tflite"
    _, unsaid = import_checkpoint("lraspp.MobileNetV2Slim", file)
    assert "has the encoder alone; train the model before you use it" in unsaid[0]
    assert not [line for line in unsaid if "dilates" in line]


def test_tensors_of_a_tflite_file(folded):
    """Against LiteRT's own reading of it."""
    tensors = checkpoints.read(folded)
    runtime = Interpreter(str(folded))
    details = {tensor["name"]: tensor["index"] for tensor in runtime.get_tensor_details()}
    kernel = runtime.get_tensor(details["MobilenetV2/Conv/weights"])
    np.testing.assert_array_equal(tensors["MobilenetV2/Conv/weights"], kernel.transpose(1, 2, 3, 0))
    scope = "MobilenetV2/expanded_conv_3/depthwise"
    kernel = runtime.get_tensor(details[f"{scope}/depthwise_weights"])
    np.testing.assert_array_equal(tensors[f"{scope}/depthwise_weights"][..., 0], kernel[0])
    bias = runtime.get_tensor(details[f"{scope}/depthwise_bias"])
    np.testing.assert_array_equal(tensors[f"{scope}/biases"], bias)
    assert len(tensors) == 2 * 55


def test_a_tflite_file_in_8_bits(weights):
    """Numbers that integers stand for, by the scales that LiteRT reads."""
    file = weights / "mobilenet_v2_1.0_224_int8.tflite"
    tensors = checkpoints.read(file)
    runtime = Interpreter(str(file))
    for scope in ("MobileNetV2/Conv2d_0_0", "MobileNetV2/expanded_conv_1/depthwise"):
        (detail,) = (
            tensor
            for tensor in runtime.get_tensor_details()
            if tensor["name"].startswith(f"{scope}/") and tuple(tensor["shape"][1:3]) == (3, 3)
        )
        scales = detail["quantization_parameters"]["scales"]
        kernel = runtime.get_tensor(detail["index"]).astype("float32")
        if scope.endswith("depthwise"):
            got, want = tensors[f"{scope}/depthwise_weights"][..., 0], kernel[0] * scales
        else:
            got, want = tensors[f"{scope}/weights"], kernel.transpose(1, 2, 3, 0) * scales
        # A product in float64, rounded
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_folded_batch_norm(folded):
    """The BatchNorm of the model adds the bias alone."""
    model = kseg.create_model("deeplab_v3_mobilenet_v2", depth_multiplier=0.5)
    tensors = checkpoints.read(folded)
    checkpoints.assign(model, tensors, part="backbone")
    x = np.random.default_rng(0).normal(size=(1, 2, 2, 16)).astype("float32")
    got = model.get_layer("MobilenetV2.Conv.BatchNorm")(x)
    # To float32's roundings.
    np.testing.assert_allclose(got, x + tensors["MobilenetV2/Conv/biases"], atol=1e-6, rtol=0)


def test_a_tflite_file_in_half_precision(tmp_path):
    """kseg's own files of one model: its kernels by an operator that widens them."""
    model = kseg.create_model("deeplab_v3_mobilenet_v2", depth_multiplier=0.25)
    read = []
    for precision in ("fp32", "fp16"):
        file = tmp_path / f"{precision}.tflite"
        kseg.tflite.convert(model, file, precision=precision, input_size=(33, 33))
        for method in (checkpoints.read, lambda f: kseg.create_model(model.name, weights=f)):
            with pytest.raises(kseg.KsegError, match=r"p\d+.tflite: a file that kseg converted, "):
                method(file)
        # As a file of others
        file.write_bytes(file.read_bytes().replace(CARD_ENTRY.encode(), b"not_kseg_"))
        # The converter's names differ, the order does not.
        read.append(checkpoints.read(file).values())
    assert len(read[0]) > 100
    for want, got in zip(*read, strict=True):
        assert got.dtype == np.float32
        # 11 bits of a half's fraction, and its least number
        np.testing.assert_allclose(got, want, rtol=2**-11, atol=2**-24)


@pytest.mark.parametrize("content", [b"TFL3", b"\x1c\0\0\0TFL3" + b"\xff" * 100])
def test_damaged_tflite_file(content, tmp_path):
    path = tmp_path / "x.tflite"
    path.write_bytes(content)
    with pytest.raises(kseg.KsegError, match=r"x\.tflite: not a readable checkpoint"):
        checkpoints.read(path)
