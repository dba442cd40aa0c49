"""SE-ResNet-50, arXiv:1709.01507 (Hu, Shen, Sun), as its weights for PyTorch have it.

Layer names are those of ``se_resnet50-ce0d4300.pth``, which github.com/Cadene's
pretrained-models.pytorch made of the authors' Caffe model.
"""

from __future__ import annotations

from keras import KerasTensor
from keras import layers as kl

from kseg.backbones import Encoder, Features
from kseg.backbones.resnet import RESNET_50, Style, caffe_pool, pytorch_names, resnet
from kseg.card import IMAGENET
from kseg.layers import conv

# Channels of a unit to one of its squeezed description (Section 3.1).
REDUCTION = 16


def se_resnet50(x: KerasTensor, *, output_stride: int = 32) -> Features:
    """(N, H, W, 3) to 2048 channels at the output stride.

    Of ImageNet's normalised RGB. A unit's first convolution has its stride. The max pooling
    rounds down: an even number of rows at stride 2 is halved, an odd one loses its last row.

    The levels are the outputs of the first three blocks, 256, 512 and 1024 channels; the stem
    has 64.

    Args:
        output_stride: 8, 16 or 32. The means of squeeze-and-excitation are over more pixels
            below 32, which alone keeps the features from being the same where grids meet.
    """
    return resnet(x, RESNET_50, style=_STYLE, output_stride=output_stride)


def _names(block: int, unit: int, part: str) -> tuple[str, str]:
    return pytorch_names(f"layer{block}.{unit - 1}" if block else "layer0", part)


def _squeeze_excite(x: KerasTensor, block: int, unit: int) -> KerasTensor:
    """A factor a channel, from the means of all channels (Figure 3)."""
    name = f"layer{block}.{unit - 1}.se_module"
    # 1x1 convolutions in place of linear layers: the GPU accelerator takes them in int8.
    y = kl.GlobalAveragePooling2D(keepdims=True, name=f"{name}.avg_pool")(x)
    y = conv(y, x.shape[-1] // REDUCTION, 1, use_bias=True, name=f"{name}.fc1")
    y = kl.ReLU(name=f"{name}.relu")(y)
    y = conv(y, x.shape[-1], 1, use_bias=True, name=f"{name}.fc2")
    y = kl.Activation("sigmoid", name=f"{name}.sigmoid")(y)
    return kl.Multiply(name=f"{name}.scale")([x, y])


_STYLE = Style(
    _names, (64,), stride_first=True, momentum=0.9, pool=caffe_pool, gate=_squeeze_excite
)

ENCODERS = {
    "SEResNet50": Encoder(
        se_resnet50,
        IMAGENET,
        prefixes=("layer0.", "layer1.", "layer2.", "layer3.", "layer4."),
        parameters=26_039_024,
        channels={2: 64, 4: 256, 8: 512, 16: 1024, 32: 2048},
        least_size=3,  # a pooling that rounds down
        unused=("last_linear.",),
        imagenet="the file se_resnet50-ce0d4300.pth",
        source="arXiv:1709.01507; github.com/Cadene/pretrained-models.pytorch",
    )
}
