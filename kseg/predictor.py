"""From an RGB image to a label map, whatever runs the network."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import keras
import numpy as np

from kseg.crf import DenseCRF
from kseg.errors import KsegError
from kseg.model import Card, SegmentationModel, load_model
from kseg.resize import resize_bilinear, resize_nearest
from kseg.zoo import build


class Predictor(Protocol):
    """Runs a network on one image.

    Attributes:
        card: of the model.
        input_size: (H, W) that it takes, None for any.
        runtime: what runs it, for the record.
    """

    card: Card
    input_size: tuple[int, int] | None
    runtime: str

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """RGB (H, W, 3) 0..255, uint8 or float32, to the card's output.

        That is float32 logits (h, w, num_classes) at the input's size or at a stride,
        or channel numbers (h, w).
        """
        ...


class KerasPredictor:
    """A SegmentationModel or its ``.keras`` file as a Predictor."""

    def __init__(self, model: SegmentationModel | str | Path) -> None:
        if not isinstance(model, SegmentationModel):
            model = load_model(model)
        # A model without the normalisation or with auxiliary heads is rebuilt: what is
        # scored takes RGB and gives logits.
        card = model.card.for_inference()
        if card != model.card:
            model = build(card, weights_of=model)
        self.card = card
        height, width = model.input_shape[1:3]
        self.input_size = None if height is None or width is None else (height, width)
        self.runtime = f"keras {keras.__version__} {keras.backend.backend()}"
        self._model = model

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return np.asarray(self._model.predict_on_batch(np.asarray(image, np.float32)[None])[0])


def predict_labels(
    predictor: Predictor,
    image: np.ndarray,
    *,
    size: tuple[int, int] | None = None,
    input_size: tuple[int, int] | None = None,
    pad_to: tuple[int, int] | None = None,
    crf: DenseCRF | None = None,
) -> np.ndarray:
    """Channel numbers (H, W) uint8 of an RGB image.

    The image is resized half-pixel without antialiasing to the network's input; logits
    are resized to ``size`` before the argmax, channel numbers by the nearest pixel.

    Args:
        predictor: runs the network.
        image: (h, w, 3) uint8.
        size: (H, W) of the result, None for the image's.
        input_size: (H, W) for the network; None is the predictor's own, else the image's.
        pad_to: (H, W) to pad to at the bottom and right with the mean before the
            network; the padding is cropped from its output.
        crf: refines the logits at ``size`` along the image's edges.

    Raises:
        KsegError: a size that the predictor does not take, or logits that are missing or
            not finite.
    """
    size = size or image.shape[:2]
    inner = input_size or (None if pad_to else predictor.input_size) or image.shape[:2]
    outer = pad_to or inner
    if outer[0] < inner[0] or outer[1] < inner[1]:
        raise KsegError(f"pad-to {outer} is smaller than the image {inner} (H, W)")
    if predictor.input_size not in (None, outer):
        raise KsegError(
            f"the model takes {predictor.input_size} (H, W) only, not {outer}; "
            "leave --input-size out or convert at that size"
        )
    pixels = resize_bilinear(image, inner)
    if outer != inner:
        padded = np.empty((*outer, 3), np.float32)
        padded[:] = predictor.card.normalization.rgb_mean
        padded[: inner[0], : inner[1]] = pixels
        pixels = padded
    output = predictor(pixels)
    card = predictor.card
    if card.output == "argmax":
        if crf:
            raise KsegError(f"{card.name}: the file gives classes, the CRF needs logits")
        return resize_nearest(output[: inner[0], : inner[1]], size).astype(np.uint8)
    if not np.isfinite(output).all():
        raise KsegError(f"{card.name}: the logits are not finite; the weights are damaged")
    # Stride logits first become what the whole network gives.
    logits = resize_bilinear(output, outer, card.resize)[: inner[0], : inner[1]]
    logits = resize_bilinear(logits, size)
    if crf:
        logits = crf(resize_bilinear(image, size), logits)
    return logits.argmax(-1).astype(np.uint8)
