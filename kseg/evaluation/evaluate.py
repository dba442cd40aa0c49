"""Scores a Predictor or a folder of label maps on a data set, at the labels' resolution."""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from kseg._version import __version__
from kseg.crf import DenseCRF
from kseg.data import DataSet, Sample
from kseg.errors import KsegError
from kseg.evaluation.answers import Answers, LabelMaps, answers
from kseg.evaluation.resume import SavedScores
from kseg.evaluation.scores import Scores
from kseg.predictor import Predictor


def evaluate(
    source: Predictor | LabelMaps,
    data: DataSet,
    *,
    input_size: tuple[int, int] | None = None,
    pad_to: tuple[int, int] | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    window: tuple[int, int] | None = None,
    overlap: float = 1 / 3,
    crf: DenseCRF | None = None,
    boundaries: bool = False,
    workers: int | None = None,
    saved: SavedScores | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """The score and all that decides it, as plain JSON.

    The network sees one image at a time; threads read the next ones and count the last,
    in the order of the samples, so that their number does not change the score.

    Args:
        source: runs the network, or has its answers.
        data: a split with labels.
        input_size, pad_to, scales, flip, window, overlap, crf: as for ``predict_labels``.
        boundaries: measures along the labels' borders as well.
        workers: threads, each of which holds an image or two; None is one a CPU, at most 4.
        saved: the scores so far are kept there, and taken up if there are any.
        progress: called with (images done, images in all).

    Returns:
        ``mean_iou``, ``class_iou`` by official name, ``pixel_accuracy`` (0..1, None
        where undefined), ``confusion_matrix`` and the settings. Where the data set has
        categories ``category_iou``, and where all samples have instances ``class_iiou``
        and ``category_iiou``, with their means as ``mean_category_iou`` and so on; with
        ``boundaries`` ``trimap_iou``, a list over the band's width from 1 pixel on, and
        ``boundary_f`` by class; None elsewhere. ``image_iou`` is the mean IoU of every
        image alone.

    Raises:
        KsegError: classes that do not match, no images, saved scores of another run, or
            an image, label or network that fails.
    """
    if workers is not None and workers < 1:
        raise KsegError(f"workers is {workers}; it must be at least 1")
    if not data.samples:
        raise KsegError(f"{data.name} {data.split} has no images; name another split")
    way = dict(input_size=input_size, pad_to=pad_to, scales=tuple(scales), flip=flip)
    way |= dict(window=window, overlap=overlap, crf=crf)
    told = answers(source, data, **way)
    kind = dict(instances=data.has_instances, boundaries=boundaries)
    scores = Scores(data.classes, **kind)
    run = {"dataset": data.name, "split": data.split, "images": len(data), **told.facts()}
    spent = saved.load({**run, **kind, "kseg": __version__}, data, scores) if saved else 0.0
    begin = time.monotonic() - spent
    counted = _counted(
        told,
        data,
        data.samples[scores.images :],
        lambda: Scores(data.classes, **kind),
        workers or min(4, os.cpu_count() or 1),
    )
    if progress and scores.images:
        progress(scores.images, len(data))
    try:
        for alone in counted:
            scores.merge(alone)
            if saved:
                saved.save_sometimes(scores, time.monotonic() - begin)
            if progress:
                progress(scores.images, len(data))
    finally:
        if saved:
            saved.save(scores, time.monotonic() - begin)
    return {**scores.report(), **run, "seconds": time.monotonic() - begin, "kseg": __version__}


def _counted(
    told: Answers,
    data: DataSet,
    samples: Sequence[Sample],
    empty: Callable[[], Scores],
    workers: int,
) -> Iterator[Scores]:
    """Every sample's own scores, in their order, a few samples in memory at a time."""

    def count(sample: Sample, label: np.ndarray, answer: np.ndarray) -> Scores:
        ids = data.instances(sample, label.shape) if data.has_instances else None
        scores = empty()
        try:
            scores.add(sample.name, label, answer, ids)
        except KsegError as error:
            raise KsegError(f"{sample.instances or sample.label}: {error}") from error
        return scores

    rest = iter(samples)
    reads: collections.deque[tuple[Sample, Future]] = collections.deque()
    counts: collections.deque[Future] = collections.deque()
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        # What is not begun when something fails never begins.
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        for sample in itertools.islice(rest, workers):
            reads.append((sample, pool.submit(told.read, sample)))
        while reads or counts:
            if reads:
                sample, read = reads.popleft()
                content, label = read.result()
                for following in itertools.islice(rest, 1):
                    reads.append((following, pool.submit(told.read, following)))
                answer = told.answer(sample, content, label.shape)
                counts.append(pool.submit(count, sample, label, answer))
            if not reads or len(counts) > workers:
                yield counts.popleft().result()


def format_report(report: dict[str, Any]) -> str:
    """The report as text: a class a line, then the means and what they stand for."""

    def percent(value: float | None) -> str:
        return "     -" if value is None else f"{100 * value:6.2f}"

    width = max(map(len, report["class_iou"]))
    lines = []
    for kind in ("class", "category"):
        scores, weighted = report[f"{kind}_iou"], report[f"{kind}_iiou"]
        if scores is None:
            continue
        second = "  iIoU %" if weighted is not None else ""
        lines.append(f"{kind:<{width}}  IoU %{second}")
        for name, iou in scores.items():
            second = "" if weighted is None else f"  {percent(weighted.get(name))}"
            lines.append(f"{name:<{width}} {percent(iou)}{second}")
    means = {
        "mean IoU": "mean_iou",
        "mean iIoU": "mean_class_iiou",
        "category IoU": "mean_category_iou",
        "category iIoU": "mean_category_iiou",
        "boundary F": "mean_boundary_f",
        "pixel acc.": "pixel_accuracy",
    }
    shown = {title: report[key] for title, key in means.items()}
    lines += [
        f"{title:<{width}} {percent(value)}"
        for title, value in shown.items()
        if value is not None or title == "mean IoU"
    ]
    if report["trimap_iou"]:
        lines.append("mean IoU in a band around the labels' borders")
        widths = (1, 2, 5, 10, 20, 40)
        lines += [f"{f'{w} px':<{width}} {percent(report['trimap_iou'][w - 1])}" for w in widths]
    lines.append(describe(report))
    return "\n".join(lines)


def describe(report: dict[str, Any]) -> str:
    """What was scored and how, in a line."""

    def size(value: tuple[int, int] | None) -> str:
        return "native" if value is None else f"{value[0]}x{value[1]}"

    parts = [f"{report['dataset']} {report['split']}", f"{report['images']} images"]
    if not report["output"]:
        return ", ".join([*parts, f"{report['runtime']} of {report['model']}"])
    parts.append(f"input {size(report['input_size'])}")
    if report["pad_to"]:
        parts.append(f"padded to {size(report['pad_to'])}")
    parts.append(f"scales {' '.join(f'{scale:g}' for scale in report['scales'])}")
    parts.append("with flip" if report["flip"] else "no flip")
    if report["window"]:
        parts.append(f"windows {size(report['window'])} overlap {report['overlap']:.2f}")
    if report["backbone_stride"]:
        parts.append(f"output stride {report['backbone_stride']}")
    if report["crf"]:
        parts.append("dense CRF")
    return ", ".join([*parts, report["runtime"]])
