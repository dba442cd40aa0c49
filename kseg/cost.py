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
        # A separable convolution has two.
        kernels = [weight for weight in layer.weights if "kernel" in weight.name]
        if not kernels:
            continue
        # A transposed convolution uses each tap once for every input pixel.
        transposed = isinstance(layer, keras.layers.Conv2DTranspose)
        area = math.prod((layer.input if transposed else layer.output).shape[1:-1])
        total += area * sum(math.prod(kernel.shape) for kernel in kernels)
    return total
