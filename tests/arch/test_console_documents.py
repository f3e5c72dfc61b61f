"""The console's documentation is the pages of docs/: each is linked into the package, and no link leads nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("section", ["guide", "reference"])
def test_every_page_is_in_the_package(section: str) -> None:
    pages = {path.name: path.resolve() for path in (ROOT / "docs" / section).glob("*.md")}
    linked = {p.name: p.resolve() for p in (ROOT / "src/flakes/console/docs" / section).glob("*.md")}
    assert pages
    assert linked == pages
