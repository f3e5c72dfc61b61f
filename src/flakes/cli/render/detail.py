"""The human views of `flakes inspect`: one run, one task."""

from __future__ import annotations

import json
from collections.abc import Sequence

from flakes.cli.output import Output
from flakes.cli.render import state as states
from flakes.cli.render.parts import Part, Span, bold, dim
from flakes.cli.render.text import (
    ago,
    count,
    duration,
    excerpt,
    moment,
    one_line,
    shortened,
    size,
    until,
)
from flakes.wire.runs import Run
from flakes.wire.tasks import Explanation, Task, TaskDetail, TaskExplained, TaskResult
from flakes.wire.transcripts import AgentUsage

TASKS_MAX = 200


def spent(usage: AgentUsage) -> str:
    """What agents have used up; a cost that none of them told is not nothing."""
    cost = usage.cost_micro_usd
    money = "cost not told" if cost is None else f"${cost / 1_000_000:,.4f}"
    cached = f", {usage.cached_read:,} of them cached" if usage.cached_read else ""
    return f"{usage.tokens:,} tokens{cached}; {money}"


def show_run(
    output: Output, run: Run, tasks: Sequence[Task], usage: AgentUsage | None = None
) -> None:
    """A run: its state, its counts, its tasks."""
    closed = "" if run.closed else "  (open: more tasks may come)"
    if run.cancel_requested:
        closed = "  (cancelled)"
    if run.deleting:
        closed = "  (being deleted)"
    rows: list[list[Part]] = [
        [dim("run"), f"{run.run_key}  {run.run_id}"],
        [dim("name"), run.name],
        [dim("project"), run.project_key],
        [dim("created"), f"{moment(run.created_at)}, {ago(run.created_at)}"],
    ]
    if run.completed_at is not None:
        took = duration((run.completed_at - run.created_at).total_seconds())
        rows.append([dim("completed"), f"{moment(run.completed_at)}, after {took}"])
    if usage is not None:
        rows.append([dim("spent"), spent(usage)])
    for name, limit in (run.budget or {}).items():
        if limit is not None:
            rows.append([dim("budget"), f"{limit:,} {name}"])
    output.line(states.state(run.state, with_glyph=True), closed)
    output.table(rows)
    output.line(dim("tasks"), "      ", *states.counts(run.task_counts))
    if tasks:
        output.line()
        show_tasks(output, tasks[:TASKS_MAX])
    if len(tasks) > TASKS_MAX:
        output.line(dim(f"... {len(tasks) - TASKS_MAX:,} more: flakes tasks list {run.run_key}"))


def show_tasks(output: Output, tasks: Sequence[Task]) -> None:
    """A table of tasks."""
    rows: list[list[Part]] = []
    for task in tasks:
        took = "-"
        if task.started_at is not None and task.finished_at is not None:
            took = duration((task.finished_at - task.started_at).total_seconds())
        why = "" if task.error is None else shortened(one_line(task.error.message), 80)
        if task.next_attempt_at is not None and task.status == "QUEUED":
            why = f"next attempt {until(task.next_attempt_at)}" + (f"; {why}" if why else "")
        rows.append([
            states.state(task.status, with_glyph=True), task.task_key,
            shortened(one_line(task.title), 50), task.adapter, str(task.attempt), took, dim(why),
        ])  # fmt: skip
    output.table(rows, ["STATUS", "KEY", "TITLE", "ADAPTER", "ATTEMPT", "TOOK", ""])


