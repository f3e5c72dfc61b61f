"""Workspace handles: files as an immutable git commit, and the packs of objects that it can be made from.

A handle names a commit of ours, never one of the user's repository. Whoever has the packs of its chain, in
order, can make the files on any machine. A run selects one handle under a name; promotions move that by
comparing with what it was.
"""

from __future__ import annotations

import os
from datetime import datetime
from typing import Annotated, Final, Literal

from msgspec import Meta

from flakes.core import limits
from flakes.wire.artifacts import Digest
from flakes.wire.codec import Body, Frozen
from flakes.wire.merging import WorkspaceMerge
from flakes.wire.overlaps import WorkspaceOverlap
from flakes.wire.reservations import Selector

MOUNT: Final = "work"
"""Where a task finds the files: this directory of its own."""
SELECTED: Final = "selected"
"""The ref of a run that its tasks begin from, and that results are taken from."""
PACK_KIND: Final = "workspace-pack"
"""The kind of the artifact that brings a pack: it is gone once a handle names the pack."""

ObjectId = Annotated[str, Meta(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})\Z")]
RefName = Annotated[
    str, Meta(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*\Z", max_length=limits.KEY_LENGTH_MAX)
]
Kind = Literal["snapshot", "output", "candidate", "merged"]
"""The user's files; what a task declared; everything else it changed; several brought together."""
Mode = Literal["replace_bounded_paths", "fast_forward"]
Omitted = Literal["binary", "too_large", "not_asked", "submodule"]
"""Why there is no patch of a path."""
Path = Annotated[str, Meta(max_length=limits.WORKSPACE_PATH_LENGTH_MAX)]


class WorkspacePack(Body, frozen=True, kw_only=True):
    """A git pack, complete in itself: no object of it is a difference to one outside."""

    digest: Digest
    size_bytes: Annotated[int, Meta(ge=1, le=limits.WORKSPACE_PACK_SIZE_BYTES_MAX)]


class WorkspaceChange(Body, frozen=True, kw_only=True, omit_defaults=True):
    """A path that differs from the base. `objectId` is the git blob that it has now, None when removed."""

    path: Path
    kind: Literal["added", "changed", "removed"]
    object_id: ObjectId | None = None


class WorkspacePost(Body, frozen=True, kw_only=True, omit_defaults=True):
    """A commit whose packs are stored. `packs` is everything needed to make it, oldest first."""

    commit: ObjectId
    tree: ObjectId
    kind: Kind = "snapshot"
    packs: Annotated[
        list[WorkspacePack], Meta(min_length=1, max_length=limits.WORKSPACE_PACKS_MAX)
    ]
    base_workspace_id: str | None = None
    """The handle that it was made from: its commit is an ancestor of this one."""
    head: ObjectId | None = None
    """The commit that was checked out in the user's repository."""
    paths: Annotated[list[Selector], Meta(max_length=limits.WORKSPACE_SCOPE_MAX)] | None = None
    """It differs from its base in these at most; None: anywhere."""
    changes: Annotated[
        list[WorkspaceChange], Meta(max_length=limits.WORKSPACE_CHANGES_MAX)
    ] = []
    """Where it differs from its base: the first ones, in git's order."""
    change_count: Annotated[int, Meta(ge=0)] = 0
    """How many there are in all."""
    run_id: str | None = None
    """An id or a key; a snapshot has none, because any number of runs may begin from it."""


class WorkspaceHandle(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """See the module. Immutable."""

    workspace_id: str
    kind: Kind
    commit: str
    tree: str
    packs: list[WorkspacePack]
    base_workspace_id: str | None = None
    head: str | None = None
    paths: list[Selector] | None = None
    change_count: int = 0
    changes: list[WorkspaceChange] | None = None
    """Only where one handle is read."""
    run_id: str | None = None
    task_id: str | None = None
    assignment_id: str | None = None
    created_at: datetime


class WorkspaceRef(Frozen, frozen=True, kw_only=True):
    """What a run has selected under a name. The version counts from 1."""

    name: str
    workspace_id: str
    version: int
    updated_at: datetime


class WorkspacePromotion(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """One move of a ref. The first, made with the run, has no `fromWorkspaceId`."""

    ref: str
    version: int
    from_workspace_id: str | None = None
    to_workspace_id: str
    mode: Literal["initial", "replace_bounded_paths", "fast_forward"]
    paths: list[Selector] | None = None
    user_id: str | None = None
    assignment_id: str | None = None
    """Who moved it: a person, or an attempt."""
    task_key: str | None = None
    """Of the attempt, where promotions are listed."""
    promoted_at: datetime


class PromotionPost(Body, frozen=True, kw_only=True, omit_defaults=True):
    """Move a ref to a handle that was made from what the ref is now."""

    workspace_id: str
    ref: RefName = SELECTED
    expected_workspace_id: str | None = None
    """What the ref has to be still; None: it is not there yet."""
    mode: Mode = "fast_forward"
    paths: Annotated[
        list[Selector], Meta(min_length=1, max_length=limits.WORKSPACE_SCOPE_MAX)
    ] | None = None
    """For `replace_bounded_paths`: what may change. Without it, what the handle itself declares."""


class Promoted(Frozen, frozen=True, kw_only=True):
    """Answer of a promotion."""

    ref: WorkspaceRef
    promotion: WorkspacePromotion


class PredictedConflict(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """What a task has left would not merge with what is selected, or with what another one has left."""

    workspace_id: str
    task_id: str
    task_key: str
    with_workspace_id: str
    with_task_id: str | None = None
    with_task_key: str | None = None
    """None: it is what is selected."""
    paths: list[str]
    """The first 20."""
    count: int


class RunWorkspaces(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """Refs of a run, a page of its tasks' handles (newest first), and the last 200 promotions (newest first)."""

    refs: list[WorkspaceRef]
    workspaces: list[WorkspaceHandle]
    promotions: list[WorkspacePromotion]
    merges: list[WorkspaceMerge] = []
    """What becomes of the handles on this page, and of all others that are not settled."""
    overlaps: list[WorkspaceOverlap] = []
    """Tasks that changed the same files, or what another had reserved, while both ran: the last 200."""
    predicted: list[PredictedConflict] | None = None
    """Which handles that are not brought in would conflict; only where `conflicts` was asked for."""
    next_cursor: str | None = None


class WorkspaceFileDiff(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """One path that differs. A patch that is not UTF-8 comes as `patchBase64`; why there is none says `omitted`.
    `renamed` there is only where it is asked for: then `oldPath` is where it was, and `alikePercent` how much of it
    is as it was."""

    path: str
    kind: Literal["added", "changed", "removed", "renamed"]
    old_path: str | None = None
    alike_percent: int | None = None
    old_mode: str
    new_mode: str
    old_size_bytes: int | None = None
    new_size_bytes: int | None = None
    added_lines: int | None = None
    removed_lines: int | None = None
    patch: str | None = None
    patch_base64: bytes | None = None
    omitted: Omitted | None = None


class WorkspaceDiff(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """A page of what differs between two handles, in git's order. `fileCount` is of all pages."""

    base_workspace_id: str
    workspace_id: str
    file_count: int
    files: list[WorkspaceFileDiff]
    next_cursor: str | None = None


class WorkspaceCommit(Body, frozen=True, kw_only=True, omit_defaults=True):
    """Operation `workspace.commit`: store the files of the task as they are now, as its candidate."""

    message: Annotated[str, Meta(max_length=1_000)] = ""
    paths: Annotated[list[Path], Meta(max_length=limits.WORKSPACE_SCOPE_MAX)] = []
    """Only these files, and what is below these directories; none: everything that has changed."""


class WorkspaceSelect(Body, frozen=True, kw_only=True, omit_defaults=True):
    """Operation `workspace.selected`."""

    ref: RefName = SELECTED


class WorkspaceSelected(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """What a run has selected under a name; nothing when it has no such ref."""

    ref: WorkspaceRef | None = None
    workspace: WorkspaceHandle | None = None


class WorkspaceCompare(Body, frozen=True, kw_only=True, omit_defaults=True):
    """Operation `workspace.diff`: from `base` (else from what the task began with) to `workspaceId` (else to the
    files of the task as they are now)."""

    base: str | None = None
    workspace_id: str | None = None
    paths: Annotated[list[Path], Meta(max_length=limits.WORKSPACE_SCOPE_MAX)] = []
    patch: bool = True
    """With the lines that differ, and not only the paths."""


class WorkspaceCompared(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """Paths that differ, the first 2,000, and a patch that git can apply, the first 512 KiB of it."""

    changes: list[WorkspaceChange]
    change_count: int
    patch: str = ""
    patch_cut: bool = False


class AssignedWorkspace(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """The files that a task begins from: `handle`, and into it, in this order, those of `merge`."""

    mount: str = MOUNT
    handle: WorkspaceHandle
    merge: list[WorkspaceHandle] = []
    selected: WorkspaceRef | None = None
    """What the run has selected at the time of the offer."""


class OwnWorkspace(Frozen, frozen=True, kw_only=True):
    """What an earlier attempt of a task had changed that `yielded` or was `lost`: a later one may go on from it."""

    after: Literal["yielded", "lost"]
    handle: WorkspaceHandle
    base_workspace_id: str
    """What the task began from, at first."""


def path_text(path: str) -> str:
    """The path as text: bytes that are no UTF-8 are written as `\\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
