"""One machine from its setup to its end, with a real server, the real command line, a real host and real daemons;
and every byte that the host sends, looked at for what must stay on the machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import postgres as databases
from api.caller import Api, task
from api.plane import Server, serving
from e2e.stage import FLAKES, Ran, ended, until
from flakes.store.embedded import ConnectionInfo
from postgres import postgres, template

__all__ = ["postgres", "template"]

MARKS = {
    "env": "marker-env-5f1c", "credential": "marker-credential-dir", "state": "marker-state-dir",
    "variable": "MARKER_VARIABLE", "matchlockImage": "marker-image-7d", "mounts": "marker-mount-61",
    "executablePaths": "marker-program-c4", "readOnly": "marker-shown-09", "network": "marker-allowed.example",
    "agent.command": "marker-agent-b2", "agent.configDir": "marker-settings-f8",
}  # fmt: skip
"""Secret texts, one in every field of the configuration that is local."""

TALKATIVE = """#!/bin/sh
# Says all that it was told, as programs do that fail: short, or so long that it has to be cut.
[ "$1" = list ] && [ ! -e "$0.broken" ] && exit 0
echo "Error: $0 $*" >&2
[ -e "$0.long" ] && for n in 1 2 3 4 5 6 7 8 9; do echo "$0 $*" >&2; done
exit 1
"""


class Recorder:
    """A TCP forwarder that keeps what its clients send."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition("//")[2].partition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent = bytearray()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._pair, args=(client,), daemon=True).start()

    def _pair(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(self._target) as server:
            back = threading.Thread(target=self._forward, args=(server, client, False), daemon=True)
            back.start()
            self._forward(client, server, True)
            back.join()

    def _forward(self, source: socket.socket, sink: socket.socket, keep: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if keep:
                    self.sent += data
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class Machine:
    """A host of one account, set up and run as its user would."""

    def __init__(self, directory: Path, api: Api, url: str) -> None:
        self.api = api
        self.url = url
        self.directory = directory
        self.config = directory / "host.toml"
        self.credential = directory / MARKS["credential"] / "host.credential"
        self.state = directory / MARKS["state"]
        self.process: subprocess.Popen[str] | None = None
        self.credential.parent.mkdir()

    def flakes(self, *argv: str) -> Ran:
        env = {k: v for k, v in os.environ.items() if not k.startswith("FLAKES_")}
        env |= {
            "FLAKES_SERVER": self.url, "FLAKES_TOKEN": self.api.token or "", "FLAKES_DATA_DIR": str(self.directory),
            "XDG_CONFIG_HOME": str(self.directory),
        }  # fmt: skip
        process = subprocess.Popen(
            [*FLAKES, *argv], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return ended(process)

    def setup(self) -> dict[str, Any]:
        ran = self.flakes(
            "host", "setup", "--config", str(self.config), "--credential-file", str(self.credential),
            "--state-dir", str(self.state), "--host-name", "attic", "--json",
        ).ok()  # fmt: skip
        assert self.credential.read_text().strip() not in ran.out + ran.err
        return ran.json

    def add_pool(self, key: str, adapter: str = "command", capability: str = "attic") -> None:
        with self.config.open("a") as file:
            file.write(f"""
[[pools]]
poolKey = "{key}"
adapter = "{adapter}"
maxInstances = 1
maxConcurrency = 2
advertisedCapabilities = ["{capability}"]

[pools.env]
{MARKS["variable"]} = "{MARKS["env"]}"
""")

    def add_local_pools(self) -> dict[str, Path]:
        """Pools of isolating providers, every local field of theirs marked; by key, their programs, which fail
        and say all they know."""
        programs: dict[str, Path] = {}
        for key in ("short", "long", "broken"):
            programs[key] = self.directory / f"{MARKS['executablePaths']}-{key}" / "matchlock"
            programs[key].parent.mkdir()
            programs[key].write_text(TALKATIVE)
            programs[key].chmod(0o755)
            if key != "short":
                programs[key].with_name(f"matchlock.{key}").touch()
            mount = self.directory / MARKS["mounts"]
            mount.mkdir(exist_ok=True)
            self._append(f"""
[[pools]]
poolKey = "{key}"
provider = "matchlock"
adapter = "command"
advertisedCapabilities = ["{key}"]
matchlockImage = "registry.example/{MARKS["matchlockImage"]}:1"
mounts = ["{mount}:/cache-{MARKS["mounts"]}:ro"]

[pools.executablePaths]
matchlock = "{programs[key]}"

[pools.network]
allow = ["{MARKS["network"]}"]
""")
        shown = self.directory / MARKS["readOnly"]
        shown.mkdir()
        self._append(f"""
[[pools]]
poolKey = "contained"
provider = "bubblewrap"
adapter = "command"
readOnly = ["{shown}"]

[pools.agent]
command = ["/{MARKS["agent.command"]}"]
configDir = "/{MARKS["agent.configDir"]}"
""")
        return programs

    def _append(self, text: str) -> None:
        with self.config.open("a") as file:
            file.write(text)

    def start(self) -> None:
        log = (self.directory / "host.log").open("a")
        with log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flakes.host", "run", "--config", str(self.config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True,
            )  # fmt: skip

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(20) == 0

    def daemons(self) -> list[int]:
        found: list[int] = []
        for record in self.state.glob("instances/*/record.json"):
            with contextlib.suppress(OSError, msgspec.DecodeError):
                found.append(msgspec.json.decode(record.read_bytes())["pid"])
        return [pid for pid in found if pid]


@pytest.fixture
def server(postgres: ConnectionInfo, template: str, tmp_path: Path) -> Iterator[Server]:
    with (
        databases._fresh(postgres, template) as dsn,
        serving(tmp_path, dsn, {"leases": {"heartbeatS": 0.5}, "capacity": {"launchBackoffS": 0.5}}) as running,
    ):
        yield running


@pytest.fixture
def recorder(server: Server) -> Iterator[Recorder]:
    recorder = Recorder(server.url)
    yield recorder
    recorder.close()


@pytest.fixture
def machine(server: Server, recorder: Recorder, tmp_path: Path) -> Iterator[Machine]:
    directory = tmp_path / "machine"
    directory.mkdir()
    machine = Machine(directory, server.account(), recorder.url)
    try:
        yield machine
        machine.stop()
    finally:
        if machine.process is not None and machine.process.poll() is None:
            machine.process.kill()
        log = directory / "host.log"
        if log.exists():
            sys.stdout.write(log.read_text()[-6000:])


def run_of(api: Api, project: str, shell: str, capability: str = "attic") -> str:
    wanted = task("a", "command", input={"shell": shell}, requiredCapabilities=[capability])
    made = api.graph(wanted, projectKey=project)
    return made["tasks"][0]["taskId"]


def has_status(api: Api, task_id: str, status: str) -> Callable[[], bool]:
    return lambda: api.task(task_id)["status"] == status


def test_a_machine_from_its_setup_to_its_end(machine: Machine, server: Server, tmp_path: Path) -> None:
    api = Api(server.url, machine.api.token)
    made = machine.setup()
    host_id = made["host"]["hostId"]
    assert (made["host"]["name"], machine.credential.stat().st_mode & 0o777) == ("attic", 0o600)
    # Nothing is written over, and nothing is made for nothing.
    again = machine.flakes("host", "setup", "--config", str(machine.config))
    assert (again.code, "exists already" in again.err) == (2, True)
    assert len(api.get("/v1/hosts").ok()["hosts"]) == 1
    bare = machine.flakes("host", "run", "--config", str(machine.config))
    assert (bare.code, "no pools" in bare.err) == (2, True)

    machine.add_pool("here")
    root = tmp_path / "projects"
    set_ = ("host", "project-root", "set", "--config", str(machine.config), "--path")
    assert machine.flakes(*set_, "relative").code == 2
    assert machine.flakes(*set_, str(root), "--json").ok().json["projectWorkspaceRoot"] == str(root)
    machine.start()
    until(lambda: api.get(f"/v1/hosts/{host_id}").ok()["status"] == "online")

    project = api.project()
    task_id = run_of(api, project, f'test "$FLAKES_PROJECT_DIR" = {root}/{project}')
    until(lambda: api.explained(task_id)["code"] == "project_not_bound")
    bound = machine.flakes("projects", "bind-host", project, "--host", host_id, "--pool", "here", "--json")
    assert bound.ok().json["workspacePath"] == f"{root}/{project}"
    until(lambda: api.explained(task_id)["code"] == "binding_unavailable")
    assert api.explained(task_id)["evidence"]["reason"] == "workspace_root_not_found"
    (root / project).mkdir(parents=True)
    until(has_status(api, task_id, "SUCCEEDED"), 20, "the task, once its directory is there")

    status = machine.flakes("host", "status", "--config", str(machine.config), "--json").ok().json
    assert (status["ok"], status["running"], status["remote"]["host"]["status"]) == (True, True, "online")
    assert [b["status"] for b in status["remote"]["bindings"]] == ["available"]

    # Rotation: the old credential is worthless at once, and the host comes back with the new one.
    old = machine.credential.read_text()
    rotated = machine.flakes("host", "rotate", "--config", str(machine.config), "--json").ok()
    assert machine.credential.read_text() != old
    assert machine.credential.read_text().strip() not in rotated.out + rotated.err
    assert [c["status"] for c in rotated.json["replaced"]] == ["revoked"]
    until(lambda: b"host.disconnected" in server.log_file.read_bytes())
    until(lambda: api.get(f"/v1/hosts/{host_id}").ok()["status"] == "online")

    # Drain: what runs is finished, the daemon ends by itself, nothing of it is left.
    running = run_of(api, project, "sleep 1.5")
    until(has_status(api, running, "RUNNING"))
    sandbox_id = api.task(running)["sandboxId"]
    daemons = machine.daemons()
    machine.flakes("sandboxes", "drain", sandbox_id).ok()
    until(has_status(api, running, "SUCCEEDED"))
    path = f"/v1/sandboxes/{sandbox_id}"
    until(lambda: api.get(path).ok()["status"] == "stopped", 15, "the drained sandbox")
    assert not [pid for pid in daemons if Path(f"/proc/{pid}").exists()]
    assert "cleanup" not in api.get(path).ok()
    assert machine.flakes("sandboxes", "delete", sandbox_id, "--json").ok().json["status"] == "deleted"

    # F21: from nothing to a running task, within two seconds (and some, on a machine that others share).
    began_s = time.monotonic()
    quick = run_of(api, project, "true")
    until(lambda: api.task(quick)["status"] in ("RUNNING", "SUCCEEDED"))
    sys.stdout.write(f"idle host to running task: {time.monotonic() - began_s:.2f} s\n")
    until(has_status(api, quick, "SUCCEEDED"))

    machine.flakes("hosts", "disable", host_id).ok()
    def alive() -> list[str]:
        found = api.get("/v1/sandboxes").ok()["sandboxes"]
        return [s["status"] for s in found if s["status"] not in ("stopped", "failed", "cancelled")]

    until(lambda: not alive(), 15, "its sandboxes' end")
    assert machine.flakes("hosts", "delete", host_id, "--dry-run").code == 2
    machine.stop()
    (credential,) = (c for c in api.get(f"/v1/hosts/{host_id}/credentials").ok()["credentials"] if c["status"] == "active")
    api.post(f"/v1/hosts/{host_id}/credentials/{credential['credentialId']}/revoke").ok(200)
    machine.flakes("hosts", "delete", host_id).ok()
    api.get(f"/v1/hosts/{host_id}").refused("not_found")


def test_what_is_local_stays_local(machine: Machine, server: Server, recorder: Recorder) -> None:
    """Also in the words about a launch that failed: a daemon that cannot start says paths in its log, and the
    program of a provider its whole command line."""
    api = Api(server.url, machine.api.token)
    host_id = machine.setup()["host"]["hostId"]
    machine.add_pool("here")
    programs = machine.add_local_pools()
    recorder.sent.clear()
    machine.start()
    until(lambda: api.get(f"/v1/hosts/{host_id}").ok()["status"] == "online")
    api.patch(f"/v1/hosts/{host_id}", {"autoBind": True}).ok(200)
    fine = run_of(api, api.project(), "true")
    until(has_status(api, fine, "SUCCEEDED"))
    pools = {pool["poolKey"]: pool for pool in api.get(f"/v1/hosts/{host_id}/pools").ok()["hostPools"]}
    assert pools.keys() == {"here", "contained", *programs}
    assert "[local]" in pools["broken"]["launchFailure"], "it says why it cannot be used"
    for key in ("short", "long"):
        failed = run_of(api, api.project(), "true", key)
        until(lambda task_id=failed: api.explained(task_id)["code"] == "launch_failed", 20)
        assert "[local]" in api.explained(failed)["evidence"]["reason"]
    # From here on no daemon can start: its working directory's place is taken by a file.
    (instance,) = (s for s in api.get("/v1/sandboxes").ok()["sandboxes"] if s["status"] == "running")
    api.post(f"/v1/sandboxes/{instance['sandboxId']}/stop").ok(200)
    until(lambda: api.get(f"/v1/sandboxes/{instance['sandboxId']}").ok()["status"] == "stopped")
    (machine.state / "instances").rename(machine.state / "away")
    (machine.state / "instances").write_text("in the way")
    bad = run_of(api, api.project(), "true")
    until(lambda: api.explained(bad)["code"] == "launch_failed")
    reason = api.explained(bad)["evidence"]["reason"]
    assert "[local]" in reason, reason
    (machine.state / "instances").unlink()
    (machine.state / "away").rename(machine.state / "instances")
    machine.stop()
    with server.connect() as conn:
        tables = conn.execute("select tablename from pg_tables where schemaname = 'public'").fetchall()
        stored = "".join(
            str(conn.execute(f"select t::text from {name} t").fetchall()) for (name,) in tables  # type: ignore[arg-type]
        )
    logged = server.log_file.read_text()
    assert b'"type":"hello"' in unmasked(bytes(recorder.sent)), "the recorder sees what it should look at"
    for what, mark in MARKS.items():
        assert mark.encode() not in unmasked(bytes(recorder.sent)), what
        assert mark not in stored, what
        assert mark not in logged, what


def unmasked(data: bytes) -> bytes:
    """Every text frame of a client, wherever it begins: each offset is tried as a frame's, its mask undone."""
    found = [data]
    at = 0
    while (at := data.find(b"\x81", at)) >= 0:
        at += 1
        if at >= len(data) or not data[at] & 0x80:
            continue
        length, head = data[at] & 0x7F, at + 1
        if length == 126:
            length, head = int.from_bytes(data[head : head + 2], "big"), head + 2
        elif length == 127:
            length, head = int.from_bytes(data[head : head + 8], "big"), head + 8
        mask, payload = data[head : head + 4], data[head + 4 : head + 4 + length]
        if len(mask) == 4 and len(payload) == length and length < 2_000_000:
            repeated = (mask * (length // 4 + 1))[:length]
            mixed = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
            found.append(mixed.to_bytes(length, "big"))
    return b"\n".join(found)
