"""Scores: the confusion matrix, the protocol, the report, and two files compared."""

from kseg.evaluation.answers import LabelMaps
from kseg.evaluation.compare import Disagreement, compare, format_comparison
from kseg.evaluation.confusion import ConfusionMatrix
from kseg.evaluation.evaluate import evaluate, format_report
from kseg.evaluation.resume import SavedScores
from kseg.evaluation.submission import write_submission

__all__ = [
    "ConfusionMatrix",
    "Disagreement",
    "LabelMaps",
    "SavedScores",
    "compare",
    "evaluate",
    "format_comparison",
    "format_report",
    "write_submission",
]
