"""Connections: the pool, transactions, and the type of a named statement.

`Query` marks SQL so that a test can find every statement and PREPARE it against the migrated schema.
`Database.connection()` is for single statements (autocommit), `transaction()` for several; inside one,
`conn.pipeline()` sends statements that do not need each other's answers in one round trip.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, LiteralString

import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from flakes.store.arrays import ArrayDumper

Connection = AsyncConnection[TupleRow]


class Query(str):
    """A hand-written statement with `%(name)s` parameters."""

    __slots__ = ()


class Database:
    """A pool of connections to one PostgreSQL database. Open it, use it, close it."""

    def __init__(self, dsn: str, *, size: int = 12, application: str = "flakes") -> None:
        self.dsn = dsn
        self.statements = 0
        """Statements sent since the start; benchmarks and tests read it."""
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

        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            dsn,
            min_size=min(2, size),
            max_size=size,
            open=False,
            configure=configure,
            timeout=10.0,
            reconnect_timeout=0.0,
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
        async with self._pool.connection() as conn:
            yield conn

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection inside a transaction that commits when the block ends well."""
        async with self._pool.connection() as conn, conn.transaction():
            yield conn

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
