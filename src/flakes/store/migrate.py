"""Migrations: how a database gets its schema, and how it moves to the next one.

A migration is a file `NNNN_name.sql`, numbered from 0001 without gaps, applied once, in order and never undone. Each
runs in a transaction of its own, under an advisory lock taken in that transaction: of many processes that migrate at
once, each applies what is still missing at its turn, and a killed one leaves nothing behind. The table
`schema_migrations` remembers what was applied, with a checksum, so an edited file is noticed.

This module refuses to know what a schema means. Migrations have to be safe while the previous release still runs, and
they wait for locks only for a moment, because everybody else queues behind a waiting `alter table`. What cannot run in
a transaction (`create index concurrently`) is not a migration here.
"""

from __future__ import annotations

import hashlib
import re
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

MIGRATIONS_DIR = Path(__file__).parent / "migrations"
LOCK_TIMEOUT_S = 5.0
"""How long one statement of a migration waits for a lock that others hold."""
TURN_TIMEOUT_S = 120.0
"""How long a process waits for its turn while another one migrates."""

# Any fixed number that no other program uses in the same database: the bytes of "flakes".
_ADVISORY_KEY = int.from_bytes(b"flakes", "big")
_FILE_NAME = re.compile(r"(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.sql")
_TABLE = """
create table if not exists schema_migrations (
  version integer primary key,
  name text not null,
  checksum text not null,
  applied_at timestamptz not null default now()
)
"""


class MigrationError(Exception):
    """A migration cannot be applied; the database is as it was after the last one that was.

    Codes: `migration_files` (names or numbers are wrong), `migration_changed`, `schema_newer`, `migration_blocked`
    (a lock was not to be had in time), `migration_failed`, `migration_not_atomic` (it ended its transaction itself).
    """

    def __init__(self, code: str, message: str, fix: str) -> None:
        super().__init__(f"{message}\n{fix}")
        self.code = code
        self.message = message
        self.fix = fix


@dataclass(frozen=True)
class Migration:
    """One step of the schema. `name` is the file's name without its number and ending."""

    version: int
    name: str
    sql: str

    @property
    def label(self) -> str:
        """What people see: `0007_events`."""
        return f"{self.version:04d}_{self.name}"

    @property
    def checksum(self) -> str:
        """`sha256:<hex>` of the text, the same whatever line ends a checkout gave it."""
        return "sha256:" + hashlib.sha256(self.sql.replace("\r\n", "\n").encode()).hexdigest()


