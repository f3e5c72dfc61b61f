"""What a follower shows: the fold of events, and what fits on a small terminal."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.cells import cell_len
from rich.console import Console

from flakes.cli.board import Board
from flakes.cli.render.live import LiveBoard, chosen
from flakes.wire.events import Event
from flakes.wire.runs import Run
from flakes.wire.tasks import Task

START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def board(count: int, status: str = "QUEUED") -> Board:
    run = Run(
        run_id="run_1", run_key="nightly", name="Nightly", project_id="p", project_key="p",
        state="QUEUED", closed=True, task_counts={}, metadata={}, created_at=START, updated_at=START,
    )  # fmt: skip
    tasks = [
        Task(
            task_id=f"task_{n}", task_key=f"step-{n}", run_id="run_1", project_id="p",
            title=f"Step {n} \x1b[31m wide 漢字", adapter="command", status=status, created_at=START,
        )
        for n in range(count)
    ]  # fmt: skip
    return Board(run, tasks)


def event(type_: str, task: int, second: float = 0, **data: object) -> Event:
    at = START + timedelta(seconds=second)
    return Event(
        cursor="c", type=type_, at=at, task_id=f"task_{task}", task_key=f"step-{task}", data=data
    )


def test_events_move_rows_and_counts() -> None:
    it = board(2)
    running = it.apply(event("task.running", 0, 1, attempt=2))
    assert running is not None
    assert (running.word, running.detail) == ("running", "attempt 2")
    failed = it.apply(event("task.failed", 0, 5, error={"code": "x", "message": "no \x1b[1mluck"}))
    assert failed is not None
    assert failed.detail == "no luck"
    assert +it.counts == {"QUEUED": 1, "FAILED": 1}
    assert it.apply(event("task.queued", 0, 6, reason="retried")) is not None
    assert it.rows["task_0"].finished_at is None
    assert +it.counts == {"QUEUED": 2}


def test_a_question_is_shown_with_the_command_that_answers_it_until_it_is_answered() -> None:
    it = board(1, "RUNNING")
    asks = it.apply(event("permission.requested", 0, 1, permissionRequestId="perm_1", prompt="May \x1b[1mI?"))
    assert asks is not None
    assert (asks.word, asks.detail) == ("asks", "May I? -> flakes permissions approve perm_1")
    console = Console(file=io.StringIO(), width=120, height=20, force_terminal=False)
    console.print(LiveBoard(it))
    assert "step-0 asks: May I? -> flakes permissions approve perm_1" in console.file.getvalue()  # type: ignore[attr-defined]
    answered = it.apply(
        event("permission.responded", 0, 2, permissionRequestId="perm_1", decision="denied", reason="no")
    )
    assert answered is not None
    assert (answered.word, answered.detail) == ("denied", "no")
    assert it.questions == {}
    expired = it.apply(event("permission.expired", 0, 3, permissionRequestId="perm_2", decision="approved"))
    assert expired is not None
    assert expired.word == "approved (nobody answered)"


def test_applying_the_whole_log_again_changes_nothing() -> None:
    it = board(1)
    story = [event("task.running", 0, 1, attempt=1), event("task.succeeded", 0, 2, verified=True)]
    for _ in range(2):
        for each in story:
            it.apply(each)
    assert +it.counts == {"SUCCEEDED": 1}


def test_a_task_unknown_to_the_snapshot_gets_a_row() -> None:
    it = board(0)
    it.apply(event("task.admitted", 7, status="BLOCKED"))
    assert it.rows["task_7"].key == "step-7"
    assert +it.counts == {"BLOCKED": 1}


@pytest.mark.parametrize("width", [20, 40, 59, 60, 80, 100, 200])
@pytest.mark.parametrize("height", [6, 24])
def test_the_picture_fits_every_terminal(width: int, height: int) -> None:
    it = board(200)
    for n in range(150):
        it.apply(event("task.running", n, n))
        if n < 140:
            it.apply(event("task.succeeded", n, n + 1))
    it.rows["task_145"].note = "last line " * 40
    stream = io.StringIO()
    console = Console(
        file=stream, width=width, height=height, force_terminal=True, color_system=None
    )
    console.print(LiveBoard(it))
    lines = stream.getvalue().rstrip("\n").split("\n")
    assert len(lines) <= height
    assert all(cell_len(line) <= width for line in lines)
    assert "\x1b[31m" not in stream.getvalue()
    assert "step-14" in stream.getvalue()


def test_what_moves_is_shown_before_what_is_over() -> None:
    it = board(50)
    for n in range(30):
        it.apply(event("task.running", n, n))
        it.apply(event("task.succeeded" if n != 3 else "task.failed", n, n + 1))
    it.apply(event("task.running", 45, 60))
    rows, hidden = chosen(list(it.rows.values()), 5)
    keys = [row.key for row in rows]
    assert hidden == 45
    assert {"step-3", "step-45"} <= set(keys)
    assert keys == sorted(keys, key=lambda key: int(key[5:]))
