"""Who waits for whom in a workflow: names become keys, and what can never run is refused.

The key of a matrix task means all the tasks that it makes; the key of one of those means that one.
Arrows in messages read "waits for".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from flakes.core.graph import find_cycle
from flakes.core.limits import DEPENDENCIES_PER_TASK_MAX, MIB, REQUEST_SIZE_BYTES_MAX
from flakes.core.suggestion import closest
from flakes.core.workflow_problem import Findings, quoted
from flakes.core.workflow_task import WorkflowTask

# Each costs a pass over the graph or over all names; files with more faults get the rest next time.
CYCLES_REPORTED_MAX: Final = 20
SUGGESTIONS_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Draft:
    """A task whose dependencies are still as written. `written_key` is that of its heading."""

    task: WorkflowTask
    written_key: str
    depends_on_line: int


def resolve_dependencies(
    drafts: Sequence[Draft],
    groups: Mapping[str, tuple[str, ...]],
    tolerated: Collection[str],
    findings: Findings,
) -> tuple[WorkflowTask, ...]:
    """The tasks with dependencies by key.

    `groups` maps every name that may be written to the keys that it means. Names in `tolerated`
    belong to tasks that were refused already, and are dropped without another word; one that ends
    in `-` stands for all that begin so.
    """
    tasks: list[WorkflowTask] = []
    lines: dict[str, int] = {}
    keys_of: dict[tuple[str, ...], tuple[str, ...]] = {}
    suggestions_left = SUGGESTIONS_MAX
    size_bytes = 0
    prefixes = tuple(name for name in tolerated if name.endswith("-"))
    for draft in drafts:
        task, line = draft.task, draft.depends_on_line
        own = {task.key, draft.written_key}
        for name in task.depends_on:
            if name in own:
                findings.add(
                    line,
                    "self_dependency",
                    f"the task {quoted(draft.written_key)} depends on itself",
                    f"remove {quoted(name)} from its `depends_on`",
                )
            elif name not in groups and name not in tolerated and not name.startswith(prefixes):
                near = None
                if suggestions_left:
                    suggestions_left -= 1
                    near = closest(name, (each for each in groups if each not in own))
                findings.add(
                    line,
                    "unknown_dependency",
                    f"the task {quoted(draft.written_key)} depends on {quoted(name)}, "
                    "which is not a task of this file",
                    f"did you mean `{near}`?"
                    if near
                    else f"add a task `## {name[:64]}: Title`, or remove the dependency",
                )
        names = tuple(name for name in task.depends_on if name in groups and name not in own)
        if names not in keys_of:
            keys_of[names] = tuple(dict.fromkeys(key for name in names for key in groups[name]))
        keys = keys_of[names]
        if len(keys) > DEPENDENCIES_PER_TASK_MAX:
            findings.add(
                line,
                "bad_value",
                f"`depends_on`: {len(keys)} dependencies are more than the "
                f"{DEPENDENCIES_PER_TASK_MAX} allowed",
                "put a task in between that waits for a part of them",
            )
            keys = ()
        size_bytes += sum(map(len, keys)) + 3 * len(keys)
        if size_bytes > REQUEST_SIZE_BYTES_MAX:
            findings.add(
                line,
                "file_too_large",
                f"the dependencies of all tasks have more than {REQUEST_SIZE_BYTES_MAX // MIB} MiB",
                "put a task in between that waits for many, and let others wait for that one",
            )
            return ()
        lines[task.key] = line
        tasks.append(replace(task, depends_on=keys))
    _report_cycles(tasks, lines, findings)
    return tuple(tasks)


def _report_cycles(
    tasks: Sequence[WorkflowTask], lines: Mapping[str, int], findings: Findings
) -> None:
    order = {task.key: index for index, task in enumerate(tasks)}
    edges = {task.key: task.depends_on for task in tasks}
    reported: set[int] = set()
    for _ in range(CYCLES_REPORTED_MAX):
        if (cycle := find_cycle(edges)) is None:
            return
        members = cycle[:-1]
        start = min(range(len(members)), key=lambda index: order[members[index]])
        members = members[start:] + members[:start]
        # The tasks of one matrix go round together; once is enough.
        if lines[members[0]] not in reported:
            reported.add(lines[members[0]])
            findings.add(
                lines[members[0]],
                "dependency_cycle",
                "these tasks wait for each other: " + " -> ".join([*members, members[0]]),
                f"remove one of the dependencies, for example `{members[1 % len(members)]}` "
                f"from the `depends_on` of `{members[0]}`",
            )
        for key in members:
            del edges[key]
