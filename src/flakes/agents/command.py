"""The `command` adapter: one command is one turn.

`input` holds exactly one of `shell` (a line for ``/bin/sh -c``) and `argv` (a list, run as it is), and
optionally `env` (names to strings, merged into the environment by the lifecycle). The brief is on
standard input and in the file named by ``FLAKES_BRIEF``. Exit code 0 completes the turn, 75 asks for
another try, everything else fails it. Nothing in the output is interpreted.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from typing import Any, Final

from flakes.agents.base import (
    AgentError,
    AgentEvent,
    Exit,
    Host,
    Job,
    Output,
    SessionRef,
    TurnResult,
)
from flakes.agents.one_turn import OneTurn

EXIT_RETRYABLE: Final = 75
TAIL_BYTES_MAX: Final = 4096
_FIELDS: Final = {"shell", "argv", "env"}


class CommandDriver(OneTurn):
    """Runs the task's command and waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self._argv: list[str] = []

    async def open(self, job: Job, host: Host) -> SessionRef | None:
        self._argv = argv_of(job.input)
        self._job, self._host = job, host
        return None

    async def turn(
        self, text: str, op_id: str, schema: Mapping[str, Any] | None = None
    ) -> TurnResult:
        # The brief file is the text of the only turn: the command reads it without a pipe to feed.
        process = await self._host.spawn(self._argv, stdin=self._job.brief_path)
        self._process = process
        tail = bytearray()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pass_on("stdout", process.stdout, tail))
            group.create_task(self._pass_on("stderr", process.stderr, None))
        ended = await process.wait()
        closing = bytes(tail).decode("utf-8", "replace").replace("\0", "\ufffd").rstrip("\n")
        if self._interrupted:
            return TurnResult("interrupted", text=closing, exit_code=ended.code)
        error = error_of(ended, self._argv)
        status = "failed" if error else "completed"
        return TurnResult(status, text=closing, error=error, exit_code=ended.code)

    async def _pass_on(self, channel: str, output: Output, tail: bytearray | None) -> None:
        while chunk := await output.read():
            if tail is not None:
                tail += chunk
                del tail[:-TAIL_BYTES_MAX]
            await self._host.emit(AgentEvent("output", {"channel": channel, "chunk": chunk}))


def argv_of(values: Mapping[str, Any]) -> list[str]:
    """The argument vector of a task's input; raises `AgentError` with code `input_invalid`."""
    fix = 'give `input` as {"shell": "make test"} or {"argv": ["make", "test"]}'
    unknown = sorted(set(values) - _FIELDS)
    if unknown:
        names = ", ".join(f"`{name}`" for name in unknown)
        raise AgentError(
            "input_invalid", f"the command adapter does not know {names} in input", fix
        )
    if ("shell" in values) == ("argv" in values):
        raise AgentError("input_invalid", "input needs exactly one of `shell` and `argv`", fix)
    if "shell" in values:
        line = values["shell"]
        if not isinstance(line, str) or not line.strip() or "\0" in line:
            raise AgentError("input_invalid", "`shell` must be a command line", fix)
        return ["/bin/sh", "-c", line]
    argv = values["argv"]
    if not isinstance(argv, list) or not argv or not argv[0]:
        raise AgentError("input_invalid", "`argv` must be a list that begins with a program", fix)
    if not all(isinstance(item, str) and "\0" not in item for item in argv):
        raise AgentError("input_invalid", "`argv` must hold strings only", fix)
    return list(argv)


def error_of(ended: Exit, argv: list[str]) -> AgentError | None:
    """What an exit means; None for success."""
    if ended.signal is not None:
        try:
            name = signal.Signals(ended.signal).name
        except ValueError:
            name = f"signal {ended.signal}"
        return AgentError(
            "killed_by_signal",
            f"the command was killed by {name}",
            "look at the log; SIGKILL is often the system running out of memory",
            exit_code=ended.code,
        )
    if ended.code == 0:
        return None
    if ended.code == EXIT_RETRYABLE:
        return AgentError(
            "exit_75",
            "the command asked for another try (exit code 75)",
            retryable=True,
            exit_code=75,
        )
    fix = "look at the end of the task's log"
    if ended.code == 127 and argv[0] == "/bin/sh":
        fix = "the shell did not find a program; check the line and PATH (`inheritEnv` in sandbox.toml)"
    return AgentError(
        "exit_nonzero", f"the command ended with exit code {ended.code}", fix, exit_code=ended.code
    )
