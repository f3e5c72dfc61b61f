"""Streams that are open, by the token that opened them, so that revoking it ends them too.

A replica ends its own at once; of revocations elsewhere, and of tokens whose time is over, the loop
`loops.revocations` tells it within seconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection


class Lease:
    """One stream's permission to go on."""

    def __init__(self, token_id: str, end: Callable[[], None]) -> None:
        self.token_id = token_id
        self.ended = False
        self._end = end

    def end(self) -> None:
        """Tell the stream to end."""
        self.ended = True
        self._end()


class LiveStreams:
    """See the module."""

    def __init__(self) -> None:
        self._leases: defaultdict[str, set[Lease]] = defaultdict(set)

    def __len__(self) -> int:
        return len(self._leases)

    def lease(self, token_id: str, end: Callable[[], None]) -> Lease:
        """A stream uses this token from now on; `end` is called when it must stop."""
        lease = Lease(token_id, end)
        self._leases[token_id].add(lease)
        return lease

    def give_up(self, lease: Lease) -> None:
        """The stream is over."""
        leases = self._leases[lease.token_id]
        leases.discard(lease)
        if not leases:
            del self._leases[lease.token_id]

    def end(self, token_ids: Collection[str]) -> int:
        """End the streams of these tokens; how many there were."""
        leases = [lease for token_id in token_ids for lease in self._leases.get(token_id, ())]
        for lease in leases:
            lease.end()
        return len(leases)
