"""Three tasks change a repository side by side, two of them in the same place; what comes home is all of it."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

from e2e.stage import Stage, until
from workspace.theirs import fingerprint, git, repository

pytestmark = pytest.mark.timeout(180)

PLAN = """+++
[merging]
verify = ["test -s greeting.txt"]

[merging.resolver]
adapter = "command"
input = { shell = "test \\"$FLAKES_CONFLICTS\\" = greeting.txt && { git show HEAD^1:greeting.txt; git show HEAD^2:greeting.txt; } > both && sort -u both > greeting.txt && rm both" }
+++

## french: Greet in French
run: echo run >> $LEDGER/french; sleep 1; echo bonjour > greeting.txt; ls > seen.log

## german: Greet in German
run: echo run >> $LEDGER/german; sleep 1; echo hallo > greeting.txt

## counting: Count
run: echo run >> $LEDGER/counting; mkdir -p src; echo 'def count(): ...' > src/count.py; rm old.txt; git add -A; git commit -qm counted
"""


def test_parallel_work_comes_home_and_a_conflict_is_resolved(session: Stage) -> None:
    """F04: with the daemon killed while results are on their way."""
    root = repository(
        session.scratch / "theirs", greeting_txt="hello\n", old_txt="old\n", keep_txt="kept\n", _gitignore="*.log\n"
    )
    before = fingerprint(root)
    ledger = session.scratch / "ledger"
    ledger.mkdir()
    plan = session.scratch / "plan.md"
    plan.write_text(PLAN.replace("$LEDGER", str(ledger)))
    run = session.start("run", str(plan), "--key", "side-by-side", "--detach", cwd=root)
    out, err = run.communicate(timeout=90)
    assert run.returncode == 0, out + err
    until(lambda: len(list(ledger.iterdir())) == 3, 60, "all three to have begun")
    daemon = until(lambda: session.identities("sandbox"), 30, "the daemon")[0]
    with session.client() as client:
        until(
            lambda: client.get_run("side-by-side").task_counts.get("SUCCEEDED"), 60, "one to have ended"
        )  # fmt: skip
    with_signal(daemon.pid)
    done = session.wait("side-by-side", 120)
    assert done.state == "SUCCEEDED", session.logs()
    assert fingerprint(root) == before, "nothing of the user's was touched"
    found = session.flakes("diff", "side-by-side", "--json", cwd=root).ok().json
    assert sorted(each["path"] for each in found["files"]) == ["greeting.txt", "old.txt", "src/count.py"]
    session.flakes("apply", "side-by-side", cwd=root).ok()
    assert {
        str(path.relative_to(root)): path.read_text()
        for path in sorted(root.rglob("*")) if path.is_file() and ".git/" not in f"{path}"
    } == {
        ".gitignore": "*.log\n", "greeting.txt": "bonjour\nhallo\n", "keep.txt": "kept\n",
        "src/count.py": "def count(): ...\n",
    }  # fmt: skip
    assert {k: v for k, v in fingerprint(root).items() if k.startswith(".git/")} == {
        k: v for k, v in before.items() if k.startswith(".git/")
    }
    assert git(root, "stash", "list") == ""
    with session.client() as client:
        keys = {task.task_key for task in client.list_tasks("side-by-side").tasks}
    assert {"resolve-french", "resolve-german"} & keys


MEETING = """## left: Left
run: echo l > both.txt; echo l > left.txt; flakes workspace commit -m half; until [ -e GO ]; do sleep 0.1; done

## right: Right
run: echo r > both.txt; until [ -e GO ]; do sleep 0.1; done
"""


def test_tasks_in_each_other_s_way_are_told_of_while_they_run(session: Stage) -> None:
    root = repository(session.scratch / "meeting", both_txt="b\n")
    plan, go = session.scratch / "meeting.md", session.scratch / "go"
    plan.write_text(MEETING.replace("GO", str(go)))
    session.start("run", str(plan), "--key", "meeting", "--detach", cwd=root).communicate(timeout=90)
    try:
        with session.client() as client:
            (met,) = until(lambda: client.run_workspaces("meeting").overlaps, 60, "the overlap")
            assert ({met.task_key, met.other_task_key}, met.how, met.paths) == ({"left", "right"}, "changed", ["both.txt"])
            assert client.get_run("meeting").task_counts.get("RUNNING") == 2
        shown = session.flakes("inspect", "meeting/left", "--explain").ok().out
        assert "it and right have changed the same files: both.txt" in shown
        said = "overlap: the task "
        until(
            lambda: any(said in session.flakes("logs", f"meeting/{key}").out for key in ("left", "right")),
            30, "a line in a log",
        )  # fmt: skip
    finally:
        go.touch()
    assert session.wait("meeting", 90).state == "SUCCEEDED"
    found = session.flakes("diff", "meeting", "--json", cwd=root).ok().json
    (conflict,) = found["predictedConflicts"]
    assert (conflict["paths"], conflict.get("withTaskKey")) == (["both.txt"], None)
    assert "do not merge with what is selected: both.txt" in session.flakes("diff", "meeting", cwd=root).ok().err
    # What is not in the result is told without being asked for, with the way to take it.
    ended = session.flakes("watch", "meeting").ok().err
    listed = session.flakes("inspect", "meeting").ok()
    (line,) = (line for line in ended.splitlines() if "not in the result" in line)
    (outside,) = {"left", "right"} & set(line.split())
    assert f"take it: flakes apply meeting/{outside} --3way" in ended
    assert f"look at it: flakes diff meeting/{outside};" in listed.err
    rows = (row.split() for row in listed.out.splitlines() if " ws_" in row)
    states = {row[2]: row[1] for row in rows if len(row) > 3}
    assert states[outside] == "conflict"



def with_signal(pid: int) -> None:
    """kill -9, if it is still there."""
    if psutil.pid_exists(pid):
        os.kill(pid, signal.SIGKILL)
