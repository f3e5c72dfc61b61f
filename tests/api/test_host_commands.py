"""`flakes host` and `flakes projects bind-host` against a real control plane: files written, secrets shown to nobody."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from api.caller import Api
from api.peer import adapter, host, pool
from flakes.cli.main import run_cli


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Flakes = Callable[..., Ran]


@pytest.fixture
def flakes(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flakes:
    """The command, signed in as `api`."""
    assert api.token is not None
    monkeypatch.setenv("FLAKES_SERVER", api.url)
    monkeypatch.setenv("FLAKES_TOKEN", api.token)
    monkeypatch.setenv("FLAKES_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))

    def run(*argv: str) -> Ran:
        out, err = io.StringIO(), io.StringIO()
        code = run_cli(argv, out, err)
        return Ran(code, out.getvalue(), err.getvalue())

    return run


@pytest.mark.parametrize("more", [(), ("--no-open", "--timeout-ms", "600000"), ("--json",), ("files",)])
def test_setup_writes_files_once_and_shows_no_secret(
    flakes: Flakes, tmp_path: Path, more: tuple[str, ...]
) -> None:
    config, credential = tmp_path / "host.toml", tmp_path / "host.credential"
    if more == ("files",):
        credential = tmp_path / "elsewhere" / "secret"
        more = ("--credential-file", str(credential), "--state-dir", str(tmp_path / "s"), "--host-name", "rack")
    ran = flakes("host", "setup", "--config", str(config), *more)
    assert ran.code == 0, ran.err
    raw = credential.read_text().strip()
    assert credential.stat().st_mode & 0o777 == 0o600
    assert config.is_file()
    assert raw.partition(".")[2] not in ran.out + ran.err + config.read_text()
    again = flakes("host", "setup", "--config", str(config), *more)
    assert again.code == 2
    assert credential.read_text().strip() == raw


def test_a_host_is_rotated_rooted_bound_and_shown(flakes: Flakes, api: Api, tmp_path: Path) -> None:
    config, own = tmp_path / "host.toml", adapter()
    made = flakes("host", "setup", "--config", str(config), "--json").json()
    host_id, secret = made["host"]["hostId"], tmp_path / "host.credential"
    before = secret.read_text().strip()
    rotated = flakes("host", "rotate", "--config", str(config), "--json")
    assert rotated.json()["credential"]["credentialId"] in secret.read_text()
    assert flakes("host", "rotate", "--config", str(config)).code == 0
    after = secret.read_text().strip()
    assert after != before
    assert after.partition(".")[2] not in rotated.out
    root = flakes("host", "project-root", "set", "--config", str(config), "--path", str(tmp_path))
    assert root.code == 0, root.err
    with host(api, (host_id, after), pool("here", own)):
        project = api.project()
        bound = flakes("projects", "bind-host", project, "--host", host_id, "--pool", "here", "--json")
        assert bound.json()["poolKeys"] == ["here"]
    shown = flakes("host", "status", "--config", str(config), "--json")
    assert host_id in shown.out
    text = flakes("host", "status", "--config", str(config))
    for ran in (shown, text):
        assert after.partition(".")[2] not in ran.out + ran.err
