"""Protocol-level peers: a sandbox daemon and a host, as far as the server can tell, driven step by step by a test."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from api.caller import Api, name
from flakes.wire import host_stream, sandbox_stream
from flakes.wire.codec import encode
from flakes.wire.sandbox_stream import Assignment
from flakes.wire.tasks import TaskError

T = TypeVar("T")

WAIT_S = 30.0


def stream_url(server_url: str, kind: str, peer_id: str) -> str:
    return f"{server_url.replace('http', 'ws', 1)}/v1/{kind}/{peer_id}/stream"


def open_stream(server_url: str, kind: str, peer_id: str, token: str | None) -> ClientConnection:
    """The bare WebSocket; a refusal is `websockets.exceptions.InvalidStatus`."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return connect(
        stream_url(server_url, kind, peer_id), additional_headers=headers, compression=None,
        max_size=8 * 1024 * 1024, open_timeout=WAIT_S, close_timeout=1, proxy=None,
    )  # fmt: skip


class _Peer:
    """One connection. Messages that nobody asked for yet wait in `others`."""

    downstream: Any

    def __init__(self, ws: ClientConnection) -> None:
        self.ws = ws
        self.others: list[Any] = []

    def send_raw(self, frame: str | bytes) -> None:
        self.ws.send(frame)

    def tell(self, message: Any) -> None:
        self.ws.send(encode(message), text=True)

    def receive(self, timeout_s: float = WAIT_S) -> Any:
        return msgspec.json.decode(self.ws.recv(timeout=timeout_s), type=self.downstream)

    def expect(
        self, kind: type[T], when: Callable[[T], bool] = lambda _: True, timeout_s: float = WAIT_S
    ) -> T:
        """The next message of a kind that fulfils a condition."""
        for index, message in enumerate(self.others):
            if isinstance(message, kind) and when(message):
                return self.others.pop(index)
        while True:
            message = self.receive(timeout_s)
            if isinstance(message, kind) and when(message):
                return message
            self.others.append(message)

    def wait_closed(self, timeout_s: float = WAIT_S) -> int:
        """The close code that the server sent."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                self.others.append(self.receive(timeout_s))
        code = self.ws.close_code
        assert code is not None
        return code

    def close(self) -> None:
        self.ws.close()


class SandboxPeer(_Peer):
    """A sandbox daemon's end of the stream, said hello and been welcomed."""

    downstream = sandbox_stream.Downstream

    def __init__(self, ws: ClientConnection, sandbox_id: str) -> None:
        super().__init__(ws)
        self.sandbox_id = sandbox_id
        self.seq = 0
        self.stale: set[str] = set()
        self.welcome = sandbox_stream.Welcome(
            protocol=0, heartbeat_s=0, window=0, server_time_ms=0, drop=[]
        )

    def send(self, *messages: sandbox_stream.Message) -> None:
        """One batch, without waiting."""
        self.tell(sandbox_stream.Batch(first_seq=self.seq + 1, messages=list(messages)))
        self.seq += len(messages)

    def acked(self, timeout_s: float = WAIT_S) -> set[str]:
        """Wait until everything sent is acknowledged; what the acks since then listed as stale."""
        stale: set[str] = set()
        while True:
            ack = self.expect(sandbox_stream.Ack, timeout_s=timeout_s)
            stale |= set(ack.stale)
            if ack.seq >= self.seq:
                self.stale |= stale
                return stale

    def deliver(self, *messages: sandbox_stream.Message) -> set[str]:
        """Send and wait for the acknowledgement; the stale assignments it lists."""
        self.send(*messages)
        return self.acked()

    def offer(self, timeout_s: float = WAIT_S) -> Assignment:
        """The next offered assignment."""
        message = self.expect(sandbox_stream.Assign, timeout_s=timeout_s)
        first, *rest = message.assignments
        if rest:
            self.others.insert(0, sandbox_stream.Assign(assignments=rest))
        return first

    def start(self, timeout_s: float = WAIT_S) -> Assignment:
        """Take the next offer and accept it."""
        offered = self.offer(timeout_s)
        assert self.deliver(sandbox_stream.Accepted(assignment_id=offered.assignment_id)) == set()
        return offered

    def finish(self, assignment_id: str, outcome: Any = "succeeded", **fields: Any) -> set[str]:
        return self.deliver(result(assignment_id, outcome, **fields))


def result(assignment_id: str, outcome: Any = "succeeded", **fields: Any) -> sandbox_stream.Result:
    error = fields.pop("error", None)
    if error is None and outcome != "succeeded":
        error = TaskError(code="exit", message=f"it {outcome}")
    return sandbox_stream.Result(
        assignment_id=assignment_id, outcome=sandbox_stream.Outcome(outcome), error=error, **fields
    )


