"""New identifiers: the clock and the random source that `core.keys` does not have."""

from __future__ import annotations

import os
import time

from flakes.core.keys import Prefix, format_id

_last = (0, 0)


def new_id(prefix: Prefix) -> str:
    """A fresh identifier; ids made by one process sort in the order they were made."""
    global _last  # the one piece of memory that order within a millisecond needs
    at_ms = time.time_ns() // 1_000_000
    last_ms, last_random = _last
    if at_ms <= last_ms:
        # Same millisecond, or a clock set back: count on from the last one.
        _last = (last_ms, last_random + 1)
    else:
        # The top bit stays clear, so that counting on cannot run over.
        _last = (at_ms, int.from_bytes(os.urandom(10), "big") >> 1)
    return format_id(prefix, *_last)
