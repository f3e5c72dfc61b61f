"""The program behind `flakes` inside a task; run by path, isolated, by the interpreter of the daemon.

It makes the package importable and hands over. Nothing outside the package's in-task commands and the
standard library is ever imported here: no third party code has to be found, or waited for.
"""

from __future__ import annotations

import os.path
import sys

if __name__ == "__main__":
    package = os.path.abspath(__file__)  # noqa: PTH100 - pathlib costs milliseconds of every start
    for _ in "main.py", "shim", "tools", "sandbox", "flakes":
        package = os.path.dirname(package)  # noqa: PTH120
    sys.path.insert(0, package)

    from flakes.sandbox.tools.shim.commands import run

    sys.exit(run(sys.argv[1:]))
