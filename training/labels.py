"""What loss and metric take as labels and weights: their shapes, and which ids."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from kseg.errors import KsegError

_TWO_CLASSES = (
    "softmax over one channel is always 1, so nothing is learned and every score is perfect; "
    "for one class against the rest make two classes, 0 for the rest and 1 for the class, "
    "and keep 255 for pixels that nobody has judged"
)
"""What to do with one class alone."""


def check_two_classes(count: int, what: str) -> None:
    """Raises KsegError where there is one class alone.

    Args:
        count: of classes or channels.
        what: has them, for the message.
    """
    if count == 1:
        raise KsegError(f"{what} has one class; {_TWO_CLASSES}")


def checked(labels: Any, logits: Any, num_classes: int, ignore_id: int) -> tuple[Any, Any]:
    """Labels of the logits' pixels, int32, and where one of them is no class, bool.

    A label that is neither a class nor ignored raises a KsegError where the values are known,
    and fails the step of a TensorFlow graph with the same text. A program that XLA has
    compiled (``jit_compile``, JAX) cannot raise: the caller makes its result NaN there.

    Args:
        labels: of the logits' shape without the channels, or with 1 in their place; of any
            type, whole numbers.
        logits: (..., C).
        num_classes: how many of them a label may name.
        ignore_id: the label that does not count.

    Returns:
        Of the logits' shape without the channels; ``ignore_id`` stands where a label is bad.

    Raises:
        KsegError: another shape, one channel alone, or a label that is no class.
    """
    check_two_classes(logits.shape[-1], "the model's output")
    labels = of_shape(ops.convert_to_tensor(labels), logits)
    kind = keras.backend.standardize_dtype(labels.dtype)
    whole = ops.cast(labels, "int32")
    # What int32 cannot hold must not be taken for another label.
    exact = whole
    if "float" in kind:
        exact = labels
    elif kind in ("int64", "uint32", "uint64"):
        exact = ops.cast(labels, "int64")
    good = ops.logical_and(exact >= 0, exact < num_classes)
    good = ops.logical_or(good, ops.equal(exact, ops.cast(ignore_id, exact.dtype)))
    if exact is not whole:
        good = ops.logical_and(good, ops.equal(ops.cast(whole, exact.dtype), exact))
    bad = ops.logical_not(good)
    message = (
        f"labels are 0 to {num_classes - 1}, for {num_classes} classes, or {ignore_id}, "
        "which is ignored; correct the labels or the number of classes; found"
    )
    wrong = ops.where(bad, exact, ops.zeros_like(exact))
    worst = ops.max(wrong, initial=0)
    worst = ops.where(ops.equal(worst, 0), ops.min(wrong, initial=0), worst)
    if _is_known(bad):
        if bool(ops.any(bad)):
            raise KsegError(f"{message} {np.asarray(worst).item()}")
    elif keras.backend.backend() == "tensorflow":
        whole = _after_check(whole, ops.all(good), message, worst)
    return ops.where(bad, ignore_id, whole), bad


def weights_of(sample_weight: Any, shape: Any, dtype: str) -> Any:
    """Weights that multiply values of a shape, as the documentation of keras.losses.Loss has it.

    Args:
        sample_weight: a scalar, one an image (N,), or one a value; with trailing axes of 1
            or without.
        shape: (N, ...) of the values.
        dtype: of the result.

    Returns:
        A tensor of rank 0, or of the values' rank with axes that are theirs or 1.

    Raises:
        KsegError: another shape.
    """
    weights = ops.cast(ops.convert_to_tensor(sample_weight), dtype)
    rank = len(shape)
    given = tuple(weights.shape)
    while len(weights.shape) > 1 and weights.shape[-1] == 1 and len(weights.shape) != rank:
        weights = ops.squeeze(weights, axis=-1)
    if len(weights.shape) == 1:
        weights = ops.reshape(weights, (-1, *[1] * (rank - 1)))
    if len(weights.shape) not in (0, rank) or any(
        a not in (b, 1) for a, b in zip(weights.shape, shape, strict=False) if _fixed(a, b)
    ):
        by_value = f", or one a pixel, {_shape(shape)}" if rank > 1 else ""
        raise KsegError(
            f"sample_weight is of shape {_shape(given)}; it must have one weight an image, "
            f"{_shape(shape[:1])}{by_value}"
        )
    return weights


def of_shape(labels: Any, logits: Any) -> Any:
    """Labels in the shape of the logits' pixels.

    Raises:
        KsegError: another shape; in a TensorFlow graph the step fails where only a step shows it.
    """
    if getattr(labels.shape, "rank", 0) is None:
        # Of a step that TensorFlow has traced for both.
        raise KsegError(
            "labels have another number of axes than in an earlier call; give (N, H, W), one id a "
            "pixel, in each, or compile the model again"
        )
    given, wanted = tuple(labels.shape), tuple(logits.shape[:-1])
    if len(given) == len(wanted) + 1 and given[-1] == 1:
        labels = ops.squeeze(labels, axis=-1)
    if len(labels.shape) != len(wanted) or any(
        a != b for a, b in zip(labels.shape, wanted, strict=True) if _fixed(a, b)
    ):
        one_hot = len(given) == len(wanted) + 1 and given[-1] == logits.shape[-1]
        raise KsegError(
            f"labels are of shape {_shape(given)} and the model's output of "
            f"{_shape(logits.shape)}; labels must be {_shape(wanted)}, one id a pixel"
            + ("; take the argmax of one-hot labels" if one_hot else "")
        )
    if keras.backend.backend() == "tensorflow" and None in (*labels.shape, *wanted):
        same = ops.all(ops.equal(_sizes(labels), _sizes(logits)[:-1]))
        message = "labels have another height or width than the model's output; found"
        labels = _after_check(labels, same, message, _sizes(labels))
    return labels


def _sizes(x: Any) -> Any:
    return ops.convert_to_tensor(ops.shape(x), dtype="int32")


def _fixed(a: int | None, b: int | None) -> bool:
    return a is not None and b is not None


def _shape(shape: Any) -> str:
    """As Python shows a tuple, with the letters that stand for what is not known before."""
    names = "NHW" if len(shape) < 5 else ""
    sizes = [str(s) if s is not None else names[i : i + 1] or "?" for i, s in enumerate(shape)]
    return f"({', '.join(sizes)}{',' * (len(sizes) == 1)})"


def _is_known(x: Any) -> bool:
    """Whether a tensor has values now, and is not part of a graph or of a traced function."""
    if keras.backend.backend() == "tensorflow":
        return hasattr(x, "numpy")
    import jax

    return isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer)


def _after_check(x: Any, fine: Any, message: str, value: Any) -> Any:
    """``x``, once ``fine`` was seen to be true; else the step fails.

    The text has the form that ``reader_errors`` turns into a KsegError.
    """
    import tensorflow as tf

    check = tf.debugging.Assert(fine, [f"KsegError: {message}", value])
    with tf.control_dependencies([check]):
        return tf.identity(x)
