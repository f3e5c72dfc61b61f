"""Workspaces through the API: handles, packs, and what a run has selected.

A handle is stored with the packs that the server does not have yet. Packs come back as files, each checked
against its digest; one that broke off goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from urllib.parse import quote

from flakes.client.artifacts import ArtifactMethods
from flakes.wire import workspaces
from flakes.wire.artifacts import ArtifactPost
from flakes.wire.errors import ApiError

INLINE_BYTES_MAX = 4 * 1024**2
"""A pack up to this size comes with one request."""


class WorkspaceMethods(ArtifactMethods):
    """The part of `Client` that is about workspaces."""

    async def create_workspace(self, body: workspaces.WorkspacePost) -> workspaces.WorkspaceHandle:
        """Store a handle; `workspace_packs_missing` names the packs that have to be uploaded first."""
        return await self._transport.call(
            "POST", "/v1/workspaces", workspaces.WorkspaceHandle, body=body, idempotent=True
        )

    async def store_workspace(
        self, body: workspaces.WorkspacePost, packs: Mapping[str, Path]
    ) -> tuple[workspaces.WorkspaceHandle, int]:
        """Store a handle and those of its packs (files by digest) that the server lacks; bytes uploaded."""
        try:
            return await self.create_workspace(body), 0
        except ApiError as error:
            if error.code != "workspace_packs_missing":
                raise
            missing = [digest for digest in error.details.get("missing", []) if digest in packs]
            if len(missing) != len(error.details.get("missing", [])):
                raise
        uploaded = 0
        for digest in missing:
            uploaded += await self._upload_pack(digest, packs[digest])
        return await self.create_workspace(body), uploaded

    async def _upload_pack(self, digest: str, path: Path) -> int:
        size_bytes = path.stat().st_size
        inline = path.read_bytes() if size_bytes <= INLINE_BYTES_MAX else None
        made = await self.create_artifact(
            ArtifactPost(
                kind=workspaces.PACK_KIND, name="workspace.pack", digest=digest, size_bytes=size_bytes,
                bytes_base64=inline,
            )
        )  # fmt: skip
        if inline is None:
            try:
                await self.upload_artifact(path, artifact_id=made.artifact_id)
            except ApiError as error:
                # Whoever stored the same files at the same time has taken the pack over.
                if error.code != "not_found":
                    raise
        return size_bytes

    async def get_workspace(self, workspace_id: str) -> workspaces.WorkspaceHandle:
        return await self._transport.call("GET", _path(workspace_id), workspaces.WorkspaceHandle)

    async def workspace_diff(
        self,
        workspace_id: str,
        *,
        base: str | None = None,
        patches: bool = True,
        renames: bool = False,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> workspaces.WorkspaceDiff:
        """A page of what differs from the handle `base`, by default the one that it was made from. With
        `renames`, what was moved is one file with its old path."""
        params = {
            "base": base, "patches": None if patches else "false", "renames": "true" if renames else None,
            "limit": limit, "cursor": cursor,
        }  # fmt: skip
        path = _path(workspace_id, "diff")
        return await self._transport.call("GET", path, workspaces.WorkspaceDiff, params=params)

    async def download_pack(
        self, workspace_id: str, pack: workspaces.WorkspacePack, target: Path
    ) -> None:
        """Fetch one pack of a handle into a file, over breaks; `digest_mismatch` when it is not the one."""
        path = _path(workspace_id, "packs", pack.digest)
        pieces = self._content(path, {}, pack.digest, pack.size_bytes)
        with target.open("wb") as file:
            async with aclosing(pieces):
                async for piece in pieces:
                    file.write(piece)

    async def run_workspaces(
        self,
        run: str,
        *,
        task_id: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        conflicts: bool = False,
    ) -> workspaces.RunWorkspaces:
        """Refs, promotions, and a page of the handles that the run's tasks stored, newest first; with
        `conflicts` also which of them would not merge."""
        params = {
            "taskId": task_id, "limit": limit, "cursor": cursor, "conflicts": "true" if conflicts else None,
        }  # fmt: skip
        path = f"/v1/runs/{quote(run, safe='')}/workspaces"
        return await self._transport.call("GET", path, workspaces.RunWorkspaces, params=params)

    async def promote(self, run: str, body: workspaces.PromotionPost) -> workspaces.Promoted:
        """Move a ref of the run; `workspace_base_stale` when it is not what was expected."""
        path = f"/v1/runs/{quote(run, safe='')}/promotions"
        return await self._transport.call(
            "POST", path, workspaces.Promoted, body=body, idempotent=True
        )


def _path(workspace_id: str, *rest: str) -> str:
    return "/".join(("/v1/workspaces", quote(workspace_id, safe=""), *rest))
