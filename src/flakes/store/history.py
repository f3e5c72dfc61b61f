"""The whole story of a run as lines, read from one snapshot through server-side cursors.

Memory is bounded by a fetch: rows come in small portions, whatever the size of the run. Every line is
redacted here, so nothing of a run leaves through an export with a recognisable secret in it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from flakes.core.redaction import LineRedactor, redact, redact_value
from flakes.store import runs
from flakes.store.database import Connection, Query, literal, run
from flakes.wire.codec import encode
from flakes.wire.history import VERSION
from flakes.wire.sandbox_stream import LogLine

PART_BYTES: Final = 64 * 1024
"""About how much is given out at once."""

_SNAPSHOT = Query("set transaction isolation level repeatable read, read only")

_TASKS = Query("""
    select t.task_id, t.task_key, t.status, t.title, t.adapter, t.optional, t.priority, t.attempt,
           t.losses, t.created_at, t.admitted_at, t.queued_at, t.started_at, t.finished_at,
           t.next_attempt_at, t.sandbox_id, t.cancel_requested_at is not null, t.error, p.definition,
           (select array_agg(s.task_key order by s.task_key) from task_dependencies d
            join tasks s on s.task_id = d.depends_on where d.task_id = t.task_id)
    from tasks t join task_payloads p on p.task_id = t.task_id
    where t.run_id = %(run_id)s order by t.task_id""")

_ATTEMPTS = Query("""
    select t.task_id, t.task_key, a.assignment_id, a.attempt, a.sandbox_id, a.state, a.offered_at,
           a.accepted_at, a.ended_at, a.reason
    from tasks t join assignments a on a.task_id = t.task_id
    where t.run_id = %(run_id)s order by a.assignment_id""")

_EVENTS = Query("""
    select e.transaction_id, e.event_id, e.type, e.at, e.task_id, t.task_key, e.data
    from events e left join tasks t on t.task_id = e.task_id
    where e.run_id = %(run_id)s order by e.transaction_id, e.event_id""")

_LOGS = Query("""
    select t.task_id, t.task_key, a.attempt, c.assignment_id, c.first_line, c.line_count,
           c.dropped_bytes, c.lines::text
    from tasks t join assignments a on a.task_id = t.task_id
    join log_chunks c on c.assignment_id = a.assignment_id
    where t.run_id = %(run_id)s order by c.assignment_id, c.first_line""")

_RESULTS = Query("""
    select t.task_id, t.task_key, t.status, s.assignment_id, s.result
    from tasks t join task_results s on s.task_id = t.task_id
    where t.run_id = %(run_id)s order by t.task_id""")

_WORKPADS = Query("""
    select t.task_id, t.task_key, v.version, v.body_markdown, v.user_id, v.assignment_id, v.created_at
    from tasks t join workpad_versions v on v.task_id = t.task_id
    where t.run_id = %(run_id)s order by t.task_id, v.version""")

_MESSAGES = Query("""
    select t.task_id, t.task_key, m.message_id, m.assignment_id, m.mode, m.message, m.state, m.reason,
           m.created_at, m.delivered_at, m.consumed_at, m.ended_at
    from tasks t join messages m on m.task_id = t.task_id
    where t.run_id = %(run_id)s order by m.message_id""")

_PERMISSIONS = Query("""
    select t.task_id, t.task_key, p.permission_id, p.assignment_id, p.prompt, p.action, p.details,
           p.status, p.reason, p.fallback, p.expires_at, p.created_at, p.ended_at
    from tasks t join permissions p on p.task_id = t.task_id
    where t.run_id = %(run_id)s order by p.permission_id""")

_RESERVATIONS = Query("""
    select f.task_id, t.task_key, f.assignment_id, f.path, f.kind, f.reason, f.created_at
    from file_reservations f join tasks t on t.task_id = f.task_id
    where f.run_id = %(run_id)s order by f.path, f.kind""")

_GROUPS = Query("""
    select g.owner_task_id, t.task_key, g.group_id, g.group_key, g.name, g.status, g.join_rule, g.quorum,
           g.children_max, g.total, g.succeeded, g.failed, g.cancelled, g.created_at, g.closed_at,
           g.settled_at
    from task_groups g join tasks t on t.task_id = g.owner_task_id
    where t.run_id = %(run_id)s order by g.group_id""")

_WAITS = Query("""
    select w.task_id, t.task_key, w.wait_id, w.operation_id, w.kind, w.state, w.group_id, w.signal_name,
           w.round_id, w.join_rule, w.needed, w.total, w.succeeded, w.failed, w.cancelled, w.due_at,
           w.yields_for, w.outcome, w.created_at, w.settled_at,
           (select array_agg(m.task_id order by m.task_id) from wait_members m
            where m.wait_id = w.wait_id)
    from waits w join tasks t on t.task_id = w.task_id
    where t.run_id = %(run_id)s order by w.wait_id""")

_SIGNALS = Query("""
    select s.task_id, t.task_key, s.signal_id, s.name, s.payload, s.sender, s.operation_id, s.wait_id,
           s.created_at
    from signals s join tasks t on t.task_id = s.task_id
    where t.run_id = %(run_id)s order by s.signal_id""")

_ROUNDS = Query("""
    select r.task_id, t.task_key, r.round_id, r.round_key, r.operation_id, r.ordinal, r.prompt, r.payload,
           r.state, r.delivered_to, r.text, r.outputs, r.error, r.created_at, r.delivered_at, r.ended_at
    from rounds r join tasks t on t.task_id = r.task_id
    where t.run_id = %(run_id)s order by r.task_id, r.ordinal""")

# What the run began from is in it too, though it belongs to no run.
_WORKSPACES = Query("""
    select w.task_id, t.task_key, w.assignment_id, w.workspace_id, w.kind, w.commit_id, w.tree_id,
           w.base_workspace_id, w.head, w.pack_digests, w.pack_sizes, w.paths, w.changes, w.change_count,
           w.created_at
    from workspaces w left join tasks t on t.task_id = w.task_id
    where w.run_id = %(run_id)s
       or w.workspace_id = (select r.workspace_id from runs r where r.run_id = %(run_id)s)
    order by w.workspace_id""")

_PROMOTIONS = Query("""
    select p.name, p.version, p.from_workspace_id, p.to_workspace_id, p.mode, p.paths, p.user_id,
           p.assignment_id, p.promoted_at
    from workspace_promotions p
    where p.run_id = %(run_id)s order by p.promoted_at, p.name, p.version""")

_MERGES = Query("""
    select m.task_id, t.task_key, m.assignment_id, m.workspace_id, m.state, m.selected_id, m.merged_id,
           m.helper_task_id, m.paths, m.reason, m.created_at, m.settled_at
    from workspace_merges m join tasks t on t.task_id = m.task_id
    where m.run_id = %(run_id)s order by m.workspace_id""")

_ARTIFACTS = Query("""
    select a.task_id, t.task_key, a.artifact_id, a.kind, a.state, a.name, a.media_type, a.digest,
           a.size_bytes, a.metadata, a.created_at, a.ready_at
    from artifacts a left join tasks t on t.task_id = a.task_id
    where a.run_id = %(run_id)s order by a.artifact_id""")

_lines = msgspec.json.Decoder(list[LogLine])


async def export(conn: Connection, owner_id: str, reference: str) -> AsyncIterator[bytes]:
    """The lines of a run, in parts of about 64 KiB that end with a line.

    `conn` is at the very start of a transaction, which becomes read-only and sees one moment.
    """
    await run(conn, _SNAPSHOT)
    found = await runs.get(conn, owner_id, reference)
    part = bytearray(_line("run", redact_value(msgspec.to_builtins(found))))
    params = {"run_id": found.run_id}
    for query, portion, lines_of in _sections():
        async with conn.cursor(name="history") as cursor:
            await cursor.execute(literal(query), params)
            while fetched := await cursor.fetchmany(portion):
                for row in fetched:
                    part += lines_of(row)
                    if len(part) >= PART_BYTES:
                        yield bytes(part)
                        part.clear()
    if part:
        yield bytes(part)


def _task(row: tuple[Any, ...]) -> bytes:
    (task_id, key, status, title, adapter, optional, priority, attempt, losses, created, admitted,
     queued, started, finished, next_attempt, sandbox_id, cancelled, error, definition,
     depends_on) = row  # fmt: skip
    return _line("task", {
        "taskId": task_id, "taskKey": key, "status": status, "title": redact(title), "adapter": adapter,
        "optional": optional, "priority": priority, "attempt": attempt, "losses": losses,
        "dependsOn": depends_on or [], "createdAt": created, "admittedAt": admitted,
        "queuedAt": queued, "startedAt": started, "finishedAt": finished,
        "nextAttemptAt": next_attempt, "sandboxId": sandbox_id, "cancelRequested": cancelled,
        "error": redact_value(error), "definition": redact_value(definition),
    })  # fmt: skip


def _attempt(row: tuple[Any, ...]) -> bytes:
    task_id, key, assignment_id, attempt, sandbox_id, state, offered, accepted, ended, reason = row
    return _line("attempt", {
        "taskId": task_id, "taskKey": key, "assignmentId": assignment_id, "attempt": attempt,
        "sandboxId": sandbox_id, "state": state, "offeredAt": offered, "acceptedAt": accepted,
        "endedAt": ended, "reason": redact_value(reason),
    })  # fmt: skip


def _event(row: tuple[Any, ...]) -> bytes:
    transaction, event_id, type_, at, task_id, key, data = row
    return _line("event", {
        "cursor": f"{transaction}-{event_id}", "event": type_, "at": at, "taskId": task_id,
        "taskKey": key, "data": redact_value(data or {}),
    })  # fmt: skip


class _Logs:
    """Lines of log chunks. Chunks come attempt by attempt, so one attempt's redactors are kept."""

    def __init__(self) -> None:
        self._assignment_id = ""
        self._redactors: defaultdict[str, LineRedactor] = defaultdict(LineRedactor)

    def __call__(self, row: tuple[Any, ...]) -> bytes:
        task_id, key, attempt, assignment_id, first_line, line_count, dropped_bytes, text = row
        if assignment_id != self._assignment_id:
            self._assignment_id = assignment_id
            self._redactors.clear()
        lines = _lines.decode(text)
        texts: list[str] = [""] * len(lines)
        for channel in {line.channel for line in lines}:
            chosen = [n for n, line in enumerate(lines) if line.channel == channel]
            kept = self._redactors[channel].lines([lines[n].text for n in chosen])
            for n, redacted in zip(chosen, kept, strict=True):
                texts[n] = redacted
        first = first_line if dropped_bytes is None else first_line + line_count - 1
        return b"".join(
            _line("log", {
                "taskId": task_id, "taskKey": key, "attempt": attempt, "assignmentId": assignment_id,
                "cursor": f"{assignment_id}:{first + offset}", "channel": line.channel,
                "at": datetime.fromtimestamp(line.at_ms / 1000, UTC), "text": texts[offset],
            })
            for offset, line in enumerate(lines)
        )  # fmt: skip


