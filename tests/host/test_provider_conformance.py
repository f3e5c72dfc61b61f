"""What every provider does, tried with each: launch, end, death, re-adoption, refusal, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flakes import processes
from flakes.core.isolation import NONE
from flakes.host.providers import PROVIDERS
from flakes.host.providers.base import Handle, LaunchError, LaunchSpec
from host.machine import wait
from host.provider_cases import NAMES, TOKEN, Case, descriptor


@pytest.fixture(params=NAMES)
def case(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Case]:
    made = Case(request.param, tmp_path, monkeypatch)
    yield made
    rest = made.left()
    for word in rest:
        if word.isdigit():
            os.kill(int(word), 9)


async def up(case: Case, spec: LaunchSpec) -> None:
    await asyncio.to_thread(wait, lambda: case.is_up(spec), "the daemon")


async def until(condition: Callable[[], object], what: str) -> None:
    await asyncio.to_thread(wait, condition, what)


def test_every_provider_of_the_product_is_in_the_suite() -> None:
    assert set(PROVIDERS) == set(NAMES) - {"fake"}


def test_a_daemon_runs_until_it_is_stopped_and_nothing_is_left(case: Case) -> None:
    async def scene() -> None:
        provider, spec = case.provider(), case.instance()
        handle = await provider.launch(spec)
        await up(case, spec)
        exit_ = asyncio.create_task(provider.wait_exit(handle))
        await asyncio.wait([exit_], timeout=0.2)
        assert not exit_.done()
        exit_.cancel()
        await asyncio.gather(exit_, return_exceptions=True)
        assert await provider.stop(handle, grace_s=5) == []
        assert case.left() == []
        assert await provider.stop(handle, grace_s=5) == [], "once more is the same"
        assert await provider.cleanup(spec, handle.pid, handle.start) == []

    asyncio.run(scene())


def test_a_stubborn_daemon_is_killed_with_all_it_started(case: Case) -> None:
    """F24, for what a daemon failed to end."""

    async def scene() -> None:
        provider, spec = case.provider(), case.instance(mode="breed")
        handle = await provider.launch(spec)
        await up(case, spec)
        assert await provider.stop(handle, grace_s=0.2) == []
        assert case.left() == []

    asyncio.run(scene())


def test_a_daemon_that_retires_is_known_to_have_done_so(case: Case) -> None:
    async def scene() -> None:
        provider, spec = case.provider(), case.instance(mode="retire")
        handle = await provider.launch(spec)
        await up(case, spec)
        await case.retire(handle)
        assert await asyncio.wait_for(provider.wait_exit(handle), 10) == 0
        assert await asyncio.wait_for(provider.wait_exit(handle), 10) in (0, None)
        for _ in range(2):
            assert await provider.cleanup(spec, handle.pid, handle.start) == []
        assert case.left() == []

    asyncio.run(scene())


def test_a_daemon_that_dies_can_be_launched_again_on_its_directory(case: Case) -> None:
    async def scene() -> None:
        provider, spec = case.provider(), case.instance()
        handle = await provider.launch(spec)
        await up(case, spec)
        await case.die(handle)
        code = await asyncio.wait_for(provider.wait_exit(handle), 10)
        assert code != 0
        (spec.directory / "state" / "up").unlink(missing_ok=True)
        again = await provider.launch(spec)
        await up(case, spec)
        assert (again.pid, again.start) != (handle.pid, handle.start)
        assert await provider.stop(again, grace_s=5) == []
        assert await provider.cleanup(spec, handle.pid, handle.start) == []
        assert case.left() == []

    asyncio.run(scene())


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "not recorded"])
def test_after_a_restart_of_the_host_a_daemon_is_found_again(case: Case, recorded: bool) -> None:
    async def scene() -> None:
        spec, first = case.instance(), case.provider()
        handle = await first.launch(spec)
        await up(case, spec)
        second = case.provider()
        pid, start = (handle.pid, handle.start) if recorded else (0, "")
        found = await second.adopt(spec, pid, start)
        assert found is not None
        assert (found.pid, found.start) == (handle.pid, handle.start)
        watch = asyncio.create_task(second.wait_exit(found))
        assert await second.stop(found, grace_s=5) == []
        await asyncio.wait_for(watch, 10)
        await asyncio.wait_for(first.wait_exit(handle), 10)
        assert case.left() == []
        assert await case.provider().adopt(spec, handle.pid, handle.start) is None

    asyncio.run(scene())


def test_nothing_is_found_where_nothing_runs(case: Case) -> None:
    async def scene() -> None:
        spec = case.instance()
        provider = case.provider()
        assert await provider.adopt(spec, 0, "") is None
        for _ in range(2):
            assert await provider.cleanup(spec, 0, "") == []

    asyncio.run(scene())


def test_what_cannot_be_launched_says_why_and_leaves_nothing(case: Case) -> None:
    async def scene() -> None:
        reason = case.fail_next()
        spec, provider = case.instance(), case.provider()
        with pytest.raises(LaunchError, match=reason) as refused:
            await provider.launch(spec)
        assert TOKEN not in str(refused.value)
        assert case.left() == []
        assert await provider.cleanup(spec, 0, "") == []

    asyncio.run(scene())


def test_instances_side_by_side_do_not_touch_each_other(case: Case) -> None:
    async def scene() -> None:
        provider = case.provider()
        specs = [case.instance(number) for number in (1, 2, 3)]
        handles: list[Handle] = list(await asyncio.gather(*map(provider.launch, specs)))
        for spec in specs:
            await up(case, spec)
        assert await provider.stop(handles[1], grace_s=5) == []
        adopted = [await case.provider().adopt(h.spec, h.pid, h.start) for h in handles]
        assert [found is not None for found in adopted] == [True, False, True]
        for handle in handles:
            assert await provider.stop(handle, grace_s=5) == []
        assert case.left() == []

    asyncio.run(scene())


def test_the_token_is_on_no_command_line_and_the_environment_is_clean(case: Case) -> None:
    async def scene() -> None:
        provider, spec = case.provider(), case.instance()
        handle = await provider.launch(spec)
        await up(case, spec)
        assert TOKEN not in " ".join(spec.argv)
        for pid in case.alive(spec):
            assert TOKEN.encode() not in b" ".join(processes.arguments(pid))
            ours = [v for v in processes.environment(pid) if v.startswith(b"FLAKES_")]
            assert not any(b"the-hosts-own" in value for value in ours)
        if case.name == "matchlock":
            for call in case.calls():
                assert TOKEN not in str(call)
                assert set(call["env"]) - {"PWD", "LC_CTYPE", "SHLVL", "_", "OLDPWD"} == {"PATH", "HOME"}
        await provider.stop(handle, grace_s=5)

    asyncio.run(scene())


def test_isolation_and_limits_are_said(case: Case) -> None:
    provider = case.provider()
    assert provider.name == case.name
    assert provider.isolation
    assert (provider.isolation == NONE) is (case.name == "process")
    if case.name in ("fake", "matchlock"):
        return  # the one has no daemon, the other's is inside; `test_matchlock` looks there
    says = descriptor(case.instance())
    assert says["isolation"] == provider.isolation
    assert says["limits"]["degree"] in (("none",) if case.name == "process" else ("enforced", "partly"))
    assert says["limits"]["reason"]
    assert TOKEN not in str(says)


def test_it_is_available_here(case: Case) -> None:
    async def scene() -> None:
        provider = case.provider()
        provider.check(case.pool, "pools[0]", [])
        assert await provider.unavailable(case.pool) == ""

    asyncio.run(scene())
