"""`Idempotency-Key`: a mutation that runs once, however often it is sent.

The whole handler runs inside one transaction, which also keeps its answer: either both are there or
neither, so a crash at any point leaves the key unused or the first answer to replay. For that the
handler gets a `Unit`, a plane like any other whose database is that one transaction (the handler's own
transactions become savepoints) and whose words to the outside (wake-ups, messages to sandboxes and
hosts) wait for the commit. Handlers know nothing of this.

A second request with the key of one that is still running is refused with `idempotency_in_progress`
and may simply be sent again. A refusal of the handler is an answer too, and is replayed. Faults of the
server and requests that were never valid are not: they use no key up. Routes that take raw bytes are
idempotent by their digest and ignore the key.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
from psycopg.rows import TupleRow
from starlette.requests import Request
from starlette.responses import Response

from flakes.server.auth.credentials import token_of
from flakes.server.batches import BatchWriter
from flakes.server.plane import Plane, finish
from flakes.server.replicas import Replicas
from flakes.server.sealing import seal, unseal
from flakes.server.streams.hub import Hub
from flakes.server.wake import Wake
from flakes.store import database, idempotency
from flakes.store.accounts import Identity
from flakes.store.database import Connection, Database, Query
from flakes.store.idempotency import Recorded, Use
from flakes.wire.codec import Issue
from flakes.wire.errors import ApiError

HEADER = "idempotency-key"
REPLAYED = {"Idempotency-Replayed": "true"}
_FORM = re.compile(r"[\x21-\x7e]{1,255}\Z")
_KEPT_REFUSALS = range(400, 500)
_PASSING_REFUSALS = frozenset({401, 429})
"""Refusals that say nothing about the request itself."""


def key_of(request: Request) -> str | None:
    """The request's key, if it has one; `invalid_request` for one that is none."""
    key = request.headers.get(HEADER)
    if key is not None and not _FORM.match(key):
        message = "must be 1 to 255 visible ASCII characters"
        issue = Issue(path="Idempotency-Key", message=message)
        raise ApiError("invalid_request", f"Idempotency-Key {message}", "use a UUID", issues=[issue])
    return key


async def once(
    plane: Plane,
    identity: Identity,
    request: Request,
    key: str,
    body: Any,
    *,
    secret: bool,
    handle: Callable[[Plane], Awaitable[Response]],
    refuse: Callable[[ApiError], Response],
) -> Response:
    """The first answer to this key: by running `handle` in the transaction that keeps it, or replayed.

    `secret`: the answer holds a credential and is kept for the bearer of this token alone.
    """
    scope_id = identity.owner_id if identity.family == "user" else identity.subject_id
    digest = idempotency.key_digest(scope_id, request.method, request.url.path, key)
    use = Use(scope_id, digest, _body_digest(request, body))
    token = token_of(request, plane)
    async with plane.units, plane.database.transaction() as conn:
        if not await idempotency.begin(conn, use):
            raise ApiError(
                "idempotency_in_progress", "a request with this Idempotency-Key is still running",
                "send it again in a moment",
            )  # fmt: skip
        recorded = await idempotency.find(conn, use)
        if recorded is not None:
            return _replay(recorded, use, token)
        unit = Unit(plane, conn)
        try:
            async with conn.transaction():
                response = await handle(unit)
        except ApiError as error:
            if error.status not in _KEPT_REFUSALS or error.status in _PASSING_REFUSALS:
                raise
            unit.later.clear()
            response = refuse(error)
        answer = bytes(response.body)
        sealed = secret and response.status_code < 400
        kept = seal(token, answer) if sealed else answer
        await idempotency.record(conn, use, response.status_code, kept, sealed=sealed)
    for act in unit.later:
        await finish(act)
    return response


def _replay(recorded: Recorded, use: Use, token: str) -> Response:
    if recorded.body_digest != use.body_digest:
        raise ApiError("idempotency_conflict", "this Idempotency-Key was used with another body", "use a new key for a new request")
    answer: bytes | None = recorded.answer
    if recorded.sealed:
        answer = unseal(token, recorded.answer)
        if answer is None:
            raise ApiError("idempotency_conflict", "this Idempotency-Key was used with another credential, for which alone its answer is kept", "use a new key")
    return Response(answer, recorded.status, REPLAYED, "application/json")


def _body_digest(request: Request, body: Any) -> bytes:
    """Equal for bodies that mean the same, however their JSON was written."""
    return hashlib.sha256(
        request.url.query.encode() + b"\n" + msgspec.json.encode(body, order="sorted")
    ).digest()


