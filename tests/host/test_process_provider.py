"""The process provider on its own: what belongs to an instance, and that all of it goes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flakes import processes
from flakes.host.providers.base import LaunchError, LaunchSpec
from flakes.host.providers.process import ProcessProvider
from host.control_plane import sandbox_id
from host.machine import wait

STAND_IN = Path(__file__).with_name("stand_in.py")


def spec(tmp_path: Path, mode: str) -> LaunchSpec:
    directory = tmp_path / "instance_1"
    state = directory / "state"
    state.mkdir(parents=True)
    token = directory / "token"
    token.write_text("t")
    config = directory / "sandbox.toml"
    config.write_text(f'credentialFile = "{token}"\nstateDir = "{state}"\n[env]\nMODE = "{mode}"\n')
    argv = (sys.executable, str(STAND_IN), "--config", str(config))
    return LaunchSpec("instance_1", sandbox_id(), argv, directory, directory / "daemon.log")


def brood(tmp_path: Path) -> list[int]:
    """Every process that was given a path below the test's directory."""
    mine = str(tmp_path).encode()
    return [
        pid
        for pid in processes.table()
        if any(argument.startswith(mine) for argument in processes.arguments(pid))
    ]


@pytest.fixture(autouse=True)
def nothing_stays(tmp_path: Path) -> Iterator[None]:
    yield
    while left := brood(tmp_path):
        for pid in left:
            os.kill(pid, signal.SIGKILL)


def test_stop_kills_everything_that_tries_to_get_away(tmp_path: Path) -> None:
    """F24, for what the daemon itself failed to end."""

    async def scene() -> None:
        provider = ProcessProvider()
        handle = await provider.launch(spec(tmp_path, "breed"))
        await asyncio.to_thread(wait, lambda: len(brood(tmp_path)) >= 7, "the brood")
        assert await provider.stop(handle, grace_s=0.2) == []
        assert brood(tmp_path) == []
        assert await provider.stop(handle, grace_s=0.2) == []

    asyncio.run(scene())


def test_cleanup_after_a_killed_daemon_finds_its_orphans(tmp_path: Path) -> None:
    async def scene() -> None:
        provider = ProcessProvider()
        given = spec(tmp_path, "breed")
        handle = await provider.launch(given)
        await asyncio.to_thread(wait, (given.directory / "up").exists, "the daemon")
        os.kill(handle.pid, signal.SIGKILL)
        assert await provider.wait_exit(handle) == -signal.SIGKILL
        assert brood(tmp_path) != []
        assert await provider.cleanup(given, handle.pid, handle.start) == []
        # One child shed its session, its environment, its directory and its parent: that one is
        # beyond this provider. (The real daemon's commands die with it.)
        assert len(brood(tmp_path)) <= 1

    asyncio.run(scene())


def test_a_shell_in_which_somebody_looks_around_stays(tmp_path: Path) -> None:
    async def scene() -> None:
        provider = ProcessProvider()
        given = spec(tmp_path, "stay")
        handle = await provider.launch(given)
        inner, outer = os.openpty()
        look = subprocess.Popen(
            ["setsid", "--ctty", "sleep", "60"],
            cwd=given.directory,
            stdin=outer,
            stdout=outer,
            stderr=outer,
        )
        try:
            await asyncio.to_thread(
                wait, lambda: processes.table()[look.pid].has_terminal, "the terminal"
            )
            assert await provider.stop(handle, grace_s=5) == []
            assert look.poll() is None
        finally:
            look.kill()
            look.wait()
            os.close(inner)
            os.close(outer)

    asyncio.run(scene())


def test_what_cannot_be_started_says_so(tmp_path: Path) -> None:
    async def scene() -> None:
        directory = tmp_path / "instance_1"
        directory.mkdir()
        missing = LaunchSpec(
            "instance_1", sandbox_id(), ("/no/such",), directory, directory / "log"
        )
        with pytest.raises(LaunchError, match="/no/such"):
            await ProcessProvider().launch(missing)

    asyncio.run(scene())


def test_the_hosts_own_settings_do_not_reach_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAKES_TOKEN", "mine")
    monkeypatch.setenv("ORDINARY", "yes")

    async def scene() -> None:
        provider = ProcessProvider()
        given = spec(tmp_path, "stay")
        handle = await provider.launch(given)
        # The kernel shows an environment a moment after the program has begun.
        await asyncio.to_thread(wait, (given.directory / "up").exists, "the daemon")
        seen = processes.environment(handle.pid)
        await provider.stop(handle, grace_s=5)
        assert [v for v in seen if v.startswith(b"FLAKES_")] == [
            f"FLAKES_SANDBOX_ID={sandbox_id()}".encode()
        ]
        assert b"ORDINARY=yes" in seen

    asyncio.run(scene())


@pytest.fixture(params=["kernel", "ps and polling"])
def source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != "kernel":
        monkeypatch.setattr(processes, "_has_proc", lambda: False)
        monkeypatch.setattr(processes, "_pidfd", lambda _: None)
    return request.param


@pytest.mark.usefixtures("source")
def test_processes_are_seen_and_their_end_is_noticed() -> None:
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        row = processes.read(child.pid)
        assert row
        assert (row.parent, row.group, row.zombie) == (os.getpid(), child.pid, False)
        assert not row.has_terminal
        rows = processes.table()
        assert rows[child.pid] == row
        assert child.pid in processes.descendants(rows, [os.getpid()])
        assert os.getpid() in processes.ancestors(rows, child.pid)
        assert processes.is_alive(child.pid, row.start)
        assert not processes.is_alive(child.pid, row.start + "x")

        async def scene() -> None:
            watch = asyncio.create_task(processes.ended(child.pid, row.start))
            await asyncio.wait([watch], timeout=0.3)
            assert not watch.done()
            child.kill()
            began = time.monotonic()
            await asyncio.wait_for(watch, 5)
            assert time.monotonic() - began < 1

        asyncio.run(scene())
        # Dead but not reaped: gone for us.
        assert not processes.is_alive(child.pid, row.start)
        assert child.pid not in processes.table()
    finally:
        child.kill()
        child.wait()
    assert processes.read(child.pid) is None


@pytest.mark.usefixtures("source")
def test_an_instance_is_launched_adopted_and_stopped(tmp_path: Path) -> None:
    async def scene() -> None:
        given = spec(tmp_path, "stay")
        first = ProcessProvider()
        handle = await first.launch(given)
        await asyncio.to_thread(wait, (given.directory / "up").exists, "the daemon")
        second = ProcessProvider()
        assert await second.adopt(given, handle.pid, handle.start) == handle
        assert await second.stop(handle, grace_s=5) == []
        assert await first.wait_exit(handle) == 0
        assert await second.adopt(given, handle.pid, handle.start) is None

    asyncio.run(scene())
