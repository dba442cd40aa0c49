"""From an RGB image to a label map, whatever runs the network."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

from kseg.card import Card, check_type, checked_size, finite_number
from kseg.crf import DenseCRF
from kseg.errors import KsegError
from kseg.loading import load
from kseg.model import (
    SegmentationModel,
    check_card,
    computes_in_float32,
    copy_weights,
    dtype_policy,
    fixed_size,
    runs_on,
)
from kseg.pixels import rgb_image
from kseg.resize import resize_bilinear, resize_nearest
from kseg.zoo import at_output_stride, build, check_size


class Predictor(Protocol):
    """Runs a network on one image.

    Attributes:
        card: of the model.
        input_size: (H, W) that the network takes, None for any.
        runtime: name and version of what runs the network, which a score reports.
    """

    @property
    def card(self) -> Card: ...

    @property
    def input_size(self) -> tuple[int, int] | None: ...

    @property
    def runtime(self) -> str: ...

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The network's output for one image, in the form that the card names.

        Args:
            image: (H, W, 3) RGB 0..255, uint8 or float32.

        Returns:
            Float32 logits (h, w, num_classes) at the input's size or at a stride, or
            channel numbers (h, w) of any integer type.
        """
        ...


def check_predictor(source: Any) -> None:
    """Raises KsegError for what is no Predictor, such as a model or the name of a file."""
    if not all(hasattr(source, name) for name in ("card", "input_size", "runtime")):
        raise KsegError(
            f"a {type(source).__name__} is given for a Predictor; kseg.open_predictor makes one of "
            "a model or a file"
        )


class KerasPredictor:
    """A SegmentationModel or its ``.keras`` file as a Predictor.

    Args:
        model: the model, its ``.keras`` file or shipped WEIGHTS:MODEL.
        output_stride: of the backbone's features, where it is not the one that the model
            was trained at; the model then takes any size. None is the model's own.

    Raises:
        KsegError: a file that cannot be read, a stride that the network does not offer, or a
            model that has to be built again and whose graph is not the network of its card.
    """

    def __init__(
        self, model: SegmentationModel | str | Path, *, output_stride: int | None = None
    ) -> None:
        if isinstance(model, str | Path):
            model = load(model)
        check_card(model)
        card = model.card.for_inference()
        if output_stride is not None:
            own, card = card, at_output_stride(card, output_stride)
            with dtype_policy("float32"):
                source = build(own, weights_of=model)
                model = build(card)
            copy_weights(source, model)
        # A Predictor takes RGB, gives one output and computes in float32: a model without the
        # normalisation, with auxiliary heads or in half precision is built again.
        elif card != model.card or not computes_in_float32(model):
            with dtype_policy("float32"):
                model = build(card, input_shape=(*fixed_size(model), 3), weights_of=model)
        self.card = card
        height, width = fixed_size(model)
        self.input_size = None if height is None or width is None else (height, width)
        self.runtime = f"keras {keras.__version__} {keras.backend.backend()}"
        self._model = model

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """As ``Predictor.__call__``: float32 logits (H, W, num_classes).

        Raises:
            KsegError: an image of another size than the model was built for, or below the
                network's least size.
        """
        sizes = zip(fixed_size(self._model), image.shape[:2], strict=True)
        if any(own not in (None, given) for own, given in sizes):
            raise KsegError(
                f"{self.card.name}: the model takes {fixed_size(self._model)} (H, W), None for "
                f"any, not {image.shape[:2]}; state an input_size that fits"
            )
        check_size(self.card, *image.shape[:2])
        with _without_xla(self._model), runs_on(self._model, *image.shape[:2]):
            return np.asarray(self._model.predict_on_batch(np.asarray(image, np.float32)[None])[0])


@contextlib.contextmanager
def _without_xla(model: keras.Model) -> Iterator[None]:
    """Within it ``predict`` is not compiled by XLA, which Keras chooses on one GPU.

    XLA compiles anew for each image size, which takes minutes. JAX has nothing else.
    """
    chosen = model.jit_compile
    if keras.backend.backend() == "tensorflow":
        model.jit_compile = False
    try:
        yield
    finally:
        model.jit_compile = chosen


