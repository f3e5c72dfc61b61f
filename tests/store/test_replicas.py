"""Replicas in the store: who lives, and notifications that find whoever holds a link."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from flakes.store import links, replicas
from flakes.wire.replicas import EVENTS, READY, Notice
from store.build import World, opened

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with opened(database) as world:
        yield world


async def test_replicas_know_each_other_until_they_leave_or_die(world: World) -> None:
    async with world.db.connection() as conn:
        assert await replicas.renew(conn, "a", 10.0) == frozenset()
        assert await replicas.renew(conn, "b", 10.0) == {"a"}
        assert await replicas.renew(conn, "c", -1.0) == {"a", "b"}
        assert await replicas.renew(conn, "a", 10.0) == {"b"}, "c is dead"
        await replicas.leave(conn, "b")
        assert await replicas.renew(conn, "a", 10.0) == frozenset()
        await replicas.forget(conn)
        assert {r[0] for r in await world.all("select replica_id from replicas")} == {"a", "c"}
        await replicas.renew(conn, "c", -3_601.0)
        await replicas.forget(conn)
        assert await world.all("select replica_id from replicas") == [("a",)]
        await replicas.forget(conn, everybody=True)
        assert await world.all("select replica_id from replicas") == []


async def test_a_notice_names_the_replicas_that_hold_the_links(world: World) -> None:
    async with world.db.connection() as conn, aclosing(replicas.listen(world.db.dsn, 0.2)) as heard:
        assert await anext(heard) is None, "listening"
        await links.up(conn, "sandbox_1", "a", "key_1")
        await links.up(conn, "sandbox_2", "b", "key_2")
        await links.up(conn, "sandbox_3", "b", "key_3")
        await links.up(conn, "sandbox_4", "c", "key_4")
        assert await links.down(conn, "sandbox_4", "key_4")
        everybody = [f"sandbox_{n}" for n in range(6)]
        assert await replicas.notify(conn, "a", everybody, [])
        assert await anext(heard) == Notice(sender="a", to=["b"])
        assert await replicas.notify(conn, "c", ["sandbox_4"], [EVENTS, READY])
        assert await anext(heard) == Notice(sender="c", news=[EVENTS, READY])
        assert not await replicas.notify(conn, "a", ["sandbox_1", "sandbox_4"], [])
        assert await anext(heard) is None, "nothing to say was said to nobody"


async def test_a_notice_of_another_release_is_skipped(world: World) -> None:
    async with aclosing(replicas.listen(world.db.dsn, 5.0)) as heard:
        assert await anext(heard) is None
        for payload in ("not json", '{"news": 1}', '{"sender": "z", "news": ["dreams"], "more": {}}'):
            await world.all("select pg_notify(%(c)s, %(p)s)", c=replicas.CHANNEL, p=payload)
        assert await anext(heard) == Notice(sender="z", news=["dreams"])


async def test_as_much_news_as_is_ever_told_at_once_fits(world: World) -> None:
    from flakes.server.replicas import NEWS_MAX, Replicas
    from flakes.store.identifiers import new_id
    from flakes.wire.replicas import LOGS, about

    telling = Replicas("a")
    telling.others = frozenset({"b"})
    telling.tell(*(about(LOGS, new_id("task")) for _ in range(3 * NEWS_MAX)))
    telling.tell(READY)
    telling.call(*(f"sandbox_{n}" for n in range(1_000)))
    async with world.db.connection() as conn:
        for n in range(20):
            await links.up(conn, f"sandbox_{n}", new_id("replica"), "key")
        peers, news = telling.take()
        assert len(news) == NEWS_MAX
        assert news[0] == READY
        assert len(peers) == 1_000
        assert await replicas.notify(conn, "a", peers, news)
    assert telling.take() == ([], [])
    alone = Replicas("a")
    alone.tell(EVENTS)
    alone.call("sandbox_1")
    assert alone.take() == ([], [])


async def test_listening_ends_with_its_connection(world: World) -> None:
    import psycopg

    async with aclosing(replicas.listen(world.db.dsn, 30.0)) as heard:
        assert await anext(heard) is None
        waiting = asyncio.create_task(anext(heard))
        await world.all(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
            " and application_name = 'flakes server: listening'"
        )
        with pytest.raises(psycopg.OperationalError):
            async with asyncio.timeout(5):
                await waiting
