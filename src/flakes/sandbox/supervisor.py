"""The program between the daemon and one command: it starts it, and leaves nothing of it behind.

Run as ``python -I -S supervisor.py STDIN_FD STDOUT_FD STDERR_FD DAEMON_FD``, standard library only, one process
a command, started in advance and idle until its job line comes. It refuses to know what the command is for.

Standard input, one JSON object a line: first ``{"argv", "env", "cwd", "stdin": "pipe" | path | null}``, for an
isolated command with ``"isolation": {"argv", "env", "groups", "listen", "processes", "dataBytes"}``, then
``{"do": "term"}`` (SIGTERM to the command's process group) or ``{"do": "kill"}``. Standard output:
``{"started": pid}`` or ``{"failed": {"what", "errno", "name"}}``; ``{"exited": code, "signal": n | null}``;
at last ``{"clean": true}`` and the end of the stream.

An isolated command is started by `inside.py` behind ``isolation.argv``, which gets the job over a socket, so that
nothing of it is on a command line that others can read; DAEMON_FD is handed on to it. `groups` are files that the
id of its first process is written into before it gets its job.

Invariants: `clean` is said only when no descendant is left, whatever sessions and groups they made.
On Linux the supervisor is a child subreaper, so that every orphan of the tree becomes its own child, and
it kills and reaps until it has none. The end of standard input means that the daemon is gone, kill -9
included, and is treated as `kill`. On other systems the tree is followed with ps(1), which can miss a
process that left both its parent and its group between two looks.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import select
import signal
import socket
import sys
import time

LINUX = sys.platform == "linux"
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
RESCAN_S = 0.02
SPARE_FD = 10
"""Above the numbers that an isolated command's sockets get."""
ROUNDS_BY_KERNEL = 4
GROUPS_S = 10.0
STUBBORN_S = 0.5
"""How long to wait between looks once killing has not helped for a while (a process in the kernel)."""


def main() -> None:
    fds = tuple(int(text) for text in sys.argv[1:5])
    for fd in fds:
        os.set_inheritable(fd, False)
    libc = ctypes.CDLL(None, use_errno=True) if LINUX else None
    if libc is not None:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        # The pipe tells of the daemon's death too; this is for a pipe that somebody else holds open.
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    supervisor = Supervisor(fds, libc)
    supervisor.run()


