"""Accepts, refusals and ends of assignments: a batch of them in one transaction.

This is the hot path. One writer drains whatever has gathered into `apply`, which locks the runs
concerned, reads all assignments and tasks of the batch in one statement, lets `core.task` judge each,
and writes the outcome with one statement a kind. Fencing is per row: a message of an assignment that is
not live, or not the sender's, changes nothing and is returned as stale (F03, F30).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flakes.core.assignment import TRANSITIONS, AssignmentState
from flakes.core.task import Attempts, Outcome, TaskEvent, TaskStatus, Verdict, judge, withdrawn
from flakes.store import joins, messages, permissions, settlement
from flakes.store.database import Connection, Query, literal, rows, run
from flakes.store.ledger import LOCK_RUNS_OF_ASSIGNMENTS, Ledger
from flakes.wire.codec import encode

LOAD = Query("""
    select a.assignment_id, a.state, a.live, a.sandbox_id, a.attempt, t.task_id, t.run_id, t.status,
           t.optional, t.attempt, t.attempts_max, t.losses, t.backoff_s, t.backoff_s_max,
           t.cancel_requested_at is not null, a.accepted_at is not null,
           exists (select from messages m where m.assignment_id = a.assignment_id
                     and m.state in ('queued', 'delivered'))
           or exists (select from permissions p where p.assignment_id = a.assignment_id
                        and p.status = 'pending'),
           t.parent_task_id is not null or t.child_count > 0 or t.wait_count > 0
    from assignments a join tasks t on t.task_id = a.task_id
    where a.assignment_id = any(%(assignment_ids)s)""")

# What only some ends need to be judged by: how often the work may be tried, and how many offers in a row,
# up to now, no sandbox has taken.
_POLICY = Query("""
    select t.task_id, coalesce((p.definition #>> '{retry,maxAttempts}')::integer, 1),
           (select count(*) from assignments o
            where o.task_id = t.task_id and o.state = 'lost' and o.accepted_at is null
              and o.assignment_id > coalesce(
                  (select max(b.assignment_id) from assignments b
                   where b.task_id = t.task_id and b.accepted_at is not null), ''))
    from tasks t join task_payloads p on p.task_id = t.task_id
    where t.task_id = any(%(task_ids)s)""")

# What the attempts that say so have been told to wait for, and whether any of it is settled by now.
_YIELDING = Query("""
    select yields_for, bool_or(state <> 'pending') from waits
    where yields_for = any(%(assignment_ids)s) group by yields_for""")

ACCEPT = Query("""
    with u as (
        select * from unnest(%(assignment_ids)s::text[], %(task_ids)s::text[], %(sandbox_ids)s::text[])
            as u(assignment_id, task_id, sandbox_id)
    ), accepted as (
        update assignments a set state = 'accepted', accepted_at = now()
        from u where a.assignment_id = u.assignment_id
    )
    update tasks t
    set status = 'RUNNING', assignment_id = u.assignment_id, sandbox_id = u.sandbox_id,
        started_at = coalesce(t.started_at, now()), next_attempt_at = null
    from u where t.task_id = u.task_id""")

END_ASSIGNMENTS = Query("""
    update assignments a set state = u.state, live = false, ended_at = now(), reason = u.reason
    from unnest(%(assignment_ids)s::text[], %(states)s::text[], %(reasons)s::text[])
        as u(assignment_id, state, reason)
    where a.assignment_id = u.assignment_id""")

# What an attempt had reserved goes with it, whatever ended it. A statement of its own after the one above:
# that may have waited for an operation of the task, whose reservations its snapshot would not show.
RELEASE_FILES = Query("""
    with released as (
        delete from file_reservations f where f.assignment_id = any(%(assignment_ids)s)
        returning f.run_id, f.task_id, f.assignment_id, f.path, f.kind
    ), forgotten as (
        delete from live_changes l where l.assignment_id = any(%(assignment_ids)s)
    )
    insert into events (owner_id, run_id, task_id, type, data)
    select r.owner_id, f.run_id, f.task_id, 'files.released', json_build_object(
        'assignmentId', f.assignment_id, 'count', count(*), 'because', 'ended', 'selectors',
        to_json((array_agg(json_build_object('path', f.path, 'kind', f.kind) order by f.path))[:20]))
    from released f join runs r on r.run_id = f.run_id
    group by r.owner_id, f.run_id, f.task_id, f.assignment_id""")

FINISH = Query("""
    update tasks t set status = u.status, finished_at = now(), error = u.error, next_attempt_at = null
    from unnest(%(task_ids)s::text[], %(statuses)s::text[], %(errors)s::json[])
        as u(task_id, status, error)
    where t.task_id = u.task_id""")

REQUEUE = Query("""
    with u as (
        select * from unnest(%(task_ids)s::text[], %(attempts)s::smallint[], %(losses)s::smallint[],
                             %(delays)s::real[], %(errors)s::json[])
            as u(task_id, attempt, losses, delay_s, error)
    ), moved as (
        update tasks t
        set status = 'QUEUED', attempt = u.attempt, losses = u.losses, error = u.error,
            queued_at = now(),
            next_attempt_at = case when u.delay_s > 0 then now() + u.delay_s * interval '1 s' end
        from u where t.task_id = u.task_id
        returning t.task_id, t.class_id, t.run_id, t.priority, t.next_attempt_at
    )
    insert into ready_tasks (task_id, class_id, run_id, priority, queued_at, not_before)
    select task_id, class_id, run_id, priority, now(), next_attempt_at from moved""")

YIELD = Query("""
    update tasks set status = 'WAITING', error = null, next_attempt_at = null
    where task_id = any(%(task_ids)s)""")

STORE_RESULTS = Query("""
    insert into task_results (task_id, assignment_id, result)
    select * from unnest(%(task_ids)s::text[], %(assignment_ids)s::text[], %(results)s::json[])
    on conflict (task_id)
    do update set assignment_id = excluded.assignment_id, result = excluded.result""")


@dataclass(frozen=True, slots=True)
class Accept:
    """`sandbox_id` says it runs `assignment_id` if this is recorded."""

    assignment_id: str
    sandbox_id: str


@dataclass(frozen=True, slots=True)
class End:
    """An attempt's end. `sandbox_id` None is the control plane itself (reaper, reconciliation)."""

    assignment_id: str
    sandbox_id: str | None
    outcome: Outcome
    reason: str = ""
    error: Mapping[str, Any] | None = None
    result: bytes | None = None
    """What `GET /v1/tasks/:id/result` shows of it (JSON object), kept when the attempt decides the task."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """For the event: `verified` and the like."""


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The control plane takes back an offer. One that was accepted meanwhile, or has ended, stays as it is."""

    assignment_id: str
    reason: str
    at_once: bool = False
    """The sandbox was taken away from the offer, not the offer left lying: its task waits for nothing."""


Move = Accept | End | Withdraw


@dataclass(slots=True)
class Applied:
    """What a batch did. `stale` holds assignment ids whose message was refused."""

    stale: set[str] = field(default_factory=set)
    accepted: int = 0
    ended: int = 0
    ready: int = 0
    """Tasks that may be placed now: the scheduler should look."""
    freed: int = 0
    """Slots that became free."""
    cancel: list[tuple[str, str]] = field(default_factory=list)
    """(sandbox_id, assignment_id) that were accepted although a cancel had been asked for."""
    withdrawn: set[str] = field(default_factory=set)
    """Offers that were taken back: their sandboxes may forget them."""
    stops: list[tuple[str, str]] = field(default_factory=list)
    """(sandbox_id, assignment_id) of children that are to stop because their parent has ended."""
    settled: list[str] = field(default_factory=list)
    """Waits that are over."""


_STATE_OF = {
    Outcome.SUCCEEDED: AssignmentState.SUCCEEDED,
    Outcome.FAILED: AssignmentState.FAILED,
    Outcome.RETRYABLE: AssignmentState.FAILED,
    Outcome.YIELDED: AssignmentState.YIELDED,
    Outcome.CANCELLED: AssignmentState.CANCELLED,
    Outcome.LOST: AssignmentState.LOST,
    Outcome.DECLINED: AssignmentState.DECLINED,
}


class _Row:
    """One assignment of the batch with its task, as read; updated as the batch goes on."""

    __slots__ = (
        "assignment_id", "attempt", "attempts_asked", "attempts_max", "backoff_s", "backoff_s_max",
        "cancel_requested", "concerns", "live", "losses", "not_taken", "optional", "ordinal", "run_id",
        "sandbox_id", "state", "status", "talks", "task_id", "was_accepted", "yielding",
    )  # fmt: skip

    def __init__(self, row: tuple[Any, ...]) -> None:
        (
            self.assignment_id, self.state, self.live, self.sandbox_id, self.ordinal, self.task_id,
            self.run_id, self.status, self.optional, self.attempt, self.attempts_max, self.losses,
            self.backoff_s, self.backoff_s_max, self.cancel_requested, self.was_accepted, self.talks,
            self.concerns,
        ) = row  # fmt: skip
        self.attempts_asked, self.not_taken = self.attempts_max, 0
        self.yielding: bool | None = None
        """Whether what it was told to wait for is settled; None when it was not told to wait."""


async def apply(conn: Connection, moves: Sequence[Move]) -> Applied:
    """Apply a batch inside the caller's transaction. Order within the batch is kept per assignment.

    In a pipeline (see `Database.pipelined`) this is two round trips, three when anything depends on what
    ended: begin, lock and load; then every write and the commit.
    """
    params = {"assignment_ids": list({move.assignment_id for move in moves})}
    locking = await conn.execute(literal(LOCK_RUNS_OF_ASSIGNMENTS), params, prepare=True)
    loading = await conn.execute(literal(LOAD), params, prepare=True)
    ledger = Ledger.of(await locking.fetchall())
    found = {row[0]: _Row(row) for row in await loading.fetchall()}
    await _learn_policies(conn, moves, found)
    batch = _Batch(ledger)
    for move in moves:
        row = found.get(move.assignment_id)
        if isinstance(move, Withdraw):
            if row is not None and row.state == AssignmentState.OFFERED:
                end = End(row.assignment_id, None, Outcome.LOST, move.reason)
                batch.end(row, end, at_once=move.at_once)
                batch.applied.withdrawn.add(row.assignment_id)
            continue
        foreign = row is not None and move.sandbox_id not in (None, row.sandbox_id)
        if row is None or not row.live or foreign or not _may(row, move):
            batch.refuse(move, row)
        elif isinstance(move, Accept):
            batch.accept(row)
        else:
            batch.end(row, move)
    await batch.write(conn)
    return batch.applied


async def _learn_policies(
    conn: Connection, moves: Sequence[Move], found: Mapping[str, _Row]
) -> None:
    """Complete the rows of ends that are judged by more than what every row has: seldom any."""
    special = {
        move.assignment_id
        for move in moves
        if isinstance(move, Withdraw)
        or (isinstance(move, End) and move.outcome in (*_YIELDS, Outcome.LOST))
    }
    of_tasks = {row.task_id: row for key in special if (row := found.get(key)) is not None and row.live}
    if of_tasks:
        for task_id, asked, not_taken in await rows(conn, _POLICY, {"task_ids": list(of_tasks)}):
            of_tasks[task_id].attempts_asked = asked
            of_tasks[task_id].not_taken = not_taken
    waited = [row.assignment_id for row in of_tasks.values() if row.concerns]
    if waited:
        for assignment_id, settled in await rows(conn, _YIELDING, {"assignment_ids": waited}):
            found[assignment_id].yielding = settled


def _outcome(row: _Row, move: End) -> Outcome:
    """What the end is. Whoever was told to wait and asks for another try yields; nobody else does."""
    if move.outcome not in _YIELDS:
        return move.outcome
    return Outcome.RETRYABLE if row.yielding is None else Outcome.YIELDED


def _may(row: _Row, move: Accept | End) -> bool:
    """Whether the table of assignments has this move; accepting twice is a replay. The end of work on an
    offer that was never accepted is refused: nothing may have run."""
    if isinstance(move, Accept):
        return True
    return _STATE_OF[move.outcome] in TRANSITIONS[AssignmentState(row.state)]


_YIELDS = (Outcome.RETRYABLE, Outcome.YIELDED)
"""How an attempt ends that was told to wait: a command in the task has no other word than its exit code."""

_ENDED_BY_ITS_SANDBOX = frozenset(
    {AssignmentState.YIELDED, AssignmentState.SUCCEEDED, AssignmentState.FAILED, AssignmentState.CANCELLED}
)
"""What an accepted assignment can only have become by its own sandbox's report."""


class _Batch:
    """Collects the decisions of a batch, then writes them with one statement a kind."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.applied = Applied()
        self.accepts: dict[str, _Row] = {}
        self.ends: list[tuple[_Row, AssignmentState, str]] = []
        self.finished: list[tuple[_Row, TaskStatus, str | None]] = []
        self.requeued: list[tuple[_Row, Verdict, str | None]] = []
        self.results: list[tuple[str, str, str]] = []
        self.yielded: list[_Row] = []

    def refuse(self, move: Accept | End, row: _Row | None) -> None:
        """A replay of what is already recorded is fine; anything else is stale, and said so."""
        if row is not None and move.sandbox_id == row.sandbox_id:
            if isinstance(move, Accept):
                # Sent again with the result that followed it, because no ack of either arrived.
                replay = row.was_accepted and row.state in _ENDED_BY_ITS_SANDBOX
            else:
                replay = row.state == _STATE_OF[move.outcome] or (
                    move.outcome in _YIELDS and row.state == AssignmentState.YIELDED
                )
            if replay:
                return
        self.applied.stale.add(move.assignment_id)
        if row is not None and row.run_id in self.ledger.runs:
            what = "accepted" if isinstance(move, Accept) else f"result {move.outcome}"
            data = {"assignmentId": move.assignment_id, "what": what, "sandboxId": move.sandbox_id}
            self.ledger.event(row.run_id, "attempt.refused", row.task_id, data)

    def accept(self, row: _Row) -> None:
        if row.state == AssignmentState.ACCEPTED:
            return  # a replay
        row.state = AssignmentState.ACCEPTED
        row.was_accepted = True
        row.status = TaskStatus.RUNNING
        self.accepts[row.assignment_id] = row
        self.applied.accepted += 1
        self.ledger.move(row.run_id, TaskStatus.QUEUED, TaskStatus.RUNNING, optional=row.optional)
        data = {"assignmentId": row.assignment_id, "sandboxId": row.sandbox_id, "attempt": row.attempt}
        self.ledger.event(row.run_id, "task.running", row.task_id, data)
        if row.cancel_requested:
            self.applied.cancel.append((row.sandbox_id, row.assignment_id))

    def end(self, row: _Row, move: End, *, at_once: bool = False) -> None:
        offered = row.state == AssignmentState.OFFERED
        row.live = False
        outcome = _outcome(row, move)
        row.state = _STATE_OF[outcome]
        self.ends.append((row, row.state, "" if outcome is Outcome.YIELDED else move.reason))
        self.applied.ended += 1
        self.applied.freed += 1
        attempts = Attempts(
            row.attempt, row.attempts_max, row.losses, row.backoff_s, row.backoff_s_max,
            row.attempts_asked, row.not_taken,
        )  # fmt: skip
        verdict = (
            withdrawn(cancel_requested=row.cancel_requested)
            if at_once
            else judge(
                outcome, attempts, cancel_requested=row.cancel_requested, jitter=random.random(),  # noqa: S311
                taken=not offered,
            )
        )  # fmt: skip
        if verdict.event is TaskEvent.YIELDED:
            self._yield(row)
            return
        reported = move.error
        if reported is None and verdict.event is TaskEvent.FAILED:
            # Nobody is left with a failure that says nothing.
            reported = {"code": str(move.outcome), "message": move.reason or f"the attempt was {move.outcome}"}
        error = encode(reported).decode() if reported else None
        old = TaskStatus.QUEUED if offered else TaskStatus.RUNNING
        data: dict[str, Any] = {"assignmentId": row.assignment_id, **move.data}
        if reported:
            data["error"] = reported
        if verdict.event is TaskEvent.REQUEUED:
            told = {"outcome": move.outcome} | ({"reason": move.reason} if offered and move.reason else {})
            self._requeue(row, verdict, old, error, data | told)
            return
        status = {
            TaskEvent.SUCCEEDED: TaskStatus.SUCCEEDED,
            TaskEvent.FAILED: TaskStatus.FAILED,
            TaskEvent.CANCELLED: TaskStatus.CANCELLED,
        }[verdict.event]
        self.finished.append((row, status, error))
        self.ledger.move(row.run_id, old, status, optional=row.optional)
        self.ledger.end(row.task_id, concerns=row.concerns)
        self.ledger.event(row.run_id, f"task.{status.lower()}", row.task_id, data)
        if move.result is not None:
            self.results.append((row.task_id, row.assignment_id, move.result.decode()))

    def _yield(self, row: _Row) -> None:
        """What it waits for may be settled by now: then the task goes on at once."""
        data = {"assignmentId": row.assignment_id, "outcome": Outcome.YIELDED}
        self.ledger.event(row.run_id, "attempt.ended", row.task_id, data)
        if row.yielding:
            self.requeued.append((row, Verdict(TaskEvent.REQUEUED), None))
            self.applied.ready += 1
            self.ledger.move(row.run_id, TaskStatus.RUNNING, TaskStatus.QUEUED, optional=row.optional)
            self.ledger.event(row.run_id, "task.queued", row.task_id, {"reason": "wait_settled"})
            return
        self.yielded.append(row)
        self.ledger.doubtful.add(row.task_id)
        self.ledger.move(row.run_id, TaskStatus.RUNNING, TaskStatus.WAITING, optional=row.optional)
        self.ledger.event(row.run_id, "task.waiting", row.task_id, {"assignmentId": row.assignment_id})

    def _requeue(
        self, row: _Row, verdict: Verdict, old: TaskStatus, error: str | None, data: dict[str, Any]
    ) -> None:
        row.attempt += verdict.counts_as_attempt
        row.losses += verdict.counts_as_loss
        self.requeued.append((row, verdict, error))
        self.applied.ready += 1
        self.ledger.move(row.run_id, old, TaskStatus.QUEUED, optional=row.optional)
        self.ledger.event(row.run_id, "attempt.ended", row.task_id, data)
        reason = "lost" if verdict.counts_as_loss else "retry" if verdict.counts_as_attempt else "not_taken"
        delay = {"delayS": round(verdict.delay_s, 3)} if verdict.delay_s else {}
        self.ledger.event(row.run_id, "task.queued", row.task_id, {"reason": reason, **delay})

    async def write(self, conn: Connection) -> None:
        await self._write_tasks(conn)
        succeeded = self._with_blocked(TaskStatus.SUCCEEDED)
        if succeeded:
            self.applied.ready += await settlement.after_success(conn, self.ledger, succeeded)
        bad = self._with_blocked(TaskStatus.FAILED, TaskStatus.CANCELLED)
        if bad:
            self.applied.ready += await settlement.after_failure(conn, self.ledger, bad)
        await self._end_talks(conn)
        await joins.settle(conn, self.ledger)
        self.applied.ready += self.ledger.ready
        self.applied.stops += self.ledger.stops
        self.applied.settled += self.ledger.settled
        await self.ledger.flush(conn)

    async def _end_talks(self, conn: Connection) -> None:
        """Unread messages and open questions end with their attempt."""
        ended = {
            row.assignment_id: f"the attempt ended ({state})" for row, state, _ in self.ends if row.talks
        }
        if ended:
            await messages.leave(conn, self.ledger, ended)
            await permissions.cancel(conn, self.ledger, ended)

    async def _write_tasks(self, conn: Connection) -> None:
        if self.accepts:
            accepts = self.accepts.values()
            await run(conn, ACCEPT, {
                "assignment_ids": [row.assignment_id for row in accepts],
                "task_ids": [row.task_id for row in accepts],
                "sandbox_ids": [row.sandbox_id for row in accepts],
            })  # fmt: skip
        if self.ends:
            await run(conn, END_ASSIGNMENTS, {
                "assignment_ids": [row.assignment_id for row, _, _ in self.ends],
                "states": [str(state) for _, state, _ in self.ends],
                "reasons": [reason or None for _, _, reason in self.ends],
            })  # fmt: skip
            await run(conn, RELEASE_FILES, {
                "assignment_ids": [row.assignment_id for row, _, _ in self.ends],
            })  # fmt: skip
        if self.finished:
            await run(conn, FINISH, {
                "task_ids": [row.task_id for row, _, _ in self.finished],
                "statuses": [str(status) for _, status, _ in self.finished],
                "errors": [error for _, _, error in self.finished],
            })  # fmt: skip
        if self.requeued:
            await run(conn, REQUEUE, {
                "task_ids": [row.task_id for row, _, _ in self.requeued],
                "attempts": [row.attempt for row, _, _ in self.requeued],
                "losses": [row.losses for row, _, _ in self.requeued],
                "delays": [verdict.delay_s for _, verdict, _ in self.requeued],
                "errors": [error for _, _, error in self.requeued],
            })  # fmt: skip
        if self.yielded:
            await run(conn, YIELD, {"task_ids": [row.task_id for row in self.yielded]})
        if self.results:
            await run(conn, STORE_RESULTS, {
                "task_ids": [r[0] for r in self.results],
                "assignment_ids": [r[1] for r in self.results],
                "results": [r[2] for r in self.results],
            })  # fmt: skip

    def _with_blocked(self, *statuses: TaskStatus) -> list[str]:
        """Finished tasks of these states in runs where anything is blocked."""
        return [
            row.task_id
            for row, status, _ in self.finished
            if status in statuses and self.ledger.runs[row.run_id].count(TaskStatus.BLOCKED)
        ]
