"""The real Claude Code, through every scenario."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agents import installed
from agents.scenarios import SCENARIOS, Scenario
from agents.setting import Agent, Setting, setting
from models.scripted import ScriptedModel


@pytest.fixture(scope="module")
def claude(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    directory = tmp_path_factory.mktemp("claude")
    with ScriptedModel() as model:
        config = {
            "agent": {"command": installed.claude(), "configDir": str(directory / "own")},
            "env": {
                "ANTHROPIC_BASE_URL": model.url, "ANTHROPIC_API_KEY": "sk-ant-none-of-your-business",
                "CLAUDE_CODE_MAX_RETRIES": "1",
            },
        }  # fmt: skip
        agent = Agent("claude", config, "claude-sonnet-4-5", costs=True, credential=".claude/.credentials.json")
        yield from setting(agent, model, directory)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_claude(scenario: Scenario, claude: Setting) -> None:
    scenario(claude)
