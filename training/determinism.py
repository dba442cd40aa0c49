"""A seed and deterministic operators for a run, and the caller's own afterwards."""

from __future__ import annotations

import contextlib
import inspect
import random
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf


@contextlib.contextmanager
def deterministic(seed: int, *, operators: bool = True) -> Iterator[None]:
    """Within it everything random follows from ``seed``, and CPU operators are deterministic.

    Afterwards Python's and NumPy's generators are where they were. Keras and TensorFlow do
    not tell their seed: they get one that follows from NumPy's state, so it repeats where
    the caller has set seeds and differs where not.

    On a GPU operators stay as they are: deterministic kernels cost speed there, and some do
    not exist.

    Args:
        seed: 0 to 2 ** 32 - 1.
        operators: False leaves TensorFlow's operators as they are; Keras uses no XLA where
            they must be deterministic.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    keras.utils.set_random_seed(seed)
    try:
        on_tensorflow = keras.backend.backend() == "tensorflow"
        if operators and on_tensorflow and not tf.config.list_physical_devices("GPU"):
            with _deterministic_operators():
                yield
        else:
            yield
    finally:
        np.random.set_state(numpy_state)
        keras.utils.set_random_seed(int(np.random.randint(2**31)))
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextlib.contextmanager
def _deterministic_operators() -> Iterator[None]:
    # TensorFlow 2.21 exports the switch on alone. The one off, and the question, stand beside
    # it in its module; should they go, the operators stay deterministic.
    switches: Any = inspect.getmodule(tf.config.experimental.enable_op_determinism)
    is_on = getattr(switches, "is_op_determinism_enabled", lambda: True)
    was_on = is_on()
    tf.config.experimental.enable_op_determinism()
    try:
        yield
    finally:
        if not was_on:
            switches.disable_op_determinism()
