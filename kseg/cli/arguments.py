"""Arguments that several subcommands share, and what was parsed as the library takes it."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kseg.data import WHOLE, Shard, check_outputs, list_datasets, open_dataset
from kseg.errors import KsegError
from kseg.files import atomic_write, check_output
from kseg.progress import Countdown, counted

if TYPE_CHECKING:
    import numpy as np

    from kseg.data.check import DataReport
    from kseg.model import SegmentationModel
    from kseg.predictor import InferenceSettings

FILES = ".keras, .tflite, .onnx or shipped WEIGHTS:MODEL"
"""What ``kseg.open_predictor`` takes."""


def add_data(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """--dataset and --data-dir."""
    parser.add_argument(
        "--dataset", required=required, metavar="D", help=", ".join(list_datasets())
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="P",
        help="folder of the data set (default for Cityscapes: the variable CITYSCAPES_DATASET)",
    )


def add_size(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, flag: str, text: str
) -> None:
    """An option of a height and a width."""
    parser.add_argument(flag, type=int, nargs=2, metavar=("H", "W"), help=text)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """How images become label maps, and what runs the network."""
    add_size(
        parser,
        "--input-size",
        "size of the network's input (default: the file's own, else the image's)",
    )
    add_size(parser, "--pad-to", "pad the image with the mean to this size (DeepLab: 1025 2049)")
    parser.add_argument(
        "--scales",
        type=float,
        nargs="+",
        default=(1.0,),
        metavar="S",
        help="run at these scales and average the softmax (DeepLab: 0.5 0.75 1 1.25 1.5 1.75)",
    )
    parser.add_argument(
        "--flip", action="store_true", help="also run on the mirrored image, and average"
    )
    add_size(parser, "--window", "slide a window of this size over the image")
    parser.add_argument(
        "--overlap",
        type=float,
        default=1 / 3,
        metavar="F",
        help="share of a window that the next one overlaps, 0 to 1 (default: 1/3)",
    )
    parser.add_argument(
        "--output-stride",
        type=int,
        metavar="N",
        help="run a .keras file at another output stride than it was trained at",
    )
    parser.add_argument(
        "--runtime",
        default="cpu",
        help="what runs a .tflite file: cpu, litert-gpu or litert-fp16 (default: cpu)",
    )
    parser.add_argument(
        "--crf",
        action="store_true",
        help="refine the result by the dense CRF of DeepLab v1 and v2 (extra crf)",
    )


def add_shard(parser: argparse.ArgumentParser, of: str) -> None:
    """--shard: the part of a job that this process does."""
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help=f"only part I of N of {of}, I from 1 to N, to share the work among N processes",
    )


def shard(args: argparse.Namespace) -> Shard:
    """What ``add_shard`` parsed; the whole where it was not given."""
    return WHOLE if args.shard is None else Shard.parse(args.shard)


def print_reports(reports: Sequence[DataReport]) -> int:
    """Prints reports of data; 1 when there are problems, warnings leave it 0."""
    print("\n".join(map(str, reports)), flush=True)
    return int(any(report.problems for report in reports))


def add_card(parser: argparse.ArgumentParser, flag: str = "--card", of: str = "FILE") -> None:
    """The card of a file that kseg did not make."""
    parser.add_argument(
        flag,
        type=Path,
        metavar="F",
        help=f"JSON file with the classes and the normalisation of {of}, for a .tflite or .onnx "
        "file that kseg did not make (docs/wrapping.md)",
    )


def add_check(parser: argparse.ArgumentParser) -> None:
    """A .tflite file and the images to check it on."""
    parser.add_argument("file", type=Path, metavar="FILE.tflite")
    parser.add_argument(
        "--images",
        type=Path,
        nargs="+",
        metavar="IMAGE",
        help="photographs to run on (default: two drawn streets)",
    )
    add_card(parser)


def check_images(args: argparse.Namespace) -> Iterator[np.ndarray]:
    """The images that ``add_check`` names, else two drawn streets, with progress."""
    from kseg.data import read_image
    from kseg.streets import draw_scene

    if args.images:
        images = [read_image(path) for path in args.images]
    else:
        images = [draw_scene(seed, 256, 512).image for seed in range(2)]
    return counted(images, Countdown())


def add_timeout(parser: argparse.ArgumentParser) -> None:
    """The time that a run on another processor may take."""
    parser.add_argument(
        "--timeout",
        type=float,
        default=300,
        metavar="S",
        help="seconds before it gives up (default: 300)",
    )


def settings(args: argparse.Namespace) -> InferenceSettings:
    """What ``add_settings`` parsed, but for what runs the network."""
    from kseg.crf import DenseCRF
    from kseg.predictor import InferenceSettings

    return InferenceSettings(
        input_size=size(args.input_size),
        pad_to=size(args.pad_to),
        scales=tuple(args.scales),
        flip=args.flip,
        window=size(args.window),
        overlap=args.overlap,
        crf=DenseCRF() if args.crf else None,
    )


def add_form(parser: argparse.ArgumentParser) -> None:
    """Input and output of the file that is written."""
    parser.add_argument(
        "--input", default="float", help="type of the input: float or uint8 (default: float)"
    )
    parser.add_argument(
        "--output",
        default="logits",
        help="form of the output: logits, stride-logits or argmax (default: logits)",
    )
    add_size(
        parser,
        "--input-size",
        "input size of the file (default: the model's own, else its data set's, else 512 1024)",
    )


def add_calibration(parser: argparse.ArgumentParser) -> None:
    """The images and the method of a calibration for int8."""
    parser.add_argument(
        "--calibration-dataset",
        metavar="D",
        help="data set of the calibration images for int8 (default: the model's)",
    )
    parser.add_argument("--calibration-dir", type=Path, metavar="P", help="folder of that data set")
    parser.add_argument(
        "--calibration-count",
        type=int,
        metavar="N",
        help="number of calibration images (default: 100)",
    )
    parser.add_argument(
        "--calibration",
        metavar="HOW",
        help="how ranges are measured: percentile (default), moving-average or min-max",
    )
    parser.add_argument(
        "--keep-float", nargs="+", default=(), metavar="LAYER", help="layers that stay in float32"
    )


def refuse_calibration(args: argparse.Namespace) -> None:
    """Raises KsegError if an option of ``add_calibration`` was given."""
    options = ("calibration", "calibration_dataset", "calibration_dir", "calibration_count")
    if given := [f"--{o}".replace("_", "-") for o in options if getattr(args, o) is not None]:
        raise KsegError(
            f"precision {args.precision} takes no calibration; leave {', '.join(given)} out"
        )


def calibration(
    args: argparse.Namespace, model: SegmentationModel, output: Path | None
) -> Iterator[np.ndarray]:
    """The images that ``add_calibration`` names, among which the output must not be."""
    name = args.calibration_dataset or model.card.dataset or ""
    try:
        data = open_dataset(name, args.calibration_dir, "train")
    except KsegError as error:
        raise KsegError(
            f"int8 needs calibration images (--calibration-dataset, --calibration-dir): {error}"
        ) from None
    check_outputs([output], data=[data])
    count = args.calibration_count
    return data.some(100 if count is None else count).images()


def add_fine_tuning(parser: argparse.ArgumentParser, learning_rate: float) -> None:
    """The data and the steps of fine-tuning a finished model."""
    add_data(parser)
    parser.add_argument(
        "--epochs", type=int, default=1, metavar="N", help="passes over the data (default: 1)"
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="number of steps, instead of --epochs"
    )
    parser.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="images in a batch (default: 8)"
    )
    add_size(
        parser,
        "--crop",
        "size of the crops, after scaling (default: the images' size, halved until it is at most "
        "512 1024; 512 512 for images of several sizes)",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=learning_rate,
        metavar="R",
        help=f"initial learning rate (default: {learning_rate:g})",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of everything random (default: 0)"
    )
    parser.add_argument(
        "--learn-from",
        default="model",
        metavar="TEACHER",
        help="what to learn: model, its present output, or labels (default: model)",
    )


def fine_tuning(args: argparse.Namespace, model: SegmentationModel) -> dict[str, Any]:
    """What ``add_fine_tuning`` parsed, as kseg.tflite takes it."""
    import keras

    from kseg.training.config import check_seed
    from kseg.training.fine_tune import fine_tuning

    check_seed(args.seed)
    keras.utils.set_random_seed(args.seed)
    batches, loss, steps = fine_tuning(
        model,
        args.dataset,
        args.data_dir,
        steps=args.steps,
        epochs=args.epochs,
        crop=size(args.crop),
        batch_size=args.batch_size,
        seed=args.seed,
        learn_from=args.learn_from,
    )
    return {
        "batches": batches,
        "loss": loss,
        "steps": steps,
        "learning_rate": args.learning_rate,
        "progress": Countdown("steps"),
    }


def add_smaller(parser: argparse.ArgumentParser) -> None:
    """A .keras file, the file to write, and the fine-tuning between them."""
    parser.add_argument("file", type=Path, metavar="FILE", help=".keras")
    parser.add_argument("out", type=Path, metavar="OUT", help=".keras")
    add_fine_tuning(parser, learning_rate=1e-4)


def save_smaller(
    args: argparse.Namespace, make: Callable[..., SegmentationModel], **options: Any
) -> None:
    """Saves the model that ``make`` trains, with what ``add_smaller`` parsed."""
    from kseg.loading import load
    from kseg.training.pipeline import reader_errors

    check_output(args.out, ".keras")
    data_outputs(args, ["train"], [args.out], [args.file])
    model = load(args.file)
    with reader_errors():
        result = make(model, **fine_tuning(args, model), **options)
    with atomic_write(args.out) as path:
        result.save(path)
    print(f"{args.out}: {result.card.weights}")


def data_outputs(
    args: argparse.Namespace,
    splits: Iterable[str],
    outputs: Iterable[Path | None],
    inputs: Iterable[str | Path | None] = (),
) -> None:
    """``check_outputs`` with the splits of ``add_data`` that can be opened; others fail later."""
    data = []
    for split in splits:
        with contextlib.suppress(KsegError):
            data.append(open_dataset(args.dataset, args.data_dir, split))
    check_outputs(outputs, [args.data_dir, *inputs], data)


def check_installed(module: str, extra: str) -> None:
    """Raises KsegError if the module of an extra is not installed."""
    if importlib.util.find_spec(module) is None:
        raise KsegError(f"this needs {module}; install kseg[{extra}]")


def size(value: list[int] | None) -> tuple[int, int] | None:
    """What ``add_size`` parsed, as the library takes it: (H, W), or None.

    Raises:
        KsegError: a side below 1.
    """
    if value is None:
        return None
    if min(value) < 1:
        raise KsegError(f"a size is {value[0]} x {value[1]}; both sides must be at least 1")
    return value[0], value[1]
