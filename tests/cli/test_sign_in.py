"""`flakes auth`: the device flow, what it keeps and where, which credential is used, keys and sessions."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from cli.conftest import Ran
from cli.fake_plane import TOKEN, FakePlane
from flakes.cli import device_login, sign_ins, target
from flakes.cli.browser import open_page

Flakes = Callable[..., Ran]


@pytest.fixture
def login(plane: FakePlane, flakes: Flakes) -> Flakes:
    """`flakes auth login` at the fake control plane."""
    return lambda *more: flakes("auth", "login", "--no-open", "--server", plane.url, *more)


def kept(plane: FakePlane) -> Path:
    return sign_ins.path_of(target.config_dir(), plane.url)


def test_login_shows_the_code_and_keeps_the_token_for_its_server(
    login: Flakes, flakes: Flakes, plane: FakePlane
) -> None:
    plane.polls = ["authorization_pending"] * 2
    ran = login()
    assert ran.code == 0, ran.err
    assert "BCDF-GHJK" in ran.out
    assert f"{plane.url}/device?code=BCDF-GHJK" in ran.out
    assert "ada@example.com" in ran.out
    assert f"FLAKES_SERVER={plane.url}" in ran.err
    assert plane.bodies[0]["clientName"].startswith("flakes on ")
    assert stat.S_IMODE(kept(plane).stat().st_mode) == 0o600
    assert stat.S_IMODE(kept(plane).parent.stat().st_mode) == 0o700
    shown = flakes("auth", "status", "--json", "--server", plane.url).json
    assert (shown["status"], shown["tokenSource"]) == ("authenticated", "sign-in")
    assert flakes("projects", "list", "--server", plane.url).code == 0


def test_login_as_json_is_two_records(login: Flakes, plane: FakePlane) -> None:
    ran = login("--json")
    asked, done = (msgspec.json.decode(line) for line in ran.out.splitlines())
    assert (asked["stage"], asked["userCode"]) == ("device_code", "BCDF-GHJK")
    assert (done["stage"], done["me"]["userId"]) == ("authenticated", "user_1")
    assert Path(done["credentialFile"]) == kept(plane)
    assert "flakes_user_device" not in ran.out + ran.err


def test_a_hasty_device_waits_longer(
    login: Flakes, plane: FakePlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_login, "SLOWER_S", 0.01)
    plane.polls = ["slow_down", "authorization_pending", "slow_down"]
    assert login().code == 0


@pytest.mark.parametrize("code", ["access_denied", "expired_token"])
def test_a_refused_login_exits_5_and_keeps_nothing(
    login: Flakes, plane: FakePlane, code: str
) -> None:
    plane.polls = [code]
    ran = login("--json")
    assert ran.code == 5
    assert msgspec.json.decode(ran.err)["error"] == code
    assert not kept(plane).exists()


def test_nobody_approves_in_time(login: Flakes, plane: FakePlane) -> None:
    plane.polls = ["authorization_pending"] * 100_000
    ran = login("--timeout-ms", "1000")
    assert ran.code == 4
    assert "--timeout-ms" in ran.err
    assert not kept(plane).exists()


def test_a_second_login_revokes_the_first(login: Flakes, plane: FakePlane) -> None:
    assert (login().code, login().code) == (0, 0)
    assert plane.valid == {TOKEN, "flakes_user_device_2"}


def test_logout_revokes_and_forgets(login: Flakes, flakes: Flakes, plane: FakePlane) -> None:
    login()
    ran = flakes("auth", "logout", "--server", plane.url)
    assert (ran.code, ran.err) == (0, "")
    assert plane.valid == {TOKEN}
    assert not kept(plane).exists()
    again = flakes("auth", "logout", "--server", plane.url, "--json")
    assert again.json == {"server": plane.url, "removed": False, "revoked": False}
    status = flakes("auth", "status", "--server", plane.url, "--json")
    assert (status.code, status.json["status"]) == (5, "missing")


def test_logout_from_a_server_that_is_away_says_so(flakes: Flakes, plane: FakePlane, login: Flakes) -> None:
    login()
    plane.fail = [503]
    ran = flakes("auth", "logout", "--server", plane.url)
    assert ran.code == 0
    assert "not revoked" in ran.err
    assert not kept(plane).exists()


def test_a_revoked_sign_in_is_told_from_a_missing_one(
    login: Flakes, flakes: Flakes, plane: FakePlane
) -> None:
    login()
    plane.valid.clear()
    status = flakes("auth", "status", "--server", plane.url, "--json")
    assert (status.code, status.json["status"]) == (5, "expired")
    assert flakes("projects", "list", "--server", plane.url).code == 5
    assert flakes("auth", "logout", "--server", plane.url, "--json").json["revoked"] is True


def test_a_host_command_signs_in_again_when_the_kept_one_is_over(
    login: Flakes, flakes: Flakes, plane: FakePlane, tmp_path: Path
) -> None:
    login()
    argv = ("host", "setup", "--config", str(tmp_path / "h.toml"), "--no-open", "--server", plane.url)
    assert "approve the code" not in flakes(*argv).err
    plane.valid.clear()
    ran = flakes(*argv)
    assert "BCDF-GHJK" in ran.err
    assert ran.out == ""
    assert plane.valid == {"flakes_user_device_2"}
    assert "flakes_user_device_2" in kept(plane).read_text()
    plane.valid.clear()
    assert flakes(*argv, "--token", "given").code == 5
    assert plane.devices == 2


def test_the_server_is_the_flag_the_environment_the_profile_in_this_order(
    login: Flakes, flakes: Flakes, plane: FakePlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    login()
    config = target.config_path()
    config.write_text(f'current = "x"\n[profiles.x]\nserver = "{plane.url}/"\n')
    assert flakes("auth", "token").out == "flakes_user_device_1\n"
    monkeypatch.setenv("FLAKES_SERVER", "http://127.0.0.1:9")
    assert flakes("auth", "token").code == 5
    assert flakes("auth", "token", "--server", plane.url).out == "flakes_user_device_1\n"
    monkeypatch.setenv("FLAKES_TOKEN", "from-environment")
    assert flakes("auth", "token", "--server", plane.url).out == "from-environment\n"


def test_a_kept_token_goes_to_its_own_server_only(
    login: Flakes, flakes: Flakes, plane: FakePlane
) -> None:
    login()
    other = sign_ins.path_of(target.config_dir(), "http://127.0.0.1:9")
    kept(plane).rename(other)
    assert flakes("auth", "token", "--server", "http://127.0.0.1:9").code == 5


@pytest.mark.parametrize("fault", ["mode", "link", "words"])
def test_a_kept_file_that_is_not_private_or_not_sound_is_refused(
    login: Flakes, flakes: Flakes, plane: FakePlane, fault: str
) -> None:
    login()
    file = kept(plane)
    if fault == "mode":
        file.chmod(0o644)
    elif fault == "link":
        os.replace(file, file.with_suffix(".moved"))
        file.symlink_to(file.with_suffix(".moved"))
    else:
        file.write_text("{")
    ran = flakes("auth", "token", "--server", plane.url, "--json")
    assert ran.code == 2
    assert msgspec.json.decode(ran.err)["error"] == "config_invalid"
    assert "flakes_user_device" not in ran.out + ran.err


def test_keys(remote: Flakes, plane: FakePlane) -> None:
    made = remote("auth", "keys", "create", "ci", "--scope", "read", "--expires-days", "30")
    assert (made.code, made.out) == (0, "flakes_user_key\n")
    assert plane.bodies[0] == {"name": "ci", "scope": "read", "expiresInDays": 30}
    assert "ci" in remote("auth", "keys", "list").out
    assert remote("auth", "keys", "revoke", "token_k0").code == 0
    assert remote("auth", "keys", "revoke", "token_k9", "--json").code == 2
    assert remote("auth", "keys", "create", "ci", "--scope", "all").code == 2


def test_sessions(remote: Flakes) -> None:
    listed = remote("auth", "sessions", "list").out
    assert "(this one)" in listed
    assert "\x1b" not in listed
    assert remote("auth", "sessions", "revoke", "token_1").out == "signed out token_1\n"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "javascript:alert(1)", "-h", ""])
def test_only_web_pages_are_opened(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":99")
    assert open_page(url) is False
