"""The real agents behind bubblewrap: they work as ever, see nothing else, and leave nothing however they end.

Their model is reached through the list of what is allowed, their tools on the loopback of their own namespace.
That nothing is left holds without isolation too, which one of them shows.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agents import installed, scenarios
from agents.setting import Agent, Setting, setting
from agents.test_acp import claude_agent_acp
from agents.test_codex import CONFIG
from agents.test_pi import config as pi_config
from flakes.core.task import Outcome
from models.scripted import ScriptedModel
from sandbox.bwrap import needs_bubblewrap
from sandbox.controlplane import TOKEN, eventually, living

pytestmark = needs_bubblewrap
CREDENTIAL = "the-credential-of-a-user-3051"


def claude(model: ScriptedModel, directory: Path) -> Agent:
    own = directory / "claude-config"
    own.mkdir()
    (own / ".credentials.json").write_text(json.dumps({"mine": CREDENTIAL}))
    config = {
        "agent": {"command": installed.claude(), "configDir": str(own)},
        "env": {
            "ANTHROPIC_BASE_URL": model.url, "ANTHROPIC_API_KEY": "sk-ant-none-of-your-business",
            "CLAUDE_CODE_MAX_RETRIES": "1",
        },
    }  # fmt: skip
    return Agent("claude", config, "claude-sonnet-4-5", costs=True)


def codex(model: ScriptedModel, directory: Path) -> Agent:
    own = directory / "codex-config"
    own.mkdir()
    (own / "config.toml").write_text(CONFIG.format(url=model.url))
    (own / "auth.json").write_text(json.dumps({"OPENAI_API_KEY": CREDENTIAL}))
    config = {
        "agent": {"command": installed.codex(), "configDir": str(own)},
        "env": {"SCRIPTED_KEY": "none-of-your-business"},
    }
    return Agent("codex", config)


def pi(model: ScriptedModel, directory: Path) -> Agent:
    config = pi_config(installed.pi(), model, directory)
    other = {"other": {"type": "api_key", "key": CREDENTIAL}}
    (directory / "pi-config" / "auth.json").write_text(json.dumps(other))
    return Agent("pi", config, "scripted/one", costs=True)


@pytest.mark.parametrize("scenario", [scenarios.task, scenarios.host_tool], ids=lambda scenario: scenario.__name__)
def test_an_agent_with_acp_works_too(scenario: scenarios.Scenario, bridged: Setting) -> None:
    scenario(bridged)


@pytest.fixture(scope="module")
def bridged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    directory = tmp_path_factory.mktemp("bridged")
    with ScriptedModel() as model:
        agent = claude_agent_acp(model, directory)
        allow = [model.url.removeprefix("http://")]
        agent.config["isolation"] = {"kind": "bubblewrap", "networkAllow": allow}
        yield from setting(agent, model, directory)


@pytest.fixture(
    scope="module",
    params=[(pi, True), (claude, True), (codex, True), (codex, False)],
    ids=["pi", "claude", "codex", "codex-process"],
)
def contained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Setting]:
    make: Callable[[ScriptedModel, Path], Agent] = request.param[0]
    directory = tmp_path_factory.mktemp("isolated")
    with ScriptedModel() as model:
        agent = make(model, directory)
        if request.param[1]:
            allow = [model.url.removeprefix("http://")]
            agent.config["isolation"] = {"kind": "bubblewrap", "networkAllow": allow}
        yield from setting(agent, model, directory)


@pytest.mark.parametrize(
    "scenario",
    [scenarios.task, scenarios.host_tool, scenarios.crash_and_resume, scenarios.error_400, scenarios.not_verified],
    ids=lambda scenario: scenario.__name__,
)
def test_it_works_as_ever(scenario: scenarios.Scenario, contained: Setting) -> None:
    if contained.agent.adapter != "codex" and scenario in (scenarios.error_400, scenarios.not_verified):
        pytest.skip("the one that starts fastest shows it")
    scenario(contained)
    left(contained)


def test_it_reaches_its_model_and_nothing_else(contained: Setting) -> None:
    """Nor the daemon's token, or what else there is on the machine."""
    s = contained
    if "isolation" not in s.agent.config:
        pytest.skip("without isolation a task may read what its user may")
    token = s.daemon.directory / "token"
    other = s.directory / "not-for-tasks"
    other.write_text("not-for-tasks-3052")
    line = (
        f"cat {token} {other}; grep -rs {TOKEN[:-1]}[{TOKEN[-1]}] $HOME $PWD/.. /etc /proc/*/environ && echo found it;"
        f" ls -d {s.daemon.state_dir}/journal.sqlite {s.daemon.state_dir}/assignments/*;"
        f" exec 3<>/dev/tcp/127.0.0.1/{s.plane.port} && echo reached it;"
        " stat -c '%a' $HOME"
    )
    result, assignment = s.run({"sh": f"bash -c '{quoted(line)}' 2>&1; true"}, {"say": "looked"})
    assert result.outcome is Outcome.SUCCEEDED, s.told(assignment)
    (ended,) = [e.data for e in s.entries(assignment, "tool") if e.data["state"] == "end"]
    said = str(ended["output"])
    assert "700" in said, said
    assert "No such file" in said
    for word in (TOKEN, "not-for-tasks-3052", "found it", "reached it"):
        assert word not in said
    allowed = [line for line in s.plane.text(assignment.assignment_id, "system") if "network:" in line]
    assert any("allowed" in line for line in allowed)
    left(s)


def test_nothing_is_left_after_cancel_and_timeout(contained: Setting) -> None:
    """F12, F24."""
    s = contained
    for more, end in (({}, Outcome.CANCELLED), ({"timeoutS": 4.0}, Outcome.FAILED)):
        word = str(6_000_000 + int(time.time() * 1000) % 1_000_000)
        assignment = s.start({"sh": f"setsid sleep {word} & sleep {word}"}, **more)
        if end is Outcome.CANCELLED:
            eventually(lambda word=word: len(living(word)) == 2, "both commands", 30)
            s.plane.cancel(assignment.assignment_id)
        assert s.end(assignment).outcome is end
        assert not living(word)
        left(s)


def quoted(line: str) -> str:
    return line.replace("'", "'\\''")


def left(s: Setting) -> None:
    """Once its result is acknowledged nothing of a task is there: no process, no file, no credential."""
    eventually(lambda: not any((s.daemon.state_dir / "assignments").iterdir()), "the directories to go", 30)
    assert not seen(s.daemon.state_dir), "something runs in there"
    assert not [path for path in files(s.daemon.state_dir) if CREDENTIAL.encode() in path.read_bytes()]


def seen(directory: Path) -> list[str]:
    """Command lines of processes that name the directory, but for the daemon's own."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes()
        except OSError:
            continue
        if f"{directory}/assignments".encode() in words:
            found.append(words.decode("utf-8", "replace"))
    return found


def files(directory: Path) -> list[Path]:
    return [Path(root, name) for root, _, names in os.walk(directory) for name in names
            if Path(root, name).is_file()]  # fmt: skip


