"""Agents in a local session: offered where they are, refused with a reason where they are not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.stage import Stage, staged

STAND_IN = """\
#!/bin/sh
echo "{name} {version}"
"""


def stand_in(directory: Path, name: str, version: str) -> Path:
    """A program that says a version and nothing else."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(STAND_IN.format(name=name, version=version))
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A machine with one agent, `pi`, and nothing of the tester's own."""
    with staged() as one:
        programs = one.scratch / "bin"
        stand_in(programs, "pi", "0.87.9")
        for name in ("git", "sh", "ps"):
            if (found := shutil.which(name)) is not None:
                (programs / name).symlink_to(found)
        one.extra_env = {"PATH": f"{programs}{os.pathsep}/usr/sbin"}
        yield one


def test_doctor_says_what_is_here(stage: Stage) -> None:
    ran = stage.flakes("doctor", "--json").ok()
    agents = {each["adapter"]: each for each in ran.json["agents"]}
    assert agents.keys() == {"pi", "claude", "codex"}
    assert (agents["pi"]["found"], agents["pi"]["version"]) == (True, "0.87.9")
    assert (agents["pi"]["tested"], agents["pi"]["signedIn"]) == (True, False)
    assert "/login" in agents["pi"]["fix"]
    assert not agents["claude"]["found"]
    assert not agents["claude"]["needed"]


def test_doctor_fails_for_what_is_needed_and_missing(stage: Stage) -> None:
    ran = stage.flakes("doctor", "--adapter", "codex")
    assert ran.code == 1
    assert "npm install -g @openai/codex" in ran.out
    config = stage.scratch / "host.toml"
    lines = ['controlPlaneUrl = "http://127.0.0.1:1"', 'hostId = "host_1"', 'credentialFile = "/nowhere"']
    pool = ["[[pools]]", 'poolKey = "agents"', 'adapter = "claude"']
    config.write_text("\n".join([*lines, *pool]))
    ran = stage.flakes("doctor", "--config", str(config), "--json")
    assert ran.code == 1
    (claude,) = [each for each in ran.json["agents"] if each["adapter"] == "claude"]
    assert (claude["needed"], claude["pool"], claude["found"]) == (True, "agents", False)
    command = stand_in(stage.scratch / "elsewhere", "any-name", "2.1.200")
    own = stage.scratch / "own"
    own.mkdir()
    (own / ".credentials.json").write_text('{"claudeAiOauth": {}}')
    agent = ["[pools.agent]", f'command = ["{command}"]', f'configDir = "{own}"']
    config.write_text("\n".join([*lines, *pool, *agent]))
    ran = stage.flakes("doctor", "--config", str(config), "--json").ok()
    (claude,) = [each for each in ran.json["agents"] if each["adapter"] == "claude"]
    assert (claude["version"], claude["tested"], claude["signedIn"]) == ("2.1.200", True, True)


def test_a_version_that_was_not_tested_is_a_note(stage: Stage) -> None:
    old = stand_in(stage.scratch / "old", "pi", "0.60.1")
    path = f"{old.parent}{os.pathsep}{stage.extra_env['PATH']}"
    ran = stage.flakes("doctor", "--json", env=stage.env | {"PATH": path}).ok()
    (pi,) = [each for each in ran.json["agents"] if each["adapter"] == "pi"]
    assert (pi["version"], pi["tested"]) == ("0.60.1", False)
    assert "outside the range" in pi["message"]


def test_a_task_for_an_agent_that_is_not_here_is_refused_at_once(stage: Stage) -> None:
    ran = stage.flakes("run", "do this", "--adapter", "claude", timeout_s=120)
    assert ran.code == 2, ran.out + ran.err
    assert "`claude` is not on the PATH" in ran.err
    assert "flakes doctor --adapter claude" in ran.err
    with stage.client() as client:
        assert not client.list_runs().runs
        (host,) = client.list_hosts().hosts
        pools = {pool.pool_key: pool for pool in client.host_pools(host.host_id).host_pools}
    assert pools.keys() == {"local-command", "local-harness", "local-pi"}
    assert "pi" in pools["local-pi"].capabilities


def test_an_agent_that_came_later_needs_the_session_anew(stage: Stage) -> None:
    stand_in(stage.scratch / "bin", "codex", "0.165.0")
    ran = stage.flakes("run", "do this", "--adapter", "codex", timeout_s=120)
    assert ran.code == 2, ran.out + ran.err
    assert "the local session does not offer it" in ran.err
    assert "flakes down" in ran.err
    stage.down()
    stage.up()
    with stage.client() as client:
        (host,) = client.list_hosts().hosts
        offered = {pool.adapter for pool in client.host_pools(host.host_id).host_pools}
    assert {"pi", "codex"} < offered
