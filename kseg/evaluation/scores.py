"""The score of a model on a split, and all that decides it."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from kseg.card import Normalization, seen_splits
from kseg.crf import DenseCRF
from kseg.errors import KsegWarning
from kseg.evaluation.confusion import ByName
from kseg.evaluation.counts import Counts
from kseg.predictor import InferenceSettings


@dataclasses.dataclass(frozen=True)
class Scores:
    """What ``evaluate`` measured, 0..1 and None where undefined, and how.

    Attributes:
        mean_iou: over the classes that occur in labels or predictions.
        class_iou: by class; 0 where it is predicted but absent, None where it is neither.
        category_iou: by category, None where the data set has none.
        class_iiou, category_iiou: instance-level IoU (arXiv:1604.01685, Section 3.2),
            None where not all samples have instances.
        mean_category_iou, mean_class_iiou, mean_category_iiou: their means.
        trimap_iou: mean IoU of the pixels in a band around the labels' borders, for
            widths from 1 pixel on; None unless boundaries were scored.
        boundary_f, mean_boundary_f: boundary F-score by class and its mean; None unless
            boundaries were scored.
        pixel_accuracy: share of the labelled pixels that are right.
        image_iou: mean IoU of each image alone, by the sample's name.
        confusion_matrix: pixels by label (rows) and prediction; the last column is no class.
        dataset, split, images: what was scored on, and its number of images.
        model, options, weights, trained_splits: of the card; for label maps ``model`` is their
            folder, and there are no splits.
        runtime: what ran the network, "label maps" where none did.
        settings: of the inference, ``input_size`` as it was used. This and the fields down
            to ``normalization`` are None for label maps.
        output, output_stride: form of the network's output, and the stride it has.
        backbone_stride: output stride of the backbone, None where there is no choice of it.
        resize, normalization: of the card.
        void_channels: channels of no class.
        seconds: that it took, earlier parts of a resumed score included.
        kseg: its version.
    """

    mean_iou: float | None
    class_iou: ByName
    category_iou: ByName | None
    class_iiou: ByName | None
    category_iiou: ByName | None
    mean_category_iou: float | None
    mean_class_iiou: float | None
    mean_category_iiou: float | None
    trimap_iou: list[float | None] | None
    boundary_f: ByName | None
    mean_boundary_f: float | None
    pixel_accuracy: float | None
    image_iou: ByName
    confusion_matrix: list[list[int]]
    dataset: str
    split: str
    images: int
    model: str
    options: dict[str, Any]
    weights: str | None
    trained_splits: tuple[str, ...]
    runtime: str
    settings: InferenceSettings | None
    output: str | None
    output_stride: int | None
    backbone_stride: int | None
    resize: str | None
    normalization: Normalization | None
    void_channels: tuple[int, ...]
    seconds: float
    kseg: str

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON, those of the settings in place of ``settings``."""
        return fields_to_json(vars(self))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Scores:
        """From what ``to_json`` gave, also after a file.

        Raises:
            KeyError, TypeError, ValueError: what is no such thing.
        """
        fields = dict(value)
        names = [field.name for field in dataclasses.fields(InferenceSettings)]
        settings = {name: fields.pop(name) for name in names}
        # Label maps are scored without any, and the overlap is None without windows.
        given = {name: setting for name, setting in settings.items() if setting is not None}
        if crf := given.get("crf"):
            given["crf"] = DenseCRF(**crf)
        normalization = fields["normalization"]
        return cls(
            **fields
            | {
                "settings": InferenceSettings(**given) if given else None,
                "normalization": normalization and Normalization(**normalization),
                "void_channels": tuple(fields["void_channels"]),
                "trained_splits": tuple(fields.get("trained_splits", ())),  # an earlier kseg's
            }
        )


