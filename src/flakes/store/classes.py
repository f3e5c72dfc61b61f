"""Task classes: found or made for a batch of definitions."""

from __future__ import annotations

from collections.abc import Iterable

from flakes.store.database import Connection, Query, rows, run

ClassKey = tuple[str, str, str, tuple[str, ...]]
"""owner id, project id, adapter, sorted capabilities."""

_FIND = Query("""
    select class_id, adapter, capabilities from task_classes
    where owner_id = %(owner_id)s and project_id = %(project_id)s""")

_ADD = Query("""
    insert into task_classes (owner_id, project_id, adapter, capabilities)
    values (%(owner_id)s, %(project_id)s, %(adapter)s, %(capabilities)s::text[])
    on conflict (owner_id, project_id, adapter, capabilities) do nothing""")


async def class_ids(
    conn: Connection, owner_id: str, project_id: str, shapes: Iterable[tuple[str, tuple[str, ...]]]
) -> dict[tuple[str, tuple[str, ...]], int]:
    """Class ids by (adapter, sorted capabilities); missing classes are made."""
    wanted = set(shapes)
    scope = {"owner_id": owner_id, "project_id": project_id}

    async def known() -> dict[tuple[str, tuple[str, ...]], int]:
        return {(a, tuple(c)): class_id for class_id, a, c in await rows(conn, _FIND, scope)}

    found = await known()
    missing = sorted(wanted - found.keys())
    if not missing:
        return found
    for adapter, capabilities in missing:
        await run(conn, _ADD, {**scope, "adapter": adapter, "capabilities": list(capabilities)})
    return await known()
