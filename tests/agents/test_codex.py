"""The real Codex, through every scenario."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents import installed
from agents.scenarios import SCENARIOS, Scenario
from agents.setting import APPROVED, DENIED, Agent, Setting, setting
from flakes.core.task import Outcome
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


def test_a_budget_that_others_share(codex: Setting) -> None:
    """A slice is reserved before anything is spent; when nothing is left the owner is asked, and goes on or not."""
    s = codex
    limit = [150]

    def reserve(body: dict[str, Any]) -> dict[str, Any]:
        grant = {"tokens": limit[0]}
        if body["tokens"] < limit[0]:
            return grant
        short = {"scope": "run", "scopeId": "run_1", "key": "a-run", "bound": "tokens"}
        return grant | {"shortage": short | {"spent": body["tokens"], "limit": limit[0]}}

    def extend(body: dict[str, Any]) -> dict[str, Any]:
        assert body == {"permissionRequestId": "perm_1"}
        limit[0] += 1000
        return {"bound": "tokens", "limit": limit[0]}

    steps = [{"sh": "sleep 0.4; echo 1"}, {"sh": "sleep 3; echo 2"}, {"sh": "echo 3"}, {"say": "all done"}]
    shared = {"budget.reserve": (200, reserve), "budget.extend": (200, extend)}
    for answer, outcome in ((APPROVED, Outcome.SUCCEEDED), (DENIED, Outcome.FAILED)):
        limit[0] = 150
        s.plane.asked.clear()
        with s.answering(answer):
            s.plane.answers |= shared
            assignment = s.task(*steps, body=s.name())
            assignment = msgspec.structs.replace(assignment, shares_budgets=True)
            s.plane.offer(assignment)
            result = s.end(assignment)
        assert result.outcome is outcome, s.told(assignment)
        names = [name for a, name, _ in s.plane.asked if a == assignment.assignment_id]
        assert names[0] == "budget.reserve"
        (body,) = [b for a, n, b in s.plane.asked if (a, n) == (assignment.assignment_id, "permission.ask")]
        assert body["action"] == "extend"
        assert (body["details"]["scope"], body["details"]["limit"]) == ("run", 150)
        if outcome is Outcome.SUCCEEDED:
            assert names.count("budget.extend") == 1
            assert [e.data["source"] for e in s.entries(assignment, "prompt")] == ["brief", "budget"]
        else:
            assert result.error is not None
            assert result.error.code == "budget_exhausted"
            assert "the run a-run has used" in result.error.message
