"""The committed figures are of the zoo as it is now.

Rows that are not measured yet have none: `make matrix` goes on with them.
"""

import csv
import json

import keras
import pytest

import kseg
from kseg.zoo import VARIANTS
from matrix import COLUMNS, ENVIRONMENT, PRECISIONS, digest, graph_of, read_rows
from support import ROOT

ROWS = read_rows()


def test_columns_and_versions():
    assert set(ROWS) <= set(kseg.list_models()), "run `make matrix`"
    with (ROOT / "results/zoo.csv").open() as file:
        assert tuple(next(csv.reader(file))) == COLUMNS
    assert set(json.loads(ENVIRONMENT.read_text())) == {"versions", "machine"}


@pytest.mark.parametrize("name", ROWS)
def test_the_graph_is_the_one_measured(name):
    assert ROWS[name]["graph"] == graph_of(name), "run `make matrix`"


@pytest.mark.parametrize("name", ROWS)
def test_figures(name):
    row = ROWS[name]
    if VARIANTS[name].parameters:
        assert row["parameters"] == row["published_parameters"]
    if VARIANTS[name].multiply_adds:
        # Published to two decimals of a billion.
        assert abs(int(row["multiply_adds"]) - float(row["published_multiply_adds"])) < 5.1e6
    for precision in PRECISIONS:
        if f"{precision}:" in row["note"] or "does not convert" in row["note"]:
            continue
        assert int(row[f"{precision}_bytes"]) > 0
        if precision == "int8":
            assert float(row["int8_gpu_same"]) >= 0.99
        else:
            assert float(row[f"{precision}_gpu"]) <= 1e-3
    # float32 sums in another order
    assert float(row["fp32_keras"]) < 1e-4


def small(**options) -> keras.Model:
    inputs = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(4, 3, name="conv", **options)(inputs)
    return keras.Model(inputs, keras.layers.ReLU(name="relu")(x))


def test_digest():
    """Weights, initialisers and decay leave it; what is computed changes it."""
    same = digest(small())
    assert digest(small()) == same
    assert digest(small(kernel_initializer="zeros", kernel_regularizer="l2")) == same
    for options in (dict(dilation_rate=2), dict(padding="same"), dict(activation="relu")):
        assert digest(small(**options)) != same
