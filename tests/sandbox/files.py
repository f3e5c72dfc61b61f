"""A user's files as the control plane would hand them out, and what tasks made of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from flakes.wire.sandbox_stream import Assignment
from flakes.wire.workspaces import AssignedWorkspace, WorkspaceHandle, WorkspacePack, WorkspacePost
from flakes.workspace import packs
from flakes.workspace.changes import changes
from flakes.workspace.commits import commit
from flakes.workspace.git import Git
from flakes.workspace.snapshot import snapshot
from sandbox.controlplane import ControlPlane, handle_of, make, shell
from workspace.theirs import repository, write


class Files:
    """A repository, and its snapshot on a control plane."""

    def __init__(self, plane: ControlPlane, tmp: Path, **files: str) -> None:
        self.plane = plane
        self.tmp = tmp
        self.root = repository(tmp / "theirs", **files)
        taken = snapshot(self.root, tmp / "captured")
        self.git = taken.git
        self.base = self._hand(taken.commit, taken.tree, [], [])

    def after(self, **files: str) -> WorkspaceHandle:
        """Another task's candidate: these files changed."""
        write(self.root, **files)
        tree = snapshot(self.root, self.tmp / "captured").tree
        for name in files:
            self._restore(name)
        made = commit(self.git, tree, "of another task", parents=[self.base.commit])
        return self._hand(made, tree, self.base.packs, [self.base.commit])

    def _restore(self, name: str) -> None:
        path = name.replace("__", "/").replace("_", ".")
        (self.root / path).write_bytes(self.git.run("cat-file", "blob", f"{self.base.commit}:{path}"))

    def _hand(
        self, made: str, tree: str, chain: list[WorkspacePack], known: list[str]
    ) -> WorkspaceHandle:
        path = self.tmp / "a.pack"
        size_bytes = packs.pack(self.git, made, without=known, to=path)
        digest = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        self.plane.blobs[digest] = path.read_bytes()
        own = [*chain, WorkspacePack(digest=digest, size_bytes=size_bytes)]
        return handle_of(WorkspacePost(commit=made, tree=tree, packs=own))

    def task(self, line: str, *merge: WorkspaceHandle, **more: Any) -> Assignment:
        """A command in the files."""
        given = AssignedWorkspace(handle=merge[0] if merge else self.base, merge=list(merge[1:]))
        return make(shell(line, **more), workspace=given)

    def stored(self, assignment: Assignment) -> dict[str, list[tuple[str, str]]]:
        """What was stored for an attempt: (kind of change, path) by kind of handle; read from its packs."""
        found: dict[str, list[tuple[str, str]]] = {}
        for post, _ in self.plane.stored.get(assignment.assignment_id, []):
            assert post.kind not in found
            git = self.repository_of(post)
            listed = [(each.kind, each.path) for each in changes(git, f"{post.commit}^", post.commit)]
            assert [(each.kind, each.path) for each in post.changes] == listed
            assert post.change_count == len(listed)
            found[post.kind] = listed
        return found

    def repository_of(self, post: WorkspacePost) -> Git:
        """A fresh repository, made of a handle's packs in order."""
        git = Git.at(self.tmp / f"{post.kind}-{post.commit}.git")
        for number, pack in enumerate(post.packs):
            path = self.tmp / f"{number}.pack"
            path.write_bytes(self.plane.blobs[pack.digest])
            assert path.stat().st_size == pack.size_bytes
            packs.take_in(git, path)
        git.run("fsck", "--strict", post.commit)
        return git

    def text(self, assignment: Assignment, path: str, kind: str = "candidate") -> str:
        """A file of what an attempt left."""
        (post,) = [p for p, _ in self.plane.stored[assignment.assignment_id] if p.kind == kind]
        return self.repository_of(post).run("cat-file", "blob", f"{post.commit}:{path}").decode()
