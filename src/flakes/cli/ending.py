"""Gathers what is said at the end of a run: the tasks, the results worth showing, the last log lines."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flakes.cli.output import Output
from flakes.cli.render import outcome
from flakes.cli.render.files import say_outside
from flakes.cli.render.parts import dim
from flakes.wire.errors import ApiError
from flakes.wire.runs import Run
from flakes.wire.tasks import LogEntry, Task, TaskResult

if TYPE_CHECKING:
    from flakes.cli.capturing import Captured
    from flakes.client.api import Client

TAIL_LINES = 10
REQUESTS_AT_ONCE = 8
FILES_MAX = 200
"""Handles of a run that are looked through for what is not in its result."""


async def show(
    client: Client, output: Output, run: Run, captured: Captured | None = None
) -> None:
    """Print the outcome of a run that is complete."""
    tasks = await client.all_tasks(run.run_id)
    gate = asyncio.Semaphore(REQUESTS_AT_ONCE)
    good = outcome.worth_showing(tasks)
    bad = outcome.failures(tasks)
    results = dict(
        zip(
            [task.task_key for task in good + bad],
            await asyncio.gather(*(_result(client, gate, task) for task in good + bad)),
            strict=True,
        )
    )
    if output.as_json:
        present = {key: result for key, result in results.items() if result is not None}
        summary = outcome.summary(run, tasks, present)
        if captured is not None:
            summary["workspace"] = {
                "workspaceId": captured.handle.workspace_id, "root": str(captured.root),
                "files": captured.files, "changed": captured.changed,
                "uploadedBytes": captured.uploaded_bytes, "notes": list(captured.notes),
            }  # fmt: skip
        output.data(summary)
        return
    shown = 0
    steps = outcome.steps(tasks)
    for task in good:
        result = results[task.task_key]
        if result is not None:
            outcome.show_result(output, run, task, result, brief=task.task_key in steps)
            shown += 1
    tails = await asyncio.gather(*(_tail(client, gate, task) for task in bad))
    for task, tail in zip(bad, tails, strict=True):
        result = results[task.task_key]
        error = task.error or (result.error if result is not None else None)
        outcome.show_failure(output, task, error, tail)
        outcome.show_warnings(output, result)
    outcome.show_end(output, run, shown, tasks)
    await _say_files(client, output, run)


async def _say_files(client: Client, output: Output, run: Run) -> None:
    """How to get at what the tasks of a run that began from files left."""
    if run.workspace_id is None:
        return
    page = await client.run_workspaces(run.run_id, limit=FILES_MAX)
    if page.workspaces:
        output.talk(dim(f"  changed files: flakes diff {run.run_key}; take them: flakes apply {run.run_key}"))
        say_outside(output, run.run_key, page.merges)


async def _result(client: Client, gate: asyncio.Semaphore, task: Task) -> TaskResult | None:
    async with gate:
        try:
            return await client.result(task.task_id)
        except ApiError as error:
            # A task that never began has nothing to show.
            if error.code in ("result_not_ready", "not_found"):
                return None
            raise


async def _tail(client: Client, gate: asyncio.Semaphore, task: Task) -> list[LogEntry]:
    async with gate:
        return (await client.logs(task.task_id, tail=TAIL_LINES)).logs
