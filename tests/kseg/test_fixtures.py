"""Every network against what its reference implementation computed (fixtures/README.md)."""

import keras
import pytest
from reference import open_reference

import kseg
from support import outputs_of


def _deeplab_taps() -> dict[str, str]:
    taps = {f"aspp{i}": f"aspp{i}_pointwise.relu" for i in (1, 2, 3)}
    return taps | {
        "image_pooling": "image_pooling.relu",
        "aspp0": "aspp0.relu",
        "aspp1_depthwise": "aspp1_depthwise.relu",
        "aspp_out": "concat_projection.relu",
        "low_level_projected": "decoder.feature_projection0.relu",
        "decoder_conv0": "decoder.decoder_conv0_pointwise.relu",
        "decoder_out": "decoder.decoder_conv1_pointwise.relu",
        "logits_raw": "logits.semantic",
        "logits_low": "logits.semantic",
    }


# Without atrous branches and decoder.
_MOBILENET_HEAD = ("image_pooling", "aspp0", "aspp_out", "logits_raw", "logits_low")


def _xception_taps(depth: int, middle: int) -> dict[str, str]:
    root = f"xception_{depth}"

    def unit(name: str) -> str:
        return f"{root}.{name}.xception_module"

    entry = {f"entry_flow_block{i}": f"entry_flow.block{i}.unit_1" for i in (1, 2, 3)}
    units = entry | {
        f"middle_flow_block1_unit{i}": f"middle_flow.block1.unit_{i}" for i in (1, middle)
    }
    units["exit_flow_block1"] = "exit_flow.block1.unit_1"
    return _deeplab_taps() | {
        **{tap: f"{unit(name)}.sum" for tap, name in units.items()},
        "stem1": f"{root}.entry_flow.conv1_1.relu",
        "stem2": f"{root}.entry_flow.conv1_2.relu",
        "exit_flow_block2": f"{unit('exit_flow.block2.unit_1')}.separable_conv3_pointwise.relu",
        "low_level": f"{unit('entry_flow.block2.unit_1')}.separable_conv2_pointwise.BatchNorm",
    }


_ESPNET_ENCODER = {
    "level1": "level1.act",
    "b1": "b1.act",
    "level2_0": "level2_0.act",
    "b2": "b2.act",
    "level3_0": "level3_0.act",
    "b3": "b3.act",
}
_ESPNET = {
    **{tap: f"encoder.{layer}" for tap, layer in _ESPNET_ENCODER.items()},
    "up_l3": "up_l3.0.fit",
    "level3_C": "level3_C.conv",
    "combine_l2_l3": "combine_l2_l3.1.bn.act",
    "up_l2": "up_l2.1.act",
    "conv": "conv.act",
}

LITESEG_TAPS = {
    "aspp1": "aspp1.bn",
    "aspp2": "aspp2.relu1",
    "aspp3": "aspp3.relu1",
    "aspp4": "aspp4.relu1",
    "image_pool": "global_avg_pool.3",
    "project_bn": "bn1",
    "logits_low": "last_conv.6",
}

_LRASPP = {
    "stem": "backbone.0.2",
    "stage2": "backbone.3.sum",
    "low": "backbone.4.block.3.1",
    "block8": "backbone.8.sum",
    "block12": "backbone.12.sum",
    "block13": "backbone.13.block.3.1",
    "high": "backbone.16.2",
    "cbr": "classifier.cbr.2",
    "scale": "classifier.scale.2",
    "logits_low": "classifier.sum",
}
_LRASPP_ODD = ("low", "high", "scale", "logits_low")


def _ffnet_taps(blocks: tuple[int, int, int, int]) -> dict[str, str]:
    taps = {
        f"feat{2 ** (i + 2)}": f"backbone_model.layer{i}.{count - 1}.relu"
        for i, count in enumerate(blocks, 1)
    }
    fams = {"sm64": "32_sm", "sm32": "16_sm", "sm16": "8_sm", "sm8": "4"}
    return taps | {
        "adapter64": "head.layers.0.adapter_conv.3.layers.1.relu",
        **{tap: f"head.layers.1.fam_{name}.layers.1.relu" for tap, name in fams.items()},
        "concat": "head.layers.1.concat",
        "logits_low": "head.layers.3.last_layer.3",
    }


