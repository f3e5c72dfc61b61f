"""Children, groups and waits with real processes: a shell script that fans out, yields, and goes on."""

from __future__ import annotations

import pytest

from e2e.stage import Stage, until
from flakes.wire.errors import ApiError
from flakes.wire.tasks import TaskDetail

pytestmark = pytest.mark.timeout(180)

GRANTS = ["flakes.tasks.spawn", "flakes.groups"]

FAN = """
echo attempt >> {log}
flakes groups open drafts && \
flakes tasks spawn --key {run}-a --shell 'until test -e {go}; do sleep 0.05; done; echo one > $FLAKES_OUTPUTS/text' --output text --group drafts && \
flakes tasks spawn --key {run}-b --shell 'until test -e {go}; do sleep 0.05; done; exit 0' --group drafts && \
flakes groups close drafts && flakes wait --group drafts --hold 0 || exit $?
flakes tasks output {run}-a --key text
"""


def submit(stage: Stage, key: str, line: str, **fields: object) -> None:
    parent = {"taskKey": "parent", "input": {"shell": line}, "toolGrants": GRANTS}
    stage.submit(key, [parent | fields])


def shown(stage: Stage, task: str) -> TaskDetail:
    with stage.client() as client:
        return client.get_task(client.task_id(task), explain=True)


def status(stage: Stage, task: str) -> str:
    return shown(stage, task).status


@pytest.mark.parametrize("killed", ["", "server", "sandbox"])
def test_a_script_fans_out_yields_and_goes_on(session: Stage, killed: str) -> None:
    """Whatever is killed while it waits: the same children, and it goes on once."""
    key = f"fan-{killed or 'calm'}"
    log, go = session.scratch / f"{key}.log", session.scratch / f"{key}.go"
    submit(session, key, FAN.format(log=log, go=go, run=key))
    until(lambda: status(session, f"{key}/parent") == "WAITING", 60, "the yield")
    told = shown(session, f"{key}/parent").explanation
    assert told is not None
    assert told.code == "wait_pending"
    assert "the group drafts (0 of 2 have ended)" in told.sentence
    if killed:
        session.kill(killed)
    go.touch()
    run = session.wait(key, timeout_s=90)
    assert run.state == "SUCCEEDED"
    assert run.task_counts == {"SUCCEEDED": 3}
    assert log.read_text().count("attempt") == 2
    out = session.flakes("logs", f"{key}/parent", "--channel", "stdout").ok().out.split("\n")
    assert out[-2:] == ["one", ""] or out[-1] == "one"
    parent = shown(session, f"{key}/parent")
    assert [each.state for each in parent.attempts] == ["yielded", "succeeded"]
    assert parent.attempt == 1
    listed = session.flakes("tasks", "children", f"{key}/parent", "--json").ok().json["children"]
    assert [each["taskKey"] for each in listed] == [f"{key}-a", f"{key}-b"]


def test_a_signal_from_the_command_line_wakes_a_script(session: Stage) -> None:
    submit(session, "signal", "flakes wait --signal approved --hold 0 || exit $?")
    until(lambda: status(session, "signal/parent") == "WAITING", 60, "the yield")
    sent = session.flakes("tasks", "signal", "signal/parent", "approved", "--payload", '{"by": "me"}', "--json")
    assert sent.ok().json["state"] == "consumed"
    assert session.wait("signal").state == "SUCCEEDED"
    out = session.flakes("logs", "signal/parent", "--channel", "stdout").ok().out
    assert '{"by": "me"}' in out
    waited = session.flakes("tasks", "waits", "signal/parent", "--json").ok().json["waits"]
    assert [(each["kind"], each["state"]) for each in waited] == [("signal", "settled")]


