"""Harnesses in a real session: their children, waits, journals, ends."""

from __future__ import annotations

import json
import os
import signal
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from e2e.stage import Stage, until
from flakes.wire.operations import OPERATIONS
from flakes.wire.tasks import TaskResult
from workspace.theirs import repository

pytestmark = pytest.mark.timeout(240)

def submit(session: Stage, key: str, source: dict[str, Any] | str, args: Any = None, **more: Any) -> None:
    given = {"source": textwrap.dedent(source)} if isinstance(source, str) else source
    grants = ["flakes.tasks.spawn", "flakes.groups"]
    session.submit(key, [{
        "taskKey": "plan", "adapter": "harness", "toolGrants": grants, "input": given | ({"args": args} if args else {}),
        "declaredOutputs": {"result": {"kind": "json", "required": False}}, **more,
    }])  # fmt: skip


def result(session: Stage, key: str, timeout_s: float = 120.0) -> TaskResult:
    session.wait(key, timeout_s)
    with session.client() as client:
        return client.result(client.task_id(f"{key}/plan"))


def data(session: Stage, key: str) -> Any:
    found = result(session, key)
    assert found.status == "SUCCEEDED", (found.error, session.flakes("logs", f"{key}/plan").out)
    return json.loads(found.outputs["result"].text or "null")


HEAD = """
import asyncio
from dataclasses import dataclass
from flakes.harness import ChildFailed, Context, define_harness
"""


def test_children_groups_timers_and_signals(session: Stage) -> None:
    submit(session, "all", HEAD + '''
@dataclass
class Number:
    n: int

@define_harness(args=dict)
async def main(ctx):
    ctx.phase("begin")
    three = await ctx.all(ctx.command(f"echo '{{\\"n\\": {n}}}' > $FLAKES_OUTPUTS/result; echo said {n}", title=f"Number {n}", output=Number) for n in range(3))
    total = await ctx.command("cat $FLAKES_INPUTS/*/result", inputs=three)
    async with ctx.group("some", join="all_settled") as some:
        some.command("true")
        some.command("exit 3", key="bad")
    try:
        await ctx.command("echo broken; exit 1")
    except ChildFailed as failed:
        why = failed.status
    await asyncio.sleep(0.5)
    got = await ctx.signal("go")
    print("got", got)
    return ctx.succeeded(n=[each.data.n for each in three], text=three[2].text, total=total.text.count("n"),
        some=[each.status for each in some.results], why=why, got=got)
''')  # fmt: skip
    with session.client() as client:
        task_id = client.task_id("all/plan")
        until(lambda: client.get_task(task_id).status == "WAITING" and any(
            each.task_key.startswith("echo-broken") and each.status == "FAILED" for each in client.list_tasks("all").tasks), 90, "the signal's wait")  # fmt: skip
    session.flakes("tasks", "signal", "all/plan", "go", "--payload", '{"x": [1]}').ok()
    assert data(session, "all") == {
        "n": [0, 1, 2], "text": "said 2", "total": 3, "some": ["SUCCEEDED", "FAILED"], "why": "FAILED", "got": {"x": [1]},
    }  # fmt: skip
    log = session.flakes("logs", "all/plan").ok().out
    assert log.count("== begin") == 1
    assert log.count("got {'x': [1]}") == 1


