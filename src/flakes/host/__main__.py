"""`python -m flakes.host run --config host.toml`."""

from __future__ import annotations

import sys

from flakes.host.main import command

if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
