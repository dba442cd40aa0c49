"""Label maps of images: train-id PNGs, and overlays with a legend; or a submission.

With --submission, the split of a data set in the form that its server takes: a PNG of
the data set's own ids for every image, named as cityscapesScripts looks for it.
"""

from __future__ import annotations

import argparse
import collections
from pathlib import Path

from PIL import Image

from kseg import shipped
from kseg.cli import arguments
from kseg.data import open_dataset, read_image
from kseg.errors import KsegError
from kseg.files import make_folder, whole
from kseg.pictures import overlay, spread_colors
from kseg.progress import Countdown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, the images and where to write."""
    parser.add_argument("file", type=Path, metavar="FILE", help=arguments.FILES)
    images = parser.add_argument(
        "images",
        type=_image,
        nargs="+",
        metavar="IMAGE",
        help="a file, or the word sample for the drawn street that kseg ships; "
        "none with --submission",
    )
    # Not "*", which takes nothing where an option stands between FILE and IMAGE.
    images.required = False
    to = parser.add_mutually_exclusive_group(required=True)
    to.add_argument("--out", type=Path, metavar="DIR", help="for what becomes of the images")
    to.add_argument("--submission", type=Path, metavar="DIR", help="for the split's label ids")
    arguments.add_data(parser, required=False)
    parser.add_argument("--split", default="test", metavar="S", help="of the submission (test)")
    arguments.add_way(parser)


def _image(text: str) -> Path:
    return shipped.SAMPLE if text == "sample" and not Path(text).exists() else Path(text)


def _pictures(file: Path) -> tuple[str, str]:
    """Names of what becomes of an image."""
    return f"{file.stem}.png", f"{file.stem}_overlay.png"


def run(args: argparse.Namespace) -> None:
    """Writes NAME.png and NAME_overlay.png for every image, or the submission."""
    from kseg.evaluation import write_submission
    from kseg.opening import open_predictor
    from kseg.predictor import predict_labels

    if args.submission and (args.images or not args.dataset):
        raise KsegError("--submission takes --dataset and --data-dir, and no images")
    if args.out and not args.images:
        raise KsegError("--out takes images; name some, or use --submission with --dataset")
    way = arguments.way(args)
    options = {"runtime": args.runtime, "output_stride": args.output_stride}
    if args.submission:
        data = open_dataset(args.dataset, args.data_dir, args.split)
        predictor = open_predictor(args.file, **options)
        files = write_submission(
            open_predictor(args.file, **options), data, args.submission, progress=Countdown(), **way
        )
        print(f"{args.submission}: {len(files)} files")
        return
    predictor = open_predictor(args.file, **options)
    card = predictor.card
    names = card.class_names or [f"class {i}" for i in range(card.num_classes)]
    colors = card.colors or spread_colors(len(names))
    made = collections.Counter(name for file in args.images for name in _pictures(file))
    if twice := [name for name, count in made.items() if count > 1]:
        raise KsegError(
            f"{args.out / twice[0]}: more than one of the images would be written there; "
            "give them other names, or --out for each folder"
        )
    out = make_folder(args.out)
    for file in args.images:
        image = read_image(file)
        labels = card.train_ids()[predict_labels(predictor, image, **way)]
        pictures = [Image.fromarray(labels), overlay(image, labels, names, colors)]
        for name, picture in zip(_pictures(file), pictures, strict=True):
            with whole(out / name) as path:
                picture.save(path)
            print(out / name)
