"""The host's line to the control plane: one WebSocket, kept up for as long as the host lives.

Nothing that comes down this line, and nothing that happens to it, ends the process (F23): a refusal, a
message from a newer release, a frame that is not JSON, a clock that is hours off. Each is logged, and
what must be tried again is tried again with exponential back-off and full jitter.

Reports are sent while there is a connection and dropped while there is none: the inventory in the next
`Hello` says the same. The credential is read anew for each connection, so a rotated one needs no restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

import msgspec
import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from flakes.core import limits
from flakes.wire import config as configuration
from flakes.wire.addresses import Rotation, is_loopback, split
from flakes.wire.codec import BodyError, decode, encode
from flakes.wire.config import HostConfig
from flakes.wire.errors import ApiError
from flakes.wire.host_stream import PROTOCOL, Downstream, Heartbeat, Hello, Upstream, Welcome

BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MAX_S: Final = 15.0
STEADY_S: Final = 5.0
"""A connection that lived this long starts the back-off anew; a shorter one does not, or a server that
hangs up on us at once would be called ten times a second."""
SHORT_FAILURES_MAX: Final = 3
"""Where the back-off begins after such a short one: a server that is killed twice is not waited for longer."""
OPEN_TIMEOUT_S: Final = 10.0
OTHERS_OPEN_TIMEOUT_S: Final = 3.0
"""The same where another replica can be tried instead."""
WELCOME_TIMEOUT_S: Final = 10.0
PING_S: Final = 10.0
OUTBOX_MAX: Final = 8_192
FLUSH_S: Final = 1.0

log = structlog.get_logger("flakes.host")


class _NoWelcomeError(Exception):
    """The peer took the connection and then said nothing."""


class Uplink:
    """`hello` builds the first frame at each connect, `welcomed` gets it back with its answer, `receive`
    gets every order, `count` says how many instances there are, `outgoing` makes of a message what may
    leave the machine. All are called on the event loop and do not block."""

    def __init__(
        self,
        config: HostConfig,
        hello: Callable[[], Hello],
        welcomed: Callable[[Hello, Welcome], None],
        receive: Callable[[Downstream], None],
        *,
        count: Callable[[], int],
        outgoing: Callable[[Upstream], Upstream] = lambda message: message,
    ) -> None:
        self._urls = Rotation(stream_urls(config), random.randrange(1_000))  # noqa: S311
        self._credential_file = Path(config.credential_file)
        self._hello = hello
        self._welcomed = welcomed
        self._receive = receive
        self._count = count
        self._outgoing = outgoing
        self._connection: ClientConnection | None = None
        self._outbox: asyncio.Queue[Upstream] | None = None
        self._is_welcome = asyncio.Event()
        self._heartbeat_s = 15.0
        self._welcome_at = 0.0

    @property
    def is_connected(self) -> bool:
        """Whether the control plane has welcomed the present connection."""
        return self._outbox is not None and self._is_welcome.is_set()

    def report(self, message: Upstream) -> None:
        """Send in order; without a connection, not at all."""
        if self._outbox is None:
            return
        try:
            self._outbox.put_nowait(message)
        except asyncio.QueueFull:
            # The peer reads nothing any more. A new connection starts with the whole truth.
            log.warning("outbox_full", messages=OUTBOX_MAX)
            self._outbox = None
            if self._connection:
                self._connection.transport.abort()

    async def run(self) -> None:
        """Connect, serve, and again; until cancelled."""
        failures = 0
        while True:
            self._welcome_at = 0.0
            try:
                await self._connect_and_serve()
                log.info("connection_ended")
            except ApiError as error:
                log.error("credential_refused", error=error.message, fix=error.fix)
            except InvalidStatus as error:
                _log_status(error)
            except (OSError, WebSocketException, _NoWelcomeError) as error:
                log.warning("connection_failed", error=str(error) or type(error).__name__)
            except Exception:
                log.exception("uplink_fault")
            if self._welcome_at:
                steady = time.monotonic() - self._welcome_at >= STEADY_S
                failures = 0 if steady else min(failures, SHORT_FAILURES_MAX)
            self._urls.turn()
            ceiling_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(failures, 20))
            failures += 1
            # Full jitter, so that the hosts of a restarted server do not come back together.
            await asyncio.sleep(random.uniform(0.0, ceiling_s))  # noqa: S311

    async def close(self) -> None:
        """Give what is queued a moment to leave, then hang up."""
        outbox, connection = self._outbox, self._connection
        if outbox is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(outbox.join(), FLUSH_S)
        if connection is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(connection.close(), FLUSH_S)

    async def _connect_and_serve(self) -> None:
        token = configuration.credential(self._credential_file)
        url = self._urls.current
        connection = await connect(
            url,
            additional_headers={"Authorization": f"Bearer {token}"},
            compression=None,
            max_size=4 * limits.STREAM_FRAME_BYTES_MAX,
            open_timeout=OPEN_TIMEOUT_S if len(self._urls) == 1 else OTHERS_OPEN_TIMEOUT_S,
            close_timeout=FLUSH_S,
            ping_interval=PING_S,
            ping_timeout=2 * PING_S,
            proxy=None if is_loopback(url) else True,
        )
        async with connection:
            await self._serve(connection)

    async def _serve(self, connection: ClientConnection) -> None:
        outbox: asyncio.Queue[Upstream] = asyncio.Queue(OUTBOX_MAX)
        self._is_welcome.clear()
        # No await between the two: an end is either in the inventory or reported after it.
        hello = self._hello()
        self._outbox, self._connection = outbox, connection
        workers = [
            asyncio.create_task(self._listen(connection, hello)),
            asyncio.create_task(self._send_reports(connection, hello, outbox)),
            asyncio.create_task(self._send_heartbeats()),
        ]
        try:
            done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_COMPLETED)
            for worker in done:
                worker.result()
        finally:
            self._outbox = self._connection = None
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _listen(self, connection: ClientConnection, hello: Hello) -> None:
        async for frame in connection:
            message = _understand(frame)
            if isinstance(message, Welcome):
                self._take_welcome(hello, message)
            elif message is not None:
                try:
                    self._receive(message)
                except Exception:
                    log.exception("order_failed", order=type(message).__name__)

    def _take_welcome(self, hello: Hello, welcome: Welcome) -> None:
        if welcome.protocol != PROTOCOL:
            log.warning("protocol_differs", ours=PROTOCOL, theirs=welcome.protocol)
        skew_s = time.time() - welcome.server_time_ms / 1_000
        if abs(skew_s) > 30:
            # Nothing here depends on it, but the timestamps of this machine's logs do.
            log.warning("clock_differs", ahead_s=round(skew_s, 1))
        if welcome.heartbeat_s > 0:
            self._heartbeat_s = welcome.heartbeat_s
        self._welcome_at = time.monotonic()
        self._is_welcome.set()
        self._welcomed(hello, welcome)
        log.info("connected", pools=sorted(welcome.pools), instances=len(hello.instances))

    async def _send_reports(
        self, connection: ClientConnection, hello: Hello, outbox: asyncio.Queue[Upstream]
    ) -> None:
        await _send(connection, self._outgoing(hello))
        while True:
            message = await outbox.get()
            await _send(connection, self._outgoing(message))
            outbox.task_done()

    async def _send_heartbeats(self) -> None:
        try:
            await asyncio.wait_for(self._is_welcome.wait(), WELCOME_TIMEOUT_S)
        except TimeoutError:
            raise _NoWelcomeError("the server took the connection and did not answer") from None
        while True:
            await asyncio.sleep(self._heartbeat_s)
            self.report(Heartbeat(instances=self._count()))


def stream_urls(config: HostConfig) -> list[str]:
    """The WebSocket addresses. Raises `config_invalid` when one in controlPlaneUrl is no http(s) address."""
    return [_stream_url(address, config.host_id) for address in split(config.control_plane_url)]


def _stream_url(address: str, host_id: str) -> str:
    parts = urlsplit(address)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme)
    if scheme is None or not parts.hostname:
        raise ApiError(
            "config_invalid",
            f"controlPlaneUrl: `{address}` is not an http or https address",
            'write for example controlPlaneUrl = "http://127.0.0.1:7733"',
        )
    path = parts.path.rstrip("/")
    return f"{scheme}://{parts.netloc}{path}/v1/hosts/{quote(host_id, safe='')}/stream"


async def _send(connection: ClientConnection, message: Upstream) -> None:
    await connection.send(encode(message), text=True)


def _understand(frame: str | bytes) -> Downstream | None:
    """The message in a frame; None, and a line in the log, for what this version does not know."""
    data = frame.encode() if isinstance(frame, str) else frame
    try:
        return decode(data, Downstream)  # type: ignore[arg-type]
    except BodyError as error:
        log.warning("message_ignored", kind=_kind(data), error=str(error)[:200])
        return None


def _kind(data: bytes) -> str:
    try:
        value = msgspec.json.decode(data)
    except msgspec.DecodeError:
        return "not JSON"
    kind = value.get("type") if isinstance(value, dict) else None
    return str(kind)[:50]


def _log_status(error: InvalidStatus) -> None:
    status = error.response.status_code
    if status in (401, 403, 404):
        fix = "the credential or hostId is not (or no longer) valid there: set the host up again"
        log.error("connection_refused", status=status, fix=fix)
    else:
        log.warning("connection_refused", status=status)
