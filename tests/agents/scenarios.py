"""What every agent is put through, with its real program: one list, whatever its wire."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from agents.setting import APPROVED, DENIED, Setting
from flakes.core.task import Outcome
from flakes.wire.sandbox_stream import Result
from models.scripted import CACHED_TOKENS, INPUT_TOKENS, OUTPUT_TOKENS, script
from sandbox.controlplane import eventually, living

Scenario = Callable[[Setting], None]
NOTE: dict[str, Any] = {"declaredOutputs": {"note": {"kind": "text"}}}


def succeeded(result: Result, *texts: str) -> None:
    assert result.outcome is Outcome.SUCCEEDED, result
    for key, text in zip(["note"], texts, strict=False):
        assert result.outputs[key].text == text


def task(s: Setting) -> None:
    """A task with a command, an output and closing words; its usage; both forms of its transcript."""
    word = s.name()
    result, assignment = s.run(
        {"sh": f"echo {word} > $FLAKES_OUTPUTS/note; echo made it"}, {"say": f"closing {word}"}, **NOTE
    )
    succeeded(result, f"{word}\n")
    assert result.text == f"closing {word}"
    assert f"closing {word}" in s.plane.text(assignment.assignment_id)
    kinds = [entry.kind for entry in s.entries(assignment)]
    assert kinds.index("session") < kinds.index("prompt") < kinds.index("tool") < kinds.index("turn")
    (prompt,) = s.entries(assignment, "prompt")
    assert prompt.data["source"] == "brief"
    assert "`note` (text)" in prompt.data["text"]
    begun, ended = s.entries(assignment, "tool")
    assert (begun.data["state"], ended.data["state"], ended.data["ok"]) == ("start", "end", True)
    assert begun.data["id"] == ended.data["id"]
    assert word in json.dumps(begun.data["input"])
    assert "made it" in ended.data["output"]
    assert [entry.data["text"] for entry in s.entries(assignment, "text")] == [f"closing {word}"]
    records = [entry.raw for entry in s.entries(assignment) if entry.raw is not None]
    assert records
    assert all(isinstance(json.loads(record), dict) for record in records)
    assert sum(f"closing {word}" in record and "<<script" not in record for record in records) in (1, 2)
    usage = s.plane.usage[assignment.assignment_id]
    calls = len(s.seen(word))
    assert calls == 2
    assert usage.input_total == calls * INPUT_TOKENS
    assert usage.output == calls * OUTPUT_TOKENS
    assert usage.cached_read == calls * CACHED_TOKENS
    assert (usage.cost_micro_usd is not None) is s.agent.costs


def second_turn(s: Setting) -> None:
    """It says it is done, and what it promised is not there: it is told so, and mends it."""
    result, assignment = s.run(
        {"say": "done already"}, {"sh": "echo late > $FLAKES_OUTPUTS/note"}, {"say": "now it is"}, **NOTE
    )
    succeeded(result, "late\n")
    assert result.text == "now it is"
    brief, again = s.entries(assignment, "prompt")
    assert (brief.data["source"], again.data["source"]) == ("brief", "correction")
    assert "`note`" in again.data["text"]
    turns = s.entries(assignment, "turn")
    told = [turn.data["usage"]["inputTotal"] for turn in turns]
    assert sum(told) == s.plane.usage[assignment.assignment_id].input_total


def never_mended(s: Setting) -> None:
    """Corrections are bounded, and the task fails with what is missing."""
    result, assignment = s.run({"say": "a"}, {"say": "b"}, {"say": "c"}, {"say": "d"}, **NOTE)
    assert result.outcome is Outcome.FAILED
    assert result.error is not None
    assert result.error.code == "output_missing"
    assert len(s.entries(assignment, "prompt")) == 3


def secrets(s: Setting) -> None:
    """What the agent was given to sign in with, and what looks like a secret, is in no transcript."""
    given, shaped = f"given-to-{s.name()}-alone", "ghp_" + "a1B2" * 9
    result, assignment = s.run(
        {"sh": f"echo $DEPLOY_TOKEN and {shaped[:6]}''{shaped[6:]}"}, {"say": f"it is {given}"},
        input={"env": {"DEPLOY_TOKEN": given}}, body=s.name(),
    )  # fmt: skip
    succeeded(result)
    ended = [e.data for e in s.entries(assignment, "tool") if e.data["state"] == "end"]
    assert "[redacted]" in ended[0]["output"], ended
    assert "it is [redacted]" in [e.data["text"] for e in s.entries(assignment, "text")]
    told = json.dumps([[e.data, e.raw] for e in s.entries(assignment) if e.kind != "prompt"])
    assert shaped not in told
    assert given not in told.replace(script({"say": f"it is {given}"})[9:-2], "")


def briefing(s: Setting) -> None:
    """An earlier attempt was elsewhere: the agent begins anew, and is told what there is to know."""
    s.plane.answers["workpad.read"] = (200, {"taskId": "t", "version": 1, "bodyMarkdown": "half is done"})
    try:
        assignment = s.task({"say": "took over"}, attempt=2)
        s.plane.offer(assignment)
        result = s.end(assignment)
    finally:
        s.plane.answers.clear()
    succeeded(result)
    assert result.text == "took over"
    (prompt,) = s.entries(assignment, "prompt")
    assert prompt.data["source"] == "briefing"
    assert "This is attempt 2" in prompt.data["text"]
    assert "half is done" in prompt.data["text"]
    (session,) = s.entries(assignment, "session")
    assert session.data["resumed"] is False


def not_verified(s: Setting) -> None:
    """F15: it says it is done and leaves what it promised; a line that must pass does not, and that counts."""
    result, _ = s.run(
        {"sh": "echo wrong > $FLAKES_OUTPUTS/note"}, {"say": "all done"},
        verify=["test -s $FLAKES_OUTPUTS/note", "grep right $FLAKES_OUTPUTS/note"], **NOTE,
    )  # fmt: skip
    assert result.outcome is Outcome.FAILED
    assert result.error is not None
    assert result.error.code == "verify_failed"
    assert result.text == "all done"
    assert [each.passed for each in result.evidence] == [True, False]
    assert result.outputs["note"].text == "wrong\n"


def steer(s: Setting) -> None:
    """A message into a running turn is heard before the turn is over."""
    go = s.directory / s.name()
    assignment = s.start(
        {"sh": f"until test -e {go}; do sleep 0.05; done"}, {"say": "as told at first"}, **NOTE
    )
    s.wait_tool(assignment)
    text = f"do this instead {script({'sh': 'echo steered > $FLAKES_OUTPUTS/note'}, {'say': 'as told later'})}"
    (message,) = s.plane.say(assignment.assignment_id, text, mode="steer")
    if s.agent.steers:
        s.plane.wait(lambda: s.plane.states(message), "the message to be delivered")
    go.touch()
    result = s.end(assignment)
    succeeded(result, "steered\n")
    assert result.text == "as told later"
    assert s.plane.states(message) == ["delivered", "consumed"]
    if s.agent.steers:
        assert len(s.entries(assignment, "steer")) == 1
        assert [e.data["source"] for e in s.entries(assignment, "prompt")] == ["brief"]


def follow_up(s: Setting) -> None:
    """A message sent meanwhile is a turn of its own, after the running one."""
    go = s.directory / s.name()
    assignment = s.start({"sh": f"until test -e {go}; do sleep 0.05; done"}, {"say": "first"})
    s.wait_tool(assignment)
    texts = [f"and {word} {script({'say': word})}" for word in ("second", "third")]
    messages = s.plane.say(assignment.assignment_id, *texts)
    go.touch()
    result = s.end(assignment)
    succeeded(result)
    assert result.text == "third"
    assert [e.data["text"] for e in s.entries(assignment, "text")] == ["first", "second", "third"]
    assert [s.plane.states(m) for m in messages] == [["delivered", "consumed"]] * 2


def interrupt(s: Setting) -> None:
    """The running turn ends at once, its command with it, and what was said is the next one."""
    word = str(7_000_000 + int(time.time() * 1000) % 1_000_000)
    assignment = s.start({"sh": f"echo begun; sleep {word}"}, {"say": "never said"})
    s.wait_tool(assignment)
    eventually(lambda: living(word), "the command")
    text = f"stop that {script({'sh': 'echo other > $FLAKES_OUTPUTS/note'}, {'say': 'did the other'})}"
    s.plane.say(assignment.assignment_id, text, mode="interrupt")
    result = s.end(assignment)
    succeeded(result)
    assert result.text == "did the other"
    assert [e.data["status"] for e in s.entries(assignment, "turn")] == ["interrupted", "completed"]
    assert [e.data["source"] for e in s.entries(assignment, "prompt")] == ["brief", "interrupt"]
    assert not living(word)


def allow(s: Setting) -> None:
    """It asks before a command, the owner says yes, it goes on."""
    mark = s.directory / s.name()
    s.plane.asked.clear()
    with s.answering(APPROVED):
        result, assignment = s.run({"sh": f"echo done > {mark}"}, {"say": "did it"}, permissionMode="ask")
    succeeded(result)
    assert mark.read_text() == "done\n"
    (body,) = [b for a, n, b in s.plane.asked if (a, n) == (assignment.assignment_id, "permission.ask")]
    assert str(mark) in body["prompt"]
    assert body["action"] == "execute"
    (decision,) = s.entries(assignment, "decision")
    assert (decision.data["allowed"], decision.data["by"]) == (True, "owner")


def deny(s: Setting) -> None:
    """The owner says no: the command is not run, the agent hears why and goes on."""
    mark = s.directory / s.name()
    with s.answering(DENIED):
        result, assignment = s.run({"sh": f"echo done > {mark}"}, {"say": "then not"}, permissionMode="ask")
    succeeded(result)
    assert not mark.exists()
    (decision,) = s.entries(assignment, "decision")
    assert (decision.data["allowed"], decision.data["reason"]) == (False, "not today")


def read_only(s: Setting) -> None:
    """Nothing is asked, and nothing is changed."""
    mark = s.directory / s.name()
    s.plane.asked.clear()
    result, assignment = s.run({"sh": f"echo done > {mark}"}, {"say": "then not"}, permissionMode="readOnly")
    succeeded(result)
    assert not mark.exists()
    assert not [name for _, name, _ in s.plane.asked if name == "permission.ask"]
    assert [e.data["by"] for e in s.entries(assignment, "decision")] == ["mode"]


def host_tool(s: Setting) -> None:
    """The agent calls a tool of the run, which the sandbox forwards for its assignment."""
    given = {"bodyMarkdown": "# from the agent", "baseVersion": 0}
    s.plane.asked.clear()
    result, assignment = s.run({"tool": {"name": "workpad_save", "input": given}}, {"say": "saved"})
    succeeded(result)
    assert (assignment.assignment_id, "workpad.save", given) in s.plane.asked
    ended = [e.data for e in s.entries(assignment, "tool") if e.data["state"] == "end"]
    assert [data["ok"] for data in ended] == [True]


def error_400(s: Setting) -> None:
    """The model refuses: the task fails, with the reason, and is not tried again."""
    result, assignment = s.run({"status": 400}, body=s.name())
    assert result.outcome is Outcome.FAILED
    assert result.error is not None
    assert result.error.code == "model_refused", result.error
    assert "scripted 400" in result.error.message
    assert s.entries(assignment, "turn")[-1].data["status"] == "failed"


def retryable_500(s: Setting) -> None:
    """The model's provider fails for good: the attempt ends as one to be tried again."""
    result, _ = s.run({"status": 500}, body=s.name())
    assert result.outcome is Outcome.RETRYABLE, result
    assert result.error is not None
    assert result.error.code == "model_overloaded"


