"""The process of a harness: started by its task, it runs the module once, and ends.

What it is to do comes as JSON on its standard input; what it says goes out as JSON lines: ``{"say": LINE}`` and
at the end ``{"end": {"status", ...}}``. It holds no credential: everything else goes over the task's socket. It
exits with 0, or with 75 when the task has to wait.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import IO, Any, Final

EXIT_YIELDED: Final = 75
MAPPED_BYTES: Final = 256 * 1024 * 1024
LIMITS: Final = {"cpuS": (60, 3_600), "memoryMb": (512, 4_096), "wallS": (600, 24 * 3_600)}
"""What a module may use in one run, and the most that a task may ask for. `wallS` does not count waiting."""


class Clock:
    """Ends this process when it has run too long; stands still while it waits for an answer."""

    def __init__(self, wall_s: float) -> None:
        self._left_s = wall_s

    def run(self) -> None:
        """It goes on."""
        signal.setitimer(signal.ITIMER_REAL, self._left_s)

    def stop(self) -> None:
        """It stands still."""
        self._left_s = max(0.001, signal.setitimer(signal.ITIMER_REAL, 0)[0])


def limits_of(given: Any) -> dict[str, float]:
    """What a task's input says of limits, clamped."""
    asked = given if isinstance(given, dict) else {}
    return {
        name: min(most, asked[name]) if isinstance(asked.get(name), (int, float)) and asked[name] > 0 else usual
        for name, (usual, most) in LIMITS.items()
    }


def main() -> int:
    """See the module."""
    said = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else writes there does not get between
    job = json.load(sys.stdin)
    end = _run(job, said)
    _say(said, {"end": end})
    return EXIT_YIELDED if end["status"] == "yielded" else 0


def _run(job: dict[str, Any], said: IO[str]) -> dict[str, Any]:
    from flakes.harness.errors import EngineGone, HarnessError
    from flakes.harness.link import Link
    from flakes.harness.packing import unpacked
    from flakes.harness.running import Given, run
    from flakes.harness.surroundings import Task
    from flakes.harness.task_engine import TaskEngine

    given = job["input"]
    limited = limits_of(given.get("limits"))
    clock = Clock(limited["wallS"])
    _limit(limited)

    class Timed(Link):
        def ask(self, operation: str, body: dict[str, Any]) -> Any:
            clock.stop()
            try:
                return super().ask(operation, body)
            finally:
                clock.run()

    environment = os.environ
    task = Task(
        environment["FLAKES_TASK_ID"], environment["FLAKES_TASK_KEY"], environment["FLAKES_RUN_ID"],
        environment["FLAKES_RUN_KEY"], job.get("budget") or {},
    )  # fmt: skip
    try:
        engine = TaskEngine(Timed(), lambda line: _say(said, {"say": line}))
        clock.run()
        ended = run(Given(unpacked(given), task, given.get("args"), given.get("defaults")), engine)
    except HarnessError as error:
        return {"status": "failed", "error": error.body()}
    except EngineGone as error:
        return {"status": "gone", "message": str(error)}
    finally:
        clock.stop()
    outcome = ended.outcome
    if outcome is not None and outcome.data:
        _leave(outcome.data)
    end: dict[str, Any] = {"status": ended.status, "journal": ended.journal_length, "at": ended.at}
    if outcome is not None:
        end |= {"message": outcome.message, "data": outcome.data}
    return end | ({"error": ended.error.body()} if ended.error is not None else {})


def _leave(data: dict[str, Any]) -> None:
    """The data of the outcome, as the output `result`."""
    path = os.path.join(os.environ["FLAKES_OUTPUTS"], "result")  # noqa: PTH118
    with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump(data, file)


def _limit(limited: dict[str, float]) -> None:
    import resource

    # The harder limit on processor time kills without a word; the softer one comes first and can be told.
    cpu_s, memory_bytes = round(limited["cpuS"]), round(limited["memoryMb"]) * 1024 * 1024
    for kind, most in (
        (resource.RLIMIT_CPU, (cpu_s, cpu_s + 5)), (resource.RLIMIT_DATA, (memory_bytes, memory_bytes)),
        # Shared mappings are no data; the interpreter itself maps more than it uses.
        (resource.RLIMIT_AS, (memory_bytes + MAPPED_BYTES, memory_bytes + MAPPED_BYTES)), (resource.RLIMIT_CORE, (0, 0)),
    ):  # fmt: skip
        try:
            resource.setrlimit(kind, most)
        except (ValueError, OSError):
            pass  # not on this system, or lower already


def _say(said: IO[str], what: dict[str, Any]) -> None:
    said.write(json.dumps(what) + "\n")
    said.flush()


if __name__ == "__main__":
    # Started by its path, without site packages: nothing outside this package and the standard library is here.
    package = os.path.abspath(__file__)  # noqa: PTH100
    for _ in "worker.py", "harness", "flakes":
        package = os.path.dirname(package)  # noqa: PTH120
    sys.path.insert(0, package)
    sys.exit(main())
