"""Harnesses run as people run them: every template from its file to its result, budgets, live children."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.stage import Stage, seeded, until
from flakes.harness.starting import TEMPLATES
from flakes.wire.errors import ApiError
from models.scripted import ScriptedModel

pytestmark = pytest.mark.timeout(240)

AGENT = Path(__file__).with_name("scripted_agent.py")
EXAMPLE = Path(__file__).parents[1] / "agents" / "example_agent.py"
EXPECTED: dict[str, tuple[dict[str, str], dict[str, Any], int]] = {
    "paper": ({"rounds": "1", "judges": "2"}, {"paper": "Merge 1", "converged": False}, 6),
    "review-revise": ({"task": "Write"}, {"text": "Revise 1", "rounds": 2, "approved": True}, 4),
    "fanout-fanin": ({"items": '["a", "b"]'}, {"summary": "Item 1 and Item 2", "done": 2, "lost": 0}, 3),
    "autowrite": ({"sections": "2"}, {"text": "Section 1 and Section 2", "sections": ["One", "Two"]}, 4),
    "autoresearch": ({}, {
        "score": 3, "summary": "idea 2",
        "history": ["1: keep, score 1: idea 1", "2: keep, score 3: idea 2", "3: keep, score 2: idea 3"],
    }, 3),
    "review-fix-loop": ({}, {
        "outcome": "accepted-with-nonblocking-findings", "summary": "Fix 1", "patch": "+2", "rounds": 2,
    }, 4),
}  # fmt: skip
"""Arguments, what it comes to, and how many children it has."""


def test_all_are_here() -> None:
    assert set(EXPECTED) == set(TEMPLATES)


@pytest.mark.parametrize("template", EXPECTED)
def test_a_template_runs_from_its_file_to_its_result(session: Stage, tmp_path: Path, template: str) -> None:
    arguments, expected, children = EXPECTED[template]
    defaults = tmp_path / "defaults.json"
    defaults.write_text(json.dumps({"agent": {"adapter": "command", "command": f"{sys.executable} {AGENT}"}}))
    made = session.flakes("harness", "init", "--template", template, "--dir", str(tmp_path), "--json").ok()
    file = made.json["files"][0]
    variables = [word for name, value in arguments.items() for word in ("--var", f"{name}={value}")]
    ran = session.flakes(
        "run", file, "--defaults", str(defaults), "--key", template, "--no-workspace", *variables, timeout_s=120
    )
    assert ran.code == 0, ran.out + ran.err + session.flakes("logs", f"{template}/task").out
    shown = session.flakes("tasks", "result", f"{template}/task", "--output", "result").ok().out
    assert json.loads(shown) == expected
    with session.client() as client:
        tasks = client.all_tasks(template)
    assert [each.status for each in tasks] == ["SUCCEEDED"] * (children + 1)


HEAD = """
import asyncio
from flakes.harness import ChildFailed, Context, HarnessError, define_harness
"""


def submit(session: Stage, key: str, text: str, **more: Any) -> None:
    session.submit(key, [{
        "taskKey": "plan", "adapter": "harness", "toolGrants": ["flakes.tasks.spawn", "flakes.groups"],
        "input": {"source": HEAD + text}, "declaredOutputs": {"result": {"kind": "json", "required": False}}, **more,
    }])  # fmt: skip


def data(session: Stage, key: str, timeout_s: float = 120.0) -> Any:
    session.wait(key, timeout_s)
    with session.client() as client:
        found = client.result(client.task_id(f"{key}/plan"))
    assert found.status == "SUCCEEDED", (found.error, session.flakes("logs", f"{key}/plan").out)
    return json.loads(found.outputs["result"].text or "null")


def questions(session: Stage, key: str) -> list[dict[str, Any]]:
    listed = session.flakes("permissions", "list", "--json").ok().json["permissions"]
    return [each for each in listed if each["runKey"] == key]


def test_a_budget_of_children_asks_and_the_harness_decides_by_what_is_left(session: Stage) -> None:
    submit(session, "children", """
