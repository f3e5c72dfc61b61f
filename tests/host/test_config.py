"""Configurations that cannot work are refused before anything starts, with a fix."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

from flakes.host import main
from flakes.host.instances import to_toml
from flakes.wire.config import HostConfig, PoolConfig
from flakes.wire.errors import ApiError
from host.machine import write_private


def config(tmp_path: Path, **changes: Any) -> HostConfig:
    credential = tmp_path / "host.credential"
    if not credential.exists():
        write_private(credential, "token")
    values: dict[str, Any] = {
        "control_plane_url": "http://127.0.0.1:9",
        "host_id": "host_1",
        "credential_file": str(credential),
        "state_dir": str(tmp_path / "state"),
        "pools": [PoolConfig(pool_key="here", adapter="command")],
    }
    return HostConfig(**(values | changes))


def refusal(configuration: HostConfig) -> ApiError:
    with pytest.raises(ApiError) as refused:
        main.run(configuration)
    assert refused.value.code == "config_invalid"
    assert refused.value.fix
    return refused.value


def test_a_credential_that_others_may_read_is_refused(tmp_path: Path) -> None:
    given = config(tmp_path)
    Path(given.credential_file).chmod(0o644)
    error = refusal(given)
    assert "mode 0644" in error.message
    assert error.fix == f"chmod 600 {given.credential_file}"


def test_a_credential_behind_a_symlink_is_refused(tmp_path: Path) -> None:
    config(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "host.credential")
    assert "symlink" in refusal(config(tmp_path, credential_file=str(link))).message


def test_a_credential_of_another_user_is_refused(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs to give a file away")
    given = config(tmp_path)
    os.chown(given.credential_file, 12345, 12345)
    assert "another user" in refusal(given).message


@pytest.mark.parametrize(
    ("pools", "message"),
    [
        ([], "no pools"),
        ([{"pool_key": "a", "provider": "spaceship"}], "no provider `spaceship`"),
        ([{"pool_key": "A b"}], "not a key"),
        ([{"pool_key": "a"}, {"pool_key": "a"}], "there twice"),
        ([{"pool_key": "a", "resource_bounds": {"image": "/srv/image"}}], "resourceBounds.image"),
        ([{"pool_key": "a", "resource_bounds": {"env": {"KEY": "x"}}}], "resourceBounds.env"),
        ([{"pool_key": "a", "resource_bounds": {f"k{i}": i for i in range(17)}}], "17 entries"),
    ],
)
def test_pools_that_cannot_work_are_refused(
    tmp_path: Path, pools: list[dict[str, Any]], message: str
) -> None:
    made = [PoolConfig(adapter="command", **pool) for pool in pools]
    assert message in refusal(config(tmp_path, pools=made)).message


def test_a_relative_state_directory_is_refused(tmp_path: Path) -> None:
    assert "absolute" in refusal(config(tmp_path, state_dir="state")).message


def test_the_state_directory_is_beside_the_credential_by_default(tmp_path: Path) -> None:
    assert main.state_directory(config(tmp_path, state_dir=None)) == tmp_path / "host.state"


def test_toml_that_is_written_is_read_as_it_was() -> None:
    values = {
        "text": 'a "quoted" \\ line\nnext\ttab \x7f \x01 ünïcode 🌱',
        "number": 3,
        "share": 0.5,
        "flag": True,
        "list": ["a", "b c"],
        "none": [],
        "env": {"PLAIN": "x", "WITH.DOT": "y", "with space": "", "": "empty"},
    }
    assert tomllib.loads(to_toml(values | {"absent": None})) == values
