"""Losses: functions over keras.ops, and the class that ``compile`` takes.

Labels are (N, H, W) or (N, H, W, 1) train ids, logits (N, H, W, C). A function gives one value
a pixel, (N, H, W), or one an image, (N,); an ignored pixel adds nothing. ``SegmentationLoss``
takes the mean over all values, ignored pixels counted: means over each replica's valid pixels
would weight the replicas wrongly. For the same reason every selection (OHEM) and every
normalisation (Dice, Lovász) is within one image.

Labels of another shape, and a label that is neither a class nor ignored, are a KsegError; in a
TensorFlow graph the step fails with the same text, and in a program that XLA has compiled
(``jit_compile``, JAX), which cannot raise, the loss is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import keras
import numpy as np
from keras import ops

from kseg.card import finite_number
from kseg.data import IGNORE
from kseg.errors import KsegError
from kseg.training.labels import checked, of_shape, weights_of

# Of ``ohem``, as TrainingConfig has them.
OHEM_THRESHOLD, OHEM_FRACTION = 0.7, 1 / 16


def cross_entropy(
    labels: Any,
    logits: Any,
    *,
    class_weights: Sequence[float] | None = None,
    ignore_id: int = IGNORE,
) -> Any:
    """(N, H, W): cross-entropy, weighted by the label's class."""
    labels, bad = checked(labels, logits, logits.shape[-1], ignore_id)
    losses = _cross_entropy(labels, logits, class_weights, ignore_id)
    return ops.where(bad, np.nan, losses)


def _cross_entropy(
    labels: Any, logits: Any, class_weights: Sequence[float] | None, ignore_id: int
) -> Any:
    """Of labels that are checked."""
    valid, labels = _valid(labels, ignore_id)
    losses = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    weights = ops.cast(valid, losses.dtype)
    if class_weights is not None:
        # A GPU would give a class beyond the table the weight 0.
        if len(class_weights) != logits.shape[-1]:
            raise KsegError(
                f"class_weights has {len(class_weights)} weights and the model's output "
                f"{logits.shape[-1]} channels; give one a channel"
            )
        table = ops.convert_to_tensor(np.asarray(class_weights), dtype=losses.dtype)
        weights = weights * ops.take(table, labels)
    return losses * weights


def focal(
    labels: Any,
    logits: Any,
    *,
    gamma: float = 2.0,
    class_weights: Sequence[float] | None = None,
    ignore_id: int = IGNORE,
) -> Any:
    """(N, H, W): (1 - p) ** gamma of the cross-entropy (arXiv:1708.02002, Equation 5)."""
    labels, bad = checked(labels, logits, logits.shape[-1], ignore_id)
    plain = _cross_entropy(labels, logits, None, ignore_id)
    weighted = _cross_entropy(labels, logits, class_weights, ignore_id)
    # expm1 keeps the digits of 1 - p where p is nearly 1; the root of zero has no slope.
    return ops.where(bad, np.nan, ops.maximum(-ops.expm1(-plain), 1e-12) ** gamma * weighted)


def ohem(
    labels: Any,
    logits: Any,
    *,
    threshold: float = OHEM_THRESHOLD,
    fraction: float = OHEM_FRACTION,
    class_weights: Sequence[float] | None = None,
    ignore_id: int = IGNORE,
) -> Any:
    """(N,): mean cross-entropy of each image's hard pixels (arXiv:1604.04339, Section 2.2).

    Args:
        threshold: a pixel is hard where the label's probability is below it.
        fraction: of the image's pixels that are taken at least, hardest first.
    """
    labels, bad = checked(labels, logits, logits.shape[-1], ignore_id)
    losses = _cross_entropy(labels, logits, class_weights, ignore_id)
    plain = _cross_entropy(labels, logits, None, ignore_id)
    batch, pixels = _extent(losses)
    losses, plain = (ops.reshape(x, (batch, pixels)) for x in (losses, plain))
    hardest = ops.top_k(ops.stop_gradient(plain), share_of(pixels, fraction))[0][:, -1:]
    limit = ops.minimum(hardest, -math.log(threshold) if threshold else math.inf)
    chosen = ops.cast(ops.logical_and(plain >= limit, plain > 0), losses.dtype)
    means = ops.sum(losses * chosen, axis=1) / ops.maximum(ops.sum(chosen, axis=1), 1)
    return _nan_of_bad(bad, means)


