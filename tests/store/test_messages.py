"""Messages: stored for the attempt that runs, read at most once, and never silently dropped (F14)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from flakes.core import limits
from flakes.core.task import Outcome
from flakes.store import links, messages
from flakes.wire.errors import ApiError
from flakes.wire.messages import Message, MessagePost
from flakes.wire.sandbox_stream import InputState
from store.talking import Running, Stage, staged

pytestmark = pytest.mark.anyio

RACES = 40


@pytest.fixture
async def stage(database: str) -> AsyncIterator[Stage]:
    async with staged(database) as stage:
        yield stage


async def post(stage: Stage, running: Running, text: str = "left, please") -> Message:
    async with stage.db.transaction() as conn:
        body = MessagePost(mode="steer", message=text)
        return (await messages.post(conn, stage.owner_id, running.task_id, body))[0]


async def report(stage: Stage, message: Message, state: str, reason: str = "") -> set[str]:
    told = InputState(
        assignment_id=message.assignment_id, message_id=message.message_id, state=state, reason=reason  # type: ignore[arg-type]
    )
    async with stage.db.transaction() as conn:
        return await messages.report(conn, [(stage.sandbox_id, told)])


async def states(stage: Stage, running: Running) -> list[tuple[str, str | None]]:
    async with stage.db.connection() as conn:
        found = await messages.page(conn, stage.owner_id, running.task_id, before=None, limit=50)
    return [(each.state, each.reason) for each in found]


async def test_from_queued_to_consumed_with_an_event_each(stage: Stage) -> None:
    (task,) = await stage.start()
    sent = await post(stage, task, "  x" * 200)
    assert (sent.state, sent.assignment_id, len(sent.message)) == ("queued", task.assignment_id, 598)
    for state in ("delivered", "delivered", "consumed", "consumed", "delivered"):
        assert await report(stage, sent, state) == set()
    told = await stage.events(task.task_id, "message.")
    assert [type_ for type_, _ in told] == ["message.queued", "message.delivered", "message.consumed"]
    assert {data["messageId"] for _, data in told} == {sent.message_id}
    assert {(data["mode"], data["excerpt"]) for _, data in told} == {("steer", sent.message[:200])}
    await stage.end(task)
    assert await states(stage, task) == [("consumed", None)]
    assert await report(stage, sent, "delivered") == set(), "a replay after the end"


async def test_what_an_attempt_has_not_read_becomes_undeliverable_with_it(stage: Stage) -> None:
    task, other = await stage.start("one", "two")
    await post(stage, task, "never sent")
    second = await post(stage, task, "never read")
    await report(stage, second, "delivered")
    spared = await post(stage, other)
    await stage.end(task, Outcome.FAILED)
    assert await states(stage, task) == [
        ("undeliverable", "the attempt ended (failed) before the task acknowledged it"),
        ("undeliverable", "the attempt ended (failed) before it was delivered"),
    ]
    told = await stage.events(task.task_id, "message.undeliverable")
    assert [data["excerpt"] for _, data in told] == ["never sent", "never read"]
    assert all("the attempt ended" in data["reason"] for _, data in told)
    assert await states(stage, other) == [("queued", None)]
    assert (await report(stage, spared, "consumed")) == set()


async def test_a_report_of_an_attempt_that_is_over_is_stale(stage: Stage) -> None:
    """F03, F30."""
    (task,) = await stage.start()
    sent = await post(stage, task)
    await stage.end(task)
    assert await report(stage, sent, "consumed") == {task.assignment_id}
    assert await states(stage, task) == [
        ("undeliverable", "the attempt ended (succeeded) before it was delivered")
    ]
    ((_, data),) = await stage.events(task.task_id, "attempt.refused")
    assert (data["what"], data["assignmentId"]) == ("message consumed", task.assignment_id)


async def test_a_sandbox_reports_only_its_own_messages(stage: Stage) -> None:
    task, other = await stage.start("one", "two")
    sent = await post(stage, task)
    wrong = InputState(
        assignment_id=other.assignment_id, message_id=sent.message_id, state="consumed"
    )
    mine = InputState(assignment_id=task.assignment_id, message_id=sent.message_id, state="consumed")
    async with stage.db.transaction() as conn:
        await messages.report(conn, [(stage.sandbox_id, wrong), ("sandbox_other", mine)])
    assert await states(stage, task) == [("queued", None)]


async def test_a_refused_message_keeps_the_reason(stage: Stage) -> None:
    (task,) = await stage.start()
    sent = await post(stage, task)
    await report(stage, sent, "refused", "the adapter `a` takes no messages")
    assert await states(stage, task) == [("undeliverable", "the adapter `a` takes no messages")]
    assert await report(stage, sent, "consumed") == {task.assignment_id}


async def test_nothing_is_stored_where_nobody_would_read_it(stage: Stage) -> None:
    (task,) = await stage.start()
    async with stage.db.connection() as conn:
        await links.down(conn, stage.sandbox_id, "connection")
    for wanted in ("sandbox_offline", "task_not_running"):
        with pytest.raises(ApiError) as refused:
            await post(stage, task)
        assert refused.value.code == wanted
        await stage.end(task) if wanted == "sandbox_offline" else None
    assert await stage.all("select count(*) from messages") == [(0,)]
    assert await stage.events(task.task_id, "message.") == []


async def test_the_limits(stage: Stage) -> None:
    (task,) = await stage.start()
    for text, code in (("", "invalid_request"), (" \n ", "invalid_request"), ("x" * 20_001, "limit_exceeded")):
        with pytest.raises(ApiError) as refused:
            await post(stage, task, text)
        assert refused.value.code == code
    assert refused.value.details == {"limit": 20_000}
    assert (await post(stage, task, "x" * 20_000)).message == "x" * 20_000
    await stage.all(
        "insert into messages select message_id || n, owner_id, run_id, task_id, assignment_id, sandbox_id,"
        " mode, 'y' from messages, generate_series(2, %(n)s) n returning 1",
        n=limits.MESSAGES_UNREAD_MAX,
    )
    with pytest.raises(ApiError) as refused:
        await post(stage, task)
    assert refused.value.code == "limit_exceeded"


async def test_what_another_replica_stored_is_sent_once_and_again_after_a_reconnect(stage: Stage) -> None:
    (task,) = await stage.start()
    first, second = await post(stage, task, "1"), await post(stage, task, "2")
    async with stage.db.connection() as conn:
        assert await messages.unsent(conn, stage.replica_id, ["sandbox_other"]) == []
        assert await messages.unsent(conn, "replica_other", [stage.sandbox_id]) == []
        found = await messages.unsent(conn, stage.replica_id, [stage.sandbox_id])
        assert [(s, m.message_id, m.text) for s, m in found] == [
            (stage.sandbox_id, first.message_id, "1"), (stage.sandbox_id, second.message_id, "2"),
        ]  # fmt: skip
        assert await messages.unsent(conn, stage.replica_id, [stage.sandbox_id]) == []
    await report(stage, first, "delivered")
    async with stage.db.connection() as conn:
        again = await messages.queued_for(conn, stage.sandbox_id)
    assert [m.message_id for m in again] == [second.message_id]


@pytest.mark.parametrize("outcome", [Outcome.SUCCEEDED, Outcome.LOST])
async def test_a_message_races_the_end_of_the_attempt(stage: Stage, outcome: Outcome) -> None:
    """Either it is refused and nothing is stored, or it is stored and made undeliverable."""
    pick = random.Random(1)
    refused = stored = 0
    for _ in range(RACES // 2):
        (task,) = await stage.start()
        gates = [pick.random() * 0.004, pick.random() * 0.004]

        async def send(task: Running = task, delay_s: float = gates[0]) -> Message | str:
            await asyncio.sleep(delay_s)
            try:
                return await post(stage, task)
            except ApiError as error:
                return error.code

        async def finish(task: Running = task, delay_s: float = gates[1]) -> None:
            await asyncio.sleep(delay_s)
            await stage.end(task, outcome)

        sent, _ = await asyncio.gather(send(), finish())
        told = [type_ for type_, _ in await stage.events(task.task_id, "message.")]
        if isinstance(sent, str):
            refused += 1
            assert (sent, await states(stage, task), told) == ("task_not_running", [], [])
        else:
            stored += 1
            ((state, reason),) = await states(stage, task)
            assert (state, told) == ("undeliverable", ["message.queued", "message.undeliverable"])
            assert reason is not None
    assert refused + stored == RACES // 2


async def test_a_report_races_the_end_of_the_attempt(stage: Stage) -> None:
    pick = random.Random(2)
    for _ in range(RACES // 2):
        (task,) = await stage.start()
        sent = await post(stage, task)

        async def consume(message: Message = sent) -> set[str]:
            await asyncio.sleep(pick.random() * 0.004)
            return await report(stage, message, "consumed")

        async def finish(task: Running = task) -> None:
            await asyncio.sleep(pick.random() * 0.004)
            await stage.end(task)

        stale, _ = await asyncio.gather(consume(), finish())
        ((state, _),) = await states(stage, task)
        told = [type_ for type_, _ in await stage.events(task.task_id, "message.")][1:]
        assert (state, told) == (
            ("undeliverable", ["message.undeliverable"]) if stale else ("consumed", ["message.consumed"])
        )
