"""Backbones: functions from an image tensor to features, shared by several networks."""

from __future__ import annotations

from typing import Any, NamedTuple


class Features(NamedTuple):
    """What a decoder takes from a backbone, NHWC.

    Attributes:
        output: the last features, at the output stride.
        low_level: early features for the decoder, at stride 4 where not said otherwise.
        mid_level: features at stride 8, for decoders of two steps.
        high_level: features at stride 16, or at the output stride where that is less.
        stem: features at stride 2.
    """

    output: Any
    low_level: Any
    mid_level: Any = None
    high_level: Any = None
    stem: Any = None
