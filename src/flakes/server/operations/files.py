"""Operations on file reservations of the task's run, held by the asking assignment."""

from __future__ import annotations

from typing import Final

from flakes.server.operations.act import Act, Handler
from flakes.store import reservations
from flakes.wire.reservations import FilesChecked, FilesReleased, Reservations


async def reserve(act: Act) -> Reservations:
    async with act.fenced() as (conn, holder):
        held = await reservations.reserve(conn, holder, act.body)
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
    return FilesChecked(free=not conflicts, conflicts=conflicts)


HANDLERS: Final[dict[str, Handler]] = {
    "files.reserve": reserve, "files.release": release, "files.list": list_, "files.check": check,
}  # fmt: skip
