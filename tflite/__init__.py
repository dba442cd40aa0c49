"""TensorFlow Lite: conversion and the Predictors of its files."""

from kseg.tflite.benchmark import Timing, benchmark
from kseg.tflite.convert import convert, convert_each
from kseg.tflite.gpu import GpuPredictor
from kseg.tflite.predictors import TFLitePredictor

__all__ = ["GpuPredictor", "TFLitePredictor", "Timing", "benchmark", "convert", "convert_each"]
