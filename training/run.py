"""One training run: a folder that can be left at any moment and taken up again."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from kseg import checkpoints
from kseg.data import DataSet, open_dataset
from kseg.errors import KsegError
from kseg.files import make_folder, whole, write_json
from kseg.loading import create_model, load
from kseg.model import SegmentationModel
from kseg.shipped import is_model
from kseg.training.callbacks import (
    Checkpoint,
    Faults,
    History,
    OneScore,
    Pictures,
    Progress,
    ScoreAverage,
    averaged,
)
from kseg.training.config import TrainingConfig
from kseg.training.distribution import Distribution, open_distribution
from kseg.training.losses import SegmentationLoss, class_weights
from kseg.training.metrics import MeanIoU
from kseg.training.optimizers import make_optimizer
from kseg.training.pipeline import (
    augmented,
    check_augmentation,
    names_at,
    reader_errors,
    steps_per_epoch,
    whole_images,
)
from kseg.training.records import Records, open_records
from kseg.zoo import build, builder_options, find_variant

_CONFIG = "config.json"
_VERSIONED = ("kseg", "keras", "tensorflow", "jax", "numpy", "pillow")


def train(
    config: TrainingConfig,
    data_dir: str | Path | None,
    run_dir: str | Path,
    *,
    distribution: str = "auto",
) -> SegmentationModel:
    """Trains, or takes up where the run in ``run_dir`` was left.

    Writes ``config.json``, ``history.csv``, ``tensorboard/``, ``checkpoints/`` (the last
    state, and ``best.keras`` by the score on ``val_split``) and, at the end,
    ``model.keras``, the inference model. Of several workers the first one writes these,
    the others their states alone, in ``rank-N/``.

    At SIGTERM and SIGINT the state is saved after the step, and SystemExit raised.

    Args:
        config: what to train.
        data_dir: root of the data set; not looked at where ``config`` has records and no
            ``val_split``.
        run_dir: made if absent; of another configuration, it is refused.
        distribution: as for ``open_distribution``.

    Returns:
        The model of ``model.keras``.

    Raises:
        KsegError: bad values, data or files, another run's folder, or a loss that is no
            number.
    """
    config.check()
    run_dir = Path(run_dir)
    devices = open_distribution(distribution)
    devices.check(config.batch_size)
    if config.records:
        data = open_records(config.records, config.dataset, config.split)
    else:
        data = open_dataset(config.dataset, data_dir, config.split)
    val_data = config.val_split and open_dataset(config.dataset, data_dir, config.val_split)
    if val_data and val_data.classes != data.classes:
        raise KsegError(
            f"{config.records}: has other classes than {data_dir} now; prepare the records again"
        )
    config = dataclasses.replace(config, crop=config.crop or default_crop(data))
    epoch_steps = steps_per_epoch(data, config.batch_size)
    steps = config.steps or config.epochs * epoch_steps
    if steps < config.accumulate:
        raise KsegError(
            f"accumulate is {config.accumulate}; a run of {steps} batches would make no update"
        )
    _make_deterministic(config.seed)
    with devices.scope():
        model = devices.prepared(_model(config, data))
    record = _record(config, data)
    if devices.rank == 0:
        _check_folder(run_dir, config, record)

    if (run_dir / "model.keras").exists():
        print(f"{run_dir}: this run is complete; remove the folder to train anew")
        return load(run_dir / "model.keras")
    with devices.scope():
        metric = _compile(model, config, data, steps, epoch_steps)
    for crop in filter(None, (config.crop, config.final_crop)):
        check_augmentation(crop, config.scale, config.jitter)
    # Not before every value was seen to do: the folder is this configuration's from now on.
    if devices.rank == 0 and not (run_dir / _CONFIG).exists():
        write_json(run_dir / _CONFIG, record)
    own = run_dir / f"rank-{devices.rank}" if devices.rank else run_dir
    # Killed workers may be a state apart; both have the one before.
    checkpoint = Checkpoint(own / "checkpoints", keep=1 if devices.workers == 1 else 2)
    if step := devices.smallest_common(checkpoint.steps_saved()):
        with devices.scope():
            checkpoint.restore(model, step)
    # What every worker has closed needs no score.
    closed = devices.smallest_common([] if checkpoint.open else [1])
    pending = bool(step) and (step % epoch_steps == 0 or step == steps) and not closed
    if step < steps or pending:
        _warn(config, devices)
        _fit(model, config, data, val_data, run_dir, checkpoint, metric, steps, devices, pending)
    with averaged(model):
        result = build(model.card.for_inference(), weights_of=model)
    if devices.rank == 0:
        with whole(run_dir / "model.keras") as path:
            result.save(path)
    return result


def default_crop(data: DataSet | Records) -> tuple[int, int]:
    """The images' size, halved until it is at most 512 x 1024; 512 x 512 where it is mixed."""
    height, width = data.size or (512, 512)
    while height > 512 or width > 1024:
        height, width = height // 2, width // 2
    return height, width