class Supervisor:
    def __init__(self, fds: tuple[int, ...], libc: ctypes.CDLL | None) -> None:
        self.fds = fds
        self.libc = libc
        self.pid = 0
        self.inside: Inside | None = None
        self.exited = False
        self.killing = False
        self.rounds = 0
        self.known: set[int] = set()
        self.buffer = b""
        self.wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        os.set_blocking(self.wake_read, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self.on_signal)

    def on_signal(self, *_: object) -> None:
        self.killing = True

    def run(self) -> None:
        readable = [0, self.wake_read]
        while True:
            if self.killing or self.exited:
                # Before its job a supervisor has no children: it just leaves.
                if self.kill_everything():
                    say({"clean": True})
                    os._exit(0)
                self.rounds += 1
                pause = RESCAN_S if self.rounds < 100 else STUBBORN_S
            else:
                pause = None if LINUX or not self.pid else RESCAN_S * 10
                self.remember()
            inside = self.inside
            reads = [*readable, inside.fd] if inside and inside.open else readable
            writes = [inside.fd] if inside and inside.unsent else []
            ready, writable, _ = select.select(reads, writes, [], pause)
            if inside and writable:
                inside.send()
            if inside and inside.fd in ready:
                self.hear(inside)
            if self.wake_read in ready:
                drain(self.wake_read)
            if 0 in ready:
                data = os.read(0, 1 << 20)
                if not data:
                    self.killing = True
                    readable.remove(0)
                self.buffer += data
                self.obey()
            self.reap()

    def obey(self) -> None:
        while b"\n" in self.buffer:
            line, self.buffer = self.buffer.split(b"\n", 1)
            order = json.loads(line)
            action = order.get("do")
            if action == "term":
                self.terminate()
            elif action == "kill":
                self.killing = True
            elif not self.pid and not self.killing:
                self.start(order)

    def terminate(self) -> None:
        if self.inside:
            self.inside.ending = True
            if self.inside.started:
                # To the first process within, the child of the one that isolates: it passes it on.
                for pid in children(self.pid)[:1]:
                    kill(pid, signal.SIGTERM)
        elif self.pid and not self.exited:
            try:
                os.killpg(self.pid, signal.SIGTERM)
            except (ProcessLookupError, PermissionError):
                pass

    def hear(self, inside: Inside) -> None:
        """Pass on what the first process of the isolated command says."""
        for line in inside.lines():
            word, _, rest = line.partition(" ")
            if word == "started":
                inside.started = True
                say({"started": self.pid})
                if inside.ending:
                    self.terminate()
            elif word == "failed":
                what, number, name = rest.split(" ", 2)
                self.fail({"what": what, "errno": int(number), "name": name})
            elif word == "exited" and not self.exited:
                self.exited = True
                code = os.waitstatus_to_exitcode(int(rest))
                say({"exited": code, "signal": -code if code < 0 else None})

    def fail(self, failure: dict[str, object]) -> None:
        if not self.exited:
            say({"failed": failure})
            self.exited = True

    def start(self, job: dict[str, object]) -> None:
        report_read, report_write = os.pipe()
        me = os.getpid()
        if job.get("isolation") is not None:
            try:
                self.inside = Inside(job)
            except ValueError as error:
                self.fail({"what": "exec", "errno": errno.EINVAL, "name": str(error)})
                return
        pid = os.fork()
        if pid == 0:
            self.become(job, report_write, me)
        os.close(report_write)
        if self.inside:
            self.inside.theirs.close()
        for fd in self.fds:
            os.close(fd)
        failure = b""
        while chunk := os.read(report_read, 65536):
            failure += chunk
        os.close(report_read)
        if failure:
            os.waitpid(pid, 0)
            say({"failed": json.loads(failure)})
            self.exited = True
            return
        self.pid = pid
        self.known.add(pid)
        if self.inside:
            if self.enter_groups(job["isolation"]["groups"]):  # type: ignore[index]
                self.inside.send()
        else:
            say({"started": pid})

    def enter_groups(self, groups: list[str]) -> bool:
        """Put the first process within into its groups while it starts, which takes the kernel as long; it
        gets its job only then, so nothing of the command is ever outside of them. False when that failed."""
        give_up_s = time.monotonic() + GROUPS_S
        first: list[int] = []
        try:
            while groups and not (first := children(self.pid)):
                if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    return True  # it failed, and `reap` says so
                if time.monotonic() > give_up_s:
                    raise TimeoutError(errno.ETIMEDOUT, "no process")
                time.sleep(0.0005)
            for path in groups:
                with open(path, "w") as file:  # noqa: PTH123
                    file.write(str(first[0]))
        except OSError as error:
            assert self.inside is not None
            self.inside.unsent = b""
            self.fail({"what": "isolation", "errno": error.errno or errno.EIO, "name": ""})
            return False
        return True

    def become(self, job: dict[str, object], report: int, parent: int) -> None:
        """In the fork: turn into the command, or write why not. Never returns."""
        what, name = "start", ""
        try:
            signal.set_wakeup_fd(-1)
            for number in (
                signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD,
                signal.SIGTERM, signal.SIGINT, signal.SIGHUP,
            ):  # fmt: skip
                signal.signal(number, signal.SIG_DFL)
            os.setsid()
            if self.libc is not None:
                self.libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                if os.getppid() != parent:
                    os._exit(125)
            stdin_fd, stdout_fd, stderr_fd, daemon_fd = self.fds
            stdin = job["stdin"]
            if stdin != "pipe":
                # Of an isolated command, what the path leads to is looked up where the command is.
                what, name = "stdin", str((not self.inside and stdin) or os.devnull)
                stdin_fd = os.open(name, os.O_RDONLY)
            for target, fd in enumerate((stdin_fd, stdout_fd, stderr_fd)):
                os.dup2(fd, target)
            if self.inside:
                what, name = "isolation", ""
                report = fcntl.fcntl(report, fcntl.F_DUPFD_CLOEXEC, SPARE_FD)
                self.isolate(job["isolation"], daemon_fd)  # type: ignore[arg-type]
            what, name = "cwd", str(job["cwd"])
            os.chdir(name)
            argv, env = job["argv"], job["env"]
            what, name = "exec", argv[0]  # type: ignore[index]
            os.execvpe(name, argv, env)  # type: ignore[arg-type]  # noqa: S606
        except (OSError, ValueError) as error:
            number = getattr(error, "errno", None) or errno.EINVAL
            failure = {"what": what, "errno": number, "name": name, "message": str(error)}
            os.write(report, json.dumps(failure).encode())
        finally:
            os._exit(126)

    def isolate(self, isolation: dict[str, object], daemon_fd: int) -> None:
        """In the fork: become what isolates, with nothing but the two sockets."""
        assert self.inside is not None
        # Out of the way first: each may have the number that the other one must get.
        theirs = fcntl.fcntl(self.inside.theirs, fcntl.F_DUPFD_CLOEXEC, SPARE_FD)
        daemon = fcntl.fcntl(daemon_fd, fcntl.F_DUPFD_CLOEXEC, SPARE_FD)
        os.dup2(theirs, 3)
        os.dup2(daemon, 4)
        os.chdir("/")
        argv: list[str] = isolation["argv"]  # type: ignore[assignment]
        os.execve(argv[0], argv, isolation["env"])  # type: ignore[arg-type]  # noqa: S606

    def reap(self) -> None:
        """Take in every child that has ended; report the command's own end."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.known.discard(pid)
            if pid == self.pid and not self.exited:
                code = os.waitstatus_to_exitcode(status)
                if self.inside:
                    code = self.end_of_isolation(code)
                    if self.exited:
                        return
                self.exited = True
                say({"exited": code, "signal": -code if code < 0 else None})

    def end_of_isolation(self, code: int) -> int:
        """The isolating process has ended: what its first process said last counts; without that it was
        killed, or nothing was ever started."""
        assert self.inside is not None
        self.hear(self.inside)
        if not self.exited and not self.inside.started:
            self.fail({"what": "isolation", "errno": 0, "name": ""})
        return -signal.SIGKILL if code in (137, -signal.SIGKILL) else code

    def kill_everything(self) -> bool:
        """One round of killing and reaping; True when nothing is left."""
        if not LINUX:
            return self.kill_listed()
        if childless():
            return True
        if self.inside and self.pid in self.known and self.rounds < ROUNDS_BY_KERNEL:
            # With the process that isolates, the kernel ends all that is within: no need to look for it.
            kill(self.pid)
        else:
            for pid in descendants(os.getpid()):
                kill(pid)
        self.reap()
        return childless()

    def remember(self) -> None:
        """Without a subreaper, note who belongs to the tree while its parents still live."""
        if not LINUX and self.pid:
            self.known |= listed(self.known | {self.pid}, self.pid)

    def kill_listed(self) -> bool:
        if not self.pid:
            return True
        self.known = listed(self.known | {self.pid}, self.pid) - {os.getpid()}
        for pid in self.known:
            kill(pid)
        self.reap()
        return not self.known


class Inside:
    """The supervisor's end of the socket to `inside.py`. Nothing here waits."""

    def __init__(self, job: dict[str, object]) -> None:
        self.socket, self.theirs = socket.socketpair()
        self.socket.setblocking(False)
        self.fd = self.socket.fileno()
        self.unsent = described(job)
        self.heard = b""
        self.open = True
        self.started = False
        self.ending = False
        """It shall end by itself, as soon as it is there."""

    def send(self) -> None:
        try:
            sent = self.socket.send(self.unsent)
        except BlockingIOError:
            return
        except OSError:
            sent = len(self.unsent)  # it is gone, and the reading end tells
        self.unsent = self.unsent[sent:]

    def lines(self) -> list[str]:
        """Whole lines that have come."""
        while self.open:
            try:
                data = self.socket.recv(65_536)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            self.open = bool(data)
            self.heard += data
        *whole, self.heard = self.heard.split(b"\n")
        return [os.fsdecode(line) for line in whole]


