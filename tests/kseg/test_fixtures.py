"""Every network against what its reference implementation computed (fixtures/README.md)."""

import json
from pathlib import Path

import keras
import make_weights
import numpy as np
import pytest

import kseg

FIXTURES = Path(__file__).parents[1] / "data" / "fixtures"

LITESEG_TAPS = {
    "aspp1": "aspp1.bn",
    "aspp2": "aspp2.relu1",
    "aspp3": "aspp3.relu1",
    "aspp4": "aspp4.relu1",
    "image_pool": "global_avg_pool.3",
    "project_bn": "bn1",
    "logits_low": "last_conv.6",
}

# fixture: (row, options, preprocessing in the fixture's graph, {tap: layer})
CASES = {
    "cgnet_m3n21_a": (
        "cgnet_m3n21",
        {},
        False,
        {
            "level1": "level1_2.act",
            "b1": "b1.act",
            "level2_0": "level2_0.F_glo.scale",
            "level2": "level2.1.sum",
            "bn_prelu_2": "bn_prelu_2.act",
            "level3_0": "level3_0.F_glo.scale",
            "level3": "level3.19.sum",
            "bn_prelu_3": "bn_prelu_3.act",
            "logits_low": "classifier.0.conv",
        },
    ),
    "liteseg_mobilenetv2_a": (
        "liteseg_mobilenet_v2",
        {},
        False,
        {
            **LITESEG_TAPS,
            "backbone": "mobile_features.features.18.0.relu6",
            "low_level": "mobile_features.features.3.conv.6.sum",
        },
    ),
    "liteseg_shufflenet_a": (
        "liteseg_shufflenet",
        {},
        False,
        {
            **LITESEG_TAPS,
            "backbone": "shuffle_features.module.stage4.ShuffleUnit_Stage4_3.relu",
            "low_level": "shuffle_features.module.stage2.ShuffleUnit_Stage2_3.relu",
            "low_level_bn": "bn2",
        },
    ),
    "liteseg_darknet19_a": (
        "liteseg_darknet19",
        {},
        False,
        {
            **LITESEG_TAPS,
            "backbone": "resnet_features.layers.23_convbatch.layers.2",
            "low_level": "resnet_features.layers.7_convbatch.layers.2",
            "low_level_bn": "bn2",
        },
    ),
}

# On the logits, absolute; every wrong detail in the fixtures' README is 60 times above.
OUTPUT_TOLERANCE = 1e-3
# Times the reference's own float32 noise, on every intermediate tensor.
NOISE_FACTOR = 10


@pytest.mark.parametrize("fixture", CASES)
def test_fixture(fixture: str):
    row, options, preprocessing, taps = CASES[fixture]
    manifest = json.loads((FIXTURES / f"{fixture}.json").read_text())
    want = np.load(FIXTURES / f"{fixture}.npz")
    tensors = make_weights.make_weights(manifest)
    image = make_weights.make_input(manifest)
    make_weights.check(manifest, tensors, image)

    model = kseg.create_model(
        row,
        num_classes=manifest["options"]["classes"],
        input_shape=image.shape[1:],
        preprocessing=preprocessing,
        **options,
    )
    kseg.checkpoints.assign(model, tensors)
    layers = {**taps, "output": "logits"}
    outputs = {tap: model.get_layer(layer).output for tap, layer in layers.items()}
    got = keras.Model(model.inputs, outputs).predict(image, verbose=0)

    assert set(manifest["arrays"]) == set(layers)
    for tap, facts in manifest["arrays"].items():
        assert list(got[tap].shape) == facts["shape"], tap
        sample = got[tap]
        if f"{tap}__rows" in want:
            sample = sample[:, want[f"{tap}__rows"]][:, :, want[f"{tap}__cols"]]
            sample = sample[..., want[f"{tap}__chs"]]
        error = np.abs(sample - want[tap]).max()
        limit = OUTPUT_TOLERANCE if tap == "output" else NOISE_FACTOR * facts["fp32_noise"]
        assert error <= limit, f"{tap}: {error:.3g} > {limit:.3g}"