def fields_to_json(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Some fields of ``Scores`` as plain JSON, those of the settings in place of ``settings``."""
    result: dict[str, Any] = {}
    for name, value in fields.items():
        if name == "settings":
            names = [field.name for field in dataclasses.fields(InferenceSettings)]
            result |= value.to_json() if value else dict.fromkeys(names)
        elif name == "normalization":
            result[name] = value and dataclasses.asdict(value)
        else:
            result[name] = value
    return result


def warn_of_labels(facts: Mapping[str, Any], counts: Counts) -> None:
    """Gives each doubt about the labels as a KsegWarning; ``facts`` are fields of ``Scores``."""
    for doubt in counts.doubts():
        warnings.warn(f"{facts['dataset']} {facts['split']}: {doubt}", KsegWarning, stacklevel=3)


def warn_of_seen(model: str, trained: Sequence[str], name: str, split: str) -> None:
    """Says so where weights are scored on images that they were trained on.

    Args:
        model: the network's name.
        trained, name, split: as for ``seen_splits``.

    Warns:
        KsegWarning: once, with the splits.
    """
    if seen := seen_splits(trained, name, split):
        # Any folder has these names.
        known = "if that was this folder, " if name in ("folder", "streets") else ""
        warnings.warn(
            f"{model}: its weights are trained on {' and '.join(seen)}; {known}the score on "
            f"{split} says nothing of new images, so score a split that they have not seen",
            KsegWarning,
            stacklevel=3,
        )


def without_threads(runtime: str) -> str:
    """The name of a runtime; the number of threads behind it does not change a score."""
    return runtime.partition(", ")[0]


def format_report(scores: Scores) -> str:
    """The scores as text: a class a line, then the means and what they stand for."""
    width = max(map(len, scores.class_iou))
    lines = _table("class", scores.class_iou, scores.class_iiou, width)
    if scores.category_iou is not None:
        lines += _table("category", scores.category_iou, scores.category_iiou, width)
    means = {
        "mean IoU": scores.mean_iou,
        "mean iIoU": scores.mean_class_iiou,
        "category IoU": scores.mean_category_iou,
        "category iIoU": scores.mean_category_iiou,
        "boundary F": scores.mean_boundary_f,
        "pixel acc.": scores.pixel_accuracy,
    }
    lines += [
        f"{title:<{width}} {_percent(value)}"
        for title, value in means.items()
        if value is not None or title == "mean IoU"
    ]
    if scores.trimap_iou:
        lines.append("mean IoU in a band around the labels' borders")
        for pixels in (1, 2, 5, 10, 20, 40):
            lines.append(f"{f'{pixels} px':<{width}} {_percent(scores.trimap_iou[pixels - 1])}")
    lines.append(describe(scores))
    return "\n".join(lines)


def _table(kind: str, iou: ByName, instance_iou: ByName | None, width: int) -> list[str]:
    """Lines of names and scores; without instances no second column."""
    if instance_iou is None:
        rows = [f"{name:<{width}} {_percent(value)}" for name, value in iou.items()]
        return [f"{kind:<{width}}  IoU %", *rows]
    rows = [
        f"{name:<{width}} {_percent(value)}  {_percent(instance_iou.get(name))}"
        for name, value in iou.items()
    ]
    return [f"{kind:<{width}}  IoU %  iIoU %", *rows]


def _percent(value: float | None) -> str:
    return "     -" if value is None else f"{100 * value:6.2f}"


def describe(scores: Scores) -> str:
    """What was scored and how, in a line."""
    parts = [f"{scores.dataset} {scores.split}", f"{scores.images} images"]
    settings = scores.settings
    if settings is None:
        return ", ".join([*parts, f"{scores.runtime} of {scores.model}"])
    parts.append(f"input {_size(settings.input_size)}")
    if settings.pad_to:
        parts.append(f"padded to {_size(settings.pad_to)}")
    parts.append(f"scales {' '.join(f'{scale:g}' for scale in settings.scales)}")
    parts.append("with flip" if settings.flip else "no flip")
    if settings.window:
        parts.append(f"windows {_size(settings.window)} overlap {settings.overlap:.2f}")
    if scores.backbone_stride:
        parts.append(f"output stride {scores.backbone_stride}")
    if settings.crf:
        parts.append("dense CRF")
    return ", ".join([*parts, scores.runtime])


def _size(value: tuple[int, int] | None) -> str:
    return "native" if value is None else f"{value[0]}x{value[1]}"
