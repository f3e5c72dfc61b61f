"""PostgreSQL for the tests: one embedded server a test run, and a fresh database for every test that asks for one.

A conftest takes the fixtures with `from postgres import *`. `postgres` is the server, shared by all xdist workers of the
run; `template` is a database with every migration applied; `database` is the dsn of a fresh copy of it, and
`empty_database` that of a fresh database with no schema. The server keeps its files in a new directory, in memory where
there is plenty (copying a database is then three times as fast). It forgets durability (fsync off), because its data
never outlives the run.

Workers come and go, so the directory counts them by pid under a file lock; the last one stops the server. What a killed
run left behind is swept by the next.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from flakes.store import migrate
from flakes.store.embedded import ConnectionInfo, EmbeddedPostgres

__all__ = ["admin_dsn", "database", "empty_database", "postgres", "template"]

_PLENTY_BYTES = 4 * 1024**3

PREFIX = "flakes-tests-"
FORGETFUL = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
}
TEMPLATE = "flakes_template"
EMPTY = "flakes"


def scratch_dir() -> Path:
    """A directory for short-lived data that every account reaches: a memory file system where it has plenty of room."""
    memory = Path("/dev/shm")
    if memory.is_dir() and shutil.disk_usage(memory).free > _PLENTY_BYTES:
        return memory
    return Path(tempfile.gettempdir())


def admin_dsn(info: ConnectionInfo, database: str = "postgres") -> str:
    """A dsn for the server's superuser, for what the product itself must not do."""
    return make_conninfo(info.dsn, user="postgres", dbname=database)


@pytest.fixture(scope="session")
def postgres() -> Iterator[ConnectionInfo]:
    """The run's server."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or f"{os.getpid()}-{secrets.token_hex(4)}"
    _sweep()
    place = scratch_dir() / f"{PREFIX}{run}"
    server = EmbeddedPostgres(place / "postgres", settings=FORGETFUL)
    with _turn(place):
        place.mkdir(mode=0o711, exist_ok=True)
        place.chmod(0o711)  # the server of a root run is another user's
        _write_users(place, [*_read_users(place), os.getpid()])
        info = server.start()
    try:
        yield info
    finally:
        with _turn(place):
            left = _read_users(place)
            # Once: every conftest that imports this fixture has one of its own in the same process.
            left.remove(os.getpid())
            _write_users(place, left)
            if not left:
                server.stop("immediate")
                shutil.rmtree(place)


@pytest.fixture(scope="session")
def template(postgres: ConnectionInfo) -> str:
    """The name of a database with every migration applied; nobody is connected to it."""
    with psycopg.connect(admin_dsn(postgres), autocommit=True) as conn:
        conn.execute("select pg_advisory_lock(1)")  # of many workers one makes it
        known = conn.execute("select datistemplate from pg_database where datname = %s", [TEMPLATE])
        row = known.fetchone()
        if row is None or not row[0]:
            conn.execute(_statement("drop database if exists {}", TEMPLATE))
            conn.execute(_statement("create database {} template {} owner flakes", TEMPLATE, EMPTY))
            with psycopg.connect(make_conninfo(postgres.dsn, dbname=TEMPLATE)) as inner:
                migrate.apply(inner)
            conn.execute(_statement("alter database {} is_template true", TEMPLATE))
    return TEMPLATE


@pytest.fixture
def database(postgres: ConnectionInfo, template: str) -> Iterator[str]:
    """The dsn of a fresh database with the current schema, gone after the test."""
    with _fresh(postgres, template) as dsn:
        yield dsn


@pytest.fixture
def empty_database(postgres: ConnectionInfo) -> Iterator[str]:
    """The dsn of a fresh database without a schema, gone after the test."""
    with _fresh(postgres, EMPTY) as dsn:
        yield dsn


@contextlib.contextmanager
def _fresh(info: ConnectionInfo, source: str) -> Iterator[str]:
    name = f"test_{secrets.token_hex(8)}"
    with psycopg.connect(admin_dsn(info), autocommit=True) as conn:
        conn.execute(_statement("create database {} template {} owner flakes", name, source))
    try:
        yield make_conninfo(info.dsn, dbname=name)
    finally:
        with psycopg.connect(admin_dsn(info), autocommit=True) as conn:
            conn.execute(_statement("drop database {} with (force)", name))


def _statement(text: LiteralString, *names: str) -> sql.Composed:
    return sql.SQL(text).format(*(sql.Identifier(name) for name in names))


@contextlib.contextmanager
def _turn(place: Path) -> Iterator[None]:
    """Hold the lock beside a run's directory; the lock file goes with the directory."""
    lock = place.with_name(f"{place.name}.lock")
    while True:
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not lock.exists() or not lock.samefile(f"/dev/fd/{file.fileno()}"):
                continue  # its last holder removed it while we waited
            yield
            if not place.exists():
                lock.unlink()
            return


def _read_users(place: Path) -> list[int]:
    try:
        pids = json.loads((place / "users.json").read_text())
    except FileNotFoundError:
        return []
    return [pid for pid in pids if _alive(pid)]


def _write_users(place: Path, pids: list[int]) -> None:
    (place / "users.json").write_text(json.dumps(pids))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sweep() -> None:
    """Stop and remove what killed runs of this user left behind."""
    for place in scratch_dir().glob(f"{PREFIX}*/"):
        try:
            if place.stat().st_uid != os.geteuid():
                continue
        except FileNotFoundError:
            continue  # another run has just removed its own
        with _turn(place):
            if place.exists() and not _read_users(place):
                EmbeddedPostgres(place / "postgres").stop("immediate")
                shutil.rmtree(place)
