"""Why a task is not running, from stored facts: the codes of `CODES`, each with a sentence and a next step."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from flakes.core.task import TERMINAL, TaskStatus
from flakes.store import permissions
from flakes.store.database import Connection, Query, row, rows
from flakes.wire.tasks import Explanation, TaskDetail

CODES: Final[dict[str, str]] = {
    "dependency_pending": "Tasks it depends on have not ended (well).",
    "wait_pending": "It yielded its slot and waits for a condition.",
    "retry_backoff": "Its last attempt failed; the next one waits out its back-off.",
    "capacity_saturated": "Every slot that fits it is busy.",
    "pool_at_limit": "Every slot that fits it is busy, and the pools may not grow.",
    "launch_in_flight": "A sandbox for it is being launched.",
    "launch_failed": "Launching a sandbox for it failed; it is tried again after a back-off.",
    "no_host_online": "No connected host or sandbox could run it.",
    "adapter_unavailable": "Nothing connected offers its adapter.",
    "capability_unavailable": "Nothing connected offers all the capabilities it requires.",
    "project_not_bound": "Its project is not bound to a pool that fits.",
    "not_admitted": "It is saved, and not admitted yet.",
    "offer_in_flight": "It is offered to a sandbox, which has not accepted it yet.",
    "not_scheduled_yet": "It is ready, and the scheduler has not looked at it yet.",
    "needs_input": "It asks for permission and waits for the answer.",
    "running": "It is running.",
    "ended": "It has ended.",
}

_NEXT: Final[dict[str, str]] = {
    "dependency_pending": "look at the tasks named in the evidence",
    "wait_pending": "look at the group or children it waits for",
    "retry_backoff": "wait, or cancel it",
    "capacity_saturated": "wait, or connect more capacity",
    "pool_at_limit": "wait, or raise maxInstances or maxConcurrency of a pool",
    "launch_in_flight": "wait a moment",
    "launch_failed": "read the reason in the evidence and mend it on the host",
    "no_host_online": "start a host: `flakes up`, or `flakes host run`",
    "adapter_unavailable": "add a pool with this adapter to a host, or choose another adapter",
    "capability_unavailable": "add the capability to a pool, or drop it from the task",
    "project_not_bound": "bind the project to a pool that fits",
    "not_admitted": "admit it: `flakes tasks admit`",
    "offer_in_flight": "wait a moment",
    "not_scheduled_yet": "wait a moment",
    "needs_input": "answer it: `flakes permissions approve` or `deny`",
    "running": "follow it: `flakes logs --follow`",
    "ended": "read its result: `flakes tasks result`",
}

_CLASS = Query("""
    select c.reason_code, c.reason_facts, c.reason_at, q.task_id is not null
    from tasks t join task_classes c using (class_id)
    left join ready_tasks q on q.task_id = t.task_id
    where t.task_id = %(task_id)s""")

_DEPENDENCIES = Query("""
    select s.task_key, s.status from task_dependencies d join tasks s on s.task_id = d.depends_on
    where d.task_id = %(task_id)s order by s.task_key""")


async def explain(conn: Connection, task: TaskDetail) -> Explanation:
    """The one reason that matters most now."""
    status = TaskStatus(task.status)
    code, evidence = await _reason(conn, task, status)
    sentence = CODES[code]
    if code == "dependency_pending":
        pending = [f"{key} ({state})" for key, state in evidence["dependencies"].items() if state != "SUCCEEDED"]
        sentence = f"Waits for {', '.join(pending[:5])}{' and more' if len(pending) > 5 else ''}."
    elif code == "retry_backoff":
        sentence = f"Its last attempt failed; the next one starts at {evidence['nextAttemptAt']}."
    elif code in ("capacity_saturated", "pool_at_limit"):
        sentence = f"{evidence.get('busy', 0)} of {evidence.get('slots', 0)} slots that fit it are busy."
    elif code == "capability_unavailable" and evidence.get("missing"):
        sentence = f"Nothing connected offers {', '.join(evidence['missing'])}."
    elif code == "needs_input":
        sentence = f"It asks: {evidence['prompt'][:300]}"
        answer = f"flakes permissions approve {evidence['permissionRequestId']}"
        return Explanation(
            code=code, sentence=sentence, evidence=evidence, next_action=f"answer it: `{answer}`, or `deny`"
        )
    elif code == "adapter_unavailable":
        sentence = f"Nothing connected offers the adapter {task.adapter!r}."
    return Explanation(code=code, sentence=sentence, evidence=evidence, next_action=_NEXT[code])


async def _reason(
    conn: Connection, task: TaskDetail, status: TaskStatus
) -> tuple[str, dict[str, Any]]:
    if status in TERMINAL:
        return "ended", {"status": status}
    if status is TaskStatus.SAVED:
        return "not_admitted", {}
    if status is TaskStatus.WAITING:
        return "wait_pending", {}
    if status is TaskStatus.RUNNING:
        live = [a.assignment_id for a in task.attempts if a.state == "accepted"]
        question = await permissions.first_pending(conn, live[-1]) if live else None
        if question is not None:
            return "needs_input", question
        return "running", {"sandboxId": task.sandbox_id, "attempt": task.attempt}
    if status is TaskStatus.BLOCKED:
        found = await rows(conn, _DEPENDENCIES, {"task_id": task.task_id})
        return "dependency_pending", {"dependencies": dict(found)}
    if task.next_attempt_at is not None and task.next_attempt_at > datetime.now(UTC):
        return "retry_backoff", {
            "nextAttemptAt": task.next_attempt_at.isoformat(), "attempt": task.attempt,
        }  # fmt: skip
    found = await row(conn, _CLASS, {"task_id": task.task_id})
    assert found is not None
    code, facts, at, in_queue = found
    if not in_queue:
        last = task.attempts[-1] if task.attempts else None
        return "offer_in_flight", {"sandboxId": last.sandbox_id if last else None}
    if code is None:
        return "not_scheduled_yet", {"adapter": task.adapter}
    return code, {**(facts or {}), "since": at.isoformat()}
