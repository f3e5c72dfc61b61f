"""The provider `matchlock` against an executable that behaves like it: its command line, and what can go wrong."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flakes.host.providers import matchlock
from flakes.host.providers.base import LaunchError
from flakes.host.providers.matchlock import MatchlockProvider, host_name
from flakes.wire import config as configuration
from flakes.wire.config import Network, PoolConfig, SandboxConfig
from flakes.wire.errors import ApiError
from host.machine import wait
from host.provider_cases import TOKEN, Case
from sandbox.bwrap import needs_bubblewrap


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case("matchlock", tmp_path, monkeypatch)


def program(tmp_path: Path) -> Path:
    path = tmp_path / "matchlock"
    path.write_text("#!/bin/sh\nexit 1\n")
    path.chmod(0o755)
    return path


def pool(path: Path | str, **more: Any) -> PoolConfig:
    values: dict[str, Any] = {
        "pool_key": "here", "adapter": "command", "provider": "matchlock",
        "matchlock_image": "registry.example/flakes:1", "executable_paths": {"matchlock": str(path)},
    }  # fmt: skip
    return PoolConfig(**(values | more))


def arranged(given: PoolConfig, directory: Path) -> tuple[tuple[str, ...], SandboxConfig]:
    sandbox = SandboxConfig(
        control_plane_url="https://flakes.example",
        sandbox_id="sandbox_1",
        credential_file=str(directory / "sandbox.credential"),
        state_dir=str(directory / "state"),
    )
    return MatchlockProvider().arrange(given, sandbox, ("unused",), directory, [])


def test_the_command_line_is_the_contract(tmp_path: Path) -> None:
    path = program(tmp_path)
    bounds = {"memoryMb": 8192, "cpus": 4}
    given = pool(
        path,
        mounts=["/srv/cache:/cache:ro"],
        resource_bounds=bounds,
        network=Network(allow=["pypi.org", "*.example"]),
        env={"EXAMPLE": "a-local-value"},
    )
    directory = tmp_path / "instance_1"
    argv, guest = arranged(given, directory)
    owner = ",uid=0,gid=0" if os.getuid() else ""
    assert list(argv[: argv.index("--")]) == [
        str(path), "run", "--detach", "--hostname", host_name("instance_1"), "--workspace", "/workspace",
        "-v", f"{directory}:/workspace/flakes:{f'host_fs{owner},ro' if owner else 'ro'}",
        "-v", f"{directory}/state:/workspace/state:host_fs{owner}",
        "-v", "/srv/cache:/cache:ro",
        "--allow-host", "flakes.example", "--allow-host", "pypi.org", "--allow-host", "*.example",
        "--memory", "8192", "--cpus", "4", "--image", "registry.example/flakes:1",
    ]  # fmt: skip
    assert list(argv[-4:]) == ["/usr/local/bin/flakes", "sandbox", "--config", "/workspace/flakes/sandbox.toml"]
    assert "a-local-value" not in " ".join(argv)
    assert guest.credential_file == "/workspace/flakes/sandbox.credential"
    assert guest.state_dir == "/workspace/state"
    assert (guest.isolation.kind, guest.isolation.memory_mb, guest.isolation.cpus) == ("outer", 8192, 4.0)


def test_without_a_list_the_control_plane_alone_can_be_reached(tmp_path: Path) -> None:
    """An empty list would let everything through."""
    argv, _ = arranged(pool(program(tmp_path)), tmp_path / "instance_1")
    assert [argv[i + 1] for i, word in enumerate(argv) if word == "--allow-host"] == ["flakes.example"]


def link_to(tmp_path: Path) -> Path:
    (tmp_path / "link").symlink_to(program(tmp_path))
    return tmp_path / "link"


def plain(tmp_path: Path) -> Path:
    path = program(tmp_path)
    path.chmod(0o644)
    return path


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda _: "matchlock", "is not an absolute path"),
        (lambda tmp_path: tmp_path / "absent", "No such file"),
        (lambda tmp_path: tmp_path, "is not a file"),
        (link_to, "is a symlink"),
        (plain, "is not executable"),
    ],
)
def test_the_program_must_be_a_file_itself(tmp_path: Path, make: Any, says: str) -> None:
    with pytest.raises(ApiError, match=says) as refused:
        MatchlockProvider().check(pool(make(tmp_path)), "pools[2]", [])
    assert refused.value.code == "config_invalid"
    assert refused.value.message.startswith("pools[2].executablePaths.matchlock: ")
    assert refused.value.fix


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"matchlock_image": None}, "matchlockImage: an image is needed"),
        ({"matchlock_image": "--privileged"}, "matchlockImage"),
        ({"executable_paths": {}}, "executablePaths.matchlock: the program is needed"),
        ({"mounts": ["/srv"]}, "is not source:/guest"),
        ({"mounts": ["/srv:/workspace/flakes"]}, "covers the sandbox's own"),
        ({"mounts": ["/srv:/workspace/state/x"]}, "covers the sandbox's own"),
        ({"mounts": ["/srv:/workspace/x/../flakes"]}, "is not source:/guest"),
        ({"mounts": ["SECRET:/x"]}, "would show"),
        ({"mounts": ["ABOVE:/x"]}, "would show"),
        ({"network": Network(allow=["x.example:8443"])}, "matchlock knows hosts only"),
        ({"read_only": ["/opt"]}, "readOnly: the provider `matchlock` does not act on it"),
        ({"resource_bounds": {"memoryMb": -1}}, "is not a whole number above 0"),
        ({"resource_bounds": {"cpus": "many"}}, "is not a number above 0"),
    ],
)
def test_pools_that_cannot_work_are_refused(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    secret = tmp_path / "above" / "secret"
    secret.mkdir(parents=True)
    mounts = changes.get("mounts", [])
    changes["mounts"] = [
        m.replace("SECRET", str(secret)).replace("ABOVE", str(tmp_path / "above")) for m in mounts
    ]
    given = msgspec.structs.replace(pool(program(tmp_path)), **changes)
    with pytest.raises(ApiError) as refused:
        MatchlockProvider().check(given, "pools[0]", [secret])
    assert says in refused.value.message


def test_a_program_that_does_not_work_makes_the_pool_unavailable(tmp_path: Path) -> None:
    path = program(tmp_path)
    path.write_text("#!/bin/sh\necho 'no /dev/kvm here' >&2; exit 1\n")
    reason = asyncio.run(MatchlockProvider().unavailable(pool(path)))
    assert "no /dev/kvm here" in reason


@needs_bubblewrap
def test_a_lost_answer_is_found_by_the_host_name(case: Case) -> None:
    async def scene() -> None:
        case.behave("mute")
        spec, provider = case.instance(), case.provider()
        handle = await provider.launch(spec)
        assert [path.name for path in case.machines()] == [handle.start]
        await asyncio.to_thread(wait, lambda: case.is_up(spec), "the daemon")
        assert await provider.stop(handle, 5) == []
        assert case.machines() == []

    asyncio.run(scene())


@needs_bubblewrap
def test_a_slow_launch_that_is_not_waited_for_leaves_nothing(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matchlock, "LAUNCH_S", 0.1)

    async def scene() -> None:
        case.behave("slow")
        spec, provider = case.instance(), case.provider()
        with pytest.raises(LaunchError, match=r"did not end within 0\.1 s"):
            await provider.launch(spec)
        assert await provider.cleanup(spec, 0, "") == []
        assert case.left() == []

    asyncio.run(scene())


@needs_bubblewrap
def test_what_the_guest_writes_is_not_trusted(case: Case) -> None:
    """Its state directory is the guest's: links in it lead nowhere, and nonsense is no exit code."""

    async def scene() -> None:
        spec, provider = case.instance(), case.provider()
        handle = await provider.launch(spec)
        await asyncio.to_thread(wait, lambda: case.is_up(spec), "the daemon")
        state = spec.directory / "state"
        secret = case.root / "secret"
        secret.write_text("0")
        (state / "daemon.log").unlink(missing_ok=True)
        (state / "daemon.log").symlink_to(secret)
        (state / "daemon.exit").symlink_to(secret)
        watch = asyncio.create_task(provider.wait_exit(handle))
        await asyncio.wait([watch], timeout=0.7)
        assert not watch.done()
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        assert await provider.stop(handle, 1) == []
        assert not spec.log.exists()
        assert secret.read_text() == "0"
        assert case.left() == []

    asyncio.run(scene())


@needs_bubblewrap
def test_the_daemon_sees_its_token_read_only_and_nothing_else_of_the_host(case: Case) -> None:
    async def scene() -> None:
        spec, provider = case.instance(), case.provider()
        handle = await provider.launch(spec)
        await asyncio.to_thread(wait, lambda: case.is_up(spec), "the daemon")
        call = next(call for call in case.calls() if call["argv"][0] == "run")
        volumes = [call["argv"][i + 1] for i, word in enumerate(call["argv"]) if word == "-v"]
        assert all(volume.startswith(str(spec.directory)) for volume in volumes)
        assert TOKEN not in str(case.calls())
        sandbox = configuration.load(spec.directory / "sandbox.toml", SandboxConfig)
        assert sandbox.state_dir == "/workspace/state"
        assert await provider.stop(handle, 5) == []
        # It ended because it was asked to: the wrapper wrote down how.
        assert (spec.directory / "state" / "daemon.exit").read_text().strip() == "0"

    asyncio.run(scene())
