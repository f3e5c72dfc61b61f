"""Links: the newest connection counts, whatever order the database hears of them in."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from flakes.store import links, replicas
from store.build import World, opened, task

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with opened(database) as world:
        yield world


async def link(world: World) -> tuple[str, str, bool]:
    (found,) = await world.all("select replica_id, connection_id, connected from links")
    return found


async def test_a_slow_hello_does_not_replace_the_connection_after_it(world: World) -> None:
    async with world.db.connection() as conn:
        await links.up(conn, "sandbox", "replica", "key_2")
        await links.up(conn, "sandbox", "replica", "key_1")
        assert await link(world) == ("replica", "key_2", True)
        assert await links.down(conn, "sandbox", "key_1") is False
        assert await link(world) == ("replica", "key_2", True)
        assert await links.down(conn, "sandbox", "key_2") is True
        await links.up(conn, "sandbox", "replica", "key_3")
    assert await link(world) == ("replica", "key_3", True)


async def test_another_replica_takes_over_whatever_its_clock_says(world: World) -> None:
    async with world.db.connection() as conn:
        await links.up(conn, "sandbox", "fast", "key_9")
        await links.up(conn, "sandbox", "slow", "key_1")
        assert await link(world) == ("slow", "key_1", True)
        assert await links.down(conn, "sandbox", "key_9") is False


async def test_a_link_that_was_given_up_comes_back_with_the_next_heartbeat(world: World) -> None:
    async with world.db.connection() as conn:
        await links.up(conn, "sandbox", "stalled", "key_1")
        assert await links.orphaned(conn, "leader", 40.0) == 0
        await world.all("update links set seen_at = now() - interval '41 s' returning 1")
        assert await links.orphaned(conn, "leader", 40.0) == 1
        assert (await link(world))[2] is False
        await links.seen(conn, [("sandbox", "another"), ("other", "key_1")])
        assert (await link(world))[2] is False
        await links.seen(conn, [("sandbox", "key_1")])
        assert (await link(world))[2] is True


async def test_the_links_of_a_replica_are_cut_when_its_row_has_expired(world: World) -> None:
    """F01: long before its peers would count as silent; and a replica that was only late takes them back."""
    async with world.db.connection() as conn:
        await links.up(conn, "sandbox", "late", "key_1")
        assert await replicas.renew(conn, "late", 10.0) == frozenset()
        assert await replicas.renew(conn, "leader", 10.0) == {"late"}
        assert await links.orphaned(conn, "leader", 40.0) == 0
        await world.all("update links set seen_at = now() - interval '41 s' returning 1")
        assert await links.orphaned(conn, "leader", 40.0) == 0, "it lives: its peers are merely silent"
        await world.all("update links set seen_at = now() returning 1")
        await replicas.renew(conn, "late", -1.0)
        assert await replicas.renew(conn, "leader", 10.0) == frozenset()
        assert await links.orphaned(conn, "leader", 40.0) == 1
        assert (await link(world))[2] is False
        await links.restore(conn, [("sandbox", "key_0"), ("other", "key_1")])
        assert (await link(world))[2] is False
        await links.restore(conn, [("sandbox", "key_1")])
        assert (await link(world))[2] is True
        assert await links.elsewhere(conn, "late", ["sandbox", "other"]) == []
        assert await links.elsewhere(conn, "leader", ["sandbox", "other"]) == ["sandbox"]


async def test_silence_is_counted_only_while_somebody_could_hear(world: World) -> None:
    await world.sandbox()
    await world.submit("run", task("a"))
    (offer,) = await world.start()
    await world.all("update links set seen_at = now() - interval '61 s' returning 1")
    async with world.db.connection() as conn:
        assert await links.lost(conn, lost_after_s=60, held_s=59) == []
        assert await links.lost(conn, lost_after_s=62, held_s=100) == []
        found = await links.lost(conn, lost_after_s=60, held_s=61)
    assert found == [(offer.assignment_id, offer.sandbox_id)]
