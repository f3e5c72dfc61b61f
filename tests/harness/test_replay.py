"""Replaying: the same values, the same order, and what happens when a module does something else."""

from __future__ import annotations

from typing import Any

import pytest

from flakes.harness.cases import Case, Done, Failed, FixtureChild
from flakes.harness.engine import Entry
from flakes.harness.errors import HarnessError
from flakes.harness.running import run
from harness.modules import again, given, ran


def data(body: str, case: Case | None = None, **more: Any) -> dict[str, Any]:
    ended, engine = ran(body, case, **more)
    assert ended.outcome is not None, ended.error
    assert ended.status == "succeeded"
    engine.sealed = True
    replayed = again(body, engine, **more)
    assert replayed.outcome == ended.outcome, replayed.error
    return ended.outcome.data


def test_values_are_the_same_in_every_run() -> None:
    found = data("""
        first = [ctx.now(), ctx.random()]
        await ctx.sleep(60)
        second = [ctx.now(), ctx.random()]
        assert (second[0] - first[0]).total_seconds() >= 60
        return ctx.succeeded(values=[str(each) for each in first + second])
    """)
    assert len(set(found["values"])) == 4


def test_tasks_of_the_module_run_in_one_order() -> None:
    found = data("""
        order = []
        async def branch(n):
            result = await ctx.command(f"echo {n}", title=f"c{n}")
            order.append(n)
            await ctx.sleep(10 - n)
            order.append(n)
        await asyncio.gather(*(branch(n) for n in range(4)))
        return ctx.succeeded(order=order)
    """)
    assert sorted(found["order"]) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_timeouts_and_cancelled_waits() -> None:
    found = data("""
        said = []
        try:
            async with asyncio.timeout(30):
                await ctx.signal("never")
        except TimeoutError:
            said.append("timeout")
        done, waiting = await asyncio.wait(
            {asyncio.ensure_future(ctx.sleep(n)) for n in (3, 1, 2)}, return_when=asyncio.FIRST_COMPLETED)
        said.append([len(done), len(waiting)])
        for each in waiting:
            each.cancel()
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.sleep(1))
            group.create_task(asyncio.sleep(2))
        return ctx.succeeded(said=said)
    """)
    assert found["said"] == ["timeout", [1, 2]]


def test_any_and_quorum_take_those_that_succeed() -> None:
    def children(child: FixtureChild) -> Any:
        return Failed("no") if child.ordinal in (0, 2) else Done(child.title)

    found = data("""
        six = [ctx.command("x", title=f"t{n}") for n in range(6)]
        first = await ctx.any(*six)
        three = await ctx.quorum(six, need=3, cancel_rest=True)
        everything = await ctx.all(six, settled=True)
        return ctx.succeeded(first=first.text, three=[each.text for each in three], all=[each.status for each in everything])
    """, Case("case", children))  # fmt: skip
    assert found["first"] == "t1"
    assert found["three"] == ["t1", "t3", "t4"]
    assert found["all"] == ["FAILED", "SUCCEEDED", "FAILED", "SUCCEEDED", "SUCCEEDED", "CANCELLED"]


def test_an_unreachable_quorum_names_those_that_failed() -> None:
    ended, _ = ran("""
        await ctx.quorum([ctx.command("x", key=f"t{n}") for n in range(3)], need=2)
    """, Case("case", lambda child: Failed("broken") if child.ordinal else Done()))  # fmt: skip
    assert ended.error is not None
    assert ended.error.code == "quorum_unreachable"
    assert "`t1` (broken)" in ended.error.message


def test_groups_are_filled_closed_and_awaited() -> None:
    found = data("""
        async with ctx.group("g") as group:
            for n in range(3):
                group.command("x", title=f"t{n}")
        other = await ctx.groups.open("h", join="quorum", need=1)
        other.command("y")
        before = (await other.state())["counts"]["total"]
        results = await other.wait()
        return ctx.succeeded(texts=[each.text for each in group.results], before=before, n=len(results))
    """, Case("case", lambda child: Done(child.title)))  # fmt: skip
    assert found == {"texts": ["t0", "t1", "t2"], "before": 1, "n": 1}


def test_signals_come_in_their_order() -> None:
    found = data(
        'return ctx.succeeded(got=[await ctx.signal("go"), await ctx.signal("go")])',
        Case("case", signals={"go": [{"n": 1}, 2]}),
    )
    assert found["got"] == [{"n": 1}, 2]


def test_lines_are_said_once() -> None:
    _, engine = ran("""
        ctx.log("one")
        await ctx.sleep(1)
        print("two", 2)
        await ctx.command("x")
        ctx.phase("three")
        return ctx.succeeded()
    """)
    assert engine.lines == ["one", "two 2", "== three"]


TWO_STEPS = """
    first = await ctx.command("first")
    await ctx.sleep(5)
    await ctx.command("second")
    return ctx.succeeded()
"""


