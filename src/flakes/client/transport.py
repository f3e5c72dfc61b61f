"""One HTTP connection pool to one control plane: authentication, retries, and errors as `ApiError`.

Knows HTTP and the error bodies of `wire.errors`; refuses to know any route. What may be retried is
decided here, once: a refused connection always (nothing was sent), a dropped connection or a 429/503
only when the request is idempotent: by nature, or because it carries an `Idempotency-Key` (`keyed`). Retries are few and short, because somebody
waits at the other end; whoever must outlive a restart uses the event stream, which reconnects. Only while
a local session lives, whose supervisor restarts what has died, is an answer waited for longer.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import httpx2
import msgspec

from flakes.wire import codec
from flakes.wire.addresses import Rotation, is_loopback, split
from flakes.wire.errors import ApiError, from_body

T = TypeVar("T")

ATTEMPTS: Final = 4
BACKOFF_S: Final = 0.15
RETRY_AFTER_MAX_S: Final = 5.0
REPLICA_CONNECT_S: Final = 3.0
RETRIED_STATUSES: Final = frozenset({429, 502, 503, 504})
IN_PROGRESS: Final = "idempotency_in_progress"
"""An earlier sending of the same request, whose connection was lost, still runs."""
BACKOFF_MAX_S: Final = 1.0
LIVING_PATIENCE_S: Final = 30.0
"""A local session that lives brings a killed server or database back within seconds: worth waiting for."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a control plane is and who asks. `server` is a URL without a trailing slash, or several of
    replicas with commas between them."""

    server: str
    token: str | None = None


class Transport:
    """Sends requests to `address`. `locate`, when given, is asked again after a refused connection,
    because a local session may have moved to another port in the meantime. Of several replicas one is
    used until it does not answer, and then the next. `address` names the one in use."""

    def __init__(
        self,
        address: Address,
        *,
        timeout_s: float = 60.0,
        locate: Callable[[], Address | None] | None = None,
    ) -> None:
        servers = split(address.server)
        self._replicas = Rotation(servers, random.randrange(1_000)) if len(servers) > 1 else None  # noqa: S311
        self.address = replace(address, server=self._replicas.current) if self._replicas else address
        self._timeout_s = timeout_s
        self._locate = locate
        self._http = _open(self.address, self._timeouts())
        self._set_aside: dict[str, httpx2.AsyncClient] = {}

    async def aclose(self) -> None:
        for http in (self._http, *self._set_aside.values()):
            await http.aclose()

    async def call(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        params: Mapping[str, Any] | None = None,
        body: object | None = None,
        idempotent: bool = False,
        keyed: bool = False,
    ) -> T:
        """Send and decode the answer as `kind`; every failure is an `ApiError`."""
        response = await self.send(
            method, path, params=params, body=body, idempotent=idempotent, keyed=keyed
        )
        if kind is type(None):
            return None  # type: ignore[return-value]
        try:
            return codec.decode(response.content, kind)
        except codec.BodyError as error:
            raise ApiError(
                "protocol_error",
                f"the answer of {method} {path} is not understood: {error}",
                "check that server and client are of compatible versions (`flakes auth status`)",
            ) from error

    async def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: object | None = None,
        idempotent: bool = False,
        keyed: bool = False,
    ) -> httpx2.Response:
        """Send with retries; a status of 400 or more is raised as the `ApiError` it carries.

        `keyed` gives the request an `Idempotency-Key`, so that the server runs it once however often
        it arrives.
        """
        content = None if body is None else codec.encode(body)
        headers = {} if content is None else {"content-type": "application/json"}
        if keyed:
            headers["idempotency-key"] = uuid.uuid4().hex
        repeatable = idempotent or keyed or method in ("GET", "PUT", "DELETE")
        attempt = 0
        began_s = time.monotonic()
        while True:
            attempt += 1
            try:
                response = await self._http.request(
                    method,
                    path,
                    params=_present(params),
                    content=content,
                    headers=headers,
                )
            except httpx2.TransportError as error:
                may = repeatable or isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
                slow = isinstance(error, httpx2.TimeoutException) and not (
                    self._replicas and isinstance(error, httpx2.ConnectTimeout)
                )
                if slow or not may or not self._try_again(attempt, began_s):
                    raise self.unreachable(error) from error
                delay_s = _delay_s(attempt)
            except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
                raise self.unreachable(error) from error
            else:
                if response.status_code < 400:
                    return response
                refused = error_of(response.status_code, response.content)
                passing = response.status_code in RETRIED_STATUSES or refused.code == IN_PROGRESS
                # Only a person can make room on a full disk.
                if not (repeatable and passing) or refused.code == "storage_full":
                    raise refused
                if not self._try_again(attempt, began_s):
                    raise refused
                delay_s = retry_after_s(response.headers) or _delay_s(attempt)
            await asyncio.sleep(delay_s)
            await self.relocate()

    def _try_again(self, attempt: int, began_s: float) -> bool:
        """Whether one more attempt is due: a few always, more while a local session lives."""
        if attempt < ATTEMPTS:
            return True
        if self._locate is None or time.monotonic() - began_s > LIVING_PATIENCE_S:
            return False
        return self._locate() is not None

    def stream(
        self, path: str, params: Mapping[str, Any], headers: Mapping[str, str], silence_s: float
    ) -> AbstractAsyncContextManager[httpx2.Response]:
        """Open a response whose body is read as it comes; `silence_s` without a byte is an error."""
        timeout = self._timeouts(silence_s)
        return self._http.stream(
            "GET", path, params=_present(params), headers=dict(headers), timeout=timeout
        )

    async def upload(
        self,
        path: str,
        kind: type[T],
        *,
        content: AsyncIterable[bytes],
        params: Mapping[str, Any],
        headers: Mapping[str, str],
        silence_s: float,
    ) -> T:
        """PUT a body that is read as it is sent, once: whoever sends it knows whether to go on."""
        timeout = self._timeouts(silence_s)
        try:
            response = await self._http.put(
                path, content=content, params=_present(params), headers=dict(headers), timeout=timeout
            )
        except httpx2.TransportError as error:
            raise self.unreachable(error) from error
        if response.status_code >= 400:
            raise error_of(response.status_code, response.content)
        return codec.decode(response.content, kind)

    async def relocate(self) -> None:
        """After a failure: follow a local session that has moved, or take the next replica. With one
        address and no `locate` nothing happens."""
        found = self._elsewhere()
        if found is None or found == self.address:
            return
        if self._replicas is None:
            old, self._http = self._http, _open(found, self._timeouts())
            await old.aclose()
        else:
            # What others of this process have under way with the last one goes on.
            self._set_aside[self.address.server] = self._http
            self._http = self._set_aside.pop(found.server, None) or _open(found, self._timeouts())
        self.address = found

    def _elsewhere(self) -> Address | None:
        if self._replicas is not None:
            self._replicas.turn()
            return replace(self.address, server=self._replicas.current)
        return None if self._locate is None else self._locate()

    def _timeouts(self, silence_s: float | None = None) -> httpx2.Timeout:
        """Another replica is worth more than patience with this one."""
        connect_s = min(REPLICA_CONNECT_S, self._timeout_s) if self._replicas else self._timeout_s
        return httpx2.Timeout(self._timeout_s, read=silence_s or self._timeout_s, connect=connect_s)

    def unreachable(self, error: Exception) -> ApiError:
        """The refusal for an address where nothing (sensible) answers."""
        reason = str(error) or type(error).__name__
        return ApiError(
            "server_unreachable",
            f"no answer from {self.address.server}: {reason}",
            "start a local session with `flakes up`, or name a running server with --server",
            server=self.address.server,
        )


def error_of(status: int, content: bytes) -> ApiError:
    """The `ApiError` in the body of a refused request."""
    try:
        body: object = msgspec.json.decode(content)
    except msgspec.DecodeError:
        body = None
    return from_body(status, body)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """What `Retry-After` asks for, in seconds, bounded; dates are not understood and ignored."""
    value = headers.get("retry-after", "")
    try:
        return min(RETRY_AFTER_MAX_S, max(0.0, float(value)))
    except ValueError:
        return None


def _delay_s(attempt: int) -> float:
    return min(BACKOFF_MAX_S, BACKOFF_S * 2 ** (attempt - 1)) * (0.5 + random.random() / 2)  # noqa: S311


def _present(params: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if params is None:
        return None
    return {name: value for name, value in params.items() if value is not None}


def _open(address: Address, timeout: httpx2.Timeout) -> httpx2.AsyncClient:
    url = urlsplit(address.server)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ApiError(
            "usage",
            f"{address.server!r} is not the address of a server",
            "write it as http://host:port or https://host",
        )
    headers = {"authorization": f"Bearer {address.token}"} if address.token else {}
    return httpx2.AsyncClient(
        base_url=address.server,
        headers=headers,
        timeout=timeout,
        # Building certificate stores costs tens of milliseconds that plain HTTP has no use for.
        verify=url.scheme == "https",
        # A proxy from the environment cannot reach this machine's loopback.
        trust_env=not is_loopback(address.server),
    )
