"""The console's modules agree with the types in their comments."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from browser.installed import typescript

HERE = Path(__file__).parent
MODULES = HERE.parents[1] / "src/flakes/console/static/app"


def test_the_modules_are_typed() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node on this machine")
    ran = subprocess.run(
        [node, str(typescript()), "-p", str(HERE / "tsconfig.json")],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout


def test_every_module_is_checked() -> None:
    """`theme.js` runs before the page is drawn, and is no module."""
    unchecked = [
        path.name
        for path in MODULES.rglob("*.js")
        if not path.read_text().startswith("// @ts-check\n")
    ]
    assert unchecked == ["theme.js"]
