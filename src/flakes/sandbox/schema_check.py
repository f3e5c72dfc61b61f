"""The program that checks JSON outputs: `python -m flakes.sandbox.schema_check`, one process for a task's outputs.

Apart from the daemon, because a value may be large and a schema slow: memory, time and a crash are this
process's own. Standard input: ``[{"key", "path", "schema": object | null}]``. Standard output:
``{key: [problem, ...]}`` with the keys whose outputs are wrong, a problem being one of `wire.schemas`.
"""

from __future__ import annotations

import contextlib
import gc
import resource
import sys
from pathlib import Path
from typing import Any

import msgspec

from flakes.core.limits import GIB, OUTPUT_PROBLEMS_MAX
from flakes.wire import schemas
from flakes.wire.codec import encode
from flakes.wire.schemas import Problem

CPU_S = 30
MEMORY_BYTES = GIB


class Check(msgspec.Struct, frozen=True):
    """One output to look at."""

    key: str
    path: str
    schema: dict[str, Any] | None = None


def main() -> int:
    """Read the checks, answer what is wrong."""
    for kind, limit in ((resource.RLIMIT_CPU, CPU_S), (resource.RLIMIT_AS, MEMORY_BYTES)):
        # Not every system takes every limit; the daemon's own clock ends what goes on too long.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (limit, limit))
    gc.disable()  # there is nothing to collect, and looking through millions of values takes seconds
    checks = msgspec.json.decode(sys.stdin.buffer.read(), type=list[Check])
    found: dict[str, list[Problem]] = {}
    for check in checks:
        wrong = problems_of(check)
        if wrong:
            found[check.key] = wrong
    sys.stdout.buffer.write(encode(found))
    return 0


def problems_of(check: Check) -> list[Problem]:
    """What is wrong with one output."""
    data = Path(check.path).read_bytes()
    try:
        data.decode()
        value = msgspec.json.decode(data)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        return [Problem(path="$", rule="json", rule_path="$", message=f"not valid JSON: {error}"[:300])]
    del data
    if check.schema is None:
        return []
    unusable = schemas.schema_problem(check.schema)
    if unusable is not None:  # the server refuses such a schema; an older one may not have
        message = f"the schema cannot be used: {unusable.path}: {unusable.message}"
        return [Problem(path="$", rule="schema", rule_path=unusable.path, message=message[:300])]
    try:
        return schemas.problems(check.schema, value, OUTPUT_PROBLEMS_MAX)
    except (ValueError, RecursionError) as error:
        return [Problem(path="$", rule="schema", rule_path="$", message=f"cannot be checked: {error}"[:300])]


if __name__ == "__main__":
    sys.exit(main())
