"""An assignment's directory: its layout and its environment.

``work/`` (the working directory: empty at first, or the files of the run; see `workspaces`), ``brief.md``, ``inputs/<task>/<output>``,
``inputs/artifacts/<name>``, ``outputs/``,
``inbox.jsonl``, ``tmp/``, ``state/`` (what the task keeps beside its work, such as its workpad), ``bin/``
(the `flakes` command of the task, first on its PATH), and for an agent ``home/`` (its own, with copies of
the user's credentials) and ``session/`` (its conversation with itself, see `sessions`). It is made anew for every attempt and removed when
the result is acknowledged. What comes into the environment is listed here (and, for the socket, in
`tools.place`) and nowhere else: nothing is inherited by accident.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from flakes.agents.base import AgentError
from flakes.core.keys import is_key
from flakes.core.limits import MIB
from flakes.core.project_root import workspace_path
from flakes.sandbox.processes import MARK
from flakes.sandbox.tools import place
from flakes.wire.config import SandboxConfig
from flakes.wire.sandbox_stream import Assignment, InputArtifact
from flakes.wire.tasks import ARTIFACTS, TaskDefinition
from flakes.wire.workspaces import MOUNT

FILE_NAME_BYTES_MAX: Final = 240
"""Below what file systems take, so that tools can make names of their own from it."""
FREE_BYTES_MIN: Final = MIB
"""With less than this free, a task's failure is put down to the full disk."""


class TaskDirectory:
    """The paths of one assignment."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work = root / "work"
        self.brief = root / "brief.md"
        self.inputs = root / "inputs"
        self.outputs = root / "outputs"
        self.tmp = root / "tmp"
        self.inbox = root / "inbox.jsonl"
        self.state = root / "state"
        self.bin = root / "bin"
        self.home = root / "home"
        self.session = root / "session"
        self.store = root.parent.with_name("workspaces") / root.name
        """What the daemon keeps of the task's files, where the task cannot reach it; see `workspaces`."""

    def create(self, brief: str) -> None:
        """Make it, empty; a directory that an earlier attempt left under the same id is removed."""
        self.remove()
        for path in (self.work, self.inputs, self.outputs, self.tmp, self.state):
            path.mkdir(parents=True, mode=0o700)
        self.brief.write_text(brief)
        self.inbox.touch(0o600)

    def input_path(self, task_key: str, output_key: str) -> Path:
        """Where an input goes; refuses what is not a key, so that no name leaves the directory."""
        if not (is_key(task_key) and is_key(output_key)):
            raise AgentError("input_invalid", f"`{task_key}/{output_key}` is not a pair of keys")
        path = self.inputs / task_key / output_key
        path.parent.mkdir(exist_ok=True)
        return path

    def artifact_paths(self, artifacts: Sequence[InputArtifact]) -> dict[str, Path]:
        """Where input artifacts go, by id: under their own names where these are file names that nothing
        else there has, else under their ids. Makes the directory."""
        directory = self.inputs / ARTIFACTS
        directory.mkdir(exist_ok=True)
        return {key: directory / name for key, name in artifact_names(artifacts).items()}

    def reclaim(self) -> None:
        """Remove what is written anew for a task that has ended already, whatever it made of these places:
        nothing is ever written through a link that it may have left. Blocking."""
        place.remove(self.root)
        for path in (self.bin, self.root / place.LINK):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def room_bytes(self) -> int:
        """How much may be written before the file system is full."""
        stat = os.statvfs(self.root)
        return stat.f_bavail * stat.f_frsize

    def remove(self) -> None:
        """Remove everything, also what a task left without rights for us; blocking."""
        place.remove(self.root)
        # First: a directory without it is found at the next start, it without a directory is not.
        shutil.rmtree(self.store, ignore_errors=True)
        if self.root.exists():
            shutil.rmtree(self.root, onerror=_make_removable)

    def remove_home(self) -> None:
        """Remove an agent's home, and with it its copies of credentials; blocking."""
        if self.home.is_symlink():
            self.home.unlink()
        elif self.home.exists():
            shutil.rmtree(self.home, onerror=_make_removable)

    def is_disk_full(self) -> bool:
        """Whether the file system is (almost) out of space or of files."""
        try:
            stat = os.statvfs(self.root)
        except OSError:
            return False
        out_of_files = stat.f_files > 0 and stat.f_favail == 0
        return stat.f_bavail * stat.f_frsize < FREE_BYTES_MIN or out_of_files