def described(job: dict[str, object]) -> bytes:
    """The job as `inside.py` reads it."""
    isolation: dict[str, object] = job["isolation"]  # type: ignore[assignment]
    argv: list[str] = job["argv"]  # type: ignore[assignment]
    env: dict[str, str] = job["env"]  # type: ignore[assignment]
    fields = [str(isolation[name]) for name in ("listen", "processes", "dataBytes")]
    stdin = job["stdin"]
    fields += ["" if stdin in (None, "pipe") else str(stdin)]
    fields += [str(job["cwd"]), str(len(argv)), *argv]
    fields += [f"{name}={value}" for name, value in env.items()]
    if any("\0" in field for field in fields):
        raise ValueError("a NUL character in an argument")
    data = b"".join(os.fsencode(field) + b"\0" for field in fields)
    return b"%d\n%s" % (len(data), data)


def childless() -> bool:
    """Whether there is no child at all, living or unreaped: with a subreaper, the whole tree is gone."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def children(pid: int) -> list[int]:
    """Those of a process with one thread, where the kernel lists them, else from the process table."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:  # noqa: PTH123
            return [int(child) for child in file.read().split()]
    except OSError:
        return [child for child in descendants(pid) if parent_of(child) == pid]


def parent_of(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            stat = file.read()
    except OSError:
        return 0
    # The name, in parentheses, may hold anything; the parent's id is the second word after it.
    return int(stat[stat.rindex(b")") + 2 :].split(b" ", 2)[1])


def descendants(root: int) -> list[int]:
    """Every process under `root`, from /proc; the parents before their children."""
    below: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 - pathlib costs the start of a program
        if entry.isdigit():
            below.setdefault(parent_of(int(entry)), []).append(int(entry))
    found = list(below.get(root, ()))
    for pid in found:
        found += below.get(pid, ())
    return found


def listed(known: set[int], group: int) -> set[int]:
    """The members of a tree that ps(1) shows: the known, their children, and those of the group."""
    with os.popen("ps -axo pid=,ppid=,pgid=,stat=") as lines:  # noqa: S605
        rows = [line.split() for line in lines]
    alive = {int(row[0]) for row in rows if len(row) == 4 and not row[3].startswith("Z")}
    tree = known & alive
    grown = True
    while grown:
        more = {
            int(row[0])
            for row in rows
            if len(row) == 4
            and int(row[0]) in alive
            and (int(row[1]) in tree or int(row[2]) == group)
        }
        grown = not more <= tree
        tree |= more
    return tree


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def drain(fd: int) -> None:
    try:
        while os.read(fd, 4096):
            pass
    except BlockingIOError:
        pass


def say(report: dict[str, object]) -> None:
    try:
        os.write(1, json.dumps(report).encode() + b"\n")
    except OSError:
        pass  # nobody listens any more; the killing goes on all the same


if __name__ == "__main__":
    main()
