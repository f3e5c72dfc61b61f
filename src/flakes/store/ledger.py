"""The runs a transaction has locked: their task counts, their derived state, and the events to write.

Whoever changes tasks opens a ledger first. `lock` takes the run rows in id order, which is the first and
only lock that task changes need; `move` keeps the counts; `flush` derives each run's state from its
counts by `core.run`, writes what changed and appends the events. Nothing is written before `flush`.

Tasks that end and have parents, children or waits are noted with `end`; whoever notes any calls
`joins.settle` before `flush`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from flakes.core.run import RunState, TaskCounts, derive, is_complete
from flakes.core.task import TaskStatus
from flakes.store.database import Connection, Query, rows, run
from flakes.wire.codec import encode

STATUSES = tuple(TaskStatus)
"""The order of the count arrays."""
_INDEX = {status: index for index, status in enumerate(STATUSES)}

LOCK_RUNS = Query("""
    select run_id, owner_id, project_id, run_key, closed, cancel_requested_at is not null, state,
           counts, optional_counts, completed_at, delete_requested_at is not null, merging
    from runs where run_id = any(%(run_ids)s) order by run_id for update""")

LOCK_RUNS_OF_ASSIGNMENTS = Query("""
    select run_id, owner_id, project_id, run_key, closed, cancel_requested_at is not null, state,
           counts, optional_counts, completed_at, delete_requested_at is not null, merging
    from runs
    where run_id in (select run_id from assignments where assignment_id = any(%(assignment_ids)s))
    order by run_id for update""")

WRITE_RUNS = Query("""
    update runs r
    set state = u.state, counts = u.counts::integer[], optional_counts = u.optional_counts::integer[],
        updated_at = now(),
        completed_at = case when u.complete then coalesce(r.completed_at, now()) end
    from unnest(%(run_ids)s::text[], %(states)s::text[], %(counts)s::text[], %(optional)s::text[],
                %(complete)s::boolean[]) as u(run_id, state, counts, optional_counts, complete)
    where r.run_id = u.run_id""")

WRITE_MERGING = Query("""
    update runs r set merging = u.merging
    from unnest(%(run_ids)s::text[], %(merging)s::integer[]) as u(run_id, merging)
    where r.run_id = u.run_id""")

APPEND_EVENTS = Query("""
    insert into events (owner_id, run_id, task_id, type, data)
    select * from unnest(%(owner_ids)s::text[], %(run_ids)s::text[], %(task_ids)s::text[],
                         %(types)s::text[], %(data)s::json[])""")


@dataclass(slots=True)
class LockedRun:
    """A run row under lock; `counts` follow `STATUSES`."""

    run_id: str
    owner_id: str
    project_id: str
    run_key: str
    closed: bool
    cancelled: bool
    state: str
    counts: list[int]
    optional_counts: list[int]
    completed_at: datetime | None
    deleting: bool = False
    merging: int = 0
    """Handles of its tasks that are not settled; see `store.merging`."""
    changed: bool = False
    merging_changed: bool = False

    def count(self, status: TaskStatus) -> int:
        """Tasks of the run in this state."""
        return self.counts[_INDEX[status]]

    def derived(self) -> RunState:
        """What the counts mean now."""
        counts = TaskCounts(
            dict(zip(STATUSES, self.counts, strict=True)),
            dict(zip(STATUSES, self.optional_counts, strict=True)),
        )
        return derive(counts, cancelled=self.cancelled, merging=self.merging > 0)


@dataclass(slots=True)
class Ledger:
    """See the module; one per transaction."""

    runs: dict[str, LockedRun]
    owner_ids: list[str] = field(default_factory=list)
    run_ids: list[str | None] = field(default_factory=list)
    task_ids: list[str | None] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    data: list[str | None] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    """Tasks that have ended and concern others, until `joins.settle` has looked at them."""
    stops: list[tuple[str, str]] = field(default_factory=list)
    """(sandbox id, assignment id) of attempts that are to be stopped, to be told after the commit."""
    ready: int = 0
    """Tasks that `joins.settle` has made ready."""
    settled: list[str] = field(default_factory=list)
    """Waits that are over, to be told after the commit to whoever is held."""
    doubtful: set[str] = field(default_factory=set)
    """Waits, groups and waiting tasks that something has happened to which decided nothing (see `stalls`)."""
    stuck: set[str] = field(default_factory=set)
    """Runs in which an end has left tasks blocked, so that waits may have lost their hope."""

    @classmethod
    async def lock(cls, conn: Connection, run_ids: Collection[str]) -> Ledger:
        """Lock these runs in id order; those that do not exist are simply not there."""
        return cls.of(await rows(conn, LOCK_RUNS, {"run_ids": sorted(set(run_ids))}))

    @classmethod
    def of(cls, locked: list[tuple[Any, ...]]) -> Ledger:
        """A ledger over rows of one of the locking statements."""
        return cls({row[0]: LockedRun(*row) for row in locked})

    def move(
        self, run_id: str, old: TaskStatus | None, new: TaskStatus | None, *, optional: bool
    ) -> None:
        """One task of the run went from `old` to `new`; None is not existing."""
        locked = self.runs[run_id]
        for counts in (locked.counts, locked.optional_counts) if optional else (locked.counts,):
            if old is not None:
                counts[_INDEX[old]] -= 1
                assert counts[_INDEX[old]] >= 0, (run_id, old)
            if new is not None:
                counts[_INDEX[new]] += 1
        locked.changed = True

    def end(self, task_id: str, *, concerns: bool) -> None:
        """A task has ended; `concerns` says whether it has a parent, children or waits."""
        if concerns:
            self.ended.append(task_id)

    def merge(self, run_id: str, opened: int) -> None:
        """So many handles wait to be brought in, or less are negative numbers."""
        locked = self.runs[run_id]
        locked.merging += opened
        assert locked.merging >= 0, run_id
        locked.changed = locked.merging_changed = True

    def event(
        self,
        run_id: str,
        type_: str,
        task_id: str | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Append an event of a locked run."""
        self.owner_ids.append(self.runs[run_id].owner_id)
        self.run_ids.append(run_id)
        self.task_ids.append(task_id)
        self.types.append(type_)
        self.data.append(encode(data).decode() if data else None)

    async def flush(self, conn: Connection) -> bool:
        """Write changed runs and all events; True when any event was written."""
        assert not self.ended, "joins.settle comes first"
        changed = [locked for locked in self.runs.values() if locked.changed]
        for locked in changed:
            state = locked.derived()
            if state != locked.state:
                self.event(
                    locked.run_id, "run.state", data={"state": state, "from": locked.state}
                )
                locked.state = state
            locked.changed = False
        if changed:
            states = [RunState(locked.state) for locked in changed]
            await run(conn, WRITE_RUNS, {
                "run_ids": [locked.run_id for locked in changed],
                "states": [str(state) for state in states],
                "counts": [_array(locked.counts) for locked in changed],
                "optional": [_array(locked.optional_counts) for locked in changed],
                "complete": [
                    is_complete(state, closed=locked.closed, cancelled=locked.cancelled)
                    for state, locked in zip(states, changed, strict=True)
                ],
            })  # fmt: skip
        merging = [locked for locked in changed if locked.merging_changed]
        if merging:
            await run(conn, WRITE_MERGING, {
                "run_ids": [locked.run_id for locked in merging],
                "merging": [locked.merging for locked in merging],
            })  # fmt: skip
            for locked in merging:
                locked.merging_changed = False
        if not self.types:
            return False
        await run(conn, APPEND_EVENTS, {
            "owner_ids": self.owner_ids, "run_ids": self.run_ids, "task_ids": self.task_ids,
            "types": self.types, "data": self.data,
        })  # fmt: skip
        self.owner_ids, self.run_ids, self.task_ids, self.types, self.data = [], [], [], [], []
        return True


def _array(counts: list[int]) -> str:
    """PostgreSQL's text form of an integer array (unnest flattens real nested arrays)."""
    return "{" + ",".join(map(str, counts)) + "}"
