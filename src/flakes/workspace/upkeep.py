"""Repositories of captures, kept small: old captures go, many packs become one, and forgotten places are removed.

Whatever came in the last hours stays, referred to or not: another process may just be using it.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path
from typing import Final

from flakes.workspace.git import Git

PACKS_MAX: Final = 64
REFS_KEPT: Final = 100
"""Captures and fetched results that stay, the newest ones."""
PLACE_KEPT_S: Final = 60 * 24 * 3600.0
_RECENT: Final = "2.hours.ago"


def tidy(git: Git) -> bool:
    """Make one pack of many, without what only old captures hold; whether there was need to."""
    if len(list((git.directory / "objects" / "pack").glob("*.pack"))) <= PACKS_MAX:
        return False
    held = git.directory / "refs" / "flakes"
    with contextlib.suppress(FileNotFoundError):
        refs = sorted(held.iterdir(), key=lambda ref: ref.stat().st_mtime)
        for ref in refs[:-REFS_KEPT]:
            ref.unlink(missing_ok=True)
    git.run("repack", "-A", "-d", "--quiet", f"--unpack-unreachable={_RECENT}")
    git.run("prune", f"--expire={_RECENT}")
    return True


def remove_forgotten(state: Path, marker: str) -> None:
    """Remove the places below `state` whose file `marker` nobody has written for long."""
    before = time.time() - PLACE_KEPT_S
    with contextlib.suppress(FileNotFoundError):
        for place in state.iterdir():
            with contextlib.suppress(OSError):
                if (place / marker).stat().st_mtime < before:
                    shutil.rmtree(place, ignore_errors=True)
