"""Each rewrite of a wrapped model's graph: the same function, without the operator."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

from kseg.tflite import foreign
from kseg.tflite.export import to_flatbuffer
from kseg.tflite.flatten import flatten
from support import outputs_of, varied

SIZE = (33, 46)
IMAGE = np.random.default_rng(0).uniform(0, 255, (1, *SIZE, 3)).astype(np.float32)

# of the outputs' range: float32 sums in another order
FLOAT32 = 1e-5


def chain(*layers):
    """A graph of layers, and of functions, behind a convolution of twelve channels."""

    def make():
        image = keras.Input((*SIZE, 3), batch_size=1)
        x = kl.Conv2D(12, 3, name="first")(image)
        for layer in layers:
            is_layer = isinstance(layer, keras.Operation)
            x = (type(layer).from_config(layer.get_config()) if is_layer else layer)(x)
        return keras.Model(image, x)

    return make


def gate(*tail, pool=None):
    """Channel attention: what a pooling, Dense layers and ``tail`` give, times the features."""

    def attend(x):
        y = (pool or kl.GlobalAveragePooling2D())(x)
        y = kl.BatchNormalization()(kl.Dense(4, name="dense")(y))
        y = kl.Dropout(0.5)(kl.ReLU()(y))
        y = kl.Dense(12, activation="sigmoid")(y)
        for layer in tail:
            y = layer(y)
        return kl.Multiply()([x, y])

    return attend


def normalised(image, layer):
    return keras.Model(image, kl.Conv2D(4, 3, padding="same")(layer(image)))


def image():
    return keras.Input((*SIZE, 3), batch_size=1)


def least(x):
    return ops.pad(x, ((0, 0), (1, 1), (2, 2), (0, 0)), constant_values=-np.inf)


CASES = {
    "reversed channels": (
        "reverse_channels_by_convolution",
        chain(lambda x: x[..., ::-1], lambda x: x[:, :, :, ::-1], lambda x: x[:, ..., 2:]),
        set(),
    ),
    "rescaling": (
        "normalise_by_layer",
        lambda: normalised(image(), kl.Rescaling(1 / 127.5, [-1, -0.5, 0])),
        {"Rescaling"},
    ),
    "normalization": (
        "normalise_by_layer",
        lambda: normalised(image(), kl.Normalization(mean=[90, 100, 110], variance=[9, 16, 1])),
        {"Normalization"},
    ),
    "separable": (
        "split_separable_convolutions",
        chain(kl.SeparableConv2D(8, 3, dilation_rate=2, depth_multiplier=2, activation="relu")),
        {"SeparableConv2D"},
    ),
    "groups": (
        "split_grouped_convolutions",
        chain(kl.Conv2D(6, 3, strides=2, padding="same", groups=3, activation="tanh")),
        set(),
    ),
    "a group a channel": (
        "split_grouped_convolutions",
        chain(kl.Conv2D(24, 3, groups=12, dilation_rate=2, use_bias=False)),
        set(),
    ),
    "1x1 of stride 2": (
        "subsample_before_convolutions",
        chain(kl.Conv2D(8, 1, strides=2, activation="relu")),
        set(),
    ),
    "1x1 of two strides": (
        "subsample_before_convolutions",
        chain(kl.Conv2D(8, 1, strides=(2, 3), padding="same")),
        set(),
    ),
    "padded pooling": (
        "pool_padding_by_convolutions",
        chain(kl.ZeroPadding2D(((1, 0), (2, 1))), kl.AveragePooling2D((3, 2), (2, 1))),
        {"AveragePooling2D"},
    ),
    "pooling of ops.pad": (
        "pool_padding_by_convolutions",
        chain(lambda x: ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), kl.AveragePooling2D(3, 1)),
        {"AveragePooling2D"},
    ),
    "padded maximum": (
        "pool_same_for_padding",
        chain(least, kl.MaxPooling2D((3, 5), 2)),
        {"Pad"},
    ),
    "upsampling": ("resize_by_layer", chain(kl.UpSampling2D((2, 3))), {"UpSampling2D"}),
    "bilinear upsampling": (
        "resize_by_layer",
        chain(kl.UpSampling2D(2, interpolation="bilinear")),
        {"UpSampling2D"},
    ),
    "resizing": ("resize_by_layer", chain(kl.Resizing(50, 17)), {"Resizing"}),
    "nearest resizing": (
        "resize_by_layer",
        chain(kl.Resizing(21, 70, interpolation="nearest")),
        {"Resizing"},
    ),
    "attention": ("dense_by_convolutions", chain(gate(kl.Reshape((1, 1, 12)))), {"Dense"}),
    "attention by operations": (
        "dense_by_convolutions",
        chain(gate(lambda y: ops.reshape(y, (-1, 1, 1, 12)))),
        {"Dense"},
    ),
    "attention by a slice": (
        "dense_by_convolutions",
        chain(gate(lambda y: y[:, None, None])),
        {"Dense"},
    ),
    "attention by maxima": (
        "dense_by_convolutions",
        chain(gate(kl.Reshape((1, 1, 12)), pool=kl.GlobalMaxPooling2D())),
        {"Dense"},
    ),
    "softmax of channels": (
        "dense_by_convolutions",
        chain(gate(kl.Softmax(), kl.Reshape((1, 1, 12)))),
        {"Dense"},
    ),
    "dense on a map": ("dense_by_convolutions", chain(kl.Dense(5, activation="relu")), {"Dense"}),
    "dense on tokens": (
        "dense_by_convolutions",
        chain(kl.Reshape((31 * 44, 12)), kl.Dense(5, use_bias=False), kl.Reshape((31, 44, 5))),
        {"Dense"},
    ),
    "transposed": (
        "fold_into_transposed_convolutions",
        chain(kl.Conv2DTranspose(8, 3, strides=2, padding="same"), kl.BatchNormalization()),
        {"BatchNormalization"},
    ),
    "ReLU behind it": (
        "leak_behind_transposed_convolutions",
        chain(kl.Conv2DTranspose(8, 3, strides=2), kl.ReLU()),
        {"ReLU"},
    ),
    "ReLU6 behind it": (
        "leak_behind_transposed_convolutions",
        chain(kl.Conv2DTranspose(8, 3, strides=2), kl.ReLU(6)),
        set(),
    ),
    "ReLU in it": (
        "leak_behind_transposed_convolutions",
        chain(kl.Conv2DTranspose(8, 3, strides=2, activation="relu")),
        set(),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_same_function(case):
    name, make, gone = CASES[case]
    keras.utils.set_random_seed(3)
    graph = flatten(varied(make()))
    want = outputs_of(graph, IMAGE)
    result = getattr(foreign, name)(graph)
    np.testing.assert_allclose(outputs_of(result, IMAGE), want, rtol=0, atol=FLOAT32 * np.ptp(want))
    assert [type(x).__name__ for x in result.operations] != [
        type(x).__name__ for x in graph.operations
    ]
    assert not gone & {type(x).__name__ for x in result.operations}
    for layer in result.layers:
        assert getattr(layer, "groups", 1) == 1
        if isinstance(layer, kl.Conv2D) and layer.kernel_size == (1, 1):
            assert layer.strides == (1, 1)


def test_a_classifier_before_the_resizing():
    """As in keras-hub's DeepLab, whose classifier is a layer behind the enlarged features."""
    keras.utils.set_random_seed(3)
    make = chain(kl.UpSampling2D(4, interpolation="bilinear"), kl.Conv2D(5, 1, name="last"))
    graph = foreign.resize_by_layer(flatten(make()))
    result = foreign.convolve_before_resizing(graph)
    want = outputs_of(graph, IMAGE)
    np.testing.assert_allclose(outputs_of(result, IMAGE), want, rtol=0, atol=FLOAT32 * np.ptp(want))
    assert isinstance(result.layers[-1], foreign.Resize)


