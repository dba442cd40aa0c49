"""Fully convolutional networks, arXiv:1411.4038 (Long, Shelhamer, Darrell).

Layer names are those of the authors' Caffe models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from keras import KerasTensor
from keras import layers as kl

from kseg.backbones import Features
from kseg.backbones.encoders import ENCODERS
from kseg.backbones.vgg import conv_relu
from kseg.layers import Resize, conv
from kseg.networks import Head, Variant

STRIDES = (8, 16, 32)


def fcn(
    features: Features,
    num_classes: int,
    *,
    stride: int = 8,
    filters: int = 4096,
    kernel_size: int = 7,
) -> KerasTensor:
    """FCN-32s, 16s or 8s (Section 4.2): features of (N, H, W, 3) to logits at that stride.

    The reference pads the image by 100 and crops the scores, to have something left
    behind a 7x7 convolution without padding. Here that convolution is padded: logits lie
    on the image's grid, (N, ceil(H/stride), ceil(W/stride), num_classes), at any size.
    Upsampling is bilinear, which the reference's fixed transposed convolutions are too.

    Args:
        stride: 32, 16 or 8, that of the finest scores.
        filters, kernel_size: of the convolution behind the encoder, VGG16's fc6; fc7 is a
            1x1 convolution to as many channels.
    """
    if stride not in STRIDES:
        raise ValueError(f"stride is {stride}; it must be one of {STRIDES}")
    if filters < 1 or kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(
            f"filters is {filters}, kernel_size {kernel_size}; they must be at least 1, and "
            "kernel_size odd"
        )
    x = features.output
    for name, size in (("fc6", kernel_size), ("fc7", 1)):
        x = conv_relu(x, filters, size, name=name)
        x = kl.Dropout(0.5, name=f"{name}.dropout")(x)
    x = conv(x, num_classes, 1, use_bias=True, name="score_fr")
    skips = {16: "pool4", 8: "pool3"}
    return add_skips(x, [(name, features.at(at)) for at, name in skips.items() if at >= stride])


def add_skips(scores: KerasTensor, skips: Iterable[tuple[str, KerasTensor]]) -> KerasTensor:
    """Scores of finer features added, from coarse to fine (Figure 3).

    Args:
        scores: (N, h, w, C) of the last features.
        skips: name and features of every step; ``score_name`` is its classifier.
    """
    for name, features in skips:
        finer = conv(features, scores.shape[-1], 1, use_bias=True, name=f"score_{name}")
        scores = Resize(name=f"upscore_{name}")(scores, finer)
        scores = kl.Add(name=f"fuse_{name}")([scores, finer])
    return scores


_FCN = Head(
    fcn,
    classifier=("score_",),
    needs=(8, 16),
    source="arXiv:1411.4038 (134 M parameters); github.com/shelhamer/fcn.berkeleyvision.org",
)


def _vgg16(stride: int, **facts: Any) -> Variant:
    return _FCN.on(
        ENCODERS["VGG16Caffe"],
        options={"stride": stride},
        num_classes=21,
        dataset="voc",
        source=_FCN.source,
        **facts,
    )


VARIANTS = {
    "fcn_32s_vgg16": _vgg16(
        32,
        parameters=134_346_581,
        multiply_adds={(512, 512): 110.80e9},
        mean_iou="63.6 VOC 2011 val",
    ),
    "fcn_16s_vgg16": _vgg16(
        16,
        parameters=134_357_354,
        multiply_adds={(512, 512): 110.81e9},
        mean_iou="65.0 VOC 2011 val",
    ),
    "fcn_8s_vgg16": _vgg16(
        8,
        parameters=134_362_751,
        multiply_adds={(512, 512): 110.84e9},
        mean_iou="65.5 VOC 2011 val; 67.2 VOC 2012 test",
    ),
}

# VGG16's 4096 channels of 7x7 are 400 million parameters on a ResNet.
HEADS = {"fcn": dataclasses.replace(_FCN, options={"filters": 512, "kernel_size": 3})}
