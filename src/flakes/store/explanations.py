"""Why tasks are not running, from stored facts: the codes of `CODES`, each with a sentence and a next step.

The facts of many tasks are read in as many statements as those of one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from flakes.core.task import TERMINAL, TaskStatus
from flakes.store import merging, overlaps, permissions, runs, tasks
from flakes.store.database import Connection, Query, rows
from flakes.wire.merging import WorkspaceMerge
from flakes.wire.overlaps import Overlap
from flakes.wire.tasks import Explanation, Task, TaskExplained

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
    "binding_unavailable": "Its project is bound to hosts, and none of them can serve it.",
    "workspace_root_missing": "Its project is bound to a host that has no project root.",
    "not_admitted": "It is saved, and not admitted yet.",
    "offer_in_flight": "It is offered to a sandbox, which has not accepted it yet.",
    "not_scheduled_yet": "It is ready, and the scheduler has not looked at it yet.",
    "needs_input": "It asks for permission and waits for the answer.",
    "running": "It is running.",
    "ended": "It has ended.",
    "merge_pending": "It has ended; what it changed is being brought into what the run has selected.",
    "merge_conflict": "It has ended; what it changed does not merge with what the run has selected.",
    "merge_refused": "It has ended; what it changed was not brought into what the run has selected.",
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
    "adapter_unavailable": "add a pool with this adapter to a host, or choose another adapter;"
    " `flakes doctor` looks which agents a machine has",
    "capability_unavailable": "add the capability to a pool, or drop it from the task",
    "project_not_bound": "bind the project to a pool that fits: `flakes projects bind-host`",
    "binding_unavailable": "mend on the host what the evidence names, or bind the project elsewhere",
    "workspace_root_missing": "set it on the host: `flakes host project-root set`",
    "not_admitted": "admit it: `flakes tasks admit`",
    "offer_in_flight": "wait a moment",
    "not_scheduled_yet": "wait a moment",
    "needs_input": "answer it: `flakes permissions approve` or `deny`",
    "running": "follow it: `flakes logs --follow`",
    "ended": "read its result: `flakes tasks result`",
    "merge_pending": "wait a moment, or look at the task that tests or resolves it",
    "merge_conflict": "take what it changed as it is: `flakes diff`, `flakes apply --3way` of the task",
    "merge_refused": "read the reason in the evidence; its changes are kept: `flakes diff` of the task",
}

_CLASS = Query("""
    select t.task_id, c.reason_code, c.reason_facts, c.reason_at, q.task_id is not null
    from tasks t join task_classes c using (class_id)
    left join ready_tasks q on q.task_id = t.task_id
    where t.task_id = any(%(task_ids)s)""")

# What holds the task back comes first, so that the end of a long list is what nobody misses.
_DEPENDENCIES = Query("""
    select t.task_id, s.task_key, s.status
    from unnest(%(task_ids)s::text[]) as t(task_id)
    cross join lateral (
        select s.task_key, s.status from task_dependencies d
        join tasks s on s.task_id = d.depends_on
        where d.task_id = t.task_id
        order by s.status = 'SUCCEEDED', s.task_key limit %(limit)s
    ) s
    order by t.task_id, s.task_key""")

# The live offer or attempt, and the offers up to now that no sandbox took.
_OFFERS = Query("""
    select t.task_id, l.assignment_id, l.state, l.sandbox_id, n.count, n.sandbox_id
    from unnest(%(task_ids)s::text[]) as t(task_id)
    left join lateral (
        select a.assignment_id, a.state, a.sandbox_id from assignments a
        where a.task_id = t.task_id and a.live limit 1
    ) l on true
    cross join lateral (
        select count(*), (array_agg(o.sandbox_id order by o.assignment_id desc))[1] as sandbox_id
        from assignments o
        where o.task_id = t.task_id and o.state = 'lost' and o.accepted_at is null
          and o.assignment_id > coalesce(
              (select max(b.assignment_id) from assignments b
               where b.task_id = t.task_id and b.accepted_at is not null), '')
    ) n""")

# Those that wait for a person come first, and what is ready before what waits for it.
_STILL = Query("""
    select task_id, place from (
        select t.task_id, case t.status when 'RUNNING' then 0 when 'QUEUED' then 1
                   when 'WAITING' then 2 when 'BLOCKED' then 3 else 4 end as place
        from tasks t
        where t.run_id = %(run_id)s
          and (t.status in ('QUEUED', 'WAITING', 'BLOCKED', 'SAVED')
               or t.status = 'RUNNING' and exists (
                   select 1 from permissions p
                   where p.assignment_id = t.assignment_id and p.status = 'pending'))
    ) still
    where (place, task_id) > (%(place)s::integer, %(task_id)s::text collate "C")
    order by place, task_id limit %(limit)s""")

# Those that have the adapter, or had it when they were last connected; the one that left last comes first.
_AWAY = Query("""
    select t.task_id, w.host_id, w.name, w.seen_at, w.disabled_at
    from unnest(%(task_ids)s::text[]) as i(task_id)
    join tasks t on t.task_id = i.task_id
    join runs r on r.run_id = t.run_id
    cross join lateral (
        select h.host_id, h.name, l.seen_at, h.disabled_at from hosts h
        left join links l on l.peer_id = h.host_id
        where h.owner_id = r.owner_id and not coalesce(l.connected, false)
          and exists (select 1 from host_pools p where p.host_id = h.host_id and p.adapter = t.adapter)
        order by h.disabled_at is not null, l.seen_at desc nulls last, h.host_id limit %(limit)s
    ) w""")

# What tasks have yielded for, and how far it is.
_WAITS = Query("""
    select w.task_id, w.kind, w.created_at, w.due_at, w.signal_name, g.group_key,
           (select r.round_key from rounds r where r.round_id = w.round_id), g.join_rule,
           coalesce(g.total, w.total), coalesce(g.succeeded, w.succeeded), coalesce(g.failed, w.failed),
           coalesce(g.cancelled, w.cancelled), coalesce(g.quorum, w.needed),
           (select array_agg(k.task_key order by k.task_key) from (
                select m.task_key from tasks m
                where m.group_id = w.group_id and m.status in ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING')
                union all
                select m.task_key from wait_members x join tasks m on m.task_id = x.task_id
                where x.wait_id = w.wait_id and m.status in ('BLOCKED', 'QUEUED', 'RUNNING', 'WAITING')
                limit %(limit)s
            ) k)
    from waits w left join task_groups g on g.group_id = w.group_id
    where w.task_id = any(%(task_ids)s) and w.state = 'pending' order by w.wait_id""")

DEPENDENCIES_TOLD_MAX: Final = 50
MEMBERS_TOLD_MAX: Final = 20
HOSTS_TOLD_MAX: Final = 5


@dataclass(slots=True)
class _Facts:
    """What is known of one task beside its own row."""

    class_code: str | None = None
    class_facts: dict[str, Any] = field(default_factory=dict)
    class_at: datetime | None = None
    in_queue: bool = False
    dependencies: dict[str, str] = field(default_factory=dict)
    live: tuple[str, str, str] | None = None
    """(assignment id, state, sandbox id) of what was offered or runs."""
    not_taken: dict[str, Any] = field(default_factory=dict)
    question: dict[str, Any] | None = None
    waits: list[dict[str, Any]] = field(default_factory=list)
    away: list[dict[str, Any]] = field(default_factory=list)
    """Hosts that could run it and are not connected."""
    merge: WorkspaceMerge | None = None
    """What became of what it left."""
    overlaps: list[Overlap] = field(default_factory=list)
    """With whom it is in each other's way."""