def other(changed: str, by: str) -> HarnessError:
    """How a replay of a finished `TWO_STEPS` fails when its text is another one."""
    ended, engine = ran(TWO_STEPS, decorator="versioned=True")
    assert ended.status == "succeeded"
    engine.sealed = True
    error = again(TWO_STEPS.replace(changed, by), engine, decorator="versioned=True").error
    assert error is not None
    return error


@pytest.mark.parametrize(
    ("changed", "by", "words"),
    [
        ('"first"', '"erste"', "at plan.py:8 the module does command 'erste'; recorded is command 'first' at plan.py:8"),
        ("sleep(5)", "sleep(6)", "at plan.py:9 the module does sleep 6 s; recorded is sleep 5 s at plan.py:9"),
        ("await ctx.sleep(5)", "ctx.now()", "at plan.py:9 the module does ctx.now(); recorded is sleep 5 s"),
        ('await ctx.command("second")', "pass", "does its end (succeeded); recorded is command 'second' at plan.py:10"),
        ('first = await ctx.command("first")', 'ctx.command("first"); await ctx.signal("x")', "at plan.py:8 the module does signal x"),
        ("await ctx.sleep(5)", "asyncio.create_task(ctx.sleep(5)); await asyncio.Future()", "the module waits, but recorded is command 'second'"),
    ],
)  # fmt: skip
def test_a_replay_that_does_something_else_fails_with_its_line(changed: str, by: str, words: str) -> None:
    error = other(changed, by)
    assert error.code == "harness_diverged"
    assert words in error.message


def test_a_divergence_cannot_be_caught() -> None:
    error = other('await ctx.command("second")', """
    try:
        ctx.random()
    except Exception:
        pass
    await ctx.command("second")""")  # fmt: skip
    assert error.code == "harness_diverged"


def test_another_text_is_refused() -> None:
    _, engine = ran(TWO_STEPS)
    error = again(TWO_STEPS + "    # changed", engine).error
    assert error is not None
    assert error.code == "harness_changed"


