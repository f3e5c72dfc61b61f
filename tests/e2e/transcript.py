"""Transcripts of the command line: what is typed after `$`, and every line that it prints below.

`! ` marks a line on standard error, `...` in a line stands for any text, a line of `...` for any lines, and
`# exits N` after the command for its exit code. `{name}` is filled in. Runs of spaces count as one.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from e2e.stage import Ran, Stage


@dataclass(frozen=True)
class Step:
    """One command of a transcript."""

    command: str
    code: int
    out: list[str]
    err: list[str]


def steps(text: str) -> Iterator[Step]:
    """The commands of a transcript, in their order."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = part.replace("\\\n", " ").rstrip("\n").split("\n")
        command, _, code = lines[0].partition("  # exits ")
        err = [line.removeprefix("! ") for line in lines[1:] if line.startswith("! ")]
        out = [line for line in lines[1:] if line and not line.startswith("! ")]
        yield Step(command, int(code or 0), out, err)


def play(stage: Stage, text: str, names: Mapping[str, str]) -> None:
    """Type every command and hold what it does against what is written."""
    filled = re.sub(r"{(\w+)}", lambda match: names[match[1]], text)
    for step in steps(filled):
        ran = typing(stage, step.command)
        told = f"$ {step.command}\nexit code {ran.code}\n{ran.out}\n{ran.err}"
        assert ran.code == step.code, told
        assert matches(_lines(ran.out), step.out), f"{told}\nand not\n" + "\n".join(step.out)
        assert matches(_lines(ran.err), step.err), f"{told}\nand not\n" + "\n".join(step.err)


def typing(stage: Stage, line: str) -> Ran:
    """One command line, as a shell would take it apart."""
    program, *argv = shlex.split(line)
    assert program == "flakes", line
    return stage.flakes(*argv)


def matches(printed: list[str], shown: list[str]) -> bool:
    """Whether the printed lines are the shown ones."""
    if not shown:
        return not printed
    if shown[0] == "...":
        return any(matches(printed[n:], shown[1:]) for n in range(len(printed) + 1))
    if not printed:
        return False
    parts = [re.escape(part) for part in " ".join(shown[0].split()).split("...")]
    return re.fullmatch(".*".join(parts), " ".join(printed[0].split())) is not None and matches(
        printed[1:], shown[1:]
    )


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]
