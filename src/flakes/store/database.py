"""Connections: the pool, transactions, and the type of a named statement.

`Query` marks SQL so that a test can find every statement and PREPARE it against the migrated schema.
`Database.connection()` is for single statements (autocommit), `transaction()` for several; inside one,
`conn.pipeline()` sends statements that do not need each other's answers in one round trip.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, LiteralString

import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from flakes.store.arrays import ArrayDumper

Connection = AsyncConnection[TupleRow]

PATIENCE_S = 10.0
"""How long a caller waits for a connection while all of them are busy."""
AWAY_PATIENCE_S = 0.5
"""The same while the server does not take new ones: callers hear soon, and nothing piles up (F29)."""
AWAY_S = 5.0
"""For how long after a failed attempt to connect the server counts as away."""


class Query(str):
    """A hand-written statement with `%(name)s` parameters."""

    __slots__ = ()


class Database:
    """A pool of connections to one PostgreSQL database. Open it, use it, close it."""

    def __init__(self, dsn: str, *, size: int = 12, application: str = "flakes") -> None:
        self.dsn = dsn
        self.statements = 0
        """Statements sent since the start; benchmarks and tests read it."""
        self._away_until_s = 0.0
        counter = self

        class Counted(AsyncCursor[TupleRow]):
            """Counts every statement (F18 is a bound on their number)."""

            async def execute(self, *args: Any, **kwargs: Any) -> Any:
                counter.statements += 1
                return await super().execute(*args, **kwargs)

        async def configure(conn: Connection) -> None:
            conn.cursor_factory = Counted
            conn.prepare_threshold = 2
            conn.adapters.register_dumper(list, ArrayDumper)
            await conn.set_autocommit(True)

        def away(_: object) -> None:
            self._away_until_s = time.monotonic() + AWAY_S

        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            dsn,
            min_size=min(2, size),
            max_size=size,
            open=False,
            configure=configure,
            timeout=PATIENCE_S,
            reconnect_timeout=0.0,
            reconnect_failed=away,
            kwargs={
                "application_name": application,
                "options": "-c statement_timeout=60s -c lock_timeout=20s"
                " -c idle_in_transaction_session_timeout=60s",
            },
            check=AsyncConnectionPool.check_connection if size > 64 else None,
        )

    async def open(self) -> None:
        """Connect; raises `psycopg_pool.PoolTimeout` when the server does not answer in 10 s."""
        await self._pool.open(wait=True, timeout=10.0)

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection in autocommit mode. A broken one is dropped, never handed out again."""
        conn = await self._take()
        try:
            async with conn:
                yield conn
        finally:
            await self._pool.putconn(conn)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection inside a transaction that commits when the block ends well."""
        async with self.connection() as conn, conn.transaction():
            yield conn

    async def _take(self) -> Connection:
        """A connection from the pool, or `PoolTimeout`."""
        if not self._is_away():
            try:
                return await self._pool.getconn(AWAY_PATIENCE_S)
            except PoolTimeout:
                if not self._is_away():
                    return await self._pool.getconn(PATIENCE_S)
                raise
        conn = await self._pool.getconn(AWAY_PATIENCE_S)
        self._away_until_s = 0.0
        return conn

    def _is_away(self) -> bool:
        return time.monotonic() < self._away_until_s

    @asynccontextmanager
    async def pipelined(self) -> AsyncIterator[Connection]:
        """A transaction whose statements are sent without waiting for each other's answers.

        Reading a cursor waits for everything sent so far; begin and commit cost no round trip of their own.
        """
        async with self._pool.connection() as conn, conn.pipeline(), conn.transaction():
            yield conn

    async def rows(self, query: Query, params: Mapping[str, Any] | None = None) -> list[TupleRow]:
        """All rows of one statement."""
        async with self.connection() as conn:
            return await rows(conn, query, params)

    async def row(self, query: Query, params: Mapping[str, Any] | None = None) -> TupleRow | None:
        """The first row of one statement, or None."""
        async with self.connection() as conn:
            return await row(conn, query, params)

    async def run(self, query: Query, params: Mapping[str, Any] | None = None) -> int:
        """Execute one statement; the number of rows it touched."""
        async with self.connection() as conn:
            return await run(conn, query, params)


async def rows(
    conn: Connection, query: Query, params: Mapping[str, Any] | None = None
) -> list[TupleRow]:
    """All rows of one statement on this connection."""
    cursor = await conn.execute(literal(query), params, prepare=True)
    return await cursor.fetchall()


async def row(
    conn: Connection, query: Query, params: Mapping[str, Any] | None = None
) -> TupleRow | None:
    """The first row of one statement on this connection, or None."""
    cursor = await conn.execute(literal(query), params, prepare=True)
    return await cursor.fetchone()


async def run(conn: Connection, query: Query, params: Mapping[str, Any] | None = None) -> int:
    """Execute one statement on this connection; the number of rows it touched."""
    cursor = await conn.execute(literal(query), params, prepare=True)
    return cursor.rowcount


def literal(query: Query) -> LiteralString:
    """Queries are constants of this package; this is where that is told to the type checker."""
    return query  # pyright: ignore[reportReturnType]


UNAVAILABLE = (psycopg.OperationalError, psycopg.errors.AdminShutdown)
"""What a lost or refusing server raises; `PoolTimeout` is an `OperationalError` too."""
