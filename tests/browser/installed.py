"""What the tests of the console use besides the browser: where `tools/setup.sh browser` put it, or why it is not there.

It comes from the registry by a lock file (`tests/browser/package-lock.json`) into `browser` of the virtual
environment, whose file `skipped` says why when that was impossible. FLAKES_TEST_BROWSER names another directory.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest


def place() -> Path:
    """The directory with the packages; skips the test when they could not be installed."""
    directory = Path(os.environ.get("FLAKES_TEST_BROWSER") or Path(sys.prefix) / "browser")
    if not (directory / "node_modules").is_dir():
        reason = directory / "skipped"
        said = (
            reason.read_text().strip()
            if reason.is_file()
            else f"{directory} is empty: run tools/setup.sh browser"
        )
        pytest.skip(f"the packages are not installed: {said}")
    return directory / "node_modules"


def axe() -> str:
    """The source of axe-core, to be run in a page."""
    return (place() / "axe-core" / "axe.min.js").read_text()


def typescript() -> Path:
    return place() / "typescript" / "bin" / "tsc"
