"""`flakes inspect`: everything about one run or one task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flakes.cli.options import asks, remote_options
from flakes.cli.output import Output
from flakes.core import keys
from flakes.core.task import TERMINAL
from flakes.wire.errors import ApiError

if TYPE_CHECKING:
    from flakes.client.api import Client
    from flakes.wire.tasks import TaskExplained, TaskResult

SHOWN_MAX = 20
"""How many tasks that do not move are shown to a person; a program gets all."""
PAGE = 200
LIVE_EXPLAINED = ("QUEUED", "WAITING", "BLOCKED", "SAVED")


@click.command()
@click.argument("what", metavar="RUN|TASK")
@click.option("--task", "is_task", is_flag=True, help="Read the argument as a task.")
@click.option("--explain", is_flag=True, help="Say why a task, or each task of a run, is not running.")
@remote_options
@asks
async def inspect(client: Client, output: Output, what: str, is_task: bool, explain: bool) -> None:
    """Show a run or a task, and why it is not running.

    RUN is an id or a key; TASK is a task id or RUN/TASKKEY.
    """
    if is_task or keys.has_prefix(what, "task") or "/" in what:
        await _task(client, output, what, explain)
        return
    from flakes.cli.render.detail import show_run, show_still
    from flakes.cli.render.files import show_files

    run = await client.get_run(what)
    tasks = await client.all_tasks(run.run_id)
    usage = (await client.run_metrics(run.run_id)).usage
    files = await client.run_workspaces(run.run_id, limit=PAGE) if run.workspace_id else None
    explained: list[TaskExplained] = []
    cursor = None
    while explain:
        page = await client.explain_run(run.run_id, limit=PAGE, cursor=cursor)
        explained += page.tasks
        cursor = page.next_cursor
        if cursor is None:
            break
    if output.as_json:
        found: dict[str, object] = {"run": run, "tasks": tasks, "usage": usage}
        if files is not None:
            found["files"] = files
        output.data(found | ({"explained": explained} if explain else {}))
        return
    show_run(output, run, tasks, usage)
    if files is not None:
        show_files(output, run.run_key, files)
    if explain:
        show_still(output, run, explained, SHOWN_MAX)


async def _task(client: Client, output: Output, what: str, explain: bool) -> None:
    from flakes.cli.render.detail import show_task

    task = await client.get_task(what, explain=explain)
    if not explain and task.status in LIVE_EXPLAINED and not output.as_json:
        # Whoever looks at a task that does not run wants to know why.
        task = await client.get_task(task.task_id, explain=True)
    result: TaskResult | None = None
    if task.status in TERMINAL:
        try:
            result = await client.result(task.task_id)
        except ApiError as error:
            if error.code not in ("result_not_ready", "not_found"):
                raise
    if output.as_json:
        output.data({"task": task, "result": result})
        return
    show_task(output, task, result)
