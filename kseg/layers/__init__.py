"""What networks share: resizing and normalisation, poolings, and convolution helpers.

The helpers take and return NHWC tensors. Layer names are the published tensor names up
to the last dot, so that a checkpoint can be assigned by name. Every operation here maps
to TensorFlow Lite operators that the LiteRT GPU accelerator computes right.
"""

from kseg.layers.convolution import (
    ChannelShuffle,
    GroupedPointwiseConv,
    PadChannels,
    SharedPReLU,
    atrous_units,
    batch_norm,
    bn_prelu,
    concat_bn_prelu,
    conv,
    conv_bn_prelu,
    depthwise_conv,
    pad,
    prelu,
    slim_conv,
    slim_separable_conv,
    transposed_conv,
)
from kseg.layers.pooling import (
    AdaptiveAveragePooling,
    DilatedPooling,
    MaxUnpooling,
    PaddedAveragePooling,
    max_pool,
    subsample,
)
from kseg.layers.resize import (
    RESIZE_CONVENTIONS,
    MatchSize,
    Normalize,
    Resize,
    align_corners_resize,
)

__all__ = [
    "AdaptiveAveragePooling",
    "ChannelShuffle",
    "DilatedPooling",
    "GroupedPointwiseConv",
    "MatchSize",
    "MaxUnpooling",
    "Normalize",
    "PadChannels",
    "PaddedAveragePooling",
    "RESIZE_CONVENTIONS",
    "Resize",
    "SharedPReLU",
    "align_corners_resize",
    "atrous_units",
    "batch_norm",
    "bn_prelu",
    "concat_bn_prelu",
    "conv",
    "conv_bn_prelu",
    "depthwise_conv",
    "max_pool",
    "pad",
    "prelu",
    "slim_conv",
    "slim_separable_conv",
    "subsample",
    "transposed_conv",
]
