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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What decides the run; defaults are those of the recipe, else of TrainingConfig."""
    parser.add_argument("--recipe", metavar="R", help="a paper's settings, or list to see them")
    parser.add_argument("--model", metavar="M", help="a name of `kseg models` (the recipe's)")
    arguments.add_data(parser, required=False)
    parser.add_argument("--run-dir", type=Path, metavar="R", help="of states, scores and model")
    parser.add_argument(
        "--distribution", default="auto", help="auto, one, mirrored or multiworker (TF_CONFIG)"
    )

    group = parser.add_argument_group("what")
    group.add_argument("--options", type=_json, metavar="JSON", help='builder options: {"m": 3}')
    group.add_argument(
        "--init",
        metavar="FILE",
        help="a published checkpoint, .keras or shipped weights, or imagenet for the encoder",
    )
    group.add_argument("--init-part", metavar="PART", help="all, backbone or all-but-classifier")
    group.add_argument("--split", metavar="S", help="to train on (train)")
    group.add_argument("--records", metavar="DIR", help="of `kseg prepare`, to train from")
    group.add_argument("--val-split", type=_or_none(str), metavar="S", help="to score on, or none")
    group.add_argument("--validate-every", type=int, metavar="N", help="epochs (1)")

    group = parser.add_argument_group("how long, how large")
    group.add_argument("--epochs", type=int, help="passes over the data (100)")
    group.add_argument("--steps", type=int, help="steps, instead of --epochs")
    group.add_argument("--batch-size", type=int, help="of all replicas together (8)")
    group.add_argument("--accumulate", type=int, metavar="N", help="batches of an update (1)")
    arguments.add_size(group, "--crop", "the network's size after scaling")
    arguments.add_size(group, "--final-crop", "that of the last epochs")
    group.add_argument("--final-epochs", type=int, metavar="N", help="how many those are")

    group.add_argument(
        "--patience", type=_or_none(int), metavar="N", help="end after N scores without a better"
    )

    group.add_argument("--seed", type=int, help="of everything random (0)")

    group = parser.add_argument_group("optimizer and rates")
    group.add_argument("--optimizer", help="adamw, adam or sgd")
    group.add_argument("--learning-rate", type=float, help="at the start (1e-3)")
    group.add_argument("--schedule", help="poly, cosine or step")
    group.add_argument("--decay-epochs", type=int, metavar="N", help="of step (100)")
    group.add_argument("--decay-factor", type=float, metavar="F", help="of step (0.5)")
    group.add_argument("--warmup-steps", type=int, metavar="N", help="(0)")
    group.add_argument("--encoder-rate", type=float, metavar="F", help="times the rate (1)")
    group.add_argument("--freeze-encoder-epochs", type=int, metavar="N", help="first ones (0)")
    group.add_argument("--weight-decay", type=float, help="(1e-2)")
    group.add_argument("--decayed", help="kernels, full-kernels or all")
    group.add_argument("--clip-norm", type=_or_none(float), metavar="X", help="of all gradients")
    group.add_argument("--ema", type=_or_none(float), metavar="M", help="momentum of an average")
    group.add_argument("--batch-norm", help="train, sync or frozen")

    group = parser.add_argument_group("computation")
    group.add_argument("--precision", help="float32, mixed_bfloat16 or mixed_float16")
    group.add_argument(
        "--xla",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="compile the steps by XLA (no); for one device",
    )

    group = parser.add_argument_group("loss")
    group.add_argument("--loss", help="cross_entropy, focal, ohem, dice, lovasz; or a sum: a+b")
    group.add_argument(
        "--ohem-threshold", type=float, metavar="P", help="hard pixels are below it (0.7)"
    )
    group.add_argument(
        "--ohem-fraction", type=float, metavar="F", help="of an image's pixels at least (0.0625)"
    )
    group.add_argument(
        "--class-weights", type=_or_none(float), metavar="C", help="c of 1 / ln(c + share) (1.10)"
    )
    group.add_argument(
        "--auxiliary", type=float, nargs="+", metavar="W", help="weights of the training heads"
    )
    group.add_argument("--auxiliary-loss", metavar="LOSS", help="of these heads (that of --loss)")
    group.add_argument(
        "--boundary-aware", type=float, metavar="W", help="of the loss at boundaries, PIDNet (0)"
    )
    group.add_argument(
        "--teacher", metavar="FILE", help=".keras or shipped weights with the data's classes"
    )
    group.add_argument("--distill-weight", type=float, metavar="W", help="beside the labels (1)")
    group.add_argument("--temperature", type=float, metavar="T", help="of both networks (1)")

    group = parser.add_argument_group("images")
    group.add_argument("--scale", type=float, nargs=2, metavar=("MIN", "MAX"), help="(0.5 2.0)")
    group.add_argument("--flip", action=argparse.BooleanOptionalAction, default=None)
    group.add_argument("--jitter", type=float, help="of colours (0.2)")
    group.add_argument("--rotate", type=float, metavar="DEGREES", help="to either side (0)")
    group.add_argument(
        "--randaugment", type=int, nargs=2, metavar=("N", "M"), help="operations on colours, 0..30"
    )
    group.add_argument("--blur", type=float, metavar="SIGMA", help="pixels at most (0)")
    group.add_argument("--noise", type=float, metavar="SIGMA", help="levels of 255 at most (0)")
    group.add_argument("--jpeg", type=_or_none(int), metavar="Q", help="lowest quality")
    group.add_argument(
        "--class-uniform", type=float, metavar="P", help="share of crops on a drawn class (0)"
    )
    group.add_argument(
        "--class-mix", type=float, metavar="P", help="share that gets another's rare classes (0)"
    )
    group.add_argument("--bad-images", help="stop at one, or skip it")


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
