"""Cancelling and retrying: what is queued ends at once, what runs is asked to, what failed comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from flakes.core.task import Outcome
from flakes.store import admission, interventions, placement, runs
from flakes.store.interventions import Intervention
from flakes.wire.errors import ApiError
from flakes.wire.runs import RunPut
from store.build import Offer, World, accept, end, lost, opened, task, text_result

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with opened(database, size=20) as world:
        yield world


async def cancel_task(world: World, task_id: str, reason: str | None = "why") -> Intervention:
    async with world.db.transaction() as conn:
        return await interventions.cancel_task(conn, world.owner_id, task_id, reason)


async def cancel_run(world: World, key: str = "run") -> Intervention:
    async with world.db.transaction() as conn:
        return await interventions.cancel_run(conn, world.owner_id, key, "why")


async def retry_task(world: World, task_id: str) -> Intervention:
    async with world.db.transaction() as conn:
        return await interventions.retry_task(conn, world.owner_id, task_id)


async def retry_run(world: World, key: str = "run") -> Intervention:
    async with world.db.transaction() as conn:
        return await interventions.retry_run(conn, world.owner_id, key)


async def end_all(world: World, **outcomes: Outcome) -> None:
    """Run everything that can run, one pass after another; tasks end well unless told otherwise."""
    while offers := await world.start():
        for offer in offers:
            (key,) = (
                await world.all(
                    "select task_key from assignments join tasks using (task_id)"
                    " where assignments.assignment_id = %(a)s",
                    a=offer.assignment_id,
                )
            )[0]
            await world.apply(end(offer, outcomes.get(key, Outcome.SUCCEEDED)))
        await world.check()


# ---- cancel ---------------------------------------------------------------------------------------


async def test_a_queued_task_is_cancelled_at_once_and_takes_its_dependents_along(
    world: World,
) -> None:
    run_id = await world.submit(
        "run", task("a"), task("b", "a"), task("c", "a", dependencyFailurePolicy="continue"),
        task("d", "a", dependencyFailurePolicy="wait"),
    )  # fmt: skip
    ids = await world.ids(run_id)
    done = await cancel_task(world, ids["a"])
    assert (done.cancel, done.ready) == ([], 1)
    assert await world.statuses(run_id) == {
        "a": "CANCELLED", "b": "FAILED", "c": "QUEUED", "d": "BLOCKED",
    }  # fmt: skip
    await world.check()


async def test_an_offer_is_withdrawn_and_its_accept_is_refused(world: World) -> None:
    await world.sandbox()
    run_id = await world.submit("run", task("a"))
    (offer,) = await world.schedule()
    done = await cancel_task(world, (await world.ids(run_id))["a"])
    assert done.cancel == [(offer.sandbox_id, offer.assignment_id)]
    assert await world.statuses(run_id) == {"a": "CANCELLED"}
    await world.check()
    assert (await world.apply(accept(offer))).stale == {offer.assignment_id}
    # What the daemon answers to the cancel is the recorded end.
    assert (await world.apply(end(offer, Outcome.CANCELLED))).stale == set()
    assert await world.schedule() == []


async def test_f12_a_running_task_is_cancelled_only_when_its_sandbox_confirms(world: World) -> None:
    await world.sandbox()
    run_id = await world.submit("run", task("a"), task("b", "a"))
    (offer,) = await world.start()
    task_id = (await world.ids(run_id))["a"]
    done = await cancel_task(world, task_id)
    assert done.cancel == [(offer.sandbox_id, offer.assignment_id)]
    assert await world.statuses(run_id) == {"a": "RUNNING", "b": "BLOCKED"}
    assert await world.schedule() == []  # its slot is not free
    again = await cancel_task(world, task_id)
    assert again.cancel == done.cancel  # asked once more, said once
    assert (await world.event_types(task_id)).count("task.cancel_requested") == 1
    await world.apply(end(offer, Outcome.CANCELLED))
    assert await world.statuses(run_id) == {"a": "CANCELLED", "b": "FAILED"}
    await world.check()


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome.SUCCEEDED, "SUCCEEDED"), (Outcome.FAILED, "CANCELLED"), (Outcome.LOST, "CANCELLED"),
        (Outcome.RETRYABLE, "CANCELLED"),
    ],
)  # fmt: skip
async def test_how_a_task_ends_that_was_asked_to_stop(
    world: World, outcome: Outcome, status: str
) -> None:
    await world.sandbox()
    run_id = await world.submit("run", task("a", retry={"maxAttempts": 5}))
    (offer,) = await world.start()
    await cancel_task(world, (await world.ids(run_id))["a"])
    await world.apply(end(offer, outcome))
    assert await world.statuses(run_id) == {"a": status}
    await world.check()


async def test_an_ended_task_stays_as_it_is(world: World) -> None:
    await world.sandbox()
    run_id = await world.submit("run", task("a"))
    await end_all(world)
    done = await cancel_task(world, (await world.ids(run_id))["a"])
    assert (done.cancel, done.ready) == ([], 0)
    assert await world.statuses(run_id) == {"a": "SUCCEEDED"}


async def test_a_run_is_cancelled_whole(world: World) -> None:
    await world.sandbox(2)
    run_id = await world.submit(
        "run", task("running"), task("offered"), task("queued"), task("blocked", "running")
    )
    first, second = await world.schedule()
    await world.apply(accept(first))
    by_key = {
        key: task_id
        for key, task_id in (await world.ids(run_id)).items()
        if key in ("running", "offered")
    }
    assert {await world.offer_of(by_key["running"]), await world.offer_of(by_key["offered"])} == {
        first,
        second,
    }
    done = await cancel_run(world)
    assert set(done.cancel) == {(o.sandbox_id, o.assignment_id) for o in (first, second)}
    statuses = await world.statuses(run_id)
    assert sorted(statuses.values()) == ["CANCELLED"] * 3 + ["RUNNING"]
    assert await world.state(run_id) == "RUNNING"
    await world.check()
    await world.apply(end(first, Outcome.CANCELLED))
    assert await world.state(run_id) == "CANCELLED"
    await world.check()
    with pytest.raises(ApiError) as caught:
        await world.submit("run", task("more"))
    assert caught.value.code == "run_closed"
    again = await cancel_run(world)
    assert again.cancel == []
    await world.check()


async def test_cancel_meets_claim_on_two_connections(world: World) -> None:
    """Whoever is first: never a cancelled task with a live offer, never an offer that nobody hears of."""
    await world.sandbox(1)
    met = {"offered": 0, "cancelled": 0}
    for n in range(60):
        run_id = await world.submit(f"run-{n}", task("a"))
        (task_id,) = (await world.ids(run_id)).values()
        made = await world.planned()
        start = asyncio.Barrier(2)

        async def claim(made: object = made, start: asyncio.Barrier = start) -> list[Offer]:
            await start.wait()
            return await world.claim(made)  # type: ignore[arg-type]

        async def cancel(task_id: str = task_id, start: asyncio.Barrier = start) -> Intervention:
            await start.wait()
            return await cancel_task(world, task_id)

        first, second = (claim(), cancel()) if n % 2 else (cancel(), claim())
        answers = await asyncio.gather(first, second)
        offers, done = answers if n % 2 else answers[::-1]
        assert await world.statuses(run_id) == {"a": "CANCELLED"}
        # An offer that went out is an offer whose cancel is delivered.
        assert [(o.sandbox_id, o.assignment_id) for o in offers] == done.cancel or not offers
        met["offered" if done.cancel else "cancelled"] += 1
        assert await world.all("select 1 from assignments where live") == []
        await world.check()
    assert sum(met.values()) == 60


async def test_cancel_waits_for_a_claim_that_is_under_way(world: World) -> None:
    """The claim has taken the queue's row and has not committed: the cancel sees the offer afterwards."""
    await world.sandbox()
    run_id = await world.submit("run", task("a"))
    (task_id,) = (await world.ids(run_id)).values()
    made = await world.planned()
    async with world.db.connection() as conn:
        async with conn.transaction():
            offered = await placement.claim(
                conn, made.placements, holder=world.replica_id, term=world.term
            )
            cancelling = asyncio.create_task(cancel_task(world, task_id))
            await waits_for_a_lock(world)
            assert not cancelling.done()
        done = await cancelling
    assert done.cancel == [(sandbox_id, a.assignment_id) for sandbox_id, a in offered]
    await world.check()


