"""From a file on the user's disk to what travels with a task: its text, and the files that it imports."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, Final

from flakes.core.workflow_task import HARNESS_GRANTS
from flakes.harness.errors import HarnessError
from flakes.harness.loading import Source

PROMOTE: Final = "flakes.workspace.promote"
"""The grant to select files of the run."""


def pack(path: Path) -> Source:
    """Read a module and the files beside it that it imports relatively, and those of these; raises
    `HarnessError` (`harness_invalid`) when the module itself cannot be read."""
    text = _read(path)
    files: dict[str, str] = {}
    pending = _beside(text)
    while pending:
        name = f"{pending.pop()}.py"
        file = path.parent / name
        if name not in files and name != path.name and file.is_file():
            files[name] = _read(file)
            pending += _beside(files[name])
    return Source(path.name, text, dict(sorted(files.items())))


def packed(path: Path) -> dict[str, Any]:
    """The same as the `input` of a task: `harnessFile`, `source`, `files`."""
    source = pack(path)
    found: dict[str, Any] = {"harnessFile": source.name, "source": source.text}
    return found | ({"files": dict(source.files)} if source.files else {})


def grants_of(given: Any) -> list[str]:
    """What a harness may do when its task does not say: begin children, and select files if its text does so
    anywhere. `given` is the task's `input`."""
    texts = [given.get("source", ""), *(given.get("files") or {}).values()]
    return [*HARNESS_GRANTS, *([PROMOTE] if any(map(_promotes, texts)) else [])]


def unpacked(given: Any) -> Source:
    """The module of a task's `input`; raises `HarnessError` (`harness_invalid`)."""
    text, name, files = given.get("source"), given.get("harnessFile", "harness.py"), given.get("files", {})
    good = isinstance(text, str) and isinstance(name, str) and isinstance(files, dict)
    if not good or not all(isinstance(each, str) for pair in files.items() for each in pair):
        raise HarnessError(
            "harness_invalid", "the task's input has no module", 'give `input` as {"harnessFile": NAME, "source": TEXT}'
        )
    return Source(name.rpartition("/")[2], text, files)


def _beside(text: str) -> list[str]:
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return []
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found += [node.module] if node.module else [each.name for each in node.names]
    return found


def _promotes(text: str) -> bool:
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return False
    return any(
        isinstance(node, ast.Attribute) and node.attr == "promote"
        and isinstance(node.value, ast.Attribute) and node.value.attr == "workspace"
        for node in ast.walk(tree)
    )  # fmt: skip


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise HarnessError("harness_invalid", f"{path} cannot be read: {reason}", "check the path") from error
