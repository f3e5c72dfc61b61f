"""The ways a host can start a sandbox daemon, by the name that a pool's `provider` has.

To add one: write a module here whose class keeps the protocol of `base`, and name it below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from flakes.host.providers.base import Provider
from flakes.host.providers.bubblewrap import BubblewrapProvider
from flakes.host.providers.matchlock import MatchlockProvider
from flakes.host.providers.process import ProcessProvider

PROVIDERS: Final[dict[str, Callable[[], Provider]]] = {
    ProcessProvider.name: ProcessProvider,
    BubblewrapProvider.name: BubblewrapProvider,
    MatchlockProvider.name: MatchlockProvider,
}
