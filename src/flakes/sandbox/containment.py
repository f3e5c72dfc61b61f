"""All processes of one assignment: what a driver's `Host` gives it, and what ends it.

Every process is started here and remembered here, so that "nothing of it is left" has one place to be
true. It knows neither the task nor the control plane: events go to a callback.

Invariants: after `shut()` has returned nothing that was ever started here lives, and nothing can be
started any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from flakes.agents.base import AgentError, AgentEvent, Decision, Question
from flakes.sandbox.isolation import TOOLS, Box, Serve
from flakes.sandbox.spawn import Spawned, Spawner


class Containment:
    """The processes of one assignment; a `flakes.agents.base.Host`."""

    def __init__(
        self,
        assignment_id: str,
        spawner: Spawner,
        *,
        on_event: Callable[[AgentEvent], Awaitable[None]],
        on_start: Callable[[int, str], None],
    ) -> None:
        self._assignment_id = assignment_id
        self._spawner = spawner
        self._on_event = on_event
        self._on_start = on_start
        self._spawned: list[Spawned] = []
        self._closed = False
        self._box: Box | None = None
        self.env: Mapping[str, str] = {}
        self.cwd = Path("/")
        self.on_question: Callable[[Question], Awaitable[Decision]] | None = None

    def confine(
        self,
        root: Path,
        tools: Path,
        say: Callable[[str], None],
        programs: tuple[tuple[Path, Path], ...] = (),
    ) -> None:
        """Where the sandbox isolates its tasks: show the processes `root`, `tools` and `programs` alone, and
        fit the environment. Called when all of them, and the environment, are there. Raises `OSError`."""
        if self._spawner.isolation is not None:
            self._box = self._spawner.isolation.box(self._assignment_id, root, tools, say, programs)
            self.env = self._box.environment(self.env)

    def publish(self, serve: Serve) -> str | None:
        """Where processes see a loopback of their own: have `serve` answer there, and the address. None
        where they see the machine's."""
        if self._box is None:
            return None
        self._box.publish(TOOLS, serve)
        return TOOLS

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: Path | Literal["pipe"] | None = None,
    ) -> Spawned:
        """See `Host.spawn`."""
        if self._spawner.isolation is not None and self._box is None:
            raise AgentError("isolation_failed", "the task has no directory to be confined to")
        supervisor = await self._spawner.take()
        if self._closed:
            supervisor.close()
            raise AgentError("stopping", "the task is being stopped")
        # Known before it begins: whatever happens from here on, `shut` waits for its end.
        spawned = Spawned(supervisor, self._assignment_id)
        self._spawned.append(spawned)
        self._on_start(supervisor.pid, supervisor.start_time)
        try:
            await spawned.begin(
                argv,
                env=self.env if env is None else env,
                cwd=cwd or self.cwd,
                stdin=stdin,
                box=self._box,
            )
        finally:
            self._spawner.warm()
        return spawned

    async def emit(self, event: AgentEvent) -> None:
        """See `Host.emit`."""
        await self._on_event(event)

    async def permit(self, question: Question) -> Decision:
        """See `Host.permit`. Nobody who could be asked is a no."""
        if self.on_question is None:
            return Decision(False, "nobody can be asked")
        return await self.on_question(question)

    async def gone(self) -> None:
        """Until nothing of what was started so far is left; ends nothing by itself."""
        for spawned in self._spawned:
            await spawned.clean()

    async def shut(self, grace_s: float) -> None:
        """End everything, at last by force, and return when it is gone. May be called again."""
        self._closed = True
        if self._spawned:
            await asyncio.gather(*(spawned.terminate(grace_s) for spawned in self._spawned))
        if self._box is not None:
            await self._box.close()
