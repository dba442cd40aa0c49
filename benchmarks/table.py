"""Tables under ``results/`` that are written model by model.

Beside ``x.csv`` lies ``x.json`` with what it was measured with, of ``kseg.environment``.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kseg
from kseg.environment import environment
from kseg.files import atomic_write

Row = dict[str, Any]

RESULTS = Path(__file__).parents[1] / "results"


def cpu() -> str:
    """What rows of milliseconds say of the CPU: the last of its instructions that matter.

    That is "avx512_vnni" where int8 has instructions of its own, and "avx2" without them.
    """
    machine = environment()["machine"]
    return [machine["kind"], *machine["instructions"]][-1]


def facts_but_cpu(*packages: str) -> dict[str, Any]:
    """``kseg.environment``'s, for tables whose rows have a column "cpu" of their own."""
    facts = environment(*packages)
    del facts["machine"]["instructions"]
    return facts


def read(table: Path) -> list[Row]:
    """The rows; none where there is no table."""
    return list(csv.DictReader(table.read_text().splitlines())) if table.exists() else []


def read_current(table: Path, facts: dict[str, Any]) -> list[Row]:
    """The rows, if ``facts`` has the versions that they were measured with."""
    beside = table.with_suffix(".json")
    if not beside.exists() or json.loads(beside.read_text())["versions"] != facts["versions"]:
        return []
    return read(table)


def replace(
    table: Path,
    columns: Sequence[str],
    rows: list[Row],
    facts: dict[str, Any],
    names: Sequence[str] | None = None,
) -> None:
    """Puts models' rows in place of those there, beside other models' rows, in order.

    Where rows have a column "cpu", those of other CPUs stay beside them too. Rows that other
    versions have measured go, and those of models that are no more.

    Args:
        table: the .csv file; the .json file beside it gets ``facts``.
        columns: of the table.
        rows: with a column "model".
        facts: what the rows were measured with.
        names: all models of the table in their order, None for the zoo's.
    """
    new = {(row["model"], row.get("cpu")) for row in rows}
    every = kseg.list_models() if names is None else names
    order = {name: number for number, name in enumerate(every)}
    kept = [
        row
        for row in read_current(table, facts)
        if row["model"] in order and (row["model"], row.get("cpu")) not in new
    ]
    ordered = sorted([*kept, *rows], key=lambda row: (order[row["model"]], row.get("cpu", "")))
    write(table, columns, ordered, facts)


def write(table: Path, columns: Sequence[str], rows: list[Row], facts: dict[str, Any]) -> None:
    """The whole table, and ``facts`` beside it."""
    with atomic_write(table) as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with atomic_write(table.with_suffix(".json")) as path:
        path.write_text(json.dumps(facts, indent=1) + "\n")
