"""Writes a web page that runs a .tflite file in the browser: photograph, video or camera.

Serve the folder with any server of files, such as `python -m http.server -d DIR`. Cameras
and WebGPU need localhost or https.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file and the page."""
    parser.add_argument("file", type=Path, metavar="FILE.tflite")
    parser.add_argument("folder", type=Path, metavar="DIR", help="new, or empty")
    parser.add_argument(
        "--packages",
        type=Path,
        metavar="DIR",
        help="folder with LiteRT.js' archives (default: fetched by npm pack)",
    )


def run(args: argparse.Namespace) -> None:
    """Writes the page."""
    from kseg.tflite import write_web_page

    write_web_page(args.file, args.folder, args.packages)
    print(f"{args.folder}: python -m http.server -d {args.folder}")