def test_what_is_new_is_guarded_by_patched() -> None:
    versioned = "versioned=True"
    old = 'await ctx.command("a")\nawait ctx.sleep(1)\nreturn ctx.succeeded(n=1)'
    new = (
        'if ctx.patched("p"):\n    await ctx.command("new")\nawait ctx.command("a")\nawait ctx.sleep(1)\n'
        'return ctx.succeeded(n=ctx.patched("p") + ctx.patched("later"))'
    )
    _, engine = ran(old, decorator=versioned)
    unfinished = [each for each in engine.read_journal(0)[0] if each["k"] != "finish"]
    engine._entries[:] = unfinished
    ended = again(new, engine, decorator=versioned)
    assert ended.outcome is not None, ended.error
    assert ended.outcome.data == {"n": 1}, "not before the change, and behind it"
    assert data(new, decorator=versioned) == {"n": 2}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("await asyncio.Future()", "harness_stuck"),
        ("while True: await asyncio.sleep(0)", "harness_stuck"),
        ("return 1", "harness_result_invalid"),
        ("return ctx.succeeded(x=object())", "harness_result_invalid"),
        ("return ctx.succeeded(x='x' * 70_000)", "harness_result_invalid"),
        ("1 / 0", "harness_crashed"),
        ("open('/etc/passwd')", "harness_nondeterministic"),
        ("import socket", "harness_import_refused"),
        ("import httpx2", "harness_import_refused"),
        ("await asyncio.to_thread(print)", "harness_nondeterministic"),
        ("await asyncio.open_connection('localhost', 1)", "harness_nondeterministic"),
        ("ctx.agent('x', nonsense=1)", "child_invalid"),
        ("ctx.agent('x', key='No Key')", "child_invalid"),
        ("ctx.command('x', key='a'); ctx.command('x', key='a')", "child_invalid"),
        ("ctx.agent('x', inputs=[ctx.command('y')])", "child_invalid"),
        ("await ctx.quorum(ctx.command('x'), need=2)", "join_empty"),
        ("await ctx.signal('No Key')", "signal_invalid"),
        ("(await ctx.command('x')).data", "output_missing"),
    ],
)
def test_mistakes_have_codes_and_fixes(body: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flakes.harness.loop.STEPS_MAX", 10_000)
    ended, _ = ran(body)
    assert ended.error is not None
    assert ended.error.code == code
    assert ended.error.fix


def test_inputs_are_told_in_the_prompt() -> None:
    seen: list[FixtureChild] = []

    def children(child: FixtureChild) -> Any:
        seen.append(child)
        return Done("the words", {"result": "text"} if child.outputs else {})

    data("""
        plain = await ctx.agent("Say", key="plain")
        written = await ctx.agent("Write", key="written", output=str)
        await ctx.agent("Join", inputs=[plain, written])
        return ctx.succeeded(text=written.data)
    """, Case("case", children))  # fmt: skip
    assert seen[2].inputs == ("plain", "written")
    assert "the words" in seen[2].prompt
    assert "`$FLAKES_INPUTS/written/result`" in seen[2].prompt


def test_a_journal_that_takes_no_more_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from flakes.harness.checking.fixtures import FixtureEngine

    def full(self: FixtureEngine, at: int, entries: list[Entry]) -> None:
        raise HarnessError("journal_full", "the journal takes no more", "split the harness")

    monkeypatch.setattr(FixtureEngine, "append_journal", full)
    engine = FixtureEngine(Case("case"))
    ended = run(given("await ctx.command('x')"), engine)
    assert ended.error is not None
    assert ended.error.code == "journal_full"
    assert engine.count == 0, "nothing is done that is not written down first"


def test_another_try_takes_what_succeeded_and_begins_again_what_failed() -> None:
    body = """
        good = ctx.command("good", key="good")
        bad = ctx.command("bad", key="bad")
        got = await ctx.signal("go")
        async with ctx.group("g", join="all_settled") as group:
            group.command("in", key="member")
        await good
        await ctx.command("after", inputs=[await bad], key="after")
        return ctx.succeeded(got=got, keys=[good.key, bad.key, group.children[0].key])
    """
    broken = [True]

    def children(child: FixtureChild) -> Any:
        return Failed("not yet") if broken and child.key.startswith("bad") else Done("well")

    ended, engine = ran(body, Case("case", children, signals={"go": [1]}))
    assert ended.error is not None
    assert (ended.error.code, engine.count) == ("child_unsuccessful", 3)
    again_ = None
    for _ in range(10):
        again_ = again(body, engine)
        if again_.error is not None:
            break
    assert again_ is not None
    assert again_.error is not None, "it fails a second time: a third try is needed"
    broken.clear()
    for _ in range(10):
        again_ = again(body, engine)
        if again_.status != "yielded":
            break
    assert again_.outcome is not None, again_.error
    assert again_.outcome.data == {"got": 1, "keys": ["good", "bad-r3", "member"]}
    keys = [each.seen.key for each in engine._children.values()]
    assert keys == ["good", "bad", "member", "bad-r2", "bad-r3", "after"]
    assert again(body, engine).outcome == again_.outcome


def test_live_children_take_rounds_and_are_finished() -> None:
    def does(child: FixtureChild, prompt: str, number: int) -> Any:
        return Failed("lost") if prompt == "fail" else Done(f"{prompt} {number}", {"result": {"n": number}})

    found = data("""
        child = ctx.agent("Be there", live=True)
        first = await ctx.live_tasks.send(child, "one", output=dict)
        second = ctx.live_tasks.send(child, "two", output=dict)
        bad = await ctx.live_tasks.send(child, "fail", key="bad").settled()
        try:
            await ctx.live_tasks.send(child, "fail")
        except HarnessError as error:
            code = error.code
        rounds = [each["roundKey"] for each in await ctx.live_tasks.rounds(child)]
        await ctx.live_tasks.finish(child)
        end = await child
        return ctx.succeeded(first=first.text, n=(await second).data["n"], bad=bad.status, code=code, rounds=rounds, end=end.text)
    """, Case("case", lambda _: Done("over"), round=does))  # fmt: skip
    assert found == {
        "first": "one 0", "n": 1, "bad": "FAILED", "code": "round_unsuccessful",
        "rounds": ["round-1", "round-2", "bad", "round-4"], "end": "over",
    }  # fmt: skip
    ended, _ = ran("ctx.live_tasks.send(ctx.agent('x'), 'y')")
    assert ended.error is not None
    assert ended.error.code == "child_not_live"


def test_workspaces_are_compared_and_promoted() -> None:
    case = Case("case", lambda child: Done(files={"a.md": child.key}), files={"a.md": "old", "b.md": "same"})
    found = data("""
        base = await ctx.workspace.selected()
        one = await ctx.command("edit", key="one", output=ctx.output.workspace(["a.md"]))
        seen = await ctx.workspace.diff(base, one.workspace())
        await ctx.workspace.promote("notes", one.workspace(), paths=["a.md"])
        two = await ctx.command("edit", key="two", output=ctx.output.workspace(), workspaces={"work": one.workspace()})
        try:
            await ctx.workspace.promote("late", two.workspace(), base=base)
        except HarnessError as error:
            code = error.code
        tasks = [each["status"] for each in await ctx.run.roster()]
        return ctx.succeeded(paths=[each["path"] for each in seen["changes"]], code=code,
            same=await ctx.workspace.selected() == one.workspace(), tasks=tasks)
    """, case)  # fmt: skip
    assert found == {"paths": ["a.md"], "code": "workspace_base_stale", "same": True, "tasks": ["SUCCEEDED"] * 2}
