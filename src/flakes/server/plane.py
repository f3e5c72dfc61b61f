"""What one replica of the control plane is made of: its database, writers, hubs and wake-ups.

Built once in `main`, handed to routes, streams and loops. Nothing here is global.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from flakes.server.auth.live import LiveStreams
from flakes.server.auth.mail import Mailer
from flakes.server.auth.passwords import Hashing
from flakes.server.auth.provider import Provider
from flakes.server.batches import BatchWriter
from flakes.server.bench import Bench
from flakes.server.held import Held
from flakes.server.predictions import Predictions
from flakes.server.replicas import Replicas
from flakes.server.streams.hub import Hub
from flakes.server.wake import LogReaders, Subscriptions, Wake
from flakes.store import joins, logs, messages, offers, transcripts, transitions
from flakes.store.accounts import Identity, identify
from flakes.store.blobs import BlobStore
from flakes.store.database import Database
from flakes.store.identifiers import new_id
from flakes.store.interventions import Intervention
from flakes.store.ledger import Ledger
from flakes.store.transitions import Applied, End, Move
from flakes.store.uploads import Uploads
from flakes.wire.config import ServerConfig
from flakes.wire.replicas import ANSWERED, EVENTS, LOGS, READY, SETTLED, about
from flakes.wire.sandbox_stream import Assign, Assignment, InputState, LogLines, TranscriptChunk


@dataclass(slots=True)
class _Cached:
    identity: Identity
    until: float


IDENTITY_CACHE_S = 2.0
"""How long a revoked token may still be taken by a replica."""


class Plane:
    """See the module."""

    def __init__(self, config: ServerConfig, database: Database, blobs: BlobStore) -> None:
        self.config = config
        self.database = database
        self.outside = database
        """The same, but never the transaction of one request: for what has to stay if that fails."""
        self.units = asyncio.Semaphore(max(1, config.database.pool_size - 4))
        """Requests that may hold a transaction for as long as they run: some connections stay free."""
        self.blobs = blobs
        self.uploads = Uploads(blobs)
        self.bench = Bench(database, blobs)
        self.predictions = Predictions(self.bench)
        self.replica_id = new_id("replica")
        self.hub = Hub()
        self.replicas = Replicas(self.replica_id)
        self.undelivered = Wake()
        """Something was stored for peers that are connected here."""
        self.schedule = Wake()
        """Something became ready or free: look again."""
        self.merge = Wake()
        """Attempts have ended: what they left may be brought in."""
        self.changed = Wake()
        """An event was written, or somebody started to listen."""
        self.garbage = Wake()
        """Something was deleted whose bytes may not be needed any more."""
        self.sweep = Wake()
        """There may be something for the janitor."""
        self.subscriptions = Subscriptions(self.changed)
        self.log_readers = LogReaders(self.changed)
        self.exports = 0
        """Histories that are being streamed now."""
        self.transitions = BatchWriter("transitions", self._apply_moves)
        self.log_lines = BatchWriter("logs", self._append_logs, batch_max=500)
        self.transcripts = BatchWriter("transcripts", self._append_transcripts, batch_max=100)
        self.inputs = BatchWriter("inputs", self._report_inputs, batch_max=500)
        self.held = Held()
        self.leading = False
        self.live = LiveStreams()
        self.hashing = Hashing()
        self.mailer = Mailer(config.mail)
        self.provider = Provider(config.oidc) if config.oidc is not None else None
        self._identities: dict[str, _Cached] = {}

    async def identify(self, token: str, *, fresh: bool = False) -> Identity | None:
        """Who a token speaks for; answers are kept for two seconds, and taken by whoever asks for no
        `fresh` one."""
        now = time.monotonic()
        cached = self._identities.get(token)
        if not fresh and cached is not None and cached.until > now:
            return cached.identity
        async with self.database.connection() as conn:
            identity = await identify(conn, token)
        if identity is None:
            self._identities.pop(token, None)
            return None
        if len(self._identities) > 10_000:
            self._identities.clear()
        self._identities[token] = _Cached(identity, now + IDENTITY_CACHE_S)
        return identity

    def revoked(self, token_ids: Collection[str]) -> int:
        """Tokens were revoked: this replica takes them no more, and ends the streams that use them (how
        many). Others notice within `IDENTITY_CACHE_S`."""
        for token, cached in list(self._identities.items()):
            if cached.identity.token_id in token_ids:
                del self._identities[token]
        return self.live.end(token_ids)

    async def end_attempts(self, ends: Sequence[End]) -> None:
        """The control plane itself ends attempts (lost, withdrawn)."""
        if ends:
            await self.transitions.write(list(ends))

    async def offer(self, assignment_ids: Collection[str]) -> None:
        """Send these offers to those sandboxes that are connected here."""
        async with self.database.connection() as conn:
            self.send_offers(await offers.load(conn, list(assignment_ids)))

    def send_offers(self, loaded: Sequence[tuple[str, Assignment]]) -> None:
        """Send (sandbox id, assignment) pairs; the replicas that hold the links of the others are called."""
        for sandbox_id, assignment in loaded:
            if not self.hub.queue_assignment(sandbox_id, assignment):
                self.replicas.call(sandbox_id)
        self.hub.flush_assignments(Assign)

    def reach(self, *peer_ids: str) -> None:
        """Something was stored for these sandboxes or hosts: whoever holds their links should look."""
        for peer_id in peer_ids:
            if peer_id in self.hub.sandboxes or peer_id in self.hub.hosts:
                self.undelivered.set()
            else:
                self.replicas.call(peer_id)

    def deliver(self, done: Intervention, reason: str | None) -> None:
        """Send the cancels of an intervention and wake whoever should look."""
        self.stop(done.cancel, reason or "cancelled")
        self.settled(done.settled)
        self.wrote(ready=done.ready)

    def stop(self, attempts: Sequence[tuple[str, str]], reason: str) -> None:
        """Tell sandboxes to stop (sandbox id, assignment id) pairs; that they are to is committed."""
        by_sandbox: dict[str, list[str]] = {}
        for sandbox_id, assignment_id in attempts:
            by_sandbox.setdefault(sandbox_id, []).append(assignment_id)
        for sandbox_id, assignment_ids in by_sandbox.items():
            if not self.hub.cancel(sandbox_id, assignment_ids, reason):
                self.replicas.call(sandbox_id)

    def joined(self, ledger: Ledger, reason: str = "cancelled") -> None:
        """A transaction has committed in which tasks ended, or waits: tell whom it concerns."""
        self.stop(ledger.stops, reason)
        self.settled(ledger.settled)
        self.wrote(ready=ledger.ready)

    def settled(self, wait_ids: Sequence[str]) -> None:
        """Waits are over, and that is committed: whoever is held for one looks."""
        for wait_id in wait_ids:
            self.held.publish(wait_id)
            self.replicas.tell(about(SETTLED, wait_id))

    def wrote(self, *, ready: int = 0, freed: int = 0) -> None:
        """A transaction with events has committed."""
        self.changed.set()
        self.replicas.tell(EVENTS)
        if ready or freed:
            self.schedule.set()
            self.merge.set()
            self.replicas.tell(READY)

    def answered(self, permission_id: str) -> None:
        """A permission request is decided, and that is committed."""
        self.held.publish(permission_id)
        self.replicas.tell(about(ANSWERED, permission_id))

    async def after(self, act: Callable[[], object]) -> None:
        """Do what must not happen before what was written is committed: here, at once."""
        await finish(act)

    async def _apply_moves(self, moves: Sequence[Move]) -> Applied:
        async with self.database.pipelined() as conn:
            applied = await transitions.apply(conn, moves)
        self.stop(applied.stops, joins.PARENT_ENDED)
        self.settled(applied.settled)
        self.wrote(ready=applied.ready, freed=applied.freed)
        return applied

    async def _append_logs(self, chunks: Sequence[tuple[str, LogLines]]) -> set[str]:
        async with self.database.transaction() as conn:
            appended = await logs.append(conn, chunks)
        self.log_readers.publish(appended.task_ids)
        self.replicas.tell(*(about(LOGS, task_id) for task_id in appended.task_ids))
        return appended.stale

    async def _append_transcripts(self, chunks: Sequence[tuple[str, TranscriptChunk]]) -> set[str]:
        async with self.database.transaction() as conn:
            appended = await transcripts.append(conn, chunks)
        self.log_readers.publish(appended.task_ids)
        self.replicas.tell(*(about(LOGS, task_id) for task_id in appended.task_ids))
        if appended.events:
            self.wrote()
        return appended.stale

    async def _report_inputs(self, reports: Sequence[tuple[str, InputState]]) -> set[str]:
        async with self.database.transaction() as conn:
            stale = await messages.report(conn, reports)
        self.wrote()
        return stale


async def finish(act: Callable[[], object]) -> None:
    """Call it, and wait for what it began."""
    done = act()
    if inspect.isawaitable(done):
        await done
