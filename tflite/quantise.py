"""Post-training quantisation of a float .tflite model, by litert-quantizer."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from litert_quantizer import qtyping, quantizer, recipe, recipe_manager
from litert_quantizer.algorithm_manager import AlgorithmName
from litert_quantizer.algorithms.uniform_quantize import uniform_quantize_tensor

from kseg._startup import quiet_stderr
from kseg.errors import KsegError
from kseg.resize import resize_bilinear
from kseg.tflite.flatbuffer import input_name, operators, with_quantisable_biases

_LARGE = 32 * 2**20


def quantise_weights(content: bytes) -> bytes:
    """int8 weights a channel, float32 computation (`weight_only_wi8_afp32`)."""
    with _quiet(), _large_kernels():
        tool = quantizer.Quantizer(bytearray(content), recipe.weight_only_wi8_afp32())
        return bytes(tool.quantize().quantized_model)


def quantise_int8(
    content: bytes, images: Iterable[np.ndarray], input_size: tuple[int, int]
) -> bytes:
    """int8 weights and activations; int8 input (scale 1, zero point -128) and output.

    Args:
        content: a float32 model with one image input.
        images: (H, W, 3) uint8 RGB of any size, to find the ranges of the activations
            by; resized as evaluation resizes them.
        input_size: (H, W) of the model.

    Raises:
        KsegError: no images.
    """
    prepared = [resize_bilinear(image, input_size)[None] for image in images]
    if not prepared:
        raise KsegError("int8 needs calibration images; name a data set that has some")
    tensor, signature, argument = input_name(content)
    how = _int8_recipe(content)
    with _quiet(), _large_kernels():
        tool = quantizer.Quantizer(bytearray(content), how)
        samples: dict[str, list[dict[str, Any]]] = {signature: [{argument: x} for x in prepared]}
        ranges = tool.calibrate(samples, num_threads=os.cpu_count() or 1)
        limits = {
            name: (float(np.min(r["min"])), float(np.max(r["max"]))) for name, r in ranges.items()
        }
        content = with_quantisable_biases(content, limits)
        tool = quantizer.Quantizer(bytearray(content), how)
        # All 256 values of a pixel, whatever the calibration images show.
        for key, value in (("min", 0.0), ("max", 255.0)):
            ranges[tensor][key] = np.full_like(ranges[tensor][key], value)
        return bytes(tool.quantize(ranges).quantized_model)


def _int8_recipe(content: bytes) -> Any:
    """Everything in 8 bits, save sums and products where PReLU is float anyway.

    PReLU stays float in the tool. Rounding on the way from there to the sum of a residual
    block and again behind it costs time and piles up over the blocks: a CGNet loses half
    a decibel to it, and CPU and GPU, which round apart, 2 dB of their agreement.
    """
    if "PRELU" not in operators(content):
        return recipe.static_wi8_ai8()
    manager = recipe_manager.RecipeManager()
    everything = qtyping.TFLOperationName.ALL_SUPPORTED
    manager.add_static_config(".*", everything, activation_num_bits=8, weight_num_bits=8)
    for name in (qtyping.TFLOperationName.ADD, qtyping.TFLOperationName.MUL):
        manager.add_quantization_config(".*", name, algorithm_key=AlgorithmName.NO_QUANTIZE)
    return manager.get_quantization_recipe()


@contextlib.contextmanager
def _large_kernels() -> Iterator[None]:
    """Lets kernels above 32 MiB through: U-Net's, FCN's and PSPNet's widest.

    litert-quantizer 0.11 takes those by parts, as a matrix, to which it cannot fit the
    scales of the channels. Here the parts are channels.
    """
    original = uniform_quantize_tensor.uniform_quantize

    def by_parts(values: np.ndarray, params: Any, *blockwise: bool) -> np.ndarray:
        count = -(-values.nbytes // _LARGE)
        if count <= 1 or params.scale.shape[0] != len(values):
            return original(values, params, *blockwise)
        parts = []
        for rows in np.array_split(np.arange(len(values)), count):
            scale, zero_point = params.scale[rows], params.zero_point[rows]
            part = dataclasses.replace(params, scale=scale, zero_point=zero_point)
            parts.append(original(values[rows], part, *blockwise))
        return np.concatenate(parts)

    uniform_quantize_tensor.uniform_quantize = by_parts
    try:
        yield
    finally:
        uniform_quantize_tensor.uniform_quantize = original


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The tool draws progress bars and reports on both streams; only a failure matters."""
    with (
        quiet_stderr(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield
