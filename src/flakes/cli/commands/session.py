"""`flakes up` and `flakes down`: the local session."""

from __future__ import annotations

from http.client import HTTPException
from typing import Any

import click

from flakes.cli.options import json_option
from flakes.cli.output import Output
from flakes.cli.render.parts import Part, Span, bold, dim
from flakes.cli.render.text import duration, shortened
from flakes.session.layout import Layout, layout
from flakes.session.record import Record
from flakes.wire.errors import ApiError

session_option = click.option(
    "--session", metavar="NAME", help="The session's name (default FLAKES_SESSION, else default)."
)


@click.command()
@session_option
@json_option
def up(session: str | None, as_json: bool) -> None:
    """Start the local session: control plane, database and host.

    Does nothing when it runs already. It goes on until `flakes down`.
    """
    from flakes.session.up import up as start

    output = Output(as_json)
    chosen = layout(session)
    result = start(chosen, lambda sentence: output.talk(dim(f"{sentence} ...")))
    console = _console_url(chosen, result.record)
    if as_json:
        output.data(session_json(result.record) | {"outcome": result.outcome, "consoleUrl": console})
        return
    if result.outcome == "running":
        output.line(Span("running ", "green"), bold(result.record.server))
    else:
        output.line(
            Span("ready ", "green"),
            bold(result.record.server),
            dim(f"  in {duration(result.took_s)}"),
        )
    output.line(dim("console "), console)
    output.talk(dim(f"session {result.record.name}, files in {chosen.root}"))
    output.talk(dim('try: flakes run "echo hello" --adapter command'))


@click.command()
@session_option
@click.option("--dry-run", is_flag=True, help="Show what would be stopped, and touch nothing.")
@json_option
def down(session: str | None, dry_run: bool, as_json: bool) -> None:
    """Stop the local session and everything it started, and confirm that it is gone."""
    from flakes.session.down import down as stop

    output = Output(as_json)
    chosen = layout(session)
    result = stop(chosen, dry_run=dry_run)
    if as_json:
        output.data({
            "session": chosen.name,
            "dryRun": dry_run,
            "stopped": result.stopped and bool(result.found),
            "processes": [
                {"role": one.role, "pid": one.identity.pid, "command": one.command}
                for one in result.found
            ],
        })  # fmt: skip
        return
    if not result.found:
        output.line(f"the session {chosen.name} does not run")
        return
    rows: list[list[Part]] = [
        [one.role, str(one.identity.pid), dim(shortened(one.command, 100))] for one in result.found
    ]
    output.line(bold("would stop" if dry_run else "stopped"))
    output.table(rows)


def _console_url(chosen: Layout, record: Record) -> str:
    """With a fresh one-time link; without one when the server is too busy to make it."""
    from flakes.session.setup import browser_link

    try:
        return browser_link(chosen, record.server)
    except (ApiError, OSError, HTTPException):
        return record.console_url


def session_json(record: Record) -> dict[str, Any]:
    """A session as commands print it: where it is, never its secrets."""
    return {
        "session": record.name,
        "server": record.server,
        "consoleUrl": record.console_url,
        "credentialFile": record.credential_file,
        "dataDir": record.data_dir,
        "pid": record.pid,
        "version": record.version,
    }
