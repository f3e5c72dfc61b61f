"""A workflow and its tasks as values, and the definitions that the API takes.

These are what a workflow file means once it is known to be right: defaults applied, matrices
expanded, placeholders replaced, dependencies resolved to keys of the same workflow. Where a file
says nothing, a field holds None, an empty tuple or the product's own default. Nothing here knows
how a file is written, or reads one: `harness_file` and `args_file` are the paths as given, relative
to the workflow file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from flakes.core.graph import DependencyFailurePolicy

HARNESS_GRANTS: Final = ("flakes.tasks.spawn", "flakes.groups")
"""What a harness may do when its task does not say."""
HARNESS_OUTPUT: Final = {"result": {"kind": "json", "required": False}}
"""Where a harness leaves the data of its outcome."""

OutputKind = Literal["text", "json", "workspace"]
Permission = Literal["auto", "ask", "readOnly"]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`max_attempts` counts the first attempt too. None leaves the server's own back-off."""

    max_attempts: int
    backoff_s: float | None = None
    max_backoff_s: float | None = None


@dataclass(frozen=True, slots=True)
class WorkflowBudget:
    """Upper bounds for a run or a task; None is no bound. Cost in millionths of a USD."""

    children: int | None = None
    tokens: int | None = None
    cost_micro_usd: int | None = None
    wall_ms: int | None = None


@dataclass(frozen=True, slots=True)
class OutputDeclaration:
    """One output that a task has to leave (or may, when not required)."""

    kind: OutputKind = "text"
    required: bool = True
    schema: Mapping[str, object] | None = None
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkflowTask:
    """One task, or one of those that a matrix makes. `line` is that of its heading."""

    key: str
    title: str
    body: str
    line: int
    adapter: str
    depends_on: tuple[str, ...] = ()
    model: str | None = None
    effort: str | None = None
    acceptance: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    grants: tuple[str, ...] = ()
    retry: RetryPolicy | None = None
    timeout_s: float | None = None
    on_failure: DependencyFailurePolicy = DependencyFailurePolicy.FAIL
    optional: bool = False
    priority: int = 0
    outputs: Mapping[str, OutputDeclaration] = field(default_factory=dict[str, OutputDeclaration])
    harness_file: str | None = None
    args: object = None
    args_file: str | None = None
    budget: WorkflowBudget | None = None
    run: str | None = None
    verify: tuple[str, ...] = ()
    # The values of this task's matrix axes, and the key that stands for all tasks of the matrix.
    matrix: Mapping[str, str] = field(default_factory=dict[str, str])
    matrix_key: str | None = None
    permission: Permission | None = None


@dataclass(frozen=True, slots=True)
class Workflow:
    """A whole file. `tasks` is in file order, never empty, with unique keys and no cycle."""

    tasks: tuple[WorkflowTask, ...]
    project: str | None = None
    run_key: str | None = None
    run_name: str | None = None
    adapter: str | None = None
    model: str | None = None
    capabilities: tuple[str, ...] = ()
    budget: WorkflowBudget | None = None
    vars: Mapping[str, str] = field(default_factory=dict[str, str])
    title: str | None = None
    intro: str = ""
    merging: Mapping[str, object] | None = None
    """How results are brought together, as the API takes it."""


def to_definitions(workflow: Workflow) -> list[dict[str, object]]:
    """The tasks as the API takes them, in file order; what a task does not say is left out.

    `input` is `{"shell": LINE}` for a command. For a harness it is `{"harnessFile"?, "args"?,
    "argsFile"?}` with the paths as written: whoever may read files puts their content in place
    before sending. Equal workflows give equal definitions, so resubmitting replays.
    """
    return [definition(task) for task in workflow.tasks]


def definition(task: WorkflowTask) -> dict[str, object]:
    """One task as the API takes it. Only `taskKey`, `title` and `adapter` are always there."""
    retry, budget = task.retry, task.budget
    fields: dict[str, object | None] = {
        "taskKey": task.key,
        "title": task.title,
        "bodyMarkdown": task.body or None,
        "acceptance": list(task.acceptance) or None,
        "adapter": task.adapter,
        "input": _input(task) or None,
        "dependsOn": list(task.depends_on) or None,
        "dependencyFailurePolicy": (
            None if task.on_failure is DependencyFailurePolicy.FAIL else task.on_failure.value
        ),
        "requiredCapabilities": list(task.capabilities) or None,
        "toolGrants": list(task.grants or (HARNESS_GRANTS if task.harness_file else ())) or None,
        "priority": task.priority or None,
        "retry": retry
        and _present(
            maxAttempts=retry.max_attempts,
            backoffS=retry.backoff_s,
            maxBackoffS=retry.max_backoff_s,
        ),
        "timeoutS": task.timeout_s,
        "optional": task.optional or None,
        "declaredOutputs": (HARNESS_OUTPUT if task.harness_file else {})
        | {key: _output(each) for key, each in task.outputs.items()} or None,
        "budget": budget and budget_definition(budget),
        "model": task.model,
        "effort": task.effort,
        "permissionMode": task.permission,
        "verify": list(task.verify) or None,
        "metadata": (
            {"matrixKey": task.matrix_key, "matrix": dict(task.matrix)} if task.matrix else None
        ),
    }
    return _present(**fields)


def budget_definition(budget: WorkflowBudget) -> dict[str, object]:
    """A budget as the API takes it, for a task or a run."""
    return _present(
        children=budget.children,
        tokens=budget.tokens,
        costMicroUsd=budget.cost_micro_usd,
        wallMs=budget.wall_ms,
    )


def _input(task: WorkflowTask) -> dict[str, object]:
    return _present(
        shell=task.run, harnessFile=task.harness_file, args=task.args, argsFile=task.args_file
    )


def _output(output: OutputDeclaration) -> dict[str, object]:
    return _present(
        kind=output.kind,
        required=output.required,
        schema=dict(output.schema) if output.schema is not None else None,
        paths=list(output.paths) or None,
    )


def _present(**fields: object | None) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}
