"""Predicts label maps of images: PNGs of train ids, and overlays with a legend; or a submission.

With --submission it writes a split of a data set in the form that its server takes: for every
image a PNG of the data set's own ids, named as cityscapesScripts looks for it.

With --shard I/N it takes only part I of the images: N such commands write to one folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kseg.cli import arguments
from kseg.data import check_outputs, open_dataset
from kseg.errors import KsegError
from kseg.progress import Countdown, clear

FLAGS = {"kinds": "--write"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, the images and where to write."""
    parser.add_argument("file", type=Path, metavar="FILE", help=arguments.FILES)
    images = parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="an image, a video, a folder or a quoted pattern of them; camera; sample, the "
        "drawn street that kseg ships; none with --submission",
    )
    # Not "*", which takes nothing where an option stands between FILE and IMAGE.
    images.required = False
    to = parser.add_mutually_exclusive_group(required=True)
    to.add_argument("--out", type=Path, metavar="DIR", help="folder for the results")
    to.add_argument(
        "--submission",
        type=Path,
        metavar="DIR",
        help="folder for a submission: the split's label maps in the data set's own ids",
    )
    parser.add_argument(
        "--write",
        nargs="+",
        default=["labels", "overlay"],
        metavar="KIND",
        help="what to write: labels, overlay, side-by-side (default: labels overlay)",
    )
    arguments.add_data(parser, required=False)
    parser.add_argument(
        "--split", default="test", metavar="S", help="split of a submission (default: test)"
    )
    arguments.add_shard(parser, "the images")
    arguments.add_settings(parser)
    arguments.add_card(parser)


def run(args: argparse.Namespace) -> None:
    """Writes what --write says for every image and video, or the submission."""
    from kseg.evaluation import write_submission
    from kseg.evaluation.overlays import check_overlays, write_overlays
    from kseg.evaluation.sources import find_sources
    from kseg.opening import open_predictor

    if args.submission and (args.images or not args.dataset):
        raise KsegError("--submission takes --dataset and --data-dir, and no images")
    if args.out and not args.images:
        raise KsegError("--out takes images; name some, or use --submission with --dataset")
    settings, shard = arguments.settings(args), arguments.shard(args)
    sources = find_sources(args.images or [])
    # The data set first: it is found missing in no time, while the network takes seconds.
    data = args.submission and open_dataset(args.dataset, args.data_dir, args.split)
    if data:
        check_outputs([args.submission], [args.file], [data])
    else:
        check_overlays(sources, args.out, [args.file], args.write)
    predictor = open_predictor(
        args.file, runtime=args.runtime, output_stride=args.output_stride, card=args.card
    )
    if args.submission:
        part = data.part(shard)
        files = write_submission(predictor, part, args.submission, settings, progress=Countdown())
        print(f"{args.submission}: {len(files)} files")
        return
    part = shard.of(sources)
    progress = Countdown() if len(part) > 1 or any(s.is_video for s in part) else None
    for file in write_overlays(
        predictor, part, args.out, settings, kinds=args.write, progress=progress
    ):
        clear()
        print(file, flush=True)
