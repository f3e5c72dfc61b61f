"""Placement as a pure plan over a snapshot: which ready task goes to which free slot, and why not.

Ready tasks come grouped in *classes* (owner, project, adapter, capability set): all tasks of a class
fit the same sandboxes, so a class that cannot be placed is considered once, not once a task (F10, F18).
Cost: O(classes x distinct sandbox shapes + tasks + sandboxes). The plan may be stale when it is applied;
the store re-checks every row, so a stale plan places less, never wrongly.

Projects: one that is bound to pools is placed there and nowhere else; one that is bound nowhere is placed on
whatever is open (hosts that bind by themselves, sandboxes run by hand).

Fairness: owners take turns, then runs of one owner take turns; within a run the higher priority goes
first, then the older task. A turn is used up by a placement only: tasks that fit nowhere cost their run
nothing. Sandboxes: the one with the most free slots first, so work spreads out.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

LAUNCHING_MAX: Final = 16
"""Instances of a pool that are being launched at a time; the next ones follow as these connect."""


@dataclass(frozen=True, slots=True)
class ReadyTask:
    """The head of a queue; `since` orders tasks of one priority (any comparable, smaller is older)."""

    task_id: str
    run_id: str
    priority: int
    since: float


@dataclass(frozen=True, slots=True)
class ReadyClass:
    """Tasks that fit the same sandboxes. `tasks` holds at most as many as there are free slots."""

    class_id: int
    owner_id: str
    project_id: str
    adapter: str
    capabilities: frozenset[str]
    depth: int
    """How many tasks of the class are ready in all (may exceed `tasks`)."""
    tasks: Sequence[ReadyTask]


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A connected sandbox that may take work: of the projects bound to its pool, and, when it is open, of
    every project of its owner that is bound nowhere."""

    sandbox_id: str
    owner_id: str
    adapters: frozenset[str]
    capabilities: frozenset[str]
    slots: int
    free: int
    projects: frozenset[str] = frozenset()
    accepting: bool = True
    """False while it drains or its link is suspect: it counts as capacity but gets nothing new."""
    open: bool = True


@dataclass(frozen=True, slots=True)
class Pool:
    """What a host could still launch; `projects` and `open` as in `Sandbox`."""

    pool_id: str
    owner_id: str
    adapter: str
    capabilities: frozenset[str]
    concurrency: int
    instances_max: int
    instances_alive: int
    instances_launching: int
    online: bool
    projects: frozenset[str] = frozenset()
    launch_failure: str | None = None
    """Why the last launch failed while its back-off still runs; nothing is launched meanwhile."""
    open: bool = True


