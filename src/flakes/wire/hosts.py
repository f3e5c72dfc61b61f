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


class HostPost(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/hosts`: a host without a credential. It gets its first by rotation."""

    name: Annotated[str, Meta(min_length=1, max_length=limits.NAME_LENGTH_MAX)] = "Flakes host"
    metadata: dict[str, Any] = {}
    auto_bind: bool = False


class HostPatch(Body, frozen=True, kw_only=True):
    """Body of `PATCH /v1/hosts/:hostId`; what is absent stays."""

    name: Annotated[str, Meta(min_length=1, max_length=limits.NAME_LENGTH_MAX)] | None = None
    metadata: dict[str, Any] | None = None
    auto_bind: bool | None = None


class Host(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    host_id: str
    name: str
    status: str
    """`created`, `online`, `offline` or `disabled`."""
    auto_bind: bool
    """It serves every project of its owner that is bound nowhere."""
    project_workspace_root: str | None = None
    disabled_at: datetime | None = None
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
    """`active`, `retired` (replaced; works until `expiresAt`), `expired` or `revoked`."""
    created_at: datetime
    expires_at: datetime | None = None
    retired_at: datetime | None = None
    revoked_at: datetime | None = None
    reason: str | None = None
    last_used_at: datetime | None = None


class Credentials(Frozen, frozen=True, kw_only=True):
    credentials: list[Credential]
    next_cursor: str | None = None


class CredentialRotate(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/hosts/:hostId/credentials/rotate`. Those replaced work for `graceS` more."""

    grace_s: Annotated[int, Meta(ge=0, le=3600)] = 60


class CredentialRotateAnswer(Frozen, frozen=True, kw_only=True):
    """`rawCredential` is shown this once."""

    host: Host
    credential: Credential
    replaced: list[Credential]
    raw_credential: str


class HostDisableAnswer(Frozen, frozen=True, kw_only=True):
    """`sandboxIds` are drained: they take nothing new, and end when what they run has ended. `applied` is
    false for a preview."""

    host: Host
    sandbox_ids: list[str]
    applied: bool


class HostDeleteAnswer(Frozen, frozen=True, kw_only=True):
    """`status` is `deleted`, or `would_delete` and `would_refuse` (with `blockers`) for a preview."""

    status: str
    host_id: str
    blockers: list[str] = []


class HostAbandon(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/hosts/:hostId/abandon`. `confirm` is the host's id: what still runs there is not
    stopped by anybody."""

    confirm: str
    reason: Annotated[str, Meta(max_length=500)] | None = None


class HostAbandonAnswer(Frozen, frozen=True, kw_only=True):
    host: Host
    sandbox_ids: list[str]
    cleared_assignments: int


class HostPrune(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/hosts/prune`: hosts that were not connected for `offlineS` and hold nothing."""

    dry_run: bool = False
    offline_s: Annotated[int, Meta(ge=0)] = 7 * 24 * 3600


class PrunedHost(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """A host that was long not connected; `blockers` say why it stays."""

    host_id: str
    name: str
    status: str
    last_seen_at: datetime | None = None
    blockers: list[str] = []


class HostPruneAnswer(Frozen, frozen=True, kw_only=True):
    """`hosts` are those deleted (or, with `dryRun`, that would be); `kept` those that something blocks."""

    dry_run: bool
    hosts: list[PrunedHost]
    kept: list[PrunedHost]


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
    resource_bounds: dict[str, Any] = {}
    available: bool
    launch_failure: str | None = None
    launch_failures: int = 0
    launch_retry_at: datetime | None = None


class HostPools(Frozen, frozen=True, kw_only=True):
    host_pools: list[HostPool]
    next_cursor: str | None = None


class SandboxPost(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/sandboxes`: a sandbox that somebody runs by hand with `flakes sandbox`."""

    name: Annotated[str, Meta(min_length=1, max_length=limits.NAME_LENGTH_MAX)]


class Cleanup(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """How getting the host to leave nothing behind goes. Without `nextAt` it is under way, or waits for
    the host to connect."""

    state: str
    """`asked`, `waiting` (for `nextAt`), or `host_offline`."""
    attempts: int
    next_at: datetime | None = None
    last_error: str | None = None


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
    cleanup: Cleanup | None = None
    last_seen_at: datetime | None = None
    created_at: datetime
    updated_at: datetime


class SandboxDrainAnswer(Frozen, frozen=True, kw_only=True):
    """Offers that nobody had accepted are taken back: `clearedAssignments` of them."""

    sandbox: Sandbox
    cleared_assignments: int


class SandboxDeleteAnswer(Frozen, frozen=True, kw_only=True):
    """`status` is `deleted` or `cleanup_queued` (or `abandoned`)."""

    status: str
    sandbox_id: str
    instance_id: str
    cleared_assignments: int


class SandboxAbandon(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/sandboxes/:sandboxId/abandon`. `confirm` is the sandbox's id: what of it still
    runs on its host is not stopped by anybody."""

    confirm: str
    reason: Annotated[str, Meta(max_length=500)] | None = None


class Sandboxes(Frozen, frozen=True, kw_only=True):
    sandboxes: list[Sandbox]
    next_cursor: str | None = None


class SandboxPostAnswer(Frozen, frozen=True, kw_only=True):
    """`rawCredential` is shown this once."""

    sandbox: Sandbox
    raw_credential: str
