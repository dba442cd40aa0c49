"""What a training step costs: ``results/training_step.csv``, written model by model.

About half an hour on two cores, most of it JAX's.

``python benchmarks/training_step.py [--models M ...] [--runtimes R ...] [--size H W]
[--batch-size N] [--turns N]``, "torch" always among the runtimes. The same network, weights,
images, loss (cross-entropy with class weights) and AdamW on

    tensorflow_deterministic  as ``kseg train`` runs on a CPU, with its mean IoU
    tensorflow                without deterministic operators
    jax                       the same on Keras' JAX backend
    torch                     PyTorch's own modules (torch_twin.py) in channels-last memory

Each in a process of its own with two threads (JAX takes what there is); they step by turns,
so that a busy machine slows all alike. ``ratio`` is seconds by PyTorch's, median of the
turns'; ``loss`` is the first step's and shows that they compute the same.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import table
from table import RESULTS
from worker import Worker, serve

from kseg.environment import environment
from kseg.errors import KsegError

COLUMNS = (
    *("model", "runtime", "seconds", "spread", "ratio", "loss", "trainable"),
    *("batch_size", "size", "turns", "command"),
)
RUNTIMES = ("torch", "tensorflow", "tensorflow_deterministic", "jax")
MODELS = ("cgnet_m3n21", "liteseg_mobilenet_v2", "deeplab_v3_plus_mobilenet_v2")
CLASSES = 11
THREADS = 2
_LEARNING_RATE, _WEIGHT_DECAY = 1e-3, 1e-2
# Two units in the third digit: dropout draws other numbers in every runtime.
_SAME_LOSS = 2e-2


class Stepper(Worker):
    """A runtime that trains."""

    def __init__(self, runtime: str, model: str, batch_size: int, size: tuple[int, int]) -> None:
        backend = "jax" if runtime == "jax" else "tensorflow"
        arguments = [__file__, "--step", runtime, model, batch_size, *size]
        super().__init__(f"{model} on {runtime}", arguments, KERAS_BACKEND=backend)


def measure(
    model: str,
    *,
    batch_size: int = 8,
    size: tuple[int, int] = (360, 480),
    turns: int = 3,
    runtimes: Sequence[str] = RUNTIMES,
) -> list[dict[str, Any]]:
    """A model's rows of the table; ``turns`` steps are measured after two that are not.

    Raises:
        KsegError: a runtime fails, or the losses differ.
    """
    with contextlib.ExitStack() as stack:
        steppers = {}
        for runtime in runtimes:
            steppers[runtime] = Stepper(runtime, model, batch_size, size)
            stack.callback(steppers[runtime].close)
        facts = {runtime: stepper.step() for runtime, stepper in steppers.items()}
        results = [
            {runtime: stepper.step() for runtime, stepper in steppers.items()}
            for _ in range(2 + turns)
        ]
    losses = {runtime: result["loss"] for runtime, result in results[0].items()}
    if max(losses.values()) - min(losses.values()) > _SAME_LOSS * max(losses.values()):
        raise KsegError(f"{model}: the losses of the first step differ: {losses}")
    seconds = {
        runtime: np.array([result[runtime]["seconds"] for result in results[2:]])
        for runtime in runtimes
    }
    spreads = {runtime: np.percentile(seconds[runtime], [10, 90]) for runtime in runtimes}
    return [
        {
            "model": model,
            "runtime": runtime,
            "seconds": f"{np.median(seconds[runtime]):.3g}",
            "spread": "{:.3g} to {:.3g}".format(*spreads[runtime]),
            "ratio": f"{np.median(seconds[runtime] / seconds['torch']):.3g}",
            "loss": f"{losses[runtime]:.5f}",
            "trainable": facts[runtime]["trainable"],
            "batch_size": batch_size,
            "size": "{}x{}".format(*size),
            "turns": turns,
            "command": f"python benchmarks/training_step.py --models {model}",
        }
        for runtime in runtimes
    ]


def write(rows: list[dict[str, Any]], results: Path) -> None:
    """Puts a model's rows into the table, where others stay, and what they were measured with."""
    facts = {**environment("jax", "torch"), "threads": THREADS}
    path = results / "training_step.csv"
    runtimes = {row["runtime"] for row in rows}
    others = [
        row
        for row in table.read_current(path, facts)
        if row["model"] == rows[0]["model"] and row["runtime"] not in runtimes
    ]
    table.replace(path, COLUMNS, [*rows, *others], facts)


def network(name: str, **options: Any) -> Any:
    """The model with weights that do not depend on the backend's random numbers."""
    import kseg

    model = kseg.create_model(name, num_classes=CLASSES, **options)
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if len(variable.shape) == 4:
            # He's scale; a depthwise kernel (h, w, C, 1) has h w inputs.
            height, width, inputs, outputs = variable.shape
            scale = np.sqrt(2 / (height * width * (inputs if outputs > 1 else 1)))
            variable.assign(scale * rng.standard_normal(variable.shape))
    return model


def _batch(batch_size: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, H, W, 3) float32 and labels (N, H, W) uint8, a twentieth of them ignored."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, CLASSES, (batch_size, *size)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.05] = 255
    return rng.integers(0, 256, (batch_size, *size, 3)).astype(np.float32), labels