def test_one_harness_is_run_by_its_file(session: Stage, tmp_path: Path) -> None:
    file = tmp_path / "counting.py"
    file.write_text(HEAD + '''
@dataclass
class Args:
    count: int
    word: str = ""

@define_harness(args=Args)
async def main(ctx):
    said = await ctx.all(ctx.command(f"echo {n}", title=f"Say {n}") for n in range(ctx.args.count))
    return ctx.succeeded(said=[each.text for each in said], word=ctx.args.word)
''')
    ran = session.flakes("run", str(file), "--var", "count=2", "--var", "word=yes", "--key", "counted", "--no-workspace").ok()
    assert "✔ say-1" in ran.out
    with session.client() as client:
        found = client.result(client.task_id("counted/task"))
        assert json.loads(found.outputs["result"].text or "null") == {"said": ["0", "1"], "word": "yes"}
    assert session.flakes("run", str(file), "--check").ok()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("1 / 0", "harness_crashed"),
        ("while True: pass", "harness_limit"),
        ("x = [bytearray(1 << 20) for _ in range(4096)]", "harness_limit"),
        ("return ctx.failed('no')", "harness_failed"),
        ("await ctx.command('x', grants=['more'])", "grant_required"),
        ("await ctx.all(ctx.command('exit 1'))", "child_unsuccessful"),
    ],
)
def test_what_goes_wrong_has_a_code(session: Stage, body: str, code: str) -> None:
    key = f"wrong-{abs(hash(body)) % 10_000}"
    text = HEAD + f"\n@define_harness\nasync def main(ctx):\n    {body}\n"
    submit(session, key, {"source": text, "limits": {"cpuS": 1, "memoryMb": 256}})
    found = result(session, key)
    assert found.status == "FAILED"
    assert found.error is not None
    assert found.error.code == code, found.error


@pytest.mark.skipif("round.send" not in OPERATIONS, reason="this control plane has no live rounds")
def test_a_live_child_takes_rounds_and_is_finished(session: Stage) -> None:
    submit(session, "live", HEAD + '''
LINE = """
while true; do
    line=$(flakes rounds next); code=$?
    [ $code = 4 ] && exit 0
    [ $code = 0 ] || exit $code
    key=$(echo "$line" | cut -f1); echo "$line" | cut -f2 > said
    flakes rounds complete $key --output result=said > done || exit
done"""

@define_harness
async def main(ctx):
    child = ctx.command(LINE, key="live-child", live=True)
    one = await ctx.live_tasks.send(child, "one", output=str)
    two = await ctx.live_tasks.send(child, "two", output=str)
    rounds = [each["state"] for each in await ctx.live_tasks.rounds(child)]
    await ctx.live_tasks.finish(child)
    end = await child
    roster = [each["taskKey"] for each in await ctx.run.roster()]
    return ctx.succeeded(said=[one.data.strip(), two.data.strip()], rounds=rounds, end=end.status, roster=roster)
''')  # fmt: skip
    assert data(session, "live") == {
        "said": ["one", "two"], "rounds": ["COMPLETED"] * 2, "end": "SUCCEEDED", "roster": ["plan", "live-child"],
    }  # fmt: skip


EXAMPLE = """
from dataclasses import dataclass
from flakes.harness import define_harness

@dataclass
class Verdict:
    winner: int

@define_harness
async def main(ctx):
    drafts = await ctx.all(ctx.agent("Draft the notes", title=f"Draft {n}") for n in range(3))
    best = await ctx.agent("Pick the best draft", inputs=drafts, output=Verdict)
    await ctx.workspace.promote("notes", best.workspace())
    return ctx.succeeded(winner=best.data.winner)
"""
DRAFTER = """
# An agent by script: each draft is another text of the same file, and the last in the alphabet is the best.
brief=$(cat)
case "$brief" in
*"Pick the best"*)
    cat notes.md > before
    best=$(ls -d ../draft-*/ | tail -1); cp "$best/notes.md" notes.md; rm before
    echo "{\\"winner\\": $(sed -n 's/.*by draft-\\([0-9]\\).*/\\1/p' notes.md)}" > $FLAKES_OUTPUTS/result ;;
*) echo "notes by $FLAKES_TASK_KEY" > notes.md ;;
esac
"""


