"""What a network costs: multiply-adds."""

from __future__ import annotations

import math

import keras


def multiply_adds(model: keras.Model) -> int:
    """Multiply-adds of one image through convolutions and linear layers.

    Padding taps count; BatchNorm, activations, resizing and pooling do not. The model
    must have a static input size.
    """
    total = 0
    for layer in model.layers:
        kernel = getattr(layer, "kernel", None)
        if kernel is None:
            continue
        # A transposed convolution uses each tap once for every input pixel.
        transposed = isinstance(layer, keras.layers.Conv2DTranspose)
        height, width = (layer.input if transposed else layer.output).shape[1:3]
        total += height * width * math.prod(kernel.shape)
    return total