def _make_deterministic(seed: int) -> None:
    keras.utils.set_random_seed(seed)
    # On a GPU deterministic kernels cost speed, and some do not exist.
    if keras.backend.backend() == "tensorflow" and not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()


def _warn(config: TrainingConfig, devices: Distribution) -> None:
    images = config.batch_size // (devices.replicas if config.batch_norm == "train" else 1)
    if config.batch_norm != "frozen" and images < 4:
        print(
            f"kseg: BatchNorm sees {images} images at a time, too few for its statistics; "
            "take a larger --batch-size, --batch-norm sync on several devices, or frozen "
            "with pretrained weights",
            file=sys.stderr,
        )


def _model(config: TrainingConfig, data: DataSet | Records) -> SegmentationModel:
    classes = data.classes
    # Of create_model's other arguments the run has fields of its own, or decides itself.
    known = set(builder_options(find_variant(config.model))) - {"auxiliary"}
    if refused := sorted(config.options.keys() - known):
        raise KsegError(
            f"options has {', '.join(refused)}; {config.model} has {', '.join(sorted(known))}"
        )
    with _precision(config.precision):
        model = create_model(
            config.model,
            num_classes=classes.num_classes,
            auxiliary=bool(config.auxiliary),
            **config.options,
        )
    if config.init:
        _initialise(model, config.init, config.init_part)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = config.batch_norm != "frozen"
            # JAX computes the statistics of all devices' images anyway.
            jax = keras.backend.backend() == "jax"
            layer.synchronized = config.batch_norm == "sync" and not jax
    model.card = model.card.trained_on(data)
    return model


