"""Running git so that only what is asked for happens.

No configuration but our own, no hook, filter, pager, helper, prompt or network. The one exception is
`users`, for the few questions that only the user's own repository can answer.
"""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

GITS_OWN: Final = (".gitignore", ".gitattributes", ".gitmodules")
PATIENCE_S: Final = 15.0
"""After so long it is looked whether git waits for something that will not come."""

_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "LC_ALL": "C",
    "GIT_LITERAL_PATHSPECS": "1",
    "HOME": "/nonexistent",
}

_KEPT = ("GIT_EXEC_PATH",)
_LOCAL = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE", "GIT_PREFIX", "GIT_SHALLOW_FILE", "GIT_GRAFT_FILE",
    "GIT_REPLACE_REF_BASE", "GIT_LITERAL_PATHSPECS", "GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS",
    "GIT_ICASE_PATHSPECS",
)  # fmt: skip
"""What says which repository is meant: the one in the directory is, also when this runs in a hook of another."""

_SETTINGS = (
    "core.fsmonitor=false",
    f"core.hooksPath={os.devnull}",
    f"core.attributesFile={os.devnull}",
    "core.protectHFS=true",
    "core.protectNTFS=true",
    "core.quotePath=false",
    "core.untrackedCache=false",
    "core.compression=1",
    "core.fsyncMethod=batch",
    "diff.ignoreSubmodules=dirty",
    "protocol.allow=never",
    "gc.auto=0",
    "maintenance.auto=false",
    "submodule.recurse=false",
    "diff.external=",
    "advice.addEmbeddedRepo=false",
)

# Bytes in the tree are the bytes on disk: no line-end, keyword, encoding or filter conversion.
_ATTRIBUTES = "* -text -eol -ident -filter -working-tree-encoding -export-subst\n"


