"""kill -9 of every part of a session in the middle of a run, twice each: the run ends as if nothing was.

F01, F02, F04, F05, F07, F19, F28. Nothing is repaired by hand: whatever brings a part back is the session's own.
"""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from e2e.stage import PYTHON, Stage, running_with, say, seeded, until
from flakes.wire.events import Event

pytestmark = pytest.mark.timeout(120)

TASKS = 40
WORKER = Path(__file__).with_name("worker.py")
VICTIMS = {
    "server": ("server",),
    "sandbox": ("sandbox",),
    "postgres": ("postgresql",),
    "host": ("host",),
    "everything": ("host", "sandbox", "server", "postgresql"),
}
HARMLESS = ("server", "postgres", "host")
"""Losing these must cost no execution: the work goes on without them."""


@dataclass(frozen=True)
class Note:
    """A line of a task's ledger."""

    word: str
    assignment_id: str
    at_s: float


def graph(ledger: Path, rng: random.Random) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Tasks with up to two dependencies each, and the value that every one must leave behind."""
    tasks: list[dict[str, Any]] = []
    values: dict[str, int] = {}
    for number in range(TASKS):
        key = f"task-{number:02}"
        before = sorted(values)[-12:]
        depends_on = rng.sample(before, min(len(before), rng.choice([0, 0, 1, 2])))
        values[key] = 1 + sum(values[name] for name in depends_on)
        outputs: dict[str, Any] = {"value": {}} | ({"bulk": {}} if key.endswith("0") else {})
        seconds = f"{rng.uniform(0.1, 0.5):.3f}"
        tasks.append({
            "taskKey": key, "dependsOn": depends_on, "declaredOutputs": outputs,
            "input": {"argv": [str(PYTHON), "-I", "-S", str(WORKER), str(ledger), seconds]},
        })  # fmt: skip
    return tasks, values


def notes(ledger: Path) -> dict[str, list[Note]]:
    found: dict[str, list[Note]] = {}
    for path in ledger.glob("task-*"):
        lines = [line.split() for line in path.read_text().splitlines()]
        found[path.name] = [Note(word, one, float(at)) for word, one, _, at in lines]
    return found


def begun(ledger: Path) -> int:
    return sum(1 for _ in ledger.glob("task-*"))


class Follower:
    """Collects a run's events from its beginning to its end, over every restart."""

    def __init__(self, stage: Stage, run_id: str) -> None:
        self.events: list[Event] = []
        self._stage = stage
        self._run_id = run_id
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        with self._stage.client() as client:
            for event in client.follow_run(self._run_id):
                self.events.append(event)

    def finish(self) -> list[Event]:
        self._thread.join(20)
        assert not self._thread.is_alive(), "the follower did not see the end of the run"
        return self.events


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_run_survives_two_kills(session: Stage, victim: str) -> None:
    seed, rng = seeded()
    ledger = session.scratch / f"ledger-{victim}"
    ledger.mkdir()
    tasks, values = graph(ledger, rng)
    key = f"kill-{victim}"
    run = session.submit(key, tasks)
    follower = Follower(session, run.run_id)
    for threshold in (rng.randint(3, 12), rng.randint(18, 30)):
        until(lambda n=threshold: begun(ledger) >= n, 60, f"{threshold} tasks begun (seed {seed})")
        time.sleep(rng.uniform(0, 0.3))
        for role in VICTIMS[victim]:
            session.kill(role)
    began_s = time.monotonic()
    try:
        ended = session.wait(run.run_id, 60)
    except Exception as error:
        raise AssertionError(f"seed {seed}: {error}\n{session.logs()}") from error
    say(f"{victim}: the run ended {time.monotonic() - began_s:.2f} s after the second kill")
    assert ended.state == "SUCCEEDED", (seed, ended.task_counts)

    executions = notes(ledger)
    check_executions(executions, exactly_once=victim in HARMLESS)
    check_nothing_left(str(ledger))
    check_results(session, run.run_id, values, executions)
    check_events(session, run.run_id, follower.finish())
    check_capacity(session, victim)


