"""What an isolated task sees of the machine, as the arguments of bubblewrap.

Read-only: the system (`/usr` and its links, `/opt`, a chosen part of `/etc`), this interpreter with the package
(for the task's `flakes` command and its first process), and what the configuration adds. Writable: the task's own
directory with its home, and a `/tmp` of each process's own. Everything else does not exist: the daemon's state and token,
other tasks, the user's home, `/run` and its sockets, `/sys`. User, process, network, IPC, host name and cgroup
namespaces are its own, no capability is kept, and nothing set-uid works.

Order decides: later mounts cover earlier ones. System first, then what is hidden, then the task's own, so that a
state directory below a visible one stays invisible but for the task's part of it.

Nothing that is mounted, and nothing on the way to it, may be a path that an earlier process of the task could have
replaced by a link: bubblewrap follows links outside, with the daemon's rights. Hence the `/tmp` beside the task's
directory, new for each process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import flakes
from flakes.wire.errors import ApiError

INSIDE: Final = Path(__file__).with_name("inside.py")
PACKAGE: Final = Path(flakes.__file__).parent
UID_FOR_ROOT: Final = 10_001
"""Who a task seems to be when the daemon is root: programs behave differently, and worse, as root."""
PROC_READ_ONLY: Final = ("sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "scsi")
PROC_EMPTY: Final = ("kcore", "keys", "timer_list")
HOST_NAME: Final = "sandbox"
SYSTEM: Final = ("/usr", "/opt", "/nix/store")
LINKS: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
ETC: Final = (
    "alternatives", "ca-certificates", "ca-certificates.conf", "crypto-policies",
    "debian_version", "fonts", "gai.conf", "java", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "locale.alias",
    "locale.conf", "localtime", "magic", "mime.types", "nsswitch.conf", "os-release", "perl", "pki/ca-trust",
    "pki/tls/certs", "protocols", "python3", "services", "shells", "ssl/certs",
    "ssl/openssl.cnf", "terminfo", "timezone",
)  # fmt: skip
"""What programs read there and nobody minds: no accounts, no keys, no host's services."""


@dataclass(frozen=True, slots=True)
class View:
    """The paths of one task. All absolute, links resolved."""

    executable: str
    root: Path
    """The task's directory."""
    tmp: Path
    """An empty directory outside of `root`."""
    tools: Path | None
    """The directory of its socket and token."""
    etc: Path
    """What tasks get as `/etc`; see `write_etc`."""
    read_only: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()
    """Directories and files."""
    programs: tuple[tuple[Path, Path], ...] = ()
    """Read-only too: what is there, and where the task sees it."""
    beside: tuple[Path, ...] = ()
    """Read-only too, also below what is hidden."""


