"""The table of networks, and how a row becomes a model."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from kseg import networks
from kseg.backbones.applications import NOT_DILATED
from kseg.backbones.encoders import ENCODERS
from kseg.card import Card, check_num_classes, whole_number
from kseg.data.classes import CAMVID, CITYSCAPES, VOC, ClassTable
from kseg.errors import KsegError
from kseg.graph import check_same_graph
from kseg.layers import Resize
from kseg.model import SegmentationModel, check_backend, copy_weights, normalize
from kseg.networks import Head, Variant
from kseg.wrapping import rebuild

# Rows and heads by name: every module of kseg.networks adds its own.
VARIANTS: dict[str, Variant] = {}
HEADS: dict[str, Head] = {}
for _module in pkgutil.iter_modules(networks.__path__, f"{networks.__name__}."):
    _network = importlib.import_module(_module.name)
    VARIANTS |= getattr(_network, "VARIANTS", {})
    HEADS |= getattr(_network, "HEADS", {})

DEFAULT_CLASSES = CITYSCAPES.num_classes
CLASS_TABLES: dict[str, ClassTable] = {"camvid": CAMVID, "cityscapes": CITYSCAPES, "voc": VOC}


def list_models() -> list[str]:
    """Names that ``create_model`` knows, sorted."""
    return sorted(VARIANTS)


def list_heads() -> list[str]:
    """Heads that ``create_model`` puts on an encoder, as "HEAD.ENCODER"; sorted."""
    return sorted(HEADS)


def list_encoders() -> list[str]:
    """Encoders that ``create_model`` puts a head on, as "HEAD.ENCODER"; sorted."""
    return sorted(ENCODERS)


def published_cells(name: str) -> tuple[str, str, str]:
    """Parameters, multiply-adds at one size and mean IoU in per cent of a row, as text."""
    variant = find_variant(name)
    costs = [f"{n / 1e9:.2f} G at {h}x{w}" for (h, w), n in variant.multiply_adds.items()]
    return f"{variant.parameters:,}", costs[0] if costs else "-", variant.mean_iou or "-"


def find_variant(name: str) -> Variant:
    """The row of ``name``, or of a head and an encoder, "HEAD.ENCODER".

    Raises:
        KsegError: no such row; the message has the nearest names.
    """
    if not isinstance(name, str):
        raise KsegError(f"the name of a model is {name!r}; it must be a text, as of list_models()")
    head, dot, encoder = name.partition(".")
    if dot:
        return _named("head", head, HEADS, name).on(_named("encoder", encoder, ENCODERS, name))
    if name not in VARIANTS:
        near = difflib.get_close_matches(name, VARIANTS, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise KsegError(f"unknown model {name!r}; {hint}`kseg models` lists all")
    return VARIANTS[name]


def _named(kind: str, part: str, table: Mapping[str, Any], name: str) -> Any:
    """The head or encoder of "HEAD.ENCODER".

    Raises:
        KsegError: there is none of that name; the message has the nearest, or the reason why a
            network of keras.applications is no encoder.
    """
    if part in table:
        return table[part]
    if kind == "encoder" and part in NOT_DILATED:
        raise KsegError(f"{name}: {part} is no encoder: {NOT_DILATED[part]}")
    near = difflib.get_close_matches(part, table, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise KsegError(f"unknown model {name!r}: no {kind} {part!r}; {hint}`kseg encoders` lists all")


def new_card(
    name: str,
    num_classes: int | None = None,
    *,
    preprocessing: bool = True,
    options: Mapping[str, Any] | None = None,
) -> Card:
    """The card of a network of the zoo with random weights.

    Args:
        name: of a row, or of a head and an encoder.
        num_classes: 2 to 255; None for 19.
        preprocessing: whether its graph normalises.
        options: the builder's arguments beside the row's own.

    Raises:
        KsegError: an unknown name or option, or a value out of range.
    """
    variant = find_variant(name)
    if num_classes is not None:
        check_num_classes(num_classes)
    _check_options(name, variant, options or {})
    num_classes = num_classes or DEFAULT_CLASSES
    return Card(
        name=name,
        options=dict(options or {}),
        num_classes=num_classes,
        preprocessing=preprocessing,
        normalization=variant.normalization,
        resize=variant.resize,
        **_class_facts(variant, num_classes),
    )


def build(
    card: Card,
    *,
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    batch_size: int | None = None,
    dtype: str = "float32",
    output: str = "logits",
    weights_of: SegmentationModel | None = None,
) -> SegmentationModel:
    """The graph of a card, with the weights of another model of that card.

    Args:
        dtype: of the input.
        output: "logits" at the input's size, or "stride-logits", the network's own
            before the last resizing (the same where it has no low-resolution head).

    Raises:
        KsegError: an option or a shape that the network does not take, or a graph of
            ``weights_of`` that is not the network of its card.
    """
    check_backend()
    if not isinstance(input_shape, Sequence) or tuple(input_shape[2:]) != (3,):
        raise KsegError(f"input_shape is {input_shape}; it must be (H, W, 3)")
    for argument, value in (("input_shape", input_shape[:2]), ("batch_size", (batch_size,))):
        for number in value:
            if number is not None and whole_number(argument, number) < 1:
                raise KsegError(f"{argument} has {number}; it must be at least 1, or None for any")
    if card.wrapped:
        if weights_of is None:
            raise KsegError(f"{card.name}: a wrapped model cannot be built of its card alone")
        return rebuild(weights_of, card, input_shape, batch_size, dtype, output)
    check_size(card, *input_shape[:2])
    variant = find_variant(card.name)
    inputs = keras.Input(input_shape, batch_size=batch_size, dtype=dtype, name="image")
    x = normalize(inputs, card.normalization) if card.preprocessing else inputs
    try:
        heads = variant.builder(x, card.num_classes, **{**variant.options, **card.options})
    except ValueError as error:
        raise KsegError(f"{card.name}: {_reason(error)}") from error
    except TypeError as error:  # of whatever an option's value was used for
        given = ", ".join(f"{option}={value!r}" for option, value in card.options.items())
        raise KsegError(
            f"{card.name}: cannot be built with {given} ({_reason(error)}); leave out what you do "
            "not mean to change"
        ) from error
    if not isinstance(heads, dict):
        heads = {"logits": heads}
    resized = {
        key: Resize(card.resize, name=key, dtype="float32")(logits, inputs)
        for key, logits in heads.items()
    }
    if output == "logits":
        heads = resized
    outputs = heads if card.options.get("auxiliary") else heads["logits"]
    model = SegmentationModel(inputs, outputs, name=card.name, card=card)
    if weights_of is not None:
        check_same_graph(
            weights_of,
            resized["logits"],
            card_name=card.name,
            skip_normalization=card.preprocessing and not weights_of.card.preprocessing,
        )
        copy_weights(weights_of, model)
    return model


def _reason(error: Exception) -> str:
    """What an error says, in one line: Keras adds the call's arguments, and colours."""
    text = str(error).partition("Arguments received by")[0]
    return " ".join(re.sub(r"\x1b\[\d*m", "", text).split())


