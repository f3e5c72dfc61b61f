"""How a daemon isolates its tasks: one `Isolation` a daemon, one `Box` a task.

The daemon itself stays outside: it wraps each process of a task, so the task cannot reach the daemon's token, its
journal or another task. `bubblewrap` says what a task sees, `limits` what it may use, `egress` what it may reach; this
module brings them together for the processes that `spawn` starts. Where isolation is configured, nothing is ever
started without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shutil
import socket
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import structlog

from flakes.core import egress as rules
from flakes.core import isolation as labels
from flakes.sandbox import bubblewrap, egress
from flakes.sandbox.limits import Degree, Group, Limiter
from flakes.sandbox.processes import MARK
from flakes.wire.config import SandboxConfig
from flakes.wire.errors import ApiError

log = structlog.get_logger(__name__)

Serve = Callable[[socket.socket], Awaitable[asyncio.Server]]
"""Answers on a socket that listens already, and takes it over."""

TRIAL_S: Final = 20.0
TOOLS: Final = "127.0.0.2:3129"
"""Where a task's own loopback has its tools. Not 127.0.0.1: a list of what is allowed may name that, and programs
would then go there through the proxy."""
LISTENERS_MAX: Final = 4
EMPTY_S: Final = 2.0
"""How long the kernel may take to notice that a control group is empty."""


class Isolation:
    """See the module. Raises `config_invalid` where this machine cannot isolate."""

    def __init__(self, config: SandboxConfig) -> None:
        settings = config.isolation
        state_dir = Path(config.state_dir).resolve()
        self._hidden = (
            state_dir,
            Path(config.credential_file).resolve(),
            *(Path(path).resolve() for path in settings.hidden),
        )
        self._read_only = tuple(Path(path) for path in settings.read_only)
        bubblewrap.check(list(self._read_only), list(self._hidden))
        self._executable = executable(settings.executable)
        self._allow = check_allow(settings.network_allow)
        self._memory_mb = settings.memory_mb
        self._etc = state_dir / "isolation" / "etc"
        self._tmp = state_dir / "isolation" / "tmp"
        self._limiter = Limiter(settings, config.sandbox_id)
        self._clearing: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Once, before the first task, by the daemon that holds the state directory. Raises `config_invalid`."""
        bubblewrap.write_etc(self._etc)
        _remove(self._tmp)
        reason = trial(self._executable)
        if reason:
            raise ApiError(
                "config_invalid",
                f"isolation: bubblewrap cannot isolate on this machine: {reason}",
                "allow unprivileged user namespaces, or use another provider",
            )

    def take_over(self) -> None:
        """When nothing of an earlier daemon lives any more: remove what it had for its tasks."""
        self._limiter.remove_stale()

    def describe(self) -> tuple[str, Degree, str]:
        """The isolation in words, how far limits are enforced, and why not further."""
        degree, reason = self._limiter.describe()
        return labels.label("bubblewrap"), degree, reason

    def box(
        self,
        assignment_id: str,
        root: Path,
        tools: Path,
        say: Callable[[str], None],
        programs: tuple[tuple[Path, Path], ...] = (),
    ) -> Box:
        """What one task is put into; `root` is its directory, `programs` what it sees besides, and where.
        Raises `OSError`, and `config_invalid` for programs that lie beside secrets."""
        bubblewrap.check([real for real, _ in programs], list(self._hidden))
        (root / "home").mkdir(mode=0o700, exist_ok=True)
        tmp = self._tmp / assignment_id
        tmp.mkdir(mode=0o700, parents=True)
        view = bubblewrap.View(
            executable=self._executable,
            root=root.resolve(),
            tmp=tmp,
            tools=tools.resolve(),
            etc=self._etc,
            read_only=self._read_only,
            hidden=self._hidden,
            programs=programs,
        )
        proxy = egress.Proxy(self._allow, say) if self._allow else None
        name, degree, reason = self.describe()
        network = f"only {', '.join(self._allow)}" if self._allow else "none"
        say(f"isolation: {name}; network: {network}; limits: {degree} ({reason})")
        group = self._limiter.take()
        return Box(
            assignment_id, view, self._limiter, group, proxy, say, self._memory_mb, self._clear
        )

    def looking(self, scratch: Path, beside: tuple[Path, ...], command: list[str]) -> list[str]:
        """The command, run where only `beside` is to be seen of this machine, besides programs, and only `scratch`
        can be written to: for what looks at the files of a task while it runs. A `tmp` of it is in `scratch`."""
        tmp = scratch / "tmp"
        tmp.mkdir(mode=0o700, exist_ok=True)
        view = bubblewrap.View(
            executable=self._executable, root=scratch, tmp=tmp, tools=None, etc=self._etc, hidden=self._hidden,
            beside=beside,
        )  # fmt: skip
        return bubblewrap.arguments(view, command)

    def prepare(self) -> None:
        """Make for the next task what takes long. Called when one has begun."""
        self._limiter.prepare()

    async def close(self) -> None:
        """When no task is left: nothing of theirs stays."""
        self._limiter.close()
        if self._clearing:
            await asyncio.wait(self._clearing)

    def _clear(self, group: Group, tmp: Path) -> None:
        """Remove what a task had, while its result is already on its way."""
        clearing = asyncio.create_task(_clear(group, tmp))
        self._clearing.add(clearing)
        clearing.add_done_callback(self._clearing.discard)


