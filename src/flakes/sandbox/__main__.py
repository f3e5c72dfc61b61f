"""``python -m flakes.sandbox --config PATH``: how a host launches a daemon."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flakes.sandbox.main import run
from flakes.wire.config import SandboxConfig, load
from flakes.wire.errors import ApiError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m flakes.sandbox", description=__doc__)
    parser.add_argument("--config", required=True, type=Path)
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()
    try:
        return run(load(arguments.config, SandboxConfig), dry_run=arguments.dry_run)
    except ApiError as error:
        sys.stderr.write(f"{error.code}: {error.message}\n{error.fix}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
