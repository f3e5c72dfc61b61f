"""`python -m flakes.server --config FILE`: what the local session starts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flakes.wire.config import ServerConfig, load
from flakes.wire.errors import ApiError


def main() -> int:
    """Parse the few options, serve, and print a refusal as one clear error."""
    parser = argparse.ArgumentParser(prog="flakes.server")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    try:
        config = load(options.config, ServerConfig)
        from flakes.server.main import run

        return run(config, dry_run=options.dry_run)
    except ApiError as error:
        sys.stderr.write(f"error[{error.code}]: {error.message}\n  fix: {error.fix}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
