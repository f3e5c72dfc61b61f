"""One PostgreSQL cluster on disk: how it is made, recognised, and which settings it runs with.

A cluster is made beside its place, complete with its role and its database, and then renamed into place. So `data/` is
whole or absent; what an interrupted attempt leaves behind is swept by the next. Nothing that may hold somebody's data
is ever deleted: an unknown half-made `data/` is set aside under another name.

This module refuses to know running servers. Whoever calls it holds the data directory's lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from flakes.store.embedded_account import CLEAN_ENV, Account
from flakes.store.embedded_binaries import Binaries
from flakes.store.embedded_error import EmbeddedPostgresError, failed, from_os, tail

ADMIN = "postgres"
ROLE = "flakes"
DATABASE = "flakes"
_MAKING_PREFIX = ".data.new-"
_INITDB_TIMEOUT_S = 120.0

# For a laptop: little memory, few processes, nothing lost. Hot tables (queue, heartbeats) live on small, frequent
# vacuums. Replication is off, so the write-ahead log holds only what recovery needs.
_SETTINGS: dict[str, str] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "60",
    "shared_buffers": "128MB",
    "huge_pages": "off",
    "fsync": "on",
    "synchronous_commit": "on",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "wal_compression": "on",
    "min_wal_size": "64MB",
    "max_wal_size": "512MB",
    "max_worker_processes": "4",
    "max_parallel_workers": "2",
    "max_parallel_workers_per_gather": "1",
    "max_logical_replication_workers": "0",
    "jit": "off",
    "random_page_cost": "1.1",
    "autovacuum_max_workers": "2",
    "autovacuum_naptime": "15s",
    "autovacuum_vacuum_threshold": "200",
    "autovacuum_vacuum_scale_factor": "0.05",
    "autovacuum_analyze_scale_factor": "0.05",
    "lc_messages": "C",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    "log_checkpoints": "off",
    "log_min_error_statement": "panic",  # an expected constraint error must not copy payloads into a log
}
_SETTINGS_SINCE_18: dict[str, str] = {
    "io_method": "sync"
}  # no worker processes for a database this size


@dataclass(frozen=True)
class Record:
    """What we remember beside a cluster that was made whole (`cluster.json`)."""

    version: str
    socket_dir: str


def settings_argv(binaries: Binaries, socket_dir: Path, changes: dict[str, str]) -> list[str]:
    """The settings as server arguments. `changes` win, except over where the server listens."""
    settings = dict(_SETTINGS)
    if binaries.major >= 18:
        settings |= _SETTINGS_SINCE_18
    quoted = str(socket_dir).replace('"', '""')
    settings |= changes
    settings |= {"listen_addresses": "", "unix_socket_directories": f'"{quoted}"', "port": "5432"}
    return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]


def read_record(data_dir: Path) -> Record | None:
    """The record, or None where there is none; one that cannot be read counts as none, as it holds no data."""
    try:
        fields = json.loads((data_dir / "cluster.json").read_text(encoding="utf-8"))
        return Record(version=str(fields["version"]), socket_dir=str(fields["socket_dir"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def write_record(data_dir: Path, record: Record) -> None:
    write_durably(data_dir / "cluster.json", json.dumps(asdict(record)) + "\n", 0o600)


def write_durably(path: Path, text: str, mode: int) -> None:
    """Replace a file so that a crash leaves the old or the new content. Raises `disk_full`, `data_dir_unwritable`."""
    making = path.with_name(f".{path.name}.new")
    try:
        making.unlink(missing_ok=True)
        descriptor = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, mode)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        making.rename(path)
        sync_directory(path.parent)
    except OSError as failure:
        with contextlib.suppress(OSError):
            making.unlink()
        raise from_os(failure, f"{path} cannot be written") from failure


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_whole(cluster: Path) -> bool:
    """Was initdb finished here? `pg_control` is among the last files it writes, `PG_VERSION` among the first."""
    return (cluster / "PG_VERSION").is_file() and (cluster / "global" / "pg_control").is_file()


def check_version(
    cluster: Path, record: Record | None, binaries: Binaries, log: Callable[[str], None]
) -> None:
    """Refuse a cluster of another major version (`data_dir_version`); tell of another minor one."""
    major = (cluster / "PG_VERSION").read_text(encoding="utf-8").strip()
    if major != str(binaries.major):
        raise EmbeddedPostgresError(
            "data_dir_version",
            f"{cluster} was made by PostgreSQL {major}, and the PostgreSQL at hand is {binaries.version}.",
            f"Move the data over with a dump: with PostgreSQL {major}'s own programs run "
            f"`pg_ctl -D {cluster} start`, `pg_dump -Fc -f flakes.dump {DATABASE}` and `pg_ctl -D {cluster} stop`; "
            f"move {cluster.parent} away; start Flakes once with PostgreSQL {binaries.version}; then "
            f"`pg_restore --clean --if-exists -d {DATABASE} flakes.dump`.",
        )
    if record is not None and record.version != binaries.version:
        newer = _numbers(binaries.version) > _numbers(record.version)
        what = "upgrading" if newer else "going back"
        log(
            f"{what} from PostgreSQL {record.version} to {binaries.version}; the data files stay as they are"
        )


def read_password(data_dir: Path) -> str | None:
    """The password of both roles. Its file is readable by the user that runs Flakes alone, not by the server."""
    try:
        return (data_dir / "password").read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None


def make_password(data_dir: Path) -> str:
    """Write a new password."""
    password = secrets.token_urlsafe(32)
    write_durably(data_dir / "password", password + "\n", 0o600)
    return password


def sweep_unfinished(data_dir: Path, log: Callable[[str], None]) -> None:
    """Clear away what an interrupted attempt left: ours is deleted, a foreign half-made `data/` is set aside."""
    for making in data_dir.glob(f"{_MAKING_PREFIX}*"):
        log(f"removing {making}, left by an initialisation that was interrupted")
        shutil.rmtree(making, ignore_errors=True)
    cluster = data_dir / "data"
    if not cluster.exists():
        return
    try:
        cluster.rmdir()  # an empty directory is nobody's data
    except OSError:
        aside = _free_name(data_dir / "data.incomplete")
        log(f"{cluster} is not a whole PostgreSQL cluster; setting it aside as {aside}")
        cluster.rename(aside)


def create(
    account: Account, binaries: Binaries, data_dir: Path, password: str, log: Callable[[str], None]
) -> None:
    """Make `data_dir/data`: initdb, the role and the database, then one rename.

    Raises `initdb_failed`, `disk_full`, `data_dir_unwritable`; `data/` is then still absent.
    """
    log(f"initialising a PostgreSQL {binaries.version} cluster in {data_dir / 'data'}")
    making = data_dir / f"{_MAKING_PREFIX}{secrets.token_hex(4)}"
    cluster = making / "data"
    try:
        making.mkdir(mode=0o700)
        cluster.mkdir(mode=0o700)
        account.give(cluster, 0o700)
        secret = making / "secret"
        secret.touch(mode=0o600, exist_ok=False)
        secret.write_text(password + "\n", encoding="utf-8")
        account.give(secret, 0o600)
        account.give(making, 0o700)
        argv = [binaries.program("initdb"), "--pgdata", str(cluster), "--username", ADMIN]
        argv += ["--pwfile", str(secret), "--auth=scram-sha-256", "--data-checksums"]
        argv += ["--encoding=UTF8", "--locale=C"]
        if binaries.major >= 17:
            argv += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        done = account.run(argv, env=CLEAN_ENV, timeout_s=_INITDB_TIMEOUT_S)
        if done.returncode != 0:
            raise failed(
                "initdb_failed",
                f"PostgreSQL could not make a cluster in {data_dir}.",
                done.stdout,
                "Read what initdb said above; a second start begins afresh.",
            )
        literal = _literal(password)
        run_single(account, binaries, cluster, f"create role {ROLE} login password {literal}")
        run_single(account, binaries, cluster, f"create database {DATABASE} owner {ROLE}")
        cluster.rename(data_dir / "data")
        sync_directory(data_dir)
    except OSError as failure:
        raise from_os(failure, f"A cluster cannot be made in {data_dir}") from failure
    except subprocess.TimeoutExpired as failure:
        raise EmbeddedPostgresError(
            "initdb_failed",
            f"PostgreSQL did not finish making a cluster in {data_dir} within {_INITDB_TIMEOUT_S:.0f} s.",
            "See whether the disk is very slow or the machine overloaded, and start again.",
        ) from failure
    finally:
        shutil.rmtree(making, ignore_errors=True)


def run_single(account: Account, binaries: Binaries, cluster: Path, statement: str) -> None:
    """Run one statement in PostgreSQL's single-user mode: no server, no password, one line. Raises `initdb_failed`."""
    argv = [
        binaries.program("postgres"),
        "--single",
        "-D",
        str(cluster),
        "-c",
        "log_min_error_statement=panic",
    ]
    argv += ["-c", "exit_on_error=on", "postgres"]
    done = account.run(argv, env=CLEAN_ENV, stdin=statement + "\n", timeout_s=_INITDB_TIMEOUT_S)
    if done.returncode != 0 or re.search(r"\b(?:ERROR|FATAL|PANIC):", done.stdout):
        raise failed(
            "initdb_failed",
            f"PostgreSQL could not prepare the cluster in {cluster}.",
            done.stdout,
            "Read what PostgreSQL said above; a second start begins afresh.",
        )


def renew_password(account: Account, binaries: Binaries, cluster: Path, password: str) -> None:
    """Give both roles of a stopped cluster a new password, because its file was lost."""
    for role in (ADMIN, ROLE):
        run_single(account, binaries, cluster, f"alter role {role} password {_literal(password)}")


def damaged(data_dir: Path, record: Record) -> EmbeddedPostgresError:
    """The refusal to start empty where there has been a database."""
    return EmbeddedPostgresError(
        "data_dir_damaged",
        f"{data_dir} has held a PostgreSQL {record.version} database, and {data_dir / 'data'} is missing or not whole."
        + tail("\n".join(sorted(entry.name for entry in data_dir.iterdir()))),
        f"Restore {data_dir / 'data'} from a backup. To start with an empty database instead, move {data_dir} away.",
    )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _free_name(path: Path) -> Path:
    number = 1
    while (candidate := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return candidate


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
