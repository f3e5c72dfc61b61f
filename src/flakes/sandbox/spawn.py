"""Starting contained commands: the daemon's side of `supervisor.py`.

`Spawner` keeps one supervisor warm, with the pipes of its future command already attached, so that a
start costs a line on a pipe and not the start of an interpreter. `Spawned` is one command: its outputs,
its end, and the confirmation that nothing of it is left.

Invariants: `clean()` returns only when the tree is gone, confirmed by the supervisor or, when that was
killed itself, by a search for the assignment's mark. Dropping a supervisor's standard input kills its
tree: a daemon that dies in any way takes its commands with it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import structlog

from flakes.agents.base import AgentError, Exit
from flakes.sandbox import processes
from flakes.sandbox.isolation import Box, Isolation
from flakes.sandbox.pipes import Chunks, Feed

log = structlog.get_logger(__name__)

PROGRAM: Final = Path(__file__).with_name("supervisor.py")
SAID_LENGTH_MAX: Final = 300
STRAGGLER_S: Final = 1.0
"""How long an output may stay open after the tree is gone (its end was handed to a stranger)."""


class Supervisor:
    """One started supervisor process with its five pipes, and a socket that an isolated command's first
    process gets."""

    def __init__(
        self, popen: subprocess.Popen[bytes], command_stdin_fd: int, channel: socket.socket
    ) -> None:
        self._popen = popen
        self.pid = popen.pid
        self.start_time = processes.start_of(popen.pid) or ""
        self.orders = Feed()
        self.reports = Chunks()
        self.stdout = Chunks()
        self.stderr = Chunks()
        self.command_stdin_fd: int | None = command_stdin_fd
        self.channel = channel

    @classmethod
    async def start(cls) -> Supervisor:
        """Start one, idle. The interpreter of the daemon, isolated, with an empty environment."""
        loop = asyncio.get_running_loop()
        stdin_read, stdin_write = os.pipe()
        stdout_read, stdout_write = os.pipe()
        stderr_read, stderr_write = os.pipe()
        channel, theirs = socket.socketpair()
        passed = (stdin_read, stdout_write, stderr_write, theirs.detach())
        try:
            # From this thread, which lives as long as the daemon: the parent-death signal of Linux
            # fires when the thread that forked ends.
            popen = subprocess.Popen(  # noqa: ASYNC220
                [sys.executable, "-I", "-S", "-X", "utf8", str(PROGRAM), *map(str, passed)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=passed,
                env={},
                cwd="/",
                start_new_session=True,
                bufsize=0,
            )
        except OSError:
            for fd in (stdin_write, stdout_read, stderr_read):
                os.close(fd)
            channel.close()
            raise
        finally:
            for fd in passed:
                os.close(fd)
        assert popen.stdin is not None
        assert popen.stdout is not None
        self = cls(popen, stdin_write, channel)
        await loop.connect_write_pipe(lambda: self.orders, popen.stdin)
        await loop.connect_read_pipe(lambda: self.reports, popen.stdout)
        await loop.connect_read_pipe(lambda: self.stdout, os.fdopen(stdout_read, "rb", 0))
        await loop.connect_read_pipe(lambda: self.stderr, os.fdopen(stderr_read, "rb", 0))
        return self

    def alive(self) -> bool:
        return self._popen.poll() is None

    async def reaped(self) -> None:
        """Take in its end; called after the end of its reports, when it is about to be over."""
        if self._popen.poll() is None:
            await asyncio.to_thread(self._popen.wait)

    def close_command_stdin(self) -> None:
        if self.command_stdin_fd is not None:
            os.close(self.command_stdin_fd)
            self.command_stdin_fd = None

    def close(self) -> None:
        """Let go of every pipe: a supervisor without orders kills its tree and ends."""
        self.orders.close()
        self.channel.close()
        self.close_command_stdin()
        for chunks in (self.reports, self.stdout, self.stderr):
            chunks.close()


class Spawned:
    """One command and everything under it."""

    def __init__(self, supervisor: Supervisor, assignment_id: str) -> None:
        self._supervisor = supervisor
        self._assignment_id = assignment_id
        self.pid = 0
        self.stdout = supervisor.stdout
        self.stderr = supervisor.stderr
        loop = asyncio.get_running_loop()
        self._started: asyncio.Future[int] = loop.create_future()
        self._exit: asyncio.Future[Exit] = loop.create_future()
        self._clean: asyncio.Future[None] = loop.create_future()
        for future in (self._started, self._exit):
            # Each may end in an error that nobody waits for any more.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._stdin: Feed | None = None
        self._box: Box | None = None
        self._following = asyncio.create_task(self._follow(), name=f"follow {assignment_id}")

    async def begin(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        stdin: Path | Literal["pipe"] | None,
        box: Box | None = None,
    ) -> None:
        """Hand the command over and wait until it runs; raises `AgentError` when it cannot. However this
        ends, `clean()` tells when nothing of it is left."""
        job: dict[str, Any] = {"argv": list(argv), "env": dict(env), "cwd": str(cwd)}
        job["stdin"] = stdin if stdin in (None, "pipe") else str(stdin)
        if stdin == "pipe":
            fd = self._supervisor.command_stdin_fd
            assert fd is not None
            self._supervisor.command_stdin_fd = None
            self._stdin = feed = Feed()
            loop = asyncio.get_running_loop()
            await loop.connect_write_pipe(lambda: feed, os.fdopen(fd, "wb", 0))
        else:
            self._supervisor.close_command_stdin()
        if box is not None:
            self._box = box
            job["isolation"] = box.job()
            box.listen(self._supervisor.channel)
        await self._order(job)
        try:
            self.pid = await asyncio.shield(self._started)
        except AgentError as error:
            if error.code == "isolation_failed":
                await self.clean()
                error.message += await self._last_words()
            raise
        finally:
            if box is not None:
                box.listened(self._supervisor.channel)

    async def _last_words(self) -> str:
        """What the isolating program said before it gave up."""
        said = (await self.stderr.read()).decode("utf-8", "replace").strip()
        return f": {said[:SAID_LENGTH_MAX]}" if said else ""

    async def write(self, data: bytes) -> None:
        assert self._stdin is not None, "spawned without a pipe for standard input"
        await self._stdin.write(data)

    def close_stdin(self) -> None:
        if self._stdin is not None:
            self._stdin.close()

    async def wait(self) -> Exit:
        """How the command ended; raises `AgentError` `containment_lost` when nobody saw it."""
        return await asyncio.shield(self._exit)

    async def clean(self) -> None:
        """Until nothing of the tree is left."""
        await asyncio.shield(self._clean)

    async def terminate(self, grace_s: float) -> None:
        """SIGTERM to the group, SIGKILL to the whole tree after `grace_s`, and wait until it is gone."""
        if grace_s > 0 and not self._exit.done():
            await self._order({"do": "term"})
            await asyncio.wait({self._exit}, timeout=grace_s)
        await self._order({"do": "kill"})
        await self.clean()

    async def _order(self, order: dict[str, Any]) -> None:
        try:
            await self._supervisor.orders.write(msgspec.json.encode(order) + b"\n")
        except OSError:
            pass  # it is gone; its reports end too, and `_follow` finds out what is left

    async def _follow(self) -> None:
        clean = False
        async for line in self._supervisor.reports.lines():
            report = msgspec.json.decode(line)
            if "started" in report:
                self._settle(self._started, report["started"])
            elif "failed" in report:
                error = start_error(report["failed"])
                self._fail(self._started, error)
                self._fail(self._exit, error)
            elif "exited" in report:
                killed = report["signal"] == signal.SIGKILL and self._box is not None
                full = killed and self._box is not None and self._box.out_of_memory()
                self._settle(self._exit, Exit(report["exited"], report["signal"], full))
            elif "clean" in report:
                clean = True
        await self._supervisor.reaped()
        if not clean:
            log.warning(
                "supervisor lost", assignment_id=self._assignment_id, pid=self._supervisor.pid
            )
            await processes.kill_marked({self._assignment_id})
        lost = AgentError(
            "containment_lost",
            "the process that supervised the command was killed",
            "look for a lack of memory on the machine, or a task that kills its parent",
            lost=True,
        )
        self._fail(self._started, lost)
        self._fail(self._exit, lost)
        await self._let_outputs_end()
        self._clean.set_result(None)

    async def _let_outputs_end(self) -> None:
        """The pipes end with the tree, unless an end was passed to a process outside of it."""
        try:
            async with asyncio.timeout(STRAGGLER_S):
                await self.stdout.ended()
                await self.stderr.ended()
        except TimeoutError:
            log.warning("output held open by a stranger", assignment_id=self._assignment_id)
        self.close_stdin()
        self._supervisor.close()

    @staticmethod
    def _settle(future: asyncio.Future[Any], value: object) -> None:
        if not future.done():
            future.set_result(value)

    @staticmethod
    def _fail(future: asyncio.Future[Any], error: AgentError) -> None:
        if not future.done():
            future.set_exception(error)


class Spawner:
    """Starts commands, with one supervisor kept warm. With an `isolation`, nothing is started without it."""

    def __init__(self, isolation: Isolation | None = None) -> None:
        self.isolation = isolation
        self._spare: asyncio.Task[Supervisor] | None = None
        self._closed = False

    def warm(self) -> None:
        """Have a spare in the making, if there is none. Called after a start, not before it: making the
        next one takes longer than starting a command."""
        if self._spare is None and not self._closed:
            self._spare = asyncio.create_task(Supervisor.start(), name="warm supervisor")
            if self.isolation is not None:
                self.isolation.prepare()

    async def take(self) -> Supervisor:
        """The spare when it still lives, else a new one; raises `AgentError` `spawn_failed`."""
        spare, self._spare = self._spare, None
        try:
            supervisor = await spare if spare is not None else await Supervisor.start()
            if not supervisor.alive():
                supervisor.close()
                supervisor = await Supervisor.start()
        except OSError as error:
            raise AgentError(
                "spawn_failed", f"no process can be started: {error.strerror}", lost=True
            ) from error
        return supervisor

    async def close(self) -> None:
        """Let the spare go; running commands are their owners' business."""
        self._closed = True
        spare, self._spare = self._spare, None
        if spare is not None:
            supervisor = await spare
            supervisor.close()
            await supervisor.reaped()
        if self.isolation is not None:
            await self.isolation.close()


