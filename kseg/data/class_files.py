"""``classes.txt``: the classes of a user's own data set, as people write them down."""

from __future__ import annotations

import codecs
import csv
import dataclasses
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from kseg.data.classes import BAD, IGNORE, ClassTable, color_of
from kseg.errors import KsegError, KsegWarning
from kseg.pictures import Color, spread_colors

_HEADERS = {
    "name": ("name", "names", "class", "classes", "class_name", "classname", "label", "labels"),
    "id": ("id", "index", "class_id", "label_id", "value"),
    "r": ("r", "red"),
    "g": ("g", "green"),
    "b": ("b", "blue"),
    "color": ("color", "colour", "hex"),
}
# Characters of a line: Python's own limits, of numbers and of fields, are above it.
_LINE = 1000
_COLUMNS = {header: column for column, headers in _HEADERS.items() for header in headers}

# What a table's line without a header may be, by its fields: i a number, n a name.
_FORMS = {
    "niii": ("name", "r", "g", "b"),
    "iiin": ("r", "g", "b", "name"),
    "in": ("id", "name"),
    "ni": ("name", "id"),
    "iniii": ("id", "name", "r", "g", "b"),
    "iiiin": ("id", "r", "g", "b", "name"),
}


@dataclasses.dataclass(frozen=True)
class _Row:
    """A line: a class, or with ``ignored`` ids of none; ``where`` names file and line."""

    where: str
    name: str
    ids: tuple[int, ...] = ()
    color: Color | None = None
    ignored: bool = False


def read_classes(path: Path) -> ClassTable:
    """The classes of a text file: a name a line, the first line is id 0.

    ======================  ============================================================
    ``road``                the next id; kseg gives it a colour
    ``road #804080``        with its colour; so are ``road,128,64,128``,
                            ``road 128 64 128``, ``128 64 128 road`` and CVAT's
                            ``road:128,64,128::``
    ``3: road``, ``3,road`` with its id; then every class must have one
    ``ignore``              the next id belongs to no class and is ignored; a colour may
                            stand behind it
    ``ignore: 7, 9``        these ids are ignored; no class can have them
    ======================  ============================================================

    With ``ignore`` as the first line, the classes' ids start at 1. 255 is always ignored.
    A table may begin with a header of ``id``, ``name``, ``r``, ``g``, ``b``, ``color``.
    The text is UTF-8, or UTF-16 with a byte order mark, with any line ends.

    Raises:
        KsegError: no such file, or the first line that is wrong, by its number.
    """
    rows = _rows(path)
    numbered = any(row.ids for row in rows if not row.ignored)
    ids: dict[str, int] = {}
    taken: dict[int, _Row] = {}
    following = 0
    for row in rows:
        if numbered and not row.ids:
            raise KsegError(f"{row.where}: has no id, but other lines have; write it as ID: NAME")
        if not row.ignored and row.name in ids:
            first = taken[ids[row.name]].where.rpartition(", ")[2]
            raise KsegError(f"{row.where}: {row.name!r} is in {first} already")
        for number in row.ids or (following,):
            if number in taken:
                first = taken[number].where.rpartition(", ")[2]
                raise KsegError(
                    f"{row.where}: id {number} is in {first} already; every line is an id from "
                    "0 on, and `ignore` stands in the place of the id that is ignored"
                )
            if number > BAD + row.ignored:
                raise KsegError(f"{row.where}: id {number} is too large; ids are from 0 to {BAD}")
            taken[number] = row
            following += number == following
            if not row.ignored:
                ids[row.name] = number
    if not ids:
        raise KsegError(f"{path}: has no class, only ids to ignore")
    _warn_of_numbers(path, ids)
    colors = {row.name: row.color for row in rows if not row.ignored}
    hues = spread_colors(len(ids))
    return ClassTable(
        names=tuple(ids),
        colors=tuple(colors[name] or hue for name, hue in zip(ids, hues, strict=True)),
        file_ids=tuple(ids.values()),
        void_ids=tuple(i for i, row in taken.items() if row.ignored) or (IGNORE,),
        void_colors=tuple(row.color for row in rows if row.ignored and row.color),
    )


