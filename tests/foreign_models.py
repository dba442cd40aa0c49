"""Keras models that nobody wrote for kseg."""

import keras
import keras_hub
from keras import layers as kl

from support import varied


def unet(classes: int = 11, activation: str | None = None, size=(None, None)) -> keras.Model:
    """A U-Net of two levels, with transposed convolutions and BatchNorm behind each."""
    image = keras.Input((*size, 3))
    x = kl.Rescaling(1 / 127.5, -1)(image)
    skips = []
    for filters in (8, 16):
        x = kl.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = kl.ReLU()(kl.BatchNormalization()(x))
        skips.append(x)
        x = kl.MaxPooling2D()(x)
    x = kl.Conv2D(16, 3, padding="same", activation="relu")(x)
    for filters in (16, 8):
        x = kl.Conv2DTranspose(filters, 2, strides=2, padding="same")(x)
        x = kl.ReLU()(kl.BatchNormalization()(x))
        x = kl.Concatenate()([x, skips.pop()])
        x = kl.Conv2D(filters, 3, padding="same", activation="relu")(x)
    scores = kl.Conv2D(classes, 1, activation=activation, name="scores")(x)
    return varied(keras.Model(image, scores, name="unet"))


def attention() -> keras.Model:
    """Channel attention by Dense, and the operators that a GPU delegate computes wrongly."""
    image = keras.Input((None, None, 3))
    x = kl.Rescaling(1 / 255)(image)
    x = kl.Conv2D(16, 3, strides=2, padding="same", activation="relu")(x)
    x = kl.AveragePooling2D(3, 1)(kl.ZeroPadding2D(1)(x))
    x = kl.Conv2D(16, 3, padding="same", groups=4, activation="relu")(x)
    short = kl.Conv2D(16, 1, strides=2)(x)
    x = kl.Add()([kl.Conv2D(16, 3, strides=2, padding="same")(x), short])
    x = kl.BatchNormalization()(kl.SeparableConv2D(16, 3, padding="same")(x))
    gate = kl.Dense(4, activation="relu")(kl.GlobalAveragePooling2D()(x))
    gate = kl.Reshape((1, 1, 16))(kl.Dense(16, activation="sigmoid")(gate))
    x = kl.Dense(16, activation="relu")(kl.Multiply()([x, gate]))
    x = kl.UpSampling2D(2)(x)
    x = kl.UpSampling2D(2, interpolation="bilinear")(x)
    return varied(keras.Model(image, kl.Conv2D(5, 1)(x), name="attention"))


def two_outputs() -> keras.Model:
    """A dict of maps at a stride of two and at full size, on a Sequential encoder."""
    encoder = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            kl.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            kl.BatchNormalization(),
        ],
        name="encoder",
    )
    image = keras.Input((None, None, 3))
    x = encoder(image)
    small = kl.Conv2D(4, 1, name="head")(x)
    large = kl.UpSampling2D()(kl.Conv2D(5, 1, name="other")(x))
    return keras.Model(image, {"small": small, "large": large}, name="two")


def hub_deeplab() -> keras.Model:
    """keras-hub's DeepLabv3+ on a small ResNet, its pooling pyramid a layer of layers."""
    encoder = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 64, 64],
        stackwise_num_blocks=[1, 1, 1],
        stackwise_num_strides=[1, 2, 2],
        block_type="basic_block",
        use_pre_activation=True,
    )
    backbone = keras_hub.models.DeepLabV3Backbone(
        image_encoder=encoder,
        projection_filters=8,
        low_level_feature_key="P2",
        spatial_pyramid_pooling_key="P4",
        upsampling_size=4,
        dilation_rates=[2, 4, 6],
    )
    return keras_hub.models.DeepLabV3ImageSegmenter(backbone=backbone, num_classes=11)


def hub_segformer() -> keras.Model:
    """keras-hub's SegFormer, of one size: a block of each of B0's first two stages."""
    encoder = keras_hub.models.MiTBackbone(
        layerwise_depths=[1, 1],
        image_shape=(64, 64, 3),
        hidden_dims=[32, 64],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[8, 4],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
    )
    backbone = keras_hub.models.SegFormerBackbone(image_encoder=encoder, projection_filters=32)
    return keras_hub.models.SegFormerImageSegmenter(backbone=backbone, num_classes=5)
