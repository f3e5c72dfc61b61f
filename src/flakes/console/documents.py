"""The documentation as the console shows it: the pages of `docs/guide` and `docs/reference`, which are in
the package as links to them, so that an installed server has the documentation of its own version.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

SECTIONS: Final = {"guide": "Guide", "reference": "Reference"}
# Where a reader begins; pages not named here follow in the order of their titles.
FIRST: Final = (
    "guide/getting-started", "guide/console", "guide/observing", "guide/steering", "guide/inside-a-task",
    "guide/artifacts-and-outputs", "guide/workspaces", "guide/hosts", "guide/accounts", "reference/workflow-file", "reference/cli",
)  # fmt: skip
_HEADING = re.compile(r"^(#{1,4}) +(.+?) *#*$")
_FENCE = re.compile(r"^ {0,3}(```|~~~)")


@dataclass(frozen=True, slots=True)
class Page:
    """One page. `path` is `section/name`, as in its address."""

    path: str
    section: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A part of a page that holds every word of a search; `anchor` is that of its heading."""

    page: Page
    heading: str
    anchor: str
    excerpt: str


@cache
def pages() -> dict[str, Page]:
    """Every page by its path, in the order of reading."""
    found: list[Page] = []
    for section in SECTIONS:
        for each in (files("flakes.console") / "docs" / section).iterdir():
            if each.name.endswith(".md"):
                text = each.read_text(encoding="utf-8")
                title = next((h for _, h, _ in _parts(text) if h), each.name)
                found.append(Page(f"{section}/{each.name[:-3]}", section, title, text))
    order = {path: number for number, path in enumerate(FIRST)}
    sections = list(SECTIONS)
    found.sort(key=lambda p: (sections.index(p.section), order.get(p.path, len(FIRST)), p.title))
    return {page.path: page for page in found}


def search(words: str, limit: int = 30) -> list[Hit]:
    """The parts of pages that hold all the words; those that have them in the heading come first."""
    wanted = words.lower().split()[:10]
    if not wanted:
        return []
    hits: list[tuple[int, Hit]] = []
    for page in pages().values():
        for _, heading, body in _parts(page.text):
            text = f"{heading}\n{body}".lower()
            if all(word in text for word in wanted):
                rank = sum(word not in heading.lower() for word in wanted)
                hits.append((rank, Hit(page, heading, slug(heading), _excerpt(body, wanted))))
    hits.sort(key=lambda hit: hit[0])
    return [hit for _, hit in hits[:limit]]


def slug(heading: str) -> str:
    """The anchor of a heading."""
    text = re.sub(r"[^\w\s-]", "", heading.lower())
    return re.sub(r"\s+", "-", text.strip())


def _parts(text: str) -> Iterator[tuple[int, str, str]]:
    """(level, heading, what stands under it), headings without their marks."""
    level, heading, body, fenced = 0, "", list[str](), False
    for line in text.splitlines():
        fenced ^= bool(_FENCE.match(line))
        match = None if fenced else _HEADING.match(line)
        if match is None:
            body.append(line)
            continue
        if heading or any(body):
            yield level, heading, "\n".join(body)
        level, heading, body = len(match[1]), match[2].replace("`", ""), []
    yield level, heading, "\n".join(body)


def _excerpt(body: str, wanted: list[str]) -> str:
    plain = " ".join(re.sub(r"[`*|#>]", " ", body).split())
    places = [at for word in wanted if (at := plain.lower().find(word)) >= 0]
    start = max(0, min(places, default=0) - 60)
    return ("… " if start else "") + plain[start : start + 180]