def _result(row: tuple[Any, ...]) -> bytes:
    task_id, key, status, assignment_id, result = row
    return _line("result", {
        "taskId": task_id, "taskKey": key, "status": status, "assignmentId": assignment_id,
        **redact_value(result),
    })  # fmt: skip


def _workpad(row: tuple[Any, ...]) -> bytes:
    task_id, key, version, body, user_id, assignment_id, at = row
    return _line("workpad", {
        "taskId": task_id, "taskKey": key, "workpadVersion": version, "bodyMarkdown": redact(body),
        "userId": user_id, "assignmentId": assignment_id, "savedAt": at,
    })  # fmt: skip


def _message(row: tuple[Any, ...]) -> bytes:
    (task_id, key, message_id, assignment_id, mode, text, state, reason, created, delivered, consumed,
     ended) = row  # fmt: skip
    return _line("message", {
        "taskId": task_id, "taskKey": key, "messageId": message_id, "assignmentId": assignment_id,
        "mode": mode, "message": redact(text), "state": state, "reason": redact_value(reason),
        "createdAt": created, "deliveredAt": delivered, "consumedAt": consumed, "endedAt": ended,
    })  # fmt: skip


def _permission(row: tuple[Any, ...]) -> bytes:
    (task_id, key, permission_id, assignment_id, prompt, action, details, status, reason, default,
     expires, created, ended) = row  # fmt: skip
    return _line("permission", {
        "taskId": task_id, "taskKey": key, "permissionRequestId": permission_id,
        "assignmentId": assignment_id, "prompt": redact(prompt), "action": redact_value(action),
        "details": redact_value(details), "status": status, "reason": redact_value(reason),
        "default": default, "expiresAt": expires, "createdAt": created, "endedAt": ended,
    })  # fmt: skip


