"""Checks of task definitions that the type alone cannot make: keys, limits, and the shape of the graph."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from flakes.core import limits
from flakes.core.graph import find_cycle
from flakes.core.keys import is_key
from flakes.wire import schemas
from flakes.wire.codec import Issue, encode
from flakes.wire.errors import ApiError
from flakes.wire.tasks import ARTIFACTS, OutputDeclaration, TaskDefinition

RESERVED_MOUNTS = frozenset({
    "work", "inputs", "outputs", "home", "tmp", "state", "bin", "session", "brief",
})  # fmt: skip
"""Directories of a task that are there for something else."""
KEY_FIX = "use lower-case letters and digits, joined by single hyphens, at most 64 characters"


def check_key(kind: str, key: str) -> str:
    """The key itself, or `invalid_request`."""
    if is_key(key):
        return key
    issue = Issue(path=f"{kind}Key", message=f"{key[:80]!r} is not a valid key")
    raise ApiError("invalid_request", f"{key[:80]!r} is not a valid {kind} key", KEY_FIX, issues=[issue])


def check_size(what: str, value: Any, limit_bytes: int) -> None:
    """Refuse `value` when its JSON is larger than `limit_bytes`."""
    size = len(value.encode() if isinstance(value, str) else encode(value))
    if size > limit_bytes:
        raise ApiError(
            "limit_exceeded", f"{what} is {size} bytes, the limit is {limit_bytes}",
            "shorten it, or pass the content as an artifact", limit=limit_bytes, size=size, path=what,
        )  # fmt: skip


def check_definition(key: str, definition: TaskDefinition) -> None:
    """Everything that can be said of one definition alone."""
    check_key("task", key)
    if definition.task_key not in (None, key):
        raise ApiError("invalid_request", f"taskKey {definition.task_key!r} differs from {key!r}", "make them equal or leave taskKey out")
    check_size(f"tasks.{key}.bodyMarkdown", definition.body_markdown, limits.TASK_BODY_SIZE_BYTES_MAX)
    if definition.input is not None:
        check_size(f"tasks.{key}.input", definition.input, limits.TASK_INPUT_SIZE_BYTES_MAX)
    check_size(f"tasks.{key}.metadata", definition.metadata, limits.METADATA_SIZE_BYTES_MAX)
    for output, declaration in definition.declared_outputs.items():
        check_key("output", output)
        if declaration.schema is not None:
            _check_schema(f"tasks.{key}.declaredOutputs.{output}", declaration)
    if definition.input_artifacts and ARTIFACTS in definition.depends_on:
        raise ApiError(
            "invalid_request", f"task {key!r} has input artifacts and depends on a task called {ARTIFACTS!r}",
            "both would be delivered to the same directory: give that task another key",
            issues=[Issue(path=f"{key}.inputArtifacts", message=f"needs the directory {ARTIFACTS!r} of the inputs")],
        )  # fmt: skip
    for mount in definition.workspace_inputs:
        if not is_key(mount) or mount in RESERVED_MOUNTS:
            issue = Issue(path=f"{key}.workspaceInputs", message=f"{mount[:80]!r} is no name for a mount")
            raise ApiError("invalid_request", f"task {key!r} mounts a workspace as {mount[:80]!r}", f"{KEY_FIX}; and not {', '.join(sorted(RESERVED_MOUNTS))}", issues=[issue])
    if definition.live_idle is not None and not definition.live_rounds:
        issue = Issue(path=f"{key}.liveIdle", message="is for tasks with liveRounds")
        raise ApiError("invalid_request", f"task {key!r} is not live: liveIdle means nothing", "give it liveRounds, or leave liveIdle out", issues=[issue])
    if definition.adapter == "command" and not _has_command(definition.input):
        raise ApiError(
            "invalid_request", f"task {key!r} has no command to run",
            'give `input` as {"shell": "..."} or {"argv": ["..."]}',
            issues=[Issue(path=f"{key}.input", message="needs `shell` or `argv`")],
        )  # fmt: skip


def _check_schema(path: str, declaration: OutputDeclaration) -> None:
    if declaration.kind != "json":
        issue = Issue(path=f"{path}.schema", message=f"has no use for an output of kind {declaration.kind}")
        raise ApiError("invalid_request", f"{issue.path} {issue.message}", "declare the output as json, or leave the schema out", issues=[issue])
    assert declaration.schema is not None
    problem = schemas.schema_problem(declaration.schema)
    if problem is not None:
        issue = Issue(path=f"{path}.schema{problem.path[1:]}", message=problem.message)
        raise ApiError(
            "invalid_request", f"{issue.path}: {issue.message}",
            "mend the schema: JSON Schema 2020-12, all references within it", issues=[issue],
        )  # fmt: skip


def _has_command(value: dict[str, Any] | None) -> bool:
    if not value:
        return False
    shell, argv = value.get("shell"), value.get("argv")
    if shell is not None:
        return isinstance(shell, str) and bool(shell.strip()) and argv is None
    return (
        isinstance(argv, list) and bool(argv) and all(isinstance(a, str) and "\0" not in a for a in argv)
    )


def check_graph(
    definitions: Sequence[tuple[str, TaskDefinition]], existing: Collection[str] = ()
) -> None:
    """Refuse the whole when a key comes twice, a dependency is unknown, or there is a cycle."""
    keys = {key for key, _ in definitions}
    if len(keys) != len(definitions):
        twice = _first_repeated(key for key, _ in definitions)
        raise ApiError("graph_invalid", f"task key {twice!r} comes twice", "give each task its own key", path=f"tasks.{twice}")
    known = keys | set(existing)
    for key, definition in definitions:
        for dependency in definition.depends_on:
            if dependency == key:
                raise ApiError("graph_invalid", f"task {key!r} depends on itself", "remove that dependency", path=f"tasks.{key}.dependsOn")
            if dependency not in known:
                near = difflib.get_close_matches(dependency, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else "add a task of that key, or remove the dependency"
                raise ApiError("graph_invalid", f"task {key!r} depends on unknown task {dependency!r}", hint, path=f"tasks.{key}.dependsOn")
    cycle = find_cycle({key: definition.depends_on for key, definition in definitions})
    if cycle:
        path = " -> ".join(cycle)
        raise ApiError("graph_invalid", f"the tasks form a cycle: {path}", "remove one of these dependencies", cycle=cycle)


def _first_repeated(keys: Iterable[str]) -> str:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            return key
        seen.add(key)
    raise AssertionError("no key repeats")
