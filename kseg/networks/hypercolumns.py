"""Hypercolumns, arXiv:1411.5752 (Hariharan et al., CVPR 2015), as a head."""

from __future__ import annotations

from keras import KerasTensor
from keras import layers as kl

from kseg.backbones import Features
from kseg.layers import Resize, conv
from kseg.networks import Head


def hypercolumns(features: Features, num_classes: int) -> KerasTensor:
    """A linear classifier of all features above a pixel: (N, H, W, 3) to logits.

    They are at the stride of the encoder's finest features. The classifier of the features one
    above the other is the sum of one classifier a level, which each runs at the size of its level
    before it is resized (Section 3.2). There is one for all pixels; the paper has a grid of
    them in each detected box.
    """
    levels = {**features.levels(), 32: features.output}
    finest = next(iter(levels.values()))
    scores = []
    for stride, level in levels.items():
        name = f"score_{stride}"
        x = conv(level, num_classes, 1, use_bias=True, name=name)
        scores.append(Resize(name=f"{name}.resize")(x, finest))
    return kl.Add(name="score_sum")(scores)


HEADS = {
    "hypercolumns": Head(hypercolumns, classifier=("score_",), source="arXiv:1411.5752"),
}
