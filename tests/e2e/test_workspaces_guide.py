"""The guide's examples on the user's files, run as they stand."""

from __future__ import annotations

import re
import subprocess

import pytest

from e2e.stage import CHECKOUT, Stage

pytestmark = pytest.mark.timeout(180)

GUIDE = CHECKOUT / "docs" / "guide"


def run_all(session: Stage, page: str) -> subprocess.CompletedProcess[str]:
    """Run every example of the page, one after the other."""
    blocks = re.findall(r"^```sh run\n(.*?)^```$", (GUIDE / f"{page}.md").read_text(), re.M | re.S)
    assert blocks
    place = session.scratch / page
    place.mkdir()
    ran = subprocess.run(
        ["bash", "-xc", "set -euo pipefail\n" + "".join(blocks)], cwd=place, env=session.env,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=150,
    )  # fmt: skip
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    return ran


def test_the_examples_run_as_they_stand(session: Stage) -> None:
    ran = run_all(session, "workspaces")
    said = [line for line in ran.stderr.splitlines() if line.startswith("files from")]
    assert [line.partition("notes  ")[2].partition(",")[0] for line in said] == ["3 files"] * 2
    assert said[1].endswith("unchanged, nothing to upload")


def test_the_examples_of_merging_run_as_they_stand(session: Stage) -> None:
    ran = run_all(session, "merging")
    assert ran.stdout.endswith("apples 3\npears 4\nplums 2\n"), ran.stdout
    assert sorted(path.name for path in (session.scratch / "merging" / "shop").iterdir()) == [".git", "handle", "prices.txt", "stock.txt"]
