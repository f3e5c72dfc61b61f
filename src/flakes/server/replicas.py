"""What this replica has to tell the others, gathered until the next notification.

Nothing here matters: what is forgotten, or dropped because there is too much of it, is found by the slow
look of whoever it was for. A replica that is alone gathers nothing.
"""

from __future__ import annotations

from flakes.server.wake import Wake

NEWS_MAX = 100
"""Pieces of news in a notification, which holds 8,000 bytes."""


class Replicas:
    """See the module. `others` are the replicas that live beside this one."""

    def __init__(self, replica_id: str) -> None:
        self.replica_id = replica_id
        self.others: frozenset[str] = frozenset()
        self.untold = Wake()
        """There is something to tell."""
        self._peers: set[str] = set()
        self._news: dict[str, None] = {}

    def call(self, *peer_ids: str) -> None:
        """Something was stored for these sandboxes or hosts, which are not connected here."""
        if self.others:
            self._peers.update(peer_ids)
            self.untold.set()

    def tell(self, *news: str) -> None:
        """Wake whoever looks at this (see `wire.replicas`), on every other replica."""
        if self.others:
            self._news.update(dict.fromkeys(news))
            self.untold.set()

    def take(self) -> tuple[list[str], list[str]]:
        """Peers and news gathered since the last call. Of too much news, what has a subject goes first:
        whoever waits for that also looks by itself."""
        peers, news = list(self._peers), sorted(self._news, key=lambda piece: ":" in piece)
        self._peers.clear()
        self._news.clear()
        return peers, news[:NEWS_MAX]
