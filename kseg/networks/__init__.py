"""Networks: a file each, with the builder and its rows of the zoo.

A builder is a function from an image tensor to logits at whatever stride the network
ends. ``VARIANTS`` of its module has the rows, by the name that ``create_model`` takes, and
``HEADS`` those that fit on any network of keras.applications. ``kseg.zoo`` collects both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from kseg.backbones import applications
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
        backbone, classifier: prefixes of the layer names of these parts.
        features: name of the layer with the backbone's output, "" where it has no
            output stride to choose.
        least_size: of the input's height and width.
        unused: prefixes of published tensors that the reference itself does not run.
        application: the network of keras.applications that is its backbone, if one is.
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
    features: str = ""
    least_size: int = 1
    unused: tuple[str, ...] = ()
    application: str = ""
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

    def on_application(self, application: str, **facts: Any) -> Variant:
        """The row's head on a network of keras.applications, without its published facts.

        Args:
            application: a name of ``kseg.backbones.applications.names()``.
            **facts: ``parameters`` and the like of the new row.
        """
        unpublished = {
            "parameters": 0,
            "multiply_adds": {},
            "mean_iou": "",
            "source": f"{self.source}; keras.applications.{application}",
        }
        return self.replace(
            options={"backbone": application},
            normalization=applications.normalization(application),
            tensors="tf_slim",
            backbone=(applications.PREFIX,),
            unused=(),
            features=applications.FEATURES,
            least_size=applications.least_size(application),
            application=application,
            **{**unpublished, **facts},
        )
