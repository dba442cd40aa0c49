"""Scores a Predictor or a folder of label maps on a data set, at the labels' resolution."""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from kseg._version import __version__
from kseg.data import DataSet, Sample
from kseg.errors import KsegError, KsegWarning
from kseg.evaluation.counts import Counts
from kseg.evaluation.predictions import LabelMaps, Predictions, predictions_of
from kseg.evaluation.resume import SavedScores
from kseg.evaluation.scores import Scores, fields_to_json
from kseg.predictor import InferenceSettings, Predictor, inference_settings


def evaluate(
    source: Predictor | LabelMaps,
    data: DataSet,
    settings: InferenceSettings | None = None,
    *,
    boundaries: bool = False,
    workers: int | None = None,
    saved: SavedScores | None = None,
    progress: Callable[[int, int], None] | None = None,
    **keywords: Any,
) -> Scores:
    """The scores of a split, and all that decides them.

    The network sees one image at a time; threads read the next ones and count the last,
    in the order of the samples, so that their number does not change the score.

    Args:
        source: runs the network, or has its label maps.
        data: a split with labels.
        settings: of the inference; None for the defaults, and for label maps.
        boundaries: measures along the labels' borders as well (extra ``boundaries``).
        workers: threads, each of which holds an image or two; None is one a CPU, at most 4.
        saved: keeps the counts in a file, and continues from those that are there.
        progress: called with (images done, images in all).
        **keywords: fields of ``InferenceSettings``, in place of ``settings``.

    Raises:
        KsegError: classes that do not match, no images, saved scores of another run, or
            an image, label or network that fails.
    """
    if workers is not None and workers < 1:
        raise KsegError(f"workers is {workers}; it must be at least 1")
    if not data.samples:
        raise KsegError(f"{data.name} {data.split} has no images; name another split")
    predictions = predictions_of(source, data, inference_settings(settings, keywords))
    facts = {"dataset": data.name, "split": data.split, "images": len(data), **predictions.facts()}
    kinds = {"instances": data.has_instances, "boundaries": boundaries}
    counts, seconds = Counts(data.classes, **kinds), 0.0
    if saved:
        run = {**fields_to_json(facts), **kinds, "kseg": __version__}
        seconds = saved.load(run, data, counts, predictions.files())
    begin = time.monotonic() - seconds
    if progress and counts.images:
        progress(counts.images, len(data))
    try:
        samples = data.samples[counts.images :]
        for image in _count(predictions, data, samples, kinds, workers):
            counts.merge(image)
            if saved:
                saved.save_sometimes(counts, time.monotonic() - begin)
            if progress:
                progress(counts.images, len(data))
    finally:
        if saved:
            saved.save(counts, time.monotonic() - begin)
    seconds = time.monotonic() - begin
    for doubt in counts.doubts():
        warnings.warn(f"{data.name} {data.split}: {doubt}", KsegWarning, stacklevel=2)
    return Scores(**counts.figures(), **facts, seconds=seconds, kseg=__version__)


def _count(
    predictions: Predictions,
    data: DataSet,
    samples: Sequence[Sample],
    kinds: dict[str, bool],
    workers: int | None,
) -> Iterator[Counts]:
    """The counts of each sample alone, in their order, a few samples in memory at a time."""

    def count(sample: Sample, label: np.ndarray, prediction: np.ndarray) -> Counts:
        instances = data.instances(sample, label.shape) if data.has_instances else None
        image = Counts(data.classes, **kinds)
        try:
            image.add(sample.name, label, prediction, instances)
        except KsegError as error:
            raise KsegError(f"{sample.instances or sample.label}: {error}") from error
        return image

    workers = workers or min(4, os.cpu_count() or 1)
    rest = iter(samples)
    reads: collections.deque[tuple[Sample, Future]] = collections.deque()
    counted: collections.deque[Future] = collections.deque()
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        # Tasks that have not begun when something fails are dropped.
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        for sample in itertools.islice(rest, workers):
            reads.append((sample, pool.submit(predictions.read, sample)))
        while reads or counted:
            if reads:
                sample, read = reads.popleft()
                content, label = read.result()
                for following in itertools.islice(rest, 1):
                    reads.append((following, pool.submit(predictions.read, following)))
                prediction = predictions.predict(sample, content, label.shape)
                counted.append(pool.submit(count, sample, label, prediction))
            if not reads or len(counted) > workers:
                yield counted.popleft().result()