@dataclass(frozen=True, slots=True)
class Binding:
    """A project and the pools of one host that may serve it. Only an available one lets it be placed."""

    project_id: str
    host_id: str
    available: bool
    has_root: bool = True
    """Whether the host has a project root, below which the project's directory would be."""
    reason: str | None = None
    pool_ids: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a placement looks at. `bindings` are those of the projects of `classes`."""

    classes: Sequence[ReadyClass]
    sandboxes: Sequence[Sandbox]
    pools: Sequence[Pool] = ()
    bindings: Sequence[Binding] = ()


@dataclass(frozen=True, slots=True)
class Placement:
    task_id: str
    sandbox_id: str


@dataclass(frozen=True, slots=True)
class Launch:
    pool_id: str
    count: int


@dataclass(frozen=True, slots=True)
class Unplaced:
    """Why tasks of a class still wait: a reason code and the facts behind it."""

    class_id: int
    code: str
    facts: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    placements: tuple[Placement, ...]
    launches: tuple[Launch, ...]
    unplaced: tuple[Unplaced, ...]


_Bound = dict[str, list[Binding]]
"""Bindings by project."""


def plan(snapshot: Snapshot) -> Plan:
    """Place what fits, launch what is missing, and say why the rest waits."""
    free = {s.sandbox_id: s.free for s in snapshot.sandboxes if s.accepting and s.free > 0}
    shapes = _shapes(snapshot.sandboxes)
    bound: _Bound = {}
    for binding in snapshot.bindings:
        bound.setdefault(binding.project_id, []).append(binding)
    fits = {
        ready.class_id: tuple(i for i, shape in enumerate(shapes) if _fits(ready, shape[0], bound))
        for ready in snapshot.classes
    }
    # Classes that fit the same shapes share one rotation of sandboxes, which keeps a placement's cost
    # constant.
    rotations: dict[tuple[int, ...], _Rotation] = {}
    usable: dict[int, _Rotation] = {}
    for ready in snapshot.classes:
        key = fits[ready.class_id]
        if key not in rotations:
            rotations[key] = _Rotation((s.sandbox_id for i in key for s in shapes[i]), free)
        usable[ready.class_id] = rotations[key]
    placements: list[Placement] = []
    placed: defaultdict[int, int] = defaultdict(int)
    for ready, task in _fair_order(snapshot.classes, usable):
        sandbox_id = usable[ready.class_id].take(free)
        if sandbox_id is None:
            del usable[ready.class_id]
            continue
        placements.append(Placement(task.task_id, sandbox_id))
        placed[ready.class_id] += 1
    launches, in_flight = _launches(snapshot, placed, bound)
    left = [_Capacity.of(shape, free) for shape in shapes]
    unplaced = tuple(
        _why(ready, [left[i] for i in fits[ready.class_id]], snapshot, in_flight, bound)
        for ready in snapshot.classes
        if placed[ready.class_id] < ready.depth
    )
    return Plan(tuple(placements), tuple(launches), unplaced)


def _shapes(sandboxes: Iterable[Sandbox]) -> list[list[Sandbox]]:
    """Sandboxes that fit the same classes, together."""
    shapes: defaultdict[object, list[Sandbox]] = defaultdict(list)
    for sandbox in sandboxes:
        shape = (
            sandbox.owner_id, sandbox.adapters, sandbox.capabilities, sandbox.projects, sandbox.open,
        )  # fmt: skip
        shapes[shape].append(sandbox)
    return list(shapes.values())


@dataclass(frozen=True, slots=True)
class _Capacity:
    """Slots of one shape after the plan; those of a sandbox that takes nothing new count as busy."""

    slots: int
    busy: int

    @classmethod
    def of(cls, shape: Sequence[Sandbox], free: dict[str, int]) -> _Capacity:
        slots = sum(sandbox.slots for sandbox in shape)
        return cls(slots, slots - sum(free.get(sandbox.sandbox_id, 0) for sandbox in shape))


class _Rotation:
    """Free sandboxes of one shape, most free slots first, then round and round."""

    def __init__(self, names: Iterable[str], free: dict[str, int]) -> None:
        usable = (name for name in names if free.get(name, 0) > 0)
        self._queue = deque(sorted(usable, key=lambda name: (-free[name], name)))

    def take(self, free: dict[str, int]) -> str | None:
        while self._queue:
            name = self._queue.popleft()
            if free[name] > 0:
                free[name] -= 1
                self._queue.append(name)
                return name
        return None


_Entry = tuple[int, float, str, ReadyClass, ReadyTask]


def _fair_order(
    classes: Sequence[ReadyClass], usable: Container[int]
) -> Iterator[tuple[ReadyClass, ReadyTask]]:
    """Tasks in the order they get slots: owners in turn, runs of an owner in turn.

    The caller takes a class out of `usable` when no slot is left for it; the turn in which that happens
    goes on with the run's next task.
    """
    owners: defaultdict[str, defaultdict[str, list[_Entry]]]
    owners = defaultdict(lambda: defaultdict(list))
    for ready in classes:
        for task in ready.tasks:
            entry = (-task.priority, task.since, task.task_id, ready, task)
            owners[ready.owner_id][task.run_id].append(entry)
    turns: deque[deque[deque[_Entry]]] = deque()
    for runs in owners.values():
        queues = [deque(sorted(entries, key=lambda e: e[:3])) for entries in runs.values()]
        # The run whose head matters most goes first: priority, then age.
        queues.sort(key=lambda q: q[0][:3])
        turns.append(deque(queues))
    while turns:
        runs_of_owner = turns.popleft()
        placed = False
        while runs_of_owner and not placed:
            queue = runs_of_owner.popleft()
            while queue and not placed:
                ready, task = queue.popleft()[3:]
                if ready.class_id in usable:
                    yield ready, task
                    placed = ready.class_id in usable
            if queue:
                runs_of_owner.append(queue)
        if runs_of_owner:
            turns.append(runs_of_owner)


def _fits(ready: ReadyClass, sandbox: Sandbox, bound: _Bound) -> bool:
    return (
        ready.owner_id == sandbox.owner_id
        and ready.adapter in sandbox.adapters
        and ready.capabilities <= sandbox.capabilities
        and _serves(ready, sandbox, bound)
    )


def _pool_fits(ready: ReadyClass, pool: Pool, bound: _Bound) -> bool:
    return (
        ready.owner_id == pool.owner_id
        and ready.adapter == pool.adapter
        and ready.capabilities <= pool.capabilities
        and _serves(ready, pool, bound)
    )


def _serves(ready: ReadyClass, place: Sandbox | Pool, bound: _Bound) -> bool:
    """Whether work of the project may run there at all."""
    return ready.project_id in place.projects if ready.project_id in bound else place.open


def _launches(
    snapshot: Snapshot, placed: dict[int, int], bound: _Bound
) -> tuple[list[Launch], dict[str, int]]:
    """ceil(demand / concurrency) instances per pool, less those on their way, within its maximum and what a
    machine can launch at once: more of them at a time would only make each of them late."""
    demand: defaultdict[str, int] = defaultdict(int)
    in_flight = {pool.pool_id: pool.instances_launching for pool in snapshot.pools}
    by_id = {pool.pool_id: pool for pool in snapshot.pools}
    for ready in snapshot.classes:
        missing = ready.depth - placed[ready.class_id]
        if missing <= 0:
            continue
        candidates = [p for p in snapshot.pools if p.online and _pool_fits(ready, p, bound)]
        candidates.sort(key=lambda p: (p.launch_failure is not None, p.instances_alive, p.pool_id))
        for pool in candidates:
            room = (pool.instances_max - pool.instances_alive) * pool.concurrency
            share = min(missing, max(0, room - demand[pool.pool_id]))
            demand[pool.pool_id] += share
            missing -= share
            if missing <= 0:
                break
    launches: list[Launch] = []
    for pool_id, wanted in demand.items():
        pool = by_id[pool_id]
        if pool.launch_failure is not None:
            continue
        instances = -(-wanted // pool.concurrency) - pool.instances_launching
        room = pool.instances_max - pool.instances_alive - pool.instances_launching
        count = min(instances, room, LAUNCHING_MAX - pool.instances_launching)
        if count > 0:
            launches.append(Launch(pool_id, count))
            in_flight[pool_id] += count
    return launches, in_flight


def _why(
    ready: ReadyClass,
    fits: Sequence[_Capacity],
    snapshot: Snapshot,
    in_flight: dict[str, int],
    bound: _Bound,
) -> Unplaced:
    """The most useful reason, looked for in this order: capacity busy, on its way, failed, absent."""
    own_pools = [pool for pool in snapshot.pools if _pool_fits(ready, pool, bound)]
    launching = sum(in_flight[pool.pool_id] for pool in own_pools)
    facts: dict[str, object] = {
        "slots": sum(capacity.slots for capacity in fits),
        "busy": sum(capacity.busy for capacity in fits),
    }
    if launching:
        return Unplaced(ready.class_id, "launch_in_flight", facts | {"launching": launching})
    failed = [pool for pool in own_pools if pool.launch_failure is not None]
    if failed and not fits:
        facts |= {"poolId": failed[0].pool_id, "reason": failed[0].launch_failure}
        return Unplaced(ready.class_id, "launch_failed", facts)
    full = own_pools and all(p.instances_alive >= p.instances_max for p in own_pools)
    if fits:
        return Unplaced(ready.class_id, "pool_at_limit" if full else "capacity_saturated", facts)
    if own_pools and not any(pool.online for pool in own_pools):
        return Unplaced(ready.class_id, "no_host_online", {"pools": len(own_pools)})
    if own_pools:
        # Its instances exist and are not connected: nothing may be launched in their place yet.
        return Unplaced(ready.class_id, "pool_at_limit", facts)
    return _unbound(ready, bound) or _absent(ready, snapshot, bound)


def _unbound(ready: ReadyClass, bound: _Bound) -> Unplaced | None:
    """What is wrong with the bindings of a bound project, when none of them is usable."""
    own = bound.get(ready.project_id, [])
    if not own or any(binding.available for binding in own):
        return None
    facts: dict[str, object] = {"projectId": ready.project_id, "bindings": len(own)}
    rooted = [binding for binding in own if binding.has_root]
    if not rooted:
        facts["hostId"] = own[0].host_id
        return Unplaced(ready.class_id, "workspace_root_missing", facts)
    facts |= {"hostId": rooted[0].host_id, "reason": rooted[0].reason or "pending"}
    return Unplaced(ready.class_id, "binding_unavailable", facts)


def _absent(ready: ReadyClass, snapshot: Snapshot, bound: _Bound) -> Unplaced:
    """What is missing when neither a sandbox nor a pool of the owner fits."""
    # A bound project looks no further than its pools; what else there is does not matter to it.
    narrow = ready.project_id in bound
    offers = [
        (frozenset({p.adapter}), p.capabilities)
        for p in snapshot.pools
        if p.owner_id == ready.owner_id and (not narrow or ready.project_id in p.projects)
    ]
    offers += [
        (s.adapters, s.capabilities)
        for s in snapshot.sandboxes
        if s.owner_id == ready.owner_id and (not narrow or ready.project_id in s.projects)
    ]
    if not offers:
        return Unplaced(ready.class_id, "no_host_online", {"pools": 0})
    same_adapter = [capabilities for adapters, capabilities in offers if ready.adapter in adapters]
    if not same_adapter:
        available = sorted(frozenset[str]().union(*(adapters for adapters, _ in offers)))
        facts: dict[str, object] = {"adapter": ready.adapter, "available": available}
        return Unplaced(ready.class_id, "adapter_unavailable", facts)
    missing = sorted(ready.capabilities - frozenset[str]().union(*same_adapter))
    if missing or not any(ready.capabilities <= capabilities for capabilities in same_adapter):
        facts = {"missing": missing, "required": sorted(ready.capabilities)}
        return Unplaced(ready.class_id, "capability_unavailable", facts)
    return Unplaced(ready.class_id, "project_not_bound", {"projectId": ready.project_id})
