"""How long people wait: `flakes --help`, bare Python for comparison, and `flakes up` and `down`."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.measure import emit

FLAKES = str(Path(sys.executable).with_name("flakes"))


def timed(argv: list[str], env: dict[str, str] | None = None) -> float:
    began = time.monotonic()
    subprocess.run(argv, check=True, capture_output=True, env=env)
    return (time.monotonic() - began) * 1000


def main() -> None:
    bare = statistics.median(timed([sys.executable, "-c", "pass"]) for _ in range(9))
    help_ms = statistics.median(timed([FLAKES, "--help"]) for _ in range(9))
    emit("help", p50_ms=round(help_ms, 1), bare_python_ms=round(bare, 1), ratio=round(help_ms / bare, 2))
    with tempfile.TemporaryDirectory(prefix="flakes-bench-up-") as directory:
        Path(directory).chmod(0o711)
        env = os.environ | {"FLAKES_DATA_DIR": directory}
        first = timed([FLAKES, "up"], env)
        timed([FLAKES, "down"], env)
        ups, downs = [], []
        for _ in range(5):
            ups.append(timed([FLAKES, "up"], env))
            downs.append(timed([FLAKES, "down"], env))
        emit("up", first_ms=round(first), initialised_p50_ms=round(statistics.median(ups)),
             down_p50_ms=round(statistics.median(downs)))  # fmt: skip


if __name__ == "__main__":
    main()