def passing_500(s: Setting) -> None:
    """One failed call, which the agent tries again by itself, is no failure."""
    result, _ = s.run({"status": 500, "times": 1}, {"say": "after all"}, body=s.name())
    succeeded(result)
    assert result.text == "after all"


def budget(s: Setting) -> None:
    """A budget that is reached stops the agent, and the owner is asked; a yes lets it go on, a no ends it."""
    steps = [{"sh": "sleep 1.5; echo 1"}, {"sh": "sleep 1.5; echo 2"}, {"say": "all done"}]
    s.plane.asked.clear()
    with s.answering(APPROVED):
        result, assignment = s.run(*steps, budget={"tokens": 200}, body=s.name())
    succeeded(result)
    assert [e.data["source"] for e in s.entries(assignment, "prompt")][1:] == ["budget"]
    bodies = [b for a, n, b in s.plane.asked if (a, n) == (assignment.assignment_id, "permission.ask")]
    assert [body["action"] for body in bodies] == ["extend"]
    with s.answering(DENIED):
        result, _ = s.run(*steps, budget={"tokens": 200}, body=s.name())
    assert result.outcome is Outcome.FAILED
    assert result.error is not None
    assert result.error.code == "budget_exhausted"


def cancel(s: Setting) -> None:
    """F12, F24: nothing of it is left, also not what left its session."""
    word = str(8_000_000 + int(time.time() * 1000) % 1_000_000)
    assignment = s.start({"sh": f"{s.renewing(word)}; setsid sleep {word} & sleep {word}"})
    eventually(lambda: len(living(word)) == 2, "both commands")
    s.plane.cancel(assignment.assignment_id)
    assert s.end(assignment).outcome is Outcome.CANCELLED
    assert not living(word)
    assert s.renewed(word), "a credential that was renewed before is the user's"


