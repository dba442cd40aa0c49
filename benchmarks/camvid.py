"""What a run on CamVid reached, into the package and into ``results/``.

``python benchmarks/camvid.py RUN CAMVID`` puts the weights of a complete run into
``kseg/weights``, with their score as they are shipped: of a run on train alone the state that was
best on val, if the folder has one (``checkpoints/best.keras``), else ``model.keras``, the last.
Of a run on train alone it writes besides

    results/camvid.csv     IoU by class of every shipped model, a column a class
    results/camvid.json    versions and machine
    docs/camvid.png        loss and mean IoU over the steps of all stages

A run that began with the weights of another (``--init OTHER/model.keras``), or with shipped ones,
is its next stage.
Weights of a run on train alone are ``camvid-train``, of one on train and val ``camvid``.
``python benchmarks/camvid.py`` without arguments draws the sample that kseg ships beside them and
runs the README's first lines, which make docs/street.png of it.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import table
from PIL import Image

from kseg import checkpoints, shipped
from kseg.data import open_dataset
from kseg.environment import environment
from kseg.evaluation import Scores, evaluate
from kseg.files import atomic_write
from kseg.loading import load, ship
from kseg.predictor import KerasPredictor
from kseg.report import rendered, training_curve
from kseg.streets import draw_scene

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "results/camvid.csv"
# Of a stage, by its number, in commands.
FINAL = "runs/camvid-{}/model.keras"
LICENCE = "CamVid (Brostow, Fauqueur, Cipolla 2009) is for research; so are weights trained on it"


def ship_run(run: Path, folder: Path) -> None:
    """Scores a complete run, ships its weights and writes its row and its curve."""
    records = [json.loads((stage / "config.json").read_text()) for stage in stages(run)]
    recipe, commands, init = before(records[0]["config"]["init"])
    for record in records:
        config, stage = record["config"], len(recipe) + 1
        if config["init"]:
            config["init"] = init or short(config["init"])
        if config.get("teacher"):
            config["teacher"] = short(config["teacher"])
        commands.append(command(record["command"], stage, config["init"]))
        recipe.append(config)
        init = FINAL.format(stage)
    splits = {part for config in recipe for part in config["split"].split("+")}
    held_out = splits == {"train"}
    best = run / "checkpoints/best.keras"
    is_best = held_out and best.exists()
    model = load(best if is_best else run / "model.keras")
    # As they are shipped: the score is of these.
    checkpoints.assign(model, checkpoints.with_half_kernels(checkpoints.published(model)))
    scores = None
    if held_out:
        scores = evaluate(KerasPredictor(model), open_dataset("camvid", folder, "val"))
    path = ship(
        model,
        "camvid-train" if held_out else "camvid",
        {
            "trained_on": f"camvid {'+'.join(sorted(splits))}",
            "scored_on": "camvid val" if scores else None,
            "mean_iou": scores and scores.mean_iou,
            "class_iou": scores and scores.class_iou,
            "state": "best on val of those scored" if is_best else "last",
            "recipe": recipe,
            "versions": records[-1]["versions"],
            "licence": LICENCE,
            "command": " && ".join(commands),
        },
    )
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    if scores:
        write_row(model.card.name, scores)
        figure = training_curve(history(stages(run)))
        with atomic_write(ROOT / "docs/camvid.png") as temporary:
            rendered(figure).save(temporary)
        print(f"{100 * scores.mean_iou:.2f} % on val")


def before(init: str | None) -> tuple[list[dict[str, Any]], list[str], str | None]:
    """Recipe, commands and last file of the stages that led to shipped weights, if it is them."""
    if not init or not shipped.is_name(init):
        return [], [], None
    facts = shipped.facts(init)
    last = FINAL.format(len(facts["recipe"]))
    if facts["state"] != "last":
        last = last.replace("model.keras", "checkpoints/best.keras")
    return facts["recipe"], facts["command"].split(" && "), last


def draw_sample() -> None:
    """A street at the size of CamVid's frames."""
    with atomic_write(shipped.SAMPLE) as path:
        Image.fromarray(draw_scene(21, 360, 480).image).save(path, quality=95)


def draw_first_picture() -> None:
    """The README's first lines, in ``docs``."""
    (script, *_) = re.findall(r"```python\n(.+?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    with contextlib.chdir(ROOT / "docs"):
        exec(compile(script, "README.md", "exec"), {})


def stages(run: Path) -> list[Path]:
    """The runs that led to a run, by their ``--init``, and the run itself."""
    config = json.loads((run / "config.json").read_text())["config"]
    before = config["init"] and Path(config["init"]).parent
    if before and (before / "config.json").is_file():
        return [*stages(before), run]
    return [run]


def history(runs: list[Path]) -> list[dict[str, str]]:
    """The rows of all runs, steps counted through."""
    rows: list[dict[str, str]] = []
    for run in runs:
        done = int(rows[-1]["step"]) if rows else 0
        with (run / "history.csv").open(newline="") as file:
            rows += [{**row, "step": str(int(row["step"]) + done)} for row in csv.DictReader(file)]
    return rows


def command(arguments: list[str], stage: int, init: str | None) -> str:
    """The command of a run, with folders as the README names them and one a stage.

    Args:
        init: what it began with, by the name that others have for it.
    """
    words = ["kseg", *arguments[1:]]
    for i, (flag, value) in enumerate(itertools.pairwise(words), 1):
        if flag == "--data-dir":
            words[i] = "$CAMVID"
        elif flag == "--run-dir":
            words[i] = f"runs/camvid-{stage}"
        elif flag == "--init":
            words[i] = init or value
        elif flag == "--teacher":
            words[i] = short(value)
    return " ".join(word if word.startswith("$") else shlex.quote(word) for word in words)


def short(path: str) -> str:
    """A path's last folder and file: ``lite0/model.keras``; a name stays as it is."""
    return "/".join(Path(path).parts[-2:])


def write_row(name: str, scores: Scores) -> None:
    """A row by model: mean IoU and IoU by class on val."""
    classes = {key: f"{value:.4f}" for key, value in scores.class_iou.items()}
    row = {"model": name, "mean_iou": f"{scores.mean_iou:.4f}", **classes}
    table.replace(TABLE, list(row), [row], environment())


if __name__ == "__main__":
    if len(sys.argv) == 1:
        draw_sample()
        draw_first_picture()
    else:
        ship_run(Path(sys.argv[1]), Path(sys.argv[2]))