def load(directory: Path = MIGRATIONS_DIR) -> list[Migration]:
    """The migrations in a directory, in order. Raises `migration_files`."""
    found: list[Migration] = []
    for path in sorted(directory.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise MigrationError(
                "migration_files",
                f"{path} is not named like a migration.",
                "Name it NNNN_name.sql with four digits and a name of lower-case letters, digits and underscores.",
            )
        sql = path.read_text(encoding="utf-8")
        found.append(Migration(int(match["version"]), match["name"], sql))
    _check_numbers(found)
    return found


def pending(
    conn: psycopg.Connection[Any], migrations: Sequence[Migration] | None = None
) -> list[str]:
    """The labels of the migrations that `apply` would apply, in order; an empty list where the schema is current.

    Raises as `apply` does for a schema that this program must not touch. Waits for nothing and changes nothing.
    """
    _check_idle(conn)
    steps = load() if migrations is None else list(migrations)
    _check_numbers(steps)
    with conn.transaction():
        return [step.label for step in _missing(steps, _applied(conn))]


def apply(
    conn: psycopg.Connection[Any], migrations: Sequence[Migration] | None = None
) -> list[str]:
    """Apply every migration that the database lacks and return their labels, in order.

    `conn` is not in a transaction. Safe to call in many processes at once: each migration is applied by one of them.
    Raises MigrationError; the migrations before the failing one stay applied, the failing one leaves nothing.
    """
    _check_idle(conn)
    steps = load() if migrations is None else list(migrations)
    _check_numbers(steps)
    done: list[str] = []
    while (step := _apply_next(conn, steps)) is not None:
        done.append(step.label)
    return done


def _apply_next(conn: psycopg.Connection[Any], steps: Sequence[Migration]) -> Migration | None:
    with conn.transaction():
        _take_turn(conn)
        conn.execute(_TABLE)
        missing = _missing(steps, _applied(conn))
        if not missing:
            return None
        step = missing[0]
        _run(conn, step)
        conn.execute(
            "insert into schema_migrations (version, name, checksum) values (%s, %s, %s)",
            (step.version, step.name, step.checksum),
        )
        return step


def _take_turn(conn: psycopg.Connection[Any]) -> None:
    # Tried, not waited for: one long waiting statement holds a snapshot, and `lock_timeout` would cut it short.
    deadline = time.monotonic() + TURN_TIMEOUT_S
    while True:
        row = conn.execute("select pg_try_advisory_xact_lock(%s)", (_ADVISORY_KEY,)).fetchone()
        assert row is not None
        if row[0]:
            return
        if time.monotonic() > deadline:
            raise MigrationError(
                "migration_blocked",
                f"Another process has been migrating this database for {TURN_TIMEOUT_S:.0f} s.",
                "Wait for it to finish and start again.",
            )
        time.sleep(0.02)


def _run(conn: psycopg.Connection[Any], step: Migration) -> None:
    conn.execute(f"set local lock_timeout = {int(LOCK_TIMEOUT_S * 1000)}".encode())
    conn.execute("set local statement_timeout = 0")  # a long backfill is not a runaway query
    before = _transaction_id(conn)
    try:
        # Without parameters psycopg sends the text as it is, so a file may hold many statements.
        conn.execute(step.sql.encode(), prepare=False)
        atomic = _transaction_id(conn) == before
    except psycopg.errors.LockNotAvailable as failure:
        raise MigrationError(
            "migration_blocked",
            f"Migration {step.label} waited {LOCK_TIMEOUT_S:.0f} s for a lock: {_said(failure)}",
            "Nothing of it was applied. End the long transaction that holds the lock, or try again at a quieter time.",
        ) from failure
    except psycopg.Error as failure:
        if conn.closed:
            raise  # a lost connection says nothing about the migration
        raise MigrationError(
            "migration_failed",
            f"Migration {step.label} failed: {_said(failure)}",
            "Nothing of it was applied. Mend what the message names and start again.",
        ) from failure
    if not atomic:
        raise MigrationError(
            "migration_not_atomic",
            f"Migration {step.label} ends its own transaction.",
            "Take `begin`, `commit` and `rollback` out of the file: each migration runs in one transaction.",
        )


def _transaction_id(conn: psycopg.Connection[Any]) -> str | None:
    if conn.info.transaction_status is not TransactionStatus.INTRANS:
        return None
    row = conn.execute("select pg_current_xact_id()::text").fetchone()
    assert row is not None
    return row[0]


def _applied(conn: psycopg.Connection[Any]) -> dict[int, tuple[str, str]]:
    """Version to (name, checksum), of everything that was applied to this database."""
    known = conn.execute("select to_regclass('schema_migrations') is not null").fetchone()
    if known is None or not known[0]:
        return {}
    rows = conn.execute("select version, name, checksum from schema_migrations order by version")
    return {version: (name, checksum) for version, name, checksum in rows}


def _missing(steps: Sequence[Migration], applied: dict[int, tuple[str, str]]) -> list[Migration]:
    """What is still to be applied; refuses a database that these steps did not make."""
    newest = len(steps)
    if beyond := sorted(version for version in applied if version > newest):
        raise MigrationError(
            "schema_newer",
            f"The database has schema {beyond[-1]:04d}_{applied[beyond[-1]][0]}, and this release knows schemas up to "
            f"{newest:04d}.",
            "Run the release of Flakes that made this schema, or a newer one; schemas do not go back. To go back "
            "with the data, restore a backup from before the upgrade.",
        )
    for step in steps:
        was = applied.get(step.version)
        if was is not None and was != (step.name, step.checksum):
            raise MigrationError(
                "migration_changed",
                f"Migration {step.label} was applied to this database as {step.version:04d}_{was[0]}, with other "
                "content than it has now.",
                "Restore the file as it was released and put the change into a new migration.",
            )
    missing = [step for step in steps if step.version not in applied]
    if missing and applied and missing[0].version < max(applied):
        raise MigrationError(
            "migration_changed",
            f"Migration {missing[0].label} is missing in this database, though later ones were applied.",
            "Somebody removed its row from schema_migrations: put it back, or restore a backup.",
        )
    return missing


def _check_numbers(steps: Sequence[Migration]) -> None:
    for expected, step in enumerate(steps, start=1):
        if step.version != expected:
            raise MigrationError(
                "migration_files",
                f"Migration {step.label} stands where number {expected:04d} is expected.",
                "Number migrations from 0001 upwards, each number once, without gaps.",
            )


def _check_idle(conn: psycopg.Connection[Any]) -> None:
    status = conn.info.transaction_status
    assert status is TransactionStatus.IDLE, f"the connection is in a transaction ({status.name})"


def _said(failure: psycopg.Error) -> str:
    diagnostic = failure.diag
    parts = [str(failure).strip()]
    if diagnostic.context:
        parts.append(textwrap.shorten(diagnostic.context, 300))
    return " ".join(parts)
