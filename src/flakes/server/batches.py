"""Micro-batched writing: whatever gathered while the last commit was under way goes into the next one.

One `BatchWriter` serves one kind of mutation. There is no timer: a lone caller pays nothing, and under load
the batches grow by themselves. A batch that fails is retried item by item, so that one bad item cannot
take others with it; while the database is away the writer waits and tries again, and its callers wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import structlog

from flakes.store.database import UNAVAILABLE

T = TypeVar("T")
R = TypeVar("R")

log = structlog.get_logger()


class BatchWriter(Generic[T, R]):
    """`apply(items)` writes a batch durably and answers once for all; callers get that answer."""

    def __init__(
        self, name: str, apply: Callable[[Sequence[T]], Awaitable[R]], *, batch_max: int = 2_000
    ) -> None:
        self.name = name
        self._apply = apply
        self._batch_max = batch_max
        self._pending: list[tuple[list[T], asyncio.Future[R]]] = []
        self._work = asyncio.Event()

    async def write(self, items: list[T]) -> R:
        """Write these; returns when they are durable. Raises what `apply` raises for them alone."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._pending.append((items, future))
        self._work.set()
        return await future

    async def run(self) -> None:
        """Drain for ever."""
        while True:
            await self._work.wait()
            batch = self._take()
            try:
                await self._commit(batch)
            except asyncio.CancelledError:
                for _, future in batch:
                    future.cancel()
                raise

    def _take(self) -> list[tuple[list[T], asyncio.Future[R]]]:
        taken, count = 0, 0
        while taken < len(self._pending) and (count == 0 or count < self._batch_max):
            count += len(self._pending[taken][0])
            taken += 1
        batch, self._pending = self._pending[:taken], self._pending[taken:]
        if not self._pending:
            self._work.clear()
        return batch

    async def _commit(self, batch: list[tuple[list[T], asyncio.Future[R]]]) -> None:
        delay_s = 0.05
        while True:
            try:
                answer = await self._apply([item for items, _ in batch for item in items])
            except UNAVAILABLE as error:
                log.warning("batch.waiting", writer=self.name, error=str(error).strip()[:200])
                await asyncio.sleep(delay_s)
                delay_s = min(2.0, delay_s * 2)
                continue
            except Exception as error:  # noqa: BLE001 - the whole batch failed; find the item that did it
                await self._one_by_one(batch, error)
                return
            for _, future in batch:
                if not future.done():
                    future.set_result(answer)
            return

    async def _one_by_one(
        self, batch: list[tuple[list[T], asyncio.Future[R]]], error: Exception
    ) -> None:
        if len(batch) == 1:
            log.error("batch.item_failed", writer=self.name, exc_info=error)
            if not batch[0][1].done():
                batch[0][1].set_exception(error)
            return
        log.warning("batch.retry_one_by_one", writer=self.name, size=len(batch), error=str(error)[:200])
        for entry in batch:
            await self._commit([entry])