def check_executions(executions: dict[str, list[Note]], *, exactly_once: bool) -> None:
    """Every task ran, no two executions of one overlapped, and none was paid for twice for nothing."""
    assert len(executions) == TASKS
    repeated = 0
    for key, lines in executions.items():
        assert not [line for line in lines if line.word == "overlap"], (key, lines)
        starts = [line for line in lines if line.word == "start"]
        ends = [line for line in lines if line.word == "end"]
        assert len({line.assignment_id for line in starts}) == len(starts), (key, lines)
        assert starts, key
        # The last execution is the one that counts, and it went to its end.
        assert ends, (key, lines)
        assert ends[-1].assignment_id == starts[-1].assignment_id, (key, lines)
        assert [line.word for line in lines][-2:] == ["start", "end"], (key, lines)
        for earlier, later in itertools.pairwise(lines):
            assert earlier.at_s <= later.at_s, (key, lines)
        repeated += len(starts) - 1
    say(f"{repeated} executions were repeated")
    if exactly_once:
        assert repeated == 0, {k: v for k, v in executions.items() if len(v) > 2}
    # Two kills of a sandbox with four slots cannot cost more than what ran in it.
    assert repeated <= 8


def check_nothing_left(mark: str) -> None:
    """No process of any execution, orphans in sessions of their own included (F24)."""
    assert running_with(mark) == []


def check_results(
    stage: Stage, run_id: str, values: dict[str, int], executions: dict[str, list[Note]]
) -> None:
    with stage.client() as client:
        tasks = client.all_tasks(run_id)
        assert {task.task_key: task.status for task in tasks} == dict.fromkeys(values, "SUCCEEDED")
        for task in tasks:
            result = client.result(task.task_id)
            assert result.exit_code == 0
            assert client.output(task.task_id, "value") == str(values[task.task_key]).encode()
            if "bulk" in result.outputs:
                content = client.output(task.task_id, "bulk")
                assert content == f"{task.task_key}\n".encode() * 5_000
            # What is shown is of the execution that came to its end, and of no other.
            assert result.assignment_id == executions[task.task_key][-1].assignment_id
            logged = client.logs(task.task_id, limit=1000, channel="stdout").logs
            texts = [one.text for one in logged if one.assignment_id == result.assignment_id]
            assert texts == [f"line {n} of {task.task_key}" for n in (1, 2)]


def check_events(stage: Stage, run_id: str, followed: list[Event]) -> None:
    """Whoever followed all the time saw what whoever reads it afterwards sees, each event once."""
    with stage.client() as client:
        replayed = list(client.follow_run(run_id))
    assert [event.cursor for event in followed] == [event.cursor for event in replayed]
    assert followed == replayed
    order = [tuple(map(int, event.cursor.split("-"))) for event in replayed]
    assert order == sorted(set(order))
    with stage.database() as conn:
        stored = conn.execute("select count(*) from events where run_id = %s", (run_id,)).fetchone()
    assert stored == (len(replayed),)
    by_task: dict[str, list[str]] = defaultdict(list)
    for event in replayed:
        if event.task_id is not None:
            by_task[event.task_id].append(event.type)
    assert len(by_task) == TASKS
    for types in by_task.values():
        assert types.count("task.succeeded") == 1
        assert types.count("task.running") == types.count("attempt.ended") + 1 - _unaccepted(types)
        assert types[-1] == "task.succeeded" or set(types[types.index("task.succeeded") + 1 :]) <= {
            "attempt.refused"
        }


def _unaccepted(types: list[str]) -> int:
    """Attempts that ended before a sandbox had accepted them."""
    count, running = 0, False
    for kind in types:
        if kind == "task.running":
            running = True
        elif kind == "attempt.ended":
            count += not running
            running = False
    return count


def check_capacity(stage: Stage, name: str) -> None:
    """Every slot can be used again, at the same time (F07), and nothing is left over in the database."""
    with stage.client() as client:
        slots = max(one.max_concurrency for one in client.list_sandboxes(limit=200).sandboxes)
    meeting = stage.scratch / f"meeting-{name}"
    meeting.mkdir()
    script = (
        f"touch {meeting}/$FLAKES_TASK_KEY; i=0;"
        f" while [ $(ls {meeting} | wc -l) -lt {slots} ]; do"
        " sleep 0.05; i=$((i+1)); [ $i -lt 200 ] || exit 1; done"
    )
    tasks = [{"taskKey": f"guest-{n}", "input": {"shell": script}} for n in range(slots)]
    run = stage.submit(f"meeting-{name}", tasks)
    assert stage.wait(run.run_id, 30).state == "SUCCEEDED", "not all slots are free"
    with stage.database() as conn:
        for query in (
            "select count(*) from assignments where live",
            "select count(*) from ready_tasks",
            "select count(*) from leases where ended_at is null",
        ):
            assert conn.execute(query).fetchone() == (0,), query
    with stage.client() as client:
        alive = [
            one for one in client.list_sandboxes(limit=200).sandboxes if one.status == "running"
        ]
    assert len(alive) == 1, json.dumps([f"{one.name} {one.status}" for one in alive])
    assert alive[0].running == 0