async def explain(conn: Connection, task: Task) -> Explanation:
    """The one reason that matters most now."""
    return (await _explained(conn, [task]))[0]


async def of_run(
    conn: Connection, owner_id: str, reference: str, *, after: str | None, limit: int
) -> tuple[list[TaskExplained], str | None]:
    """The tasks of a run that do not move, each with its reason, and the cursor of the page after."""
    run_id = await runs.resolve(conn, owner_id, reference)
    place, _, task_id = (after or "").partition(":")
    found = await rows(conn, _STILL, {
        "run_id": run_id, "place": int(place) if place.isdigit() and len(place) < 4 else -1,
        "task_id": task_id, "limit": limit,
    })  # fmt: skip
    ids = [r[0] for r in found]
    shown = {task.task_id: task for task in await tasks.some(conn, owner_id, ids)} if ids else {}
    still = [shown[task_id] for task_id in ids if task_id in shown]
    explained = [
        TaskExplained(
            task_id=task.task_id, task_key=task.task_key, status=task.status, explanation=explanation
        )
        for task, explanation in zip(still, await _explained(conn, still), strict=True)
    ]
    return explained, f"{found[-1][1]}:{found[-1][0]}" if len(found) == limit else None


async def _explained(conn: Connection, found: Sequence[Task]) -> list[Explanation]:
    facts = await _facts(conn, found) if found else {}
    return [_sentence(task, *_reason(task, facts[task.task_id])) for task in found]