@define_harness
async def main(ctx):
    seen = [await ctx.budget.left("children")]
    while await ctx.budget.left("children") >= 1:
        await ctx.command("true", title=f"Try {ctx.budget.children + 1}")
    seen.append(await ctx.budget.left("children"))
    more = await ctx.all(ctx.command(f"echo {n}", title=f"More {n}") for n in range(2))
    now = await ctx.budget.read()
    seen += [now.left("children"), now.spent("children"), now.limit("children"), now.left("tokens") > 10**9]
    try:
        await ctx.all(ctx.command("true", title=f"Even more {n}") for n in range(2))
    except HarnessError as error:
        return ctx.succeeded(seen=seen, more=[each.text for each in more], code=error.code, why=error.message)
""", budget={"children": 2})  # fmt: skip
    (first,) = until(lambda: questions(session, "children"), 60, "the first question")
    assert first["prompt"].startswith("Extend the budget? The task plan has made 2 of the 2 children"), first
    assert first["action"] == "extend"
    explained = session.flakes("inspect", "children/plan", "--task", "--explain").ok().out
    assert "needs_input" in explained
    session.flakes("permissions", "approve", first["permissionRequestId"]).ok()
    (second,) = until(
        lambda: [each for each in questions(session, "children") if each["details"]["limit"] == 4], 60, "the second question"
    )
    session.flakes("permissions", "deny", second["permissionRequestId"], "--reason", "enough now").ok()
    found = data(session, "children")
    assert found["seen"] == [2, 0, 0, 4, 4, True]
    assert found["more"] == ["0", "1"]
    assert found["code"] == "budget_exhausted"
    assert "enough now" in found["why"]
    with session.client() as client:
        assert len(client.all_tasks("children")) == 5


def test_a_command_in_a_task_sees_its_budget(session: Stage) -> None:
    line = "flakes tasks spawn --key seen-child --shell true > made; flakes budget show"
    session.submit("seen", [{
        "taskKey": "t", "input": {"shell": line}, "toolGrants": ["flakes.tasks.spawn"], "budget": {"children": 3, "tokens": 50},
    }])  # fmt: skip
    assert session.wait("seen").state == "SUCCEEDED"
    out = session.flakes("logs", "seen/t", "--channel", "stdout").ok().out
    assert "tokens\ttask t\t0 of 50\t50 left" in out
    assert "children\ttask t\t1 of 3\t2 left" in out


CHILD = """
while true; do
    line=$(flakes rounds next --hold 0); code=$?
    [ $code = 4 ] && exit 0
    [ $code = 0 ] || exit $code
    key=$(echo "$line" | cut -f1); echo "$line" | cut -f2 > said
    echo "begin $key $FLAKES_ASSIGNMENT_ID" >> {log}
    until test -e {go}; do sleep 0.05; done
    echo "end $key $FLAKES_ASSIGNMENT_ID" >> {log}
    flakes rounds complete $key --output result=said > done || exit
done
"""

LIVE = """
@define_harness(args=dict)
async def main(ctx):
    child = ctx.command(". " + ctx.args["script"], key="{key}-child", live=True)
    said = []
    for word in ("one", "two"):
        said.append((await ctx.live_tasks.send(child, word, output=str)).data.strip())
    rounds = [each["state"] for each in await ctx.live_tasks.rounds(child)]
    await ctx.live_tasks.finish(child)
    return ctx.succeeded(said=said, rounds=rounds, end=(await child).status)
