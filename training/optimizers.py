"""Optimizer, learning rate and weight decay of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kseg.training.config import TrainingConfig

_NORMS_AND_BIASES = ("gamma", "beta", "bias", "alpha")


@keras.saving.register_keras_serializable("kseg")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly from nothing to the schedule's own rate within ``steps`` steps."""

    def __init__(
        self, schedule: keras.optimizers.schedules.LearningRateSchedule, steps: int
    ) -> None:
        super().__init__()
        self.schedule, self.steps = schedule, steps

    def __call__(self, step: Any) -> Any:
        share = ops.cast(step + 1, "float32") / self.steps
        return ops.minimum(share, 1.0) * self.schedule(step)

    def get_config(self) -> dict[str, Any]:
        return {"schedule": self.schedule, "steps": self.steps}


@keras.saving.register_keras_serializable("kseg")
class Later(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule of which ``first_step`` steps are over when the optimizer begins."""

    def __init__(
        self, schedule: keras.optimizers.schedules.LearningRateSchedule, first_step: int
    ) -> None:
        super().__init__()
        self.schedule, self.first_step = schedule, first_step

    def __call__(self, step: Any) -> Any:
        return self.schedule(step + self.first_step)

    def get_config(self) -> dict[str, Any]:
        return {"schedule": self.schedule, "first_step": self.first_step}


class _ByVariable(keras.optimizers.Optimizer):
    """A rate and a decay for each variable; comes before one of Keras' optimizers.

    The decay is decoupled from the gradient (arXiv:1711.05101, Algorithm 2), at the
    variable's own rate.

    Args:
        rates: by variable, in the order of ``build``, factors of the learning rate.
        decays: by variable, shares of it that a step at rate 1 takes away.
    """

    def __init__(self, *, rates: Sequence[float], decays: Sequence[float], **options: Any) -> None:
        super().__init__(**options)
        self.rates, self.decays = tuple(rates), tuple(decays)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        index = self._get_variable_index(variable)
        rate = ops.cast(learning_rate, variable.dtype) * self.rates[index]
        if decay := self.decays[index]:
            self.assign_sub(variable, variable * decay * rate)
        super().update_step(gradient, variable, rate)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rates": self.rates, "decays": self.decays}


@keras.saving.register_keras_serializable("kseg")
class Adam(_ByVariable, keras.optimizers.Adam):
    """Adam with a rate and a decay for each variable."""


@keras.saving.register_keras_serializable("kseg")
class SGD(_ByVariable, keras.optimizers.SGD):
    """SGD with a rate and a decay for each variable."""


@keras.saving.register_keras_serializable("kseg")
class LossScale(keras.optimizers.LossScaleOptimizer):
    """A step that overflows on any replica is left out on all.

    Keras 3.15 asks the first replica alone, before the gradients are added up; the weights
    are infinite after an overflow on another.
    """

    def check_finite(self, grads: list[Any]) -> Any:
        finite = super().check_finite(grads)
        if keras.backend.backend() != "tensorflow":
            return finite
        import tensorflow as tf  # which a machine with JAX alone has not

        context = tf.distribute.get_replica_context()
        overflown = tf.cast(tf.logical_not(finite), tf.int32)
        return context.all_reduce(tf.distribute.ReduceOp.SUM, overflown) == 0


def learning_rate(
    config: TrainingConfig, steps: int, epoch_steps: int, first_step: int = 0
) -> keras.optimizers.schedules.LearningRateSchedule:
    """The rate by batch.

    Args:
        steps, epoch_steps: batches of the run and of an epoch.
        first_step: batches of the run before the optimizer begins.
    """
    schedule: keras.optimizers.schedules.LearningRateSchedule
    # Keras counts batches here, accumulated ones too.
    if config.schedule == "poly":
        schedule = keras.optimizers.schedules.PolynomialDecay(
            config.learning_rate, steps, end_learning_rate=0.0, power=0.9
        )
    elif config.schedule == "cosine":
        schedule = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
    else:
        schedule = keras.optimizers.schedules.ExponentialDecay(
            config.learning_rate,
            config.decay_epochs * epoch_steps,
            config.decay_factor,
            staircase=True,
        )
    if config.warmup_steps:
        schedule = WarmUp(schedule, config.warmup_steps)
    return Later(schedule, first_step) if first_step else schedule


def make_optimizer(
    config: TrainingConfig,
    model: keras.Model,
    steps: int,
    epoch_steps: int,
    *,
    encoder: Sequence[keras.Layer] = (),
    first_step: int = 0,
) -> keras.optimizers.Optimizer:
    """The optimizer, built for the model's trainable variables.

    AdamW decays apart from the gradient. With "adam" and "sgd" the decay is put on the
    variables and is part of the gradient, as in PyTorch and Caffe, and so of the loss that is
    shown: half of ``weight_decay`` times the sum of squares.

    Args:
        steps, epoch_steps: batches of the run and of an epoch.
        encoder: layers that take ``config.encoder_rate`` times the rate.
        first_step: batches of the run before this optimizer begins.
    """
    variables = model.trainable_variables
    slow = {id(variable) for layer in encoder for variable in layer.trainable_variables}
    decayed = decayed_variables(model, config.decayed)
    decoupled = {id(v) for v in decayed} if config.optimizer == "adamw" else set()
    options: dict[str, Any] = dict(
        learning_rate=learning_rate(config, steps, epoch_steps, first_step),
        rates=[config.encoder_rate if id(v) in slow else 1.0 for v in variables],
        decays=[config.weight_decay if id(v) in decoupled else 0.0 for v in variables],
        global_clipnorm=config.clip_norm,
        use_ema=config.ema is not None,
        # Keras averages after every batch, accumulated or not.
        ema_momentum=(config.ema or 0.0) ** (1 / config.accumulate),
        ema_overwrite_frequency=None,
        gradient_accumulation_steps=config.accumulate if config.accumulate > 1 else None,
    )
    optimizer: keras.optimizers.Optimizer
    if config.optimizer == "sgd":
        optimizer = SGD(momentum=0.9, **options)
    else:
        optimizer = Adam(epsilon=1e-7 if config.optimizer == "adamw" else 1e-8, **options)
    if config.optimizer != "adamw" and config.weight_decay:
        for variable in decayed:
            variable.regularizer = keras.regularizers.L2(config.weight_decay / 2)
    if config.precision == "mixed_float16":
        optimizer = LossScale(optimizer)
    optimizer.build(variables)
    return optimizer


def decayed_variables(model: keras.Model, which: str) -> list[keras.Variable]:
    """The trainable variables that weight decay acts on.

    Args:
        which: "all"; "kernels", without BatchNorm, biases and slopes; "full-kernels",
            without the depthwise kernels as well, as DeepLab's code does.
    """
    decayed = []
    for layer in model.layers:
        for variable in layer.trainable_variables:
            depthwise = variable.name == "depthwise_kernel" or (
                isinstance(layer, keras.layers.DepthwiseConv2D) and variable.name == "kernel"
            )
            if which == "all" or (
                variable.name not in _NORMS_AND_BIASES
                and not (which == "full-kernels" and depthwise)
            ):
                decayed.append(variable)
    return decayed
