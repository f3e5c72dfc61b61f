"""A stand-in for the sandbox daemon, for what the real one does only when it is broken.

`env.MODE` of its configuration says how it behaves:
`stay` (until SIGTERM, then exit 0), `stubborn` (ignores SIGTERM), `crash` (exit 3 at once, with a last
word on stderr that holds its token), `retire` (exit 0 when the file `retire` appears beside its
configuration), `breed` (like `stubborn`, with descendants that try to get away).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

SLEEP = "import time; time.sleep(600)"


def main() -> int:
    path = Path(sys.argv[sys.argv.index("--config") + 1])
    config = tomllib.loads(path.read_text())
    mode = config["env"].get("MODE", "stay")
    token = Path(config["credentialFile"]).read_text().strip()
    starts = Path(config["stateDir"]) / "starts"
    with starts.open("a") as file:
        file.write(f"{os.getpid()}\n")
    if mode == "crash":
        sys.stderr.write(f"\x1b[31mno luck with {token} today\n")
        return 3
    if mode in ("stubborn", "breed"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if mode == "breed":
        breed(config["stateDir"])
    (Path(config["stateDir"]) / "up").touch()
    if os.access(path.parent, os.W_OK):
        (path.parent / "up").touch()
    while mode != "retire" or not (path.parent / "retire").exists():
        time.sleep(0.02)
    return 0


def breed(state: str) -> None:
    """A child in a session of its own; an orphan that kept its environment; an orphan that lost it but
    works in the directory; a child that starts another all the time. Each has `state` as its last
    argument, which is how a test finds it whatever else it shed."""
    subprocess.Popen([sys.executable, "-c", SLEEP, state], start_new_session=True, cwd="/", env={})
    for shed in ("cwd='/'", "env={}, cwd=state"):
        parent = f"""
import subprocess, sys
state = sys.argv[1]
subprocess.Popen([sys.executable, "-c", {SLEEP!r}, state], start_new_session=True, {shed})
"""
        subprocess.run([sys.executable, "-c", parent, state], check=True)
    forker = f"""
import subprocess, sys, time
while True:
    subprocess.Popen([sys.executable, "-c", {SLEEP!r}, sys.argv[1]], start_new_session=True)
    time.sleep(0.05)
"""
    subprocess.Popen([sys.executable, "-c", forker, state], env={}, cwd="/")


if __name__ == "__main__":
    sys.exit(main())
