"""What passes between people and running tasks: messages, permission requests, workpads, reservations.

Whatever is sent carries an `Idempotency-Key`, or a version, so an answer that was lost costs nothing.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from flakes.client.transport import Transport
from flakes.wire import groups, messages, permissions, reservations, waits, workpads


class SteeringMethods:
    """The part of `Client` that is about running tasks."""

    _transport: Transport

    async def post_message(self, task_id: str, mode: messages.Mode, message: str) -> messages.Message:
        """Send a message to a running task; `task_not_running` and `sandbox_offline` store nothing."""
        body = messages.MessagePost(mode=mode, message=message)
        path = _path("tasks", task_id, "messages")
        return await self._transport.call("POST", path, messages.Message, body=body, keyed=True)

    async def list_messages(
        self, task_id: str, *, limit: int | None = None, cursor: str | None = None
    ) -> messages.Messages:
        params = {"limit": limit, "cursor": cursor}
        path = _path("tasks", task_id, "messages")
        return await self._transport.call("GET", path, messages.Messages, params=params)

    async def list_permissions(
        self,
        *,
        task_id: str | None = None,
        status: permissions.Status | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> permissions.Permissions:
        """Requests of one task, or those of all tasks with this status (any, when there is none)."""
        params = {"limit": limit, "cursor": cursor}
        path = _path("permissions")
        if task_id is None:
            params["status"] = status
        else:
            path = _path("tasks", task_id, "permissions")
        return await self._transport.call("GET", path, permissions.Permissions, params=params)

    async def get_permission(self, permission_id: str) -> permissions.Permission:
        path = _path("permissions", permission_id)
        return await self._transport.call("GET", path, permissions.Permission)

    async def respond(
        self,
        task_id: str,
        permission_id: str,
        decision: permissions.Decision,
        reason: str | None = None,
    ) -> permissions.Permission:
        """Answer a request; `permission_already_responded` and `permission_stale_assignment` change nothing."""
        body = permissions.PermissionAnswer(decision=decision, reason=reason)
        path = _path("tasks", task_id, "permissions", permission_id, "respond")
        return await self._transport.call("POST", path, permissions.Permission, body=body, keyed=True)

    # Children, groups, waits and signals

    async def list_children(
        self,
        task_id: str,
        *,
        group: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> groups.Children:
        """Children of a task in the order they were made, all or those of a group (by id or key)."""
        params = {"group": group, "limit": limit, "cursor": cursor}
        path = _path("tasks", task_id, "children")
        return await self._transport.call("GET", path, groups.Children, params=params)

    async def list_groups(self, task_id: str) -> groups.Groups:
        """The groups of a task, oldest first."""
        return await self._transport.call("GET", _path("tasks", task_id, "groups"), groups.Groups)

    async def list_waits(
        self, task_id: str, *, limit: int | None = None, cursor: str | None = None
    ) -> waits.Waits:
        """What a task waits for and has waited for, newest first."""
        params = {"limit": limit, "cursor": cursor}
        path = _path("tasks", task_id, "waits")
        return await self._transport.call("GET", path, waits.Waits, params=params)

    async def send_signal(self, task_id: str, name: str, payload: Any = None) -> waits.Signal:
        """Send a signal to a task; it is kept until the task waits for it. `task_ended` stores nothing."""
        body = waits.SignalPost(payload=payload)
        path = _path("tasks", task_id, "signals", name)
        return await self._transport.call("POST", path, waits.Signal, body=body, keyed=True)

    # Workpads and file reservations

    async def workpad(self, task_id: str, *, version: int | None = None) -> workpads.Workpad:
        """The workpad as it is now, or one of its versions; version 0 is empty."""
        past = () if version is None else ("versions", str(version))
        path = _path("tasks", task_id, "workpad", *past)
        return await self._transport.call("GET", path, workpads.Workpad)

    async def put_workpad(
        self, task_id: str, body_markdown: str, *, base_version: int
    ) -> workpads.Workpad:
        """Save a new version; `workpad_version_conflict` when `base_version` is not the current one."""
        body = workpads.WorkpadPut(body_markdown=body_markdown, base_version=base_version)
        path = _path("tasks", task_id, "workpad")
        return await self._transport.call("PUT", path, workpads.Workpad, body=body)

    async def workpad_versions(
        self, task_id: str, *, limit: int | None = None, cursor: str | None = None
    ) -> workpads.WorkpadVersions:
        """The versions, newest first, without their text."""
        params = {"limit": limit, "cursor": cursor}
        path = _path("tasks", task_id, "workpad", "versions")
        return await self._transport.call("GET", path, workpads.WorkpadVersions, params=params)

    async def file_reservations(
        self, run: str, *, limit: int | None = None, cursor: str | None = None
    ) -> reservations.Reservations:
        """What the running tasks of a run have reserved, by path."""
        params = {"limit": limit, "cursor": cursor}
        path = _path("runs", run, "file-reservations")
        return await self._transport.call("GET", path, reservations.Reservations, params=params)


def _path(*parts: str) -> str:
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)
