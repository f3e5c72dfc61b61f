"""The control plane in the simulation: the store's functions in the transactions and order the server uses.

Whatever the server does in more than one transaction is a *job*, an async generator that yields wherever
another part may come in between or the process may die. A crash throws the jobs and everything in memory
away; what is committed stays.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

from flakes.core.placement import plan
from flakes.core.task import Outcome
from flakes.store import interventions, leader, links, offers, placement, sandboxes, transitions
from flakes.store.database import Connection, Database
from flakes.store.interventions import Intervention
from flakes.store.transitions import Accept, Applied, End, Move, Withdraw
from flakes.wire.errors import ApiError
from flakes.wire.sandbox_stream import (
    Accepted,
    Ack,
    Assign,
    Assignment,
    Cancel,
    Declined,
    Message,
    Result,
    Welcome,
)
from sim.daemon import Link

Job = AsyncGenerator[None, None]
TTL_S = 3_600.0
SUSPECT_AFTER_S = 40.0
LOST_AFTER_S = 60.0
OFFER_TIMEOUT_S = 20.0
FOREVER_S = 1e6
WITHDRAWN = "not accepted in time"


@dataclass(slots=True, eq=False)
class Entry:
    """Moves on their way through the writer. `answer` is set by the commit."""

    moves: list[Move]
    answer: Applied | None = None


@dataclass(slots=True)
class Plane:
    """One life of one replica."""

    db: Database
    owner_id: str
    replica_id: str
    term: int = 0
    hub: dict[str, Link] = field(default_factory=dict)
    jobs: dict[str, list[Job]] = field(default_factory=dict)
    writing: list[Entry] = field(default_factory=list)
    reader: placement.SnapshotReader = field(default_factory=placement.SnapshotReader)

    async def take_the_lead(self) -> None:
        async with self.db.connection() as conn:
            term = await leader.elect(conn, "loops", self.replica_id, TTL_S)
        assert term is not None
        self.term = term.term

    def add(self, kind: str, job: Job) -> None:
        self.jobs.setdefault(kind, []).append(job)

    def crash(self) -> list[Job]:
        """Forget everything; the job of a scheduler that was only paused is given back."""
        for link in self.hub.values():
            link.cut()
        self.hub.clear()
        self.writing.clear()
        zombies = self.jobs.pop("schedule", [])
        self.jobs.clear()
        return zombies

    # ---- the writer

    async def commit(self, count: int) -> None:
        """Write what the first entries hold, in one transaction."""
        batch, self.writing = self.writing[:count], self.writing[count:]
        async with self.db.pipelined() as conn:
            moves = [move for entry in batch for move in entry.moves]
            answer = await transitions.apply(conn, moves)
        for entry in batch:
            entry.answer = answer

    async def _written(self, moves: Sequence[Move]) -> AsyncGenerator[Applied | None, None]:
        entry = Entry(list(moves))
        self.writing.append(entry)
        while entry.answer is None:
            yield None
        yield entry.answer

    # ---- streams

    async def connected(self, link: Link) -> Job:
        """A hello: greet, add to the hub, reconcile, then read."""
        async with self.db.transaction() as conn:
            assert await sandboxes.greet(conn, link.hello) == self.owner_id
            await links.up(conn, link.sandbox_id, self.replica_id, link.connection_id)
        yield
        async with self.db.connection() as conn:
            live = await offers.live_of(conn, link.sandbox_id)
        yield
        held = {item.assignment_id for item in link.hello.assignments}
        drop = sorted(held - {assignment_id for assignment_id, *_ in live})
        link.send(Welcome(protocol=1, heartbeat_s=15, window=4_096, server_time_ms=0, drop=drop))
        older = self.hub.get(link.sandbox_id)
        self.hub[link.sandbox_id] = link
        if older is not None and older.open:
            older.cut()
            self.add("disconnected", self.disconnected(older))
        yield
        async with self.db.connection() as conn:
            live = await offers.live_of(conn, link.sandbox_id)
        yield
        again = [a for a, state, _, _ in live if state == "offered" and a not in held]
        if again:
            await self._offer_again(again)
        for assignment_id, _, cancelled, _ in live:
            if cancelled and assignment_id in held:
                link.send(Cancel(assignment_ids=[assignment_id], reason="cancelled"))
        forgotten = [
            End(assignment_id, None, Outcome.LOST, "the sandbox came back without it")
            for assignment_id, state, _, _ in live
            if state == "accepted" and assignment_id not in held
        ]
        if forgotten:
            async for _ in self._written(forgotten):
                yield
        link.receiving = True

    async def disconnected(self, link: Link) -> Job:
        """The connection ended; what its hello set off is finished first, as one coroutine does it."""
        while not link.receiving:
            yield
        if self.hub.get(link.sandbox_id) is link:
            del self.hub[link.sandbox_id]
        yield
        async with self.db.connection() as conn:
            await links.down(conn, link.sandbox_id, link.connection_id)

    async def received(self, link: Link, batch: list[tuple[int, Message]]) -> Job:
        """What one connection sent: durable first, acknowledged then."""
        link.busy = True
        moves = [_move(message, link.sandbox_id) for _, message in batch]
        answer: Applied | None = None
        async for answer in self._written(moves):
            if answer is None:
                yield
        assert answer is not None
        yield  # committed, and not acknowledged yet
        for target, assignment_id in answer.cancel:
            if target == link.sandbox_id:
                link.send(Cancel(assignment_ids=[assignment_id], reason="cancelled"))
        stale = answer.stale & {move.assignment_id for move in moves}
        link.send(Ack(seq=batch[-1][0], stale=sorted(stale)))
        link.busy = False

    # ---- loops

    async def schedule(self, on_claim: Callable[[int], None]) -> Job:
        """One pass. `on_claim` hears how many offers a claim made."""
        async with self.db.connection() as conn:
            snapshot, _ = await self.reader.read(conn, suspect_after_s=SUSPECT_AFTER_S)
        made = plan(snapshot)
        if not made.placements:
            return
        yield
        async with self.db.connection() as conn:
            offered = await placement.claim(
                conn, made.placements, holder=self.replica_id, term=self.term
            )
        on_claim(len(offered))
        yield
        self._send_offers(offered)

    async def reap(self) -> Job:
        """Offers that nobody accepted, and assignments of sandboxes that are silent."""
        async with self.db.connection() as conn:
            stale = await links.stale_offers(conn, OFFER_TIMEOUT_S)
        yield
        if stale:
            withdrawn: set[str] = set()
            async for applied in self._written([Withdraw(a, WITHDRAWN) for a, _ in stale]):
                withdrawn = set() if applied is None else applied.withdrawn
                yield
            for assignment_id, sandbox_id in stale:
                if assignment_id in withdrawn:
                    self._cancel(sandbox_id, assignment_id)
        async with self.db.connection() as conn:
            lost = await links.lost(conn, lost_after_s=LOST_AFTER_S, held_s=FOREVER_S)
        yield
        if lost:
            async for _ in self._written([End(a, None, Outcome.LOST, "silent") for a, _ in lost]):
                yield

    async def heartbeats(self) -> Job:
        async with self.db.connection() as conn:
            heard = [
                (link.sandbox_id, link.connection_id) for link in self.hub.values() if link.open
            ]
            await links.seen(conn, heard)
        yield
        async with self.db.connection() as conn:
            await links.orphaned(conn, self.replica_id, 0.0)

    async def offer_again(self, sandbox_id: str) -> Job:
        """What is open is offered twice."""
        async with self.db.connection() as conn:
            again = [a for _, a in await offers.open_of(conn, [sandbox_id])]
        yield
        await self._offer_again(again)

    # ---- people

    async def intervene(self, act: str, reference: str, on_done: Callable[[], None]) -> Job:
        """Cancel or retry a task or a run, then deliver the cancels."""
        try:
            async with self.db.transaction() as conn:
                done = await self._intervention(conn, act, reference)
        except ApiError as error:
            if error.code != "task_not_retryable":
                raise
            return
        on_done()
        yield
        for sandbox_id, assignment_id in done.cancel:
            self._cancel(sandbox_id, assignment_id)

    async def _intervention(self, conn: Connection, act: str, reference: str) -> Intervention:
        match act:
            case "cancel_task":
                return await interventions.cancel_task(conn, self.owner_id, reference, None)
            case "cancel_run":
                return await interventions.cancel_run(conn, self.owner_id, reference, None)
            case "retry_task":
                return await interventions.retry_task(conn, self.owner_id, reference)
            case _:
                return await interventions.retry_run(conn, self.owner_id, reference)

    # ---- sending

    async def _offer_again(self, assignment_ids: list[str]) -> None:
        async with self.db.connection() as conn:
            self._send_offers(await offers.load(conn, assignment_ids))

    def _send_offers(self, loaded: Sequence[tuple[str, Assignment]]) -> None:
        for sandbox_id, assignment in loaded:
            if sandbox_id in self.hub:
                self.hub[sandbox_id].send(Assign(assignments=[assignment]))

    def _cancel(self, sandbox_id: str, assignment_id: str) -> None:
        if sandbox_id in self.hub:
            self.hub[sandbox_id].send(Cancel(assignment_ids=[assignment_id], reason="cancelled"))


def _move(message: Message, sandbox_id: str) -> Move:
    match message:
        case Accepted():
            return Accept(message.assignment_id, sandbox_id)
        case Declined():
            error = {"code": "declined", "message": message.reason}
            return End(message.assignment_id, sandbox_id, Outcome.DECLINED, message.reason, error)
        case Result():
            result = json.dumps({"text": message.text}).encode()
            return End(message.assignment_id, sandbox_id, message.outcome, result=result)
        case _:
            raise AssertionError(message)
