"""The table of networks, and how a row becomes a model."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras

from kseg.data.classes import CITYSCAPES, ClassTable
from kseg.errors import KsegError
from kseg.layers import Resize
from kseg.model import Card, Normalization, SegmentationModel, copy_weights, normalize
from kseg.networks.cgnet import cgnet
from kseg.networks.liteseg import liteseg


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
        unused: prefixes of published tensors that the reference itself does not run.
        num_classes, dataset, void_channels: of the published weights.
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
    unused: tuple[str, ...] = ()
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
}

_CLASS_TABLES: dict[str, ClassTable] = {"cityscapes": CITYSCAPES}


def list_models() -> list[str]:
    """Names that ``create_model`` knows, sorted."""
    return sorted(VARIANTS)


def find_variant(name: str) -> Variant:
    """The row of ``name``.

    Raises:
        KsegError: no such row; the message has the nearest names.
    """
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
        name: a name of ``list_models()``.
        num_classes: channels of the logits; None is what ``weights`` has, else 19.
        input_shape: (H, W, 3); None for any height or width.
        batch_size: None for any. With a fixed ``input_shape`` and a batch of one,
            dilated convolutions convert to single TensorFlow Lite operators.
        output_stride: stride of the backbone's features where the network has a choice.
        preprocessing: True takes RGB 0..255 (uint8 or float) and normalises in the
            graph; False takes what the reference network takes.
        weights: a published checkpoint (PyTorch, TF1 prefix, safetensors) or None.
        auxiliary: training heads besides; the output is then a dict.
        **options: the builder's other arguments, see its docstring.

    Returns:
        A model from (N, H, W, 3) to float32 logits (N, H, W, num_classes) at the
        input's height and width, also where the stride does not divide it.

    Raises:
        KsegError: an unknown name or option, a value out of range, or weights that do
            not fit.
    """
    variant = find_variant(name)
    if num_classes is not None and num_classes < 1:
        raise KsegError(f"num_classes is {num_classes}; it must be at least 1")
    if len(input_shape) != 3 or input_shape[2] != 3:
        raise KsegError(f"input_shape is {tuple(input_shape)}; it must be (H, W, 3)")
    if output_stride is not None:
        options["output_stride"] = output_stride
    if auxiliary:
        options["auxiliary"] = True
    _check_options(name, variant, options)

    tensors, origin = None, "random"
    if weights is not None:
        from kseg import checkpoints

        tensors, origin = checkpoints.read(weights), Path(weights).name
        if num_classes is None:
            num_classes = checkpoints.count_classes(name, tensors)
    num_classes = num_classes or variant.num_classes
    card = Card(
        name=name,
        options=options,
        num_classes=num_classes,
        preprocessing=preprocessing,
        normalization=variant.normalization,
        resize=variant.resize,
        weights=origin,
        **_class_facts(variant, num_classes),
    )
    model = build(card, input_shape=input_shape, batch_size=batch_size)
    if tensors is not None:
        from kseg import checkpoints

        checkpoints.assign(model, tensors)
    return model


def build(
    card: Card,
    *,
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    batch_size: int | None = None,
    output: str = "logits",
    weights_of: keras.Model | None = None,
) -> SegmentationModel:
    """The graph of a card, with the weights of another model of that card.

    Args:
        output: "logits" at the input's size, or "stride-logits", the network's own
            before the last resizing (the same where it has no low-resolution head).
    """
    variant = find_variant(card.name)
    inputs = keras.Input(input_shape, batch_size=batch_size, name="image")
    x = normalize(inputs, card.normalization) if card.preprocessing else inputs
    try:
        heads = variant.builder(x, card.num_classes, **{**variant.options, **card.options})
    except ValueError as error:
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
    """Class names and colours where the count says that the classes are the published."""
    if num_classes != variant.num_classes or variant.dataset not in _CLASS_TABLES:
        return dict(dataset=None, class_names=None, colors=None, void_channels=())
    table = _CLASS_TABLES[variant.dataset]
    return dict(
        dataset=variant.dataset,
        class_names=table.names,
        colors=table.colors,
        void_channels=variant.void_channels,
    )