async def waits_for_a_lock(world: World) -> None:
    sql = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    for _ in range(1_000):
        if (await world.all(sql))[0][0]:
            return
        await asyncio.sleep(0.005)
    raise TimeoutError("nobody waits for a lock")


async def test_cancel_and_accept_at_the_same_time_agree(world: World) -> None:
    await world.sandbox(1)
    for n in range(30):
        run_id = await world.submit(f"run-{n}", task("a"))
        (task_id,) = (await world.ids(run_id)).values()
        (offer,) = await world.schedule()
        applied, done = await asyncio.gather(
            world.apply(accept(offer)), cancel_task(world, task_id)
        )
        (status,) = (await world.statuses(run_id)).values()
        assert done.cancel == [(offer.sandbox_id, offer.assignment_id)]
        if applied.stale:
            assert status == "CANCELLED"
        else:
            assert status == "RUNNING"
            await world.apply(end(offer, Outcome.CANCELLED))
        await world.check()


# ---- retry ----------------------------------------------------------------------------------------


async def test_a_failed_task_is_tried_again_with_those_that_failed_because_of_it(
    world: World,
) -> None:
    await world.sandbox(4)
    run_id = await world.submit(
        "run", task("a"), task("b", "a"), task("c", "b", dependencyFailurePolicy="cancel"),
        task("own", "c", dependencyFailurePolicy="continue"), task("other"), close=True,
    )  # fmt: skip
    await end_all(world, a=Outcome.FAILED, own=Outcome.FAILED)
    assert await world.statuses(run_id) == {
        "a": "FAILED", "b": "FAILED", "c": "CANCELLED", "own": "FAILED", "other": "SUCCEEDED",
    }  # fmt: skip
    ids = await world.ids(run_id)
    done = await retry_task(world, ids["a"])
    assert done.ready == 1
    # `own` failed by itself, so it stays.
    assert await world.statuses(run_id) == {
        "a": "QUEUED", "b": "BLOCKED", "c": "BLOCKED", "own": "FAILED", "other": "SUCCEEDED",
    }  # fmt: skip
    assert await world.state(run_id) == "QUEUED"
    assert await world.all("select completed_at from runs") == [(None,)]
    await world.check()
    await end_all(world)
    statuses = await world.statuses(run_id)
    assert statuses == dict.fromkeys(["a", "b", "c", "other"], "SUCCEEDED") | {"own": "FAILED"}
    assert (await retry_run(world)).ready == 1
    await end_all(world)
    assert await world.state(run_id) == "SUCCEEDED"


