"""Which result of a run is brought in next."""

from __future__ import annotations

from typing import Any

from flakes.core.merging import OPEN, Bring, Conclude, Entry, Keep, MergeState, steps


def entry(workspace_id: str, at: float = 1.0, **fields: Any) -> Entry:
    values: dict[str, Any] = {
        "task_id": f"task of {workspace_id}", "kind": "candidate", "state": MergeState.QUEUED,
        "attempt": "succeeded", "place": (at, workspace_id), **fields,
    }  # fmt: skip
    return Entry(workspace_id, **values)


def todo(*entries: Entry, cancelled: bool = False) -> list[Any]:
    return steps(list(entries), cancelled=cancelled)


def test_what_ended_first_is_brought_in_first_and_what_runs_is_waited_for() -> None:
    assert todo(entry("b", 2.0), entry("c", 1.0), entry("a", 1.0)) == [Bring("a")]
    assert todo(entry("a", 0.0, attempt="live"), entry("b", 2.0)) == [Bring("b")]
    assert todo(entry("a", 0.0, attempt="live")) == []


def test_of_one_task_what_was_declared_goes_first_else_the_last_that_it_stored() -> None:
    one = {"task_id": "t"}
    assert todo(entry("a", **one), entry("b", kind="output", **one)) == [
        Keep("a", "it was not declared, and other files of the task were"), Bring("b"),
    ]  # fmt: skip
    assert todo(entry("a", **one), entry("b", **one)) == [
        Keep("a", "the task stored more later"), Bring("b"),
    ]  # fmt: skip
    lost = entry("a", attempt="failed", **one)
    assert todo(lost, entry("b", **one)) == [Keep("a", "its attempt did not end well"), Bring("b")]


def test_one_that_is_tested_or_resolved_holds_back_the_rest() -> None:
    for state in (MergeState.VERIFYING, MergeState.RESOLVING):
        helped = {"state": state, "helper_task_id": "h"}
        behind = entry("z", 0.0)
        assert todo(entry("a", **helped, helper="live"), behind) == []
        assert todo(entry("a", **helped, helper="succeeded"), behind) == [Conclude("a", True)]
        assert todo(entry("a", **helped, helper="failed"), behind) == [Conclude("a", False)]


def test_what_the_resolving_task_left_is_brought_in_before_its_conflict_is_concluded() -> None:
    conflict = entry("a", state=MergeState.RESOLVING, helper_task_id="h", helper="succeeded")
    resolution = entry("r", 9.0, task_id="h")
    assert todo(conflict, resolution, entry("z", 0.0)) == [Bring("r")]
    tested = entry(
        "r", 9.0, task_id="h", state=MergeState.VERIFYING, helper_task_id="v", helper="live"
    )
    assert todo(conflict, tested) == []


def test_what_a_testing_task_left_is_nobody_s() -> None:
    tested = entry("a", state=MergeState.VERIFYING, helper_task_id="h", helper="succeeded")
    left = entry("b", task_id="h", tests=True)
    assert todo(tested, left) == [
        Keep("b", "its task only tests what was merged"), Conclude("a", True),
    ]  # fmt: skip


def test_a_cancelled_run_brings_in_nothing_and_waits_for_nothing() -> None:
    found = todo(
        entry("a", attempt="live"), entry("b", state=MergeState.VERIFYING, helper="live"),
        cancelled=True,
    )  # fmt: skip
    assert [type(step) for step in found] == [Keep, Keep]
    assert MergeState.KEPT not in OPEN
