"""Seeded fault simulation: random steps of a control plane and its sandboxes, and what must hold after each.

One process, one real database, no sockets and no clock: a step is a transaction, a message or a fault,
drawn by a seeded generator, so a seed is a reproduction. Time passes by moving stored instants into the
past. When the faults end the system must drain: every task ends, every slot is free.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from flakes.core.task import TERMINAL, Outcome, TaskStatus
from flakes.store import fences, groups, sandboxes, spawning, waits
from flakes.store.database import Query, rows, run
from flakes.store.ledger import LOCK_RUNS_OF_ASSIGNMENTS, Ledger
from flakes.wire.codec import convert
from flakes.wire.errors import ApiError
from flakes.wire.groups import GroupOpen, TaskSpawn
from flakes.wire.hosts import SandboxPost
from flakes.wire.sandbox_stream import Result
from flakes.wire.waits import WaitFor
from sim.daemon import Daemon, Held, Link
from sim.plane import WITHDRAWN, Job, Plane
from store.build import World, inconsistencies, opened, task

CAPABILITIES = ["linux", "gpu"]
OUTCOMES = [Outcome.SUCCEEDED] * 6 + [
    Outcome.FAILED,
    Outcome.FAILED,
    Outcome.RETRYABLE,
    Outcome.LOST,
]
DRAIN_ROUNDS = 200
FAMILIES_MAX = 5

_FACTS = Query("""
    select t.task_id, t.status, t.assignment_id, r.assignment_id, r.result ->> 'text'
    from tasks t left join task_results r on r.task_id = t.task_id""")

_STATES = Query("""
    select assignment_id, state, accepted_at is not null from assignments
    where assignment_id = any(%(ids)s)""")

_TAKEN_BACK = Query("select assignment_id from assignments where reason = %(reason)s and accepted_at is not null")
_LOSSES = Query("""
    select t.task_id, t.losses, count(a.assignment_id) from tasks t
    left join assignments a on a.task_id = t.task_id
        and (a.state = 'declined' or a.state = 'lost' and a.accepted_at is not null)
    group by t.task_id, t.losses having t.losses > count(a.assignment_id)""")

_EXPIRE = Query("update leaders set expires_at = now() - interval '1 s'")
_SILENCE = Query("""
    update links set seen_at = now() - interval '1 h' where peer_id = %(sandbox_id)s""")
_AGE_OFFERS = Query("""
    update assignments set offered_at = now() - interval '1 h'
    where state = 'offered' and (%(id)s::text is null or assignment_id = %(id)s)""")
_DUE = Query("update ready_tasks set not_before = now() where not_before is not null")
_OFFERED = Query("select assignment_id from assignments where state = 'offered' order by 1")
_KEYS = Query("""
    select task_key from tasks
    where run_id = %(run_id)s and task_id <> %(task_id)s and status in ('QUEUED', 'RUNNING', 'BLOCKED')
    order by task_key""")
_LEFT = Query("select count(*) from tasks where status in ('QUEUED', 'RUNNING', 'WAITING')")
_STUCK = Query("select distinct run_id from tasks where status = 'BLOCKED' order by 1")


class BrokenError(AssertionError):
    """Something that must hold does not; `steps` is how it came to that."""


class Simulation:
    """See the module. `trace` holds the steps that were taken."""

    def __init__(self, world: World, seed: int) -> None:
        self.rng = random.Random(seed)
        self.world = world
        self.trace: list[str] = []
        self.daemons: list[Daemon] = []
        self.lives = 0
        self.plane: Plane | None = None
        self.zombies: list[Job] = []
        self.graphs = 0
        self.families = 0
        self.tasks: list[str] = []
        self.runs: list[str] = []
        self._connections = 0
        self._progress = 0
        self._statuses: dict[str, TaskStatus] = {}
        self._retried = False
        self._active: defaultdict[str, dict[str, str]] = defaultdict(dict)
        """Task id → assignment id → sandbox id of every execution that has processes."""
        self._started: set[str] = set()
        self._new: list[Held] = []
        self._reports: dict[str, Result] = {}

    # ---- the witness of executions

    def started(self, daemon: Daemon, held: Held) -> None:
        self._require(
            held.assignment_id not in self._started, f"{held.assignment_id} started twice"
        )
        self._started.add(held.assignment_id)
        self._new.append(held)
        self._active[held.task_id][held.assignment_id] = daemon.sandbox_id

    def stopped(self, daemon: Daemon, held: Held) -> None:
        self._require(
            self._active[held.task_id].pop(held.assignment_id, None) == daemon.sandbox_id,
            f"{held.assignment_id} stopped without running",
        )

    def reported(self, held: Held, result: Result) -> None:
        self._reports[held.assignment_id] = result

    # ---- running

    async def set_up(self) -> None:
        for _ in range(self.rng.randint(2, 3)):
            async with self.world.db.transaction() as conn:
                made = await sandboxes.register(conn, self.world.owner_id, SandboxPost(name="sim"))
            chosen = CAPABILITIES if not self.daemons else self.rng.sample(CAPABILITIES, 1)
            slots = self.rng.randint(1, 3)
            self.daemons.append(Daemon(made.sandbox.sandbox_id, slots, chosen, self))
        await self._start_plane()
        await self._submit()

    async def run(self, steps: int) -> None:
        """Random steps with faults, then the drain."""
        for _ in range(steps):
            await self._random_step()
        await self._drain()

    async def _random_step(self) -> None:
        choices: list[tuple[int, str, Callable[[], Awaitable[None]]]] = [
            (40, "job", self._job), (14, "commit", self._commit), (14, "read", self._read),
            (14, "receive", self._receive), (12, "send", self._send), (10, "finish", self._finish),
            (10, "connect", self._connect), (9, "schedule", self._schedule), (8, "reap", self._reap),
            (2, "heartbeat", self._heartbeat), (3, "intervene", self._intervene),
            (2, "submit", self._submit), (2, "due", self._due), (1, "offer again", self._offer_again),
            (1, "send again", self._send_again), (2, "cut", self._cut), (4, "silence", self._silence),
            (6, "age an offer", self._age_an_offer), (2, "crash a sandbox", self._crash_daemon),
            (4, "restart a sandbox", self._restart_daemon), (1, "crash the plane", self._crash_plane),
            (6, "start the plane", self._start_plane), (1, "zombie", self._zombie),
            (3, "spawn", self._spawn),
        ]  # fmt: skip
        weights = [weight for weight, _, _ in choices]
        _, name, step = self.rng.choices(choices, weights)[0]
        await self._take(name, step)

    async def _take(self, name: str, step: Callable[[], Awaitable[None]]) -> None:
        self.trace.append(name)
        statements = self.world.db.statements
        await step()
        if self.world.db.statements != statements or self._new:
            await self._check(name)
        self._retried = False

    def _note(self, what: object) -> None:
        self.trace[-1] = f"{self.trace[-1]}: {what}"

    # ---- what goes right

    async def _job(self) -> None:
        plane = self.plane
        if plane is None or not plane.jobs:
            return
        kind = self.rng.choice(sorted(plane.jobs))
        jobs = plane.jobs[kind]
        job = self.rng.choice(jobs)
        self._note(kind)
        if not await _advance(job):
            jobs.remove(job)
            if not jobs:
                del plane.jobs[kind]

    async def _commit(self) -> None:
        if self.plane and self.plane.writing:
            count = self.rng.randint(1, len(self.plane.writing))
            moves = [move for entry in self.plane.writing[:count] for move in entry.moves]
            self._note(moves)
            await self.plane.commit(count)
            self._progress += 1

    async def _read(self) -> None:
        """The control plane takes what some connection has brought."""
        if self.plane is None:
            return
        ready = [
            link for link in self.plane.hub.values() if link.up and link.receiving and not link.busy
        ]
        if ready:
            link = self.rng.choice(ready)
            batch = [link.up.popleft() for _ in range(self.rng.randint(1, len(link.up)))]
            self.plane.add("received", self.plane.received(link, batch))
            await self._job_of("received")

    async def _job_of(self, kind: str) -> None:
        """Give the newest job of a kind its first step: a batch is with the writer as soon as it is read."""
        assert self.plane is not None
        await _advance(self.plane.jobs[kind][-1])

    async def _receive(self) -> None:
        daemon = self.rng.choice(self.daemons)
        if daemon.link and daemon.link.down:
            self._note(daemon.link.down[0])
            daemon.receive()

    async def _send(self) -> None:
        self.rng.choice(self.daemons).send(self.rng.randint(1, 4))

    async def _finish(self) -> None:
        daemon = self.rng.choice(self.daemons)
        if running := daemon.running():
            held = self.rng.choice(running)
            outcome = self.rng.choice(OUTCOMES)
            if held.stopping and self.rng.random() < 0.8:
                outcome = Outcome.CANCELLED
            self._note((held.assignment_id, outcome))
            daemon.finish(held, outcome, f"by {held.assignment_id}")

    async def _connect(self) -> None:
        idle = [d for d in self.daemons if d.alive and (d.link is None or not d.link.open)]
        if self.plane and idle:
            self._greet(self.rng.choice(idle))

    def _greet(self, daemon: Daemon) -> None:
        assert self.plane is not None
        self._connections += 1
        link = daemon.connect(f"connection-{self._connections:06}")
        self.plane.add("connected", self.plane.connected(link))

    async def _schedule(self) -> None:
        if self.plane and "schedule" not in self.plane.jobs:
            self.plane.add("schedule", self.plane.schedule(self._on_claim))

    def _on_claim(self, offered: int) -> None:
        self._progress += offered

    async def _reap(self) -> None:
        if self.plane and "reap" not in self.plane.jobs:
            self.plane.add("reap", self.plane.reap())

    async def _heartbeat(self) -> None:
        if self.plane and "heartbeats" not in self.plane.jobs:
            self.plane.add("heartbeats", self.plane.heartbeats())

    async def _intervene(self) -> None:
        if self.plane is None:
            return
        act = self.rng.choice(
            ["cancel_task"] * 3 + ["cancel_run"] + ["retry_task", "retry_run"] * 3
        )
        reference = (
            self.rng.choice(self._aims(act) or self.tasks)
            if act.endswith("task")
            else self.rng.choice(self.runs)
        )
        self._note((act, reference))
        job = self.plane.intervene(act, reference, self._on_intervention(act))
        self.plane.add("intervene", job)

    def _aims(self, act: str) -> list[str]:
        """Tasks on which a cancel or a retry does something."""
        ended = (TaskStatus.FAILED, TaskStatus.CANCELLED)
        if act == "retry_task":
            return [task_id for task_id in self.tasks if self._statuses.get(task_id) in ended]
        return [task_id for task_id in self.tasks if self._statuses.get(task_id) not in TERMINAL]

    def _on_intervention(self, act: str) -> Callable[[], None]:
        def done() -> None:
            self._retried = act.startswith("retry")

        return done

    async def _submit(self) -> None:
        if self.graphs == 3:
            return
        self.graphs += 1
        made = []
        for i in range(self.rng.randint(2, 7)):
            names = [definition.task_key for definition in made]
            depends_on = self.rng.sample(names, self.rng.randint(0, min(2, len(names))))
            made.append(
                task(
                    f"t{i}",
                    *depends_on,  # type: ignore[arg-type]
                    dependencyFailurePolicy=self.rng.choice(["fail", "cancel", "wait", "continue"]),
                    requiredCapabilities=self.rng.sample(
                        CAPABILITIES, self.rng.choice([0, 0, 1, 2])
                    ),
                    optional=self.rng.random() < 0.2,
                    priority=self.rng.randint(-1, 1),
                    retry={
                        "maxAttempts": self.rng.randint(1, 3),
                        "backoffS": self.rng.choice([0, 60]),
                    },
                )
            )
        run_id = await self.world.submit(f"run-{self.graphs}", *made, close=self.rng.random() < 0.5)
        self.runs.append(run_id)
        self.tasks += sorted((await self.world.ids(run_id)).values())

    async def _spawn(self) -> None:
        """A running task makes children in a group, closes it, and may be told to wait for it."""
        running = [(daemon, held) for daemon in self.daemons for held in daemon.running()]
        if self.plane is None or not running or self.families == FAMILIES_MAX:
            return
        daemon, held = self.rng.choice(running)
        self._note(held.assignment_id)
        self.families += 1
        key = f"g{self.families}"
        rule = self.rng.choice(["all_success", "all_settled", "first"])
        yields = self.rng.random() < 0.7
        try:
            async with self.world.db.transaction() as conn:
                params = {"assignment_ids": [held.assignment_id]}
                ledger = Ledger.of(await rows(conn, LOCK_RUNS_OF_ASSIGNMENTS, params))
                holder = await fences.hold(conn, daemon.sandbox_id, held.assignment_id)
                if holder is None or ledger.runs[holder.run_id].cancelled:
                    return  # it is superseded, and does not know
                known = [name for (name,) in await rows(conn, _KEYS, {"run_id": holder.run_id, "task_id": holder.task_id})]
                children = [self._child(known) for _ in range(self.rng.choice([1, 1, 2, 3]))]
                await groups.open_(conn, ledger, holder, convert({"groupKey": key, "join": rule}, GroupOpen))
                body = {"operationId": key, "group": key, "tasks": children, "detached": self.rng.random() < 0.2}
                made, _ = await spawning.spawn(conn, ledger, holder, convert(body, TaskSpawn))
                await groups.close(conn, ledger, holder, key)
                wait = {"operationId": key, "on": {"kind": "group", "group": key}}
                await waits.ask(conn, ledger, holder, convert(wait, WaitFor), yields=yields)
                await ledger.flush(conn)
        except ApiError as refused:
            # Nothing of it was done: a child, or the wait, would have waited for ever.
            self._require(refused.code in ("wait_deadlock", "wait_stalled"), f"{refused.code}: {refused.message}")
            self.families -= 1
            return
        self.tasks += [child.task_id for child in made.children]

    def _child(self, known: list[str]) -> dict[str, object]:
        """A child, now and then behind a task of the run, which may end badly before or after."""
        depends_on = [self.rng.choice(known)] if known and self.rng.random() < 0.6 else []
        policy = self.rng.choice(["continue", "wait", "wait", "wait", "fail"]) if depends_on else "continue"
        return {"title": "c", "adapter": "noop", "dependsOn": depends_on, "dependencyFailurePolicy": policy}

    async def _due(self) -> None:
        async with self.world.db.connection() as conn:
            await run(conn, _DUE)

    # ---- what goes wrong

    async def _offer_again(self) -> None:
        if self.plane:
            sandbox_id = self.rng.choice(self.daemons).sandbox_id
            self.plane.add("offer again", self.plane.offer_again(sandbox_id))

    async def _send_again(self) -> None:
        self.rng.choice(self.daemons).send_again()

    async def _cut(self) -> None:
        self._lose(self.rng.choice(self.daemons))

    def _lose(self, daemon: Daemon) -> None:
        link = daemon.link
        daemon.disconnect()
        if self.plane and link is not None:
            self.plane.add("disconnected", self.plane.disconnected(link))

    async def _silence(self) -> None:
        """A long time passes for a sandbox that nobody hears."""
        silent = [d for d in self.daemons if d.link is None or not d.link.open]
        if silent:
            async with self.world.db.connection() as conn:
                await run(conn, _SILENCE, {"sandbox_id": self.rng.choice(silent).sandbox_id})

    async def _age_an_offer(self) -> None:
        async with self.world.db.connection() as conn:
            if offered := await rows(conn, _OFFERED):
                await run(conn, _AGE_OFFERS, {"id": self.rng.choice(offered)[0]})

    async def _crash_daemon(self) -> None:
        alive = [daemon for daemon in self.daemons if daemon.alive]
        if alive:
            daemon = self.rng.choice(alive)
            keep_journal = self.rng.random() < 0.7
            self._note((daemon.sandbox_id, "with journal" if keep_journal else "without"))
            self._lose(daemon)
            daemon.crash(keep_journal=keep_journal)

    async def _restart_daemon(self) -> None:
        dead = [daemon for daemon in self.daemons if not daemon.alive]
        if dead:
            self.rng.choice(dead).restart()

    async def _crash_plane(self) -> None:
        if self.plane is None:
            return
        zombies = self.plane.crash()
        self.plane = None
        for daemon in self.daemons:
            daemon.disconnect()
        # Some crashes are pauses: the old leader wakes when another one is in office.
        if self.rng.random() < 0.7:
            self.zombies += zombies

    async def _start_plane(self) -> None:
        if self.plane is not None:
            return
        self.lives += 1
        async with self.world.db.connection() as conn:
            await run(conn, _EXPIRE)
        self.plane = Plane(self.world.db, self.world.owner_id, f"replica-{self.lives}")
        await self.plane.take_the_lead()

    async def _zombie(self) -> None:
        """A leader of an earlier term goes on with its pass: it may change nothing."""
        if self.plane is None or not self.zombies:
            return
        job = self.zombies.pop()
        async with self.world.db.connection() as conn:
            before = await rows(conn, Query("select count(*) from assignments"))
            while await _advance(job):
                pass
            after = await rows(conn, Query("select count(*) from assignments"))
        self._require(before == after, "a leader whose term is over made offers")

    # ---- the drain

    async def _drain(self) -> None:
        """Faults end. Every round lets each part do all it can; only when nothing moves does time pass."""
        self.trace.append("---- drain")
        self.zombies.clear()
        for _ in range(DRAIN_ROUNDS):
            before = self._progress
            await self._take("start the plane", self._start_plane)
            for daemon in self.daemons:
                if not daemon.alive:
                    daemon.restart()
                if daemon.link is None or not daemon.link.open:
                    self._greet(daemon)
            await self._all_jobs()
            await self._take("every sandbox does all it can", self._all_daemons)
            await self._take("due", self._due)
            await self._take("schedule", self._schedule)
            await self._all_jobs()
            if self._progress != before:
                continue
            async with self.world.db.connection() as conn:
                ((left,),) = await rows(conn, _LEFT)
            if left:
                await self._take("age every offer", self._age_every_offer)
                await self._take("reap", self._reap)
            elif not await self._cancel_stalled():
                break
            await self._all_jobs()
        else:
            self._require(False, "it does not come to rest")
        await self._at_rest()

    async def _all_daemons(self) -> None:
        for daemon in self.daemons:
            self._progress += daemon.send(100)
            while daemon.receive():
                self._progress += 1
            for held in daemon.running():
                outcome = Outcome.CANCELLED if held.stopping else self.rng.choice(OUTCOMES)
                daemon.finish(held, outcome, f"by {held.assignment_id}")
                self._progress += 1

    async def _cancel_stalled(self) -> bool:
        """Cancel a run whose last tasks wait for what failed; False when there is none."""
        async with self.world.db.connection() as conn:
            stuck = await rows(conn, _STUCK)
        if stuck and self.plane:
            self.trace.append(f"cancel the stalled {stuck[0][0]}")
            job = self.plane.intervene("cancel_run", stuck[0][0], lambda: None)
            self.plane.add("intervene", job)
        return bool(stuck)

    async def _age_every_offer(self) -> None:
        async with self.world.db.connection() as conn:
            await run(conn, _AGE_OFFERS, {"id": None})

    async def _all_jobs(self) -> None:
        """Until no job can go on."""
        for _ in range(5_000):
            if not self.plane or not (self.plane.jobs or self._readable()):
                return
            await self._take("read", self._read)
            await self._take("commit", self._commit)
            await self._take("job", self._job)
        self._require(False, "the jobs never end")

    def _readable(self) -> list[Link]:
        assert self.plane is not None
        return [link for link in self.plane.hub.values() if link.up and link.receiving]

    async def _at_rest(self) -> None:
        """F07: every task has ended, every slot is free, and no journal holds anything back."""
        await self._check("at rest")
        left = {
            task_id: status for task_id, status in self._statuses.items() if status not in TERMINAL
        }
        self._require(not left, f"not ended: {left}")
        async with self.world.db.connection() as conn:
            live = await rows(conn, Query("select assignment_id from assignments where live"))
            queue = await rows(conn, Query("select task_id from ready_tasks"))
        self._require(not live, f"slots are still held: {live}")
        self._require(not queue, f"still in the queue: {queue}")
        for daemon in self.daemons:
            self._require(
                not daemon.held, f"{daemon.sandbox_id} still holds {list(daemon.held.values())}"
            )
            self._require(
                not daemon.outbox, f"{daemon.sandbox_id} has still to say {daemon.outbox}"
            )

    # ---- what must hold after every step

    async def _check(self, step: str) -> None:
        async with self.world.db.connection() as conn:
            problems = await inconsistencies(conn)
            facts = await rows(conn, _FACTS)
            problems += [
                f"{assignment_id} was withdrawn after it had been accepted"
                for (assignment_id,) in await rows(conn, _TAKEN_BACK, {"reason": WITHDRAWN})
            ]
            problems += [
                f"{task_id} counts {counted} losses of {real}"
                for task_id, counted, real in await rows(conn, _LOSSES)
            ]
            new, self._new = self._new, []
            for held in new:
                of_task = {held.assignment_id, *self._active[held.task_id]}
                for assignment_id, state, accepted in await rows(
                    conn, _STATES, {"ids": [*of_task]}
                ):
                    if not accepted:
                        problems.append(f"{assignment_id} runs and was never accepted")
                    if assignment_id != held.assignment_id and state != "lost":
                        problems.append(f"{held.task_id} runs twice; the first is {state}")
        for task_id, text, assignment_id, result_of, result in facts:
            status = TaskStatus(text)
            before = self._statuses.get(task_id)
            if before in TERMINAL and status is not before and not self._retried:
                problems.append(f"{task_id} went from {before} to {status} by {step!r}")
            self._statuses[task_id] = status
            if result_of is not None:
                report = self._reports.get(result_of)
                if report is None or report.text != result:
                    problems.append(f"the result of {task_id} is {result!r}, reported was {report}")
            if status is TaskStatus.SUCCEEDED and (
                result_of != assignment_id
                or self._reports[assignment_id].outcome is not Outcome.SUCCEEDED
            ):
                problems.append(f"{task_id} succeeded without {assignment_id} saying so")
        self._require(not problems, "; ".join(problems))

    def _require(self, holds: bool, problem: str) -> None:
        if not holds:
            raise BrokenError(problem)


async def _advance(job: Job) -> bool:
    """One step of a job; False at its end."""
    try:
        await anext(job)
    except StopAsyncIteration:
        return False
    return True


@asynccontextmanager
async def simulation(dsn: str, seed: int) -> AsyncIterator[Simulation]:
    """A simulation on a fresh database."""
    async with opened(dsn, size=3) as world:
        made = Simulation(world, seed)
        await made.set_up()
        yield made