def _reservation(row: tuple[Any, ...]) -> bytes:
    task_id, key, assignment_id, path, kind, reason, created = row
    return _line("reservation", {
        "taskId": task_id, "taskKey": key, "assignmentId": assignment_id, "path": redact(path),
        "kind": kind, "reason": redact_value(reason), "createdAt": created,
    })  # fmt: skip


def _artifact(row: tuple[Any, ...]) -> bytes:
    (task_id, key, artifact_id, kind, state, name, media_type, digest, size_bytes, metadata, created,
     ready) = row  # fmt: skip
    return _line("artifact", {
        "taskId": task_id, "taskKey": key, "artifactId": artifact_id, "kind": kind, "state": state,
        "name": redact_value(name), "mediaType": media_type, "digest": digest, "sizeBytes": size_bytes,
        "metadata": redact_value(metadata), "createdAt": created, "readyAt": ready,
    })  # fmt: skip


def _group(row: tuple[Any, ...]) -> bytes:
    (task_id, key, group_id, group_key, name, status, rule, quorum, children_max, total, succeeded,
     failed, cancelled, created, closed, settled) = row  # fmt: skip
    return _line("group", {
        "taskId": task_id, "taskKey": key, "groupId": group_id, "groupKey": group_key,
        "name": redact_value(name), "status": status, "joinRule": rule, "quorum": quorum,
        "maxChildren": children_max, "counts": _counts(total, succeeded, failed, cancelled),
        "createdAt": created, "closedAt": closed, "settledAt": settled,
    })  # fmt: skip


