"""The real pi, through every scenario."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import installed
from agents.scenarios import SCENARIOS, Scenario
from agents.setting import Agent, Setting, setting
from models.scripted import ScriptedModel

SIGNED_IN = {
    "credential": ".pi/agent/auth.json",
    "credential_text": '{"other": {"type": "api_key", "key": "WORD"}}',
}


@pytest.fixture(scope="module")
def pi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    directory = tmp_path_factory.mktemp("pi")
    command = installed.pi()
    with ScriptedModel() as model:
        agent = Agent("pi", config(command, model, directory), "scripted/one", costs=True, **SIGNED_IN)
        yield from setting(agent, model, directory)


def config(command: list[str], model: ScriptedModel, directory: Path) -> dict[str, object]:
    """pi's own settings for the scripted model, and the daemon's for pi."""
    own = directory / "pi-config"
    own.mkdir()
    cost = {"input": 1, "output": 2, "cacheRead": 0.1, "cacheWrite": 1}
    provider = {
        "baseUrl": f"{model.url}/v1", "api": "openai-completions", "apiKey": "none",
        "models": [{"id": "one", "cost": cost}],
    }  # fmt: skip
    (own / "models.json").write_text(json.dumps({"providers": {"scripted": provider}}))
    settings = {"defaultProvider": "scripted", "defaultModel": "one", "retry": {"maxRetries": 2, "baseDelayMs": 50}}
    (own / "settings.json").write_text(json.dumps(settings))
    return {"agent": {"command": command, "configDir": str(own)}}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_pi(scenario: Scenario, pi: Setting) -> None:
    scenario(pi)
