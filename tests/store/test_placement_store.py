"""The snapshot and the claim: fenced by the term, re-checked row by row, waiting for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from flakes.core.placement import Placement, Plan, plan
from flakes.store import accounts, leader, links, offers, placement, projects, sandboxes
from flakes.store.database import Query, run
from flakes.store.explanations import explain
from flakes.store.identifiers import new_id
from flakes.store.tasks import get
from flakes.wire.projects import ProjectPut
from store.build import SUSPECT_AFTER_S, World, end, hello, lost, opened, task

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with opened(database) as world:
        yield world


async def snapshot(world: World, suspect_after_s: float = SUSPECT_AFTER_S) -> placement.Snapshot:
    async with world.db.connection() as conn:
        return (await placement.SnapshotReader().read(conn, suspect_after_s=suspect_after_s))[0]


async def test_a_pass_offers_what_fits_with_all_that_a_sandbox_needs(world: World) -> None:
    sandbox_id = await world.sandbox(2)
    await world.submit("run", *(task(f"t{i}") for i in range(5)))
    offered = await world.schedule()
    assert [offer.sandbox_id for offer in offered] == [sandbox_id] * 2
    async with world.db.connection() as conn:
        loaded = await offers.load(conn, [offer.assignment_id for offer in offered])
    assert [assignment.task_key for _, assignment in loaded] == ["t0", "t1"]
    assert all(assignment.definition is not None for _, assignment in loaded)
    assert await world.schedule() == []
    await world.check()


async def test_an_old_term_claims_nothing(world: World) -> None:
    await world.sandbox(2)
    await world.submit("run", task("a"))
    made = await world.planned()
    old_replica, old_term = world.replica_id, world.term
    world.replica_id = new_id("replica")
    await world.elect()
    assert world.term > old_term
    for holder, term in [
        (old_replica, old_term), (old_replica, world.term), (world.replica_id, old_term),
    ]:  # fmt: skip
        async with world.db.connection() as conn:
            assert await placement.claim(conn, made.placements, holder=holder, term=term) == []
    await world.check()
    assert len(await world.claim(made)) == 1


async def test_a_term_that_ran_out_claims_nothing(world: World) -> None:
    await world.sandbox()
    await world.submit("run", task("a"))
    made = await world.planned()
    await world.all("update leaders set expires_at = now() - interval '1 ms' returning 1")
    assert await world.claim(made) == []
    await world.elect()
    assert len(await world.claim(made)) == 1


async def test_terms_only_grow_and_a_lease_has_one_holder(world: World) -> None:
    async with world.db.connection() as conn:
        assert await leader.elect(conn, "loops", "other", 60) is None
        again = await leader.elect(conn, "loops", world.replica_id, 60)
        assert again is not None
        assert again.term == world.term
        await leader.resign(conn, "loops", world.replica_id)
        other = await leader.elect(conn, "loops", "other", 60)
        assert other is not None
        assert other.term == world.term + 1
        assert await leader.elect(conn, "loops", world.replica_id, 60) is None


async def test_of_many_replicas_one_is_elected(database: str) -> None:
    async with opened(database, size=20) as world:
        await world.all("delete from leaders returning 1")

        async def elect(n: int) -> object:
            async with world.db.connection() as conn:
                return await leader.elect(conn, "loops", f"replica-{n}", 60)

        terms = await asyncio.gather(*map(elect, range(16)))
        assert sum(term is not None for term in terms) == 1


async def test_the_claim_never_waits_for_a_lock(world: World) -> None:
    """Other transactions hold the run, the task and the queue's row of `held`: the rest is claimed at once."""
    await world.sandbox(4)
    held_run = await world.submit("held", task("held"))
    await world.submit("free", task("a"), task("b"))
    (held,) = (await world.ids(held_run)).values()
    made = await world.planned()
    assert len(made.placements) == 3
    async with world.db.connection() as holder, holder.transaction():
        await run(holder, Query("select 1 from runs for update"))
        await run(holder, Query("select 1 from tasks for update"))
        params = {"task_id": held}
        await run(
            holder,
            Query("select 1 from ready_tasks where task_id = %(task_id)s for update"),
            params,
        )
        async with asyncio.timeout(5):
            offered = await world.claim(made)
    assert len(offered) == 2
    assert held not in {r[0] for r in await world.all("select task_id from assignments")}
    await world.check()
    assert len(await world.schedule()) == 1


async def test_two_passes_at_once_claim_each_task_once(world: World) -> None:
    await world.sandbox(50)
    await world.submit("run", *(task(f"t{i}") for i in range(40)))
    made = await world.planned()
    offered = await asyncio.gather(*(world.claim(made) for _ in range(6)))
    assert sum(map(len, offered)) == 40
    await world.check()


async def test_a_stale_plan_does_not_go_over_the_slots(world: World) -> None:
    sandbox_id = await world.sandbox(3)
    run_id = await world.submit("run", *(task(f"t{i}") for i in range(5)))
    made = await world.planned()
    assert len(made.placements) == 3
    # Meanwhile the sandbox came back with fewer slots, and something else was placed on one of them.
    async with world.db.transaction() as conn:
        await sandboxes.greet(conn, hello(sandbox_id, 2))
    other = (await world.ids(run_id))["t4"]
    assert len(await world.claim(Plan((Placement(other, sandbox_id),), (), ()))) == 1
    assert len(await world.claim(made)) == 1
    assert await world.schedule() == []
    await world.check()


