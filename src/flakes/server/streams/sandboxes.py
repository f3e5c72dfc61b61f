"""The stream of a sandbox: hello and reconciliation, then batches in, acks and offers out.

Batches of one connection are applied in order. Reading goes on while a batch is being committed, so what
gathers meanwhile is one batch for the writers; acks leave after the commit. A frame that cannot be
understood is logged and skipped, and a message that cannot be stored is refused by itself: content never
closes the stream (F22).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import psycopg
import structlog
from starlette.websockets import WebSocket

from flakes.core import limits
from flakes.core.task import Outcome
from flakes.server.plane import Plane
from flakes.server.streams import delivery
from flakes.server.streams.hub import Peer
from flakes.server.streams.socket import UNREADABLE, authenticate, frames, pump, readable
from flakes.store import links, logs, messages, offers, sandboxes
from flakes.store.hosts import record
from flakes.store.transitions import Accept, End, Move
from flakes.wire import sandbox_stream as wire
from flakes.wire.codec import encode
from flakes.wire.replicas import MOVED

log = structlog.get_logger()

_decode = msgspec.json.Decoder(wire.Upstream)

WINDOW = 4_096
"""Unacknowledged messages a sandbox may have under way."""
HELLO_TIMEOUT_S = 20.0
LINE_MAX = 2**31 - 1
AT_MS_MAX = 253_402_300_799_000
"""The last second of the year 9999, the last that everybody can read."""
WARNINGS_MAX = 64
"""As many as a task can have outputs: more are not told in its event."""


async def serve(socket: WebSocket, plane: Plane) -> None:
    """`GET /v1/sandboxes/:sandboxId/stream`."""
    sandbox_id = socket.path_params["sandboxId"]
    identity = await authenticate(socket, plane, "sandbox", sandbox_id)
    await socket.accept()
    peer = Peer(sandbox_id, identity.owner_id, identity.token_id)
    incoming = frames(socket)
    hello = await _hello(incoming)
    if hello is None or hello.sandbox_id != sandbox_id:
        await socket.close(1002, "hello expected")
        return
    refused = _excess(hello)
    if refused:
        log.warning("sandbox.refused", sandbox=sandbox_id, reason=refused)
        await socket.close(1008, refused)
        return
    async with plane.database.transaction() as conn:
        owner_id = await sandboxes.greet(conn, hello)
        if owner_id is not None:
            await links.up(conn, sandbox_id, plane.replica_id, peer.connection_id)
    if owner_id is None:
        await socket.close(1008, "this sandbox is not wanted any more")
        return
    peer.heard = True
    peer.offered = {item.assignment_id for item in hello.assignments}
    plane.replicas.tell(MOVED)
    log.info("sandbox.connected", sandbox=sandbox_id, holds=len(hello.assignments))
    try:
        async with pump(socket, peer):
            await _welcome(plane, peer, hello)
            await _reconcile(plane, peer, hello)
            plane.wrote(freed=1)
            await _receive(plane, peer, incoming)
    finally:
        plane.hub.remove(plane.hub.sandboxes, peer)
        await _disconnected(plane, peer)


async def _hello(incoming: Any) -> wire.Hello | None:
    try:
        async with asyncio.timeout(HELLO_TIMEOUT_S):
            message = _decode.decode(readable(await anext(incoming)))
    except (StopAsyncIteration, TimeoutError, *UNREADABLE):
        return None
    return message if isinstance(message, wire.Hello) else None


def _excess(hello: wire.Hello) -> str:
    """Which limit a hello breaks, or nothing."""
    if not 0 <= hello.max_concurrency <= limits.CONCURRENCY_MAX:
        return f"maxConcurrency is not within 0 and {limits.CONCURRENCY_MAX}"
    if max(len(hello.capabilities), len(hello.adapters)) > limits.CAPABILITIES_MAX:
        return f"more than {limits.CAPABILITIES_MAX} capabilities or adapters"
    return ""


async def _welcome(plane: Plane, peer: Peer, hello: wire.Hello) -> None:
    """The first frame of all: only after it may anybody else send to this peer."""
    async with plane.database.connection() as conn:
        live = await offers.live_of(conn, peer.peer_id)
    held = {item.assignment_id for item in hello.assignments}
    peer.send(wire.Welcome(
        protocol=wire.PROTOCOL, heartbeat_s=plane.config.leases.heartbeat_s, window=WINDOW,
        server_time_ms=time.time_ns() // 1_000_000, drop=sorted(held - {a for a, *_ in live}),
    ))  # fmt: skip
    plane.hub.add(plane.hub.sandboxes, peer)


async def _reconcile(plane: Plane, peer: Peer, hello: wire.Hello) -> None:
    """Compare the daemon's inventory with the live assignments, at once and both ways. They are read after
    the peer could be reached: what was offered before that moment is in them, what comes later is sent."""
    async with plane.database.connection() as conn:
        live = await offers.live_of(conn, peer.peer_id)
    held = {item.assignment_id for item in hello.assignments}
    # Accepted once, unknown now: the daemon's state is gone and so is the work.
    await plane.end_attempts([
        End(assignment_id, None, Outcome.LOST, "the sandbox came back without it")
        for assignment_id, state, _, _ in live
        if state == "accepted" and assignment_id not in held
    ])  # fmt: skip
    async with plane.database.connection() as conn:
        queued = await messages.queued_for(conn, peer.peer_id)
    delivery.send_inputs(plane, peer.peer_id, queued)
    await delivery.to_sandboxes(plane, [peer.peer_id])


async def _receive(plane: Plane, peer: Peer, incoming: Any) -> None:
    batches: asyncio.Queue[wire.Batch] = asyncio.Queue(64)

    async def apply_in_order() -> None:
        while True:
            gathered = [await batches.get()]
            while not batches.empty():
                gathered.append(batches.get_nowait())
            messages = [m for batch in gathered for m in batch.messages]
            stale = await _apply_each(plane, peer, messages)
            last = gathered[-1]
            peer.send(wire.Ack(seq=last.first_seq + len(last.messages) - 1, stale=sorted(stale)))

    async with asyncio.TaskGroup() as group:
        applying = group.create_task(apply_in_order())
        async for frame in incoming:
            peer.heard = True
            try:
                message = _decode.decode(readable(frame))
            except UNREADABLE as error:
                log.warning("stream.bad_frame", peer=peer.peer_id, error=str(error)[:200])
                continue
            if isinstance(message, wire.Batch) and message.messages:
                await batches.put(message)
        applying.cancel()


async def _apply_each(plane: Plane, peer: Peer, messages: Sequence[wire.Message]) -> set[str]:
    """Like `_apply`; where the database refuses a value, one by one, so that only that message is refused."""
    try:
        stale = await _apply(plane, peer, messages)
    except psycopg.DataError as error:
        if len(messages) > 1:
            return {a for m in messages for a in await _apply_each(plane, peer, [m])}
        log.error("stream.message_refused", peer=peer.peer_id, error=str(error)[:200])
        return {messages[0].assignment_id}
    if stale:
        log.warning("stream.stale", peer=peer.peer_id, assignments=sorted(stale)[:20])
    return stale


async def _apply(plane: Plane, peer: Peer, messages: Sequence[wire.Message]) -> set[str]:
    """Make messages durable; the assignments whose messages were refused."""
    sandbox_id = peer.peer_id
    moves: list[Move] = []
    lines: list[tuple[str, wire.LogLines]] = []
    chunks: list[tuple[str, wire.TranscriptChunk]] = []
    reports: list[tuple[str, wire.InputState]] = []
    for message in messages:
        match message:
            case wire.Accepted():
                moves.append(Accept(message.assignment_id, sandbox_id))
            case wire.Declined():
                error = {"code": "declined", "message": message.reason}
                moves.append(
                    End(message.assignment_id, sandbox_id, Outcome.DECLINED, message.reason, error)
                )
            case wire.Result():
                moves.append(_end(message, sandbox_id))
            case wire.LogLines():
                if 0 <= message.first_line <= LINE_MAX - len(message.lines):
                    lines.append((sandbox_id, _dated(message)))
                else:
                    log.warning("stream.bad_line_number", peer=sandbox_id, line=str(message.first_line)[:30])
            case wire.TranscriptChunk():
                if 0 <= message.first_entry <= LINE_MAX - len(message.entries):
                    chunks.append((sandbox_id, _dated_entries(message)))
            case wire.InputState():
                reports.append((sandbox_id, message))
    stale: set[str] = set()
    # Lines first: those of an attempt are refused once it has ended.
    if lines:
        refused = await plane.log_lines.write(lines)
        stale |= refused & {chunk.assignment_id for _, chunk in lines}
        news = stale - peer.refused
        if news:
            peer.refused |= news
            async with plane.database.connection() as conn:
                await logs.record_refused(conn, peer.owner_id, sandbox_id, sorted(news))
            plane.wrote()
    if chunks:
        refused = await plane.transcripts.write(chunks)
        stale |= refused & {chunk.assignment_id for _, chunk in chunks}
    if reports:  # before the end of an attempt, which makes what is left undeliverable
        refused = await plane.inputs.write(reports)
        stale |= refused & {report.assignment_id for _, report in reports}
    if moves:
        applied = await plane.transitions.write(moves)
        stale |= applied.stale & {move.assignment_id for move in moves}
        for target, assignment_id in applied.cancel:
            if target == sandbox_id:
                peer.send(wire.Cancel(assignment_ids=[assignment_id], reason="cancelled"))
    return stale


def _dated(message: wire.LogLines) -> wire.LogLines:
    """The lines with times that every reader can represent."""
    if all(0 <= line.at_ms <= AT_MS_MAX for line in message.lines):
        return message
    lines = [
        msgspec.structs.replace(line, at_ms=min(max(0, line.at_ms), AT_MS_MAX)) for line in message.lines
    ]
    return msgspec.structs.replace(message, lines=lines)


def _dated_entries(message: wire.TranscriptChunk) -> wire.TranscriptChunk:
    """Likewise."""
    if all(0 <= entry.at_ms <= AT_MS_MAX for entry in message.entries):
        return message
    entries = [
        msgspec.structs.replace(entry, at_ms=min(max(0, entry.at_ms), AT_MS_MAX))
        for entry in message.entries
    ]
    return msgspec.structs.replace(message, entries=entries)


def _end(message: wire.Result, sandbox_id: str) -> End:
    verified = all(e.passed for e in message.evidence) if message.evidence else None
    error = msgspec.to_builtins(message.error) if message.error else None
    kept = {
        "text": message.text, "exitCode": message.exit_code, "outputs": message.outputs,
        "evidence": message.evidence, "verified": verified, "warnings": message.warnings,
    }  # fmt: skip
    told = [{"code": each.code, "output": each.output} for each in message.warnings[:WARNINGS_MAX]]
    data = ({} if verified is None else {"verified": verified}) | ({"warnings": told} if told else {})
    return End(
        message.assignment_id, sandbox_id, message.outcome,
        reason=message.error.message[:500] if message.error else "",
        error=error, result=encode(kept), data=data,
    )  # fmt: skip


async def _disconnected(plane: Plane, peer: Peer) -> None:
    log.info("sandbox.disconnected", sandbox=peer.peer_id)
    async with plane.database.transaction() as conn:
        if await links.down(conn, peer.peer_id, peer.connection_id):
            await record(conn, peer.owner_id, "sandbox.offline", {"sandboxId": peer.peer_id})
            await sandboxes.left(conn, peer.peer_id)
    plane.wrote()
