"""The daemon's connection to the control plane: one WebSocket, made again for as long as the daemon lives.

It sends what the outbox holds and hands what comes to its `Peer`. It knows frames, windows and back-off,
and nothing of what an assignment is. Nothing that the server says or sends ends the daemon: a frame that
is not understood is logged and skipped, a refusal is tried again later.

Invariants: nothing is sent between `Hello` and `Welcome`. After every reconnect sending begins again with
the first unacknowledged message. At most `Welcome.window` messages are unacknowledged. There are no send
timers: what gathers while a frame goes out is the next frame.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, Protocol

import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from flakes.core.limits import MIB
from flakes.sandbox.outbox import Outbox
from flakes.wire.addresses import Rotation, is_loopback, split
from flakes.wire.codec import BodyError, decode, encode
from flakes.wire.config import SandboxConfig, credential
from flakes.wire.errors import ApiError
from flakes.wire.sandbox_stream import (
    PROTOCOL,
    Ack,
    Assign,
    Cancel,
    Downstream,
    Drain,
    Heartbeat,
    Hello,
    Input,
    Welcome,
)

log = structlog.get_logger(__name__)

FRAME_RECEIVED_BYTES_MAX: Final = 8 * MIB
WELCOME_TIMEOUT_S: Final = 15.0
OTHERS_OPEN_TIMEOUT_S: Final = 3.0
"""How long a replica that does not answer is waited for when another can be tried instead."""
PING_S: Final = 10.0
"""A server that is gone without a word is noticed within three of these, before it gives the sandbox up."""
BACKOFF_S_FIRST: Final = 0.1
BACKOFF_S_MAX: Final = 15.0
STEADY_S: Final = 5.0
"""A connection that lasted this long was a good one: the next attempt follows at once."""
SHORT_FAILURES_MAX: Final = 3
"""After a shorter one the back-off begins here: a server that is killed twice is back as soon as once."""
REFUSED_BACKOFF_S_MAX: Final = 60.0
REFUSED_PATIENCE_S: Final = 120.0
"""How long refusals (401, 403, 404) are tried at the ordinary pace: a server may be half set up."""


class Peer(Protocol):
    """Who the messages are for. Nothing here waits: the stream is never held up."""

    def hello(self) -> Hello: ...
    def running(self) -> int: ...
    def on_welcome(self, welcome: Welcome) -> None: ...
    def on_ack(self, ack: Ack) -> None: ...
    def on_assign(self, assign: Assign) -> None: ...
    def on_cancel(self, cancel: Cancel) -> None: ...
    def on_drain(self, drain: Drain) -> None: ...
    def on_input(self, frame: Input) -> None: ...


class Uplink:
    """Keeps the connection up; `run` never returns by itself."""

    def __init__(self, config: SandboxConfig, outbox: Outbox, peer: Peer) -> None:
        self._config = config
        self._outbox = outbox
        self._peer = peer
        urls = [stream_url(address, config.sandbox_id) for address in split(config.control_plane_url)]
        self._urls = Rotation(urls, random.randrange(1_000))  # noqa: S311
        self._refused_since_s: float | None = None

    async def run(self) -> None:
        """Connect, serve, and after any end connect again, later each time it fails."""
        failures = 0
        while True:
            began_s = time.monotonic()
            try:
                reason, welcomed = await self._connect_once()
            except (
                Exception
            ) as error:  # the top of the loop: a fault in one connection ends that one
                log.exception("fault while connected")
                reason, welcomed = f"a fault of the sandbox: {error!r}", False
            lasted_s = time.monotonic() - began_s
            if welcomed:
                self._refused_since_s = None
            if welcomed:
                failures = 0 if lasted_s > STEADY_S else min(failures, SHORT_FAILURES_MAX)
            self._urls.turn()
            # Full jitter: a thousand daemons do not come back in the same instant.
            ceiling_s = min(self._backoff_s_max(), BACKOFF_S_FIRST * 2 ** min(failures, 20))
            delay_s = random.uniform(0, ceiling_s)  # noqa: S311
            failures += 1
            log.warning(
                "disconnected",
                reason=reason,
                after_s=round(lasted_s, 1),
                again_in_s=round(delay_s, 2),
            )
            await asyncio.sleep(delay_s)

    async def _connect_once(self) -> tuple[str, bool]:
        """One connection from its start to its end: why it ended, and whether it had been welcomed."""
        welcomed = False
        try:
            token = credential(Path(self._config.credential_file))
            url = self._urls.current
            async with connect(
                url,
                additional_headers={"Authorization": f"Bearer {token}"},
                max_size=FRAME_RECEIVED_BYTES_MAX,
                compression=None,
                open_timeout=WELCOME_TIMEOUT_S if len(self._urls) == 1 else OTHERS_OPEN_TIMEOUT_S,
                close_timeout=1,
                ping_interval=PING_S,
                ping_timeout=2 * PING_S,
                proxy=None if is_loopback(url) else True,
            ) as ws:
                welcome = await self._introduce(ws)
                if welcome is None:
                    return "the first frame was not a welcome of this protocol", False
                welcomed = True
                log.info("connected", url=url)
                await self._serve(ws, welcome)
                return "the stream ended", True
        except InvalidStatus as error:
            status = error.response.status_code
            if status in (401, 403, 404) and self._refused_since_s is None:
                self._refused_since_s = time.monotonic()
            return f"the server answered {status}", welcomed
        except (OSError, EOFError, WebSocketException) as error:
            return str(error) or type(error).__name__, welcomed
        except (ApiError, BodyError) as error:
            return str(error), welcomed

    async def _introduce(self, ws: ClientConnection) -> Welcome | None:
        await ws.send(encode(self._peer.hello()), text=True)
        async with asyncio.timeout(WELCOME_TIMEOUT_S):
            frame = decode(await ws.recv(decode=False), Downstream)  # type: ignore[arg-type]
        if not isinstance(frame, Welcome) or frame.protocol != PROTOCOL:
            return None
        self._peer.on_welcome(frame)
        return frame

    async def _serve(self, ws: ClientConnection, welcome: Welcome) -> None:
        self._outbox.set_connected(True)
        parts: tuple[Coroutine[Any, Any, None], ...] = (
            self._receive(ws),
            self._send(ws, max(1, welcome.window)),
            self._beat(ws, welcome.heartbeat_s),
        )
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._outbox.set_connected(False)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _receive(self, ws: ClientConnection) -> None:
        while True:
            try:
                data = await ws.recv(decode=False)
            except ConnectionClosed as error:
                log.info("stream closed", reason=str(error))
                return
            try:
                frame = decode(data, Downstream)  # type: ignore[arg-type]
            except BodyError as error:
                log.error("frame not understood, skipped", reason=str(error), size_bytes=len(data))
                continue
            self._dispatch(frame)

    def _dispatch(self, frame: Downstream) -> None:
        match frame:
            case Ack():
                self._peer.on_ack(frame)
            case Assign():
                self._peer.on_assign(frame)
            case Cancel():
                self._peer.on_cancel(frame)
            case Drain():
                self._peer.on_drain(frame)
            case Input():
                self._peer.on_input(frame)
            case Welcome():
                log.warning("a second welcome, skipped")

    async def _send(self, ws: ClientConnection, window: int) -> None:
        while True:
            self._outbox.sendable.clear()
            frame = await self._outbox.frame(window)
            if frame is None:
                await self._outbox.sendable.wait()
            else:
                await ws.send(frame, text=True)

    async def _beat(self, ws: ClientConnection, heartbeat_s: float) -> None:
        while True:
            await asyncio.sleep(max(0.05, heartbeat_s))
            await ws.send(encode(Heartbeat(running=self._peer.running())), text=True)

    def _backoff_s_max(self) -> float:
        since_s = self._refused_since_s
        if since_s is not None and time.monotonic() - since_s > REFUSED_PATIENCE_S:
            return REFUSED_BACKOFF_S_MAX
        return BACKOFF_S_MAX


def stream_url(address: str, sandbox_id: str) -> str:
    """The WebSocket address that belongs to an http(s) address."""
    scheme, _, rest = address.partition("://")
    secure = {"http": "ws", "https": "wss"}.get(scheme, scheme)
    return f"{secure}://{rest}/v1/sandboxes/{sandbox_id}/stream"
