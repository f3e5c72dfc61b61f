"""The files of an agent's program: what it must see of the machine to start."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path


def files_of(command: Sequence[str], path: str) -> tuple[tuple[Path, Path], ...]:
    """What an agent that sees little of the machine must see to start: what is there, and under which name
    (which may be a link's). Of a package all of its tree, of a script its interpreter too."""
    found: dict[Path, Path] = {}
    for word in command:
        named = shutil.which(word, path=path) if word == command[0] else word
        if named is None or not Path(named).is_absolute() or not Path(named).exists():
            continue
        _note(Path(named), found)
        if (name := _interpreter(Path(named))) and (program := shutil.which(name, path=path)):
            _note(Path(program), found)
    return tuple((real, seen) for seen, real in found.items())


def _note(named: Path, found: dict[Path, Path]) -> None:
    real = named.resolve()
    parts = real.parts
    if "node_modules" in parts:
        tree = Path(*parts[: parts.index("node_modules") + 1])
        found[tree] = tree
        if not named.is_relative_to(tree):
            found[named] = real
    else:
        found[real] = real
        found[named] = real


def _interpreter(script: Path) -> str:
    """The program that a script's first line names; empty for anything else."""
    try:
        with script.open("rb") as file:
            head = file.read(256)
    except OSError:
        return ""
    if not head.startswith(b"#!"):
        return ""
    words = head[2:].split(b"\n")[0].decode("utf-8", "replace").split()
    if words and Path(words[0]).name == "env":
        words = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
    return words[0] if words else ""