def _rows(path: Path) -> list[_Row]:
    lines = re.split("\r\n|\n|\r", _text(path).rstrip())
    columns = None
    header = [_COLUMNS.get(field.lower()) for field in _fields(lines[0][:_LINE])]
    known = [column for column in header if column]
    words = lines[0][:_LINE].lower().split()
    spaced = len(header) == 1 < len(words) and all(word in _COLUMNS for word in words)
    if len(lines) > 1 and (header == ["name"] or len(known) > 1 or spaced):
        where = f"{path}, line 1"
        if spaced:
            raise KsegError(
                f"{where}: {lines[0]!r} looks like a header; separate the columns of all lines by "
                "commas or tabs"
            )
        if len(header) == 1:
            raise KsegError(f"{where}: {lines[0]!r} looks like a header; remove it")
        if known != header or "name" not in known or len(set(known)) < len(known):
            raise KsegError(
                f"{where}: {lines[0]!r} is no header that kseg knows; it may have the columns "
                "id, name, r, g, b and color, once each"
            )
        columns = known
    elif lines[0].startswith("# label:"):
        columns = []  # of CVAT, whose lines have a form of their own
    numbers = range(2 if columns is not None else 1, len(lines) + 1)
    lines = lines if columns is None else lines[1:]
    if lines == [""]:
        lines = []
    if not 0 < len(lines) <= BAD:
        raise KsegError(f"{path}: has {len(lines)} lines; there can be 1 to {BAD} classes")
    for number, line in zip(numbers, lines, strict=True):
        if len(line) > _LINE:
            raise KsegError(
                f"{path}, line {number}: has {len(line)} characters; a class has a name"
            )
    return [
        _row(f"{path}, line {number}", line, columns)
        for number, line in zip(numbers, lines, strict=True)
    ]


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except FileNotFoundError:
        raise KsegError(
            f"{path}: no such file; write the classes there, a name a line, the first is id 0"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise KsegError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    if "\0" in text:
        raise KsegError(f"{path}: has NUL characters; save it as UTF-8 text")
    return text.replace("\ufeff", "")


def _row(where: str, line: str, columns: Sequence[str] | None) -> _Row:
    """A line; ``columns`` are those of the header, if there is one."""
    line = line.strip()
    if line.startswith("//") or line == "__ignore__":
        raise KsegError(
            f"{where}: {line!r} is no class; every line is an id, so remove this one"
            + (" (labelme writes 255 for it, which is ignored)" if "_" in line[:1] else "")
        )
    if found := re.fullmatch(r"(?i)ignore\s*(?:[:=]\s*)?(\d+(?:[\s,;]+\d+)*)", line):
        ids = tuple(map(int, re.findall(r"\d+", found[1])))
        if len(set(ids)) == len(ids) and ("=" in line or ":" in line or len(ids) == 1):
            return _Row(where, "ignore", ids, ignored=True)
    fields = _fields(line)
    if columns:
        if len(fields) != len(columns):
            raise KsegError(f"{where}: has {len(fields)} fields, the header has {len(columns)}")
        values = dict(zip(columns, fields, strict=True))
    elif found := re.fullmatch(r"([^:#]+):(\d+),(\d+),(\d+):[^:]*:[^:]*", line):
        values = dict(zip(_FORMS["niii"], found.groups(), strict=True))
    elif "#" in line:
        name, _, color = line.partition("#")
        values = {"name": name.strip(" \t,;:"), "color": f"#{color.strip()}"}
    else:
        values = _values(where, line, fields)
    if "color" not in values and (
        found := re.fullmatch(r"(\d+)\s*[:=,;]\s*(.*\S)", values["name"])
    ):
        values |= {"id": found[1], "name": found[2]}
    name = values["name"].strip()
    if not name:
        raise KsegError(f"{where}: has no name; every line is a class")
    number = values.get("id", "").strip()
    if number and not number.isdecimal():
        raise KsegError(f"{where}: {number!r} is no id; ids are from 0 to {BAD}")
    return _Row(
        where,
        name,
        (int(number),) if number else (),
        _color(where, values),
        ignored=name.lower() == "ignore",
    )


def _values(where: str, line: str, fields: list[str]) -> dict[str, str]:
    """A line without header and ``#`` by columns."""
    kinds = "".join("i" if re.fullmatch(r"[-+]?[\d.]+", field) else "n" for field in fields)
    if len(fields) > 1 and "i" in kinds:
        if kinds not in _FORMS:
            raise KsegError(
                f"{where}: {line!r} is not understood; write NAME, NAME #RRGGBB, NAME,R,G,B "
                "or ID,NAME,R,G,B"
            )
        return dict(zip(_FORMS[kinds], fields, strict=True))
    words = line.split()
    if found := re.fullmatch(r"(.*\S)\s+(\d+)\s+(\d+)\s+(\d+)", line):
        return dict(zip(_FORMS["niii"], found.groups(), strict=True))
    if len(words) > 3 and all(word.isdecimal() for word in words[:3]):
        if words[3].isdecimal():
            raise KsegError(f"{where}: {line!r} is not understood; write R G B NAME or NAME R G B")
        return dict(zip(_FORMS["iiin"], line.split(maxsplit=3), strict=True))
    if found := re.fullmatch(r"(.*[^\s\d])\s*[:=]\s*(\d+)", line):
        return {"name": found[1], "id": found[2]}
    return {"name": fields[0] if len(fields) == 1 else line}


def _fields(line: str) -> list[str]:
    """What stands between tabs, semicolons or commas, quoted or not."""
    mark = next((mark for mark in "\t;," if mark in line), ",")
    fields = next(csv.reader([line.strip()], delimiter=mark, skipinitialspace=True), [])
    return [field.strip() for field in fields] or [""]


def _color(where: str, values: dict[str, str]) -> Color | None:
    if text := values.get("color", ""):
        if not re.fullmatch("#[0-9a-fA-F]{6}", text):
            raise KsegError(f"{where}: {text!r} is no colour; write it as #RRGGBB")
        return color_of(text[1:])
    if parts := [values[part] for part in "rgb" if part in values]:
        numbers = [int(part) for part in parts if part.isdecimal()]
        if len(numbers) != 3 or max(numbers) > 255:
            raise KsegError(
                f"{where}: {','.join(parts)} is no colour; it is three numbers from 0 to 255"
            )
        red, green, blue = numbers
        return red, green, blue
    return None


def _warn_of_numbers(path: Path, ids: dict[str, int]) -> None:
    """Says so where every name has a number at one end that looks like an id and is none."""
    forms = {r"(\d+)\W+\w.*": "behind them (ID: NAME)", r".*\w\W+(\d+)": "before them (NAME: ID)"}
    for form, colon in forms.items():
        numbers = {n: int(match[1]) for n in ids if (match := re.fullmatch(form, n))}
        if len(ids) < 2 or len(numbers) < len(ids) or len({*numbers.values()}) < len(ids):
            continue
        if different := [name for name, number in ids.items() if numbers[name] != number]:
            warnings.warn(
                f"{path}: {different[0]!r} is read as the name of id {ids[different[0]]}; if the "
                f"numbers are the ids, write a colon {colon}",
                KsegWarning,
                stacklevel=2,
            )
