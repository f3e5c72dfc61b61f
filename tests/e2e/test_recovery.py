"""What is lost comes back soon, what is cancelled is really gone, and `down` in a run is only a pause."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import psutil
import pytest

from e2e.stage import Stage, running_with, say, until

pytestmark = pytest.mark.timeout(90)

FIRST_HANGS = "echo $FLAKES_ASSIGNMENT_ID >> {0}; [ $(wc -l < {0}) -ge {1} ] || exec sleep 600"
"""Hangs until it has been begun often enough."""


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def hang(stage: Stage, key: str) -> tuple[str, Path]:
    """A run of one task whose first execution hangs; returns when that one runs."""
    ledger = stage.scratch / key
    run = stage.submit(key, [
        {"taskKey": "long", "input": {"shell": FIRST_HANGS.format(ledger, 2)}},
    ])  # fmt: skip
    until(lambda: lines(ledger), 30, "the first execution")
    return run.run_id, ledger


def instance_directory(stage: Stage) -> Path:
    (path,) = (stage.layout.host_state / "instances").glob("instance_*")
    return path


@pytest.mark.parametrize("lost", ["daemon", "instance", "instance and host"])
def test_a_lost_sandbox_s_task_runs_again_within_5_s(session: Stage, lost: str) -> None:
    """F01, F20: by a new daemon over the same directory, or in a new sandbox when all of it is gone."""
    run_id, ledger = hang(session, f"lost-{lost.replace(' ', '-')}")
    directory = instance_directory(session)
    began_s = time.monotonic()
    if lost == "instance and host":
        session.kill("host")
    session.kill("sandbox")
    if lost != "daemon":
        shutil.rmtree(directory)
    until(lambda: len(lines(ledger)) == 2, 30, "the second execution")
    took_s = time.monotonic() - began_s
    say(f"{lost}: running again after {took_s:.2f} s")
    assert session.wait(run_id).state == "SUCCEEDED"
    assert len(set(lines(ledger))) == 2
    assert running_with(str(ledger)) == []
    assert took_s < 5.0
    with session.client() as client:
        alive = [s for s in client.list_sandboxes(limit=200).sandboxes if s.status == "running"]
    assert len(alive) == 1


def test_results_of_a_server_s_absence_are_in_soon_after_its_return(session: Stage) -> None:
    """F02, F19: tasks end while nobody listens; their results are recorded when somebody does."""
    with session.client() as client:  # a sandbox that is there already, so that all start at once
        session.wait(session.submit("warm", [{"taskKey": "a", "input": {"shell": "true"}}]).run_id)
        slots = max(s.max_concurrency for s in client.list_sandboxes().sandboxes)
    marks = session.scratch / "absence"
    marks.mkdir()
    script = (
        f"touch {marks}/$FLAKES_TASK_KEY; sleep 0.8; echo done; touch {marks}/end-$FLAKES_TASK_KEY"
    )
    tasks = [{"taskKey": f"t{n}", "input": {"shell": script}} for n in range(slots)]
    run = session.submit("absence", tasks)
    until(lambda: len(list(marks.glob("t*"))) == slots, 20, "all tasks begun")
    before = session.layout.ready_file.stat().st_mtime
    killed_s = time.time()
    session.kill("server")
    until(
        lambda: session.layout.ready_file.exists()
        and session.layout.ready_file.stat().st_mtime > before,
        30, "the server's return",
    )  # fmt: skip
    back_s = session.layout.ready_file.stat().st_mtime
    done = session.wait(run.run_id, 30)
    assert done.state == "SUCCEEDED"
    assert done.completed_at is not None
    end_s = done.completed_at.timestamp()
    say(
        f"run ended {end_s - killed_s:.2f} s after the kill, {end_s - back_s:.2f} s after the return"
    )
    assert end_s - back_s < 2.5
    with session.client() as client:
        for task in client.all_tasks(run.run_id):
            assert client.result(task.task_id).text == "done"
            assert len(client.get_task(task.task_id).attempts) == 1


GRANDCHILDREN = """\
trap '' TERM
for i in 1 2 3; do
  setsid sh -c 'trap "" TERM HUP; setsid sleep 600 & echo up; sleep 600; sleep 600' &
done
touch {mark}
wait; wait; wait
"""


def test_cancelled_is_said_when_the_last_grandchild_is_gone(session: Stage) -> None:
    """F12, F24."""
    mark = session.scratch / "cancel-one"
    key = session.submit("cancel-one", [{
        "taskKey": "stubborn",
        "input": {"shell": GRANDCHILDREN.format(mark=mark), "env": {"E2E_MARK": str(mark)}},
    }]).run_key  # fmt: skip
    until(mark.exists, 30, "the task's start")
    until(lambda: len(running_with(str(mark))) >= 7, 10, "all grandchildren")
    session.flakes("tasks", "cancel", f"{key}/stubborn", "--reason", "changed my mind").ok()
    with session.client() as client:
        deadline = time.monotonic() + 20
        while True:
            status = client.get_task(f"{key}/stubborn").status
            alive: list[psutil.Process] = running_with(str(mark))
            if status == "CANCELLED":
                assert alive == []
                break
            assert status == "RUNNING"
            assert time.monotonic() < deadline, (status, alive)
            time.sleep(0.02)
    waited = session.flakes("runs", "wait", key)
    assert waited.code == 3
    assert "CANCELLED" in waited.out


def test_a_cancelled_run_leaves_nothing_running(session: Stage) -> None:
    mark = session.scratch / "cancel-run"
    busy = {"shell": "setsid sleep 600 & sleep 600", "env": {"E2E_MARK": str(mark)}}
    tasks = [{"taskKey": f"t{n:02}", "input": busy} for n in range(9)]
    tasks.append({"taskKey": "last", "dependsOn": ["t00"], "input": busy})
    key = session.submit("cancel-run", tasks).run_key
    until(lambda: len(running_with(str(mark))) >= 8, 30, "four running tasks")
    session.flakes("runs", "cancel", key).ok()
    assert session.wait(key, 20).state == "CANCELLED"
    assert running_with(str(mark)) == []
    with session.client() as client:
        assert {task.status for task in client.all_tasks(key)} == {"CANCELLED"}
        assert all(s.running == 0 for s in client.list_sandboxes(limit=200).sandboxes)


def test_down_and_up_in_the_middle_of_a_run(session: Stage) -> None:
    ledger = session.scratch / "pause"
    ledger.mkdir()
    script = f"echo >> {ledger}/$FLAKES_TASK_KEY; sleep 0.4; echo end >> {ledger}/$FLAKES_TASK_KEY"
    tasks = [{"taskKey": f"t{n:02}", "input": {"shell": script}} for n in range(12)]
    tasks.append({
        "taskKey": "last", "dependsOn": [f"t{n:02}" for n in range(12)],
        "input": {"shell": f"ls {ledger} | wc -l"},
    })  # fmt: skip
    key = session.submit("pause", tasks).run_key
    until(lambda: len(list(ledger.iterdir())) >= 5, 30, "some tasks begun")
    session.down()
    assert session.of_session() == []
    session.up()
    watched = session.flakes("watch", key)
    assert watched.code == 0, watched.err
    with session.client() as client:
        tasks_then = client.all_tasks(key)
        assert {task.status for task in tasks_then} == {"SUCCEEDED"}
        (last,) = [task for task in tasks_then if task.task_key == "last"]
        assert client.result(last.task_id).text.strip() == "12"
    for path in ledger.iterdir():
        assert lines(path)[-1] == "end"
