"""A running task in a fresh database, for tests of what people and attempts say to each other."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from flakes.core.placement import plan
from flakes.core.task import Outcome
from flakes.store import (
    accounts,
    admission,
    fences,
    leader,
    links,
    permissions,
    placement,
    projects,
    sandboxes,
    transitions,
)
from flakes.store.database import Database, Query, rows
from flakes.store.identifiers import new_id
from flakes.store.ledger import LOCK_RUNS_OF_ASSIGNMENTS, Ledger
from flakes.store.transitions import Accept, End
from flakes.wire.hosts import SandboxPost
from flakes.wire.permissions import Permission, PermissionAsk
from flakes.wire.projects import ProjectPut
from flakes.wire.runs import GraphPost
from flakes.wire.sandbox_stream import PROTOCOL, Hello


@dataclass(frozen=True, slots=True)
class Running:
    """A task whose assignment is accepted."""

    run_id: str
    task_id: str
    assignment_id: str


@dataclass(slots=True)
class Stage:
    """One owner, one project, one connected sandbox with room for everything."""

    db: Database
    owner_id: str
    replica_id: str
    term: int
    sandbox_id: str

    async def start(self, *keys: str) -> list[Running]:
        """A run of these tasks, all of them running."""
        tasks = [{"taskKey": key, "title": key, "adapter": "a"} for key in keys or ("only",)]
        body = {"name": "r", "projectKey": "project", "tasks": tasks, "close": True}
        async with self.db.transaction() as conn:
            graph = msgspec.convert(body, GraphPost)
            run_id = (await admission.graph(conn, self.owner_id, f"r-{secrets.token_hex(6)}", graph))[0]
        await self.schedule()
        found = await self.all(
            "select task_id, assignment_id from assignments where run_id = %(r)s and live order by 1",
            r=run_id,
        )
        assert len(found) == len(tasks)
        return [Running(run_id, *ids) for ids in found]

    async def schedule(self) -> None:
        """Offer what is ready, and accept all of it."""
        async with self.db.connection() as conn:
            snapshot, _ = await placement.SnapshotReader().read(conn, suspect_after_s=3_600)
            offers = await placement.claim(
                conn, plan(snapshot).placements, holder=self.replica_id, term=self.term
            )
        async with self.db.pipelined() as conn:
            await transitions.apply(
                conn, [Accept(assignment.assignment_id, sandbox_id) for sandbox_id, assignment in offers]
            )

    async def end(self, running: Running, outcome: Outcome = Outcome.SUCCEEDED) -> None:
        async with self.db.pipelined() as conn:
            applied = await transitions.apply(
                conn, [End(running.assignment_id, self.sandbox_id, outcome)]
            )
        assert not applied.stale

    async def ask(self, running: Running, prompt: str = "May I?", **fields: Any) -> Permission:
        body = PermissionAsk(**{"operation_id": secrets.token_hex(8), "prompt": prompt, **fields})
        async with self.db.transaction() as conn:
            params = {"assignment_ids": [running.assignment_id]}
            ledger = Ledger.of(await rows(conn, LOCK_RUNS_OF_ASSIGNMENTS, params))
            holder = await fences.hold(conn, self.sandbox_id, running.assignment_id)
            assert holder is not None
            asked = await permissions.ask(conn, ledger, holder, body)
            await ledger.flush(conn)
        return asked

    async def all(self, sql: str, **params: Any) -> list[tuple[Any, ...]]:
        async with self.db.connection() as conn:
            return await rows(conn, Query(sql), params)

    async def events(self, task_id: str, prefix: str = "") -> list[tuple[str, dict[str, Any]]]:
        """(type, data) of a task's events of a kind, in order."""
        found = await self.all(
            "select type, data from events where task_id = %(t)s order by transaction_id, event_id",
            t=task_id,
        )
        return [(type_, data) for type_, data in found if type_.startswith(prefix)]


@asynccontextmanager
async def staged(dsn: str, adapters: Sequence[str] = ("a",)) -> AsyncIterator[Stage]:
    db = Database(dsn, size=12)
    await db.open()
    replica_id = new_id("replica")
    try:
        async with db.transaction() as conn:
            owner_id = await accounts.create_user(conn, "owner")
            await projects.put(conn, owner_id, "project", ProjectPut(name="Project"))
            term = await leader.elect(conn, "loops", replica_id, 3_600)
            made = await sandboxes.register(conn, owner_id, SandboxPost(name="by hand"))
            sandbox_id = made.sandbox.sandbox_id
            await sandboxes.greet(conn, Hello(
                protocol=PROTOCOL, sandbox_id=sandbox_id, boot="b", version="1", max_concurrency=1_000,
                adapters=list(adapters), capabilities=[], assignments=[],
            ))  # fmt: skip
            await links.up(conn, sandbox_id, replica_id, "connection")
        assert term is not None
        yield Stage(db, owner_id, replica_id, term.term, sandbox_id)
    finally:
        await db.close()
