"""Training on several devices or machines.

TensorFlow has ``tf.distribute``: mirrored over the devices of a machine, or over the machines
of TF_CONFIG. JAX has ``keras.distribution.DataParallel``. A replica is one copy of the model;
the batch size is of all replicas together.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from kseg.errors import KsegError
from kseg.model import SegmentationModel
from kseg.training.distillation import Student, Teacher

KINDS = ("auto", "one", "mirrored", "multiworker")


class Distribution:
    """The devices of a run.

    Attributes:
        strategy: of TensorFlow, None on other backends.
        replicas: copies of the model.
        rank, workers: this process, and how many there are.
    """

    def __init__(
        self, strategy: tf.distribute.Strategy | None, replicas: int, rank: int, workers: int
    ) -> None:
        self.strategy = strategy
        self.replicas, self.rank, self.workers = replicas, rank, workers

    def scope(self) -> contextlib.AbstractContextManager:
        """Models, optimizers and metrics must be made within it."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def prepared(
        self,
        model: SegmentationModel,
        teacher: Teacher | None = None,
        *,
        boundary_aware: bool = False,
    ) -> SegmentationModel:
        """The model as ``fit`` can take it here, sharing its weights.

        Args:
            teacher: what it learns from beside the labels.
            boundary_aware: whether it will get the attribute of this name.
        """
        kind = Student if self.strategy is None or self.replicas == 1 else ReplicatedModel
        if kind is Student and teacher is None and not boundary_aware:
            return model
        prepared = kind(model.input, model.output, name=model.name, card=model.card)
        prepared.teacher = teacher
        return prepared

    def check(self, batch_size: int) -> None:
        """Raises KsegError for a batch that the replicas cannot share evenly."""
        if batch_size % self.replicas:
            raise KsegError(
                f"batch size is {batch_size}; {self.replicas} replicas need a multiple of it"
            )

    def batches(
        self, examples: tf.data.Dataset, batch_size: int, total: int | None = None
    ) -> tf.data.Dataset | tf.distribute.DistributedDataset:
        """Batches for ``fit``.

        Args:
            examples: of this worker alone.
            batch_size: of all replicas together; fewer than these gives each of them one.
            total: examples of all workers, None for endless ones.
        """
        if self.strategy is None or self.workers == 1:
            return examples.batch(batch_size).prefetch(2)
        each = max(batch_size // self.replicas, 1)
        batches = examples.batch(each)
        if total is not None:
            # The workers wait for each other at every batch: one that has fewer examples
            # goes on with empty batches.
            rounds = -(-total // (each * self.replicas))
            missing = rounds * self.replicas // self.workers - int(batches.cardinality())
            empty = examples.take(1).batch(1).map(_without_examples)
            batches = batches.concatenate(empty.repeat(missing))
        batches = batches.prefetch(2)
        return self.strategy.distribute_datasets_from_function(lambda _context: batches)

    def last_common(self, steps: Sequence[int]) -> int:
        """The last of the steps that every worker has; 0 where there is none.

        Args:
            steps: of this worker; its last two count.
        """
        if self.workers == 1:
            return max(steps, default=0)
        recent = sorted([0, 0, *steps])[-2:]
        return max(set.intersection(*map(set, self._gathered(recent))), default=0)

    def of_first(self, numbers: Sequence[int]) -> list[int]:
        """The numbers, int64, of the first worker; the others' own do not count."""
        return list(numbers) if self.workers == 1 else self._gathered(numbers)[0]

    def check_same(self, digest: bytes, message: str) -> None:
        """Raises KsegError where the workers have other digests of something.

        Args:
            digest: its first seven bytes are compared, which fit into an int64.
            message: of the error.
        """
        if self.workers == 1:
            return
        numbers = self._gathered([int.from_bytes(digest[:7], "big")])
        if any(row != numbers[0] for row in numbers):
            raise KsegError(message)

    def _gathered(self, numbers: Sequence[int]) -> list[list[int]]:
        """The numbers of every worker, a row each."""
        if self.strategy is None:
            return [list(numbers)]
        rows = self.strategy.run(lambda: tf.constant([numbers], tf.int64))
        return self.strategy.gather(rows, axis=0).numpy().tolist()


def _without_examples(*batch: Any) -> Any:
    return tf.nest.map_structure(lambda x: x[:0], batch)


class ReplicatedModel(Student):
    """A model that Keras 3.15 can train on several replicas; it works around three faults.

    - Keras builds a model from the mean of all replicas' batches, which fails where the last
      batch is uneven, and always with several workers: this builds from one replica's batch.
    - With several workers Keras reduces the logs over axis 0: here they have that axis.
    - A convolution of TensorFlow 2.21 with oneDNN gives an empty batch its input's shape: in
      scoring no empty batch reaches one.
    """

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        if training:
            return super().call(inputs, training=training, mask=mask)
        count = tf.shape(inputs)[0]
        # A black image takes the place of an empty batch; its result is cut off again.
        instead = tf.zeros(
            [tf.cast(count == 0, tf.int32), *tf.unstack(tf.shape(inputs))[1:]], inputs.dtype
        )
        results = super().call(tf.concat([inputs, instead], 0), training=training, mask=mask)
        return tf.nest.map_structure(lambda result: result[:count], results)

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        if iterator is not None:
            for _, _, batches in iterator:
                data_batch = tf.nest.map_structure(
                    lambda x: self.distribute_strategy.experimental_local_results(x)[0],
                    next(batches),
                )
                break
        with self.distribute_strategy.scope():
            self._symbolic_build(data_batch=data_batch)

    def train_step(self, data: Any) -> dict[str, Any]:
        return self._reducible(super().train_step(data))

    def test_step(self, data: Any) -> dict[str, Any]:
        return self._reducible(super().test_step(data))

    def _reducible(self, logs: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
            return logs
        return {name: tf.reshape(value, (1,)) for name, value in logs.items()}


def share_gpus() -> None:
    """Lets TensorFlow take GPU memory as it needs it, where the user has not decided otherwise.

    Its default takes nearly all memory of every GPU, so that a second process finds none. Without
    an effect once TensorFlow has used a GPU.
    """
    with contextlib.suppress(RuntimeError):
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)


def open_distribution(kind: str = "auto") -> Distribution:
    """The devices of a run; call it before anything is computed.

    Args:
        kind: "one" device; "mirrored" over the devices of this machine (GPUs, or the
            logical CPUs where there is none); "multiworker" over the machines that the
            variable TF_CONFIG names; "auto" is multiworker with TF_CONFIG, mirrored with
            several devices, else one.

    Raises:
        KsegError: an unknown kind, or TF_CONFIG is missing or damaged.
    """
    if kind not in KINDS:
        raise KsegError(f"distribution is {kind!r}; it must be one of {', '.join(KINDS)}")
    if keras.backend.backend() != "tensorflow":
        return _data_parallel(kind)
    share_gpus()
    workers, rank = _workers()
    if kind == "multiworker" or (kind == "auto" and workers > 1):
        if workers < 2:
            raise KsegError(
                "multiworker needs the variable TF_CONFIG with two workers or more, such as "
                '{"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", '
                '"index": 0}}'
            )
        strategy = _multiworker(os.environ["TF_CONFIG"])
        return Distribution(strategy, strategy.num_replicas_in_sync, rank, workers)
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if kind == "mirrored" or (kind == "auto" and len(devices) > 1):
        strategy = _mirrored(tuple(device.name for device in devices))
        return Distribution(strategy, strategy.num_replicas_in_sync, 0, 1)
    return Distribution(tf.distribute.get_strategy(), 1, 0, 1)


# One of a kind in a process: another one would number its collective operations from the
# beginning again, and TensorFlow remembers of each number the shape that it had.
@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy(devices)


@functools.cache
def _multiworker(config: str) -> tf.distribute.Strategy:
    """Of the variable TF_CONFIG."""
    return tf.distribute.MultiWorkerMirroredStrategy()


def _workers() -> tuple[int, int]:
    """How many workers TF_CONFIG names, and which this is."""
    text = os.environ.get("TF_CONFIG")
    if not text:
        return 1, 0
    try:
        config = json.loads(text)
        workers, rank = len(config["cluster"]["worker"]), int(config["task"]["index"])
    except (ValueError, KeyError, TypeError):
        raise KsegError(f"TF_CONFIG is {text!r}; it must name cluster.worker and task") from None
    if not 0 <= rank < workers:
        raise KsegError(f"TF_CONFIG has task.index {rank}; the {workers} workers count from 0")
    return workers, rank


def _data_parallel(kind: str) -> Distribution:
    """``keras.distribution`` over all devices."""
    if kind == "multiworker":
        raise KsegError("multiworker needs KERAS_BACKEND=tensorflow")
    devices = keras.distribution.list_devices()
    if kind == "one" or len(devices) == 1:
        return Distribution(None, 1, 0, 1)
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    return Distribution(None, len(devices), 0, 1)