def arguments(view: View, command: list[str] | None = None) -> list[str]:
    """The whole command line, without a secret in it: the job comes over a socket, when there is no `command`."""
    argv = [
        view.executable,
        "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts",
        "--unshare-cgroup-try", "--die-with-parent", "--as-pid-1", "--cap-drop", "ALL",
        "--uid", str(uid()), "--gid", str(gid()), "--hostname", HOST_NAME,
        "--proc", "/proc", "--dev", "/dev",
    ]  # fmt: skip
    # The kernel asks for the user's number alone there, and ours may be root's.
    for name in PROC_READ_ONLY:
        argv += (
            ["--ro-bind-try", f"/proc/{name}", f"/proc/{name}"]
            if Path("/proc", name).exists()
            else []
        )
    for name in PROC_EMPTY:
        argv += (
            ["--ro-bind-try", "/dev/null", f"/proc/{name}"] if Path("/proc", name).exists() else []
        )
    for path in SYSTEM:
        argv += ["--ro-bind", path, path] if Path(path).is_dir() else []
    for name in LINKS:
        argv += _link_or_bind(Path("/", name))
    argv += ["--ro-bind", str(view.etc), "/etc"]
    for place in ("/tmp", "/var/tmp"):  # noqa: S108
        argv += ["--bind", str(view.tmp), place]
    visible = [*program(), *view.read_only]
    for path in visible:
        if not _is_below(path, [Path(p) for p in SYSTEM]):
            argv += ["--ro-bind", str(path), str(path)]
    for real, seen in view.programs:
        if not _is_below(seen, [*(Path(p) for p in SYSTEM), *visible]):
            argv += ["--ro-bind", str(real), str(seen)]
    shown = [*(Path(p) for p in SYSTEM), *visible, *(seen for _, seen in view.programs)]
    # A file that is replaced would appear again, so its directory goes with it.
    hidden = {
        path if path.is_dir() else path.parent for path in view.hidden if _is_below(path, shown)
    }
    for path in sorted(hidden):
        argv += ["--tmpfs", str(path)]
    argv += ["--bind", str(view.root), str(view.root)]
    if view.tools is not None:
        argv += ["--ro-bind", str(view.tools), str(view.tools)]
    for path in view.beside:
        argv += ["--ro-bind", str(path), str(path)]
    for path in sorted(hidden):
        argv += ["--remount-ro", str(path)]
    argv += ["--remount-ro", "/", "--chdir", "/", "--"]
    return [*argv, *(command or (os.path.realpath(sys.executable), "-I", "-S", str(INSIDE)))]


def program() -> list[Path]:
    """Where this interpreter and this package are, links followed and not followed."""
    found = {Path(sys.prefix), Path(sys.base_prefix), PACKAGE}
    found |= {path.resolve() for path in found}
    found.add(Path(os.path.realpath(sys.executable)).parent)
    return [path for path in sorted(found) if not _is_below(path, list(found - {path}))]


def check(paths: list[Path], hidden: list[Path]) -> None:
    """Refuse to show a directory that holds one that must stay invisible. Raises `config_invalid`."""
    for path in paths:
        if not path.is_absolute() or not path.exists():
            raise ApiError(
                "config_invalid",
                f"isolation.readOnly: {path} is not an absolute path of something that exists",
                "write the full path, or remove it",
            )
        for secret in hidden:
            if path == secret or path in secret.parents or secret in path.parents:
                raise ApiError(
                    "config_invalid",
                    f"isolation.readOnly: {path} would show {secret}, which holds credentials",
                    "name the directories below it that tasks need",
                )


def write_etc(directory: Path) -> None:
    """Make the `/etc` of tasks, anew: a copy of the chosen part, for one mount costs less than thirty, and
    accounts and hosts that tell nothing of this machine. What cannot be read is left out."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, mode=0o755)
    for name in ETC:
        source, target = Path("/etc", name), directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # also `shutil.Error`: some of its files
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True)
            elif source.exists():
                shutil.copyfile(source, target, follow_symlinks=False)
    nobody = "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    root = "root:x:0:0:root:/root:/usr/sbin/nologin\n"
    (directory / "passwd").write_text(f"{root}agent:x:{uid()}:{gid()}:agent:/tmp:/bin/sh\n{nobody}")
    (directory / "group").write_text(f"root:x:0:\nagent:x:{gid()}:\nnogroup:x:65534:\n")
    (directory / "hosts").write_text(f"127.0.0.1 localhost {HOST_NAME}\n::1 localhost\n")


def uid() -> int:
    return os.getuid() or UID_FOR_ROOT


def gid() -> int:
    return os.getgid() or UID_FOR_ROOT


def _link_or_bind(path: Path) -> list[str]:
    if path.is_symlink():
        return ["--symlink", os.readlink(path), str(path)]  # noqa: PTH115 (as it is written)
    return ["--ro-bind", str(path), str(path)] if path.is_dir() else []


def _is_below(path: Path, others: list[Path]) -> bool:
    """Whether it is one of the others, or inside one."""
    return any(path == other or other in path.parents for other in others)
