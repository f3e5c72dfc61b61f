"""Artifacts and how far their uploads are: rows and events, none of the bytes (see `uploads`, `blobs`).

An artifact is `pending` until its content is whole, then `ready` and immutable. Offsets move by comparing
with what they were, so of two requests that write the same part one is refused.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flakes.core import limits
from flakes.store import runs, tasks
from flakes.store.blobs import BlobRef
from flakes.store.database import Connection, Query, row, rows, run
from flakes.store.definitions import check_size
from flakes.store.identifiers import new_id
from flakes.store.uploads import Upload, upload_of
from flakes.wire.artifacts import Artifact, ArtifactPost, RunOutput
from flakes.wire.codec import Issue, encode
from flakes.wire.errors import ApiError, not_found

MEDIA_TYPE = "application/octet-stream"
ABANDONED_AFTER_S = 24 * 3_600.0
"""An upload to which nothing is added for so long is removed with its artifact."""

_COLUMNS = """artifact_id, kind, state, name, media_type, digest, size_bytes, run_id, task_id,
    metadata, created_at, ready_at"""

_INSERT = Query("""
    insert into artifacts (artifact_id, owner_id, run_id, task_id, kind, name, media_type, state,
                           digest, size_bytes, metadata, ready_at)
    values (%(artifact_id)s, %(owner_id)s, %(run_id)s, %(task_id)s, %(kind)s, %(name)s,
            %(media_type)s, %(state)s, %(digest)s, %(size_bytes)s, %(metadata)s::json,
            case when %(state)s = 'ready' then now() end)""")

_INSERT_UPLOAD = Query("""
    insert into artifact_uploads (artifact_id, generation) values (%(artifact_id)s, %(generation)s)""")

_GET = Query(f"""
    select {_COLUMNS} from artifacts
    where artifact_id = %(artifact_id)s and owner_id = %(owner_id)s""")

_OF_OWNER = Query(f"""
    select {_COLUMNS} from artifacts
    where owner_id = %(owner_id)s and (%(before)s::text is null or artifact_id < %(before)s)
    order by artifact_id desc limit %(limit)s""")

_OF_RUN = Query(f"""
    select {_COLUMNS} from artifacts
    where run_id = %(run_id)s and (%(before)s::text is null or artifact_id < %(before)s)
      and (%(task_id)s::text is null or task_id = %(task_id)s)
    order by artifact_id desc limit %(limit)s""")

_UPLOAD = Query("""
    select a.state, a.digest, a.size_bytes, u.generation, u.received_bytes, u.parts,
           u.touched_at + make_interval(secs => %(abandoned_after_s)s)
    from artifacts a left join artifact_uploads u using (artifact_id)
    where a.artifact_id = %(artifact_id)s and a.owner_id = %(owner_id)s""")

_RESTART = Query("""
    update artifact_uploads
    set generation = %(generation)s, received_bytes = 0, parts = '{}', touched_at = now()
    where artifact_id = %(artifact_id)s and generation = %(was)s""")

_ADVANCE = Query("""
    update artifact_uploads
    set received_bytes = %(offset)s, touched_at = now(),
        parts = case when %(part)s::text is null then parts else parts || %(part)s::text end
    where artifact_id = %(artifact_id)s and generation = %(generation)s
      and received_bytes = %(was)s""")

_RETREAT = Query("""
    update artifact_uploads set received_bytes = %(offset)s, parts = %(parts)s::text[]
    where artifact_id = %(artifact_id)s and generation = %(generation)s""")

_READY = Query("""
    with gone as (delete from artifact_uploads where artifact_id = %(artifact_id)s)
    update artifacts
    set state = 'ready', digest = %(digest)s, size_bytes = %(size_bytes)s, ready_at = now()
    where artifact_id = %(artifact_id)s and state = 'pending'
    returning owner_id, run_id, task_id, kind, name""")

_DELETE = Query("""
    delete from artifacts where artifact_id = %(artifact_id)s and owner_id = %(owner_id)s
    returning run_id, task_id""")

_ABANDONED = Query("""
    with old as (
        select artifact_id, generation, received_bytes, parts from artifact_uploads
        where touched_at < now() - make_interval(secs => %(after_s)s)
        order by touched_at limit %(limit)s for update skip locked
    )
    delete from artifacts a using old
    where a.artifact_id = old.artifact_id and a.state = 'pending'
    returning a.artifact_id, a.owner_id, a.run_id, a.task_id, old.generation, old.received_bytes,
              old.parts""")

_KNOWN = Query("""
    select artifact_id || '.' || generation from artifact_uploads
    where artifact_id || '.' || generation = any(%(names)s) and artifact_id = any(%(artifact_ids)s)""")

_EVENT = Query("""
    insert into events (owner_id, run_id, task_id, type, data)
    values (%(owner_id)s, %(run_id)s, %(task_id)s, %(type)s, %(data)s::json)""")

_OUTPUTS = Query("""
    select t.task_key, t.task_id, o.key, o.value ->> 'kind', (o.value ->> 'sizeBytes')::bigint,
           o.value ->> 'digest'
    from tasks t join task_results s using (task_id), json_each(s.result -> 'outputs') o
    where t.run_id = %(run_id)s and t.status in ('SUCCEEDED', 'FAILED', 'CANCELLED')
      and (s.result -> 'outputs') is not null
      and (%(after_task)s::text is null or t.task_id >= %(after_task)s)
      and (%(after_task)s::text is null
           or (t.task_id, o.key collate "C") > (%(after_task)s, %(after_key)s))
    order by t.task_id, o.key collate "C" limit %(limit)s""")


@dataclass(frozen=True, slots=True)
class Pending:
    """The upload of an artifact; `upload` is None once the artifact is ready."""

    artifact_id: str
    digest: str | None
    size_bytes: int | None
    upload: Upload | None
    generation: str
    expires_at: datetime | None


def check_metadata(post: ArtifactPost) -> None:
    """Refuse metadata beyond the limit."""
    check_size("metadata", post.metadata, limits.METADATA_SIZE_BYTES_MAX)


async def place_of(
    conn: Connection, owner_id: str, post: ArtifactPost
) -> tuple[str | None, str | None]:
    """Check an announcement and find its run and task, both this owner's: their ids."""
    check_metadata(post)
    run_id = None if post.run_id is None else await runs.resolve(conn, owner_id, post.run_id)
    if post.task_id is None:
        return run_id, None
    of_task, _ = await tasks.require(conn, owner_id, post.task_id)
    if run_id not in (None, of_task):
        issue = Issue(path="taskId", message="is not a task of the run")
        raise ApiError("invalid_request", "the task is not one of the run", "leave runId out: the task's own run is taken", issues=[issue])
    return of_task, post.task_id


