"""Whether a .tflite file's numbers fit into half precision, in which phones' GPUs compute.

Half precision ends at 65,504, and below 2^-14 = 6.1e-5 it loses digits, or, on many GPUs, is
zero. A tensor may fit where the sum that makes it does not: a GPU may add up in half precision
too, in an order of its own (LiteRT#9249). So every operator is looked at on its own, on images:

    constant  magnitude of its weights
    largest   magnitude of its output
    total     magnitude of a sum before it is divided or cut off: every order ends there
    partial   the most that a partial sum reaches in the worst order, positive terms first or
              negative terms first; no order goes beyond

The numbers are of float32, by LiteRT on the CPU. Beside them goes a simulation: every constant
and every output is rounded to half precision, magnitudes below 2^-14 become 0, and means, sums,
average poolings and the sum in a softmax are added up in half precision, first along the rows,
then along the columns. Convolutions and matrix products are added up in float32 there; their
partial sums are compared with the limit all the same.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from kseg.errors import KsegError
from kseg.file_card import FileCard
from kseg.resize import resize_bilinear
from kseg.tflite.flatbuffer import Operator
from kseg.tflite.gpu import check_is_float, differences
from kseg.tflite.naming import layers_in
from kseg.tflite.predictors import TensorIO, TFLitePredictor, thread_count
from kseg.tflite.stepwise import Stepwise

LARGEST = 65_504.0
"""The largest number of half precision."""
SMALLEST = 2.0**-14
"""The smallest normal number of half precision."""

# Of LARGEST: what is above it on some photographs may be beyond LARGEST on others.
_CLOSE = 1 / 4
# Share of pixels of the same class below which the simulation shows a loss.
_SAME_CLASS = 0.99
# Decibels below which noise may turn classes, and by which a layer that is named has less than
# what it is given.
_NOISY, _DROP = 30.0, 6.0
# Decibels from which on noise is the rounding of the values themselves.
_CLEAN = 60.0
_NAMED = 3

_PRODUCTS = (
    "BATCH_MATMUL",
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "FULLY_CONNECTED",
    "TRANSPOSE_CONV",
)
_REDUCTIONS = ("AVERAGE_POOL_2D", "MEAN", "SOFTMAX", "SUM")

_ACTIVATIONS = {
    schema.ActivationFunctionType.NONE: (-np.inf, np.inf),
    schema.ActivationFunctionType.RELU: (0, np.inf),
    schema.ActivationFunctionType.RELU_N1_TO_1: (-1, 1),
    schema.ActivationFunctionType.RELU6: (0, 6),
}


@dataclasses.dataclass(frozen=True)
class HalfOperator:
    """An operator in half precision; the worst of all images.

    Attributes:
        layer: whose operator it is, by the tensor's name.
        operator: TensorFlow Lite's name.
        constant: magnitude of its weights, 0 where it has none.
        largest: magnitude of its output.
        total: magnitude of its sum, 0 where it makes none.
        partial: magnitude of its partial sums in the worst order, 0 where it makes none.
        vanishing: channels of the output that are not zero, but nowhere reach 2^-14.
        decibels: signal to noise of the simulation, what operators before it have lost
            included; infinite where nothing is lost.
        drop: decibels that its output has less than the worst of its inputs, at least 0.
    """

    layer: str
    operator: str
    constant: float
    largest: float
    total: float
    partial: float
    vanishing: int
    decibels: float
    drop: float

    @property
    def reached(self) -> float:
        """The largest of all its magnitudes."""
        return max(self.constant, self.largest, self.total, self.partial)

    @property
    def overflow(self) -> str:
        """What does not fit into half precision, in words; empty where all does."""
        if self.constant > LARGEST:
            return f"its weights reach {self.constant:,.0f}"
        if self.largest > LARGEST:
            return f"its values reach {self.largest:,.0f}"
        if self.total > LARGEST:
            return f"its sum reaches {self.total:,.0f}, in every order"
        if self.partial > LARGEST:
            return f"its sum passes {self.partial:,.0f} in the worst order"
        return ""


@dataclasses.dataclass(frozen=True)
class HalfReport:
    """A file in half precision, the worst of all images.

    Attributes:
        operators: in the order in which they run.
        difference: of the simulation, largest by the range of the logits; of an argmax file
            the share of pixels of another class.
        decibels: signal to noise of the simulation's output.
        same_class: share of pixels of the same class in the simulation.
    """

    operators: tuple[HalfOperator, ...]
    difference: float
    decibels: float
    same_class: float

    @property
    def lossy(self) -> bool:
        """Whether the simulation gives another class on more than 1 % of the pixels."""
        return self.same_class < _SAME_CLASS

    @property
    def overflows(self) -> list[HalfOperator]:
        """The operators that go beyond 65,504."""
        return [each for each in self.operators if each.overflow]

    @property
    def close(self) -> list[HalfOperator]:
        """The operators that stay below 65,504, but reach a quarter of it."""
        return [each for each in self.operators if _CLOSE * LARGEST < each.reached <= LARGEST]

    @property
    def noisy(self) -> list[HalfOperator]:
        """The operators that add most of the noise, the worst first; at most three."""
        found = [each for each in self.operators if each.drop > _DROP and each.decibels < _NOISY]
        return sorted(found, key=lambda each: -each.drop)[:_NAMED]

    @property
    def safe(self) -> bool:
        """No operator goes beyond 65,504, and the simulation loses nothing."""
        return not self.overflows and not self.lossy

    def most(self, name: str) -> HalfOperator:
        """The operator of the largest "largest", "total" or "partial"."""
        return max(self.operators, key=lambda each: getattr(each, name))

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON, None for what is not finite, and whether it is safe."""
        operators = [_plain(dataclasses.asdict(each)) for each in self.operators]
        return {"safe": self.safe, **_plain(vars(self)), "operators": operators}


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """With None for numbers that JSON does not have."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in fields.items()
    }


def check_half(
    path: str | Path,
    images: Iterable[np.ndarray],
    *,
    stated: FileCard | None = None,
    threads: int | None = None,
) -> HalfReport:
    """Measures and simulates a file on images.

    Args:
        path: of a .tflite file in float; its weights may be in 16 or 8 bits.
        images: RGB (h, w, 3) uint8, resized to the file's input.
        stated: of a file of others, which has no card.
        threads: of the CPU, None takes all cores.

    Raises:
        KsegError: the file is missing or damaged, computes in 8 bits, has loops or an operator
            that LiteRT does not run alone, or values that are not finite in float32; or there
            are no images.
    """
    reference = TFLitePredictor(path, stated=stated)
    check_is_float(path, reference)
    io, size, output = reference.io, reference.input_size, reference.card.output
    del reference
    content = Path(path).read_bytes()
    try:
        check = _Check(Stepwise(content, thread_count(threads)), io, output == "argmax")
        for image in images:
            pixels = np.rint(resize_bilinear(image, size or image.shape[:2]))
            check.add(io.encode(pixels))
        return check.report()
    except KsegError as error:
        raise KsegError(f"{path}: {error}") from error


class _Check:
    """A model on images one by one."""

    def __init__(self, model: Stepwise, io: TensorIO, channels: bool) -> None:
        self._model, self._io, self._channels = model, io, channels
        self._rounded = {i: rounded(value) for i, value in model.constants.items()}
        self._found = {operator.number: _Found() for operator in model.operators}
        self._agreement: list[tuple[float, float, float]] = []

    def add(self, tensor: np.ndarray) -> None:
        """Measures on an input tensor."""
        model = self._model
        (source,), (result,) = model.inputs, model.outputs
        exact, half = {source: tensor}, {source: rounded(tensor)}
        noise = {source: _decibels(tensor, half[source])}
        for operator, ends in model.in_order():
            outputs, total, partial = _exact(model, operator, exact)
            for value in outputs.values():
                if not np.isfinite(value).all():
                    name = self._name(operator)
                    raise KsegError(f"{name}: its values are not finite in float32 either")
            exact |= outputs
            half |= _halved(model, operator, half, self._rounded)
            before = min((noise[i] for i in operator.inputs if i in noise), default=math.inf)
            found = self._found[operator.number]
            for i in operator.outputs:
                noise[i] = _decibels(exact[i], half[i])
                # Behind what is lost altogether there is nothing to lose.
                drop = min(before, _CLEAN) - noise[i] if before > -math.inf else 0.0
                found.add(exact[i], total, partial, noise[i], drop)
            for i in ends:
                if i != result:
                    del exact[i], half[i]
        want, got = (self._io.decode(values[result]) for values in (exact, half))
        self._agreement.append(differences(want, got, self._channels))

    def report(self) -> HalfReport:
        if not self._agreement:
            raise KsegError("there are no images to check with")
        difference, decibels, same = zip(*self._agreement, strict=True)
        return HalfReport(
            tuple(
                self._found[operator.number].result(
                    self._name(operator), operator.kind, self._constant(operator)
                )
                for operator in self._model.operators
            ),
            max(difference),
            min(decibels),
            min(same),
        )

    def _constant(self, operator: Operator) -> float:
        values = [self._model.constants.get(i) for i in operator.inputs]
        floats = [x for x in values if x is not None and x.dtype == np.float32 and x.size]
        return max((float(np.abs(x).max()) for x in floats), default=0.0)

    def _name(self, operator: Operator) -> str:
        """Of its layers; a file does not say whose operator gives its output."""
        is_last = bool(set(operator.outputs) & set(self._model.outputs))
        return layers_in(operator.name) or ("the output" if is_last else operator.name)


class _Found:
    """What the images so far have shown of an operator."""

    def __init__(self) -> None:
        self._largest = self._total = self._partial = self._drop = 0.0
        self._decibels = math.inf
        self._channels: np.ndarray | None = None

    def add(
        self, value: np.ndarray, total: float, partial: float, decibels: float, drop: float
    ) -> None:
        self._total, self._partial = max(self._total, total), max(self._partial, partial)
        self._decibels = min(self._decibels, decibels)
        self._drop = max(self._drop, drop)
        if value.dtype == np.float32 and value.ndim:
            axes = tuple(range(value.ndim - 1))
            channels = np.maximum(value.max(axes), -value.min(axes))
            if self._channels is not None:
                channels = np.maximum(channels, self._channels)
            self._channels, self._largest = channels, float(channels.max())

    def result(self, layer: str, kind: str, constant: float) -> HalfOperator:
        channels = np.zeros(1) if self._channels is None else self._channels
        return HalfOperator(
            layer=layer,
            operator=kind,
            constant=constant,
            largest=self._largest,
            total=self._total,
            partial=self._partial,
            vanishing=int(((channels > 0) & (channels < SMALLEST)).sum()),
            decibels=self._decibels,
            drop=self._drop,
        )


def _exact(
    model: Stepwise, operator: Operator, values: Mapping[int, np.ndarray]
) -> tuple[dict[int, np.ndarray], float, float]:
    """An operator's outputs in float32, and the magnitudes of its total and partial sums."""
    if operator.kind in _REDUCTIONS:
        sums, magnitudes = _reduction(operator, values, model.constants)
        return model.run(operator, values), *_reach(sums, magnitudes)
    if operator.kind not in _PRODUCTS:
        return model.run(operator, values), 0.0, 0.0
    ends = _ACTIVATIONS.get(getattr(operator.options, "fusedActivationFunction", 0))
    outputs = model.run(operator, values, activation=False)
    (output,) = operator.outputs
    sums = outputs[output]
    known = {i: np.abs(x) for i, x in model.constants.items() if i in operator.inputs}
    given = {i: np.abs(values[i]) for i in operator.inputs if i in values}
    magnitudes = model.run(operator, given, known, activation=False)[output]
    reach = _reach(sums, magnitudes)
    outputs = {output: sums.clip(*ends)} if ends else model.run(operator, values)
    return outputs, *reach


