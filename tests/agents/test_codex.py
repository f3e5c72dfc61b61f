"""The real Codex, through every scenario."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import installed
from agents.scenarios import SCENARIOS, Scenario
from agents.setting import Agent, Setting, setting
from models.scripted import ScriptedModel

CONFIG = """\
model = "scripted"
model_provider = "scripted"
web_search = "disabled"

[model_providers.scripted]
name = "scripted"
base_url = "{url}/v1"
env_key = "SCRIPTED_KEY"
wire_api = "responses"
request_max_retries = 1
stream_max_retries = 1
"""


SIGNED_IN = {"credential": ".codex/auth.json", "credential_text": '{"OPENAI_API_KEY": "WORD"}'}


@pytest.fixture(scope="module")
def codex(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    directory = tmp_path_factory.mktemp("codex")
    own: Path = directory / "codex-config"
    own.mkdir()
    with ScriptedModel() as model:
        (own / "config.toml").write_text(CONFIG.format(url=model.url))
        config = {
            "agent": {"command": installed.codex(), "configDir": str(own)},
            "env": {"SCRIPTED_KEY": "none-of-your-business"},
        }
        yield from setting(Agent("codex", config, **SIGNED_IN), model, directory)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_codex(scenario: Scenario, codex: Setting) -> None:
    scenario(codex)
