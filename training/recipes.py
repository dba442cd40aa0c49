"""The papers' training settings as data.

A recipe holds what a paper or its code states; whatever neither states is kseg's default.
Where kseg cannot follow a value exactly, its note says so. Losses here are means over
all pixels of the batch; PyTorch's and Torch's weighted cross-entropy is divided by the sum of
the pixels' weights.
"""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from kseg.errors import KsegError
from kseg.training.config import TrainingConfig


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Values of a TrainingConfig and their sources.

    Attributes:
        source: paper and code, one line.
        values: of the TrainingConfig.
        notes: by value, its source or what is not as published.
    """

    source: str
    values: dict[str, Any]
    notes: dict[str, str]


_DEEPLAB = {
    "optimizer": "sgd",
    "learning_rate": 7e-3,
    "weight_decay": 4e-5,
    "decayed": "full-kernels",
    "batch_size": 16,
    "class_weights": None,
    "jitter": 0.0,
    "batch_norm": "sync",
}
_DEEPLAB_NOTES = {
    "optimizer": "momentum 0.9, train.py",
    "learning_rate": "DeepLabv3+ Section 4; DeepLabv3 Section 4.1; biases twice as fast in "
    "train_utils.py, as fast as the rest here",
    "schedule": "poly 0.9, DeepLabv3 Section 4.1",
    "batch_size": "DeepLabv3 Section 4.1",
    "weight_decay": "train.py, for Xception and MobileNetV2; 1e-4 for ResNet",
    "decayed": "xception.py and model.py leave out depthwise kernels, BatchNorm and biases",
    "batch_norm": "tuned at batch 16, DeepLabv3 Section 4.1; over all replicas here",
    "class_weights": "none",
    "scale": "0.5 to 2 in steps of 0.25 in train.py; uniform here",
}
_CGNET = {
    "model": "cgnet_m3n21",
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "weight_decay": 5e-4,
    "decayed": "all",
    "class_weights": 1.10,
    "jitter": 0.0,
}
_CGNET_NOTES = {
    "optimizer": "betas 0.9 and 0.999, epsilon 1e-8, the authors' training scripts",
    "schedule": "poly 0.9 by step",
    "weight_decay": "the authors' scripts, where the loss is divided by the pixels' weights: "
    "beside it the decay is about four times as strong as here (4.2 on CamVid)",
    "decayed": "all weights",
    "class_weights": "1 / ln(1.10 + p), counted on train here and on trainval there",
    "scale": "0.5 to 2 in steps of 0.1; uniform here",
}
_ESPNET = {
    "dataset": "cityscapes",
    "optimizer": "adam",
    "learning_rate": 5e-4,
    "schedule": "step",
    "decay_epochs": 100,
    "decay_factor": 0.5,
    "weight_decay": 5e-4,
    "decayed": "all",
    "epochs": 300,
    "crop": (512, 1024),
    "scale": (0.25, 0.75),
    "class_weights": 1.10,
    "jitter": 0.0,
}
_ESPNET_NOTES = {
    "schedule": "halved every 100 epochs, train/main.py",
    "weight_decay": "about four times as strong there beside a loss divided by the pixels' weights",
    "decayed": "all weights",
    "crop": "five passes over whole images of 256x512 to 768x1536, half of them cut at their "
    "borders; one random scale here",
    "class_weights": "1 / ln(1.10 + p); void is a class there and ignored here",
    "flip": "upside down there; left and right here",
}

_DUAL_RESOLUTION = {
    "dataset": "cityscapes",
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "weight_decay": 5e-4,
    "decayed": "all",
    "batch_size": 12,
    "epochs": 484,
    "crop": (1024, 1024),
    "loss": "ohem",
    "ohem_threshold": 0.9,
    "auxiliary_loss": "cross_entropy",
    "class_weights": None,
    "jitter": 0.0,
    "init_part": "backbone",
}
_DUAL_RESOLUTION_NOTES = {
    "optimizer": "momentum 0.9",
    "schedule": "poly 0.9 by step",
    "decayed": "all weights",
    "epochs": "about 120,000 steps",
    "class_weights": "a table of 0.84 to 1.15 in the code; equal ones here",
    "init_part": "ImageNet's, which init must give",
}
_TORCHVISION = {
    "dataset": "voc",
    "split": "trainaug",
    "optimizer": "sgd",
    "decayed": "all",
    "batch_size": 32,
    "epochs": 30,
    "crop": (480, 480),
    "scale": (0.7, 2.8),
    "batch_norm": "sync",
    "class_weights": None,
    "jitter": 0.0,
    "init_part": "backbone",
}
_TORCHVISION_NOTES = {
    "dataset": "its weights are of COCO's train2017 with VOC's classes, for which kseg has no "
    "reader; train.py takes VOC too",
    "split": "voc_aug in train.py",
    "optimizer": "momentum 0.9, train.py",
    "schedule": "poly 0.9 by step",
    "decayed": "all weights",
    "batch_size": "4 on each of 8 GPUs, README.md",
    "epochs": "of COCO, which are many more steps",
    "crop": "presets.py",
    "scale": "to a short side of 260 to 1040 pixels in presets.py, of VOC's 375 here",
    "batch_norm": "of all GPUs, train.py",
    "init_part": "ImageNet's, which init must give",
}

_TEN_TIMES = "the encoder's is a tenth, "

RECIPES: dict[str, Recipe] = {
    "deeplab_v3_plus_cityscapes": Recipe(
        "DeepLabv3+, arXiv:1802.02611, and DeepLabv3, arXiv:1706.05587, Appendix C",
        {
            **_DEEPLAB,
            "model": "deeplab_v3_plus_xception65",
            "dataset": "cityscapes",
            "crop": (769, 769),
            "steps": 90_000,
        },
        {**_DEEPLAB_NOTES, "crop": "cityscapes.md", "steps": "cityscapes.md"},
    ),
    "deeplab_v3_plus_voc": Recipe(
        "DeepLabv3+, arXiv:1802.02611, Section 4, and DeepLabv3, arXiv:1706.05587, Section 4.1",
        {
            **_DEEPLAB,
            "model": "deeplab_v3_plus_xception65",
            "dataset": "voc",
            "split": "trainaug",
            "crop": (513, 513),
            "steps": 30_000,
        },
        {**_DEEPLAB_NOTES, "steps": "then 30,000 on trainval at 1e-3, stride 8, frozen BatchNorm"},
    ),
    "deeplab_v2_voc": Recipe(
        "DeepLab v2, arXiv:1606.00915, Section 4.1, and kazuto1011/deeplab-pytorch, voc12.yaml",
        {
            "model": "deeplab_v2_resnet101",
            "dataset": "voc",
            "split": "trainaug",
            "optimizer": "sgd",
            "learning_rate": 2.5e-3,
            "encoder_rate": 0.1,
            "weight_decay": 5e-4,
            "batch_size": 5,
            "accumulate": 2,
            "steps": 40_000,
            "crop": (321, 321),
            "scale": (0.5, 1.5),
            "batch_norm": "frozen",
            "class_weights": None,
            "jitter": 0.0,
            "init_part": "all-but-classifier",
        },
        {
            "learning_rate": f"of the classifier; {_TEN_TIMES}2.5e-4; the classifier's biases "
            "twice as fast there, as fast as its kernels here",
            "schedule": "poly 0.9, there in steps of 10 updates",
            "steps": "20,000 updates of two batches",
            "scale": "0.5 to 1.5 in steps of 0.25; uniform here",
            "batch_norm": "of the weights that init must give: COCO's there",
            "init_part": "the classifier starts anew",
            "loss": "of the logits at 1, 0.75 and 0.5 times the size and of their maximum there; "
            "at the size alone here",
        },
    ),
    "pspnet_cityscapes": Recipe(
        "PSPNet, arXiv:1612.01105, Section 5.1, and hszhao/semseg, cityscapes_pspnet50.yaml",
        {
            "model": "pspnet_resnet50",
            "dataset": "cityscapes",
            "optimizer": "sgd",
            "learning_rate": 0.1,
            "encoder_rate": 0.1,
            "weight_decay": 1e-4,
            "decayed": "all",
            "batch_size": 16,
            "epochs": 200,
            "crop": (713, 713),
            "auxiliary": (0.4,),
            "batch_norm": "sync",
            "class_weights": None,
            "jitter": 0.0,
            "rotate": 10.0,
            "init_part": "backbone",
        },
        {
            "learning_rate": f"of the heads, tool/train.py; {_TEN_TIMES}0.01",
            "schedule": "poly 0.9 by step",
            "decayed": "all weights",
            "auxiliary": "Section 3.3",
            "rotate": "tool/train.py",
            "crop": "half of them blurred besides; not done here",
            "init_part": "ImageNet's, which init must give",
        },
    ),
    "pidnet_cityscapes": Recipe(
        "PIDNet, arXiv:2206.02066, Section 4.2, and the authors' pidnet_small_cityscapes.yaml",
        {
            **_DUAL_RESOLUTION,
            "model": "pidnet_s",
            "scale": (0.5, 2.1),
            "ohem_fraction": 1 / 48,
            "auxiliary": (0.4, 20.0),
            "boundary_aware": 1.0,
        },
        {
            **_DUAL_RESOLUTION_NOTES,
            "scale": "0.5 to 2.1 in steps of 0.1, base_dataset.py; uniform here",
            "ohem_fraction": "131,072 pixels of a GPU's six images; of each image here",
            "auxiliary": "Section 3.1 and utils/criterion.py: seghead_p, and the boundaries of "
            "seghead_d, whose labels kseg.training.losses.edges makes",
            "auxiliary_loss": "utils/criterion.py",
            "boundary_aware": "Section 3.1; where the boundaries are above 0.8; with OHEM, as in "
            "utils/criterion.py",
            "batch_size": "Section 4.2; with the BatchNorm of each GPU",
        },
    ),
    "ddrnet_cityscapes": Recipe(
        "DDRNet, arXiv:2101.06085, Section IV, and the HRNet code, which the authors trained in",
        {
            **_DUAL_RESOLUTION,
            "model": "ddrnet_23_slim",
            "batch_norm": "sync",
            "ohem_fraction": 1 / 24,
            "auxiliary": (0.4,),
        },
        {
            **_DUAL_RESOLUTION_NOTES,
            "ohem_threshold": "of the HRNet code; DDRNet's own training is not published",
            "ohem_fraction": "131,072 pixels of a GPU's three images; of each image here",
            "auxiliary": "Section III-E",
            "auxiliary_loss": "of the HRNet code",
            "batch_size": "on four GPUs with synchronised BatchNorm",
            "class_uniform": "README: a class-balanced sample, whose details are not published; "
            "not done here",
        },
    ),
    "liteseg_cityscapes": Recipe(
        "LiteSeg, arXiv:1912.06683, and the authors' train.py",
        {
            "model": "liteseg_mobilenet_v2",
            "dataset": "cityscapes",
            "optimizer": "sgd",
            "learning_rate": 0.05,
            "weight_decay": 0.0,
            "batch_size": 4,
            "epochs": 100,
            "crop": (512, 1024),
            "scale": (0.2, 0.8),
            "rotate": 5.0,
            "class_weights": None,
            "jitter": 0.0,
        },
        {
            "learning_rate": "1e-7 on a sum over the pixels is 1e-7 x 512 x 1024 on their mean",
            "weight_decay": "5e-4 on the sum is 1e-9 on the mean",
            "schedule": "poly 0.9, there in steps of five epochs",
            "scale": "uniform",
            "rotate": "up to 5 degrees, in the first of four passes; the corners show what the "
            "image has there, and nothing there",
            "crop": "the first of four passes",
        },
    ),
    "cgnet_cityscapes": Recipe(
        "CGNet, arXiv:1811.08201, Section IV, and the authors' cityscapes_train.py",
        {
            **_CGNET,
            "dataset": "cityscapes",
            "batch_size": 16,
            "epochs": 300,
            "crop": (680, 680),
        },
        {**_CGNET_NOTES, "epochs": "350 on train and val for the test set"},
    ),
    "cgnet_camvid": Recipe(
        "CGNet, arXiv:1811.08201, Section IV, and the authors' camvid_train.py",
        {
            **_CGNET,
            "model": "cgnet_camvid",
            "dataset": "camvid",
            "batch_size": 8,
            "epochs": 800,
            "crop": (360, 360),
        },
        {
            **_CGNET_NOTES,
            "model": "with CamVid's mean, as the authors",
            "epochs": "on train and val for the test set",
        },
    ),
    "espnet_c_cityscapes": Recipe(
        "ESPNet, arXiv:1803.06815, Section 4, first stage: the encoder alone",
        {**_ESPNET, "model": "espnet_c", "batch_size": 12},
        _ESPNET_NOTES,
    ),
    "espnet_cityscapes": Recipe(
        "ESPNet, arXiv:1803.06815, Section 4, second stage: init is the first one's model.keras",
        {**_ESPNET, "model": "espnet", "batch_size": 6, "init_part": "backbone"},
        {**_ESPNET_NOTES, "init_part": "the decoder starts anew"},
    ),
    "lraspp_voc": Recipe(
        "torchvision, references/segmentation; the paper, arXiv:1905.02244, gives no settings",
        {
            **_TORCHVISION,
            "model": "lraspp_mobilenet_v3_large",
            "learning_rate": 0.01,
            "weight_decay": 1e-6,
        },
        {**_TORCHVISION_NOTES, "learning_rate": "train.py", "weight_decay": "README.md"},
    ),
    "deeplab_v3_voc": Recipe(
        "torchvision, references/segmentation, not the authors' of arXiv:1706.05587",
        {
            **_TORCHVISION,
            "model": "deeplab_v3_resnet50",
            "learning_rate": 0.02,
            "weight_decay": 1e-4,
            "auxiliary": (0.5,),
        },
        {
            **_TORCHVISION_NOTES,
            "learning_rate": "README.md; ten times as fast in the auxiliary head in train.py, as "
            "fast as the rest here",
            "weight_decay": "train.py",
            "auxiliary": "train.py",
        },
    ),
}


def from_recipe(name: str | None, **values: Any) -> TrainingConfig:
    """The configuration of a recipe with other values in place of some.

    Args:
        name: of ``RECIPES``, None for kseg's defaults.
        **values: fields of TrainingConfig; they override the recipe's.

    Raises:
        KsegError: an unknown recipe, or no model or data set.
    """
    if name is not None and name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3) or list(RECIPES)
        raise KsegError(f"unknown recipe {name!r}; did you mean {', '.join(near)}?")
    if "epochs" in values:
        values.setdefault("steps", None)  # a recipe's steps would override them
    values = {**(RECIPES[name].values if name else {}), **values}
    for field in ("model", "dataset"):
        if not values.get(field):
            raise KsegError(f"train needs a {field}; give one, or a recipe")
    return TrainingConfig(**values, recipe=name)