@contextlib.contextmanager
def _precision(policy: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _initialise(model: SegmentationModel, init: str, part: str) -> None:
    """Weights of a file, with a new head where ``part`` leaves that out."""
    try:
        if is_model(init):
            checkpoints.copy(model, load(init), part=part)
        else:
            checkpoints.assign(model, checkpoints.read(init), part=part)
    except KsegError as error:
        if init in str(error):
            raise
        raise KsegError(f"{init}: {error}") from error


def _check_folder(run_dir: Path, config: TrainingConfig, record: dict[str, Any]) -> None:
    """Makes the folder, or refuses one that has another configuration or other data."""
    path = make_folder(run_dir) / _CONFIG
    if not path.exists():
        return
    try:
        stored = json.loads(path.read_text())
        difference = config.difference(stored["config"])
        # A run of before this was kept had its data.
        samples = stored.get("samples", record["samples"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise KsegError(f"{path}: is damaged; remove {run_dir} to train anew") from None
    if samples != record["samples"]:
        difference = difference or f"samples were {samples} and are {record['samples']}"
    if difference:
        raise KsegError(
            f"{run_dir}: holds a run of another configuration ({difference}); "
            "repeat its options or choose another --run-dir"
        )


def _record(config: TrainingConfig, data: DataSet | Records) -> dict[str, Any]:
    """What ``config.json`` has."""
    versions = {}
    for package in _VERSIONED:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    names = hashlib.sha256("\n".join(data.names).encode()).hexdigest()[:16]
    return {
        "config": dataclasses.asdict(config),
        "samples": f"{len(data)} ({names})",
        "versions": versions,
        "backend": keras.backend.backend(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "command": sys.argv,
    }


def _compile(
    model: SegmentationModel,
    config: TrainingConfig,
    data: DataSet | Records,
    steps: int,
    epoch_steps: int,
) -> MeanIoU:
    """Compiles; the metric of the logits."""
    weights = None
    if config.class_weights is not None:
        pixels = data.class_pixels(skip_bad=config.bad_images == "skip")
        weights = class_weights(pixels, config.class_weights)
    loss = SegmentationLoss(config.loss, weights)
    metric = MeanIoU(data.classes.num_classes)
    optimizer = make_optimizer(config, model, steps, epoch_steps)
    if not config.auxiliary:
        model.compile(optimizer, loss, metrics=[metric])
        return metric
    heads = list(model.output)
    if len(config.auxiliary) != len(heads) - 1:
        raise KsegError(
            f"auxiliary is {config.auxiliary}; {config.model} has the training heads "
            f"{', '.join(heads[1:])}, and each needs a weight"
        )
    model.compile(
        optimizer,
        {head: loss for head in heads},
        loss_weights=dict(zip(heads, (1.0, *config.auxiliary), strict=True)),
        metrics={"logits": [metric]},
    )
    return metric


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Epochs of one length and crop: one call of ``fit``."""

    first_epoch: int
    end_epoch: int
    length: int
    crop: tuple[int, int]
    step: int


def stretches(
    config: TrainingConfig, *, step: int, steps: int, epoch_steps: int
) -> Iterator[Stretch]:
    """What is left of a run of ``steps`` after ``step``.

    The rest of an epoch that was interrupted, and a last one that ``--steps`` cuts short,
    stand alone.
    """
    epochs = -(-steps // epoch_steps)
    final = max(epochs - config.final_epochs, 0)
    while step < steps:
        epoch, inside = divmod(step, epoch_steps)
        crop, end = (config.crop, final) if epoch < final else (config.final_crop, epochs)
        whole_epochs = min(end, steps // epoch_steps) - epoch
        if inside or whole_epochs <= 0:
            count, length = 1, min(epoch_steps - inside, steps - step)
        else:
            count, length = whole_epochs, epoch_steps
        yield Stretch(epoch, epoch + count, length, crop, step)
        step += count * length


def _fit(
    model: SegmentationModel,
    config: TrainingConfig,
    data: DataSet | Records,
    val_data: DataSet | None,
    run_dir: Path,
    checkpoint: Checkpoint,
    metric: MeanIoU,
    steps: int,
    devices: Distribution,
    pending: bool,
) -> None:
    """What is left of a run; ``pending``: the last epoch's score and row as well."""
    epoch_steps = steps_per_epoch(data, config.batch_size)
    heads = list(model.output) if config.auxiliary else []
    skipped: dict[str, str] = {}

    part = (devices.rank, devices.workers)

    def batches(stretch: Stretch) -> tf.data.Dataset | tf.distribute.DistributedDataset:
        examples = augmented(
            data,
            crop=stretch.crop,
            batch_size=config.batch_size,
            scale=config.scale,
            flip=config.flip,
            jitter=config.jitter,
            pad_value=model.card.normalization.rgb_mean,
            seed=config.seed,
            start_step=stretch.step,
            part=part,
            skipped=skipped if config.bad_images == "skip" else None,
        )
        return devices.batches(_for_heads(examples, heads), config.batch_size)

    scored = None
    if val_data:
        # One image a replica, since their sizes may differ.
        scored = devices.batches(_for_heads(whole_images(val_data, part), heads), 1, len(val_data))
    faults = Faults(
        checkpoint.steps,
        checkpoint,
        lambda step: names_at(data, step, batch_size=config.batch_size, seed=config.seed),
    )
    callbacks = [checkpoint.steps, faults, OneScore()]
    if devices.rank == 0:
        history = History(run_dir / "history.csv", checkpoint.steps, pending=pending)
        checkpoint.best = history.best("val_mean_iou")
        callbacks += [
            Progress(
                checkpoint.steps,
                last=steps,
                epoch_steps=epoch_steps,
                batch_size=config.batch_size,
            ),
            history,
            keras.callbacks.TensorBoard(
                run_dir / "tensorboard", write_graph=False, update_freq="epoch"
            ),
        ]
    if val_data:
        folder = None if devices.rank else run_dir / "tensorboard/pictures"
        callbacks.append(Pictures(folder, val_data, metric))
    # The state before a score has the weights themselves.
    callbacks += [checkpoint, ScoreAverage()]
    left = stretches(config, step=checkpoint.steps.done, steps=steps, epoch_steps=epoch_steps)
    with faults, reader_errors():
        if pending:
            epoch = (checkpoint.steps.done - 1) // epoch_steps
            due = (epoch + 1) % config.validate_every == 0
            _close_epoch(model, epoch, scored if due else None, checkpoint.steps.logs, callbacks)
        for stretch in left:
            model.fit(
                batches(stretch),
                validation_data=scored,
                validation_freq=config.validate_every,
                initial_epoch=stretch.first_epoch,
                epochs=stretch.end_epoch,
                steps_per_epoch=stretch.length,
                callbacks=callbacks,
                shuffle=False,  # the stream is in its order already
                verbose=0,
            )
    if skipped:
        print(f"kseg: {len(skipped)} images could not be read and were left out", file=sys.stderr)


def _close_epoch(
    model: SegmentationModel,
    epoch: int,
    scored: tf.data.Dataset | tf.distribute.DistributedDataset | None,
    logs: dict[str, float],
    callbacks: list[keras.callbacks.Callback],
) -> None:
    """The end of an epoch that was left after its last step, as ``fit`` would do it."""
    everyone = keras.callbacks.CallbackList(callbacks, model=model)
    everyone.on_train_begin()
    everyone.on_epoch_begin(epoch)
    logs = dict(logs)
    if scored is not None:
        found = model.evaluate(scored, callbacks=everyone, return_dict=True, verbose=0)
        logs |= {f"val_{name}": value for name, value in found.items()}
    everyone.on_epoch_end(epoch, logs)
    everyone.on_train_end()


def _for_heads(examples: tf.data.Dataset, heads: list[str]) -> tf.data.Dataset:
    """The same labels for every head of a model that has several."""
    if not heads:
        return examples
    return examples.map(lambda image, label: (image, {head: label for head in heads}))
