"""Workpads and file reservations under real transactions: who wins a race, and what an end takes along."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flakes.core.task import Outcome
from flakes.server.operations.act import Act
from flakes.server.operations.table import HANDLERS
from flakes.server.plane import Plane
from flakes.store import accounts, fences, interventions, reservations, transitions, workpads
from flakes.store.blobs import BlobStore
from flakes.store.database import Connection, Database, Query, row, rows, run
from flakes.store.fences import Holder
from flakes.store.identifiers import new_id
from flakes.store.transitions import End
from flakes.wire import operations
from flakes.wire.codec import Body
from flakes.wire.config import ServerConfig
from flakes.wire.errors import ApiError
from flakes.wire.operations import OPERATIONS, Operation
from flakes.wire.reservations import FilesRelease, FilesReserve, Reservations, Selector
from flakes.wire.workpads import Author, WorkpadPut

pytestmark = pytest.mark.anyio


@dataclass(slots=True)
class World:
    """A run with two running tasks, each accepted by a sandbox of its own."""

    db: Database
    owner_id: str
    run_id: str
    holders: list[Holder]

    async def all(self, sql: str, **params: Any) -> list[tuple[Any, ...]]:
        async with self.db.connection() as conn:
            return await rows(conn, Query(sql), params)

    async def reserve(self, holder: Holder, *paths: str, kind: Any = "exact", reason: str = "") -> Reservations:
        async with self.db.transaction() as conn:
            return await reservations.reserve(conn, holder, wanting(*paths, kind=kind, reason=reason))

    async def held(self) -> set[tuple[str, str, str]]:
        found = await self.all("select path, kind, assignment_id from file_reservations")
        return {(path, kind, assignment_id) for path, kind, assignment_id in found}


def wanting(*paths: str, kind: Any = "exact", reason: str = "") -> FilesReserve:
    selectors = [Selector(path=path, kind=kind) for path in paths]
    return FilesReserve(selectors=selectors, reason=reason or None)


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    db = Database(database)
    await db.open()
    try:
        async with db.transaction() as conn:
            made = await _made(conn, db)
        yield made
    finally:
        await db.close()


async def _made(conn: Connection, db: Database) -> World:
    owner_id = await accounts.create_user(conn, "owner")
    project_id, run_id = new_id("project"), new_id("run")
    await run(conn, Query("insert into projects (project_id, owner_id, project_key, name) values (%(p)s, %(o)s, 'p', 'p')"), {"p": project_id, "o": owner_id})
    await run(conn, Query("""
        insert into runs (run_id, owner_id, project_id, run_key, name, definition_digest, state, counts)
        values (%(r)s, %(o)s, %(p)s, %(k)s, 'r', '', 'RUNNING', '{0,0,0,2,0,0,0,0}')"""),
        {"r": run_id, "o": owner_id, "p": project_id, "k": f"run-{secrets.token_hex(4)}"})  # fmt: skip
    holders = [await _running(conn, owner_id, run_id, key) for key in ("one", "two")]
    return World(db, owner_id, run_id, holders)


async def _running(conn: Connection, owner_id: str, run_id: str, key: str) -> Holder:
    holder = Holder(new_id("assignment"), new_id("sandbox"), 1, new_id("task"), key, run_id, owner_id)
    params = {"a": holder.assignment_id, "s": holder.sandbox_id, "t": holder.task_id, "r": run_id, "k": key}
    await run(conn, Query("""
        insert into tasks (task_id, run_id, task_key, class_id, title, adapter, status, assignment_id)
        values (%(t)s, %(r)s, %(k)s, 1, 't', 'noop', 'RUNNING', %(a)s)"""), params)  # fmt: skip
    await run(conn, Query("""
        insert into task_payloads (task_id, definition) values (%(t)s, '{"toolGrants": ["flakes.test"]}')"""), params)  # fmt: skip
    await run(conn, Query("""
        insert into assignments (assignment_id, task_id, run_id, sandbox_id, attempt, state)
        values (%(a)s, %(t)s, %(r)s, %(s)s, 1, 'accepted')"""), params)  # fmt: skip
    return holder


async def waits_for_lock(world: World) -> None:
    """Until some transaction of this database waits for a lock."""
    sql = "select 1 from pg_locks l join pg_stat_activity a using (pid) where not l.granted and a.datname = current_database()"
    for _ in range(2_000):
        if await world.all(sql):
            return
        await asyncio.sleep(0.005)
    raise AssertionError("nothing waits")


# ---- reservations


async def test_of_two_at_once_the_second_sees_the_first(world: World) -> None:
    """Two real transactions: the second waits for the first one's turn to end, and is then refused."""
    first, second = world.holders
    async with world.db.transaction() as conn:
        await reservations.reserve(conn, first, wanting("src", kind="prefix"))
        late = asyncio.create_task(world.reserve(second, "src/a.py", "docs/x"))
        await waits_for_lock(world)
        assert not late.done()
    with pytest.raises(ApiError) as refused:
        await late
    assert refused.value.code == "file_reservation_conflict"
    (conflict,) = refused.value.details["conflicts"]
    assert (conflict.path, conflict.kind, conflict.task_key, conflict.selector) == ("src", "prefix", "one", "src/a.py")
    assert await world.held() == {("src", "prefix", first.assignment_id)}, "all or nothing"


