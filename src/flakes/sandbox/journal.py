"""What the daemon must remember over its own death: assignments and unacknowledged messages, in SQLite.

One thread owns the connection. Callers hand it groups of statements, each group atomic, and everything
that gathers while a commit is under way goes into the next one; `durable()` waits for what was written
so far. The journal knows rows, not what they mean.

Invariants: groups are committed in the order they were given. Sequence numbers grow for as long as the
state directory lives, also across acknowledged (deleted) rows. A file that is not a sound journal is set
aside under another name, never repaired and never the reason for a crash loop. While the disk is full
nothing is lost: the thread keeps the statements and tries again.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

log = structlog.get_logger(__name__)

SCHEMA: Final = """
create table if not exists assignments (
  assignment_id text primary key,
  state text not null check (state in ('pending', 'accepted', 'running', 'ended')),
  payload blob not null,
  directory text not null,
  pid integer,
  pid_started text
) without rowid;
create table if not exists outbox (
  seq integer primary key autoincrement,
  assignment_id text not null,
  message blob not null
);
create index if not exists outbox_of_assignment on outbox (assignment_id);
create table if not exists inputs (
  message_id text primary key,
  assignment_id text not null
) without rowid;
create trigger if not exists inputs_end_with_their_assignment after delete on assignments begin
  delete from inputs where assignment_id = old.assignment_id;
end;
"""
RETRY_S: Final = 0.25

Statement = tuple[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Row:
    """An assignment as it was last written; `payload` is empty once it has ended."""

    assignment_id: str
    state: str
    payload: bytes
    directory: str
    pid: int | None
    pid_started: str | None


class Journal:
    """An open journal. Every method is for the event loop's thread."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        """Guards `_groups`, `_calls` and `_closing`; never held while SQLite works."""
        self._work = threading.Condition(self._lock)
        self._groups: list[Sequence[Statement]] = []
        self._calls: list[tuple[Callable[[sqlite3.Connection], Any], asyncio.Future[Any]]] = []
        self._closing = False
        self._given = 0
        self._committed = 0
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.full = False
        """The disk takes no more, for the moment; written by the thread, read by anyone."""
        self.broken: asyncio.Future[str] = self._loop.create_future()
        """Settled with the reason when the file went bad under the daemon: nothing is written any more."""
        self._thread = threading.Thread(target=self._write_all, name="journal", daemon=True)
        self._thread.start()

    @classmethod
    async def open(cls, state_dir: Path) -> Journal:
        """Open or create `journal.sqlite` in the directory; raises `OSError` when it cannot be."""
        path = state_dir / "journal.sqlite"
        try:
            connection = await asyncio.to_thread(_connect, path)
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise OSError(f"the journal {path} cannot be opened: {error}") from error
            aside = path.with_name(f"journal.damaged-{time.time_ns()}.sqlite")
            log.error(
                "journal damaged, set aside", path=str(path), aside=str(aside), reason=str(error)
            )
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
            connection = await asyncio.to_thread(_connect, path)
        return cls(connection, path)

    def write(self, *statements: Statement) -> None:
        """Give statements to be committed together, after everything that was given before."""
        if not statements:
            return
        with self._work:
            assert not self._closing
            self._groups.append(statements)
            self._given += 1
            self._work.notify()

    async def durable(self) -> None:
        """Until everything that was given so far is committed."""
        if self._committed >= self._given:
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append((self._given, waiter))
        await waiter

    async def rows(self) -> list[Row]:
        """Every assignment, in no particular order."""
        sql = "select assignment_id, state, payload, directory, pid, pid_started from assignments"
        return await self._call(lambda db: [Row(*row) for row in db.execute(sql)])

    async def inputs(self) -> list[tuple[str, str]]:
        """Assignment and message id of every message that was handed to an agent."""
        sql = "select assignment_id, message_id from inputs"
        return await self._call(lambda db: db.execute(sql).fetchall())

    async def index(self) -> list[tuple[int, str, int]]:
        """Sequence number, assignment and size in bytes of every unacknowledged message, in order."""
        sql = "select seq, assignment_id, length(message) from outbox order by seq"
        return await self._call(lambda db: db.execute(sql).fetchall())

    async def last_seq(self) -> int:
        """The highest sequence number ever used, acknowledged or not; 0 at first."""
        sql = "select seq from sqlite_sequence where name = 'outbox'"
        return await self._call(lambda db: (db.execute(sql).fetchone() or (0,))[0])

    async def messages(self, first_seq: int, last_seq: int) -> list[tuple[int, bytes]]:
        """The messages in a range of sequence numbers, in order."""
        sql = "select seq, message from outbox where seq between ? and ? order by seq"
        return await self._call(lambda db: db.execute(sql, (first_seq, last_seq)).fetchall())

    async def close(self) -> None:
        """Commit what is left and close the file."""
        with self._work:
            self._closing = True
            self._work.notify()
        await asyncio.to_thread(self._thread.join)

    def _call(self, query: Callable[[sqlite3.Connection], Any]) -> asyncio.Future[Any]:
        """Run a query in the thread, after every write that was given before."""
        answer: asyncio.Future[Any] = self._loop.create_future()
        with self._work:
            self._calls.append((query, answer))
            self._work.notify()
        return answer

    def _write_all(self) -> None:
        while True:
            with self._work:
                while not (self._groups or self._calls or self._closing):
                    self._work.wait()
                groups, self._groups = self._groups, []
                calls, self._calls = self._calls, []
                closing, given = self._closing, self._given
            if groups and not self._commit(groups):
                return
            if groups:
                self._loop.call_soon_threadsafe(self._done, given)
            for query, answer in calls:
                try:
                    value = query(self._connection)
                except sqlite3.Error as error:
                    self._loop.call_soon_threadsafe(_fail, answer, error)
                else:
                    self._loop.call_soon_threadsafe(_settle, answer, value)
            if closing and not self._groups:
                self._connection.close()
                return

    def _commit(self, groups: list[Sequence[Statement]]) -> bool:
        """Commit all or, at closing time on a full disk, nothing."""
        db = self._connection
        while True:
            try:
                db.execute("begin immediate")
                for group in groups:
                    for sql, values in group:
                        db.execute(sql, values)
                db.execute("commit")
            except sqlite3.OperationalError as error:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("rollback")
                if not self.full:
                    self.full = True
                    log.error("journal cannot be written, trying again", reason=str(error))
                if self._closing:
                    return False
                time.sleep(RETRY_S)
            except sqlite3.DatabaseError as error:
                log.critical("journal broken", reason=str(error))
                self._loop.call_soon_threadsafe(_settle, self.broken, str(error))
                return False
            else:
                if self.full:
                    self.full = False
                    log.info("journal can be written again")
                return True

    def _done(self, committed: int) -> None:
        self._committed = committed
        while self._waiters and self._waiters[0][0] <= committed:
            _settle(self._waiters.popleft()[1], None)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = full")
        connection.execute("pragma wal_autocheckpoint = 500")
        connection.execute("pragma cache_size = -2000")
        verdict = connection.execute("pragma quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise sqlite3.DatabaseError(f"database disk image is malformed: {verdict}")
        connection.executescript(SCHEMA)
        connection.execute("select seq, assignment_id, message from outbox limit 1")
        connection.execute(
            "select state, payload, directory, pid, pid_started from assignments limit 1"
        )
    except BaseException:
        connection.close()
        raise
    path.chmod(0o600)
    return connection


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the content is at fault, rather than the disk or the rights to it."""
    text = str(error)
    return any(
        sign in text for sign in ("malformed", "not a database", "no such column", "encrypted")
    )


def _settle(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
