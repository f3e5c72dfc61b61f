"""Permission requests: one answer, for the attempt that asked, whatever else happens at the same moment."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from functools import partial

import pytest

from flakes.core import limits
from flakes.core.task import Outcome
from flakes.store import explanations, interventions, permissions, tasks
from flakes.store.permissions import Answered
from flakes.wire.errors import ApiError
from flakes.wire.permissions import Decision, Permission
from store.talking import Running, Stage, staged

pytestmark = pytest.mark.anyio

RACES = 30
DECISIONS: list[Decision] = ["approved", "denied"]


@pytest.fixture
async def stage(database: str) -> AsyncIterator[Stage]:
    async with staged(database) as stage:
        yield stage


async def respond(
    stage: Stage, asked: Permission, decision: Decision = "approved", reason: str | None = None
) -> Answered:
    async with stage.db.transaction() as conn:
        return await permissions.respond(
            conn, stage.owner_id, asked.task_id, asked.permission_request_id, decision, reason
        )


async def expire(stage: Stage) -> list[str]:
    async with stage.db.transaction() as conn:
        return await permissions.expire(conn, 100)


async def now(stage: Stage, asked: Permission) -> Permission:
    async with stage.db.connection() as conn:
        return await permissions.get(conn, stage.owner_id, asked.permission_request_id)


async def told(stage: Stage, asked: Permission) -> list[str]:
    """What the activity says of a request after the question itself."""
    found = await stage.events(asked.task_id, "permission.")
    mine = [t for t, data in found if data["permissionRequestId"] == asked.permission_request_id]
    assert mine[0] == "permission.requested"
    return mine[1:]


async def test_a_question_and_its_answer(stage: Stage) -> None:
    (task,) = await stage.start()
    asked = await stage.ask(task, action="git branch -D old", details={"branch": "old"})
    assert (asked.status, asked.decision, asked.default) == ("pending", None, None)
    answered = await respond(stage, asked, "denied", "not today")
    assert answered.refusal is None
    final = answered.permission
    assert (final.status, final.decision, final.reason) == ("denied", "denied", "not today")
    assert (final.action, final.details) == ("git branch -D old", {"branch": "old"})
    events = await stage.events(task.task_id, "permission.")
    assert [(t, d.get("decision"), d.get("reason")) for t, d in events] == [
        ("permission.requested", None, None), ("permission.responded", "denied", "not today"),
    ]  # fmt: skip
    second = await respond(stage, asked)
    assert second.refusal is not None
    assert second.refusal.code == "permission_already_responded"
    assert second.refusal.details["permission"] == final
    assert await now(stage, asked) == final
    await stage.end(task)
    assert await now(stage, asked) == final


async def test_asking_twice_under_one_operation_id_is_asking_once(stage: Stage) -> None:
    task, other = await stage.start("one", "two")
    first = await stage.ask(task, operation_id="same")
    assert await stage.ask(task, operation_id="same") == first
    assert (await stage.ask(other, operation_id="same")).permission_request_id != first.permission_request_id
    with pytest.raises(ApiError) as refused:
        await stage.ask(task, "May I really?", operation_id="same")
    assert refused.value.code == "operation_conflict"
    assert len(await stage.events(task.task_id, "permission.")) == 1


async def test_the_end_of_an_attempt_cancels_what_it_asks(stage: Stage) -> None:
    (task,) = await stage.start()
    asked = await stage.ask(task, expires_in_s=3_600.0, default="approved")
    await stage.end(task, Outcome.LOST)
    final = await now(stage, asked)
    assert (final.status, final.decision) == ("cancelled", None)
    assert await told(stage, asked) == ["permission.cancelled"]
    late = await respond(stage, asked)
    assert late.refusal is not None
    assert late.refusal.code == "permission_stale_assignment"
    # The next attempt asks anew, and its answer is its own.
    await stage.schedule()
    ((assignment_id,),) = await stage.all(
        "select assignment_id from assignments where task_id = %(t)s and live", t=task.task_id
    )
    again = await stage.ask(Running(task.run_id, task.task_id, assignment_id))
    assert (await respond(stage, again)).refusal is None
    assert (await now(stage, asked)).status == "cancelled"


@pytest.mark.parametrize("default", ["approved", "denied"])
async def test_nobody_answers_in_time(stage: Stage, default: Decision) -> None:
    (task,) = await stage.start()
    asked = await stage.ask(task, expires_in_s=0.02, default=default)
    waits = await stage.ask(task, expires_in_s=600.0)
    await stage.ask(task)
    async with stage.db.connection() as conn:
        due_s = await permissions.next_due_s(conn)
    assert due_s is not None
    await asyncio.sleep(max(0.0, due_s) + 0.01)
    assert await expire(stage) == [asked.permission_request_id]
    final = await now(stage, asked)
    assert (final.status, final.decision) == ("expired", default)
    assert await told(stage, asked) == ["permission.expired"]
    late = await respond(stage, asked)
    assert late.refusal is not None
    assert late.refusal.code == "permission_already_responded"
    assert (await now(stage, waits)).status == "pending"


async def test_an_answer_after_the_time_finds_it_expired_before_any_loop_did(stage: Stage) -> None:
    (task,) = await stage.start()
    asked = await stage.ask(task, expires_in_s=0.01)
    await asyncio.sleep(0.02)
    late = await respond(stage, asked)
    assert late.refusal is not None
    assert (late.refusal.code, late.permission.status) == ("permission_already_responded", "expired")
    assert await told(stage, asked) == ["permission.expired"]
    assert await expire(stage) == []


async def test_limits(stage: Stage) -> None:
    (task,) = await stage.start()
    for fields in ({"details": {"x": "y" * 20_000}}, {"prompt": "  "}):
        with pytest.raises(ApiError) as refused:
            await stage.ask(task, **fields)
        assert refused.value.code in ("limit_exceeded", "invalid_request")
    for _ in range(limits.PERMISSIONS_PENDING_MAX):
        await stage.ask(task)
    with pytest.raises(ApiError) as refused:
        await stage.ask(task)
    assert refused.value.code == "limit_exceeded"


async def test_a_running_task_with_a_question_needs_input(stage: Stage) -> None:
    (task,) = await stage.start()
    asked = await stage.ask(task, "May I delete the branch?")

    async def explained() -> tuple[str, str, str]:
        async with stage.db.connection() as conn:
            found = await explanations.explain(conn, await tasks.get(conn, stage.owner_id, task.task_id))
        return found.code, found.sentence, found.next_action

    code, sentence, next_action = await explained()
    assert (code, sentence) == ("needs_input", "It asks: May I delete the branch?")
    assert f"flakes permissions approve {asked.permission_request_id}" in next_action
    await respond(stage, asked)
    assert (await explained())[0] == "running"


async def test_a_deleted_run_leaves_nothing(stage: Stage) -> None:
    (task,) = await stage.start()
    await stage.ask(task)
    await stage.end(task)
    async with stage.db.transaction() as conn:
        await interventions.delete_run(conn, stage.owner_id, task.run_id)
    assert await stage.all("select count(*) from permissions") == [(0,)]


async def race(*contenders: Callable[[], Awaitable[object]], pick: random.Random) -> list[object]:
    async def later(contender: Callable[[], Awaitable[object]]) -> object:
        await asyncio.sleep(pick.random() * 0.004)
        return await contender()

    return list(await asyncio.gather(*(later(each) for each in contenders)))


async def test_of_answers_at_once_exactly_one_wins(stage: Stage) -> None:
    pick = random.Random(3)
    for _ in range(RACES):
        (task,) = await stage.start()
        asked = await stage.ask(task)
        answers = await race(
            *(
                partial(respond, stage, asked, decision)
                for decision in DECISIONS * 2
            ),
            pick=pick,
        )
        won = [each for each in answers if each.refusal is None]  # type: ignore[attr-defined]
        assert len(won) == 1
        final = await now(stage, asked)
        assert final == won[0].permission  # type: ignore[attr-defined]
        for each in answers:
            if each is not won[0]:
                assert each.refusal.details["permission"] == final  # type: ignore[attr-defined]
        assert await told(stage, asked) == ["permission.responded"]
        await stage.end(task)


async def test_an_answer_races_the_expiry(stage: Stage) -> None:
    pick = random.Random(4)
    outcomes: set[str] = set()
    for _ in range(RACES):
        (task,) = await stage.start()
        asked = await stage.ask(task, expires_in_s=0.05)
        assert asked.expires_at is not None
        due_s = (asked.expires_at - datetime.now(UTC)).total_seconds()
        await asyncio.sleep(max(0.0, due_s + pick.uniform(-0.02, 0.004)))
        answered, _ = await race(partial(respond, stage, asked), partial(expire, stage), pick=pick)
        assert isinstance(answered, Answered)
        final = await now(stage, asked)
        outcomes.add(final.status)
        if answered.refusal is None:
            assert (final.status, await told(stage, asked)) == ("approved", ["permission.responded"])
        else:
            # The loop may have looked a moment too early; the answer that came too late has expired it.
            assert (final.status, final.decision) == ("expired", "denied")
            assert await told(stage, asked) == ["permission.expired"]
        await stage.end(task)
    assert outcomes == {"approved", "expired"}, "both sides won at times"


async def test_an_answer_races_the_end_of_the_attempt(stage: Stage) -> None:
    pick = random.Random(5)
    for _ in range(RACES):
        (task,) = await stage.start()
        asked = await stage.ask(task)
        answered, _ = await race(partial(respond, stage, asked), partial(stage.end, task), pick=pick)
        assert isinstance(answered, Answered)
        status = (await now(stage, asked)).status
        if answered.refusal is None:
            assert (status, await told(stage, asked)) == ("approved", ["permission.responded"])
        else:
            assert answered.refusal.code == "permission_stale_assignment"
            assert (status, await told(stage, asked)) == ("cancelled", ["permission.cancelled"])
