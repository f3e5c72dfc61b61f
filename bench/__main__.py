"""`python -m bench [all | NAME]`: run benchmarks; every line on standard output is one measurement."""

from __future__ import annotations

import importlib
import os
import platform
import sys

from bench.measure import emit

NAMES = ("startup", "latency", "contention", "throughput", "idle", "history", "listing", "artifacts", "isolation", "host",
         "console", "harness", "workspaces", "groups")  # fmt: skip


def main() -> int:
    wanted = sys.argv[1] if len(sys.argv) > 1 else "all"
    if wanted not in ("all", *NAMES):
        print(f"unknown benchmark {wanted!r}; one of all, {', '.join(NAMES)}", file=sys.stderr)
        return 2
    emit("machine", cpus=os.cpu_count(), python=platform.python_version(), system=platform.platform(),
         load=os.getloadavg()[0])  # fmt: skip
    for name in NAMES if wanted == "all" else (wanted,):
        importlib.import_module(f"bench.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