def _wait(row: tuple[Any, ...]) -> bytes:
    (task_id, key, wait_id, operation_id, kind, state, group_id, signal, round_id, rule, needed, total,
     succeeded, failed, cancelled, due, yields_for, outcome, created, settled, members) = row  # fmt: skip
    return _line("wait", {
        "taskId": task_id, "taskKey": key, "waitId": wait_id, "operationId": operation_id, "kind": kind,
        "state": state, "groupId": group_id, "signalName": signal, "roundId": round_id,
        "joinRule": rule, "needed": needed, "counts": _counts(total, succeeded, failed, cancelled),
        "memberTaskIds": members or [], "dueAt": due, "yieldedAssignmentId": yields_for,
        "outcome": redact_value(outcome), "createdAt": created, "settledAt": settled,
    })  # fmt: skip


def _signal(row: tuple[Any, ...]) -> bytes:
    task_id, key, signal_id, name, payload, sender, operation_id, wait_id, created = row
    return _line("signal", {
        "taskId": task_id, "taskKey": key, "signalId": signal_id, "name": name,
        "payload": redact_value(payload), "sender": sender, "operationId": operation_id,
        "waitId": wait_id, "createdAt": created,
    })  # fmt: skip


def _round(row: tuple[Any, ...]) -> bytes:
    (task_id, key, round_id, round_key, operation_id, ordinal, prompt, payload, state, delivered_to,
     text, outputs, error, created, delivered, ended) = row  # fmt: skip
    return _line("round", {
        "taskId": task_id, "taskKey": key, "roundId": round_id, "roundKey": round_key,
        "operationId": operation_id, "ordinal": ordinal, "prompt": redact(prompt),
        "payload": redact_value(payload), "state": state, "assignmentId": delivered_to,
        "text": redact_value(text), "outputs": redact_value(outputs or {}),
        "error": redact_value(error), "createdAt": created, "deliveredAt": delivered, "endedAt": ended,
    })  # fmt: skip