async def _facts(conn: Connection, found: Sequence[Task]) -> dict[str, _Facts]:
    facts: defaultdict[str, _Facts] = defaultdict(_Facts)
    ids = [task.task_id for task in found if TaskStatus(task.status) not in TERMINAL]
    for task_id, code, values, at, in_queue in await rows(conn, _CLASS, {"task_ids": ids}):
        one = facts[task_id]
        one.class_code, one.class_facts, one.class_at, one.in_queue = code, values or {}, at, in_queue
    blocked = [task.task_id for task in found if task.status == TaskStatus.BLOCKED]
    params = {"task_ids": blocked, "limit": DEPENDENCIES_TOLD_MAX}
    for task_id, key, status in await rows(conn, _DEPENDENCIES, params) if blocked else ():
        facts[task_id].dependencies[key] = status
    running: dict[str, str] = {}
    for task_id, assignment_id, state, sandbox_id, count, last in await rows(
        conn, _OFFERS, {"task_ids": ids}
    ):
        if assignment_id is not None:
            facts[task_id].live = (assignment_id, state, sandbox_id)
            running[assignment_id] = task_id
        if count:
            facts[task_id].not_taken = {"offersNotTaken": count, "lastSandboxId": last}
    for assignment_id, question in (await permissions.first_pending(conn, list(running))).items():
        facts[running[assignment_id]].question = question
    lonely = [task_id for task_id in ids if facts[task_id].class_code == "no_host_online"]
    params = {"task_ids": lonely, "limit": HOSTS_TOLD_MAX}
    for task_id, host_id, name, seen_at, disabled_at in (
        await rows(conn, _AWAY, params) if lonely else ()
    ):
        away = {"hostId": host_id, "name": name, "disabled": disabled_at is not None}
        since = {} if seen_at is None else {"offlineSince": seen_at.isoformat()}
        facts[task_id].away.append(away | since)
    waiting = [task.task_id for task in found if task.status == TaskStatus.WAITING]
    params = {"task_ids": waiting, "limit": MEMBERS_TOLD_MAX}
    for task_id, *wait in await rows(conn, _WAITS, params) if waiting else ():
        facts[task_id].waits.append(_waited(*wait))
    live = [task.task_id for task in found if task.status == TaskStatus.RUNNING]
    for task_id, met in (await overlaps.of_tasks(conn, live)).items():
        facts[task_id].overlaps = met
    ended = [task.task_id for task in found if TaskStatus(task.status) in TERMINAL]
    for task_id, merge in (await merging.of_tasks(conn, ended)).items():
        facts[task_id].merge = merge
    for task in found:
        facts[task.task_id]  # what has ended may have none
    return facts


def _waited(
    kind: str, since: datetime, due_at: datetime | None, signal: str | None, group: str | None,
    round_key: str | None, rule: str | None, total: int, succeeded: int, failed: int, cancelled: int, needed: int | None,
    live: list[str] | None,
) -> dict[str, Any]:  # fmt: skip
    """One pending wait as evidence."""
    facts: dict[str, Any] = {
        "kind": kind, "since": since.isoformat(), "dueAt": due_at.isoformat() if due_at else None,
        "signal": signal, "group": group, "round": round_key, "joinRule": rule, "needed": needed,
    }  # fmt: skip
    if kind in ("group", "children"):
        ended = succeeded + failed + cancelled
        facts |= {"ended": ended, "total": total, "failed": failed, "live": live or []}
    return {name: value for name, value in facts.items() if value is not None}


def _wait_words(wait: dict[str, Any]) -> str:
    match wait["kind"]:
        case "group":
            return f"the group {wait['group']} ({wait['ended']} of {wait['total']} have ended)"
        case "children":
            return f"children ({wait['ended']} of {wait['total']} have ended)"
        case "timer":
            return f"a timer that fires at {wait['dueAt']}"
        case "signal":
            return f"the signal {wait['signal']}"
        case "prompt":
            return "a prompt of its parent"
        case "round":
            return f"the round {wait['round']}"
        case kind:
            return f"a {kind}"


