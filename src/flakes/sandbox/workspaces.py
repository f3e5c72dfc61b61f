"""The files of one attempt: made ready before it starts, and what was changed in them stored when it has ended.

The task gets ``work/``, a repository of its own in which ordinary git works. What the daemon needs to tell later
what has changed (the objects it began from, an index, a record) is in a directory beside the task's, out of its
reach. Everything after the end of the task may be done again after a kill, by a successor too: the same files
give the same commit, the same commit the same pack, and the same pack and commit are the same handle.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import posixpath
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec
import structlog

from flakes.agents.base import AgentError
from flakes.core.keys import is_key
from flakes.core.limits import KIB, WORKSPACE_CHANGES_MAX, WORKSPACE_PACKS_MAX
from flakes.sandbox.blobs import BlobClient, RefusedError
from flakes.sandbox.bubblewrap import PACKAGE
from flakes.sandbox.directory import TaskDirectory
from flakes.sandbox.isolation import Isolation
from flakes.sandbox.tools.server import Local
from flakes.wire.codec import BodyError, Frozen, decode, encode
from flakes.wire.errors import CODES, ApiError, not_found
from flakes.wire.reservations import Selector
from flakes.wire.sandbox_stream import Assignment
from flakes.wire.tasks import Output, OutputDeclaration, TaskWarning
from flakes.wire.workspaces import (
    MOUNT,
    OwnWorkspace,
    WorkspaceChange,
    WorkspaceCommit,
    WorkspaceCompare,
    WorkspaceCompared,
    WorkspaceHandle,
    WorkspacePack,
    WorkspacePost,
    path_text,
)
from flakes.workspace import looking, packs
from flakes.workspace.cache import Cache
from flakes.workspace.changes import Change, changes, in_scope, patch, picked
from flakes.workspace.checkout import check_out
from flakes.workspace.commits import commit, is_ancestor, keep, trailer, tree_of
from flakes.workspace.gathering import Gathered, gather
from flakes.workspace.git import Git, GitFailed, WorkspaceError
from flakes.workspace.merging import merge

log = structlog.get_logger(__name__)

T = TypeVar("T")
Warn = Callable[[TaskWarning], None]
PATCH_BYTES_MAX: Final = 512 * KIB
NAMED_MAX: Final = 20
"""Paths that a result names."""
BASE: Final = "Flakes-Base"
"""The trailer of a commit that names the one which the attempt began from."""


class Record(Frozen, frozen=True, kw_only=True):
    """What an attempt began from; the last thing that is written before it may start."""

    task_key: str
    run_id: str
    base: str
    """The commit, and the handle nearest to it."""
    base_workspace_id: str
    packs: list[WorkspacePack]
    """What is needed to make `tops`, oldest first."""
    tops: list[str]
    parent: str | None = None
    """The last commit that the task itself asked for: what is stored later is made from it."""


class Ended(Frozen, frozen=True, kw_only=True):
    """How the task itself ended well: what a successor needs to go on from there."""

    text: str
    exit_code: int | None
    started_at_ms: int
    next_line: int
    """Of its log."""


class Workspace:
    """See the module. `prepare` first; the rest any number of times."""

    def __init__(
        self, assignment_id: str, directory: TaskDirectory, cache: Cache, blobs: BlobClient,
        *, isolation: Isolation | None = None,
    ) -> None:  # fmt: skip
        """`isolation`: the task is kept by it from what this daemon may read."""
        self._isolation = isolation
        self._assignment_id = assignment_id
        self._directory = directory
        self._place = directory.store
        self._cache = cache
        self._blobs = blobs
        self._alone = asyncio.Lock()
        """Guards the index: the task may ask while it is being ended."""

    @property
    def record(self) -> Record | None:
        """What the attempt in the directory began from, if it has files."""
        try:
            return decode((self._place / "record.json").read_bytes(), Record)
        except (OSError, BodyError):
            return None

    @property
    def ending(self) -> Ended | None:
        """How the task in the directory ended, if it ended well and its files are not stored yet."""
        try:
            return decode((self._place / "ending.json").read_bytes(), Ended)
        except (OSError, BodyError):
            return None

    def note(self, ending: Ended) -> None:
        """Write down that the task has ended well; blocking."""
        self._write("ending.json", encode(ending))

    def _write(self, name: str, content: bytes) -> None:
        part = self._place / f"{name}.part"
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._place / name)

    # ---- before the task

    async def prepare(self, assignment: Assignment, *, again: OwnWorkspace | None = None) -> None:
        """Make ``work/`` and the other mounts; ``work/`` as an earlier attempt had left it, when that is given.
        Raises `AgentError` (`workspace_conflict`, ...)."""
        inputs = dict(assignment.workspace_inputs)
        named = inputs.pop(MOUNT, None)
        given = assignment.workspace
        first = named or (given.handle if given is not None else None)
        merged = given.merge if given is not None and named is None else []
        if first is None and not inputs and again is None:
            return
        begins = [again.handle] if again is not None else [*([first] if first else []), *merged]
        self._place.mkdir(parents=True, mode=0o700)
        store = Git.at(self._place / "objects.git")
        for handle in [*begins, *inputs.values()]:
            await self._fetch(handle, store)
        await apart(self._mount, store, inputs)
        if again is not None:
            await apart(self._make_again, store, assignment, again)
        elif first is not None:
            await self._made(store, assignment, first, merged)
        await asyncio.to_thread(self._cache.trim)

    async def _made(
        self, store: Git, assignment: Assignment, first: WorkspaceHandle, merged: Sequence[WorkspaceHandle]
    ) -> None:
        try:
            await apart(self._make, store, assignment, first, merged)
        except AgentError as error:
            # Whoever has each of them beside it compares them, and needs no merge.
            given = assignment.workspace
            beside = {
                handle.workspace_id for mount, handle in assignment.workspace_inputs.items() if mount != MOUNT
            }
            apiece = {handle.workspace_id for handle in (first, *merged)} <= beside
            if error.code != "workspace_conflict" or not apiece or given is None or given.selected is None:
                raise
            selected = await self._blobs.workspace(given.selected.workspace_id)
            await self._fetch(selected, store)
            await apart(self._make, store, assignment, selected, ())

    async def _fetch(self, handle: WorkspaceHandle, store: Git) -> None:
        for pack in handle.packs:
            if await apart(self._cache.take, pack.digest, store):
                continue
            incoming = self._place / "incoming"
            try:
                await self._blobs.download_pack(pack.digest, incoming, pack.size_bytes)
            except RefusedError as error:
                raise AgentError(
                    "workspace_packs_missing", f"the files of {handle.workspace_id} are gone: {error}",
                    "begin the run again from the files as they are",
                ) from error  # fmt: skip
            await apart(self._cache.add, pack.digest, incoming, store)
            incoming.unlink()

    def _mount(self, store: Git, inputs: Mapping[str, WorkspaceHandle]) -> None:
        for mount, handle in inputs.items():
            target = self._directory.root / mount
            if not is_key(mount) or target.exists():
                raise AgentError(
                    "workspace_path_refused", f"files cannot be mounted as {mount!r}",
                    "choose another name in `workspaceInputs`",
                )  # fmt: skip
            check_out(store, handle.commit, target, self._place / f"index.{mount}")

    def _make(
        self,
        store: Git,
        assignment: Assignment,
        first: WorkspaceHandle,
        merged: Sequence[WorkspaceHandle],
    ) -> None:
        base = first.commit
        for handle in merged:
            base = _brought_together(store, base, handle)
        self._directory.work.rmdir()
        check_out(store, base, self._directory.work, self._place / "index")
        handles = [first, *merged]
        record = Record(
            task_key=assignment.task_key, run_id=assignment.run_id, base=base, base_workspace_id=first.workspace_id,
            packs=list({pack.digest: pack for handle in handles for pack in handle.packs}.values()),
            tops=[handle.commit for handle in handles],
        )  # fmt: skip
        self._write("record.json", encode(record))

    def _make_again(self, store: Git, assignment: Assignment, again: OwnWorkspace) -> None:
        """As `_make`, from where the earlier attempt began, with its files as they were at its end."""
        handle = again.handle
        base = trailer(store, handle.commit, BASE) or store.text("rev-parse", f"{handle.commit}^")
        self._directory.work.rmdir()
        check_out(store, base, self._directory.work, self._place / "index", files=handle.commit)
        record = Record(
            task_key=assignment.task_key, run_id=assignment.run_id, base=base,
            base_workspace_id=again.base_workspace_id, packs=handle.packs, tops=[base, handle.commit],
            parent=handle.commit,
        )  # fmt: skip
        self._write("record.json", encode(record))

    # ---- after it, and meanwhile

    async def outputs(
        self, declared: Mapping[str, OutputDeclaration], warn: Warn
    ) -> dict[str, Output]:
        """Store what the task declared as workspace outputs, and the rest of what it changed as its candidate.
        Raises `AgentError` (`output_missing`, `workspace_path_refused`) before anything is stored."""
        wanted = {key: each for key, each in declared.items() if each.kind == "workspace"}
        record = self.record
        if record is None:
            _require_none(wanted, warn)
            return {}
        found = await self._gathered(record)
        scopes = {key: self._scope(found, each.paths) for key, each in wanted.items()}
        kept = {
            key: scope
            for key, scope in scopes.items()
            if self._holds(found, key, wanted[key], scope, warn)
        }
        outputs: dict[str, Output] = {}
        for key, scope in kept.items():
            changed = [c for c in found.changes if _covered(c.path, scope)]
            subject = f"{record.task_key}: {key}"
            handle = await self._store(record, "output", changed, subject, scope)
            outputs[key] = _described(handle, changed)
        rest = [c for c in found.changes if not any(_covered(c.path, s) for s in kept.values())]
        if rest:
            await self._store(record, "candidate", rest, record.task_key)
        left_out = {
            path: why for path, why in found.refused.items()
            if not any(_covered(path, scope) for scope in kept.values())
        }  # fmt: skip
        _warn_of(left_out, warn)
        return outputs

    def operations(self) -> Local:
        """What the task itself may ask for while it runs."""
        return {"workspace.commit": self._commit, "workspace.diff": self._compare}

    async def _commit(self, asked: WorkspaceCommit) -> WorkspaceHandle:
        """Store the files as they are; what is stored later is made from that."""
        record = self._required()
        found = await self._asked(self._looked(record))
        scope = self._scope(found, asked.paths)
        changed = [change for change in found.changes if _covered(change.path, scope)]
        refused = {path: why for path, why in found.refused.items() if _covered(path, scope)}
        if refused:
            raise ApiError(
                "workspace_path_refused", f"these may not leave the task: {_named(refused)}",
                "remove or rename them, ignore them (.gitignore), or name other paths",
                paths=[path_text(path) for path in sorted(refused)[:NAMED_MAX]],
            )  # fmt: skip
        subject = " ".join(asked.message.split()) or record.task_key
        handle = await self._asked(self._store(record, "candidate", changed, subject))
        later = msgspec.structs.replace(
            record, parent=handle.commit, base_workspace_id=handle.workspace_id, packs=handle.packs,
            tops=[*record.tops, handle.commit],
        )  # fmt: skip
        await asyncio.to_thread(self._write, "record.json", encode(later))
        return handle

    async def _compare(self, asked: WorkspaceCompare) -> WorkspaceCompared:
        """Paths that differ between two workspaces, or one and the files as they are; and how."""
        record = self._required()
        store = Git.at(self._place / "objects.git")
        base = record.base
        if asked.base is not None:
            base = await self._commit_of(store, asked.base)
        if asked.workspace_id is not None:
            to = await self._commit_of(store, asked.workspace_id)
        else:
            to = (await self._asked(self._looked(record))).tree
        return await self._asked(apart(_compared, store, base, to, asked))

    async def _commit_of(self, store: Git, workspace_id: str) -> str:
        try:
            handle = await self._blobs.workspace(workspace_id)
        except RefusedError as error:
            raise not_found("workspace") from error
        await self._asked(self._fetch(handle, store))
        return handle.commit

    async def _looked(self, record: Record) -> Gathered:
        """The files as they are while the task runs. It could put a link in the way of whoever reads them: that
        must not lead out of an isolation, so who reads them is in one too."""
        if self._isolation is None:
            return await self._gathered(record)
        async with self._alone:
            return await apart(self._look, self._isolation, record)

    def _look(self, isolation: Isolation, record: Record) -> Gathered:
        store, work = Git.at(self._place / "objects.git"), self._directory.work
        scratch, own = self._place / "looking", self._place / "looked"
        for path in (scratch, own):
            path.mkdir(mode=0o700, exist_ok=True)
        command = looking.command(
            os.path.realpath(sys.executable), PACKAGE, store, record.base, work, scratch
        )
        argv = isolation.looking(scratch, (work, store.directory), command)
        return looking.look(argv, store, record.base, own)

    def _required(self) -> Record:
        record = self.record
        if record is None:
            raise ApiError(
                "workspace_none", "the task has no workspace", "start the run from files: `flakes run`"
            )  # fmt: skip
        return record

    async def _asked(self, doing: Coroutine[Any, Any, T]) -> T:
        """Troubles as the task is told of them."""
        try:
            return await doing
        except AgentError as error:
            code = error.code if error.code in CODES else "internal_error"
            raise ApiError(code, error.message, error.fix, **(error.details or {})) from error
        except RefusedError as error:
            raise ApiError("internal_error", str(error), "ask again") from error

    async def candidate(self, warn: Warn) -> WorkspaceHandle | None:
        """Store everything that was changed, whatever was declared; None when nothing was."""
        record = self.record
        if record is None:
            return None
        found = await self._gathered(record)
        _warn_of(found.refused, warn)
        if not found.changes:
            return None
        return await self._store(record, "candidate", found.changes, record.task_key)

    async def _gathered(self, record: Record) -> Gathered:
        store = Git.at(self._place / "objects.git")
        async with self._alone:
            return await apart(
                gather, store, record.base, self._directory.work, self._place / "index"
            )

    def _scope(self, found: Gathered, paths: Sequence[str]) -> list[Selector]:
        """Declared paths: a directory, or one that ends with `/`, is everything below it; none is everything."""
        store = Git.at(self._place / "objects.git")
        scope: list[Selector] = []
        for given in paths or ["."]:
            path = posixpath.normpath(given.strip("/") or ".")
            below = (
                given.endswith("/")
                or path == "."
                or any(store.has(f"{commit}:{path}/") for commit in (found.tree, found.base))
            )
            scope.append(Selector(path=path, kind="prefix" if below else "exact"))
        return scope

    def _holds(
        self,
        found: Gathered,
        key: str,
        declared: OutputDeclaration,
        scope: Sequence[Selector],
        warn: Warn,
    ) -> bool:
        """Whether the output is there and may leave."""
        bad = {path: why for path, why in found.refused.items() if _covered(path, scope)}
        if bad:
            error = AgentError(
                "workspace_path_refused", f"the output `{key}` holds what may not leave the task: {_named(bad)}",
                "remove or rename these paths, or ignore them (.gitignore)",
                details={"paths": sorted(bad)[:NAMED_MAX]},
            )  # fmt: skip
        elif declared.paths and not self._present(found, scope):
            error = AgentError(
                "output_missing", f"the task ended without its declared output `{key}`: nothing is at"
                f" {', '.join(declared.paths[:NAMED_MAX])}",
                "change these files in the working directory, or declare it with `required: false`",
            )  # fmt: skip
        else:
            return True
        if declared.required:
            raise error
        message = f"{error.message}; it is optional and left out"
        warn(TaskWarning(code=error.code, message=message, output=key))
        return False

    def _present(self, found: Gathered, scope: Sequence[Selector]) -> bool:
        store = Git.at(self._place / "objects.git")
        return any(_covered(change.path, scope) for change in found.changes) or any(
            store.has(f"{found.tree}:{each.path}") for each in scope
        )

    async def _store(
        self,
        record: Record,
        kind: Literal["output", "candidate"],
        changed: Sequence[Change],
        subject: str,
        scope: Sequence[Selector] | None = None,
    ) -> WorkspaceHandle:
        made, packed = await apart(self._packed, record, changed, subject)
        chain = [pack for pack in packed if isinstance(pack, WorkspacePack)]
        for pack, path in [each for each in packed if not isinstance(each, WorkspacePack)]:
            await self._blobs.upload_pack(path, pack.digest)
            chain.append(pack)
            await asyncio.to_thread(path.unlink, missing_ok=True)
        store = Git.at(self._place / "objects.git")
        post = WorkspacePost(
            commit=made, tree=await apart(tree_of, store, made), kind=kind, packs=chain,
            base_workspace_id=record.base_workspace_id,
            paths=None if scope is None else list(scope),
            changes=[_change(each) for each in changed[:WORKSPACE_CHANGES_MAX]],
            change_count=len(changed),
        )  # fmt: skip
        return await self._blobs.store_workspace(self._assignment_id, post)

    def _packed(
        self, record: Record, changed: Sequence[Change], subject: str
    ) -> tuple[str, list[WorkspacePack | tuple[WorkspacePack, Path]]]:
        """The commit of these changes, and the packs that make it: those that are stored, then a new file."""
        store = Git.at(self._place / "objects.git")
        # Not over the work tree: nothing there is looked at, and the task may be running.
        nothing = self._place / "nothing"
        nothing.mkdir(exist_ok=True)
        scratch = store.over(nothing, self._place / "index.scratch")
        tree = picked(scratch, record.base, changed)
        # Of this attempt and no other: what another left is another commit, were the files the same.
        trailers = {
            "Flakes-Run": record.run_id, "Flakes-Task": record.task_key,
            "Flakes-Assignment": self._assignment_id, BASE: record.base,
        }  # fmt: skip
        parents = [record.parent or record.base]
        made = commit(store, tree, subject, parents=parents, trailers=trailers)
        keep(store, made)
        whole = len(record.packs) >= WORKSPACE_PACKS_MAX
        path = self._place / f"{made}.pack"
        size_bytes = packs.pack(store, made, without=[] if whole else record.tops, to=path)
        with path.open("rb") as content:
            digest = f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"
        new = WorkspacePack(digest=digest, size_bytes=size_bytes)
        return made, [*([] if whole else record.packs), (new, path)]


def taken_up(assignment: Assignment, *, converses: bool) -> OwnWorkspace | None:
    """What an attempt goes on from. Only who looks at what is there can take up what was interrupted anywhere;
    others go on from where they yielded."""
    return next(
        (own for own in assignment.own_workspaces if converses or own.after == "yielded"), None
    )


async def salvage(workspace: Workspace, warn: Warn, patience_s: float | None) -> None:
    """Store what an attempt had changed that did not end well. What goes wrong is a warning: the attempt has its
    outcome already."""
    try:
        async with asyncio.timeout(patience_s):
            await workspace.candidate(warn)
    except (AgentError, RefusedError, OSError, TimeoutError) as error:
        message = f"what the task had changed could not be stored: {error or type(error).__name__}"
        log.warning("candidate not stored", reason=str(error))
        warn(TaskWarning(code="workspace_not_stored", message=message))


async def apart(do: Callable[..., T], *arguments: Any) -> T:
    """Do it in a thread; when cancelled, not before it has ended: nobody removes files under it."""
    task = asyncio.ensure_future(_translated(do, *arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            await asyncio.wait({task})
        raise


async def _translated(do: Callable[..., T], *arguments: Any) -> T:
    try:
        return await asyncio.to_thread(do, *arguments)
    except WorkspaceError as problem:
        details = {"paths": [path_text(path) for path in problem.paths[:NAMED_MAX]]}
        lost = problem.code in ("git_missing", "workspace_pack_damaged")
        raise AgentError(
            problem.code, problem.message, problem.fix, lost=lost, details=details if problem.paths else None
        ) from problem  # fmt: skip
    except GitFailed as problem:
        raise AgentError("workspace_broken", str(problem), lost=True) from problem


def _compared(store: Git, base: str, to: str, asked: WorkspaceCompare) -> WorkspaceCompared:
    found = changes(store, base, to)
    if asked.paths:
        wanted = [posixpath.normpath(path.strip("/") or ".") for path in asked.paths]
        scope = [Selector(path=path, kind="prefix") for path in wanted]
        found = [change for change in found if _covered(change.path, scope)]
    lines = b""
    if asked.patch and found:
        lines = patch(store, base, to, [change.path for change in found] if asked.paths else ())
    return WorkspaceCompared(
        changes=[_change(each) for each in found[:WORKSPACE_CHANGES_MAX]], change_count=len(found),
        patch=lines[:PATCH_BYTES_MAX].decode("utf-8", "replace"),
        patch_cut=len(lines) > PATCH_BYTES_MAX,
    )  # fmt: skip


def _brought_together(store: Git, base: str, handle: WorkspaceHandle) -> str:
    """The commit that has both; raises `WorkspaceError` `workspace_conflict`."""
    if is_ancestor(store, handle.commit, base):
        return base
    if is_ancestor(store, base, handle.commit):
        return handle.commit
    both = merge(store, base, handle.commit)
    if both.conflicts:
        shown = ", ".join(path_text(path) for path in both.conflicts[:NAMED_MAX])
        raise WorkspaceError(
            "workspace_conflict", f"what the dependencies left does not merge: {shown}",
            "let one of the tasks depend on the other, or let a task before this one resolve it",
            both.conflicts,
        )  # fmt: skip
    return commit(store, both.tree, "Brought together", parents=[base, handle.commit])


def _covered(path: str, scope: Sequence[Selector]) -> bool:
    return in_scope(path, [(each.kind, each.path) for each in scope])


def _require_none(wanted: Mapping[str, OutputDeclaration], warn: Warn) -> None:
    for key, declared in wanted.items():
        message = f"the output `{key}` is of kind `workspace`, and the run has no workspace"
        if declared.required:
            raise AgentError(
                "output_unsupported", message, "start the run from a repository: `flakes run`"
            )
        warn(
            TaskWarning(code="output_unsupported", message=f"{message}; it is optional and left out", output=key)
        )


def _warn_of(refused: Mapping[str, str], warn: Warn) -> None:
    if refused:
        message = f"{len(refused)} changed paths may not leave the task and are left out: {_named(refused)}"
        warn(TaskWarning(code="workspace_path_refused", message=message))


def _named(paths: Mapping[str, str]) -> str:
    some = [f"{path_text(path)!r}: {why}" for path, why in sorted(paths.items())[:NAMED_MAX]]
    return "; ".join(some) + (
        f"; and {len(paths) - NAMED_MAX} more" if len(paths) > NAMED_MAX else ""
    )


def _change(change: Change) -> WorkspaceChange:
    object_id = None if change.kind == "removed" else change.new_id
    return WorkspaceChange(path=path_text(change.path), kind=change.kind, object_id=object_id)


def _described(handle: WorkspaceHandle, changed: Sequence[Change]) -> Output:
    """A workspace output is a small JSON text that names the handle."""
    value = {
        "workspaceId": handle.workspace_id, "commit": handle.commit, "tree": handle.tree,
        "changeCount": len(changed),
        "changes": [_change(each) for each in changed[:NAMED_MAX]],
    }  # fmt: skip
    text = encode(value)
    return Output(
        kind="workspace", size_bytes=len(text), text=text.decode(),
        digest=f"sha256:{hashlib.sha256(text).hexdigest()}", workspace_id=handle.workspace_id,
    )  # fmt: skip
