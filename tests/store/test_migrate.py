"""Migrations: applied once, in order, one at a time, and never by halves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from flakes.store import migrate
from flakes.store.migrate import Migration, MigrationError

USERS = Migration(
    1, "users", "create table users (id int primary key); insert into users values (1);"
)
NAMES = Migration(
    2, "names", "alter table users add column name text; update users set name = '100%';"
)
BROKEN = Migration(
    3, "broken", "create table half (id int); insert into half values (1); select 1/0;"
)


@pytest.fixture
def conn(empty_database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(empty_database) as conn:
        yield conn


def tables(conn: psycopg.Connection) -> set[str]:
    with conn.transaction():
        rows = conn.execute(
            "select tablename from pg_tables where schemaname = 'public'"
        ).fetchall()
    return {name for (name,) in rows}


def versions(conn: psycopg.Connection) -> list[int]:
    with conn.transaction():
        rows = conn.execute("select version from schema_migrations order by version").fetchall()
    return [version for (version,) in rows]


def test_each_is_applied_once_and_recorded(conn: psycopg.Connection) -> None:
    assert migrate.pending(conn, [USERS, NAMES]) == ["0001_users", "0002_names"]
    assert migrate.apply(conn, [USERS]) == ["0001_users"]
    assert migrate.pending(conn, [USERS, NAMES]) == ["0002_names"]
    assert migrate.apply(conn, [USERS, NAMES]) == ["0002_names"]
    assert migrate.apply(conn, [USERS, NAMES]) == []
    rows = conn.execute(
        "select version, name, checksum, applied_at <= now() from schema_migrations order by 1"
    )
    assert rows.fetchall() == [
        (1, "users", USERS.checksum, True),
        (2, "names", NAMES.checksum, True),
    ]
    assert conn.execute("select * from users").fetchall() == [(1, "100%")]


def test_pending_changes_nothing(conn: psycopg.Connection) -> None:
    migrate.pending(conn, [USERS])
    assert tables(conn) == set()


def test_a_failing_one_leaves_nothing_and_those_before_it_stay(conn: psycopg.Connection) -> None:
    with pytest.raises(MigrationError, match="division by zero") as caught:
        migrate.apply(conn, [USERS, NAMES, BROKEN])
    assert caught.value.code == "migration_failed"
    assert tables(conn) == {"users", "schema_migrations"}
    assert versions(conn) == [1, 2]
    mended = Migration(3, "broken", "create table half (id int)")
    assert migrate.apply(conn, [USERS, NAMES, mended]) == ["0003_broken"]


def test_a_changed_one_is_refused(conn: psycopg.Connection) -> None:
    migrate.apply(conn, [USERS])
    edited = Migration(1, "users", USERS.sql + " -- edited")
    for refuses in (migrate.apply, migrate.pending):
        with pytest.raises(MigrationError) as caught:
            refuses(conn, [edited, NAMES])
        assert caught.value.code == "migration_changed"
    assert versions(conn) == [1]


def test_line_ends_do_not_count_as_a_change() -> None:
    unix, windows = (
        Migration(1, "a", "select 1;\nselect 2;\n"),
        Migration(1, "a", "select 1;\r\nselect 2;\r\n"),
    )
    assert unix.checksum == windows.checksum


def test_a_database_newer_than_the_program_is_refused(conn: psycopg.Connection) -> None:
    migrate.apply(conn, [USERS, NAMES])
    with pytest.raises(MigrationError, match="0002_names") as caught:
        migrate.apply(conn, [USERS])
    assert caught.value.code == "schema_newer"
    assert "newer" in caught.value.fix


def test_a_gap_in_the_database_is_refused(conn: psycopg.Connection) -> None:
    migrate.apply(conn, [USERS, NAMES])
    conn.execute("delete from schema_migrations where version = 1")
    conn.commit()
    with pytest.raises(MigrationError) as caught:
        migrate.apply(conn, [USERS, NAMES])
    assert caught.value.code == "migration_changed"


def test_one_that_commits_by_itself_is_refused(conn: psycopg.Connection) -> None:
    for ending in ("commit;", "commit; begin;"):
        with pytest.raises(MigrationError) as caught:
            migrate.apply(
                conn,
                [Migration(1, "rogue", f"create table if not exists rogue (id int); {ending}")],
            )
        assert caught.value.code == "migration_not_atomic"
        conn.rollback()
    with conn.transaction():
        assert conn.execute("select to_regclass('schema_migrations')").fetchone() is not None


def test_racing_processes_apply_each_once(empty_database: str) -> None:
    steps = [USERS, NAMES]
    steps += [
        Migration(
            n,
            f"step_{n}",
            f"create table step_{n} (id int); select pg_sleep(0.01); insert into users values ({n})",
        )
        for n in range(3, 9)
    ]
    done: list[list[str]] = []
    barrier = threading.Barrier(6)

    def migrator() -> None:
        with psycopg.connect(empty_database) as conn:
            barrier.wait()
            done.append(migrate.apply(conn, steps))

    threads = [threading.Thread(target=migrator) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 6
    assert sorted(label for labels in done for label in labels) == [step.label for step in steps]
    with psycopg.connect(empty_database) as conn:
        assert versions(conn) == list(range(1, 9))


def test_a_killed_migrator_leaves_nothing_and_does_not_block(empty_database: str) -> None:
    slow = Migration(1, "slow", "create table slow (id int); select pg_sleep(60)")
    with (
        psycopg.connect(empty_database, autocommit=True) as watcher,
        psycopg.connect(empty_database) as victim,
    ):
        failures: list[BaseException] = []

        def migrator() -> None:
            try:
                migrate.apply(victim, [slow])
            except psycopg.Error as failure:
                failures.append(failure)

        thread = threading.Thread(target=migrator)
        thread.start()
        pid = victim.info.backend_pid
        asleep = "select 1 from pg_stat_activity where pid = %s and wait_event = 'PgSleep'"
        while watcher.execute(asleep, [pid]).fetchone() is None:
            pass
        watcher.execute("select pg_terminate_backend(%s, 5000)", [pid])
        thread.join()
        assert len(failures) == 1
        assert not isinstance(failures[0], MigrationError)
        watcher.autocommit = False
        assert migrate.apply(watcher, [Migration(1, "quick", "create table quick (id int)")]) == [
            "0001_quick"
        ]
        assert tables(watcher) == {"quick", "schema_migrations"}


def test_a_lock_held_by_others_is_waited_for_only_a_moment(
    conn: psycopg.Connection, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT_S", 0.1)
    migrate.apply(conn, [USERS])
    with psycopg.connect(empty_database) as reader:
        reader.execute("select * from users")
        with pytest.raises(MigrationError) as caught:
            migrate.apply(conn, [USERS, NAMES])
        assert caught.value.code == "migration_blocked"
    assert migrate.apply(conn, [USERS, NAMES]) == ["0002_names"]


def test_works_on_an_autocommit_connection(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as conn:
        with pytest.raises(MigrationError):
            migrate.apply(conn, [USERS, NAMES, BROKEN])
        assert versions(conn) == [1, 2]


@pytest.mark.parametrize(
    "names",
    [
        ["0001_a.sql", "0003_c.sql"],
        ["0001_a.sql", "0001_b.sql"],
        ["1_a.sql"],
        ["0001_A b.sql"],
        ["0002_a.sql"],
    ],
)
def test_wrong_file_names_are_refused(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_text("select 1")
    with pytest.raises(MigrationError) as caught:
        migrate.load(tmp_path)
    assert caught.value.code == "migration_files"


def test_files_are_loaded_in_order(tmp_path: Path) -> None:
    (tmp_path / "0002_second.sql").write_text("select 2")
    (tmp_path / "0001_first.sql").write_text("select 1")
    (tmp_path / "README.md").write_text("not a migration")
    assert [step.label for step in migrate.load(tmp_path)] == ["0001_first", "0002_second"]


def test_the_product_s_own_migrations_apply_and_are_then_current(database: str) -> None:
    with psycopg.connect(database) as conn:
        assert migrate.pending(conn) == []
        assert migrate.apply(conn) == []
