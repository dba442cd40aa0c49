"""A report for people: one HTML file with its pictures inside."""

from __future__ import annotations

import base64
import html
import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image

from kseg.errors import KsegWarning
from kseg.files import atomic_write

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem;
       color: #1c1c1c; background: #fff }
h1 { font-size: 1.7rem; margin-bottom: .2rem } h2 { font-size: 1.2rem; margin-top: 2.2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin-bottom: 1.2rem }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left } th { border-bottom: 2px solid #888 }
figure { display: inline-block; margin: .5rem .5rem .5rem 0; max-width: 100%; vertical-align: top }
figcaption, .note { color: #555; font-size: .9rem } img { max-width: 100% }
"""


class Report:
    """An HTML page: headings, lines, tables and pictures in the order they are added.

    Args:
        title: of the page.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._parts: list[str] = [f"<h1>{html.escape(title)}</h1>"]

    def heading(self, text: str) -> None:
        """Begins a section."""
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def line(self, text: str) -> None:
        """Adds a paragraph."""
        self._parts.append(f'<p class="note">{html.escape(text)}</p>')

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Adds a table; its first column is text, the others are figures.

        Args:
            header: one title a column.
            rows: cells as text, as many as the header has.
        """

        def row(tag: str, cells: Sequence[str]) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

        body = "\n".join(row("td", cells) for cells in rows)
        self._parts.append(
            f"<table><thead>{row('th', header)}</thead>\n<tbody>{body}</tbody></table>"
        )

    def picture(self, picture: Image.Image | Figure, caption: str = "") -> None:
        """Adds a Pillow image or a plot, as PNG inside the page."""
        if isinstance(picture, Figure):
            picture = rendered(picture)
        stream = io.BytesIO()
        picture.save(stream, format="png")
        data = base64.b64encode(stream.getvalue()).decode()
        text = html.escape(caption)
        self._parts.append(
            f'<figure><img src="data:image/png;base64,{data}" alt="{text}">'
            f"<figcaption>{text}</figcaption></figure>"
        )

    def write(self, path: str | Path) -> None:
        """Writes the file, whole or not at all.

        Raises:
            KsegError: it cannot be written.
        """
        body = "\n".join(self._parts)
        with atomic_write(path) as temporary:
            page = (
                f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
                f"<title>{html.escape(self._title)}</title><style>{_STYLE}</style></head>\n"
                f"<body>\n{body}\n</body></html>\n"
            )
            temporary.write_text(page, encoding="utf-8")


def rendered(figure: Figure) -> Image.Image:
    """A plot as an RGB image."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return Image.open(stream).convert("RGB")


def training_curve(history: Sequence[Mapping[str, str]]) -> Figure:
    """Loss and mean IoU over the steps, from the rows of a run's ``history.csv``."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    left = figure.add_subplot(xlabel="step", ylabel="loss")
    right = left.twinx()
    right.set(ylabel="mean IoU", ylim=(0, 1))
    for axes, column, label, color, line, marker in (
        (left, "loss", "loss, training", "tab:red", "-", ""),
        (right, "mean_iou", "mean IoU, training", "tab:blue", ":", ""),
        (right, "val_mean_iou", "mean IoU, validation", "tab:blue", "-", "."),
    ):
        rows = [row for row in history if row[column]]
        steps = [int(row["step"]) for row in rows]
        values = [float(row[column]) for row in rows]
        axes.plot(steps, values, label=label, color=color, linestyle=line, marker=marker)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def class_bars(scores: Mapping[str, Mapping[str, float | None]]) -> Figure:
    """IoU by class, a group of bars a class and a bar a file.

    Args:
        scores: by file, then by class; None where the class does not occur.
    """
    (names,) = {tuple(score) for score in scores.values()}
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.add_subplot(ylabel="IoU", ylim=(0, 1))
    width = 0.8 / len(scores)
    for i, (file, score) in enumerate(scores.items()):
        places = [n + (i - (len(scores) - 1) / 2) * width for n in range(len(names))]
        axes.bar(places, [score[name] or 0 for name in names], width, label=file)
    shown, fonts = _legible(names)
    axes.set_xticks(range(len(names)), shown, rotation=40, ha="right", fontfamily=fonts)
    figure.legend(loc="outside upper center", ncols=len(scores), frameon=False)
    return figure


def trimap_curve(scores: Mapping[str, Sequence[float | None]]) -> Figure:
    """Mean IoU over the width of the band around the labels' borders.

    Args:
        scores: by file, for widths of 1, 2, ... pixels; None where there is no pixel.
    """
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.add_subplot(xlabel="width of the band, pixels", ylabel="mean IoU")
    for name, values in scores.items():
        points = [(width, value) for width, value in enumerate(values, 1) if value is not None]
        axes.plot([w for w, _ in points], [value for _, value in points], marker=".", label=name)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def confusion_matrix(counts: Sequence[Sequence[int]], names: Sequence[str]) -> Figure:
    """Plot of the share of each label's pixels by prediction, with numbers from 1 % on.

    Args:
        counts: (classes, classes + 1) pixels by label and prediction, the last column no class.
        names: of the classes.
    """
    size = 2 + 0.38 * len(names)
    figure = Figure(figsize=(size + 0.5, size), layout="constrained")
    axes = figure.add_subplot(xlabel="prediction", ylabel="label")
    shares = [[n / max(sum(row), 1) for n in row] for row in counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for y, row in enumerate(shares):
        for x, share in enumerate(row):
            if share >= 0.01:
                color = "white" if share > 0.5 else "black"
                axes.text(
                    x, y, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=color
                )
    shown, fonts = _legible(names)
    axes.set_xticks(
        range(len(names) + 1), [*shown, "(none)"], rotation=60, ha="right", fontfamily=fonts
    )
    axes.set_yticks(range(len(names)), shown, fontfamily=fonts)
    return figure


def _legible(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names as a plot can show them, and the fonts that have their characters.

    Without such a font characters become escapes, which a KsegWarning says.
    """
    usual = font_manager.findfont(font_manager.FontProperties())
    wanted = {ord(character) for name in names for character in name}
    missing = wanted - set(font_manager.get_font(usual).get_charmap())
    fonts = ["sans-serif"]
    if not missing:
        return list(names), fonts
    # Fonts of last resort have a frame for every character.
    entries = [e for e in font_manager.fontManager.ttflist if "Last Resort" not in e.name]
    for entry in entries:
        if missing <= set(font_manager.get_font(entry.fname).get_charmap()):
            return list(names), [*fonts, entry.name]
    warnings.warn(
        "no font here has all characters of the classes' names; plots show escapes instead "
        "(install a font that has them, such as Noto Sans CJK)",
        KsegWarning,
        stacklevel=3,
    )
    return [
        "".join(c if ord(c) not in missing else ascii(c)[1:-1] for c in name) for name in names
    ], fonts
