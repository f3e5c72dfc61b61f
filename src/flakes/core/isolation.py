"""What stands between a task and the machine, by the provider of its pool, in the words that users read."""

from __future__ import annotations

from typing import Final

NONE: Final = "no isolation"
BY_PROVIDER: Final[dict[str, str]] = {
    "process": NONE,
    "bubblewrap": "namespaces (bubblewrap)",
    "matchlock": "virtual machine (matchlock)",
}
OUTER: Final = "around the whole sandbox, by its provider"
BY_HAND: Final = "whatever `flakes sandbox` was started in"


TRIAL: Final = (
    "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts",
    "--die-with-parent", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--", "true",
)  # fmt: skip
"""What bubblewrap is asked for to see whether this machine lets it isolate anything."""


def label(provider: str | None) -> str:
    """The isolation that a provider gives; None is a sandbox that somebody started by hand."""
    return BY_HAND if provider is None else BY_PROVIDER.get(provider, "not known to this version")