async def test_when_the_first_gives_up_the_second_gets_it(world: World) -> None:
    first, second = world.holders
    late: list[asyncio.Task[Reservations]] = []

    async def give_up() -> None:
        async with world.db.transaction() as conn:
            await reservations.reserve(conn, first, wanting("a"))
            late.append(asyncio.create_task(world.reserve(second, "a")))
            await waits_for_lock(world)
            raise KeyError

    with pytest.raises(KeyError):
        await give_up()
    assert [r.path for r in (await late[0]).reservations] == ["a"]


async def test_a_hundred_racing_for_one_path_have_one_winner(world: World) -> None:
    async with world.db.transaction() as conn:
        holders = [await _running(conn, world.owner_id, world.run_id, f"t-{n}") for n in range(100)]
    answers = await asyncio.gather(*(world.reserve(h, "a/b", "c") for h in holders), return_exceptions=True)
    winners = [h for h, answer in zip(holders, answers, strict=True) if isinstance(answer, Reservations)]
    losers = [a for a in answers if isinstance(a, ApiError) and a.code == "file_reservation_conflict"]
    assert (len(winners), len(losers)) == (1, 99)
    assert {holder for _, _, holder in await world.held()} == {winners[0].assignment_id}


PATHS = st.sampled_from(["a", "a/b", "a/b/c", "ab", "a/bc", "a0", "a.b", "A", "a-/b", "\u00fc", "a/\u00fc"])
SELECTORS = st.tuples(PATHS, st.sampled_from(["exact", "prefix"]))


def covers(selector: tuple[str, str], path: str) -> bool:
    return selector[0] == path or (selector[1] == "prefix" and path.startswith(f"{selector[0]}/"))


async def test_the_statement_finds_the_conflicts_that_there_are(world: World) -> None:
    """Against the definition: two selectors conflict when one covers the other's path."""
    first, second = world.holders

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(held=st.sets(SELECTORS, max_size=4), wanted=st.sets(SELECTORS, min_size=1, max_size=4))
    def check(held: set[tuple[str, str]], wanted: set[tuple[str, str]]) -> None:
        cases.append((held, wanted))

    cases: list[tuple[set[tuple[str, str]], set[tuple[str, str]]]] = []
    check()
    for held, wanted in cases:
        async with world.db.transaction() as conn:
            await run(conn, Query("delete from file_reservations"))
            if held:
                request = FilesReserve(selectors=[Selector(path=p, kind=k) for p, k in held])  # type: ignore[arg-type]
                await reservations.reserve(conn, first, request)
            asked = [Selector(path=p, kind=k) for p, k in wanted]  # type: ignore[arg-type]
            found = {(c.path, c.kind, c.selector) for c in await reservations.check(conn, second, asked)}
            mine = await reservations.check(conn, first, asked)
        expected = {
            (h[0], h[1], w[0]) for h in held for w in wanted if covers(h, w[0]) or covers(w, h[0])
        }
        assert found == expected, (held, wanted)
        assert mine == [], "nothing of one's own is in one's way"