def share_of(pixels: Any, fraction: float) -> Any:
    """``fraction * pixels`` rounded up, at least 1; the fraction to a 30,000th.

    Args:
        pixels: an int, or TensorFlow's int32 where a size is known only when it runs: the product
            of pixels and a numerator would be too large for it.
        fraction: 0 to 1.
    """
    part, whole = Fraction(fraction).limit_denominator(30_000).as_integer_ratio()
    if part == 0:
        return 1
    return pixels // whole * part + (pixels % whole * part + whole - 1) // whole


def dice(labels: Any, logits: Any, *, ignore_id: int = IGNORE) -> Any:
    """(N,): one less the mean Dice coefficient of the image's classes.

    2 sum(p g) / (sum(p^2) + sum(g^2)), arXiv:1606.04797, Section 3; for more than two
    classes the mean over those that the image's label has.
    """
    labels, bad = checked(labels, logits, logits.shape[-1], ignore_id)
    truth, probabilities = _one_hot(labels, logits, ignore_id)
    overlap = 2 * ops.sum(probabilities * truth, axis=1)
    total = ops.sum(probabilities**2, axis=1) + ops.sum(truth, axis=1)
    return _nan_of_bad(bad, _mean_present(1 - overlap / ops.maximum(total, 1e-6), truth))


# Bins for the errors, 0 to 1; the loss differs from that of a sort by at most their width.
_BINS = 2**14


def lovasz(labels: Any, logits: Any, *, ignore_id: int = IGNORE) -> Any:
    """(N,): Lovász-softmax over the image's classes (arXiv:1705.08790, Equation 9).

    The errors are sorted by counting them in 2^14 bins, which on a CPU takes a third of a
    sort's time; within a bin the label's own pixels come first.
    """
    labels, bad = checked(labels, logits, logits.shape[-1], ignore_id)
    truth, probabilities = _one_hot(labels, logits, ignore_id)
    errors = ops.abs(truth - probabilities)
    batch, _, classes = ops.shape(errors)
    # The largest errors first; those of ignored pixels are zero and are not counted.
    bins = ops.cast((1 - ops.stop_gradient(errors)) * _BINS, "int32")
    bins = ops.minimum(bins, _BINS - 1)
    lists = ops.reshape(ops.arange(batch * classes), (batch, 1, classes))
    cells = ((lists * _BINS) + bins) * 2 + ops.cast(truth, "int32")
    # One for a pixel that has a label.
    counted = ops.broadcast_to(ops.sum(truth, axis=-1, keepdims=True), ops.shape(errors))
    counts = ops.segment_sum(
        ops.reshape(counted, (-1,)), ops.reshape(cells, (-1,)), batch * classes * _BINS * 2
    )
    sums = ops.cumsum(ops.reshape(counts, (batch * classes, _BINS, 2)), axis=1)
    false, true = sums[..., 0], sums[..., 1]
    positives = true[:, -1:]
    before = ops.pad(false[:, :-1], ((0, 0), (1, 0)))
    # What a pixel adds to 1 - (positives - true) / (positives + false), by its truth.
    unions = ops.maximum(positives + before, 1)
    of_true = 1 / unions
    of_false = (positives - true) / (unions * ops.maximum(positives + false, 1))
    steps = ops.reshape(ops.stack([of_false, of_true], axis=-1), (-1,))
    losses = ops.sum(errors * ops.stop_gradient(ops.take(steps, cells)), axis=1)
    return _nan_of_bad(bad, _mean_present(losses, truth))


