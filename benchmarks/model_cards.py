"""Pages of the documentation that are made of the zoo and of the tables in ``results/``.

A page a network, and a table of them. A new row of the zoo, recipe, shipped weight or table with
a column "model" appears by itself.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import table
from page import markdown

from kseg import shipped
from kseg.backbones.encoders import ENCODERS
from kseg.networks import Variant
from kseg.training.recipes import RECIPES, Recipe
from kseg.zoo import find_variant, list_models, published_cells


class _Shown(NamedTuple):
    """How a page shows a table of ``results/``.

    Attributes:
        title: of the section.
        text: what the columns are.
        titles: of columns that have another title than their name.
    """

    title: str
    text: str
    titles: Mapping[str, str] = MappingProxyType({})


_COMMON = {"bytes": "kB", "packed": "kB in a package", "run_ms": "ms", "p90_ms": "90th percentile"}

_TABLES = {
    "gpu": _Shown(
        "TensorFlow Lite: CPU and GPU accelerator",
        "The files in every precision, with random weights. *Keras* is the largest difference of "
        "the CPU's logits from Keras', and *GPU* that of the GPU accelerator's from the CPU's, "
        "both by the range of the logits. *same class* is the share of pixels that have the same "
        "class on both.",
        {"keras": "Keras", "gpu": "GPU", "decibels": "GPU, dB", "same_class": "same class"},
    ),
    "onnx": _Shown(
        "ONNX Runtime",
        "The largest difference of ONNX Runtime's logits from Keras', by their range.",
        {"keras": "Keras"},
    ),
    "tflite": _Shown(
        "Time on a CPU",
        "Images of 512x1024, two threads, medians; *times* says how many times as fast as fp32 the "
        "file is. [How it was measured](../latency.md#every-network).",
        {"copy_ms": "copies, ms", "argmax_ms": "argmax, ms"},
    ),
    "quantisation": _Shown(
        "Score by precision",
        "Trained weights, scored on CamVid val. [More](../latency.md#what-precision-costs).",
        {"mean_iou": "mean IoU, %"},
    ),
    "runtimes": _Shown(
        "Time on other runtimes",
        "The same graph in float32. [More](../latency.md#compared-with-other-runtimes).",
        {"of_best": "by the best of the others", "of_smaller": "by a quarter of the pixels"},
    ),
    "camvid": _Shown("IoU by class", "The weights that come with kseg, on CamVid val."),
    "training_step": _Shown(
        "A training step",
        "[How it was measured](../training.md#what-a-step-costs).",
    ),
}
# Counts that the facts have, and the kernels of single files.
_LEFT_OUT = ("zoo", "operators")
# Of every table: what is no fact about the network.
_HIDDEN = ("model", "graph", "command", "operators", "weights", "runs", "turns", "note")


def pages() -> dict[str, str]:
    """Markdown by the page's path in the site: ``models/index.md`` and a page a network."""
    tables = {path.stem: table.read(path) for path in sorted(table.RESULTS.glob("*.csv"))}
    tables = {
        title: rows
        for title, rows in tables.items()
        if title not in _LEFT_OUT and rows and "model" in rows[0]
    }
    # Known ones first, in their order.
    order = [*(t for t in _TABLES if t in tables), *(t for t in tables if t not in _TABLES)]
    made = {"models/index.md": _index()}
    for name in list_models():
        sections = [_facts(name), _weights(name), _recipes(name)]
        for title in order:
            rows = [row for row in tables[title] if row["model"] == name]
            if rows:
                sections.append(_table(title, rows))
        made[f"models/{name}.md"] = "\n\n".join(sections) + "\n"
    return made


def _index() -> str:
    rows = [[f"[{name}]({name}.md)", *published_cells(name), _here(name)] for name in list_models()]
    head = ["network", "parameters", "multiply-adds", "published mean IoU, %", "weights in kseg"]
    return (
        "# Networks\n\n"
        "Each page has the facts of a network, where weights for it come from, the recipes, how "
        "far its files agree and how long they take. Any head on any encoder is a network too: "
        '`kseg.create_model("unet.EfficientNetLite0")`, and `kseg encoders` lists both.\n\n'
        f"{markdown(head, rows)}\n"
    )


def _shipped_for(name: str) -> list[str]:
    return [weights for weights in shipped.list_shipped() if weights.partition(":")[2] == name]


def _here(name: str) -> str:
    return ", ".join(f"`{weights}`" for weights in _shipped_for(name)) or "-"


