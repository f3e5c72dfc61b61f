"""The socket of one task: takes requests of its processes, forwards them for its assignment alone.

One request a connection: a line of JSON ``{"token", "operation", "size"}`` and ``size`` bytes of body; one
answer: a line ``{"status", "size"}`` and the body, as the control plane gave it. The token is that of this
task, and the assignment is fixed when the socket is opened, so no request can name another (F26). A
request is bounded before it is read; a client that goes away takes its request with it.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from flakes.core.limits import KIB
from flakes.sandbox.tools import place
from flakes.wire.codec import BodyError, Frozen, decode, encode
from flakes.wire.errors import ApiError
from flakes.wire.operations import LOCAL, OPERATIONS
from flakes.wire.rounds import RoundGiven, RoundNext
from flakes.wire.waits import Wait, WaitFor

log = structlog.get_logger(__name__)

HEAD_BYTES_MAX: Final = 4 * KIB
REQUEST_PATIENCE_S: Final = 30.0
CONNECTIONS_MAX: Final = 64


class Head(Frozen, frozen=True, kw_only=True):
    """First line of a request."""

    token: str
    operation: str
    size: int


class Asks(Protocol):
    """What forwards: `forward.Forwarder`."""

    async def ask(self, assignment_id: str, operation: str, body: bytes) -> tuple[int, bytes]: ...


Local = Mapping[str, Callable[[Any], Awaitable[Any]]]
"""What answers the operations of `wire.operations.LOCAL`: struct in, struct out."""


class ToolServer:
    """See the module. `open`, then `close`; nothing of it is left after that."""

    def __init__(
        self,
        assignment_id: str,
        task_root: Path,
        where: place.Place,
        forwarder: Asks,
        local: Local | None = None,
    ) -> None:
        self._assignment_id = assignment_id
        self._task_root = task_root
        self._place = where
        self._forwarder = forwarder
        self._local = local or {}
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[Any]] = set()
        self._stale: bytes | None = None
        """The refusal, once the assignment is known to have ended: nothing more is forwarded."""
        self._pending: set[str] = set()

    @classmethod
    async def open(
        cls, assignment_id: str, task_root: Path, forwarder: Asks, local: Local | None = None
    ) -> ToolServer:
        """Listen, and put the `flakes` command into ``bin`` of the task's directory. Raises `OSError`."""
        self = cls(assignment_id, task_root, place.make(task_root), forwarder, local)
        try:
            place.write_command(task_root / "bin" / "flakes")
            self._server = await asyncio.start_unix_server(
                self._serve, str(self._place.socket), limit=HEAD_BYTES_MAX
            )
        except BaseException:
            place.remove(task_root)
            raise
        return self

    def env(self) -> dict[str, str]:
        """What the task's environment says of the socket."""
        return self._place.env()

    @property
    def directory(self) -> Path:
        """Where the socket and its token are; a task that sees no more of the machine sees this."""
        return self._place.directory

    @property
    def yielding(self) -> bool:
        """Whether the task was told to end its attempt, because of a wait that it has not seen settled."""
        return bool(self._pending)

    async def close(self) -> None:
        """Stop listening, drop what is under way, remove the socket's directory."""
        if self._server is not None:
            self._server.close()
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)
        place.remove(self._task_root)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            status, body = await self._answer(reader)
            writer.write(encode({"status": status, "size": len(body)}) + b"\n" + body)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # whoever asked has gone, or the task is over
        except Exception:
            log.exception("tools.failed", assignment_id=self._assignment_id)
        finally:
            self._serving.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        try:
            operation, body = await self._request(reader)
        except ApiError as error:
            return error.status, encode(error.body())
        return await self._forward(reader, operation, body)

    async def _request(self, reader: asyncio.StreamReader) -> tuple[str, bytes]:
        if len(self._serving) > CONNECTIONS_MAX:
            raise ApiError("rate_limited", f"more than {CONNECTIONS_MAX} requests of the task at once", "ask one after the other")
        try:
            async with asyncio.timeout(REQUEST_PATIENCE_S):
                head = decode(await reader.readline(), Head)
                self._check(head)
                return head.operation, await reader.readexactly(head.size)
        except (BodyError, ValueError) as error:
            raise ApiError("invalid_request", f"the request is not understood: {error}", "use the `flakes` command of the task") from error
        except TimeoutError:
            raise ApiError("invalid_request", f"the request did not come within {REQUEST_PATIENCE_S:g} s", "send it whole") from None

    def _check(self, head: Head) -> None:
        if not hmac.compare_digest(head.token.encode(), self._place.token.encode()):
            raise ApiError("unauthorized", "the token is not the one of this task", "use FLAKES_TOOL_SOCKET and FLAKES_TOOL_TOKEN_FILE as they are set for the task")
        operation = OPERATIONS.get(head.operation) or LOCAL.get(head.operation)
        if operation is None or operation.inner:
            offered = ", ".join(name for name, each in OPERATIONS.items() if not each.inner)
            raise ApiError("not_found", f"there is no operation {head.operation!r}", f"one of {offered}")
        if not 0 <= head.size <= operation.body_max_bytes:
            raise ApiError("too_large", f"the request has {head.size} bytes, more than {operation.body_max_bytes}", "send less at once", limit=operation.body_max_bytes)

    async def _forward(
        self, reader: asyncio.StreamReader, operation: str, body: bytes
    ) -> tuple[int, bytes]:
        asking = asyncio.ensure_future(self.perform(operation, body))
        # Clients send nothing after their request: the next thing to read is that they have gone.
        leaving = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({asking, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise ConnectionResetError
            status, answer = asking.result()
        finally:
            asking.cancel()
            leaving.cancel()
            await asyncio.wait({asking, leaving})
        return status, answer

    def _note(self, body: bytes, answer: bytes) -> None:
        wait = decode(answer, Wait)
        if wait.state == "pending" and decode(body, WaitFor).yields:
            self._pending.add(wait.operation_id)
        else:
            self._pending.discard(wait.operation_id)

    def _note_round(self, body: bytes, answer: bytes) -> None:
        given = decode(answer, RoundGiven)
        if given.round is None and not given.finishing and decode(body, RoundNext).yields:
            self._pending.add("prompt")
        else:
            self._pending.discard("prompt")

    async def perform(self, operation: str, body: bytes) -> tuple[int, bytes]:
        """Answer it here when it is the sandbox's own, else ask the control plane."""
        if self._stale is not None:
            return 403, self._stale
        perform = self._local.get(operation)
        if perform is None:
            status, answer = await self._forwarder.ask(self._assignment_id, operation, body)
            if status == 403 and b'"stale_assignment"' in answer[:100]:
                self._stale = answer
            if operation == "task.wait" and status == 200:
                self._note(body, answer)
            if operation == "round.next" and status == 200:
                self._note_round(body, answer)
            return status, answer
        try:
            return 200, encode(await perform(decode(body, LOCAL[operation].request)))
        except BodyError as error:
            refused = ApiError("invalid_request", str(error), "use the `flakes` command of the task", issues=error.issues)
            return refused.status, encode(refused.body())
        except ApiError as refused:
            return refused.status or 400, encode(refused.body())
