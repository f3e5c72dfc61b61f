"""A route of the API is a method, a path, the types of its body and answer, and a plain async function.
Decoding, refusal and encoding (`server/handling.py`) and the OpenAPI document all come from that one line.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import msgspec
from starlette.requests import Request

from flakes.core import limits
from flakes.server.plane import Plane
from flakes.store.accounts import Identity
from flakes.wire.auth import Scope
from flakes.wire.codec import Issue
from flakes.wire.errors import ApiError

SAFE: Final = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with a status of its own (201 for created)."""

    value: Any
    status: int = 200


@dataclass(frozen=True, slots=True)
class Call:
    """A request after checking: who, which path, what."""

    plane: Plane
    identity: Identity
    path: dict[str, str]
    query: Any
    body: Any
    request: Request

    @property
    def owner_id(self) -> str:
        """The account whose resources this call may see."""
        return self.identity.owner_id


Handler = Callable[[Call], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One route. `family` is the kind of credential it takes; None means none. `body` is the struct that its
    JSON body must be, or `bytes` when the handler reads the raw body itself. `answer` is a struct, `bytes`, or
    the media type of something else (`*/*` where the content has its own). `creates`: it answers 201 when it
    has made something, and `status` when that was there. `secret`: the answer holds a raw credential."""

    method: str
    path: str
    handler: Handler
    answer: Any = None
    body: Any = None
    query: Any = None
    status: int = 200
    family: str | None = "user"
    tag: str = ""
    creates: bool = False
    errors: tuple[str, ...] = field(default=())
    also: tuple[tuple[int, str], ...] = ()
    """Other statuses of success, and what each means."""
    body_max_bytes: int = limits.REQUEST_SIZE_BYTES_MAX
    secret: bool = False
    streams: bool = False
    """It may answer server-sent events instead, if the query asks for them."""
    accepts: bool = False
    """It may answer 202: asked for, and not done yet."""

    waits: bool = False
    """It may be held until something happens, which no transaction may be; it changes nothing."""
    pieces: bool = False
    """It carries a piece of content, which its offset tells from every other: no answer is remembered."""

    scope: Scope | None = None
    """What the credential must allow, where that does not follow from the rest of the route."""
    direct: bool = False
    """It takes a bearer token only, not a browser's session."""

    @property
    def needs(self) -> Scope:
        """The least scope of a credential that this route takes."""
        if self.scope is not None:
            return self.scope
        if self.secret:
            return "admin"
        return "read" if self.method in SAFE else "write"

    @property
    def takes_key(self) -> bool:
        """Whether it is a mutation that runs once for an `Idempotency-Key`. Raw bytes have their
        digest, pieces their offset."""
        if self.method in ("GET", "HEAD") or self.waits or self.pieces:
            return False
        return self.family is not None and self.body is not bytes

    @property
    def summary(self) -> str:
        """The first line of the handler's docstring."""
        return (self.handler.__doc__ or "").strip().split("\n")[0]


PageLength = Annotated[int, msgspec.Meta(extra_json_schema={"minimum": 1, "maximum": limits.PAGE_LENGTH_MAX})]
"""The length of a page, bounded in the document; `bounded` refuses what is beyond."""


class Page(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Query of a list."""

    limit: PageLength = limits.PAGE_LENGTH_DEFAULT
    cursor: str | None = None


def bounded(value: int, maximum: int = limits.PAGE_LENGTH_MAX) -> int:
    """A page length within its limits, or `invalid_request`."""
    if 1 <= value <= maximum:
        return value
    issue = Issue(path="limit", message=f"must be between 1 and {maximum}")
    raise ApiError("invalid_request", f"limit must be between 1 and {maximum}", "ask for fewer and follow nextCursor", issues=[issue], limit=maximum)
