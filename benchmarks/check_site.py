"""``python benchmarks/check_site.py SITE``: what is wrong with a finished documentation site.

Every link leads to a file and an anchor that are there, and no page loads anything from
elsewhere. Standard library alone: it reads HTML, and needs nothing of kseg.
"""

from __future__ import annotations

import html.parser
import os
import sys
import urllib.parse
from pathlib import Path


class _Page(html.parser.HTMLParser):
    """What a page of the site refers to, loads and has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value for key, value in attrs if value}
        self.anchors |= {values[key] for key in ("id", "name") if key in values}
        loads = tag in ("script", "img", "iframe", "source", "video")
        if tag == "link":
            loads = values.get("rel") not in ("canonical", "prev", "next", "alternate")
        for key in ("href", "src"):
            if key in values:
                (self.loaded if loads else self.links).append(values[key])


def faults(site: Path) -> list[str]:
    """What is wrong with a finished site, a line each: links without a target, foreign files."""
    read = {path: _Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, one in read.items():
        name = path.relative_to(site)
        found += [f"{name}: loads {url}" for url in one.loaded if urllib.parse.urlsplit(url).netloc]
        # The page of what is not found has addresses from the site's root.
        if name.name == "404.html":
            continue
        for url in [*one.links, *one.loaded]:
            parts = urllib.parse.urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = path
            if parts.path:
                target = Path(os.path.normpath(path.parent / urllib.parse.unquote(parts.path)))
                target = target / "index.html" if target.is_dir() else target
            anchor = urllib.parse.unquote(parts.fragment)
            if not target.is_file():
                found.append(f"{name}: {url} is not there")
            elif anchor and target in read and anchor not in read[target].anchors:
                found.append(f"{name}: {url} has no such anchor")
    if not read:
        found.append(f"{site}: has no pages")
    return found


if __name__ == "__main__":
    sys.exit("\n".join(faults(Path(sys.argv[1]))) or 0)
