"""`flakes diff`, `flakes apply` and `flakes publish`: what runs made of the user's files, and back to the user."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flakes.cli.options import F, asks, remote_options
from flakes.cli.output import Output, is_terminal
from flakes.cli.render.parts import Part, Span, bold, dim
from flakes.cli.render.text import count
from flakes.wire.errors import EXIT_DONE, EXIT_USAGE, ApiError

if TYPE_CHECKING:
    from flakes.cli.results import Result, Sides
    from flakes.client.api import Client
    from flakes.workspace.branches import Branch
    from flakes.workspace.changes import Change, Lines

_SIGNS = {"added": Span("A", "green"), "changed": Span("M", "yellow"), "removed": Span("D", "red")}
_COLOURS = {"+": "green", "-": "red", "@": "cyan"}
_FORGES = {"github": "gh", "gitlab": "glab"}


def _which(command: F) -> F:
    """`--attempt` and `--candidate`: of what a task stored more than once."""
    for option in (
        click.option("--candidate", metavar="WORKSPACE", help="Take this one of the handles that a task stored."),
        click.option("--attempt", type=click.IntRange(1), metavar="N", help="Take what this attempt of the task left."),
    ):  # fmt: skip
        command = option(command)
    return command


@click.command()
@click.argument("what", metavar="RUN|TASK")
@_which
@click.option("--stat", is_flag=True, help="How many lines of each file came and went.")
@click.option("--name-only", is_flag=True, help="The paths alone.")
@remote_options
@asks
async def diff(
    client: Client, output: Output, what: str, stat: bool, name_only: bool, attempt: int | None, candidate: str | None
) -> None:
    """Show what a run, or one task of it, changed in its files.

    Without an option this is a patch that `git apply` takes. TASK is an id, or RUN/TASKKEY.
    """
    from flakes.cli.capturing import state_dir
    from flakes.cli.results import Wanted, fetch, find, left_out, predicted, store_of
    from flakes.wire.workspaces import path_text
    from flakes.workspace.changes import changes, lines, patch

    if stat and name_only:
        raise click.UsageError("--stat and --name-only exclude each other")
    result = await find(client, what, Wanted(attempt, candidate))
    state_dir().mkdir(parents=True, exist_ok=True)
    sides = await fetch(client, result, store_of(Path.cwd()))
    git, old, new = sides.git, sides.old, sides.new
    changed = changes(git, old, new)
    conflicts = await predicted(client, result)
    if output.as_json:
        output.data(_facts(result) | {
            "files": _files(changed, lines(git, old, new)), "predictedConflicts": conflicts,
        })  # fmt: skip
        return
    if name_only:
        for each in changed:
            output.line(path_text(each.path))
    elif stat:
        _stat(output, changed, lines(git, old, new))
    else:
        _patch(output, patch(git, old, new))
    if not changed:
        output.talk(dim(f"{result.label} changed no files"))
    _say_left_out(output, left_out(sides.git, result), result)
    for each in conflicts:
        other = f"those of {each.with_task_key}" if each.with_task_key else "what is selected"
        output.talk(Span("  conflict ", "red"), f"changes of {each.task_key} do not merge with {other}: {_some(each.paths, each.count)}")


@click.command()
@click.argument("what", metavar="RUN|TASK")
@_which
@click.option("--branch", metavar="NAME", help="Make a branch of it, and leave the files alone.")
@click.option("--index", "stage", is_flag=True, help="Stage what is written (git add).")
@click.option("--3way", "three_way", is_flag=True, help="Merge with what has changed here since.")
@remote_options
@asks
async def apply(
    client: Client, output: Output, what: str, branch: str | None, stage: bool, three_way: bool,
    attempt: int | None, candidate: str | None,
) -> int:  # fmt: skip
    """Bring what a run, or one task of it, changed into the files that this is called in.

    All of it or nothing: when a file that would be written has changed here since the run began, all of
    them are named and nothing is written. --3way merges instead, and leaves conflict markers where that is
    not possible (exit 2).
    """
    from flakes.cli.results import Wanted, fetch, find, left_out, store_of

    if branch is not None and (stage or three_way):
        raise click.UsageError("--branch leaves the files alone: it goes with neither --index nor --3way")
    result = await find(client, what, Wanted(attempt, candidate))
    here = Path.cwd()
    sides = await fetch(client, result, store_of(here))
    if branch is not None:
        made = await asyncio.to_thread(_branch, here, sides, result, branch)
        _show_branch(output, result, made)
        return EXIT_DONE
    written, conflicts, root = await asyncio.to_thread(_write, here, sides, stage, three_way)
    _show_applied(output, result, written, conflicts, root)
    _say_left_out(output, left_out(sides.git, result), result)
    return EXIT_USAGE if conflicts else EXIT_DONE


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--remote", default="origin", show_default=True, help="Where to push to.")
@click.option("--branch", metavar="NAME", help="The branch's name (default: flakes/RUN).")
@click.option("--pr", is_flag=True, help="Open a pull request with gh or glab, if it is installed.")
@remote_options
@asks
async def publish(
    client: Client, output: Output, run: str, remote: str, branch: str | None, pr: bool
) -> int:
    """Push what a run made of the files as a branch, from the commit that it began from.

    Nothing is ever forced, and no hook is run. The commit names the run; publishing again adds a commit.
    """
    from flakes.cli.results import fetch, find, left_out, store_of

    result = await find(client, run)
    here = Path.cwd()
    sides = await fetch(client, result, store_of(here))
    name = branch or f"flakes/{result.run.run_key}"
    address = await asyncio.to_thread(_address, here, remote)
    made = await asyncio.to_thread(_branch, here, sides, result, name)
    await asyncio.to_thread(_push, here, made, remote)
    command = _pull_request(address, made, result)
    opened = False
    if pr and command is not None and shutil.which(command[0]):
        opened = (await asyncio.to_thread(subprocess.run, command, cwd=here, check=False)).returncode == 0
    if output.as_json:
        output.data(_facts(result) | _branch_facts(made) | {
            "remote": remote, "pullRequestCommand": command, "pullRequestOpened": opened,
        })  # fmt: skip
        return EXIT_DONE
    _show_branch(output, result, made)
    output.talk(f"pushed to {remote}")
    if command is not None and not opened:
        import shlex

        output.talk(dim(f"  open a pull request: {shlex.join(command)}"))
    _say_left_out(output, left_out(sides.git, result), result)
    return EXIT_DONE


def _write(
    here: Path, sides: Sides, stage: bool, three_way: bool
) -> tuple[tuple[Change, ...], tuple[str, ...], Path]:
    from flakes.cli.capturing import refusal, take
    from flakes.workspace.apply import carry_out, plan, stage_changes
    from flakes.workspace.git import WorkspaceError

    now = take(here)
    try:
        planned = plan(now, sides.old, sides.new, three_way=three_way)
        carry_out(planned)
        if stage:
            stage_changes(planned)
    except WorkspaceError as problem:
        raise refusal(problem) from problem
    return planned.changes, planned.conflicts, now.root


def _branch(here: Path, sides: Sides, result: Result, name: str) -> Branch:
    from flakes.cli.capturing import refusal
    from flakes.workspace.branches import branch
    from flakes.workspace.git import WorkspaceError

    trailers = {
        "Flakes-Run": result.run.run_key, "Flakes-Run-Id": result.run.run_id,
        "Flakes-Workspace": result.handle.workspace_id,
    }  # fmt: skip
    if result.task_key is not None:
        trailers["Flakes-Task"] = result.task_key
    try:
        return branch(
            here, sides.git, base=sides.old, result=sides.new, head=result.head, name=name,
            subject=" ".join(result.run.name.split())[:72], trailers=trailers,
        )  # fmt: skip
    except WorkspaceError as problem:
        raise refusal(problem) from problem


def _push(here: Path, made: Branch, remote: str) -> None:
    from flakes.cli.capturing import refusal
    from flakes.workspace.branches import push
    from flakes.workspace.git import WorkspaceError

    try:
        push(here, made, remote)
    except WorkspaceError as problem:
        raise refusal(problem) from problem


def _address(here: Path, remote: str) -> str:
    """Where the remote is; refused before anything is made when there is none."""
    from flakes.workspace.git import GitFailed, users

    if remote.startswith("-"):
        raise click.UsageError(f"{remote!r} is no remote")
    try:
        return users(here, "remote", "get-url", remote).decode(errors="replace").strip()
    except GitFailed as problem:
        raise ApiError("publish_refused", f"there is no remote {remote!r} here", "name one of `git remote` with --remote") from problem


def _pull_request(address: str, made: Branch, result: Result) -> list[str] | None:
    """The command of the forge that the address looks like."""
    program = next((name for forge, name in _FORGES.items() if forge in address.lower()), None)
    if program is None:
        return None
    title = " ".join(result.run.name.split())[:72]
    body = f"Made by the run {result.run.run_key}."
    if program == "gh":
        return ["gh", "pr", "create", "--head", made.name, "--title", title, "--body", body]
    return ["glab", "mr", "create", "--source-branch", made.name, "--title", title, "--description", body]


def _facts(result: Result) -> dict[str, Any]:
    return {
        "runId": result.run.run_id, "runKey": result.run.run_key, "taskKey": result.task_key,
        "baseWorkspaceId": result.base.workspace_id, "workspaceId": result.handle.workspace_id,
        "commit": result.handle.commit,
        "others": [
            {"workspaceId": each.workspace_id, "kind": each.kind, "attempt": each.attempt}
            for each in result.beside
        ],
    }  # fmt: skip


def _files(changed: list[Change], counted: dict[str, Lines]) -> list[dict[str, Any]]:
    from flakes.wire.workspaces import path_text

    return [
        {
            "path": path_text(each.path), "kind": each.kind, "oldMode": each.old_mode,
            "newMode": each.new_mode, "binary": counted[each.path].added is None,
            "addedLines": counted[each.path].added, "removedLines": counted[each.path].removed,
        }
        for each in changed
    ]  # fmt: skip


def _stat(output: Output, changed: list[Change], counted: dict[str, Lines]) -> None:
    from flakes.wire.workspaces import path_text

    rows: list[list[Part]] = []
    added = removed = 0
    for each in changed:
        found = counted[each.path]
        added, removed = added + (found.added or 0), removed + (found.removed or 0)
        lines: Part = "binary" if found.added is None else Span(f"+{found.added} -{found.removed}")
        rows.append([_SIGNS[each.kind], path_text(each.path), lines])
    output.table(rows)
    if changed:
        output.line(dim(f"{count(len(changed), 'file')}, +{added:,} -{removed:,}"))


def _patch(output: Output, content: bytes) -> None:
    """Bytes for programs; for people without what would move their cursor."""
    raw = getattr(sys.stdout, "buffer", None)
    if raw is not None and not is_terminal(sys.stdout):
        sys.stdout.flush()
        raw.write(content)
        raw.flush()
        return
    for line in content.decode("utf-8", "replace").splitlines():
        head = line.startswith(("+++", "---", "diff ", "index "))
        output.line(Span(line, None if head else _COLOURS.get(line[:1]), bold=head))


def _show_applied(
    output: Output, result: Result, written: tuple[Change, ...], conflicts: tuple[str, ...], root: Path
) -> None:
    from flakes.wire.workspaces import path_text

    if output.as_json:
        files = [{"path": path_text(each.path), "kind": each.kind} for each in written]
        named = [path_text(path) for path in conflicts]
        output.data(_facts(result) | {"root": str(root), "files": files, "conflicts": named})
        return
    for each in written:
        mark = Span("  conflict", "red") if each.path in conflicts else ""
        output.line(_SIGNS[each.kind], " ", path_text(each.path), mark)
    if written:
        output.talk(bold(result.label), f"  {count(len(written), 'file')} written in {root}")
    else:
        output.talk(bold(result.label), "  everything is here already")
    if conflicts:
        output.talk(f"{count(len(conflicts), 'file')} with conflict markers: resolve them")


def _branch_facts(made: Branch) -> dict[str, Any]:
    return {
        "branch": made.name, "branchCommit": made.commit, "fresh": made.fresh, "notes": list(made.notes),
    }  # fmt: skip


def _show_branch(output: Output, result: Result, made: Branch) -> None:
    if output.as_json:
        output.data(_facts(result) | _branch_facts(made))
        return
    known = "" if made.fresh else "  (it was there already)"
    output.line(bold(made.name), dim(f"  {made.commit[:12]}{known}"))
    for note in made.notes:
        output.talk(dim(f"  {note}"))


def _some(paths: Sequence[str], count_: int) -> str:
    more = f" and {count_ - len(paths)} more" if count_ > len(paths) else ""
    return ", ".join(paths) + more


def _say_left_out(output: Output, missing: int, result: Result) -> None:
    """What is not in what was shown."""
    from flakes.cli.results import NAMED_MAX

    if result.beside and not output.as_json:
        named = [f"{each.workspace_id} (attempt {each.attempt})" for each in result.beside[:NAMED_MAX]]
        more = f", and {len(result.beside) - NAMED_MAX} more" if len(result.beside) > NAMED_MAX else ""
        output.talk(dim(f"  the task stored files more than once; take others with --candidate: {', '.join(named)}{more}"))
    if missing and not output.as_json:
        verb = "has" if missing == 1 else "have"
        output.talk(dim(f"  {count(missing, 'task')} {verb} changes that are not in this: flakes inspect {result.run.run_key}"))
