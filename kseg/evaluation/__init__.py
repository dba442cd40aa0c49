"""Scores: the confusion matrix, the protocol and the report."""

from kseg.evaluation.confusion import ConfusionMatrix
from kseg.evaluation.evaluate import evaluate, format_report
from kseg.evaluation.submission import write_submission

__all__ = ["ConfusionMatrix", "evaluate", "format_report", "write_submission"]
