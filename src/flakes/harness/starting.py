"""Templates: harnesses to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from flakes.core.suggestion import did_you_mean
from flakes.harness.errors import HarnessError

TEMPLATES: Final[dict[str, str]] = {
    "paper": "An author, a critic and a rewriter in rounds, and blind judges.",
    "review-revise": "A writer, and a reviewer who sends the text back.",
    "fanout-fanin": "One worker for each item, and one that brings the results together.",
    "autowrite": "An outline, its sections at the same time, and an editor.",
    "autoresearch": "Experiments that build on the best so far.",
    "review-fix-loop": "An implementer and a reviewer, until nothing blocks.",
}
DIRECTORY: Final = Path(__file__).with_name("templates")


def create(template: str, directory: Path, file: str | None = None, *, force: bool = False) -> list[Path]:
    """Write a template and its cases, and give their paths. Raises `HarnessError` (`template_unknown`,
    `file_exists`)."""
    if template not in TEMPLATES:
        raise HarnessError(
            "template_unknown", f"there is no template {template!r}", did_you_mean(template, TEMPLATES) or f"one of {', '.join(TEMPLATES)}"
        )
    name = template.replace("-", "_")
    target = directory / (file or f"{name}.py")
    if target.suffix != ".py":
        raise HarnessError("harness_invalid", f"{target.name} is not the name of a Python file", "end it with .py")
    paths = {
        target: DIRECTORY / f"{name}.py",
        target.with_name(f"{target.stem}_cases.py"): DIRECTORY / f"{name}_cases.py",
    }
    there = [str(path) for path in paths if path.exists()]
    if there and not force:
        raise HarnessError("file_exists", f"{' and '.join(there)} exist", "choose another --file, or overwrite with --force")
    directory.mkdir(parents=True, exist_ok=True)
    for path, source in paths.items():
        path.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    return list(paths)
