"""The store moves instances by the table of `core.fleet`, whatever comes in whatever order, and asks hosts to
clean up until they have."""

from __future__ import annotations

import random
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from flakes.core import fleet
from flakes.core.fleet import InstanceEvent, InstanceState, step
from flakes.store import accounts, bindings, hosts, leases, links, projects, sandboxes
from flakes.store import fleet as asked
from flakes.store.database import Query, run
from flakes.store.identifiers import new_id
from flakes.wire.errors import ApiError
from flakes.wire.host_stream import BindingState, PoolAdvertisement
from flakes.wire.host_stream import Hello as HostHello
from flakes.wire.hosts import HostSetup
from store.build import World, hello, opened, task

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with opened(database) as world:
        yield world


async def host(world: World, *pool_keys: str, auto_bind: bool = True, maximum: int = 2) -> dict[str, str]:
    """A connected host: its id under "host", pool ids by key."""
    async with world.db.transaction() as conn:
        made = await hosts.setup(conn, world.owner_id, HostSetup(host_name="h", auto_bind=auto_bind))
        host_id = made.host.host_id
        _, pools = await hosts.advertise(conn, HostHello(
            protocol=1, host_id=host_id, boot="1", version="1", platform="linux", arch="x", instances=[],
            pools=[
                PoolAdvertisement(
                    pool_key=key, provider="process", adapter="noop", max_instances=maximum,
                    max_concurrency=1, capabilities=[],
                )
                for key in pool_keys or ("a",)
            ],
        ))  # fmt: skip
        await links.up(conn, host_id, world.replica_id, new_id("key"))
    return {"host": host_id, **pools}


async def launched(world: World, where: dict[str, str], *, accepted: bool = True) -> leases.Lease:
    """One instance of pool `a`, sent to the host (and accepted by it)."""
    async with world.db.transaction() as conn:
        assert await leases.launch(conn, where["a"], 1) == where["host"]
        *_, lease = await leases.open_leases(conn, where["host"], again=False)
        if accepted:
            await leases.answered(conn, where["host"], lease.lease_id, True, "", backoff_s=1)
    return lease


async def put(world: World, sandbox_id: str, **columns: Any) -> None:
    names = ", ".join(f"{name} = %({name})s" for name in columns)
    query = Query(f"update sandboxes set {names} where sandbox_id = %(id)s")  # pyright: ignore[reportArgumentType]
    await world.db.run(query, columns | {"id": sandbox_id})


async def state_of(world: World, sandbox_id: str) -> str | None:
    found = await world.all("select status from sandboxes where sandbox_id = %(s)s", s=sandbox_id)
    return found[0][0] if found else None


async def test_the_statement_and_the_table_are_equal(world: World) -> None:
    lease = await launched(world, await host(world))
    for state in InstanceState:
        for event in InstanceEvent:
            await put(world, lease.sandbox_id, status=str(state))
            async with world.db.transaction() as conn:
                moved = await sandboxes.move(conn, lease.sandbox_id, event, "a reason")
            expected = step(state, event)
            if expected is None:  # the statement for removals is another
                assert moved is None
                continue
            assert await state_of(world, lease.sandbox_id) == expected
            assert (moved is not None) == (state in fleet.MOVES[event])
            if moved is not None:
                assert (moved.before, moved.after) == (state, expected)


async def test_any_sequence_of_events_is_survived_and_leads_out(world: World) -> None:
    """What hosts, daemons, owners and the reaper do to an instance, in random order."""
    seed = random.randrange(1_000_000)
    sys.stdout.write(f"seed {seed}\n")
    rng = random.Random(seed)
    where = await host(world, maximum=1000)
    for _ in range(12):
        lease = await launched(world, where, accepted=rng.random() < 0.7)
        sandbox_id = lease.sandbox_id
        for _ in range(rng.randrange(1, 8)):
            await _happen(world, where, lease, rng)
        # However it came to be where it is: stop it, let the host say that it is gone, delete it.
        async with world.db.transaction() as conn:
            await leases.end(conn, sandbox_id, InstanceEvent.STOP, "end")
            await sandboxes.gone(conn, [sandbox_id], "end")
        if await state_of(world, sandbox_id) is not None:
            async with world.db.transaction() as conn:
                done = await asked.delete(conn, world.owner_id, sandbox_id)
            assert done.status == "deleted"
        assert await state_of(world, sandbox_id) is None
        assert await world.all(
            "select 1 from tokens where subject_id = %(s)s and revoked_at is null", s=sandbox_id
        ) == []
    assert await world.all("select 1 from leases where ended_at is null") == []


