"""One training run: a folder that can be left at any moment and taken up again."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
import re
import sys
from pathlib import Path

import keras
import tensorflow as tf

from kseg import checkpoints
from kseg.data import DataSet, open_dataset
from kseg.errors import KsegError
from kseg.files import make_folder, whole
from kseg.model import SegmentationModel
from kseg.training.callbacks import Checkpoint, History, Progress, ScoreAverage, averaged
from kseg.training.config import TrainingConfig
from kseg.training.losses import CrossEntropy, class_weights
from kseg.training.metrics import MeanIoU
from kseg.training.pipeline import augmented, steps_per_epoch, whole_images
from kseg.training.records import Records, open_records
from kseg.zoo import build, create_model

_VERSIONED = ("kseg", "keras", "tensorflow", "jax", "numpy", "pillow")


def train(
    config: TrainingConfig, data_dir: str | Path | None, run_dir: str | Path
) -> SegmentationModel:
    """Trains, or takes up where the run in ``run_dir`` was left.

    Writes ``config.json``, ``history.csv``, ``tensorboard/``, ``checkpoints/`` (the last
    state, and ``best.keras`` by the score on ``val_split``) and, at the end,
    ``model.keras``, the inference model.

    Args:
        config: what to train.
        data_dir: root of the data set; not looked at where ``config`` has records and no
            ``val_split``.
        run_dir: made if absent; of another configuration, it is refused.

    Returns:
        The model of ``model.keras``.

    Raises:
        KsegError: bad values, data or files, or another run's folder.
    """
    config.check()
    run_dir = Path(run_dir)
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
    _make_deterministic(config.seed)
    model = _model(config, data)
    _claim(run_dir, config)

    if (run_dir / "model.keras").exists():
        print(f"{run_dir}: this run is complete; remove the folder to train anew")
        return keras.models.load_model(run_dir / "model.keras")
    _compile(model, config, data, steps)
    checkpoint = Checkpoint(run_dir / "checkpoints", steps_per_epoch=epoch_steps)
    step = checkpoint.restore(model)
    if step < steps:
        _fit(model, config, data, val_data, run_dir, checkpoint, step, steps, epoch_steps)
    with averaged(model):
        result = build(model.card.for_inference(), weights_of=model)
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


def _model(config: TrainingConfig, data: DataSet | Records) -> SegmentationModel:
    classes = data.classes
    model = create_model(config.model, num_classes=classes.num_classes, **config.options)
    if config.init:
        checkpoints.assign(model, checkpoints.read(config.init))
    model.card = model.card.replace(
        dataset=data.name,
        class_names=classes.names,
        colors=classes.colors,
        void_channels=(),
        input_size=data.size,
        weights=f"trained by kseg on {data.name} {data.split}",
    )
    return model


def _claim(run_dir: Path, config: TrainingConfig) -> None:
    """Writes the configuration, or refuses a folder that has another one."""
    make_folder(run_dir / "checkpoints")
    path = run_dir / "config.json"
    if path.exists():
        try:
            stored = json.loads(path.read_text())["config"]
        except (ValueError, KeyError, TypeError):
            raise KsegError(f"{path}: is damaged; remove {run_dir} to train anew") from None
        if difference := config.difference(stored):
            raise KsegError(
                f"{run_dir}: holds a run of another configuration ({difference}); "
                "repeat its options or choose another --run-dir"
            )
        return
    versions = {}
    for package in _VERSIONED:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    record = {
        "config": dataclasses.asdict(config),
        "versions": versions,
        "backend": keras.backend.backend(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "command": sys.argv,
    }
    with whole(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")


def _compile(
    model: SegmentationModel, config: TrainingConfig, data: DataSet | Records, steps: int
) -> None:
    weights = None
    if config.class_weights is not None:
        weights = class_weights(data.class_pixels(), config.class_weights)
    optimizer = keras.optimizers.AdamW(
        keras.optimizers.schedules.PolynomialDecay(
            config.learning_rate, steps, end_learning_rate=0.0, power=0.9
        ),
        weight_decay=config.weight_decay,
        use_ema=config.ema is not None,
        ema_momentum=config.ema or 0.0,
        ema_overwrite_frequency=None,
    )
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias", "alpha"])
    model.compile(optimizer, CrossEntropy(weights), metrics=[MeanIoU(data.classes.num_classes)])
    optimizer.build(model.trainable_variables)


def _fit(
    model: SegmentationModel,
    config: TrainingConfig,
    data: DataSet | Records,
    val_data: DataSet | None,
    run_dir: Path,
    checkpoint: Checkpoint,
    step: int,
    steps: int,
    epoch_steps: int,
) -> None:
    # `--steps` may end within an epoch; the last one is then short.
    epochs, rest = divmod(steps, epoch_steps)
    final = max(-(-steps // epoch_steps) - config.final_epochs, 0)
    final_crop = config.final_crop or config.crop
    phases = (
        (0, min(final, epochs), epoch_steps, config.crop),
        (final, epochs, epoch_steps, final_crop),
        (epochs, epochs + 1, rest, final_crop),
    )
    val_batches = whole_images(val_data, 1) if val_data else None
    first_epoch = step // epoch_steps
    history = History(run_dir / "history.csv", first_epoch)
    checkpoint.best = history.best("val_mean_iou")
    callbacks = [
        ScoreAverage(),
        Progress(steps=steps, epoch_steps=epoch_steps, batch_size=config.batch_size, step=step),
        history,
        keras.callbacks.TensorBoard(
            run_dir / "tensorboard", write_graph=False, update_freq="epoch"
        ),
        checkpoint,
    ]
    try:
        for begin, last, length, crop in phases:
            first = max(begin, first_epoch)
            if first >= last or not length:
                continue
            batches = augmented(
                data,
                crop=crop,
                batch_size=config.batch_size,
                scale=config.scale,
                flip=config.flip,
                jitter=config.jitter,
                pad_value=model.card.normalization.rgb_mean,
                seed=config.seed,
                start_step=first * epoch_steps,
            )
            model.fit(
                batches,
                validation_data=val_batches,
                validation_freq=config.validate_every,
                initial_epoch=first,
                epochs=last,
                steps_per_epoch=length,
                callbacks=callbacks,
                shuffle=False,  # the stream is in its order already
                verbose=0,
            )
    except tf.errors.OpError as error:
        # The reader's own line stands somewhere in TensorFlow's.
        if found := re.search(r"KsegError: (.+)", str(error)):
            raise KsegError(found[1]) from error
        raise
