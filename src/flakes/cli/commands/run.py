"""`flakes run`: from a workflow file or a sentence to a finished run."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flakes.cli import target
from flakes.cli.options import json_option, key_of
from flakes.cli.output import Output
from flakes.cli.plan import (
    Plan,
    PlanError,
    from_harness,
    from_prompt,
    from_workflow,
    is_harness,
    looks_like_file,
)
from flakes.cli.render.parts import bold, dim
from flakes.cli.render.text import count, size
from flakes.session.layout import layout
from flakes.wire.errors import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_UNSUCCESSFUL,
    EXIT_USAGE,
    ApiError,
)  # fmt: skip

if TYPE_CHECKING:
    from flakes.cli.capturing import Captured
    from flakes.client.api import Client
    from flakes.wire.runs import RunWithTasks
    from flakes.workspace.snapshot import Snapshot


@click.command()
@click.argument("what", metavar="FILE.md|HARNESS.py|PROMPT|-")
@click.option("--adapter", help="The agent for tasks that name none; `command` runs command lines.")
@click.option("--check", is_flag=True, help="Find the file's problems offline, and submit nothing.")
@click.option("--project", callback=key_of, help="The project's key (made when missing).")
@click.option(
    "--key", "run_key", callback=key_of, help="The run's key; the same key is the same run."
)
@click.option("--name", "run_name", help="The run's name.")
@click.option(
    "--var", "variables", multiple=True, metavar="NAME=VALUE", help="Set a variable of the file."
)
@click.option(
    "--defaults", type=click.Path(path_type=Path), metavar="FILE",
    help="A JSON file with what a harness's children get: agent, retry, capabilities.",
)  # fmt: skip
@click.option("--detach", is_flag=True, help="Submit, print where to look, and return.")
@click.option(
    "--workspace", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The files that tasks begin from (default: the repository that this is).",
)  # fmt: skip
@click.option("--no-workspace", is_flag=True, help="Give the tasks no files.")
@click.option(
    "--timeout-ms", type=click.IntRange(1), help="Follow at most this long; the run goes on."
)
@click.option("--server", metavar="URL", help="The control plane to use.")
@click.option("-t", "--token", metavar="TOKEN", help="The bearer token to use.")
@json_option
def run(
    what: str,
    adapter: str | None,
    check: bool,
    project: str | None,
    run_key: str | None,
    run_name: str | None,
    variables: tuple[str, ...],
    defaults: Path | None,
    detach: bool,
    workspace: Path | None,
    no_workspace: bool,
    timeout_ms: int | None,
    server: str | None,
    token: str | None,
    as_json: bool,
) -> int:
    """Run a workflow file, a harness or a single task, and follow it to its end.

    FILE.md is a workflow file, HARNESS.py a harness (its arguments are --var, its children's agent is
    --adapter), PROMPT is what one task is to do, and - reads a workflow file from standard input. Without a named server the local session is used, and started when it does not run.
    Interrupting stops the following, not the run.

    The repository that this is called in (or a small directory that is none) is captured as it is, with
    what is not committed and without what is ignored; tasks find it as their working directory. `flakes
    diff` and `flakes apply` bring back what they changed.
    """
    output = Output(as_json)
    if workspace is not None and no_workspace:
        raise click.UsageError("--workspace and --no-workspace exclude each other")
    try:
        plan = _plan(what, adapter, variables, defaults)
    except PlanError as error:
        return _problems(output, error)
    if check:
        _summary(output, plan)
        return EXIT_DONE
    taken = None if no_workspace else _capture(workspace)
    chosen = target.choice(server, token)
    if not target.is_configured(chosen):
        _start_session(output)
    plan.project = project or plan.project or "default"
    plan.run_key = run_key or plan.run_key or plan.fresh_key(datetime.now(UTC))
    plan.run_name = run_name or plan.run_name or plan.title
    timeout_s = None if timeout_ms is None else timeout_ms / 1000
    try:
        return asyncio.run(_submit(chosen, output, plan, taken, detach, timeout_s))
    except KeyboardInterrupt:
        output.talk()
        if not plan.submitted:
            output.talk(bold("interrupted"), "; nothing was submitted, as far as is known")
            return EXIT_INTERRUPTED
        output.talk(bold("interrupted"), f"; the run {plan.run_key} goes on")
        output.talk(dim(f"  follow it: flakes watch {plan.run_key}"))
        output.talk(dim(f"  stop it:   flakes runs cancel {plan.run_key}"))
        return EXIT_INTERRUPTED


def _plan(what: str, adapter: str | None, variables: tuple[str, ...], defaults: Path | None) -> Plan:
    if defaults is not None and not is_harness(what):
        raise click.UsageError("--defaults goes with a harness")
    values: dict[str, str] = {}
    for variable in variables:
        name, equals, value = variable.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--var takes NAME=VALUE, not {variable!r}")
        values[name] = value
    if what == "-":
        return from_workflow(sys.stdin.read(), "-", Path.cwd(), adapter, values)
    if is_harness(what):
        return from_harness(Path(what), adapter, values, defaults)
    if looks_like_file(what):
        path = Path(what)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ApiError(
                "usage", f"{what} cannot be read: {reason}", "check the path, or quote the prompt"
            ) from error
        return from_workflow(text, what, path.parent, adapter, values)
    return from_prompt(what, adapter)


def _problems(output: Output, error: PlanError) -> int:
    if output.as_json:
        output.error(ApiError(
            "workflow_invalid", str(error), "mend the lines that are named", file=error.name,
            problems=[
                {"line": each.line, "code": each.code, "message": each.message, "fix": each.fix}
                for each in error.problems
            ],
        ))  # fmt: skip
        return EXIT_USAGE
    for each in error.problems:
        output.problem(f"{error.name}:{each.line}", each.message, each.fix)
    output.talk(dim(count(len(error.problems), "problem")))
    return EXIT_USAGE


def _summary(output: Output, plan: Plan) -> None:
    if output.as_json:
        output.data({
            "ok": True, "project": plan.project, "runKey": plan.run_key, "name": plan.run_name,
            "levels": plan.levels(), "tasks": plan.tasks,
        })  # fmt: skip
        return
    edges = sum(len(task.get("dependsOn", ())) for task in plan.tasks)
    output.line(bold("ok"), f"  {count(len(plan.tasks), 'task')}, {count(edges, 'edge')}")
    titles = {task["taskKey"]: task for task in plan.tasks}
    for number, level in enumerate(plan.levels(), 1):
        shown = level[:40]
        output.table([
            [dim(f"{number}." if index == 0 else ""), key, titles[key]["adapter"],
             dim(titles[key]["title"])]
            for index, key in enumerate(shown)
        ])  # fmt: skip
        if len(shown) < len(level):
            output.line(dim(f"    ... {len(level) - len(shown):,} more at this level"))


def _start_session(output: Output) -> None:
    from flakes.session.record import running
    from flakes.session.up import up

    chosen = layout()
    if running(chosen) is not None:
        return
    output.talk(dim("no server is named: starting the local session (stop it with `flakes down`)"))
    up(chosen, lambda sentence: output.talk(dim(f"  {sentence} ...")))


def _capture(directory: Path | None) -> Snapshot | None:
    from flakes.cli import capturing

    wanted = capturing.wanted(directory)
    return None if wanted is None else capturing.take(wanted)


async def _submit(
    chosen: target.Choice,
    output: Output,
    plan: Plan,
    taken: Snapshot | None,
    detach: bool,
    timeout_s: float | None,
) -> int:
    assert plan.run_key is not None
    assert plan.project is not None
    body: dict[str, Any] = {
        "name": plan.run_name,
        "projectKey": plan.project,
        "tasks": plan.tasks,
        "metadata": {"sourceDir": str(_source_dir())},
        "close": True,
    }
    if plan.budget is not None:
        body["budget"] = plan.budget
    if plan.merging is not None:
        body["merging"] = plan.merging
    async with target.client(chosen) as client:
        if not target.is_configured(chosen):
            await _look_for_agents(client, plan)
        await client.ensure_project(plan.project)
        captured = None
        if taken is not None:
            captured = await _store(client, output, taken)
            body["workspaceId"] = captured.handle.workspace_id
        submitted = await client.post_graph(plan.run_key, body)
        plan.submitted = True
        run_key = submitted.run.run_key
        output.talk(
            bold(run_key), dim(f"  {submitted.run.run_id}  "), count(len(submitted.tasks), "task")
        )
        if detach:
            _detached(output, submitted)
            return EXIT_DONE
        return await finish(client, output, submitted, timeout_s, captured)


async def _store(client: Client, output: Output, taken: Snapshot) -> Captured:
    from flakes.cli import capturing

    captured = await capturing.store(client, taken)
    sent = f"{size(captured.uploaded_bytes)} uploaded" if captured.uploaded_bytes else "nothing to upload"
    changed = ""
    if captured.changed is not None:
        changed = f"{captured.changed:,} changed, " if captured.changed else "unchanged, "
    output.talk(
        "files from ", str(captured.root), dim(f"  {count(captured.files, 'file')}, {changed}{sent}")
    )
    for note in captured.notes:
        output.talk(dim(f"  {note}"))
    return captured


async def _look_for_agents(client: Client, plan: Plan) -> None:
    """In the local session, a task for an agent that no host offers would wait for ever: refuse it now."""
    from flakes.agents.registry import AGENTS

    wanted = {task["adapter"] for task in plan.tasks} & AGENTS.keys()
    if not wanted:
        return
    hosts = (await client.list_hosts()).hosts
    offered = {pool.adapter for host in hosts for pool in (await client.host_pools(host.host_id)).host_pools}
    for name in sorted(wanted - offered):
        if shutil.which(name) is None:
            raise ApiError(
                "agent_missing", f"`{name}` is not on the PATH of this machine",
                f"{AGENTS[name].install}; then `flakes down`, and run this again. `flakes doctor --adapter {name}`"
                " looks whether all is well", adapter=name,
            )  # fmt: skip
        raise ApiError(
            "agent_missing", f"`{name}` is here, but the local session does not offer it",
            "run `flakes down` and then this again, should it be new here; otherwise add `offerAgents = true`"
            f" to {layout().host_config}. `flakes doctor --adapter {name}` looks whether all is well",
            adapter=name,
        )  # fmt: skip


def _detached(output: Output, submitted: RunWithTasks) -> None:
    if output.as_json:
        output.data(submitted)
        return
    key = submitted.run.run_key
    output.line(key)
    output.talk(dim(f"  follow it: flakes watch {key}"))
    output.talk(dim(f"  stop it:   flakes runs cancel {key}"))


async def finish(
    client: Client,
    output: Output,
    submitted: RunWithTasks,
    timeout_s: float | None,
    captured: Captured | None = None,
) -> int:
    """Follow to the end, show what came of it, and say so in the exit code."""
    from flakes.cli.ending import show
    from flakes.cli.follow import follow
    from flakes.core.run import RunState

    ended = await follow(client, submitted.run, submitted.tasks, output, timeout_s)
    await show(client, output, ended, captured)
    return EXIT_DONE if ended.state == RunState.SUCCEEDED else EXIT_UNSUCCESSFUL


def _source_dir() -> Path:
    """The top of the repository that the command is called in, else the directory itself."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "--show-toplevel"],
            capture_output=True, text=True, check=False, timeout=5,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return Path.cwd()
    top = answer.stdout.strip()
    return Path(top) if answer.returncode == 0 and top else Path.cwd()
