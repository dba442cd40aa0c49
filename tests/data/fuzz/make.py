"""Makes the valid files beside it: `python tests/data/fuzz/make.py`, with PyTorch installed."""

from pathlib import Path

import h5py
import keras
import numpy as np
import tensorflow as tf
import torch
from PIL import Image
from safetensors.numpy import save_file

import kseg

HERE = Path(__file__).parent
rng = np.random.default_rng(0)


def tensor(*shape, dtype="float32"):
    return rng.normal(size=shape).astype(dtype)


# --- pictures: odd sizes, so that rows are padded ---
rgb = rng.integers(0, 256, (11, 13, 3), np.uint8)
ids = rng.integers(0, 11, (11, 13), np.uint8)
picture = Image.fromarray(rgb)
exif = Image.Exif()
exif[0x112] = 6
picture.save(HERE / "rgb.png")
picture.quantize(16).save(HERE / "palette.png")
picture.save(HERE / "exif.png", exif=exif)
picture.convert("RGBA").save(HERE / "rgba.png")
smooth = picture.resize((40, 30), Image.Resampling.BICUBIC)
smooth.save(HERE / "rgb.jpg", quality=90)
smooth.save(HERE / "progressive.jpg", progressive=True, exif=exif)
Image.fromarray(ids).save(HERE / "label.png")
palette = Image.fromarray(ids)
palette.putpalette([value for color in kseg.data.CAMVID.colors for value in color])
palette.save(HERE / "label-palette.png", bits=4)
small = Image.fromarray(ids)
small.putpalette([value for i in range(16) for value in (i, i, i)])
small.save(HERE / "label4.png", bits=4)

# --- checkpoints ---
state = {
    "conv.weight": torch.tensor(tensor(4, 3, 2, 2)),
    "conv.bias": torch.tensor(tensor(4)).half(),
    "norm.scale": torch.tensor(tensor(4)).bfloat16(),
    "norm.num_batches_tracked": torch.tensor(7),
    "view.weight": torch.tensor(tensor(4, 6)).t(),
}
whole = {"epoch": 3, "best": np.float64(0.5), "rates": [0.1, 0.2], "state_dict": state}
torch.save(whole, HERE / "zip.pth")
torch.save(whole, HERE / "legacy.pth", _use_new_zipfile_serialization=False)
arrays = {"conv.weight": tensor(4, 3, 2, 2), "bias": tensor(4, dtype="float16"), "n": np.int64([7])}
save_file(arrays, HERE / "tiny.safetensors")
checkpoint = tf.train.Checkpoint(**{"a": tf.Variable(tensor(3, 4)), "b": tf.Variable(tensor(5))})
checkpoint.write(str(HERE / "tiny.ckpt"))

# --- models ---
keras.utils.set_random_seed(0)
source = keras.Input((None, None, 3))
x = keras.layers.Conv2D(4, 3, strides=2, padding="same", use_bias=False)(source)
x = keras.layers.BatchNormalization()(x)
x = keras.layers.ReLU()(x)
x = keras.layers.DepthwiseConv2D(3, padding="same")(x)
model = kseg.wrap(keras.Model(source, keras.layers.Conv2D(3, 1)(x)))
model.save(HERE / "tiny.keras")
model.save_weights(HERE / "tiny.weights.h5")
with h5py.File(HERE / "old.h5", "w") as file:
    file["conv1/conv1/kernel:0"] = tensor(3, 3, 3, 4)
    file["conv1/conv1/bias:0"] = tensor(4)
    file["norm/gamma:0"] = tensor(4)
images = [rng.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(2)]
kseg.tflite.convert(model, HERE / "tiny.tflite", input_size=(32, 32))
kseg.tflite.convert(
    model,
    HERE / "int8.tflite",
    input_size=(32, 32),
    precision="int8",
    output="argmax",
    calibration=images,
)
kseg.tflite.convert(model, HERE / "tiny.onnx", input_size=(32, 32))

# A file of a convolution with TF-Slim's names.
kernel, depthwise = tf.constant(tensor(1, 1, 3, 4)), tf.constant(tensor(3, 3, 4, 1))


@tf.function(
    input_signature=[tf.TensorSpec((1, 32, 32, 3), tf.float32, name="image")], autograph=False
)
def slim(image):
    with tf.name_scope("MobilenetV2"):
        x = tf.nn.conv2d(image, kernel, 1, "SAME", name="Conv2D") + tensor(4)
        return tf.nn.depthwise_conv2d(x, depthwise, [1, 1, 1, 1], "SAME", name="depthwise")


converter = tf.lite.TFLiteConverter.from_concrete_functions([slim.get_concrete_function()])
(HERE / "slim.tflite").write_bytes(converter.convert())
