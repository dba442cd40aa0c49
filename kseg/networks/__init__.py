"""Networks: a file each, with the builder and its rows of the zoo.

A builder is a function from an image tensor to logits at whatever stride the network
ends. A head is one from the features of any encoder. ``VARIANTS`` of its module has the rows,
by the name that ``create_model`` takes, and ``HEADS`` the heads, by theirs. ``kseg.zoo``
collects both.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from keras import KerasTensor

from kseg.backbones import Encoder, check_output_stride
from kseg.card import Normalization


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
        backbone, classifier: prefixes of the layer names of these parts; a backbone's are
            compared with the name and a "." behind it.
        boundary: the training head whose one channel is the logit of a boundary between classes;
            "" where all heads have the classes' channels.
        least_size: of the input's height and width.
        unused: prefixes of published tensors that the reference itself does not run.
        encoder: what its head stands on, where the builder is a head on an encoder.
        parts: by the option that has a part or leaves it out, the options of that part.
        num_classes, dataset, void_channels: of the published weights; a model without
            weights has 19 classes in every row. ``dataset`` is "" where the channels are in no
            data set's order.
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
    boundary: str = ""
    least_size: int = 1
    unused: tuple[str, ...] = ()
    encoder: Encoder | None = None
    parts: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    num_classes: int = 19
    dataset: str = "cityscapes"
    void_channels: tuple[int, ...] = ()
    parameters: int = 0
    multiply_adds: Mapping[tuple[int, int], float] = dataclasses.field(default_factory=dict)
    mean_iou: str = ""
    source: str = ""

    def replace(self, **changes: Any) -> Variant:
        """The row with other values in some fields."""
        return dataclasses.replace(self, **changes)

    def is_backbone(self, layer: str) -> bool:
        """Whether a layer of this name, or a tensor of it, belongs to the backbone."""
        return f"{layer}.".startswith(self.backbone)


@dataclasses.dataclass(frozen=True)
class Head:
    """What stands on an encoder.

    Attributes:
        function: ``function(features, num_classes, **options)`` gives logits as a builder
            does, of ``kseg.backbones.Features``. Where it has a keyword ``output_stride``,
            it is told the encoder's.
        options: arguments of the function and of the encoder, where other than theirs.
        resize, classifier, unused, parts, source: as of ``Variant``.
        needs: strides of the features that it takes, beside the last.
    """

    function: Callable[..., Any]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    resize: str = "half_pixel"
    classifier: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    parts: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    needs: tuple[int, ...] = ()
    source: str = ""

    def fits(self, encoder: Encoder) -> bool:
        """Whether the encoder has all features that it needs."""
        return set(self.needs) <= encoder.channels.keys() - {max(encoder.channels)}

    def on(
        self, encoder: Encoder, *, options: Mapping[str, Any] | None = None, **facts: Any
    ) -> Variant:
        """The head on an encoder, as a row.

        Args:
            encoder: of ``kseg.backbones.encoders.ENCODERS``.
            options: beside the head's own.
            **facts: other fields of the row, ``parameters`` and the like.
        """
        chosen = {**self.options, **(options or {})}
        if "output_stride" not in encoder.options():
            chosen.pop("output_stride", None)
        row = Variant(
            builder=_on_encoder(self.function, encoder),
            normalization=encoder.normalization,
            options=chosen,
            resize=self.resize,
            tensors=encoder.tensors,
            backbone=encoder.prefixes,
            classifier=self.classifier,
            least_size=encoder.least_size,
            unused=(*self.unused, *encoder.unused),
            encoder=encoder,
            parts=self.parts,
            source="; ".join(filter(None, (self.source, encoder.source))),
        )
        return row.replace(**facts)


@functools.cache
def _on_encoder(head: Callable[..., Any], encoder: Encoder) -> Callable[..., Any]:
    """The builder of a head on an encoder; its options are those of both."""
    own = {
        p.name: p.default
        for p in inspect.signature(head).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    }
    # The head knows best which stride it is made for.
    defaults = {**encoder.options(), **own}
    if "output_stride" not in encoder.options():
        defaults.pop("output_stride", None)

    def builder(x: KerasTensor, num_classes: int, **options: Any) -> Any:
        chosen = {**defaults, **options}
        stride = chosen.setdefault("output_stride", max(encoder.channels))
        check_output_stride(stride)
        features = encoder.function(x, **{name: chosen[name] for name in encoder.options()})
        return head(features, num_classes, **{name: chosen[name] for name in own})

    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(n, kind, default=value) for n, value in defaults.items()]
    builder.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return builder