def test_a_threshold_stays():
    """Of a ReLU that gives nothing below it."""
    graph = flatten(chain(kl.Conv2DTranspose(8, 3), kl.ReLU(threshold=0.5))())
    want = outputs_of(graph, IMAGE)
    result = foreign.leak_behind_transposed_convolutions(graph)
    np.testing.assert_array_equal(outputs_of(result, IMAGE), want)


def test_what_is_read_elsewhere_stays():
    """A transposed convolution with another reader keeps its own numbers."""
    x = image()
    y = kl.Conv2DTranspose(4, 3)(kl.Conv2D(4, 3)(x))
    model = varied(keras.Model(x, kl.Add()([kl.BatchNormalization()(y), y])))
    want = outputs_of(model, IMAGE)
    result = foreign.fold_into_transposed_convolutions(flatten(model))
    np.testing.assert_allclose(outputs_of(result, IMAGE), want, rtol=0, atol=FLOAT32 * np.ptp(want))


@keras.saving.register_keras_serializable("test")
class Block(kl.Layer):
    """A layer of layers, one of them shared, with a path that depends on ``training``."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = kl.Conv2D(12, 3, padding="same")
        self.norm = kl.BatchNormalization()
        self.dense = keras.Sequential([kl.Dense(12), kl.Activation("relu")])

    def call(self, x, scale=1.0, training=None):
        if training:
            return x
        y = self.norm(self.conv(x), training=training)
        return ops.tanh(self.conv(y)) * scale + self.dense(x)


def test_layers_of_layers_are_opened():
    """Down to Keras' own, each call a layer, under names that tell where they were."""
    keras.utils.set_random_seed(3)
    x = image()
    inner = keras.Sequential(
        [keras.Input((None, None, 3)), kl.Conv2D(12, 3, name="conv")], name="s"
    )
    y = Block(name="block")(kl.Conv2D(12, 1, name="conv")(inner(x)), scale=0.5, training=False)
    model = varied(keras.Model(x, y))
    want = outputs_of(model, IMAGE)
    flat = flatten(model)
    np.testing.assert_allclose(outputs_of(flat, IMAGE), want, rtol=0, atol=FLOAT32 * np.ptp(want))
    names = ["s.conv", "conv", "block.conv2d", "block.conv2d.1", "block.sequential.dense"]
    weighted = [layer.name for layer in flat.layers if isinstance(layer, kl.Conv2D | kl.Dense)]
    assert sorted(weighted) == sorted(names)
    assert not any(isinstance(layer, Block | keras.Model) for layer in flat.layers)


