"""`flakes projects`: the namespaces of runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flakes.cli.options import asks, key_of, page_options, remote_options
from flakes.cli.output import Output
from flakes.cli.render.parts import Span, bold, dim
from flakes.cli.render.state import colour
from flakes.cli.render.text import ago

if TYPE_CHECKING:
    from flakes.client.api import Client
    from flakes.wire.projects import Project


@click.group()
def projects() -> None:
    """List, create, archive projects, and bind them to hosts."""


@projects.command("list")
@page_options
@remote_options
@asks
async def list_(client: Client, output: Output, limit: int | None, cursor: str | None) -> None:
    """List your projects, archived ones too."""
    page = await client.list_projects(limit=limit, cursor=cursor)
    if output.as_json:
        output.data(page)
        return
    if not page.projects:
        output.talk("there are no projects")
    output.table(
        [
            [
                Span(each.status, colour(each.status)),
                each.project_key,
                ago(each.created_at),
                each.name,
            ]
            for each in page.projects
        ],
        ["STATUS", "KEY", "CREATED", "NAME"],
    )
    output.more(page.next_cursor)


@projects.command()
@click.option("--key", "project_key", required=True, callback=key_of, help="The project's key.")
@click.option("--name", required=True, help="The project's name.")
@remote_options
@asks
async def create(client: Client, output: Output, project_key: str, name: str) -> None:
    """Create a project, or read it when it is there already."""
    _show(output, await client.put_project(project_key, name))


@projects.command()
@click.argument("project")
@remote_options
@asks
async def archive(client: Client, output: Output, project: str) -> None:
    """Archive a project: it takes no new runs, and its history stays."""
    _show(output, await client.archive_project(project))


@projects.command("bind-host")
@click.argument("project")
@click.option("--host", "host_id", required=True, metavar="HOST", help="The host's id.")
@click.option(
    "--pool", "pool_keys", required=True, multiple=True, metavar="POOL", help="A pool of it. Repeatable."
)
@remote_options
@asks
async def bind_host(
    client: Client, output: Output, project: str, host_id: str, pool_keys: tuple[str, ...]
) -> None:
    """Let these pools of a host serve a project, and nothing that it is not bound to."""
    binding = await client.bind_project(host_id, project, pool_keys)
    if output.as_json:
        output.data(binding)
        return
    output.line(
        Span(binding.status, colour(binding.status)), "  ", bold(binding.project_key),
        f" on {', '.join(binding.pool_keys)}", dim(f"  {binding.workspace_path or ''}"),
    )  # fmt: skip
    if binding.reason == "workspace_root_missing":
        output.talk("the host has no project root yet: `flakes host project-root set` there")


@projects.command("unbind-host")
@click.argument("project")
@click.option("--host", "host_id", required=True, metavar="HOST", help="The host's id.")
@remote_options
@asks
async def unbind_host(client: Client, output: Output, project: str, host_id: str) -> None:
    """Take a project's binding to a host away."""
    answer = await client.unbind_project(host_id, project)
    if output.as_json:
        output.data(answer)
        return
    output.line(Span("unbound", "yellow"), "  ", bold(answer.project_key), dim(f"  {host_id}"))


def _show(output: Output, project: Project) -> None:
    if output.as_json:
        output.data(project)
        return
    output.line(
        Span(project.status, colour(project.status)), "  ", bold(project.project_key),
        dim(f"  {project.project_id}  "), project.name,
    )  # fmt: skip