async def test_reserving_again_changes_nothing_and_says_the_same(world: World) -> None:
    first, _ = world.holders
    once = await world.reserve(first, "./a//b", "c", reason="editing")
    again = await world.reserve(first, "a/b", "c")
    assert once == again
    assert [(r.path, r.reason) for r in once.reservations] == [("a/b", "editing"), ("c", "editing")]
    assert len(await world.all("select 1 from events where type = 'files.reserved'")) == 1
    await world.reserve(first, "a/b", reason="still")
    assert len(await world.all("select 1 from events where type = 'files.reserved'")) == 2


async def test_another_run_is_another_world(world: World) -> None:
    first, _ = world.holders
    await world.reserve(first, "a", kind="prefix")
    async with world.db.transaction() as conn:
        elsewhere = await _running(conn, world.owner_id, new_id("run"), "x")
        assert await reservations.check(conn, elsewhere, [Selector(path="a/b")]) == []


async def test_a_release_takes_back_ones_own_only(world: World) -> None:
    first, second = world.holders
    await world.reserve(first, "a", "b")
    await world.reserve(second, "c")
    async with world.db.transaction() as conn:
        request = FilesRelease(selectors=[Selector(path="b"), Selector(path="c"), Selector(path="a", kind="prefix")])
        assert await reservations.release(conn, first, request) == [Selector(path="b")]
    assert {(path, holder) for path, _, holder in await world.held()} == {("a", first.assignment_id), ("c", second.assignment_id)}
    async with world.db.transaction() as conn:
        assert [s.path for s in await reservations.release(conn, second, FilesRelease(all=True))] == ["c"]


@pytest.mark.parametrize("outcome", [Outcome.SUCCEEDED, Outcome.FAILED, Outcome.LOST, Outcome.CANCELLED])
async def test_reservations_go_with_their_attempt(world: World, outcome: Outcome) -> None:
    """F07 for paths: whatever ends the attempt, the control plane's own verdict that it is lost included."""
    first, second = world.holders
    await world.reserve(first, "a", "b")
    await world.reserve(second, "c")
    sandbox_id = None if outcome is Outcome.LOST else first.sandbox_id
    async with world.db.pipelined() as conn:
        await transitions.apply(conn, [End(first.assignment_id, sandbox_id, outcome)])
    assert {holder for _, _, holder in await world.held()} == {second.assignment_id}
    ((data,),) = await world.all("select data from events where type = 'files.released'")
    assert (data["assignmentId"], data["count"], data["because"]) == (first.assignment_id, 2, "ended")
    assert data["selectors"] == [{"path": "a", "kind": "exact"}, {"path": "b", "kind": "exact"}]


async def test_an_end_waits_for_the_operation_and_takes_what_it_reserved(world: World) -> None:
    """F03, from the other side: no reservation can slip in behind the end of its assignment."""
    first, _ = world.holders
    async with world.db.transaction() as conn:
        assert await fences.hold(conn, first.sandbox_id, first.assignment_id) == first

        async def end() -> None:
            async with world.db.pipelined() as other:
                await transitions.apply(other, [End(first.assignment_id, None, Outcome.LOST)])

        ending = asyncio.create_task(end())
        await waits_for_lock(world)
        await reservations.reserve(conn, first, wanting("a"))
    await ending
    assert await world.held() == set()
    async with world.db.transaction() as conn:
        assert await fences.hold(conn, first.sandbox_id, first.assignment_id) is None


