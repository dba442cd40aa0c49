"""ERFNet's upsampling against PyTorch's, its unused head and its dropout."""

import keras
import numpy as np
import pytest

import kseg
from kseg.layers import transposed_conv


@pytest.mark.parametrize("kernel_size", [2, 3])
@pytest.mark.parametrize("size", [(8, 12), (9, 13), (8, 13)])
def test_transposed_conv(kernel_size: int, size: tuple[int, int]):
    """Borders too, at each output size that a stride of two can come from."""
    torch = pytest.importorskip("torch", reason="the reference is PyTorch, which is not installed")
    # A kernel of two comes from a pooling that rounds down, one of three rounds up.
    small = [n // 2 if kernel_size == 2 else -(-n // 2) for n in size]
    x = np.random.default_rng(0).standard_normal((2, *small, 4)).astype("float32")
    reference = torch.nn.ConvTranspose2d(
        4, 3, kernel_size, stride=2, padding=(kernel_size - 1) // 2, bias=kernel_size == 3
    )
    with torch.no_grad():
        want = reference(torch.tensor(x).permute(0, 3, 1, 2), output_size=size)

    inputs, like = keras.Input((*small, 4)), keras.Input((*size, 1))
    outputs = transposed_conv(inputs, 3, kernel_size, like, use_bias=kernel_size == 3, name="up")
    model = keras.Model([inputs, like], outputs)
    layer = model.get_layer("up")
    layer.kernel.assign(reference.weight.detach().numpy().transpose(2, 3, 1, 0))
    if kernel_size == 3:
        layer.bias.assign(reference.bias.detach().numpy())
    got = model.predict([x, np.zeros((2, *size, 1))], verbose=0)
    np.testing.assert_allclose(got, want.permute(0, 2, 3, 1).numpy(), atol=1e-6)


def test_the_encoders_own_head_is_not_looked_at():
    model = kseg.create_model("erfnet", num_classes=20)
    shapes = kseg.checkpoints.published_shapes(model)
    tensors = {name: np.full(shape, 0.5, "float32") for name, shape in shapes.items()}
    tensors["encoder.output_conv.weight"] = np.zeros((20, 128, 1, 1), "float32")
    tensors["encoder.output_conv.bias"] = np.zeros(20, "float32")
    kseg.checkpoints.assign(model, tensors)
    assert all(np.all(weight.numpy() == 0.5) for weight in model.weights)


def test_dropout():
    def rates(model: keras.Model) -> list[float]:
        kind = keras.layers.SpatialDropout2D
        return [layer.rate for layer in model.layers if isinstance(layer, kind)]

    assert rates(kseg.create_model("erfnet")) == [0.03] * 5 + [0.3] * 8
    assert not rates(kseg.create_model("erfnet", dropout=False))
