"""The `harness` adapter: a Python module that orchestrates, in a process of its own.

`input` holds `source` (the module's text), and optionally `harnessFile` (its name), `files` (modules beside it),
`args`, `defaults` and `limits` {cpuS, memoryMb, wallS}. The process speaks JSON lines (`flakes.harness.worker`); it
asks for everything else over the task's socket, and knows no credential.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from flakes.agents.base import (
    AgentError,
    AgentEvent,
    Exit,
    Host,
    Job,
    Process,
    SessionRef,
    TurnResult,
)
from flakes.agents.command import EXIT_RETRYABLE
from flakes.agents.one_turn import OneTurn

WORKER: Final = Path(__file__).parents[1] / "harness" / "worker.py"
TEXT_LENGTH_MAX: Final = 4_000
LIMITS: Final = {
    signal.SIGXCPU: ("processor time", "cpuS"),
    signal.SIGALRM: ("running time", "wallS"),
}  # fmt: skip
_OWN: Final = ("FLAKES_", "LC_")
_PASSED: Final = frozenset({"PATH", "HOME", "TMPDIR", "LANG", "TZ"})
_FIELDS: Final = {"source", "harnessFile", "files", "args", "defaults", "limits", "env"}


class HarnessDriver(OneTurn):
    """Runs the task's module until it ends, or has to wait."""

    def __init__(self) -> None:
        super().__init__()
        self._end: dict[str, Any] | None = None

    async def open(self, job: Job, host: Host) -> SessionRef | None:
        unknown = sorted(set(job.input) - _FIELDS)
        if unknown or not isinstance(job.input.get("source"), str):
            what = f"does not know `{unknown[0]}` in input" if unknown else "needs the module's text, `source`"
            raise AgentError(
                "input_invalid", f"the harness adapter {what}", "save the task with `--harness-file`, or write `harness_file:`"
            )
        self._job, self._host = job, host
        return None

    async def turn(
        self, text: str, op_id: str, schema: Mapping[str, Any] | None = None
    ) -> TurnResult:
        # Whatever the sandbox gives its tasks to sign in with somewhere, a module that only decides does not see it.
        env = {name: value for name, value in self._job.env.items() if name in _PASSED or name.startswith(_OWN)}
        # The order of sets of strings is the same in every process.
        env["PYTHONHASHSEED"] = "0"
        process = await self._host.spawn([sys.executable, "-s", "-S", "-P", str(WORKER)], env=env, stdin="pipe")
        self._process = process
        await process.write(json.dumps({"input": dict(self._job.input), "budget": dict(self._job.budget)}).encode())
        process.close_stdin()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(process))
            group.create_task(self._pass_on(process))
        ended = await process.wait()
        if self._interrupted:
            return TurnResult("interrupted", exit_code=ended.code)
        return self._result(ended)

    async def _listen(self, process: Process) -> None:
        async for line in process.stdout.lines():
            said: dict[str, Any] = json.loads(line)
            if "end" in said:
                self._end = said["end"]
            else:
                chunk = f"{said.get('say', '')}\n".encode()
                await self._host.emit(AgentEvent("output", {"channel": "stdout", "chunk": chunk}))

    async def _pass_on(self, process: Process) -> None:
        while chunk := await process.stderr.read():
            await self._host.emit(AgentEvent("output", {"channel": "stderr", "chunk": chunk}))

    def _result(self, ended: Exit) -> TurnResult:
        end = self._end
        if end is None:
            return TurnResult("failed", error=_died(ended), exit_code=ended.code)
        status, message = end["status"], end.get("message") or ""
        if status == "yielded":
            error = AgentError("yielded", "the harness waits", retryable=True, exit_code=EXIT_RETRYABLE)
            return TurnResult("failed", error=error, exit_code=EXIT_RETRYABLE)
        if status == "gone":
            return TurnResult("failed", error=AgentError("harness_cut_off", message, lost=True))
        data = end.get("data") or {}
        text = (message or (json.dumps(data) if data else ""))[:TEXT_LENGTH_MAX]
        if status == "succeeded":
            return TurnResult("completed", text=text, structured=data, exit_code=0)
        found = end.get("error") or {"error": "harness_cancelled", "message": message or "the harness gave up"}
        error = AgentError(
            found["error"], found["message"], found.get("fix") or "", details=found.get("details") or None
        )
        return TurnResult("failed", text=text, error=error, structured=data)


def _died(ended: Exit) -> AgentError:
    """The process said nothing at its end: it was killed, by a limit or by somebody."""
    if ended.signal in LIMITS:
        what, name = LIMITS[signal.Signals(ended.signal)]
        return AgentError(
            "harness_limit", f"the harness used too much {what}", f"wait with `await` instead of in a loop, or raise `limits.{name}` in its input"
        )
    if ended.out_of_memory:
        return AgentError(
            "harness_limit", "the harness used more memory than its pool gives a task",
            "leave large things in outputs of children, or raise `memoryMb` of the pool's `resourceBounds`",
        )
    return AgentError("harness_died", f"the harness's process ended with {ended.code}", "look at its log", lost=True)
