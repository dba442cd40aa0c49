"""A Keras functional model that carries a card."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import KerasTensor

from kseg.card import Card, Normalization
from kseg.errors import KsegError, KsegWarning, first_line
from kseg.layers import Normalize


@keras.saving.register_keras_serializable("kseg")
class SegmentationModel(keras.Model):
    """Images (N, H, W, 3) to float32 logits (N, H, W, num_classes).

    An ordinary functional Keras model: ``fit``, ``predict``, ``save`` and
    ``keras.models.load_model`` work as usual. ``card`` travels in its configuration.
    """

    card: Card

    def __init__(
        self,
        inputs: KerasTensor | list[KerasTensor],
        outputs: KerasTensor | list[KerasTensor] | dict[str, KerasTensor],
        name: str | None = None,
        *,
        card: Card | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(inputs=inputs, outputs=outputs, name=name, **kwargs)
        # Keras gives none, and ``from_config`` sets it next. A model that stays without one is
        # refused by ``load``, ``convert`` and ``train``: all other code finds a card.
        self.card = card  # type: ignore[assignment]

    def fit(self, x: Any = None, *args: Any, class_weight: Any = None, **kwargs: Any) -> Any:
        """As of keras.Model, but for ``class_weight``.

        Raises:
            KsegError: a ``class_weight``. Keras takes one class for a whole image or row.

        Warns:
            KsegWarning: images that are not 0..255, in arrays or in the first batch of a
                tf.data.Dataset, as do ``evaluate`` and ``predict``.
        """
        x = self._looked_at(x)
        if class_weight is not None:
            raise KsegError(
                "class_weight is for one class an image, and labels here have one a pixel; give "
                "the weights to kseg.training.losses.SegmentationLoss(class_weights=...)"
            )
        return super().fit(x, *args, **kwargs)

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As of keras.Model."""
        x = self._looked_at(x)
        return super().evaluate(x, *args, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """As of keras.Model."""
        x = self._looked_at(x)
        return super().predict(x, *args, **kwargs)

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """As of keras.Model.

        Raises:
            KsegError: Keras' old format, which it could not load again.
        """
        if str(filepath).endswith((".h5", ".hdf5")):
            raise KsegError(
                f"{filepath}: Keras could not load this model from its old format; save it as "
                ".keras, or the weights alone by save_weights as .weights.h5"
            )
        super().save(filepath, *args, **kwargs)

    def _looked_at(self, x: Any) -> Any:
        """What Keras is given; a tf.data.Dataset is looked at when its first batch is read."""
        if self.card is None or not self.card.preprocessing:
            return x
        if isinstance(x, np.ndarray):
            if x.dtype.kind == "f" and x.size:
                self._warn_of_scaled(float(x.min()), float(x.max()))
        elif "tensorflow" in sys.modules:
            import tensorflow as tf

            if isinstance(x, tf.data.Dataset):
                return self._looked_at_first(x)
        return x

    def _looked_at_first(self, batches: Any) -> Any:
        """The same batches of a tf.data.Dataset."""
        import tensorflow as tf

        spec = batches.element_spec
        images = spec[0] if isinstance(spec, tuple) else spec
        if not isinstance(images, tf.TensorSpec) or not images.dtype.is_floating:
            return batches

        def tell(low: np.ndarray, high: np.ndarray) -> np.bool_:
            self._warn_of_scaled(float(low), float(high))
            return np.bool_(True)

        def look(number: Any, batch: Any) -> Any:
            pixels = batch[0] if isinstance(spec, tuple) else batch

            def first() -> Any:
                ends = [tf.reduce_min(pixels), tf.reduce_max(pixels)]
                return tf.numpy_function(tell, ends, tf.bool)

            told = tf.cond(tf.equal(number, 0), first, lambda: tf.constant(True))
            with tf.control_dependencies([told]):
                return tf.nest.map_structure(tf.identity, batch)

        return batches.enumerate().map(look)

    def _warn_of_scaled(self, low: float, high: float) -> None:
        """Says so where images are scaled, which a model that normalises 0..255 sees as black."""
        # Noise may reach a little below 0.
        if 0 < high <= 1 or (low < 0 and 0 < high < 16):
            warnings.warn(
                f"{self.name}: the images reach from {low:.3g} to {high:.3g}, and the model "
                "takes RGB 0..255; leave your own scaling out",
                KsegWarning,
                stacklevel=4,
            )

    def get_config(self) -> dict[str, Any]:
        card = None if self.card is None else self.card.to_json()
        return {**super().get_config(), "card": card}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> SegmentationModel:
        config = dict(config)
        card = config.pop("card")
        model = super().from_config(config, custom_objects=custom_objects)
        model.card = card and Card.from_json(card)
        return model


def check_card(model: Any) -> None:
    """Raises KsegError for what is no SegmentationModel, or one that has lost its card."""
    if isinstance(model, SegmentationModel) and model.card is not None:
        return
    hint = "make it with kseg.create_model, or give it one with kseg.wrap"
    if isinstance(model, SegmentationModel):
        hint = "a copy of keras.models.clone_model takes its original's: copy.card = model.card"
    raise KsegError(f"the model is a {type(model).__name__} without a card; {hint}")


def normalize(x: KerasTensor, normalization: Normalization) -> KerasTensor:
    """The layer for a card's normalisation on the tensor ``x``."""
    return Normalize(**dataclasses.asdict(normalization), name="normalize")(x)


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copies by layer name into ``target``; ``source`` may have more layers."""
    for layer in target.layers:
        if layer.weights:
            layer.set_weights(source.get_layer(layer.name).get_weights())


def use_statistics(layer: keras.Operation) -> None:
    """Lets a Normalization compute with the mean and variance that its weights have now.

    Keras does so where it loads a file, and not where weights are set.
    """
    if isinstance(layer, keras.layers.Normalization):
        layer.finalize_state()


def fixed_size(model: keras.Model) -> tuple[int | None, int | None]:
    """(H, W) that the model was built for, None for a side that may have any length."""
    height, width = model.inputs[0].shape[1:3]
    return height, width


@contextlib.contextmanager
def runs_on(model: SegmentationModel, height: int, width: int) -> Iterator[None]:
    """Within it, what the layers of a wrapped model raise on an image becomes a KsegError.

    A U-Net whose stride does not divide the image's sides is the usual one. The networks of the
    zoo take any size from the least on.
    """
    try:
        yield
    except KsegError:
        raise
    except Exception as error:  # of any layer
        if not model.card.wrapped:
            raise
        raise KsegError(
            f"{model.card.name}: does not run on an image of {height}x{width} (HxW; "
            f"{first_line(error)}); a U-Net takes sides that its stride divides"
        ) from error


def check_image_size(model: SegmentationModel, height: int, width: int) -> None:
    """Whether a wrapped model runs on images of a size, by running it.

    Raises:
        KsegError: it was made for another size, or its layers fail.
    """
    own = fixed_size(model)
    if any(a not in (None, b) for a, b in zip(own, (height, width), strict=True)):
        raise KsegError(
            f"{model.card.name}: takes images of {own[0]}x{own[1]} (HxW) alone, not of "
            f"{height}x{width}"
        )
    with runs_on(model, height, width):
        model(np.zeros((1, height, width, 3), np.float32), training=False)


def leaf_layers(model: keras.Model) -> list[keras.Layer]:
    """The layers of a model; in place of models and layers of layers, what they are made of.

    One that has weights of its own besides its layers is there as well.
    """
    leaves: dict[int, keras.Layer] = {}
    for layer in model.layers:
        for part in layer._flatten_layers():
            inner = part._flatten_layers(include_self=False)
            others = {id(weight) for each in inner for weight in each.weights}
            if not inner or any(id(weight) not in others for weight in part.weights):
                leaves[id(part)] = part
    return list(leaves.values())


def computes_in_float32(model: keras.Model) -> bool:
    """Whether no layer of a model has half or double precision."""
    return all(layer.dtype_policy.compute_dtype == "float32" for layer in leaf_layers(model))


@contextlib.contextmanager
def dtype_policy(policy: str) -> Iterator[None]:
    """Within it, layers are made under this policy, whatever the user's own is."""
    before, floatx = keras.config.dtype_policy(), keras.config.floatx()
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(before)


def check_backend() -> None:
    """Raises KsegError where Keras computes by what kseg does not run on."""
    if (backend := keras.backend.backend()) not in ("tensorflow", "jax"):
        raise KsegError(f"Keras runs on {backend} here; set KERAS_BACKEND to tensorflow or jax")
    if (form := keras.config.image_data_format()) != "channels_last":
        raise KsegError(
            f"image_data_format of Keras is {form!r} (in keras.json, or set by "
            "keras.config.set_image_data_format); kseg needs 'channels_last'"
        )