def _noted(s: Setting, word: str) -> bool:
    """Whether an agent's own session, which it writes when it comes to it, has the call with this word."""
    calls = ("tool_use", "toolCall", "tool_calls", "function_call", "custom_tool_call")
    kept = (path for path in (s.daemon.state_dir / "assignments").glob("*/session/**/*") if path.is_file())
    return any(
        word in line and any(call in line for call in calls)
        for path in kept for line in path.read_text(errors="replace").splitlines()
    )  # fmt: skip


def crash_and_resume(s: Setting) -> None:
    """F05, F13: the daemon is killed in the middle; the next attempt goes on with the agent's own session."""
    word = str(9_000_000 + int(time.time() * 1000) % 1_000_000)
    title = s.name()
    first = s.start(
        {"sh": f"{s.renewing(word)}; echo one >> $FLAKES_OUTPUTS/note; sleep {word}"},
        {"sh": "echo two >> $FLAKES_OUTPUTS/note"}, {"say": "went on"}, title=title, **NOTE,
    )  # fmt: skip
    eventually(lambda: living(word), "the command")
    eventually(lambda: _noted(s, word), "the agent to have written down its call", 30)
    eventually(lambda: s.entries(first, "session"), "the session to be told")
    s.daemon.kill()
    s.daemon.start()
    assert s.end(first).outcome is Outcome.LOST
    assert not living(word)
    assert s.renewed(word), "a renewed credential outlives kill -9"
    assert first.definition is not None
    second = type(first)(**{
        **{name: getattr(first, name) for name in first.__struct_fields__},
        "assignment_id": f"{first.assignment_id}b", "attempt": 2,
    })  # fmt: skip
    s.plane.offer(second)
    result = s.end(second)
    assert result.text == "went on", s.told(second)
    succeeded(result, "one\ntwo\n")
    assert [e.data["source"] for e in s.entries(second, "prompt")] == ["resume"]
    (session,) = s.entries(second, "session")
    assert session.data["resumed"] is True
    (before,) = s.entries(first, "session")
    assert session.data["value"] == before.data["value"]
    answered = [sum(role == "assistant" for role, _ in call.turns) for call in s.seen(title)]
    assert len(set(answered)) == len(answered), "a call was made again"
    if s.agent.counts:
        assert s.plane.usage[second.assignment_id].calls == 2, "each attempt counts its own"


SCENARIOS: list[Scenario] = [
    task, second_turn, never_mended, secrets, briefing, steer, follow_up, interrupt, allow, deny, read_only, host_tool,
    error_400, retryable_500, passing_500, budget, cancel, crash_and_resume,
]  # fmt: skip
