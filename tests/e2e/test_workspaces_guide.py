"""The guide's examples on the user's files, run as they stand."""

from __future__ import annotations

import re
import subprocess

import pytest

from e2e.stage import CHECKOUT, Stage

pytestmark = pytest.mark.timeout(180)

GUIDE = CHECKOUT / "docs" / "guide" / "workspaces.md"


def test_the_examples_run_as_they_stand(session: Stage) -> None:
    blocks = re.findall(r"^```sh run\n(.*?)^```$", GUIDE.read_text(), re.M | re.S)
    assert blocks
    place = session.scratch / "guide"
    place.mkdir()
    ran = subprocess.run(
        ["bash", "-xc", "set -euo pipefail\n" + "".join(blocks)], cwd=place, env=session.env,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=150,
    )  # fmt: skip
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    said = [line for line in ran.stderr.splitlines() if line.startswith("files from")]
    assert [line.partition("notes  ")[2].partition(",")[0] for line in said] == ["3 files"] * 2
    assert said[1].endswith("unchanged, nothing to upload")
