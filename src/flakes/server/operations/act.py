"""One request of a running task: who asks, what for, and the fenced transaction in which it is done.

Everything a handler writes goes through `fenced()` (or `locked()`, when it moves tasks): they refuse a
stale assignment and a missing grant before the handler sees a connection, and hold the assignment until
the commit. Handlers are idempotent, because a sandbox sends a request again when its answer was lost.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from flakes.server.plane import Plane
from flakes.store import fences
from flakes.store.database import Connection, rows
from flakes.store.fences import Holder
from flakes.store.ledger import LOCK_RUNS_OF_ASSIGNMENTS, Ledger
from flakes.wire.errors import ApiError
from flakes.wire.operations import OPERATIONS

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Act:
    """See the module. `body` is the decoded request struct of the operation."""

    plane: Plane
    operation: str
    owner_id: str
    sandbox_id: str
    assignment_id: str
    body: Any

    @asynccontextmanager
    async def fenced(self) -> AsyncIterator[tuple[Connection, Holder]]:
        """A transaction in which the assignment is live, accepted, this sandbox's, and has the grant."""
        async with self.plane.database.transaction() as conn:
            holder = await self._hold(conn)
            yield conn, holder

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[tuple[Connection, Holder, Ledger]]:
        """Like `fenced`, with the lock of the run taken first; the ledger is flushed at the end."""
        async with self.plane.database.transaction() as conn:
            params = {"assignment_ids": [self.assignment_id]}
            ledger = Ledger.of(await rows(conn, LOCK_RUNS_OF_ASSIGNMENTS, params))
            holder = await self._hold(conn)
            yield conn, holder, ledger
            await ledger.flush(conn)
        self.plane.wrote()

    async def _hold(self, conn: Connection) -> Holder:
        holder = await fences.hold(conn, self.sandbox_id, self.assignment_id)
        if holder is None or holder.owner_id != self.owner_id:
            raise ApiError(
                "stale_assignment", "the assignment is not this sandbox's, not accepted, or has ended",
                "stop: another attempt has taken over, or the task is over",
            )  # fmt: skip
        grant = OPERATIONS[self.operation].grant
        if grant is not None and not await fences.is_granted(conn, holder.task_id, grant):
            raise ApiError(
                "grant_required", f"the task may not use {self.operation}: it lacks the grant {grant!r}",
                f"give the task the tool grant: `--tool-grant {grant}`, or toolGrants in its definition",
                grant=grant,
            )  # fmt: skip
        return holder


Handler = Callable[[Act], Awaitable[Any]]


async def perform(handler: Handler, act: Act) -> Any:
    """Run a handler; a stale request becomes an entry of the task's activity and a log line (F30)."""
    try:
        return await handler(act)
    except ApiError as error:
        if error.code == "stale_assignment":
            await _note_refused(act)
        raise


async def _note_refused(act: Act) -> None:
    log.warning(
        "operation.refused", operation=act.operation, sandbox=act.sandbox_id, assignment=act.assignment_id
    )
    async with act.plane.database.transaction() as conn:
        known = await fences.note_refused(
            conn, act.owner_id, act.sandbox_id, act.assignment_id, act.operation
        )
    if known:
        act.plane.wrote()
