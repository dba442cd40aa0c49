"""Writes a split as records, from which `kseg train --records` reads crops faster.

The same command continues after an interruption. If the records are complete, it verifies every
shard, and makes again those that are missing or damaged.

With --shard I/N it makes only part I of the files: N such commands share the folder, and the one
that ends last writes the index.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kseg.cli import arguments
from kseg.data import open_dataset
from kseg.progress import Countdown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The split, the folder and how to write it."""
    arguments.add_data(parser)
    parser.add_argument(
        "--split", default="train", metavar="S", help="split of the data set (default: train)"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the records")
    parser.add_argument(
        "--shards", type=int, metavar="N", help="number of files (default: one for 64 images)"
    )
    arguments.add_shard(parser, "the files")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per CPU)")


def run(args: argparse.Namespace) -> None:
    """Writes the records."""
    from kseg.training import open_records, prepare_shard

    shard = arguments.shard(args)
    data = open_dataset(args.dataset, args.data_dir, args.split)
    complete = prepare_shard(
        data, args.out, shard, shards=args.shards, workers=args.workers, progress=Countdown()
    )
    if not complete:
        print(f"{args.out}: shard {shard} is done, others are not yet")
        return
    records = open_records(args.out)
    size = sum(path.stat().st_size for path in records.shards)
    print(f"{args.out}: {len(records)} images in {len(records.shards)} shards, {size / 1e6:.1f} MB")
