"""`flakes tasks`: the pieces of work in a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flakes.cli.commands.files import files
from flakes.cli.commands.within import within
from flakes.cli.commands.workpads import workpad
from flakes.cli.options import asks, key_of, page_options, remote_options
from flakes.cli.output import Output, is_terminal
from flakes.cli.render import state as states
from flakes.cli.render.parts import Span, bold, dim
from flakes.cli.render.text import clean, moment, one_line, shortened
from flakes.core import limits
from flakes.core.graph import DependencyFailurePolicy
from flakes.core.task import TaskStatus
from flakes.core.workflow_task import HARNESS_OUTPUT
from flakes.wire.errors import EXIT_DONE, EXIT_UNSUCCESSFUL

if TYPE_CHECKING:
    from flakes.client.api import Client
    from flakes.wire.tasks import Task, TaskResult


@click.group()
def tasks() -> None:
    """List, save, admit, cancel and retry tasks; read their results and activity.

    TASK is a task id, or RUN/TASKKEY with the run's id or key.
    """


tasks.add_command(workpad)
tasks.add_command(files)
for _word in ("spawn", "output"):
    tasks.add_command(within("tasks", _word))


@tasks.command("list")
@click.argument("run")
@click.option("--limit", type=click.IntRange(1, 10_000), help="At most this many (default 1000).")
@click.option("--cursor", metavar="CURSOR", help="Go on after a page: its nextCursor.")
@click.option(
    "--status",
    type=click.Choice([each.value for each in TaskStatus], case_sensitive=False),
    help="Only tasks in this state.",
)
@remote_options
@asks
async def list_(
    client: Client,
    output: Output,
    run: str,
    limit: int | None,
    cursor: str | None,
    status: str | None,
) -> None:
    """List the tasks of a run."""
    from flakes.cli.render.detail import show_tasks

    page = await client.list_tasks(run, limit=limit, cursor=cursor, status=status)
    if output.as_json:
        output.data(page)
        return
    show_tasks(output, page.tasks)
    output.more(page.next_cursor)


@tasks.command()
@click.option("--run", "run", required=True, help="The run: an id or a key.")
@click.option("--key", "task_key", required=True, callback=key_of, help="The task's key.")
@click.option("--title", required=True, help="What the task is about, in a line.")
@click.option("--adapter", required=True, help="Which agent does it; `command` for a command line.")
@click.option("--body", help="The brief, in Markdown.")
@click.option(
    "--body-file", type=click.Path(path_type=Path), help="Read the brief from a file (- is stdin)."
)
@click.option("--shell", metavar="LINE", help="The command line (with --adapter command).")
@click.option("--input", "raw_input", metavar="JSON", help="The adapter's input as a JSON object.")
@click.option(
    "--harness-file",
    type=click.Path(path_type=Path),
    help="A harness module (with --adapter harness).",
)
@click.option("--args", metavar="JSON", help="The harness's arguments.")
@click.option("--defaults", type=click.Path(path_type=Path), help="A JSON file with what the harness's children get.")
@click.option("--acceptance", multiple=True, help="A criterion the work must meet; repeatable.")
@click.option(
    "--verify", multiple=True, metavar="LINE", help="A command that must pass; repeatable."
)
@click.option(
    "--depends-on", multiple=True, metavar="TASKKEY", help="Start after this task; repeatable."
)
@click.option(
    "--on-failure",
    type=click.Choice([each.value for each in DependencyFailurePolicy]),
    help="What to do when a dependency fails.",
)
@click.option("--required-capability", multiple=True, help="What a sandbox must offer; repeatable.")
@click.option("--tool-grant", multiple=True, help="A tool the task may use; repeatable.")
@click.option("--input-artifact", multiple=True, help="An artifact that the task gets as a file; repeatable.")
@click.option(
    "--priority",
    type=click.IntRange(-limits.PRIORITY_MAX, limits.PRIORITY_MAX),
    help="Higher goes first within the run.",
)
@click.option(
    "--timeout-s",
    type=click.FloatRange(0, limits.TIMEOUT_S_MAX, min_open=True),
    help="End an attempt after this many seconds.",
)
@click.option(
    "--max-attempts", type=click.IntRange(1, limits.ATTEMPTS_MAX), help="Try the work this often."
)
@click.option("--optional", is_flag=True, help="Its failure does not fail the run.")
@click.option("--model", help="The agent's model.")
@click.option("--effort", help="The agent's reasoning effort.")
@remote_options
@asks
async def save(client: Client, output: Output, run: str, task_key: str, **given: Any) -> None:
    """Save or change a task that is not admitted yet."""
    from flakes.wire import codec
    from flakes.wire.tasks import TaskDefinition

    try:
        definition = codec.convert(_definition(given), TaskDefinition)
    except codec.BodyError as error:
        issue = error.issues[0]
        raise click.UsageError(f"{issue.path or 'the task'}: {issue.message}") from error
    _show(output, await client.put_task(run, task_key, definition))


def _definition(given: dict[str, Any]) -> dict[str, Any]:
    """The options of `save` as a task definition."""
    adapter: str = given["adapter"]
    inputs = [
        given["shell"] is not None,
        given["raw_input"] is not None,
        given["harness_file"] is not None,
    ]
    if sum(inputs) > 1:
        raise click.UsageError("--shell, --input and --harness-file exclude each other")
    if given["body"] is not None and given["body_file"] is not None:
        raise click.UsageError("--body and --body-file exclude each other")
    work: dict[str, Any] | None = None
    if given["shell"] is not None:
        if adapter != "command":
            raise click.UsageError("--shell requires --adapter command")
        work = {"shell": given["shell"]}
    elif given["harness_file"] is not None:
        if adapter != "harness":
            raise click.UsageError("--harness-file requires --adapter harness")
        work = _harness(given)
    elif given["raw_input"] is not None:
        try:
            work = json.loads(given["raw_input"])
        except ValueError as error:
            raise click.UsageError(f"--input is not JSON: {error}") from error
        if not isinstance(work, dict):
            raise click.UsageError("--input must be a JSON object")
    harness = given["harness_file"] is not None
    body = given["body"] if given["body_file"] is None else _read(given["body_file"])
    fields = {
        "title": given["title"],
        "adapter": adapter,
        "bodyMarkdown": body,
        "input": work,
        "acceptance": list(given["acceptance"]),
        "verify": list(given["verify"]),
        "dependsOn": list(given["depends_on"]),
        "dependencyFailurePolicy": given["on_failure"],
        "requiredCapabilities": list(given["required_capability"]),
        "toolGrants": list(given["tool_grant"] or (_grants(work) if harness else ())),
        "declaredOutputs": dict(HARNESS_OUTPUT) if harness else None,
        "inputArtifacts": list(given["input_artifact"]),
        "priority": given["priority"],
        "timeoutS": given["timeout_s"],
        "retry": {"maxAttempts": given["max_attempts"]} if given["max_attempts"] else None,
        "optional": given["optional"] or None,
        "model": given["model"],
        "effort": given["effort"],
    }
    return {name: value for name, value in fields.items() if value not in (None, [])}


def _grants(work: dict[str, Any] | None) -> list[str]:
    """What a harness may do when nothing else is said."""
    from flakes.harness.packing import grants_of

    return grants_of(work or {})


def _harness(given: dict[str, Any]) -> dict[str, Any]:
    """The module and what it is started with, as the input of its task."""
    from flakes.harness.errors import HarnessError
    from flakes.harness.packing import packed

    try:
        work = packed(given["harness_file"])
    except HarnessError as error:
        raise click.UsageError(error.message) from error
    for name, text in (("args", given["args"]), ("defaults", given["defaults"] and _read(given["defaults"]))):
        try:
            work |= {name: json.loads(text)} if text else {}
        except ValueError as error:
            raise click.UsageError(f"--{name} is not JSON: {error}") from error
    return work


def _read(path: Path) -> str:
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path} cannot be read: {error}") from error


@tasks.command()
@click.option("--run", "run", required=True, help="The run: an id or a key.")
@click.option("--all", "all_", is_flag=True, help="Admit every saved task.")
@click.argument("task_keys", nargs=-1, metavar="[TASKKEY]...")
@remote_options
@asks
async def admit(
    client: Client, output: Output, run: str, all_: bool, task_keys: tuple[str, ...]
) -> None:
    """Admit saved tasks: from now on they are immutable and scheduled."""
    if all_ == bool(task_keys):
        raise click.UsageError("name the tasks to admit, or use --all")
    admitted = await client.admit(run, None if all_ else task_keys)
    if output.as_json:
        output.data(admitted)
        return
    for task in admitted.tasks:
        _show(output, task)


@tasks.command()
@click.argument("task")
@click.option("--reason", help="Why, for the record.")
@remote_options
@asks
async def cancel(client: Client, output: Output, task: str, reason: str | None) -> None:
    """Stop a task; it is CANCELLED once nothing of it runs any more."""
    _show(output, await client.cancel_task(await client.task_id(task), reason))


@tasks.command()
@click.argument("task")
@remote_options
@asks
async def retry(client: Client, output: Output, task: str) -> None:
    """Try a failed or cancelled task again."""
    _show(output, await client.retry_task(await client.task_id(task)))


@tasks.command()
@click.argument("task")
@click.option("--output", "output_key", metavar="KEY", help="Print the bytes of this output.")
@click.option(
    "--to", "target", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
    help="Write the output's bytes to this file, checked against its digest.",
)  # fmt: skip
@remote_options
@asks
async def result(
    client: Client, output: Output, task: str, output_key: str | None, target: Path | None
) -> int:
    """Print what a task left behind: its closing words, or one of its outputs.

    Exit 0 when the task succeeded, 3 when it did not.
    """
    if target is not None and output_key is None:
        raise click.UsageError("--to needs --output KEY")
    task_id = await client.task_id(task)
    if output_key is not None and target is not None:
        if not target.parent.is_dir():
            raise click.UsageError(f"{target.parent} is no directory")
        count = await client.save_output(task_id, output_key, target)
        if output.as_json:
            output.data({"path": str(target), "outputKey": output_key, "sizeBytes": count})
        return EXIT_DONE
    if output_key is not None:
        _raw(await client.output(task_id, output_key))
        return EXIT_DONE
    found = await client.result(task_id)
    if output.as_json:
        output.data(found)
    else:
        _show_result(output, task, found)
    return EXIT_DONE if found.status == "SUCCEEDED" else EXIT_UNSUCCESSFUL


@tasks.command()
@click.argument("run")
@page_options
@remote_options
@asks
async def outputs(
    client: Client, output: Output, run: str, limit: int | None, cursor: str | None
) -> None:
    """List the outputs that the ended tasks of a run left behind."""
    page = await client.run_outputs(run, limit=limit, cursor=cursor)
    if output.as_json:
        output.data(page)
        return
    if not page.outputs:
        output.talk("there are no outputs")
    output.table(
        [
            [each.task_key, each.output_key, each.kind, str(each.size_bytes), each.digest]
            for each in page.outputs
        ],
        ["TASK", "OUTPUT", "KIND", "BYTES", "DIGEST"],
    )
    output.more(page.next_cursor)


@tasks.command()
@click.argument("task")
@click.argument("text")
@click.option(
    "--mode",
    type=click.Choice(["follow_up", "steer", "interrupt"]),
    default="follow_up",
    show_default=True,
    help="Add something, change direction, or stop what it does now and say something else.",
)
@remote_options
@asks
async def message(client: Client, output: Output, task: str, text: str, mode: Any) -> None:
    """Send a message to a running task. TEXT may be - to read it from stdin."""
    said = sys.stdin.read() if text == "-" else text
    sent = await client.post_message(await client.task_id(task), mode, said)
    if output.as_json:
        output.data(sent)
    else:
        output.line("sent  ", dim(f"{sent.message_id}; what becomes of it: flakes tasks messages {task}"))


@tasks.command()
@click.argument("task")
@page_options
@remote_options
@asks
async def messages(
    client: Client, output: Output, task: str, limit: int | None, cursor: str | None
) -> None:
    """List the messages to a task and what became of them, the newest first."""
    task_id = await client.task_id(task)
    page = await client.list_messages(task_id, limit=limit, cursor=cursor)
    if output.as_json:
        output.data(page)
        return
    if not page.messages:
        output.talk("nobody has sent a message to this task")
    output.table(
        [
            [Span(each.state, states.colour(each.state)), each.mode, dim(moment(each.created_at)),
             shortened(one_line(each.message), 80), dim(one_line(each.reason or ""))]
            for each in page.messages
        ],
        ["STATE", "MODE", "SENT", "MESSAGE", ""],
    )  # fmt: skip
    output.more(page.next_cursor)


@tasks.command()
@click.argument("task")
@click.argument("name")
@click.option("--payload", metavar="JSON", help="What it carries; nothing otherwise.")
@remote_options
@asks
async def signal(client: Client, output: Output, task: str, name: str, payload: str | None) -> None:
    """Send a signal to a task. It is kept until the task waits for it."""
    try:
        carried = None if payload is None else json.loads(payload)
    except ValueError as error:
        raise click.UsageError(f"--payload is not JSON: {error}") from error
    sent = await client.send_signal(await client.task_id(task), name, carried)
    if output.as_json:
        output.data(sent)
    else:
        output.line("sent  ", dim("taken by a wait" if sent.state == "consumed" else "kept until the task waits for it"))


@tasks.command()
@click.argument("task")
@click.option("--group", metavar="GROUP", help="Only those of a group: its key or id.")
@page_options
@remote_options
@asks
async def children(
    client: Client, output: Output, task: str, group: str | None, limit: int | None, cursor: str | None
) -> None:
    """List the children that a task has made."""
    task_id = await client.task_id(task)
    page = await client.list_children(task_id, group=group, limit=limit, cursor=cursor)
    if output.as_json:
        output.data(page)
        return
    output.table(
        [
            [states.state(each.status), each.task_key, shortened(one_line(each.title), 60), dim(each.task_id)]
            for each in page.children
        ],
        ["STATE", "TASK", "TITLE", "ID"],
    )  # fmt: skip
    output.more(page.next_cursor)


@tasks.command()
@click.argument("task")
@page_options
@remote_options
@asks
async def rounds(
    client: Client, output: Output, task: str, limit: int | None, cursor: str | None
) -> None:
    """List the rounds of a live task, oldest first."""
    task_id = await client.task_id(task)
    page = await client.list_rounds(task_id, limit=limit, cursor=cursor)
    if output.as_json:
        output.data(page)
        return
    if page.live_state:
        output.talk(f"live: {page.live_state}")
    output.table(
        [
            [each.state, each.round_key, shortened(one_line(each.prompt), 60), dim(moment(each.created_at))]
            for each in page.rounds
        ],
        ["STATE", "ROUND", "PROMPT", "SENT"],
    )  # fmt: skip
    output.more(page.next_cursor)


@tasks.command()
@click.argument("task")
@page_options
@remote_options
@asks
async def waits(
    client: Client, output: Output, task: str, limit: int | None, cursor: str | None
) -> None:
    """List what a task waits for and has waited for, the newest first."""
    task_id = await client.task_id(task)
    page = await client.list_waits(task_id, limit=limit, cursor=cursor)
    if output.as_json:
        output.data(page)
        return
    output.table(
        [
            [each.state, each.kind, each.group_id or each.signal_name or "", each.verdict or "",
             dim(moment(each.created_at))]
            for each in page.waits
        ],
        ["STATE", "KIND", "FOR", "VERDICT", "SINCE"],
    )  # fmt: skip
    output.more(page.next_cursor)


@tasks.command()
@click.argument("task")
@click.option("--limit", type=click.IntRange(1, 500), help="At most this many (default 100).")
@click.option("--after", metavar="CURSOR", help="Only what came after this cursor.")
@remote_options
@asks
async def activity(
    client: Client, output: Output, task: str, limit: int | None, after: str | None
) -> None:
    """Show what happened to a task, oldest first."""
    from flakes.cli.render.activity import show_activity

    page = await client.activity(await client.task_id(task), after=after, limit=limit)
    if output.as_json:
        output.data(page)
        return
    show_activity(output, page.events)
    if page.next_cursor and len(page.events) >= (limit or 100):
        output.talk(dim(f"more: --after {page.next_cursor}"))


def _raw(content: bytes) -> None:
    """Bytes as they are to a pipe or a file; on a terminal only what is harmless there."""
    binary = getattr(sys.stdout, "buffer", None)
    if binary is None or is_terminal(sys.stdout):
        sys.stdout.write(clean(content.decode("utf-8", "replace")))
        return
    sys.stdout.flush()
    binary.write(content)
    binary.flush()


def _show_result(output: Output, task: str, found: TaskResult) -> None:
    if found.text:
        output.line(found.text.rstrip("\n"))
    for key, each in found.outputs.items():
        output.line(
            dim(
                f"{key} ({each.kind}, {each.size_bytes} bytes): flakes tasks result {task} --output {key}"
            )
        )
    for each in found.warnings:
        output.talk(Span(f"warning: {each.message} ({each.code})", "yellow"))
    if found.error is not None:
        output.talk(Span(f"{found.error.message} ({found.error.code})", "red"))


def _show(output: Output, task: Task) -> None:
    if output.as_json:
        output.data(task)
        return
    output.line(
        states.state(task.status, with_glyph=True), "  ", bold(task.task_key), dim(f"  {task.task_id}"),
        dim("  cancel requested") if task.cancel_requested else "",
    )  # fmt: skip
