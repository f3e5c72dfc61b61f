"""A control plane whose disk is full: waited for a while, and then said, to the task and of it."""

from __future__ import annotations

from flakes.core.task import Outcome
from sandbox.conftest import Start
from sandbox.controlplane import make, shell

LARGE = "head -c 100000 /dev/urandom | base64 > $FLAKES_OUTPUTS/large"


def test_who_stores_something_is_told_in_the_end(own: Start) -> None:
    plane, _ = own(storageFullS=0.5)
    plane.full = True
    inside = plane.run(shell("echo x > file; flakes artifacts create file --kind report 2>&1; echo exit $?"))
    assert inside.text.endswith("exit 1")
    assert "disk of the server is full" in inside.text
    after = plane.run(shell(LARGE, declaredOutputs={"large": {}}))
    assert (after.outcome, after.error.code) == (Outcome.RETRYABLE, "storage_full")


def test_a_while_is_waited(own: Start) -> None:
    plane, _ = own()
    plane.full = True
    assignment = make(shell(f"{LARGE}; flakes tasks files list --json; echo exit $?", declaredOutputs={"large": {}}))
    plane.offer(assignment)
    plane.wait(lambda: plane.asked, "the first question")
    plane.full = False
    result = plane.result(assignment.assignment_id, 30)
    assert result.outcome is Outcome.SUCCEEDED
    assert result.text.endswith("exit 0")
