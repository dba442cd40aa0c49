"""A .tflite file as an Android app: a Gradle project with camera, overlay and latency."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file and the project."""
    parser.add_argument("file", type=Path, metavar="FILE.tflite")
    parser.add_argument("folder", type=Path, metavar="DIR", help="new, or empty")


def run(args: argparse.Namespace) -> None:
    """Writes the project."""
    from kseg.tflite import write_android_project

    write_android_project(args.file, args.folder)
    print(f"{args.folder}: open it in Android Studio, or read its README.md")
