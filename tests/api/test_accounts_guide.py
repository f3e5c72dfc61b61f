"""docs/guide/accounts.md is true: its commands work, and print what it shows."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

import pytest

from api.caller import Api
from flakes.cli.main import run_cli

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "accounts.md"
BY_HAND = ["auth", "login"]
"""Needs somebody who approves: `test_command_line_sign_in.py` is about it."""


def examples() -> list[tuple[list[str], str]]:
    """Words of each command, and what the page shows below it."""
    found: list[tuple[list[str], str]] = []
    for block in re.findall(r"```console\n(.*?)```", GUIDE.read_text(), re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            program, *argv = shlex.split(command)
            if program == "flakes" and argv[:2] != BY_HAND:
                found.append((argv, shown))
    return found


def test_the_commands_of_the_guide_work(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert api.token is not None
    for name, value in {
        "FLAKES_SERVER": api.url, "FLAKES_TOKEN": api.token,
        "FLAKES_DATA_DIR": str(tmp_path / "data"), "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert len(examples()) == 5
    for argv, shown in examples():
        out, err = io.StringIO(), io.StringIO()
        assert run_cli(argv, out, err) == 0, (argv, err.getvalue())
        pattern = re.escape(shown).replace(re.escape("..."), ".*")
        assert re.fullmatch(pattern.removesuffix(r"\n") + r"\n?", out.getvalue(), re.DOTALL), (argv, out.getvalue())
