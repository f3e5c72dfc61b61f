"""kill -9 of the daemon between a task's end and the record of its result: nothing is lost, nothing runs twice (F04)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flakes.core.task import Outcome
from flakes.wire.sandbox_stream import Result
from sandbox.conftest import Start
from sandbox.controlplane import ControlPlane, eventually
from sandbox.files import Files

FOR_EVER = 1_000_000


def packs_refused(plane: ControlPlane) -> None:
    plane.refuse_uploads = FOR_EVER


def handles_refused(plane: ControlPlane) -> None:
    plane.refuse_workspaces = FOR_EVER


def results_unanswered(plane: ControlPlane) -> None:
    plane.withhold = (Result,)


STEPS: dict[str, tuple[Callable[[ControlPlane], None], Callable[[ControlPlane], object]]] = {
    "before its pack is stored": (packs_refused, lambda plane: plane.refuse_uploads < FOR_EVER),
    "before its handle is stored": (handles_refused, lambda plane: plane.refuse_workspaces < FOR_EVER),
    "before its result is acknowledged": (results_unanswered, lambda plane: plane.results),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_task_that_ended_well_is_finished_by_the_next_daemon(
    own: Start, tmp_path: Path, step: str
) -> None:
    hinder, reached = STEPS[step]
    plane, daemon = own(hinder)
    files = Files(plane, tmp_path, a_txt="a\n")
    ledger = tmp_path / "ledger"
    assignment = files.task(
        f'echo run >> {ledger}; echo b > a.txt; echo o > "$FLAKES_OUTPUTS/note"; echo said',
        declaredOutputs={"note": {}}, verify=["grep -q b a.txt"],
    )  # fmt: skip
    plane.offer(assignment)
    plane.wait(lambda: reached(plane), step, 30.0)
    daemon.kill()
    plane.refuse_uploads = plane.refuse_workspaces = 0
    plane.withhold = ()
    daemon.start()
    eventually(lambda: len(plane.hellos) == 2, "the next daemon", 30.0)
    result = plane.result(assignment.assignment_id, 30.0)
    assert (result.outcome, result.exit_code) == (Outcome.SUCCEEDED, 0)
    assert result.outputs["note"].text == "o\n"
    assert [each.passed for each in result.evidence] == [True]
    assert ledger.read_text() == "run\n", "the work was not done again"
    assert files.stored(assignment) == {"candidate": [("changed", "a.txt")]}
    assert plane.text(assignment.assignment_id) == ["said"]
    places = [daemon.state_dir / name / assignment.assignment_id for name in ("assignments", "workspaces")]
    eventually(lambda: not any(place.exists() for place in places), "nothing to be left", 30.0)


def test_what_a_running_task_had_changed_is_stored_before_it_is_lost(
    own: Start, tmp_path: Path
) -> None:
    plane, daemon = own()
    files = Files(plane, tmp_path, a_txt="a\n")
    assignment = files.task("echo half > a.txt; echo up; sleep 600")
    plane.offer(assignment)
    plane.wait(lambda: plane.lines.get(assignment.assignment_id), "the change", 30.0)
    plane.refuse_workspaces = 2
    daemon.kill()
    daemon.start()
    result = plane.result(assignment.assignment_id, 30.0)
    assert result.outcome is Outcome.LOST
    assert files.stored(assignment) == {"candidate": [("changed", "a.txt")]}
    assert files.text(assignment, "a.txt") == "half\n"


def test_a_daemon_that_is_stopped_stores_what_was_changed(own: Start, tmp_path: Path) -> None:
    plane, daemon = own()
    files = Files(plane, tmp_path, a_txt="a\n")
    assignment = files.task("echo half > a.txt; echo up; sleep 600")
    plane.offer(assignment)
    plane.wait(lambda: plane.lines.get(assignment.assignment_id), "the change", 30.0)
    assert daemon.terminate() == 0
    assert plane.results[assignment.assignment_id].outcome is Outcome.LOST
    assert files.stored(assignment) == {"candidate": [("changed", "a.txt")]}
