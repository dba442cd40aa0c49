"""The table of networks, and how a row becomes a model."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras

from kseg.backbones import applications
from kseg.data.classes import CAMVID, CITYSCAPES, VOC, ClassTable
from kseg.errors import KsegError
from kseg.layers import Resize
from kseg.model import (
    Card,
    Normalization,
    SegmentationModel,
    check_backend,
    copy_weights,
    first_line,
    normalize,
)
from kseg.networks.cgnet import cgnet
from kseg.networks.deeplab import deeplab
from kseg.networks.deeplab_v1 import deeplab_v1
from kseg.networks.deeplab_v2 import deeplab_v2
from kseg.networks.enet import enet
from kseg.networks.erfnet import erfnet
from kseg.networks.espnet import espnet, espnet_c
from kseg.networks.fcn import fcn
from kseg.networks.icnet import icnet
from kseg.networks.liteseg import liteseg
from kseg.networks.pspnet import pspnet
from kseg.networks.skipnet import skipnet
from kseg.networks.unet import unet


@dataclasses.dataclass(frozen=True)
class Variant:
    """A row of the zoo.

    Attributes:
        builder: ``builder(x, num_classes, **options)`` gives logits at any stride, or a
            dict of them with "logits" first where ``auxiliary`` is asked for.
        options: the builder's arguments of this row.
        normalization: what the published weights expect.
        resize: how the published network resizes, "half_pixel" or "align_corners".
        tensors: layout of its published checkpoints, "pytorch" or "tf_slim".
        backbone, classifier: prefixes of the layer names of these parts.
        features: name of the layer with the backbone's output, "" where it has no
            output stride to choose.
        unused: prefixes of published tensors that the reference itself does not run.
        application: the network of keras.applications that is its backbone, if one is.
        num_classes, dataset, void_channels: of the published weights; a model without
            weights has 19 classes in every row.
        parameters: trainable, at ``num_classes``.
        multiply_adds: by input size (H, W), of convolutions and linear layers.
        mean_iou: published score, "value in %, where" or "".
        source: paper and reference implementation of the facts.
    """

    builder: Callable[..., Any]
    normalization: Normalization
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    resize: str = "half_pixel"
    tensors: str = "pytorch"
    backbone: tuple[str, ...] = ()
    classifier: tuple[str, ...] = ()
    features: str = ""
    unused: tuple[str, ...] = ()
    application: str = ""
    num_classes: int = 19
    dataset: str = "cityscapes"
    void_channels: tuple[int, ...] = ()
    parameters: int = 0
    multiply_adds: Mapping[tuple[int, int], float] = dataclasses.field(default_factory=dict)
    mean_iou: str = ""
    source: str = ""


# Its statistics were taken in BGR order and are applied to RGB (fixtures, CGNet's code).
_CGNET_INPUT = Normalization((72.39239876, 82.90891754, 73.15835921), (1.0, 1.0, 1.0))
_CGNET = Variant(
    builder=cgnet,
    normalization=_CGNET_INPUT,
    backbone=("level", "b1", "bn_prelu_"),
    classifier=("classifier.",),
    source="arXiv:1811.08201; github.com/wutianyiRosun/CGNet",
)

# The unused tensors are the heads of the ImageNet checkpoints.
_DEEPLAB = Variant(
    builder=deeplab,
    # (2/255) x - 1, whichever the backbone.
    normalization=Normalization((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    resize="align_corners",
    tensors="tf_slim",
    classifier=("logits.",),
    source="arXiv:1802.02611; github.com/tensorflow/models research/deeplab",
)


def _xception(depth: int, **facts: Any) -> Variant:
    """DeepLabv3+ with Xception of this depth."""
    name = f"xception_{depth}"
    return dataclasses.replace(
        _DEEPLAB,
        options={"backbone": name},
        backbone=(f"{name}.",),
        unused=(f"{name}/logits/",),
        features=f"{name}.exit_flow.block2.unit_1.xception_module.separable_conv3_pointwise.relu",
        **facts,
    )


_RESNET = dataclasses.replace(
    _DEEPLAB,
    options={"backbone": "resnet_v1_101_beta"},
    backbone=("resnet_v1_101.",),
    unused=("resnet_v1_101/logits/",),
    features="resnet_v1_101.block4.unit_3.bottleneck_v1.relu",
)
_MOBILENET_V2 = dataclasses.replace(
    _DEEPLAB,
    options={"backbone": "mobilenet_v2"},
    backbone=("MobilenetV2.",),
    unused=("MobilenetV2/Conv_1/", "MobilenetV2/Logits/"),
    features="MobilenetV2.expanded_conv_16.project.BatchNorm",
)

# (x - mean) / std / 255 on OpenCV's BGR: the published code divides once more.
_ESPNET_INPUT = Normalization(
    mean=(72.3923111, 82.90893555, 73.15840149),
    std=(255 * 45.3192215, 255 * 46.15289307, 255 * 44.91483307),
    channel_order="BGR",
)
# Published without its statistics, which the authors' training takes of its own images: means
# over CamVid's 367 of the images' means and deviations, as Cityscapes' above are made.
_ESPNET_CAMVID_INPUT = Normalization(
    mean=(110.25683, 108.36230, 104.99074),
    std=(255 * 72.06399, 255 * 72.65216, 255 * 69.85317),
    channel_order="BGR",
)
_ESPNET = Variant(
    builder=espnet,
    normalization=_ESPNET_INPUT,
    backbone=("encoder.level", "encoder.b"),
    # The decoder computes in class channels from its first layer on.
    classifier=(
        "encoder.classifier.",
        "br",
        "up_l3.",
        "level3_C.",
        "combine_l2_l3.",
        "up_l2.",
        "conv.",
        "classifier",
    ),
    num_classes=20,
    void_channels=(19,),
    source="arXiv:1803.06815; github.com/sacmehta/ESPNet",
)
_UNIT_INPUT = Normalization((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))

_IMAGENET_INPUT = Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_LITESEG = Variant(
    builder=liteseg,
    normalization=_IMAGENET_INPUT,
    resize="align_corners",
    backbone=("mobile_features.", "shuffle_features.", "resnet_features."),
    classifier=("last_conv.6",),
    # ImageNet classifiers.
    unused=("mobile_features.classifier.", "shuffle_features.module.fc."),
    source="arXiv:1912.06683; github.com/tahaemara/LiteSeg",
)

# The ImageNet mean of the Caffe models, which do not scale their input.
_CAFFE_INPUT = Normalization((104.00699, 116.66877, 122.67892), (1.0, 1.0, 1.0), "BGR")
_FCN = Variant(
    builder=fcn,
    normalization=_CAFFE_INPUT,
    backbone=("conv",),
    classifier=("score_",),
    num_classes=21,
    dataset="voc",
    source="arXiv:1411.4038 (134 M parameters); github.com/shelhamer/fcn.berkeleyvision.org",
)
# Not conv5_4 nor the projections, such as conv3_1_sub2_proj, which belong to the fusions.
_ICNET_BACKBONE = tuple(
    f"conv{block}_{unit}_{part}"
    for block in range(1, 6)
    for unit in range(1, 7)
    for part in ("1x1", "3x3")
)
# The mean of Cityscapes in BGR, divided by 255.
_SKIPNET_INPUT = Normalization((73.29132098, 83.04442645, 72.5238962), (255.0, 255.0, 255.0), "BGR")
_SKIPNET = Variant(
    builder=skipnet,
    normalization=_SKIPNET_INPUT,
    classifier=("score_",),
    source="arXiv:1803.02758; github.com/MSiam/TFSegmentation",
)


def _adapted(row: Variant, application: str, **facts: Any) -> Variant:
    """The row's head on a network of keras.applications; its published facts go."""
    return dataclasses.replace(
        row,
        options={"backbone": application},
        normalization=applications.normalization(application),
        tensors="tf_slim",
        backbone=(applications.PREFIX,),
        unused=(),
        features=applications.FEATURES,
        application=application,
        **{
            "parameters": 0,
            "multiply_adds": {},
            "mean_iou": "",
            "source": f"{row.source}; keras.applications.{application}",
            **facts,
        },
    )


