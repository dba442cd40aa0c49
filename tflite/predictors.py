""".tflite and .onnx files as Predictors."""

from __future__ import annotations

import abc
import dataclasses
import importlib
import math
import os
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from kseg.card import CARD_ENTRY, Card, Normalization, whole_number
from kseg.errors import KsegError, first_line
from kseg.file_card import FileCard, read_file_card, without_card
from kseg.files import check_is_file, parse_json, suffix_of
from kseg.lazy import import_extra
from kseg.quiet import quiet_stderr
from kseg.tflite.flatbuffer import read_card, shapes

# Bytes: a flatbuffer's offsets have 31 bits. More is not even read.
_LIMIT = 2**31


@dataclasses.dataclass(frozen=True)
class TensorIO:
    """A file's input and output as its tensors take them.

    An integer q of a tensor with a scale stands for scale * (q - zero point)
    (arXiv:1712.05877, Equation 1); without one it is a pixel's value or a channel number.

    Attributes:
        input_type: of the tensor: float, or an integer type.
        output_type, output_shape: of the tensor, batch included.
        scale, zero_point: of the output, 0 where it has none.
        input_scale, input_zero_point: of the input, 0 where it has none.
        normalization: what the input's numbers are of pixels 0..255; None where they are
            these.
        channels_first, output_channels_first: whether input and output are (N, C, H, W).
        probabilities: whether the output is a softmax, whose logarithm is taken.
        one_channel: whether channel numbers come with an axis of one.
    """

    input_type: np.dtype
    output_type: np.dtype
    output_shape: tuple[int, ...]
    scale: float
    zero_point: int
    input_scale: float = 0.0
    input_zero_point: int = 0
    normalization: Normalization | None = None
    channels_first: bool = False
    output_channels_first: bool = False
    probabilities: bool = False
    one_channel: bool = False

    @property
    def takes_pixels(self) -> bool:
        """Whether the input's numbers are the pixels' values as they come."""
        plain = not self.input_scale or (self.input_scale, self.input_zero_point) == (1, 0)
        return plain and self.normalization is None and not self.channels_first

    def encode(self, image: np.ndarray) -> np.ndarray:
        """RGB (H, W, 3) 0..255 to the input tensor."""
        if self.normalization is not None:
            mean, std = (
                np.asarray(v, np.float32) for v in (self.normalization.mean, self.normalization.std)
            )
            order = slice(None, None, -1 if self.normalization.channel_order == "BGR" else 1)
            image = (np.asarray(image, np.float32)[..., order] - mean) / std
        if self.channels_first:
            image = np.ascontiguousarray(np.moveaxis(image, -1, 0))
        if self.input_scale:
            image = np.asarray(image, np.float32) / np.float32(self.input_scale)
            image = np.rint(image) + self.input_zero_point
        if np.issubdtype(self.input_type, np.integer):
            limits = np.iinfo(self.input_type)
            image = np.clip(np.rint(image), limits.min, limits.max)
        return np.asarray(image, self.input_type)[None]

    def decode(self, output: np.ndarray) -> np.ndarray:
        """The output tensor to float32 logits or channel numbers, without the batch."""
        values = self.arranged(output)
        if self.scale:
            values = (values.astype(np.float32) - self.zero_point) * np.float32(self.scale)
        elif np.issubdtype(output.dtype, np.floating):
            values = values.astype(np.float32, copy=False)
        if self.probabilities:
            values = np.log(np.maximum(values, np.finfo(np.float32).tiny))
        return values

    def arranged(self, output: np.ndarray) -> np.ndarray:
        """The output tensor as (h, w, C) or (h, w)."""
        values = output[0]
        if self.one_channel:
            return values.reshape([n for n in values.shape if n != 1])
        return np.moveaxis(values, 0, -1) if self.output_channels_first else values

    def check(self, path: Path, card: Card) -> None:
        """Whether pixels and the card's output can be told by these types and scales.

        Raises:
            KsegError: an integer type without a scale, another type, or an input whose range
                is not that of RGB 0..255.
        """
        hint = "quantise it with RGB images 0..255, or convert the .keras file with kseg"
        for name, dtype, scale in (
            ("input", self.input_type, self.input_scale),
            ("output", self.output_type, self.scale),
        ):
            plain = np.issubdtype(dtype, np.floating) or (
                dtype == np.uint8 if name == "input" else card.output == "argmax"
            )
            if not np.issubdtype(dtype, np.number) or not (plain or scale):
                raise KsegError(f"{path}: its {name} is {dtype} without a scale; {hint}")
        rounds = np.issubdtype(self.input_type, np.integer) and not self.input_scale
        if rounds and self.normalization is not None:
            stated = self.normalization.mean, self.normalization.std
            if stated != ((0.0,) * 3, (1.0,) * 3):
                raise KsegError(
                    f"{path}: its input is {self.input_type} without a scale, so that it takes "
                    "pixels as they are; state mean [0, 0, 0] and std [1, 1, 1] in the card"
                )
        is_class = np.issubdtype(self.output_type, np.integer) and not self.scale
        if is_class != (card.output == "argmax"):
            raise KsegError(
                f"{path}: its output is {self.output_type} with scale {self.scale:g}, but its "
                f"card says {card.output}; convert the .keras file with kseg"
            )
        if self.input_scale:
            limits = np.iinfo(self.input_type)
            low, high = (
                self.input_scale * (q - self.input_zero_point) for q in (limits.min, limits.max)
            )
            if self.normalization is not None:
                ends = zip(self.normalization.mean, self.normalization.std, strict=True)
                mean, std = next(ends)
                low, high = (value * std + mean for value in (low, high))
            # Tools take the range from images, which need not have black and white.
            if low > 64 or high < 128:
                raise KsegError(
                    f"{path}: its {self.input_type} input stands for {low:g} to {high:g}, where "
                    f"pixels are 0 to 255; {hint}"
                )


