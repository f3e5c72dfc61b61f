"""A look at the files of a running task, from within an isolation of its own.

While a task runs it could put a link in the way of whoever reads its files. So this runs where nothing is to be
seen but these files, git, and the objects that the task began from, all read-only, and a scratch directory. Its
answer, on standard output, is a line of JSON and a pack; whoever asked believes neither before they are checked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from flakes.workspace.capture import unfit
from flakes.workspace.changes import changes
from flakes.workspace.gathering import Gathered, gather
from flakes.workspace.git import Git, GitFailed, WorkspaceError
from flakes.workspace.packs import pack, take_in

LOOK_S: Final = 120.0
HEAD_BYTES_MAX: Final = 1 << 20
REFUSED_MAX: Final = 1_000
_START: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); from flakes.workspace.looking import main; main(*sys.argv[2:])"
)


def command(python: str, package: Path, store: Git, base: str, work: Path, scratch: Path) -> list[str]:
    """What to run inside."""
    places = (package.parent, store.directory, base, work, scratch)
    return [python, "-I", "-c", _START, *map(str, places)]


def main(store: str, base: str, work: str, scratch: str) -> None:
    """Gather, and answer."""
    git = Git.at(Path(scratch, "objects.git"))
    (git.directory / "objects" / "info" / "alternates").write_text(f"{store}/objects\n")
    try:
        found = gather(git, base, Path(work), Path(scratch, "index"))
        path = Path(scratch, "pack")
        pack(git, found.tree, without=[base], to=path)
    except (WorkspaceError, GitFailed) as problem:
        said = problem if isinstance(problem, WorkspaceError) else None
        code, paths = (said.code, said.paths) if said else ("workspace_unreadable", ())
        answer = {"code": code, "message": str(problem)[:2_000], "paths": list(paths[:REFUSED_MAX])}
        sys.stdout.write(json.dumps(answer) + "\n")
        return
    refused = dict(list(found.refused.items())[:REFUSED_MAX])
    sys.stdout.write(json.dumps({"tree": found.tree, "refused": refused}) + "\n")
    sys.stdout.flush()
    with path.open("rb") as content:
        while piece := content.read(1 << 20):
            sys.stdout.buffer.write(piece)


def look(argv: list[str], store: Git, base: str, scratch: Path) -> Gathered:
    """Run that, isolated as `argv` says, and take in what it answers. `scratch` is for this process alone.
    Raises `WorkspaceError`."""
    answer = scratch / "answer"
    env = {"PATH": os.environ.get("PATH", os.defpath)}
    with answer.open("wb") as file:
        try:
            ran = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.PIPE, env=env,
                timeout=LOOK_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as problem:
            raise _failed(f"it took more than {LOOK_S:g} s") from problem
    if ran.returncode != 0:
        raise _failed(ran.stderr.decode(errors="replace").strip()[-1_000:])
    with answer.open("rb") as file:
        head = _head(file.readline(HEAD_BYTES_MAX))
        packed = scratch / "pack"
        with packed.open("wb") as rest:
            while piece := file.read(1 << 20):
                rest.write(piece)
    tree = str(head["tree"])
    if len(tree) != 40 or not set(tree) <= set("0123456789abcdef"):
        raise _failed("it named no tree")
    if not store.has(f"{tree}^{{tree}}"):
        take_in(store, packed)
    changed = changes(store, base, tree)
    refused = {str(path): str(why) for path, why in head["refused"].items()}
    bad = unfit(store, tree, [change.path for change in changed])
    refused |= {p: why for p, why in bad.items() if not why.startswith("it differs only by case")}
    return Gathered(base, tree, tuple(c for c in changed if c.path not in refused), refused)


def _head(line: bytes) -> Mapping[str, dict[str, str]]:
    try:
        head = json.loads(line)
    except ValueError as problem:
        raise _failed("its answer is not understood") from problem
    if "code" in head:
        code = head["code"] if head["code"] in ("workspace_path_refused", "workspace_file_too_large") else "workspace_unreadable"
        raise WorkspaceError(code, str(head["message"]), "remove or rename them", [str(p) for p in head["paths"]])
    return head


def _failed(why: str) -> WorkspaceError:
    return WorkspaceError(
        "workspace_unreadable", f"the files could not be looked at while the task runs: {why}",
        "ask again, or end the task: what it changed is kept",
    )  # fmt: skip
