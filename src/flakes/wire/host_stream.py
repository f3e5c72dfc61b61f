"""The stream between a host and the control plane: pools and inventory up, leases down.

Leases are pushed. The host answers each with a `LeaseResult`, also when it failed (F21, F23), and sends
its whole inventory on every connect, so a lost message costs one reconnect at most. All messages are
idempotent by lease or instance id.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from flakes.wire.codec import Frozen

PROTOCOL: Final = 1


class PoolAdvertisement(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """The sanitized public face of a pool; nothing local (paths, env, images, mounts) is in it."""

    pool_key: str
    provider: str
    adapter: str
    max_instances: int
    max_concurrency: int
    capabilities: list[str]
    resource_bounds: dict[str, Any] = {}
    unavailable: str = ""
    """Why the host cannot launch anything in it at present."""


class InstanceReport(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """An instance the host knows of."""

    instance_id: str
    sandbox_id: str
    pool_key: str
    state: Literal["launching", "running", "exited"]
    reason: str = ""


class Hello(Frozen, frozen=True, kw_only=True, tag_field="type", tag="hello"):
    """First frame; `boot` changes with every start of the host process."""

    protocol: int
    host_id: str
    boot: str
    version: str
    platform: str
    arch: str
    pools: list[PoolAdvertisement]
    instances: list[InstanceReport]


class LeaseResult(Frozen, frozen=True, kw_only=True, tag_field="type", tag="lease_result", omit_defaults=True):
    """How a lease went. A failed launch says why."""

    lease_id: str
    ok: bool
    reason: str = ""


class InstanceExited(Frozen, frozen=True, kw_only=True, tag_field="type", tag="instance_exited", omit_defaults=True):
    """The instance's daemon is gone: its work may start elsewhere at once. `left`: something of it could
    not be removed, and the host is to be asked again."""

    instance_id: str
    reason: str = ""
    left: bool = False


class Heartbeat(Frozen, frozen=True, kw_only=True, tag_field="type", tag="heartbeat"):
    instances: int


class BindingState(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """What the host found of one binding; `revision` is that of the binding it looked at."""

    binding_id: str
    revision: int
    available: bool
    reason: str = ""
    """A code of `BINDING_REASONS`; nothing local is in it."""


class BindingReport(Frozen, frozen=True, kw_only=True, tag_field="type", tag="binding_report"):
    """Answers `Bindings`, and is sent again for those that changed since."""

    bindings: list[BindingState]


BINDING_REASONS: Final[dict[str, str]] = {
    "workspace_root_missing": "The host has no project root.",
    "workspace_root_not_found": "The project root is not a directory of the host.",
    "workspace_not_found": "The project has no directory below the project root.",
    "workspace_not_directory": "What has the project's name below the project root is not a directory.",
    "workspace_outside_root": "The project's directory leads out of the project root.",
    "workspace_not_accessible": "The host may not read and write the project's directory.",
    "pool_unknown": "The host has none of the pools.",
}

Upstream = Hello | LeaseResult | InstanceExited | Heartbeat | BindingReport


class Welcome(Frozen, frozen=True, kw_only=True, tag_field="type", tag="welcome"):
    """`pools` maps pool keys to pool ids."""

    protocol: int
    heartbeat_s: float
    server_time_ms: int
    pools: dict[str, str]


class Launch(Frozen, frozen=True, kw_only=True, tag_field="type", tag="launch"):
    """Start a sandbox daemon. The token works for this sandbox only."""

    lease_id: str
    instance_id: str
    sandbox_id: str
    pool_key: str
    sandbox_token: str


class Stop(Frozen, frozen=True, kw_only=True, tag_field="type", tag="stop"):
    """End an instance and remove what is left of it. `drain` lets running work finish first."""

    lease_id: str
    instance_id: str
    drain: bool
    reason: str


class Binding(Frozen, frozen=True, kw_only=True):
    """A project that the host's pools may serve, to be looked at."""

    binding_id: str
    revision: int
    project_key: str
    pool_keys: list[str]


class Bindings(Frozen, frozen=True, kw_only=True, tag_field="type", tag="bindings"):
    """All bindings of the host, after every welcome and every change. The host looks at each and answers."""

    root: str | None
    bindings: list[Binding]


Downstream = Welcome | Launch | Stop | Bindings
