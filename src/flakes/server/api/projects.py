"""Routes of projects."""

from __future__ import annotations

from flakes.server.routing import Answer, Call, Endpoint, Page, bounded
from flakes.store import projects
from flakes.wire.projects import Project, ProjectPatch, ProjectPut, Projects


async def put(call: Call) -> Answer:
    """Create a project, or read the identical one."""
    async with call.plane.database.transaction() as conn:
        project, created = await projects.put(conn, call.owner_id, call.path["projectKey"], call.body)
    call.plane.wrote()
    return Answer(project, 201 if created else 200)


async def get(call: Call) -> Project:
    """Read a project by key or id."""
    async with call.plane.database.connection() as conn:
        return await projects.get(conn, call.owner_id, call.path["projectKey"])


async def page(call: Call) -> Projects:
    """List projects, newest first, archived ones included."""
    limit = bounded(call.query.limit)
    async with call.plane.database.connection() as conn:
        found = await projects.page(conn, call.owner_id, before=call.query.cursor, limit=limit)
    cursor = found[-1].project_id if len(found) == limit else None
    return Projects(projects=found, next_cursor=cursor)


async def patch(call: Call) -> Project:
    """Change a project's name or metadata."""
    async with call.plane.database.transaction() as conn:
        project = await projects.patch(conn, call.owner_id, call.path["projectKey"], call.body)
    call.plane.wrote()
    return project


async def archive(call: Call) -> Project:
    """Archive a project: it takes no new runs or bindings."""
    async with call.plane.database.transaction() as conn:
        project = await projects.archive(conn, call.owner_id, call.path["projectKey"])
    call.plane.wrote()
    return project


ENDPOINTS = [
    Endpoint("GET", "/v1/projects", page, Projects, query=Page, tag="projects"),
    Endpoint("PUT", "/v1/projects/{projectKey}", put, Project, ProjectPut, tag="projects",
             creates=True, errors=("project_conflict", "limit_exceeded")),
    Endpoint("GET", "/v1/projects/{projectKey}", get, Project, tag="projects"),
    Endpoint("PATCH", "/v1/projects/{projectKey}", patch, Project, ProjectPatch, tag="projects",
             errors=("limit_exceeded",)),
    Endpoint("POST", "/v1/projects/{projectKey}/archive", archive, Project, tag="projects"),
]  # fmt: skip