async def test_a_dependent_with_another_bad_dependency_stays_where_it_is(world: World) -> None:
    await world.sandbox(4)
    run_id = await world.submit(
        "run", task("a"), task("b"), task("both", "a", "b"), task("behind", "both"),
        task("only-a", "a"),
    )  # fmt: skip
    await end_all(world, a=Outcome.FAILED, b=Outcome.FAILED)
    ids = await world.ids(run_id)
    await retry_task(world, ids["a"])
    assert await world.statuses(run_id) == {
        "a": "QUEUED", "b": "FAILED", "both": "FAILED", "behind": "FAILED", "only-a": "BLOCKED",
    }  # fmt: skip
    await world.check()
    await retry_task(world, ids["b"])
    assert (await world.statuses(run_id))["behind"] == "BLOCKED"
    await world.check()
    await end_all(world)
    assert set((await world.statuses(run_id)).values()) == {"SUCCEEDED"}


async def test_what_failed_because_of_a_dependency_is_not_retried_alone(world: World) -> None:
    await world.sandbox()
    run_id = await world.submit("run", task("a"), task("b", "a"))
    await end_all(world, a=Outcome.FAILED)
    ids = await world.ids(run_id)
    with pytest.raises(ApiError) as caught:
        await retry_task(world, ids["b"])
    assert caught.value.code == "task_not_retryable"
    assert caught.value.details["taskKeys"] == ["a"]
    assert await world.statuses(run_id) == {"a": "FAILED", "b": "FAILED"}


