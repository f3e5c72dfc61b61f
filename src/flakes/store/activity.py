"""One event of one task, for mutations that move no task: they need no ledger and lock no run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flakes.store.database import Connection, Query, run
from flakes.wire.codec import encode

_APPEND = Query("""
    insert into events (owner_id, run_id, task_id, type, data)
    values (%(owner_id)s, %(run_id)s, %(task_id)s, %(type)s, %(data)s::json)""")


async def append(
    conn: Connection,
    owner_id: str,
    run_id: str,
    task_id: str,
    type_: str,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Append it in the caller's transaction."""
    await run(conn, _APPEND, {
        "owner_id": owner_id, "run_id": run_id, "task_id": task_id, "type": type_,
        "data": encode(data).decode() if data else None,
    })  # fmt: skip