def _workspace(row: tuple[Any, ...]) -> bytes:
    (task_id, key, assignment_id, workspace_id, kind, commit, tree, base, head, digests, sizes, paths,
     changes, change_count, created) = row  # fmt: skip
    return _line("workspace", {
        "taskId": task_id, "taskKey": key, "assignmentId": assignment_id, "workspaceId": workspace_id,
        "kind": kind, "commit": commit, "tree": tree, "baseWorkspaceId": base, "head": head,
        "packs": [
            {"digest": digest, "sizeBytes": size} for digest, size in zip(digests, sizes, strict=True)
        ],
        "paths": redact_value(paths), "changes": redact_value(changes), "changeCount": change_count,
        "createdAt": created,
    })  # fmt: skip


def _promotion(row: tuple[Any, ...]) -> bytes:
    name, version, before, after, mode, paths, user_id, assignment_id, at = row
    return _line("promotion", {
        "ref": name, "refVersion": version, "fromWorkspaceId": before, "toWorkspaceId": after,
        "mode": mode, "paths": redact_value(paths), "userId": user_id, "assignmentId": assignment_id,
        "promotedAt": at,
    })  # fmt: skip


def _merge(row: tuple[Any, ...]) -> bytes:
    (task_id, key, assignment_id, workspace_id, state, selected, merged, helper, paths, reason, created,
     settled) = row  # fmt: skip
    return _line("merge", {
        "taskId": task_id, "taskKey": key, "assignmentId": assignment_id, "workspaceId": workspace_id,
        "state": state, "selectedWorkspaceId": selected, "mergedWorkspaceId": merged,
        "helperTaskId": helper, "paths": redact_value(paths), "reason": redact_value(reason),
        "createdAt": created, "settledAt": settled,
    })  # fmt: skip


def _counts(total: int, succeeded: int, failed: int, cancelled: int) -> dict[str, int]:
    return {"total": total, "succeeded": succeeded, "failed": failed, "cancelled": cancelled}


def _line(type_: str, fields: Mapping[str, Any]) -> bytes:
    return encode({"version": VERSION, "type": type_, **fields}) + b"\n"


def _sections() -> Iterable[tuple[Query, int, Callable[[tuple[Any, ...]], bytes]]]:
    """What follows the run's own line: the statement, rows a fetch (by how large one can be), the form."""
    yield _TASKS, 50, _task
    yield _ATTEMPTS, 500, _attempt
    yield _EVENTS, 500, _event
    yield _LOGS, 10, _Logs()
    yield _RESULTS, 50, _result
    yield _WORKPADS, 4, _workpad
    yield _MESSAGES, 100, _message
    yield _PERMISSIONS, 100, _permission
    yield _RESERVATIONS, 500, _reservation
    yield _GROUPS, 500, _group
    yield _WAITS, 100, _wait
    yield _SIGNALS, 50, _signal
    yield _ROUNDS, 10, _round
    yield _WORKSPACES, 10, _workspace
    yield _PROMOTIONS, 100, _promotion
    yield _MERGES, 200, _merge
    yield _ARTIFACTS, 100, _artifact
