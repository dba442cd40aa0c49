"""Scores a .keras, .tflite or .onnx file on a data set, one image at a time, at label size.

A folder of label maps is scored as it is: NAME_pred_labelIds.png, as `kseg predict
--submission` writes it, or NAME.png for every image, in the data set's own ids.

With --shard I/N it scores only part I of the split; `kseg merge` makes the score of the N files.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kseg.cli import arguments
from kseg.data import check_outputs, open_dataset
from kseg.errors import KsegError
from kseg.files import check_not_input, check_output, make_folder, write_json
from kseg.progress import Countdown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, the data, the settings and what to write."""
    parser.add_argument(
        "file", type=Path, metavar="FILE", help=f"{arguments.FILES}, or label maps in a folder"
    )
    arguments.add_data(parser)
    parser.add_argument(
        "--split", default="val", metavar="S", help="split of the data set (default: val)"
    )
    arguments.add_settings(parser)
    arguments.add_card(parser)
    parser.add_argument(
        "--boundaries",
        action="store_true",
        help="also score along borders: trimap IoU and boundary F (extra boundaries)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="threads that read and count (default: one per CPU, 4 at most)",
    )
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="F",
        help="keep the counts so far in this file, and continue from them",
    )
    arguments.add_shard(parser, "the images")
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="write a page, report.html, into this folder"
    )
    parser.add_argument("--json", type=Path, metavar="F", help="write the score to this file")


def run(args: argparse.Namespace) -> None:
    """Prints the table and writes the JSON and the page."""
    from kseg.evaluation import SavedScores, evaluate, evaluate_shard, format_report
    from kseg.opening import open_source

    shard = args.shard and arguments.shard(args)
    if shard and args.json is None:
        raise KsegError(f"shard {shard} needs a file for its counts; give --json F")
    if shard and args.report:
        raise KsegError(f"a report is of the whole score, not of shard {shard}; leave it out")
    data = open_dataset(args.dataset, args.data_dir, args.split)
    check_outputs(
        [args.json, args.resume, args.report and args.report / "report.html"],
        [args.file, args.card],
        [data],
    )
    check_outputs([args.report], [args.file], [data])
    if args.file.is_dir():
        check_not_input([args.json, args.resume, args.report], [], [args.file])
    source = open_source(
        args.file, runtime=args.runtime, output_stride=args.output_stride, card=args.card
    )
    settings = arguments.settings(args)
    # A score may take hours: whether the results can be written is checked before.
    folder = args.report and make_folder(args.report)
    if args.json:
        check_output(args.json)
    saved = args.resume and SavedScores(args.resume, args.file)
    options = {
        "boundaries": args.boundaries,
        "workers": args.workers,
        "saved": saved,
        "progress": Countdown(),
    }
    if shard:
        part = evaluate_shard(source, data, shard, settings, file=args.file, **options)
        part.write(args.json)
        print(f"{args.json}: shard {shard}, {part.counts.images} of {len(data)} images")
        if saved:
            saved.remove()
        return
    scores = evaluate(source, data, settings, **options)
    if args.json:
        write_json(args.json, {**scores.to_json(), "file": str(args.file)})
    print(format_report(scores))
    if folder:
        from kseg.evaluation.report import write_report  # matplotlib

        write_report(folder / "report.html", scores, source, data)
        print(folder / "report.html")
    if saved:
        saved.remove()