_FFNET_40S = _ffnet_taps((4, 5, 6, 4))

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
    "deeplab_x65_os16_a": ("deeplab_v3_plus_xception65", {}, True, _xception_taps(65, 16)),
    "deeplab_x65_os8_a": (
        "deeplab_v3_plus_xception65",
        {"output_stride": 8},
        True,
        _xception_taps(65, 16),
    ),
    "deeplab_x41_os16_a": ("deeplab_v3_plus_xception41", {}, True, _xception_taps(41, 8)),
    "deeplab_resnet101beta_os16_a": (
        "deeplab_v3_plus_resnet101",
        {},
        True,
        _deeplab_taps()
        | {
            "root": "resnet_v1_101.conv1_3.relu",
            "block1": "resnet_v1_101.block1.unit_3.bottleneck_v1.relu",
            "block2": "resnet_v1_101.block2.unit_4.bottleneck_v1.relu",
            "block3": "resnet_v1_101.block3.unit_23.bottleneck_v1.relu",
            "block4": "resnet_v1_101.block4.unit_3.bottleneck_v1.relu",
            "low_level": "resnet_v1_101.block1.unit_2.bottleneck_v1.conv3.BatchNorm",
        },
    ),
    "deeplab_mnv2_os16_a": (
        "deeplab_v3_mobilenet_v2",
        {},
        True,
        {
            "conv": "MobilenetV2.Conv.relu6",
            "expanded_conv": "MobilenetV2.expanded_conv.project.BatchNorm",
            "expanded_conv_2": "MobilenetV2.expanded_conv_2.project.sum",
            "expanded_conv_5": "MobilenetV2.expanded_conv_5.project.sum",
            "expanded_conv_9": "MobilenetV2.expanded_conv_9.project.sum",
            "expanded_conv_13": "MobilenetV2.expanded_conv_13.project.BatchNorm",
            "expanded_conv_16": "MobilenetV2.expanded_conv_16.project.BatchNorm",
            **{tap: _deeplab_taps()[tap] for tap in _MOBILENET_HEAD},
        },
    ),
    # Its output is before the last resizing.
    "espnet_c_p2q8_a": (
        "espnet_c",
        {},
        False,
        {**_ESPNET_ENCODER, "output": "classifier.conv"},
    ),
    "espnet_p2q8_a": ("espnet", {}, False, _ESPNET),
    "espnet_p2q8_camvid_a": ("espnet_camvid", {}, False, _ESPNET),
    "enet_a": (
        "enet",
        {},
        False,
        {
            tap: f"{tap}.out_activation"
            for tap in (
                "initial_block",
                "downsample1_0",
                "regular1_4",
                "downsample2_0",
                "dilated2_8",
                "dilated3_7",
                "upsample4_0",
                "regular4_2",
                "upsample5_0",
                "regular5_1",
            )
        },
    ),
    "erfnet_a": (
        "erfnet",
        {},
        False,
        {
            "initial_block": "encoder.initial_block.relu",
            "encoder_5": "encoder.layers.5.relu",
            "encoder_6": "encoder.layers.6.relu",
            "encoder_14": "encoder.layers.14.relu",
            "decoder_0": "decoder.layers.0.relu",
            "decoder_2": "decoder.layers.2.relu",
            "decoder_5": "decoder.layers.5.relu",
        },
    ),
    "ffnet_40s_a": ("ffnet_40s", {}, False, _FFNET_40S),
    # The nearest resizes are by no whole factor.
    "ffnet_40s_odd_a": (
        "ffnet_40s",
        {},
        False,
        {tap: layer for tap, layer in _FFNET_40S.items() if tap not in ("adapter64", "sm64")},
    ),
    "ffnet_78s_a": ("ffnet_78s", {}, False, _ffnet_taps((6, 12, 12, 8))),
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
    "lraspp_mobilenet_v3_large_a": ("lraspp_mobilenet_v3_large", {}, False, _LRASPP),
    "lraspp_mobilenet_v3_large_odd_a": (
        "lraspp_mobilenet_v3_large",
        {},
        False,
        {tap: _LRASPP[tap] for tap in _LRASPP_ODD},
    ),
    "deeplabv3_resnet50_a": (
        "deeplab_v3_resnet50",
        {},
        False,
        {
            "maxpool": "pool1",
            "layer1": "block1.unit_3.relu",
            "layer2": "block2.unit_4.relu",
            "layer3_0": "block3.unit_1.relu",
            "layer3": "block3.unit_6.relu",
            "layer4": "block4.unit_3.relu",
            **{f"aspp{i + 1}": f"classifier.0.convs.{i}.2" for i in range(4)},
            "image_pool": "classifier.0.convs.4.3",
            "project": "classifier.0.project.2",
            "logits_low": "classifier.4",
        },
    ),
}

# On the logits, absolute; every wrong detail in the fixtures' README is 60 times above.
OUTPUT_TOLERANCE = 1e-3


@pytest.mark.parametrize("fixture", CASES)
def test_fixture(fixture: str, request: pytest.FixtureRequest):
    row, options, preprocessing, taps = CASES[fixture]
    reference = open_reference(fixture, lambda name: request.getfixturevalue("weights") / name)
    manifest, image = reference.manifest, reference.image

    model = kseg.create_model(
        row,
        num_classes=manifest["options"]["classes"],
        input_shape=image.shape[1:],
        preprocessing=preprocessing,
        **options,
    )
    kseg.checkpoints.assign(model, reference.tensors)
    layers = {"output": "logits", **taps}
    outputs = {tap: model.get_layer(layer).output for tap, layer in layers.items()}
    got = outputs_of(keras.Model(model.inputs, outputs), image)

    assert set(manifest["arrays"]) == set(layers)
    for tap in manifest["arrays"]:
        reference.check(tap, got[tap], OUTPUT_TOLERANCE if tap == "output" else None)
