"""FFNet's resizing to the nearest, its option, and files as its authors publish them."""

from collections import OrderedDict

import keras
import numpy as np
import pytest

import kseg
from kseg.card import IMAGENET
from kseg.data import CITYSCAPES
from kseg.importing import import_checkpoint
from kseg.layers import NearestResize
from support import random_tensors

# One block a layer: of the published names, a fifth of the weights.
SMALL = {"blocks": (1, 1, 1, 1)}


# The last is where float32 takes another row than whole numbers: 122 x (46 / 366).
@pytest.mark.parametrize(
    ("source", "target"), [((8, 13), (15, 25)), ((5, 3), (4, 3)), ((46, 2), (366, 5))]
)
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_the_nearest_as_pytorch_has_it(source, target, backend, monkeypatch):
    torch = pytest.importorskip("torch", reason="the reference is PyTorch, which is not installed")
    x = np.arange(np.prod(source), dtype="float32").reshape(1, *source, 1)
    planes = torch.tensor(x).permute(0, 3, 1, 2)
    want = torch.nn.functional.interpolate(planes, size=target).permute(0, 2, 3, 1)
    layer = NearestResize()
    # The other backends' way, by operators that TensorFlow has too.
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    got = layer.call(keras.ops.convert_to_tensor(x), keras.KerasTensor((1, *target, 3)))
    np.testing.assert_array_equal(got, want)


def test_without_the_first_stride():
    """The published "BBB": twice the size everywhere, and no shortcut's convolution at first."""
    usual, plain = (
        kseg.create_model("ffnet_40s", input_shape=(64, 96, 3), **SMALL, **options)
        for options in ({}, {"first_stride": 1})
    )
    shapes = [kseg.checkpoints.published_shapes(model) for model in (usual, plain)]
    shortcut = "backbone_model.layer1.0.downsample."
    assert set(shapes[0]) - set(shapes[1]) == {n for n in shapes[0] if n.startswith(shortcut)}
    assert f"{shortcut}0.weight" in shapes[0]
    assert shapes[1].items() < shapes[0].items()
    for model, height in ((usual, 8), (plain, 16)):
        assert model.get_layer("head.layers.3.last_layer.3").output.shape[1] == height


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_stride": 4}, "first_stride is 4, not 1 or 2"),
        ({"blocks": (1, 0, 1, 1)}, r"blocks is \(1, 0, 1, 1\); it must be four numbers"),
    ],
)
def test_refuses_bad_options(options: dict, message: str):
    with pytest.raises(kseg.KsegError, match=f"ffnet_40s: {message}"):
        kseg.create_model("ffnet_40s", **options)


def test_import(tmp_path):
    """A state dict as PyTorch saves it, its counters too."""
    torch = pytest.importorskip("torch", reason="the file is PyTorch's, which is not installed")
    tensors = random_tensors(kseg.create_model("ffnet_40s", **SMALL))
    state = OrderedDict((name, torch.tensor(value)) for name, value in tensors.items())
    for name in [name for name in state if name.endswith("running_var")]:
        state[name.replace("running_var", "num_batches_tracked")] = torch.tensor(7)
    file = tmp_path / "ffnet40S_dBBB_cityscapes_state_dict_quarts.pth"
    torch.save(state, file)

    model, unsaid = import_checkpoint("ffnet_40s", file, options=SMALL)
    assert not unsaid
    for name, tensor in kseg.checkpoints.published(model).items():
        np.testing.assert_array_equal(tensor, tensors[name])
    card = model.card
    assert (card.dataset, card.class_names) == ("cityscapes", CITYSCAPES.names)
    assert (card.normalization, card.resize) == (IMAGENET, "half_pixel")
