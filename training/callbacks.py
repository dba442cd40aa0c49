"""Callbacks of ``fit``: progress, history, faults, pictures, checkpoints."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import h5py
import keras
import numpy as np
import tensorflow as tf

from kseg.data import DataSet
from kseg.errors import KsegError, first_line
from kseg.files import atomic_write, check_room, make_folder
from kseg.model import SegmentationModel
from kseg.pictures import cover, side_by_side
from kseg.progress import duration, is_live, note, tell
from kseg.report import confusion_matrix, rendered
from kseg.training.metrics import MeanIoU
from kseg.zoo import build


class Steps(keras.callbacks.Callback):
    """Counts the batches of the whole run; it must stand before the callbacks that read it.

    The optimizer's own count leaves out the steps that a loss scale skips.

    Attributes:
        done: batches so far.
        logs: loss and score of the epoch's training so far.
    """

    def __init__(self, done: int) -> None:
        super().__init__()
        self.done = done
        self.logs: dict[str, float] = {}

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.done += 1
        self.logs = logs or {}


class EarlyStop(keras.callbacks.Callback):
    """Ends the run after ``patience`` scores that are no better than the best.

    Args:
        patience: at least 1.
        best: score so far, minus infinity where there is none.
        waited: scores since the best one.
    """

    def __init__(self, patience: int, best: float, waited: int) -> None:
        super().__init__()
        self.patience, self.best, self.waited = patience, best, waited

    @property
    def is_over(self) -> bool:
        return self.waited >= self.patience

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if (score := (logs or {}).get("val_mean_iou")) is None:
            return
        self.waited = 0 if score > self.best else self.waited + 1
        self.best = max(score, self.best)
        if self.is_over:
            self.model.stop_training = True


class UserCallbacks(keras.callbacks.CallbackList):
    """The user's callbacks, to which a run is one training, of however many calls of ``fit``.

    Args:
        callbacks: the user's.
        epochs, steps: of the run, and batches of an epoch.
    """

    def __init__(
        self, callbacks: Sequence[keras.callbacks.Callback], *, epochs: int, steps: int
    ) -> None:
        super().__init__(list(callbacks))
        super().set_params({"epochs": epochs, "steps": steps, "verbose": 0})
        self.begun = False

    def set_params(self, params: dict) -> None:
        """Nothing: ``fit`` gives those of its own call."""

    def on_train_begin(self, logs: dict | None = None) -> None:
        if not self.begun:
            self.begun = True
            super().on_train_begin(logs)

    def on_train_end(self, logs: dict | None = None) -> None:
        self.logs = logs

    def finish(self) -> None:
        """The end of the training."""
        if self.begun:
            super().on_train_end(self.logs)


class Progress(keras.callbacks.Callback):
    """Step, loss, images a second and time left; one line an epoch in a log file."""

    def __init__(self, steps: Steps, *, last: int, epoch_steps: int, batch_size: int) -> None:
        super().__init__()
        self.steps, self.first = steps, steps.done
        self.last, self.epoch_steps, self.batch_size = last, epoch_steps, batch_size
        self.begin = time.monotonic()
        self.training_seconds = 0.0

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        self.batch_begin = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.training_seconds += time.monotonic() - self.batch_begin
        if is_live():
            tell(self._line(logs), changing=True)

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        logs["images_per_second"] = self._images_per_second()
        score = logs.get("val_mean_iou")
        end = "" if score is None else f", val mIoU {score:.4f}"
        tell(f"{self._line(logs)}{end}")

    def _images_per_second(self) -> float:
        done = self.steps.done - self.first
        return done * self.batch_size / max(self.training_seconds, 1e-9)

    def _line(self, logs: dict | None) -> str:
        step = self.steps.done
        # All time counts, scoring included, or the time left would be too short.
        pace = (time.monotonic() - self.begin) / max(step - self.first, 1)
        return (
            f"epoch {-(-step // self.epoch_steps)}/{-(-self.last // self.epoch_steps)}, "
            f"step {step}/{self.last}, "
            f"loss {(logs or {}).get('loss', float('nan')):.4f}, "
            f"{self._images_per_second():.1f} images/s, "
            f"{duration(pace * (self.last - step))} left"
        )


class History(keras.callbacks.Callback):
    """``history.csv``, a row an epoch; rows of epochs that will be repeated are dropped.

    The loss and training score of an interrupted epoch are of its part after the resume.

    Args:
        path: of the file.
        steps: the count; its value at the start says which rows stay.
        pending: the epoch that ended there has no score and row yet.
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

    def __init__(self, path: Path, steps: Steps, *, pending: bool = False) -> None:
        super().__init__()
        self.path, self.steps = path, steps
        self.rows: list[dict[str, str | float]] = []
        if path.exists():
            last = steps.done - pending
            with path.open(newline="") as file:
                self.rows = [r for r in csv.DictReader(file) if int(r["step"]) <= last]

    def best(self, field: str) -> float:
        """The largest value so far, minus infinity where there is none."""
        return max((float(r[field]) for r in self.rows if r[field]), default=float("-inf"))

    def waited(self, field: str) -> int:
        """How many values there are since the largest one."""
        values = [float(r[field]) for r in self.rows if r[field]]
        return len(values) - 1 - values.index(max(values)) if values else 0

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        optimizer = self.model.optimizer
        values = {
            **(logs or {}),
            "epoch": epoch + 1,
            "step": self.steps.done,
            "learning_rate": float(optimizer.learning_rate),
        }
        self.rows.append({field: values.get(field, "") for field in self.FIELDS})
        with atomic_write(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.FIELDS)
            writer.writeheader()
            writer.writerows(self.rows)


