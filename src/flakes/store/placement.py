"""The scheduler's two ends: the snapshot that a plan is made of, and the claim that carries it out.

The snapshot is a fixed number of statements whatever the number of tasks and sandboxes (F18). The claim is
one statement that re-checks everything that may have changed: the leader's term, that the task is still in
the queue, and that the sandbox still has the slot. It never waits for a lock, so it cannot deadlock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from flakes.core.placement import (
    Binding,
    Placement,
    Pool,
    ReadyClass,
    ReadyTask,
    Sandbox,
    Snapshot,
    Unplaced,
)
from flakes.store import offers
from flakes.store.database import Connection, Query, literal, rows, run
from flakes.store.identifiers import new_id
from flakes.wire.codec import encode
from flakes.wire.sandbox_stream import Assignment

_SANDBOXES = Query("""
    select s.sandbox_id, s.owner_id, s.adapters, s.capabilities, s.max_concurrency,
           (select count(*) from assignments a where a.sandbox_id = s.sandbox_id and a.live),
           s.status = 'running' and l.connected and h.disabled_at is null
               and l.seen_at > now() - %(suspect_after_s)s * interval '1 s',
           s.pool_id, coalesce(h.auto_bind, true)
    from sandboxes s
    join links l on l.peer_id = s.sandbox_id
    left join hosts h on h.host_id = s.host_id
    where s.status in ('running', 'draining') and l.connected""")

_POOLS = Query("""
    select p.pool_id, h.owner_id, p.adapter, p.capabilities, p.max_concurrency, p.max_instances,
           coalesce(n.alive, 0), coalesce(n.launching, 0),
           coalesce(l.connected, false) and p.available and h.disabled_at is null,
           case when p.launch_retry_at > now() then coalesce(p.launch_failure, '') end, h.auto_bind
    from host_pools p
    join hosts h using (host_id)
    left join links l on l.peer_id = h.host_id
    left join lateral (
        select count(*) filter (where s.status in ('running', 'draining', 'stopping')) as alive,
               count(*) filter (where s.status in ('pending_launch', 'launching')) as launching
        from sandboxes s
        where s.pool_id = p.pool_id
          and s.status in ('pending_launch', 'launching', 'running', 'draining', 'stopping')
    ) n on true""")

_BINDINGS = Query("""
    select b.project_id, b.host_id, b.status = 'available', h.project_root is not null, b.reason,
           array(select p.pool_id from host_pools p
                 where p.host_id = b.host_id and p.pool_key = any(b.pool_keys))
    from project_bindings b join hosts h using (host_id)
    where b.project_id = any(%(project_ids)s)
    order by b.binding_id""")

# Two loose scans over the index ready_tasks_heads find the classes, and the runs of each, without reading
# the queue; the last lateral part takes the head of each pair. Runs are bounded per class, so that one
# class with thousands of runs hides no other (F10).
_READY = Query("""
    with recursive class as (
        (select class_id from ready_tasks order by class_id limit 1)
        union all
        select n.class_id from class c cross join lateral (
            select r.class_id from ready_tasks r where r.class_id > c.class_id
            order by r.class_id limit 1
        ) n
    )
    select c.class_id, h.task_id, h.run_id, h.priority, extract(epoch from h.queued_at)::float
    from (select class_id from class limit %(classes)s) c
    cross join lateral (
        with recursive own as (
            (select r.run_id from ready_tasks r where r.class_id = c.class_id
             order by r.run_id limit 1)
            union all
            select n.run_id from own o cross join lateral (
                select r.run_id from ready_tasks r
                where r.class_id = c.class_id and r.run_id > o.run_id
                order by r.run_id limit 1
            ) n
        )
        select run_id from own limit %(runs)s
    ) p
    cross join lateral (
        select r.task_id, r.run_id, r.priority, r.queued_at from ready_tasks r
        where r.class_id = c.class_id and r.run_id = p.run_id
          and (r.not_before is null or r.not_before <= now())
        order by r.priority desc, r.queued_at, r.task_id limit %(heads)s
    ) h""")

_CLASSES = Query("""
    select class_id, owner_id, project_id, adapter, capabilities from task_classes
    where class_id = any(%(class_ids)s)""")

# Free slots are counted once a sandbox (materialized), not once for each task that is to go there.
_CLAIM = Query("""
    with room as materialized (
        select s.sandbox_id, s.max_concurrency - (
            select count(*) from assignments a where a.sandbox_id = s.sandbox_id and a.live
        ) as free
        from sandboxes s
        where s.sandbox_id = any(%(sandbox_ids)s) and s.status = 'running'
        for share of s skip locked
    ), want as (
        select w.task_id, w.sandbox_id, w.assignment_id from (
            select *, row_number() over (partition by sandbox_id order by assignment_id) as place
            from unnest(%(task_ids)s::text[], %(sandbox_ids)s::text[], %(assignment_ids)s::text[])
                as u(task_id, sandbox_id, assignment_id)
        ) w join room on room.sandbox_id = w.sandbox_id
        where w.place <= room.free
    ), in_office as (
        select 1 from leaders
        where name = 'loops' and term = %(term)s and holder = %(holder)s and expires_at > now()
    ), taken as (
        delete from ready_tasks
        where task_id in (
            select r.task_id from ready_tasks r
            where r.task_id = any(array(select task_id from want))
              and exists (select 1 from in_office)
            for update skip locked
        )
        returning task_id, run_id
    )
    insert into assignments (assignment_id, task_id, run_id, sandbox_id, attempt, state)
    select w.assignment_id, w.task_id, t.run_id, w.sandbox_id,
           (select attempt from tasks k where k.task_id = w.task_id), 'offered'
    from want w join taken t on t.task_id = w.task_id
    returning assignment_id""")

_NEXT_DELAYED = Query("""
    select extract(epoch from min(not_before) - now())::float from ready_tasks
    where not_before is not null and not_before > now()""")

_EXPLAIN = Query("""
    update task_classes c set reason_code = u.code, reason_facts = u.facts, reason_at = now()
    from unnest(%(class_ids)s::integer[], %(codes)s::text[], %(facts)s::json[])
        as u(class_id, code, facts)
    where c.class_id = u.class_id
      and (c.reason_code is distinct from u.code or c.reason_facts::text is distinct from u.facts::text)""")

CLASSES_MAX = 2_000
RUNS_PER_CLASS_MAX = 500
HEADS_MAX = 2_000


ClassRow = tuple[str, str, str, frozenset[str]]
"""owner id, project id, adapter, capabilities: what never changes about a class."""


class SnapshotReader:
    """Reads snapshots: five statements in three round trips, and one more for classes not seen before."""

    def __init__(self) -> None:
        self._classes: dict[int, ClassRow] = {}

    async def read(
        self, conn: Connection, *, suspect_after_s: float
    ) -> tuple[Snapshot, float | None]:
        """Everything the plan looks at, and the seconds until the next delayed retry is due, if any."""
        async with conn.pipeline():
            params = {"suspect_after_s": suspect_after_s}
            sandboxes_cursor = await conn.execute(literal(_SANDBOXES), params, prepare=True)
            pools_cursor = await conn.execute(literal(_POOLS), prepare=True)
            delayed_cursor = await conn.execute(literal(_NEXT_DELAYED), prepare=True)
        sandbox_rows = await sandboxes_cursor.fetchall()
        pool_rows = await pools_cursor.fetchall()
        delayed = await delayed_cursor.fetchone()
        free = sum(max(0, slots - busy) for *_, slots, busy, accepting, _, _ in sandbox_rows if accepting)
        launchable = sum(max(0, p[5] - p[6]) * p[4] for p in pool_rows if p[8])
        # One more than fits tells whether anything is left over.
        heads = min(HEADS_MAX, free + launchable + 1)
        bounds = {"classes": CLASSES_MAX, "runs": RUNS_PER_CLASS_MAX, "heads": heads}
        found = await rows(conn, _READY, bounds)
        tasks: defaultdict[int, list[ReadyTask]] = defaultdict(list)
        for class_id, task_id, run_id, priority, since in found:
            tasks[class_id].append(ReadyTask(task_id, run_id, priority, since))
        await self._learn(conn, tasks.keys() - self._classes.keys())
        classes = [
            ReadyClass(class_id, *self._classes[class_id], len(ready), ready)
            for class_id, ready in tasks.items()
            if class_id in self._classes
        ]
        bindings = await self._bindings(conn, {ready.project_id for ready in classes})
        snapshot = _snapshot(classes, sandbox_rows, pool_rows, bindings)
        return snapshot, delayed[0] if delayed else None

    async def _bindings(self, conn: Connection, project_ids: set[str]) -> list[Binding]:
        if not project_ids:
            return []
        return [
            Binding(project_id, host_id, available, has_root, reason, frozenset(pool_ids))
            for project_id, host_id, available, has_root, reason, pool_ids in await rows(
                conn, _BINDINGS, {"project_ids": list(project_ids)}
            )
        ]

    async def _learn(self, conn: Connection, missing: set[int]) -> None:
        if not missing:
            return
        for class_id, owner_id, project_id, adapter, capabilities in await rows(
            conn, _CLASSES, {"class_ids": list(missing)}
        ):
            self._classes[class_id] = (owner_id, project_id, adapter, frozenset(capabilities))


def _snapshot(
    classes: Sequence[ReadyClass],
    sandbox_rows: Sequence[tuple[Any, ...]],
    pool_rows: Sequence[tuple[Any, ...]],
    bindings: Sequence[Binding],
) -> Snapshot:
    """Rows with the projects that their pools are bound to."""
    bound: defaultdict[str, set[str]] = defaultdict(set)
    for binding in bindings:
        if binding.available:
            for pool_id in binding.pool_ids:
                bound[pool_id].add(binding.project_id)
    projects = {pool_id: frozenset(project_ids) for pool_id, project_ids in bound.items()}
    none = frozenset[str]()
    sandboxes = [
        Sandbox(
            sandbox_id, owner, frozenset(adapters), frozenset(capabilities), slots,
            max(0, slots - busy), projects.get(pool_id, none), bool(accepting), is_open,
        )
        for sandbox_id, owner, adapters, capabilities, slots, busy, accepting, pool_id, is_open
        in sandbox_rows
    ]  # fmt: skip
    pools = [
        Pool(
            p[0], p[1], p[2], frozenset(p[3]), p[4], p[5], p[6], p[7], p[8],
            projects.get(p[0], none), p[9], p[10],
        )
        for p in pool_rows
    ]  # fmt: skip
    return Snapshot(classes, sandboxes, pools, bindings)


async def claim(
    conn: Connection, placements: Sequence[Placement], *, holder: str, term: int
) -> list[tuple[str, Assignment]]:
    """Carry out a plan and load what it offers: (sandbox id, assignment) pairs.

    What is no longer true is left out; all of it when the term is over.
    """
    assignment_ids = [new_id("assignment") for _ in placements]
    async with conn.pipeline(), conn.transaction():
        await conn.execute(literal(_CLAIM), {
            "task_ids": [p.task_id for p in placements],
            "sandbox_ids": [p.sandbox_id for p in placements],
            "assignment_ids": assignment_ids, "holder": holder, "term": term,
        }, prepare=True)  # fmt: skip
        params = {"assignment_ids": assignment_ids}
        offered = await conn.execute(literal(offers.BY_ID), params, prepare=True)
    return await offers.complete(conn, await offered.fetchall())


async def explain(conn: Connection, unplaced: Sequence[Unplaced]) -> None:
    """Store why classes wait (F10); unchanged reasons write nothing."""
    await run(conn, _EXPLAIN, {
        "class_ids": [u.class_id for u in unplaced],
        "codes": [u.code for u in unplaced],
        "facts": [encode(_plain(u.facts)).decode() for u in unplaced],
    })  # fmt: skip


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(facts.items()))