"""


@pytest.mark.parametrize("victim", ["server", "sandbox"])
def test_a_round_that_is_under_way_comes_once_whatever_is_killed(session: Stage, victim: str) -> None:
    """Killed with -9 between the sending of a prompt and the end of its round, before or after it was taken."""
    seed, rng = seeded()
    key = f"under-way-{victim}"
    log, go, script = (session.scratch / f"{key}.{name}" for name in ("log", "go", "sh"))
    script.write_text(CHILD.format(log=log, go=go))
    taken = rng.random() < 0.5
    submit(session, key, LIVE.replace("{key}", key), input={
        "source": HEAD + LIVE.replace("{key}", key), "args": {"script": str(script)},
    })  # fmt: skip
    if taken:
        until(log.exists, 90, f"the round to be taken (seed {seed})")
    else:
        until(lambda: rounds(session, f"{key}/{key}-child"), 90, f"the prompt to be sent (seed {seed})")
    for each in session.identities(victim):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each.pid, signal.SIGKILL)
    if victim == "sandbox" and taken:
        until(lambda: log.read_text().count("begin") > 1, 90, f"the round to be given again (seed {seed})")
    go.touch()
    assert data(session, key) == {"said": ["one", "two"], "rounds": ["COMPLETED"] * 2, "end": "SUCCEEDED"}, seed
    lines = [line.split() for line in log.read_text().splitlines()]
    assert [line[1] for line in lines if line[0] == "end"] == ["round-1", "round-2"], (seed, lines)
    with session.client() as client:
        task_id = client.task_id(f"{key}/{key}-child")

        def over() -> list[Any] | None:
            found = client.activity(task_id, limit=500).events
            return found if any(each.type == "task.succeeded" for each in found) else None

        events = until(over, 30, "the events")
    ended = [each.data["roundKey"] for each in events if each.type == "round.ended"]
    assert ended == ["round-1", "round-2"], seed
    given = [(each.data["roundKey"], each.data["assignmentId"]) for each in events if each.type == "round.delivered"]
    assert len(set(given)) == len(given), f"no attempt is given a round twice (seed {seed})"
    if victim == "server":
        assert len(given) == 2, f"a server that comes back does not give it again (seed {seed})"


def rounds(session: Stage, task: str) -> list[Any]:
    try:
        with session.client() as client:
            return client.list_rounds(client.task_id(task)).rounds
    except ApiError:
        return []  # not spawned yet


def test_a_round_is_awaited_for_a_while_and_a_child_that_is_forgotten_ends(session: Stage) -> None:
    """`asyncio.timeout` around a round; and a live child without a prompt for `idle_s`."""
    submit(session, "patience", """
LINE = '''
while true; do
    line=$(flakes rounds next --hold 0); code=$?
    [ $code = 4 ] && exit 0
    [ $code = 0 ] || exit $code
    key=$(echo "$line" | cut -f1)
    until test -e go; do sleep 0.05; done
    flakes rounds complete $key --text done > done || exit
done'''

@define_harness
async def main(ctx):
    slow = ctx.command(LINE, live=True, title="Slow")
    sent = ctx.live_tasks.send(slow, "work")
    try:
        async with asyncio.timeout(1.5):
            await sent
        late = False
    except TimeoutError:
        late = True
    await ctx.cancel(slow)
    idle = ctx.command(LINE.replace("test -e go", "true"), live=True, idle_s=0.5, title="Idle")
    text = (await ctx.live_tasks.send(idle, "work")).text
    return ctx.succeeded(late=late, slow=(await slow.settled()).status, text=text, idle=(await idle).status)
""")  # fmt: skip
    assert data(session, "patience") == {"late": True, "slow": "CANCELLED", "text": "done", "idle": "SUCCEEDED"}


def test_the_engine_from_outside(session: Stage) -> None:
    """Workpads of others, thresholds, detached children, grants that the harness lacks, owners that go."""
    submit(session, "outside", """
@define_harness
async def main(ctx):
    noting = ctx.command("printf '# Found\\\\n' > $FLAKES_STATE_DIR/workpad.md && flakes tasks workpad push", title="Note")
    await noting
    empty = await ctx.workpads.read("plan")
    stays = ctx.command("until test -e GO; do sleep 0.05; done", key="stays", detached=True)
    goes = ctx.command("sleep 600", key="goes")
    async with ctx.group("some", join="quorum", need=1) as some:
        some.command("true", key="quick")
        some.command("sleep 600", key="slow")
    try:
        await ctx.command("true", grants=["flakes.workspace.promote"])
    except HarnessError as refused:
        code = refused.code
    await stays.task_id()
    await goes.task_id()
    return ctx.succeeded(note=await ctx.workpads.read(noting), empty=empty, quick=[each.key for each in some.results], code=code)