def _facts(name: str) -> str:
    variant = find_variant(name)
    parameters, _, score = published_cells(name)
    costs = [f"{n / 1e9:.2f} G at {h}x{w}" for (h, w), n in variant.multiply_adds.items()]
    classes = f"{variant.num_classes}"
    if variant.dataset:
        classes += f", of {variant.dataset}"
    if variant.void_channels:
        classes += f"; void channels {', '.join(map(str, variant.void_channels))}"
    mean, std = (
        ", ".join(f"{number:g}" for number in values)
        for values in (variant.normalization.mean, variant.normalization.std)
    )
    normalization = f"(x - ({mean})) / ({std}), {variant.normalization.channel_order}"
    rows = [
        ("parameters", f"{parameters}, with {variant.num_classes} classes"),
        ("multiply-adds", "; ".join(costs) or "-"),
        ("published mean IoU, %", score),
        ("source", _linked(variant.source)),
        ("published classes", classes),
        ("normalisation, part of the graph", normalization),
        ("resize", variant.resize),
    ]
    if variant.least_size > 1:
        rows.append(("smallest input", f"{variant.least_size}x{variant.least_size}"))
    if variant.encoder is not None:
        encoder = next(key for key, value in ENCODERS.items() if value is variant.encoder)
        strides = ", ".join(map(str, variant.encoder.output_strides()))
        rows.append(("encoder", f"`{encoder}`, output stride {strides}"))
    return (
        f"# {name}\n\n{markdown(('fact', 'value'), rows)}\n\n```python\n"
        f'model = kseg.create_model("{name}", num_classes={variant.num_classes})\n```\n\n'
        f"Options, with this row's values:\n\n{_options(variant)}"
    )


def _options(variant: Variant) -> str:
    parameters = inspect.signature(variant.builder).parameters.values()
    values = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    rows = [[f"`{key}`", f"`{value!r}`"] for key, value in {**values, **variant.options}.items()]
    return markdown(("option", "value"), rows) if rows else "none."


def _linked(source: str) -> str:
    """A row's source, with links to papers and repositories."""
    source = re.sub(r"arXiv:(\d+\.\d+)", r"[arXiv:\1](https://arxiv.org/abs/\1)", source)
    return re.sub(r"(?<!/)\b(github\.com/[\w.-]+/[\w.-]*\w)", r"[\1](https://\1)", source) or "-"


def _weights(name: str) -> str:
    variant = find_variant(name)
    parts = ["## Weights"]
    for weights in _shipped_for(name):
        facts = shipped.facts(weights)
        score = "not scored"
        if facts["mean_iou"]:
            score = f"{100 * facts['mean_iou']:.2f} % mean IoU on {facts['scored_on']}"
        parts.append(
            f"`{weights}` comes with kseg: trained on {facts['trained_on']}, {score}. "
            f"Licence: {facts['licence']}.\n\n```\nkseg convert {weights} {name}.tflite\n```"
        )
    layout = {"pytorch": "PyTorch", "tf_slim": "TF-Slim"}[variant.tensors]
    parts.append(
        f"Published checkpoints are read by their tensor names ({layout} layout). kseg does not "
        "distribute them, and their authors' licence holds: read it before you use or pass on "
        f"their weights.\n\n```\nkseg import {name} CHECKPOINT {name}.keras\n```"
    )
    if variant.encoder is not None:
        parts.append(f"ImageNet weights of the encoder: {variant.encoder.imagenet}.")
    return "\n\n".join(parts)


def _recipes(name: str) -> str:
    own = {title: recipe for title, recipe in RECIPES.items() if recipe.values["model"] == name}
    if not own:
        return (
            "## Recipe\n\nNone of a paper; `kseg train` has defaults for every network.\n\n```\n"
            f"kseg train --model {name} --dataset folder --data-dir photos --run-dir runs/own\n```"
        )
    return "\n\n".join(_recipe(title, recipe) for title, recipe in own.items())


def _recipe(title: str, recipe: Recipe) -> str:
    keys = sorted({*recipe.values, *recipe.notes} - {"model"})
    rows = [
        (
            f"`{key}`",
            f"`{recipe.values[key]!r}`" if key in recipe.values else "default",
            recipe.notes.get(key, ""),
        )
        for key in keys
    ]
    return (
        f"## Recipe {title}\n\n{_linked(recipe.source)}\n\n```\n"
        f"kseg train --recipe {title} --run-dir runs/{title}\n```\n\n"
        f"{markdown(('setting', 'value', 'source, or what differs'), rows)}"
    )


def _table(title: str, rows: list[table.Row]) -> str:
    shown = _TABLES.get(title, _Shown(title, f"Of `results/{title}.csv`."))
    titles = {**_COMMON, **shown.titles}
    # Columns without a value in any row say nothing; notes are sentences.
    columns = [key for key in rows[0] if key not in _HIDDEN and any(row[key] for row in rows)]
    cells = [[_cell(key, row[key]) for key in columns] for row in rows]
    text = markdown([titles.get(key, key) for key in columns], cells)
    source = f"[{title}.csv](../results/{title}.csv)"
    notes = [
        f"- {row['precision']}: {row['note']}" if "precision" in row else f"- {row['note']}"
        for row in rows
        if row.get("note")
    ]
    parts = [f"## {shown.title}", f"{shown.text} All columns: {source}.", text]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])])


def _cell(column: str, value: str) -> str:
    if not value:
        return "-"
    return f"{int(value) / 1e3:.0f}" if column in ("bytes", "packed") else value.replace("|", r"\|")
