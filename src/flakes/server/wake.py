"""Wake-ups: telling loops and event streams that there is something new, without saying what.

A wake-up is an optimisation over slow polling, never a message: it may come twice or get lost, and whoever
is woken reads the database.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable


class Wake:
    """Set by anyone, waited for by one loop; wake-ups that come while it works are merged into one."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.count = 0
        """How often it was set so far."""

    def set(self) -> None:
        """Wake the loop, now or at its next wait."""
        self.count += 1
        self._event.set()

    async def wait(self, timeout_s: float) -> bool:
        """Until woken or for `timeout_s`; True when woken."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class LogReaders:
    """Streams that follow the log of a task: woken when lines of it arrive or its state changes."""

    def __init__(self, arrived: Wake) -> None:
        self._waiting: defaultdict[str, set[Wake]] = defaultdict(set)
        self.closed = False
        self._arrived = arrived

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, task_id: str) -> Wake:
        """Listen; the answer is set whenever there is news of the task."""
        wake = Wake()
        self._waiting[task_id].add(wake)
        self._arrived.set()
        return wake

    def remove(self, task_id: str, wake: Wake) -> None:
        """Stop listening."""
        self._waiting[task_id].discard(wake)
        if not self._waiting[task_id]:
            del self._waiting[task_id]

    def close(self) -> None:
        """End every stream."""
        self.closed = True
        self.publish_all()

    def publish_all(self) -> None:
        """There may be news of any task."""
        self.publish(list(self._waiting))

    def publish(self, task_ids: Iterable[str]) -> None:
        """News of these tasks."""
        for task_id in task_ids:
            for wake in self._waiting.get(task_id, ()):
                wake.set()


class Subscriptions:
    """Event streams waiting for news of an owner or of one of its runs."""

    def __init__(self, arrived: Wake) -> None:
        self._waiting: defaultdict[tuple[str, str | None], set[Wake]] = defaultdict(set)
        self.closed = False
        """The server is going down: streams end, and their clients resume elsewhere."""
        self._arrived = arrived
        """Set when somebody starts to listen: an idle tail has nobody to read for."""

    def __len__(self) -> int:
        return len(self._waiting)

    def scopes(self) -> list[tuple[str, str | None]]:
        """Everything that anybody listens to."""
        return list(self._waiting)

    def add(self, owner_id: str, run_id: str | None) -> Wake:
        """Listen; the answer is set whenever there is news in that scope."""
        wake = Wake()
        self._waiting[owner_id, run_id].add(wake)
        self._arrived.set()
        return wake

    def remove(self, owner_id: str, run_id: str | None, wake: Wake) -> None:
        """Stop listening."""
        waiting = self._waiting[owner_id, run_id]
        waiting.discard(wake)
        if not waiting:
            del self._waiting[owner_id, run_id]

    def close(self) -> None:
        """End every stream."""
        self.closed = True
        for waiting in self._waiting.values():
            for wake in waiting:
                wake.set()

    def publish(self, owner_id: str, run_id: str | None) -> None:
        """News of a run: wake those who follow it and those who follow its owner."""
        for scope in {(owner_id, run_id), (owner_id, None)}:
            for wake in self._waiting.get(scope, ()):
                wake.set()