def show_task(output: Output, task: TaskDetail, result: TaskResult | None) -> None:
    """A task: what it is, how it stands, its attempts, and what it left."""
    output.line(states.state(task.status, with_glyph=True))
    rows: list[list[Part]] = [
        [dim("task"), f"{task.run_key}/{task.task_key}  {task.task_id}"],
        [dim("title"), task.title],
        [dim("adapter"), task.adapter],
    ]
    work = task.definition.get("input")
    if isinstance(work, dict):
        shown = work.get("shell") or json.dumps(work, ensure_ascii=False)
        rows.append([dim("input"), shortened(one_line(str(shown)), 200)])
    if task.depends_on:
        rows.append([dim("depends on"), ", ".join(task.depends_on)])
    needs = task.definition.get("requiredCapabilities")
    if needs:
        rows.append([dim("needs"), ", ".join(map(str, needs))])
    if task.workpad is not None and task.workpad.version:
        pad = f"version {task.workpad.version}, {ago(task.workpad.updated_at)}"
        rows.append([dim("workpad"), pad])
    rows.append([dim("created"), moment(task.created_at)])
    if task.next_attempt_at is not None and task.status == "QUEUED":
        at = f"{moment(task.next_attempt_at)}, {until(task.next_attempt_at)} (attempt {task.attempt})"
        rows.append([dim("next attempt"), at])
    if task.started_at is not None:
        rows.append([dim("started"), moment(task.started_at)])
    if task.finished_at is not None:
        rows.append([dim("finished"), moment(task.finished_at)])
    if task.usage is not None:
        rows.append([dim("spent"), spent(task.usage)])
    if task.error is not None:
        rows.append([dim("error"), Span(f"{task.error.message} ({task.error.code})", "red")])
    output.table(rows)
    if task.explanation is not None:
        output.line()
        show_explanation(output, task.explanation)
    if task.attempts:
        output.line()
        _show_attempts(output, task)
    if result is not None:
        output.line()
        _show_result(output, task, result)


def show_explanation(output: Output, explanation: Explanation) -> None:
    """Why a task is not running, the facts behind it, and what to do."""
    heading = "what it waits for: " if explanation.code == "needs_input" else "why it is not running: "
    output.line(
        bold(heading), explanation.sentence, " ", dim(f"({explanation.code})")
    )
    for name, value in explanation.evidence.items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        output.line("  ", dim(f"{name}: "), one_line(shown))
    if explanation.next_action:
        output.line(Span("next: ", "green"), explanation.next_action)


def show_still(output: Output, run: Run, explained: Sequence[TaskExplained], most: int) -> None:
    """The tasks of a run that do not move, and what to do about each."""
    output.line()
    if not explained:
        output.line("nothing stands still")
    for task in explained[:most]:
        why = task.explanation
        output.line(
            states.state(task.status, with_glyph=True), f" {task.task_key}  ",
            one_line(why.sentence), dim(f" ({why.code})"),
        )  # fmt: skip
        output.line("  ", Span("next: ", "green"), one_line(why.next_action))
    if len(explained) > most:
        more = f"flakes inspect {run.run_key} --explain --json"
        output.line(dim(f"... {len(explained) - most:,} more: {more}"))


def _show_attempts(output: Output, task: TaskDetail) -> None:
    rows: list[list[Part]] = []
    for each in task.attempts:
        begun = each.accepted_at or each.offered_at
        took = "-" if each.ended_at is None else duration((each.ended_at - begun).total_seconds())
        rows.append([
            str(each.attempt), Span(each.state, states.colour(each.state)), moment(begun), took,
            each.sandbox_id, dim(one_line(each.reason or "")),
        ])  # fmt: skip
    output.table(rows, ["ATTEMPT", "STATE", "BEGUN", "TOOK", "SANDBOX", ""])


def _show_result(output: Output, task: TaskDetail, result: TaskResult) -> None:
    claim = {True: "verified", False: "not verified", None: "claimed, nothing was verified"}
    facts = [claim[result.verified]] if result.status == "SUCCEEDED" else []
    if result.exit_code is not None:
        facts.append(f"exit code {result.exit_code}")
    output.line(bold("result"), dim(f"  {', '.join(facts)}"))
    for each in result.evidence:
        look = Span("passed", "green") if each.passed else Span(f"exit {each.exit_code}", "red")
        output.line("  ", look, f"  {one_line(each.command)}")
    for each in result.warnings:
        output.line("  ", Span("warning", "yellow"), f"  {one_line(each.message)}", dim(f" ({each.code})"))
    text, left_out = excerpt(result.text, 40, 8_000)
    for line in text.split("\n") if text else ():
        output.line("  ", line)
    reference = f"{task.run_key}/{task.task_key}"
    if left_out:
        output.line(
            "  ", dim(f"... {count(left_out, 'more line')}: flakes tasks result {reference}")
        )
    for key, each in result.outputs.items():
        read = f"flakes tasks result {reference} --output {key}"
        output.line("  ", f"{key}  ", dim(f"{each.kind}, {size(each.size_bytes)}: {read}"))
