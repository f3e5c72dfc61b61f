"""A whole machine with a real agent: `flakes` starts its session, finds pi, and pi works for it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from agents import installed
from e2e.stage import CHECKOUT, Stage, ended, staged, until
from models.scripted import CACHED_TOKENS, INPUT_TOKENS, OUTPUT_TOKENS, ScriptedModel, script

pytestmark = pytest.mark.timeout(300)
PATIENCE_S = 90.0
VERSION = "0.99.9"
STAND_IN = """\
#!/bin/sh
test "$1" = --version && echo {version} && exit
exec {command} "$@"
"""
"""The real pi, which says that it is of a version that nobody has tested."""
CALL_MICRO_USD = INPUT_TOKENS - CACHED_TOKENS + 2 * OUTPUT_TOKENS + CACHED_TOKENS // 10
"""What one model call costs by the prices in pi's settings, in millionths of a dollar."""


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedModel]:
    with ScriptedModel() as running:
        yield running


@pytest.fixture(scope="module")
def stage(model: ScriptedModel) -> Iterator[Stage]:
    """A user's machine: pi on the PATH, with settings of its own in the home directory. Nothing is started."""
    command = installed.pi()
    with staged() as one:
        programs = one.scratch / "bin"
        programs.mkdir()
        (programs / "pi").write_text(STAND_IN.format(version=VERSION, command=shlex.join(command)))
        (programs / "pi").chmod(0o755)
        path = f"{programs}{os.pathsep}{one.env['PATH']}"
        one.extra_env = {"PATH": path}
        own = one.home / ".pi" / "agent"
        own.mkdir(parents=True)
        cost = {"input": 1, "output": 2, "cacheRead": 0.1, "cacheWrite": 1}
        provider = {
            "baseUrl": f"{model.url}/v1", "api": "openai-completions", "apiKey": "none",
            "models": [{"id": "one", "cost": cost}],
        }  # fmt: skip
        (own / "models.json").write_text(json.dumps({"providers": {"scripted": provider}}))
        settings = {"defaultProvider": "scripted", "defaultModel": "one"}
        (own / "settings.json").write_text(json.dumps(settings))
        yield one


def test_one_command_from_nothing_to_what_an_agent_did(stage: Stage, model: ScriptedModel) -> None:
    """No session runs, no pool is configured: `flakes run --adapter pi` is all there is to say."""
    text = "Say hello to the maintainers."
    model.scripts[text] = [{"sh": "echo seen > $FLAKES_STATE_DIR/seen"}, {"say": "hello, maintainers"}]
    ran = stage.flakes("run", text, "--adapter", "pi", "--key", "hello", timeout_s=PATIENCE_S * 2)
    assert ran.code == 0, ran.out + ran.err + stage.logs()
    assert "hello, maintainers" in ran.out
    assert f"warning: pi {VERSION} is outside the range" in ran.err


def test_what_was_said_and_spent_is_kept(stage: Stage) -> None:
    """The transcript, in both forms, and the sums of task, run and project."""
    told = stage.flakes("transcript", "hello/task").ok().out
    assert "Say hello to the maintainers." in told
    assert "hello, maintainers" in told
    raw = [json.loads(line) for line in stage.flakes("transcript", "hello/task", "--raw").ok().out.splitlines()]
    assert "hello, maintainers" in json.dumps(raw)
    with stage.client() as client:
        task = client.get_task("hello/task")
        run = client.run_metrics("hello")
        project = client.project_metrics("default")
    assert task.usage is not None
    assert (task.usage.calls, task.usage.input_total, task.usage.output) == (2, 2 * INPUT_TOKENS, 2 * OUTPUT_TOKENS)
    assert task.usage.cost_micro_usd == 2 * CALL_MICRO_USD
    assert run.usage == project.usage == task.usage


def test_a_version_that_was_not_tested_warns_where_the_user_looks(stage: Stage) -> None:
    with stage.client() as client:
        task_id = client.task_id("hello/task")
        (warning,) = client.result(task_id).warnings
        events = client.activity(task_id).events
    assert warning.code == "agent_untested"
    assert f"pi {VERSION} is outside the range" in warning.message
    told = [one["code"] for each in events for one in each.data.get("warnings", ())]
    assert told == ["agent_untested"]
    assert warning.message in stage.flakes("inspect", "hello/task").ok().out
    assert warning.message in stage.flakes("logs", "hello/task").ok().out


def test_a_question_of_the_agent_is_answered_over_the_api(stage: Stage) -> None:
    run = submit(stage, "asking", {"sh": "echo yes > $FLAKES_OUTPUTS/../asked; echo done"}, {"say": "I was let"})
    with stage.client() as client:

        def asked() -> Any:
            found = client.list_permissions(status="pending").permissions
            return next((each for each in found if each.run_id == run), None)

        request = until(asked, PATIENCE_S, "the question")
        assert request.action == "execute"
        assert "echo yes" in request.prompt
        client.respond(request.task_id, request.permission_request_id, "approved", "go on")
        assert stage.wait("asking", PATIENCE_S).state == "SUCCEEDED", stage.logs()
        assert client.result(request.task_id).text == "I was let"
    told = stage.flakes("transcript", "asking/t").ok().out
    assert "echo yes" in told