def test_drafts_are_compared_and_the_best_comes_home(session: Stage) -> None:
    """Three children change the same file; only what the harness selects is the run's."""
    root = repository(session.scratch / "notes", notes_md="old\n", keep_md="kept\n")
    script, defaults = session.scratch / "drafter.sh", session.scratch / "defaults.json"
    script.write_text(DRAFTER)
    defaults.write_text(json.dumps({"agent": {"adapter": "command", "command": f"sh {script}"}}))
    (session.scratch / "notes.py").write_text(EXAMPLE)
    ran = session.flakes(
        "run", str(session.scratch / "notes.py"), "--defaults", str(defaults), "--key", "noted", cwd=root, timeout_s=120
    )  # fmt: skip
    assert ran.code == 0, ran.out + ran.err + session.flakes("logs", "noted/task").out
    with session.client() as client:
        (draft,) = [each for each in client.list_tasks("noted").tasks if each.title == "Draft 2"]
        promotions = client.run_workspaces("noted").promotions
        found = client.result(client.task_id("noted/task"))
    assert json.loads(found.outputs["result"].text or "null") == {"winner": 2}
    assert len(promotions) == 2, "what the files were, and what was promoted: no draft came in by itself"
    shown = session.flakes("diff", "noted", "--json", cwd=root).ok().json
    assert [each["path"] for each in shown["files"]] == ["notes.md"]
    session.flakes("apply", "noted", cwd=root).ok()
    assert (root / "notes.md").read_text() == f"notes by {draft.task_key}\n"
    assert (root / "keep.md").read_text() == "kept\n"


CHANGING = HEAD + '''
@define_harness(VERSIONED)
async def main(ctx):
    first = await ctx.command("echo first", key="first")
    # Here a change comes.
    go = await ctx.signal("go")
    last = await ctx.command("echo last", key="last")
    return ctx.succeeded(said=[first.text, last.text])
'''
CHANGE = '    if ctx.patched("lint"):\n        await ctx.command("echo lint", key="lint")\n'


def rewritten(session: Stage, key: str, text: str) -> None:
    """Give a task another text, behind everybody's back: it cannot be changed otherwise."""
    with session.database() as conn:
        changed = conn.execute(
            "update task_payloads p set definition = jsonb_set(p.definition::jsonb, '{input,source}', to_jsonb(%s::text))::json"
            " from tasks t join runs r using (run_id) where t.task_id = p.task_id and t.task_key = 'plan' and r.run_key = %s",
            [text, key],
        )  # fmt: skip
        assert changed.rowcount == 1


def waiting(session: Stage, key: str) -> str:
    """The harness's task id, once it waits for its signal and its process has ended."""
    asked = "select 1 from harness_journals where task_id = %s and body like '%%\"kind\": \"signal\"%%'"
    with session.client() as client, session.database() as conn:
        task_id = client.task_id(f"{key}/plan")
        until(lambda: conn.execute(asked, [task_id]).fetchone(), 90, f"{key} to come to its signal")
        until(lambda: client.get_task(task_id).status == "WAITING", 90, f"{key} to wait")
    return task_id


def entry(session: Stage, task_id: str, change: str) -> None:
    with session.database() as conn:
        assert conn.execute(f"{change} and task_id = %s", [task_id]).rowcount == 1


def test_a_changed_module_is_refused_and_goes_on_with_its_own_text_again(session: Stage) -> None:
    text = CHANGING.replace("VERSIONED", "versioned=False")
    submit(session, "changed", text)
    task_id = waiting(session, "changed")
    rewritten(session, "changed", text.replace("    # Here a change comes.\n", '    await ctx.command("echo new", key="new")\n'))
    session.flakes("tasks", "signal", "changed/plan", "go").ok()
    found = result(session, "changed")
    assert found.error is not None
    assert found.error.code == "harness_changed"
    assert found.error.details["fix"]
    with session.client() as client:
        assert {each.task_key for each in client.all_tasks("changed")} == {"plan", "first"}, "nothing was done"
    rewritten(session, "changed", text)
    session.flakes("tasks", "retry", "changed/plan").ok()
    with session.client() as client:
        until(lambda: client.get_task(task_id).status == "SUCCEEDED", 90, "it to go on")
        assert json.loads(client.result(task_id).outputs["result"].text or "null") == {"said": ["first", "last"]}
        assert {each.task_key for each in client.all_tasks("changed")} == {"plan", "first", "last"}


