"""docs/guide/observing.md is true: its commands run, in its order, and print what it shows."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass

import pytest

from e2e.stage import CHECKOUT, Stage

pytestmark = pytest.mark.timeout(180)

GUIDE = CHECKOUT / "docs" / "guide" / "observing.md"


@dataclass(frozen=True)
class Example:
    """A command of the page: its words, the exit code it must have, and the lines below it."""

    argv: list[str]
    code: int
    shown: list[str]


def examples() -> list[Example]:
    found: list[Example] = []
    for block in re.findall(r"```console\n(.*?)```", GUIDE.read_text(), re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *shown = part.rstrip("\n").split("\n")
            command, _, comment = command.partition("    # exits ")
            program, *argv = shlex.split(command)
            assert program == "flakes"
            found.append(Example(argv, int(comment or 0), shown))
    return found


def matches(printed: list[str], shown: list[str]) -> bool:
    """A line `...` stands for any lines, and `...` in a line for any text; spaces count as one."""
    if not shown:
        return not printed
    if shown[0] == "...":
        return any(matches(printed[n:], shown[1:]) for n in range(len(printed) + 1))
    if not printed:
        return False
    wanted = ".*".join(re.escape(" ".join(part.split())) for part in shown[0].split("..."))
    line = " ".join(printed[0].split())
    return re.fullmatch(wanted.replace(r"\ .*", r"\ ?.*"), line) is not None and matches(
        printed[1:], shown[1:]
    )


def test_the_page_has_what_it_should() -> None:
    used = {" ".join(example.argv[:2]) for example in examples()}
    assert {"runs list", "runs delete", "runs history", "tasks activity", "metrics weather"} <= used
    assert matches(["a  b", "c", "d"], ["a b", "..."])
    assert matches(["x 1 y", "z"], ["x ... y", "z"])
    assert not matches(["x 1 y", "z"], ["x ... y"])
    assert not matches(["q"], ["x ..."])


def test_the_commands_print_what_the_page_shows(session: Stage) -> None:
    plan = re.search(r"```markdown\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert plan is not None
    (session.scratch / "weather.md").write_text(plan[1])
    for example in examples():
        ran = session.flakes(*example.argv)
        assert ran.code == example.code, (example.argv, ran)
        words = ran.out + ran.err if "history" in example.argv else ran.out
        if example.shown != ["..."]:
            assert matches(words.splitlines(), example.shown), (
                f"flakes {shlex.join(example.argv)} prints\n{words}\nand the page shows\n"
                + "\n".join(example.shown)
            )
        if "history" in example.argv:
            lines = (session.scratch / "weather.jsonl").read_text().splitlines()
            types = [json.loads(line)["type"] for line in lines]
            assert set(types) == {
                "run", "task", "attempt", "event", "log", "result", "workspace", "promotion",
            }  # fmt: skip
            assert (types.count("task"), types.count("attempt")) == (3, 4)


def test_the_next_attempt_is_shown_while_it_is_waited_for(session: Stage) -> None:
    """A task in its back-off: list, inspect and explain all say when it goes on."""
    definition = {
        "taskKey": "flaky", "input": {"shell": "exit 1"},
        "retry": {"maxAttempts": 2, "backoffS": 600, "maxBackoffS": 600},
    }  # fmt: skip
    run = session.submit("backoff", [definition])
    with session.client() as client:
        for event in client.events(run_id=run.run_id, types=("attempt.ended",)):
            assert event.task_key == "flaky"
            break
    listed = session.flakes("tasks", "list", "backoff").ok().out
    assert re.search(r"QUEUED +flaky .* next attempt in \d+m\d\ds", listed)
    shown = session.flakes("inspect", "backoff/flaky").ok().out
    assert re.search(r"next attempt +\d{4}-.*, in \d+m\d\ds \(attempt 2\)", shown)
    assert "retry_backoff" in shown
    explained = session.flakes("inspect", "backoff/flaky", "--explain", "--json").ok().json
    assert explained["task"]["explanation"]["code"] == "retry_backoff"
    assert explained["task"]["nextAttemptAt"]
    activity = session.flakes("tasks", "activity", "backoff/flaky", "--json").ok().json
    assert [e["type"] for e in activity["events"]][-2:] == ["attempt.ended", "task.queued"]
    deleted = session.flakes("runs", "delete", "backoff", "--json").ok().json
    assert deleted == {"status": "deleted", "runId": run.run_id}


def test_deleting_a_running_run_waits_for_its_end(session: Stage) -> None:
    run = session.submit("long", [{"taskKey": "sleep", "input": {"shell": "echo up; sleep 600"}}])
    with session.client() as client:
        for event in client.events(run_id=run.run_id, types=("task.running",)):
            assert event.task_key == "sleep"
            break
    ran = session.flakes("runs", "delete", "long", "--wait", "--timeout-ms", "60000", "--json").ok()
    assert ran.json == {"status": "deleted", "runId": run.run_id}
    assert session.flakes("inspect", "long").code == 2
