"""`flakes skill`: what a coding agent reads to author and drive workflows."""

from __future__ import annotations

from pathlib import Path

import click

from flakes.cli.options import json_option
from flakes.cli.output import Output
from flakes.wire.errors import ApiError

SOURCE = Path(__file__).resolve().parents[2] / "harness" / "skill.md"
GUIDES = ("harnesses.md", "getting-started.md", "inside-a-task.md")


@click.group()
def skill() -> None:
    """Teach a coding agent to write and drive workflows."""


@skill.command()
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path), default=None,
    help="The directory of skills (default ~/.agents/skills).",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite a SKILL.md that was changed.")
@json_option
def install(directory: Path | None, force: bool, as_json: bool) -> None:
    """Write the skill `flakes`: SKILL.md, and the guides that it refers to."""
    target = (directory or Path.home() / ".agents" / "skills") / "flakes"
    guides = Path(__file__).resolve().parents[2] / "console" / "docs" / "guide"
    wanted = {target / "SKILL.md": SOURCE.read_text(encoding="utf-8")}
    for name in GUIDES:
        wanted[target / "references" / name] = (guides / name).read_text(encoding="utf-8")
    before = {path: path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None for path in wanted}
    changed = before[target / "SKILL.md"]
    if changed not in (None, wanted[target / "SKILL.md"]) and not force:
        raise ApiError("usage", f"{target / 'SKILL.md'} is there and differs", "look at it, and overwrite it with --force")
    status = "unchanged" if before == wanted else "installed" if changed is None else "updated"
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    output = Output(as_json)
    if as_json:
        output.data({"command": "skill install", "status": status, "files": [str(path) for path in wanted]})
    else:
        output.line(f"{status}: {target / 'SKILL.md'}")
