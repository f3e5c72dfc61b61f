"""Operations on file reservations of the task's run, held by the asking assignment."""

from __future__ import annotations

from typing import Final

from flakes.core.limits import RESERVATION_SELECTORS_MAX
from flakes.server.operations.act import Act, Handler
from flakes.store import overlaps, reservations
from flakes.wire.reservations import FilesChecked, FilesReleased, Reservations


async def reserve(act: Act) -> Reservations:
    async with act.fenced() as (conn, holder):
        held = await reservations.reserve(conn, holder, act.body)
        await overlaps.reserved(conn, holder, reservations.normalised(act.body.selectors))
    act.plane.wrote()
    return held


async def release(act: Act) -> FilesReleased:
    async with act.fenced() as (conn, holder):
        released = await reservations.release(conn, holder, act.body)
    act.plane.wrote()
    return FilesReleased(released=released)


async def list_(act: Act) -> Reservations:
    async with act.fenced() as (conn, holder):
        return await reservations.own(conn, holder)


async def check(act: Act) -> FilesChecked:
    async with act.fenced() as (conn, holder):
        wanted = reservations.normalised(act.body.selectors)
        conflicts = await reservations.check(conn, holder, wanted)
        changing = await overlaps.changing(conn, holder, wanted, RESERVATION_SELECTORS_MAX)
    return FilesChecked(free=not conflicts, conflicts=conflicts, changing=changing)


HANDLERS: Final[dict[str, Handler]] = {
    "files.reserve": reserve, "files.release": release, "files.list": list_, "files.check": check,
}  # fmt: skip
