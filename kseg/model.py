"""A Keras functional model that carries a card."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from kseg.card import Card, Normalization
from kseg.errors import KsegError
from kseg.layers import Normalize


@keras.saving.register_keras_serializable("kseg")
class SegmentationModel(keras.Model):
    """Images (N, H, W, 3) to float32 logits (N, H, W, num_classes).

    An ordinary functional Keras model: ``fit``, ``predict``, ``save`` and
    ``keras.models.load_model`` work as usual. ``card`` travels in its configuration.
    """

    def __init__(self, inputs, outputs, name=None, *, card: Card | None = None, **kwargs):
        super().__init__(inputs=inputs, outputs=outputs, name=name, **kwargs)
        self.card = card

    def fit(self, *args: Any, class_weight: Any = None, **kwargs: Any) -> Any:
        """As of keras.Model, but for ``class_weight``.

        Raises:
            KsegError: a ``class_weight``. Keras takes one class for a whole image or row.
        """
        if class_weight is not None:
            raise KsegError(
                "class_weight is for one class an image, and labels here have one a pixel; give "
                "the weights to kseg.training.losses.SegmentationLoss(class_weights=...)"
            )
        return super().fit(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "card": self.card and self.card.to_json()}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects=None) -> SegmentationModel:
        config = dict(config)
        card = config.pop("card")
        model = super().from_config(config, custom_objects=custom_objects)
        model.card = card and Card.from_json(card)
        return model


def normalize(x: keras.KerasTensor, normalization: Normalization) -> keras.KerasTensor:
    """The layer for a card's normalisation on the tensor ``x``."""
    return Normalize(**dataclasses.asdict(normalization), name="normalize")(x)


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copies by layer name into ``target``; ``source`` may have more layers."""
    for layer in target.layers:
        if layer.weights:
            layer.set_weights(source.get_layer(layer.name).get_weights())


def check_backend() -> None:
    """Raises KsegError where Keras computes by what kseg does not run on."""
    if (backend := keras.backend.backend()) not in ("tensorflow", "jax"):
        raise KsegError(f"Keras runs on {backend} here; set KERAS_BACKEND to tensorflow or jax")