@contextlib.contextmanager
def averaged(model: keras.Model) -> Iterator[None]:
    """Within it the model has the moving average of its weights, if the optimizer keeps one."""
    optimizer = _inner(model.optimizer)
    # The count is of a kind that int() does not take where several devices have it.
    if not optimizer.use_ema or not keras.ops.convert_to_numpy(optimizer.iterations):
        yield
        return
    raw = _values(model.trainable_variables)
    optimizer.finalize_variable_values(model.trainable_variables)
    # On JAX a variable now shares its buffer with its average, and a step deletes buffers.
    _assign(model.trainable_variables, _values(model.trainable_variables))
    try:
        yield
    finally:
        _assign(model.trainable_variables, raw)


def _inner(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The one inside a LossScaleOptimizer, which keeps no average itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def _values(variables: list[keras.Variable]) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def _assign(variables: list[keras.Variable], values: list[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


class ScoreAverage(keras.callbacks.Callback):
    """Validation within ``fit`` takes the moving average of the weights, training does not.

    Keras leaves the average in the model at the end of every ``fit``. A run may call it
    several times, so the weights themselves are put back.
    """

    def on_test_begin(self, logs: dict | None = None) -> None:
        self.scope = averaged(self.model)
        self.scope.__enter__()

    def on_test_end(self, logs: dict | None = None) -> None:
        self.scope.__exit__(None, None, None)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if _inner(self.model.optimizer).use_ema:
            self.raw = _values(self.model.trainable_variables)

    def on_train_end(self, logs: dict | None = None) -> None:
        if _inner(self.model.optimizer).use_ema:
            _assign(self.model.trainable_variables, self.raw)


class OneScore(keras.callbacks.Callback):
    """Renames the score of the logits to ``mean_iou`` where a model has training heads."""

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        for prefix in ("", "val_"):
            if (score := logs.pop(f"{prefix}logits_mean_iou", None)) is not None:
                logs[f"{prefix}mean_iou"] = score


# What a shell reports of a process that the signal ended.
_EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


class Faults(keras.callbacks.Callback):
    """Stops at a loss that is no number, and leaves a resumable run at SIGTERM and SIGINT.

    Args:
        steps: the count.
        checkpoint: saves the state at a signal; at a bad loss the last one stays.
        names_at: the samples of a step, counted from 0.
    """

    def __init__(
        self, steps: Steps, checkpoint: Checkpoint, names_at: Callable[[int], list[str]]
    ) -> None:
        super().__init__()
        self.steps, self.checkpoint, self.names_at = steps, checkpoint, names_at
        self.received: signal.Signals | None = None

    def __enter__(self) -> Faults:
        self.before = {}
        # Python lets the main thread alone handle signals.
        if threading.current_thread() is threading.main_thread():
            for number in _EXIT_CODES:
                self.before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _frame: object) -> None:
        if self.received is not None:  # the second signal ends it at once
            raise SystemExit(_EXIT_CODES[signal.Signals(number)])
        self.received = signal.Signals(number)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        loss = float((logs or {})["loss"])
        if not math.isfinite(loss):
            kept = self.checkpoint.states()
            state = f"{kept[-1]} is the last good state" if kept else "no state was saved yet"
            raise KsegError(
                f"step {self.steps.done}: the loss is {loss} on "
                f"{', '.join(self.names_at(self.steps.done - 1))}; {state}; "
                "look at these files, or start another run_dir with a lower learning_rate "
                "or clip_norm"
            )
        if self.received is not None:
            self.checkpoint.save()
            self._leave(self.received)

    def on_test_batch_end(self, batch: int, logs: dict | None = None) -> None:
        # The state was saved before the score began.
        if self.received is not None:
            self._leave(self.received)

    def _leave(self, received: signal.Signals) -> None:
        note(
            f"kseg: {received.name}: saved at step {self.steps.done}; "
            "the same command goes on from there"
        )
        raise SystemExit(_EXIT_CODES[received])


class Pictures(keras.callbacks.Callback):
    """TensorBoard pictures at every score: predictions and the confusion matrix.

    Args:
        folder: of TensorBoard; None for a worker that writes nothing. It needs the callback
            too: reading the metric adds up the counts of all workers.
        data: the images that are scored; some of them are shown.
        metric: what counts them.
        count: how many pictures.
    """

    def __init__(self, folder: Path | None, data: DataSet, metric: MeanIoU, count: int = 3) -> None:
        super().__init__()
        self.writer = tf.summary.create_file_writer(str(folder)) if folder else None
        self.shown, self.metric = data.some(count), metric

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if not any(name.startswith("val_") for name in logs or {}):
            return
        counts = keras.ops.convert_to_numpy(self.metric.confusion)
        if self.writer is None:
            return
        classes = self.shown.classes
        with averaged(self.model), self.writer.as_default(step=epoch + 1):
            for sample in self.shown.samples:
                image, label = self.shown.labelled(sample)
                logits = self.model(image[None].astype("float32"), training=False)
                logits = logits["logits"] if isinstance(logits, dict) else logits
                found = np.argmax(keras.ops.convert_to_numpy(logits[0]), -1).astype(np.uint8)
                views = [cover(image, ids, classes.colors) for ids in (label, found)]
                picture = np.asarray(side_by_side([image, *views]))
                tf.summary.image(f"image, label, prediction/{sample.name}", picture[None])
            figure = rendered(confusion_matrix(counts.tolist(), classes.names))
            tf.summary.image("confusion matrix", np.asarray(figure)[None])
        self.writer.flush()


_CLOSED = ".weights.h5"
_OPEN = f"-open{_CLOSED}"


class Checkpoint(keras.callbacks.Callback):
    """Saves the last states and the best model.

    A state is one file with weights, optimizer, dropout's random state and the loss and score
    of the epoch's training. Its name has the step. The file gets that name when it is
    complete, and older ones are deleted after that, so there is always one to resume from.

    A state is "open" until its epoch is scored and has its row. It is saved before the score,
    which replaces the weights by their moving average.

    Args:
        folder: of the states and of ``best.keras``.
        keep: how many states to keep.
    """

    def __init__(self, folder: Path, keep: int = 1) -> None:
        super().__init__()
        self.folder, self.keep = make_folder(folder), keep
        self.steps = Steps(0)
        self.best = float("-inf")
        self.open = False

    def states(self) -> list[Path]:
        """Oldest first."""
        return sorted(self.folder.glob("step-*.weights.h5"))

    def steps_saved(self) -> list[int]:
        """The steps of the states, ascending."""
        return [_step_of(path) for path in self.states()]

    def restore(self, model: SegmentationModel, step: int) -> None:
        """Loads the state of a step of ``steps_saved()`` into a compiled model.

        Raises:
            KsegError: the file is damaged or of another model.
        """
        states = self.states()
        path = states[self.steps_saved().index(step)]
        try:
            model.load_weights(path)
            with h5py.File(path) as file:
                # States from before these were saved lack them.
                self.steps.logs = json.loads(file.attrs.get("logs", "{}"))
                drawn = file.attrs.get("random")
            if drawn is not None:
                _assign(_random_states(model), list(drawn))
        except Exception as error:  # h5py and Keras raise OSError, KeyError, ValueError
            raise KsegError(
                f"{path}: cannot be restored ({first_line(error)}); "
                "remove the run to train anew, or this file where there is one before it"
            ) from error
        for later in states[states.index(path) + 1 :]:
            later.unlink()
        self.steps.done = step
        self.open = path.name.endswith(_OPEN)

    def on_test_begin(self, logs: dict | None = None) -> None:
        self._save_once()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        score = (logs or {}).get("val_mean_iou")
        if score is not None and score > self.best:
            self.best = score
            with atomic_write(self.folder / "best.keras") as path, averaged(self.model):
                build(self.model.card.for_inference(), weights_of=self.model).save(path)
        self._save_once()
        self._path(_OPEN).rename(self._path(_CLOSED))

    def _save_once(self) -> None:
        if not self._path(_OPEN).exists():
            self.save()

    def save(self) -> None:
        """Writes the state of the present step, open.

        Raises:
            KsegError: it has no room, or a weight is infinite or no number since the last
                update; the loss would show it a step later.
        """
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        for variable in self.model.trainable_variables:
            if not np.isfinite(keras.ops.convert_to_numpy(variable)).all():
                raise KsegError(
                    f"step {self.steps.done}: {variable.path} is no longer finite; nothing is "
                    "saved; start another run_dir with a lower learning_rate or clip_norm"
                )
        optimizer = getattr(self.model, "optimizer", None)
        variables = [*self.model.variables, *(optimizer.variables if optimizer else ())]
        values = sum(math.prod(variable.shape) for variable in variables)
        # Of 32 bits each, and what HDF5 needs to find them, the name of a layer's group most.
        check_room(self._path(_OPEN), 4 * values + 4096 * len(variables))
        with atomic_write(self._path(_OPEN)) as path:
            self.model.save_weights(path)
            with h5py.File(path, "a") as file:
                file.attrs["logs"] = json.dumps({k: float(v) for k, v in self.steps.logs.items()})
                if drawn := _values(_random_states(self.model)):
                    file.attrs["random"] = np.stack(drawn)
        for state in self.states()[: -self.keep]:
            state.unlink()

    def _path(self, end: str) -> Path:
        return self.folder / f"step-{self.steps.done:08d}{end}"


def _step_of(state: Path) -> int:
    return int(state.name.removesuffix(_CLOSED).split("-")[1])


def _random_states(model: keras.Model) -> list[keras.Variable]:
    """Dropout's random states, which Keras' files of weights leave out."""
    return [v for v in model.variables if v.name == "seed_generator_state"]
