"""What networks share: resizing and normalisation, poolings, and convolution helpers.

The helpers take and return NHWC tensors. Layer names are the published tensor names up
to the last dot, so that a checkpoint can be assigned by name. Every operation here maps
to TensorFlow Lite operators that the LiteRT GPU accelerator computes right, or says that it
does not (``cpu_operators``).

Layers ``NAME.group0``, ``NAME.group1`` and so on have the output channels of the published tensors
of NAME in turn: a convolution in groups is one a group here.

What a layer class of kseg says about itself, where it applies; checkpoints and export
know Keras' own layers by tables, and a new one by this alone:

- ``published_tensors``, a layer with weights: by tensor layout, "pytorch" or "tf_slim", and
  weight name, the last part of the published tensor's name and the axes that take that
  tensor to Keras' layout, None for those as they are.
- ``keeps_scale = True``: its TensorFlow Lite operators give their input's int8 scale to
  their output. They move values, or mix them within their range.
- ``as_convolutions(x)``: the same function of a tensor in Keras' own layers under this
  layer's name, as ``kseg.tflite`` quantises it.
- ``call_with_weights(x, *weights)``, a method of a layer with weights: its function in
  keras.ops, so that tf_keras can train it; ``x`` is a list where the layer has several inputs.
  Without weights, ``call`` is enough.
- ``cpu_operators``: its TensorFlow Lite operators that no GPU delegate runs. Conversion warns
  of the layer and writes a file for the CPU; int8 files compute the layer in float32.
- ``split_weights()``, of a 1x1 convolution in ``groups``, instead of that: each group's
  weights, so that every group can be quantised and pruned as the convolution that it is.
"""

from kseg.layers.convolution import (
    CenterIdentity,
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
from kseg.layers.deformable import DeformableConv2D
from kseg.layers.pooling import (
    AdaptiveAveragePooling,
    ChannelSum,
    DilatedPooling,
    MaxUnpooling,
    PaddedAveragePooling,
    ceil_max_pool,
    max_pool,
    subsample,
)
from kseg.layers.probabilities import LogProbabilities
from kseg.layers.resize import (
    RESIZE_CONVENTIONS,
    MatchSize,
    NearestResize,
    Normalize,
    Resize,
    align_corners_resize,
)

__all__ = [
    "AdaptiveAveragePooling",
    "CenterIdentity",
    "ChannelShuffle",
    "ChannelSum",
    "DeformableConv2D",
    "DilatedPooling",
    "GroupedPointwiseConv",
    "LogProbabilities",
    "MatchSize",
    "MaxUnpooling",
    "NearestResize",
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
    "ceil_max_pool",
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
