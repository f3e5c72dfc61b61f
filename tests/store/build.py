"""Building blocks of the store's tests: an owner with a project, graphs, sandboxes, one pass of the scheduler.

Everything goes through the store's own functions, in the transactions the server uses. `World` is one
control plane that leads; `statuses` and friends read what is stored, and `check` is what must hold of any
stored state: counts equal to the tasks, the queue equal to what may be placed, no blocked task that could
move.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from flakes.core.graph import BlockedTask, DependencyFailurePolicy, settle
from flakes.core.group import Counts, JoinRule, judge
from flakes.core.placement import Plan, plan
from flakes.core.run import TaskCounts, derive, is_complete
from flakes.core.task import TERMINAL, Outcome, TaskStatus
from flakes.store import (
    accounts,
    admission,
    leader,
    links,
    placement,
    projects,
    sandboxes,
    transitions,
)
from flakes.store.database import Connection, Database, Query, row, rows, run
from flakes.store.identifiers import new_id
from flakes.store.ledger import STATUSES
from flakes.store.settlement import satisfies
from flakes.store.transitions import Accept, Applied, End, Move
from flakes.wire.hosts import SandboxPost
from flakes.wire.projects import ProjectPut
from flakes.wire.runs import GraphPost
from flakes.wire.sandbox_stream import PROTOCOL, Hello
from flakes.wire.tasks import TaskDefinition

TTL_S = 3_600.0
SUSPECT_AFTER_S = 3_600.0


def task(key: str, *depends_on: str, **fields: Any) -> TaskDefinition:
    """A definition; `fields` in the wire's camelCase."""
    body = {"title": key, "adapter": "noop", "taskKey": key, "dependsOn": list(depends_on)}
    return msgspec.convert(body | fields, TaskDefinition)


def graph_of(*tasks: TaskDefinition, close: bool = False, **fields: Any) -> GraphPost:
    body = {"name": "run", "projectKey": "project", "tasks": [], "close": close} | fields
    parsed = msgspec.convert(body | {"tasks": [{"title": "t", "adapter": "a"}]}, GraphPost)
    return msgspec.structs.replace(parsed, tasks=list(tasks))


@dataclass(frozen=True, slots=True)
class Offer:
    """An assignment and the sandbox it was offered to."""

    assignment_id: str
    sandbox_id: str


