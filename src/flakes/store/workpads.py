"""Workpads: reading, saving against a base version, and the history of versions.

The row in `workpads` decides between savers: one statement moves it from the base version to the next or
moves nothing, and whoever moved it writes the version. Versions are never changed.
"""

from __future__ import annotations

from typing import Any

from flakes.core import limits
from flakes.store import activity
from flakes.store.database import Connection, Query, row, rows, run
from flakes.wire.codec import Issue
from flakes.wire.errors import ApiError, not_found
from flakes.wire.workpads import Author, Workpad, WorkpadPut, WorkpadVersion, WorkpadVersions

_CURRENT = Query("""
    select v.version, v.body_markdown, v.created_at, v.user_id, v.assignment_id
    from workpads w join workpad_versions v on v.task_id = w.task_id and v.version = w.version
    where w.task_id = %(task_id)s""")

_ONE = Query("""
    select version, body_markdown, created_at, user_id, assignment_id
    from workpad_versions where task_id = %(task_id)s and version = %(version)s""")

_LIST = Query("""
    select version, octet_length(body_markdown), created_at, user_id, assignment_id
    from workpad_versions
    where task_id = %(task_id)s and (%(before)s::integer is null or version < %(before)s)
    order by version desc limit %(limit)s""")

# Without a row only version 0 can be the base; with one, the base must be its version.
_ADVANCE = Query("""
    insert into workpads as w (task_id, version, updated_at)
    select %(task_id)s, 1, now()
    where %(base)s = 0 or exists (select 1 from workpads where task_id = %(task_id)s)
    on conflict (task_id) do update set version = w.version + 1, updated_at = now()
    where w.version = %(base)s
    returning version, updated_at""")

_ADD = Query("""
    insert into workpad_versions (task_id, version, body_markdown, user_id, assignment_id, created_at)
    values (%(task_id)s, %(version)s, %(body)s, %(user_id)s, %(assignment_id)s, %(at)s)""")


# The run is kept from being deleted until the version is written: nothing else would remove it.
_OWNED = Query("""
    select t.run_id from tasks t join runs r on r.run_id = t.run_id
    where t.task_id = %(task_id)s and r.owner_id = %(owner_id)s for share of r""")


async def read(conn: Connection, task_id: str) -> Workpad:
    """The current version; the empty version 0 when nobody has written."""
    found = await row(conn, _CURRENT, {"task_id": task_id})
    if found is None:
        return Workpad(task_id=task_id, version=0, body_markdown="")
    return _workpad(task_id, found)


async def read_version(conn: Connection, task_id: str, version: str) -> Workpad:
    """One version by its number, as it came in a path."""
    number = int(version) if version.isascii() and version.isdigit() and len(version) < 10 else -1
    if number == 0:
        return Workpad(task_id=task_id, version=0, body_markdown="")
    found = await row(conn, _ONE, {"task_id": task_id, "version": number})
    if found is None:
        raise not_found("workpad version")
    return _workpad(task_id, found)


async def versions(
    conn: Connection, task_id: str, *, cursor: str | None, limit: int
) -> WorkpadVersions:
    """The versions that were saved, newest first, without their text."""
    if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 10):
        issue = Issue(path="cursor", message="not a cursor of this list")
        raise ApiError("invalid_request", "the cursor is not one of this list", "use `nextCursor` as it came", issues=[issue])
    before = int(cursor) if cursor else None
    found = await rows(conn, _LIST, {"task_id": task_id, "before": before, "limit": limit})
    listed = [
        WorkpadVersion(version=version, size_bytes=size, updated_at=at, author=_author(user, assignment))
        for version, size, at, user, assignment in found
    ]
    return WorkpadVersions(
        versions=listed, next_cursor=str(listed[-1].version) if len(listed) == limit else None
    )


async def save_as_user(
    conn: Connection, owner_id: str, user_id: str, task_id: str, put: WorkpadPut
) -> Workpad:
    """A save by a person, whatever the task's state. 404 for a task of somebody else."""
    found = await row(conn, _OWNED, {"task_id": task_id, "owner_id": owner_id})
    if found is None:
        raise not_found("task")
    author = Author(kind="user", user_id=user_id)
    return await save(conn, owner_id, found[0], task_id, put, author)


async def save(
    conn: Connection, owner_id: str, run_id: str, task_id: str, put: WorkpadPut, author: Author
) -> Workpad:
    """The next version, made from `baseVersion`. The same save again (its answer was lost on the way)
    answers the version that it made. 413 `workpad_too_large`, 409 `workpad_version_conflict`."""
    size_bytes = len(put.body_markdown.encode())
    if size_bytes > limits.WORKPAD_SIZE_BYTES_MAX:
        raise ApiError(
            "workpad_too_large", f"the workpad has {size_bytes} bytes, more than the {limits.WORKPAD_SIZE_BYTES_MAX} it may have",
            "shorten it, or leave long material as an output", limit=limits.WORKPAD_SIZE_BYTES_MAX, sizeBytes=size_bytes,
        )  # fmt: skip
    moved = await row(conn, _ADVANCE, {"task_id": task_id, "base": put.base_version})
    if moved is None:
        current = await read(conn, task_id)
        replay = Workpad(
            task_id=task_id, version=put.base_version + 1, body_markdown=put.body_markdown,
            updated_at=current.updated_at, author=author,
        )  # fmt: skip
        if current == replay:
            return current
        raise ApiError(
            "workpad_version_conflict",
            f"the workpad is at version {current.version}, the save was made from version {put.base_version}",
            "merge your text into `current` and save again from its version", current=current,
        )  # fmt: skip
    version, at = moved
    await run(conn, _ADD, {
        "task_id": task_id, "version": version, "body": put.body_markdown, "at": at,
        "user_id": author.user_id, "assignment_id": author.assignment_id,
    })  # fmt: skip
    data = {"version": version, "sizeBytes": size_bytes, "author": author}
    await activity.append(conn, owner_id, run_id, task_id, "workpad.updated", data)
    return Workpad(
        task_id=task_id, version=version, body_markdown=put.body_markdown, updated_at=at, author=author
    )


def _workpad(task_id: str, found: tuple[Any, ...]) -> Workpad:
    version, body, at, user_id, assignment_id = found
    return Workpad(
        task_id=task_id, version=version, body_markdown=body, updated_at=at,
        author=_author(user_id, assignment_id),
    )  # fmt: skip


def _author(user_id: str | None, assignment_id: str | None) -> Author:
    if user_id is not None:
        return Author(kind="user", user_id=user_id)
    return Author(kind="assignment", assignment_id=assignment_id)