@dataclasses.dataclass(frozen=True)
class InferenceSettings:
    """How an image becomes a label map.

    Several scales or the mirrored image give the mean of the softmax, as in DeepLab
    (arXiv:1706.05587, Section 4.1; the code's ``predict_labels_multi_scale``).

    Attributes:
        input_size: (H, W) that images are resized to for the network; None is the
            predictor's own size, else the image's.
        pad_to: (H, W) to pad to at the bottom and right with the mean before the
            network; the padding is cropped from its output. None pads nothing.
        scales: factors of the padded input, above 0, resized as the card's network resizes.
        flip: whether the mirrored input runs as well, at every scale.
        window: (H, W) that the network runs on at a time: windows cover the input, and
            where they overlap the softmax is averaged. None is the whole input.
        overlap: share of a window that the next one covers again, 0 to below 1.
        crf: refines the logits along the image's edges, at the size of the label map.

    Raises:
        KsegError: a value out of range.
    """

    input_size: tuple[int, int] | None = None
    pad_to: tuple[int, int] | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: tuple[int, int] | None = None
    overlap: float = 1 / 3
    crf: DenseCRF | None = None

    def __post_init__(self) -> None:
        for name in ("input_size", "pad_to", "window"):
            # A frozen dataclass has no other way to set its own field.
            object.__setattr__(self, name, checked_size(name, getattr(self, name)))
        if not isinstance(self.scales, Iterable):
            raise KsegError(
                f"scales is {self.scales}; it must be several numbers, or (1.5,) for one"
            )
        scales = tuple(finite_number("scales", scale) for scale in self.scales)
        object.__setattr__(self, "scales", scales)
        check_type("flip", self.flip, bool)
        if not self.scales or min(self.scales) <= 0:
            raise KsegError(f"scales are {self.scales}; at least one is needed, all above 0")
        if not 0 <= finite_number("overlap", self.overlap) < 1:
            raise KsegError(f"overlap is {self.overlap}; it must be at least 0 and below 1")

    def check(self, card: Card) -> None:
        """Raises KsegError for a setting that needs logits where the file gives classes."""
        needs_logits = self.scales != (1.0,) or self.flip or self.window or self.crf
        if card.output == "argmax" and needs_logits:
            raise KsegError(
                f"{card.name}: the file gives classes; scales, flip, window and the CRF need "
                "logits, so convert it with output logits"
            )

    def size_for(self, predictor: Predictor) -> tuple[int, int] | None:
        """(H, W) that images are resized to for this predictor; None for their own size.

        With padding or windows these, not the image, have the size that the file takes.
        """
        if self.input_size or self.pad_to or self.window:
            return self.input_size
        return predictor.input_size

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON; the overlap is None without windows."""
        return {
            **dataclasses.asdict(self),
            "overlap": self.overlap if self.window else None,
        }


def inference_settings(
    settings: InferenceSettings | None, keywords: Mapping[str, Any]
) -> InferenceSettings:
    """The settings that a call was given, as one object or as keywords.

    Raises:
        KsegError: both are given, or a value is out of range.
        TypeError: a keyword that is no field of ``InferenceSettings``.
    """
    if settings is None:
        return InferenceSettings(**keywords)
    if keywords:
        raise KsegError(
            f"settings and {', '.join(keywords)} are both given; "
            "put all of them into the settings, or give keywords alone"
        )
    return settings


def predict_labels(
    predictor: Predictor,
    image: np.ndarray,
    settings: InferenceSettings | None = None,
    *,
    size: tuple[int, int] | None = None,
    **keywords: Any,
) -> np.ndarray:
    """Train ids (H, W) uint8 of an RGB image: the class of each pixel.

    The image is resized half-pixel without antialiasing to the network's input; logits
    are resized to ``size`` before the argmax, channel numbers by the nearest pixel. The argmax
    is over all channels; where a void channel wins, the train id is 255.

    Args:
        predictor: runs the network.
        image: (h, w, 3), 0..255, uint8 or another type of the same values.
        settings: None for the defaults.
        size: (H, W) of the result, None for the image's.
        **keywords: fields of ``InferenceSettings``, in place of ``settings``.

    Raises:
        KsegError: an image of another form or range, a size that the predictor does not take,
            a setting out of range or for logits where the file gives classes, or an output of
            another size, with other channels or with logits that are not finite.
    """
    settings = inference_settings(settings, keywords)
    check_predictor(predictor)
    image, card = rgb_image(image, "the image"), predictor.card
    settings.check(card)
    size = size or image.shape[:2]
    inner = settings.size_for(predictor) or image.shape[:2]
    outer = settings.pad_to or inner
    if outer[0] < inner[0] or outer[1] < inner[1]:
        raise KsegError(f"pad_to {outer} is smaller than the image {inner} (H, W)")
    pixels = _pad(resize_bilinear(image, inner), outer, card)
    unpadded = slice(inner[0]), slice(inner[1])
    if card.output == "argmax":
        channels = _run(predictor, pixels)[unpadded]
        return card.train_ids().take(resize_nearest(channels, size).astype(np.uint8))
    views = itertools.product(settings.scales, (False, True) if settings.flip else (False,))
    logits = _mean_of_softmax(
        resize_bilinear(_view_logits(predictor, pixels, view, settings)[unpadded], size)
        for view in views
    )
    if settings.crf:
        logits = settings.crf(resize_bilinear(image, size), logits)
    return card.train_ids().take(logits.argmax(-1))


def _view_logits(
    predictor: Predictor,
    pixels: np.ndarray,
    view: tuple[float, bool],
    settings: InferenceSettings,
) -> np.ndarray:
    """Logits (H, W, channels) of an input (H, W, 3), seen at (scale, whether mirrored)."""
    card, size = predictor.card, pixels.shape[:2]
    scale, mirrored = view
    pixels = resize_bilinear(pixels, _scaled(size, scale, card), card.resize)
    if mirrored:
        pixels = pixels[:, ::-1]
    if settings.window:
        logits = _slide(predictor, pixels, settings.window, settings.overlap)
    else:
        logits = _run(predictor, pixels)
    if mirrored:
        logits = logits[:, ::-1]
    # Logits at a stride or of another scale become what the network gives for the input.
    return resize_bilinear(logits, size, card.resize)


def _pad(pixels: np.ndarray, size: tuple[int, int], card: Card) -> np.ndarray:
    """(H, W, 3) of that size, the mean at the bottom and right of the pixels."""
    if pixels.shape[:2] == size:
        return pixels
    padded = np.empty((*size, 3), np.float32)
    padded[:] = card.normalization.rgb_mean
    padded[: pixels.shape[0], : pixels.shape[1]] = pixels
    return padded


def _scaled(size: tuple[int, int], scale: float, card: Card) -> tuple[int, int]:
    """The size at a scale: with align_corners the corners' distance scales, as in DeepLab."""
    corner = card.resize == "align_corners"
    height, width = (max(1, int((n - corner) * scale + corner)) for n in size)
    return height, width


def _run(predictor: Predictor, pixels: np.ndarray) -> np.ndarray:
    """The predictor's output for an input (H, W, 3), after checks of both sizes and values."""
    size, card = pixels.shape[:2], predictor.card
    if predictor.input_size not in (None, size):
        raise KsegError(
            f"the model takes {predictor.input_size} (H, W) only, not {size}; "
            "leave input_size out, take that size as window or convert at that size"
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
    """Logits (H, W, channels) whose softmax is the mean over the windows' softmax."""
    card, size = predictor.card, pixels.shape[:2]
    pixels = _pad(pixels, (max(size[0], window[0]), max(size[1], window[1])), card)
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
    """Logits whose softmax is the mean over the views' softmax; of one view its own logits."""
    logits = next(views)
    total, count = None, 1
    for more in views:
        total = _softmax(logits) if total is None else total
        total += _softmax(more)
        count += 1
    return logits if total is None else _log(total / count)


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the channels, void ones included."""
    result = np.exp(logits - logits.max(-1, keepdims=True))
    result /= result.sum(-1, keepdims=True)
    return result


def _log(probabilities: np.ndarray) -> np.ndarray:
    """Logarithm that stays finite where a probability has vanished in float32."""
    return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
