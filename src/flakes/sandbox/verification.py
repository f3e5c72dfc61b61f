"""The `verify` lines of a task: run after its agent said that it is done, and kept as evidence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final, Literal

from flakes.agents.base import AgentError
from flakes.core.limits import KIB
from flakes.sandbox.containment import Containment
from flakes.sandbox.loglines import LogSink
from flakes.wire.tasks import Evidence

EVIDENCE_TAIL_BYTES: Final = 2 * KIB


async def verify(line: str, containment: Containment, sink: LogSink) -> Evidence:
    """Run one line in the task's directory and environment; how it ended."""
    began_s = time.monotonic()
    tail = bytearray()
    process = await containment.spawn(["/bin/sh", "-c", line])

    async def pass_on(channel: Literal["stdout", "stderr"]) -> None:
        stream = process.stdout if channel == "stdout" else process.stderr
        while chunk := await stream.read():
            tail.extend(chunk)
            del tail[:-EVIDENCE_TAIL_BYTES]
            await sink.write(channel, chunk)

    async with asyncio.TaskGroup() as group:
        group.create_task(pass_on("stdout"))
        group.create_task(pass_on("stderr"))
    ended = await process.wait()
    await process.clean()
    duration_ms = int((time.monotonic() - began_s) * 1000)
    sink.say(f"verify `{line}`: exit code {ended.code} after {duration_ms} ms")
    return Evidence(
        command=line,
        exit_code=ended.code,
        passed=ended.code == 0,
        tail=bytes(tail).decode("utf-8", "replace").replace("\0", "\ufffd"),
        duration_ms=duration_ms,
    )


def judge(evidence: Sequence[Evidence]) -> None:
    """Raises `AgentError` `verify_failed` when a line did not pass."""
    failing = [each for each in evidence if not each.passed]
    if failing:
        raise AgentError(
            "verify_failed",
            f"{len(failing)} of {len(evidence)} verify commands failed; the first is "
            f"`{failing[0].command}` with exit code {failing[0].exit_code}",
            "look at the evidence; the work itself had ended well",
        )
