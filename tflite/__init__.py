"""TensorFlow Lite and ONNX: conversion, smaller models, and the Predictors of the files.

Names come when they are first used: what runs a file, such as a worker process, loads
nothing that only conversion needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kseg.lazy import lazy_names

if TYPE_CHECKING:
    from kseg.tflite.android_project import write_android_project
    from kseg.tflite.clustering import cluster
    from kseg.tflite.conversion import convert, convert_each
    from kseg.tflite.gpu import GpuPredictor
    from kseg.tflite.half import check_half
    from kseg.tflite.noise import format_noise, quantisation_noise
    from kseg.tflite.predictors import OnnxPredictor, TFLitePredictor
    from kseg.tflite.pruning import prune
    from kseg.tflite.qat import train_quantised
    from kseg.tflite.timing import Timing, benchmark
    from kseg.tflite.web_page import write_web_page

# Names that are no module's, by their modules.
_MODULES = {
    "GpuPredictor": "gpu",
    "OnnxPredictor": "predictors",
    "TFLitePredictor": "predictors",
    "Timing": "timing",
    "benchmark": "timing",
    "check_half": "half",
    "cluster": "clustering",
    "convert": "conversion",
    "convert_each": "conversion",
    "format_noise": "noise",
    "prune": "pruning",
    "quantisation_noise": "noise",
    "train_quantised": "qat",
    "write_android_project": "android_project",
    "write_web_page": "web_page",
}

__all__ = [
    "GpuPredictor",
    "OnnxPredictor",
    "TFLitePredictor",
    "Timing",
    "benchmark",
    "check_half",
    "cluster",
    "convert",
    "convert_each",
    "format_noise",
    "prune",
    "quantisation_noise",
    "train_quantised",
    "write_android_project",
    "write_web_page",
]

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