def _sentence(task: Task, code: str, evidence: dict[str, Any]) -> Explanation:
    sentence, next_action = CODES[code], _NEXT[code]
    if code == "dependency_pending":
        pending = [f"{key} ({state})" for key, state in evidence["dependencies"].items() if state != "SUCCEEDED"]
        sentence = f"Waits for {', '.join(pending[:5])}{' and more' if len(pending) > 5 else ''}."
    elif code == "wait_pending" and evidence["waits"]:
        sentence = f"Waits for {', '.join(_wait_words(each) for each in evidence['waits'][:5])}."
        if any(each["kind"] == "signal" for each in evidence["waits"]):
            next_action = "send what it waits for: `flakes tasks signal`"
    elif code == "retry_backoff" and "offersNotTaken" in evidence:
        sentence = f"Its sandbox did not take the last offer; the next one is made at {evidence['nextAttemptAt']}."
        next_action = f"look at the sandbox: `flakes sandboxes list`, {evidence['lastSandboxId']}"
    elif code == "retry_backoff":
        sentence = f"Its last attempt failed; the next one starts at {evidence['nextAttemptAt']}."
    elif code in ("capacity_saturated", "pool_at_limit"):
        sentence = f"{evidence.get('busy', 0)} of {evidence.get('slots', 0)} slots that fit it are busy."
    elif code == "no_host_online" and evidence["hosts"]:
        host = evidence["hosts"][0]
        if host["disabled"]:
            sentence = f"The host {host['name']} that could run it is disabled."
            next_action = f"enable it: `flakes hosts enable {host['hostId']}`, or connect another"
        elif "offlineSince" in host:
            sentence = f"The host {host['name']} that could run it is offline since {host['offlineSince']}."
            next_action = "start it there: `flakes host run`, or connect another"
    elif code == "capability_unavailable" and evidence.get("missing"):
        sentence = f"Nothing connected offers {', '.join(evidence['missing'])}."
    elif code == "needs_input":
        sentence = f"It asks: {evidence['prompt'][:300]}"
        next_action = f"answer it: `flakes permissions approve {evidence['permissionRequestId']}`, or `deny`"
    elif code == "running" and evidence.get("overlaps"):
        first = evidence["overlaps"][0]
        sentence = f"It is running, and {_meeting(first)}: {', '.join(first['paths'][:5])}."
    elif code == "merge_conflict" and evidence.get("paths"):
        sentence = f"{sentence[:-1]}: {', '.join(evidence['paths'][:5])}."
    elif code == "adapter_unavailable":
        sentence = f"Nothing connected offers the adapter {task.adapter!r}."
    return Explanation(code=code, sentence=sentence, evidence=evidence, next_action=next_action)


def _met(found: Sequence[Overlap]) -> list[dict[str, Any]]:
    return [
        {"taskKey": each.task_key, "how": each.how, "paths": each.paths, "count": each.count}
        for each in found
    ]


def _meeting(met: dict[str, Any]) -> str:
    if met["how"] == "changed":
        return f"it and {met['taskKey']} have changed the same files"
    return f"what one of it and {met['taskKey']} has reserved was changed by the other"


def _merged(merge: WorkspaceMerge | None) -> tuple[str, dict[str, Any]] | None:
    """What is worth saying of what a task left, once it has ended."""
    codes = {
        "queued": "merge_pending", "verifying": "merge_pending", "resolving": "merge_pending",
        "conflict": "merge_conflict", "unverified": "merge_refused", "failed": "merge_refused",
    }  # fmt: skip
    if merge is None or merge.state not in codes:
        return None
    evidence = {
        "state": merge.state, "workspaceId": merge.workspace_id, "paths": merge.paths,
        "selectedWorkspaceId": merge.selected_workspace_id, "helperTaskId": merge.helper_task_id,
        "reason": merge.reason,
    }  # fmt: skip
    return codes[merge.state], {name: value for name, value in evidence.items() if value is not None}


def _reason(task: Task, facts: _Facts) -> tuple[str, dict[str, Any]]:
    status = TaskStatus(task.status)
    if status in TERMINAL:
        return _merged(facts.merge) or ("ended", {"status": status})
    if status is TaskStatus.SAVED:
        return "not_admitted", {}
    if status is TaskStatus.WAITING:
        return "wait_pending", {"waits": facts.waits}
    if status is TaskStatus.RUNNING:
        if facts.question is not None:
            return "needs_input", facts.question
        evidence = {"sandboxId": task.sandbox_id, "attempt": task.attempt}
        return "running", evidence | ({"overlaps": _met(facts.overlaps)} if facts.overlaps else {})
    if status is TaskStatus.BLOCKED:
        return "dependency_pending", {"dependencies": facts.dependencies}
    if task.next_attempt_at is not None and task.next_attempt_at > datetime.now(UTC):
        at = {"nextAttemptAt": task.next_attempt_at.isoformat(), "attempt": task.attempt}
        return "retry_backoff", at | facts.not_taken
    if not facts.in_queue:
        return "offer_in_flight", {"sandboxId": facts.live[2] if facts.live else None} | facts.not_taken
    if facts.class_code is None or facts.class_at is None:
        return "not_scheduled_yet", {"adapter": task.adapter} | facts.not_taken
    since = {"since": facts.class_at.isoformat()}
    hosts = {"hosts": facts.away} if facts.class_code == "no_host_online" else {}
    return facts.class_code, {**facts.class_facts, **hosts, **since, **facts.not_taken}