@pytest.mark.parametrize("behind", [True, False])
def test_a_versioned_module_does_what_is_new_only_behind_what_was_done(session: Stage, behind: bool) -> None:
    key = "patched-behind" if behind else "patched-before"
    text = CHANGING.replace("VERSIONED", "versioned=True")
    submit(session, key, text)
    waiting(session, key)
    place = '    last = await' if behind else '    first = await'
    rewritten(session, key, text.replace(place, CHANGE + place))
    session.flakes("tasks", "signal", f"{key}/plan", "go").ok()
    assert data(session, key) == {"said": ["first", "last"]}
    with session.client() as client:
        keys = {each.task_key for each in client.all_tasks(key)}
    assert keys == {"plan", "first", "last"} | ({"lint"} if behind else set())


@pytest.mark.parametrize(
    ("name", "change", "code"),
    [
        ("cut", "update harness_journals set body = left(body, 12) where position = 1", "journal_unreadable"),
        ("gone", "delete from harness_journals where position = 1", "journal_unreadable"),
        ("other", "update harness_journals set body = replace(body, '\"kind\": \"spawn\"', '\"kind\": \"call\"') where position = 1",
         "harness_diverged"),
    ],
)  # fmt: skip
def test_a_damaged_journal_is_an_error_and_nothing_is_done(session: Stage, name: str, change: str, code: str) -> None:
    key = f"damaged-{name}"
    submit(session, key, CHANGING.replace("VERSIONED", "versioned=False"))
    entry(session, waiting(session, key), change)
    session.flakes("tasks", "signal", f"{key}/plan", "go").ok()
    found = result(session, key)
    assert found.error is not None
    assert found.error.code == code, found.error
    assert found.error.details["fix"]
    with session.client() as client:
        assert {each.task_key for each in client.all_tasks(key)} == {"plan", "first"}


STEPS = HEAD + '''
@define_harness
async def main(ctx):
    said = []
    for n in range(6):
        draw = ctx.random()
        child = await ctx.command(f"echo {draw}", key=f"step-{n}")
        said.append(child.text == str(draw))
        await ctx.sleep(0.2)
    return ctx.succeeded(said=said)
'''


def test_a_control_plane_that_is_away_is_waited_for(session: Stage) -> None:
    """It stands still while the harness has begun, for FLAKES_TEST_AWAY_S; what is said to it meanwhile comes once."""
    submit(session, "away", STEPS)
    with session.client() as client:
        until(lambda: len(client.all_tasks("away")) >= 2, 60, "a first child")
    (server,) = session.identities("server")
    os.kill(server.pid, signal.SIGSTOP)
    try:
        time.sleep(float(os.environ.get("FLAKES_TEST_AWAY_S", "3")))
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert data(session, "away") == {"said": [True] * 6}
    with session.client() as client:
        tasks = {each.task_key: (each.status, each.attempt) for each in client.all_tasks("away") if each.task_key != "plan"}
    assert tasks == {f"step-{n}": ("SUCCEEDED", 1) for n in range(6)}


LARGE = HEAD + '''
@define_harness
async def main(ctx):
    large = await ctx.command("seq 30000 > $FLAKES_OUTPUTS/result", key="large", output=str)
    await ctx.signal("go")
    await ctx.command("true", key="after")
    return ctx.succeeded(size=len(large.data))
'''


def test_an_entry_whose_content_is_gone_is_an_error_and_nothing_is_done(session: Stage) -> None:
    submit(session, "emptied", LARGE)
    task_id = waiting(session, "emptied")
    with session.database() as conn:
        digests = conn.execute(
            "select digest from harness_journals where task_id = %s and digest is not null", [task_id]
        ).fetchall()
    assert len(digests) == 1
    name = digests[0][0].removeprefix("sha256:")
    kept = [path for path in session.data_dir.rglob("*") if path.is_file() and name in f"{path}".replace("/", "")]
    assert kept
    for path in kept:
        path.unlink()
    session.flakes("tasks", "signal", "emptied/plan", "go").ok()
    found = result(session, "emptied")
    assert found.error is not None
    assert found.error.code == "journal_unreadable", found.error
    with session.client() as client:
        assert {each.task_key for each in client.all_tasks("emptied")} == {"plan", "large"}