def _class_weights() -> list[float]:
    from kseg.training.losses import class_weights

    return class_weights(range(1, CLASSES + 1))


def keras_step(
    name: str,
    batch_size: int,
    size: tuple[int, int],
    *,
    precision: str = "float32",
    compiled: bool = False,
    dropout: bool = True,
    options: dict[str, Any] | None = None,
) -> tuple[Callable[[], float], int]:
    """A step as ``kseg train`` takes it, which gives its loss; the trainable weights' number.

    Args:
        precision: of Keras' policy.
        compiled: by XLA; JAX is in any case.
        dropout: False switches it off: it draws other numbers in every runtime.
        options: of the network.
    """
    from kseg.model import dtype_policy
    from kseg.training.config import TrainingConfig
    from kseg.training.fused_batch_norm import fuse_batch_norm
    from kseg.training.losses import SegmentationLoss
    from kseg.training.metrics import MeanIoU
    from kseg.training.optimizers import make_optimizer

    with dtype_policy(precision):
        model = network(name, **(options or {}))
    if not dropout:
        without_dropout(model)
    fuse_batch_norm(model)
    config = TrainingConfig(name, "camvid", learning_rate=_LEARNING_RATE, precision=precision)
    optimizer = make_optimizer(config, model, 10**6, 10**3)
    loss = SegmentationLoss(config.loss, _class_weights())
    # "auto" is Keras' own choice where JAX has no other.
    jit_compile = "auto" if keras.backend.backend() == "jax" else compiled
    model.compile(optimizer, loss, metrics=[MeanIoU(CLASSES)], jit_compile=jit_compile)
    images, labels = _batch(batch_size, size)

    def step() -> float:
        model.reset_metrics()
        return float(model.train_on_batch(images, labels)[0])

    return step, sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def without_dropout(model: Any) -> None:
    """Dropout layers that leave everything as it is."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0


def torch_step(
    name: str,
    batch_size: int,
    size: tuple[int, int],
    *,
    precision: str = "float32",
    compiled: bool = False,
    dropout: bool = True,
    options: dict[str, Any] | None = None,
) -> tuple[Callable[[], float], int]:
    """The same step in PyTorch, on a GPU if there is one; 16 bits by autocast."""
    import torch
    from torch_twin import twin

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = network(name, **(options or {}))
    if not dropout:
        without_dropout(model)
    module = twin(model).train().to(device)
    parameters = list(module.parameters())
    kernels = [p for p in parameters if p.dim() == 4]
    others = [p for p in parameters if p.dim() != 4]
    optimizer = torch.optim.AdamW(
        [
            {"params": kernels, "weight_decay": _WEIGHT_DECAY},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=_LEARNING_RATE,
        eps=1e-7,
        fused=True,
    )
    # Loss scaling is for float16 alone, and for GPUs.
    half = {"mixed_float16": torch.float16, "mixed_bfloat16": torch.bfloat16}.get(precision)
    scaler = torch.amp.GradScaler(device, enabled=half is torch.float16 and device == "cuda")
    forward = torch.compile(module) if compiled else module
    images, labels = _batch(batch_size, size)
    images = torch.from_numpy(images).permute(0, 3, 1, 2).to(device)
    labels = torch.from_numpy(labels).long().to(device)
    weights = torch.tensor(_class_weights(), device=device)

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast(device, half, enabled=half is not None):
            logits = forward(images)
        total = torch.nn.functional.cross_entropy(
            logits.float(), labels, weights, ignore_index=255, reduction="sum"
        )
        loss = total / labels.numel()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    return step, sum(p.numel() for p in parameters)


def _set_up(runtime: str) -> None:
    """Threads and operators, before anything is computed."""
    if runtime == "torch":
        import torch

        torch.set_num_threads(THREADS)
    elif runtime != "jax":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(THREADS)
        tf.config.threading.set_inter_op_parallelism_threads(THREADS)
        if runtime == "tensorflow_deterministic":
            keras.utils.set_random_seed(0)
            tf.config.experimental.enable_op_determinism()


def _serve(runtime: str, name: str, batch_size: int, size: tuple[int, int]) -> None:
    """Steps when asked."""

    def make() -> tuple[Callable[[], float], dict[str, int]]:
        _set_up(runtime)
        take = torch_step if runtime == "torch" else keras_step
        step, trainable = take(name, batch_size, size)
        return step, {"trainable": trainable}

    serve(make)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and shows the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--runtimes", nargs="+", default=RUNTIMES, choices=RUNTIMES)
    parser.add_argument("--size", nargs=2, type=int, default=(360, 480), metavar=("H", "W"))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--step", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if "torch" not in args.runtimes:
        parser.error("--runtimes needs torch, which the ratios are of")
    if args.step:
        runtime, name, *numbers = args.step
        batch_size, *size = map(int, numbers)
        _serve(runtime, name, batch_size, tuple(size))
        return
    for model in args.models:
        rows = measure(
            model,
            batch_size=args.batch_size,
            size=tuple(args.size),
            turns=args.turns,
            runtimes=args.runtimes,
        )
        write(rows, RESULTS)
        for row in rows:
            print(f"{model:<30} {row['runtime']:<26} {row['seconds']:>6} s, {row['ratio']} x")


if __name__ == "__main__":
    main()
