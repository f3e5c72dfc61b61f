"""`flakes runs`: the containers of tasks."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flakes.cli.options import asks, key_of, page_options, remote_options
from flakes.cli.output import Output
from flakes.cli.render import state as states
from flakes.cli.render.parts import bold, dim
from flakes.cli.render.text import ago, one_line, shortened, size
from flakes.core.run import RunState
from flakes.wire.errors import EXIT_DONE, EXIT_UNSUCCESSFUL

if TYPE_CHECKING:
    from flakes.client.api import Client
    from flakes.wire.runs import Run


@click.group()
def runs() -> None:
    """List, create, close, wait for, cancel, retry, export and delete runs.

    A run is named by its id or its key.
    """


@runs.command("list")
@click.option(
    "--state",
    type=click.Choice([each.value for each in RunState], case_sensitive=False),
    help="Only runs in this state.",
)
@click.option("--project", metavar="KEY", help="Only runs of this project.")
@page_options
@remote_options
@asks
async def list_(
    client: Client,
    output: Output,
    state: str | None,
    project: str | None,
    limit: int | None,
    cursor: str | None,
) -> None:
    """List runs, the newest first."""
    page = await client.list_runs(state=state, project_key=project, limit=limit, cursor=cursor)
    if output.as_json:
        output.data(page)
        return
    if not page.runs:
        output.talk("there are no runs")
    output.table(
        [
            [states.state(run.state, with_glyph=True), run.run_key, run.project_key,
             str(sum(run.task_counts.values())), ago(run.created_at), shortened(one_line(run.name), 60)]
            for run in page.runs
        ],
        ["STATE", "KEY", "PROJECT", "TASKS", "CREATED", "NAME"],
    )  # fmt: skip
    output.more(page.next_cursor)


@runs.command()
@click.option("--project", required=True, callback=key_of, help="The project's key.")
@click.option("--key", "run_key", required=True, callback=key_of, help="The run's key.")
@click.option("--name", required=True, help="The run's name.")
@remote_options
@asks
async def create(client: Client, output: Output, project: str, run_key: str, name: str) -> None:
    """Create a run, or read it when it is there already."""
    from flakes.wire.runs import RunPut

    _show(output, await client.put_run(run_key, RunPut(name=name, project_key=project)))


@runs.command()
@click.argument("run")
@click.option("--reason", help="Why, for the record.")
@click.option("--wait", is_flag=True, help="Wait until the run is complete.")
@click.option("--timeout-ms", type=click.IntRange(1), help="Wait at most this long.")
@remote_options
@asks
async def close(
    client: Client, output: Output, run: str, reason: str | None, wait: bool, timeout_ms: int | None
) -> int:
    """Close a run, so that no more top-level tasks can be admitted."""
    closed = await client.close_run(run, reason)
    if wait:
        return await _wait(client, output, closed.run_id, timeout_ms)
    _show(output, closed)
    return EXIT_DONE


@runs.command()
@click.argument("run")
@click.option("--timeout-ms", type=click.IntRange(1), help="Wait at most this long.")
@remote_options
@asks
async def wait(client: Client, output: Output, run: str, timeout_ms: int | None) -> int:
    """Wait until a run is complete: exit 0 when it succeeded, 3 when not, 4 when time is up."""
    return await _wait(client, output, run, timeout_ms)


@runs.command()
@click.argument("run")
@click.option("--reason", help="Why, for the record.")
@remote_options
@asks
async def cancel(client: Client, output: Output, run: str, reason: str | None) -> None:
    """Stop a run and everything of it that runs."""
    _show(output, await client.cancel_run(run, reason))


@runs.command()
@click.argument("run")
@remote_options
@asks
async def retry(client: Client, output: Output, run: str) -> None:
    """Try every failed and cancelled task of a run again."""
    _show(output, await client.retry_run(run))


@runs.command()
@click.argument("run")
@page_options
@remote_options
@asks
async def reservations(
    client: Client, output: Output, run: str, limit: int | None, cursor: str | None
) -> None:
    """List the paths that running tasks of a run have reserved."""
    page = await client.file_reservations(run, limit=limit, cursor=cursor)
    if output.as_json:
        output.data(page)
        return
    output.table(
        [[each.path, each.kind, each.task_key, ago(each.created_at), one_line(each.reason or "")]
         for each in page.reservations],
        ["PATH", "KIND", "TASK", "SINCE", "REASON"],
    )  # fmt: skip
    output.more(page.next_cursor)


@runs.command()
@click.argument("run")
@click.option("--wait", is_flag=True, help="Wait until the run is gone.")
@click.option("--timeout-ms", type=click.IntRange(1), help="Wait at most this long.")
@remote_options
@asks
async def delete(
    client: Client, output: Output, run: str, wait: bool, timeout_ms: int | None
) -> None:
    """Delete a run with its tasks, logs and results.

    A live run is cancelled first and goes once nothing of it runs any more; --wait waits for that.
    """
    from flakes.wire.runs import RunDeleted

    done = await client.delete_run(run)
    if wait and done.status != "deleted":
        timeout_s = None if timeout_ms is None else timeout_ms / 1000
        await client.wait_deleted(done.run_id, timeout_s=timeout_s)
        done = RunDeleted(status="deleted", run_id=done.run_id)
    if output.as_json:
        output.data(done)
    elif done.status == "deleted":
        output.line(f"deleted {run}")
    else:
        output.line(f"deleting {run}", dim("  it goes once nothing of it runs any more"))


@runs.command()
@click.argument("run")
@click.option(
    "-o", "--output", "file", type=click.Path(path_type=Path, dir_okay=False),
    help="Write to this file instead of stdout.",
)  # fmt: skip
@remote_options
@asks
async def history(client: Client, output: Output, run: str, file: Path | None) -> None:
    """Export everything about a run as JSON lines: tasks, attempts, events, logs and results.

    Secrets of known shapes are left out. With -o the file appears only when it is whole.
    """
    from contextlib import aclosing

    stream = client.history(run)
    async with aclosing(stream) as lines:
        if file is None:
            binary = getattr(sys.stdout, "buffer", None)
            async for line in lines:
                if binary is None:
                    sys.stdout.write(line.decode() + "\n")
                else:
                    binary.write(line + b"\n")
            return
        count, size_bytes = await _write(lines, file)
    if output.as_json:
        output.data({"file": str(file), "lines": count, "sizeBytes": size_bytes})
    else:
        output.talk(f"{count:,} lines ({size(size_bytes)}) in {file}")


async def _write(lines: AsyncIterator[bytes], file: Path) -> tuple[int, int]:
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    count = size_bytes = 0
    try:
        with partial.open("wb") as out:
            async for line in lines:
                count += 1
                size_bytes += out.write(line + b"\n")
        partial.replace(file)
    except OSError as error:
        raise click.UsageError(f"{file} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    return count, size_bytes


async def _wait(client: Client, output: Output, run: str, timeout_ms: int | None) -> int:
    ended = await client.wait_run(
        run,
        timeout_s=None if timeout_ms is None else timeout_ms / 1000,
        notice=lambda sentence: output.talk(dim(sentence or "connected again")),
    )
    _show(output, ended)
    return EXIT_DONE if ended.state == RunState.SUCCEEDED else EXIT_UNSUCCESSFUL


def _show(output: Output, run: Run) -> None:
    if output.as_json:
        output.data(run)
        return
    output.line(
        states.state(run.state, with_glyph=True), "  ", bold(run.run_key), dim(f"  {run.run_id}  "),
        *states.counts(run.task_counts), "" if run.closed else dim("  (open)"),
        dim("  (being deleted)") if run.deleting else "",
    )  # fmt: skip