class Unit(Plane):
    """A plane inside one open transaction; see the module. `later` is what to do after the commit."""

    def __init__(self, plane: Plane, conn: Connection) -> None:
        self.__dict__.update(plane.__dict__)
        self.later: list[Callable[[], object]] = []
        for name, value in plane.__dict__.items():
            if isinstance(value, Wake):
                setattr(self, name, _LaterWake(value, self.later))
        self.database = cast("Database", _Joined(plane.database, conn))
        self.hub = _LaterHub(plane.hub, self.later)
        self.replicas = _LaterReplicas(plane.replicas, self.later)
        # On the writers' own connections these would wait for the locks that this transaction holds.
        self.transitions = _Direct("transitions", self._apply_moves)
        self.log_lines = _Direct("logs", self._append_logs)
        self.transcripts = _Direct("transcripts", self._append_transcripts)
        self.inputs = _Direct("inputs", self._report_inputs)

    async def after(self, act: Callable[[], object]) -> None:
        self.later.append(act)


class _Joined:
    """What a `Database` offers, all of it on one connection inside an open transaction."""

    def __init__(self, whole: Database, conn: Connection) -> None:
        self._whole = whole
        self._conn = conn

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        yield self._conn

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        async with self._conn.transaction():
            yield self._conn

    pipelined = transaction

    async def rows(self, query: Query, params: Mapping[str, Any] | None = None) -> list[TupleRow]:
        return await database.rows(self._conn, query, params)

    async def row(self, query: Query, params: Mapping[str, Any] | None = None) -> TupleRow | None:
        return await database.row(self._conn, query, params)

    async def run(self, query: Query, params: Mapping[str, Any] | None = None) -> int:
        return await database.run(self._conn, query, params)


class _LaterWake(Wake):
    def __init__(self, wake: Wake, later: list[Callable[[], object]]) -> None:
        super().__init__()
        self._wake = wake
        self._later = later

    def set(self) -> None:
        self._later.append(self._wake.set)


class _LaterHub(Hub):
    """Sends after the commit; who is connected is told now."""

    def __init__(self, hub: Hub, later: list[Callable[[], object]]) -> None:
        self.__dict__.update(hub.__dict__)
        self._hub = hub
        self._later = later

    def send_sandbox(self, sandbox_id: str, message: Any) -> bool:
        self._later.append(functools.partial(self._hub.send_sandbox, sandbox_id, message))
        return sandbox_id in self.sandboxes

    def send_host(self, host_id: str, message: Any) -> bool:
        self._later.append(functools.partial(self._hub.send_host, host_id, message))
        return host_id in self.hosts

    def cancel(
        self, sandbox_id: str, assignment_ids: Sequence[str], reason: str, *, again: bool = True
    ) -> bool:
        act = functools.partial(self._hub.cancel, sandbox_id, assignment_ids, reason, again=again)
        self._later.append(act)
        return sandbox_id in self.sandboxes

    def drain(self, sandbox_id: str, reason: str) -> None:
        self._later.append(functools.partial(self._hub.drain, sandbox_id, reason))

    def queue_assignment(self, sandbox_id: str, assignment: Any) -> bool:
        self._later.append(functools.partial(self._hub.queue_assignment, sandbox_id, assignment))
        return sandbox_id in self.sandboxes

    def flush_assignments(self, frame: Callable[..., Any]) -> None:
        self._later.append(functools.partial(self._hub.flush_assignments, frame))


class _LaterReplicas(Replicas):
    """Calls after the commit: whoever is called looks at once."""

    def __init__(self, replicas: Replicas, later: list[Callable[[], object]]) -> None:
        self.__dict__.update(replicas.__dict__)
        self._replicas = replicas
        self._later = later

    def call(self, *peer_ids: str) -> None:
        self._later.append(functools.partial(self._replicas.call, *peer_ids))

    def tell(self, *news: str) -> None:
        self._later.append(functools.partial(self._replicas.tell, *news))


class _Direct(BatchWriter[Any, Any]):
    """A writer that writes at once, in the transaction of the unit."""

    def __init__(self, name: str, apply: Callable[[Sequence[Any]], Awaitable[Any]]) -> None:
        super().__init__(name, apply)
        self._at_once = apply

    async def write(self, items: Collection[Any]) -> Any:
        return await self._at_once(list(items))