def distillation(targets: Any, logits: Any, *, temperature: float = 1.0) -> Any:
    """(N, H, W): how far the logits' probabilities are from a teacher's.

    T^2 KL(softmax(targets / T) || softmax(logits / T)), T the temperature. By the logits it has
    the gradient of the cross-entropy with soft targets of arXiv:1503.02531, Section 2, whose
    factor T^2 keeps that gradient's size; unlike it, it is zero where both agree.

    Args:
        targets: the teacher's logits, (N, H, W, C).
        logits: the student's, (N, H, W, C).
        temperature: above 0; higher ones show more of what the teacher thinks of the other
            classes.
    """
    teacher = ops.log_softmax(targets / temperature, axis=-1)
    student = ops.log_softmax(logits / temperature, axis=-1)
    return temperature**2 * ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)


def edges(labels: Any, *, ignore_id: int = IGNORE) -> Any:
    """(N, H, W) bool: the band four pixels wide around the edges between two classes.

    Both pixels of every pair of neighbours in a row or column with different classes, and their
    eight neighbours. A pair with an ignored pixel is no edge: nobody has said what is there.

    PIDNet's code takes OpenCV's Canny edges of the whole image's labels, one pixel wide, dilates
    them by a square of four, whose centre is between pixels, and scales and crops the result with
    the label. It has edges to ignored pixels too, and none within six pixels of the image's border.

    Args:
        labels: (N, H, W), whole numbers.
    """
    labels = ops.cast(labels, "int32")
    valid = ops.not_equal(labels, ignore_id)

    def differs(first: tuple[slice, ...], second: tuple[slice, ...]) -> Any:
        both = ops.logical_and(valid[first], valid[second])
        return ops.logical_and(both, ops.not_equal(labels[first], labels[second]))

    every, but_first, but_last = slice(None), slice(1, None), slice(None, -1)
    down = differs((every, but_last), (every, but_first))
    right = differs((every, every, but_last), (every, every, but_first))
    found = ops.logical_or(
        ops.logical_or(
            ops.pad(down, ((0, 0), (0, 1), (0, 0))), ops.pad(down, ((0, 0), (1, 0), (0, 0)))
        ),
        ops.logical_or(
            ops.pad(right, ((0, 0), (0, 0), (0, 1))), ops.pad(right, ((0, 0), (0, 0), (1, 0)))
        ),
    )
    band = ops.max_pool(
        ops.cast(found, "float32")[..., None],
        3,
        strides=1,
        padding="same",
        data_format="channels_last",
    )
    return band[..., 0] > 0


def boundary(labels: Any, logits: Any, *, ignore_id: int = IGNORE) -> Any:
    """(N, H, W): binary cross-entropy of the ``edges``, both kinds of pixels balanced.

    arXiv:2206.02066, Section 3.1. A pixel of an edge is weighted by the share of the other pixels
    in its image, those by the share of the edges; the code takes the shares of the whole batch.

    Args:
        labels: of classes, not of edges.
        logits: (N, H, W, 1), of an edge.

    Raises:
        KsegError: labels of another shape, or more channels than one.
    """
    if logits.shape[-1] != 1:
        raise KsegError(
            f"a boundary has one channel, the model's output {logits.shape[-1]}; this loss is for "
            "a head like seghead_d of PIDNet"
        )
    labels = of_shape(ops.convert_to_tensor(labels), logits)
    logits = ops.cast(logits[..., 0], "float32")
    valid = ops.cast(ops.not_equal(ops.cast(labels, "int32"), ignore_id), "float32")
    truth = ops.cast(edges(labels, ignore_id=ignore_id), "float32") * valid
    count = ops.maximum(ops.sum(valid, axis=(1, 2), keepdims=True), 1)
    share = ops.sum(truth, axis=(1, 2), keepdims=True) / count
    weights = valid * ops.where(truth > 0, 1 - share, share)
    return weights * ops.binary_crossentropy(truth, logits, from_logits=True)


LOSSES: dict[str, Callable[..., Any]] = {
    "cross_entropy": cross_entropy,
    "focal": focal,
    "ohem": ohem,
    "dice": dice,
    "lovasz": lovasz,
}
# The other losses weight the classes alike by themselves.
_CLASS_WEIGHTED = ("cross_entropy", "focal", "ohem")
# The other losses have one value an image.
_BY_PIXEL = ("cross_entropy", "focal")


