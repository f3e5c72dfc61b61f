"""Hosts, pools and sandboxes as the API shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta

from flakes.core import limits
from flakes.wire.codec import Body, Frozen


class HostSetup(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/hosts/setup`. `autoBind` lets the host serve every project of its owner."""

    host_name: Annotated[str, Meta(min_length=1, max_length=limits.NAME_LENGTH_MAX)] = "Flakes host"
    metadata: dict[str, Any] = {}
    auto_bind: bool = False


class Host(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    host_id: str
    name: str
    status: str
    """`created`, `online`, `offline` or `disabled`."""
    auto_bind: bool
    platform: str | None = None
    arch: str | None = None
    version: str | None = None
    last_seen_at: datetime | None = None
    metadata: dict[str, Any] = {}
    created_at: datetime
    updated_at: datetime


class Credential(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """A credential without its secret."""

    credential_id: str
    token_prefix: str
    status: str
    created_at: datetime
    expires_at: datetime | None = None


class HostSetupAnswer(Frozen, frozen=True, kw_only=True):
    """`rawCredential` is shown this once."""

    host: Host
    credential: Credential
    raw_credential: str


class Hosts(Frozen, frozen=True, kw_only=True):
    hosts: list[Host]
    next_cursor: str | None = None


class HostPool(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    pool_id: str
    host_id: str
    pool_key: str
    provider: str
    isolation: str
    """What stands between a task and the machine, in words: `no isolation` for the provider `process`."""
    adapter: str
    max_instances: int
    max_concurrency: int
    capabilities: list[str]
    available: bool
    launch_failure: str | None = None


class HostPools(Frozen, frozen=True, kw_only=True):
    host_pools: list[HostPool]
    next_cursor: str | None = None


class SandboxPost(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/sandboxes`: a sandbox that somebody runs by hand with `flakes sandbox`."""

    name: Annotated[str, Meta(min_length=1, max_length=limits.NAME_LENGTH_MAX)]


class Sandbox(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """A fleet entry: lifecycle in `status`, the link in `liveness`."""

    sandbox_id: str
    instance_id: str
    name: str
    status: str
    liveness: str
    adapters: list[str]
    capabilities: list[str]
    max_concurrency: int
    running: int = 0
    host_id: str | None = None
    pool_id: str | None = None
    provider: str | None = None
    isolation: str
    """As in the pool."""
    reason: str | None = None
    last_seen_at: datetime | None = None
    created_at: datetime
    updated_at: datetime


class Sandboxes(Frozen, frozen=True, kw_only=True):
    sandboxes: list[Sandbox]
    next_cursor: str | None = None


class SandboxPostAnswer(Frozen, frozen=True, kw_only=True):
    """`rawCredential` is shown this once."""

    sandbox: Sandbox
    raw_credential: str
