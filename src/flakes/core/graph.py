"""The dependency graph: what makes one invalid, and what the end of a task does to those behind it.

Edges point from a task to what it depends on. All functions are pure and linear in tasks plus edges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from flakes.core.task import TERMINAL, TaskEvent, TaskStatus


class DependencyFailurePolicy(StrEnum):
    """What a blocked task does when a dependency ends without success."""

    FAIL = "fail"
    CANCEL = "cancel"
    WAIT = "wait"
    CONTINUE = "continue"


def find_cycle(edges: Mapping[str, Iterable[str]]) -> list[str] | None:
    """One cycle as `[a, b, ..., a]` (a depends on b ...), or None. Names outside `edges` are ignored."""
    done: set[str] = set()
    for root in edges:
        if root in done:
            continue
        path: list[str] = []
        on_path: dict[str, int] = {}
        stack = [root]
        iterators: dict[str, Iterator[str]] = {}
        while stack:
            node = stack[-1]
            if node not in on_path:
                on_path[node] = len(path)
                path.append(node)
                iterators[node] = iter(edges[node])
            for child in iterators[node]:
                if child in on_path:
                    return [*path[on_path[child] :], child]
                if child in edges and child not in done:
                    stack.append(child)
                    break
            else:
                stack.pop()
                path.pop()
                del on_path[node]
                done.add(node)
    return None


@dataclass(frozen=True, slots=True)
class BlockedTask:
    """A blocked task as the settlement needs it: its policy and the states of all it depends on."""

    task_id: str
    policy: DependencyFailurePolicy
    dependencies: tuple[str, ...]


def settle(
    blocked: Iterable[BlockedTask], statuses: Mapping[str, TaskStatus]
) -> dict[str, TaskEvent]:
    """What happens to blocked tasks now that `statuses` are as given, cascades included.

    `statuses` names the state of every dependency that is not itself in `blocked`. A task fails or is
    cancelled as soon as one dependency ended badly and its policy says so, without waiting for the
    others; `continue` waits for all to end; `wait` stays blocked until every dependency has succeeded
    (a retry may still bring that). The result holds only tasks that move. Ordering of `blocked` is
    irrelevant.
    """
    waiting = {task.task_id: task for task in blocked}
    known = dict(statuses)
    dependents: dict[str, list[str]] = {}
    for task in waiting.values():
        for dependency in task.dependencies:
            dependents.setdefault(dependency, []).append(task.task_id)
            if dependency in waiting:
                known.setdefault(dependency, TaskStatus.BLOCKED)
    events: dict[str, TaskEvent] = {}
    queue = list(waiting)
    while queue:
        task = waiting[queue.pop()]
        if task.task_id in events:
            continue
        event = _next_event(task, known)
        if event is None:
            continue
        events[task.task_id] = event
        known[task.task_id] = {
            TaskEvent.UNBLOCKED: TaskStatus.QUEUED,
            TaskEvent.DEPENDENCY_FAILED: TaskStatus.FAILED,
            TaskEvent.DEPENDENCY_CANCELLED: TaskStatus.CANCELLED,
        }[event]
        if known[task.task_id] in TERMINAL:
            queue.extend(dependents.get(task.task_id, ()))
    return events


def _next_event(task: BlockedTask, known: Mapping[str, TaskStatus]) -> TaskEvent | None:
    states = [known[dependency] for dependency in task.dependencies]
    ended_badly = any(state in (TaskStatus.FAILED, TaskStatus.CANCELLED) for state in states)
    if ended_badly and task.policy is DependencyFailurePolicy.FAIL:
        return TaskEvent.DEPENDENCY_FAILED
    if ended_badly and task.policy is DependencyFailurePolicy.CANCEL:
        return TaskEvent.DEPENDENCY_CANCELLED
    if ended_badly and task.policy is DependencyFailurePolicy.WAIT:
        return None
    if all(state in TERMINAL for state in states):
        return TaskEvent.UNBLOCKED
    return None