# What `create_model` puts on any network of keras.applications: "deeplab_v3_plus.ResNet50V2".
_HEADS = {"deeplab_v3_plus": _DEEPLAB, "liteseg": _LITESEG}

VARIANTS: dict[str, Variant] = {
    "cgnet_m3n21": dataclasses.replace(
        _CGNET,
        options={"m": 3, "n": 21},
        parameters=496_306,
        multiply_adds={(512, 1024): 6.76e9, (360, 480): 2.23e9, (1024, 2048): 27.05e9},
        mean_iou="64.8 Cityscapes test; 65.6 CamVid test",
    ),
    "cgnet_m3n15": dataclasses.replace(
        _CGNET,
        options={"m": 3, "n": 15},
        parameters=423_682,
        multiply_adds={(512, 1024): 6.30e9, (360, 480): 2.08e9, (1024, 2048): 25.21e9},
        mean_iou="59.7 Cityscapes val",
    ),
    "deeplab_v3_plus_xception41": _xception(
        41,
        parameters=28_108_147,
        multiply_adds={(513, 513): 40.00e9, (1025, 2049): 310.40e9},
    ),
    "deeplab_v3_plus_xception65": _xception(
        65,
        parameters=41_054_899,
        multiply_adds={(513, 513): 54.03e9, (1025, 2049): 418.38e9},
        mean_iou="78.79 Cityscapes val; 82.1 Cityscapes test",
    ),
    "deeplab_v3_plus_xception71": _xception(
        71,
        parameters=43_477_323,
        multiply_adds={(513, 513): 66.06e9, (1025, 2049): 513.04e9},
        mean_iou="79.55 Cityscapes val",
    ),
    "deeplab_v3_plus_resnet101": dataclasses.replace(
        _RESNET,
        parameters=45_811_523,
        multiply_adds={(513, 513): 65.16e9, (1025, 2049): 505.58e9},
        mean_iou="78.85 VOC 2012 val",
    ),
    # As in its paper: the separable pyramid came with v3+.
    "deeplab_v3_resnet101": dataclasses.replace(
        _RESNET,
        options={**_RESNET.options, "aspp_separable": False, "decoder": False},
        parameters=58_163_923,
        multiply_adds={(513, 513): 76.05e9, (1025, 2049): 588.84e9},
        mean_iou="77.21 VOC 2012 val",
        source="arXiv:1706.05587; github.com/tensorflow/models research/deeplab",
    ),
    "deeplab_v3_plus_mobilenet_v2": dataclasses.replace(
        _MOBILENET_V2,
        parameters=2_725_059,
        multiply_adds={(513, 513): 5.89e9, (1025, 2049): 46.09e9},
    ),
    "deeplab_v3_mobilenet_v2": dataclasses.replace(
        _MOBILENET_V2,
        options={**_MOBILENET_V2.options, "atrous_rates": (), "decoder": False},
        parameters=2_113_043,
        multiply_adds={(513, 513): 2.74e9, (1025, 2049): 21.23e9},
        mean_iou="70.71 Cityscapes val; 75.32 VOC 2012 val",
        source="arXiv:1801.04381; github.com/tensorflow/models research/deeplab",
    ),
    "deeplab_v3_plus_mobilenet_v3_large": _adapted(
        _DEEPLAB,
        "MobileNetV3Large",
        parameters=4_722_163,
        multiply_adds={(513, 513): 6.00e9},
    ),
    "deeplab_v3_plus_efficientnet_b0": _adapted(
        _DEEPLAB,
        "EfficientNetB0",
        parameters=6_181_375,
        multiply_adds={(513, 513): 8.69e9},
    ),
    "deeplab_v3_plus_densenet121": _adapted(
        _DEEPLAB,
        "DenseNet121",
        parameters=8_790_787,
        multiply_adds={(513, 513): 20.40e9},
    ),
    "espnet_c": dataclasses.replace(
        _ESPNET,
        builder=espnet_c,
        options={"p": 2, "q": 8},
        backbone=("level", "b"),
        classifier=("classifier.",),
        parameters=349_449,
        multiply_adds={(512, 1024): 3.47e9},
    ),
    "espnet": dataclasses.replace(
        _ESPNET,
        options={"p": 2, "q": 8},
        parameters=364_569,
        multiply_adds={(512, 1024): 4.71e9},
        mean_iou="60.34 Cityscapes test",
    ),
    "espnet_camvid": dataclasses.replace(
        _ESPNET,
        normalization=_ESPNET_CAMVID_INPUT,
        options={"p": 2, "q": 8, "skip": "b1"},
        num_classes=12,
        dataset="camvid",
        void_channels=(11,),
        parameters=354_517,
        multiply_adds={(360, 480): 1.34e9},  # counted here
        mean_iou="55.64 CamVid test",
    ),
    "enet": Variant(
        builder=enet,
        normalization=_UNIT_INPUT,
        backbone=(
            "initial_block.",
            "downsample",
            "regular1_",
            "regular2_",
            "regular3_",
            "dilated",
            "asymmetric",
        ),
        classifier=("transposed_conv",),
        parameters=351_660,
        multiply_adds={(512, 1024): 4.04e9, (360, 640): 1.77e9},
        mean_iou="58.3 Cityscapes test",
        source="arXiv:1606.02147; github.com/davidtvs/PyTorch-ENet",
    ),
    "erfnet": Variant(
        builder=erfnet,
        normalization=_UNIT_INPUT,
        backbone=("encoder.",),
        classifier=("decoder.output_conv",),
        # The encoder's own head, of its separate training.
        unused=("encoder.output_conv.",),
        num_classes=20,
        void_channels=(19,),
        parameters=2_064_256,
        multiply_adds={(512, 1024): 26.61e9},
        mean_iou="69.8 Cityscapes test; 72.1 val",
        source="Romera et al., T-ITS 2018; github.com/Eromera/erfnet_pytorch",
    ),
    "liteseg_mobilenet_v2": dataclasses.replace(
        _LITESEG,
        options={"backbone": "mobilenet_v2"},
        parameters=3_101_707,
        multiply_adds={(512, 1024): 4.31e9, (360, 640): 1.94e9, (1024, 2048): 17.22e9},
        mean_iou="67.81 Cityscapes test",
    ),
    "liteseg_shufflenet": dataclasses.replace(
        _LITESEG,
        options={"backbone": "shufflenet"},
        parameters=1_971_451,
        multiply_adds={(512, 1024): 2.25e9, (360, 640): 1.01e9, (1024, 2048): 8.98e9},
        mean_iou="65.17 Cityscapes test",
    ),
    "liteseg_darknet19": dataclasses.replace(
        _LITESEG,
        options={"backbone": "darknet19"},
        parameters=20_545_459,
        multiply_adds={(512, 1024): 57.13e9, (360, 640): 25.35e9, (1024, 2048): 222.56e9},
        mean_iou="70.75 Cityscapes test",
    ),
    "fcn_32s_vgg16": dataclasses.replace(
        _FCN,
        options={"stride": 32},
        parameters=134_346_581,
        multiply_adds={(512, 512): 110.80e9},
        mean_iou="63.6 VOC 2011 val",
    ),
    "fcn_16s_vgg16": dataclasses.replace(
        _FCN,
        options={"stride": 16},
        parameters=134_357_354,
        multiply_adds={(512, 512): 110.81e9},
        mean_iou="65.0 VOC 2011 val",
    ),
    "fcn_8s_vgg16": dataclasses.replace(
        _FCN,
        options={"stride": 8},
        parameters=134_362_751,
        multiply_adds={(512, 512): 110.84e9},
        mean_iou="65.5 VOC 2011 val; 67.2 VOC 2012 test",
    ),
    "deeplab_v1_vgg16": dataclasses.replace(
        _FCN,
        builder=deeplab_v1,
        classifier=("fc8",),
        features="conv5_3.relu",
        parameters=20_505_429,
        multiply_adds={(321, 321): 50.93e9},
        mean_iou="62.25 VOC 2012 val",
        source="arXiv:1412.7062 (20.5 M parameters), DeepLab-LargeFOV without CRF",
    ),
    "deeplab_v2_resnet101": Variant(
        builder=deeplab_v2,
        normalization=_CAFFE_INPUT,
        backbone=("layer",),
        classifier=("aspp.",),
        features="block4.unit_3.relu",
        num_classes=21,
        dataset="voc",
        parameters=44_048_532,
        multiply_adds={(321, 321): 75.14e9},
        mean_iou="76.35 VOC 2012 val",
        source="arXiv:1606.00915, without CRF; github.com/kazuto1011/deeplab-pytorch",
    ),
    "unet": Variant(
        builder=unet,
        normalization=_UNIT_INPUT,
        backbone=("down",),
        classifier=("classifier",),
        num_classes=2,
        dataset="isbi",
        parameters=31_031_810,
        multiply_adds={(512, 512): 192.69e9},
        mean_iou="92.03 PhC-U373; 77.56 DIC-HeLa",
        source="arXiv:1505.04597",
    ),
    "pspnet_resnet50": Variant(
        builder=pspnet,
        normalization=_IMAGENET_INPUT,
        resize="align_corners",
        backbone=("layer",),
        classifier=("cls.4", "aux.4"),
        features="block4.unit_3.relu",
        # The head of the training.
        unused=("aux.",),
        parameters=46_715_347,
        multiply_adds={(713, 713): 363.78e9},
        mean_iou="77.30 Cityscapes val",
        source="arXiv:1612.01105; github.com/hszhao/semseg",
    ),
    "icnet_resnet50": Variant(
        builder=icnet,
        normalization=Normalization((103.939, 116.779, 123.68), (1.0, 1.0, 1.0), "BGR"),
        resize="align_corners",
        backbone=_ICNET_BACKBONE,
        classifier=("conv6_cls", "sub24_out", "sub4_out"),
        parameters=6_699_987,
        multiply_adds={(1025, 2049): 29.81e9},
        mean_iou="67.7 Cityscapes val; 69.5 Cityscapes test",
        source="arXiv:1704.08545; github.com/hszhao/ICNet",
    ),
    "skipnet_mobilenet": dataclasses.replace(
        _SKIPNET,
        options={"backbone": "mobilenet"},
        tensors="tf_slim",
        backbone=("MobilenetV1.",),
        parameters=3_241_081,
        multiply_adds={(360, 640): 2.69e9, (512, 1024): 6.00e9},
        mean_iou="61.5 Cityscapes test",
    ),
    "skipnet_shufflenet": dataclasses.replace(
        _SKIPNET,
        options={"backbone": "shufflenet"},
        backbone=("shuffle_features.",),
        parameters=948_897,
        multiply_adds={(360, 640): 0.67e9, (512, 1024): 1.49e9},
        mean_iou="58.3 Cityscapes test",
    ),
}

