"""A reader of server-sent events that keeps ids, comments and arrival times, which the product's own client hides."""

from __future__ import annotations

import contextlib
import http.client
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec

from api.caller import Api

WAIT_S = 30.0


@dataclass(frozen=True)
class Seen:
    """One event as it came."""

    id: str
    event: str
    data: dict[str, Any]
    at_s: float


class Following:
    """An open event stream. Reading goes on in a thread until `close`."""

    def __init__(
        self, api: Api, last_id: str | None = None, *, path: str = "/v1/events", **query: str
    ) -> None:
        address = urlsplit(api.url)
        assert address.hostname is not None
        self._http = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
        self._http.connect()
        self._socket: socket.socket = self._http.sock
        headers = dict(api.headers)
        if last_id is not None:
            headers["Last-Event-ID"] = last_id
        self._http.request("GET", f"{path}?{urlencode(query)}", headers=headers)
        self.response = self._http.getresponse()
        assert self.response.status == 200, self.response.read()
        self.media_type = self.response.headers["content-type"]
        self.arrived: queue.Queue[Seen | None] = queue.Queue()
        self.heartbeats: list[float] = []
        self.all: list[Seen] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def next(self, timeout_s: float = WAIT_S) -> Seen:
        seen = self.arrived.get(timeout=timeout_s)
        assert seen is not None, "the stream has ended"
        return seen

    def until(self, when: Callable[[Seen], bool], timeout_s: float = WAIT_S) -> list[Seen]:
        """Everything up to and including the first event that fulfils the condition."""
        found: list[Seen] = []
        deadline = time.monotonic() + timeout_s
        while not found or not when(found[-1]):
            found.append(self.next(max(0.0, deadline - time.monotonic())))
        return found

    def ended(self, timeout_s: float = WAIT_S) -> list[Seen]:
        """What was left when the server closed the stream."""
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), "the stream goes on"
        left = list(self.arrived.queue)
        return [seen for seen in left if seen is not None]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self.response.close()
        self._http.close()

    def _read(self) -> None:
        fields: dict[str, str] = {}
        try:
            while line := self.response.readline():
                text = line.decode().rstrip("\n")
                if text.startswith(":"):
                    self.heartbeats.append(time.monotonic())
                elif text:
                    name, _, value = text.partition(": ")
                    fields[name] = value
                else:
                    if "data" in fields:
                        data = msgspec.json.decode(fields["data"])
                        seen = Seen(fields.get("id", ""), fields["event"], data, time.monotonic())
                        self.all.append(seen)
                        self.arrived.put(seen)
                    fields = {}
        except (OSError, ValueError, AttributeError, http.client.HTTPException):
            pass  # closed by either side
        finally:
            self.arrived.put(None)


@contextlib.contextmanager
def following(api: Api, last_id: str | None = None, **query: str) -> Iterator[Following]:
    stream = Following(api, last_id, **query)
    try:
        yield stream
    finally:
        stream.close()
