"""Who is connected to this replica, and the bounded queue towards each.

Sending never waits: a peer that does not read is disconnected when its queue is full, and gets everything
that matters again after it has come back, because all of it is derived from the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from typing import Any

import structlog

from flakes.core.limits import STREAM_FRAME_BYTES_MAX
from flakes.store.identifiers import new_id
from flakes.wire.codec import encode
from flakes.wire.sandbox_stream import Assignment

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
        self.heard = False
        """Heard from since the last flush of heartbeats."""
        self.pools: dict[str, str] = {}
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

    def queue_assignment(self, sandbox_id: str, assignment: Assignment) -> None:
        """Gather an offer; `flush_assignments` sends what has gathered, a few frames a sandbox."""
        peer = self.sandboxes.get(sandbox_id)
        if peer is not None:
            peer.assignments.append(assignment)
            self._with_assignments.add(sandbox_id)

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

    def close_those_of(self, token_ids: Collection[str]) -> list[str]:
        """End every connection that was opened with one of these credentials; whose they were."""
        closed = [
            peer for peer in (*self.sandboxes.values(), *self.hosts.values()) if peer.token_id in token_ids
        ]
        for peer in closed:
            peer.close()
        return [peer.peer_id for peer in closed]

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
