"""Accepts and ends: fenced, replayable, batched, with the statement and the pure rule in agreement."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flakes.core.limits import INFRASTRUCTURE_RETRIES_MAX
from flakes.core.task import TERMINAL, Outcome, TaskStatus
from flakes.store import links
from flakes.store.transitions import Accept, End, Withdraw
from store.build import Offer, World, accept, end, lost, opened, task, text_result

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with opened(database) as world:
        yield world


async def running(world: World, *tasks: object, slots: int = 8) -> tuple[str, dict[str, Offer]]:
    """A run whose ready tasks all run on one sandbox: run id, and assignments by task key."""
    await world.sandbox(slots)
    run_id = await world.submit("run", *(tasks or (task("a"),)))  # type: ignore[arg-type]
    await world.start()
    found = await world.all(
        "select task_key, a.assignment_id, a.sandbox_id from assignments a join tasks using (task_id)"
        " where live"
    )
    return run_id, {
        key: Offer(assignment_id, sandbox_id) for key, assignment_id, sandbox_id in found
    }


async def test_from_offer_to_success(world: World) -> None:
    await world.sandbox()
    run_id = await world.submit("run", task("a"), close=True)
    (offer,) = await world.schedule()
    assert await world.statuses(run_id) == {"a": "QUEUED"}
    applied = await world.apply(accept(offer))
    assert (applied.accepted, applied.stale) == (1, set())
    assert await world.statuses(run_id) == {"a": "RUNNING"}
    await world.check()
    applied = await world.apply(end(offer, result=text_result("done")))
    assert (applied.ended, applied.freed, applied.stale) == (1, 1, set())
    assert await world.statuses(run_id) == {"a": "SUCCEEDED"}
    assert await world.state(run_id) == "SUCCEEDED"
    assert await world.all("select assignment_id, result ->> 'text' from task_results") == [
        (offer.assignment_id, "done")
    ]
    ids = await world.ids(run_id)
    assert await world.event_types(ids["a"]) == ["task.admitted", "task.running", "task.succeeded"]
    await world.check()


async def test_replays_change_nothing_and_are_not_stale(world: World) -> None:
    run_id, offers = await running(world)
    events = await world.all("select count(*) from events")
    assert (await world.apply(accept(offers["a"]))).stale == set()
    assert await world.all("select count(*) from events") == events
    await world.apply(end(offers["a"], result=text_result("first")))
    events = await world.all("select count(*) from events")
    # The ack was lost: the sandbox sends all it has said once more.
    again = await world.apply(accept(offers["a"]), end(offers["a"], result=text_result("first")))
    assert (again.stale, again.accepted, again.ended) == (set(), 0, 0)
    assert await world.all("select count(*) from events") == events
    assert await world.statuses(run_id) == {"a": "SUCCEEDED"}
    await world.check()


async def test_another_end_than_the_recorded_one_is_stale(world: World) -> None:
    run_id, offers = await running(world)
    await world.apply(end(offers["a"]))
    assert (await world.apply(end(offers["a"], Outcome.FAILED))).stale == {
        offers["a"].assignment_id
    }
    assert await world.statuses(run_id) == {"a": "SUCCEEDED"}


@pytest.mark.parametrize("outcome", [Outcome.SUCCEEDED, Outcome.FAILED, Outcome.RETRYABLE])
async def test_the_end_of_work_that_was_never_accepted_is_refused(
    world: World, outcome: Outcome
) -> None:
    await world.sandbox()
    run_id = await world.submit("run", task("a"))
    (offer,) = await world.schedule()
    assert (await world.apply(end(offer, outcome))).stale == {offer.assignment_id}
    assert await world.statuses(run_id) == {"a": "QUEUED"}
    await world.check()


async def test_f03_a_superseded_sandbox_changes_nothing_and_f30_is_told_so(world: World) -> None:
    run_id, offers = await running(world)
    task_id = (await world.ids(run_id))["a"]
    old = offers["a"]
    assert (await world.apply(lost(old))).ready == 1
    (new,) = await world.start()
    assert new.assignment_id != old.assignment_id
    for move in (accept(old), end(old, result=text_result("late")), end(old, Outcome.FAILED)):
        applied = await world.apply(move)
        assert applied.stale == {old.assignment_id}
        assert (applied.ended, applied.accepted) == (0, 0)
    assert await world.statuses(run_id) == {"a": "RUNNING"}
    refused = await world.all(
        "select data ->> 'assignmentId', data ->> 'what', data ->> 'sandboxId' from events"
        " where type = 'attempt.refused' and task_id = %(t)s order by event_id",
        t=task_id,
    )
    assert refused == [
        (old.assignment_id, "accepted", old.sandbox_id),
        (old.assignment_id, "result succeeded", old.sandbox_id),
        (old.assignment_id, "result failed", old.sandbox_id),
    ]
    await world.apply(end(new, result=text_result("good")))
    assert (await world.apply(end(old))).stale == {old.assignment_id}
    assert await world.all("select result ->> 'text' from task_results") == [("good",)]
    await world.check()


async def test_f03_a_foreign_sandbox_and_an_unknown_assignment_are_stale(world: World) -> None:
    run_id, offers = await running(world)
    other = await world.sandbox()
    mine = offers["a"]
    for move in (
        Accept(mine.assignment_id, other),
        End(mine.assignment_id, other, Outcome.SUCCEEDED),
        End(mine.assignment_id, other, Outcome.LOST),
    ):
        assert (await world.apply(move)).stale == {mine.assignment_id}
    unknown = "assignment_00000000000000000000000000"
    assert (await world.apply(Accept(unknown, other))).stale == {unknown}
    assert await world.statuses(run_id) == {"a": "RUNNING"}
    await world.check()


async def test_a_mixed_batch_is_judged_row_by_row(world: World) -> None:
    tasks = [task(key, retry={"maxAttempts": 2, "backoffS": 0}) for key in "abcdef"]
    run_id, offers = await running(world, *tasks, task("g", "a"), task("h", "b", "c"))
    other = await world.sandbox()
    applied = await world.apply(
        end(offers["a"]),
        end(offers["b"], Outcome.FAILED),
        lost(offers["c"]),
        end(offers["d"], Outcome.CANCELLED),
        End(offers["e"].assignment_id, other, Outcome.SUCCEEDED),
        accept(offers["f"]),
        end(offers["f"], Outcome.FAILED),
        end(offers["f"]),  # after its end in the same batch
        end(offers["a"]),
    )
    assert applied.stale == {offers["e"].assignment_id, offers["f"].assignment_id}
    assert applied.ended == 5
    assert applied.ready == 4  # b, c and f again, and g
    assert await world.statuses(run_id) == {
        "a": "SUCCEEDED", "b": "QUEUED", "c": "QUEUED", "d": "CANCELLED", "e": "RUNNING",
        "f": "QUEUED", "g": "QUEUED", "h": "BLOCKED",
    }  # fmt: skip
    await world.check()


async def test_accept_and_end_in_one_batch(world: World) -> None:
    await world.sandbox()
    run_id = await world.submit("run", task("a"))
    (offer,) = await world.schedule()
    applied = await world.apply(accept(offer), end(offer, result=text_result("quick")))
    assert (applied.accepted, applied.ended, applied.stale) == (1, 1, set())
    assert await world.statuses(run_id) == {"a": "SUCCEEDED"}
    await world.check()


# ---- trying again ---------------------------------------------------------------------------------


async def test_losses_are_requeued_until_their_own_budget_is_spent(world: World) -> None:
    await world.sandbox()
    run_id = await world.submit("run", task("a"))
    for n in range(INFRASTRUCTURE_RETRIES_MAX + 1):
        await world.all("update ready_tasks set not_before = null returning 1")
        (offer,) = await world.start()
        assert await world.all("select attempt, losses from tasks") == [(1, n)]
        await world.apply(lost(offer, "its host is gone"))
        await world.check()
    assert await world.statuses(run_id) == {"a": "FAILED"}
    # A failure says why, also when nobody was left to report it.
    assert await world.all("select error from tasks") == [
        ({"code": "lost", "message": "its host is gone"},)
    ]
    assert await world.schedule() == []


async def test_the_first_loss_is_placed_again_at_once_and_the_second_waits(world: World) -> None:
    await world.sandbox()
    await world.submit("run", task("a"))
    (offer,) = await world.start()
    await world.apply(lost(offer))
    (offer,) = await world.start()
    await world.apply(lost(offer))
    assert await world.schedule() == []
    (delay,) = await world.all(
        "select extract(epoch from not_before - now())::float from ready_tasks"
    )
    assert 0.3 < delay[0] <= 1.0


async def test_offers_that_nobody_takes_cost_no_try_and_back_off(world: World) -> None:
    sandbox_id = await world.sandbox()
    run_id = await world.submit("run", task("a"))
    delays: list[float] = []
    for _ in range(2 * INFRASTRUCTURE_RETRIES_MAX):
        await world.all("update ready_tasks set not_before = null returning 1")
        (offer,) = await world.schedule()
        async with world.db.connection() as conn:
            assert await links.stale_offers(conn, -1.0) == [(offer.assignment_id, sandbox_id)]
        applied = await world.apply(Withdraw(offer.assignment_id, "not accepted in time"))
        assert (applied.withdrawn, applied.ended, applied.freed) == ({offer.assignment_id}, 1, 1)
        assert await world.all("select status, attempt, losses from tasks") == [("QUEUED", 1, 0)]
        (delay,) = await world.all("select extract(epoch from not_before - now())::float from ready_tasks")
        delays.append(delay[0])
        await world.check()
    for n, delay in enumerate(delays):
        whole = min(60, 2**n)
        assert whole / 2 - 1 < delay <= whole
    # Once it was taken, it counts from the beginning.
    await world.all("update ready_tasks set not_before = null returning 1")
    (offer,) = await world.start()
    await world.apply(lost(offer))
    assert await world.all("select losses from tasks") == [(1,)]
    (offer,) = await world.schedule()
    await world.apply(Withdraw(offer.assignment_id, "not accepted in time"))
    (delay,) = await world.all("select extract(epoch from not_before - now())::float from ready_tasks")
    assert delay[0] <= 1
    assert await world.statuses(run_id) == {"a": "QUEUED"}
    await world.check()


async def test_an_accept_that_came_before_the_withdrawal_stands(world: World) -> None:
    run_id, offers = await running(world)
    events = await world.all("select count(*) from events")
    applied = await world.apply(Withdraw(offers["a"].assignment_id, "late"))
    assert (applied.withdrawn, applied.stale, applied.ended) == (set(), set(), 0)
    assert await world.all("select count(*) from events") == events
    assert await world.statuses(run_id) == {"a": "RUNNING"}
    # In one batch the order decides, and the later one of the two is refused or nothing.
    await world.apply(end(offers["a"], Outcome.FAILED))
    run_id = await world.submit("both", task("b"), task("c"))
    first, second = await world.schedule()
    applied = await world.apply(
        accept(first), Withdraw(first.assignment_id, "late"),
        Withdraw(second.assignment_id, "in time"), accept(second),
    )  # fmt: skip
    assert applied.withdrawn == applied.stale == {second.assignment_id}
    assert sorted((await world.statuses(run_id)).values()) == ["QUEUED", "RUNNING"]
    await world.check()


async def test_a_sandbox_that_is_lost_before_it_accepted_costs_no_try(world: World) -> None:
    await world.sandbox()
    await world.submit("run", task("a"))
    (offer,) = await world.schedule()
    applied = await world.apply(lost(offer, "its host is gone"))
    assert (applied.ended, applied.withdrawn) == (1, set())
    assert await world.all("select status, losses from tasks") == [("QUEUED", 0)]
    await world.check()


async def test_a_declined_offer_goes_elsewhere_and_costs_no_attempt(world: World) -> None:
    await world.sandbox()
    run_id = await world.submit("run", task("a"))
    (offer,) = await world.schedule()
    applied = await world.apply(end(offer, Outcome.DECLINED, reason="full"))
    assert (applied.ended, applied.freed, applied.ready) == (1, 1, 1)
    assert await world.all("select status, attempt, losses from tasks") == [("QUEUED", 1, 1)]
    assert await world.state(run_id) == "QUEUED"
    await world.check()


async def test_what_was_accepted_may_be_declined_by_a_sandbox_that_forgot_it(world: World) -> None:
    _, offers = await running(world)
    applied = await world.apply(end(offers["a"], Outcome.DECLINED, reason="full"))
    assert applied.ended == 1
    assert await world.all("select state from assignments") == [("declined",)]
    await world.check()


async def test_retries_wait_out_their_back_off(world: World) -> None:
    policy = {"maxAttempts": 3, "backoffS": 100, "maxBackoffS": 150}
    run_id, offers = await running(world, task("a", retry=policy))
    await world.apply(end(offers["a"], Outcome.FAILED, error={"code": "exit", "message": "1"}))
    assert await world.all("select status, attempt, error ->> 'code' from tasks") == [
        ("QUEUED", 2, "exit")
    ]
    (first,) = await world.all(
        "select extract(epoch from q.not_before - now())::float, q.not_before = t.next_attempt_at"
        " from ready_tasks q join tasks t using (task_id)"
    )
    assert 49 < first[0] <= 100
    assert first[1]
    assert await world.schedule() == []  # not before its time
    await world.all("update ready_tasks set not_before = now() returning 1")
    (offer,) = await world.start()
    assert await world.all("select attempt from assignments where live") == [(2,)]
    await world.apply(end(offer, Outcome.FAILED))
    (second,) = await world.all(
        "select extract(epoch from not_before - now())::float from ready_tasks"
    )
    assert 74 < second[0] <= 150
    await world.all("update ready_tasks set not_before = now() returning 1")
    (offer,) = await world.start()
    await world.apply(end(offer, Outcome.FAILED))
    assert await world.statuses(run_id) == {"a": "FAILED"}
    await world.check()


async def test_exit_75_is_tried_three_times_without_being_asked(world: World) -> None:
    await world.sandbox()
    run_id = await world.submit("run", task("a", retry={"backoffS": 0}))
    for attempt in (1, 2, 3):
        (offer,) = await world.start()
        assert await world.all("select attempt from assignments where live") == [(attempt,)]
        await world.apply(end(offer, Outcome.RETRYABLE))
    assert await world.statuses(run_id) == {"a": "FAILED"}


async def test_a_failure_of_the_work_itself_is_final_without_retries(world: World) -> None:
    run_id, offers = await running(world, task("a"), task("b", "a"))
    await world.apply(end(offers["a"], Outcome.FAILED, error={"code": "exit", "message": "1"}))
    assert await world.statuses(run_id) == {"a": "FAILED", "b": "FAILED"}
    found = await world.all("select task_key, error ->> 'code' from tasks order by task_key")
    assert found == [("a", "exit"), ("b", "dependency_failed")]
    await world.check()


# ---- many at once ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [8, 64])
async def test_f16_many_ends_at_the_same_instant(database: str, count: int) -> None:
    async with opened(database, size=count + 2) as world:
        await world.sandbox(count)
        keys = [f"t{i}" for i in range(count)]
        run_id = await world.submit("run", *map(task, keys), task("last", *keys), close=True)
        offers = await world.start()
        assert len(offers) == count
        ready = asyncio.Barrier(count)

        async def take_a_connection() -> None:
            async with world.db.connection():
                await ready.wait()  # until there are as many connections as ends

        async def finish(offer: Offer) -> int:
            applied = await world.apply(end(offer))
            assert applied.stale == set()
            return applied.ready

        await asyncio.gather(*(take_a_connection() for _ in offers))
        started = time.perf_counter()
        freed = await asyncio.gather(*(finish(offer) for offer in offers))
        took_s = time.perf_counter() - started
        assert sum(freed) == 1  # exactly one of them set the last task free
        assert await world.statuses(run_id) == dict.fromkeys(keys, "SUCCEEDED") | {"last": "QUEUED"}
        await world.check()
        assert took_s < 5.0, took_s  # under 1 s on an idle machine


async def test_f16_many_runs_end_in_crossing_batches(database: str) -> None:
    """Batches over the same runs in different orders: locks are taken in one order, so none waits for ever."""
    async with opened(database, size=20) as world:
        await world.sandbox(64)
        for run in range(8):
            await world.submit(f"run-{run}", *(task(f"t{i}") for i in range(8)))
        offers = await world.start()
        assert len(offers) == 64
        shuffled = random.Random(7)
        shuffled.shuffle(offers)
        batches = [offers[i::16] for i in range(16)]
        answers = await asyncio.gather(*(world.apply(*map(end, batch)) for batch in batches))
        assert sum(applied.ended for applied in answers) == 64
        await world.check()


# ---- the set-based statements and the pure rule ----------------------------------------------------


@st.composite
def dags(draw: st.DrawFn) -> list[tuple[str, list[str], str, bool]]:
    made: list[tuple[str, list[str], str, bool]] = []
    for i in range(draw(st.integers(2, 9))):
        names = [name for name, *_ in made]
        depends_on = draw(st.sets(st.sampled_from(names), max_size=3)) if names else set[str]()
        policy = draw(st.sampled_from(["fail", "cancel", "wait", "continue"]))
        made.append((f"t{i}", sorted(depends_on), policy, draw(st.booleans())))
    return made


OUTCOMES = [Outcome.SUCCEEDED, Outcome.SUCCEEDED, Outcome.FAILED, Outcome.CANCELLED, Outcome.LOST]


@given(dag=dags(), seed=st.integers(0, 2**32))
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_random_graphs_run_to_their_end_as_the_rules_say(
    database: str, dag: list[tuple[str, list[str], str, bool]], seed: int
) -> None:
    """After every batch each stored status, pending count and run count is the one worked out from scratch:
    `check` asks `core.graph.settle` whether any blocked task should have moved, and counts anew."""
    asyncio.run(_run_to_the_end(database, dag, random.Random(seed)))


async def _run_to_the_end(
    database: str, dag: list[tuple[str, list[str], str, bool]], rng: random.Random
) -> None:
    async with opened(database, size=2) as world:
        await world.sandbox(4)
        tasks = [
            task(key, *depends_on, dependencyFailurePolicy=policy, optional=optional)
            for key, depends_on, policy, optional in dag
        ]
        run_id = await world.submit("run", *tasks, close=True)
        expected = {key: "QUEUED" if not deps else "BLOCKED" for key, deps, _, _ in dag}
        assert await world.statuses(run_id) == expected
        while offers := await world.start():
            ending = rng.sample(offers, rng.randint(1, len(offers)))
            left = [offer for offer in offers if offer not in ending]
            for batch in (ending, left):
                await world.apply(*(end(offer, rng.choice(OUTCOMES)) for offer in batch))
                await world.all("update ready_tasks set not_before = null returning 1")
                await world.check()
        final = await world.statuses(run_id)
        policies = {key: policy for key, _, policy, _ in dag}
        for key, status in final.items():
            # What is left over is blocked for good, by the policy that says so.
            assert TaskStatus(status) in TERMINAL or policies[key] == "wait" or status == "BLOCKED"
        await world.all("delete from runs returning 1")
        await world.all("delete from users returning 1")
        await world.all("delete from leaders returning 1")
