"""Types of a harness, by whichever type checker is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from flakes.harness.checking.finding import Finding, Report

CHECKERS: Final = ("basedpyright", "pyright", "mypy")
TIMEOUT_S: Final = 120.0
PACKAGES: Final = Path(__file__).parents[3]
"""Where this package is, for a type checker that looks elsewhere."""
_MYPY: Final = re.compile(r"(?P<file>[^:]+):(?P<line>\d+):(?P<column>\d+): error: (?P<message>.*?)(?:  \[[\w-]+\])?$")


def check(path: Path) -> Report:
    """What the type checker says of a file; skipped where there is none."""
    name, program = _found()
    if program is None:
        return Report("types", skipped=f"none of {', '.join(CHECKERS)} is installed")
    try:
        if name == "mypy":
            return Report("types", _by_mypy(program, path))
        return Report("types", _by_pyright(program, path))
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return Report("types", skipped=f"{name} did not work: {error}")


def _found() -> tuple[str, str | None]:
    for name in CHECKERS:
        beside = Path(sys.executable).with_name(name)
        program = str(beside) if beside.exists() else shutil.which(name)
        if program is not None:
            return name, program
    return "", None


def _by_pyright(program: str, path: Path) -> list[Finding]:
    # Settings of its own: those of the directory would decide what is an error.
    with tempfile.TemporaryDirectory() as directory:
        settings = Path(directory) / "pyrightconfig.json"
        settings.write_text(json.dumps({
            "include": [str(path.absolute())], "typeCheckingMode": "standard", "extraPaths": [str(PACKAGES)],
        }))  # fmt: skip
        argv = [program, "--outputjson", "--level", "error", "--pythonpath", sys.executable, "-p", str(settings)]
        said = json.loads(_run(argv, path) or "{}")
    return [
        _finding(each["message"].split("\n")[0], each["range"]["start"]["line"] + 1, each["range"]["start"]["character"] + 1)
        for each in said.get("generalDiagnostics", ()) if each["severity"] == "error"
        and each.get("rule") not in ("reportMissingImports", "reportMissingModuleSource")
    ]  # fmt: skip


def _by_mypy(program: str, path: Path) -> list[Finding]:
    argv = [program, "--show-column-numbers", "--no-error-summary", "--python-executable", sys.executable, str(path)]
    matches = [_MYPY.match(line) for line in _run(argv, path).splitlines()]
    return [
        _finding(each["message"], int(each["line"]), int(each["column"]))
        for each in matches if each and Path(each["file"]).name == path.name
    ]  # fmt: skip


def _run(argv: list[str], path: Path) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=path.parent, check=False)
    return done.stdout


def _finding(message: str, line: int, column: int) -> Finding:
    return Finding("type_error", message, "mend the types, or say what they are", "types", line, column)
