"""What both streams share: opening a WebSocket with a bearer token, and pumping frames out of a peer's queue."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from flakes.server.plane import Plane
from flakes.server.streams.hub import Peer
from flakes.store.accounts import Identity
from flakes.wire.errors import ApiError

FRAME_BYTES_MAX = 8 * 1024 * 1024
"""What a reader takes; senders stay under 1 MiB."""

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding a frame that makes no sense may raise."""

_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


def readable(frame: bytes) -> bytes:
    """The frame without NUL characters, which no text of the database can hold; U+FFFD stands for each."""
    return _NUL.sub(rb"\1\\ufffd", frame) if b"\\u0000" in frame else frame


async def authenticate(socket: WebSocket, plane: Plane, family: str, subject_id: str) -> Identity:
    """The identity behind the socket, which must be the very peer of the path; else refused with 401/403."""
    scheme, _, token = socket.headers.get("authorization", "").partition(" ")
    # A stream lives long: it is not begun on a credential that was good two seconds ago.
    known = scheme.lower() == "bearer" and token
    identity = await plane.identify(token, fresh=True) if known else None
    if identity is None or identity.kind == "browser":
        raise ApiError("unauthorized", "no valid credential", "send `Authorization: Bearer <token>`")
    if identity.family != family or identity.subject_id != subject_id:
        raise ApiError("forbidden", f"the credential is not the one of this {family}", "use its own")
    socket.state.credential = (plane.live, identity.token_id)
    return identity


@contextlib.asynccontextmanager
async def pump(socket: WebSocket, peer: Peer) -> AsyncIterator[None]:
    """Send what is queued for the peer while the block runs; a close in the queue ends the socket, and so
    does the end of the credential that opened it."""
    live, token_id = socket.state.credential
    lease = live.lease(token_id, peer.close)

    async def send() -> None:
        while True:
            frame = await peer.outbox.get()
            try:
                if frame is None:
                    await socket.close(1012)
                    return
                await socket.send_text(frame.decode())
            except (WebSocketDisconnect, RuntimeError):
                return

    task = asyncio.create_task(send())
    try:
        yield
    finally:
        live.give_up(lease)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def frames(socket: WebSocket) -> AsyncIterator[bytes]:
    """Frames as they come, until the other side is gone."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        text = message.get("text")
        yield text.encode() if text is not None else message["bytes"]
