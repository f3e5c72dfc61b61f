"""`flakes tasks workpad pull` and `push`: the workpad as a file beside the task.

``workpad.md`` is the text, ``workpad.version`` the version that it was made from. A hidden copy of what
came last tells local edits from an older text, so that a pull never loses them.
"""

from __future__ import annotations

import json
import os
import sys

from flakes.sandbox.tools.shim.commands import Given
from flakes.sandbox.tools.shim.link import Refused, ask, refusal


def pull_(given: Given) -> int:
    """Fetch the workpad; text that was edited here and never pushed is kept as ``workpad.previous.md``."""
    _state_dir()
    answer = ask("workpad.read", {})
    text, version = str(answer["bodyMarkdown"]), answer["version"]
    edited = _read("workpad.md")
    if edited is not None and edited not in (text, _read(".workpad.base.md")):
        _write("workpad.previous.md", edited)
        sys.stderr.write(f"your unsaved text is kept as {_path('workpad.previous.md')}\n")
    _write("workpad.md", text)
    _remember(text, version)
    _say(given, version, f"{_path('workpad.md')} (version {version})")
    return 0


def push_(given: Given) -> int:
    """Save the file as the next version. On a conflict the other version is put beside it."""
    text = _read("workpad.md")
    if text is None:
        raise refusal(
            "usage", f"there is no {_path('workpad.md')}",
            "write it, or fetch what there is with `flakes tasks workpad pull`",
        )  # fmt: skip
    try:
        saved = ask("workpad.save", {"bodyMarkdown": text, "baseVersion": _base(given)})
    except Refused as refused:
        current = refused.body.get("current")
        if refused.body.get("error") == "workpad_version_conflict" and isinstance(current, dict):
            _write("workpad.current.md", str(current["bodyMarkdown"]))
            refused.body["fix"] = (
                f"merge {_path('workpad.current.md')} into workpad.md, then"
                f" `flakes tasks workpad push --base-version {current['version']}`"
            )
        raise
    _remember(text, saved["version"])
    _say(given, saved["version"], f"saved version {saved['version']}")
    return 0


def _base(given: Given) -> int:
    """The version that the text was made from; a text that was never pulled was made from nothing."""
    stated = given.values.get("--base-version")
    found = stated if stated is not None else (_read("workpad.version") or "0").strip()
    if not (found.isascii() and found.isdigit()):
        where = "--base-version" if stated is not None else _path("workpad.version")
        raise refusal("usage", f"{where} is not a version: {found[:40]!r}", "give the number that `pull` printed")
    return int(found)


def show_(given: Given) -> int:
    """The text of a task of the run, as it is."""
    if not given.paths:
        raise refusal("usage", "name a task by its key or id", "flakes tasks workpad show TASK")
    found = ask("task.workpad", {"task": given.paths[0]})
    sys.stdout.write(json.dumps(found) + "\n" if given.as_json else str(found["bodyMarkdown"]))
    return 0


def _remember(text: str, version: object) -> None:
    _write(".workpad.base.md", text)
    _write("workpad.version", f"{version}\n")


def _say(given: Given, version: object, sentence: str) -> None:
    if given.as_json:
        sys.stdout.write(json.dumps({"version": version, "path": _path("workpad.md")}) + "\n")
    else:
        sys.stdout.write(sentence + "\n")


def _state_dir() -> str:
    found = os.environ.get("FLAKES_STATE_DIR")
    if not found or not os.environ.get("FLAKES_TOOL_SOCKET"):
        raise refusal(
            "outside_task", "this command works inside a running task only",
            "run it in a task's command; outside, use `flakes tasks workpad show` and `save`",
        )  # fmt: skip
    return found


def _path(name: str) -> str:
    return os.path.join(_state_dir(), name)  # noqa: PTH118 - pathlib costs milliseconds of every start


def _read(name: str) -> str | None:
    try:
        with open(_path(name), encoding="utf-8", newline="") as file:  # noqa: PTH123
            return file.read()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise refusal("usage", f"{_path(name)} is not UTF-8: {error.reason}", "save it as UTF-8") from error


def _write(name: str, text: str) -> None:
    """Whole or not at all."""
    path = _path(name)
    with open(f"{path}.new", "w", encoding="utf-8", newline="") as file:  # noqa: PTH123
        file.write(text)
    os.replace(f"{path}.new", path)  # noqa: PTH105
