"""TensorFlow Lite and ONNX: conversion and the Predictors of their files."""

from kseg.tflite.benchmark import Timing, benchmark
from kseg.tflite.convert import convert, convert_each
from kseg.tflite.gpu import GpuPredictor
from kseg.tflite.noise import format_noise, quantisation_noise
from kseg.tflite.predictors import OnnxPredictor, TFLitePredictor

__all__ = [
    "GpuPredictor",
    "OnnxPredictor",
    "TFLitePredictor",
    "Timing",
    "benchmark",
    "convert",
    "convert_each",
    "format_noise",
    "quantisation_noise",
]
