"""Tasks behind bubblewrap, through the real daemon: what they can do, and the doors that must be closed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import flakes
from flakes.core.task import Outcome
from sandbox.bwrap import needs_bubblewrap, needs_root
from sandbox.conftest import Start
from sandbox.controlplane import (
    TOKEN,
    ControlPlane,
    DaemonProcess,
    eventually,
    living,
    make,
    shell,
)

pytestmark = needs_bubblewrap
PYTHON = sys.executable
SOURCE = Path(flakes.__file__).parents[1]


@pytest.fixture(scope="module")
def isolated(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[ControlPlane, DaemonProcess]]:
    plane = ControlPlane()
    plane.start()
    daemon = DaemonProcess(plane, tmp_path_factory.mktemp("sandbox"), {"kind": "bubblewrap"})
    daemon.start()
    yield plane, daemon
    daemon.stop()
    plane.stop()


@pytest.fixture
def plane(isolated: tuple[ControlPlane, DaemonProcess]) -> ControlPlane:
    isolated[0].asked.clear()
    return isolated[0]


@pytest.fixture
def daemon(isolated: tuple[ControlPlane, DaemonProcess]) -> DaemonProcess:
    return isolated[1]


def python_of(program: str, **more: Any) -> dict[str, Any]:
    return {"input": {"argv": ["python3", "-c", program]}} | more


def mapped(path: Path) -> int:
    """Processes of this machine that have something below `path` as a root of their view, or run there."""
    found = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found += str(path) in (entry / "cmdline").read_text()
            except OSError:
                continue
    return found


# ---- it works


def test_a_task_works_as_ever(plane: ControlPlane) -> None:
    line = 'pwd; echo "$FLAKES_WORK_DIR"; cat; echo out > "$FLAKES_OUTPUTS/note"; echo err >&2; exit 0'
    assignment = make(
        shell(line, title="Do it", declaredOutputs={"note": {}}, verify=["test -f $FLAKES_OUTPUTS/note"])
    )
    plane.offer(assignment)
    result = plane.result(assignment.assignment_id)
    assert (result.outcome, result.exit_code) == (Outcome.SUCCEEDED, 0)
    pwd, work, *brief = result.text.split("\n")
    assert pwd == work
    assert brief[0] == "# Do it"
    assert result.outputs["note"].text == "out\n"
    assert [each.passed for each in result.evidence] == [True]
    assert plane.text(assignment.assignment_id, "stderr") == ["err"]


def test_its_log_says_what_it_is_in(plane: ControlPlane) -> None:
    assignment = make(shell("true"))
    plane.offer(assignment)
    plane.result(assignment.assignment_id)
    first = plane.text(assignment.assignment_id, "system")[0]
    assert first == (
        "isolation: namespaces (bubblewrap); network: none; limits: none (no limits are configured)"
    )
    assert plane.hellos[-1].isolation == "namespaces (bubblewrap)"


def test_ends_are_told_exactly(plane: ControlPlane) -> None:
    """A wrapper's own exit code would hide these: 128 + N is both a signal's death and an exit."""
    killed = plane.run(shell("kill -9 $$"))
    assert (killed.exit_code, killed.error.code) == (-9, "killed_by_signal")
    exited = plane.run(shell("exit 137"))
    assert (exited.exit_code, exited.error.code) == (137, "exit_nonzero")
    missing = plane.run({"input": {"argv": ["no-such-program"]}})
    assert (missing.exit_code, missing.error.code) == (127, "command_not_found")
    line = 'echo x > plain; "$FLAKES_WORK_DIR/plain"'
    assert plane.run(shell(line)).exit_code == 126
    refused = plane.run({"input": {"argv": ["/etc/passwd"]}})
    assert refused.error.code == "command_not_executable"


def test_the_tools_of_the_task_work_inside(plane: ControlPlane) -> None:
    assignment = make(shell("flakes tasks files list --json; command -v flakes"))
    plane.offer(assignment)
    answer, where = plane.result(assignment.assignment_id).text.split("\n")
    assert answer == "{}"
    assert where.endswith(f"{assignment.assignment_id}/bin/flakes")
    assert plane.asked == [(assignment.assignment_id, "files.list", {})]


def test_the_environment_is_fitted_and_the_home_private(plane: ControlPlane) -> None:
    values = {"env": {"HTTP_PROXY": "http://127.0.0.1:9", "LD_PRELOAD": "/nowhere.so", "HOME": "/root"}}
    line = {"input": {"argv": ["env"], **values}}
    assignment = make(line)
    plane.offer(assignment)
    plane.result(assignment.assignment_id)
    env = dict(line.split("=", 1) for line in plane.text(assignment.assignment_id))
    assert env["HOME"].endswith(f"{assignment.assignment_id}/home")
    assert not [name for name in env if name.lower().endswith("_proxy")]
    assert "SECRET_OF_THE_DAEMON" not in env
    # What a task sets for its programs does not touch the program that isolates it.
    assert env["LD_PRELOAD"] == "/nowhere.so"


def test_nothing_of_the_task_is_on_a_command_line_outside_of_it(
    plane: ControlPlane, tmp_path: Path
) -> None:
    """The words of the command itself are, as everywhere; its environment is not."""
    values = {"shell": "sleep 3041; true", "env": {"API_KEY": "not-for-everybody-3041"}}
    assignment = make({"input": values})
    plane.offer(assignment)
    eventually(lambda: living("3041"), "the task")
    lines = [p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline")]
    assert not any(b"not-for-everybody-3041" in line for line in lines)
    plane.cancel(assignment.assignment_id)
    assert plane.result(assignment.assignment_id).outcome is Outcome.CANCELLED


# ---- nothing survives (F12, F24)

ESCAPE = "(setsid setsid sleep 3042 >/dev/null 2>&1 &) ; setsid sleep 3042 & "


@pytest.mark.parametrize("end", ["true", "false", "kill -9 $$"])
def test_nothing_is_left_after_the_command(plane: ControlPlane, end: str) -> None:
    plane.run(shell(f"{ESCAPE} sleep 0.1; {end}"))
    assert living("3042") == []


def test_nothing_is_left_after_cancel_and_timeout(plane: ControlPlane) -> None:
    line = f"trap '' TERM; {ESCAPE} sleep 3043"
    cancelled, late = make(shell(line)), make(shell(line, timeoutS=3.0))
    plane.offer(cancelled, late)
    eventually(lambda: len(living("3043")) == 2 and len(living("3042")) == 4, "their children")
    plane.cancel(cancelled.assignment_id)
    assert plane.result(cancelled.assignment_id).outcome is Outcome.CANCELLED
    result = plane.result(late.assignment_id)
    assert result.error.code == "timeout"
    assert living("3042") + living("3043") == []


def test_a_task_may_end_by_itself_when_it_is_asked_to(plane: ControlPlane) -> None:
    assignment = make(shell("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done"))
    plane.offer(assignment)
    plane.wait(lambda: "up" in plane.text(assignment.assignment_id), "the task")
    plane.cancel(assignment.assignment_id)
    plane.result(assignment.assignment_id)
    assert "bye" in plane.text(assignment.assignment_id)


def test_nothing_survives_the_daemon(own: Start, tmp_path: Path) -> None:
    plane, daemon = own(isolation={"kind": "bubblewrap"})
    plane.offer(make(shell(f"{ESCAPE} sleep 3044")))
    eventually(lambda: living("3044") and len(living("3042")) == 2, "the task")
    began = time.monotonic()
    daemon.kill()
    eventually(lambda: not living("3044") + living("3042"), "their end")
    eventually(lambda: mapped(daemon.state_dir) == 0, "the end of what isolated them")
    assert time.monotonic() - began < 5


def test_nothing_survives_the_supervisor(own: Start) -> None:
    """Killed alone: what it supervised dies with it, and the task is lost, not wrongly ended."""
    plane, daemon = own(isolation={"kind": "bubblewrap"})
    assignment = make(shell(f"{ESCAPE} sleep 3045"))
    plane.offer(assignment)
    eventually(lambda: living("3045") and len(living("3042")) == 2, "the task")
    for entry in Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split():
        os.kill(int(entry), 9)
    assert plane.result(assignment.assignment_id).outcome is Outcome.LOST
    assert living("3045") + living("3042") == []


# ---- closed doors


def test_the_token_of_the_daemon_cannot_be_read(
    plane: ControlPlane, daemon: DaemonProcess
) -> None:
    """By a child of the task either; not by path, not through /proc, not anywhere in what it sees."""
    token = daemon.directory / "token"
    line = f"""
    sh -c 'cat {token}; cat {daemon.config_path}; ls {daemon.state_dir}/assignments;
    cat {daemon.state_dir}/journal*; ls -d /proc/{daemon.pid} /proc/[0-9]*/root{token};
    cat /proc/*/environ' 2>&1
    grep -rls {TOKEN} / --include='*' --exclude-dir=proc --exclude-dir=usr --exclude-dir=opt 2>/dev/null
    echo done
    """
    assignment = make(shell(line))
    plane.offer(assignment)
    result = plane.result(assignment.assignment_id, 60)
    out = "\n".join(plane.text(assignment.assignment_id))
    assert result.text.endswith("done")
    assert TOKEN not in out.replace(line, "")
    assert "SECRET_OF_THE_DAEMON" not in out
    # The only assignment there is its own.
    assert out.count("assignment_") == out.count(assignment.assignment_id)
    assert str(token) + ":" in out
    assert "No such file" in out


def test_another_task_cannot_be_reached(plane: ControlPlane, tmp_path: Path) -> None:
    victim = make(shell("echo secret > mine; echo $PWD; echo $FLAKES_TOOL_SOCKET; sleep 3046"))
    plane.offer(victim)
    plane.wait(lambda: len(plane.text(victim.assignment_id)) == 2, "the victim")
    work, tool_socket = plane.text(victim.assignment_id)
    assert Path(work, "mine").exists()
    line = f"cat {work}/mine; echo x > {work}/mine; ls -a {work} $(dirname {tool_socket}); pkill -9 sleep; pgrep -c sleep"
    assignment = make(shell(line + "; ps -e | wc -l"))
    plane.offer(assignment)
    result = plane.result(assignment.assignment_id)
    assert int(result.text.split()[-1]) < 10
    assert "secret" not in result.text
    errors = "\n".join(plane.text(assignment.assignment_id, "stderr"))
    assert errors.count("No such file") >= 3
    assert Path(work, "mine").read_text() == "secret\n"
    assert living("3046")
    plane.cancel(victim.assignment_id)
    plane.result(victim.assignment_id)


def test_processes_outside_cannot_be_signalled_or_traced(plane: ControlPlane) -> None:
    outside = subprocess.Popen(["sleep", "3047"])
    try:
        program = f"""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for pid in [{outside.pid}, {os.getpid()}, -1]:
    try:
        os.kill(pid, 0) if pid > 0 else None
        print('killed', pid)
    except OSError as error:
        print('kill', error.errno)
    libc.ptrace(16, pid, 0, 0)
    print('ptrace', ctypes.get_errno())
    data = (ctypes.c_char * 8)()
    print('pidfd', libc.syscall(434, pid, 0))
for kind in ('user', 'mnt', 'pid', 'net', 'ipc', 'uts'):
    print(kind, os.readlink('/proc/self/ns/' + kind))
"""
        out = plane.run(python_of(program)).text
        assert out.count("kill 3") == 2  # ESRCH
        assert "ptrace 0" not in out
        for kind in ("user", "mnt", "pid", "net", "ipc", "uts"):
            assert f"{kind} {os.readlink(f'/proc/self/ns/{kind}')}" not in out
        assert outside.poll() is None
    finally:
        outside.kill()
        outside.wait()


def test_nothing_outside_its_directory_can_be_written(
    plane: ControlPlane, tmp_path: Path
) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir(mode=0o777)
    places = ["/", "/usr", "/usr/local/bin", "/etc", "/opt", "/root", "/var", "/dev", str(open_to_all)]
    places += [str(Path(PYTHON).parent), str(Path(__file__).parent), "/proc/sys/kernel", "/run", "/home"]
    program = f"""
import os
for place in {places!r}:
    try:
        open(place + '/flakes-was-here', 'w').close()
        print('wrote', place)
    except OSError as error:
        print('refused', place, error.errno)
for place in ('/tmp', os.environ['HOME'], '.', os.environ['TMPDIR'], '/var/tmp', '/dev/shm'):
    open(place + '/mine', 'w').close()
"""
    result = plane.run(python_of(program))
    assert result.outcome is Outcome.SUCCEEDED, result
    # The devices are a small file system of the task's own.
    assert [line for line in result.text.split("\n") if line.startswith("wrote")] in ([], ["wrote /dev"])
    assert list(open_to_all.iterdir()) == []
    assert not Path("/dev/flakes-was-here").exists()
    assert not Path("/tmp/mine").exists()


@needs_root
def test_settings_of_the_kernel_cannot_be_changed(plane: ControlPlane) -> None:
    """The kernel asks for the user's number alone there, which is root's when the daemon is root's."""
    program = """
import os
for root, _, names in os.walk('/proc/sys'):
    for name in names:
        try:
            os.close(os.open(os.path.join(root, name), os.O_WRONLY))
            print('open', root, name)
        except OSError:
            pass
for name in ('/proc/sysrq-trigger', '/proc/irq/default_smp_affinity', '/proc/kcore', '/proc/kmsg'):
    try:
        fd = os.open(name, os.O_RDWR)
        print('open', name, os.read(fd, 1))
    except OSError:
        pass
print('walked')
"""
    assert plane.run(python_of(program)).text == "walked"


@needs_root
def test_files_of_root_are_not_there(plane: ControlPlane) -> None:
    line = "cat /etc/shadow /etc/ssh/* /root/.* /etc/sudoers; mount -t tmpfs none /tmp; chroot / true; id -u"
    result = plane.run(shell(f"({line}) 2>/dev/null; true"))
    assert result.text == "10001"


def test_a_setuid_program_gains_nothing(plane: ControlPlane) -> None:
    line = "grep -E 'NoNewPrivs|CapEff|CapBnd' /proc/self/status; su -c id 2>/dev/null; true"
    text = plane.run(shell(line)).text
    assert text.split() == ["CapEff:", "0" * 16, "CapBnd:", "0" * 16, "NoNewPrivs:", "1"]


LINKS = [
    'ln -s {secret} "$FLAKES_OUTPUTS/note"',
    'rm -r "$FLAKES_OUTPUTS"; ln -s {parent} "$FLAKES_OUTPUTS"',
    'ln -s /proc/self/environ "$FLAKES_OUTPUTS/note"',
]


@pytest.mark.parametrize("line", LINKS)
def test_links_do_not_make_the_daemon_read_for_the_task(
    plane: ControlPlane, daemon: DaemonProcess, line: str
) -> None:
    """The daemon collects outputs from outside, with its own rights."""
    note = daemon.directory / "note"
    note.write_text(TOKEN)
    line = line.format(secret=daemon.directory / "token", parent=daemon.directory)
    result = plane.run(shell(line, declaredOutputs={"note": {}}))
    assert (result.outcome, result.error.code) == (Outcome.FAILED, "output_unsupported")
    assert TOKEN not in repr(result)


def test_a_link_within_the_directory_is_an_output(plane: ControlPlane) -> None:
    line = 'echo hi > report; ln -s "$FLAKES_WORK_DIR/report" "$FLAKES_OUTPUTS/note"'
    assert plane.run(shell(line, declaredOutputs={"note": {}})).outputs["note"].text == "hi\n"


def test_links_do_not_make_the_daemon_write_for_the_task(
    plane: ControlPlane, daemon: DaemonProcess
) -> None:
    victim = daemon.directory / "victim"
    victim.write_text("as it was")
    line = f'rm "$FLAKES_INBOX"; ln -s {victim} "$FLAKES_INBOX"; echo up; sleep 3048'
    assignment = make(shell(line))
    plane.offer(assignment)
    plane.wait(lambda: plane.text(assignment.assignment_id) == ["up"], "the task")
    (message,) = plane.say(assignment.assignment_id, "hello")
    plane.wait(lambda: plane.states(message), "what becomes of the message")
    plane.cancel(assignment.assignment_id)
    plane.result(assignment.assignment_id)
    assert victim.read_text() == "as it was"
    assert "delivered" not in plane.states(message)


def test_links_do_not_lead_the_mounts_of_a_later_process_astray(
    plane: ControlPlane, daemon: DaemonProcess
) -> None:
    """A `verify` command starts after the task had its directory, and all in it, for itself."""
    line = f"""
    for each in tmp home work/../state inputs bin; do rm -rf ../$each; ln -s / ../$each; done
    rm -f "$FLAKES_BRIEF"; ln -s {daemon.directory}/token "$FLAKES_BRIEF"
    ln -s / /tmp/link; ln -s / /var/tmp/link2
    """
    verify = f"! cat {daemon.directory}/token; ! ls {daemon.directory}/sandbox.toml; ! touch /etc/x; cat; true"
    assignment = make(shell(line, verify=[verify, "test ! -e /root/.bashrc", "ls -a /tmp"]))
    plane.offer(assignment)
    result = plane.result(assignment.assignment_id)
    tails = "".join(each.tail for each in result.evidence)
    assert [each.passed for each in result.evidence] == [True] * 3, tails
    assert TOKEN not in tails
    assert "link" not in result.evidence[2].tail, "each process has a /tmp of its own"


class Listeners:
    """What a task without a network must not reach: a port, a name's port, an abstract socket."""

    def __init__(self) -> None:
        self.reached: list[str] = []
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.every = socket.create_server(("0.0.0.0", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.abstract = f"flakes-test-{os.getpid()}"
        self.unix = socket.socket(socket.AF_UNIX)
        self.unix.bind(f"\0{self.abstract}")
        self.unix.listen()
        for name in ("tcp", "every", "unix"):
            threading.Thread(target=self._accept, args=(name,), daemon=True).start()

    def _accept(self, name: str) -> None:
        try:
            while True:
                getattr(self, name).accept()
                self.reached.append(name)
        except OSError:
            pass

    def close(self) -> None:
        for each in (self.tcp, self.every, self.unix):
            each.shutdown(socket.SHUT_RDWR)
        for each in (self.tcp, self.every, self.unix, self.udp):
            each.close()


def test_there_is_no_way_out_without_a_network(plane: ControlPlane) -> None:
    listeners = Listeners()
    try:
        program = f"""
import socket
tries = [
    (socket.AF_INET, ('127.0.0.1', {listeners.tcp.getsockname()[1]})),
    (socket.AF_INET, ('127.0.0.1', {listeners.every.getsockname()[1]})),
    (socket.AF_INET, ('127.0.0.1', {plane.port})),
    (socket.AF_INET, ('127.0.0.1', 3128)),
    (socket.AF_INET, ('192.0.2.1', 80)),
    (socket.AF_INET6, ('::1', {plane.port})),
    (socket.AF_UNIX, '\\0{listeners.abstract}'),
    (socket.AF_UNIX, '/run/dbus/system_bus_socket'),
    (socket.AF_UNIX, '/var/run/docker.sock'),
]
for family, address in tries:
    with socket.socket(family) as s:
        s.settimeout(2)
        try:
            s.connect(address)
            print('reached', address)
        except OSError as error:
            print('refused', error.errno)
for name in ('localhost.localdomain.example', 'example.com'):
    try:
        socket.getaddrinfo(name, 80)
        print('reached', name)
    except OSError:
        print('refused')
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.sendto(b'x', ('127.0.0.1', {listeners.udp.getsockname()[1]}))
print(sorted(name for _, name in socket.if_nameindex()))
for kind in (socket.AF_NETLINK, socket.AF_PACKET, socket.AF_VSOCK):
    try:
        with socket.socket(kind, socket.SOCK_RAW if kind != socket.AF_VSOCK else socket.SOCK_STREAM) as s:
            s.settimeout(1)
            if kind == socket.AF_VSOCK:
                s.connect((2, 1024))
                print('reached vsock')
    except OSError:
        pass
"""
        text = plane.run(python_of(program)).text
        assert "reached" not in text, text
        assert text.count("refused") == 11
        assert text.endswith("['lo']")
        assert listeners.reached == []
        listeners.udp.setblocking(False)
        with pytest.raises(BlockingIOError):
            listeners.udp.recv(1)
    finally:
        listeners.close()


# ---- configurations


def test_more_of_the_machine_is_shown_read_only_when_it_is_named(own: Start, tmp_path: Path) -> None:
    shown, beside = tmp_path / "shown", tmp_path / "beside"
    for path in (shown, beside):
        path.mkdir()
        (path / "file").write_text("here")
    (shown / "a-project").mkdir()
    plane, _ = own(isolation={"kind": "bubblewrap", "readOnly": [str(shown)]}, projectRoot=str(shown))
    assert plane.run(shell('cd "$FLAKES_PROJECT_DIR" && pwd')).text == f"{shown}/a-project"
    line = f"cat {shown}/file; cat {beside}/file 2>/dev/null; (echo x > {shown}/file) 2>/dev/null; true"
    assert plane.run(shell(line)).text == "here"


def test_a_state_directory_below_a_visible_one_stays_invisible(own: Start, tmp_path: Path) -> None:
    """`hidden` wins over what is shown around it."""
    hidden = tmp_path / "around" / "hidden"
    hidden.mkdir(parents=True)
    (hidden / "key").write_text("secret")
    (tmp_path / "around" / "seen").write_text("seen")
    isolation = {"kind": "bubblewrap", "readOnly": [str(tmp_path / "around")], "hidden": [str(hidden)]}
    daemon = DaemonProcess(ControlPlane(), tmp_path / "d", isolation)
    daemon.start()
    assert daemon.exit_code() == 2
    assert f"would show {hidden}" in daemon.log


@pytest.mark.parametrize(
    ("isolation", "says"),
    [
        ({"executable": "/no/such/bwrap"}, "not on this machine"),
        ({"executable": "/bin/false"}, "cannot isolate on this machine"),
        ({"networkAllow": ["http://x/"]}, "network.allow"),
        ({"readOnly": ["/"]}, "would show"),
        ({"readOnly": ["relative"]}, "not an absolute path"),
    ],
)
def test_a_daemon_that_cannot_isolate_does_not_start(
    tmp_path: Path, isolation: dict[str, Any], says: str
) -> None:
    daemon = DaemonProcess(ControlPlane(), tmp_path, {"kind": "bubblewrap"} | isolation)
    daemon.start()
    assert daemon.exit_code() == 2
    assert says in daemon.log


def test_isolation_that_fails_later_loses_the_task_and_never_runs_it(
    own: Start, tmp_path: Path
) -> None:
    program = tmp_path / "bwrap"
    program.write_text(f'#!/bin/sh\n[ -e {tmp_path}/broken ] && echo "no luck" >&2 && exit 1\nexec bwrap "$@"\n')
    program.chmod(0o755)
    plane, _ = own(isolation={"kind": "bubblewrap", "executable": str(program)})
    # The wrapper needs a PATH, which an isolating program does not get.
    program.write_text(program.read_text().replace("exec bwrap", "exec /usr/bin/bwrap"))
    assert plane.run(shell("echo fine")).text == "fine"
    (tmp_path / "broken").touch()
    result = plane.run(shell(f"touch {tmp_path}/ran"))
    assert (result.outcome, result.error.code) == (Outcome.LOST, "isolation_failed")
    assert "no luck" in result.error.message
    assert not (tmp_path / "ran").exists()


def reads(python: str, path: str) -> bool:
    """Whether an ordinary user can run the daemon with that interpreter and path."""
    argv = [*AS_NOBODY, python, "-c", "import flakes.sandbox.daemon, msgspec, uvloop, websockets"]
    env = {"PATH": os.defpath, "PYTHONPATH": path}
    return subprocess.run(argv, env=env, cwd="/", capture_output=True, check=False).returncode == 0


# `env` in between: what setpriv itself starts may read everything until it has begun.
AS_NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "env"]


@needs_root
def test_the_daemon_of_an_ordinary_user_isolates_too() -> None:
    """With namespaces of a user who is not root: the same doors, its own number, and limits said as they are."""
    packages = os.pathsep.join([str(SOURCE), str(Path(msgspec.__file__).parents[1])])
    python = next((each for each in (PYTHON, "/usr/bin/python3") if reads(each, packages)), None)
    if python is None:
        pytest.skip("no interpreter and packages here that an ordinary user can read")
    home = Path(tempfile.mkdtemp(prefix="flakes-nobody-", dir="/var/tmp"))
    plane = ControlPlane()
    plane.start()
    isolation = {"kind": "bubblewrap", "memoryMb": 256, "processes": 40, "cpus": 1.0}
    daemon = DaemonProcess(plane, home, isolation)
    subprocess.run(["chown", "-R", "65534:65534", str(home)], check=True)
    env = {"PATH": os.defpath, "PYTHONPATH": packages}
    with daemon.log_path.open("ab") as log:
        argv = [*AS_NOBODY, python, "-m", "flakes.sandbox", "--config", str(daemon.config_path)]
        daemon.process = subprocess.Popen(argv, cwd="/", env=env, stderr=log)
    try:
        line = f"id -u; (cat {home}/token; ls {home}/state/assignments; echo x > /x) 2>/dev/null; flakes tasks files list"
        result = plane.run(shell(line))
        assert result.text.split("\n")[0] == "65534", result.error
        assert TOKEN not in result.text
        assert plane.hellos[0].limits == "partly"
        reason = plane.hellos[0].limits_reason
        assert "memory by resource limit of each process" in reason
        assert "processes by resource limit" in reason
        assert "processors not at all" in reason
        failed = plane.run(shell("for i in $(seq 60); do sleep 5 & done; echo all"))
        assert "all" not in failed.text
        assert plane.run(python_of("x = bytearray(400 << 20)")).exit_code == 1
    finally:
        daemon.stop()
        plane.stop()
        subprocess.run(["rm", "-rf", str(home)], check=True)