@keras.saving.register_keras_serializable("kseg")
class SegmentationLoss(keras.losses.Loss):
    """The mean of a loss over the batch, for ``compile(loss=...)``.

    ``sample_weight`` multiplies the values before the mean, whose divisor stays the number of
    values, as Keras' own losses do by default. One weight an image, (N,), is for every loss; one
    a pixel, (N, H, W) or (N, H, W, 1), for cross-entropy and focal alone: what a pixel's weight
    would be in OHEM's choice and in the sets of Dice and Lovász is not defined. Keras' own
    default leaves ignored pixels out of the divisor, this one has them in it.

    Args:
        kind: a name of ``LOSSES``, or several joined by "+", which are summed; None for
            cross-entropy.
        class_weights: one a class, for those of a pixel; None weights all alike.
        ignore_id: labels that do not count.
        name: for Keras; where it is that of a loss, and no ``kind`` is given, it is the kind.
        ohem_threshold, ohem_fraction: ``threshold`` and ``fraction`` of ``ohem``.

    Raises:
        KsegError: an unknown kind, weights that are no numbers from 0 on, or a ``reduction`` that
            is not the mean; in a step, another number of weights than the model has channels.
    """

    def __init__(
        self,
        kind: str | None = None,
        class_weights: Sequence[float] | None = None,
        ignore_id: int = IGNORE,
        name: str = "loss",
        *,
        ohem_threshold: float = OHEM_THRESHOLD,
        ohem_fraction: float = OHEM_FRACTION,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        if kind is None:
            kind = name if set(name.split("+")) <= LOSSES.keys() else "cross_entropy"
        for part in kind.split("+"):
            if part not in LOSSES:
                raise KsegError(f"loss is {kind!r}; its parts must be of {', '.join(LOSSES)}")
        if self.reduction not in ("sum_over_batch_size", "mean"):
            raise KsegError(
                f"reduction is {self.reduction!r}; a SegmentationLoss is the mean over all pixels, "
                "'sum_over_batch_size'; the functions of kseg.training.losses reduce nothing"
            )
        self.kind = kind
        self.class_weights = None
        if class_weights is not None:
            self.class_weights = [finite_number("class_weights", w) for w in class_weights]
            if min(self.class_weights, default=0) < 0:
                raise KsegError(f"class_weights has {min(self.class_weights)}; 0 is the least")
        self.ignore_id = ignore_id
        self.ohem_threshold, self.ohem_fraction = ohem_threshold, ohem_fraction

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        # Keras would multiply the mean by the weights.
        weighted = y_true if sample_weight is None else (y_true, sample_weight)
        return super().__call__(weighted, y_pred)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        y_true, sample_weight = y_true if isinstance(y_true, tuple) else (y_true, None)
        y_pred = ops.cast(y_pred, "float32")
        total = 0.0
        for part in self.kind.split("+"):
            options: dict[str, Any] = {"ignore_id": self.ignore_id}
            if part in _CLASS_WEIGHTED:
                options["class_weights"] = self.class_weights
            if part == "ohem":
                options |= {"threshold": self.ohem_threshold, "fraction": self.ohem_fraction}
            values = LOSSES[part](y_true, y_pred, **options)
            if sample_weight is not None:
                values = values * self._weights(sample_weight, values, part)
            total = total + _mean(values)
        return total

    def _weights(self, sample_weight: Any, values: Any, part: str) -> Any:
        """What multiplies the values of one of the sum's losses."""
        try:
            return weights_of(sample_weight, values.shape, values.dtype)
        except KsegError as error:
            if part in _BY_PIXEL:
                raise
            raise KsegError(
                f"{error}; {part} has one value an image: give pixels that do not count the label "
                f"{self.ignore_id}, or take cross_entropy or focal"
            ) from None

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "kind": self.kind,
            "class_weights": self.class_weights,
            "ignore_id": self.ignore_id,
            "ohem_threshold": self.ohem_threshold,
            "ohem_fraction": self.ohem_fraction,
        }