@dataclass(slots=True)
class World:
    """One owner, one project, one leading control plane over a database."""

    db: Database
    owner_id: str
    replica_id: str = field(default_factory=lambda: new_id("replica"))
    term: int = 0

    # ---- what people do

    async def submit(self, key: str, *tasks: TaskDefinition, close: bool = False) -> str:
        """Post a graph; the run id."""
        async with self.db.transaction() as conn:
            body = graph_of(*tasks, close=close)
            return (await admission.graph(conn, self.owner_id, key, body))[0]

    async def ids(self, run_id: str) -> dict[str, str]:
        """Task ids of a run by key."""
        found = await self.all("select task_key, task_id from tasks where run_id = %(r)s", r=run_id)
        return dict(found)

    # ---- what sandboxes and the scheduler do

    async def sandbox(
        self,
        slots: int = 1,
        *,
        adapters: Sequence[str] = ("noop",),
        capabilities: Sequence[str] = (),
    ) -> str:
        """A sandbox that is connected and empty; its id."""
        async with self.db.transaction() as conn:
            made = await sandboxes.register(conn, self.owner_id, SandboxPost(name="by hand"))
            sandbox_id = made.sandbox.sandbox_id
            await sandboxes.greet(conn, hello(sandbox_id, slots, adapters, capabilities))
            await links.up(conn, sandbox_id, self.replica_id, new_id("instance"))
        return sandbox_id

    async def elect(self) -> None:
        """Take the lead, whoever had it."""
        async with self.db.transaction() as conn:
            await run(conn, Query("update leaders set expires_at = now() - interval '1 s'"))
            term = await leader.elect(conn, "loops", self.replica_id, TTL_S)
        assert term is not None
        self.term = term.term

    async def planned(self) -> Plan:
        async with self.db.connection() as conn:
            reader = placement.SnapshotReader()
            snapshot, _ = await reader.read(conn, suspect_after_s=SUSPECT_AFTER_S)
        return plan(snapshot)

    async def claim(self, made: Plan) -> list[Offer]:
        async with self.db.connection() as conn:
            offered = await placement.claim(
                conn, made.placements, holder=self.replica_id, term=self.term
            )
        return [Offer(assignment.assignment_id, sandbox_id) for sandbox_id, assignment in offered]

    async def schedule(self) -> list[Offer]:
        """One pass of the scheduler."""
        made = await self.planned()
        return await self.claim(made) if made.placements else []

    async def apply(self, *moves: Move) -> Applied:
        async with self.db.pipelined() as conn:
            return await transitions.apply(conn, moves)

    async def start(self) -> list[Offer]:
        """One pass, with everything accepted."""
        offers = await self.schedule()
        await self.apply(*(accept(offer) for offer in offers))
        return offers

    async def offer_of(self, task_id: str) -> Offer:
        """The live assignment of a task."""
        (found,) = await self.all(
            "select assignment_id, sandbox_id from assignments where task_id = %(t)s and live",
            t=task_id,
        )
        return Offer(*found)

    # ---- what is stored

    async def settled(self) -> None:
        """Until everything committed so far is readable as events.

        Transaction ids are the server's, not the database's, so a test beside this one may hold up reading.
        """
        (now,) = await self.all("select pg_current_xact_id()::text")
        for _ in range(2_000):
            sql = "select pg_snapshot_xmin(pg_current_snapshot()) > %(x)s::text::xid8"
            if (await self.all(sql, x=now[0]))[0][0]:
                return
            await asyncio.sleep(0.005)
        raise TimeoutError("some transaction has been open for 10 s")

    async def all(self, sql: str, **params: Any) -> list[tuple[Any, ...]]:
        async with self.db.connection() as conn:
            return await rows(conn, Query(sql), params)

    async def statuses(self, run_id: str) -> dict[str, str]:
        """Statuses of a run's tasks by key."""
        found = await self.all("select task_key, status from tasks where run_id = %(r)s", r=run_id)
        return dict(found)

    async def state(self, run_id: str) -> str:
        return (await self.all("select state from runs where run_id = %(r)s", r=run_id))[0][0]

    async def event_types(self, task_id: str) -> list[str]:
        sql = "select type from events where task_id = %(t)s order by transaction_id, event_id"
        return [r[0] for r in await self.all(sql, t=task_id)]

    async def check(self) -> None:
        """Everything that holds of any committed state."""
        async with self.db.connection() as conn:
            problems = await inconsistencies(conn)
        assert not problems, problems


@asynccontextmanager
async def opened(dsn: str, *, size: int = 12) -> AsyncIterator[World]:
    """A world on a fresh database, leading."""
    db = Database(dsn, size=size)
    await db.open()
    try:
        async with db.transaction() as conn:
            owner_id = await accounts.create_user(conn, "owner")
            await projects.put(conn, owner_id, "project", ProjectPut(name="Project"))
        world = World(db, owner_id)
        await world.elect()
        yield world
    finally:
        await db.close()


def hello(
    sandbox_id: str,
    slots: int,
    adapters: Sequence[str] = ("noop",),
    capabilities: Sequence[str] = (),
) -> Hello:
    return Hello(
        protocol=PROTOCOL, sandbox_id=sandbox_id, boot="boot", version="1", max_concurrency=slots,
        adapters=list(adapters), capabilities=list(capabilities), assignments=[],
    )  # fmt: skip


def accept(offer: Offer) -> Accept:
    return Accept(offer.assignment_id, offer.sandbox_id)


def end(offer: Offer, outcome: Outcome = Outcome.SUCCEEDED, **fields: Any) -> End:
    """The sandbox's own report."""
    return End(offer.assignment_id, offer.sandbox_id, outcome, **fields)


def lost(offer: Offer, reason: str = "gone") -> End:
    """The control plane's own report."""
    return End(offer.assignment_id, None, Outcome.LOST, reason)


# ---- what must hold of every committed state

