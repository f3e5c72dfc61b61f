"""The route of file reservations, for people: who is about to change what in a run."""

from __future__ import annotations

from flakes.server.routing import Call, Endpoint, Page, bounded
from flakes.store import reservations, runs
from flakes.wire.reservations import Reservations


async def page(call: Call) -> Reservations:
    """List a run's live file reservations, by path."""
    limit = bounded(call.query.limit)
    async with call.plane.database.connection() as conn:
        run_id = await runs.resolve(conn, call.owner_id, call.path["run"])
        return await reservations.page(conn, run_id, cursor=call.query.cursor, limit=limit)


ENDPOINTS = [
    Endpoint("GET", "/v1/runs/{run}/file-reservations", page, Reservations, query=Page,
             tag="file reservations"),
]  # fmt: skip
