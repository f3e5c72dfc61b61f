"""The event log as clients see it: one entry for every state change, in commit-safe order."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from flakes.wire.codec import Frozen

TYPES: Final[dict[str, str]] = {
    "run.created": "A run was created.",
    "run.state": "The derived state of a run changed; data: state, from.",
    "run.closed": "A run was closed: no more top-level tasks.",
    "run.cancel_requested": "Somebody asked for the whole run to stop; data: reason.",
    "run.delete_requested": "Somebody deleted a live run: it is cancelled, and goes once nothing of it lives.",
    "run.deleted": "A run and its tasks were deleted.",
    "task.saved": "A task was saved or changed before admission.",
    "task.admitted": "A task was admitted; data: status.",
    "task.queued": "A task became ready (again); data: reason, nextAttemptAt.",
    "task.running": "A sandbox accepted a task; data: assignmentId, sandboxId, attempt.",
    "task.waiting": "A task has yielded its slot and waits; data: assignmentId.",
    "task.spawned": "A task made children; data: assignmentId, count, taskKeys (the first 20), groupId, groupKey.",
    "group.opened": "A task opened a group; data: groupId, groupKey, joinRule.",
    "group.closed": "A group takes no more children; data: groupId, groupKey, total.",
    "group.settled": "A group is decided, abandoned or cancelled; data: groupId, groupKey, status.",
    "round.prompted": "A live task was sent a prompt; data: roundKey, ordinal.",
    "round.delivered": "An attempt of a live task took a prompt; data: roundKey, assignmentId.",
    "round.ended": "A round is over; data: roundKey, state, and assignmentId if an attempt completed it.",
    "round.finishing": "A live task gets no more prompts and ends after its open rounds; data, when nobody had prompted it: idleS, graceS.",
    "wait.settled": "What a task waits for has happened, or timed out; data: waitId, kind, state, operationId.",
    "signal.sent": "Somebody sent a signal to a task; data: signalId, name.",
    "task.cancel_requested": "Somebody asked for a task to stop; data: reason.",
    "task.succeeded": "A task succeeded; data: assignmentId, verified, warnings (code and output of each).",
    "task.failed": "A task failed; data: assignmentId, error.",
    "task.cancelled": "A task is cancelled and nothing of it runs any more.",
    "attempt.ended": "An attempt ended without deciding its task; data: assignmentId, outcome, error.",
    "attempt.refused": "A message of a superseded assignment was refused; data: assignmentId, what.",
    "attempt.session": "An agent began a session, or went on with that of an earlier attempt; data: assignmentId, attempt, kind, value, resumed.",
    "message.queued": "Somebody sent a message to a running task; data: messageId, assignmentId, mode, excerpt.",
    "message.delivered": "A message reached the agent; data as above.",
    "message.consumed": "The agent took a message in; data as above.",
    "message.undeliverable": "A message will not be read any more; data as above, and reason.",
    "permission.requested": "A task asks for permission; data: permissionRequestId, assignmentId, prompt, action, expiresAt.",
    "permission.responded": "A request was answered; data: permissionRequestId, assignmentId, decision, reason.",
    "permission.expired": "Nobody answered a request in time; data: permissionRequestId, assignmentId, decision (its default).",
    "permission.cancelled": "The attempt that asked has ended; data: permissionRequestId, assignmentId, reason.",
    "budget.extended": "An owner allowed more of a budget; data: scope (task, tree or run), scopeId, budget, limit, permissionRequestId.",
    "workpad.updated": "A version of a task's workpad was saved; data: version, sizeBytes, author (userId or assignmentId).",
    "files.reserved": "An attempt reserved paths; data: assignmentId, count, selectors (the first 20), reason.",
    "files.released": "An attempt gave up reservations, or ended with some; data: assignmentId, count, selectors (the first 20), because (asked or ended).",
    "artifact.created": "An artifact was announced; its content is to come. data: artifactId, kind, name.",
    "artifact.ready": "An artifact's content is whole; data: artifactId, kind, name, digest, sizeBytes.",
    "artifact.deleted": "An artifact was deleted; data: artifactId, reason (deleted, abandoned).",
    "workspace.created": "Files were stored as a handle; data: workspaceId, kind, commit, assignmentId, changes (how many paths).",
    "workspace.promoted": "A ref of a run was moved; data: ref, version, fromWorkspaceId, workspaceId, mode, userId or assignmentId.",
    "workspace.candidate_conflict": "A task's changes do not merge with what is selected; data: workspaceId, selectedWorkspaceId, paths (the first 20), count, resolverTaskId.",
    "workspace.overlap": "A task changes files that another one changes too, or has reserved; data: otherTaskId, otherTaskKey, how (changed, reserved), paths (the first 20 new ones), count.",
    "workspace.not_promoted": "A task's changes were not brought into what is selected; data: workspaceId, state (unverified, failed), reason.",
    "project.created": "A project was created.",
    "project.updated": "A project's name or metadata changed.",
    "project.archived": "A project was archived.",
    "account.created": "An account was made; data: userId.",
    "account.updated": "The account's profile changed; data: userId.",
    "account.password_changed": "The account has a new password; data: userId.",
    "key.created": "An API key was made; data: keyId, name, scope.",
    "key.revoked": "An API key was revoked; data: keyId, name.",
    "session.started": "A browser or a command line signed in; data: sessionId, kind.",
    "session.ended": "A sign-in ended: signed out, or revoked; data: sessionId, kind.",
    "host.created": "A host was created; data: hostId, name.",
    "host.updated": "A host's name, metadata or project root changed.",
    "host.online": "A host connected.",
    "host.offline": "A host's connection ended.",
    "host.disabled": "A host was disabled: it gets nothing new; data: reason, sandboxIds (drained).",
    "host.enabled": "A disabled host was enabled again.",
    "host.abandoned": "A host was given up for good; data: reason, sandboxIds.",
    "host.deleted": "A host was deleted; data: hostId, name.",
    "host.credential_created": "A host got a credential; data: hostId, credentialId, replaced.",
    "host.credential_revoked": "A credential of a host was revoked; data: hostId, credentialId, reason.",
    "binding.pending": "A project was bound to pools of a host, which has not looked at it; data: hostId, projectKey, poolKeys.",
    "binding.available": "A host can serve a project; data as above.",
    "binding.unavailable": "A host cannot serve a project; data as above, and reason.",
    "binding.deleted": "A project was unbound from a host; data: hostId, projectKey.",
    "sandbox.launching": "A sandbox was asked for; data: poolId, hostId.",
    "sandbox.running": "A sandbox connected for the first time.",
    "sandbox.launch_failed": "A sandbox could not be launched; data: reason.",
    "sandbox.draining": "A sandbox takes nothing new and ends when what it runs has ended; data: reason.",
    "sandbox.stopping": "A sandbox is being stopped; data: reason.",
    "sandbox.expired": "Nothing was heard of a sandbox for too long; data: reason.",
    "sandbox.cancelled": "A sandbox was given up before its host was told of it; data: reason.",
    "sandbox.cleanup_failed": "The host could not clean up after a sandbox, and is asked again; data: reason, attempts.",
    "sandbox.deleting": "A sandbox was deleted, and its host is asked to clean up.",
    "sandbox.deleted": "A sandbox was deleted and nothing of it is left.",
    "sandbox.abandoned": "A sandbox was given up: nobody cleans up after it; data: reason.",
    "sandbox.offline": "A sandbox's connection ended.",
    "sandbox.stopped": "A sandbox ended; data: reason.",
}


class Event(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """One entry. `cursor` is opaque; readers resume after it."""

    cursor: str
    type: str
    at: datetime
    run_id: str | None = None
    task_id: str | None = None
    task_key: str | None = None
    data: dict[str, Any] = {}


class Events(Frozen, frozen=True, kw_only=True):
    """A page of events (activity), oldest first."""

    events: list[Event]
    next_cursor: str | None = None
