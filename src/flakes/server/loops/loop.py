"""Running a loop: wait for its wake-up or its interval, do one pass, survive what the pass raises."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from flakes.server.wake import Wake
from flakes.store.database import UNAVAILABLE

log = structlog.get_logger()


async def keep_running(
    name: str,
    run_once: Callable[[], Awaitable[float | None]],
    *,
    interval_s: float,
    wake: Wake | None = None,
) -> None:
    """Run passes for ever, `interval_s` apart (jittered by a tenth) or when woken.

    A pass may answer the seconds until it wants to run again. A pass that fails is logged and tried again
    with back-off; a database that is away is expected, not a fault (F29).
    """
    wake = wake or Wake()
    failures = 0
    while True:
        pause_s = interval_s
        try:
            wanted_s = await run_once()
            pause_s = interval_s if wanted_s is None else min(interval_s, max(0.0, wanted_s))
            failures = 0
        except UNAVAILABLE as error:
            failures += 1
            log.warning("loop.waiting", loop=name, error=str(error).strip()[:200])
        except Exception:
            failures += 1
            log.exception("loop.failed", loop=name)
        if failures:
            await asyncio.sleep(min(5.0, 0.1 * 2**failures))
        await wake.wait(pause_s * random.uniform(0.9, 1.1))  # noqa: S311