def lines(assignment_id: str, *texts: str, first: int = 0) -> sandbox_stream.LogLines:
    made = [
        sandbox_stream.LogLine(channel="stdout", at_ms=1_760_000_000_000 + n, text=text)
        for n, text in enumerate(texts)
    ]
    return sandbox_stream.LogLines(assignment_id=assignment_id, first_line=first, lines=made)


def sandbox_hello(sandbox_id: str, **fields: Any) -> sandbox_stream.Hello:
    held = [
        sandbox_stream.InventoryItem(assignment_id=assignment_id, state=state)
        for assignment_id, state in fields.pop("holds", {}).items()
    ]
    return sandbox_stream.Hello(**{
        "protocol": sandbox_stream.PROTOCOL, "sandbox_id": sandbox_id, "boot": secrets.token_hex(4),
        "version": "test", "max_concurrency": 4, "adapters": ["nobody"], "capabilities": [],
        "assignments": held, **fields,
    })  # fmt: skip


def _accepted(url: str, sandbox_id: str, token: str) -> ClientConnection:
    deadline = time.monotonic() + 3
    while True:
        try:
            return open_stream(url, "sandboxes", sandbox_id, token)
        except InvalidStatus as refused:
            if refused.response.status_code != 401 or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@contextlib.contextmanager
def sandbox(
    api: Api, who: tuple[str, str] | None = None, **hello: Any
) -> Iterator[SandboxPeer]:
    """A connected sandbox, of those run by hand unless `who` (id and credential) is given. A launch
    credential works once the launch was accepted, which a daemon waits for, and so does this."""
    sandbox_id, token = who or api.sandbox()
    with _accepted(api.url, sandbox_id, token) as ws:
        peer = SandboxPeer(ws, sandbox_id)
        peer.tell(sandbox_hello(sandbox_id, **hello))
        first = peer.receive()
        assert isinstance(first, sandbox_stream.Welcome), "the first frame is the welcome"
        peer.welcome = first
        yield peer


@contextlib.contextmanager
def beating(peer: SandboxPeer) -> Iterator[None]:
    """Heartbeats meanwhile, so that the sandbox counts as alive."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.3):
            peer.tell(sandbox_stream.Heartbeat(running=0))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class HostPeer(_Peer):
    """A host's end of the stream."""

    downstream = host_stream.Downstream

    def __init__(self, ws: ClientConnection, host_id: str) -> None:
        super().__init__(ws)
        self.host_id = host_id
        self.pools: dict[str, str] = {}

    def launched(self, timeout_s: float = WAIT_S) -> host_stream.Launch:
        """The next launch, answered with a success."""
        launch = self.expect(host_stream.Launch, timeout_s=timeout_s)
        self.tell(host_stream.LeaseResult(lease_id=launch.lease_id, ok=True))
        return launch

    def exited(self, instance_id: str, reason: str = "") -> None:
        self.tell(host_stream.InstanceExited(instance_id=instance_id, reason=reason))


def pool(key: str, adapter: str, **fields: Any) -> host_stream.PoolAdvertisement:
    return host_stream.PoolAdvertisement(**{
        "pool_key": key, "provider": "process", "adapter": adapter, "max_instances": 1,
        "max_concurrency": 1, "capabilities": [], **fields,
    })  # fmt: skip


def instance(
    launch: host_stream.Launch, state: Any = "running", reason: str = ""
) -> host_stream.InstanceReport:
    return host_stream.InstanceReport(
        instance_id=launch.instance_id, sandbox_id=launch.sandbox_id, pool_key=launch.pool_key,
        state=state, reason=reason,
    )  # fmt: skip


def host_hello(
    host_id: str,
    pools: list[host_stream.PoolAdvertisement],
    instances: list[host_stream.InstanceReport] | None = None,
) -> host_stream.Hello:
    return host_stream.Hello(
        protocol=host_stream.PROTOCOL, host_id=host_id, boot=secrets.token_hex(4), version="test",
        platform="linux", arch="x86_64", pools=pools, instances=instances or [],
    )  # fmt: skip


@contextlib.contextmanager
def host(
    api: Api,
    who: tuple[str, str],
    *pools: host_stream.PoolAdvertisement,
    instances: list[host_stream.InstanceReport] | None = None,
) -> Iterator[HostPeer]:
    """A connected host with these pools."""
    host_id, token = who
    with open_stream(api.url, "hosts", host_id, token) as ws:
        peer = HostPeer(ws, host_id)
        peer.tell(host_hello(host_id, list(pools), instances))
        first = peer.receive()
        assert isinstance(first, host_stream.Welcome), "the first frame is the welcome"
        peer.pools = first.pools
        yield peer


def adapter() -> str:
    """An adapter of a test's own: nothing else takes its tasks."""
    return name("adapter")
