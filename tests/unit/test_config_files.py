"""Configuration files with a mistake: the refusal names the file, the line, the key, and what to write instead."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from flakes.wire import config as configuration
from flakes.wire.config import HostConfig, SandboxConfig, ServerConfig
from flakes.wire.errors import ApiError

SANDBOX = """controlPlaneUrl = "http://a"
sandboxId = "s"
credentialFile = "/c"
stateDir = "/s"
"""
HOST = """controlPlaneUrl = "http://127.0.0.1:7733"
hostId = "host_1"
credentialFile = "/c"
"""
FIRST = '[[pools]]\npoolKey = "a"\nadapter = "command"\n'

SERVER_MISTAKES = [
    ("[listen]\nprot = 1", 2, "listen.prot", "write `port`"),
    ('[listen]\nport = "7733"', 2, "listen.port: it must be a whole number, not text in quotes", "`port = 7733`"),
    ("[listen]\nport = 70000", 2, "listen.port: it must be at most 65535", "`port = 7733`"),
    ('[listen]\npublicUrl = "flakes.example.com"', 2, "listen.publicUrl", "https://flakes.example.com"),
    ('[listen]\ntrustedProxies = ["a", 5]', 2, "listen.trustedProxies[1]: it must be text in quotes", "`trustedProxies = "),
    ("[lisen]\nport = 1", 1, "lisen", "write `listen`"),
    ("listen = 5", 1, "listen: it must be a table", "config schema server"),
    ("\nlisten.prot = 5", 2, "listen.prot", "write `port`"),
    ("database = { pool = 5 }", 1, "database.pool", "write `poolSize`"),
    ("[database]\n\n# words\npoolSize = 1", 4, "database.poolSize: it must be at least 2", "`poolSize = 12`"),
    ("[leases]\nheartbeatS = -1", 2, "leases.heartbeatS: it must be more than 0", "`heartbeatS = 15.0`"),
    ('[auth]\nsignUp = "no"', 2, "auth.signUp: it must be true or false", "`signUp = false`"),
    ('[mail]\nport = 25\nsender = "a"', 1, "mail.host: it is missing", '`host = "smtp.example.com"`'),
    ('[mail]\nhost = "a"\nsender = "a"\nsecurity = "ssl"', 4, "mail.security: 'ssl' is not one of: \"starttls\"",
     '`security = "starttls"`'),
    ('logFormat = "xml"', 1, 'logFormat: \'xml\' is not one of: "text", "json"', '`logFormat = "text"`'),
    ('logFormat = "text"\nlogFormat = "json"', 2, "not valid TOML", "the line that is named"),
    ("[database\nurl = 1", 1, "not valid TOML", "the line that is named"),
    ('[database]\nurl = "', 2, "not valid TOML", "the line that is named"),
]  # fmt: skip
SANDBOX_MISTAKES = [
    ("", None, "controlPlaneUrl: it is missing", "`controlPlaneUrl = "),
    (SANDBOX + "maxConcurrency = 0", 5, "maxConcurrency: it must be at least 1", "`maxConcurrency = 4`"),
    (SANDBOX + '[isolation]\nkind = "docker"', 6, 'isolation.kind: \'docker\' is not one of: "none", "bubblewrap"',
     '`kind = "none"`'),
    (SANDBOX + '[env]\nA = "x"\nB = 1', 7, "env.B: it must be text in quotes", "config schema sandbox"),
]  # fmt: skip
HOST_MISTAKES = [
    (HOST.replace("hostId", "hostID"), 2, "hostID", "write `hostId`"),
    (HOST.replace("host_1", ""), 2, "hostId: it must not be empty", "`hostId = "),
    (HOST + "pool = []", 4, "pool", "write `pools`"),
    (HOST + '[[pools]]\nadapter = "command"', 4, "pools[0].poolKey: it is missing", "`poolKey = "),
    (HOST + FIRST + FIRST + "maxInstances = 0", 10, "pools[1].maxInstances: it must be at least 1", "`maxInstances = 1`"),
    (HOST + FIRST + '[[pools]]\npoolKey = "b"\nadaptor = "command"', 9, "pools[1].adaptor", "write `adapter`"),
    (HOST + FIRST + 'workspace = "/srv"', 7, "pools[0].workspace", "flakes host project-root set"),
    (HOST + FIRST + "\n[pools.network]\nalow = []", 9, "pools[0].network.alow", "write `allow`"),
    (HOST + FIRST + FIRST + "[pools.env]\nX = 5", 11, "pools[1].env.X: it must be text in quotes", "config schema host"),
    (HOST + FIRST + 'advertisedCapabilities = ["a", 5]', 7, "pools[0].advertisedCapabilities[1]", '["command", "linux"]'),
    (HOST + 'pools = [{poolKey = "a", adapter = "command", colour = 1}]', 4, "pools[0].colour", "leave it out"),
    (HOST + 65 * FIRST, 4, "pools: it must have at most 64 entries", "config schema host"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "text", "line", "says", "fix"),
    [
        *((ServerConfig, *each) for each in SERVER_MISTAKES),
        *((SandboxConfig, *each) for each in SANDBOX_MISTAKES),
        *((HostConfig, *each) for each in HOST_MISTAKES),
    ],
    ids=lambda value: value if isinstance(value, str) and ":" in value else None,
)
def test_a_mistake_is_named_with_line_and_fix(
    tmp_path: Path, kind: Any, text: str, line: int | None, says: str, fix: str
) -> None:
    path = tmp_path / "file.toml"
    path.write_text(text)
    with pytest.raises(ApiError) as refused:
        configuration.load(path, kind)
    error = refused.value
    assert error.code == "config_invalid"
    where = f"{path}:{line}: " if line else f"{path}: "
    assert error.message.startswith(where + says), error.message
    assert fix in error.fix


@pytest.mark.parametrize("kind", [ServerConfig, SandboxConfig, HostConfig])
def test_a_file_that_cannot_be_read(tmp_path: Path, kind: Any) -> None:
    with pytest.raises(ApiError, match="does not exist") as refused:
        configuration.load(tmp_path / "none.toml", kind)
    assert "flakes config schema" in refused.value.fix
    path = tmp_path / "latin.toml"
    path.write_bytes(b'hostId = "\xe9"')
    with pytest.raises(ApiError, match="cannot be read"):
        configuration.load(path, kind)


def test_an_image_of_matchlock_implies_its_provider(tmp_path: Path) -> None:
    path = tmp_path / "host.toml"
    image = 'matchlockImage = "registry.example/flakes:latest"\n'
    path.write_text(HOST + FIRST + image + FIRST.replace('"a"', '"b"') + image + 'provider = "process"\n' + FIRST)
    pools = configuration.load(path, HostConfig).pools
    assert [pool.provider for pool in pools] == ["matchlock", "process", "process"]


# ---- credential files: absolute, regular, one's own, 0600, no link


@pytest.fixture
def credential(tmp_path: Path) -> Path:
    path = tmp_path / "credential"
    path.touch(0o600)
    path.write_text("flakes_host_x.y\n")
    return path


def refused(path: Path) -> ApiError:
    with pytest.raises(ApiError) as caught:
        configuration.credential(path)
    assert (caught.value.code, bool(caught.value.fix)) == ("config_invalid", True)
    assert "flakes_host_x.y" not in caught.value.message
    return caught.value


def test_a_credential_is_read(credential: Path) -> None:
    assert configuration.credential(credential) == "flakes_host_x.y"


def test_its_path_is_absolute(credential: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(credential.parent)
    assert "credentialFile must be an absolute path" in refused(Path("credential")).message


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o700, 0o400, 0o4600])
def test_its_mode_is_0600_and_no_other(credential: Path, mode: int) -> None:
    credential.chmod(mode)
    if os.getuid() or mode & 0o400:
        error = refused(credential)
        assert f"mode {mode:04o}" in error.message
        assert error.fix == f"chmod 600 {credential}"


@pytest.mark.parametrize("target", ["credential", "nothing"])
def test_it_is_no_link(credential: Path, target: str) -> None:
    link = credential.with_name("link")
    link.symlink_to(credential.with_name(target))
    assert "not a symlink" in refused(link).message


def test_it_is_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "directory").mkdir(0o700)
    for name in ("pipe", "directory"):
        assert "regular file" in refused(tmp_path / name).message


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_it_belongs_to_its_reader(credential: Path) -> None:
    os.chown(credential, 12345, -1)
    assert "belongs to another user" in refused(credential).message


def test_it_holds_something(credential: Path) -> None:
    for text in ("", "\n", "\x1b[31m"):
        credential.write_text(text)
        assert "holds no credential" in refused(credential).message
    credential.unlink()
    assert "cannot be read" in refused(credential).message
