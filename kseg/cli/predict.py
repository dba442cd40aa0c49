"""Label maps of images: train-id PNGs, and overlays with a legend."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from kseg.cli import arguments
from kseg.data import read_image
from kseg.files import make_folder, whole
from kseg.pictures import overlay, spread_colors
from kseg.predictor import predict_labels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, the images and where to write."""
    parser.add_argument("file", type=Path, metavar="FILE", help=".keras, .tflite or .onnx")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    arguments.add_size(parser, "--input-size", "of the network (the image's, or the file's)")
    arguments.add_crf(parser)


def run(args: argparse.Namespace) -> None:
    """Writes NAME.png and NAME_overlay.png for every image."""
    predictor = arguments.load_predictor(args.file)
    card = predictor.card
    names = card.class_names or [f"class {i}" for i in range(card.num_classes)]
    colors = card.colors or spread_colors(len(names))
    out = make_folder(args.out)
    for file in args.images:
        image = read_image(file)
        channels = predict_labels(
            predictor, image, input_size=arguments.size(args.input_size), crf=args.crf
        )
        labels = card.train_ids()[channels]
        pictures = {
            f"{file.stem}.png": Image.fromarray(labels),
            f"{file.stem}_overlay.png": overlay(image, labels, names, colors),
        }
        for name, picture in pictures.items():
            with whole(out / name) as path:
                picture.save(path)
            print(out / name)
