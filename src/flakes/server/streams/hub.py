"""Who is connected to this replica, and the bounded queue towards each.

Sending never waits: a peer that does not read is disconnected when its queue is full, and gets everything
that matters again after it has come back, because all of it is derived from the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import structlog

from flakes.core.limits import STREAM_FRAME_BYTES_MAX
from flakes.store.identifiers import new_id
from flakes.wire.codec import encode
from flakes.wire.sandbox_stream import Assignment, Cancel, Drain

QUEUE_MAX = 4_096
CLOSE = None

log = structlog.get_logger()


class Peer:
    """One connection. `outbox` holds encoded frames; None in it means close."""

    def __init__(self, peer_id: str, owner_id: str, token_id: str = "") -> None:
        self.peer_id = peer_id
        self.owner_id = owner_id
        self.token_id = token_id
        self.connection_id = new_id("key")
        self.outbox: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE_MAX)
        self.assignments: list[Assignment] = []
        self.offered: set[str] = set()
        """Assignments that were offered over this connection, or that the peer came with."""
        self.cancelled: set[str] = set()
        """Assignments that it was told to cancel over this connection."""
        self.draining = False
        self.heard = False
        """Heard from since the last flush of heartbeats."""
        self.pools: dict[str, str] = {}
        self.bindings: dict[str, int] = {}
        """Revisions of bindings that it was told over this connection."""
        self.refused: set[str] = set()
        """Assignments whose log lines were refused and recorded as such: one event each is enough."""

    def send(self, message: Any) -> None:
        """Queue a message; a full queue closes the connection."""
        self._put(encode(message))

    def close(self) -> None:
        """End the connection once what is queued has been sent."""
        self._put(CLOSE)

    def _put(self, frame: bytes | None) -> None:
        try:
            self.outbox.put_nowait(frame)
        except asyncio.QueueFull:
            log.warning("stream.slow_peer", peer=self.peer_id)
            while not self.outbox.empty():
                self.outbox.get_nowait()
            self.outbox.put_nowait(CLOSE)


class Hub:
    """Connections of this replica by peer id; the newest one of a peer replaces the older."""

    def __init__(self) -> None:
        self.sandboxes: dict[str, Peer] = {}
        self.hosts: dict[str, Peer] = {}
        self._with_assignments: set[str] = set()

    def add(self, peers: dict[str, Peer], peer: Peer) -> None:
        """Take over a connection; an older one of the same peer is closed."""
        older = peers.get(peer.peer_id)
        peers[peer.peer_id] = peer
        if older is not None and older is not peer:
            older.close()

    def remove(self, peers: dict[str, Peer], peer: Peer) -> None:
        """Forget a connection, unless a newer one has taken its place."""
        if peers.get(peer.peer_id) is peer:
            del peers[peer.peer_id]

    def drop(self, peer_id: str) -> None:
        """Close what is left of a peer's connection: it has connected elsewhere."""
        for peers in (self.sandboxes, self.hosts):
            peer = peers.pop(peer_id, None)
            if peer is not None:
                log.info("stream.moved", peer=peer_id)
                peer.close()

    def untold(self, unanswered: Iterable[tuple[str, str, int]]) -> set[str]:
        """Hosts connected here that were not told some of these (host id, binding id, revision)."""
        return {
            host_id
            for host_id, binding_id, revision in unanswered
            if host_id in self.hosts and self.hosts[host_id].bindings.get(binding_id) != revision
        }

    def send_sandbox(self, sandbox_id: str, message: Any) -> bool:
        """Send to a sandbox if it is connected here."""
        peer = self.sandboxes.get(sandbox_id)
        if peer is not None:
            peer.send(message)
        return peer is not None

    def send_host(self, host_id: str, message: Any) -> bool:
        """Send to a host if it is connected here."""
        peer = self.hosts.get(host_id)
        if peer is not None:
            peer.send(message)
        return peer is not None

    def cancel(
        self, sandbox_id: str, assignment_ids: Sequence[str], reason: str, *, again: bool = True
    ) -> bool:
        """Tell a sandbox to stop work, if it is connected here; with `again` False, what it has not been told
        over this connection."""
        peer = self.sandboxes.get(sandbox_id)
        if peer is None:
            return False
        wanted = [a for a in assignment_ids if again or a not in peer.cancelled]
        if wanted:
            peer.cancelled.update(wanted)
            peer.send(Cancel(assignment_ids=wanted, reason=reason))
        return True

    def drain(self, sandbox_id: str, reason: str) -> None:
        """Tell a sandbox once to take nothing new, if it is connected here."""
        peer = self.sandboxes.get(sandbox_id)
        if peer is not None and not peer.draining:
            peer.draining = True
            peer.send(Drain(reason=reason))

    def unoffered(
        self, sandbox_ids: Iterable[str], offered: Iterable[tuple[str, str]]
    ) -> list[str]:
        """Of all offers that are open to these sandboxes now, those not made over the connections they have."""
        open_now: dict[str, set[str]] = {sandbox_id: set() for sandbox_id in sandbox_ids}
        for sandbox_id, assignment_id in offered:
            open_now[sandbox_id].add(assignment_id)
        found: list[str] = []
        for sandbox_id, assignment_ids in open_now.items():
            peer = self.sandboxes.get(sandbox_id)
            if peer is not None:
                found += assignment_ids - peer.offered
                peer.offered &= assignment_ids
        return found

    def queue_assignment(self, sandbox_id: str, assignment: Assignment) -> bool:
        """Gather an offer, if the sandbox is connected here; `flush_assignments` sends what has gathered, a
        few frames a sandbox."""
        peer = self.sandboxes.get(sandbox_id)
        if peer is None:
            return False
        peer.assignments.append(assignment)
        peer.offered.add(assignment.assignment_id)
        self._with_assignments.add(sandbox_id)
        return True

    def flush_assignments(self, frame: Callable[..., Any]) -> None:
        """Send gathered offers; an offer too large for a frame goes without its definition."""
        for sandbox_id in self._with_assignments:
            peer = self.sandboxes.get(sandbox_id)
            if peer is None:
                continue
            for part in split(peer.assignments):
                peer.send(frame(assignments=part))
            peer.assignments = []
        self._with_assignments.clear()

    def heard_since_last_flush(self) -> list[tuple[str, str]]:
        """(peer id, connection id) of everybody heard since the last call."""
        heard: list[tuple[str, str]] = []
        for peer in (*self.sandboxes.values(), *self.hosts.values()):
            if peer.heard:
                peer.heard = False
                heard.append((peer.peer_id, peer.connection_id))
        return heard

    def connections(self) -> list[tuple[str, str]]:
        """(peer id, connection id) of everybody connected here."""
        peers = (*self.sandboxes.values(), *self.hosts.values())
        return [(peer.peer_id, peer.connection_id) for peer in peers]

    def close_all(self) -> None:
        """The server is going down: peers reconnect elsewhere."""
        for peer in (*self.sandboxes.values(), *self.hosts.values()):
            peer.close()


def split(assignments: Iterable[Assignment]) -> Iterable[list[Assignment]]:
    """Cut offers into frames of at most `STREAM_FRAME_BYTES_MAX`."""
    from msgspec.structs import replace

    part: list[Assignment] = []
    size = 0
    limit = STREAM_FRAME_BYTES_MAX - 1024
    for assignment in assignments:
        length = len(encode(assignment))
        if length > limit // 2:
            assignment = replace(assignment, definition=None, inputs=[])
            length = len(encode(assignment))
        if part and size + length > limit:
            yield part
            part, size = [], 0
        part.append(assignment)
        size += length + 1
    if part:
        yield part
