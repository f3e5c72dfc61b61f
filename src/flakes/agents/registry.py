"""Which driver serves which adapter name. Adding an adapter is adding a line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from flakes.agents import claude, codex, pi
from flakes.agents.acp import AcpDriver
from flakes.agents.base import Driver
from flakes.agents.claude import ClaudeDriver
from flakes.agents.codex import CodexDriver
from flakes.agents.command import CommandDriver
from flakes.agents.harness import HarnessDriver
from flakes.agents.installed import About
from flakes.agents.noop import NoopDriver
from flakes.agents.pi import PiDriver

DRIVERS: Final[dict[str, Callable[[], Driver]]] = {
    "acp": AcpDriver,
    "claude": ClaudeDriver,
    "codex": CodexDriver,
    "command": CommandDriver,
    "harness": HarnessDriver,
    "noop": NoopDriver,
    "pi": PiDriver,
}

AGENTS: Final[dict[str, About]] = {each.name: each for each in (claude.ABOUT, codex.ABOUT, pi.ABOUT)}
"""Agents that are found on a machine by their usual name, which is that of their adapter."""


def driver_for(adapter: str) -> Driver | None:
    """A fresh driver for one attempt, or None when the adapter is not known here."""
    make = DRIVERS.get(adapter)
    return make() if make else None
