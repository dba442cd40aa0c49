"""Scores of predictions: the evaluation of a split, and two predictors compared."""

from kseg.evaluation.comparison import Comparison, Disagreement, compare, format_comparison
from kseg.evaluation.confusion import ConfusionMatrix
from kseg.evaluation.predictions import LabelMaps
from kseg.evaluation.resume import SavedScores
from kseg.evaluation.scores import Scores, format_report
from kseg.evaluation.scoring import evaluate, evaluate_shard
from kseg.evaluation.shards import ScoreShard, merge_shards
from kseg.evaluation.submission import write_submission
from kseg.predictor import InferenceSettings

__all__ = [
    "Comparison",
    "ConfusionMatrix",
    "Disagreement",
    "InferenceSettings",
    "LabelMaps",
    "SavedScores",
    "ScoreShard",
    "Scores",
    "compare",
    "evaluate",
    "evaluate_shard",
    "format_comparison",
    "format_report",
    "merge_shards",
    "write_submission",
]
