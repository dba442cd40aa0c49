"""Published checkpoints as models, with what the checkpoint itself does not say."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kseg import zoo
from kseg.card import (
    IMAGENET,
    RESNET_CAFFE,
    SYMMETRIC_RANGE,
    UNIT_RANGE,
    VGG_CAFFE,
    Card,
    Normalization,
)
from kseg.checkpoints.tflite import dilations
from kseg.data.class_files import read_classes
from kseg.data.classes import ClassTable
from kseg.errors import KsegError
from kseg.files import suffix_of
from kseg.loading import ENCODER_ALONE, create_model
from kseg.model import SegmentationModel, copy_weights

# Networks are trained on these whatever their data set.
_COMMON_NORMALIZATIONS = (UNIT_RANGE, SYMMETRIC_RANGE, IMAGENET, VGG_CAFFE, RESNET_CAFFE)


def import_checkpoint(
    name: str,
    checkpoint: str | Path,
    *,
    options: Mapping[str, Any] | None = None,
    classes: ClassTable | str | Path | None = None,
    void_channels: Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> tuple[SegmentationModel, list[str]]:
    """A network with a published checkpoint, and what neither the file nor the caller says.

    A checkpoint holds neither the names of its classes nor the normalisation that it was
    trained with. The row's belong to its published weights: the names are used only for a
    checkpoint with as many channels.

    Args:
        name: a name of ``list_models()``.
        checkpoint: what ``checkpoints.read`` takes.
        options: the builder's arguments, such as ``{"q": 3}`` for ESPNet.
        classes: a data set ("cityscapes", "camvid" or "voc"), a file as ``read_classes``
            takes it, or a table: the classes in the order of the channels, with or without
            the void ones. An id that the table ignores is a void channel.
        void_channels: channels of no class, such as (0,) where "unlabelled" comes first;
            None for those of ``classes``, or else of the row.
        mean, std: of R, G and B, 0..255, for the normalisation; None for the row's.

    Returns:
        The model, and a line for each thing that should be stated.

    Raises:
        KsegError: as of ``create_model``; classes, void channels or a normalisation that
            cannot be this checkpoint's.
    """
    options = dict(options or {})
    # Not every argument of create_model is an option of the network.
    zoo.new_card(name, options=options)
    if "auxiliary" in options:
        raise KsegError("options has auxiliary; an imported model has one output, leave it out")
    model = create_model(name, weights=checkpoint, **options)
    card = _with_classes(model.card, classes, void_channels)
    if mean is not None or std is not None:
        # The normalisation is part of the graph.
        card = card.replace(normalization=_changed(card.normalization, mean, std))
        source, model = model, zoo.build(card)
        copy_weights(source, model)
    model.card = card
    unsaid = []
    variant = zoo.find_variant(name)
    if card.weights.endswith(ENCODER_ALONE):
        unsaid.append(f"{checkpoint}: has the encoder alone; train the model before you use it")
    has = f"{checkpoint}: has {card.num_classes} channels, {name}'s published weights have "
    if card.class_names is None:
        unsaid.append(
            f"{has}{variant.num_classes}: the model has no class names; "
            f"state classes{_other_rows(variant, card.num_classes)}"
        )
    if (
        mean is None
        and card.num_classes != variant.num_classes
        and card.normalization not in _COMMON_NORMALIZATIONS
    ):
        numbers = " ".join(f"{value:.2f}" for value in card.normalization.rgb_mean)
        unsaid.append(
            f"{has}{variant.num_classes}: the model subtracts their mean all the same, "
            f"{numbers} of R, G, B; state mean (and std) if this one was trained with another"
        )
    if suffix_of(checkpoint) == ".tflite" and not card.weights.endswith(ENCODER_ALONE):
        unsaid += _other_dilations(model, Path(checkpoint))
    return model, unsaid


def _other_dilations(model: SegmentationModel, path: Path) -> list[str]:
    """A line where a .tflite file runs the weights at another output stride than the model."""
    for scope, dilation in dilations(path).items():
        now = model.get_layer(scope.replace("/", ".")).dilation_rate[0]
        if now != dilation:
            return [
                f"{path}: dilates {scope} by {dilation}, the model by {now}, so their labels "
                "differ; state the file's output_stride in options"
            ]
    return []


def _with_classes(
    card: Card, classes: ClassTable | str | Path | None, void_channels: Sequence[int] | None
) -> Card:
    """The card with the names, colours and void channels that its channels have."""
    count = card.num_classes
    void = None if void_channels is None else tuple(sorted(set(void_channels)))
    if void and not 0 <= void[0] <= void[-1] < count:
        raise KsegError(f"void_channels is {void}; the checkpoint has channels 0 to {count - 1}")
    if classes is None:
        published = count == zoo.find_variant(card.name).num_classes
        if published and void in (None, card.void_channels):
            return card
        return card.replace(dataset=None, class_names=None, colors=None, void_channels=void or ())
    dataset = str(classes) if str(classes) in zoo.CLASS_TABLES else None
    if isinstance(classes, ClassTable):
        table = classes
    else:
        table = zoo.CLASS_TABLES[dataset] if dataset else read_classes(Path(classes))
    named = [*range(table.num_classes)]
    ignored = tuple(sorted(i for i in table.void_ids if i < count))
    if sorted([*table.file_ids, *ignored]) == [*range(count)]:
        # The table says of every channel what it is.
        named.sort(key=lambda i: table.file_ids[i])
        void = ignored if void is None else void
    elif void is None:
        void = () if len(named) == count else card.void_channels
    if len(named) == count:
        named = [i for i in named if i not in void]
    if not named or len(named) + len(void) != count:
        source = "classes" if isinstance(classes, ClassTable) else classes
        raise KsegError(
            f"{source}: has {table.num_classes} classes, the checkpoint {count} channels with "
            f"{len(void)} void ones; name each channel, or state the void ones as void_channels"
        )
    return card.replace(
        dataset=dataset,
        class_names=tuple(table.names[i] for i in named),
        colors=tuple(table.colors[i] for i in named),
        void_channels=void,
    )


def _changed(
    normalization: Normalization, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Normalization:
    """The normalisation with other numbers, which are of R, G, B."""

    def three(name: str, values: Sequence[float]) -> tuple[float, float, float]:
        numbers = tuple(map(float, values))
        if len(numbers) != 3 or (name == "std" and min(numbers) <= 0):
            raise KsegError(f"{name} is {values}; it must be three numbers, of R, G and B")
        red, green, blue = numbers
        return (red, green, blue) if normalization.channel_order == "RGB" else (blue, green, red)

    return dataclasses.replace(
        normalization,
        mean=normalization.mean if mean is None else three("mean", mean),
        std=normalization.std if std is None else three("std", std),
    )


def _other_rows(variant: zoo.Variant, num_classes: int) -> str:
    """Rows of the same network whose published weights have so many channels, for a message."""
    rows = [
        name
        for name, row in zoo.VARIANTS.items()
        if (row.builder, row.num_classes) == (variant.builder, num_classes)
    ]
    return f", or import it as {' or '.join(rows)}" if rows else ""
