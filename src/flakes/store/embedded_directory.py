"""The directories around an embedded PostgreSQL: its data directory, its lock, the directory of its socket.

The data directory belongs to the user that runs Flakes; only `data/` and `run/` in it belong to the account that runs
the server, so a server that went astray can neither read the password nor replace the programs.

This module refuses to open other people's directories: it changes the mode of nothing but the data directory and what
it made itself. What is in the way is reported.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from flakes.store.embedded_account import Account, name_of
from flakes.store.embedded_cluster import Record
from flakes.store.embedded_error import EmbeddedPostgresError, from_os
from flakes.store.embedded_process import PORT

_SOCKET_PATH_BYTES_MAX = 103 if sys.platform == "darwin" else 107
_LOCK_POLL_S = 0.01
# Clients read a comma in a host as a list, and a line break would break the pid file.
_UNFIT_CHARACTERS = frozenset(",'\"\\\n")
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - directories in it are made private, or refused


def prepare(data_dir: Path, account: Account) -> None:
    """Make the data directory, reachable for the account, or say what stands in the way.

    Raises `data_dir_unreachable`, `data_dir_owner`, `data_dir_unwritable`, `disk_full`.
    """
    missing = [p for p in (data_dir, *data_dir.parents) if not p.exists()]
    existing = missing[-1].parent if missing else data_dir
    try:
        if not missing and account.switch and existing.stat().st_uid == os.geteuid():
            # The server has to pass through its data directory; what lies in it stays closed to it.
            mode = stat.S_IMODE(existing.stat().st_mode)
            if mode & 0o011 != 0o011:
                existing.chmod(mode | 0o011)
        if account.switch and not account.reaches(existing):
            raise _unreachable(account, data_dir, account.obstacle(existing))
        for directory in reversed(missing):
            directory.mkdir(mode=0o700, exist_ok=True)
            if account.switch:
                directory.chmod(0o711)
        _check_owner(data_dir, data_dir, os.geteuid())
        if (data_dir / "data").exists():
            _check_owner(data_dir, data_dir / "data", account.uid)
        (data_dir / "log").mkdir(mode=0o700, exist_ok=True)
    except OSError as failure:
        raise from_os(failure, f"The data directory {data_dir} cannot be used") from failure


@contextlib.contextmanager
def locked(data_dir: Path, deadline: float) -> Iterator[None]:
    """Hold the data directory's lock: it guards starting and stopping, and everything either writes.

    `deadline` is a time of the monotonic clock. The lock goes with its holder, however that ends. Raises `start_busy`.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(data_dir / "lock", flags, 0o600)
    except OSError as failure:
        raise from_os(failure, f"The data directory {data_dir} cannot be locked") from failure
    try:
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    "start_busy",
                    f"Another process has been starting or stopping PostgreSQL in {data_dir}.",
                    "Wait for it to finish, or end it; its lock goes with it.",
                )
            time.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(descriptor)


def socket_dir(data_dir: Path, account: Account, record: Record | None) -> Path:
    """A private directory for the socket: `run/`, or one under a temporary directory where that is too long.

    The latter's name comes from the data directory's, and the record remembers it. Raises `socket_dir_missing`.
    """
    run = data_dir / "run"
    if _fits(run):
        run.mkdir(mode=0o700, exist_ok=True)
        account.give(run, 0o700)
        return run
    name = "flakes-" + hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    bases = [Path(base) for base in dict.fromkeys((tempfile.gettempdir(), *_TEMPORARY))]
    bases = [
        b for b in bases if b.is_dir() and _fits(b / f"{name}-12345678") and account.reaches(b)
    ]
    remembered = [] if record is None else [Path(record.socket_dir)]
    # A record that came along with a copied data directory names the original's socket directory.
    remembered = [directory for directory in remembered if directory.name.startswith(name)]
    for directory in [*remembered, *(base / name for base in bases)]:
        if _fits(directory) and _make_private(account, directory):
            return directory
    for base in bases:
        # Somebody else holds the names we would like. Any private one does, as it is remembered.
        with contextlib.suppress(OSError):
            directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=base))
            account.give(directory, 0o700)
            return directory
    raise EmbeddedPostgresError(
        "socket_dir_missing",
        f"{data_dir} is too long for a Unix socket, and no temporary directory serves instead.",
        "Choose a data directory with a shorter path, or set TMPDIR to a directory that all users may enter.",
    )


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _fits(directory: Path) -> bool:
    name = os.fsencode(directory / f".s.PGSQL.{PORT}")
    return len(name) <= _SOCKET_PATH_BYTES_MAX and not _UNFIT_CHARACTERS & set(str(directory))


def _make_private(account: Account, directory: Path) -> bool:
    """Make or take over a directory that the account alone can enter. False where it is somebody else's."""
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != account.uid:
            return False
    except OSError:
        return False
    account.give(directory, 0o700)
    return True


def _check_owner(data_dir: Path, path: Path, uid: int) -> None:
    owner = path.stat().st_uid
    if owner != uid:
        raise EmbeddedPostgresError(
            "data_dir_owner",
            f"{path} belongs to {name_of(owner)}, and here it would have to belong to {name_of(uid)}.",
            f"Run Flakes as the user that made {data_dir}, or choose another data directory.",
        )


def _unreachable(account: Account, data_dir: Path, obstacle: Path) -> EmbeddedPostgresError:
    mode = stat.S_IMODE(obstacle.stat().st_mode)
    return EmbeddedPostgresError(
        "data_dir_unreachable",
        f"PostgreSQL has to run as user {account.name}, because it refuses to run as root, and {account.name} cannot "
        f"enter {obstacle} (mode {mode:04o}) on the way to the data directory {data_dir}.",
        "Choose a data directory below one that all users may enter, such as /var/lib/flakes, or run Flakes as an "
        "ordinary user.",
    )