def test_what_a_wait_says_with_its_exit_code(session: Stage) -> None:
    line = """
        flakes wait --seconds 0; echo $?
        flakes wait --signal never --timeout 0.2 --hold 5; echo $?
        flakes tasks spawn --key codes-bad --shell 'exit 1' > spawned; flakes wait --children codes-bad --join all_success --no-yield; echo $?
        flakes wait; echo $?; flakes wait --group none; echo $?
        flakes groups open g --join quorum > opened; echo $?
        flakes tasks outputs codes-bad --json | grep -c FAILED
    """
    submit(session, "codes", line)
    session.wait("codes")
    out = session.flakes("logs", "codes/parent", "--channel", "stdout").ok().out.split("\n")
    assert [each for each in out if each] == ["settled", "0", "timed_out", "4", "FAILED", "3", "2", "2", "2", "1"]


def test_a_plain_exit_75_after_a_settled_wait_is_another_try(session: Stage) -> None:
    submit(session, "again", "flakes wait --seconds 0 && exit 75", retry={"maxAttempts": 2, "backoffS": 0})
    assert session.wait("again").state == "FAILED"
    assert [each.state for each in shown(session, "again/parent").attempts] == ["failed", "failed"]


def test_cancelling_a_task_that_waits_cancels_its_children(session: Stage) -> None:
    line = "flakes groups open g && flakes tasks spawn --key gone --shell 'sleep 600' --group g" \
        " && flakes groups close g && flakes wait --group g --hold 0 || exit $?"  # fmt: skip
    submit(session, "gone", line)
    until(lambda: status(session, "gone/parent") == "WAITING", 60, "the yield")
    until(lambda: status(session, "gone/gone") == "RUNNING", 60, "the child")
    session.flakes("tasks", "cancel", "gone/parent").ok()
    until(lambda: status(session, "gone/gone") == "CANCELLED", 60, "the end of the child")
    assert session.wait("gone").state == "CANCELLED"


LIVE = """
echo $FLAKES_ASSIGNMENT_ID >> {log}
while true; do
    line=$(flakes rounds next --hold 0); code=$?
    [ $code = 4 ] && exit 0
    [ $code = 0 ] || exit $code
    key=$(echo "$line" | cut -f1); echo "$line" | cut -f2 > said
    flakes rounds complete $key --output said=said > done || exit
done
"""

PARENT = """
flakes tasks spawn --key {run}-live --live --shell '. {script}' > spawned || exit
flakes rounds send {run}-live --prompt one --key first > sent && flakes wait --round {run}-live/first --hold 0 > waited || exit $?
until test -e {go}; do sleep 0.05; done
flakes rounds send {run}-live --prompt two --key second > sent && flakes wait --round {run}-live/second --hold 0 > waited || exit $?
flakes rounds read first --task {run}-live --output said; flakes rounds read second --task {run}-live --output said
flakes rounds finish {run}-live > finished && flakes wait --children {run}-live --hold 0 > waited || exit $?
flakes rounds list --task {run}-live
"""


@pytest.mark.parametrize("killed", ["server", "sandbox"])
def test_live_rounds_come_once_whatever_is_killed_between_them(session: Stage, killed: str) -> None:
    key = f"live-{killed}"
    log, go, script = (session.scratch / f"{key}.{name}" for name in ("log", "go", "sh"))
    script.write_text(LIVE.format(log=log))
    submit(session, key, PARENT.format(run=key, script=script, go=go))
    until(lambda: rounds(session, f"{key}/{key}-live") == [("first", "COMPLETED")], 60, "the first round")
    session.kill(killed)
    go.touch()
    assert session.wait(key, timeout_s=90).state == "SUCCEEDED"
    out = session.flakes("logs", f"{key}/parent", "--channel", "stdout").ok().out.split("\n")
    said = [each for each in out if each]
    assert said[-4:] == ["one", "two", "first\tCOMPLETED", "second\tCOMPLETED"]
    with session.client() as client:
        events = client.activity(client.task_id(f"{key}/{key}-live"), limit=500).events
    ended = [each.data["roundKey"] for each in events if each.type == "round.ended"]
    assert ended == ["first", "second"]


def rounds(stage: Stage, task: str) -> list[tuple[str, str]]:
    try:
        with stage.client() as client:
            return [(e.round_key, e.state) for e in client.list_rounds(client.task_id(task)).rounds]
    except ApiError:
        return []  # not spawned yet
