"""What a follower knows of a run: a snapshot of its tasks, moved on by events.

Pure: events in, changes out, no clock and no terminal. Events may describe what the snapshot already
holds (the log is read from its beginning), so applying one twice is harmless, and after the last event
the board is what the log says. Counts are kept as tasks move; drawing never walks all tasks to count.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from flakes.cli.render.text import clean, one_line, shortened
from flakes.core.task import TERMINAL
from flakes.wire.events import Event
from flakes.wire.runs import Run
from flakes.wire.tasks import Task

_STATUS_OF = {
    "task.saved": "SAVED",
    "task.queued": "QUEUED",
    "task.running": "RUNNING",
    "task.waiting": "WAITING",
    "task.succeeded": "SUCCEEDED",
    "task.failed": "FAILED",
    "task.cancelled": "CANCELLED",
}


@dataclass(slots=True)
class Row:
    """One task as a follower sees it."""

    task_id: str
    key: str
    title: str
    depends_on: list[str] = field(default_factory=list)
    status: str = "SAVED"
    attempt: int = 1
    started_at: datetime | None = None
    finished_at: datetime | None = None
    note: str = ""
    """The last line of its log, or what it waits for."""

    @property
    def is_over(self) -> bool:
        return self.status in TERMINAL


@dataclass(frozen=True, slots=True)
class Change:
    """Something worth a line: when, which task (None: the run), what it is now, and why."""

    at: datetime
    key: str | None
    word: str
    detail: str = ""


class Board:
    """The run, its tasks in the order they were given, and how many are in each state."""

    def __init__(self, run: Run, tasks: list[Task]) -> None:
        self.run = run
        self.state = run.state
        self.rows: dict[str, Row] = {}
        self.counts: Counter[str] = Counter()
        self.questions: dict[str, str] = {}
        """Permission requests without an answer: what to show of them, by id."""
        for task in tasks:
            self._add(task)

    def _add(self, task: Task) -> None:
        row = Row(
            task_id=task.task_id,
            key=task.task_key,
            title=one_line(task.title),
            depends_on=task.depends_on,
            status=task.status,
            attempt=task.attempt,
            started_at=task.started_at,
            finished_at=task.finished_at,
        )
        self.rows[task.task_id] = row
        self.counts[row.status] += 1

    def apply(self, event: Event) -> Change | None:
        """Take an event in; a change when it tells a reader something."""
        if event.type == "run.state":
            before, self.state = self.state, str(event.data.get("state", self.state))
            return None if before == self.state else Change(event.at, None, self.state.lower())
        if event.type == "run.cancel_requested":
            return Change(event.at, None, "cancel requested", _text(event.data.get("reason")))
        if event.task_id is None:
            return None
        row = self._row(event)
        status = _STATUS_OF.get(event.type)
        if event.type == "task.admitted":
            status = str(event.data.get("status", "QUEUED"))
        if status is not None:
            self._move(row, status, event)
        if event.type.startswith("permission."):
            return self._asked(row, event)
        return _change(row, event, status)

    def _asked(self, row: Row, event: Event) -> Change:
        """A question and how to answer it, or what came of one."""
        permission_id = _text(event.data.get("permissionRequestId"))
        if event.type == "permission.requested":
            prompt = shortened(one_line(_text(event.data.get("prompt"))), 160)
            ask = f"{prompt} -> flakes permissions approve {permission_id}"
            self.questions[permission_id] = f"{row.key} asks: {ask}"
            return Change(event.at, row.key, "asks", ask)
        self.questions.pop(permission_id, None)
        word = _text(event.data.get("decision")) or "question cancelled"
        if event.type == "permission.expired":
            word = f"{word} (nobody answered)"
        return Change(event.at, row.key, word, _text(event.data.get("reason")))

    def _row(self, event: Event) -> Row:
        assert event.task_id is not None
        row = self.rows.get(event.task_id)
        if row is None:
            # A task that was added after the snapshot; its title is not in the log.
            row = Row(event.task_id, event.task_key or event.task_id, "")
            self.rows[event.task_id] = row
            self.counts[row.status] += 1
        return row

    def _move(self, row: Row, status: str, event: Event) -> None:
        self.counts[row.status] -= 1
        self.counts[status] += 1
        row.status = status
        if status == "RUNNING":
            row.started_at, row.finished_at = event.at, None
            row.attempt = int(event.data.get("attempt", row.attempt))
        elif row.is_over:
            row.finished_at = event.at
            row.note = error_text(event.data.get("error"))
        else:
            row.finished_at = None
            row.note = ""


def _change(row: Row, event: Event, status: str | None) -> Change | None:
    data = event.data
    match event.type:
        case "task.running":
            detail = f"attempt {row.attempt}" if row.attempt > 1 else ""
            return Change(event.at, row.key, "running", detail)
        case "task.queued":
            reason = _text(data.get("reason"))
            # Becoming ready is the ordinary course of things; coming back is worth a line.
            again = reason not in ("", "admitted", "unblocked", "dependencies_succeeded", "ready")
            return Change(event.at, row.key, "queued", reason) if again else None
        case "task.succeeded":
            return Change(
                event.at, row.key, "succeeded", "verified" if data.get("verified") else ""
            )
        case "task.failed" | "task.cancelled":
            return Change(event.at, row.key, event.type[5:], error_text(data.get("error")))
        case "task.cancel_requested":
            return Change(event.at, row.key, "cancel requested", _text(data.get("reason")))
        case "task.waiting":
            return Change(event.at, row.key, "waiting", "")
        case "attempt.ended":
            outcome = _text(data.get("outcome"))
            why = error_text(data.get("error"))
            return Change(event.at, row.key, f"attempt {outcome or 'ended'}", why)
        case _:
            return None


def error_text(error: Any) -> str:
    """An error in an event, as a short sentence."""
    if isinstance(error, dict):
        message, code = _text(error.get("message")), _text(error.get("code"))
        return message or code
    return _text(error)


def _text(value: Any) -> str:
    return clean(value) if isinstance(value, str) else ""
