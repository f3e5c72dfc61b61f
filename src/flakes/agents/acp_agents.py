"""What is particular about the agents that speak ACP: the protocol leaves more open than it settles.

An agent is recognised by its command, before anything is started. One that is not in the table works by the
protocol alone: it finds a fresh home, and what it keeps below `$XDG_STATE_HOME` is there again in a later
attempt. A row says where an agent keeps things and what it does by its own documents; only with `tested` has
it passed the scenarios of our tests, in those versions. Every other one runs with the warning `agent_untested`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from flakes.agents.base import AgentError
from flakes.agents.model_errors import model_error


@dataclass(frozen=True, slots=True)
class Known:
    """One agent. Paths are relative to the home directory; `sessions` are directories that hold its
    conversations, which a later attempt finds again."""

    name: str
    tested: tuple[str, str] | None = None
    settings: tuple[str, ...] = ()
    credentials: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    """Switches off what it would ask the network for besides its model, and what needs a person."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """What it is told of its own, beside the protocol, when a session begins or goes on."""
    asking: Mapping[str, str] = field(default_factory=dict)
    """Makes it ask before it changes something, where it would not by itself."""
    modes: Mapping[Literal["auto", "ask"], str] = field(default_factory=dict)
    """Session modes: the one in which it need not ask, and the one in which it asks."""
    asks: bool = True
    """It asks for permission at all."""
    errors: tuple[tuple[str, int], ...] = ()
    """It reports failed model calls as its own words: how they begin, and the HTTP status that they are."""

    def failure(self, text: str) -> AgentError | None:
        """The error that the last words of a turn are, if they are one."""
        for words, status in self.errors:
            if re.match(words, text):
                return model_error(text.strip(), status)
        return None


GENERIC: Final = Known("agent")

KNOWN: Final[Mapping[str, Known]] = {each.name: each for each in (
    Known(
        "claude-agent-acp", ("0.100", "0.101"),
        credentials=(".claude/.credentials.json",), sessions=(".claude/projects",),
        env={
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
            "ENABLE_TOOL_SEARCH": "false", "IS_SANDBOX": "1", "NO_BROWSER": "1",
        },
        # Else every turn is followed by a model call of its own, for what a person might say next.
        meta={"claudeCode": {"options": {"promptSuggestions": False}}},
    ),
    Known(
        "codex-acp",
        settings=(".codex/config.toml",), credentials=(".codex/auth.json",), sessions=(".codex/sessions",),
        env={"NO_BROWSER": "1"}, modes={"auto": "agent-full-access"},
        asks=False,  # its own sandbox refuses instead
        errors=(
            (r'\{"error": ?\{', 400), ("We.re currently experiencing high demand", 503),
            ("stream (?:error|disconnected)|unexpected status 5|exceeded retry limit", 502),
        ),
    ),
    Known(
        "pi-acp",
        settings=(".pi/agent/settings.json", ".pi/agent/models.json", ".pi/agent/trust.json"),
        credentials=(".pi/agent/auth.json",), sessions=(".pi/agent/sessions", ".pi/pi-acp"),
        env={"PI_OFFLINE": "1", "PI_TELEMETRY": "0", "PI_SKIP_VERSION_CHECK": "1"}, asks=False,
    ),
    Known(
        "opencode",
        settings=(".config/opencode/opencode.json", ".config/opencode/opencode.jsonc"),
        credentials=(".local/share/opencode/auth.json",),
        env={
            "OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1",
            "OPENCODE_DISABLE_LSP_DOWNLOAD": "1", "OPENCODE_DISABLE_SHARE": "1",
        },
        asking={"OPENCODE_PERMISSION": '{"bash":"ask","edit":"ask","webfetch":"ask"}'},
    ),
    Known(
        "qwen",
        settings=(".qwen/settings.json",), credentials=(".qwen/oauth_creds.json",),
        sessions=(".qwen/projects",),
    ),
    Known(
        "gemini", settings=(".gemini/settings.json",),
        credentials=(".gemini/oauth_creds.json", ".gemini/google_accounts.json"), sessions=(".gemini/tmp",),
    ),
)}  # fmt: skip

_PACKAGES: Final = {"gemini-cli": "gemini", "qwen-code": "qwen", "opencode-ai": "opencode"}


def known(command: Sequence[str]) -> Known:
    """The row of the agent that the command starts, or the one for agents that are not known."""
    for word in command:
        path = Path(word)
        names = [path.stem if path.suffix in (".js", ".mjs", ".cjs", ".exe") else path.name]
        if path.is_absolute():
            parts = Path(os.path.realpath(path)).parts
            packages = [index for index, part in enumerate(parts) if part == "node_modules"]
            for index in packages:
                names += parts[index + 1 : index + 3]
        for name in names:
            if (found := KNOWN.get(_PACKAGES.get(name, name))) is not None:
                return found
    return GENERIC