async def test_wait_goes_on_after_a_retry_and_continue_waits_again(world: World) -> None:
    await world.sandbox(4)
    run_id = await world.submit(
        "run", task("a"), task("slow"), task("w", "a", dependencyFailurePolicy="wait"),
        task("c", "a", "slow", dependencyFailurePolicy="continue"),
    )  # fmt: skip
    ids = await world.ids(run_id)
    await world.start()
    await world.apply(end(await world.offer_of(ids["a"]), Outcome.FAILED))
    assert await world.statuses(run_id) == {
        "a": "FAILED", "slow": "RUNNING", "w": "BLOCKED", "c": "BLOCKED",
    }  # fmt: skip
    await retry_task(world, ids["a"])
    await world.check()
    await world.apply(end(await world.offer_of(ids["slow"])))
    # `c` had counted `a` as ended: it waits for the new attempt.
    assert (await world.statuses(run_id))["c"] == "BLOCKED"
    await world.check()
    await end_all(world)
    assert set((await world.statuses(run_id)).values()) == {"SUCCEEDED"}


async def test_a_run_left_with_waiting_tasks_is_stalled_until_a_retry(world: World) -> None:
    await world.sandbox()
    run_id = await world.submit("run", task("a"), task("w", "a", dependencyFailurePolicy="wait"))
    await end_all(world, a=Outcome.FAILED)
    assert await world.state(run_id) == "STALLED"
    await retry_run(world)
    await end_all(world)
    assert await world.state(run_id) == "SUCCEEDED"


async def test_a_cancelled_run_comes_back_by_a_retry(world: World) -> None:
    await world.sandbox(2)
    run_id = await world.submit("run", task("a"), task("b", "a"), task("c"), close=True)
    await world.start()
    ids = await world.ids(run_id)
    stopping = await world.offer_of(ids["a"])
    await cancel_run(world)
    await world.apply(end(await world.offer_of(ids["c"]), Outcome.CANCELLED))
    done = await retry_run(world)
    assert done.ready == 1
    # `b` depends on `a`, which is still being stopped.
    assert await world.statuses(run_id) == {"a": "RUNNING", "b": "BLOCKED", "c": "QUEUED"}
    await world.check()
    await world.apply(end(stopping, Outcome.CANCELLED))
    assert (await world.statuses(run_id))["b"] == "FAILED"
    await world.check()
    await retry_run(world)
    await end_all(world)
    assert await world.state(run_id) == "SUCCEEDED"


async def test_every_retry_gives_the_attempts_that_the_definition_says(world: World) -> None:
    await world.sandbox()
    run_id = await world.submit("run", task("a", retry={"maxAttempts": 2, "backoffS": 0}))
    (task_id,) = (await world.ids(run_id)).values()
    for retries in range(20):
        for attempt in (1, 2):
            (offer,) = await world.start()
            assert await world.all("select attempt from assignments where live") == [
                (2 * retries + attempt,)
            ]
            await world.apply(end(offer, Outcome.FAILED))
        assert await world.statuses(run_id) == {"a": "FAILED"}
        await retry_task(world, task_id)
    await world.check()


