"""Projects."""

from __future__ import annotations

from typing import Any

from flakes.core import limits
from flakes.store.database import Connection, Query, row, rows, run
from flakes.store.definitions import check_key, check_size
from flakes.store.identifiers import new_id
from flakes.wire.codec import encode
from flakes.wire.errors import ApiError, not_found
from flakes.wire.projects import Project, ProjectPatch, ProjectPut

_COLUMNS = "project_id, project_key, name, metadata, created_at, updated_at, archived_at"

_INSERT = Query("""
    insert into projects (project_id, owner_id, project_key, name, metadata)
    values (%(project_id)s, %(owner_id)s, %(project_key)s, %(name)s, %(metadata)s::json)
    on conflict (owner_id, project_key) do nothing""")

_GET = Query(f"""
    select {_COLUMNS} from projects
    where owner_id = %(owner_id)s and (project_key = %(key)s or project_id = %(key)s)""")

_LIST = Query(f"""
    select {_COLUMNS} from projects
    where owner_id = %(owner_id)s and (%(before)s::text is null or project_id < %(before)s)
    order by project_id desc limit %(limit)s""")

_PATCH = Query(f"""
    update projects set name = coalesce(%(name)s, name),
        metadata = coalesce(%(metadata)s::json, metadata), updated_at = now()
    where owner_id = %(owner_id)s and project_key = %(key)s returning {_COLUMNS}""")

_ARCHIVE = Query(f"""
    update projects set archived_at = coalesce(archived_at, now()), updated_at = now()
    where owner_id = %(owner_id)s and project_key = %(key)s returning {_COLUMNS}""")

_EVENT = Query("""
    insert into events (owner_id, type, data)
    values (%(owner_id)s, %(type)s, %(data)s::json)""")


async def put(
    conn: Connection, owner_id: str, key: str, body: ProjectPut
) -> tuple[Project, bool]:
    """Create, or read the identical one; True when created. 409 `project_conflict` when it differs."""
    check_key("project", key)
    if body.project_key not in (None, key):
        raise ApiError("invalid_request", "projectKey differs from the path", "make them equal or leave it out")
    name = body.name.strip()
    if not name or len(name) > limits.NAME_LENGTH_MAX:
        raise ApiError("invalid_request", f"name must have 1 to {limits.NAME_LENGTH_MAX} characters", "give a name")
    check_size("metadata", body.metadata, limits.METADATA_SIZE_BYTES_MAX)
    created = await run(conn, _INSERT, {
        "project_id": new_id("project"), "owner_id": owner_id, "project_key": key,
        "name": name, "metadata": encode(body.metadata).decode(),
    })  # fmt: skip
    project = await get(conn, owner_id, key)
    if created:
        await _event(conn, owner_id, "project.created", project)
    elif project.name != name or project.metadata != body.metadata or project.archived_at:
        what = "is archived" if project.archived_at else "exists with another name or metadata"
        raise ApiError("project_conflict", f"project {key!r} {what}", "choose another key, or change the project with PATCH")
    return project, bool(created)


async def get(conn: Connection, owner_id: str, key: str) -> Project:
    """One project by key or id."""
    found = await row(conn, _GET, {"owner_id": owner_id, "key": key})
    if found is None:
        raise not_found("project")
    return _project(found)


async def active(conn: Connection, owner_id: str, key: str) -> Project:
    """One project that may take new runs; 409 `project_archived` otherwise."""
    project = await get(conn, owner_id, key)
    if project.archived_at:
        raise ApiError("project_archived", f"project {project.project_key!r} is archived", "use another project")
    return project


async def page(
    conn: Connection, owner_id: str, *, before: str | None, limit: int
) -> list[Project]:
    """Newest first, archived ones included."""
    found = await rows(conn, _LIST, {"owner_id": owner_id, "before": before, "limit": limit})
    return [_project(r) for r in found]


async def patch(conn: Connection, owner_id: str, key: str, body: ProjectPatch) -> Project:
    """Change name or metadata; the key never changes."""
    if body.metadata is not None:
        check_size("metadata", body.metadata, limits.METADATA_SIZE_BYTES_MAX)
    if body.name is not None and not 1 <= len(body.name.strip()) <= limits.NAME_LENGTH_MAX:
        raise ApiError("invalid_request", f"name must have 1 to {limits.NAME_LENGTH_MAX} characters", "give a name")
    metadata = None if body.metadata is None else encode(body.metadata).decode()
    name = None if body.name is None else body.name.strip()
    params = {"owner_id": owner_id, "key": key, "name": name, "metadata": metadata}
    found = await row(conn, _PATCH, params)
    if found is None:
        raise not_found("project")
    await _event(conn, owner_id, "project.updated", _project(found))
    return _project(found)


async def archive(conn: Connection, owner_id: str, key: str) -> Project:
    """Archive; doing it again changes nothing."""
    before = await get(conn, owner_id, key)
    if before.archived_at:
        return before
    found = await row(conn, _ARCHIVE, {"owner_id": owner_id, "key": before.project_key})
    assert found is not None
    await _event(conn, owner_id, "project.archived", _project(found))
    return _project(found)


async def _event(conn: Connection, owner_id: str, type_: str, project: Project) -> None:
    data = {"projectId": project.project_id, "projectKey": project.project_key}
    await run(conn, _EVENT, {"owner_id": owner_id, "type": type_, "data": encode(data).decode()})


def _project(found: tuple[Any, ...]) -> Project:
    project_id, key, name, metadata, created_at, updated_at, archived_at = found
    return Project(
        project_id=project_id, project_key=key, name=name, metadata=metadata,
        status="archived" if archived_at else "active",
        created_at=created_at, updated_at=updated_at, archived_at=archived_at,
    )  # fmt: skip