async def test_ends_and_reservations_at_once_do_not_deadlock(world: World) -> None:
    """F16: forty attempts of one run reserve, reserve again, release and end, all at the same time."""
    async with world.db.transaction() as conn:
        holders = [await _running(conn, world.owner_id, world.run_id, f"t-{n}") for n in range(40)]
        await run(conn, Query("update runs set counts = '{0,0,0,42,0,0,0,0}'"))

    async def live(number: int, holder: Holder) -> None:
        for turn in range(3):
            async with world.db.transaction() as conn:
                if await fences.hold(conn, holder.sandbox_id, holder.assignment_id) is None:
                    return
                await reservations.reserve(conn, holder, wanting(f"d{number}/a", f"d{number}/b"))
            if turn == 1:
                async with world.db.transaction() as conn:
                    if await fences.hold(conn, holder.sandbox_id, holder.assignment_id):
                        await reservations.release(conn, holder, FilesRelease(all=True))

    async def end() -> None:
        for part in (holders[:20], holders[20:]):
            async with world.db.pipelined() as conn:
                await transitions.apply(conn, [End(h.assignment_id, None, Outcome.FAILED) for h in part])

    await asyncio.gather(end(), *(live(n, h) for n, h in enumerate(holders)))
    assert await world.held() == set()


async def test_limits_are_said_and_nothing_is_changed(world: World) -> None:
    first, _ = world.holders
    with pytest.raises(ApiError) as refused:
        await world.reserve(first, *(f"f{n}" for n in range(257)))
    assert (refused.value.code, refused.value.details["limit"]) == ("limit_exceeded", 256)
    for start in range(0, 4_096, 256):
        await world.reserve(first, *(f"f{n}" for n in range(start, start + 256)))
    with pytest.raises(ApiError) as refused:
        await world.reserve(first, "one-more")
    assert (refused.value.code, refused.value.details["limit"]) == ("limit_exceeded", 4_096)
    assert len(await world.held()) == 4_096


# ---- workpads


async def test_of_two_savers_from_one_version_one_wins(world: World) -> None:
    """Two real transactions, from the empty workpad and from a written one."""
    first, _ = world.holders
    me = Author(kind="assignment", assignment_id=first.assignment_id)
    you = Author(kind="user", user_id=world.owner_id)

    async def save(conn: Connection, text: str, base: int, author: Author) -> Any:
        put = WorkpadPut(body_markdown=text, base_version=base)
        return await workpads.save(conn, world.owner_id, world.run_id, first.task_id, put, author)

    async def save_alone(text: str, base: int) -> Any:
        async with world.db.transaction() as conn:
            return await save(conn, text, base, you)

    for base in (0, 1):
        async with world.db.transaction() as conn:
            made = await save(conn, f"mine {base}", base, me)
            late = asyncio.create_task(save_alone(f"yours {base}", base))
            await waits_for_lock(world)
        with pytest.raises(ApiError) as refused:
            await late
        assert refused.value.code == "workpad_version_conflict"
        assert refused.value.details["current"] == made
    assert await world.all("select version, body_markdown from workpad_versions order by 1") == [(1, "mine 0"), (2, "mine 1")]
    with pytest.raises(ApiError, match="at version 2, the save was made from version 5"):
        await save_alone("from the future", 5)


async def test_the_same_save_again_is_the_same_version(world: World) -> None:
    """A sandbox sends a save again when its answer was lost."""
    first, second = world.holders
    put = WorkpadPut(body_markdown="text", base_version=0)
    made = []
    for _ in range(2):
        async with world.db.transaction() as conn:
            author = Author(kind="assignment", assignment_id=first.assignment_id)
            made.append(await workpads.save(conn, world.owner_id, world.run_id, first.task_id, put, author))
    assert made[0] == made[1]
    assert await world.all("select count(*) from events where type = 'workpad.updated'") == [(1,)]
    author = Author(kind="assignment", assignment_id=second.assignment_id)
    with pytest.raises(ApiError, match="at version 1"):
        async with world.db.transaction() as conn:
            await workpads.save(conn, world.owner_id, world.run_id, first.task_id, put, author)


