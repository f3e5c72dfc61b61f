"""Hosts, their credentials, pools and bindings, and the sandboxes that run on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from flakes.client.transport import Transport
from flakes.wire import bindings, hosts
from flakes.wire.tasks import Reason


class FleetMethods:
    """The part of `Client` that is about machines."""

    _transport: Transport

    # Hosts

    async def list_hosts(
        self, *, limit: int | None = None, cursor: str | None = None
    ) -> hosts.Hosts:
        params = {"limit": limit, "cursor": cursor}
        return await self._transport.call("GET", "/v1/hosts", hosts.Hosts, params=params)

    async def get_host(self, host_id: str) -> hosts.Host:
        return await self._transport.call("GET", _path("hosts", host_id), hosts.Host)

    async def setup_host(self, body: hosts.HostSetup) -> hosts.HostSetupAnswer:
        """A host and its first credential, whose raw value is in this answer only."""
        return await self._transport.call(
            "POST", "/v1/hosts/setup", hosts.HostSetupAnswer, body=body, keyed=True
        )

    async def create_host(self, body: hosts.HostPost) -> hosts.Host:
        """A host without a credential; `rotate_credential` makes its first."""
        return await self._transport.call("POST", "/v1/hosts", hosts.Host, body=body, keyed=True)

    async def patch_host(
        self,
        host_id: str,
        *,
        name: str | None = None,
        metadata: dict[str, Any] | None = None,
        auto_bind: bool | None = None,
    ) -> hosts.Host:
        given = {"name": name, "metadata": metadata, "autoBind": auto_bind}
        body = {field: value for field, value in given.items() if value is not None}
        path = _path("hosts", host_id)
        return await self._transport.call("PATCH", path, hosts.Host, body=body, idempotent=True)

    async def disable_host(
        self, host_id: str, reason: str | None = None, *, dry_run: bool = False
    ) -> hosts.HostDisableAnswer:
        """Give it nothing new and drain its sandboxes; `dry_run` only says which."""
        return await self._transport.call(
            "POST", _path("hosts", host_id, "disable"), hosts.HostDisableAnswer,
            params=_preview(dry_run), body=Reason(reason=reason), idempotent=True,
        )  # fmt: skip

    async def enable_host(self, host_id: str) -> hosts.Host:
        path = _path("hosts", host_id, "enable")
        return await self._transport.call("POST", path, hosts.Host, idempotent=True)

    async def delete_host(self, host_id: str, *, dry_run: bool = False) -> hosts.HostDeleteAnswer:
        """Delete one that holds nothing, else `host_delete_blocked`; `dry_run` only says what would be."""
        return await self._transport.call(
            "DELETE", _path("hosts", host_id), hosts.HostDeleteAnswer, params=_preview(dry_run), keyed=True
        )

    async def abandon_host(
        self, host_id: str, *, confirm: str, reason: str | None = None
    ) -> hosts.HostAbandonAnswer:
        """Give up one that never returns; `confirm` is its id."""
        body = hosts.HostAbandon(confirm=confirm, reason=reason)
        path = _path("hosts", host_id, "abandon")
        return await self._transport.call(
            "POST", path, hosts.HostAbandonAnswer, body=body, keyed=True
        )

    async def prune_hosts(
        self, *, dry_run: bool = False, offline_s: int | None = None
    ) -> hosts.HostPruneAnswer:
        """Delete those that were long not connected and hold nothing; `dry_run` only says which."""
        body: dict[str, Any] = {"dryRun": dry_run}
        if offline_s is not None:
            body["offlineS"] = offline_s
        return await self._transport.call(
            "POST", "/v1/hosts/prune", hosts.HostPruneAnswer, body=body, keyed=True
        )

    async def host_pools(self, host_id: str) -> hosts.HostPools:
        path = _path("hosts", host_id, "pools")
        return await self._transport.call("GET", path, hosts.HostPools)

    # Credentials

    async def host_credentials(self, host_id: str) -> hosts.Credentials:
        path = _path("hosts", host_id, "credentials")
        return await self._transport.call("GET", path, hosts.Credentials)

    async def get_host_credential(self, host_id: str, credential_id: str) -> hosts.Credential:
        path = _path("hosts", host_id, "credentials", credential_id)
        return await self._transport.call("GET", path, hosts.Credential)

    async def rotate_credential(
        self, host_id: str, *, grace_s: int | None = None
    ) -> hosts.CredentialRotateAnswer:
        """A new credential, whose raw value is in this answer only; those it replaces work `grace_s` more."""
        body = {} if grace_s is None else {"graceS": grace_s}
        path = _path("hosts", host_id, "credentials", "rotate")
        return await self._transport.call(
            "POST", path, hosts.CredentialRotateAnswer, body=body, keyed=True
        )

    async def revoke_host_credential(
        self, host_id: str, credential_id: str, reason: str | None = None
    ) -> hosts.Credential:
        path = _path("hosts", host_id, "credentials", credential_id, "revoke")
        return await self._transport.call(
            "POST", path, hosts.Credential, body=Reason(reason=reason), idempotent=True
        )

    # Projects on hosts

    async def put_workspace_root(self, host_id: str, path: str) -> bindings.WorkspaceRoot:
        """Where the host has the directories of its projects."""
        body = bindings.WorkspaceRootPut(path=path)
        where = _path("hosts", host_id, "project-workspace-root")
        return await self._transport.call("PUT", where, bindings.WorkspaceRoot, body=body)

    async def bind_project(
        self, host_id: str, project_key: str, pool_keys: Sequence[str]
    ) -> bindings.Binding:
        """Let these pools, and no others, serve the project on this host."""
        body = bindings.BindingPut(pool_keys=list(pool_keys))
        path = _path("hosts", host_id, "project-bindings", project_key)
        return await self._transport.call("PUT", path, bindings.Binding, body=body)

    async def unbind_project(self, host_id: str, project_key: str) -> bindings.BindingDeleted:
        path = _path("hosts", host_id, "project-bindings", project_key)
        return await self._transport.call("DELETE", path, bindings.BindingDeleted, keyed=True)

    async def list_bindings(
        self, host_id: str, *, limit: int | None = None, cursor: str | None = None
    ) -> bindings.Bindings:
        params = {"limit": limit, "cursor": cursor}
        path = _path("hosts", host_id, "project-bindings")
        return await self._transport.call("GET", path, bindings.Bindings, params=params)

    # Sandboxes

    async def list_sandboxes(
        self, *, limit: int | None = None, cursor: str | None = None
    ) -> hosts.Sandboxes:
        params = {"limit": limit, "cursor": cursor}
        return await self._transport.call("GET", "/v1/sandboxes", hosts.Sandboxes, params=params)

    async def get_sandbox(self, sandbox_id: str) -> hosts.Sandbox:
        return await self._transport.call("GET", _path("sandboxes", sandbox_id), hosts.Sandbox)

    async def post_sandbox(self, name: str) -> hosts.SandboxPostAnswer:
        body = hosts.SandboxPost(name=name)
        return await self._transport.call(
            "POST", "/v1/sandboxes", hosts.SandboxPostAnswer, body=body, keyed=True
        )

    async def drain_sandbox(
        self, sandbox_id: str, reason: str | None = None
    ) -> hosts.SandboxDrainAnswer:
        """Let it take nothing new, and end when what it runs has ended."""
        return await self._ask(sandbox_id, "drain", reason)

    async def stop_sandbox(
        self, sandbox_id: str, reason: str | None = None
    ) -> hosts.SandboxDrainAnswer:
        """Let its host end it now; what it runs goes on elsewhere."""
        return await self._ask(sandbox_id, "stop", reason)

    async def delete_sandbox(self, sandbox_id: str) -> hosts.SandboxDeleteAnswer:
        """`deleted`, or `cleanup_queued` while its host cleans up; else `sandbox_delete_blocked`."""
        path = _path("sandboxes", sandbox_id)
        return await self._transport.call("DELETE", path, hosts.SandboxDeleteAnswer, keyed=True)

    async def abandon_sandbox(
        self, sandbox_id: str, *, confirm: str, reason: str | None = None
    ) -> hosts.SandboxDeleteAnswer:
        """Give up one that nobody can clean up after; `confirm` is its id."""
        body = hosts.SandboxAbandon(confirm=confirm, reason=reason)
        path = _path("sandboxes", sandbox_id, "abandon")
        return await self._transport.call(
            "POST", path, hosts.SandboxDeleteAnswer, body=body, keyed=True
        )

    async def _ask(
        self, sandbox_id: str, what: str, reason: str | None
    ) -> hosts.SandboxDrainAnswer:
        path = _path("sandboxes", sandbox_id, what)
        body = Reason(reason=reason)
        return await self._transport.call(
            "POST", path, hosts.SandboxDrainAnswer, body=body, idempotent=True
        )


def _preview(dry_run: bool) -> dict[str, Any] | None:
    return {"dryRun": "true"} if dry_run else None


def _path(*parts: str) -> str:
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)
