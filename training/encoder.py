"""The encoder of a network: the layers that pretrained weights are for."""

from __future__ import annotations

import keras

from kseg.errors import KsegError
from kseg.model import SegmentationModel
from kseg.zoo import find_variant


def encoder_layers(model: SegmentationModel) -> list[keras.Layer]:
    """The layers with weights of a network's encoder, as ``init_part="backbone"`` has them.

    Raises:
        KsegError: the network has no encoder, or nothing else.
    """
    name = model.card.name
    weighted = [layer for layer in model.layers if layer.weights]
    try:
        variant = find_variant(name)
        found = [layer for layer in weighted if variant.is_backbone(layer.name)]
    except KsegError:  # a network that is not of the zoo
        found = []
    if not found or len(found) == len(weighted):
        raise KsegError(
            f"{name} has no encoder apart from the rest; leave encoder_rate and "
            "freeze_encoder_epochs out"
        )
    return found
