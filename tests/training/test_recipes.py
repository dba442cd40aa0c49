"""Every recipe can train: a few steps on small pictures."""

import json

import numpy as np
import pytest
from PIL import Image

from kseg.cli import main
from kseg.streets import write_streets
from kseg.training import RECIPES, from_recipe
from support import write_camvid

# What is tried are the recipes, not their networks, whose graphs take long to make.
OTHER = ("--model", "small")

_FIELDS = {name: set(recipe.values) for name, recipe in RECIPES.items()}
# Not those whose fields another has as well: a training takes seconds.
TRAINED = [
    name
    for name, fields in _FIELDS.items()
    if not any(fields < others for others in _FIELDS.values())
    and fields not in [others for other, others in _FIELDS.items() if other < name]
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A data set each of CamVid's, Cityscapes' and VOC's layout."""
    root = tmp_path_factory.mktemp("data")
    (root / "camvid").mkdir()
    write_camvid(root / "camvid", {"train": 2, "val": 1})
    write_streets(root / "cityscapes", 4, size=(64, 128))
    rng = np.random.default_rng(0)
    voc = root / "voc"
    for name in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
        (voc / name).mkdir(parents=True)
    for name in ("a", "b"):
        pixels = rng.integers(0, 256, (60, 70, 3), np.uint8)
        Image.fromarray(pixels).save(voc / f"JPEGImages/{name}.jpg")
        labels = Image.fromarray(rng.integers(0, 21, (60, 70), np.uint8))
        labels.save(voc / f"SegmentationClassAug/{name}.png")
    (voc / "ImageSets/Segmentation/trainaug.txt").write_text("a\nb\n")
    return root


@pytest.mark.parametrize("name", TRAINED)
def test_recipe(name, folders, tmp_path, capsys):
    values = RECIPES[name].values
    arguments = ["train", "--recipe", name, "--run-dir", str(tmp_path / "run"), "--steps", "2"]
    arguments += ["--data-dir", str(folders / values["dataset"]), "--val-split", "none"]
    arguments += ["--batch-size", "2", "--crop", "65", "65", *OTHER]
    if "auxiliary" in values:
        # "small" has two training heads, and none of boundaries.
        arguments += ["--auxiliary", "0.4", "0.4", "--boundary-aware", "0"]
    # Another network's part by that name.
    arguments += ["--init-part", "all"]
    assert main(arguments) == 0, capsys.readouterr().err
    record = json.loads((tmp_path / "run/config.json").read_text())["config"]
    assert record["recipe"] == name
    kept = set(values) - {"model", "steps", "batch_size", "crop", "init_part"}
    kept -= {"auxiliary", "boundary_aware"}
    plain = json.loads(json.dumps({key: values[key] for key in kept}))
    assert {key: record[key] for key in kept} == plain
    assert (tmp_path / "run/model.keras").is_file()


@pytest.mark.parametrize(
    ("name", "optimizer", "rate", "decay", "batch", "length", "crop", "scale", "weights"),
    [
        # DeepLabv3, Section 4.1 and Appendix C, and the code's train.py
        ("deeplab_v3_plus_cityscapes", "sgd", 0.007, 4e-5, 16, 90e3, 769, (0.5, 2), None),
        ("deeplab_v3_plus_voc", "sgd", 0.007, 4e-5, 16, 30e3, 513, (0.5, 2), None),
        # voc12.yaml; 20,000 iterations of two batches; rates of ASPP and heads
        ("deeplab_v2_voc", "sgd", 2.5e-3, 5e-4, 5, 40e3, 321, (0.5, 1.5), None),
        # cityscapes_pspnet50.yaml and tool/train.py
        ("pspnet_cityscapes", "sgd", 0.1, 1e-4, 16, 200, 713, (0.5, 2), None),
        # pidnet_small_cityscapes.yaml, base_dataset.py; the paper, Section IV
        ("pidnet_cityscapes", "sgd", 0.01, 5e-4, 12, 484, 1024, (0.5, 2.1), None),
        ("ddrnet_cityscapes", "sgd", 0.01, 5e-4, 12, 484, 1024, (0.5, 2), None),
        # train.py; rate and decay are of a sum over the pixels
        ("liteseg_cityscapes", "sgd", 1e-7, 5e-4, 4, 100, (512, 1024), (0.2, 0.8), None),
        # cityscapes_train.py and camvid_train.py
        ("cgnet_cityscapes", "adam", 1e-3, 5e-4, 16, 300, 680, (0.5, 2), 1.1),
        ("cgnet_camvid", "adam", 1e-3, 5e-4, 8, 800, 360, (0.5, 2), 1.1),
        # train/main.py; the scales of its five passes, 256x512 to 768x1536 of 1024x2048
        ("espnet_c_cityscapes", "adam", 5e-4, 5e-4, 12, 300, (512, 1024), (0.25, 0.75), 1.1),
        ("espnet_cityscapes", "adam", 5e-4, 5e-4, 6, 300, (512, 1024), (0.25, 0.75), 1.1),
        # train.py, README.md and presets.py; short sides of 260 to 1040, of 375 in VOC
        ("lraspp_voc", "sgd", 0.01, 1e-6, 32, 30, 480, (0.7, 2.8), None),
        ("deeplab_v3_voc", "sgd", 0.02, 1e-4, 32, 30, 480, (0.7, 2.8), None),
    ],
)
def test_values_of_the_papers(
    name, optimizer, rate, decay, batch, length, crop, scale, weights, tmp_path
):
    config = from_recipe(name)
    if name.startswith("liteseg"):
        # kseg's mean over the crop is the sum over 512 x 1024: 0.0524 and, below one digit, 0
        rate, decay = pytest.approx(rate * 512 * 1024, rel=0.05), pytest.approx(0, abs=2e-9)
    assert (config.optimizer, config.learning_rate, config.weight_decay) == (optimizer, rate, decay)
    assert (config.batch_size, config.steps or config.epochs) == (batch, length)
    assert tuple(config.crop) == ((crop, crop) if isinstance(crop, int) else crop)
    assert (tuple(config.scale), config.class_weights) == (scale, weights)
    assert (config.flip, config.jitter) == (True, 0)
    rotated = {"liteseg_cityscapes": 5, "pspnet_cityscapes": 10}
    assert config.rotate == rotated.get(name, 0)
    # base_lr is the encoder's, a tenth of the heads'.
    ten_times = name in ("deeplab_v2_voc", "pspnet_cityscapes")
    assert config.encoder_rate == (0.1 if ten_times else 1.0)
    if name.startswith("espnet"):
        assert (config.schedule, config.decay_epochs, config.decay_factor) == ("step", 100, 0.5)
    else:
        assert config.schedule == "poly"


@pytest.mark.parametrize(
    ("name", "images", "auxiliary", "boundary_aware"),
    # utils/criterion.py, BALANCE_WEIGHTS and SB_WEIGHTS; the paper's alpha
    [("pidnet_cityscapes", 6, (0.4, 20), 1), ("ddrnet_cityscapes", 3, (0.4,), 0)],
)
def test_losses_of_dual_resolution(name, images, auxiliary, boundary_aware):
    """OHEM of 131,072 pixels of the images of a GPU at least, for the logits alone."""
    config = from_recipe(name)
    assert (config.loss, config.auxiliary_loss) == ("ohem", "cross_entropy")
    assert config.ohem_threshold == 0.9
    assert config.ohem_fraction * images * 1024 * 1024 == pytest.approx(131_072)
    assert (config.auxiliary, config.boundary_aware) == (auxiliary, boundary_aware)


def test_list(capsys):
    assert main(["train", "--recipe", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == list(RECIPES)
    assert "arXiv:1811.08201" in lines[7]