DEFAULT_CLASSES = CITYSCAPES.num_classes
_CLASS_TABLES: dict[str, ClassTable] = {"camvid": CAMVID, "cityscapes": CITYSCAPES, "voc": VOC}


def list_models() -> list[str]:
    """Names that ``create_model`` knows, sorted."""
    return sorted(VARIANTS)


def find_variant(name: str) -> Variant:
    """The row of ``name``, or of a head and a network of keras.applications.

    Raises:
        KsegError: no such row; the message has the nearest names.
    """
    head, _, application = name.partition(".")
    if head in _HEADS and application in applications.names():
        return _adapted(_HEADS[head], application)
    if name not in VARIANTS:
        near = difflib.get_close_matches(name, VARIANTS, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise KsegError(f"unknown model {name!r}; {hint}`kseg models` lists all")
    return VARIANTS[name]


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    batch_size: int | None = None,
    output_stride: int | None = None,
    preprocessing: bool = True,
    weights: str | Path | None = None,
    auxiliary: bool = False,
    **options: Any,
) -> SegmentationModel:
    """Builds a network of the zoo.

    Args:
        name: a name of ``list_models()``; or "deeplab_v3_plus." or "liteseg." and any
            network of keras.applications, such as "deeplab_v3_plus.ResNet50V2".
        num_classes: channels of the logits; None is what ``weights`` has, else 19.
        input_shape: (H, W, 3); None for any height or width.
        batch_size: None for any. With a fixed ``input_shape`` and a batch of one,
            dilated convolutions convert to single TensorFlow Lite operators.
        output_stride: stride of the backbone's features where the network has a choice.
        preprocessing: True takes RGB 0..255 (uint8 or float) and normalises in the
            graph; False takes what the reference network takes.
        weights: shipped ones, such as "camvid"; a published checkpoint (PyTorch, TF1
            prefix, safetensors); or None. For the encoder alone, where it is of
            keras.applications: "imagenet", which Keras downloads, or a .h5 file of that
            network without its top.
        auxiliary: training heads besides; the output is then a dict.
        **options: the builder's other arguments, see its docstring.

    Returns:
        A model from (N, H, W, 3) to float32 logits (N, H, W, num_classes) at the
        input's height and width, also where the stride does not divide it.

    Raises:
        KsegError: an unknown name or option, a value out of range, or weights that do
            not fit.
    """
    check_backend()
    variant = find_variant(name)
    # Labels are 8-bit, and 255 is ignored.
    if num_classes is not None and not 1 <= num_classes <= 255:
        raise KsegError(f"num_classes is {num_classes}; it must be 1 to 255")
    if len(input_shape) != 3 or input_shape[2] != 3:
        raise KsegError(f"input_shape is {tuple(input_shape)}; it must be (H, W, 3)")
    if output_stride is not None:
        options["output_stride"] = output_stride
    if auxiliary:
        options["auxiliary"] = True
    _check_options(name, variant, options)

    if weights is not None:
        from kseg import shipped  # it builds models

        arguments = dict(
            num_classes=num_classes,
            input_shape=input_shape,
            batch_size=batch_size,
            preprocessing=preprocessing,
            **options,
        )
        if shipped.is_name(f"{weights}:{name}"):
            return shipped.load(f"{weights}:{name}", **arguments)
        return _with_weights(name, Path(weights), **arguments)
    num_classes = num_classes or DEFAULT_CLASSES
    card = Card(
        name=name,
        options=options,
        num_classes=num_classes,
        preprocessing=preprocessing,
        normalization=variant.normalization,
        resize=variant.resize,
        **_class_facts(variant, num_classes),
    )
    return build(card, input_shape=input_shape, batch_size=batch_size)