class WorkspaceError(Exception):
    """What could not be done with files: a code of `wire.errors`, a sentence, a fix, and the paths it is about."""

    def __init__(self, code: str, message: str, fix: str = "", paths: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fix = fix
        self.paths = tuple(paths)


class GitFailed(Exception):  # noqa: N818 - a refusal
    """git refused; the message is the end of what it said."""

    def __init__(self, arguments: Sequence[str], code: int, said: bytes) -> None:
        self.code = code
        self.said = said.decode(errors="replace").strip()[-2_000:]
        super().__init__(f"git {arguments[0]} ended with {code}: {self.said}")


@dataclass(frozen=True, slots=True)
class Git:
    """A repository of ours; with `work_tree` and `index` when files are looked at."""

    directory: Path
    work_tree: Path | None = None
    index: Path | None = None

    @classmethod
    def at(cls, directory: Path) -> Git:
        """The bare repository at `directory`, made when absent."""
        git = cls(directory)
        if not (directory / "HEAD").exists():
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            git.run("init", "--quiet", "--bare", "--template=", str(directory))
        attributes = directory / "info" / "attributes"
        if not attributes.exists():
            attributes.parent.mkdir(exist_ok=True)
            attributes.write_text(_ATTRIBUTES)
        return git

    def over(self, work_tree: Path, index: Path) -> Git:
        """The same repository, looking at the files in `work_tree` through `index`."""
        return replace(self, work_tree=work_tree, index=index)

    def run(
        self, *arguments: str, stdin: bytes | Path | Iterable[str] | None = None,
        good: Sequence[int] = (0,), settings: Sequence[str] = (), to: Path | None = None,
    ) -> bytes:  # fmt: skip
        """What the command printed, unless that goes into the file `to`. `stdin` is bytes, a file, or strings
        that are each ended with a NUL byte.

        Raises `GitFailed` when it ends with a status that is not `good`, `WorkspaceError` without git.
        """
        return self.status(*arguments, stdin=stdin, good=good, settings=settings, to=to)[1]

    def status(
        self, *arguments: str, stdin: bytes | Path | Iterable[str] | None = None,
        good: Sequence[int] = (0, 1), settings: Sequence[str] = (), to: Path | None = None,
    ) -> tuple[int, bytes]:  # fmt: skip
        """The status of the command and what it printed."""
        data = stdin if isinstance(stdin, bytes | Path | None) else encode(stdin)
        command = [*self._command(settings), *arguments]
        # Nothing that git reads from the environment of whoever calls: a hook's, or a user's own experiments.
        clean = {n: v for n, v in os.environ.items() if not n.startswith("GIT_") or n in _KEPT}
        done = _execute(
            command, data, clean | _ENVIRONMENT | self._places(), to,
            looking_for=partial(_blocking, self.directory, self.work_tree),
        )  # fmt: skip
        if done.returncode not in good:
            raise GitFailed(arguments, done.returncode, done.stderr)
        return done.returncode, done.stdout

    def text(self, *arguments: str) -> str:
        """What the command printed, as one stripped line of text."""
        return self.run(*arguments).decode().strip()

    def has(self, commit: str) -> bool:
        """Whether the object is here."""
        return self.status("cat-file", "-e", commit, good=(0, 1, 128))[0] == 0

    def _command(self, settings: Sequence[str]) -> list[str]:
        pairs = [part for setting in (*_SETTINGS, *settings) for part in ("-c", setting)]
        return ["git", *pairs]

    def _places(self) -> dict[str, str]:
        places = {"GIT_DIR": str(self.directory)}
        if self.work_tree is not None:
            places["GIT_WORK_TREE"] = str(self.work_tree)
        if self.index is not None:
            places["GIT_INDEX_FILE"] = str(self.index)
        return places


def users(
    directory: Path, *arguments: str, good: Sequence[int] = (0,), prompts: bool = False, writes: bool = False
) -> bytes:
    """A question to the user's own repository at `directory`: starts none of its hooks or monitors.

    With `prompts` git may use the network, and ask the user for a password at the terminal; with `writes` it may
    take as long as it needs.
    """
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    if not prompts:
        # A question never fetches: a repository may name any program for that.
        environment |= {"GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": ""}
    for name in _LOCAL:
        environment.pop(name, None)
    safe = (
        "-c",
        "core.fsmonitor=false",
        "-c",
        f"core.hooksPath={os.devnull}",
        "-c",
        "core.quotePath=false",
    )
    done = _execute(
        ["git", "-C", str(directory), *safe, *arguments], None, environment,
        looking_for=None if prompts or writes else partial(_silent, directory),
    )  # fmt: skip
    if done.returncode not in good:
        raise GitFailed(arguments, done.returncode, done.stderr)
    return done.stdout


def encode(names: Iterable[str]) -> bytes:
    """Names, each ended with a NUL byte; odd bytes of a file's name survive."""
    return b"".join(os.fsencode(name) + b"\0" for name in names)


def split(listed: bytes) -> list[str]:
    """Names of a listing made with `-z`."""
    return [os.fsdecode(name) for name in listed.split(b"\0") if name]


def _execute(
    command: Sequence[str],
    stdin: bytes | Path | None,
    environment: dict[str, str],
    to: Path | None = None,
    looking_for: Callable[[], WorkspaceError | None] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run it. When it takes long, `looking_for` says what it may be waiting for in vain."""
    with contextlib.ExitStack() as files:
        source: Any = subprocess.PIPE
        if isinstance(stdin, Path):
            source = files.enter_context(stdin.open("rb"))
        printed: Any = subprocess.PIPE if to is None else files.enter_context(to.open("wb"))
        try:
            process = subprocess.Popen(
                command, stdin=source, stdout=printed, stderr=subprocess.PIPE, env=environment
            )
        except FileNotFoundError as problem:
            raise WorkspaceError(
                "git_missing", "git is not installed, or not on PATH", "install git 2.38 or newer"
            ) from problem
        with process:
            given = None if isinstance(stdin, Path) else stdin or b""
            try:
                out, said = process.communicate(given, PATIENCE_S if looking_for else None)
            except subprocess.TimeoutExpired:
                problem = looking_for() if looking_for else None
                if problem is not None:
                    process.kill()
                    raise problem from None
                out, said = process.communicate()
            except BaseException:
                process.kill()
                raise
    return subprocess.CompletedProcess(command, process.returncode, out or b"", said)


def _blocking(own: Path, work_tree: Path | None) -> WorkspaceError | None:
    """Pipes with the names of git's own files: it would wait for ever for somebody to write to them."""
    found = [name for name in ("info/exclude", "info/attributes") if _is_pipe(own / name)]
    if work_tree is not None:
        found += [
            os.path.relpath(f"{directory}/{name}", work_tree)
            for directory, _, names in os.walk(work_tree)
            for name in names
            if name in GITS_OWN and _is_pipe(Path(directory, name))
        ]
    if not found:
        return None
    return WorkspaceError(
        "workspace_path_refused", f"these are pipes, from which git cannot read: {', '.join(map(repr, found[:20]))}",
        "remove them", found,
    )  # fmt: skip


def _is_pipe(path: Path) -> bool:
    try:
        return stat.S_ISFIFO(path.lstat().st_mode)
    except OSError:
        return False


def _silent(directory: Path) -> WorkspaceError:
    """Why a question may have no answer: none takes so long."""
    return _blocking(directory / ".git", directory) or WorkspaceError(
        "workspace_unreadable", f"git says nothing about {directory} for {PATIENCE_S:g} s",
        "see whether `git status` ends there: a pipe in .git would hold it up",
    )  # fmt: skip
