"""Tasks that the promotion queue adds to a run: one that tests merged files, one that resolves a conflict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flakes.core import limits
from flakes.core.keys import key_from
from flakes.store import admission
from flakes.store.database import Connection, Query, rows
from flakes.store.ledger import Ledger
from flakes.wire.merging import Resolver
from flakes.wire.tasks import TaskDefinition
from flakes.wire.workspaces import MOUNT

SIDES_MAX = 10
BRIEF_LENGTH_MAX = 20_000

_BRIEFS = Query("""
    select t.task_id, t.task_key, t.title, p.definition ->> 'bodyMarkdown'
    from tasks t join task_payloads p on p.task_id = t.task_id
    where t.task_id = any(%(task_ids)s)""")

# The tasks whose changes are selected and touch these paths, the last first.
_OTHERS = Query("""
    select m.task_id from workspace_merges m
    join workspaces w on w.workspace_id = m.workspace_id
    where m.run_id = %(run_id)s and m.state = 'promoted'
      and exists (select from json_array_elements(w.changes) c where c ->> 'path' = any(%(paths)s))
    group by m.task_id order by max(m.settled_at) desc limit %(limit)s""")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the task is for: the handle `merged_id` came of merging what `task_id` left."""

    owner_id: str
    run_id: str
    task_id: str
    task_key: str
    merged_id: str
    paths: Sequence[str]
    """That conflict."""


async def verify(conn: Connection, ledger: Ledger, asked: Asked, lines: Sequence[str]) -> str:
    """Add a task that runs these lines in the merged files; its id."""
    definition = TaskDefinition(
        title=f"Test what came of merging {asked.task_key}"[: limits.TITLE_LENGTH_MAX],
        adapter="command", input={"shell": ":"}, verify=list(lines),
        workspace_inputs={MOUNT: asked.merged_id}, metadata=_metadata(asked, "verify"),
    )  # fmt: skip
    return await _add(conn, ledger, asked, "test", definition)


async def resolve(conn: Connection, ledger: Ledger, asked: Asked, resolver: Resolver) -> str:
    """Add a task that resolves a conflict, with the briefs of both sides; its id."""
    others = [r[0] for r in await rows(conn, _OTHERS, {
        "run_id": asked.run_id, "paths": list(asked.paths), "limit": SIDES_MAX,
    })]  # fmt: skip
    briefs = {r[0]: r[1:] for r in await rows(conn, _BRIEFS, {"task_ids": [asked.task_id, *others]})}
    definition = TaskDefinition(
        title=f"Resolve the conflict of {asked.task_key}"[: limits.TITLE_LENGTH_MAX],
        adapter=resolver.adapter, body_markdown=_body(asked, resolver, briefs, others),
        input=_input(asked, resolver), model=resolver.model, effort=resolver.effort,
        required_capabilities=resolver.required_capabilities, tool_grants=resolver.tool_grants,
        timeout_s=resolver.timeout_s, workspace_inputs={MOUNT: asked.merged_id},
        metadata=_metadata(asked, "resolve"),
    )  # fmt: skip
    return await _add(conn, ledger, asked, "resolve", definition)


async def _add(
    conn: Connection, ledger: Ledger, asked: Asked, what: str, definition: TaskDefinition
) -> str:
    key = key_from(f"{what}-{asked.task_key}"[: limits.KEY_LENGTH_MAX - 4])
    return await admission.add(conn, ledger, asked.owner_id, asked.run_id, key, definition)


def _input(asked: Asked, resolver: Resolver) -> dict[str, Any] | None:
    if resolver.adapter != "command":
        return resolver.input
    given = dict(resolver.input or {})
    env = given.get("env")
    given["env"] = (env if isinstance(env, dict) else {}) | {"FLAKES_CONFLICTS": "\n".join(asked.paths)}
    return given


def _metadata(asked: Asked, what: str) -> dict[str, Any]:
    return {"merging": what, "ofTask": asked.task_key, "paths": list(asked.paths)[:20]}


def _body(
    asked: Asked, resolver: Resolver, briefs: Mapping[str, Sequence[Any]], others: Sequence[str]
) -> str:
    files = "\n".join(f"- `{path}`" for path in asked.paths)
    parts = [
        resolver.body_markdown.strip(),
        "Two sides of this run changed the same lines. Your working directory holds both, merged as far as git"
        " could; the files below have its conflict markers. Edit them so that what both sides were meant to do"
        " holds, and leave no marker. `HEAD^1` is what is selected, `HEAD^2` what the task left.",
        f"## Files in conflict\n\n{files}",
        _side("What the task was to do", briefs.get(asked.task_id)),
        *(_side("What the other side was to do", briefs.get(each)) for each in others),
    ]
    return "\n\n".join(part for part in parts if part)[: limits.TASK_BODY_SIZE_BYTES_MAX // 4]


def _side(heading: str, brief: Sequence[Any] | None) -> str:
    if brief is None:
        return ""
    key, title, body = brief
    return f"## {heading}\n\n`{key}`: {title}\n\n{(body or '')[:BRIEF_LENGTH_MAX]}".rstrip()
