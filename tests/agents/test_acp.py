"""Agents over the Agent Client Protocol: a real one, and a small one written with the protocol's library."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import installed
from agents.scenarios import SCENARIOS, Scenario, budget
from agents.setting import Agent, Setting, setting
from models.scripted import ScriptedModel

EXAMPLE = [sys.executable, str(Path(__file__).with_name("example_agent.py"))]

# The protocol tells of usage when a turn has ended: too late to stop it.
POSSIBLE = [scenario for scenario in SCENARIOS if scenario is not budget]


def claude_agent_acp(model: ScriptedModel, directory: Path) -> Agent:
    """Claude Code behind its bridge, with a model of the test's."""
    config = {
        "agent": {"command": installed.claude_agent_acp(), "configDir": str(directory / "nothing")},
        "env": {
            "ANTHROPIC_BASE_URL": model.url, "ANTHROPIC_API_KEY": "sk-ant-none-of-your-business",
            "CLAUDE_CODE_MAX_RETRIES": "1",
        },
    }  # fmt: skip
    return Agent("acp", config, "sonnet", costs=True, counts=False)


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    directory = tmp_path_factory.mktemp("acp")
    with ScriptedModel() as model:
        yield from setting(claude_agent_acp(model, directory), model, directory)


@pytest.mark.parametrize("scenario", POSSIBLE, ids=lambda scenario: scenario.__name__)
def test_claude_agent_acp(scenario: Scenario, bridge: Setting) -> None:
    scenario(bridge)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    directory = tmp_path_factory.mktemp("example")
    with ScriptedModel() as model:
        config = {"agent": {"command": EXAMPLE}, "env": {"EXAMPLE_MODEL": f"{model.url}/v1"}}
        agent = Agent("acp", config, "two", counts=False, steers=False)
        yield from setting(agent, model, directory)


@pytest.mark.parametrize("scenario", POSSIBLE, ids=lambda scenario: scenario.__name__)
def test_example_agent(scenario: Scenario, example: Setting) -> None:
    scenario(example)


def test_an_agent_that_nobody_tested_says_so(example: Setting) -> None:
    result, assignment = example.run({"say": "hello"})
    (warning,) = result.warnings
    assert warning.code == "agent_untested"
    assert "example-agent 1.0" in warning.message
    assert warning.message in [entry.data["text"] for entry in example.entries(assignment, "notice")]


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        ({"model": "three"}, "model_invalid", "one of one, two"),
        ({"effort": "high"}, "effort_invalid", "leave out"),
        ({"input": {"env": {"EXAMPLE_SIGNED_OUT": "1"}}}, "model_auth", "sign in"),
        ({"input": {"env": {"EXAMPLE_OLD": "1"}}}, "agent_protocol", "version of the agent"),
    ],
)
def test_what_cannot_be_is_said_before_the_first_turn(
    example: Setting, what: dict[str, object], code: str, words: str
) -> None:
    result, assignment = example.run({"say": "hello"}, **what)
    assert result.error is not None
    assert result.error.code == code, result.error
    assert result.error.details is not None
    assert words in result.error.details["fix"]
    assert not example.entries(assignment, "prompt")
