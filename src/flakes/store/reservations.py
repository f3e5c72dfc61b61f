"""File reservations: who says to be changing which paths of a run.

Two selectors of different assignments conflict when a path could be covered by both: the same path, or
one a prefix above the other. Requests that change something take the run's turn (an advisory lock) before
they look, so of two that conflict one sees the other. Lock order: the assignment (`fences`), the turn, the
rows; the end of an assignment takes assignment and rows in that order and never waits for a turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flakes.core import limits
from flakes.core.paths import PathRefused, logical_path, self_and_ancestors
from flakes.store import activity
from flakes.store.database import Connection, Query, row, rows
from flakes.store.fences import Holder
from flakes.wire.codec import Issue
from flakes.wire.errors import ApiError
from flakes.wire.reservations import (
    Conflict,
    FilesRelease,
    FilesReserve,
    Reservation,
    Reservations,
    Selector,
)

NAMED_IN_EVENT_MAX = 20
"""Selectors that an event names; `count` says how many there were."""

_TURN = Query("select pg_advisory_xact_lock(hashtextextended(%(run_id)s, 7164320002))")

# Above or equal: by primary key for each ancestor. Below a wanted prefix: the range of the key between
# "prefix/" and "prefix0", for "0" follows "/" byte by byte.
_CONFLICTS = Query("""
    with above as (
        select w.selector, f.path, f.kind, f.reason, f.task_id
        from unnest(%(selectors)s::text[], %(ancestors)s::text[]) as w(selector, path)
        join file_reservations f on f.run_id = %(run_id)s and f.path = w.path
        where f.assignment_id <> %(assignment_id)s and (f.kind = 'prefix' or f.path = w.selector)
    ), below as (
        select w.selector, f.path, f.kind, f.reason, f.task_id
        from unnest(%(prefixes)s::text[]) as w(selector)
        join file_reservations f on f.run_id = %(run_id)s
             and f.path > w.selector || '/' and f.path < w.selector || '0'
        where f.assignment_id <> %(assignment_id)s
    )
    select c.path, c.kind, c.reason, t.task_key, c.selector
    from (select * from above union select * from below) c join tasks t on t.task_id = c.task_id
    order by c.path, c.kind, c.selector limit %(limit)s""")

_HELD_COUNT = Query("""
    select count(*) from file_reservations where assignment_id = %(assignment_id)s""")

# Reserving again is no change, unless it brings another reason.
_RESERVE = Query("""
    insert into file_reservations as f (run_id, path, kind, assignment_id, task_id, reason)
    select %(run_id)s, u.path, u.kind, %(assignment_id)s, %(task_id)s, %(reason)s
    from unnest(%(paths)s::text[], %(kinds)s::text[]) as u(path, kind)
    on conflict (run_id, path, kind) do update set reason = excluded.reason
    where excluded.reason is not null and excluded.reason is distinct from f.reason
    returning path, kind""")

_RELEASE = Query("""
    delete from file_reservations f
    using unnest(%(paths)s::text[], %(kinds)s::text[]) as u(path, kind)
    where f.assignment_id = %(assignment_id)s and f.path = u.path and f.kind = u.kind
    returning f.path, f.kind""")

_RELEASE_ALL = Query("""
    delete from file_reservations where assignment_id = %(assignment_id)s returning path, kind""")

_OWN = Query("""
    select f.path, f.kind, f.reason, t.task_key, f.assignment_id, f.created_at
    from file_reservations f join tasks t on t.task_id = f.task_id
    where f.assignment_id = %(assignment_id)s order by f.path, f.kind""")

_OF_RUN = Query("""
    select f.path, f.kind, f.reason, t.task_key, f.assignment_id, f.created_at
    from file_reservations f join tasks t on t.task_id = f.task_id
    where f.run_id = %(run_id)s and (f.path, f.kind) > (%(path)s, %(kind)s)
    order by f.path, f.kind limit %(limit)s""")


async def take_turn(conn: Connection, run_id: str) -> None:
    """Wait for every other request of the run that changes reservations; held until the transaction ends."""
    await row(conn, _TURN, {"run_id": run_id})


async def reserve(conn: Connection, holder: Holder, request: FilesReserve) -> Reservations:
    """Reserve all selectors or none; answers those selectors as they are held now.
    409 `file_reservation_conflict`, 400 `limit_exceeded`."""
    wanted = normalised(request.selectors)
    await take_turn(conn, holder.run_id)
    conflicts = await check(conn, holder, wanted)
    if conflicts:
        first = conflicts[0]
        raise ApiError(
            "file_reservation_conflict", f"{first.path} is reserved by task {first.task_key!r}",
            "work on other paths first, or wait until they are released", conflicts=conflicts,
        )  # fmt: skip
    changed = await rows(conn, _RESERVE, {
        "run_id": holder.run_id, "assignment_id": holder.assignment_id, "task_id": holder.task_id,
        "reason": request.reason, **_columns(wanted),
    })  # fmt: skip
    await _check_count(conn, holder)
    if changed:
        await _note(conn, holder, "files.reserved", changed, {"reason": request.reason})
    asked = {(s.path, s.kind) for s in wanted}
    held = await own(conn, holder)
    return Reservations(reservations=[r for r in held.reservations if (r.path, r.kind) in asked])


async def release(conn: Connection, holder: Holder, request: FilesRelease) -> list[Selector]:
    """What was released; selectors that this assignment does not hold are passed over."""
    if request.all == bool(request.selectors):
        raise ApiError("invalid_request", "give either selectors or all: true", "name what to release, or all of it")
    wanted = normalised(request.selectors)
    await take_turn(conn, holder.run_id)
    if request.all:
        found = await rows(conn, _RELEASE_ALL, {"assignment_id": holder.assignment_id})
    else:
        params = {"assignment_id": holder.assignment_id, **_columns(wanted)}
        found = await rows(conn, _RELEASE, params)
    if found:
        await _note(conn, holder, "files.released", found, {"because": "asked"})
    return [Selector(path=path, kind=kind) for path, kind in sorted(found)]


async def check(conn: Connection, holder: Holder, wanted: Sequence[Selector]) -> list[Conflict]:
    """What other assignments hold that is in the way of these normalised selectors; at most 256."""
    pairs = [(s.path, ancestor) for s in wanted for ancestor in self_and_ancestors(s.path)]
    found = await rows(conn, _CONFLICTS, {
        "run_id": holder.run_id, "assignment_id": holder.assignment_id,
        "selectors": [selector for selector, _ in pairs], "ancestors": [above for _, above in pairs],
        "prefixes": [s.path for s in wanted if s.kind == "prefix"],
        "limit": limits.RESERVATION_SELECTORS_MAX,
    })  # fmt: skip
    return [
        Conflict(path=path, kind=kind, reason=reason, task_key=key, selector=selector)
        for path, kind, reason, key, selector in found
    ]


async def own(conn: Connection, holder: Holder) -> Reservations:
    """Everything that this assignment holds, by path."""
    found = await rows(conn, _OWN, {"assignment_id": holder.assignment_id})
    return Reservations(reservations=[_reservation(r) for r in found])


async def page(conn: Connection, run_id: str, *, cursor: str | None, limit: int) -> Reservations:
    """What is reserved in a run, by path."""
    kind, separator, path = (cursor or ":").partition(":")
    if not separator or "\0" in path:
        issue = Issue(path="cursor", message="not a cursor of this list")
        raise ApiError("invalid_request", "the cursor is not one of this list", "use `nextCursor` as it came", issues=[issue])
    params = {"run_id": run_id, "path": path, "kind": kind, "limit": limit}
    found = [_reservation(r) for r in await rows(conn, _OF_RUN, params)]
    last = f"{found[-1].kind}:{found[-1].path}" if len(found) == limit else None
    return Reservations(reservations=found, next_cursor=last)


def normalised(selectors: Sequence[Selector]) -> list[Selector]:
    """Selectors with logical paths, each once; 400 for too many or for what is no logical path."""
    if len(selectors) > limits.RESERVATION_SELECTORS_MAX:
        raise ApiError(
            "limit_exceeded", f"{len(selectors)} selectors are more than the {limits.RESERVATION_SELECTORS_MAX} a request may have",
            "reserve a prefix instead, or ask in parts", limit=limits.RESERVATION_SELECTORS_MAX,
        )  # fmt: skip
    issues: list[Issue] = []
    found: dict[tuple[str, str], Selector] = {}
    for number, selector in enumerate(selectors):
        try:
            path = logical_path(selector.path)
        except PathRefused as refused:
            issues.append(Issue(path=f"selectors[{number}].path", message=f"`{selector.path}` {refused}"))
        else:
            found[path, selector.kind] = Selector(path=path, kind=selector.kind)
    if issues:
        raise ApiError("invalid_request", f"{issues[0].message}; paths are relative to the root of the work", "give paths like `src/parser.py`", issues=issues)
    return list(found.values())


async def _check_count(conn: Connection, holder: Holder) -> None:
    counted = await row(conn, _HELD_COUNT, {"assignment_id": holder.assignment_id})
    assert counted is not None
    if counted[0] > limits.RESERVATIONS_HELD_MAX:
        raise ApiError(
            "limit_exceeded", f"an attempt may hold {limits.RESERVATIONS_HELD_MAX} reservations",
            "release some, or reserve a prefix", limit=limits.RESERVATIONS_HELD_MAX,
        )  # fmt: skip


async def _note(
    conn: Connection, holder: Holder, type_: str, changed: list[Any], more: dict[str, Any]
) -> None:
    named = [{"path": path, "kind": kind} for path, kind in sorted(changed)[:NAMED_IN_EVENT_MAX]]
    data = {"assignmentId": holder.assignment_id, "count": len(changed), "selectors": named}
    data |= {name: value for name, value in more.items() if value is not None}
    await activity.append(conn, holder.owner_id, holder.run_id, holder.task_id, type_, data)


def _columns(selectors: Sequence[Selector]) -> dict[str, list[str]]:
    return {"paths": [s.path for s in selectors], "kinds": [s.kind for s in selectors]}


def _reservation(found: tuple[Any, ...]) -> Reservation:
    path, kind, reason, task_key, assignment_id, created_at = found
    return Reservation(
        path=path, kind=kind, reason=reason, task_key=task_key, assignment_id=assignment_id,
        created_at=created_at,
    )  # fmt: skip