async def _happen(
    world: World, where: dict[str, str], lease: leases.Lease, rng: random.Random
) -> None:
    sandbox_id = lease.sandbox_id
    kind = rng.choice(["answer", "hello", "gone", "silent", "stop", "drain", "clean", "delete", "exited"])
    try:
        async with world.db.transaction() as conn:
            match kind:
                case "answer":
                    ok = rng.random() < 0.5
                    for opened_ in await leases.open_leases(conn, where["host"], again=True):
                        if opened_.sandbox_id == sandbox_id:
                            await leases.answered(
                                conn, where["host"], opened_.lease_id, ok, "no" * (not ok), backoff_s=1
                            )
                case "hello":
                    await sandboxes.greet(conn, hello(sandbox_id, 1))
                case "gone":
                    await sandboxes.gone(conn, [sandbox_id], "gone", released=rng.random() < 0.5)
                case "exited":
                    await sandboxes.exited(
                        conn, where["host"], lease.instance_id, "exit", backoff_s=1, released=False
                    )
                case "silent":
                    await sandboxes.silent(conn, [sandbox_id], "silent")
                case "stop" | "drain":
                    await leases.end(conn, sandbox_id, InstanceEvent(kind), kind)
                case "clean":
                    await run(conn, Query("update sandboxes set cleanup_next_at = null"))
                    await leases.clean_up_due(conn)
                case _:
                    await asked.delete(conn, world.owner_id, sandbox_id)
    except ApiError as refused:
        if refused.code not in ("sandbox_delete_blocked", "not_found"):
            raise


async def test_a_credential_opens_nothing_before_its_launch_is_accepted(world: World) -> None:
    where = await host(world)
    lease = await launched(world, where, accepted=False)
    async with world.db.transaction() as conn:
        assert await accounts.identify(conn, lease.token) is None
        (again,) = await leases.open_leases(conn, where["host"], again=True)
        assert again.lease_id == lease.lease_id
        await leases.answered(conn, where["host"], lease.lease_id, True, "", backoff_s=1)
        assert await accounts.identify(conn, lease.token) is None, "another was sent after it"
        found = await accounts.identify(conn, again.token)
        assert found is not None
        assert (found.family, found.subject_id) == ("sandbox", lease.sandbox_id)
        # Neither a second answer nor another host's changes anything.
        assert await leases.answered(conn, where["host"], lease.lease_id, False, "no", backoff_s=1) == []
        assert await leases.answered(conn, "host_other", lease.lease_id, False, "no", backoff_s=1) == []
        assert await accounts.identify(conn, again.token) is not None
        assert await leases.open_leases(conn, where["host"], again=True) == []
        await sandboxes.gone(conn, [lease.sandbox_id], "gone")
        assert await accounts.identify(conn, again.token) is None


