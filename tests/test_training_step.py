"""What a training step costs: the same step in every runtime, and the table of it."""

import csv
import json

import pytest

import kseg

pytest.importorskip("torch", reason="torch is not installed; .ci/run installs it")

import training_step


def test_the_step_is_the_same(monkeypatch):
    """Losses before and after two updates, on TensorFlow and PyTorch."""
    create = kseg.create_model
    monkeypatch.setattr(kseg, "create_model", lambda name, **more: create(name, m=2, n=2, **more))
    found = []
    for take in (training_step.keras_step, training_step.torch_step):
        step, trainable = take("cgnet_m3n21", 2, (32, 40))
        found.append((trainable, step(), step(), step()))
    (count, *want), (same_count, *got) = found
    assert count == same_count
    # float32 sums in another order
    assert got[0] == pytest.approx(want[0], rel=1e-5)
    assert want[2] < want[1] < want[0]
    # AdamW's first updates have the gradients' signs, also where these are rounding.
    assert got[1:] == pytest.approx(want[1:], rel=2e-3)


class Fake:
    """Stands for a runtime: torch takes one second, the others two and more."""

    loss = 2.4

    def __init__(self, runtime: str, *_facts) -> None:
        self.seconds = 1.0 + training_step.RUNTIMES.index(runtime)
        self.calls = 0

    def step(self) -> dict[str, float]:
        self.calls += 1
        if self.calls == 1:
            return {"trainable": 7}
        # The first two are not measured.
        return {"loss": self.loss, "seconds": 99.0 if self.calls < 4 else self.seconds}

    def close(self) -> None:
        pass


def test_table(tmp_path, monkeypatch):
    monkeypatch.setattr(training_step, "Stepper", Fake)
    for model in (*training_step.MODELS, training_step.MODELS[0]):
        training_step.write(training_step.measure(model, turns=3), tmp_path)
    with (tmp_path / "training_step.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(training_step.MODELS) * len(training_step.RUNTIMES)
    ratios = {(row["runtime"], row["seconds"], row["ratio"]) for row in rows}
    assert ratios == {
        (runtime, str(i), str(i)) for i, runtime in enumerate(training_step.RUNTIMES, 1)
    }
    assert "torch" in json.loads((tmp_path / "training_step.json").read_text())["versions"]
    # Some runtimes alone: the model's others stay.
    few = training_step.measure(training_step.MODELS[0], turns=3, runtimes=("torch", "jax"))
    training_step.write([{**row, "seconds": "9"} for row in few], tmp_path)
    with (tmp_path / "training_step.csv").open() as file:
        again = list(csv.DictReader(file))
    assert len(again) == len(rows)
    assert {row["runtime"] for row in again if row["seconds"] == "9"} == {"torch", "jax"}


def test_other_losses_are_an_error(monkeypatch):
    class Drifting(Fake):
        def __init__(self, runtime: str, *facts) -> None:
            super().__init__(runtime, *facts)
            self.loss = 2.4 if runtime == "torch" else 2.5

    monkeypatch.setattr(training_step, "Stepper", Drifting)
    with pytest.raises(kseg.KsegError, match="losses of the first step differ"):
        training_step.measure("enet", turns=1)
