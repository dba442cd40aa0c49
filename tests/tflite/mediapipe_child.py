"""Runs .tflite files in MediaPipe's ImageSegmenter, under the Python of .venv-mediapipe.

``python mediapipe_child.py IMAGE.npy OUT.npz FILE...`` saves by the file's stem: the error,
or the labels, the category mask (H, W) and the confidence masks (C, H, W); and the
metadata as MediaPipe's own reader sees it, as JSON.
"""

# ruff: noqa: E402

import json
import sys
import types
from pathlib import Path

# What MediaPipe imports to draw with, and this does not.
for name in ("cv2", "matplotlib", "matplotlib.pyplot"):
    sys.modules[name] = types.ModuleType(name)

import mediapipe
import numpy as np
from mediapipe.tasks.metadata import (
    image_segmenter_metadata_schema_py_generated as segmenter_schema,
)
from mediapipe.tasks.metadata import metadata_schema_py_generated as metadata_schema
from mediapipe.tasks.metadata import schema_py_generated as model_schema
from mediapipe.tasks.python import BaseOptions, vision


def plain(value: object) -> object:
    """The schema's objects as what JSON has; bytes are text."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list):
        return [plain(item) for item in value]
    if hasattr(value, "__dict__"):
        return {key: plain(item) for key, item in vars(value).items()}
    return value


def metadata(path: Path) -> dict:
    content = path.read_bytes()
    model = model_schema.Model.GetRootAs(content)
    for i in range(model.MetadataLength()):
        if model.Metadata(i).Name() == b"TFLITE_METADATA":
            data = model.Buffers(model.Metadata(i).Buffer()).DataAsNumpy().tobytes()
    assert metadata_schema.ModelMetadata.ModelMetadataBufferHasIdentifier(data, 0)
    result = metadata_schema.ModelMetadataT.InitFromPackedBuf(data)
    (custom,) = result.subgraphMetadata[0].customMetadata
    options = bytes(custom.data)
    kind = segmenter_schema.ImageSegmenterOptions
    assert kind.ImageSegmenterOptionsBufferHasIdentifier(options, 0)
    custom.data = segmenter_schema.ImageSegmenterOptionsT.InitFromPackedBuf(options)
    return plain(result)


def run(path: Path, image: np.ndarray) -> dict[str, np.ndarray]:
    options = vision.ImageSegmenterOptions(
        base_options=BaseOptions(model_asset_path=str(path)),
        output_category_mask=True,
        output_confidence_masks=True,
    )
    try:
        segmenter = vision.ImageSegmenter.create_from_options(options)
    except (RuntimeError, ValueError) as error:
        return {"error": np.array(str(error))}
    with segmenter:
        result = segmenter.segment(
            mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=image)
        )
        masks = [mask.numpy_view() for mask in result.confidence_masks]
        return {
            "labels": np.array(segmenter.labels),
            # A copy: the view is of memory that goes with the result.
            "category": np.array(result.category_mask.numpy_view()).reshape(image.shape[:2]),
            "confidence": np.stack([mask.reshape(image.shape[:2]) for mask in masks]),
        }


def main() -> None:
    image = np.load(sys.argv[1])
    found = {}
    for path in map(Path, sys.argv[3:]):
        found[f"{path.stem}/metadata"] = np.array(json.dumps(metadata(path)))
        found |= {f"{path.stem}/{key}": value for key, value in run(path, image).items()}
    np.savez(sys.argv[2], **found)


if __name__ == "__main__":
    main()