class Box:
    """One task's isolation, for every process that is started for it."""

    def __init__(
        self,
        assignment_id: str,
        view: bubblewrap.View,
        limiter: Limiter,
        group: Group,
        proxy: egress.Proxy | None,
        say: Callable[[str], None],
        memory_mb: int | None,
        clear: Callable[[Group, Path], None],
    ) -> None:
        self._clear = clear
        self._assignment_id = assignment_id
        self._view = view
        self._limiter = limiter
        self._group = group
        self._proxy = proxy
        self._say = say
        self._memory_mb = memory_mb
        self._processes = 0
        self._served: dict[str, Serve] = {}
        if proxy is not None:
            self._served[f"127.0.0.1:{egress.PORT}"] = proxy.serve
        self._serving: set[asyncio.Task[asyncio.Server]] = set()
        self._servers: list[asyncio.Server] = []
        self._closed = False

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """The task's environment, where it names things that a task does not see."""
        fitted = dict(env)
        home = Path(fitted.get("HOME") or "/")
        if self._view.root not in home.resolve().parents:
            fitted["HOME"] = str(self._view.root / "home")
        for name in ("USER", "LOGNAME"):
            if name in fitted:
                fitted[name] = "agent"
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            fitted.pop(name, None)
            fitted.pop(name.upper(), None)
        if self._proxy is not None:
            address = f"http://127.0.0.1:{egress.PORT}"
            for name in ("http_proxy", "https_proxy"):
                fitted[name] = fitted[name.upper()] = address
            # Its own loopback is nearer, unless the list means this machine's.
            allowed = {rules.parse(text).host for text in self._proxy.allow}
            own = [name for name in ("localhost", "127.0.0.1", "::1") if name not in allowed]
            own.append(TOOLS.partition(":")[0])
            fitted["no_proxy"] = fitted["NO_PROXY"] = ",".join(own)
        return fitted

    def publish(self, address: str, serve: Serve) -> None:
        """Have `serve` answer at an address of the loopback that each process started from here on sees."""
        self._served[address] = serve

    def job(self) -> dict[str, Any]:
        """The part `isolation` of a supervisor's job, for one process. Raises `OSError`."""
        self._processes += 1
        tmp = self._view.tmp / str(self._processes)
        tmp.mkdir(mode=0o700)
        return {
            "argv": bubblewrap.arguments(dataclasses.replace(self._view, tmp=tmp)),
            "env": {MARK: self._assignment_id},
            "groups": self._group.procs(),
            "listen": ",".join(self._served),
            "processes": self._limiter.processes(),
            "dataBytes": self._limiter.data_bytes(),
        }

    def out_of_memory(self) -> bool:
        """Whether the system has killed a process of the task for its memory limit."""
        return self._group.out_of_memory()

    def listen(self, channel: socket.socket) -> None:
        """Serve the listening sockets that will come over the channel, once the namespace exists."""
        if self._served:
            channel.setblocking(False)
            asyncio.get_running_loop().add_reader(channel, self._take, channel)

    def listened(self, channel: socket.socket) -> None:
        """Nothing more is expected on the channel: what came last is taken."""
        if self._served and channel.fileno() >= 0:
            self._take(channel)
            if channel.fileno() >= 0:
                asyncio.get_running_loop().remove_reader(channel)

    async def close(self) -> None:
        """When no process of the task is left: end its connections, let go of the rest. May be repeated."""
        if self._closed:
            return
        self._closed = True
        if self._serving:
            await asyncio.wait(self._serving)
        for server in self._servers:
            server.close()
        if self._proxy is not None:
            await self._proxy.close()
        if self._group.out_of_memory():
            limit = f"the memory limit of {self._memory_mb} MiB"
            self._say(f"isolation: {limit} was reached: the system killed a process of the task")
        self._clear(self._group, self._view.tmp)

    def _take(self, channel: socket.socket) -> None:
        try:
            _, fds, _, _ = socket.recv_fds(channel, 16, LISTENERS_MAX)
        except BlockingIOError:
            return
        except OSError:
            fds = []
        if not fds:
            asyncio.get_running_loop().remove_reader(channel)
            return
        for fd, serve in zip(fds, self._served.values(), strict=True):
            listener = socket.socket(fileno=fd)
            listener.setblocking(False)
            serving = asyncio.ensure_future(serve(listener))
            self._serving.add(serving)
            serving.add_done_callback(self._now_served)

    def _now_served(self, serving: asyncio.Task[asyncio.Server]) -> None:
        self._serving.discard(serving)
        self._servers.append(serving.result())