def _with_weights(
    name: str, path: Path, *, num_classes: int | None, **arguments: Any
) -> SegmentationModel:
    """``create_model`` and a published checkpoint in it; errors name its file."""
    from kseg import checkpoints  # it builds models to know their tensors

    application = find_variant(name).application
    if application and (str(path) == "imagenet" or path.suffix == ".h5"):
        model = create_model(name, num_classes=num_classes, **arguments)
        try:
            applications.load_weights(model, application, path)
        except (OSError, ValueError) as error:
            raise KsegError(
                f"{path}: not weights of keras.applications.{application} without its top "
                f"({first_line(error)})"
            ) from error
        model.card = model.card.replace(weights=f"{path.name}, encoder alone")
        return model

    tensors = checkpoints.read(path)
    try:
        classes = num_classes or checkpoints.count_classes(name, tensors)
        model = create_model(name, num_classes=classes, **arguments)
        checkpoints.assign(model, tensors)
    except KsegError as error:
        raise KsegError(f"{path}: {error}") from error
    model.card = model.card.replace(weights=path.name)
    return model


def build(
    card: Card,
    *,
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    batch_size: int | None = None,
    dtype: str = "float32",
    output: str = "logits",
    weights_of: keras.Model | None = None,
) -> SegmentationModel:
    """The graph of a card, with the weights of another model of that card.

    Args:
        dtype: of the input.
        output: "logits" at the input's size, or "stride-logits", the network's own
            before the last resizing (the same where it has no low-resolution head).
    """
    variant = find_variant(card.name)
    inputs = keras.Input(input_shape, batch_size=batch_size, dtype=dtype, name="image")
    x = normalize(inputs, card.normalization) if card.preprocessing else inputs
    try:
        heads = variant.builder(x, card.num_classes, **{**variant.options, **card.options})
    except (ValueError, TypeError) as error:
        raise KsegError(f"{card.name}: {error}") from error
    if not isinstance(heads, dict):
        heads = {"logits": heads}
    heads = {
        key: Resize(card.resize, name=key, dtype="float32")(logits, inputs)
        if output == "logits"
        else logits
        for key, logits in heads.items()
    }
    outputs = heads if card.options.get("auxiliary") else heads["logits"]
    model = SegmentationModel(inputs, outputs, name=card.name, card=card)
    if weights_of is not None:
        copy_weights(weights_of, model)
    return model


