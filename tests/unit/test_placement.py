"""The plan: within capacity, work-conserving, fair, cheap, and right about why something waits."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from flakes.core.placement import (
    LAUNCHING_MAX,
    Binding,
    Plan,
    Pool,
    ReadyClass,
    ReadyTask,
    Sandbox,
    Snapshot,
    plan,
)

OWNERS = ["ann", "bob"]
ADAPTERS = ["command", "pi"]
CAPABILITIES = ["linux", "gpu", "net"]


def ready(
    class_id: int,
    runs: Sequence[str] = ("run",),
    *,
    owner: str = "ann",
    project: str = "project",
    adapter: str = "command",
    capabilities: Sequence[str] = (),
    depth: int | None = None,
) -> ReadyClass:
    """A class with one task for each name in `runs`, oldest first."""
    tasks = [ReadyTask(f"{owner}-{class_id}-{i}", run, 0, float(i)) for i, run in enumerate(runs)]
    count = len(tasks) if depth is None else depth
    return ReadyClass(class_id, owner, project, adapter, frozenset(capabilities), count, tasks)


def sandbox(
    name: str,
    slots: int = 1,
    *,
    free: int | None = None,
    owner: str = "ann",
    adapters: Sequence[str] = ("command",),
    capabilities: Sequence[str] = (),
    projects: Sequence[str] | None = None,
    accepting: bool = True,
) -> Sandbox:
    return Sandbox(
        name, owner, frozenset(adapters), frozenset(capabilities), slots,
        slots if free is None else free, frozenset(projects or ()), accepting, projects is None,
    )  # fmt: skip


def pool(
    name: str = "pool",
    *,
    owner: str = "ann",
    adapter: str = "command",
    capabilities: Sequence[str] = (),
    concurrency: int = 1,
    maximum: int = 1,
    alive: int = 0,
    launching: int = 0,
    online: bool = True,
    projects: Sequence[str] | None = None,
    failure: str | None = None,
) -> Pool:
    return Pool(
        name, owner, adapter, frozenset(capabilities), concurrency, maximum, alive, launching, online,
        frozenset(projects or ()), failure, projects is None,
    )  # fmt: skip


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    some = st.sets(st.sampled_from(CAPABILITIES), max_size=2)
    classes: list[ReadyClass] = []
    for class_id in range(draw(st.integers(0, 6))):
        tasks = [
            ReadyTask(
                f"t{class_id}-{i}",
                draw(st.sampled_from(["r1", "r2", "r3"])),
                draw(st.integers(-1, 1)),
                float(draw(st.integers(0, 3))),
            )
            for i in range(draw(st.integers(1, 6)))
        ]
        classes.append(
            ReadyClass(
                class_id,
                draw(st.sampled_from(OWNERS)),
                draw(st.sampled_from(["p1", "p2"])),
                draw(st.sampled_from(ADAPTERS)),
                frozenset(draw(some)),
                len(tasks) + draw(st.integers(0, 5)),
                tasks,
            )
        )
    sandboxes = [
        sandbox(
            f"s{i}",
            slots := draw(st.integers(1, 4)),
            free=draw(st.integers(0, slots)),
            owner=draw(st.sampled_from(OWNERS)),
            adapters=sorted(draw(st.sets(st.sampled_from(ADAPTERS), min_size=1))),
            capabilities=sorted(draw(some)),
            projects=draw(st.none() | st.just(["p1"])),
            accepting=draw(st.booleans()),
        )
        for i in range(draw(st.integers(0, 6)))
    ]
    pools = [
        pool(
            f"pool{i}",
            owner=draw(st.sampled_from(OWNERS)),
            adapter=draw(st.sampled_from(ADAPTERS)),
            capabilities=sorted(draw(some)),
            concurrency=draw(st.integers(1, 3)),
            maximum=(maximum := draw(st.integers(1, 5))),
            alive=(alive := draw(st.integers(0, maximum))),
            launching=draw(st.integers(0, maximum - alive)),
            online=draw(st.booleans()),
            projects=draw(st.none() | st.just(["p1"])),
            failure=draw(st.none() | st.just("no disk")),
        )
        for i in range(draw(st.integers(0, 4)))
    ]
    return Snapshot(classes, sandboxes, pools, draw(st.just([]) | st.just([Binding("p1", "host", True)])))


def serves(task: ReadyClass, place: Sandbox | Pool, snapshot: Snapshot) -> bool:
    """A project bound anywhere goes where it is bound, and nowhere else."""
    if any(binding.project_id == task.project_id for binding in snapshot.bindings):
        return task.project_id in place.projects
    return place.open


def fits(task: ReadyClass, place: Sandbox, snapshot: Snapshot) -> bool:
    return (
        task.owner_id == place.owner_id
        and task.adapter in place.adapters
        and not task.capabilities - place.capabilities
        and serves(task, place, snapshot)
    )


def pool_fits(task: ReadyClass, place: Pool, snapshot: Snapshot) -> bool:
    return (
        task.owner_id == place.owner_id
        and task.adapter == place.adapter
        and not task.capabilities - place.capabilities
        and serves(task, place, snapshot)
    )


def left_over(snapshot: Snapshot, made: Plan) -> dict[str, int]:
    used = Counter(placement.sandbox_id for placement in made.placements)
    return {s.sandbox_id: s.free - used[s.sandbox_id] for s in snapshot.sandboxes}


@given(snapshots())
def test_never_over_a_slot_never_unfit_never_twice(snapshot: Snapshot) -> None:
    made = plan(snapshot)
    class_of = {task.task_id: c for c in snapshot.classes for task in c.tasks}
    by_id = {s.sandbox_id: s for s in snapshot.sandboxes}
    assert len({p.task_id for p in made.placements}) == len(made.placements)
    assert all(free >= 0 for free in left_over(snapshot, made).values())
    for placement in made.placements:
        chosen = by_id[placement.sandbox_id]
        assert chosen.accepting
        assert fits(class_of[placement.task_id], chosen, snapshot)


@given(snapshots())
def test_no_fitting_slot_stays_free_while_a_task_waits(snapshot: Snapshot) -> None:
    made = plan(snapshot)
    placed = {p.task_id for p in made.placements}
    free = left_over(snapshot, made)
    for c in snapshot.classes:
        if all(task.task_id in placed for task in c.tasks):
            continue
        assert not [
            s for s in snapshot.sandboxes if s.accepting and free[s.sandbox_id] and fits(c, s, snapshot)
        ]


@given(snapshots())
def test_within_a_run_and_class_the_more_urgent_then_the_older_goes_first(
    snapshot: Snapshot,
) -> None:
    placed = {p.task_id for p in plan(snapshot).placements}
    for c in snapshot.classes:
        for one in c.tasks:
            for other in c.tasks:
                before = (-one.priority, one.since) < (-other.priority, other.since)
                if one.run_id == other.run_id and before and other.task_id in placed:
                    assert one.task_id in placed


@given(snapshots())
def test_exactly_what_is_not_placed_is_explained(snapshot: Snapshot) -> None:
    made = plan(snapshot)
    placed = {p.task_id for p in made.placements}
    waiting = {
        c.class_id
        for c in snapshot.classes
        if sum(task.task_id in placed for task in c.tasks) < c.depth
    }
    assert [u.class_id for u in made.unplaced] == [
        c.class_id for c in snapshot.classes if c.class_id in waiting
    ]


@given(snapshots())
def test_the_plan_is_a_function_of_the_snapshot(snapshot: Snapshot) -> None:
    assert plan(snapshot) == plan(snapshot)


@given(snapshots())
def test_launches_stay_within_their_pools_and_cover_the_demand(snapshot: Snapshot) -> None:
    made = plan(snapshot)
    by_id = {p.pool_id: p for p in snapshot.pools}
    counts = {launch.pool_id: launch.count for launch in made.launches}
    assert len(counts) == len(made.launches)
    for pool_id, count in counts.items():
        chosen = by_id[pool_id]
        assert count > 0
        assert chosen.online
        assert chosen.launch_failure is None
        assert chosen.instances_alive + chosen.instances_launching + count <= chosen.instances_max
    placed = Counter(
        c.class_id
        for p in made.placements
        for c in snapshot.classes
        if any(task.task_id == p.task_id for task in c.tasks)
    )
    for c in snapshot.classes:
        missing = c.depth - placed[c.class_id]
        own = [p for p in snapshot.pools if pool_fits(c, p, snapshot) and p.online]
        coming = sum(
            (p.instances_launching + counts.get(p.pool_id, 0)) * p.concurrency for p in own
        )
        if missing <= coming:
            continue
        # What is on its way does not cover it: then every healthy pool that fits is used up.
        for p in own:
            if p.launch_failure is None:
                used = p.instances_alive + p.instances_launching + counts.get(p.pool_id, 0)
                assert used == p.instances_max, p


def test_a_pool_launches_a_bounded_number_at_a_time() -> None:
    """200 that start together on one machine would each be too late."""
    many = [ready(1, depth=500)]
    first = plan(Snapshot(many, [], [pool(maximum=200)]))
    assert [launch.count for launch in first.launches] == [LAUNCHING_MAX]
    waiting = plan(Snapshot(many, [], [pool(maximum=200, launching=LAUNCHING_MAX)]))
    assert (list(waiting.launches), waiting.unplaced[0].code) == ([], "launch_in_flight")
    some = plan(Snapshot(many, [], [pool(maximum=200, alive=50, launching=LAUNCHING_MAX - 3)]))
    assert [launch.count for launch in some.launches] == [3]


@given(snapshots())
def test_no_pool_launches_more_than_all_its_classes_ask_for(snapshot: Snapshot) -> None:
    made = plan(snapshot)
    for launch in made.launches:
        chosen = next(p for p in snapshot.pools if p.pool_id == launch.pool_id)
        demand = sum(c.depth for c in snapshot.classes if pool_fits(c, chosen, snapshot))
        assert (launch.count - 1) * chosen.concurrency < demand


@given(st.lists(st.integers(0, 12), min_size=1, max_size=5), st.integers(1, 20))
def test_runs_of_one_owner_share_within_one(sizes: list[int], slots: int) -> None:
    runs = [f"r{i}" for i, size in enumerate(sizes) for _ in range(size)]
    made = plan(Snapshot([ready(1, runs)], [sandbox("s", slots)]))
    run_of = {f"ann-1-{i}": run for i, run in enumerate(runs)}
    got = Counter(run_of[p.task_id] for p in made.placements)
    assert sum(got.values()) == min(slots, len(runs))
    for i, size in enumerate(sizes):
        if got[f"r{i}"] < size:  # it wanted more: nobody got two more than it
            assert all(count <= got[f"r{i}"] + 1 for count in got.values())


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(1, 12))
def test_owners_take_turns(ann: int, bob: int, ann_slots: int, bob_slots: int) -> None:
    classes = [ready(1, ["r"] * ann), ready(2, ["r"] * bob, owner="bob")]
    made = plan(Snapshot(classes, [sandbox("a", ann_slots), sandbox("b", bob_slots, owner="bob")]))
    order = [p.task_id[:3] for p in made.placements]
    both = 2 * min(order.count("ann"), order.count("bob"))
    for end in range(2, both + 1, 2):
        assert order[:end].count("ann") == order[:end].count("bob")


def test_tasks_that_fit_nowhere_cost_their_run_no_turn() -> None:
    scarce = ready(1, ["r1"] * 10, adapter="pi")
    shared = ready(2, ["r1"] * 4 + ["r2"] * 4)
    made = plan(Snapshot([scarce, shared], [sandbox("p", 1, adapters=["pi"]), sandbox("c", 4)]))
    got = Counter(p.task_id for p in made.placements if p.sandbox_id == "c")
    runs = Counter("r1" if int(task.rsplit("-", 1)[1]) < 4 else "r2" for task in got)
    assert runs == {"r1": 2, "r2": 2}


def test_work_spreads_over_sandboxes_with_the_emptiest_first() -> None:
    places = [sandbox("a", 4, free=1), sandbox("b", 4, free=3), sandbox("c", 4, free=2)]
    made = plan(Snapshot([ready(1, ["r"] * 6)], places))
    assert [p.sandbox_id for p in made.placements] == ["b", "c", "a", "b", "c", "b"]


def test_f10_a_hundred_tasks_that_cannot_be_placed_starve_nobody() -> None:
    places = [sandbox("a", 2), sandbox("b", 2, owner="bob")]
    others = [ready(1, ["r"] * 3, owner="bob"), ready(2, ["r2"] * 2)]
    alone = plan(Snapshot(others, places))
    stuck = [ready(10 + i, ["r1"], capabilities=[f"quantum-{i}"]) for i in range(100)]
    crowded = plan(Snapshot([*stuck, *others], places))
    assert set(crowded.placements) == set(alone.placements)
    assert len(crowded.placements) == 4
    assert [u for u in crowded.unplaced if u.class_id < 10] == list(alone.unplaced)
    assert {u.code for u in crowded.unplaced if u.class_id >= 10} == {"capability_unavailable"}


# ---- explanations ---------------------------------------------------------------------------------


def why(
    c: ReadyClass, sandboxes: Sequence[Sandbox] = (), pools: Sequence[Pool] = ()
) -> tuple[str, dict[str, object]]:
    (only,) = plan(Snapshot([c], sandboxes, pools)).unplaced
    assert only.class_id == c.class_id
    return only.code, only.facts


def test_why_all_fitting_slots_are_busy() -> None:
    code, facts = why(ready(1, ["r"] * 3), [sandbox("a", 4, free=1), sandbox("b", 2, free=0)])
    assert (code, facts) == ("capacity_saturated", {"slots": 6, "busy": 6})


def test_why_a_sandbox_that_takes_nothing_new_counts_as_busy() -> None:
    code, facts = why(ready(1), [sandbox("a", 4, free=4, accepting=False)])
    assert (code, facts) == ("capacity_saturated", {"slots": 4, "busy": 4})


def test_why_the_pools_may_not_grow() -> None:
    full = pool(maximum=2, alive=2)
    code, facts = why(ready(1), [sandbox("a", 1, free=0)], [full])
    assert (code, facts) == ("pool_at_limit", {"slots": 1, "busy": 1})
    # Its instances are there and not connected: the project is bound, and the pool is full.
    assert why(ready(1), [], [full])[0] == "pool_at_limit"


def test_why_a_launch_is_under_way() -> None:
    code, facts = why(ready(1), [], [pool()])
    assert (code, facts["launching"]) == ("launch_in_flight", 1)
    code, facts = why(ready(1), [], [pool(launching=1)])
    assert (code, facts["launching"]) == ("launch_in_flight", 1)


def test_why_the_launch_failed() -> None:
    code, facts = why(ready(1), [], [pool(failure="no disk")])
    assert code == "launch_failed"
    assert facts["poolId"] == "pool"
    assert facts["reason"] == "no disk"


def test_why_no_host_is_online() -> None:
    assert why(ready(1)) == ("no_host_online", {"pools": 0})
    assert why(ready(1), [], [pool(online=False)]) == ("no_host_online", {"pools": 1})
    elsewhere = sandbox("b", owner="bob"), pool(owner="bob")
    assert why(ready(1), [elsewhere[0]], [elsewhere[1]]) == ("no_host_online", {"pools": 0})


def test_why_nothing_has_its_adapter() -> None:
    expected = ("adapter_unavailable", {"adapter": "pi", "available": ["command"]})
    c = ready(1, adapter="pi")
    assert why(c, [], [pool()]) == expected
    assert why(c, [sandbox("a")]) == expected
    assert why(c, [sandbox("a")], [pool(adapter="codex")])[1]["available"] == ["codex", "command"]


def test_why_nothing_has_its_capabilities() -> None:
    expected = ("capability_unavailable", {"missing": ["gpu"], "required": ["gpu", "linux"]})
    c = ready(1, capabilities=["linux", "gpu"])
    assert why(c, [], [pool(capabilities=["linux"])]) == expected
    assert why(c, [sandbox("a", capabilities=["linux"])]) == expected
    # The capabilities of another adapter do not help.
    other = sandbox("b", adapters=["pi"], capabilities=["gpu", "linux"])
    assert why(c, [sandbox("a", capabilities=["linux"]), other]) == expected
    # All of them exist, but nowhere together.
    apart = [sandbox("a", capabilities=["linux"])], [pool(capabilities=["gpu"])]
    assert why(c, *apart) == (
        "capability_unavailable",
        {"missing": [], "required": ["gpu", "linux"]},
    )


def test_why_the_project_is_not_bound() -> None:
    expected = ("project_not_bound", {"projectId": "project"})
    assert why(ready(1), [], [pool(projects=["other"])]) == expected
    assert why(ready(1), [sandbox("a", projects=["other"])]) == expected


def bound_why(*bindings: Binding, pools: Sequence[Pool] = ()) -> tuple[str, dict[str, object]]:
    made = plan(Snapshot([ready(1)], [sandbox("open")], [pool("open"), *pools], bindings))
    assert not made.placements, "a bound project is placed where it is bound, and nowhere else"
    assert not [launch for launch in made.launches if launch.pool_id == "open"]
    (unplaced,) = made.unplaced
    return unplaced.code, unplaced.facts


def test_a_bound_project_goes_where_it_is_bound() -> None:
    binding = Binding("project", "host", available=True, pool_ids=frozenset({"here"}))
    own = [pool("here", projects=["project"])]
    made = plan(Snapshot([ready(1)], [sandbox("open")], [pool("open"), *own], [binding]))
    assert [launch.pool_id for launch in made.launches] == ["here"]
    assert made.unplaced[0].code == "launch_in_flight"
    places = [sandbox("open", 5), sandbox("bound", 1, projects=["project"])]
    made = plan(Snapshot([ready(1)], places, own, [binding]))
    assert [placement.sandbox_id for placement in made.placements] == ["bound"]
    # One that is bound nowhere stays off the pools of others, and goes where it is open.
    made = plan(Snapshot([ready(1, project="free")], places, own, [binding]))
    assert [placement.sandbox_id for placement in made.placements] == ["open"]


def test_why_a_bound_project_waits() -> None:
    rootless = Binding("project", "h1", available=False, has_root=False)
    assert bound_why(rootless) == (
        "workspace_root_missing", {"projectId": "project", "bindings": 1, "hostId": "h1"},
    )  # fmt: skip
    bad = Binding("project", "h2", available=False, reason="workspace_not_found")
    assert bound_why(rootless, bad) == ("binding_unavailable", {
        "projectId": "project", "bindings": 2, "hostId": "h2", "reason": "workspace_not_found",
    })  # fmt: skip
    unseen = Binding("project", "h3", available=False)
    assert bound_why(unseen)[1]["reason"] == "pending"
    good = Binding("project", "h4", available=True, pool_ids=frozenset({"here"}))
    assert bound_why(bad, good, pools=[pool("here", projects=["project"], online=False)]) == (
        "no_host_online", {"pools": 1},
    )  # fmt: skip
    assert bound_why(good, pools=[pool("here", projects=["project"], adapter="pi")]) == (
        "adapter_unavailable", {"adapter": "command", "available": ["pi"]},
    )  # fmt: skip
    failing = pool("here", projects=["project"], failure="no image")
    assert bound_why(good, pools=[failing])[0] == "launch_failed"


# ---- cost -----------------------------------------------------------------------------------------


def seconds(snapshot: Snapshot) -> float:
    """Of processor time, which others on the machine do not lengthen (much)."""

    def once() -> float:
        started = time.process_time()
        plan(snapshot)
        return time.process_time() - started

    return min(once() for _ in range(3))


def test_10_000_tasks_and_500_sandboxes_take_less_than_a_second() -> None:
    places = [sandbox(f"s{i}", 16, capabilities=[f"c{i % 50}"]) for i in range(500)]
    runs = [f"r{i % 97}" for i in range(10_000)]
    assert seconds(Snapshot([ready(1, runs)], places)) < 1.0
    each = [ready(i, [runs[i]], capabilities=[f"c{i % 60}"]) for i in range(10_000)]
    assert seconds(Snapshot(each, places)) < 1.0