class _InSteps(abc.ABC):
    """A Predictor whose parts are timed apart: write, run and read tensors as ``io`` says."""

    card: Card
    input_size: tuple[int, int] | None
    runtime: str
    io: TensorIO

    @abc.abstractmethod
    def write(self, tensor: np.ndarray) -> None: ...

    @abc.abstractmethod
    def run(self) -> None: ...

    @abc.abstractmethod
    def read(self) -> np.ndarray: ...

    def __call__(self, image: np.ndarray) -> np.ndarray:
        self.write(self.io.encode(image))
        self.run()
        return self.io.decode(self.read())


class TFLitePredictor(_InSteps):
    """Runs a .tflite file on the CPU (LiteRT with XNNPACK).

    Args:
        path: of the file.
        threads: None takes all cores.
        stated: of a file of others, which has no card.

    Attributes:
        input_name: of the input tensor.

    Raises:
        KsegError: missing, damaged, too large, without a card, of no fixed size or with several
            outputs, or tensors of which the types and scales do not say what they stand for.
    """

    def __init__(
        self,
        path: str | Path,
        threads: int | None = None,
        stated: FileCard | None = None,
    ) -> None:
        path = Path(path)
        check_is_file(path, "a .tflite file")
        if suffix_of(path) in (".keras", ".onnx"):
            raise KsegError(f"{path}: this takes a .tflite file, as `kseg convert` makes it")
        size = path.stat().st_size
        if not 0 < size < _LIMIT:
            raise KsegError(f"{path}: not a readable .tflite file ({size} bytes); convert it again")
        threads = thread_count(threads)
        try:
            content = path.read_bytes()
            with quiet_stderr():
                self._interpreter = Interpreter(model_content=content, num_threads=threads)
                self._interpreter.allocate_tensors()
            card = read_card(content)
            shapes(content)  # what looks into the file needs names that are texts
            inputs = self._interpreter.get_input_details()
            outputs = self._interpreter.get_output_details()
        except Exception as error:  # damage shows as ValueError, RuntimeError or struct.error
            raise KsegError(
                f"{path}: not a readable .tflite file ({first_line(error)}); convert it again"
            ) from error
        self._path = path
        check_stated(path, card, stated)
        self._input, self._output = _one_of_each(path, inputs, outputs)
        shape = tuple(map(int, self._input["shape"]))
        if min(self._input["shape_signature"][1:], default=1) < 1:
            # LiteRT would run it at a size of 1.
            raise KsegError(
                f"{path}: its input has no fixed size; convert the model with an input of one, "
                "such as keras.Input((512, 1024, 3))"
            )
        self.input_name: str = self._input["name"]
        self.io, self.input_size, self.card = _understood(
            path, card, stated, litert_io(path, self._interpreter), shape
        )
        self.runtime = f"litert {version('ai-edge-litert')} cpu, {threads} threads"

    def write(self, tensor: np.ndarray) -> None:
        """Copies the input tensor in."""
        self._interpreter.set_tensor(self._input["index"], tensor)

    def run(self) -> None:
        """Computes."""
        try:
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise KsegError(f"{self._path}: LiteRT cannot run it ({first_line(error)})") from error

    def read(self) -> np.ndarray:
        """Copies the output tensor out."""
        return self._interpreter.get_tensor(self._output["index"])


