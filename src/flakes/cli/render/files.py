"""What became of the files that tasks left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from flakes.cli.output import Output
from flakes.cli.render.parts import Part, Span, dim
from flakes.cli.render.text import one_line
from flakes.wire.merging import WorkspaceMerge
from flakes.wire.workspaces import SELECTED, RunWorkspaces

OUTSIDE: Final = ("conflict", "unverified", "failed", "kept")
"""How what a task left ends when it is not brought in."""
SHOWN_MAX: Final = 20

_LOOKS: Final[dict[str, tuple[str, str]]] = {
    "queued": ("◌", "cyan"), "verifying": ("●", "cyan"), "resolving": ("●", "cyan"),
    "promoted": ("✔", "green"), "contained": ("✔", "green"),
    "conflict": ("✖", "red"), "unverified": ("✖", "red"), "failed": ("✖", "red"), "kept": ("○", "yellow"),
}  # fmt: skip


def show_files(output: Output, run_key: str, page: RunWorkspaces) -> None:
    """What is selected, and how each task's files came to be in it or not; nothing where no task left any."""
    if not page.merges:
        return
    output.line()
    rows: list[list[Part]] = []
    for merge in page.merges[:SHOWN_MAX]:
        glyph, colour = _LOOKS.get(merge.state, ("?", "yellow"))
        rows.append([Span(f"{glyph} {merge.state}", colour), merge.task_key, merge.workspace_id, dim(_why(merge))])
    output.table(rows, ["FILES", "TASK", "WORKSPACE", ""])
    if len(page.merges) > SHOWN_MAX:
        output.line(dim(f"... {len(page.merges) - SHOWN_MAX:,} more"))
    selected = next((ref for ref in page.refs if ref.name == SELECTED), None)
    if selected is not None:
        output.line(dim(f"selected  {selected.workspace_id}, version {selected.version}: flakes diff {run_key}"))
    _say_how(output, run_key, _outside(page.merges))


def say_outside(output: Output, run_key: str, merges: Sequence[WorkspaceMerge]) -> None:
    """Which tasks' files are not in the run's result, why, and how to take them."""
    outside = _outside(merges)
    for merge in outside[:SHOWN_MAX]:
        why = _why(merge)
        output.talk(
            Span("  not in the result: ", "yellow"), merge.task_key, dim(f"  {merge.state}{': ' if why else ''}{why}")
        )
    _say_how(output, run_key, outside)


def _outside(merges: Sequence[WorkspaceMerge]) -> list[WorkspaceMerge]:
    """The newest of each task of which nothing was brought in."""
    inside = {merge.task_id for merge in merges if merge.state in ("promoted", "contained")}
    newest = {
        merge.task_id: merge
        for merge in reversed(merges)
        if merge.state in OUTSIDE and merge.task_id not in inside
    }
    return list(newest.values())


def _say_how(output: Output, run_key: str, outside: Sequence[WorkspaceMerge]) -> None:
    if outside:
        first = f"{run_key}/{outside[0].task_key}"
        output.talk(dim(f"  look at it: flakes diff {first}; take it: flakes apply {first} --3way"))


def _why(merge: WorkspaceMerge) -> str:
    if merge.paths:
        return one_line(", ".join(merge.paths[:3]) + (", ..." if len(merge.paths) > 3 else ""))
    return one_line(merge.reason or "")
