"""`python -m flakes.session supervise --session NAME`: the process that `flakes up` leaves running.

`--root` repeats the session's directory on the command line, which is how its processes are found.
"""

from __future__ import annotations

import argparse
import sys

from flakes.session.layout import layout
from flakes.session.supervisor import supervise


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="flakes.session")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("supervise")
    command.add_argument("--session", required=True)
    command.add_argument("--root", required=True)
    command.add_argument("--report-fd", type=int, default=None)
    options = parser.parse_args(argv)
    chosen = layout(options.session)
    if str(chosen.root) != options.root:
        parser.error(f"--root is {options.root}, but the session lives in {chosen.root}")
    return supervise(chosen, options.report_fd)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