def artifact_names(artifacts: Sequence[InputArtifact]) -> dict[str, str]:
    """The file name of each input artifact, by its id; see `TaskDirectory.artifact_paths`."""
    taken = {each.artifact_id.casefold() for each in artifacts}
    names: dict[str, str] = {}
    for each in artifacts:
        name = each.name or ""
        if not _is_file_name(name) or name.casefold() in taken:
            name = each.artifact_id
        taken.add(name.casefold())
        names[each.artifact_id] = name
    return names


def _is_file_name(name: str) -> bool:
    """Whether it is a plain name on every system: one segment, nothing hidden, nothing that prints badly."""
    plain = (
        name.isprintable() and not set(name) & set('/\\:*?"<>|') and not name.startswith((".", "-"))
    )
    return plain and 0 < len(name.encode("utf-8", "replace")) <= FILE_NAME_BYTES_MAX


def directory_of(state_dir: Path, assignment_id: str) -> TaskDirectory:
    """Where an assignment's files are; its id is one path segment, whatever the server sends."""
    name = (
        assignment_id if assignment_id.replace("_", "").isalnum() else assignment_id.encode().hex()
    )
    return TaskDirectory(state_dir / "assignments" / name)


def disk_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_full_error(path: Path) -> AgentError:
    return AgentError(
        "disk_full",
        f"the disk that holds {path} is full",
        "free some space on the sandbox's machine, or move `stateDir` to a larger disk",
    )


def environment(
    config: SandboxConfig,
    assignment: Assignment,
    definition: TaskDefinition,
    directory: TaskDirectory,
    own: Mapping[str, str],
) -> dict[str, str]:
    """The complete environment of the task's processes. Later layers win: what is inherited from the
    daemon (`own`), the configuration, the task, and last the names that Flakes sets itself."""
    env = {name: own[name] for name in config.inherit_env if name in own}
    env |= config.env
    env |= _task_env(definition)
    env |= {
        "FLAKES_RUN_ID": assignment.run_id,
        "FLAKES_RUN_KEY": assignment.run_key,
        "FLAKES_PROJECT_KEY": assignment.project_key,
        "FLAKES_TASK_ID": assignment.task_id,
        "FLAKES_TASK_KEY": assignment.task_key,
        MARK: assignment.assignment_id,
        "FLAKES_ATTEMPT": str(assignment.attempt),
        "FLAKES_BRIEF": str(directory.brief),
        "FLAKES_INPUTS": str(directory.inputs),
        "FLAKES_OUTPUTS": str(directory.outputs),
        "FLAKES_INBOX": str(directory.inbox),
        "FLAKES_WORK_DIR": str(directory.work),
        "FLAKES_STATE_DIR": str(directory.state),
        **({"FLAKES_WORKSPACE": str(directory.work)} if has_files(assignment) else {}),
        "PATH": os.pathsep.join((str(directory.bin), env.get("PATH") or os.defpath)),
        "TMPDIR": str(directory.tmp),
    }
    source = assignment.run_metadata.get("sourceDir")
    if isinstance(source, str) and source and "\0" not in source:
        env["FLAKES_SOURCE_DIR"] = source
    project = _project_directory(config, assignment.project_key)
    if project is not None:
        env["FLAKES_PROJECT_DIR"] = str(project)
    return env


def _project_directory(config: SandboxConfig, project_key: str) -> Path | None:
    """What this machine has of the project, where tasks can see it."""
    if config.project_root is None or not is_key(project_key):
        return None
    path = Path(workspace_path(config.project_root, project_key))
    if config.isolation.kind == "bubblewrap":
        shown = [Path(each) for each in config.isolation.read_only]
        if not any(each == path or each in path.parents for each in shown):
            return None
    return path if path.is_dir() else None


def has_files(assignment: Assignment) -> bool:
    """Whether the task's working directory holds the files of its run."""
    return assignment.workspace is not None or MOUNT in assignment.workspace_inputs


def _task_env(definition: TaskDefinition) -> dict[str, str]:
    values = (definition.input or {}).get("env", {})
    fix = 'give `env` as an object of strings: {"env": {"NAME": "value"}}'
    if not isinstance(values, dict):
        raise AgentError("input_invalid", "`env` in input must be an object", fix)
    for name, value in values.items():
        if not name or "=" in name or "\0" in name:
            raise AgentError("input_invalid", f"`{name}` in `env` is not a variable's name", fix)
        if not isinstance(value, str) or "\0" in value:
            raise AgentError("input_invalid", f"`{name}` in `env` must be a string", fix)
    return dict(values)


def _make_removable(function: object, path: str, info: object) -> None:
    """Give ourselves the rights to a directory that a task closed, then try once more."""
    target = Path(path)
    try:
        target.parent.chmod(0o700)
        if target.is_dir() and not target.is_symlink():
            target.chmod(0o700)
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)
    except OSError:
        pass  # what stays is only a directory too many; the name is never used again
