"""A control plane for tests: it speaks the host's wire over a real WebSocket and records every frame.

It also lets sandbox daemons in, welcomes them, acknowledges what they send, and gives them no work.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve

from flakes.wire import host_stream, sandbox_stream
from flakes.wire.codec import decode, encode
from flakes.wire.host_stream import Hello, InstanceReport, Launch, Stop, Welcome

M = TypeVar("M")
HOST_ID = "host_01test"
TOKEN = "host-token-01"
PATIENCE_S = 40.0


class ControlPlane:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.messages: list[Any] = []
        """What hosts sent, decoded, oldest first."""
        self.raw: list[bytes] = []
        self.refused: list[int] = []
        self.daemons: list[sandbox_stream.Hello] = []
        """The first frame of every daemon's connection."""
        self.daemon_tokens: list[str] = []
        self.answer_status = 0
        """An HTTP status to refuse every connection with, if not 0."""
        self.welcome = True
        self.server_time_ms = int(time.time() * 1000)
        self.read_to = 0
        self.port = 0
        self._server: Server | None = None
        self._thread: threading.Thread | None = None
        self._connections: set[ServerConnection] = set()
        self._host: ServerConnection | None = None
        self._daemons: dict[str, ServerConnection] = {}

    # ---- up and down

    def start(self) -> None:
        """Listen; a second start takes the same port again."""
        self._server = serve(
            self._handle, "127.0.0.1", self.port, process_request=self._admit, compression=None
        )
        self.port = self._server.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._server and self._thread:
            self._server.shutdown()
            self._thread.join()
            self._server = None
        self.hang_up()

    def hang_up(self) -> None:
        """End every connection, without a closing handshake."""
        with self.changed:
            connections = list(self._connections)
        for connection in connections:
            connection.close_socket()
        self.until(lambda: not self._connections, "connections to end")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # ---- talking

    def send(self, message: Launch | Stop) -> None:
        self.send_raw(encode(message).decode())

    def send_raw(self, frame: str | bytes) -> None:
        self.until(lambda: self._host is not None, "a host")
        assert self._host
        self._host.send(frame)

    def drain_daemon(self, name: str) -> None:
        """Tell a connected daemon to take nothing new and to exit when idle."""
        frame = encode(sandbox_stream.Drain(reason="idle for long enough")).decode()
        self._daemons[name].send(frame)

    def daemon(self, number: int, within_s: float = PATIENCE_S) -> sandbox_stream.Hello:
        """The `number`-th daemon connection ever made here, from 1."""
        self.until(lambda: len(self.daemons) >= number, f"{number} daemons", within_s)
        return self.daemons[number - 1]

    def next(
        self,
        kind: type[M],
        where: Callable[[M], bool] = lambda _: True,
        within_s: float = PATIENCE_S,
    ) -> M:
        """The next message of a kind after the last one that was taken this way."""
        found: list[M] = []

        def look() -> bool:
            for index in range(self.read_to, len(self.messages)):
                message = self.messages[index]
                if isinstance(message, kind) and where(message):
                    self.read_to = index + 1
                    found.append(message)
                    return True
            return False

        self.until(look, f"{kind.__name__} among {self.messages[self.read_to :]}", within_s)
        return found[0]

    def until(self, condition: Callable[[], bool], what: str, within_s: float = PATIENCE_S) -> None:
        with self.changed:
            if not self.changed.wait_for(condition, within_s):
                raise AssertionError(f"waited {within_s} s for {what}")

    # ---- the server's side

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        status = self.answer_status
        token = request.headers.get("Authorization", "")
        if not status and request.path == f"/v1/hosts/{HOST_ID}/stream":
            status = 0 if token == f"Bearer {TOKEN}" else 401
        elif not status and not request.path.startswith("/v1/sandboxes/"):
            status = 404
        if not status:
            return None
        with self.changed:
            self.refused.append(status)
            self.changed.notify_all()
        return connection.respond(status, "no\n")

    def _handle(self, connection: ServerConnection) -> None:
        with self.changed:
            self._connections.add(connection)
        try:
            assert connection.request
            if connection.request.path.startswith("/v1/hosts/"):
                self._serve_host(connection)
            else:
                self._serve_daemon(connection)
        except ConnectionClosed:
            pass
        finally:
            with self.changed:
                self._connections.discard(connection)
                if self._host is connection:
                    self._host = None
                self.changed.notify_all()

    def _serve_host(self, connection: ServerConnection) -> None:
        for frame in connection:
            data = frame.encode() if isinstance(frame, str) else frame
            message: Any = decode(data, host_stream.Upstream)  # type: ignore[arg-type]
            if isinstance(message, Hello) and self.welcome:
                connection.send(encode(self._welcome(message)).decode())
            with self.changed:
                self.raw.append(data)
                self.messages.append(message)
                if isinstance(message, Hello):
                    self._host = connection
                self.changed.notify_all()

    def _welcome(self, hello: Hello) -> Welcome:
        return Welcome(
            protocol=host_stream.PROTOCOL,
            heartbeat_s=0.2,
            server_time_ms=self.server_time_ms,
            pools={pool.pool_key: f"pool_{pool.pool_key}" for pool in hello.pools},
        )

    def _serve_daemon(self, connection: ServerConnection) -> None:
        assert connection.request
        token = connection.request.headers.get("Authorization", "")
        for frame in connection:
            data = frame.encode() if isinstance(frame, str) else frame
            message: Any = decode(data, sandbox_stream.Upstream)  # type: ignore[arg-type]
            if isinstance(message, sandbox_stream.Hello):
                welcome = sandbox_stream.Welcome(
                    protocol=sandbox_stream.PROTOCOL,
                    heartbeat_s=5.0,
                    window=256,
                    server_time_ms=self.server_time_ms,
                    drop=[],
                )
                connection.send(encode(welcome).decode())
                with self.changed:
                    self._daemons[message.sandbox_id] = connection
                    self.daemons.append(message)
                    self.daemon_tokens.append(token.removeprefix("Bearer "))
                    self.changed.notify_all()
            elif isinstance(message, sandbox_stream.Batch):
                ack = sandbox_stream.Ack(seq=message.first_seq + len(message.messages) - 1)
                connection.send(encode(ack).decode())


def sandbox_id(number: int = 1) -> str:
    """Never the same in two test processes: everything that has this mark is killed with its
    instance, whoever's it is."""
    return f"sandbox_{os.getpid()}_{number}"


def launch(number: int = 1, *, pool: str = "here", lease: str | None = None) -> Launch:
    """A lease for instance `number`."""
    return Launch(
        lease_id=lease or f"lease_launch{number}",
        instance_id=f"instance_{number}",
        sandbox_id=sandbox_id(number),
        pool_key=pool,
        sandbox_token=f"sandbox-token-{number}",
    )


def stop(number: int = 1, *, drain: bool = False, lease: str | None = None) -> Stop:
    return Stop(
        lease_id=lease or f"lease_stop{number}",
        instance_id=f"instance_{number}",
        drain=drain,
        reason="no longer needed",
    )


def states(hello: Hello) -> dict[str, str]:
    """Instance id to state."""
    reports: list[InstanceReport] = hello.instances
    return {report.instance_id: report.state for report in reports}
