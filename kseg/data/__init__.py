"""Data sets: files on disk to RGB images and label maps of train ids."""

from kseg.data.classes import CAMVID, CITYSCAPES, IGNORE, VOC, ClassTable
from kseg.data.datasets import DataSet, Sample, list_datasets, open_dataset, read_image

__all__ = [
    "CAMVID",
    "CITYSCAPES",
    "IGNORE",
    "VOC",
    "ClassTable",
    "DataSet",
    "Sample",
    "list_datasets",
    "open_dataset",
    "read_image",
]