_TASKS = Query("""
    select t.task_id, t.run_id, t.status, t.optional, t.failure_policy, t.pending_count,
           t.assignment_id, t.sandbox_id,
           (select array_agg(d.depends_on) from task_dependencies d where d.task_id = t.task_id),
           q.task_id is not null, q.class_id is not distinct from t.class_id or q.task_id is null
    from tasks t left join ready_tasks q on q.task_id = t.task_id""")

_WAITS = Query("""
    select w.wait_id, w.task_id, w.kind, w.due_at is not null,
           array(select m.task_id from wait_members m where m.wait_id = w.wait_id
                 union select g.task_id from tasks g where g.group_id = w.group_id
                 union select r.task_id from rounds r where r.round_id = w.round_id)
    from waits w where w.state = 'pending'""")

_LIVE = Query("""
    select assignment_id, task_id, run_id, sandbox_id, state from assignments where live""")

_RUNS = Query("""
    select run_id, state, counts, optional_counts, closed, cancel_requested_at is not null,
           completed_at is not null
    from runs""")

_SLOTS = Query("select sandbox_id, max_concurrency from sandboxes")

_RESULTS = Query("select task_id, assignment_id from task_results")


_GROUPS = Query("""
    select g.group_id, g.status, g.join_rule, g.quorum, g.total, g.succeeded, g.failed, g.cancelled,
           (select array[count(*), count(*) filter (where m.status = 'SUCCEEDED'),
                         count(*) filter (where m.status = 'FAILED'),
                         count(*) filter (where m.status = 'CANCELLED')]
            from tasks m where m.group_id = g.group_id), o.status
    from task_groups g join tasks o on o.task_id = g.owner_task_id""")

_SLEEPERS = Query("""
    select t.task_id from tasks t
    where t.status = 'WAITING' and not exists (
        select from waits w where w.task_id = t.task_id and w.state = 'pending' and w.yields_for is not null)""")

_LEFT_WAITING = Query("""
    select w.wait_id from waits w join tasks t using (task_id)
    where w.state = 'pending' and t.status in ('SUCCEEDED', 'FAILED', 'CANCELLED')""")


async def _group_problems(conn: Connection) -> list[str]:
    problems = [f"{task_id} waits for nothing" for (task_id,) in await rows(conn, _SLEEPERS)]
    problems += [f"{wait_id} outlives its task" for (wait_id,) in await rows(conn, _LEFT_WAITING)]
    for group_id, status, rule, quorum, *counts, real, owner in await rows(conn, _GROUPS):
        if counts != real:
            problems.append(f"{group_id} counts {counts}, its members are {real}")
        if status in ("OPEN", "CLOSED") and TaskStatus(owner) in TERMINAL:
            problems.append(f"{group_id} is {status}, its owner {owner}")
        if status == "CLOSED" and judge(JoinRule(rule), quorum, Counts(*real)) is not None:
            problems.append(f"{group_id} is decided by {real}, and not settled")
    return problems


async def _stall_problems(conn: Connection, tasks: Mapping[str, tuple[Any, ...]]) -> list[str]:
    """Waits without hope, found by what grows from the tasks that can move."""
    waits = await rows(conn, _WAITS)
    hopeful: set[str] = set()
    grown = True
    while grown:
        before = len(hopeful)
        for task_id, fields in tasks.items():
            status, policy, edges = TaskStatus(fields[1]), fields[3], fields[7] or ()
            if status in (TaskStatus.QUEUED, TaskStatus.RUNNING):
                hopeful.add(task_id)
            elif status is TaskStatus.BLOCKED:
                bad = any(tasks[d][1] in ("FAILED", "CANCELLED") for d in edges)
                if not (bad and policy != "continue") and hopeful.intersection(edges):
                    hopeful.add(task_id)
        for _, task_id, kind, due, members in waits:
            outside = kind in ("timer", "signal", "prompt") or due
            if tasks[task_id][1] == "WAITING" and (outside or hopeful.intersection(members)):
                hopeful.add(task_id)
        # What has ended gives nobody hope.
        hopeful = {each for each in hopeful if TaskStatus(tasks[each][1]) not in TERMINAL}
        grown = len(hopeful) > before
    return [
        f"{wait_id} of {task_id} can never be satisfied: {members}" for wait_id, task_id, kind, _, members in waits
        if kind in ("group", "children", "round") and not hopeful.intersection(members)
    ]