def check_size(card: Card, height: int | None, width: int | None) -> None:
    """Raises KsegError for an input that is too small for a network of the zoo.

    Args:
        card: of the network; one that is not of the zoo takes any size.
        height, width: of the input, None where any is meant.
    """
    if card.wrapped:
        return
    try:
        least = find_variant(card.name).least_size
    except KsegError:
        return
    if any(size is not None and size < least for size in (height, width)):
        raise KsegError(
            f"{card.name}: an input of {height}x{width} (HxW) is too small; it takes "
            f"{least}x{least} at least, so enlarge or pad it"
        )


def at_output_stride(card: Card, output_stride: int) -> Card:
    """The card of the same weights at another output stride (DeepLabv3, Section 3.2).

    Dilations that the card or its row states are for the stride that it has, and change
    with it; those left to the builder do so anyway.

    Raises:
        KsegError: the network has no output stride to choose.
    """
    if card.wrapped:
        raise KsegError(f"{card.name}: a wrapped model has the output_stride that it was made with")
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
    if card.wrapped:
        return None
    try:
        variant = find_variant(card.name)
    except KsegError:
        return None
    stride = inspect.signature(variant.builder).parameters.get("output_stride")
    if stride is None:
        return None
    return {**variant.options, **card.options}.get("output_stride", stride.default)


def option_defaults(variant: Variant) -> dict[str, Any]:
    """What ``create_model`` takes as options for this row, and what they are by default."""
    parameters = inspect.signature(variant.builder).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    return {name: variant.options.get(name, value) for name, value in defaults.items()}


def _check_options(name: str, variant: Variant, options: Mapping[str, Any]) -> None:
    known = option_defaults(variant)
    for option, value in options.items():
        if option not in known:
            raise KsegError(
                f"{name} has no option {option!r} (given {value!r}); it has {', '.join(known)}"
            )
        default = known[option]
        # Any text would pass for True, and True for 1.
        for kind, wanted in ((bool, "True or False"), (str, "a text")):
            if isinstance(value, kind) and not isinstance(default, kind):
                raise KsegError(
                    f"{name}: {option} is {value!r}; it takes no {kind.__name__} and is "
                    f"{default!r} by default"
                )
            if isinstance(default, kind) and not isinstance(value, kind):
                raise KsegError(f"{name}: {option} is {value!r}; it must be {wanted}")
    chosen = {**variant.options, **options}
    for switch, names in variant.parts.items():
        idle = [option for option in names if option in options]
        if idle and not chosen.get(switch, True):
            raise KsegError(
                f"{name}: {idle[0]} is {options[idle[0]]!r}, and {switch} is False, so that it "
                "would have no effect; leave it out"
            )


def _class_facts(variant: Variant, num_classes: int) -> dict[str, Any]:
    """Class names and colours where the count says which classes these are.

    The published count means the published classes, void channels included, and the
    default count Cityscapes' own.
    """
    dataset: str | None = "cityscapes"
    void_channels: tuple[int, ...] = ()
    if num_classes == variant.num_classes:
        dataset, void_channels = variant.dataset, variant.void_channels
    elif num_classes != DEFAULT_CLASSES:
        dataset = None
    if dataset is None or dataset not in CLASS_TABLES:
        return dict(dataset=None, class_names=None, colors=None, void_channels=())
    table = CLASS_TABLES[dataset]
    return dict(
        dataset=dataset,
        class_names=table.names,
        colors=table.colors,
        void_channels=void_channels,
    )
