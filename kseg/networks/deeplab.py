"""DeepLabv3 (arXiv:1706.05587) and DeepLabv3+ (arXiv:1802.02611), Chen et al.

Layer names and details are those of the authors' TF-Slim code.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

from keras import KerasTensor
from keras import layers as kl

from kseg.backbones import Features
from kseg.backbones.encoders import ENCODERS
from kseg.layers import RESIZE_CONVENTIONS, Resize, conv, slim_conv, slim_separable_conv
from kseg.networks import Head

# Strides of the features that the decoder's steps join, in their order.
_LOW_LEVELS = {"conv2": (4,), "conv2+conv3": (8, 4), "conv1+conv2+conv3": (8, 4, 2)}

_conv = functools.partial(slim_conv, epsilon=1e-5, momentum=0.9997)
_separable_conv = functools.partial(slim_separable_conv, epsilon=1e-5, momentum=0.9997)


def deeplab(
    features: Features,
    num_classes: int,
    *,
    output_stride: int = 16,
    atrous_rates: Sequence[int] | None = None,
    aspp_filters: int = 256,
    aspp_separable: bool = True,
    image_pooling: bool = True,
    image_pooling_crop_size: int | tuple[int, int] | None = None,
    decoder: bool = True,
    low_level: str = "conv2",
    low_level_channels: int | Sequence[int] = 48,
    decoder_convs: int | Sequence[int] = 2,
    decoder_filters: int | Sequence[int] = 256,
    decoder_kernel: int = 3,
    decoder_separable: bool = True,
    decoder_resize: str = "align_corners",
) -> KerasTensor:
    """DeepLabv3+, or DeepLabv3 where ``decoder`` is False.

    Features of (N, H, W, 3) to logits (N, ceil(H/4), ceil(W/4), num_classes), at the output
    stride without the decoder and at stride 2 where ``low_level`` has "conv1". The published
    sizes are 16k+1. The weights have the same shapes at every output stride.

    MobileNetV2 was published without decoder. With one, the low-level feature is what the
    TF-Slim code names for it, ``layer_4/depthwise_output``: the activated depthwise
    convolution of ``expanded_conv_2``, the last block at stride 4.

    Args:
        output_stride: 8, 16 or 32, input pixels to one of the encoder's last features.
        atrous_rates: dilations of the pyramid's 3x3 branches; None for (6, 12, 18) x 16 /
            output_stride, () for no such branch.
        aspp_filters: channels of every branch of the pyramid and of its output.
        aspp_separable: separable convolutions in the 3x3 branches (v3+, Section 3.1).
        image_pooling: the branch of the pooled features (v3, Section 3.3).
        image_pooling_crop_size: its window in input pixels, one number or (H, W): the
            features are averaged over windows of (size - 1) // output_stride + 1 with
            stride 1, the evaluation of large images by weights trained on crops. None
            for the mean over all. No larger than the input.
        decoder: the decoder of v3+ (Section 3.2).
        low_level: "conv2" for the features at stride 4; "conv2+conv3" for those at stride
            8 first and then at stride 4, with a decoder each (v3+, Table 2);
            "conv1+conv2+conv3" for those at stride 2 besides, which is not in the paper.
        low_level_channels: channels to which low-level features are projected (Table 1), one
            number or one for each decoder.
        decoder_convs, decoder_filters, decoder_kernel: number, channels and kernel size
            of the decoder's convolutions (Table 2); number and channels as
            ``low_level_channels``.
        decoder_separable: separable convolutions in the decoder.
        decoder_resize: "align_corners", as published for sizes 16k+1, or "half_pixel". At even
            sizes the former shifts coarse features against fine ones by up to half a coarse pixel,
            more on one side of the image than on the other; the latter by the same everywhere,
            which convolutions can learn.
    """
    if low_level not in _LOW_LEVELS:
        raise ValueError(f"low_level is {low_level!r}, not one of {', '.join(_LOW_LEVELS)}")
    levels = _LOW_LEVELS[low_level]
    projections = _for_each("low_level_channels", low_level_channels, levels)
    convs = _for_each("decoder_convs", decoder_convs, levels)
    filters = _for_each("decoder_filters", decoder_filters, levels)
    if decoder_resize not in RESIZE_CONVENTIONS:
        raise ValueError(
            f"decoder_resize is {decoder_resize!r}, not one of {', '.join(RESIZE_CONVENTIONS)}"
        )
    for option, value in {
        "aspp_filters": aspp_filters,
        "decoder_kernel": decoder_kernel,
    }.items():
        if value < 1:
            raise ValueError(f"{option} is {value}; it must be at least 1")
    if atrous_rates is None:
        atrous_rates = [rate * 16 // output_stride for rate in (6, 12, 18)]
    if min(atrous_rates, default=1) < 1:
        raise ValueError(f"atrous_rates is {atrous_rates}; they must be positive")

    window = _window(image_pooling_crop_size, output_stride, features.output)
    x = _pyramid(
        features.output,
        aspp_filters,
        rates=atrous_rates,
        separable=aspp_separable,
        image_pooling=image_pooling,
        window=window,
    )
    if decoder:
        for i, level in enumerate(levels):
            x = _decoder_step(
                x,
                features.at(level),
                projections[i],
                convs=convs[i],
                filters=filters[i],
                kernel_size=decoder_kernel,
                separable=decoder_separable,
                resize=decoder_resize,
                suffix=f"_{i}" if i else "",
            )
    return conv(x, num_classes, 1, use_bias=True, name="logits.semantic")


def _for_each(option: str, value: int | Sequence[int], levels: Sequence[int]) -> list[int]:
    """The value for each level."""
    values = [value] * len(levels) if isinstance(value, int) else list(value)
    if len(values) != len(levels) or min(values) < 1:
        raise ValueError(
            f"{option} is {value}; it must be at least 1, one number or one for each of the "
            f"{len(levels)} decoders"
        )
    return values


def _window(
    crop_size: int | tuple[int, int] | None, output_stride: int, features: KerasTensor
) -> tuple[int, int] | None:
    """The pooling window in features for a crop size in input pixels."""
    if crop_size is None:
        return None
    height, width = (crop_size, crop_size) if isinstance(crop_size, int) else crop_size
    window = (height - 1) // output_stride + 1, (width - 1) // output_stride + 1
    fits = [n is None or w <= n for w, n in zip(window, features.shape[1:3], strict=True)]
    if min(height, width) < 1 or not all(fits):
        raise ValueError(
            f"image_pooling_crop_size is {crop_size}; it must be at least 1 and at most the input"
        )
    return window


def _pyramid(
    x: KerasTensor,
    filters: int,
    *,
    rates: Sequence[int],
    separable: bool,
    image_pooling: bool,
    window: tuple[int, int] | None,
) -> KerasTensor:
    """Atrous spatial pyramid pooling (v3, Section 3.3)."""
    branches = []
    if image_pooling:
        if window is None:
            pooled = kl.GlobalAveragePooling2D(keepdims=True, name="image_pooling.pool")(x)
        else:
            pooled = kl.AveragePooling2D(window, strides=1, name="image_pooling.pool")(x)
        pooled = _conv(pooled, filters, 1, name="image_pooling")
        branches.append(Resize("align_corners", name="image_pooling.resize")(pooled, x))
    branches.append(_conv(x, filters, 1, name="aspp0"))
    for i, rate in enumerate(rates, 1):
        branches.append(_conv_of(separable)(x, filters, 3, dilation=rate, name=f"aspp{i}"))
    if len(branches) > 1:
        branches = [kl.Concatenate(name="aspp.concat")(branches)]
    x = _conv(branches[0], filters, 1, name="concat_projection")
    return kl.Dropout(0.1, name="concat_projection.dropout")(x)


def _decoder_step(
    x: KerasTensor,
    low_level: KerasTensor,
    low_level_channels: int,
    *,
    convs: int,
    filters: int,
    kernel_size: int,
    separable: bool,
    resize: str,
    suffix: str,
) -> KerasTensor:
    """Joins ``x`` with earlier features at their size and refines both (v3+, Section 3.2)."""
    name = f"feature_projection0{suffix}"
    projected = _conv(low_level, low_level_channels, 1, name=f"decoder.{name}")
    x = Resize(resize, name=f"decoder.resize{suffix}")(x, low_level)
    x = kl.Concatenate(name=f"decoder.concat{suffix}")([x, projected])
    for i in range(convs):
        # The published code repeats the plain convolution within one scope.
        name = f"conv{i}{suffix}" if separable else f"conv0{suffix}.decoder_conv0{suffix}_{i + 1}"
        x = _conv_of(separable)(x, filters, kernel_size, name=f"decoder.decoder_{name}")
    return x


def _conv_of(separable: bool) -> Callable[..., KerasTensor]:
    return _separable_conv if separable else _conv


_DEEPLAB = Head(
    deeplab,
    resize="align_corners",
    classifier=("logits.",),
    parts={
        "image_pooling": ("image_pooling_crop_size",),
        "decoder": (
            *("low_level", "low_level_channels", "decoder_convs", "decoder_filters"),
            *("decoder_kernel", "decoder_separable", "decoder_resize"),
        ),
    },
    needs=(4,),
    source="arXiv:1802.02611; github.com/tensorflow/models research/deeplab",
)
# As in its paper: the separable pyramid came with v3+.
_DEEPLAB_V3 = dataclasses.replace(
    _DEEPLAB,
    options={"aspp_separable": False, "decoder": False},
    needs=(),
    source="arXiv:1706.05587; github.com/tensorflow/models research/deeplab",
)

VARIANTS = {
    "deeplab_v3_plus_xception41": _DEEPLAB.on(
        ENCODERS["Xception41"],
        parameters=28_108_147,
        multiply_adds={(513, 513): 40.00e9, (1025, 2049): 310.40e9},
        source=_DEEPLAB.source,
    ),
    "deeplab_v3_plus_xception65": _DEEPLAB.on(
        ENCODERS["Xception65"],
        parameters=41_054_899,
        multiply_adds={(513, 513): 54.03e9, (1025, 2049): 418.38e9},
        mean_iou="78.79 Cityscapes val; 82.1 Cityscapes test",
        source=_DEEPLAB.source,
    ),
    "deeplab_v3_plus_xception71": _DEEPLAB.on(
        ENCODERS["Xception71"],
        parameters=43_477_323,
        multiply_adds={(513, 513): 66.06e9, (1025, 2049): 513.04e9},
        mean_iou="79.55 Cityscapes val",
        source=_DEEPLAB.source,
    ),
    "deeplab_v3_plus_resnet101": _DEEPLAB.on(
        ENCODERS["ResNet101Beta"],
        parameters=45_811_523,
        multiply_adds={(513, 513): 65.16e9, (1025, 2049): 505.58e9},
        mean_iou="78.85 VOC 2012 val",
        source=_DEEPLAB.source,
    ),
    "deeplab_v3_resnet101": _DEEPLAB_V3.on(
        ENCODERS["ResNet101Beta"],
        parameters=58_163_923,
        multiply_adds={(513, 513): 76.05e9, (1025, 2049): 588.84e9},
        mean_iou="77.21 VOC 2012 val",
        source=_DEEPLAB_V3.source,
    ),
    "deeplab_v3_plus_mobilenet_v2": _DEEPLAB.on(
        ENCODERS["MobileNetV2Slim"],
        parameters=2_725_059,
        multiply_adds={(513, 513): 5.89e9, (1025, 2049): 46.09e9},
        source=_DEEPLAB.source,
    ),
    "deeplab_v3_mobilenet_v2": _DEEPLAB.on(
        ENCODERS["MobileNetV2Slim"],
        options={"atrous_rates": (), "decoder": False},
        parameters=2_113_043,
        multiply_adds={(513, 513): 2.74e9, (1025, 2049): 21.23e9},
        mean_iou="70.71 Cityscapes val; 75.32 VOC 2012 val",
        source="arXiv:1801.04381; github.com/tensorflow/models research/deeplab",
    ),
    "deeplab_v3_plus_mobilenet_v3_large": _DEEPLAB.on(
        ENCODERS["MobileNetV3Large"],
        parameters=4_722_163,
        multiply_adds={(513, 513): 6.00e9},
    ),
    "deeplab_v3_plus_efficientnet_b0": _DEEPLAB.on(
        ENCODERS["EfficientNetB0"],
        parameters=6_181_375,
        multiply_adds={(513, 513): 8.69e9},
    ),
    "deeplab_v3_plus_densenet121": _DEEPLAB.on(
        ENCODERS["DenseNet121"],
        parameters=8_790_787,
        multiply_adds={(513, 513): 20.40e9},
    ),
    "deeplab_v3_plus_se_resnet50": _DEEPLAB.on(
        ENCODERS["SEResNet50"],
        parameters=29_226_611,  # counted here, as in the rows below
        multiply_adds={(513, 513): 36.88e9},
    ),
    "deeplab_v3_plus_googlenet": _DEEPLAB.on(
        ENCODERS["GoogLeNet"],
        parameters=7_439_907,
        multiply_adds={(513, 513): 13.71e9},
    ),
    # Few channels and one convolution at stride 2, where they are dear.
    "deeplab_v3_plus_efficientnet_lite0": _DEEPLAB.on(
        ENCODERS["EfficientNetLite0"],
        options={
            "aspp_filters": 128,
            "low_level": "conv1+conv2+conv3",
            "low_level_channels": (48, 48, 16),
            "decoder_filters": (128, 128, 64),
            "decoder_convs": (2, 2, 1),
            "decoder_resize": "half_pixel",
        },
        resize="half_pixel",
        parameters=3_358_915,
        multiply_adds={(512, 1024): 10.97e9, (360, 480): 3.64e9},  # counted here
        source="kseg; arXiv:1802.02611; EfficientNet-Lite, TensorFlow blog, 2020",
    ),
}

HEADS = {"deeplab_v3_plus": _DEEPLAB, "deeplab_v3": _DEEPLAB_V3}
