"""A client that follows a run while its servers come and go."""

from __future__ import annotations

import threading

from flakes.client import SyncClient
from flakes.wire.errors import ApiError


class Follower:
    """Follows the events of a run in a thread, through whichever server answers."""

    def __init__(self, servers: list[str], token: str | None, run_id: str) -> None:
        self.cursors: list[str] = []
        self.types: list[str] = []
        self.failure: ApiError | None = None
        self._client = SyncClient(",".join(servers), token)
        self._run_id = run_id
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        try:
            for event in self._client.events(run_id=self._run_id):
                self.cursors.append(event.cursor)
                self.types.append(event.type)
                if event.type == "run.state" and event.data["state"] == "SUCCEEDED":
                    return
        except ApiError as error:
            self.failure = error

    def end(self, timeout_s: float = 30.0) -> list[str]:
        """The cursors it saw, up to the end of the run."""
        self._thread.join(timeout_s)
        assert self.failure is None, self.failure
        assert not self._thread.is_alive(), f"no end among {self.types[-5:]}"
        self._client.close()
        return self.cursors
