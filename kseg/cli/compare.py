"""Where two files disagree on a data set: pixels, classes, images, and the IoU of both.

Any two of .keras, .tflite and .onnx with the same classes. Share of pixels with the same
class, over all and over A's pixels of a class; IoU where the split has labels. A file may
be compared with itself on another runtime (--runtime-b litert-gpu).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kseg.cli import arguments
from kseg.data import check_outputs, open_dataset
from kseg.files import atomic_write, check_output, make_folder, write_json
from kseg.progress import Countdown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files, the data and what to write."""
    parser.add_argument("first", type=Path, metavar="A", help=arguments.FILES)
    parser.add_argument("second", type=Path, metavar="B", help=arguments.FILES)
    arguments.add_data(parser)
    parser.add_argument(
        "--split", default="val", metavar="S", help="split of the data set (default: val)"
    )
    for file in "ab":
        parser.add_argument(
            f"--runtime-{file}",
            default="cpu",
            metavar="R",
            help=f"what runs {file.upper()}, if a .tflite file: cpu, litert-gpu or litert-fp16",
        )
        arguments.add_card(parser, f"--card-{file}", file.upper())
    arguments.add_size(
        parser,
        "--input-size",
        "input size of both networks (default: the file's own, else the other's, else the image's)",
    )
    parser.add_argument(
        "--worst",
        type=int,
        default=8,
        metavar="N",
        help="number of images to list and to draw (default: 8)",
    )
    parser.add_argument("--json", type=Path, metavar="F", help="write the comparison to this file")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write pictures of the worst images into this folder",
    )


def run(args: argparse.Namespace) -> None:
    """Prints the table, writes the JSON and the pictures."""
    from kseg.evaluation import compare, format_comparison
    from kseg.opening import open_predictor

    data = open_dataset(args.dataset, args.data_dir, args.split)
    read = [args.first, args.second, args.card_a, args.card_b]
    check_outputs([args.json, args.out], read, [data])
    out = args.out and make_folder(args.out)
    if args.json:
        check_output(args.json)
    comparison = compare(
        open_predictor(args.first, runtime=args.runtime_a, card=args.card_a),
        open_predictor(args.second, runtime=args.runtime_b, card=args.card_b),
        data,
        input_size=arguments.size(args.input_size),
        worst=args.worst,
        progress=Countdown(),
    )
    if args.json:
        report = comparison.to_json()
        for facts, file in zip(report["files"], (args.first, args.second), strict=True):
            facts["file"] = str(file)
        write_json(args.json, report)
    print(format_comparison(comparison))
    for item in comparison.worst if out else ():
        with atomic_write(out / f"{item.name}.png") as path:
            item.picture().save(path)
        print(out / f"{item.name}.png")
