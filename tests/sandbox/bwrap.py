"""Whether tests of isolation can be run on this machine, and by whom."""

from __future__ import annotations

import os
import shutil

import pytest

from flakes.sandbox.isolation import trial

PROGRAM = shutil.which("bwrap")
WHY_NOT = trial(PROGRAM) if PROGRAM else "bubblewrap is not installed"
needs_bubblewrap = pytest.mark.skipif(bool(WHY_NOT), reason=f"no isolation here: {WHY_NOT}")
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="looks at what only root could misuse")
