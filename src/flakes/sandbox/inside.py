"""The first process of an isolated task: it starts the command, passes SIGTERM on, and tells how it ended.

Run by bubblewrap as process 1 of the task's own process namespace, as ``python -I -S inside.py``, with the
command's three standard streams, and two sockets: 3 to the supervisor, 4 to the daemon. From 3 it reads the
job, a decimal length and a newline, then fields that each end with NUL: the addresses to listen at (``HOST:PORT``
with commas between, empty: none), the limit of processes (0: none), the limit of writable memory in bytes of each
process (0: none), the file for standard input (empty: as it is), the working directory, the number of arguments,
the arguments, and the environment as ``NAME=value``. To 3 it writes lines: ``started``, or
``failed WHAT ERRNO NAME``; then ``exited STATUS`` with the status that wait(2) gave. SIGTERM goes to the command's
process group.

At each address it listens on the loopback of its own network namespace, and hands the listening sockets to
the daemon through 4, in that order and before the command exists: the daemon serves them, from outside. Nothing
that the command does later can reach either socket. When this process ends, the kernel ends everything in the namespace.

It imports next to nothing, because its start is what isolation costs.
"""

import _signal  # pyright: ignore[reportMissingImports] (`signal` costs milliseconds)
import os

SUPERVISOR = 3
DAEMON = 4


def main() -> None:
    fields = job()
    processes, data_bytes = int(fields[1]), int(fields[2])
    stdin, cwd = fields[3], fields[4]
    count = int(fields[5])
    argv, env = fields[6 : 6 + count], fields[6 + count :]
    if fields[0]:
        hand_over(fields[0].split(b","))
    os.close(DAEMON)
    pid = start(argv, env, (stdin, cwd), (processes, data_bytes))
    if pid == 0:
        return
    _signal.signal(_signal.SIGTERM, lambda *_: terminate(pid))
    say(b"started\n")
    follow(pid)


def job() -> list[bytes]:
    data = b""
    while b"\n" not in data:
        data += receive()
    head, data = data.split(b"\n", 1)
    while len(data) < int(head):
        data += receive()
    return data.split(b"\0")[:-1]


def receive() -> bytes:
    data = os.read(SUPERVISOR, 1 << 20)
    if not data:
        os._exit(0)  # nobody wants a command any more
    return data


def hand_over(addresses: list[bytes]) -> None:
    """Listen on the loopback and give the sockets to the daemon, in one message."""
    import _socket
    import sys

    listeners = []
    for address in addresses:
        host, port = address.decode().split(":")
        listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        listener.bind((host, int(port)))
        listener.listen(128)
        listeners.append(listener)
    rights = b"".join(each.fileno().to_bytes(4, sys.byteorder) for each in listeners)
    daemon = _socket.socket(fileno=os.dup(DAEMON))
    daemon.sendmsg([b"l"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])


def start(
    argv: list[bytes], env: list[bytes], places: tuple[bytes, bytes], limits: tuple[int, int]
) -> int:
    """Fork the command; its pid, or 0 after a failure, which has been told."""
    report_read, report_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        become(argv, env, places, limits, report_write)
    os.close(report_write)
    for fd in (0, 1, 2):
        os.close(fd)
    failure = b""
    while chunk := os.read(report_read, 65_536):
        failure += chunk
    os.close(report_read)
    if failure:
        say(b"failed " + failure + b"\n")
        return 0
    return pid


def become(
    argv: list[bytes],
    env: list[bytes],
    places: tuple[bytes, bytes],
    limits: tuple[int, int],
    report: int,
) -> None:
    """In the fork: turn into the command, or write why not. Never returns."""
    what, name = b"start", b""
    (stdin, cwd), (processes, data_bytes) = places, limits
    try:
        for number in (_signal.SIGPIPE, _signal.SIGXFSZ, _signal.SIGINT):
            _signal.signal(number, _signal.SIG_DFL)
        os.setsid()
        os.close(SUPERVISOR)
        if processes or data_bytes:
            import resource

            if processes:
                resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
            if data_bytes:
                resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, data_bytes))
        if stdin:
            what, name = b"stdin", stdin
            os.dup2(os.open(stdin, os.O_RDONLY), 0)
        what, name = b"cwd", cwd
        os.chdir(cwd)
        what, name = b"exec", argv[0]
        values = dict(variable.split(b"=", 1) for variable in env)
        os.execvpe(argv[0], argv, values)  # noqa: S606
    except (OSError, ValueError) as error:
        number = getattr(error, "errno", None) or 22
        os.write(report, b"%s %d %s" % (what, number, name.replace(b"\n", b" ")))
    finally:
        os._exit(126)


def follow(pid: int) -> None:
    """Reap until the command has ended, and tell how. Whoever started all this ends it by SIGKILL."""
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            say(b"exited %d\n" % status)
            return


def terminate(pid: int) -> None:
    try:
        os.killpg(pid, _signal.SIGTERM)
    except (ProcessLookupError, PermissionError):
        pass


def say(line: bytes) -> None:
    try:
        os.write(SUPERVISOR, line)
    except OSError:
        pass  # the supervisor is gone, and so will be everything here


if __name__ == "__main__":
    main()