class OnnxPredictor(_InSteps):
    """Runs an .onnx file on the CPU (ONNX Runtime, extra ``onnx``).

    Args:
        path: of the file.
        threads: None takes all cores.
        stated: of a file of others, which has no card.

    Raises:
        KsegError: missing, damaged, without a card or with several outputs, tensors of which
            the types and scales do not say what they stand for, or ONNX Runtime is not
            installed.
    """

    def __init__(
        self,
        path: str | Path,
        threads: int | None = None,
        stated: FileCard | None = None,
    ) -> None:
        path = Path(path)
        check_is_file(path, "an .onnx file")
        onnxruntime = import_onnxruntime(path)
        threads = thread_count(threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # What fails is raised as well.
        options.log_severity_level = 4
        try:
            # By its path, beside which weights may lie in a file of their own.
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            entry = self._session.get_modelmeta().custom_metadata_map.get(CARD_ENTRY)
            card = None if entry is None else Card.from_json(parse_json(entry))
        except Exception as error:  # ONNX Runtime has an exception for each of its codes
            raise KsegError(
                f"{path}: not a readable .onnx file ({first_line(error)}); convert it again"
            ) from error
        check_stated(path, card, stated)
        ends = self._session.get_inputs(), self._session.get_outputs()
        source, result = _one_of_each(path, *ends)
        self._input = source.name
        input_type, output_type = _dtype(path, source), _dtype(path, result)
        integers = [np.issubdtype(t, np.integer) for t in (input_type, output_type)]
        scales = onnx_scales(path) if any(integers) else ((0.0, 0), (0.0, 0))
        # The batch is 1 or open.
        io = TensorIO(input_type, output_type, (1, *result.shape[1:]), *scales[1], *scales[0])
        self.io, self.input_size, self.card = _understood(
            path, card, stated, io, tuple(source.shape)
        )
        self._path = path
        self.runtime = f"onnxruntime {onnxruntime.__version__} cpu, {threads} threads"

    def write(self, tensor: np.ndarray) -> None:
        """Keeps the input tensor: ONNX Runtime reads it where it is."""
        self._tensor = tensor

    def run(self) -> None:
        """Computes."""
        try:
            (self._result,) = self._session.run(None, {self._input: self._tensor})
        except Exception as error:  # ONNX Runtime has an exception for each of its codes
            raise KsegError(
                f"{self._path}: ONNX Runtime cannot run it ({first_line(error)})"
            ) from error

    def read(self) -> np.ndarray:
        """The output tensor, new with every run."""
        return self._result


def import_onnxruntime(path: Path) -> ModuleType:
    """ONNX Runtime for a file.

    Raises:
        KsegError: it is not installed.
    """
    # It looks for GPUs and tells what it did not find.
    with quiet_stderr():
        return import_extra("onnxruntime", "onnx", path)


def thread_count(count: int | None = None) -> int:
    """The threads asked for; None takes all cores.

    Raises:
        KsegError: less than one, or no whole number.
    """
    if count is not None and whole_number("threads", count) < 1:
        raise KsegError(f"threads is {count}; it must be at least 1")
    return count or os.cpu_count() or 1


def _one_of_each(path: Path, inputs: list[Any], outputs: list[Any]) -> tuple[Any, Any]:
    """The input and the output of a file."""
    if (len(inputs), len(outputs)) != (1, 1):
        raise KsegError(
            f"{path}: has {len(inputs)} inputs and {len(outputs)} outputs, not one of each; "
            "convert the model with kseg"
        )
    return inputs[0], outputs[0]


def litert_io(path: Path, interpreter: Interpreter) -> TensorIO:
    """What the tensors of a .tflite file with one input and one output are.

    Raises:
        KsegError: an input or output with a scale a channel.
    """
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    for detail in (source, result):
        if len(detail["quantization_parameters"]["scales"]) > 1:
            raise KsegError(
                f"{path}: the tensor {detail['name']} has a scale a channel; convert the "
                ".keras file with kseg"
            )
    return TensorIO(
        np.dtype(source["dtype"]),
        np.dtype(result["dtype"]),
        tuple(int(n) for n in result["shape"]),
        *result["quantization"],
        *source["quantization"],
    )


def onnx_scales(path: Path) -> tuple[tuple[float, int], tuple[float, int]]:
    """Scale and zero point of an .onnx file's input and output, 0 where they have none.

    ONNX gives them to operators, not to tensors.

    Raises:
        KsegError: the package onnx is not installed, an operator that takes the integers
            otherwise, or scales that are not constants.
    """
    onnx = import_extra("onnx", "onnx", path)
    numpy_helper = importlib.import_module("onnx.numpy_helper")
    graph = onnx.load(str(path)).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    readers = {name: node for node in graph.node for name in node.input}
    makers = {name: node for node in graph.node for name in node.output}

    def of(name: str, nodes: dict[str, Any], end: str, kinds: dict[str, int]) -> tuple[float, int]:
        node = nodes.get(name)
        while node is not None and node.op_type in ("Transpose", "Identity", "Reshape", "Squeeze"):
            node = nodes.get((node.output if end == "input" else node.input)[0])
        if node is None or node.op_type in ("Cast", "ArgMax"):
            return 0.0, 0
        first = kinds.get(node.op_type)
        names = [] if first is None else [name for name in node.input[first : first + 2] if name]
        if not names or not set(names) <= set(constants):
            raise KsegError(
                f"{path}: its {end} is of integers, and {node.op_type} does not say which numbers "
                "they stand for; convert the .keras file with kseg"
            )
        values = [numpy_helper.to_array(constants[name]) for name in names]
        if any(value.size != 1 for value in values):
            raise KsegError(f"{path}: its {end} has a scale a channel; convert it with kseg")
        scale, zero_point = (*values, np.zeros(1, np.int64))[:2]
        return float(scale.reshape(())), int(zero_point.reshape(()))

    return (
        _of_float(graph.input[0])
        or of(graph.input[0].name, readers, "input", {"DequantizeLinear": 1, "QLinearConv": 1}),
        _of_float(graph.output[0])
        or of(graph.output[0].name, makers, "output", {"QuantizeLinear": 1, "QLinearConv": 6}),
    )


def _of_float(value: Any) -> tuple[float, int] | None:
    """No scale, where a value of an ONNX graph is of floats."""
    from onnx import helper

    kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return None if np.issubdtype(kind, np.integer) else (0.0, 0)


def stated_for(path: Path, card: str | Path | None) -> FileCard | None:
    """The card in a JSON file, for a .tflite or .onnx file that has none of its own."""
    if card is None or suffix_of(path) not in (".tflite", ".onnx"):
        return None
    content = path.read_bytes()
    own = CARD_ENTRY.encode() in content
    return None if own else read_file_card(card)


def check_stated(path: Path, card: Card | None, stated: FileCard | None) -> None:
    """Raises KsegError where a file has no card and none is stated, or both."""
    if card is None and stated is None:
        raise without_card(path)
    if card is not None and stated is not None:
        raise KsegError(f"{path}: has a card of its own; leave card out")


def _understood(
    path: Path,
    card: Card | None,
    stated: FileCard | None,
    io: TensorIO,
    input_shape: tuple[Any, ...],
) -> tuple[TensorIO, tuple[int, int] | None, Card]:
    """The tensors with what is stated of them, the input's (H, W), and the Predictor's card.

    Raises:
        KsegError: tensors that do not fit what the file's card, or the stated one, says.
    """
    if stated is not None:
        first = _channels_first(path, "input", input_shape, 3, stated.layout)
        if first:
            input_shape = (input_shape[0], *input_shape[2:], input_shape[1])
        size = _image_size(path, input_shape)
        io = dataclasses.replace(io, normalization=stated.normalization, channels_first=first)
        io, output, stride = _output_of(path, stated, io, size)
        card = stated.card(path.stem, output, stride, size)
    else:
        assert card is not None  # ``check_stated``
        size = _image_size(path, input_shape)
    io.check(path, card)
    return io, size, card


def _output_of(
    path: Path, stated: FileCard, io: TensorIO, size: tuple[int, int] | None
) -> tuple[TensorIO, str, int]:
    """The output as it is stated: its layout, the card's name for it and its stride."""
    shape = io.output_shape
    if stated.output == "argmax":
        inner = [n for n in shape[1:] if n != 1]
        if len(inner) != 2:
            raise KsegError(
                f"{path}: its output is {shape}, not channel numbers of each pixel as the card "
                "says; state output logits or probabilities"
            )
        if np.issubdtype(io.output_type, np.floating):
            raise KsegError(
                f"{path}: its output is of {io.output_type}, which are no channel numbers as the "
                "card says; state output logits or probabilities"
            )
        # A scale of channel numbers says nothing.
        plain = dataclasses.replace(io, scale=0.0, zero_point=0, one_channel=len(shape) == 4)
        return plain, "argmax", 1
    if len(shape) != 4:
        raise KsegError(
            f"{path}: its output is {shape}, not scores of the channels of each pixel as the card "
            "says; state output argmax where these are channel numbers"
        )
    first = _channels_first(path, "output", shape, stated.channels, stated.layout)
    io = dataclasses.replace(
        io, output_channels_first=first, probabilities=stated.output == "probabilities"
    )
    height = shape[2] if first else shape[1]
    if size is None or _is_open(height):
        return io, "logits", 1
    stride = 2 ** max(0, round(math.log2(size[0] / height)))
    same = tuple(shape[2:4] if first else shape[1:3]) == size
    return (io, "logits", 1) if same else (io, "stride-logits", stride)


def _channels_first(
    path: Path, end: str, shape: tuple[Any, ...], channels: int, layout: str | None
) -> bool:
    """Whether a tensor (N, C, H, W) or (N, H, W, C) is the former.

    Raises:
        KsegError: it is neither, or both.
    """
    if len(shape) != 4:
        raise KsegError(f"{path}: its {end} is {shape}, not of four dimensions")
    found = [name for name, axis in (("NHWC", 3), ("NCHW", 1)) if shape[axis] == channels]
    if layout in found:
        found = [layout]
    if len(found) != 1 or layout not in (None, *found):
        hint = "state layout NHWC or NCHW" if len(found) == 2 else "state the card anew"
        raise KsegError(
            f"{path}: its {end} is {shape}, where {channels} channels are "
            f"{'on either side' if len(found) == 2 else 'expected'}"
            f"{f' in layout {layout}' if layout else ''}; {hint}"
        )
    return found == ["NCHW"]


def _image_size(path: Path, shape: Any) -> tuple[int, int] | None:
    """(H, W) of an input (N, H, W, 3), None where the file leaves them open.

    Raises:
        KsegError: an input of another shape.
    """
    if len(shape) != 4 or shape[3] != 3 or not (_is_open(shape[0]) or shape[0] == 1):
        raise KsegError(
            f"{path}: its input is {tuple(shape)}, not one image (1, H, W, 3); convert the model "
            "with kseg"
        )
    height, width = shape[1:3]
    return None if _is_open(height) or _is_open(width) else (int(height), int(width))


def _is_open(extent: Any) -> bool:
    """Whether an extent of ONNX Runtime is a name, or none, rather than a number."""
    return extent is None or isinstance(extent, str)


# Of ONNX Runtime's "tensor(float)" and so on.
_ONNX_TYPES = {
    "float": np.float32,
    "float16": np.float16,
    "double": np.float64,
    "uint8": np.uint8,
    "int8": np.int8,
    "uint16": np.uint16,
    "int16": np.int16,
    "int32": np.int32,
    "int64": np.int64,
}


def _dtype(path: Path, value: Any) -> np.dtype:
    """Of an input or output of ONNX Runtime.

    Raises:
        KsegError: a type that NumPy does not have, or no number's.
    """
    name = value.type.removeprefix("tensor(").removesuffix(")")
    if name not in _ONNX_TYPES:
        raise KsegError(
            f"{path}: {value.name} is {value.type}; kseg runs files of "
            f"{', '.join(_ONNX_TYPES)}, so convert the .keras file with kseg"
        )
    return np.dtype(_ONNX_TYPES[name])
