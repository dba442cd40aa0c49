"""PIDNet and DDRNet against their references (fixtures/README_2.md), and their published files."""

import math
from collections.abc import Iterator

import keras
import numpy as np
import pytest
from reference import open_reference
from safetensors.numpy import save_file

import kseg
from kseg import checkpoints
from kseg.importing import import_checkpoint
from kseg.zoo import VARIANTS
from support import outputs_of, random_tensors

_PYRAMID = {f"scale{i}": f"spp.scale{i}.3" for i in (1, 2, 3, 4)}

# By row: fixtures of the same weights, each with the layers of its arrays. The first one has the
# weights of the training heads too; at 512x1024 the phase of the pyramid's poolings shows.
FIXTURES = {
    "pidnet_s": {
        "pidnet_s_aug_a": {
            "p_branch": "layer5_.0.sum",
            "aux_p": "seghead_p.conv2",
            "aux_d": "seghead_d.conv2",
        },
        "pidnet_s_a": {
            "layer2": "layer2.1.sum",
            "layer3": "layer3.2.sum",
            "pag3": "pag3",
            "diff3": "diff3.1",
            "pag4": "pag4",
            "layer5": "layer5.1.sum",
            "spp": "spp.sum",
            "p_branch": "layer5_.0.sum",
            "i_branch": "spp.resize",
            "d_branch": "layer5_d.0.sum",
            "dfm": "dfm",
        },
        "pidnet_s_512_a": {
            **_PYRAMID,
            "layer5": "layer5.1.sum",
            "spp": "spp.sum",
            "p_branch": "layer5_.0.sum",
            "d_branch": "layer5_d.0.sum",
        },
    },
    "ddrnet_23_slim": {
        "ddrnet_23_slim_aug_a": {"layer3_high": "layer3_.1.sum", "aux": "seghead_extra.conv2"},
        "ddrnet_23_slim_a": {
            "layer1": "layer1.1.sum",
            "layer2": "layer2.1.sum",
            "layer3": "layer3.1.sum",
            "layer3_high": "layer3_.1.sum",
            "down3": "down3.1",
            "layer4": "layer4.1.sum",
            "layer4_high": "layer4_.1.sum",
            "down4": "down4.4",
            "layer5": "layer5.0.sum",
            "spp": "spp.sum",
            "layer5_high": "layer5_.0.sum",
            "fused": "fused",
        },
        "ddrnet_23_slim_512_a": {
            **_PYRAMID,
            "layer5": "layer5.0.sum",
            "spp": "spp.sum",
            "fused": "fused",
        },
    },
}
HEADS = {"pidnet_s": ["seghead_p", "seghead_d"], "ddrnet_23_slim": ["seghead_extra"]}

# On the logits, absolute; every wrong detail in the fixtures' README is 60 times above. At
# 512x1024 PIDNet's own float32 noise is 1.1e-4: its limit is ten times that.
OUTPUT_TOLERANCE = 1e-3


@pytest.mark.parametrize("row", FIXTURES)
def test_fixtures(row: str):
    model = kseg.create_model(row, preprocessing=False, auxiliary=True)
    assert list(model.output) == ["logits", *HEADS[row]]
    for i, (fixture, taps) in enumerate(FIXTURES[row].items()):
        reference = open_reference(fixture)
        if i == 0:
            tensors = reference.tensors
            checkpoints.assign(model, tensors)
        # Weights are drawn by their names: these are the same without the heads.
        assert reference.tensors.keys() <= tensors.keys()
        layers = {"output": "logits", "logits_low": "final_layer.conv2", **taps}
        outputs = {tap: model.get_layer(layer).output for tap, layer in layers.items()}
        got = outputs_of(keras.Model(model.input, outputs), reference.image)
        assert set(reference.manifest["arrays"]) == set(layers)
        for tap, array in got.items():
            strict = tap == "output" and fixture != "pidnet_s_512_a"
            reference.check(tap, array, OUTPUT_TOLERANCE if strict else None)
    # Two BatchNorms, a 3x3 and a 1x1 convolution each.
    widths = [(64, 128, 19), (64, 32, 1)] if row == "pidnet_s" else [(64, 64, 19)]
    heads = sum(2 * (a + b) + 9 * a * b + (b + 1) * c for a, b, c in widths)
    parameters = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    assert parameters == VARIANTS[row].parameters + heads
    # A size that no stride divides, which the references refuse.
    for head, logits in outputs_of(model, np.zeros((1, 97, 161, 3), "float32")).items():
        assert logits.shape == (1, 97, 161, 1 if head == "seghead_d" else 19)
        assert np.isfinite(logits).all()