async def test_exit_75_has_its_three_tries_again_after_every_retry(world: World) -> None:
    await world.sandbox()
    run_id = await world.submit("run", task("a", retry={"backoffS": 0}))
    (task_id,) = (await world.ids(run_id)).values()
    for retries in range(3):
        for attempt in (1, 2, 3):
            (offer,) = await world.start()
            assert await world.all("select attempt from assignments where live") == [
                (3 * retries + attempt,)
            ]
            await world.apply(end(offer, Outcome.RETRYABLE))
        assert await world.statuses(run_id) == {"a": "FAILED"}
        await retry_task(world, task_id)
    # A failure that is none of these is final at once, as it is without a retry.
    (offer,) = await world.start()
    await world.apply(end(offer, Outcome.FAILED))
    assert await world.statuses(run_id) == {"a": "FAILED"}
    await world.check()


async def test_a_retry_forgets_the_old_result_and_its_losses(world: World) -> None:
    await world.sandbox()
    run_id = await world.submit("run", task("a"))
    (task_id,) = (await world.ids(run_id)).values()
    (offer,) = await world.start()
    await world.apply(lost(offer))
    (offer,) = await world.start()
    await world.apply(end(offer, Outcome.FAILED, result=text_result("bad")))
    await retry_task(world, task_id)
    assert await world.all("select count(*) from task_results") == [(0,)]
    assert await world.all("select losses, error, finished_at from tasks") == [(0, None, None)]
    (new,) = await world.start()
    assert (await world.apply(end(offer, result=text_result("late")))).stale
    await world.apply(end(new, result=text_result("good")))
    assert await world.all("select result ->> 'text' from task_results") == [("good",)]


async def test_only_what_failed_or_was_cancelled_is_retried(world: World) -> None:
    await world.sandbox()
    run_id = await world.submit("run", task("a"))
    (task_id,) = (await world.ids(run_id)).values()

    async def refused() -> None:
        with pytest.raises(ApiError) as caught:
            await retry_task(world, task_id)
        assert caught.value.code == "task_not_retryable"

    await refused()
    (offer,) = await world.start()
    await refused()
    await world.apply(end(offer))
    await refused()
    assert (await retry_run(world)).ready == 0
    assert await world.state(run_id) == "SUCCEEDED"
    await world.check()


async def test_what_was_cancelled_before_its_admission_is_never_run(world: World) -> None:
    """It has no edges yet: queued by a retry it would overtake what it depends on."""
    async with world.db.transaction() as conn:
        body = RunPut(name="run", project_key="project")
        run_id = (await runs.put(conn, world.owner_id, "run", body))[0].run_id
        for definition in (task("a"), task("b", "a")):
            assert definition.task_key is not None
            await admission.save(conn, world.owner_id, "run", definition.task_key, definition)
    await cancel_run(world)
    assert await world.statuses(run_id) == {"a": "CANCELLED", "b": "CANCELLED"}
    await world.check()
    with pytest.raises(ApiError) as caught:
        await retry_task(world, (await world.ids(run_id))["b"])
    assert caught.value.code == "task_not_retryable"
    assert (await retry_run(world)).ready == 0
    assert await world.statuses(run_id) == {"a": "CANCELLED", "b": "CANCELLED"}
    await world.check()


async def test_somebody_elses_task_does_not_exist(world: World) -> None:
    run_id = await world.submit("run", task("a"))
    (task_id,) = (await world.ids(run_id)).values()
    for act in (interventions.retry_task,):
        with pytest.raises(ApiError) as caught:
            async with world.db.transaction() as conn:
                await act(conn, "user_other", task_id)
        assert caught.value.code == "not_found"
    with pytest.raises(ApiError) as caught:
        async with world.db.transaction() as conn:
            await interventions.cancel_task(conn, "user_other", task_id, None)
    assert caught.value.code == "not_found"
