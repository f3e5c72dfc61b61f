"""Where running tasks of a run get into each other's way: paths that two change, or one changes and one reserved.

Live attempts report what they have changed so far; that is compared with the reports of others, with what others have
left since the attempt began, and with reservations. What is new is told once, as an event. Reports and
reservations of a run take turns (`reservations.take_turn`), so of two that meet one sees the other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from flakes.core.paths import self_and_ancestors
from flakes.store import activity, reservations
from flakes.store.database import Connection, Query, row, rows, run
from flakes.store.fences import Holder
from flakes.wire.overlaps import ChangesReported, How, Overlap, WorkspaceOverlap
from flakes.wire.reservations import Conflict, Selector

NAMED_MAX: Final = 20
"""Paths that are told of one overlap."""
KEPT_MAX: Final = 1_000
"""Paths of an overlap that are remembered as told."""
SHOWN_MAX: Final = 200

_REPORT = Query("""
    insert into live_changes (assignment_id, run_id, task_id, paths)
    values (%(assignment_id)s, %(run_id)s, %(task_id)s, %(paths)s)
    on conflict (assignment_id) do update set paths = excluded.paths, updated_at = now()""")

_ALONE = Query("""
    select not exists (select from assignments a
                       where a.run_id = %(run_id)s and a.live and a.task_id <> %(task_id)s)""")

# Of others: what they say that they change now, and what they have left that is not in what this attempt began with.
_CHANGED = Query("""
    select c.task_id, t.task_key, array_agg(distinct p.path order by p.path)
    from (
        select l.task_id, l.paths from live_changes l
        join assignments a on a.assignment_id = l.assignment_id and a.live
        where l.run_id = %(run_id)s
        union all
        select m.task_id, array(select c ->> 'path' from json_array_elements(w.changes) c)
        from workspace_merges m
        join workspaces w on w.workspace_id = m.workspace_id
        join assignments own on own.assignment_id = %(assignment_id)s
        where m.run_id = %(run_id)s
          and (m.settled_at is null or m.settled_at > own.offered_at and m.state in ('promoted', 'conflict'))
    ) c
    join tasks t on t.task_id = c.task_id
    cross join lateral unnest(c.paths) as p(path)
    where c.task_id <> %(task_id)s and p.path = any(%(paths)s)
    group by c.task_id, t.task_key order by c.task_id""")

_RESERVED = Query("""
    select f.task_id, t.task_key, array_agg(distinct w.path order by w.path)
    from unnest(%(paths)s::text[], %(above)s::text[]) as w(path, above)
    join file_reservations f on f.run_id = %(run_id)s and f.path = w.above
    join tasks t on t.task_id = f.task_id
    where f.assignment_id <> %(assignment_id)s and (f.kind = 'prefix' or f.path = w.path)
    group by f.task_id, t.task_key order by f.task_id""")

# What other live attempts change of what these selectors cover.
_COVERED = Query("""
    select l.task_id, t.task_key, s.path, s.kind, p.path
    from live_changes l
    join assignments a on a.assignment_id = l.assignment_id and a.live
    join tasks t on t.task_id = l.task_id
    cross join lateral unnest(l.paths) as p(path)
    join unnest(%(paths)s::text[], %(kinds)s::text[]) as s(path, kind)
      on p.path = s.path or s.kind = 'prefix' and starts_with(p.path, s.path || '/')
    where l.run_id = %(run_id)s and l.assignment_id <> %(assignment_id)s
    order by p.path, l.task_id limit %(limit)s""")

_TOLD = Query("""
    select paths from workspace_overlaps
    where run_id = %(run_id)s and task_id = %(task_id)s and other_task_id = %(other_task_id)s
      and how = %(how)s""")

_TELL = Query("""
    insert into workspace_overlaps (run_id, task_id, other_task_id, how, paths)
    values (%(run_id)s, %(task_id)s, %(other_task_id)s, %(how)s, %(paths)s)
    on conflict (run_id, task_id, other_task_id, how)
    do update set paths = excluded.paths, updated_at = now()""")

_COLUMNS = """o.task_id, t.task_key, o.other_task_id, u.task_key, o.how, o.paths[:20], cardinality(o.paths),
    o.found_at, o.updated_at"""

_OF_RUN = Query(f"""
    select {_COLUMNS} from workspace_overlaps o
    join tasks t on t.task_id = o.task_id join tasks u on u.task_id = o.other_task_id
    where o.run_id = %(run_id)s order by o.updated_at desc, o.task_id limit %(limit)s""")

_OF_TASKS = Query(f"""
    select {_COLUMNS} from tasks k
    join workspace_overlaps o
      on o.run_id = k.run_id and (o.task_id = k.task_id or o.other_task_id = k.task_id)
    join tasks t on t.task_id = o.task_id join tasks u on u.task_id = o.other_task_id
    where k.task_id = any(%(task_ids)s) order by o.updated_at desc, o.task_id""")


async def report(conn: Connection, holder: Holder, paths: Sequence[str]) -> ChangesReported:
    """An attempt says what it changes; what of that is news."""
    await reservations.take_turn(conn, holder.run_id)
    wanted = sorted(set(paths))
    params = {
        "assignment_id": holder.assignment_id, "run_id": holder.run_id, "task_id": holder.task_id,
        "paths": wanted,
    }  # fmt: skip
    await run(conn, _REPORT, params)
    mine = (holder.task_id, holder.task_key)
    fresh: list[Overlap] = []
    for other_id, other_key, same in await rows(conn, _CHANGED, params) if wanted else ():
        fresh += await _tell(conn, holder, mine, (other_id, other_key), "changed", same)
    pairs = [(path, above) for path in wanted for above in self_and_ancestors(path)]
    asked = params | {"paths": [path for path, _ in pairs], "above": [above for _, above in pairs]}
    for other_id, other_key, same in await rows(conn, _RESERVED, asked) if pairs else ():
        fresh += await _tell(conn, holder, mine, (other_id, other_key), "reserved", same)
    found = await row(conn, _ALONE, params)
    return ChangesReported(fresh=fresh, alone=bool(found and found[0]))


async def reserved(conn: Connection, holder: Holder, wanted: Sequence[Selector]) -> None:
    """An attempt has reserved these (normalised): whoever changes them already is told of."""
    by_task: dict[tuple[str, str], list[str]] = {}
    for other_id, other_key, _, _, path in await _covered(conn, holder, wanted, KEPT_MAX):
        by_task.setdefault((other_id, other_key), []).append(path)
    for changer, paths in by_task.items():
        own = (holder.task_id, holder.task_key)
        await _tell(conn, holder, changer, own, "reserved", sorted(set(paths)))


async def changing(conn: Connection, holder: Holder, wanted: Sequence[Selector], limit: int) -> list[Conflict]:
    """What other live attempts have changed of what these (normalised) selectors cover."""
    found = await _covered(conn, holder, wanted, limit)
    return [
        Conflict(path=path, kind="exact", task_key=key, selector=selector)
        for _, key, selector, _, path in found
    ]


async def of_run(conn: Connection, run_id: str) -> list[WorkspaceOverlap]:
    """The overlaps of a run, the last ones first."""
    return [_overlap(r) for r in await rows(conn, _OF_RUN, {"run_id": run_id, "limit": SHOWN_MAX})]


async def of_tasks(conn: Connection, task_ids: Collection[str]) -> dict[str, list[Overlap]]:
    """By task id: with whom it overlaps, seen from either side."""
    found: dict[str, list[Overlap]] = {}
    if not task_ids:
        return found
    wanted = set(task_ids)
    for one in map(_overlap, await rows(conn, _OF_TASKS, {"task_ids": sorted(wanted)})):
        for own, other_id, other_key in (
            (one.task_id, one.other_task_id, one.other_task_key),
            (one.other_task_id, one.task_id, one.task_key),
        ):
            if own in wanted:
                seen = Overlap(task_id=other_id, task_key=other_key, how=one.how, paths=one.paths, count=one.count)
                if seen not in found.setdefault(own, []):
                    found[own].append(seen)
    return found


async def _covered(
    conn: Connection, holder: Holder, wanted: Sequence[Selector], limit: int
) -> list[tuple[Any, ...]]:
    return await rows(conn, _COVERED, {
        "run_id": holder.run_id, "assignment_id": holder.assignment_id, "limit": limit,
        "paths": [each.path for each in wanted], "kinds": [each.kind for each in wanted],
    })  # fmt: skip


async def _tell(
    conn: Connection, holder: Holder, changer: tuple[str, str], other: tuple[str, str], how: How,
    paths: Sequence[str],
) -> list[Overlap]:  # fmt: skip
    """Tell of the paths that were not told of these two before; nothing when there are none."""
    first, second = changer, other
    if how == "changed":
        first, second = sorted((changer, other))
    params = {
        "run_id": holder.run_id, "task_id": first[0], "other_task_id": second[0], "how": how,
    }  # fmt: skip
    known = await row(conn, _TOLD, params)
    told = [] if known is None else known[0]
    new = sorted(set(paths) - set(told))
    if not new or len(told) >= KEPT_MAX:
        return []
    await run(conn, _TELL, params | {"paths": sorted({*told, *new})[:KEPT_MAX]})
    data = {
        "otherTaskId": other[0], "otherTaskKey": other[1], "how": how, "paths": new[:NAMED_MAX],
        "count": len(new),
    }  # fmt: skip
    await activity.append(conn, holder.owner_id, holder.run_id, changer[0], "workspace.overlap", data)
    return [Overlap(task_id=other[0], task_key=other[1], how=how, paths=new[:NAMED_MAX], count=len(new))]


def _overlap(found: tuple[Any, ...]) -> WorkspaceOverlap:
    task_id, key, other_id, other_key, how, paths, count, found_at, updated_at = found
    return WorkspaceOverlap(
        task_id=task_id, task_key=key, other_task_id=other_id, other_task_key=other_key, how=how,
        paths=paths, count=count, found_at=found_at, updated_at=updated_at,
    )  # fmt: skip
