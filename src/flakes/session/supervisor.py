"""The supervisor: keeps a server and a host running until it is told to stop, then ends both.

It owns the session's record and its two children, and knows them only as command lines. A child that
dies is started again with back-off; a child that outlived a killed supervisor is adopted, so that a
crash here costs no running task. While the session starts, progress goes through a pipe to whoever
started it, one JSON object a line: `{"progress": sentence}`, then `{"ready": true}` or
`{"failed": {"log": name, "message": sentence}}`.

On SIGTERM or SIGINT: the host first (it ends its sandboxes), then the server (it ends its database), each
within a bound; then whatever is still there is swept away, and the record is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from flakes import __version__
from flakes.session import processes, record, setup
from flakes.session.layout import Layout
from flakes.session.processes import Identity
from flakes.wire.errors import ApiError

READY_TIMEOUT_S: Final = 120.0
"""The first start of a database on a slow disk is what this allows for."""
HOST_TIMEOUT_S: Final = 20.0
BACKOFF_S: Final = 0.5
BACKOFF_MAX_S: Final = 30.0
STEADY_AFTER_S: Final = 30.0
"""A child that lived this long is healthy: its next death starts the back-off anew."""
LOG_BYTES_MAX: Final = 16 * 1024 * 1024
UNSET: Final = ("FLAKES_TOKEN", "FLAKES_SERVER", "FLAKES_READY_FILE")
"""A user's choices for the CLI mean nothing to the children, and tasks must not inherit a token."""


class StartError(Exception):
    """The session did not come up; `log` names the child whose log says why."""

    def __init__(self, log: str, message: str) -> None:
        super().__init__(message)
        self.log = log


class Child:
    """One supervised program: at most one process of it at a time."""

    def __init__(self, role: str, argv: list[str], log: Path, env: Mapping[str, str]) -> None:
        self.role = role
        self._argv = argv
        self._log = log
        self._env = env
        self._process: asyncio.subprocess.Process | None = None
        self.identity: Identity | None = None

    def adopt(self, identity: Identity) -> None:
        """Take over a process that somebody else started."""
        self._process = None
        self.identity = identity

    async def start(self) -> None:
        """Start a process, its output appended to the log."""
        with contextlib.suppress(FileNotFoundError):
            if self._log.stat().st_size > LOG_BYTES_MAX:
                self._log.replace(self._log.with_suffix(".log.1"))
        descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                env=dict(self._env),
                # Its own session: signals meant for the supervisor's group do not reach it unasked.
                start_new_session=True,
            )
        finally:
            os.close(descriptor)
        self.identity = processes.identity_of(self._process.pid)

    async def wait(self) -> None:
        """Until the process has ended."""
        if self._process is not None:
            await self._process.wait()
        elif self.identity is not None:
            # Not a child of ours, so nobody tells us: look.
            while processes.alive(self.identity):  # noqa: ASYNC110
                await asyncio.sleep(0.25)
        self.identity = None

    async def stop(self) -> None:
        """Politely, then not; returns when the process is gone."""
        if self.identity is None:
            return
        processes.send(self.identity, signal.SIGTERM)
        try:
            async with asyncio.timeout(processes.STOP_GRACE_S[self.role]):
                await self.wait()
        except TimeoutError:
            if self.identity is not None:
                processes.send(self.identity, signal.SIGKILL)
            await self.wait()


