"""Trains a model; the same command takes up a run that was left."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from kseg.cli import arguments
from kseg.errors import KsegError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What decides the run; defaults are those of TrainingConfig."""
    parser.add_argument("--model", required=True, metavar="M", help="a name of `kseg models`")
    arguments.add_data(parser)
    parser.add_argument("--run-dir", type=Path, required=True, metavar="R")
    parser.add_argument("--options", metavar="JSON", help='builder options, as {"m": 3}')
    parser.add_argument("--split", metavar="S", help="to train on (train)")
    parser.add_argument("--val-split", metavar="S", help="to score on (val); none for none")
    parser.add_argument("--records", metavar="DIR", help="of `kseg prepare`, to train from")
    parser.add_argument("--epochs", type=int, help="passes over the data (100)")
    parser.add_argument("--steps", type=int, help="steps, instead of --epochs")
    parser.add_argument("--batch-size", type=int, help="of all replicas together (8)")
    arguments.add_size(parser, "--crop", "the network's size after scaling")
    arguments.add_size(parser, "--final-crop", "that of the last epochs")
    parser.add_argument("--final-epochs", type=int, metavar="N", help="how many those are")
    parser.add_argument("--learning-rate", type=float, help="at the start (1e-3)")
    parser.add_argument("--weight-decay", type=float, help="decoupled (1e-2)")
    parser.add_argument("--ema", type=float, metavar="M", help="momentum of averaged weights")
    parser.add_argument(
        "--class-weights", metavar="C", help="c of 1 / ln(c + share) (1.10), or none"
    )
    parser.add_argument("--scale", type=float, nargs=2, metavar=("MIN", "MAX"), help="(0.5 2.0)")
    parser.add_argument("--flip", action=argparse.BooleanOptionalAction, default=None)
    parser.add_argument("--jitter", type=float, help="of colours (0.2)")
    parser.add_argument("--seed", type=int, help="of everything random (0)")
    parser.add_argument("--validate-every", type=int, metavar="N", help="epochs (1)")
    parser.add_argument("--init", metavar="FILE", help="published checkpoint to start from")


def run(args: argparse.Namespace) -> None:
    """Trains."""
    from kseg.training import TrainingConfig, train

    fields = {field.name for field in dataclasses.fields(TrainingConfig)}
    values = {k: v for k, v in vars(args).items() if k in fields and v is not None}
    for name in ("crop", "final_crop", "scale"):
        if name in values:
            values[name] = tuple(values[name])
    if values.get("val_split") == "none":
        values["val_split"] = None
    if "class_weights" in values:
        values["class_weights"] = _number_or_none("class-weights", values["class_weights"])
    if "options" in values:
        values["options"] = _json("options", values["options"])
    train(TrainingConfig(**values), args.data_dir, args.run_dir)
    print(f"{args.run_dir / 'model.keras'}: the trained model")


def _number_or_none(flag: str, text: str) -> float | None:
    try:
        return None if text == "none" else float(text)
    except ValueError:
        raise KsegError(f"--{flag} is {text!r}; it must be a number or none") from None


def _json(flag: str, text: str) -> dict:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise KsegError(f"--{flag} is {text!r}; it must be a JSON object")
    return value
