"""Tables under ``results/`` that are written model by model."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kseg
from kseg.files import whole


def read(table: Path) -> list[dict[str, str]]:
    """The rows; none where there is no table."""
    return list(csv.DictReader(table.read_text().splitlines())) if table.exists() else []


def replace(
    table: Path, columns: Sequence[str], rows: list[dict[str, Any]], facts: dict[str, Any]
) -> None:
    """Puts models' rows in place of those there, beside other models' rows, as the zoo orders them.

    Args:
        table: the .csv file; the .json file beside it gets ``facts``.
        columns: of the table.
        rows: with a column "model".
        facts: what the rows were measured with.
    """
    names = {row["model"] for row in rows}
    kept = [row for row in read(table) if row["model"] not in names]
    order = {name: number for number, name in enumerate(kseg.list_models())}
    with whole(table) as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted([*kept, *rows], key=lambda row: order[row["model"]]))
    with whole(table.with_suffix(".json")) as path:
        path.write_text(json.dumps(facts, indent=1) + "\n")
