"""TensorFlow Lite: conversion and the Predictors of its files."""

from kseg.tflite.convert import convert
from kseg.tflite.predictors import TFLitePredictor

__all__ = ["TFLitePredictor", "convert"]
