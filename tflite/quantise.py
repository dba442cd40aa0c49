"""Post-training quantisation of a float .tflite model, by litert-quantizer."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from litert_quantizer import calibrator, qtyping, quantizer, recipe, recipe_manager
from litert_quantizer.algorithm_manager import AlgorithmName
from litert_quantizer.algorithms.uniform_quantize import uniform_quantize_tensor
from litert_quantizer.utils import qsv_utils

from kseg.errors import KsegError
from kseg.pixels import rgb_image
from kseg.progress import counted
from kseg.quiet import quiet_stderr
from kseg.resize import resize_bilinear
from kseg.tflite.flatbuffer import (
    between,
    input_name,
    operator_outputs,
    with_quantisable_biases,
)
from kseg.tflite.options import CALIBRATION_METHODS, check_choice
from kseg.tflite.predictors import thread_count

_LARGE = 32 * 2**20
# The range of an activation that is no range.
_NONE = 1e-6
_TAILS = (0.01, 99.99)
_SAMPLE = 2**18


def quantise_weights(content: bytes) -> bytes:
    """int8 weights a channel, float32 computation (`weight_only_wi8_afp32`)."""
    with _quiet(), _large_kernels():
        tool = quantizer.Quantizer(bytearray(content), recipe.weight_only_wi8_afp32())
        return bytes(tool.quantize().quantized_model)


def quantise_int8(
    content: bytes,
    images: Iterable[np.ndarray],
    input_size: tuple[int, int],
    *,
    calibration: str = "percentile",
    keep_float: Collection[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> bytes:
    """int8 weights and activations; int8 input (scale 1, zero point -128) and output.

    Args:
        content: a float32 model with one image input.
        images: (H, W, 3) RGB 0..255 of any size, to find the ranges of the activations
            by; resized as evaluation resizes them. For percentiles one is in float32 at a
            time; the other two ways need all at once, gigabytes for a hundred large ones.
        input_size: (H, W) of the model.
        calibration: what the range of an activation is: "min-max", all that the images
            show; "moving-average", of the lowest and highest value of each image, factor
            0.95; "percentile", the mean over images of the 0.01 and 99.99 percentiles.
        keep_float: output tensors whose operators stay in float32.
        progress: called with (images done, images in all), for percentiles alone.

    Raises:
        KsegError: what ``calibration_images`` raises, another calibration, or activations that
            are not finite.
    """
    check_choice("calibration", calibration, CALIBRATION_METHODS)
    images = calibration_images(images)
    tensor, signature, argument = input_name(content)
    how = _int8_recipe(content, keep_float)
    with _quiet(), _large_kernels():
        ranges = _calibrated(content, how, signature, argument, images, input_size, calibration)
    if calibration == "percentile":
        shown = images if progress is None else counted(images, progress)
        _set_percentiles(content, prepared(shown, input_size), ranges)
    with _quiet(), _large_kernels():
        for name, values in ranges.items():
            if not all(np.isfinite(values[key]).all() for key in ("min", "max")):
                raise KsegError(
                    f"int8 cannot hold {name}, whose values are not finite on the calibration "
                    "images; the weights are damaged or far too large"
                )
            # Units that are dead on all images: a step of nothing would keep XNNPACK, and so
            # every phone's CPU, from running the file. A constant has the range from zero.
            if (
                np.size(values["max"]) == 1
                and max(float(np.max(values["max"])), -float(np.min(values["min"]))) < _NONE
            ):
                values["max"] = np.full_like(values["max"], 1.0)
        limits = {
            name: (float(np.min(r["min"])), float(np.max(r["max"]))) for name, r in ranges.items()
        }
        content = with_quantisable_biases(content, limits)
        tool = quantizer.Quantizer(bytearray(content), how)
        # All 256 values of a pixel, whatever the calibration images show.
        for key, value in (("min", 0.0), ("max", 255.0)):
            ranges[tensor][key] = np.full_like(ranges[tensor][key], value)
        return bytes(tool.quantize(ranges).quantized_model)


def _calibrated(
    content: bytes,
    how: Any,
    signature: str,
    argument: str,
    images: list[np.ndarray],
    input_size: tuple[int, int],
    calibration: str,
) -> dict[str, dict[str, np.ndarray]]:
    """{"min", "max"} of every activation that is to be quantised, by tensor name.

    For percentiles those of the first image.
    """
    update = {"moving-average": qsv_utils.moving_average_update}.get(
        calibration, qsv_utils.min_max_update
    )
    tool = calibrator.Calibrator(content, thread_count(), qsv_update_func=update)
    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(how)
    # The tool knows percentiles of no kind; from one image it names the tensors.
    shown = images[:1] if calibration == "percentile" else images
    samples = [{argument: image} for image in prepared(shown, input_size)]
    tool.calibrate({signature: samples}, manager)
    return tool.get_model_qsvs()


def calibration_images(images: Iterable[Any]) -> list[np.ndarray]:
    """The images, if they are RGB 0..255.

    Args:
        images: (h, w, 3) of any sizes, uint8, or another type of the same values.

    Raises:
        KsegError: none, something else than images, another form, or other values.
    """
    if isinstance(images, str | bytes | os.PathLike | Mapping) or not isinstance(images, Iterable):
        raise KsegError(
            f"calibration is a {type(images).__name__}; it must be images (H, W, 3), such as a list"
        )
    found = [rgb_image(item, "a calibration image") for item in images]
    if not found:
        raise KsegError("int8 needs calibration images; name a data set that has some")
    brightest = max(float(image.max()) for image in found)
    if 0 < brightest <= 1:
        raise KsegError(
            f"calibration images reach from 0 to {brightest:g}; they must be RGB 0..255, before "
            "any scaling"
        )
    return found


def prepared(images: Iterable[np.ndarray], input_size: tuple[int, int]) -> Iterator[np.ndarray]:
    """(1, H, W, 3) float32 of each, resized as evaluation does it."""
    for image in images:
        yield resize_bilinear(image, input_size)[None]


def _set_percentiles(
    content: bytes, images: Iterable[np.ndarray], ranges: dict[str, dict[str, np.ndarray]]
) -> None:
    """Puts the mean percentiles in place of the ranges of activations."""
    names = {name for name, values in ranges.items() if np.size(values.get("min", ())) == 1}
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    for values in activations(content, images):
        for name, value in values:
            # Comparisons have truth values, and no range.
            if name in names and value.dtype != bool:
                found[name].append(np.percentile(_sample(value), _TAILS))
    for name, limits in found.items():
        for key, value in zip(("min", "max"), np.mean(limits, 0), strict=True):
            ranges[name][key] = np.full_like(ranges[name][key], value)


def _sample(value: np.ndarray) -> np.ndarray:
    """Every n-th value of a large tensor, which tells its tails as well.

    n has no divisor in common with any axis: else it would meet the same few channels only.
    """
    step = -(-value.size // _SAMPLE)
    while math.gcd(step, value.size) > 1:
        step += 1
    return value.reshape(-1)[::step]


def activations(
    content: bytes, images: Iterable[np.ndarray]
) -> Iterator[Iterator[tuple[str, np.ndarray]]]:
    """Every operator's output by its tensor's name, image by image.

    Args:
        content: of a .tflite model with one image input.
        images: (1, H, W, 3) as the input takes them.

    Yields:
        The pairs of an image, int8 values as the numbers they stand for.
    """
    # It warns of what is wanted here.
    with _quiet():
        interpreter = Interpreter(
            model_content=content,
            num_threads=thread_count(),
            experimental_preserve_all_tensors=True,
        )
        interpreter.allocate_tensors()
    (source,) = interpreter.get_input_details()
    tensors = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    outputs = [tensors[i] for i in operator_outputs(content)]

    def values() -> Iterator[tuple[str, np.ndarray]]:
        for tensor in outputs:
            value = interpreter.get_tensor(tensor["index"])
            scale, zero_point = tensor["quantization"]
            if scale:
                value = (value.astype(np.float32) - zero_point) * np.float32(scale)
            yield tensor["name"], value

    for image in images:
        interpreter.set_tensor(source["index"], image.astype(source["dtype"]))
        interpreter.invoke()
        yield values()


def _int8_recipe(content: bytes, keep_float: Collection[str]) -> Any:
    """Everything in 8 bits, save hard swish, and sums and products where PReLU is float anyway.

    XNNPACK has no hard swish in 8 bits: it took 60 % of MobileNetV3's time.

    PReLU stays float in the tool. Rounding on the way from there to the sum of a residual
    block and again behind it costs time and piles up over the blocks: a CGNet loses half
    a decibel to it, and CPU and GPU, which round apart, 2 dB of their agreement. The same
    holds for what lies between such float operators: ESPNet's blocks have a BatchNorm
    between the sum and PReLU.
    """
    found = {kind for kind, _ in operator_outputs(content).values()}
    floats, names = [], [*keep_float]
    if "HARD_SWISH" in found:
        floats.append((".*", qtyping.TFLOperationName.HARD_SWISH))
    if "PRELU" in found:
        floats += [(".*", qtyping.TFLOperationName.ADD), (".*", qtyping.TFLOperationName.MUL)]
        names += between(content, ("PRELU", "ADD", "MUL"))
    if not floats and not names:
        return recipe.static_wi8_ai8()
    manager = recipe_manager.RecipeManager()
    everything = qtyping.TFLOperationName.ALL_SUPPORTED
    manager.add_static_config(".*", everything, activation_num_bits=8, weight_num_bits=8)
    # The tool's scope of an operator is the names of its outputs, each with a semicolon.
    floats += [(f"^{re.escape(name)};$", everything) for name in names]
    for scope, name in floats:
        manager.add_quantization_config(scope, name, algorithm_key=AlgorithmName.NO_QUANTIZE)
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
