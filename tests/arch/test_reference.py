"""The generated pages are what the program says now."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from flakes.core import limits
from flakes.server.app import ENDPOINTS
from flakes.wire.errors import CODES
from flakes.wire.events import TYPES

ROOT = Path(__file__).parents[2]


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference_pages", ROOT / "tools" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


PAGES: dict[str, str] = _generator().pages()


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_up_to_date(name: str) -> None:
    path = ROOT / "docs" / "reference" / name
    assert path.exists(), "python tools/reference.py"
    assert path.read_text() == PAGES[name], "python tools/reference.py"


def test_nothing_is_left_out() -> None:
    for endpoint in ENDPOINTS:
        assert f"### `{endpoint.method} {endpoint.path}`\n" in PAGES["api.md"]
    for code in CODES:
        assert f"| `{code}` |" in PAGES["errors.md"]
    for type_ in TYPES:
        assert f"| `{type_}` |" in PAGES["events.md"]
    names = [name for name in vars(limits) if name.isupper()]
    rows = re.findall(r"^\| [A-Z].*\| \d", PAGES["limits.md"], re.M)
    assert len(rows) == len(names) - len(("KIB", "MIB", "GIB"))
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize("name", PAGES)
def test_links_within_the_pages_lead_somewhere(name: str) -> None:
    text = PAGES[name]
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    anchors = {re.sub(r"[^\w\- ]", "", title).replace(" ", "-").lower() for title in titles}
    for target in re.findall(r"\]\((#?[^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        else:
            assert (ROOT / "docs" / "reference" / target).exists(), target