@keras.saving.register_keras_serializable("kseg")
class BoundaryLoss(keras.losses.Loss):
    """The mean of ``boundary`` over the batch.

    Args:
        ignore_id: labels that do not count.
    """

    def __init__(self, ignore_id: int = IGNORE, name: str = "boundary", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.ignore_id = ignore_id

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return _mean(boundary(y_true, y_pred, ignore_id=self.ignore_id))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ignore_id": self.ignore_id}


@keras.saving.register_keras_serializable("kseg")
class DistillationLoss(keras.losses.Loss):
    """The mean of ``distillation`` over the batch, of ((labels, targets), logits).

    A pixel whose label is ignored adds nothing, as in ``SegmentationLoss``: the border around
    an image that is smaller than the crop is none of the teacher's subjects.

    Args:
        temperature: of ``distillation``.
        ignore_id: labels that do not count.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        ignore_id: int = IGNORE,
        name: str = "distillation",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.temperature, self.ignore_id = temperature, ignore_id

    def call(self, y_true: Any, y_pred: Any) -> Any:
        labels, targets = y_true
        values = distillation(targets, y_pred, temperature=self.temperature)
        return ops.where(ops.equal(labels, self.ignore_id), 0.0, values)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "ignore_id": self.ignore_id,
        }


def class_weights(pixels: Sequence[int] | np.ndarray, c: float = 1.10) -> list[float]:
    """``1 / ln(c + p)`` with p the share of each class among the labelled pixels.

    ENet's formula (arXiv:1606.02147, Section 5.2) with its c = 1.02; CGNet and ESPNet
    take 1.10.

    Args:
        pixels: (num_classes,), how many each class has, of ``DataSet.class_pixels``.
        c: above 1; the closer, the more rare classes weigh.

    Raises:
        KsegError: c is not above 1, or there is no labelled pixel.
    """
    if not c > 1:
        raise KsegError(f"class weights have c = {c}; it must be above 1")
    total = sum(int(n) for n in pixels)
    if not total:
        raise KsegError("class weights need labelled pixels; every label is ignored")
    return [1 / float(np.log(c + int(n) / total)) for n in pixels]


def _mean(values: Any) -> Any:
    """(1,): Keras shares a loss among the replicas unless it is a scalar already."""
    # A replica may get no image of a last batch.
    count = ops.maximum(ops.size(values), 1)
    return ops.reshape(ops.sum(values) / ops.cast(count, values.dtype), (1,))


def _valid(labels: Any, ignore_id: int) -> tuple[Any, Any]:
    """Whether a label counts, and the labels with some class where it does not."""
    labels = ops.cast(labels, "int32")
    valid = ops.not_equal(labels, ignore_id)
    return valid, ops.where(valid, labels, 0)


def _nan_of_bad(bad: Any, losses: Any) -> Any:
    """Losses (N,), NaN for images with a bad label, (N, H, W)."""
    return ops.where(ops.any(bad, axis=(1, 2)), np.nan, losses)


def _extent(x: Any) -> tuple[Any, Any]:
    """Images and pixels an image of (N, H, W, ...); integers where they are known."""
    batch, height, width = ops.shape(x)[:3]
    return batch, height * width


def _one_hot(labels: Any, logits: Any, ignore_id: int) -> tuple[Any, Any]:
    """Truth and probabilities, (N, pixels, C) float32, both zero where the label is ignored."""
    valid, labels = _valid(labels, ignore_id)
    classes, (batch, pixels) = logits.shape[-1], _extent(logits)
    kept = ops.reshape(ops.cast(valid, "float32"), (batch, pixels, 1))
    truth = ops.reshape(ops.one_hot(labels, classes, dtype="float32"), (batch, pixels, classes))
    probabilities = ops.reshape(ops.softmax(logits, axis=-1), (batch, pixels, classes))
    return truth * kept, probabilities * kept


def _mean_present(losses: Any, truth: Any) -> Any:
    """(N, C) to (N,): over the classes that occur in (N, pixels, C)."""
    present = ops.cast(ops.any(truth > 0, axis=1), losses.dtype)
    return ops.sum(losses * present, axis=-1) / ops.maximum(ops.sum(present, axis=-1), 1)