def _reach(sums: np.ndarray, magnitudes: np.ndarray) -> tuple[float, float]:
    """The largest total and partial sum, of the sums of terms and those of their magnitudes.

    The positive terms have the sum (m + s) / 2, the negative ones (s - m) / 2.
    """
    sums = np.abs(sums)
    return float(sums.max()), float((magnitudes + sums).max()) / 2


def _reduction(
    operator: Operator, values: Mapping[int, np.ndarray], constants: Mapping[int, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The sums of an operator that reduces, and those of the terms' magnitudes."""
    x = values[operator.inputs[0]]
    if operator.kind == "SOFTMAX":
        sums = _powers(x, operator).sum(-1)
        return sums, sums
    if operator.kind == "AVERAGE_POOL_2D":
        return _sum(_windows(x, operator)), _sum(_windows(np.abs(x), operator))
    axes = _axes(operator, x, constants)
    return x.sum(axes), np.abs(x).sum(axes)


def _sum(terms: Iterable[np.ndarray]) -> np.ndarray:
    """Of arrays, which are in memory one at a time."""
    return functools.reduce(np.add, terms)


def _axes(
    operator: Operator, x: np.ndarray, constants: Mapping[int, np.ndarray]
) -> tuple[int, ...]:
    axes = constants[operator.inputs[1]].reshape(-1)
    return tuple(sorted(int(axis) % x.ndim for axis in axes))


def _powers(x: np.ndarray, operator: Operator) -> np.ndarray:
    """What a softmax adds up, none above 1."""
    return np.exp(operator.options.beta * (x - x.max(-1, keepdims=True)))


def _windows(x: np.ndarray, operator: Operator) -> Iterator[np.ndarray]:
    """The terms of an average pooling, one of every window at a time; 0 in the padding."""
    options = operator.options
    kernel = options.filterHeight, options.filterWidth
    strides = options.strideH, options.strideW
    counts, padding = [], [(0, 0)]
    for size, extent, step in zip(x.shape[1:3], kernel, strides, strict=True):
        if options.padding == schema.Padding.VALID:
            count, missing = (size - extent) // step + 1, 0
        else:
            count = -(-size // step)
            missing = max((count - 1) * step + extent - size, 0)
        counts.append(count)
        padding.append((missing // 2, missing - missing // 2))
    x = np.pad(x, [*padding, (0, 0)])
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            rows, columns = (
                slice(start, start + (count - 1) * step + 1, step)
                for start, count, step in zip((i, j), counts, strides, strict=True)
            )
            yield x[:, rows, columns]


def _halved(
    model: Stepwise,
    operator: Operator,
    values: Mapping[int, np.ndarray],
    constants: Mapping[int, np.ndarray],
) -> dict[int, np.ndarray]:
    """An operator's outputs in the simulation of half precision."""
    if operator.kind not in _REDUCTIONS:
        with np.errstate(all="ignore"):
            outputs = model.run(operator, values, constants)
        return {i: rounded(value) for i, value in outputs.items()}
    x = values[operator.inputs[0]]
    (output,) = operator.outputs
    with np.errstate(all="ignore"):
        if operator.kind == "SOFTMAX":
            powers = rounded(_powers(x, operator))
            sums = added_up(np.moveaxis(powers, -1, 0))[..., None]
            return {output: rounded(powers / sums)}
        if operator.kind == "AVERAGE_POOL_2D":
            counts = _sum(_windows(np.ones_like(x), operator))
            result = rounded(added_up(_windows(x, operator)) / counts)
            ends = _ACTIVATIONS[operator.options.fusedActivationFunction]
            return {output: result.clip(*ends)}
        axes = _axes(operator, x, constants)
        sums = x
        for axis in axes:
            # Of what is left: those before it have gone to the end.
            sums = added_up(np.moveaxis(sums, axis - axes.index(axis), 0))
        if operator.options.keepDims:
            sums = np.expand_dims(sums, axes)
        count = math.prod(x.shape[axis] for axis in axes) if operator.kind == "MEAN" else 1
        return {output: rounded(sums / np.float32(count))}


def added_up(terms: Iterable[np.ndarray]) -> np.ndarray:
    """The sum of arrays in half precision, one after another.

    Args:
        terms: float32 of values that half precision has.
    """
    terms = iter(terms)
    total = next(terms).copy()
    with np.errstate(all="ignore"):
        for term in terms:
            total = rounded(total + term)
    return total


def rounded(value: np.ndarray) -> np.ndarray:
    """Float32 rounded to half precision; beyond 65,504 infinite, below 2^-14 zero.

    Other types come back as they are.
    """
    if value.dtype != np.float32:
        return value
    with np.errstate(over="ignore"):
        result = np.asarray(value.astype(np.float16).astype(np.float32))
    result[np.abs(result) < SMALLEST] = 0
    return result


def _decibels(want: np.ndarray, got: np.ndarray) -> float:
    """Signal to noise; infinite where nothing is lost, minus infinite where all is."""
    if want.dtype != np.float32:
        return math.inf if np.array_equal(want, got) else 0.0
    with np.errstate(all="ignore"):
        error = want - got
        noise, signal = (float(np.vdot(x, x)) for x in (error, want))
    if not math.isfinite(noise):
        return -math.inf
    if not noise:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def format_half(report: HalfReport, name: str) -> str:
    """The report as text.

    Args:
        name: of the file.
    """
    lines = [
        f"{name}: {'safe' if report.safe else 'AT RISK'} in half precision; simulated, "
        f"{report.decibels:.1f} dB, same class on {100 * report.same_class:.3f} % of the pixels"
    ]
    for what, field in (
        ("tensor", "largest"),
        ("sum", "total"),
        ("partial sum in the worst order", "partial"),
    ):
        each = report.most(field)
        lines.append(f"largest {what}: {getattr(each, field):,.1f} in {_named(each)}")
    lines += [f"at risk: {_named(each)}: {each.overflow}" for each in report.overflows]
    if report.lossy:
        lines += [
            f"at risk: {_named(each)}: {_loss(each)}"
            for each in _blamed(report)
            if not each.overflow
        ]
    if close := sorted(report.close, key=lambda each: -each.reached):
        more = f", and {len(close) - 1} others" if len(close) > 1 else ""
        lines.append(
            f"within a factor of {1 / _CLOSE:g} of 65,504: {_named(close[0])}: "
            f"{close[0].reached:,.0f}{more}"
        )
    return "\n".join(lines)


def _blamed(report: HalfReport) -> Sequence[HalfOperator]:
    """Of a file that loses: where, at least one operator."""
    return report.noisy or [min(report.operators, key=lambda each: each.decibels)]


def _named(each: HalfOperator) -> str:
    return f"{each.layer} ({each.operator})"


def _loss(each: HalfOperator) -> str:
    """What an operator loses, in words."""
    text = f"{each.decibels:.1f} dB, {each.drop:.1f} less than what it is given"
    if each.vanishing:
        text += f"; {each.vanishing} of its channels stay below 6.1e-5"
    return text
