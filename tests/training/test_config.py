"""What a configuration refuses, and that it equals its own copy from a file."""

import dataclasses
import json
import math
import typing

import pytest

import kseg
from kseg.training import TrainingConfig

FIELDS = typing.get_type_hints(TrainingConfig)
NUMBERS = [name for name, hint in FIELDS.items() if float in (hint, *typing.get_args(hint))]


def config(**values) -> TrainingConfig:
    return TrainingConfig(**{"model": "small", "dataset": "camvid", **values})


def test_defaults_are_fine():
    config().check()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [*NUMBERS, "epochs", "steps", "seed", "final_epochs"])
def test_numbers_are_finite(name, value):
    if name in ("auxiliary", "scale"):
        value = (1.0, value)
    with pytest.raises(kseg.KsegError, match=rf"^{name} is .*(nan|inf).*; it must be"):
        config(**{name: value}).check()


@pytest.mark.parametrize("name", FIELDS)
def test_other_kinds_are_refused(name):
    with pytest.raises(kseg.KsegError, match=rf"^{name} is <object object at .*>; it must be"):
        config(**{name: object()}).check()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(loss=None), "loss is None; it must be a text"),
        (dict(split=None), "split is None; it must be a text"),
        (dict(batch_size=2.5), r"batch_size is 2\.5; it must be an int"),
        (dict(epochs=True), "epochs is True; it must be an int"),
        (dict(crop=(1, 2, 3)), r"crop is \(1, 2, 3\); it must be two ints or None"),
        (dict(crop=32), "crop is 32; it must be two ints or None"),
        (dict(options={"m": math.nan}), "options is {'m': nan}; JSON cannot hold it"),
        (dict(options={"m": object}), "JSON cannot hold it"),
        (dict(learning_rate=0), "learning_rate is 0; it must be above 0"),
        (dict(final_epochs=-1), "final_epochs is -1; it must not be negative"),
        (dict(final_epochs=2), "final_crop is None and final_epochs is 2; give both or none"),
    ],
)
def test_refusals(values, message):
    with pytest.raises(kseg.KsegError, match=message):
        config(**values).check()


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (dict(ohem_threshold=0.9), "ohem_threshold is 0.9"),
        (dict(loss="ohem+dice", ohem_threshold=0.9), None),
        (dict(auxiliary=(0.4,), auxiliary_loss="ohem", ohem_fraction=0.5), None),
        (dict(decay_factor=0.1), "decay_factor is 0.1, and schedule is 'poly'"),
        (dict(schedule="step", decay_factor=0.1), None),
        (dict(init_part="backbone"), "init_part is 'backbone', and the run begins"),
        (dict(init_part="backbone", init="imagenet"), None),
        (dict(final_crop=(8, 8), final_epochs=3), "final_epochs is 3 of 3 epochs: crop is"),
        (dict(final_crop=(8, 8), final_epochs=2), None),
        (dict(validate_every=4), "validate_every is 4 of 3 epochs: nothing is scored"),
        (dict(validate_every=4, val_split=None), None),
    ],
)
def test_what_has_no_effect_is_said(values, name):
    found = config(**values).without_effect(3)
    assert len(found) == (name is not None)
    assert all(line.startswith(name) for line in found)


@pytest.mark.parametrize(
    "options", [{}, {"atrous_rates": ((1, 2), (3, (4, 5)))}, {"a": {"b": ((1,),)}}]
)
def test_a_copy_from_a_file_is_the_same(options):
    """JSON makes lists of tuples, at every depth."""
    mine = config(options=options, crop=(32, 40), auxiliary=(0.4,))
    copy = json.loads(json.dumps(dataclasses.asdict(mine)))
    assert mine.difference(copy) == ""
    other = dataclasses.replace(mine, options={"atrous_rates": ((1, 2), (3, (4, 6)))})
    assert "options was" in other.difference(copy)
