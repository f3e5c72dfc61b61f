"""The guide's examples on artifacts and outputs, run as they stand; and a broken schema, seen from outside."""

from __future__ import annotations

import re
import subprocess

import pytest

from e2e.stage import CHECKOUT, Stage

pytestmark = pytest.mark.timeout(180)

GUIDE = CHECKOUT / "docs" / "guide" / "artifacts-and-outputs.md"

BROKEN = """\
+++
runKey = "broken"
adapter = "command"
+++
# Broken

## one: One
outputs: {"report": {"kind": "json", "schema": {"required": ["total"]}}, "extra": {"kind": "json", "schema": {"type": "null"}, "required": false}}
run: echo '{"sum": 3}' > "$FLAKES_OUTPUTS/report"; echo 1 > "$FLAKES_OUTPUTS/extra"

## two: Two
outputs: {"extra": {"kind": "json", "schema": {"type": "null"}, "required": false}}
run: echo 1 > "$FLAKES_OUTPUTS/extra"
"""


def test_the_examples_run_as_they_stand(session: Stage) -> None:
    blocks = re.findall(r"^```sh run\n(.*?)^```$", GUIDE.read_text(), re.M | re.S)
    assert len(blocks) == 5
    script = "set -euo pipefail\n" + "".join(blocks)
    place = session.scratch / "guide"
    place.mkdir()
    ran = subprocess.run(
        ["bash", "-xc", script], cwd=place, env=session.env, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=150,
    )  # fmt: skip
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    assert (place / "report.json").read_text() == '{"total": 3}\n'
    assert "hello\n" in ran.stdout
    assert "/dataset" not in ran.stdout


def test_a_broken_schema_fails_the_task_and_says_where(session: Stage) -> None:
    plan = session.scratch / "broken.md"
    plan.write_text(BROKEN)
    assert session.flakes("run", str(plan), timeout_s=120).code == 3
    result = session.flakes("tasks", "result", "broken/one", "--json").json
    assert result["error"]["code"] == "output_invalid"
    (problem,) = result["error"]["details"]["problems"]
    assert (problem["output"], problem["path"], problem["rule"]) == ("report", "$", "required")
    result = session.flakes("tasks", "result", "broken/two", "--json").json
    assert (result["status"], result.get("outputs", {})) == ("SUCCEEDED", {})
    log = session.flakes("logs", "broken/two").ok().out
    assert "`extra` is not valid and is left out" in log


def test_a_schema_that_cannot_be_used_is_refused(session: Stage) -> None:
    plan = session.scratch / "refused.md"
    plan.write_text(BROKEN.replace('"null"', '"nil"').replace("broken", "refused"))
    ran = session.flakes("run", str(plan), timeout_s=120)
    assert ran.code == 2
    assert "declaredOutputs.extra.schema.type" in ran.err