async def test_a_clean_up_is_asked_for_until_it_succeeds(world: World) -> None:
    where = await host(world)
    lease = await launched(world, where)
    async with world.db.transaction() as conn:
        lost = await sandboxes.failed(
            conn, [lease.sandbox_id], "it did not connect", backoff_s=1, released=False
        )
        assert lost == []
    names: list[str] = []
    for attempt in (1, 2, 3):
        async with world.db.transaction() as conn:
            assert await leases.clean_up_due(conn) == {where["host"]}
            assert await leases.clean_up_due(conn) == set(), "not before its time"
            (stop,) = await leases.open_leases(conn, where["host"], again=False)
            assert (stop.action, stop.drain) == ("stop", False)
            names.append(stop.lease_id)
            await leases.answered(conn, where["host"], stop.lease_id, False, "busy", backoff_s=1)
            shown = await sandboxes.get(conn, world.owner_id, lease.sandbox_id)
        assert shown.cleanup is not None
        assert (shown.cleanup.state, shown.cleanup.attempts, shown.cleanup.last_error) == (
            "waiting", attempt, "busy",
        )  # fmt: skip
        assert shown.cleanup.next_at is not None
        await put(world, lease.sandbox_id, cleanup_next_at="2020-01-01")
    assert len(set(names)) == 3, "each a lease of its own: hosts answer one lease in one way"
    async with world.db.transaction() as conn:
        await leases.clean_up_due(conn)
        (stop,) = await leases.open_leases(conn, where["host"], again=False)
        await leases.answered(conn, where["host"], stop.lease_id, True, "", backoff_s=1)
        shown = await sandboxes.get(conn, world.owner_id, lease.sandbox_id)
        assert (shown.status, shown.cleanup) == ("failed", None)
        assert await leases.clean_up_due(conn) == set()


async def test_a_host_that_is_away_is_not_asked(world: World) -> None:
    where = await host(world)
    lease = await launched(world, where)
    await world.db.run(Query("update links set connected = false"))
    async with world.db.transaction() as conn:
        await sandboxes.failed(conn, [lease.sandbox_id], "late", backoff_s=1, released=False)
        assert await leases.clean_up_due(conn) == set()
        shown = await sandboxes.get(conn, world.owner_id, lease.sandbox_id)
        assert shown.cleanup is not None
        assert (shown.cleanup.state, shown.cleanup.attempts) == ("host_offline", 0)


async def test_a_claim_gives_nothing_to_what_drains(world: World) -> None:
    """Whichever of the two is first, no offer is left with a sandbox that drains."""
    sandbox_id = await world.sandbox(2)
    await world.submit("run", task("a"), task("b"))
    made = await world.planned()
    async with world.db.connection() as other, other.transaction():
        await leases.end(other, sandbox_id, InstanceEvent.DRAIN, "drain")
        assert await world.claim(made) == [], "its row is being changed"
    assert await world.claim(made) == []
    await world.check()


async def test_reports_on_bindings_count_for_what_was_looked_at(world: World) -> None:
    where = await host(world, "a", "b", auto_bind=False)
    async with world.db.transaction() as conn:
        await bindings.set_root(conn, world.owner_id, where["host"], "/srv")
        key = (await projects.page(conn, world.owner_id, before=None, limit=1))[0].project_key
        bound, created = await bindings.put(conn, world.owner_id, where["host"], key, ["a"])
        assert (created, bound.status, bound.workspace_path) == (True, "pending", f"/srv/{key}")
        (sent,) = (await bindings.of_host(conn, where["host"])).bindings
        again, created = await bindings.put(conn, world.owner_id, where["host"], key, ["b", "a", "b"])
        assert (created, again.pool_keys) == (False, ["a", "b"])

        async def report(revision: int, available: bool, reason: str = "", by: str = "") -> int:
            state = BindingState(
                binding_id=sent.binding_id, revision=revision, available=available, reason=reason
            )
            return await bindings.report(conn, world.owner_id, by or where["host"], [state])

        assert await report(sent.revision, True) == 0, "that was about other pools"
        assert await report(sent.revision + 1, True, by="host_other") == 0
        assert await report(sent.revision + 1, False, "/srv/secret is not there") == 1
        (shown,) = await bindings.page(conn, world.owner_id, where["host"], before=None, limit=5)
        assert (shown.status, shown.reason) == ("unavailable", "unknown"), "only codes are taken"
        assert await report(sent.revision + 1, True) == 1
        assert await report(sent.revision + 1, True) == 0
        # Another root: it has to be looked at again.
        await bindings.set_root(conn, world.owner_id, where["host"], "/home")
        (shown,) = await bindings.page(conn, world.owner_id, where["host"], before=None, limit=5)
        assert (shown.status, shown.validated_at) == ("pending", None)
