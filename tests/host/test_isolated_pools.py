"""Pools of isolating providers on a real host: what is advertised, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flakes.host import pools
from flakes.host.providers import PROVIDERS
from flakes.wire.config import Network, PoolConfig
from flakes.wire.errors import ApiError
from flakes.wire.host_stream import Hello, LeaseResult
from host.control_plane import ControlPlane, launch, stop
from host.machine import Machine
from sandbox.bwrap import needs_bubblewrap


def refusal(tmp_path: Path, **fields: Any) -> str:
    pool = PoolConfig(pool_key="here", adapter="command", **fields)
    with pytest.raises(ApiError) as refused:
        pools.check([pool], {name: make() for name, make in PROVIDERS.items()}, [tmp_path / "state"])
    assert refused.value.code == "config_invalid"
    assert refused.value.fix
    return refused.value.message


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"network": Network(allow=["pypi.org"])}, "network: the provider `process` does not act on it"),
        ({"read_only": ["/opt"]}, "readOnly: the provider `process` does not act on it"),
        ({"matchlock_image": "x"}, "matchlockImage: the provider `process` does not act on it"),
        ({"provider": "bubblewrap", "mounts": ["/a:/b"]}, "mounts: the provider `bubblewrap` does not act on it"),
        ({"provider": "bubblewrap", "network": Network(allow=["http://x"])}, "network.allow: `http://x` is not"),
        ({"provider": "bubblewrap", "read_only": ["/"]}, "readOnly: / would show"),
        ({"provider": "bubblewrap", "read_only": ["/no/such"]}, "readOnly: /no/such is not the absolute path"),
        ({"provider": "bubblewrap", "executable_paths": {"bwrap": "bwrap"}}, "executablePaths.bwrap: bwrap is not"),
        ({"provider": "bubblewrap", "resource_bounds": {"memoryMb": 0.5}}, "resourceBounds.memoryMb: `0.5`"),
        ({"provider": "bubblewrap", "resource_bounds": {"processes": True}}, "resourceBounds.processes: `True`"),
    ],
)  # fmt: skip
def test_what_would_be_ignored_or_cannot_be_is_refused(
    tmp_path: Path, fields: dict[str, Any], says: str
) -> None:
    assert says in refusal(tmp_path, **fields)


def test_a_machine_that_cannot_isolate_says_so_and_never_runs_it_without(
    control_plane: ControlPlane, machine: Machine
) -> None:
    """Here the program fails as it does where user namespaces are forbidden."""
    program = machine.directory / "bwrap"
    program.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    program.chmod(0o755)
    machine.configure(
        pool_more=f'provider = "bubblewrap"\n[pools.executablePaths]\nbwrap = "{program}"\n'
    )
    machine.start(real=True)
    (pool,) = control_plane.next(Hello).pools
    assert pool.provider == "bubblewrap"
    assert "No permissions to create new namespace" in pool.unavailable
    control_plane.send(launch())
    result = control_plane.next(LeaseResult)
    assert not result.ok
    assert "No permissions to create new namespace" in result.reason
    assert control_plane.daemons == []
    assert machine.leftovers() == []


@needs_bubblewrap
def test_an_isolated_pool_becomes_an_isolating_daemon(
    control_plane: ControlPlane, machine: Machine
) -> None:
    machine.configure(
        pool_more='provider = "bubblewrap"\nresourceBounds = { memoryMb = 256 }\n'
        '[pools.network]\nallow = ["pypi.org"]\n'
    )
    machine.start(real=True)
    (pool,) = control_plane.next(Hello).pools
    assert (pool.provider, pool.unavailable) == ("bubblewrap", "")
    # Where tasks may go is nobody's business but this machine's.
    assert b"pypi.org" not in b"".join(control_plane.raw)
    control_plane.send(launch())
    assert control_plane.next(LeaseResult).ok
    hello = control_plane.daemon(1)
    assert hello.isolation == "namespaces (bubblewrap)"
    assert hello.limits in ("enforced", "partly")
    sandbox = (machine.instance() / "sandbox.toml").read_text()
    assert f'hidden = {json.dumps([str(machine.state.resolve()), str(machine.credential.resolve())])}' in sandbox
    control_plane.send(stop())
    assert control_plane.next(LeaseResult).ok
    assert machine.leftovers() == []


def test_without_isolation_it_is_said(control_plane: ControlPlane, machine: Machine) -> None:
    machine.start(real=True)
    control_plane.next(Hello)
    control_plane.send(launch())
    assert control_plane.next(LeaseResult).ok
    hello = control_plane.daemon(1)
    assert (hello.isolation, hello.limits) == ("no isolation", "none")
    assert "no isolation" in machine.log.read_text()
