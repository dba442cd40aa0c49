"""Scores a Predictor or a folder of label maps on a data set, at the labels' resolution."""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from kseg import shipped
from kseg._version import __version__
from kseg.card import whole_number
from kseg.data import WHOLE, DataSet, Sample, Shard, joint_digest
from kseg.errors import KsegError
from kseg.evaluation.counts import Counts
from kseg.evaluation.predictions import LabelMaps, Predictions, predictions_of
from kseg.evaluation.resume import SavedScores, content_of
from kseg.evaluation.scores import Scores, fields_to_json, warn_of_labels, warn_of_seen
from kseg.evaluation.shards import ScoreShard
from kseg.files import locked
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

    Warns:
        KsegWarning: weights that were trained on the split, unless it is called "train", or
            labels that may be meant otherwise.
    """
    counts, facts, seconds = _counted(
        source,
        data,
        WHOLE,
        inference_settings(settings, keywords),
        boundaries=boundaries,
        workers=workers,
        saved=saved,
        progress=progress,
    )
    warn_of_labels(facts, counts)
    return Scores(**counts.figures(), **facts, seconds=seconds)


def evaluate_shard(
    source: Predictor | LabelMaps,
    data: DataSet,
    shard: Shard,
    settings: InferenceSettings | None = None,
    *,
    file: Path | None = None,
    boundaries: bool = False,
    workers: int | None = None,
    saved: SavedScores | None = None,
    progress: Callable[[int, int], None] | None = None,
    **keywords: Any,
) -> ScoreShard:
    """``evaluate`` on a part of the split, which may be empty; ``merge_shards`` scores the whole.

    Args:
        source, data, settings, boundaries, workers, **keywords: as for ``evaluate``.
        shard: the part.
        file: that ``source`` is of; its content must be that of the other shards.
        saved, progress: as for ``evaluate``, of this part.

    Raises:
        KsegError: as ``evaluate``.
    """
    content = None if file is None else content_of(shipped.file_of(file))
    settings = inference_settings(settings, keywords)
    kinds = _kinds(data, boundaries)
    counts, facts, seconds = _counted(
        source,
        data,
        shard,
        settings,
        boundaries=boundaries,
        workers=workers,
        saved=saved,
        progress=progress,
    )
    return ScoreShard(
        shard=shard,
        facts=fields_to_json(facts),
        kinds=kinds,
        names=joint_digest(data.names),
        file=None if file is None else str(file),
        content=content,
        classes=data.classes,
        counts=counts,
        seconds=seconds,
    )


def _kinds(data: DataSet, boundaries: bool) -> dict[str, bool]:
    """The kinds of scores, as arguments of ``Counts``."""
    return {"instances": data.has_instances, "boundaries": boundaries}


def _counted(
    source: Predictor | LabelMaps,
    data: DataSet,
    shard: Shard,
    settings: InferenceSettings,
    *,
    boundaries: bool,
    workers: int | None,
    saved: SavedScores | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[Counts, dict[str, Any], float]:
    """The counts of a part of the split, the fields of ``Scores`` that decide them, and seconds.

    Args:
        source, data, shard, settings, boundaries, workers, saved, progress: as for
            ``evaluate_shard``.
    """
    if workers is not None and whole_number("workers", workers) < 1:
        raise KsegError(f"workers is {workers}; it must be at least 1")
    if not isinstance(data, DataSet):
        raise KsegError(f"data is a {type(data).__name__}; kseg.data.open_dataset makes a DataSet")
    if not data.samples:
        raise KsegError(f"{data.name} {data.split} has no images; name another split")
    part = data.part(shard)
    predictions = predictions_of(source, part, settings)
    facts = {
        **{"dataset": data.name, "split": data.split, "images": len(data)},
        **predictions.facts(),
        "kseg": __version__,
    }
    warn_of_seen(facts["model"], facts["trained_splits"], data.name, data.split)
    kinds = _kinds(data, boundaries)
    counts, seconds = Counts(data.classes, **kinds), 0.0
    with contextlib.ExitStack() as leaving:
        if saved:
            leaving.enter_context(locked(saved.path))
            run = {**fields_to_json(facts), **kinds}
            if shard != WHOLE:
                run["shard"] = str(shard)
            seconds = saved.load(run, part, counts, predictions.files())
        begin = time.monotonic() - seconds
        whole = True

        def save() -> None:
            # Ctrl-C may come between an image's counts; those of the last save are whole.
            if saved and whole:
                saved.save(counts, time.monotonic() - begin)

        leaving.callback(save)
        if progress and counts.images:
            progress(counts.images, len(part))
        samples = part.samples[counts.images :]
        for image in _count(predictions, data, samples, kinds, workers):
            whole = False
            counts.merge(image)
            whole = True
            if saved:
                saved.save_sometimes(counts, time.monotonic() - begin)
            if progress:
                progress(counts.images, len(part))
    return counts, facts, time.monotonic() - begin


def _count(
    predictions: Predictions,
    data: DataSet,
    samples: Sequence[Sample],
    kinds: dict[str, bool],
    workers: int | None,
) -> Iterator[Counts]:
    """The counts of each sample alone, in their order, a few samples in memory at a time."""

    def count(sample: Sample, label: np.ndarray, prediction: np.ndarray) -> Counts:
        instances = data.instances(sample, label.shape) if kinds["instances"] else None
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
