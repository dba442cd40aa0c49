"""Where an int8 file loses: the quantisation noise of every layer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

from kseg.model import SegmentationModel, dtype_policy
from kseg.progress import counted
from kseg.tflite.conversion import to_int8
from kseg.tflite.export import export_graph, to_flatbuffer
from kseg.tflite.flatbuffer import int8_ranges, operator_outputs
from kseg.tflite.naming import layer_names
from kseg.tflite.options import ExportOptions
from kseg.tflite.quantise import activations, calibration_images, prepared


@dataclasses.dataclass(frozen=True)
class LayerNoise:
    """An operator's output in the int8 file against the float32 file.

    Attributes:
        layer: whose operator it is; several where they are one. Of an operation that is no
            layer the tensor's name.
        operator: TensorFlow Lite's name.
        dtype: of the output in the int8 file, "int8" or "float32".
        low, high: what the output can hold; of a float32 one what it held.
        decibels: signal to noise of all images, 10 log10 (sum x^2 / sum (x - q)^2), what
            layers before it have lost included; infinite where nothing is.
    """

    layer: str
    operator: str
    dtype: str
    low: float
    high: float
    decibels: float


@dtype_policy("float32")
def quantisation_noise(
    model: SegmentationModel,
    images: Iterable[np.ndarray],
    *,
    input_size: tuple[int, int] | None = None,
    calibration_method: str = "percentile",
    keep_float: Collection[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[LayerNoise]:
    """The noise of every operator, worst first.

    Args:
        model: to be converted to int8 and float32, with full logits.
        images: RGB (h, w, 3) 0..255, to calibrate with and to measure on.
        input_size, calibration_method, keep_float: as for ``convert``.
        progress: called with (done, in all): images calibrated with, then measured on.

    Raises:
        KsegError: what ``convert`` raises.
    """
    options = ExportOptions(
        precision="int8",
        input_size=input_size,
        calibration_method=calibration_method,
        keep_float=keep_float,
    )
    images = calibration_images(images)
    graph, _ = export_graph(model, options.output, options.input_size)
    exact = to_flatbuffer(graph)
    twice = 2 * len(images)
    rounded = to_int8(exact, graph, images, options, lambda done, _: progress(done, twice))
    measured = counted(images, lambda done, total: progress(total + done, twice))
    layers = layer_names(exact.content, graph)
    size = graph.input_shape[1:3]
    both = (
        activations(exact.content, prepared(measured, size)),
        activations(rounded.content, prepared(images, size)),
    )
    return _noise(exact.content, rounded.content, layers, zip(*both, strict=True))


def _noise(
    exact: bytes,
    rounded: bytes,
    layers: dict[str, list[str]],
    pairs: Iterable[tuple[Iterable[tuple[str, np.ndarray]], Iterable[tuple[str, np.ndarray]]]],
) -> list[LayerNoise]:
    """Of what both files have at each operator, image by image (``activations``)."""
    kinds = {tensor: operator for operator, tensor in operator_outputs(exact).values()}
    scales = int8_ranges(rounded)
    signal = dict.fromkeys(kinds, 0.0)
    noise = dict.fromkeys(kinds, 0.0)
    held = {tensor: (math.inf, -math.inf) for tensor in kinds}
    for want, rounded_pairs in pairs:
        got = dict(rounded_pairs)
        for tensor, values in want:
            if tensor not in got:
                continue
            values = values.astype(np.float64)
            signal[tensor] += np.square(values).sum()
            noise[tensor] += np.square(values - got[tensor]).sum()
            low, high = held[tensor]
            held[tensor] = min(low, values.min()), max(high, values.max())
    rows = []
    for tensor, operator in kinds.items():
        if not math.isfinite(held[tensor][0]):
            continue
        low, high = scales.get(tensor) or held[tensor]
        rows.append(
            LayerNoise(
                layer=" ".join(layers[tensor]) or tensor,
                operator=operator,
                dtype="int8" if tensor in scales else "float32",
                low=float(low),
                high=float(high),
                decibels=_decibels(signal[tensor], noise[tensor]),
            )
        )
    return sorted(rows, key=lambda row: row.decibels)


def _decibels(signal: float, noise: float) -> float:
    if not noise:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def format_noise(rows: Sequence[LayerNoise]) -> str:
    """The table, a line an operator."""
    width = max(len(row.layer) for row in rows)
    lines = [f"{'layer':{width}}  {'operator':18}  {'dtype':7}  {'range':>21}      dB"]
    for row in rows:
        extent = f"{row.low:.4g} to {row.high:.4g}"
        cells = f"{row.operator:18}  {row.dtype:7}  {extent:>21}  {row.decibels:6.1f}"
        lines.append(f"{row.layer:{width}}  {cells}")
    return "\n".join(lines)
