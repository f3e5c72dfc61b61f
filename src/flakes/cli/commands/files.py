"""`flakes tasks files`: inside a task, which paths of the run it is about to change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from flakes.cli.inside import in_task
from flakes.cli.options import json_option

F = TypeVar("F", bound=Callable[..., Any])

_prefix_option = click.option(
    "--prefix", is_flag=True, help="The paths stand for everything below them too."
)


@click.group()
def files() -> None:
    """Inside a running task: reserve paths before editing them, so that other tasks can stay away.

    Reservations are advisory. Paths are relative to the root of the work. They end with the attempt.
    """


@files.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@_prefix_option
@click.option("--reason", metavar="TEXT", help="Why, for those who meet the reservation.")
@json_option
def reserve(paths: tuple[str, ...], prefix: bool, reason: str | None, as_json: bool) -> int:
    """Reserve paths, all or none; refused when another task has one of them."""
    options = [*_flag("--prefix", prefix), *([] if reason is None else [f"--reason={reason}"])]
    return in_task(("tasks", "files", "reserve"), *options, "--", *paths, as_json=as_json)


@files.command()
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@_prefix_option
@click.option("--all", "all_", is_flag=True, help="Everything that this attempt has reserved.")
@json_option
def release(paths: tuple[str, ...], prefix: bool, all_: bool, as_json: bool) -> int:
    """Give reserved paths up again; those reserved with --prefix are released with --prefix."""
    options = [*_flag("--prefix", prefix), *_flag("--all", all_)]
    return in_task(("tasks", "files", "release"), *options, "--", *paths, as_json=as_json)


@files.command("list")
@json_option
def list_(as_json: bool) -> int:
    """List what this attempt has reserved."""
    return in_task(("tasks", "files", "list"), as_json=as_json)


@files.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@_prefix_option
@json_option
def check(paths: tuple[str, ...], prefix: bool, as_json: bool) -> int:
    """Say whether other tasks have reserved any of these paths; exit code 2 when they have."""
    options = _flag("--prefix", prefix)
    return in_task(("tasks", "files", "check"), *options, "--", *paths, as_json=as_json)


def _flag(name: str, given: bool) -> list[str]:
    return [name] if given else []
