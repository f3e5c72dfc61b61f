"""What is said at the end of a run: results, failures with their last words, and where to look next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from flakes.cli.output import Output
from flakes.cli.render import state as states
from flakes.cli.render.parts import Part, Span, bold, dim
from flakes.cli.render.text import count, duration, excerpt, one_line, size
from flakes.core.run import RunState
from flakes.wire.runs import Run
from flakes.wire.tasks import LogEntry, Task, TaskError, TaskResult

RESULTS_MAX = 12
FAILURES_MAX = 8
WARNINGS_MAX = 5
TEXT_LINES_MAX = 12
TEXT_CHARS_MAX = 2_000
STEP_LINES_MAX = 3
LINE_CHARS_MAX = 160
CONSEQUENCES = frozenset({"dependency_failed", "dependency_cancelled"})
"""Error codes of tasks that ended only because of another one."""


def worth_showing(tasks: Sequence[Task]) -> list[Task]:
    """The tasks whose results are printed: all when they are few, else those nothing depends on."""
    done = [task for task in tasks if task.status == "SUCCEEDED"]
    if len(done) <= RESULTS_MAX:
        return done
    needed = steps(tasks)
    return [task for task in done if task.task_key not in needed][:RESULTS_MAX]


def steps(tasks: Sequence[Task]) -> set[str]:
    """The keys of tasks that others build on: what they left is mostly for those, not for people."""
    return {key for task in tasks for key in task.depends_on}


def failures(tasks: Sequence[Task]) -> list[Task]:
    """The tasks that failed by themselves, the first ones first."""
    own = [
        task
        for task in tasks
        if task.status == "FAILED" and not (task.error and task.error.code in CONSEQUENCES)
    ]
    return sorted(own, key=lambda task: task.finished_at or task.created_at)[:FAILURES_MAX]


def show_result(
    output: Output, run: Run, task: Task, result: TaskResult, *, brief: bool = False
) -> None:
    """One task's words and outputs, trimmed, with where to read the rest.

    `brief` is for a step on the way: its last lines, and its outputs by name.
    """
    head: list[Part] = [Span(states.glyph(task.status), states.colour(task.status)), " "]
    head += [bold(task.task_key), "  ", dim(_took(task.started_at, task.finished_at))]
    head += _proof(result)
    output.line(*head)
    show_warnings(output, result)
    reference = f"{run.run_key}/{task.task_key}"
    if brief:
        for line in result.text.strip().split("\n")[-STEP_LINES_MAX:]:
            if line.strip():
                output.line("  ", one_line(line)[:LINE_CHARS_MAX])
        names = ", ".join(f"{key} ({o.kind}, {size(o.size_bytes)})" for key, o in result.outputs.items())
        if names:
            first = next(iter(result.outputs))
            output.line("  ", dim(f"{names}: flakes tasks result {reference} --output {first}"))
        return
    _body(output, result.text, f"flakes tasks result {reference}")
    for key, each in result.outputs.items():
        output.line("  ", dim(f"{key} ({each.kind}, {size(each.size_bytes)})"))
        read = f"flakes tasks result {reference} --output {key}"
        if each.text is None:
            output.line("  ", dim(f"read it: {read}"))
        elif one_line(each.text) != one_line(result.text):
            _body(output, each.text, read)


def show_warnings(output: Output, result: TaskResult | None) -> None:
    """What was not as it should be, without failing the task."""
    for each in result.warnings[:WARNINGS_MAX] if result else ():
        output.talk("  ", Span(f"warning: {one_line(each.message)}", "yellow"), dim(f" ({each.code})"))


def show_failure(
    output: Output, task: Task, error: TaskError | None, tail: Sequence[LogEntry]
) -> None:
    """Why a task failed, and the end of its log."""
    glyph = Span(states.glyph("FAILED"), "red")
    took = dim(_took(task.started_at, task.finished_at))
    output.line(glyph, " ", bold(task.task_key), "  ", took)
    if error is not None:
        output.line("  ", Span(one_line(error.message), "red"), " ", dim(f"({error.code})"))
    for entry in tail:
        output.line("  ", dim("│ "), one_line(entry.text)[:400])


def show_end(output: Output, run: Run, shown: int, tasks: Sequence[Task]) -> None:
    """The last lines: how the run ended, and the commands that tell more."""
    total = sum(run.task_counts.values())
    took = _took(run.created_at, run.completed_at)
    output.talk(
        states.state(run.state, with_glyph=True), "  ", bold(run.run_key), "  ",
        dim(f"{count(total, 'task')}, {took}"),
    )  # fmt: skip
    consequences = sum(1 for t in tasks if t.error is not None and t.error.code in CONSEQUENCES)
    if consequences:
        output.talk(dim(f"  {count(consequences, 'task')} did not start because of that"))
    done = run.task_counts.get("SUCCEEDED", 0)
    if shown < done:
        output.talk(dim(f"  {done - shown:,} more results: flakes tasks list {run.run_key}"))
    output.talk(dim(f"  details: flakes inspect {run.run_key}"))
    if run.state != RunState.SUCCEEDED:
        failed = failures(tasks)
        if failed:
            output.talk(dim(f"  whole log: flakes logs {run.run_key}/{failed[0].task_key}"))
        output.talk(dim(f"  try again: flakes runs retry {run.run_key}"))


def summary(
    run: Run, tasks: Sequence[Task], results: Mapping[str, TaskResult]
) -> dict[str, object]:
    """The same as JSON: the run, its tasks, and the results by task key."""
    return {"run": run, "tasks": list(tasks), "results": dict(results)}


def _proof(result: TaskResult) -> list[Part]:
    if result.verified is True:
        return ["  ", Span("verified", "green")]
    if result.verified is False:
        return ["  ", Span("not verified", "red")]
    return []


def _body(output: Output, text: str, more: str) -> None:
    if not text.strip():
        return
    shown, left_out = excerpt(text, TEXT_LINES_MAX, TEXT_CHARS_MAX)
    for line in shown.split("\n"):
        output.line("  ", line)
    if left_out:
        output.line("  ", dim(f"... {count(left_out, 'more line')}: {more}"))


def _took(started_at: datetime | None, ended_at: datetime | None) -> str:
    if started_at is None or ended_at is None:
        return ""
    return duration((ended_at - started_at).total_seconds())
