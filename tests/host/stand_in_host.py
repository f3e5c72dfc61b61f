"""The real host with the stand-in daemon: `stand_in_host.py CONFIG`."""

from __future__ import annotations

import sys
from pathlib import Path

from flakes.host import main
from flakes.wire.config import HostConfig, load

if __name__ == "__main__":
    daemon = (sys.executable, str(Path(__file__).with_name("stand_in.py")))
    sys.exit(main.run(load(Path(sys.argv[1]), HostConfig), daemon_argv=daemon))
