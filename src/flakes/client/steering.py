"""What passes between people and running tasks: messages, permission requests, workpads, reservations.

Whatever is sent carries an `Idempotency-Key`, or a version, so an answer that was lost costs nothing.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from flakes.client.transport import Transport
from flakes.wire import groups, messages, permissions, reservations, rounds, waits, workpads


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

    async def list_rounds(
        self, task_id: str, *, limit: int | None = None, cursor: str | None = None
    ) -> rounds.Rounds:
        """The rounds of a live task, oldest first, and where it is."""
        params = {"limit": limit, "cursor": cursor}
        path = _path("tasks", task_id, "rounds")
        return await self._transport.call("GET", path, rounds.Rounds, params=params)

    async def send_round(
        self, task_id: str, prompt: str, *, round_key: str | None = None, payload: Any = None
    ) -> rounds.Round:
        """Send a prompt to a live task; `round_conflict` and `task_ended` store nothing."""
        body = rounds.RoundPost(prompt=prompt, round_key=round_key, payload=payload)
        path = _path("tasks", task_id, "rounds")
        return await self._transport.call("POST", path, rounds.Round, body=body, keyed=True)

    async def finish_rounds(self, task_id: str) -> rounds.Rounds:
        """Send no more prompts to a live task: it ends after its open rounds."""
        path = _path("tasks", task_id, "rounds", "finish")
        return await self._transport.call("POST", path, rounds.Rounds, keyed=True)

    async def round_output(self, task_id: str, round_key: str, output_key: str) -> bytes:
        """A text or JSON output of a live round."""
        path = _path("tasks", task_id, "rounds", round_key, "outputs", output_key, "fetch")
        return (await self._transport.send("GET", path)).content

    async def round_workspace(
        self, task_id: str, round_key: str, output_key: str
    ) -> rounds.RoundWorkspace:
        """The handle that a workspace output of a live round holds."""
        path = _path("tasks", task_id, "rounds", round_key, "outputs", output_key, "workspace")
        return await self._transport.call("GET", path, rounds.RoundWorkspace)

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
