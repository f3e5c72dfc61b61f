# ruff: noqa: T201
"""An executable that answers like `matchlock`, for tests: its machines are processes in a view of their own.

`run --detach` starts the command in namespaces where nothing but the image (a directory: its name), the system's
programs and the given volumes exist, waits until it is there, and prints its id. `list`, `get`, `exec`, `kill`
and `rm` work on what is below ``$HOME/.matchlock-stand-in``, one directory a machine. The file ``behave`` there
scripts the next runs, one word a line: `fail`, `slow`, `mute` (starts it and loses the answer).

Like the real one it keeps a machine whose command has ended, until `rm`; refuses to remove one that runs; and
shares the loopback only because a test's control plane has no other address.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(os.environ["HOME"]) / ".matchlock-stand-in"


def main() -> int:
    ROOT.mkdir(exist_ok=True)
    with (ROOT / "calls").open("a") as file:
        file.write(json.dumps({"argv": sys.argv[1:], "env": dict(os.environ)}) + "\n")
    command, *rest = sys.argv[1:]
    if command == "run":
        return run(rest)
    if command == "list":
        print("ID            STATUS   IMAGE")
        for path in sorted(ROOT.glob("vm-*")):
            print(f"{path.name}   {status(path)}   {config(path)['image']}")
        return 0
    path = ROOT / rest[0]
    if not path.is_dir():
        print(f"Error: VM {rest[0]} not found", file=sys.stderr)
        return 1
    if command == "get":
        known = config(path)
        print(json.dumps({"id": path.name, "status": status(path), "config": {"network": {"hostname": known["hostname"]}}}))
    elif command == "exec":
        assert rest[1] == "--"
        return enter(path, rest[2:])
    elif command == "kill":
        end(path)
    elif command == "rm":
        if status(path) == "running":
            print("Error: VM is running", file=sys.stderr)
            return 1
        for each in path.iterdir():
            each.unlink()
        path.rmdir()
    return 0


def run(argv: list[str]) -> int:
    options: dict[str, list[str]] = {}
    while argv and argv[0] != "--":
        name = argv.pop(0)
        options.setdefault(name, []).append("" if name == "--detach" else argv.pop(0))
    behaviour = behave()
    if behaviour == "fail":
        print("Error: building rootfs: no such image", file=sys.stderr)
        return 1
    if behaviour == "slow":
        time.sleep(0.5)
    path = ROOT / f"vm-{secrets.token_hex(4)}"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({
        "hostname": options["--hostname"][0], "image": options["--image"][0], "options": options,
    }))  # fmt: skip
    view = ["bwrap", "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
    view += ["--die-with-parent", "--uid", "0", "--gid", "0", "--hostname", options["--hostname"][0]]
    view += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--clearenv", "--setenv", "PATH", os.defpath]
    view += ["--info-fd", "3"]
    for system in ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache"):
        view += ["--ro-bind-try", system, system]
    for volume in options["-v"]:
        source, guest, mode = volume.split(":")
        kind = "--ro-bind" if mode == "ro" else "--bind"
        view += [kind, source, guest]
    image = options["--image"][0]
    view += ["--ro-bind", image, "/image"]
    for line in (Path(image) / "needs").read_text().splitlines():
        view += ["--ro-bind", line, line]
    info = os.open(path / "info", os.O_WRONLY | os.O_CREAT, 0o600)
    null = os.open(os.devnull, os.O_RDWR)
    if (pid := os.fork()) == 0:  # the machine's own monitor, which outlives this program
        os.setsid()
        monitor(view + argv, info, null, path)
    while not (path / "pid").exists():
        time.sleep(0.005)
    if behaviour == "mute":
        return 0
    print(path.name)
    return 0 if pid else 1


def monitor(argv: list[str], info: int, null: int, path: Path) -> None:
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.dup2(info, 3)
    machine = subprocess.Popen(argv, pass_fds=(3,))
    (path / "pid.new").write_text(str(machine.pid))
    (path / "pid.new").rename(path / "pid")
    # A machine whose command has ended stays all the same, until it is killed; one that was killed itself does not.
    if machine.wait() >= 0 and path.is_dir():
        (path / "ended").touch()
    os._exit(0)


def behave() -> str:
    script = ROOT / "behave"
    words = script.read_text().split() if script.exists() else []
    if not words:
        return ""
    script.write_text("\n".join(words[1:]))
    return words[0]


def config(path: Path) -> dict[str, str]:
    return json.loads((path / "config.json").read_text())


def status(path: Path) -> str:
    if (path / "killed").exists():
        return "stopped"
    alive = Path(f"/proc/{(path / 'pid').read_text()}/exe").exists()
    return "running" if alive or (path / "ended").exists() else "crashed"


def inner(path: Path) -> int:
    """The first process of the machine, as this machine counts."""
    for _ in range(400):
        try:
            return int(json.loads((path / "info").read_text())["child-pid"])
        except (ValueError, OSError):
            time.sleep(0.005)
    return 0


def enter(path: Path, argv: list[str]) -> int:
    """`kill -TERM PID`, with the number that the process has inside."""
    assert argv[:2] == ["kill", "-TERM"]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                lines = (entry / "status").read_text().splitlines()
                same = os.readlink(entry / "ns/pid") == os.readlink(f"/proc/{inner(path)}/ns/pid")
            except OSError:
                continue
            numbers = next(line.split()[1:] for line in lines if line.startswith("NSpid:"))
            if same and numbers[-1] == argv[2]:
                os.kill(int(entry.name), signal.SIGTERM)
                return 0
    return 1


def end(path: Path) -> None:
    (path / "killed").touch()
    try:
        os.kill(int((path / "pid").read_text()), signal.SIGKILL)
    except ProcessLookupError:
        return
    for _ in range(400):
        if not Path(f"/proc/{inner(path)}").exists():
            return
        time.sleep(0.005)


if __name__ == "__main__":
    sys.exit(main())
