"""`flakes ask` and `flakes inbox`: inside a task, the way to the people who run it."""

from __future__ import annotations

import click

from flakes.cli.inside import in_task
from flakes.cli.options import json_option


@click.command()
@click.argument("prompt", required=False)
@click.option("--action", metavar="TEXT", help="What would be done, in a few words or a command line.")
@click.option("--details", metavar="JSON", help="More about it, as a JSON object.")
@click.option("--expires", metavar="SECONDS", help="Take the default when nobody answers in time.")
@click.option("--default", metavar="DECISION", help="approved or denied (the default of the default).")
@click.option(
    "--operation-id",
    metavar="ID",
    help="A name for this question: asked again by the same attempt, it is the same request.",
)
@click.option("--no-wait", is_flag=True, help="Print the id of the request and go on.")
@click.option("--poll", metavar="ID", help="Print how a request stands; exit code 4 while it is pending.")
@json_option
def ask(prompt: str | None, no_wait: bool, as_json: bool, **values: str | None) -> int:
    """Inside a running task: ask its owner for permission, and wait for the answer.

    Exit 0 when approved, 3 when denied, also by default or because the attempt ended.
    """
    options = [f"--{name.replace('_', '-')}={value}" for name, value in values.items() if value is not None]
    flags = ["--no-wait"] if no_wait else []
    words = [] if prompt is None else ["--", prompt]
    return in_task(("ask",), *options, *flags, *words, as_json=as_json)


@click.command()
@click.option("--wait", metavar="SECONDS", help="Wait for a first message; exit code 4 when none comes.")
@json_option
def inbox(wait: str | None, as_json: bool) -> int:
    """Inside a running task: print the messages that it has not read yet.

    They count as read then. The same messages are lines of JSON in the file $FLAKES_INBOX.
    """
    return in_task(("inbox",), *([] if wait is None else [f"--wait={wait}"]), as_json=as_json)
