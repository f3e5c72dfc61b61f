"""What really ran: every execution of a task notes its start and end in a file of the task, on the file system that
all machines share, and holds a lock while anything of it lives. An execution that overlaps another says so."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

_SCRIPT = """\
at={ledger}/$FLAKES_TASK_KEY
exec 9>>{ledger}/.$FLAKES_TASK_KEY.lock
flock -n 9 || echo "overlap $FLAKES_ASSIGNMENT_ID" >> $at
echo "start $FLAKES_ASSIGNMENT_ID" >> $at
{work}
echo "line of $FLAKES_TASK_KEY"
echo "end $FLAKES_ASSIGNMENT_ID" >> $at
"""


class Ledger:
    """A directory of such files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir()

    def task(self, key: str, seconds: float, **fields: Any) -> dict[str, Any]:
        """A task that takes so long, as the API takes it."""
        return self._task(key, f"sleep {seconds:.3f}", fields)

    def held(self, key: str, gate: str, **fields: Any) -> dict[str, Any]:
        """A task that takes until a gate is opened."""
        return self._task(key, f"until [ -e {self._directory}/.{gate}.open ]; do sleep 0.1; done", fields)

    def open(self, gate: str) -> None:
        """Let go of what is held there, now and later."""
        (self._directory / f".{gate}.open").touch()

    def _task(self, key: str, work: str, fields: dict[str, Any]) -> dict[str, Any]:
        shell = _SCRIPT.format(ledger=self._directory, work=work)
        return {"taskKey": key, "title": key, "adapter": "command", "input": {"shell": shell}, **fields}

    def notes(self, key: str) -> list[list[str]]:
        """(word, assignment id) of one task, in order."""
        path = self._directory / key
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def keys(self) -> list[str]:
        return sorted(p.name for p in self._directory.iterdir() if not p.name.startswith("."))

    def count(self, word: str) -> int:
        return sum(note[0] == word for key in self.keys() for note in self.notes(key))

    def finished(self) -> set[str]:
        """Tasks of which some execution came to its end."""
        return {key for key in self.keys() if any(note[0] == "end" for note in self.notes(key))}

    def overlaps(self) -> list[str]:
        """Tasks that two assignments executed at once."""
        return [key for key in self.keys() if any(note[0] == "overlap" for note in self.notes(key))]

    def executions(self) -> Counter[int]:
        """How many tasks were begun once, twice, ..."""
        begun = (sum(note[0] == "start" for note in self.notes(key)) for key in self.keys())
        return Counter(begun)

    def twice_by_one(self) -> list[str]:
        """Assignments that were begun more than once."""
        starts = Counter(n[1] for key in self.keys() for n in self.notes(key) if n[0] == "start")
        return [assignment_id for assignment_id, times in starts.items() if times > 1]
