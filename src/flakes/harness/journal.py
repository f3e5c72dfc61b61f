"""The journal of a harness: what it did and what came of it, in order, as one list of entries.

Entries are JSON objects; `k` is what they are:

- `module` {digest}: the first one; which module wrote what follows.
- `start` {id, kind, digest, what, at, turn, extra?}: the code asked for an effect. `at` is file and line.
- `value` {kind, value, at}: the code took a value that is not the same twice (now, random).
- `patch` {name}: `ctx.patched` said yes here.
- `settle` {ids, values | error, ms}: effects settled, and this was delivered to the code next.
- `log`: a line was said; it is not said again.
- `finish` {status, digest}: the harness ended.
- `try` {number}: it had failed and was tried again; what is before is over (`earlier`).

Between two `settle` entries the code runs without anything from outside: a *turn*. A replay compares what
it does with the entries as it does it, and leaves the journal only behind its end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from flakes.harness.earlier import Earlier
from flakes.harness.engine import Engine, Entry
from flakes.harness.errors import Diverged, HarnessError

APPEND_BYTES_MAX = 1024 * 1024
"""Entries go in requests of about this size."""


class Journal:
    """The entries, a place in them, and those that are not durable yet."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._entries: list[Entry] = []
        self._next = 0
        self._durable = 0
        self.earlier = Earlier()

    def load(self, *, retries: bool = True) -> None:
        """Read it whole, and begin another try where it ends with a failure and `retries`; raises `HarnessError` (`journal_unreadable`)."""
        more = True
        while more:
            entries, more = self._engine.read_journal(len(self._entries))
            if more and not entries:
                raise HarnessError("journal_unreadable", "the journal ends before its end", "try again")
            self._entries += entries
        self._durable = len(self._entries)
        self._split(retries)

    def _split(self, retries: bool) -> None:
        """Go to the last try, or begin another one."""
        begins = 0
        for place, each in enumerate(self._entries):
            if each["k"] == "try":
                self.earlier.add(self._entries[begins:place])
                begins = place + 1
        last = self._entries[-1] if self._entries else {}
        if retries and last.get("k") == "finish" and last["status"] == "failed":
            self.earlier.add(self._entries[begins:])
            self._append({"k": "try", "number": self.earlier.number})
            begins = len(self._entries)
        self._next = begins

    @property
    def replaying(self) -> bool:
        """Whether there is something ahead that was recorded."""
        return self.peek() is not None

    @property
    def length(self) -> int:
        return len(self._entries)

    def peek(self) -> Entry | None:
        """The next recorded entry that is not a line of the log."""
        place = self._next
        while place < len(self._entries):
            if self._entries[place]["k"] != "log":
                return self._entries[place]
            place += 1
        return None

    def said(self) -> bool:
        """Whether the next line was said already; then it is passed, otherwise it is noted."""
        if self._next < len(self._entries) and self._entries[self._next]["k"] == "log":
            self._next += 1
            return True
        if self.replaying:
            return True
        self._append({"k": "log"})
        return False

    def take(self) -> Entry:
        """Pass the next recorded entry."""
        while self._entries[self._next]["k"] == "log":
            self._next += 1
        self._next += 1
        return self._entries[self._next - 1]

    def meet(self, entry: Entry, compared: Sequence[str]) -> Entry:
        """The recorded entry for `entry`, or `entry` itself, now at the end. Raises `Diverged`."""
        recorded = self.peek()
        if recorded is None:
            self._append(entry)
            return entry
        if any(recorded.get(name) != entry.get(name) for name in ("k", *compared)):
            raise Diverged(
                f"at {entry.get('at', 'the end')} the module does {described(entry)}; recorded is {described(recorded)}"
                + (f" at {recorded['at']}" if recorded.get("at") else ""),
                recorded=described(recorded), now=described(entry),
            )  # fmt: skip
        return self.take()

    def add(self, entry: Entry) -> None:
        """Add to the end; only when nothing recorded is ahead."""
        assert not self.replaying
        self._append(entry)

    def flush(self) -> None:
        """Make durable what is not; raises `HarnessError`."""
        while self._durable < len(self._entries):
            size_bytes, end = 0, self._durable
            while end < len(self._entries) and (size_bytes < APPEND_BYTES_MAX or end == self._durable):
                size_bytes += len(json.dumps(self._entries[end])) + 1
                end += 1
            self._engine.append_journal(self._durable, self._entries[self._durable : end])
            self._durable = end

    def _append(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._next = len(self._entries)


def described(entry: Entry) -> str:
    """An entry in words."""
    match entry["k"]:
        case "start":
            return str(entry.get("what") or entry["kind"])
        case "value":
            return f"ctx.{entry['kind']}()"
        case "settle":
            return "nothing more before something settles"
        case "finish":
            return f"its end ({entry['status']})"
        case "patch":
            return f"ctx.patched({entry['name']!r})"
        case kind:
            return str(kind)


def digest_of(value: Any) -> str:
    """A short digest of a JSON value, whatever the order of its names."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]
