"""Whether an array is an image, RGB 0..255, before a network takes it for one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from kseg.errors import KsegError

# What no photograph's brightest value is below.
_DARK = 16


def rgb_image(item: Any, name: str) -> np.ndarray:
    """The image (H, W, 3) as an array, of uint8 or another type of the same values.

    Args:
        item: an array, a tensor or a Pillow image.
        name: of what it is, for the message.

    Raises:
        KsegError: something else than an image, another form, or values that are not 0..255.
    """
    hint = "RGB 0..255"
    if isinstance(item, tuple | list):
        raise KsegError(
            f"{name} is a {type(item).__name__} of {len(item)}, as of (image, label); "
            "give the images alone"
        )
    if isinstance(item, Mapping):
        keys = ", ".join(map(str, item))
        raise KsegError(f"{name} is a dict of {keys}; give the images alone")
    if isinstance(item, str | bytes | os.PathLike):
        raise KsegError(f"{name} is {item!r}, a name; give what kseg.data.read_image has")
    image = np.asarray(item)
    if image.ndim != 3 or image.shape[-1] != 3 or not image.size:
        if image.ndim == 4:
            hint = "give the images of a batch one by one"
        elif image.ndim == 3 and image.shape[0] == 3:
            hint = "the channels come last"
        elif image.ndim == 2:
            one = image.shape[1] == 3
            hint = "put a list around one image" if one else "repeat the grey channel three times"
        elif image.ndim == 3 and image.shape[-1] == 4:
            hint = "leave the alpha channel out"
        raise KsegError(f"{name} is {image.shape}; it must be (H, W, 3): {hint}")
    check_pixels(image, name)
    return image


def check_pixels(values: np.ndarray, name: str) -> None:
    """Raises KsegError where RGB values, (..., 3), are not 0..255.

    Args:
        name: of what they are, for the message.
    """
    if not np.issubdtype(values.dtype, np.number) or np.iscomplexobj(values):
        raise KsegError(f"{name} is of {values.dtype}; it must be of uint8, RGB 0..255")
    if values.dtype == np.uint8:
        return
    if not np.isfinite(values).all():
        raise KsegError(f"{name} has values that are not finite; it must be RGB 0..255")
    low, high = float(values.min()), float(values.max())
    # Resizing and colour changes may round beyond the ends.
    beyond = low < -0.5 or high > 255.5
    # Of 0..1 and the like: 8-bit pixels that are all so dark are whole numbers.
    scaled = 0 < high < _DARK and not np.array_equal(values, np.rint(values))
    if beyond or scaled:
        raise KsegError(
            f"{name} reaches from {low:.4g} to {high:.4g}; it must be RGB 0..255, before any "
            "scaling or normalisation"
        )
