"""One training run: a folder that can be left at any moment and resumed."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias, overload

import keras
import numpy as np
import tensorflow as tf

from kseg.data import DataSet, LabelCounts
from kseg.errors import KsegError, KsegWarning
from kseg.evaluation.scores import warn_of_seen
from kseg.files import atomic_write, locked, make_folder, remove_left
from kseg.loading import load
from kseg.model import SegmentationModel
from kseg.training.augment import Augmentation
from kseg.training.boundary_aware import open_boundary_aware
from kseg.training.callbacks import (
    Checkpoint,
    EarlyStop,
    Faults,
    History,
    OneScore,
    Pictures,
    Progress,
    ScoreAverage,
    UserCallbacks,
    averaged,
)
from kseg.training.config import TrainingConfig
from kseg.training.determinism import deterministic
from kseg.training.distillation import Teacher, open_teacher
from kseg.training.distribution import Distribution, open_distribution
from kseg.training.encoder import encoder_layers
from kseg.training.fused_batch_norm import fuse_batch_norm
from kseg.training.initial import initial_model
from kseg.training.inputs import INITIAL, Data, Given, from_configuration, from_model
from kseg.training.labels import check_two_classes
from kseg.training.losses import BoundaryLoss, SegmentationLoss, class_weights
from kseg.training.metrics import MeanIoU
from kseg.training.optimizers import make_optimizer
from kseg.training.pipeline import (
    Samplers,
    augmented,
    names_at,
    open_samplers,
    readable,
    reader_errors,
    steps_per_epoch,
    whole_images,
)
from kseg.training.run_folder import (
    check_folder,
    check_run_dir,
    claim_folder,
    is_claimed,
    warn_of_labels,
)
from kseg.training.schedule import Stretch, stretches
from kseg.training.statistics import shorten_momentum
from kseg.zoo import build, check_size, find_variant

Batches: TypeAlias = tf.data.Dataset | tf.distribute.DistributedDataset


@overload
def train(
    config: TrainingConfig,
    data: str | Path | None,
    run_dir: str | Path,
    *,
    distribution: str = "auto",
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> SegmentationModel: ...


@overload
def train(
    config: SegmentationModel,
    data: Data | tuple[Data, DataSet],
    run_dir: str | Path,
    *,
    distribution: str = "auto",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    **settings: Any,
) -> SegmentationModel: ...


def train(
    config: TrainingConfig | SegmentationModel,
    data: Given,
    run_dir: str | Path,
    *,
    distribution: str = "auto",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    **settings: Any,
) -> SegmentationModel:
    """Trains, or resumes the run in ``run_dir`` where it was left.

    Writes ``config.json``, ``history.csv``, ``tensorboard/``, ``checkpoints/`` (the last
    state, and ``best.keras`` by the score on the validation data) and, at the end,
    ``model.keras``, the inference model. Of several workers the first one writes these,
    the others their states alone, in ``rank-N/``.

    At SIGTERM and SIGINT the state is saved after the step, and SystemExit raised.

    Python's and NumPy's random generators, and whether TensorFlow's operators are
    deterministic, are afterwards as they were; TensorFlow and Keras get a new seed.

    Args:
        config: what to train: a configuration; or a model of the zoo, which stays as it is
            and whose weights the run begins with. It is kept as ``initial.keras``: a call
            that resumes the run takes that one's weights, whatever its own model has.
        data: for a configuration the root of its data set, not looked at where the
            configuration has records and no ``val_split`` but to compare the records with it
            where it is given. For a model a ``DataSet``, or
            records, to train on; or a pair of that and a ``DataSet`` to score on.
        run_dir: made if absent; one with another run is refused.
        distribution: as for ``open_distribution``.
        callbacks: of Keras, W&B or MLflow, say. They see one training, whose logs have
            ``val_loss`` and ``val_mean_iou`` too; one that resumes sees the epochs that are
            left, none twice. Every worker calls its own. They are no part of the
            configuration, and the model is theirs to look at: what they change is not in the
            states.
        **settings: with a model, fields of TrainingConfig such as ``epochs``, ``crop`` and
            ``loss``; all but those that model and data sets decide.

    Returns:
        The model of ``model.keras``.

    Raises:
        KsegError: bad values, data or files, another run's folder, or a loss that is no
            number.
    """
    if isinstance(config, SegmentationModel):
        model = config
        config, train_data, val_data = from_model(model, data, settings)
    else:
        model = None
        config, train_data, val_data = from_configuration(config, data, settings)
    devices = open_distribution(distribution)
    devices.check(config.batch_size)
    run = Run(config, train_data, val_data, Path(run_dir), devices, callbacks)
    with deterministic(config.seed, operators=not config.xla):
        return run.train(model)


class Run:
    """A run of ``train``: what it trains, on what, for how long, and where it is kept.

    Attributes:
        config: with the crop filled in.
        data, val_data: to train on, and to score on or None.
        folder: the run's.
        own_folder: of this worker's states; of the first worker the run's.
        devices: that compute.
        epoch_steps, steps: batches of an epoch and of the run.
        epochs: of the run, the last one perhaps cut short.
        user_callbacks: those that ``train`` was given.
        frozen_steps: batches of the run in which the encoder stays as it is.
        model, metric: as ``fit`` takes them; the metric counts the logits.
        loss: of the logits.
        losses: of each output by name; empty where the logits are all there is.
        encoder: the layers with a rate or a beginning of their own.
        frozen: whether the model is compiled for the frozen steps.
        checkpoint: the states.
        pending: the state at hand ends an epoch whose score and row are missing.
        momenta: of BatchNorm, as published and in a run of this length, where they differ.
        skipped: images that could not be read, with the reason.
        counts: ``label_counts`` of the data, where a setting needed them.
        samplers: of examples that show a class on purpose.
    """

    def __init__(
        self,
        config: TrainingConfig,
        data: Data,
        val_data: DataSet | None,
        folder: Path,
        devices: Distribution,
        user_callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> None:
        self.config, self.data, self.val_data = config, data, val_data
        self.folder, self.devices = folder, devices
        self.own_folder = folder / f"rank-{devices.rank}" if devices.rank else folder
        self.epoch_steps = steps_per_epoch(data, config.batch_size)
        self.steps = config.steps or config.epochs * self.epoch_steps
        if self.steps < config.accumulate:
            raise KsegError(
                f"accumulate is {config.accumulate}; a run of {self.steps} batches would make "
                "no update"
            )
        if devices.replicas > 1 and devices.strategy is not None:
            here = f"and here are {devices.replicas} replicas"
            if config.xla:
                raise KsegError(
                    f"xla compiles for one device, {here}; leave it out, or take distribution 'one'"
                )
            if config.accumulate > 1:
                # Keras 3.15 decides within a replica whether all update, which TensorFlow refuses.
                raise KsegError(
                    f"accumulate is {config.accumulate}, {here}, whose batches Keras cannot "
                    "accumulate; take a larger batch_size, or distribution 'one'"
                )
        for callback in user_callbacks:
            if not isinstance(callback, keras.callbacks.Callback):
                raise KsegError(f"callbacks has {callback!r}; each must be a Callback of Keras 3")
        self.epochs = -(-self.steps // self.epoch_steps)
        self.user_callbacks = UserCallbacks(
            user_callbacks, epochs=self.epochs, steps=self.epoch_steps
        )
        self.frozen_steps = min(config.freeze_encoder_epochs * self.epoch_steps, self.steps)
        self.skipped: dict[str, str] = {}
        self.counts: LabelCounts | None = None
        self.samplers = Samplers()

    def train(self, source: SegmentationModel | None) -> SegmentationModel:
        """The trained model.

        Args:
            source: whose weights the run begins with; None for what the configuration says.
        """
        check_run_dir(self.folder, self.config, self.data, self.val_data)
        if (finished := self._finished()) is not None:
            return finished
        folder = self.own_folder
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            with locked(make_folder(folder)):
                # Another process may have worked on it until now.
                if (finished := self._finished()) is not None:
                    return finished
                remove_left(folder, folder / "checkpoints", of_all_hosts=True)
                return self._train(source)
        finally:
            # Of a run that is refused nothing is left; a folder with files stays.
            with contextlib.suppress(OSError):
                for path in made:
                    path.rmdir()

    def _finished(self) -> SegmentationModel | None:
        """The model of a run that is complete; None of one that is not.

        Raises:
            KsegError: as of ``check_folder``.
        """
        if self._is_first_worker:
            check_folder(self.folder, self.config, self.data, self.val_data)
        if not (path := self.folder / "model.keras").exists():
            return None
        print(f"{self.folder}: this run is complete; remove the folder to train anew")
        return load(path)

    def _train(self, source: SegmentationModel | None) -> SegmentationModel:
        """``train`` in a folder that no other process works on."""
        if source is not None:
            source = self._kept_or(source)
        check_two_classes(self.data.classes.num_classes, self.data.name)
        if self.config.bad_images == "skip" and self.val_data is not None:
            self.val_data = readable(self.val_data, self.skipped)
        with self.devices.scope():
            model = initial_model(self.config, self.data, source)
            teacher = self._teacher()
            trained = model.card.trained_splits
            if teacher is not None:
                # Its answers carry what it has seen.
                trained = tuple(dict.fromkeys(trained + teacher.model.card.trained_splits))
                model.card = model.card.replace(trained_splits=trained)
            if (scored := self.val_data) is not None:
                warn_of_seen(model.card.name, trained, scored.name, scored.split)
            self.model = self.devices.prepared(
                model, teacher, boundary_aware=self.config.boundary_aware > 0
            )
            self.momenta = shorten_momentum(self.model, self.steps)
            fuse_batch_norm(self.model)
            self.metric = MeanIoU(self.data.classes.num_classes)
        self._count()
        self.loss = self._loss(self.config.loss)
        self._check_heads()
        self.losses = self._losses()
        if boundary_aware := open_boundary_aware(self.config, self.loss):
            self.model.boundary_aware = boundary_aware
        self.encoder: list[keras.Layer] = []
        if self.config.encoder_rate != 1 or self.frozen_steps:
            # BatchNorm may be frozen for the whole run.
            self.encoder = [layer for layer in encoder_layers(self.model) if layer.trainable]
        for crop in filter(None, (self.config.crop, self.config.final_crop)):
            self._augmentation(crop)
            check_size(self.model.card, *crop)
        # Only after validation: config.json claims the folder.
        self._claim(source)
        self._resume()
        if self.pending or self.checkpoint.steps.done < self.steps:
            self._warn()
            self._fit()
        with averaged(self.model):
            result = build(self.model.card.for_inference(), weights_of=self.model)
        if self._is_first_worker:
            with atomic_write(self.folder / "model.keras") as path:
                result.save(path)
        return result

    @property
    def _is_first_worker(self) -> bool:
        return self.devices.rank == 0

    def _kept_or(self, source: SegmentationModel) -> SegmentationModel:
        """The model that the run began with, where it was left; else ``source``."""
        path = self.own_folder / INITIAL
        if not path.exists() or (self._is_first_worker and not is_claimed(self.folder)):
            return source
        kept = load(path)
        # Loading drew random numbers, and the dropout of the run's model draws its seed next.
        keras.utils.set_random_seed(self.config.seed)
        if _digest(kept) != _digest(source):
            print(
                f"kseg: {self.folder}: resumes the run that began with {path}; the given model "
                "has other weights, which are not used",
                file=sys.stderr,
            )
        return kept

    def _teacher(self) -> Teacher | None:
        """The one that the configuration names, the same on every worker."""
        teacher = open_teacher(self.config, self.data)
        if teacher is not None:
            self.devices.check_same(
                _digest(teacher.model),
                f"the teacher {self.config.teacher} has other weights on another worker",
            )
        return teacher

    def _loss(self, kind: str) -> SegmentationLoss:
        """A loss of an output, with the weights of the data's classes."""
        config = self.config
        weights = None
        if config.class_weights is not None and self.counts is not None:
            pixels = self.counts.pixels[: self.data.classes.num_classes]
            weights = class_weights(pixels, config.class_weights)
        return SegmentationLoss(
            kind,
            weights,
            ohem_threshold=config.ohem_threshold,
            ohem_fraction=config.ohem_fraction,
        )

    def _losses(self) -> dict[str, keras.losses.Loss]:
        """What ``losses`` says."""
        if not self._heads:
            return {}
        logits, *others = self._heads
        boundary = find_variant(self.config.model).boundary
        auxiliary = self._loss(self.config.auxiliary_loss or self.config.loss)
        of_heads = {head: BoundaryLoss() if head == boundary else auxiliary for head in others}
        return {logits: self.loss, **of_heads}

    def _check_heads(self) -> None:
        heads, weights = self._heads, self.config.auxiliary
        if heads and len(weights) != len(heads) - 1:
            raise KsegError(
                f"auxiliary is {weights}; {self.config.model} has the training heads "
                f"{', '.join(heads[1:])}, and each needs a weight"
            )

    def _compile(self, *, frozen: bool) -> None:
        """Compiles the model with a new optimizer.

        Args:
            frozen: for the first steps, in which the encoder stays as it is.
        """
        config, model = self.config, self.model
        self.frozen = frozen
        for layer in self.encoder:
            layer.trainable = not frozen
        # JAX compiles everything by XLA.
        on_jax = keras.backend.backend() == "jax"
        options: dict[str, Any] = {"jit_compile": config.xla or on_jax}
        if heads := self._heads:
            options["loss"] = self.losses
            options["loss_weights"] = dict(zip(heads, (1.0, *config.auxiliary), strict=True))
            options["metrics"] = {"logits": [self.metric]}
        else:
            options.update(loss=self.loss, metrics=[self.metric])
        with self.devices.scope():
            optimizer = make_optimizer(
                config,
                model,
                self.steps,
                self.epoch_steps,
                encoder=self.encoder,
                first_step=0 if frozen else self.frozen_steps,
            )
            model.compile(optimizer, **options)
        # Keras does not reset a metric that it has not built yet, and this one may have counts.
        self.metric.reset_state()
        if config.xla and not on_jax:
            # The score's images may have a size each, which XLA would compile anew.
            model.make_train_function()
            model.jit_compile = False

    def _count(self) -> None:
        """Reads the labels once, for the settings that need their classes."""
        config, skip_bad = self.config, self.config.bad_images == "skip"
        if config.class_uniform or config.class_mix:
            by_sample = self.data.sample_pixels(skip_bad=skip_bad)
            self.counts = sum(map(LabelCounts.of, by_sample), LabelCounts())
            self.samplers = open_samplers(
                by_sample,
                self.data.classes.num_classes,
                config.class_uniform,
                config.class_mix,
            )
        elif config.class_weights is not None:
            self.counts = self.data.label_counts(skip_bad=skip_bad)

    @property
    def _heads(self) -> list[str]:
        """Names of the outputs, the logits first; empty where they are all there is."""
        return list(self.model.output) if self.config.auxiliary else []

    def _augmentation(self, crop: tuple[int, int]) -> Augmentation:
        return Augmentation(
            crop=crop,
            scale=self.config.scale,
            flip=self.config.flip,
            jitter=self.config.jitter,
            pad_value=self.model.card.normalization.rgb_mean,
            rotate=self.config.rotate,
            randaugment=self.config.randaugment,
            blur=self.config.blur,
            noise=self.config.noise,
            jpeg=self.config.jpeg,
        )

    def _claim(self, source: SegmentationModel | None) -> None:
        """Keeps the weights that the run begins with, and makes the folder this run's."""
        is_new = self._is_first_worker and not is_claimed(self.folder)
        if source is not None:
            self.devices.check_same(
                _digest(source),
                "the model has other weights on another worker; call keras.utils.set_random_seed "
                "before it is made",
            )
            path = make_folder(self.own_folder) / INITIAL
            if is_new or not path.exists():
                with atomic_write(path) as temporary:
                    # A model that is not compiled: Keras cannot save every loss.
                    build(source.card, weights_of=source).save(temporary)
        if is_new:
            warn_of_labels(self.data, self.val_data, self.counts)
            claim_folder(self.folder, self.config, self.data, self.val_data)

    def _resume(self) -> None:
        """Compiles the model and loads the last state, if there is one."""
        # Workers that were killed may be one state apart; both have the one before.
        keep = 1 if self.devices.workers == 1 else 2
        self.checkpoint = Checkpoint(self.own_folder / "checkpoints", keep=keep)
        step = self.devices.last_common(self.checkpoint.steps_saved())
        # The last state of the frozen steps has their optimizer.
        self._compile(frozen=self.frozen_steps > 0 and step <= self.frozen_steps)
        if step:
            with self.devices.scope():
                self.checkpoint.restore(self.model, step)
        ends_epoch = step > 0 and (step % self.epoch_steps == 0 or step == self.steps)
        # Skip scoring if every worker finished the epoch.
        finished = self.devices.last_common([] if self.checkpoint.open else [1])
        self.pending = ends_epoch and not finished

    def _warn(self) -> None:
        config = self.config
        for line in config.without_effect(self.epochs):
            warnings.warn(line, KsegWarning, stacklevel=2)
        replicas = self.devices.replicas if config.batch_norm == "train" else 1
        images = config.batch_size // replicas
        if config.batch_norm != "frozen" and images < 4:
            print(
                f"kseg: BatchNorm sees {images} images at a time, too few for its statistics; "
                "take a larger batch, batch norm 'sync' on several devices, or 'frozen' with "
                "pretrained weights",
                file=sys.stderr,
            )

        for published, momentum in self.momenta.items():
            print(
                f"kseg: {self.steps} steps are too few for BatchNorm's momentum {published:g}; "
                f"it is {momentum:.4g} in this run",
                file=sys.stderr,
            )

    def _fit(self) -> None:
        """The epochs that are left, and the score of the last one where it is missing."""
        config, checkpoint = self.config, self.checkpoint
        scored = self._scored_batches()
        faults = Faults(
            checkpoint.steps,
            checkpoint,
            lambda step: names_at(
                self.data,
                step,
                batch_size=config.batch_size,
                seed=config.seed,
                samplers=self.samplers,
            ),
        )
        history = History(self.folder / "history.csv", checkpoint.steps, pending=self.pending)
        early = self._early_stop(history)
        callbacks = self._callbacks(faults, history, early)
        left = stretches(
            config, step=checkpoint.steps.done, steps=self.steps, epoch_steps=self.epoch_steps
        )
        self.model.stop_training = early is not None and early.is_over
        with faults, reader_errors(self.data):
            if self.pending:
                self._close_epoch(scored, callbacks)
            for stretch in left:
                if self.model.stop_training:
                    break
                if self.frozen and stretch.step >= self.frozen_steps:
                    self._compile(frozen=False)
                self.model.fit(
                    self._training_batches(stretch),
                    validation_data=scored,
                    validation_freq=config.validate_every,
                    initial_epoch=stretch.first_epoch,
                    epochs=stretch.end_epoch,
                    steps_per_epoch=stretch.length,
                    callbacks=callbacks,
                    shuffle=False,  # the stream is in its order already
                    verbose=0,
                )
        self.user_callbacks.finish()
        if early is not None and early.is_over:
            print(
                f"kseg: {early.waited} scores no better than {early.best:.4f} end the run at "
                f"step {checkpoint.steps.done}; checkpoints/best.keras is the best model",
                file=sys.stderr,
            )
        if self.skipped:
            print(
                f"kseg: {len(self.skipped)} images could not be read and were left out",
                file=sys.stderr,
            )

    def _training_batches(self, stretch: Stretch) -> Batches:
        examples = augmented(
            self.data,
            self._augmentation(stretch.crop),
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            start_step=stretch.step,
            part=(self.devices.rank, self.devices.workers),
            skipped=self.skipped if self.config.bad_images == "skip" else None,
            samplers=self.samplers,
        )
        return self.devices.batches(_for_heads(examples, self._heads), self.config.batch_size)

    def _scored_batches(self) -> Batches | None:
        if self.val_data is None:
            return None
        examples = whole_images(self.val_data, (self.devices.rank, self.devices.workers))
        # One image a replica, since their sizes may differ.
        return self.devices.batches(_for_heads(examples, self._heads), 1, len(self.val_data))

    def _early_stop(self, history: History) -> EarlyStop | None:
        """The same on every worker, though the first one alone has a history."""
        if self.config.patience is None:
            return None
        best, waited = history.best("val_mean_iou"), history.waited("val_mean_iou")
        bits, waited = self.devices.of_first([int(np.float64(best).view(np.int64)), waited])
        return EarlyStop(self.config.patience, float(np.int64(bits).view(np.float64)), waited)

    def _callbacks(
        self, faults: Faults, history: History, early: EarlyStop | None
    ) -> list[keras.callbacks.Callback]:
        """In the order in which they depend on each other."""
        steps = self.checkpoint.steps
        callbacks = [steps, faults, OneScore()]
        tensorboard = self.folder / "tensorboard"
        if self._is_first_worker:
            self.checkpoint.best = history.best("val_mean_iou")
            callbacks += [
                Progress(
                    steps,
                    last=self.steps,
                    epoch_steps=self.epoch_steps,
                    batch_size=self.config.batch_size,
                ),
                history,
                keras.callbacks.TensorBoard(tensorboard, write_graph=False, update_freq="epoch"),
            ]
        if self.val_data is not None:
            pictures = tensorboard / "pictures" if self._is_first_worker else None
            callbacks.append(Pictures(pictures, self.val_data, self.metric))
        if early is not None:
            callbacks.append(early)
        # The state before the average: it is saved with the weights themselves. The user's after
        # both: an epoch that they have seen is over.
        return [*callbacks, self.checkpoint, ScoreAverage(), self.user_callbacks]

    def _close_epoch(
        self, scored: Batches | None, callbacks: list[keras.callbacks.Callback]
    ) -> None:
        """The end of an epoch that was left after its last step, as ``fit`` would do it."""
        epoch = (self.checkpoint.steps.done - 1) // self.epoch_steps
        everyone = keras.callbacks.CallbackList(callbacks, model=self.model)
        everyone.on_train_begin()
        everyone.on_epoch_begin(epoch)
        logs = dict(self.checkpoint.steps.logs)
        if scored is not None and (epoch + 1) % self.config.validate_every == 0:
            scores = self.model.evaluate(scored, callbacks=everyone, return_dict=True, verbose=0)
            logs |= {f"val_{name}": value for name, value in scores.items()}
        everyone.on_epoch_end(epoch, logs)
        everyone.on_train_end()


def _for_heads(examples: tf.data.Dataset, heads: list[str]) -> tf.data.Dataset:
    """The same labels for every head of a model that has several."""
    if not heads:
        return examples
    return examples.map(lambda image, label: (image, {head: label for head in heads}))


def _digest(model: SegmentationModel) -> bytes:
    """SHA-256 of the weights."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(weight.tobytes())
    return digest.digest()
