"""Artifacts that tasks name as inputs: checked when a task is saved and admitted, delivered with its offer.

A task may name artifacts of its own account, and only whole ones. One that is deleted after the admission
is not delivered any more: the attempt that misses it fails and says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from flakes.core import limits
from flakes.store.database import Connection, Query, row, rows
from flakes.wire.errors import ApiError
from flakes.wire.sandbox_stream import InputArtifact
from flakes.wire.tasks import TaskDefinition

_KNOWN = Query("""
    select artifact_id, state, size_bytes from artifacts
    where artifact_id = any(%(artifact_ids)s) and owner_id = %(owner_id)s""")

_OF_TASKS = Query("""
    select t.task_id, f.artifact_id, f.name, f.digest, f.size_bytes
    from tasks t
    join runs r on r.run_id = t.run_id
    join task_payloads p on p.task_id = t.task_id
    cross join lateral json_array_elements_text(p.definition -> 'inputArtifacts')
        with ordinality as e(artifact_id, place)
    join artifacts f on f.artifact_id = e.artifact_id and f.owner_id = r.owner_id
    where t.task_id = any(%(task_ids)s) and f.state = 'ready'
    order by t.task_id, e.place""")

_NAMES = Query("""
    select 1 from assignments a
    join runs r on r.run_id = a.run_id
    join task_payloads p on p.task_id = a.task_id
    cross join lateral json_array_elements_text(
        coalesce(p.definition -> 'inputArtifacts', '[]'::json)) as e(artifact_id)
    join artifacts f on f.artifact_id = e.artifact_id and f.owner_id = r.owner_id
    where a.sandbox_id = %(sandbox_id)s and a.live and f.state = 'ready' and f.digest = %(digest)s
    limit 1""")


async def check(
    conn: Connection, owner_id: str, definitions: Sequence[tuple[str, TaskDefinition]]
) -> None:
    """Refuse what cannot be delivered: 404 `not_found` (also for another account's artifact), 409
    `artifact_pending`, 400 `limit_exceeded` for all inputs of a task together."""
    naming = [(key, definition) for key, definition in definitions if definition.input_artifacts]
    if not naming:
        return
    wanted = sorted({each for _, definition in naming for each in definition.input_artifacts})
    params = {"artifact_ids": wanted, "owner_id": owner_id}
    known = {r[0]: r[1:] for r in await rows(conn, _KNOWN, params)}
    for key, definition in naming:
        total_bytes = 0
        for artifact_id in set(definition.input_artifacts):
            if artifact_id not in known:
                raise ApiError(
                    "not_found", f"task {key!r} names the artifact {artifact_id[:80]!r}, which is not there",
                    "name one that `flakes artifacts list` shows", taskKey=key, artifactId=artifact_id[:80],
                )  # fmt: skip
            state, size_bytes = known[artifact_id]
            if state != "ready":
                raise ApiError(
                    "artifact_pending", f"the content of {artifact_id}, which task {key!r} names, is not whole",
                    f"finish it: `flakes artifacts upload PATH --resume {artifact_id}`",
                    taskKey=key, artifactId=artifact_id,
                )  # fmt: skip
            total_bytes += size_bytes
        if total_bytes > limits.INPUT_ARTIFACTS_SIZE_BYTES_MAX:
            raise ApiError(
                "limit_exceeded", f"the input artifacts of task {key!r} have {total_bytes} bytes together",
                "name fewer, or let several tasks share the work",
                limit=limits.INPUT_ARTIFACTS_SIZE_BYTES_MAX, size=total_bytes, path=f"tasks.{key}.inputArtifacts",
            )  # fmt: skip


async def of_tasks(conn: Connection, task_ids: Sequence[str]) -> dict[str, list[InputArtifact]]:
    """What is to be delivered to each of these tasks, in the order that it names them."""
    found: defaultdict[str, list[InputArtifact]] = defaultdict(list)
    for task_id, artifact_id, name, digest, size_bytes in await rows(
        conn, _OF_TASKS, {"task_ids": list(task_ids)}
    ):
        if all(artifact_id != each.artifact_id for each in found[task_id]):
            one = InputArtifact(artifact_id=artifact_id, name=name, digest=digest, size_bytes=size_bytes)
            found[task_id].append(one)
    return found


async def named(conn: Connection, sandbox_id: str, digest: str) -> bool:
    """Whether a live offer of this sandbox names an artifact of this content."""
    return await row(conn, _NAMES, {"sandbox_id": sandbox_id, "digest": digest}) is not None
