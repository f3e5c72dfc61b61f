"""An embedded PostgreSQL: one server for one data directory, reached through a Unix socket alone.

This module owns the server's life: find it, start it, recover it after any kill, stop it. The server is not a part of
the process that starts it: it has a session of its own and goes on when that process dies, so that the next one finds
it and everything committed in it.

It refuses to know tables, migrations and connection pools; it hands out a connection string. It never opens a network
port, never trusts a client without a password, never changes anything outside its data directory (but for one socket
directory under the system's temporary directory where the data directory's path is too long for a socket).

Invariants. Starting and stopping hold one file lock, so of many processes one acts and the others find its result.
`data/` is a whole cluster or absent. A pid is believed only where it is a PostgreSQL in that directory. An empty
database never takes the place of one that was there. docs/design/002-embedded-postgresql.md tells the reasons.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal
from urllib.parse import quote

from flakes.store import embedded_cluster, embedded_directory, embedded_process
from flakes.store.embedded_account import CLEAN_ENV, Account, service_account
from flakes.store.embedded_binaries import Binaries, Places, usable, usual_places
from flakes.store.embedded_cluster import DATABASE, ROLE, Record
from flakes.store.embedded_error import EmbeddedPostgresError, failed, from_os
from flakes.store.embedded_process import PORT, Answer, PidFile

__all__ = ["ConnectionInfo", "EmbeddedPostgres", "EmbeddedPostgresError"]

_LOG_BYTES_MAX = 4 * 1024 * 1024
_POLL_S = 0.01
_SLOW_POLL_S = 0.05
_CONFLICT_S = 15.0  # how long the children of a killed server may take to go
_ORPHAN_QUIT_S = 0.5
_ORPHAN_KILL_S = 2.5
_LOST_SOCKET_S = 1.0
# How PostgreSQL says that a predecessor is still there. Messages are untranslated: the server runs with lc_messages=C.
_CONFLICT_SIGNS = (
    "pre-existing shared memory block",
    "already exists",
    "could not bind Unix address",
    "is empty",
)


@dataclass(frozen=True)
class ConnectionInfo:
    """How to reach the server. `dsn` holds the password, so it does not appear in the repr."""

    dsn: str = field(repr=False)
    socket_dir: Path
    version: str
    started_by_us: bool


class EmbeddedPostgres:
    """The server of one data directory. Every method blocks; an async caller uses a thread.

    `settings` are further PostgreSQL settings and win over ours, except over where the server listens; they take
    effect when the server is launched. `places` says where to look for PostgreSQL's programs. Objects keep no state
    worth anything: any number of them, in any process, may stand for the same data directory.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        log: Callable[[str], None] = lambda line: None,
        settings: Mapping[str, str] | None = None,
        places: Places | None = None,
    ) -> None:
        self._data_dir = Path(data_dir).absolute().resolve()
        self._cluster = self._data_dir / "data"
        self._log = log
        self._settings = dict(settings or {})
        self._places = places

    def start(self, *, timeout_s: float = 60.0) -> ConnectionInfo:
        """Find the running server or launch it, initialising the data directory on first use.

        Idempotent, and safe to call in many processes at once. Raises EmbeddedPostgresError; after `start_timeout`
        the server goes on recovering and a later call finds it.
        """
        account = service_account()
        deadline = time.monotonic() + timeout_s
        embedded_directory.prepare(self._data_dir, account)
        with embedded_directory.locked(self._data_dir, deadline):
            try:
                return self._start(account, deadline)
            except OSError as failure:
                raise from_os(
                    failure, f"PostgreSQL cannot be started in {self._data_dir}"
                ) from failure

    def stop(
        self, mode: Literal["smart", "fast", "immediate"] = "fast", timeout_s: float = 30.0
    ) -> None:
        """Stop the server and wait until it is gone; nothing happens where none runs.

        A server that has not ended after `timeout_s` is stopped the immediate way (it recovers at the next start), and
        at last killed. Raises `start_busy` where another process is starting it, `not_stopped` where nothing helped.
        """
        first = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode]
        if not self._cluster.exists():
            return
        with embedded_directory.locked(self._data_dir, time.monotonic() + timeout_s):
            try:
                pid_file = embedded_process.read_pid_file(self._cluster)
            except OSError as failure:
                raise from_os(failure, f"{self._cluster} cannot be read") from failure
            if pid_file is not None:
                self._end(pid_file.pid, first, timeout_s)

    def is_running(self) -> bool:
        """Does the server take connections now?"""
        try:
            pid_file = embedded_process.read_pid_file(self._cluster)
        except OSError as failure:
            raise from_os(failure, f"{self._cluster} cannot be read") from failure
        return pid_file is not None and self._ask(pid_file) is Answer.READY

    # Starting

    def _start(self, account: Account, deadline: float) -> ConnectionInfo:
        record = embedded_cluster.read_record(self._data_dir)
        if (running := self._await_running(deadline)) is not None:
            self._shorten_log()
            return self._found(running, record)
        binaries = usable(account, self._data_dir, self._places or usual_places(), self._log)
        self._ready_cluster(account, binaries, record)
        socket_dir = embedded_directory.socket_dir(self._data_dir, account, record)
        conflict_deadline = time.monotonic() + _CONFLICT_S
        pause_s = 0.02
        while True:
            self._clear_leftovers(socket_dir)
            conflict = self._launch(account, binaries, socket_dir, deadline)
            if conflict is None:
                break
            if time.monotonic() > min(conflict_deadline, deadline):
                raise failed(
                    "start_failed",
                    f"Another PostgreSQL still holds {self._cluster}.",
                    conflict,
                    "End the process that PostgreSQL names above, and start again.",
                )
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.5)
            if (running := self._await_running(deadline)) is not None:
                return self._found(running, record)
        now = Record(version=binaries.version, socket_dir=str(socket_dir))
        if now != record:
            embedded_cluster.write_record(self._data_dir, now)
        self._drop_old_copies(binaries)
        return self._info(socket_dir, PORT, binaries.version, started_by_us=True)

    def _await_running(self, deadline: float) -> PidFile | None:
        """The server that runs already, once it is ready; None where none runs."""
        lost_since: float | None = None
        while True:
            pid_file = embedded_process.read_pid_file(self._cluster)
            if pid_file is None:
                return None
            answer = self._ask(pid_file)
            if answer is Answer.READY:
                return pid_file
            alive = embedded_process.is_postmaster(pid_file.pid, self._cluster)
            if not alive and answer is Answer.ABSENT:
                return None
            now = time.monotonic()
            if answer is Answer.ABSENT and pid_file.state == "ready":
                # Something removed its socket (a cleaner of temporary files): nobody can reach it any more.
                lost_since = lost_since or now
                if now - lost_since > _LOST_SOCKET_S:
                    self._log(f"PostgreSQL {pid_file.pid} has lost its socket; restarting it")
                    self._end(pid_file.pid, signal.SIGINT, timeout_s=10.0)
                    return None
            else:
                lost_since = None
            if now > deadline:
                raise self._timed_out(pid_file.pid, answer)
            time.sleep(_POLL_S)

    def _ready_cluster(self, account: Account, binaries: Binaries, record: Record | None) -> None:
        """Make sure that `data/` is a whole cluster of the right version and that we know its password."""
        whole = embedded_cluster.is_whole(self._cluster)
        if not whole and record is not None:
            raise embedded_cluster.damaged(self._data_dir, record)
        password = embedded_cluster.read_password(self._data_dir)
        if whole:
            embedded_cluster.check_version(self._cluster, record, binaries, self._log)
            if password is None:
                self._log("the password file was lost; setting a new password")
                self._clear_leftovers(None)
                password = embedded_cluster.make_password(self._data_dir)
                try:
                    embedded_cluster.renew_password(account, binaries, self._cluster, password)
                except EmbeddedPostgresError:
                    (self._data_dir / "password").unlink()  # so that the next start tries again
                    raise
            return
        embedded_cluster.sweep_unfinished(self._data_dir, self._log)
        password = password or embedded_cluster.make_password(self._data_dir)
        embedded_cluster.create(account, binaries, self._data_dir, password, self._log)

    def _clear_leftovers(self, socket_dir: Path | None) -> None:
        """Clear away what a killed server left. Called only when no server is alive in this data directory."""
        pid_file = embedded_process.read_pid_file(self._cluster)
        if pid_file is not None and embedded_process.is_postmaster(pid_file.pid, self._cluster):
            return  # one has come to life since: the launch will say so
        self._end_orphans()
        if pid_file is not None and _exists(pid_file.pid):
            self._log(
                f"pid {pid_file.pid} of the last PostgreSQL now belongs to another program; starting anew"
            )
            embedded_process.forget_pid(self._cluster, pid_file.pid)
        elif pid_file is None:
            (self._cluster / embedded_process.PID_FILE).unlink(
                missing_ok=True
            )  # empty: killed while writing it
        if socket_dir is not None:
            for name in (f".s.PGSQL.{PORT}", f".s.PGSQL.{PORT}.lock"):
                (socket_dir / name).unlink(missing_ok=True)

    def _end_orphans(self) -> None:
        """Wait for the children of a killed server; a stubborn one is ended, which recovery covers as it does the kill."""
        begun = time.monotonic()
        while pids := embedded_process.orphans(self._cluster):
            waited_s = time.monotonic() - begun
            if waited_s > _CONFLICT_S:
                return  # PostgreSQL itself refuses then, and names the reason
            if waited_s > _ORPHAN_QUIT_S:
                number = signal.SIGKILL if waited_s > _ORPHAN_KILL_S else signal.SIGQUIT
                for pid in pids:
                    embedded_process.send(pid, self._cluster, number)
            time.sleep(_POLL_S if waited_s < 1 else _SLOW_POLL_S)

    def _launch(
        self, account: Account, binaries: Binaries, socket_dir: Path, deadline: float
    ) -> str | None:
        """Launch the server and wait until it is ready; the text of its refusal where a predecessor still lives."""
        argv = [binaries.program("postgres"), "-D", str(self._cluster)]
        argv += embedded_cluster.settings_argv(binaries, socket_dir, self._settings)
        with self._open_log() as log:
            offset = log.seek(0, os.SEEK_END)
            process = account.launch(argv, env=CLEAN_ENV, log=log)
        # Whoever is its parent has to collect it when it ends; the thread also keeps `process` alive until then.
        threading.Thread(target=process.wait, name="embedded-postgres-reaper", daemon=True).start()
        begun = time.monotonic()
        while process.poll() is None:
            pid_file = embedded_process.read_pid_file(self._cluster)
            # Not asked before it says so: every refusal while it is starting would be a line in its log.
            if pid_file and (pid_file.pid, pid_file.state) == (process.pid, "ready"):
                answer = self._ask(pid_file)
            else:
                answer = Answer.BUSY
            if answer is Answer.READY:
                return None
            now = time.monotonic()
            if now > deadline:
                raise self._timed_out(process.pid, answer)
            time.sleep(_POLL_S if now - begun < 2 else _SLOW_POLL_S)
        with self._open_log() as log:
            log.seek(offset)
            said = log.read().decode("utf-8", errors="replace")
        if any(sign in said for sign in _CONFLICT_SIGNS):
            return said
        raise failed(
            "start_failed",
            f"PostgreSQL {binaries.version} did not start in {self._data_dir} (exit status {process.returncode}).",
            said,
            f"Read what PostgreSQL said above; its whole log is {self._log_path}.",
        )

    def _timed_out(self, pid: int, answer: Answer) -> EmbeddedPostgresError:
        state = {
            Answer.SILENT: "takes connections but does not answer (it may be stopped or starved)",
            Answer.BUSY: "is still starting, recovering or shutting down",
        }.get(answer, "has not opened its socket")
        return EmbeddedPostgresError(
            "start_timeout",
            f"PostgreSQL (pid {pid}) in {self._data_dir} {state}.",
            f"It goes on by itself: see {self._log_path} and start again later, with a longer timeout if need be.",
        )

    # The log

    @property
    def _log_path(self) -> Path:
        return self._data_dir / "log" / "postgresql.log"

    def _open_log(self) -> IO[bytes]:
        with contextlib.suppress(FileNotFoundError):
            if self._log_path.stat().st_size > _LOG_BYTES_MAX:
                self._log_path.replace(self._log_path.with_suffix(".log.1"))
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.fdopen(os.open(self._log_path, flags, 0o600), "r+b", buffering=0)

    def _shorten_log(self) -> None:
        """Shorten the log of a running server: it appends, so a copy and a truncation lose at most a line."""
        with contextlib.suppress(FileNotFoundError):
            if self._log_path.stat().st_size > _LOG_BYTES_MAX:
                shutil.copyfile(self._log_path, self._log_path.with_suffix(".log.1"))
                os.truncate(self._log_path, 0)

    # Finding and ending

    def _ask(self, pid_file: PidFile) -> Answer:
        if pid_file.socket_dir is None or pid_file.cluster.resolve() != self._cluster.resolve():
            return Answer.ABSENT
        return embedded_process.ask(pid_file.socket_dir, pid_file.port, ROLE, DATABASE)

    def _found(self, running: PidFile, record: Record | None) -> ConnectionInfo:
        assert running.socket_dir is not None, "only a server with a socket is found ready"
        if record is not None:
            version = record.version
        else:
            version = (self._cluster / "PG_VERSION").read_text(encoding="utf-8").strip()
        return self._info(running.socket_dir, running.port, version, started_by_us=False)

    def _info(
        self, socket_dir: Path, port: int, version: str, *, started_by_us: bool
    ) -> ConnectionInfo:
        password = embedded_cluster.read_password(self._data_dir)
        if password is None:
            raise EmbeddedPostgresError(
                "password_missing",
                f"{self._data_dir / 'password'} is missing, so nobody can connect to the running PostgreSQL.",
                "Stop the server and start it again: it then gets a new password.",
            )
        host = quote(str(socket_dir), safe="")
        dsn = f"postgresql://{ROLE}:{quote(password, safe='')}@/{DATABASE}?host={host}&port={port}"
        return ConnectionInfo(
            dsn=dsn, socket_dir=socket_dir, version=version, started_by_us=started_by_us
        )

    def _end(self, pid: int, first: signal.Signals, timeout_s: float) -> None:
        """Signal the server until it and its children are gone, more firmly each time."""
        for number, patience_s in (
            (first, timeout_s),
            (signal.SIGQUIT, 5.0),
            (signal.SIGKILL, 10.0),
        ):
            if not embedded_process.send(pid, self._cluster, number):
                break
            embedded_process.send(
                pid, self._cluster, signal.SIGCONT
            )  # a frozen server would never see the signal
            deadline = time.monotonic() + patience_s
            while (
                embedded_process.is_postmaster(pid, self._cluster) and time.monotonic() < deadline
            ):
                time.sleep(_POLL_S)
        if embedded_process.is_postmaster(pid, self._cluster):
            raise EmbeddedPostgresError(
                "not_stopped",
                f"PostgreSQL (pid {pid}) in {self._data_dir} does not end, not even when killed.",
                "It hangs in the kernel, mostly on a dead disk: see the system's log.",
            )
        self._end_orphans()

    def _drop_old_copies(self, binaries: Binaries) -> None:
        """Remove copied programs of earlier versions; the server that used them is gone."""
        for old in self._data_dir.glob("bin-*"):
            if old != binaries.tree:
                shutil.rmtree(old, ignore_errors=True)


def _exists(pid: int) -> bool:
    """Is there any process of this pid, a dead but uncollected one included?"""
    if pid == os.getpid() or pid <= 0:
        return False  # PostgreSQL takes the pid of its own parent for left over
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
