"""`flakes permissions`: the inbox of what running tasks ask, and the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flakes.cli.options import asks, page_options, remote_options
from flakes.cli.output import Output
from flakes.cli.render.parts import Span, bold, dim
from flakes.cli.render.state import colour
from flakes.cli.render.text import ago, one_line, shortened
from flakes.wire.errors import ApiError, not_found

if TYPE_CHECKING:
    from flakes.client.api import Client
    from flakes.wire.permissions import Decision, Permission

ID_LENGTH = len("perm_") + 26


@click.group()
def permissions() -> None:
    """See what tasks ask for, and answer.

    ID is the id of a request, or the beginning of one when no other pending request begins so.
    """


@permissions.command("list")
@click.option("--all", "all_", is_flag=True, help="Also those that have been answered or are over.")
@page_options
@remote_options
@asks
async def list_(
    client: Client, output: Output, all_: bool, limit: int | None, cursor: str | None
) -> None:
    """List the requests that wait for an answer, the newest first."""
    status = None if all_ else "pending"
    page = await client.list_permissions(status=status, limit=limit, cursor=cursor)
    if output.as_json:
        output.data(page)
        return
    if not page.permissions:
        output.talk("no task asks for anything")
    output.table(
        [
            [Span(each.status, colour(each.status)), each.permission_request_id,
             f"{each.run_key}/{each.task_key}", dim(ago(each.created_at)),
             shortened(one_line(each.prompt), 100), dim(one_line(each.reason or each.action or ""))]
            for each in page.permissions
        ],
        ["STATUS", "ID", "TASK", "ASKED", "PROMPT", ""],
    )  # fmt: skip
    output.more(page.next_cursor)


@permissions.command()
@click.argument("permission_id", metavar="ID")
@click.option("--reason", help="Why; the task gets to read it.")
@remote_options
@asks
async def approve(client: Client, output: Output, permission_id: str, reason: str | None) -> None:
    """Say yes to a request."""
    await _answer(client, output, permission_id, "approved", reason)


@permissions.command()
@click.argument("permission_id", metavar="ID")
@click.option("--reason", help="Why; the task gets to read it.")
@remote_options
@asks
async def deny(client: Client, output: Output, permission_id: str, reason: str | None) -> None:
    """Say no to a request."""
    await _answer(client, output, permission_id, "denied", reason)


async def _answer(
    client: Client, output: Output, permission_id: str, decision: Decision, reason: str | None
) -> None:
    asked = await _find(client, permission_id)
    answered = await client.respond(asked.task_id, asked.permission_request_id, decision, reason)
    if output.as_json:
        output.data(answered)
        return
    output.line(
        Span(answered.status, colour(answered.status)), "  ",
        bold(f"{answered.run_key}/{answered.task_key}"), "  ", shortened(one_line(answered.prompt), 100),
    )  # fmt: skip


async def _find(client: Client, reference: str) -> Permission:
    """The request of that id, or the one pending request whose id begins so."""
    if len(reference) == ID_LENGTH:
        return await client.get_permission(reference)
    found: list[Permission] = []
    cursor: str | None = None
    while True:
        page = await client.list_permissions(status="pending", limit=200, cursor=cursor)
        found += [
            each for each in page.permissions
            if each.permission_request_id.startswith((reference, f"perm_{reference}"))
        ]  # fmt: skip
        cursor = page.next_cursor
        if cursor is None or len(found) > 1:
            break
    if not found:
        raise not_found("permission")
    if len(found) > 1:
        raise ApiError(
            "usage", f"more than one pending request begins with {reference!r}",
            "give more of the id: `flakes permissions list`",
        )  # fmt: skip
    return found[0]