@pytest.mark.parametrize("status", ["draining", "stopping", "stopped", "failed", "expired"])
async def test_a_stale_plan_does_not_reach_a_sandbox_on_its_way_out(
    world: World, status: str
) -> None:
    await world.sandbox()
    await world.submit("run", task("a"))
    made = await world.planned()
    await world.all("update sandboxes set status = %(s)s returning 1", s=status)
    assert await world.claim(made) == []
    assert await world.schedule() == []
    await world.check()


async def test_a_task_that_left_the_queue_is_not_claimed(world: World) -> None:
    await world.sandbox(2)
    await world.submit("run", task("a"))
    made = await world.planned()
    assert len(await world.claim(made)) == 1
    assert await world.claim(made) == []
    await world.check()


# ---- the snapshot ---------------------------------------------------------------------------------


async def test_free_slots_are_derived_from_live_assignments(world: World) -> None:
    sandbox_id = await world.sandbox(3)
    await world.submit("run", *(task(f"t{i}") for i in range(3)))
    await world.start()
    (seen,) = (await snapshot(world)).sandboxes
    assert (seen.sandbox_id, seen.slots, seen.free, seen.accepting) == (sandbox_id, 3, 0, True)


async def test_a_silent_sandbox_takes_nothing_and_a_disconnected_one_is_not_seen(
    world: World,
) -> None:
    sandbox_id = await world.sandbox()
    await world.submit("run", task("a"))
    await world.all("update links set seen_at = now() - interval '41 s' returning 1")
    (seen,) = (await snapshot(world, 40.0)).sandboxes
    assert not seen.accepting
    assert (await snapshot(world, 60.0)).sandboxes[0].accepting
    ((connection_id,),) = await world.all("select connection_id from links")
    async with world.db.connection() as conn:
        assert await links.down(conn, sandbox_id, "an older connection") is False
        assert await links.down(conn, sandbox_id, connection_id) is True
    assert list((await snapshot(world)).sandboxes) == []


async def test_delayed_retries_wait_and_say_when(world: World) -> None:
    await world.sandbox()
    await world.submit("run", task("a"))
    (offer,) = await world.start()
    await world.apply(lost(offer))
    (offer,) = await world.start()
    await world.apply(lost(offer))
    async with world.db.connection() as conn:
        seen, due_s = await placement.SnapshotReader().read(conn, suspect_after_s=60)
    assert seen.classes == []
    assert due_s is not None
    assert 0 < due_s <= 1
    await world.all("update ready_tasks set not_before = now() returning 1")
    assert len(await world.schedule()) == 1


async def test_urgent_tasks_and_older_ones_come_first(world: World) -> None:
    await world.sandbox(2)
    await world.submit("run", task("a"), task("b"), task("c", priority=3), task("d", priority=-1))
    order = []
    for _ in range(2):
        for offer in await world.start():
            await world.apply(end(offer))
            order.append(
                (await world.all(
                    "select task_key from tasks where assignment_id = %(a)s", a=offer.assignment_id
                ))[0][0]
            )  # fmt: skip
    assert (set(order[:2]), set(order[2:])) == ({"c", "a"}, {"b", "d"})


async def test_f10_a_class_with_thousands_of_runs_hides_no_other(world: World) -> None:
    await world.submit("stuck", task("a", requiredCapabilities=["quantum"]))
    await world.all(
        "insert into ready_tasks (task_id, class_id, run_id, priority, queued_at)"
        " select 'task_' || n, class_id, 'run_' || n, 0, now() - interval '1 h'"
        " from task_classes, generate_series(1, 3000) n returning 1"
    )
    async with world.db.transaction() as conn:
        bob = await accounts.create_user(conn, "bob")
        await projects.put(conn, bob, "project", ProjectPut(name="Project"))
    other = World(world.db, bob, world.replica_id, world.term)
    await other.submit("run", task("b"))
    await other.sandbox()
    assert len(await other.schedule()) == 1


async def test_f18_a_pass_takes_a_fixed_number_of_statements(world: World) -> None:
    for _ in range(20):
        await world.sandbox(4)
    await world.submit("run", *(task(f"t{i}") for i in range(100)))
    before = world.db.statements
    assert len(await world.schedule()) == 80
    assert world.db.statements - before <= 10


async def test_why_a_task_waits_is_stored_and_told(world: World) -> None:
    await world.sandbox(adapters=["other"])
    run_id = await world.submit("run", task("a"))
    (task_id,) = (await world.ids(run_id)).values()

    async def code() -> str:
        async with world.db.connection() as conn:
            return (await explain(conn, await get(conn, world.owner_id, task_id))).code

    assert await code() == "not_scheduled_yet"
    made = plan(await snapshot(world))
    async with world.db.connection() as conn:
        await placement.explain(conn, made.unplaced)
        await placement.explain(conn, made.unplaced)
    assert await code() == "adapter_unavailable"
    await world.sandbox()
    (offer,) = await world.schedule()
    assert await code() == "offer_in_flight"
    await world.apply(lost(offer))
    assert await code() == "retry_backoff"
    await world.all("update ready_tasks set not_before = now() returning 1")
    (offer,) = await world.start()
    assert await code() == "running"
    await world.apply(end(offer))
    assert await code() == "ended"