async def _clear(group: Group, tmp: Path) -> None:
    await asyncio.to_thread(_remove, tmp)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + EMPTY_S
    while not group.remove():
        if loop.time() > deadline:
            log.warning(
                "control group not removed", directories=[str(d) for d in group.directories]
            )
            return
        await asyncio.sleep(0.01)


def _remove(directory: Path) -> None:
    """Remove what a task left, also what it closed; what cannot be removed is tried again at the next start."""

    def open_up(_: object, path: str, __: object) -> None:
        with contextlib.suppress(OSError):
            Path(path).parent.chmod(0o700)
            if not Path(path).is_symlink():
                Path(path).chmod(0o700)

    for attempt in (open_up, None):
        if directory.exists():
            shutil.rmtree(directory, ignore_errors=attempt is None, onerror=attempt)


def described(config: SandboxConfig, isolation: Isolation | None) -> tuple[str, Degree, str]:
    """What stands between tasks and the machine, in words, how far limits are enforced, and more on that."""
    if isolation is not None:
        return isolation.describe()
    if config.isolation.kind == "none":
        return labels.NONE, "none", "tasks are ordinary processes"
    settings = config.isolation
    given = {"memory": settings.memory_mb, "processors": settings.cpus}
    bounded = [name for name, value in given.items() if value is not None]
    if not bounded:
        return labels.OUTER, "none", "no limits are configured"
    reason = f"{' and '.join(bounded)} of the sandbox as a whole"
    if settings.processes is None:
        return labels.OUTER, "enforced", reason
    return labels.OUTER, "partly", f"{reason}; processes not at all"


def isolation_of(config: SandboxConfig) -> Isolation | None:
    """What the configuration asks for; None is no isolation. Raises `config_invalid`."""
    return Isolation(config) if config.isolation.kind == "bubblewrap" else None


def executable(name: str) -> str:
    """The full path of bubblewrap; raises `config_invalid`."""
    found = shutil.which(name)
    if found is None:
        raise ApiError(
            "config_invalid",
            f"isolation.executable: `{name}` is not on this machine",
            "install bubblewrap (Debian, Ubuntu: apt-get install bubblewrap), or give its path",
        )
    return os.path.realpath(found)


def trial(program: str) -> str:
    """Try it out; why it does not work, or nothing."""
    try:
        ran = subprocess.run(
            [program, *labels.TRIAL],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TRIAL_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if ran.returncode == 0 else ran.stderr.strip() or f"exit code {ran.returncode}"


def check_allow(entries: list[str]) -> list[str]:
    """The entries, each of which can be understood; raises `config_invalid`."""
    for text in entries:
        try:
            rules.parse(text)
        except ValueError as error:
            raise ApiError(
                "config_invalid",
                f"network.allow: {error}",
                'write for example "pypi.org", "git.example.com:8443" or "*.example.com"',
            ) from None
    return entries
