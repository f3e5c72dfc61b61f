"""`flakes tasks workpad`: the durable note of a task, for people; and, inside a task, for the task."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flakes.cli.inside import in_task
from flakes.cli.options import asks, json_option, page_options, remote_options
from flakes.cli.output import Output, is_terminal
from flakes.cli.render.parts import bold, dim
from flakes.cli.render.text import clean, moment, size
from flakes.wire.errors import ApiError

if TYPE_CHECKING:
    from flakes.client.api import Client

TEMPLATE = """\
# {title}

## Plan

## Progress

## Findings

## Handoff
"""


@click.group()
def workpad() -> None:
    """Read and write the workpad of a task: its plan, progress, findings and handoff notes."""


@workpad.command()
@click.argument("task")
@click.option("--raw", is_flag=True, help="Print only the Markdown.")
@click.option("--version", type=click.IntRange(0), help="An earlier version.")
@remote_options
@asks
async def show(client: Client, output: Output, task: str, raw: bool, version: int | None) -> None:
    """Print a workpad as JSON, or with --raw its text alone."""
    found = await client.workpad(await client.task_id(task), version=version)
    if raw:
        _print_raw(found.body_markdown)
    else:
        output.data(found)


@workpad.command()
@click.argument("task")
@page_options
@remote_options
@asks
async def versions(
    client: Client, output: Output, task: str, limit: int | None, cursor: str | None
) -> None:
    """List the versions of a workpad, newest first."""
    page = await client.workpad_versions(await client.task_id(task), limit=limit, cursor=cursor)
    if output.as_json:
        output.data(page)
        return
    output.table(
        [
            [str(v.version), moment(v.updated_at), size(v.size_bytes), v.author.user_id or v.author.assignment_id or ""]
            for v in page.versions
        ],
        ["VERSION", "SAVED", "SIZE", "BY"],
    )  # fmt: skip
    output.more(page.next_cursor)


@workpad.command()
@click.argument("task")
@click.option(
    "-f", "--file", "file", type=click.Path(path_type=Path), required=True,
    help="The Markdown to save (- is stdin).",
)  # fmt: skip
@click.option(
    "--base-version", type=click.IntRange(0), required=True,
    help="The version that the text was made from; 0 for a workpad that nobody has written.",
)  # fmt: skip
@remote_options
@asks
async def save(
    client: Client, output: Output, task: str, file: Path, base_version: int
) -> None:
    """Save a new version; refused when somebody else has saved since --base-version."""
    text = _read(file)
    task_id = await client.task_id(task)
    try:
        saved = await client.put_workpad(task_id, text, base_version=base_version)
    except ApiError as error:
        if error.code == "workpad_version_conflict" and not output.as_json:
            error.fix = (
                f"see it with `flakes tasks workpad show {task} --raw`, merge, and save with"
                f" --base-version {error.details['current']['version']}"
            )
        raise
    if output.as_json:
        output.data(saved)
    else:
        output.line("version ", bold(str(saved.version)), dim(f"  {saved.task_id}"))


@workpad.command()
@click.argument("task")
@click.option(
    "-o", "--output", "path", type=click.Path(path_type=Path), default=Path("-"),
    help="The file to write (default: stdout).",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite the file.")
@remote_options
@asks
async def template(
    client: Client, output: Output, task: str, path: Path, force: bool
) -> None:
    """Write a Markdown file to edit: the workpad as it is, or headings when nobody has written."""
    found = await client.get_task(task)
    current = await client.workpad(found.task_id)
    text = current.body_markdown if current.version else TEMPLATE.format(title=found.title)
    if str(path) == "-":
        _print_raw(text)
    else:
        try:
            with path.open("w" if force else "x", encoding="utf-8", newline="") as file:
                file.write(text)
        except FileExistsError:
            raise click.UsageError(f"{path} exists; --force overwrites it") from None
        except OSError as error:
            raise click.UsageError(f"{path} cannot be written: {error.strerror}") from error
        if output.as_json:
            output.data(
                {"path": str(path), "taskId": found.task_id, "baseVersion": current.version}
            )
    file_name = "FILE" if str(path) == "-" else path
    output.talk(
        dim(f"save it: flakes tasks workpad save {task} --file {file_name} --base-version {current.version}")
    )


@workpad.command()
@json_option
def pull(as_json: bool) -> int:
    """Inside a running task: fetch its workpad into $FLAKES_STATE_DIR/workpad.md."""
    return in_task(("tasks", "workpad", "pull"), as_json=as_json)


@workpad.command()
@click.option(
    "--base-version", metavar="VERSION", help="The version merged into, instead of the pulled one."
)
@json_option
def push(as_json: bool, base_version: str | None) -> int:
    """Inside a running task: save $FLAKES_STATE_DIR/workpad.md as the next version.

    When somebody else has saved meanwhile, exit code 2, and their text is in workpad.current.md beside it.
    """
    options = [] if base_version is None else ["--base-version", base_version]
    return in_task(("tasks", "workpad", "push"), *options, as_json=as_json)


def _read(file: Path) -> str:
    try:
        if str(file) == "-":
            return sys.stdin.read()
        with file.open(encoding="utf-8", newline="") as opened:
            return opened.read()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{file} cannot be read: {error}") from error


def _print_raw(text: str) -> None:
    """As it is to a pipe or a file; on a terminal only what is harmless there."""
    sys.stdout.write(clean(text) if is_terminal(sys.stdout) else text)
