"""What fit() does beside training: progress, history and checkpoints."""

from __future__ import annotations

import contextlib
import csv
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import keras

from kseg.errors import KsegError
from kseg.files import whole
from kseg.model import SegmentationModel, first_line
from kseg.progress import duration
from kseg.zoo import build


class Progress(keras.callbacks.Callback):
    """Step, loss, images a second and time left; one line an epoch in a log file."""

    def __init__(self, *, steps: int, epoch_steps: int, batch_size: int, step: int) -> None:
        super().__init__()
        self.steps, self.epoch_steps, self.batch_size = steps, epoch_steps, batch_size
        self.step = self.first_step = step
        self.training_seconds = 0.0
        self.elsewhere = 0.0
        self.live = sys.stderr.isatty()

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.begin = time.monotonic()

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        self.batch_begin = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.step += 1
        self.training_seconds += time.monotonic() - self.batch_begin
        if self.live:
            print(f"\r{self._line(logs)}\033[K", end="", file=sys.stderr, flush=True)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        logs["images_per_second"] = self._images_per_second()
        score = logs.get("val_mean_iou")
        end = "" if score is None else f", val mIoU {score:.4f}"
        lead = "\r\033[K" if self.live else ""
        print(f"{lead}{self._line(logs)}{end}", file=sys.stderr, flush=True)

    def _images_per_second(self) -> float:
        done = self.step - self.first_step
        return done * self.batch_size / max(self.training_seconds, 1e-9)

    def _line(self, logs: dict | None) -> str:
        done = self.step - self.first_step
        # All time counts, scoring included, or the time left would be too short.
        left = (time.monotonic() - self.begin) / max(done, 1) * (self.steps - self.step)
        epoch = -(-self.step // self.epoch_steps)
        epochs = -(-self.steps // self.epoch_steps)
        return (
            f"epoch {epoch}/{epochs}, step {self.step}/{self.steps}, "
            f"loss {(logs or {}).get('loss', float('nan')):.4f}, "
            f"{self._images_per_second():.1f} images/s, {duration(left)} left"
        )


class History(keras.callbacks.Callback):
    """``history.csv``, a row an epoch; rows of epochs that will run again are dropped.

    Args:
        path: of the file.
        first_epoch: the first that will run now, counted from 0.
    """

    FIELDS = (
        "epoch",
        "step",
        "learning_rate",
        "loss",
        "mean_iou",
        "val_loss",
        "val_mean_iou",
        "images_per_second",
    )

    def __init__(self, path: Path, first_epoch: int) -> None:
        super().__init__()
        self.path = path
        self.rows: list[dict[str, object]] = []
        if path.exists():
            with path.open(newline="") as file:
                self.rows = [r for r in csv.DictReader(file) if int(r["epoch"]) <= first_epoch]

    def best(self, field: str) -> float:
        """The largest value so far, minus infinity where there is none."""
        return max((float(r[field]) for r in self.rows if r[field]), default=float("-inf"))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        optimizer = self.model.optimizer
        values = {
            **(logs or {}),
            "epoch": epoch + 1,
            "step": int(optimizer.iterations),
            "learning_rate": float(optimizer.learning_rate),
        }
        self.rows.append({field: values.get(field, "") for field in self.FIELDS})
        with whole(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.FIELDS)
            writer.writeheader()
            writer.writerows(self.rows)


@contextlib.contextmanager
def averaged(model: keras.Model) -> Iterator[None]:
    """Within it the model has the moving average of its weights, if the optimizer keeps one."""
    optimizer = model.optimizer
    if not optimizer.use_ema or not int(optimizer.iterations):
        yield
        return
    raw = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
    optimizer.finalize_variable_values(model.trainable_variables)
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, raw, strict=True):
            variable.assign(value)


class ScoreAverage(keras.callbacks.Callback):
    """Validation within ``fit`` sees the moving average of the weights."""

    def on_test_begin(self, logs: dict | None = None) -> None:
        self.scope = averaged(self.model)
        self.scope.__enter__()

    def on_test_end(self, logs: dict | None = None) -> None:
        self.scope.__exit__(None, None, None)


class Checkpoint(keras.callbacks.Callback):
    """The last state, weights and optimizer in one file, and the best model.

    The name of the state is its step. It appears under that name only when it is whole,
    and its forerunner goes after that, so there is always one to resume from.
    """

    def __init__(self, folder: Path, *, steps_per_epoch: int) -> None:
        super().__init__()
        self.folder = folder
        self.steps_per_epoch = steps_per_epoch
        self.best = float("-inf")

    def states(self) -> list[Path]:
        """Oldest first."""
        return sorted(self.folder.glob("step-*.weights.h5"))

    def restore(self, model: SegmentationModel) -> int:
        """Loads the newest state into a compiled model; its step, 0 where there is none.

        Raises:
            KsegError: the file is damaged or of another model.
        """
        states = self.states()
        if not states:
            return 0
        try:
            model.load_weights(states[-1])
        except Exception as error:  # h5py and Keras raise OSError, KeyError, ValueError
            raise KsegError(
                f"{states[-1]}: cannot be restored ({first_line(error)}); "
                "remove it to resume from the one before, or the run to train anew"
            ) from error
        return int(model.optimizer.iterations)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        score = (logs or {}).get("val_mean_iou")
        if score is not None and score > self.best:
            self.best = score
            with whole(self.folder / "best.keras") as path, averaged(self.model):
                build(self.model.card.for_inference(), weights_of=self.model).save(path)
        self.save()

    def save(self) -> None:
        """Writes the state of the present step."""
        before = self.states()
        step = int(self.model.optimizer.iterations)
        with whole(self.folder / f"step-{step:08d}.weights.h5") as path:
            self.model.save_weights(path)
        for state in before:
            if state.name != f"step-{step:08d}.weights.h5":
                state.unlink()
