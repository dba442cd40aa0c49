"""What a model is and how to use it, as plain values that every file of it carries."""

from __future__ import annotations

import dataclasses
import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from kseg.errors import KsegError, shown

if TYPE_CHECKING:
    from kseg.data import ClassTable


class Split(Protocol):
    """What a card takes of a data set, or of the records that were prepared of one."""

    @property
    def name(self) -> str: ...

    @property
    def split(self) -> str: ...

    @property
    def classes(self) -> ClassTable: ...

    @property
    def size(self) -> tuple[int, int] | None: ...


OUTPUTS = ("logits", "stride-logits", "argmax")
"""Forms of a model's output."""

CARD_ENTRY = "KSEG_CARD"
"""Name of the metadata of a .tflite or .onnx file that has its card as JSON."""

_RESIZES = ("half_pixel", "align_corners")


@dataclasses.dataclass(frozen=True)
class Normalization:
    """``(x - mean) / std`` of RGB 0..255; mean and std in ``channel_order``.

    Raises:
        KsegError: a mean or std that is not three finite numbers, a std that is not above
            0, both of pixels 0..1, or another channel order than "RGB" and "BGR".
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channel_order: str = "RGB"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            value = _tuple_of(name, getattr(self, name), finite_number, "three numbers")
            if len(value) != 3:
                raise KsegError(f"{name} is {shown(value)}; it must be three numbers")
            # A frozen dataclass has no other way to set its own field.
            object.__setattr__(self, name, value)
        if min(self.std) <= 0:
            raise KsegError(f"std is {shown(self.std)}; each must be above 0")
        if max(self.std) < 1 or 0 < max(self.mean) <= 1:
            raise KsegError(
                f"mean {shown(self.mean)} and std {shown(self.std)} look like those of pixels "
                "0..1; state them for pixels 0..255, 255 times as large"
            )
        if self.channel_order not in ("RGB", "BGR"):
            raise KsegError(f"channel_order is {shown(self.channel_order)}; it must be RGB or BGR")

    @property
    def rgb_mean(self) -> tuple[float, float, float]:
        """The RGB value that normalises to zero."""
        return self.mean if self.channel_order == "RGB" else self.mean[::-1]


@dataclasses.dataclass(frozen=True)
class Card:
    """What predict, evaluate and convert need to know of a model; plain JSON.

    Lists in ``options`` become tuples, so that a card equals its copy from a file.

    Attributes:
        name: row of the zoo, or of a wrapped model its own name.
        options: arguments of the builder beside the row's own.
        num_classes: channels of the logits, 2 to 255.
        dataset: data set of the classes, None where unknown.
        class_names, colors: by train id, one for every channel that is not void; colours
            are RGB 0..255; None where unknown.
        void_channels: channels that mean "no class": never right in a score.
        preprocessing: whether the normalisation is in the graph.
        normalization: what the network was trained on.
        resize: "half_pixel" or "align_corners".
        input_size: (H, W) of the data set's images, None where unknown or mixed.
        weights: where the weights come from, one line.
        output: "logits", "stride-logits" or "argmax"; a .keras file has logits.
        output_stride: input pixels to one of the output.
        wrapped: whether the network is its user's own (``kseg.wrap``) and no row of the zoo,
            whatever its name is.
        trained_splits: "NAME SPLIT" of what kseg trained the weights on, with all that they
            began with and that their teacher has seen; whoever scores one of them says so.
            Empty where unknown.

    Raises:
        KsegError: a value of another type or out of range, or names, colours and void
            channels that do not fit ``num_classes``.
    """

    name: str
    options: dict[str, Any]
    num_classes: int
    dataset: str | None
    class_names: tuple[str, ...] | None
    colors: tuple[tuple[int, int, int], ...] | None
    void_channels: tuple[int, ...]
    preprocessing: bool
    normalization: Normalization
    resize: str
    input_size: tuple[int, int] | None = None
    weights: str = "random"
    output: str = "logits"
    output_stride: int = 1
    wrapped: bool = False
    trained_splits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_type("name", self.name, str)
        check_type("options", self.options, dict)
        check_type("dataset", self.dataset, str | None)
        check_type("preprocessing", self.preprocessing, bool)
        check_type("wrapped", self.wrapped, bool)
        check_type("normalization", self.normalization, Normalization)
        check_type("weights", self.weights, str)
        for name, choices in (("resize", _RESIZES), ("output", OUTPUTS)):
            if getattr(self, name) not in choices:
                value = shown(getattr(self, name))
                raise KsegError(f"{name} is {value}; it must be one of {', '.join(choices)}")
        check_num_classes(self.num_classes)
        count = operator.index(self.num_classes)
        stride = whole_number("output_stride", self.output_stride)
        if stride < 1:
            raise KsegError(f"output_stride is {stride}; it must be at least 1")
        void = _void_channels(self.void_channels, count)
        values = {
            "options": tuples(self.options),
            "num_classes": count,
            "output_stride": stride,
            "void_channels": void,
            "class_names": _names(self.class_names, count - len(void)),
            "colors": _colors(self.colors, count - len(void)),
            "input_size": checked_size("input_size", self.input_size),
            "trained_splits": _tuple_of("trained_splits", self.trained_splits, _text, "splits"),
        }
        for name, value in values.items():
            # A frozen dataclass has no other way to set its own field.
            object.__setattr__(self, name, value)

    def train_ids(self) -> np.ndarray:
        """(256,) uint8 from channel to train id; void channels, and none, to 255."""
        ids = np.full(256, 255, np.uint8)
        channels = self.class_channels()
        ids[channels] = np.arange(len(channels))
        return ids

    def class_channels(self) -> list[int]:
        """The channel of each class, by train id: all channels but the void ones."""
        return [c for c in range(self.num_classes) if c not in self.void_channels]

    def for_inference(self) -> Card:
        """The card of the same network from RGB to one output, training heads left out."""
        options = {k: v for k, v in self.options.items() if k != "auxiliary"}
        return self.replace(preprocessing=True, options=options)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Card:
        """The card that ``to_json`` gave; an earlier kseg's has its split in ``weights`` alone.

        Raises:
            KsegError: what is no card, or one with a wrong value.
        """
        try:
            value = tuples(_fields_of(cls, value))
            value["normalization"] = Normalization(
                **_fields_of(Normalization, value["normalization"])
            )
            if "trained_splits" not in value and isinstance(value.get("weights"), str):
                found = _TRAINED.match(value["weights"])
                value["trained_splits"] = _parts(*found.groups()) if found else ()
            return cls(**value)
        except KsegError as error:
            raise KsegError(f"the card is damaged: {error}") from None

    def replace(self, **changes: Any) -> Card:
        return dataclasses.replace(self, **changes)

    def trained_on(self, data: Split) -> Card:
        """With a data set's name, classes, colours and size, for a model that is trained on it."""
        splits = dict.fromkeys([*self.trained_splits, *_parts(data.name, data.split)])
        return self.replace(
            dataset=data.name,
            class_names=data.classes.names,
            colors=data.classes.colors,
            void_channels=(),
            input_size=data.size,
            weights=f"{_TRAINED_ON}{data.name} {data.split}",
            trained_splits=tuple(splits),
        )