@pytest.mark.parametrize("mode", ["steer", "interrupt"])
def test_a_person_speaks_into_a_turn_with_the_command(stage: Stage, mode: str) -> None:
    go = stage.scratch / f"go-{mode}"
    wait = {"sh": f"touch {go}.begun; until test -e {go}; do sleep 0.05; done"}
    submit(stage, mode, wait, {"say": "as told at first"}, permissionMode="auto")
    until(lambda: (stage.scratch / f"go-{mode}.begun").exists(), PATIENCE_S, "the turn to begin")
    said = f"rather this {script({'say': 'as told later'})}"
    stage.flakes("tasks", "message", f"{mode}/t", said, "--mode", mode).ok()

    def state() -> str:
        listed = stage.flakes("tasks", "messages", f"{mode}/t", "--json").ok().json
        return listed["messages"][0]["state"]

    if mode == "steer":
        until(lambda: state() == "delivered", PATIENCE_S, "the message to be in the turn")
        go.touch()
    assert stage.wait(mode, PATIENCE_S).state == "SUCCEEDED", stage.logs()
    assert state() == "consumed"
    with stage.client() as client:
        assert client.result(client.task_id(f"{mode}/t")).text == "as told later"
    assert go.exists() is (mode == "steer"), "an interrupted turn is not waited for"


def test_an_agent_that_waits_frees_its_slot_and_goes_on_with_its_own_session(stage: Stage) -> None:
    nap = "flakes wait --operation-id nap --seconds 4 --hold 0; echo it said $?"
    submit(stage, "napping", {"sh": nap}, {"say": "I wait"}, {"say": "I went on"}, permissionMode="auto")
    with stage.client() as client:
        task_id = client.task_id("napping/t")
        until(lambda: client.get_task(task_id).status == "WAITING", PATIENCE_S, "the task to wait")
        assert stage.wait("napping", PATIENCE_S).state == "SUCCEEDED", stage.logs()
        assert client.result(task_id).text == "I went on"
        spoken = [each for each in client.transcript(task_id).entries if each.kind in ("session", "prompt")]
    sessions = [each.data for each in spoken if each.kind == "session"]
    assert [each["resumed"] for each in sessions] == [False, True]
    assert len({each["value"] for each in sessions}) == 1
    assert [each.data["source"] for each in spoken if each.kind == "prompt"] == ["brief", "resume"]
    assert "it said 75" in stage.flakes("transcript", "napping/t").ok().out


def test_release_notes(stage: Stage, model: ScriptedModel) -> None:
    """`examples/release-notes.md` as it is, in a repository with a history."""
    repository = stage.scratch / "repository"
    repository.mkdir()
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com"]
    subprocess.run([*git, "init", "-q"], cwd=repository, check=True)
    for subject in ("Sign in with a code", "Faster start"):
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", subject], cwd=repository, check=True)
    notes = (
        "{ echo '# Release notes'; git -C \"$FLAKES_SOURCE_DIR\" log --format='- %s'; echo '## Open questions';"
        ' echo "- none"; } > "$FLAKES_OUTPUTS/notes"'
    )
    model.scripts["# Draft release notes"] = [{"sh": notes}, {"say": "The notes are drafted."}]
    review = (
        'grep -n "Sign in" "$FLAKES_INPUTS/draft/notes" > "$FLAKES_OUTPUTS/comments";'
        ' echo "Verdict: ship it, all of it is in the log" >> "$FLAKES_OUTPUTS/comments"'
    )
    model.scripts["# Review release notes"] = [{"say": "looks fine"}, {"sh": review}, {"say": "Reviewed."}]
    plan = str(CHECKOUT / "examples" / "release-notes.md")
    following = stage.start("run", plan, "--adapter", "pi", "--key", "release-notes", cwd=repository)
    ran = ended(following, PATIENCE_S * 2)
    assert ran.code == 0, ran.out + ran.err + stage.logs()
    written = stage.flakes("tasks", "result", "release-notes/draft", "--output", "notes").ok().out
    assert "- Faster start\n- Sign in with a code\n" in written
    comments = stage.flakes("tasks", "result", "release-notes/review", "--output", "comments").ok().out
    assert comments == "3:- Sign in with a code\nVerdict: ship it, all of it is in the log\n"
    with stage.client() as client:
        results = [client.result(client.task_id(f"release-notes/{key}")) for key in ("draft", "review")]
    assert [result.verified for result in results] == [True, True]
    told = stage.flakes("transcript", "release-notes/review").ok().out
    assert "The task is not done yet" in told, "it had said so before its output was there"


def submit(stage: Stage, key: str, *steps: dict[str, Any], permissionMode: str = "ask") -> str:  # noqa: N803
    """A run with one task `t` for pi, whose brief is this script."""
    task = {"taskKey": "t", "adapter": "pi", "bodyMarkdown": script(*steps), "permissionMode": permissionMode}
    return stage.submit(key, [task]).run_id
