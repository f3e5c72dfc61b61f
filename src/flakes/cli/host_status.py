"""What `flakes host status` looks at: the files here, and the control plane's word."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flakes.wire.bindings import Binding
from flakes.wire.config import HostConfig, credential, load, locating
from flakes.wire.errors import ApiError
from flakes.wire.host_stream import PoolAdvertisement
from flakes.wire.hosts import Credential, Host, HostPool


@dataclass(slots=True)
class Local:
    """The config here. `problems` are what keeps the host from running."""

    path: Path
    config: HostConfig | None = None
    problems: list[ApiError] = field(default_factory=list[ApiError])
    pools: list[PoolAdvertisement] = field(default_factory=list[PoolAdvertisement])
    """As they are advertised."""
    state_dir: str | None = None
    running: bool = False

    def json(self) -> dict[str, Any]:
        config = self.config
        return {
            "config": str(self.path), "ok": not self.problems,
            "problems": [problem.body() for problem in self.problems],
            "controlPlaneUrl": config.control_plane_url if config else None,
            "hostId": config.host_id if config else None,
            "credentialFile": config.credential_file if config else None,
            "stateDir": self.state_dir, "running": self.running, "pools": self.pools,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Remote:
    """What the control plane knows of the host."""

    host: Host
    pools: list[HostPool]
    credentials: list[Credential]
    bindings: list[Binding]

    def json(self) -> dict[str, Any]:
        return {
            "host": self.host, "hostPools": self.pools, "credentials": self.credentials,
            "bindings": self.bindings,
        }  # fmt: skip


def look(path: Path) -> Local:
    """Everything wrong at once, not only the first thing."""
    from flakes.host import pools
    from flakes.host.agents import with_agents
    from flakes.host.main import is_running, state_directory
    from flakes.host.providers import PROVIDERS
    from flakes.host.uplink import stream_urls

    local = Local(path)
    providers = {name: make() for name, make in PROVIDERS.items()}
    try:
        local.config = config = with_agents(load(path, HostConfig))
    except ApiError as error:
        local.problems.append(error)
        return local
    hidden = [Path(config.credential_file).resolve()]
    try:
        with locating(path):
            state_dir = state_directory(config)
        hidden.append(state_dir.resolve())
        local.state_dir = str(state_dir)
        local.running = is_running(state_dir)
    except ApiError as error:
        local.problems.append(error)
    for check in (
        lambda: stream_urls(config),
        lambda: credential(Path(config.credential_file)),
        lambda: pools.check(config.pools, providers, hidden),
    ):
        try:
            with locating(path):
                check()
        except ApiError as error:
            local.problems.append(error)
    local.pools = [pools.advertise(pool) for pool in config.pools]
    return local
