"""Two replicas, two hosts with real sandboxes, and one replica that is killed, paused, or restarted under a run: nothing
is lost, nothing runs twice, whoever follows sees every event once."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from api.caller import Api
from api.plane import Server
from e2e.stage import say, until
from net.following import Follower
from net.ledger import Ledger
from net.machines import Machine

pytestmark = pytest.mark.timeout(120)

TASKS = 80
SECONDS = 0.4
LEADS_AGAIN_S = 10.0


@dataclass
class Site:
    """Two servers at addresses that outlive them, and two machines."""

    servers: list[Server]
    dsn: str
    directory: Path
    machines: list[Machine] = field(default_factory=list)
    token: str = ""

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    def api(self) -> Api:
        """The account, asked through a server that runs."""
        alive = next(server for server in self.servers if server.is_running())
        return Api(alive.url, self.token)

    def leading(self, among: list[Server]) -> list[Server]:
        found: list[Server] = []
        for server in among:
            with contextlib.suppress(OSError, KeyError):
                if Api(server.url, None).get("/readyz").json["leading"]:
                    found.append(server)
        return found

    def leader(self) -> Server:
        (one,) = until(lambda: self.leading(self.servers), 15, "a leader")
        return one

    def spread(self) -> set[str]:
        """Replicas that hold links of sandboxes."""
        with psycopg.connect(self.dsn) as conn:
            found = conn.execute(
                "select distinct replica_id from links where connected and peer_id like 'sandbox%'"
            ).fetchall()
        return {r[0] for r in found}

    def events(self, run_id: str) -> list[str]:
        """The cursors of all events of a run."""
        with psycopg.connect(self.dsn) as conn:
            found = conn.execute(
                "select transaction_id || '-' || event_id from events where run_id = %s"
                " order by transaction_id, event_id",
                [run_id],
            ).fetchall()
        return [r[0] for r in found]


def free_ports(count: int) -> list[int]:
    """Ports that nobody has right now. They stay the servers' own over their restarts."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture
def site(request: pytest.FixtureRequest, database: str, tmp_path: Path) -> Iterator[Site]:
    servers: list[Server] = []
    for number, port in enumerate(free_ports(2)):
        directory = tmp_path / f"server-{number}"
        directory.mkdir()
        sections = {
            "listen": {"port": port}, "blobs": {"directory": str(tmp_path / "blobs")},
            "leases": {"heartbeatS": 0.5, "suspectAfterS": 5.0, "lostAfterS": 20.0},
            "capacity": getattr(request, "param", {}),
        }  # fmt: skip
        servers.append(Server(directory, database, sections))
    site = Site(servers, database, tmp_path)
    try:
        for server in servers:
            server.start()
        site.token = servers[0].owner().token or ""
        for number in range(2):
            machine = Machine(tmp_path / f"machine-{number}", site.api(), site.urls)
            site.machines.append(machine.start())
        yield site
    finally:
        for machine in site.machines:
            machine.stop()
        for server in servers:
            if server.is_running():
                os.kill(server.pid, signal.SIGCONT)
            server.stop()


def kill(site: Site, leader: Server, other: Server, _: Callable[[], int]) -> None:
    """kill -9, back later at the same address."""
    leader.kill()
    began_s = time.monotonic()
    until(lambda: site.leading([other]), LEADS_AGAIN_S, "the other replica's leadership")
    say(f"the scheduler moved in {time.monotonic() - began_s:.1f} s")
    leader.start()


def pause(site: Site, leader: Server, other: Server, _: Callable[[], int]) -> None:
    """A replica that stands still past its lease, and goes on believing in itself."""
    os.kill(leader.pid, signal.SIGSTOP)
    began_s = time.monotonic()
    try:
        until(lambda: site.leading([other]), LEADS_AGAIN_S, "the other replica's leadership")
        say(f"the scheduler moved in {time.monotonic() - began_s:.1f} s")
    finally:
        os.kill(leader.pid, signal.SIGCONT)


def roll(site: Site, leader: Server, other: Server, done: Callable[[], int]) -> None:
    """Restart both, one after the other."""
    for server in (leader, other):
        before = done()
        assert server.stop() == 0
        server.start()
        until(lambda before=before: done() > before + 5 or done() == TASKS, 20, "progress in between")


@pytest.mark.parametrize("harm", [kill, pause, roll])
def test_a_replica_that_goes_takes_nothing_with_it(
    site: Site, harm: Callable[[Site, Server, Server, Callable[[], int]], None]
) -> None:
    """F02, and both halves of a rolling restart."""
    ledger = Ledger(site.directory / "ledger")
    leader = site.leader()
    (other,) = [server for server in site.servers if server is not leader]
    api = site.api()
    for machine in site.machines:
        machine.wait_online(api)
    tasks = [
        ledger.task(f"t{n}", SECONDS, dependsOn=[f"t{n - 40}"] if n >= 40 else [])
        for n in range(TASKS)
    ]
    run_id = api.graph(*tasks, close=True)["run"]["runId"]
    followers = [Follower(site.urls, site.token, run_id) for _ in range(2)]
    until(lambda: ledger.count("end") >= 8, 30, "the first tasks")
    say(f"links are held by {len(site.spread())} replicas")
    harm(site, leader, other, lambda: ledger.count("end"))
    until(lambda: site.api().get(f"/v1/runs/{run_id}").ok()["state"] == "SUCCEEDED", 60, "the end")
    assert ledger.overlaps() == []
    assert ledger.executions() == {1: TASKS}
    assert ledger.count("end") == TASKS
    everything = site.events(run_id)
    for follower in followers:
        seen = follower.end()
        assert seen == everything[: len(seen)]
        assert len(everything) - len(seen) <= 1  # what followed the end


@pytest.mark.parametrize("site", [{"idleRetireS": 1.0}], indirect=True)
def test_idle_sandboxes_are_retired_wherever_they_are_connected(site: Site) -> None:
    """The leader decides, the sandbox is told to drain by its replica, the host is told to wait by its own."""
    ledger = Ledger(site.directory / "ledger")
    api = site.api()
    for machine in site.machines:
        machine.wait_online(api)
    run_id = api.graph(*(ledger.task(f"t{n}", 0.5) for n in range(12)), close=True)["run"]["runId"]
    until(lambda: api.get(f"/v1/runs/{run_id}").ok()["state"] == "SUCCEEDED", 30, "the end")
    until(lambda: not any(machine.daemons() for machine in site.machines), 30, "retirement")

    def statuses() -> set[str]:
        return {s["status"] for s in api.get("/v1/sandboxes").ok()["sandboxes"]}

    until(lambda: statuses() == {"stopped"}, 10, "every sandbox's end")
    assert all(machine.is_up() for machine in site.machines)