async def create(
    conn: Connection,
    owner_id: str,
    post: ArtifactPost,
    place: tuple[str | None, str | None],
    ref: BlobRef | None,
) -> Artifact:
    """Record an artifact: ready when `ref` says where its content is, else pending. In a transaction."""
    artifact_id = new_id("artifact")
    await run(conn, _INSERT, {
        "artifact_id": artifact_id, "owner_id": owner_id, "run_id": place[0], "task_id": place[1],
        "kind": post.kind, "name": post.name, "media_type": post.media_type or MEDIA_TYPE,
        "state": "pending" if ref is None else "ready",
        "digest": post.digest if ref is None else ref.digest,
        "size_bytes": post.size_bytes if ref is None else ref.size_bytes,
        "metadata": encode(post.metadata).decode(),
    })  # fmt: skip
    data: dict[str, Any] = {"artifactId": artifact_id, "kind": post.kind, "name": post.name}
    if ref is None:
        await run(conn, _INSERT_UPLOAD, {"artifact_id": artifact_id, "generation": _generation()})
        await _event(conn, owner_id, place, "artifact.created", data)
    else:
        data |= {"digest": ref.digest, "sizeBytes": ref.size_bytes}
        await _event(conn, owner_id, place, "artifact.ready", data)
    return await get(conn, owner_id, artifact_id)


async def get(conn: Connection, owner_id: str, artifact_id: str) -> Artifact:
    """One artifact, without its locations."""
    found = await row(conn, _GET, {"artifact_id": artifact_id, "owner_id": owner_id})
    if found is None:
        raise not_found("artifact")
    return _artifact(found)


async def page(
    conn: Connection, owner_id: str, *, before: str | None, limit: int
) -> list[Artifact]:
    """All artifacts of an account, newest first."""
    params = {"owner_id": owner_id, "before": before, "limit": limit}
    return [_artifact(r) for r in await rows(conn, _OF_OWNER, params)]


async def of_run(
    conn: Connection,
    owner_id: str,
    run_reference: str,
    *,
    task_id: str | None,
    before: str | None,
    limit: int,
) -> list[Artifact]:
    """Artifacts of a run, or of one of its tasks, newest first."""
    run_id = await runs.resolve(conn, owner_id, run_reference)
    params = {"run_id": run_id, "task_id": task_id, "before": before, "limit": limit}
    return [_artifact(r) for r in await rows(conn, _OF_RUN, params)]


async def pending(conn: Connection, owner_id: str, artifact_id: str) -> Pending:
    """How far an artifact's upload is, as it is recorded."""
    found = await row(conn, _UPLOAD, {
        "artifact_id": artifact_id, "owner_id": owner_id, "abandoned_after_s": ABANDONED_AFTER_S,
    })  # fmt: skip
    if found is None:
        raise not_found("artifact")
    state, digest, size_bytes, generation, received_bytes, parts, expires_at = found
    if state == "ready":
        return Pending(artifact_id, digest, size_bytes, None, "", None)
    upload = upload_of(artifact_id, generation, received_bytes, parts)
    return Pending(artifact_id, digest, size_bytes, upload, generation, expires_at)


async def restart(conn: Connection, was: Pending) -> Upload:
    """Begin again at offset 0; the caller discards what there was."""
    generation = _generation()
    params = {"artifact_id": was.artifact_id, "generation": generation, "was": was.generation}
    if not await run(conn, _RESTART, params):
        raise moved(None)
    return upload_of(was.artifact_id, generation, 0, ())


