"""Operations on their way to the control plane, over HTTP, for as long as it takes.

A control plane that is away or busy is waited for: the task works on or waits, as it likes. One whose disk is
full is waited for a while only: somebody has to make room there, and the task had better know. Everything else
that it answers, refusals included, is the task's to read. Operations are idempotent, so one whose
answer was lost is sent again.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from flakes.wire.addresses import Rotation, is_loopback, split
from flakes.wire.config import SandboxConfig, credential
from flakes.wire.operations import OPERATIONS

if TYPE_CHECKING:
    import httpx2

log = structlog.get_logger(__name__)

TIMEOUT_S: Final = 60.0
RETRY_S_MAX: Final = 5.0
AWAY: Final = frozenset({408, 425, 429, 502, 503, 504})
"""Answers that mean: later."""


class Forwarder:
    """The operations of every task of a daemon share one. The HTTP library is loaded at the first."""

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config
        self._servers = Rotation(split(config.control_plane_url), random.randrange(1_000))  # noqa: S311
        self._client: httpx2.AsyncClient | None = None

    async def ask(self, assignment_id: str, operation: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer."""
        import httpx2

        path = f"/v1/sandboxes/{self._config.sandbox_id}/assignments/{assignment_id}/operations/{operation}"
        known = OPERATIONS.get(operation)
        once = {"idempotency-key": secrets.token_hex(16)} if known is not None and known.once else {}
        tries = 0
        full_s: float | None = None
        while True:
            try:
                url = self._servers.current + path
                response = await self._open().post(url, content=body, headers=self._headers() | once)
            except httpx2.TransportError as error:
                reason = str(error) or type(error).__name__
            else:
                if response.status_code not in AWAY:
                    return response.status_code, response.content
                full_s = (full_s or time.monotonic()) if storage_full(response.content) else None
                if full_s is not None and time.monotonic() - full_s > self._config.storage_full_s:
                    return response.status_code, response.content
                reason = f"it answered {response.status_code}"
            self._servers.turn()
            delay_s = random.uniform(0.02, min(RETRY_S_MAX, 0.1 * 2**tries))  # noqa: S311
            tries = min(tries + 1, 10)
            log.info("operation waits", operation=operation, delay_s=round(delay_s, 2), reason=reason)
            await asyncio.sleep(delay_s)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    def _open(self) -> httpx2.AsyncClient:
        import httpx2

        if self._client is None:
            # Tasks may wait for answers by the hundred; they must not keep the others from asking.
            self._client = httpx2.AsyncClient(
                timeout=httpx2.Timeout(TIMEOUT_S, connect=10.0),
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20),
                # A proxy from the environment cannot reach this machine's loopback.
                trust_env=not is_loopback(self._servers.current),
            )
        return self._client

    def _headers(self) -> dict[str, str]:
        token = credential(Path(self._config.credential_file))
        return {"authorization": f"Bearer {token}", "content-type": "application/json"}


def storage_full(body: bytes) -> bool:
    """Whether the control plane says that its disk is full."""
    try:
        found = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return False
    return isinstance(found, dict) and found.get("error") == "storage_full"
