"""Saving and admitting: whole or not at all, and a replay changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from flakes.core import limits
from flakes.core.task import Outcome
from flakes.store import admission, runs
from flakes.store.database import Query, rows
from flakes.wire.errors import ApiError
from flakes.wire.runs import GraphPost, RunPut
from flakes.wire.tasks import TaskDefinition
from store.build import World, end, graph_of, opened, task

pytestmark = pytest.mark.anyio

TABLES = [
    "runs", "tasks", "task_payloads", "task_dependencies", "ready_tasks", "run_graphs", "events",
]  # fmt: skip


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with opened(database) as world:
        yield world


async def counted(world: World) -> dict[str, int]:
    async with world.db.connection() as conn:
        return {t: (await rows(conn, Query(f"select count(*) from {t}")))[0][0] for t in TABLES}


async def post(world: World, key: str, body: GraphPost) -> tuple[str, int, bool]:
    async with world.db.transaction() as conn:
        return await admission.graph(conn, world.owner_id, key, body)


async def put_run(world: World, key: str = "run") -> str:
    async with world.db.transaction() as conn:
        body = RunPut(name="run", project_key="project")
        return (await runs.put(conn, world.owner_id, key, body))[0].run_id


async def save(world: World, definition: TaskDefinition, run: str = "run") -> tuple[str, bool]:
    assert definition.task_key is not None
    async with world.db.transaction() as conn:
        return await admission.save(conn, world.owner_id, run, definition.task_key, definition)


async def admit(world: World, *keys: str, run: str = "run") -> tuple[str, list[str], int]:
    async with world.db.transaction() as conn:
        return await admission.admit(conn, world.owner_id, run, keys or None)


async def refused(world: World, key: str, body: GraphPost) -> ApiError:
    """The refusal of a graph, which leaves nothing behind."""
    before = await counted(world)
    with pytest.raises(ApiError) as caught:
        await post(world, key, body)
    assert await counted(world) == before
    return caught.value


async def test_a_graph_is_admitted_whole(world: World) -> None:
    body = graph_of(task("a"), task("b", "a"), task("c", "a", "b"), close=True)
    run_id, ready, taken = await post(world, "run", body)
    assert (ready, taken) == (1, True)
    assert await world.statuses(run_id) == {"a": "QUEUED", "b": "BLOCKED", "c": "BLOCKED"}
    assert await world.all("select task_key, pending_count from tasks order by task_key") == [
        ("a", 0), ("b", 1), ("c", 2),
    ]  # fmt: skip
    await world.check()


async def test_the_same_graph_again_is_a_replay(world: World) -> None:
    body = graph_of(task("a"), task("b", "a"), close=True)
    run_id, _, _ = await post(world, "run", body)
    before = await counted(world)
    assert await post(world, "run", body) == (run_id, 0, False)
    # Equal whatever its JSON looked like, and also after the work has moved on.
    await world.sandbox()
    (offer,) = await world.start()
    await world.apply(end(offer))
    again = msgspec.json.decode(msgspec.json.encode(body), type=GraphPost)
    assert await post(world, "run", again) == (run_id, 0, False)
    assert {
        k: v for k, v in (await counted(world)).items() if k not in ("events", "ready_tasks")
    } == {k: v for k, v in before.items() if k not in ("events", "ready_tasks")}
    await world.check()


async def test_the_same_graph_at_the_same_time_is_taken_once(world: World) -> None:
    body = graph_of(*(task(f"t{i}") for i in range(20)))
    answers = await asyncio.gather(*(post(world, "run", body) for _ in range(8)))
    assert len({run_id for run_id, _, _ in answers}) == 1
    assert sorted(taken for _, _, taken in answers) == [False] * 7 + [True]
    assert (await counted(world))["tasks"] == 20
    await world.check()


async def test_a_second_graph_may_build_on_the_first(world: World) -> None:
    await world.sandbox(4)
    run_id, _, _ = await post(world, "run", graph_of(task("a"), task("b")))
    await world.start()
    ids = await world.ids(run_id)
    good, bad = await world.offer_of(ids["a"]), await world.offer_of(ids["b"])
    await world.apply(end(good), end(bad, Outcome.FAILED))
    more = graph_of(
        task("c", "a"), task("d", "b"), task("e", "b", dependencyFailurePolicy="continue"),
        task("f", "b", dependencyFailurePolicy="wait"),
        task("g", "a", "b", dependencyFailurePolicy="cancel"), task("h", "d"),
    )  # fmt: skip
    _, ready, taken = await post(world, "run", more)
    assert (ready, taken) == (2, True)
    assert await world.statuses(run_id) == {
        "a": "SUCCEEDED", "b": "FAILED", "c": "QUEUED", "d": "FAILED", "e": "QUEUED",
        "f": "BLOCKED", "g": "CANCELLED", "h": "FAILED",
    }  # fmt: skip
    await world.check()


async def test_a_graph_that_adds_a_key_again_is_a_conflict(world: World) -> None:
    await post(world, "run", graph_of(task("a")))
    error = await refused(world, "run", graph_of(task("b"), task("a", title="other")))
    assert (error.code, error.details["taskKeys"]) == ("run_conflict", ["a"])


async def test_a_run_of_that_key_that_differs_is_a_conflict(world: World) -> None:
    await post(world, "run", graph_of(task("a")))
    for fields in ({"name": "other"}, {"metadata": {"x": 1}}, {"budget": {"tokens": 1}}):
        error = await refused(world, "run", graph_of(task("b"), **fields))
        assert error.code == "run_conflict"


async def test_a_closed_run_takes_no_more(world: World) -> None:
    await post(world, "run", graph_of(task("a"), close=True))
    assert (await refused(world, "run", graph_of(task("b")))).code == "run_closed"


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ([task("a", "a")], "depends on itself"),
        ([task("a"), task("a")], "comes twice"),
        ([task("build"), task("b", "biuld")], "did you mean 'build'?"),
        ([task("a", "c"), task("b", "a"), task("c", "b")], "form a cycle"),
        ([task("ok"), task("x", "y", "ok"), task("y", "x")], "form a cycle"),
    ],
    ids=["itself", "twice", "unknown", "cycle", "two"],
)
async def test_a_bad_graph_leaves_nothing_behind(
    world: World, tasks: list[TaskDefinition], words: str
) -> None:
    error = await refused(world, "run", graph_of(*tasks))
    assert error.code == "graph_invalid"
    assert words in f"{error.message} {error.fix}"


async def test_limits_are_clear_refusals(world: World) -> None:
    big = "x" * limits.TASK_BODY_SIZE_BYTES_MAX
    for definition, what in [
        (task("a", bodyMarkdown=big + "x"), "bodyMarkdown"),
        (task("a", input={"x": "y" * limits.TASK_INPUT_SIZE_BYTES_MAX}), "input"),
        (task("a", metadata={"x": "y" * limits.METADATA_SIZE_BYTES_MAX}), "metadata"),
    ]:
        error = await refused(world, "run", graph_of(task("ok"), definition))
        assert error.code == "limit_exceeded"
        assert error.details["path"] == f"tasks.a.{what}"
    assert (await post(world, "run", graph_of(task("a", bodyMarkdown=big))))[2]
    long_metadata = {"x": "y" * limits.METADATA_SIZE_BYTES_MAX}
    error = await refused(world, "other", graph_of(task("a"), metadata=long_metadata))
    assert error.code == "limit_exceeded"


@pytest.mark.parametrize("key", ["A", "a_b", "", "a--b", "x" * 65])
async def test_keys_are_checked(world: World, key: str) -> None:
    definition = TaskDefinition(title="t", adapter="noop", task_key=key)
    assert (await refused(world, "run", graph_of(definition))).code == "invalid_request"
    assert (await refused(world, key, graph_of(task("a")))).code == "invalid_request"


async def test_ten_thousand_tasks_are_admitted_at_once(world: World) -> None:
    tasks = [task("t0")] + [task(f"t{i}", f"t{i // 2}") for i in range(1, 10_000) if i > 1]
    tasks.append(task("t1", "t0"))
    statements = world.db.statements
    run_id, ready, _ = await post(world, "run", graph_of(*tasks))
    assert ready == 1
    assert world.db.statements - statements < 40
    assert await world.all("select counts[2] from runs where run_id = %(r)s", r=run_id) == [
        (9_999,)
    ]


# ---- one by one -----------------------------------------------------------------------------------


async def test_a_saved_task_may_be_saved_again_until_it_is_admitted(world: World) -> None:
    run_id = await put_run(world)
    task_id, created = await save(world, task("a", title="one"))
    assert created
    changed = task("a", title="two", optional=True, priority=5, requiredCapabilities=["gpu"])
    assert await save(world, changed) == (task_id, False)
    assert await world.all("select title, optional, priority, status from tasks") == [
        ("two", True, 5, "SAVED")
    ]
    await world.check()
    assert await admit(world, "a") == (run_id, [task_id], 1)
    assert await save(world, changed) == (task_id, False)  # the identical one is a replay
    with pytest.raises(ApiError) as caught:
        await save(world, task("a", title="three"))
    assert caught.value.code == "task_admitted"
    await world.check()


async def test_admitting_again_changes_nothing(world: World) -> None:
    run_id = await put_run(world)
    await save(world, task("a"))
    await admit(world)
    before = await counted(world)
    assert await admit(world) == (run_id, [], 0)
    assert await admit(world, "a") == (run_id, [], 0)
    assert await counted(world) == before


async def test_a_task_cannot_be_admitted_before_what_it_depends_on(world: World) -> None:
    run_id = await put_run(world)
    await save(world, task("b", "a"))
    await save(world, task("a"))
    with pytest.raises(ApiError) as caught:
        await admit(world, "b")
    assert caught.value.code == "graph_invalid"
    assert "not admitted" in caught.value.message
    assert await world.statuses(run_id) == {"a": "SAVED", "b": "SAVED"}
    assert (await admit(world, "a"))[2] == 1
    assert (await admit(world, "b"))[2] == 0
    assert await world.statuses(run_id) == {"a": "QUEUED", "b": "BLOCKED"}
    await world.check()


async def test_unknown_keys_and_unknown_dependencies_are_named(world: World) -> None:
    await put_run(world)
    await save(world, task("a"))
    with pytest.raises(ApiError) as caught:
        await admit(world, "a", "nope")
    assert caught.value.details["taskKeys"] == ["nope"]
    await save(world, task("b", "missing"))
    with pytest.raises(ApiError) as caught:
        await admit(world)
    assert "'missing'" in caught.value.message


async def test_a_cycle_over_saved_tasks_is_found_when_they_are_admitted(world: World) -> None:
    run_id = await put_run(world)
    for definition in (task("a", "c"), task("b", "a"), task("c", "b"), task("free")):
        await save(world, definition)
    with pytest.raises(ApiError) as caught:
        await admit(world)
    assert caught.value.code == "graph_invalid"
    cycle = caught.value.details["cycle"]
    assert sorted(cycle[1:]) == ["a", "b", "c"]
    assert set((await world.statuses(run_id)).values()) == {"SAVED"}
    # Mending one of them is enough.
    await save(world, task("a"))
    assert (await admit(world))[2] == 2
    await world.check()


async def test_somebody_elses_run_does_not_exist(world: World) -> None:
    await put_run(world)
    with pytest.raises(ApiError) as caught:
        async with world.db.transaction() as conn:
            await admission.save(conn, "user_other", "run", "a", task("a"))
    assert caught.value.code == "not_found"
