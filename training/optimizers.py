"""Optimizer, learning rate and weight decay of a run."""

from __future__ import annotations

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
    config: TrainingConfig, steps: int, epoch_steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """The rate by batch.

    Args:
        steps, epoch_steps: batches of the run and of an epoch.
    """
    # Keras counts batches here, accumulated ones too.
    if config.schedule == "poly":
        schedule = keras.optimizers.schedules.PolynomialDecay(
            config.learning_rate, steps, end_learning_rate=0.0, power=0.9
        )
    else:
        schedule = keras.optimizers.schedules.ExponentialDecay(
            config.learning_rate,
            config.decay_epochs * epoch_steps,
            config.decay_factor,
            staircase=True,
        )
    return WarmUp(schedule, config.warmup_steps) if config.warmup_steps else schedule


def make_optimizer(
    config: TrainingConfig, model: keras.Model, steps: int, epoch_steps: int
) -> keras.optimizers.Optimizer:
    """The optimizer, built for the model; weight decay is put on the model's variables.

    AdamW decays apart from the gradient. With "adam" and "sgd" the decay is part of the
    gradient, as in PyTorch and Caffe, and so of the loss that is shown: half of
    ``weight_decay`` times the sum of squares.
    """
    options = dict(
        learning_rate=learning_rate(config, steps, epoch_steps),
        global_clipnorm=config.clip_norm,
        use_ema=config.ema is not None,
        # Keras averages after every batch, accumulated or not.
        ema_momentum=(config.ema or 0.0) ** (1 / config.accumulate),
        ema_overwrite_frequency=None,
        gradient_accumulation_steps=config.accumulate if config.accumulate > 1 else None,
    )
    decayed = decayed_variables(model, config.decayed)
    if config.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(weight_decay=config.weight_decay, **options)
        kept = {id(variable) for variable in decayed}
        optimizer.exclude_from_weight_decay(
            var_list=[v for v in model.trainable_variables if id(v) not in kept]
        )
    else:
        if config.optimizer == "adam":
            optimizer = keras.optimizers.Adam(epsilon=1e-8, **options)
        else:
            optimizer = keras.optimizers.SGD(momentum=0.9, **options)
        if config.weight_decay:
            for variable in decayed:
                variable.regularizer = keras.regularizers.L2(config.weight_decay / 2)
    if config.precision == "mixed_float16":
        optimizer = LossScale(optimizer)
    optimizer.build(model.trainable_variables)
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
