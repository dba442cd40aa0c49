"""Scores: the confusion matrix, the protocol and the report."""

from kseg.evaluation.confusion import ConfusionMatrix
from kseg.evaluation.evaluate import evaluate, format_report

__all__ = ["ConfusionMatrix", "evaluate", "format_report"]
