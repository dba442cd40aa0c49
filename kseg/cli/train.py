"""Trains a model; the same command resumes a run that was left."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from kseg.cli import arguments
from kseg.errors import KsegError
from kseg.files import parse_json

# What an option that may be left out gives for the word none; argparse leaves None where it
# was not given.
_NONE = object()


def _or_none(convert: type) -> Any:
    """A type for argparse that takes the word none as well, which gives ``_NONE``."""

    def parse(text: str) -> Any:
        return _NONE if text == "none" else convert(text)

    parse.__name__ = convert.__name__
    return parse


def _json(text: str) -> dict:
    try:
        value = parse_json(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"is {text!r}; it must be a JSON object")
    return value


# By group: flag, type, metavar (several for as many values), help.
_OPTIONS: dict[str, tuple[tuple[str, Any, str | tuple[str, ...] | None, str], ...]] = {
    "what": (
        ("--options", _json, "JSON", 'options of the network, such as {"m": 3}'),
        ("--init", str, "FILE", "start from these weights: see docs/training.md"),
        ("--init-part", str, "PART", "of the weights: all, backbone or all-but-classifier"),
        ("--split", str, "S", "split to train on (default: train)"),
        ("--records", str, "DIR", "read the images from the records of `kseg prepare`"),
        ("--val-split", _or_none(str), "S", "split to score on, or none (default: val)"),
        ("--validate-every", int, "N", "epochs between two scores (default: 1)"),
    ),
    "how long, how large": (
        ("--epochs", int, "N", "passes over the data (default: 100)"),
        ("--steps", int, "N", "number of steps, instead of --epochs"),
        ("--batch-size", int, "N", "images in a batch, of all devices together (default: 8)"),
        ("--accumulate", int, "N", "batches whose gradients make one update (default: 1)"),
        (
            "--crop",
            int,
            ("H", "W"),
            "crop size, after scaling (default: the images', halved until it is at most 512 1024; "
            "512 512 for images of several sizes)",
        ),
        ("--final-crop", int, ("H", "W"), "crop size in the last epochs"),
        ("--final-epochs", int, "N", "number of epochs with the final crop"),
        ("--patience", _or_none(int), "N", "stop after N scores that are not better than the best"),
        ("--seed", int, "N", "seed of everything random (default: 0)"),
    ),
    "optimizer and rates": (
        ("--optimizer", str, "O", "adamw, adam or sgd (default: adamw)"),
        ("--learning-rate", float, "R", "learning rate at the start (default: 1e-3)"),
        ("--schedule", str, "S", "of the learning rate: poly, cosine or step (default: poly)"),
        (
            "--decay-epochs",
            int,
            "N",
            "epochs between two drops of the schedule step (default: 100)",
        ),
        ("--decay-factor", float, "F", "factor of each drop of the schedule step (default: 0.5)"),
        ("--warmup-steps", int, "N", "steps over which the rate rises from 0 (default: 0)"),
        ("--encoder-rate", float, "F", "factor on the encoder's learning rate (default: 1)"),
        ("--freeze-encoder-epochs", int, "N", "keep the encoder as it is in the first N epochs"),
        ("--weight-decay", float, "D", "weight decay (default: 1e-2)"),
        ("--decayed", str, "D", "weights that decay: kernels, full-kernels or all"),
        ("--clip-norm", _or_none(float), "X", "largest norm of all gradients together, or none"),
        ("--ema", _or_none(float), "M", "momentum of the average of the weights, or none"),
        ("--batch-norm", str, "B", "train, sync or frozen (default: train)"),
    ),
    "computation": (
        ("--precision", str, "P", "float32, mixed_bfloat16 or mixed_float16"),
        ("--xla", bool, None, "compile the training steps by XLA, on one device (default: no)"),
    ),
    "loss": (
        (
            "--loss",
            str,
            "L",
            "cross_entropy, focal, ohem, dice, lovasz or a sum such as focal+dice",
        ),
        ("--ohem-threshold", float, "P", "ohem: pixels less probable are hard (default: 0.7)"),
        ("--ohem-fraction", float, "F", "ohem: smallest share of pixels taken (default: 0.0625)"),
        (
            *("--class-weights", _or_none(float), "C"),
            "weight classes by 1 / ln(C + share of the pixels), or none (default: 1.10)",
        ),
        ("--auxiliary", float, "W", "weights of the losses of the training heads"),
        ("--auxiliary-loss", str, "L", "loss of the training heads (default: that of --loss)"),
        ("--boundary-aware", float, "W", "weight of PIDNet's boundary-aware loss (default: 0)"),
        ("--teacher", str, "FILE", "a .keras file or shipped weights to learn from, too"),
        ("--distill-weight", float, "W", "weight of the teacher's loss (default: 1)"),
        ("--temperature", float, "T", "temperature of the teacher's loss (default: 1)"),
    ),
    "images": (
        ("--scale", float, ("MIN", "MAX"), "range of the random scale (default: 0.5 2.0)"),
        ("--flip", bool, None, "mirror half of the images (default: yes)"),
        ("--jitter", float, "F", "change of brightness, contrast, saturation (default: 0.2)"),
        ("--rotate", float, "DEGREES", "largest rotation to either side (default: 0)"),
        ("--randaugment", int, ("N", "M"), "N colour operations at magnitude M of 0 to 30"),
        ("--blur", float, "SIGMA", "largest blur, in pixels (default: 0)"),
        ("--noise", float, "SIGMA", "largest noise, in levels of 255 (default: 0)"),
        ("--jpeg", _or_none(int), "Q", "lowest quality of JPEG compression, or none"),
        ("--class-uniform", float, "P", "share of crops centred on a class (default: 0)"),
        ("--class-mix", float, "P", "share that gets another image's rare classes (default: 0)"),
        ("--bad-images", str, "B", "at a file that cannot be read: stop or skip (default: stop)"),
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What decides the run; defaults are those of the recipe, else of TrainingConfig."""
    parser.add_argument("--recipe", metavar="R", help="settings of a paper; list prints them")
    parser.add_argument("--model", metavar="M", help="network (default: the recipe's)")
    arguments.add_data(parser, required=False)
    parser.add_argument("--run-dir", type=Path, metavar="R", help="folder of the run")
    parser.add_argument(
        "--distribution",
        default="auto",
        metavar="D",
        help="devices: auto, one, mirrored or multiworker (TF_CONFIG)",
    )
    for title, options in _OPTIONS.items():
        group = parser.add_argument_group(title)
        for flag, kind, metavar, text in options:
            if kind is bool:
                group.add_argument(
                    flag, action=argparse.BooleanOptionalAction, default=None, help=text
                )
                continue
            count: int | str | None = len(metavar) if isinstance(metavar, tuple) else None
            if flag == "--auxiliary":
                count = "+"
            group.add_argument(flag, type=kind, nargs=count, metavar=metavar, help=text)


def run(args: argparse.Namespace) -> None:
    """Trains."""
    from kseg.training import RECIPES, TrainingConfig, from_recipe, train

    if args.recipe == "list":
        for name, recipe in RECIPES.items():
            print(f"{name}: {recipe.source}")
        return
    fields = {field.name for field in dataclasses.fields(TrainingConfig)}
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else None if value is _NONE else value
        for name, value in vars(args).items()
        if name in fields and value is not None
    }
    if args.run_dir is None:
        raise KsegError("train needs a folder for the run; give run_dir")
    config = from_recipe(values.pop("recipe", None), **values)
    splits = [split for split in (config.split, config.val_split) if split]
    read = argparse.Namespace(dataset=config.dataset, data_dir=args.data_dir)
    arguments.data_outputs(read, splits, [args.run_dir], [config.records])
    train(config, args.data_dir, args.run_dir, distribution=args.distribution)
    print(f"{args.run_dir / 'model.keras'}: the trained model")
