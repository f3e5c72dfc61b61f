"""Permission requests: asked by an attempt, answered once, ended with the attempt.

Asking, answering, expiring and the end of an attempt all hold the lock of the run, so of two answers one
is first, and no answer reaches an attempt that is over. What was decided is never changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flakes.core import limits
from flakes.store import tasks
from flakes.store.database import Connection, Query, row, rows, run
from flakes.store.fences import Holder
from flakes.store.identifiers import new_id
from flakes.store.ledger import Ledger
from flakes.wire.codec import Issue, encode
from flakes.wire.errors import ApiError, not_found
from flakes.wire.permissions import Decision, Permission, PermissionAsk

_COLUMNS = """p.permission_id, p.task_id, t.task_key, p.run_id, r.run_key, p.assignment_id, p.prompt,
    p.action, p.details, p.status, p.reason, p.fallback, p.expires_at, p.created_at, p.ended_at"""

_FROM = "from permissions p join tasks t using (task_id) join runs r on r.run_id = p.run_id"

_GET = Query(f"""
    select {_COLUMNS}, coalesce(a.live and a.state = 'accepted', false),
           p.status = 'pending' and p.expires_at <= now()
    {_FROM} left join assignments a on a.assignment_id = p.assignment_id
    where p.permission_id = %(permission_id)s and p.owner_id = %(owner_id)s""")

_OF_ASSIGNMENT = Query(f"""
    select {_COLUMNS} {_FROM}
    where p.permission_id = %(permission_id)s and p.assignment_id = %(assignment_id)s""")

_ASKED = Query(f"""
    select {_COLUMNS}, p.asked_digest {_FROM}
    where p.assignment_id = %(assignment_id)s and p.operation_id = %(operation_id)s""")

# Uses permissions_of_task.
_OF_TASK = Query(f"""
    select {_COLUMNS} {_FROM}
    where p.task_id = %(task_id)s and (%(before)s::text is null or p.permission_id < %(before)s)
    order by p.permission_id desc limit %(limit)s""")

# Uses permissions_inbox.
_PENDING = Query(f"""
    select {_COLUMNS} {_FROM}
    where p.owner_id = %(owner_id)s and p.status = 'pending'
      and (%(before)s::text is null or p.permission_id < %(before)s)
    order by p.permission_id desc limit %(limit)s""")

# Uses permissions_of_owner.
_OF_OWNER = Query(f"""
    select {_COLUMNS} {_FROM}
    where p.owner_id = %(owner_id)s and (%(status)s::text is null or p.status = %(status)s)
      and (%(before)s::text is null or p.permission_id < %(before)s)
    order by p.permission_id desc limit %(limit)s""")

_COUNT_PENDING = Query("""
    select count(*) from permissions
    where assignment_id = %(assignment_id)s and status = 'pending'""")

_INSERT = Query("""
    insert into permissions (permission_id, owner_id, run_id, task_id, assignment_id, operation_id,
        asked_digest, prompt, action, details, fallback, expires_at)
    values (%(permission_id)s, %(owner_id)s, %(run_id)s, %(task_id)s, %(assignment_id)s,
        %(operation_id)s, %(digest)s, %(prompt)s, %(action)s, %(details)s::json, %(fallback)s,
        now() + %(expires_in_s)s::float8 * interval '1 s')
    returning expires_at""")

_ANSWER = Query("""
    update permissions set status = %(decision)s, reason = %(reason)s, ended_at = now()
    where permission_id = %(permission_id)s and status = 'pending'""")

_DUE = Query("""
    select permission_id, run_id from permissions
    where status = 'pending' and expires_at <= now() order by expires_at limit %(limit)s""")

_NEXT_DUE = Query("""
    select extract(epoch from min(expires_at) - now())::float8 from permissions
    where status = 'pending' and expires_at is not null""")

_EXPIRE = Query("""
    update permissions set status = 'expired', ended_at = now()
    where permission_id = any(%(permission_ids)s) and status = 'pending' and expires_at <= now()
    returning permission_id, assignment_id, run_id, task_id, fallback""")

_CANCEL = Query("""
    update permissions p set status = 'cancelled', reason = u.reason, ended_at = now()
    from unnest(%(assignment_ids)s::text[], %(reasons)s::text[]) as u(assignment_id, reason)
    where p.assignment_id = u.assignment_id and p.status = 'pending'
    returning p.permission_id, p.assignment_id, p.run_id, p.task_id, p.reason""")

_FIRST_PENDING = Query("""
    select distinct on (assignment_id) assignment_id, permission_id, prompt, created_at, expires_at
    from permissions where assignment_id = any(%(assignment_ids)s) and status = 'pending'
    order by assignment_id, permission_id""")


@dataclass(frozen=True, slots=True)
class Answered:
    """What an answer came to: `refusal` None when it is the one that counts."""

    permission: Permission
    refusal: ApiError | None = None


async def ask(
    conn: Connection, ledger: Ledger, holder: Holder, body: PermissionAsk
) -> Permission:
    """Store a question of an attempt; the same question under the same operation id is the same request.
    The caller holds the lock of the run and flushes. 409 `operation_conflict`, 400 `limit_exceeded`."""
    details = encode(body.details)
    if len(details) > limits.PERMISSION_DETAILS_BYTES_MAX:
        raise ApiError(
            "limit_exceeded", f"details are {len(details)} bytes of JSON", "put less into them",
            limit=limits.PERMISSION_DETAILS_BYTES_MAX,
        )  # fmt: skip
    if not body.prompt.strip():
        issue = Issue(path="prompt", message="must not be empty")
        raise ApiError("invalid_request", "the prompt is empty", "ask something", issues=[issue])
    digest = hashlib.sha256(encode(body)).digest()
    key = {"assignment_id": holder.assignment_id, "operation_id": body.operation_id}
    known = await row(conn, _ASKED, key)
    if known is not None:
        if known[-1] != digest:
            raise ApiError(
                "operation_conflict", "this operation id was used for another question",
                "use a new operation id for a new question",
            )  # fmt: skip
        return _permission(known[:-1])
    counted = await row(conn, _COUNT_PENDING, key)
    pending = counted[0] if counted else 0
    if pending >= limits.PERMISSIONS_PENDING_MAX:
        raise ApiError(
            "limit_exceeded", f"the task has {pending} requests without an answer",
            "wait for answers before asking more", limit=limits.PERMISSIONS_PENDING_MAX,
        )  # fmt: skip
    permission_id = new_id("perm")
    stored = await row(conn, _INSERT, key | {
        "permission_id": permission_id, "owner_id": holder.owner_id, "run_id": holder.run_id,
        "task_id": holder.task_id, "digest": digest, "prompt": body.prompt, "action": body.action,
        "details": details.decode(), "expires_in_s": body.expires_in_s,
        "fallback": None if body.expires_in_s is None else body.default,
    })  # fmt: skip
    assert stored is not None
    data = {
        "permissionRequestId": permission_id, "assignmentId": holder.assignment_id,
        "prompt": body.prompt, "action": body.action, "expiresAt": stored[0],
    }  # fmt: skip
    known_data = {name: value for name, value in data.items() if value is not None}
    ledger.event(holder.run_id, "permission.requested", holder.task_id, known_data)
    found = await row(conn, _OF_ASSIGNMENT, key | {"permission_id": permission_id})
    assert found is not None
    return _permission(found)


async def respond(
    conn: Connection,
    owner_id: str,
    task_id: str,
    permission_id: str,
    decision: Decision,
    reason: str | None,
) -> Answered:
    """Answer a request, if it is the first answer and the asker still runs. The caller commits in either
    case: an answer that comes too late finds the request expired, and leaves it so."""
    run_id, _ = await tasks.require(conn, owner_id, task_id)
    ledger = await Ledger.lock(conn, [run_id])
    key = {"permission_id": permission_id, "owner_id": owner_id}
    found = await row(conn, _GET, key)
    if found is None or found[1] != task_id or run_id not in ledger.runs:
        raise not_found("permission")
    *fields, live, overdue = found
    current = _permission(tuple(fields))
    if overdue and live:
        await _expire(conn, ledger, [permission_id])
        await ledger.flush(conn)
        return _refused(await get(conn, owner_id, permission_id))
    if current.status != "pending" or not live:
        return _refused(current)
    await run(conn, _ANSWER, key | {"decision": decision, "reason": reason})
    data = {
        "permissionRequestId": permission_id, "assignmentId": current.assignment_id,
        "decision": decision,
    }  # fmt: skip
    ledger.event(run_id, "permission.responded", task_id, data | ({"reason": reason} if reason else {}))
    await ledger.flush(conn)
    return Answered(await get(conn, owner_id, permission_id))


def _refused(current: Permission) -> Answered:
    if current.status in ("pending", "cancelled"):
        return Answered(current, ApiError(
            "permission_stale_assignment", "the attempt that asked does not run any more",
            "a later attempt asks anew: `flakes permissions list`", permission=current,
        ))  # fmt: skip
    return Answered(current, ApiError(
        "permission_already_responded", f"the request is {current.status} already",
        "look at it: `flakes permissions list --all`", permission=current,
    ))  # fmt: skip


async def expire(conn: Connection, limit: int) -> list[str]:
    """Give requests whose time is over their default, and say which."""
    due = await rows(conn, _DUE, {"limit": limit})
    if not due:
        return []
    ledger = await Ledger.lock(conn, [run_id for _, run_id in due])
    done = await _expire(conn, ledger, [permission_id for permission_id, _ in due])
    await ledger.flush(conn)
    return done


async def next_due_s(conn: Connection) -> float | None:
    """Seconds until the next request expires (negative when it is due); None when none will."""
    found = await row(conn, _NEXT_DUE)
    return None if found is None else found[0]


async def _expire(conn: Connection, ledger: Ledger, permission_ids: list[str]) -> list[str]:
    done = await rows(conn, _EXPIRE, {"permission_ids": permission_ids})
    for permission_id, assignment_id, run_id, task_id, fallback in sorted(done):
        data = {
            "permissionRequestId": permission_id, "assignmentId": assignment_id, "decision": fallback,
        }  # fmt: skip
        ledger.event(run_id, "permission.expired", task_id, data)
    return [fields[0] for fields in done]


async def cancel(conn: Connection, ledger: Ledger, ended: Mapping[str, str]) -> None:
    """Attempts have ended: what they still ask is `cancelled`. `ended` says how, by assignment id; the
    caller holds the lock of the runs and flushes."""
    params = {"assignment_ids": list(ended), "reasons": list(ended.values())}
    for permission_id, assignment_id, run_id, task_id, reason in sorted(
        await rows(conn, _CANCEL, params)
    ):
        data = {
            "permissionRequestId": permission_id, "assignmentId": assignment_id, "reason": reason,
        }  # fmt: skip
        ledger.event(run_id, "permission.cancelled", task_id, data)


async def get(conn: Connection, owner_id: str, permission_id: str) -> Permission:
    """One request of this owner, or 404."""
    found = await row(conn, _GET, {"permission_id": permission_id, "owner_id": owner_id})
    if found is None:
        raise not_found("permission")
    return _permission(found[:-2])


async def status(conn: Connection, assignment_id: str, permission_id: str) -> Permission:
    """How a request of this very attempt stands, or 404."""
    params = {"permission_id": permission_id, "assignment_id": assignment_id}
    found = await row(conn, _OF_ASSIGNMENT, params)
    if found is None:
        raise not_found("permission")
    return _permission(found)


async def of_task(
    conn: Connection, owner_id: str, task_id: str, *, before: str | None, limit: int
) -> list[Permission]:
    """Requests of a task, of all its attempts, newest first."""
    await tasks.require(conn, owner_id, task_id)
    params = {"task_id": task_id, "before": before, "limit": limit}
    return [_permission(found) for found in await rows(conn, _OF_TASK, params)]


async def page(
    conn: Connection, owner_id: str, *, status: str | None, before: str | None, limit: int
) -> list[Permission]:
    """Requests of every task of an owner, newest first."""
    params = {"owner_id": owner_id, "status": status, "before": before, "limit": limit}
    query = _PENDING if status == "pending" else _OF_OWNER
    return [_permission(found) for found in await rows(conn, query, params)]


async def first_pending(
    conn: Connection, assignment_ids: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """The oldest open question of each of these attempts that has one, as facts for an explanation."""
    questions: dict[str, dict[str, Any]] = {}
    for assignment_id, permission_id, prompt, since, expires_at in await rows(
        conn, _FIRST_PENDING, {"assignment_ids": list(assignment_ids)}
    ):
        facts = {"permissionRequestId": permission_id, "prompt": prompt, "since": since.isoformat()}
        until = {} if expires_at is None else {"expiresAt": expires_at.isoformat()}
        questions[assignment_id] = facts | until
    return questions


def _permission(found: tuple[Any, ...]) -> Permission:
    (permission_id, task_id, task_key, run_id, run_key, assignment_id, prompt, action, details, status,
     reason, fallback, expires_at, created_at, ended_at) = found  # fmt: skip
    decision = {"approved": "approved", "denied": "denied", "expired": fallback}.get(status)
    return Permission(
        permission_request_id=permission_id, task_id=task_id, task_key=task_key, run_id=run_id,
        run_key=run_key, assignment_id=assignment_id, prompt=prompt, action=action, details=details,
        status=status, decision=decision, reason=reason, default=fallback, expires_at=expires_at,
        created_at=created_at, ended_at=ended_at,
    )  # fmt: skip
