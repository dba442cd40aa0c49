"""Makes a .keras file of a published checkpoint (PyTorch, TF1, safetensors, TensorFlow Lite)."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from kseg.errors import KsegError
from kseg.files import atomic_write, check_not_input, check_output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The network, the checkpoint, what the checkpoint does not say, and the file."""
    parser.add_argument("name", metavar="NAME", help="a name of `kseg models`")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    parser.add_argument("out", type=Path, metavar="OUT.keras")
    parser.add_argument(
        "--options",
        metavar="JSON",
        help="""arguments of the network, such as '{"q": 3}' for ESPNet""",
    )
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help="names of the channels: a classes.txt, or cityscapes, camvid, voc",
    )
    parser.add_argument(
        "--void-channels",
        type=int,
        nargs="*",
        metavar="N",
        help='channels of no class, such as 0 where "unlabelled" comes first',
    )
    for flag in ("--mean", "--std"):
        parser.add_argument(
            flag,
            type=float,
            nargs=3,
            metavar=("R", "G", "B"),
            help="of its training images, for pixels 0 to 255 (default: the published ones)",
        )


def run(args: argparse.Namespace) -> None:
    """Builds the network with the checkpoint's classes and saves it."""
    from kseg.importing import import_checkpoint

    check_output(args.out, ".keras")
    check_not_input([args.out], [args.checkpoint, args.classes])
    model, unsaid = import_checkpoint(
        args.name,
        args.checkpoint,
        options=_options(args.options),
        classes=args.classes,
        void_channels=args.void_channels,
        mean=args.mean,
        std=args.std,
    )
    with atomic_write(args.out) as path:
        model.save(path)
    for line in unsaid:
        print(f"kseg: {line}", file=sys.stderr)
    card = model.card
    of = f" of {card.dataset}" if card.dataset else ""
    void = f", of which {len(card.void_channels)} void" if card.void_channels else ""
    print(f"{args.out}: {args.name} with {card.num_classes} classes{of}{void}")


def _options(text: str | None) -> dict[str, Any]:
    try:
        options = json.loads(text or "{}")
    except ValueError as error:
        raise KsegError(f"options is {text!r}, no JSON ({error})") from None
    if not isinstance(options, dict):
        raise KsegError(f"""options is {text!r}; write an object, such as '{{"q": 3}}'""")
    return options
