"""Numbers: percentiles, and the one line of JSON that every measurement prints."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence


def emit(bench: str, **figures: object) -> None:
    """Print a measurement."""
    print(json.dumps({"bench": bench, **figures}), flush=True)


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def spread_ms(values_s: Sequence[float]) -> dict[str, float]:
    """Median, p99 and maximum in milliseconds."""
    return {
        "p50_ms": round(statistics.median(values_s) * 1000, 2),
        "p99_ms": round(percentile(values_s, 99) * 1000, 2),
        "max_ms": round(max(values_s) * 1000, 2),
    }


def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait for a condition that only polling can see."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("the benchmark waited in vain")
        time.sleep(0.01)
