"""Content too large for the stream, over HTTP: blobs up and down, and assignments to fetch.

Everything is retried with back-off while the control plane is away: the task's work is done, only its
delivery waits. A control plane whose disk is full is waited for a while only. Refusals that time will not mend
are raised. Paths are streamed, never held in memory.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from flakes.agents.base import AgentError
from flakes.sandbox.tools.forward import storage_full
from flakes.wire.addresses import Rotation, split
from flakes.wire.codec import decode, encode
from flakes.wire.config import SandboxConfig, credential
from flakes.wire.sandbox_stream import Assignment
from flakes.wire.workspaces import WorkspaceHandle, WorkspacePost

if TYPE_CHECKING:
    import httpx2

log = structlog.get_logger(__name__)

T = TypeVar("T")

CHUNK_BYTES: Final = 256 * 1024
RETRY_S_MAX: Final = 15.0
TIMEOUT_S: Final = 60.0


class RefusedError(Exception):
    """The server's answer is final; `status` is HTTP's."""

    def __init__(self, status: int, what: str, body: str) -> None:
        super().__init__(f"the control plane answered {status} to {what}: {body}")
        self.status = status
        self.body = body


class BlobClient:
    """The sandbox's HTTP side. The HTTP library is loaded when it is first needed."""

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config
        self._servers = Rotation(split(config.control_plane_url), random.randrange(1_000))  # noqa: S311
        self._client: httpx2.AsyncClient | None = None

    async def upload(self, path: Path, digest: str) -> None:
        """Put a file under its digest; the server may have it already."""
        await self._upload("blobs", path, digest)

    async def upload_pack(self, path: Path, digest: str) -> None:
        """Put a pack of a workspace under its digest; it may be larger than an output."""
        await self._upload("packs", path, digest)

    async def _upload(self, collection: str, path: Path, digest: str) -> None:
        size = str(path.stat().st_size)

        async def put() -> None:
            client = self._open()
            response = await client.put(
                f"{self._base()}/{collection}/{digest}",
                content=_chunks(path),
                headers=self._headers() | {"content-length": size},
            )
            if response.status_code not in (200, 201):
                raise RefusedError(response.status_code, "an upload", response.text[:500])

        await self._persist("blob upload", put)

    async def download(self, digest: str, target: Path, size_bytes_max: int | None = None) -> None:
        """Fetch a blob into a file and check that it is what its digest says, and not larger than said."""
        await self._download("blobs", digest, target, size_bytes_max)

    async def download_pack(self, digest: str, target: Path, size_bytes: int) -> None:
        """Fetch a pack of a workspace likewise."""
        await self._download("packs", digest, target, size_bytes)

    async def _download(
        self, collection: str, digest: str, target: Path, size_bytes_max: int | None
    ) -> None:

        async def get() -> None:
            client = self._open()
            hashed, left = hashlib.sha256(), size_bytes_max
            url = f"{self._base()}/{collection}/{digest}"
            async with client.stream("GET", url, headers=self._headers()) as response:
                if response.status_code != 200:
                    body = (await response.aread()).decode("utf-8", "replace")
                    raise RefusedError(response.status_code, "a download", body[:500])
                with target.open("wb") as file:
                    async for chunk in response.aiter_bytes(CHUNK_BYTES):
                        hashed.update(chunk)
                        file.write(chunk)
                        if left is not None and (left := left - len(chunk)) < 0:
                            break
            if f"sha256:{hashed.hexdigest()}" != digest:
                raise AgentError(
                    "input_damaged", f"the bytes that came for {digest} are not those", lost=True
                )

        await self._persist("blob download", get)

    async def store_workspace(self, assignment_id: str, post: WorkspacePost) -> WorkspaceHandle:
        """Store a handle whose packs are uploaded; the same one again is the same handle."""
        return await self._json(
            "POST", f"assignments/{assignment_id}/workspaces", WorkspaceHandle, post
        )

    async def workspace(self, workspace_id: str) -> WorkspaceHandle:
        """A handle that the run has to do with."""
        return await self._json("GET", f"workspaces/{workspace_id}", WorkspaceHandle)

    async def _json(self, method: str, path: str, kind: type[T], body: object = None) -> T:
        found: list[T] = []

        async def ask() -> None:
            client = self._open()
            content = None if body is None else encode(body)
            response = await client.request(
                method, f"{self._base()}/{path}", content=content,
                headers=self._headers() | {"content-type": "application/json"},
            )  # fmt: skip
            if response.status_code not in (200, 201):
                raise RefusedError(response.status_code, f"{method} {path}", response.text[:500])
            found.append(decode(response.content, kind))

        await self._persist(path.partition("/")[0], ask)
        return found[0]

    async def assignment(self, assignment_id: str) -> Assignment:
        """An assignment that was too large for the stream."""
        found: list[Assignment] = []

        async def get() -> None:
            client = self._open()
            url = f"{self._base()}/assignments/{assignment_id}"
            response = await client.get(url, headers=self._headers())
            if response.status_code != 200:
                raise RefusedError(response.status_code, "an assignment", response.text[:500])
            found.append(decode(response.content, Assignment))

        await self._persist("assignment fetch", get)
        return found[0]

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def _persist(self, what: str, attempt: Callable[[], Awaitable[None]]) -> None:
        import httpx2

        tries = 0
        full_s: float | None = None
        while True:
            try:
                await attempt()
            except httpx2.TransportError as error:
                reason = str(error) or type(error).__name__
            except RefusedError as error:
                if error.status < 500 and error.status not in (408, 425, 429):
                    raise
                full_s = (full_s or time.monotonic()) if storage_full(error.body.encode()) else None
                if full_s is not None and time.monotonic() - full_s > self._config.storage_full_s:
                    raise AgentError(
                        "storage_full", f"the disk of the server is full: {what} was refused for too long",
                        "free some space there, and retry the task", retryable=True,
                    ) from error  # fmt: skip
                reason = str(error)
            else:
                return
            self._servers.turn()
            delay_s = random.uniform(0, min(RETRY_S_MAX, 0.2 * 2**tries))  # noqa: S311
            tries += 1
            log.info("will try again", what=what, delay_s=round(delay_s, 2), reason=reason)
            await asyncio.sleep(delay_s)

    def _base(self) -> str:
        return f"{self._servers.current}/v1/sandboxes/{self._config.sandbox_id}"

    def _open(self) -> httpx2.AsyncClient:
        import httpx2

        if self._client is None:
            self._client = httpx2.AsyncClient(timeout=httpx2.Timeout(TIMEOUT_S, connect=10.0))
        return self._client

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {credential(Path(self._config.credential_file))}"}


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
