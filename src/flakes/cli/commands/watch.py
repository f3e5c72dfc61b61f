"""`flakes watch`: follow a run that somebody else started."""

from __future__ import annotations

import asyncio

import click

from flakes.cli import target
from flakes.cli.options import remote_options
from flakes.cli.output import Output
from flakes.cli.render.parts import bold, dim
from flakes.wire.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_UNSUCCESSFUL


@click.command()
@click.argument("run")
@click.option(
    "--timeout-ms", type=click.IntRange(1), help="Follow at most this long; the run goes on."
)
@remote_options
def watch(
    run: str, timeout_ms: int | None, server: str | None, token: str | None, as_json: bool
) -> int:
    """Follow a run to its end, and show what came of it.

    RUN is an id or a key. Interrupting stops the following, not the run.
    """
    output = Output(as_json)
    timeout_s = None if timeout_ms is None else timeout_ms / 1000
    try:
        return asyncio.run(_watch(target.choice(server, token), output, run, timeout_s))
    except KeyboardInterrupt:
        output.talk()
        output.talk(bold("interrupted"), f"; the run {run} goes on")
        output.talk(dim(f"  stop it: flakes runs cancel {run}"))
        return EXIT_INTERRUPTED


async def _watch(chosen: target.Choice, output: Output, run: str, timeout_s: float | None) -> int:
    from flakes.cli.ending import show
    from flakes.cli.follow import follow
    from flakes.client.api import is_complete
    from flakes.core.run import RunState

    async with target.client(chosen) as client:
        current = await client.get_run(run)
        if not is_complete(current):
            tasks = await client.all_tasks(current.run_id)
            current = await follow(client, current, tasks, output, timeout_s)
        await show(client, output, current)
        return EXIT_DONE if current.state == RunState.SUCCEEDED else EXIT_UNSUCCESSFUL