def start_error(failure: dict[str, Any]) -> AgentError:
    """Why a command could not be started, in the user's terms."""
    number, what, name = failure["errno"], failure["what"], failure["name"]
    if what == "isolation":
        reason = f" ({os.strerror(number)})" if number else ""
        return AgentError(
            "isolation_failed",
            f"the command's isolation could not be set up{reason}",
            "look at the host's log; `bwrap --unshare-all --ro-bind / / true` shows whether it works there",
            lost=True,
        )
    if number in (errno.ENOSPC, errno.EDQUOT):
        return AgentError(
            "disk_full", "the disk is full", "free some space on the sandbox's machine"
        )
    if what == "exec" and number in (errno.ENOENT, errno.ENOTDIR):
        return AgentError(
            "command_not_found",
            f"`{name}` was not found, or the interpreter in its first line was not",
            f"install `{name}` on the sandbox's machine, or mend PATH (`inheritEnv`, `env` in sandbox.toml)",
            exit_code=127,
        )
    if what == "exec" and number in (errno.EACCES, errno.ENOEXEC, errno.EISDIR, errno.EPERM):
        return AgentError(
            "command_not_executable",
            f"`{name}` cannot be executed: {os.strerror(number)}",
            f"make `{name}` executable (`chmod +x`), or run it through its interpreter",
            exit_code=126,
        )
    if number == errno.E2BIG:
        return AgentError(
            "command_too_long",
            "the command line and environment are too long for the system",
            "pass large values in files, or on standard input as the brief",
        )
    return AgentError(
        "spawn_failed",
        f"the command could not be started ({what} {name}: {os.strerror(number)})",
        "look at the sandbox's log",
    )