def at_output_stride(card: Card, output_stride: int) -> Card:
    """The card of the same weights at another output stride (DeepLabv3, Section 3.2).

    Dilations that the card or its row states are for the stride that it has, and change
    with it; those left to the builder do so anyway.

    Raises:
        KsegError: the network has no output stride to choose.
    """
    variant = find_variant(card.name)
    _check_options(card.name, variant, {"output_stride": output_stride})
    options = {**variant.options, **card.options}
    now = backbone_stride(card)
    changes: dict[str, Any] = {"output_stride": output_stride}
    if output_stride > 0 and (rates := options.get("atrous_rates")):
        changes["atrous_rates"] = tuple(rate * now // output_stride for rate in rates)
    return card.replace(options={**card.options, **changes})


def backbone_stride(card: Card) -> int | None:
    """Stride of the backbone's features; None where the network has no choice of it.

    Nor has one that is not of the zoo, whose answers a score takes as well.
    """
    try:
        variant = find_variant(card.name)
    except KsegError:
        return None
    stride = inspect.signature(variant.builder).parameters.get("output_stride")
    if stride is None:
        return None
    return {**variant.options, **card.options}.get("output_stride", stride.default)


def builder_options(variant: Variant) -> list[str]:
    """Names that ``create_model`` takes as options for this row."""
    parameters = inspect.signature(variant.builder).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def _check_options(name: str, variant: Variant, options: Mapping[str, Any]) -> None:
    known = builder_options(variant)
    for option, value in options.items():
        if option not in known:
            raise KsegError(
                f"{name} has no option {option!r} (given {value!r}); it has {', '.join(known)}"
            )


def _class_facts(variant: Variant, num_classes: int) -> dict[str, Any]:
    """Class names and colours where the count says which classes these are.

    The published count means the published classes, void channels included, and the
    default count Cityscapes' own.
    """
    dataset, void_channels = "cityscapes", ()
    if num_classes == variant.num_classes:
        dataset, void_channels = variant.dataset, variant.void_channels
    elif num_classes != DEFAULT_CLASSES:
        dataset = None
    if dataset not in _CLASS_TABLES:
        return dict(dataset=None, class_names=None, colors=None, void_channels=())
    table = _CLASS_TABLES[dataset]
    return dict(
        dataset=dataset,
        class_names=table.names,
        colors=table.colors,
        void_channels=void_channels,
    )
