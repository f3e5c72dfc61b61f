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
    """The instance is gone and nothing of it is left: its work may start elsewhere at once."""

    instance_id: str
    reason: str = ""


class Heartbeat(Frozen, frozen=True, kw_only=True, tag_field="type", tag="heartbeat"):
    instances: int


Upstream = Hello | LeaseResult | InstanceExited | Heartbeat


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


Downstream = Welcome | Launch | Stop