""".replace("GO", str(session.scratch / "outside.go")))  # fmt: skip

    def status(task: str) -> str:
        with session.client() as client:
            return client.get_task(f"outside/{task}").status

    until(lambda: status("plan") == "SUCCEEDED", 90, "the end of the harness")
    until(lambda: status("slow") == "CANCELLED", 60, "the end of what its group had left")
    until(lambda: status("goes") == "CANCELLED", 60, "the end of its child")
    assert status("stays") == "RUNNING"
    (session.scratch / "outside.go").touch()
    assert data(session, "outside") == {"note": "# Found\n", "empty": "", "quick": ["quick"], "code": "grant_required"}
    assert status("stays") == "SUCCEEDED"


@contextlib.contextmanager
def example_agent(session: Stage, model: ScriptedModel) -> Iterator[None]:
    """A sandbox of the session's server, started by hand, with a small agent that speaks ACP."""
    with session.client() as client:
        made = client.post_sandbox("example agent")
    directory = session.scratch / "example"
    directory.mkdir()
    credential = directory / "credential"
    credential.touch(0o600)
    credential.write_text(made.raw_credential)
    config = directory / "sandbox.toml"
    config.write_text(
        f'controlPlaneUrl = "{session.record().server}"\nsandboxId = "{made.sandbox.sandbox_id}"\n'
        f'credentialFile = "{credential}"\nstateDir = "{directory}/state"\nadapters = ["acp"]\nmaxConcurrency = 2\n'
        f'[agent]\ncommand = ["{sys.executable}", "{EXAMPLE}"]\n[env]\nEXAMPLE_MODEL = "{model.url}/v1"\n'
    )
    with (directory / "log").open("wb") as log:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "flakes.sandbox", "--config", str(config)], stdout=log, stderr=log, env=session.env
        )
        try:
            yield
        finally:
            daemon.terminate()
            daemon.wait(30)


def test_an_agent_takes_prompts_one_after_the_other_in_one_conversation(session: Stage) -> None:
    """Each prompt is a turn; between them the agent's process is gone, its conversation is not."""
    with ScriptedModel() as model, example_agent(session, model):
        model.scripts["WRITEFIRST"] = [
            {"sh": "echo '{\"version\": 1}' > $FLAKES_OUTPUTS/result"}, {"say": "first is done"},
        ]  # fmt: skip
        model.scripts["WRITESECOND"] = [{"sh": "echo two > $FLAKES_OUTPUTS/result"}, {"say": "second is done"}]
        submit(session, "prompts", """
from dataclasses import dataclass

@dataclass
class Notes:
    version: int

@define_harness
async def main(ctx):
    writer = ctx.agent("You write release notes", key="writer", adapter="acp", live=True)
    first = await ctx.live_tasks.send(writer, "WRITEFIRST", output=Notes)
    await ctx.signal("go")
    second = await ctx.live_tasks.send(writer, "WRITESECOND", output=str)
    await ctx.live_tasks.finish(writer)
    end = await writer
    return ctx.succeeded(first=first.data.version, text=first.text, second=second.data.strip(), end=end.status)
""")
        with session.client() as client:
            until(
                lambda: any(each.task_key == "writer" and each.status == "WAITING" for each in client.all_tasks("prompts")),
                90, "the agent to wait for its next prompt",
            )  # fmt: skip
            session.flakes("tasks", "signal", "prompts/plan", "go").ok()
            assert data(session, "prompts") == {
                "first": 1, "text": "first is done", "second": "two", "end": "SUCCEEDED",
            }  # fmt: skip
            attempts = client.get_task(client.task_id("prompts/writer")).attempts
        assert [each.state for each in attempts] == ["yielded", "succeeded"]
        last = next(one for one in reversed(model.requests("WRITESECOND")) if one.tools)
    said = [text for _, text in last.turns]
    assert any("You write release notes" in text and "WRITEFIRST" in text for text in said)
    assert any("first is done" in text for text in said), "the second prompt was said into the same conversation"
    assert any("valid by this JSON Schema" in text for text in said)
