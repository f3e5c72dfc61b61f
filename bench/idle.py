"""What an idle server costs: processor, memory and transactions, with 0, 100 and 1,000 sandboxes connected."""

from __future__ import annotations

import os
import time

from bench.fleet import Fleet
from bench.measure import emit
from bench.plane import Plane, plane

TRANSACTIONS = "select sum(xact_commit + xact_rollback) from pg_stat_database"


def watch(server: Plane, connected: int, seconds: float) -> None:
    with server.connect() as conn:
        time.sleep(2)
        cpu, began = server.cpu_s(), time.monotonic()
        before = conn.execute(TRANSACTIONS).fetchone()
        time.sleep(seconds)
        elapsed_s = time.monotonic() - began
        after = conn.execute(TRANSACTIONS).fetchone()
        assert before is not None
        assert after is not None
    emit("idle", sandboxes=connected, cpu_percent=round((server.cpu_s() - cpu) / elapsed_s * 100, 2),
         transactions_per_s=round(float(after[0] - before[0]) / elapsed_s, 1),
         server_mib=round(server.memory_mib(), 1))  # fmt: skip


def main() -> None:
    seconds = float(os.environ.get("N") or "20")
    with plane() as server:
        watch(server, 0, seconds)
        first = Fleet(server, 100, 1)
        watch(server, 100, seconds)
        second = Fleet(server, 900, 1)
        watch(server, 1000, seconds)
        first.close()
        second.close()


if __name__ == "__main__":
    main()