async def advance(conn: Connection, upload: Upload, offset: int, part: str | None) -> Upload:
    """Record that everything up to `offset` is durable."""
    artifact_id, _, generation = upload.name.partition(".")
    params = {
        "artifact_id": artifact_id, "generation": generation, "was": upload.received_bytes,
        "offset": offset, "part": part,
    }  # fmt: skip
    if not await run(conn, _ADVANCE, params):
        raise moved(None)
    parts = upload.parts if part is None else (*upload.parts, part)
    return Upload(upload.name, offset, parts)


async def retreat(conn: Connection, upload: Upload) -> None:
    """Record that nothing beyond this upload's offset and parts is there any more."""
    artifact_id, _, generation = upload.name.partition(".")
    await run(conn, _RETREAT, {
        "artifact_id": artifact_id, "generation": generation, "offset": upload.received_bytes,
        "parts": list(upload.parts),
    })  # fmt: skip


async def make_ready(conn: Connection, artifact_id: str, ref: BlobRef) -> None:
    """The content is whole and stored. In a transaction."""
    params = {"artifact_id": artifact_id, "digest": ref.digest, "size_bytes": ref.size_bytes}
    found = await row(conn, _READY, params)
    if found is None:
        raise not_found("artifact")
    owner_id, run_id, task_id, kind, name = found
    data = {
        "artifactId": artifact_id, "kind": kind, "name": name, "digest": ref.digest,
        "sizeBytes": ref.size_bytes,
    }  # fmt: skip
    await _event(conn, owner_id, (run_id, task_id), "artifact.ready", data)


async def delete(conn: Connection, owner_id: str, artifact_id: str) -> Upload | None:
    """Delete an artifact; its unfinished upload, for the caller to discard. In a transaction."""
    was = await pending(conn, owner_id, artifact_id)
    found = await row(conn, _DELETE, {"artifact_id": artifact_id, "owner_id": owner_id})
    if found is None:
        raise not_found("artifact")
    data = {"artifactId": artifact_id, "reason": "deleted"}
    await _event(conn, owner_id, (found[0], found[1]), "artifact.deleted", data)
    return was.upload


async def abandon(conn: Connection, after_s: float, limit: int) -> list[Upload]:
    """Delete artifacts whose upload has not moved for so long; their uploads. In a transaction."""
    found = await rows(conn, _ABANDONED, {"after_s": after_s, "limit": limit})
    uploads: list[Upload] = []
    for artifact_id, owner_id, run_id, task_id, generation, received_bytes, parts in found:
        data = {"artifactId": artifact_id, "reason": "abandoned"}
        await _event(conn, owner_id, (run_id, task_id), "artifact.deleted", data)
        uploads.append(upload_of(artifact_id, generation, received_bytes, parts))
    return uploads


async def known_uploads(conn: Connection, names: Sequence[str]) -> set[str]:
    """Which of these uploads are still expected to go on."""
    ids = [name.partition(".")[0] for name in names]
    return {r[0] for r in await rows(conn, _KNOWN, {"names": list(names), "artifact_ids": ids})}


async def outputs(
    conn: Connection, owner_id: str, run_reference: str, *, after: str | None, limit: int
) -> list[RunOutput]:
    """What the ended tasks of a run left behind, in the order of the tasks."""
    run_id = await runs.resolve(conn, owner_id, run_reference)
    task_id, _, key = (after or "").partition("/")
    found = await rows(conn, _OUTPUTS, {
        "run_id": run_id, "after_task": task_id or None, "after_key": key, "limit": limit,
    })  # fmt: skip
    return [
        RunOutput(
            task_key=task_key, task_id=task, output_key=output_key, kind=kind, size_bytes=size_bytes,
            digest=digest,
        )
        for task_key, task, output_key, kind, size_bytes, digest in found
    ]  # fmt: skip


def moved(expected_offset: int | None) -> ApiError:
    """The refusal of bytes that do not follow those that arrived."""
    details = {} if expected_offset is None else {"expectedOffset": expected_offset}
    return ApiError("upload_offset_conflict", "the bytes do not follow those that arrived", "ask how far the upload is, and go on from there", **details)


async def _event(
    conn: Connection,
    owner_id: str,
    place: tuple[str | None, str | None],
    type_: str,
    data: dict[str, Any],
) -> None:
    await run(conn, _EVENT, {
        "owner_id": owner_id, "run_id": place[0], "task_id": place[1], "type": type_,
        "data": encode({name: value for name, value in data.items() if value is not None}).decode(),
    })  # fmt: skip


def _generation() -> str:
    return secrets.token_hex(8)


def _artifact(found: tuple[Any, ...]) -> Artifact:
    (artifact_id, kind, state, name, media_type, digest, size_bytes, run_id, task_id, metadata,
     created_at, ready_at) = found  # fmt: skip
    return Artifact(
        artifact_id=artifact_id, kind=kind, state=state, name=name, media_type=media_type,
        digest=digest, size_bytes=size_bytes, run_id=run_id, task_id=task_id, metadata=metadata,
        locations=[], created_at=created_at, ready_at=ready_at,
    )  # fmt: skip