# --- published files ----------------------------------------------------------------------

# A tenth of the weights.
NARROW = {"width": 4, "head_width": 8}


@pytest.fixture(scope="module", params=FIXTURES)
def published(request) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """A row and a checkpoint with its training heads, of other classes than Cityscapes'."""
    model = kseg.create_model(request.param, num_classes=11, auxiliary=True, **NARROW)
    return request.param, random_tensors(model)


def imported(row, tensors, folder) -> kseg.SegmentationModel:
    path = folder / "x.safetensors"
    save_file(tensors, path)
    model, _ = import_checkpoint(row, path, options=NARROW, classes="camvid")
    return model


def test_layouts(published, tmp_path):
    """As training saves them: within the loss' module, in a checkpoint with what else it has.

    The class weights of the loss and the optimizer's state are no part of the network.
    """
    row, tensors = published
    wrapped = {f"model.{name}": tensor for name, tensor in tensors.items()}
    wrapped["sem_loss.criterion.weight"] = np.ones(11, "float32")
    state = {f"state_dict.{name}": tensor for name, tensor in wrapped.items()}
    state["optimizer.state.0.momentum_buffer"] = np.ones(3, "float32")
    model = imported(row, state, tmp_path)
    initial = [np.zeros_like(weight) for weight in model.get_weights()]
    for layout in (state, wrapped, tensors):
        if layout is not state:
            model.set_weights(initial)
            checkpoints.assign(model, layout)
        got = checkpoints.published(model)
        # All but the training heads, in the published layout.
        assert got.keys() == {name for name in tensors if not name.startswith("seghead_")}
        for name, tensor in got.items():
            np.testing.assert_array_equal(tensor, tensors[name], err_msg=name)
    if row == "pidnet_s":
        # Four groups of the published tensor, by its output channels.
        kernel = tensors["spp.scale_process.2.weight"]
        assert kernel.shape == (384, 96, 3, 3)
        for i in range(4):
            part = model.get_layer(f"spp.scale_process.2.group{i}").kernel
            np.testing.assert_array_equal(part, kernel[96 * i : 96 * (i + 1)].transpose(2, 3, 1, 0))


def test_what_does_not_match_is_an_error(published, tmp_path):
    """The authors' code leaves such tensors out and says nothing."""
    row, tensors = published
    wrapped = {f"model.{name}": tensor for name, tensor in tensors.items()}
    del wrapped["model.spp.compression.2.weight"]
    wrapped["model.layer4.1.bn2.bias"] = np.ones(3, "float32")
    wrapped["model.layer9.weight"] = np.ones(3, "float32")
    with pytest.raises(kseg.KsegError) as error:
        imported(row, wrapped, tmp_path)
    for problem in (
        "1 missing (spp.compression.2.weight)",
        "1 unexpected (layer9.weight)",
        "1 misshapen (layer4.1.bn2.bias is (3,), not (32,))",
    ):
        assert problem in str(error.value)


def test_imagenet_file_of_ddrnet():
    """The authors' classifier has another way down, a wider last layer and no pyramid."""
    model = kseg.create_model("ddrnet_23_slim", num_classes=11, **NARROW)
    tensors = random_tensors(model)
    head = ("spp.", "final_layer.")
    encoder = {name: x for name, x in tensors.items() if not name.startswith(head)}
    ones = np.ones((3, 2, 1, 1), "float32")
    others = dict.fromkeys(("down5.0.weight", "last_layer.0.weight", "linear.weight"), ones)
    checkpoints.assign(model, encoder | others, part="backbone")
    for name, tensor in checkpoints.published(model).items():
        if name in encoder:
            np.testing.assert_array_equal(tensor, encoder[name], err_msg=name)


def test_widths_that_are_none():
    for row in FIXTURES:
        for option in NARROW:
            with pytest.raises(kseg.KsegError, match=f"{option} is 0; it must be at least 1"):
                kseg.create_model(row, **{option: 0})
