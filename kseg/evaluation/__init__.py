"""Scores of predictions: the evaluation of a split, and two predictors compared."""

from kseg.evaluation.comparison import Comparison, Disagreement, compare, format_comparison
from kseg.evaluation.confusion import ConfusionMatrix
from kseg.evaluation.predictions import LabelMaps
from kseg.evaluation.resume import SavedScores
from kseg.evaluation.scores import Scores, format_report
from kseg.evaluation.scoring import evaluate
from kseg.evaluation.submission import write_submission
from kseg.predictor import InferenceSettings

__all__ = [
    "Comparison",
    "ConfusionMatrix",
    "Disagreement",
    "InferenceSettings",
    "LabelMaps",
    "SavedScores",
    "Scores",
    "compare",
    "evaluate",
    "format_comparison",
    "format_report",
    "write_submission",
]
