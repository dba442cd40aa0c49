"""From an RGB image to a label map, whatever runs the network."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import keras
import numpy as np

from kseg.card import Card
from kseg.crf import DenseCRF
from kseg.errors import KsegError
from kseg.loading import load
from kseg.model import SegmentationModel
from kseg.resize import resize_bilinear, resize_nearest
from kseg.zoo import at_output_stride, build


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
    """A SegmentationModel or its ``.keras`` file as a Predictor.

    Args:
        model: the model or its file.
        output_stride: of the backbone's features, other than the model was trained at;
            None for its own. The model then takes any size.

    Raises:
        KsegError: a file that cannot be read, or a stride that the network has not.
    """

    def __init__(
        self, model: SegmentationModel | str | Path, *, output_stride: int | None = None
    ) -> None:
        if not isinstance(model, SegmentationModel):
            model = load(model)
        # A model without the normalisation or with auxiliary heads is rebuilt: what is
        # scored takes RGB and gives logits.
        card = model.card.for_inference()
        if output_stride is not None:
            card = at_output_stride(card, output_stride)
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
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    window: tuple[int, int] | None = None,
    overlap: float = 1 / 3,
    crf: DenseCRF | None = None,
) -> np.ndarray:
    """Channel numbers (H, W) uint8 of an RGB image.

    The image is resized half-pixel without antialiasing to the network's input; logits
    are resized to ``size`` before the argmax, channel numbers by the nearest pixel.
    Several scales or the mirrored image give the mean of the softmax, as in DeepLab
    (arXiv:1706.05587, Section 4.1; the code's ``predict_labels_multi_scale``).

    Args:
        predictor: runs the network.
        image: (h, w, 3) uint8.
        size: (H, W) of the result, None for the image's.
        input_size: (H, W) for the network; None is the predictor's own, else the image's.
        pad_to: (H, W) to pad to at the bottom and right with the mean before the
            network; the padding is cropped from its output.
        scales: of the padded input, resized as the card's network resizes.
        flip: adds the mirrored input at every scale.
        window: (H, W) that the network runs on at a time, every input covered by such
            windows; where they overlap, the mean of the softmax.
        overlap: share of a window that the next one covers again, 0 to below 1.
        crf: refines the logits at ``size`` along the image's edges.

    Raises:
        KsegError: a size that the predictor does not take, a setting out of range or for
            logits where the file gives classes, or an output of another size, with
            other channels or with logits that are not finite.
    """
    card = predictor.card
    check_way(card, scales=scales, flip=flip, window=window, overlap=overlap, crf=crf)
    size = size or image.shape[:2]
    inner = input_size or network_size(predictor, pad_to, window) or image.shape[:2]
    outer = pad_to or inner
    if outer[0] < inner[0] or outer[1] < inner[1]:
        raise KsegError(f"pad-to {outer} is smaller than the image {inner} (H, W)")
    pixels = _padded(resize_bilinear(image, inner), outer, card)
    if card.output == "argmax":
        channels = _run(predictor, pixels)[: inner[0], : inner[1]]
        return resize_nearest(channels, size).astype(np.uint8)

    def logits_of(view: np.ndarray) -> np.ndarray:
        """Logits (h, w, channels) of a network input of that size."""
        return _slide(predictor, view, window, overlap) if window else _run(predictor, view)

    def logits_at_size(scale: float, mirrored: bool) -> np.ndarray:
        view = resize_bilinear(pixels, _scaled(outer, scale, card), card.resize)
        logits = logits_of(view[:, ::-1])[:, ::-1] if mirrored else logits_of(view)
        # Stride logits and those of another scale first become what the whole network
        # gives for the padded input.
        logits = resize_bilinear(logits, outer, card.resize)[: inner[0], : inner[1]]
        return resize_bilinear(logits, size)

    views = [(scale, mirrored) for scale in scales for mirrored in (False, True)[: 1 + flip]]
    logits = _mean_of_softmax(logits_at_size(*view) for view in views)
    if crf:
        logits = crf(resize_bilinear(image, size), logits)
    return logits.argmax(-1).astype(np.uint8)


def check_way(
    card: Card,
    *,
    scales: Sequence[float],
    flip: bool,
    window: tuple[int, int] | None,
    overlap: float,
    crf: DenseCRF | None,
) -> None:
    """Raises KsegError for a setting of ``predict_labels`` that no image could do with."""
    if not scales or min(scales) <= 0:
        raise KsegError(f"scales are {tuple(scales)}; at least one is needed, all above 0")
    if window and min(window) < 1:
        raise KsegError(f"window is {window} (H, W); it must be positive")
    if not 0 <= overlap < 1:
        raise KsegError(f"overlap is {overlap}; it must be at least 0 and below 1")
    if card.output == "argmax" and (tuple(scales) != (1.0,) or flip or window or crf):
        raise KsegError(
            f"{card.name}: the file gives classes; scales, flip, window and the CRF need "
            "logits, so convert it with --output logits"
        )


def network_size(
    predictor: Predictor, pad_to: tuple[int, int] | None, window: tuple[int, int] | None
) -> tuple[int, int] | None:
    """(H, W) that images are resized to where no size is asked for; None for their own.

    With padding or windows these, not the image, have the size that the file takes.
    """
    return None if pad_to or window else predictor.input_size


def _padded(pixels: np.ndarray, size: tuple[int, int], card: Card) -> np.ndarray:
    """(H, W, 3) with the mean at the bottom and right."""
    if pixels.shape[:2] == size:
        return pixels
    padded = np.empty((*size, 3), np.float32)
    padded[:] = card.normalization.rgb_mean
    padded[: pixels.shape[0], : pixels.shape[1]] = pixels
    return padded


def _scaled(size: tuple[int, int], scale: float, card: Card) -> tuple[int, int]:
    """The size at a scale: with align_corners the corners' distance scales, as in DeepLab."""
    corner = card.resize == "align_corners"
    return tuple(max(1, int((n - corner) * scale + corner)) for n in size)


def _run(predictor: Predictor, pixels: np.ndarray) -> np.ndarray:
    """The predictor's output, checked."""
    size, card = pixels.shape[:2], predictor.card
    if predictor.input_size not in (None, size):
        raise KsegError(
            f"the model takes {predictor.input_size} (H, W) only, not {size}; "
            "leave --input-size out, take that size as --window or convert at that size"
        )
    output = predictor(np.ascontiguousarray(pixels))
    want = size if card.output == "argmax" else (*size, card.num_classes)
    # Networks round differently where their stride does not divide the size.
    same = output.shape[2:] == want[2:] and (
        card.output == "stride-logits" or output.shape[:2] == size
    )
    if output.ndim != len(want) or not same:
        raise KsegError(
            f"{card.name}: the output is {output.shape}, not {want} as the card says; "
            "convert the file again"
        )
    if not np.isfinite(output).all():
        raise KsegError(f"{card.name}: the logits are not finite; the weights are damaged")
    return output


def _slide(
    predictor: Predictor, pixels: np.ndarray, window: tuple[int, int], overlap: float
) -> np.ndarray:
    """Logits (H, W, channels) from windows; their softmax is the mean over the windows'."""
    card, size = predictor.card, pixels.shape[:2]
    pixels = _padded(pixels, tuple(map(max, size, window)), card)
    total = np.zeros((*pixels.shape[:2], card.num_classes), np.float32)
    counts = np.zeros((*pixels.shape[:2], 1), np.float32)
    rows, columns = (_starts(n, w, overlap) for n, w in zip(pixels.shape[:2], window, strict=True))
    for row, column in itertools.product(rows, columns):
        place = slice(row, row + window[0]), slice(column, column + window[1])
        logits = resize_bilinear(_run(predictor, pixels[place]), window, card.resize)
        total[place] += _softmax(logits)
        counts[place] += 1
    return _log(total / counts)[: size[0], : size[1]]


def _starts(extent: int, window: int, overlap: float) -> list[int]:
    """Where windows begin, so that they cover the extent; the last one ends with it."""
    step = max(1, round(window * (1 - overlap)))
    return [*range(0, extent - window, step), extent - window]


def _mean_of_softmax(views: Iterator[np.ndarray]) -> np.ndarray:
    """Logits whose softmax is the mean over the views'; a single view's own."""
    logits = next(views)
    total, count = None, 1
    for more in views:
        total = _softmax(logits) if total is None else total
        total += _softmax(more)
        count += 1
    return logits if total is None else _log(total / count)


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Over the channels, void ones included."""
    result = np.exp(logits - logits.max(-1, keepdims=True))
    result /= result.sum(-1, keepdims=True)
    return result


def _log(probabilities: np.ndarray) -> np.ndarray:
    """Finite where a probability has vanished in float32."""
    return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
