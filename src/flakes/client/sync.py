"""The synchronous facade: every method of `Client`, called from ordinary code.

There are no twins to keep equal: a call is handed to the async client, which lives in an event loop on
a background thread of this object. Methods that stream give ordinary iterators. Not for use from async
code, and safe to call from several threads.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from flakes.client.api import Client
from flakes.client.transport import Address


class SyncClient:
    """`with SyncClient(server, token) as client: client.get_run("nightly")`."""

    def __init__(
        self,
        server: str,
        token: str | None = None,
        *,
        timeout_s: float = 60.0,
        locate: Callable[[], Address | None] | None = None,
    ) -> None:
        self._stack = ExitStack()
        self._portal: BlockingPortal = self._stack.enter_context(start_blocking_portal())
        make = functools.partial(_make, server, token, timeout_s=timeout_s, locate=locate)
        try:
            self._client: Client = self._portal.call(make)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> SyncClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the background thread."""
        self._portal.call(self._client.aclose)
        self._stack.close()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        attribute = getattr(self._client, name)
        if inspect.isasyncgenfunction(attribute):

            @functools.wraps(attribute)
            def iterate(*args: Any, **kwargs: Any) -> Iterator[Any]:
                return self._iterate(attribute(*args, **kwargs))

            return iterate
        if inspect.iscoroutinefunction(attribute):

            @functools.wraps(attribute)
            def call(*args: Any, **kwargs: Any) -> Any:
                return self._portal.call(functools.partial(attribute, *args, **kwargs))

            return call
        return attribute

    def _iterate(self, source: AsyncGenerator[Any]) -> Iterator[Any]:
        # Each step is a task of its own in the loop, which is fine for generators that hold no timeout
        # or task group across a `yield`; those of `Client` hold connections only.
        async def step() -> Any:
            return await anext(source, _END)

        try:
            while (item := self._portal.call(step)) is not _END:
                yield item
        finally:
            self._portal.call(source.aclose)


_END = object()


async def _make(server: str, token: str | None, **options: Any) -> Client:
    return Client(server, token, **options)
