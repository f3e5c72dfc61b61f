"""`ctx.workspace`: which files the run has selected, how they differ, and selecting others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flakes.harness.errors import HarnessError

if TYPE_CHECKING:
    from flakes.harness.replay import Replay

STALE = "workspace_base_stale"


class Workspace:
    """Workspaces are named by their ids: `result.workspace()` of a child, or what is selected."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay

    async def selected(self, ref: str = "selected") -> str | None:
        """The workspace that the run has selected; None when it has none."""
        answer = await self._replay.call("workspace.selected", {"ref": ref}, f"the workspace {ref}")
        return (answer.get("workspace") or {}).get("workspaceId")

    async def promote(
        self, label: str, workspace: str, *, base: str | None = None, ref: str = "selected",
        paths: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        """Select a workspace that was made from `base` (else from what is selected now). With `paths`, only these
        may differ. `label` says what it is, for people. Raises `HarnessError` (`workspace_base_stale`) when
        something else was selected meanwhile."""
        expected = base or await self.selected(ref)
        if expected == workspace:
            return
        body: dict[str, Any] = {"workspaceId": workspace, "ref": ref, "expectedWorkspaceId": expected}
        if paths is not None:
            body |= {"mode": "replace_bounded_paths", "paths": [_selector(each) for each in paths]}
        try:
            await self._replay.call("workspace.promote", body, f"promote {label}")
        except HarnessError as error:
            # Where an answer was lost, it is selected already.
            if error.code != STALE or await self.selected(ref) != workspace:
                raise

    async def diff(
        self, base: str | None, workspace: str, *, paths: Sequence[str] = ()
    ) -> Mapping[str, Any]:
        """How two workspaces differ: `changes` (`path`, `kind`), `changeCount`, and `patch`."""
        body: dict[str, Any] = {"workspaceId": workspace, "paths": list(paths)} | ({"base": base} if base else {})
        return await self._replay.call("workspace.diff", body, f"what {workspace} changes")

    async def commit(self, message: str = "", *, paths: Sequence[str] = ()) -> str:
        """Store the files of the harness's own directory as a workspace, and give its id."""
        body: dict[str, Any] = {"message": message, "paths": list(paths)}
        return (await self._replay.call("workspace.commit", body, "commit the files"))["workspaceId"]


def _selector(path: str) -> dict[str, str]:
    """A path that ends with a slash is everything below it."""
    return {"path": path.rstrip("/"), "kind": "prefix" if path.endswith("/") else "exact"}
