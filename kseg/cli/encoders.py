"""Encoders and heads that go together: any HEAD.ENCODER is a model, such as unet.ResNet50V2."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(args: argparse.Namespace) -> None:
    """Prints two tables."""
    from kseg.backbones.encoders import ENCODERS
    from kseg.zoo import HEADS, list_encoders, list_heads

    print(f"{'head':<16} {'needs features at':<18} source")
    for name in list_heads():
        head = HEADS[name]
        needs = ", ".join(map(str, head.needs)) or "-"
        print(f"{name:<16} {needs:<18} {head.source}")
    print(f"\n{'encoder':<18} {'parameters':>11} {'output strides':<15} ", end="")
    print(f"{'channels by stride':<40} ImageNet weights; heads that do not fit")
    for name in list_encoders():
        encoder = ENCODERS[name]
        strides = ", ".join(map(str, encoder.output_strides()))
        channels = " ".join(f"{stride}:{count}" for stride, count in encoder.channels.items())
        unfit = ", ".join(head for head in list_heads() if not HEADS[head].fits(encoder)) or "-"
        print(f"{name:<18} {encoder.parameters:>11,} {strides:<15} ", end="")
        print(f"{channels:<40} {encoder.imagenet}; {unfit}")
