"""Routes of a host's credentials: listed, rotated, revoked."""

from __future__ import annotations

from collections.abc import Sequence

from flakes.server.plane import Plane
from flakes.server.routing import Call, Endpoint
from flakes.store import host_credentials, hosts
from flakes.wire.errors import ApiError
from flakes.wire.hosts import Credential, CredentialRotate, CredentialRotateAnswer, Credentials
from flakes.wire.tasks import Reason


async def listed(call: Call) -> Credentials:
    """List the credentials of a host, without their secrets."""
    host_id = call.path["hostId"]
    async with call.plane.database.connection() as conn:
        await hosts.get(conn, call.owner_id, host_id)
        return Credentials(credentials=await host_credentials.listed(conn, call.owner_id, host_id))


async def get(call: Call) -> Credential:
    """Read a credential of a host, without its secret."""
    host_id, credential_id = call.path["hostId"], call.path["hostCredentialId"]
    async with call.plane.database.connection() as conn:
        return await host_credentials.get(conn, call.owner_id, host_id, credential_id)


async def rotate(call: Call) -> CredentialRotateAnswer:
    """Make a credential in place of those in use; the raw one is in this answer only."""
    host_id = call.path["hostId"]
    async with call.plane.database.transaction() as conn:
        host = await hosts.lock(conn, call.owner_id, host_id)
        if host.disabled_at is not None:
            raise ApiError("host_conflict", "the host is disabled", "enable it first")
        credential, replaced, raw = await host_credentials.rotate(
            conn, call.owner_id, host_id, call.body.grace_s
        )
        data = {
            "hostId": host_id, "credentialId": credential.credential_id,
            "replaced": [each.credential_id for each in replaced],
        }  # fmt: skip
        await hosts.record(conn, call.owner_id, "host.credential_created", data)
    await _revoked(call.plane, replaced)
    call.plane.wrote()
    return CredentialRotateAnswer(
        host=host, credential=credential, replaced=replaced, raw_credential=raw
    )


async def revoke(call: Call) -> Credential:
    """Revoke a credential of a host; a stream that was opened with it ends within seconds."""
    host_id, credential_id = call.path["hostId"], call.path["hostCredentialId"]
    reason = call.body.reason or ""
    async with call.plane.database.transaction() as conn:
        await hosts.lock(conn, call.owner_id, host_id)
        before = await host_credentials.get(conn, call.owner_id, host_id, credential_id)
        credential = await host_credentials.revoke(
            conn, call.owner_id, host_id, credential_id, reason
        )
        if before.revoked_at is None:
            data = {"hostId": host_id, "credentialId": credential_id, "reason": reason}
            await hosts.record(conn, call.owner_id, "host.credential_revoked", data)
    await _revoked(call.plane, [credential])
    call.plane.wrote()
    return credential


async def _revoked(plane: Plane, credentials: Sequence[Credential]) -> None:
    """What was opened with those that are revoked ends here at once; other replicas look for them."""
    token_ids = [each.credential_id for each in credentials if each.status == "revoked"]
    await plane.after(lambda: plane.revoked(token_ids))


_BASE = "/v1/hosts/{hostId}/credentials"

ENDPOINTS = [
    Endpoint("GET", _BASE, listed, Credentials, tag="hosts"),
    Endpoint("POST", _BASE + "/rotate", rotate, CredentialRotateAnswer, CredentialRotate, tag="hosts",
             secret=True, direct=True, errors=("host_conflict", "limit_exceeded")),
    Endpoint("GET", _BASE + "/{hostCredentialId}", get, Credential, tag="hosts"),
    Endpoint("POST", _BASE + "/{hostCredentialId}/revoke", revoke, Credential, Reason, tag="hosts"),
]  # fmt: skip