def test_a_normalization_that_is_called_twice():
    """Each call has the statistics of the images that it has seen."""
    layer = kl.Normalization()
    layer.adapt(IMAGE)
    x = image()
    model = keras.Model(x, layer(layer(x)))
    want = (IMAGE - IMAGE.mean((0, 1, 2))) / IMAGE.std((0, 1, 2))
    want = (want - IMAGE.mean((0, 1, 2))) / IMAGE.std((0, 1, 2))
    np.testing.assert_allclose(outputs_of(flatten(model), IMAGE), want, atol=FLOAT32)


def test_random_changes_of_images_are_none_in_inference():
    """Keras' own, which it records with training=True, as it calls them by default."""
    x = image()
    y = kl.RandomContrast(0.5)(kl.RandomRotation(0.5)(kl.RandomFlip()(x)))
    flat = flatten(keras.Model(x, y))
    assert [type(layer) for layer in flat.layers] == [kl.InputLayer]
    np.testing.assert_array_equal(outputs_of(flat, IMAGE), IMAGE)


def test_a_normalization_of_every_pixel_stays():
    mean = np.random.default_rng(1).uniform(0, 255, (*SIZE, 3))
    layer = kl.Normalization(axis=(1, 2, 3), mean=mean, variance=np.full_like(mean, 4))
    graph = foreign.normalise_by_layer(flatten(keras.Model(x := image(), layer(x))))
    # float32 on values of size 100
    np.testing.assert_allclose(outputs_of(graph, IMAGE)[0], (IMAGE[0] - mean) / 2, atol=1e-4)


def test_training_in_the_graph_is_refused():
    x = image()
    model = keras.Model(x, kl.Dropout(0.5, name="drop")(x, training=True))
    with pytest.raises(ValueError, match="drop: is called with training=True"):
        flatten(model)


def test_slices_that_only_permute_channels_are_convolutions():
    """Of the chain above two; a part, and rows upside down, stay slices."""
    graph = flatten(CASES["reversed channels"][1]())
    kinds = [type(x).__name__ for x in foreign.reverse_channels_by_convolution(graph).operations]
    assert kinds == ["InputLayer", "Conv2D", "Conv2D", "Conv2D", "GetItem"]
    for other in (lambda x: x[:, ::-1], lambda x: x[..., ::-2], lambda x: x[:, ::-1, :, ::-1]):
        graph = flatten(chain(other)())
        graph = foreign.reverse_channels_by_convolution(graph)
        assert type(graph.operations[-1]).__name__ == "GetItem"


def test_operators_of_an_attention():
    """No vectors are left, which 8 bits compute wrongly on the accelerator."""
    keras.utils.set_random_seed(3)
    graph = foreign.for_accelerator(flatten(chain(gate(kl.Reshape((1, 1, 12))))()))
    assert set(to_flatbuffer(graph).operators()) == {
        *("CONV_2D", "LOGISTIC", "MEAN", "MUL"),
        "DEPTHWISE_CONV_2D",  # the BatchNorm of the vectors
    }
