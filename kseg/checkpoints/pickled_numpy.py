"""Scalars and arrays of NumPy inside a pickle, of numbers and texts.

Training checkpoints hold best scores and learning rates as NumPy's scalars. These stand in
for NumPy's own functions, which would load objects, and with them code, from a pickle.
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal

import numpy as np

# Truth values, numbers, and texts of a length; neither objects nor structures.
_CODES = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248]|c(8|16)|[SU]\d{1,6})")


class DType:
    """``numpy.dtype(code, align, copy)``, with the byte order as its pickled state."""

    def __init__(self, code: Any, *_flags: Any) -> None:
        if not isinstance(code, str) or not _CODES.fullmatch(code):
            raise ValueError(f"a NumPy array of type {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        _version, order, base, names, fields, *_sizes = state
        if any(part is not None for part in (base, names, fields)):
            raise ValueError("a NumPy array of structures")
        self.dtype = self.dtype.newbyteorder(order)


class Array:
    """``numpy.ndarray``, empty until its pickled state brings shape and elements."""

    value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        *_version, shape, dtype, fortran, data = state
        self.value = _array(data, dtype, shape, "F" if fortran else "C")


def reconstruct(kind: Any, _shape: Any, _code: Any) -> Array:
    """``numpy.core.multiarray._reconstruct``."""
    if kind is not Array:
        raise ValueError("a subclass of NumPy's array")
    return Array()


def from_buffer(data: Any, dtype: Any, shape: Any, order: Any, *_axes: Any) -> Array:
    """``numpy.core.numeric._frombuffer``, of pickle's protocol 5."""
    if order not in ("C", "F") or any(axes is not None for axes in _axes):
        raise ValueError(f"a NumPy array in the order {order!r}")
    array = Array()
    array.value = _array(data, dtype, shape, order)
    return array


def scalar(dtype: Any, data: Any = b"") -> Any:
    """``numpy.core.multiarray.scalar``; the value as Python's own number or text."""
    return _array(data, dtype, (), "C").item()


def encode(text: str, encoding: str) -> bytes:
    """``_codecs.encode``, by which pickle's protocols 0 to 2 write bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes written as {encoding!r}")
    return text.encode("latin1")


def no_bytes() -> bytes:
    """``bytes()``, by which those protocols write none."""
    return b""


def _array(data: Any, dtype: Any, shape: Any, order: Literal["C", "F"]) -> np.ndarray:
    if not isinstance(dtype, DType):
        raise ValueError("a NumPy array without a type")
    if isinstance(data, str):
        # Bytes of Python 2, which the unpickler takes for text.
        data = data.encode("utf-8", "surrogateescape")
    shape = tuple(map(int, shape))
    kind = dtype.dtype
    whole = kind.itemsize > 0 or math.prod(shape) <= 1  # empty texts take no bytes
    if min(shape, default=0) < 0 or not whole or len(data) != math.prod(shape) * kind.itemsize:
        raise ValueError(f"a NumPy array {shape} of {kind} with {len(data)} bytes")
    flat = np.frombuffer(data, kind) if len(data) else np.zeros(math.prod(shape), kind)
    return flat.astype(kind.newbyteorder("=")).reshape(shape, order=order)


_SCALARS = (
    *("bool_", "bool", "float16", "float32", "float64", "complex64", "complex128"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    *("str_", "bytes_"),
)

NAMES: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): encode,
    ("__builtin__", "bytes"): no_bytes,
    ("numpy", "dtype"): DType,
    ("numpy", "ndarray"): Array,
    # Named as a type, which a list of settings may hold; nothing can be called by it.
    **{("numpy", name): name for name in _SCALARS},
    # Up to NumPy 1 and from NumPy 2.
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "scalar", scalar),
            ("multiarray", "_reconstruct", reconstruct),
            ("numeric", "_frombuffer", from_buffer),
        )
    },
}
"""What a pickle names of NumPy, by module and name, and what stands for it."""