def seen_splits(trained: Sequence[str], name: str, split: str) -> list[str]:
    """What weights were trained on of a split to be scored, but for training splits.

    To score what is called "train" is a choice, and the score says so.

    Args:
        trained: ``Card.trained_splits``.
        name, split: of the data set that is scored.
    """
    seen = [part for part in _parts(name, split) if part in trained]
    return [part for part in seen if not part.split()[-1].startswith("train")]


# How ``weights`` begins after ``trained_on``.
_TRAINED_ON = "trained by kseg on "
_TRAINED = re.compile(rf"{_TRAINED_ON}(\S+) ([^\s;]+)")


def _parts(name: str, split: str) -> list[str]:
    """ "NAME SPLIT" of each part of a split; images that have two names are named once."""
    name = name.removesuffix("_coarse")  # Cityscapes' own images, labelled otherwise
    parts = split.split("+")
    if name == "voc":
        parts = [each for part in parts for each in _VOC_PARTS.get(part, (part,))]
    return [f"{name} {part}" for part in parts]


_VOC_PARTS = {"trainval": ("train", "val")}


def tuples(value: Any) -> Any:
    """The value with tuples for its lists at every depth, since JSON has no tuples."""
    if isinstance(value, dict):
        return {key: tuples(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(tuples(item) for item in value)
    return value


def check_num_classes(count: int) -> None:
    """Raises KsegError for fewer than two classes, or more than 8-bit labels can have."""
    count = whole_number("num_classes", count)
    if count == 1:
        raise KsegError(
            "num_classes is 1, which a softmax cannot learn; for one class against the rest "
            "give 2: the background and the class"
        )
    # Labels are 8-bit, and 255 is ignored.
    if not 2 <= count <= 255:
        raise KsegError(f"num_classes is {count}; it must be 2 to 255")


def _fields_of(kind: type, value: Any) -> dict[str, Any]:
    """The value, if it is a dict with the fields of a dataclass."""
    if not isinstance(value, dict):
        raise KsegError(f"{kind.__name__} is {shown(value)}, not an object of fields")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := [str(name) for name in value if name not in fields]:
        raise KsegError(f"{kind.__name__} has no field {', '.join(unknown)[:60]}")
    optional = dataclasses.MISSING
    if missing := [n for n, f in fields.items() if n not in value and f.default is optional]:
        raise KsegError(f"{kind.__name__} lacks {', '.join(missing)}")
    return value


def check_type(name: str, value: Any, kind: Any) -> None:
    """Raises KsegError where an argument's value is of another type."""
    if not isinstance(value, kind):
        wanted = getattr(kind, "__name__", str(kind).rpartition(".")[2])
        raise KsegError(f"{name} is {shown(value)}; it must be {wanted}")


def whole_number(name: str, value: Any) -> int:
    """A whole number, NumPy's too.

    Raises:
        KsegError: it is something else.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise KsegError(f"{name} is {shown(value)}; it must be a whole number") from None


def _text(name: str, value: Any) -> str:
    check_type(name, value, str)
    return value


def finite_number(name: str, value: Any) -> float:
    """A finite number; NumPy's become Python's, which JSON has.

    Raises:
        KsegError: it is something else.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, str | bool) or not math.isfinite(number):
        raise KsegError(f"{name} has {shown(value)}; it must be finite numbers")
    return value if type(value) in (int, float) else number


def _tuple_of(
    name: str, values: Any, item: Callable[[str, Any], Any], wanted: str
) -> tuple[Any, ...]:
    """The items of a sequence, each as ``item`` gives it."""
    if isinstance(values, str | dict) or not isinstance(values, Iterable):
        raise KsegError(f"{name} is {shown(values)}; it must be {wanted}")
    return tuple(item(name, value) for value in values)


def _void_channels(values: Any, num_classes: int) -> tuple[int, ...]:
    channels = _tuple_of("void_channels", values, whole_number, "channel numbers")
    if not set(channels) <= set(range(num_classes)) or len(set(channels)) != len(channels):
        raise KsegError(
            f"void_channels is {shown(channels)}; each must be one of the {num_classes} channels, "
            "once"
        )
    if len(channels) == num_classes:
        raise KsegError(f"void_channels has all {num_classes} channels; no class is left")
    return channels


def _names(values: Any, count: int) -> tuple[str, ...] | None:
    if values is None:
        return None

    names = _tuple_of("class_names", values, _text, "names of the classes")
    _check_count("class_names", names, count)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise KsegError(
            f"class_names has {', '.join(twice)[:60]} more than once; rename one of them"
        )
    return names


def _colors(values: Any, count: int) -> tuple[tuple[int, int, int], ...] | None:
    if values is None:
        return None

    def color(name: str, value: Any) -> tuple[int, ...]:
        rgb = _tuple_of(name, value, whole_number, "RGB colours of three numbers")
        if len(rgb) != 3 or not all(0 <= part <= 255 for part in rgb):
            raise KsegError(f"{name} has {shown(rgb)}; each must be RGB 0..255")
        return rgb

    colors = _tuple_of("colors", values, color, "RGB colours of the classes")
    _check_count("colors", colors, count)
    return colors


def _check_count(name: str, values: tuple[Any, ...], count: int) -> None:
    if len(values) != count:
        raise KsegError(
            f"{name} has {len(values)} entries for {count} classes (channels that are not "
            "void); give one each, or None"
        )


def checked_size(name: str, value: Any) -> tuple[int, int] | None:
    """The size (H, W) that an argument is, None for None.

    Raises:
        KsegError: it is something else.
    """
    if value is None:
        return None
    size = _tuple_of(name, value, whole_number, "(H, W)")
    if len(size) != 2 or min(size) < 1:
        raise KsegError(f"{name} is {shown(size)}; it must be (H, W), both at least 1")
    return size


# What several published networks expect: 0..1, -1..1, ImageNet's mean and deviation
# (torchvision), and ImageNet's mean alone in BGR, of Caffe's VGG and ResNet models.
UNIT_RANGE = Normalization((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))
SYMMETRIC_RANGE = Normalization((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
IMAGENET = Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
VGG_CAFFE = Normalization((104.00699, 116.66877, 122.67892), (1.0, 1.0, 1.0), "BGR")
RESNET_CAFFE = Normalization((103.939, 116.779, 123.68), (1.0, 1.0, 1.0), "BGR")