async def test_a_future_base_on_an_unwritten_workpad_is_a_conflict(world: World) -> None:
    first, _ = world.holders
    put = WorkpadPut(body_markdown="text", base_version=3)
    author = Author(kind="user", user_id=world.owner_id)
    async with world.db.connection() as conn:
        with pytest.raises(ApiError) as refused:
            await workpads.save(conn, world.owner_id, world.run_id, first.task_id, put, author)
    assert refused.value.details["current"].version == 0
    assert await world.all("select 1 from workpads") == []


async def test_deleting_a_run_leaves_nothing_of_it(world: World) -> None:
    first, second = world.holders
    await world.reserve(first, "a")
    async with world.db.transaction() as conn:
        put = WorkpadPut(body_markdown="text", base_version=0)
        author = Author(kind="user", user_id=world.owner_id)
        await workpads.save(conn, world.owner_id, world.run_id, first.task_id, put, author)
    async with world.db.pipelined() as conn:
        await transitions.apply(conn, [End(h.assignment_id, None, Outcome.FAILED) for h in (first, second)])
    async with world.db.transaction() as conn:
        await interventions.delete_run(conn, world.owner_id, world.run_id)
    for table in ("workpads", "workpad_versions", "file_reservations"):
        assert await world.all(f"select 1 from {table}") == [], table


# ---- the fence


async def test_the_fence_lets_in_the_live_accepted_assignment_of_the_sandbox_alone(world: World) -> None:
    first, second = world.holders

    async def holds(sandbox_id: str, assignment_id: str) -> bool:
        async with world.db.transaction() as conn:
            return await fences.hold(conn, sandbox_id, assignment_id) is not None

    assert await holds(first.sandbox_id, first.assignment_id)
    assert not await holds(second.sandbox_id, first.assignment_id), "F26"
    assert not await holds(first.sandbox_id, new_id("assignment"))
    for state, live in (("offered", True), ("lost", False), ("succeeded", False)):
        async with world.db.transaction() as conn:
            await run(conn, Query("update assignments set state = %(s)s, live = %(l)s where assignment_id = %(a)s"), {"s": state, "l": live, "a": first.assignment_id})
        assert not await holds(first.sandbox_id, first.assignment_id), state


class Nothing(Body, frozen=True, kw_only=True):
    """The body of the operations below."""


@pytest.mark.parametrize(("grant", "granted"), [("flakes.test", True), ("flakes.other", False), ("flakes", False)])
async def test_an_operation_with_a_grant_needs_it(
    world: World, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, grant: str, granted: bool
) -> None:
    first, _ = world.holders
    table = OPERATIONS | {"test.look": Operation(Nothing, Nothing, "A test.", grant=grant)}
    monkeypatch.setattr("flakes.server.operations.act.OPERATIONS", table)
    plane = Plane(ServerConfig(), world.db, BlobStore.open(tmp_path))
    for manager in ("fenced", "locked"):
        act = Act(plane, "test.look", world.owner_id, first.sandbox_id, first.assignment_id, Nothing())
        if granted:
            async with getattr(act, manager)() as held:
                assert held[1] == first
            continue
        with pytest.raises(ApiError) as refused:
            async with getattr(act, manager)():
                raise AssertionError("inside")
        assert (refused.value.code, refused.value.details) == ("grant_required", {"grant": grant})


async def test_locked_holds_the_run_and_writes_what_the_ledger_was_told(world: World, tmp_path: Any) -> None:
    first, _ = world.holders
    plane = Plane(ServerConfig(), world.db, BlobStore.open(tmp_path))
    act = Act(plane, "files.list", world.owner_id, first.sandbox_id, first.assignment_id, None)
    async with act.locked() as (_, holder, ledger):
        ledger.event(holder.run_id, "task.saved", holder.task_id)
        async with world.db.connection() as conn:
            locked = await row(conn, Query("select 1 from runs where run_id = %(r)s for update skip locked"), {"r": world.run_id})
            assert locked is None
    assert await world.all("select type from events") == [("task.saved",)]


async def test_every_operation_has_a_handler_and_every_handler_an_operation() -> None:
    assert HANDLERS.keys() == operations.OPERATIONS.keys()