class Supervisor:
    """One run of a session. `report` takes the progress records described above."""

    def __init__(self, layout: Layout, report: Callable[[dict[str, Any]], None]) -> None:
        self._layout = layout
        self._report = report
        self._server_url = ""
        self._status: str = "starting"
        env = {k: v for k, v in os.environ.items() if k not in UNSET}
        server_env = env | {"FLAKES_READY_FILE": str(layout.ready_file)}
        python = [sys.executable, "-P", "-m"]
        self._server = Child(
            "server",
            [*python, "flakes.server", "--config", str(layout.server_config)],
            layout.log("server"),
            server_env,
        )
        self._host = Child(
            "host",
            [*python, "flakes.host", "run", "--config", str(layout.host_config)],
            layout.log("host"),
            env,
        )

    async def run(self) -> int:
        """Bring the session up, keep it up, take it down. Returns the exit code."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, stop.set)
        working = asyncio.create_task(self._work())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
            return 0
        except StartError as error:
            _say(f"the session did not start: {error}")
            self._report({"failed": {"log": error.log, "message": str(error)}})
            return 1
        finally:
            stopping.cancel()
            working.cancel()
            await asyncio.gather(working, stopping, return_exceptions=True)
            await self._end()

    async def _work(self) -> None:
        self._adopt()
        if self._server.identity is None:
            await self._start_server()
        else:
            self._server_url = _ready_address(self._layout) or ""
        await self._start_host()
        self._status = "ready"
        self._write()
        self._report({"ready": True})
        _say(f"ready: {self._server_url}")
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep(self._server, self._restart_server))
            group.create_task(self._keep(self._host, self._host.start))

    def _adopt(self) -> None:
        """Take over children that outlived a supervisor which was killed."""
        left = {child.role: child for child in (self._server, self._host)}
        old = record.read(self._layout)
        for role, process in (old.processes if old else {}).items():
            child = left.get(role)
            if child is not None and processes.alive(process.identity):
                child.adopt(process.identity)
                _say(f"adopted the running {role}, pid {process.pid}")
        if self._server.identity is not None and _ready_address(self._layout) is None:
            # It never became ready, and nothing tells where it will listen: begin again.
            processes.send(self._server.identity, signal.SIGKILL)
            processes.wait_gone([self._server.identity], 5.0)
            self._server.identity = None
        known = {c.identity.pid for c in left.values() if c.identity is not None}
        strays = [
            found
            for found in processes.of_session(self._layout.root, known)
            if found.role in ("server", "host")
        ]
        processes.stop(strays)

    async def _start_server(self) -> None:
        """Start the server and wait until it listens."""
        self._report({"progress": "starting the control plane"})
        try:
            setup.server_config(self._layout)
        except ApiError as error:
            raise StartError("supervisor", f"{error.message}; {error.fix}") from error
        self._layout.ready_file.unlink(missing_ok=True)
        await self._server.start()
        self._write()
        ended = asyncio.create_task(self._server.wait())
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                while (address := _ready_address(self._layout)) is None:
                    if ended.done():
                        raise StartError("server", "the control plane ended while it started")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            await self._server.stop()
            message = f"the control plane was not ready within {READY_TIMEOUT_S:g} s"
            raise StartError("server", message) from None
        finally:
            ended.cancel()
        self._server_url = address

    async def _start_host(self) -> None:
        """Set the host up when it is new, start it, and wait until the server sees it."""
        self._report({"progress": "connecting this machine as a host"})
        try:
            changed = await asyncio.to_thread(setup.host_config, self._layout, self._server_url)
        except (ApiError, OSError) as error:
            raise StartError("server", f"the host cannot be set up: {error}") from error
        if changed:
            # An adopted one would look for the control plane where it no longer is.
            await self._host.stop()
        if self._host.identity is None:
            await self._host.start()
        self._write()
        ended = asyncio.create_task(self._host.wait())
        deadline = time.monotonic() + HOST_TIMEOUT_S
        try:
            while time.monotonic() < deadline:
                if ended.done():
                    raise StartError("host", "the host ended while it started")
                if await asyncio.to_thread(setup.host_is_online, self._layout, self._server_url):
                    return
                await asyncio.sleep(0.05)
            # Not a failure: it goes on trying, and the session is of use without it.
            _say(f"the host is not connected after {HOST_TIMEOUT_S:g} s; going on without it")
        except (ApiError, OSError) as error:
            _say(f"cannot ask whether the host is connected: {error}")
        finally:
            ended.cancel()

    async def _restart_server(self) -> None:
        before = self._server_url
        await self._start_server()
        if self._server_url != before:
            await asyncio.to_thread(setup.host_config, self._layout, self._server_url)
            # The host starts again by itself, and reads the new address.
            if self._host.identity is not None:
                processes.send(self._host.identity, signal.SIGTERM)

    async def _keep(self, child: Child, start: Callable[[], Awaitable[None]]) -> None:
        """Whenever the child has ended, start it again: soon at first, then ever later."""
        failures = 0
        while True:
            since = time.monotonic()
            await child.wait()
            failures = 0 if time.monotonic() - since > STEADY_AFTER_S else failures + 1
            delay_s = min(BACKOFF_MAX_S, BACKOFF_S * 2 ** max(0, failures - 1))
            _say(f"the {child.role} ended; starting it again in {delay_s:g} s")
            await asyncio.sleep(delay_s)
            try:
                await start()
            except (StartError, OSError, ApiError) as error:
                _say(f"the {child.role} did not start: {error}")
            else:
                _say(f"the {child.role} runs again")
            try:
                self._write()
            except OSError as error:
                _say(f"the session's record cannot be written: {error}")

    async def _end(self) -> None:
        await self._host.stop()
        await self._server.stop()
        await asyncio.to_thread(sweep, self._layout)
        self._layout.ready_file.unlink(missing_ok=True)
        self._layout.record.unlink(missing_ok=True)
        _say("stopped")

    def _write(self) -> None:
        me = processes.identity_of(os.getpid())
        assert me is not None
        children = (self._server, self._host)
        record.write(
            self._layout,
            record.Record(
                name=self._layout.name,
                status="ready" if self._status == "ready" else "starting",
                pid=me.pid,
                start_time=me.start,
                server=self._server_url,
                console_url=f"{self._server_url}/console/",
                credential_file=str(self._layout.owner_credential),
                data_dir=str(self._layout.data_dir),
                version=__version__,
                processes={c.role: record.process(c.identity) for c in children if c.identity},
            ),
        )


def sweep(layout: Layout) -> list[processes.Found]:
    """End what a killed host or server left behind; returns what could not be ended."""
    return processes.stop(processes.of_session(layout.root))


def supervise(layout: Layout, report_fd: int | None) -> int:
    """Run a supervisor in this process, once the session is free. Returns the exit code."""
    layout.make()
    descriptor = os.open(layout.supervisor_lock, os.O_RDWR | os.O_CREAT, 0o600)
    report = _reporter(report_fd)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        report({"failed": {"log": "supervisor", "message": "the session has a supervisor already"}})
        return 1
    _say(f"supervising the session {layout.name} in {layout.root}, version {__version__}")
    return asyncio.run(Supervisor(layout, report).run())


def _reporter(report_fd: int | None) -> Callable[[dict[str, Any]], None]:
    def report(message: dict[str, Any]) -> None:
        if report_fd is not None:
            # Nobody may be listening any more; that is no reason to stop.
            with contextlib.suppress(OSError):
                os.write(report_fd, json.dumps(message).encode() + b"\n")

    return report


def _ready_address(layout: Layout) -> str | None:
    try:
        return str(json.loads(layout.ready_file.read_text(encoding="utf-8"))["server"])
    except (OSError, ValueError, KeyError):
        return None


def _say(sentence: str) -> None:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    # A full disk costs a line of the log, not the session.
    with contextlib.suppress(OSError):
        print(f"{stamp} supervisor: {sentence}", file=sys.stderr, flush=True)  # noqa: T201
