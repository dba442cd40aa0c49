"""Data sets: files on disk to RGB images and label maps of train ids."""

from kseg.data.classes import (
    CAMVID,
    CITYSCAPES,
    IGNORE,
    VOC,
    ClassTable,
    LabelCounts,
    first_difference,
    label_doubts,
    never_occurring,
)
from kseg.data.datasets import DataSet, check_outputs, list_datasets, open_dataset
from kseg.data.finding import Sample
from kseg.data.fingerprint import file_digests, joint_digest
from kseg.data.reading import read_image
from kseg.data.shard_files import read_shards
from kseg.data.shards import WHOLE, Shard

__all__ = [
    "CAMVID",
    "CITYSCAPES",
    "IGNORE",
    "VOC",
    "WHOLE",
    "ClassTable",
    "DataSet",
    "LabelCounts",
    "Sample",
    "Shard",
    "check_outputs",
    "file_digests",
    "first_difference",
    "joint_digest",
    "label_doubts",
    "list_datasets",
    "never_occurring",
    "open_dataset",
    "read_image",
    "read_shards",
]