async def inconsistencies(conn: Connection) -> list[str]:
    """What is wrong with the stored state, in sentences; empty when all is well."""
    problems: list[str] = []
    tasks = {r[0]: r[1:] for r in await rows(conn, _TASKS)}
    statuses = {task_id: TaskStatus(r[1]) for task_id, r in tasks.items()}
    live: dict[str, tuple[str, str, str]] = {}
    used: Counter[str] = Counter()
    for assignment_id, task_id, run_id, sandbox_id, state in await rows(conn, _LIVE):
        if task_id in live:
            problems.append(f"{task_id} has two live assignments")
        live[task_id] = (assignment_id, sandbox_id, state)
        used[sandbox_id] += 1
        if tasks[task_id][0] != run_id:
            problems.append(f"{assignment_id} names another run than its task")
    for sandbox_id, slots in await rows(conn, _SLOTS):
        if used[sandbox_id] > slots:
            problems.append(f"{sandbox_id} holds {used[sandbox_id]} of {slots} slots")
    results = dict(await rows(conn, _RESULTS))
    blocked: list[BlockedTask] = []
    for task_id, fields in tasks.items():
        _, _, _, policy, pending, assignment_id, sandbox_id, depends_on, queued, same_class = fields
        status, held = statuses[task_id], live.get(task_id)
        if not same_class:
            problems.append(f"{task_id} waits in the queue of another class")
        if queued != (status is TaskStatus.QUEUED and held is None):
            problems.append(f"{task_id} is {status}, held by {held}, in the queue: {queued}")
        if status is TaskStatus.RUNNING:
            if held is None or held != (assignment_id, sandbox_id, "accepted"):
                problems.append(f"{task_id} runs under {assignment_id}, live is {held}")
        elif held is not None and (status is not TaskStatus.QUEUED or held[2] != "offered"):
            problems.append(f"{task_id} is {status} and held by {held}")
        if status is TaskStatus.BLOCKED:
            edges = tuple(depends_on or ())
            blocked.append(BlockedTask(task_id, DependencyFailurePolicy(policy), edges))
            holding = sum(not satisfies(statuses[d], policy) for d in edges)
            if holding != pending:
                problems.append(f"{task_id} counts {pending} dependencies, {holding} hold it")
        if task_id in results and results[task_id] != assignment_id:
            problems.append(f"{task_id} keeps a result of {results[task_id]}, not {assignment_id}")
    for task_id, event in settle(blocked, statuses).items():
        problems.append(f"{task_id} is BLOCKED and could move: {event}")
    problems += await _run_problems(conn, tasks)
    problems += await _group_problems(conn)
    problems += await _stall_problems(conn, tasks)
    return problems


async def _run_problems(conn: Connection, tasks: Mapping[str, tuple[Any, ...]]) -> list[str]:
    problems: list[str] = []
    for run_id, state, counts, optional_counts, closed, cancelled, complete in await rows(
        conn, _RUNS
    ):
        own = [(r[1], r[2]) for r in tasks.values() if r[0] == run_id]
        every, optional = Counter(s for s, _ in own), Counter(s for s, o in own if o)
        if counts != [every[s] for s in STATUSES]:
            problems.append(f"{run_id} counts {counts}, its tasks are {dict(every)}")
        if optional_counts != [optional[s] for s in STATUSES]:
            problems.append(f"{run_id} counts optional {optional_counts}, not {dict(optional)}")
        real = derive(
            TaskCounts({s: every[s] for s in STATUSES}, {s: optional[s] for s in STATUSES}),
            cancelled=cancelled,
        )
        if state != real:
            problems.append(f"{run_id} says {state}, its tasks say {real}")
        if complete != is_complete(real, closed=closed, cancelled=cancelled):
            problems.append(f"{run_id} is {real}, completed: {complete}")
    return problems


async def one(conn: Connection, sql: str, **params: Any) -> Any:
    """The first column of the first row."""
    found = await row(conn, Query(sql), params)
    return None if found is None else found[0]


def text_result(text: str) -> bytes:
    return json.dumps({"text": text}).encode()
