"""The command line signs in at a real server, is used, and signs out; then it is refused."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from api.caller import Api
from api.plane import Server

FLAKES = (sys.executable, "-P", "-c", "from flakes.cli.main import main; main()")
WAIT_S = 60.0

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(server: Server, tmp_path: Path) -> Start:
    """Starts `flakes` for a user who has nothing yet but the server's address."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FLAKES_")}
    env = clean | {
        "FLAKES_SERVER": server.url, "FLAKES_DATA_DIR": str(tmp_path / "data"),
        "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }  # fmt: skip

    def run(*argv: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen([*FLAKES, *argv], env=env, stdout=pipe, stderr=pipe, text=True)

    return run


def done(process: subprocess.Popen[str], code: int = 0) -> str:
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == code, (out, err)
    return out


def test_signed_in_from_a_browser_and_out_again(start: Start, api: Api) -> None:
    done(start("projects", "list"), 5)
    login = start("auth", "login", "--no-open", "--json", "--timeout-ms", "50000")
    assert login.stdout is not None
    asked = msgspec.json.decode(login.stdout.readline())
    api.post(f"/v1/auth/device/{asked['userCode']}", {"decision": "approved"}).ok(200)
    signed_in = msgspec.json.decode(done(login))
    file = Path(signed_in["credentialFile"])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    token = msgspec.json.decode(file.read_bytes())["token"]

    status = msgspec.json.decode(done(start("auth", "status", "--json")))
    assert (status["status"], status["tokenSource"]) == ("authenticated", "sign-in")
    assert status["me"]["userId"] == api.get("/v1/me").ok()["userId"]
    assert status["me"]["sessionKind"] == "cli"
    done(start("projects", "create", "--key", "from-the-cli", "--name", "From the CLI"))
    assert api.get("/v1/projects/from-the-cli").ok()["name"] == "From the CLI"
    sessions = msgspec.json.decode(done(start("auth", "sessions", "list", "--json")))["sessions"]
    assert [(each["kind"], each["current"]) for each in sessions] == [("cli", True)]
    made = msgspec.json.decode(done(start("auth", "keys", "create", "ci", "--scope", "read", "--json")))
    key = api.as_(made["rawKey"])
    key.get("/v1/projects").ok()
    done(start("auth", "keys", "revoke", made["key"]["keyId"]))
    key.get("/v1/projects").refused("unauthorized")

    out = msgspec.json.decode(done(start("auth", "logout", "--json")))
    assert (out["removed"], out["revoked"]) == (True, True)
    assert not file.exists()
    api.as_(token).get("/v1/me").refused("unauthorized")
    done(start("projects", "list"), 5)


def test_setup_signs_in_when_nobody_is(start: Start, api: Api, tmp_path: Path) -> None:
    config = ("--config", str(tmp_path / "host.toml"))
    waiting = ("--no-open", "--timeout-ms", "50000", "--json")
    process = start("host", "setup", *config, "--host-name", "rack", *waiting)
    assert process.stderr is not None
    asked = msgspec.json.decode(process.stderr.readline())
    assert asked["stage"] == "device_code"
    api.post(f"/v1/auth/device/{asked['userCode']}", {"decision": "approved"}).ok(200)
    made = msgspec.json.decode(done(process))
    assert api.get(f"/v1/hosts/{made['host']['hostId']}").ok()["name"] == "rack"
    credential = (tmp_path / "host.credential").read_text()
    # Signed in already: nothing is asked.
    rotated = msgspec.json.decode(done(start("host", "rotate", *config, "--json")))
    assert [each["credentialId"] in credential for each in rotated["replaced"]] == [True]
    assert (tmp_path / "host.credential").read_text() != credential


def test_a_setup_that_nobody_approves_makes_nothing(start: Start, api: Api, tmp_path: Path) -> None:
    hosts = len(api.get("/v1/hosts").ok()["hosts"])
    config = ("--config", str(tmp_path / "h.toml"))
    done(start("host", "setup", *config, "--no-open", "--timeout-ms", "500"), 4)
    assert len(api.get("/v1/hosts").ok()["hosts"]) == hosts
    assert not list(tmp_path.glob("h*"))


def test_a_token_that_was_given_is_not_replaced_by_another(start: Start, tmp_path: Path) -> None:
    refused = start("host", "setup", "--config", str(tmp_path / "h.toml"), "--token", "flakes_user_x.y", "--json")
    _, err = refused.communicate(timeout=WAIT_S)
    assert (refused.returncode, msgspec.json.decode(err)["error"]) == (5, "unauthorized")
