"""Three hosts and a server, each with an address of its own: cables are cut, processes stand still, machines lose their
power and come back."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from api.caller import Api
from api.plane import Server
from e2e.stage import say, seeded, until
from net.ledger import Ledger
from net.machines import Machine
from net.network import Network, network, why_not

NO = why_not()
pytestmark = [
    pytest.mark.timeout(150),
    pytest.mark.skipif(NO is not None, reason=NO or ""),
]

LOST_AFTER_S = 10.0
CUT_S_MAX = 1.5
"""A packet that was lost in a cut this short is sent again well before anybody is given up."""
TASKS = 500
LIMIT_S = 90.0


@dataclass
class Site:
    network: Network
    server: Server
    api: Api
    machines: dict[str, Machine]
    directory: Path

    def state(self, run_id: str) -> str:
        return self.api.get(f"/v1/runs/{run_id}").ok()["state"]

    def run(self, *tasks: dict[str, object]) -> str:
        return self.api.graph(*tasks, close=True)["run"]["runId"]

    def machine_of(self, sandbox_id: str) -> str:
        found = self.api.get(f"/v1/sandboxes/{sandbox_id}").ok()
        return next(name for name, m in self.machines.items() if m.host_id == found["hostId"])


@contextlib.contextmanager
def sited(tmp_path: Path, database: str, machines: int) -> Iterator[Site]:
    """The whole site, the test itself on a machine beside the server."""
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(network("site"))
        directory = tmp_path / "server"
        directory.mkdir()
        address = net.plug("server")
        server = Server(directory, database, {
            "listen": {"host": address, "port": 7733},
            "blobs": {"directory": str(tmp_path / "blobs")},
            "leases": {"heartbeatS": 0.5, "suspectAfterS": 2.0, "lostAfterS": LOST_AFTER_S, "offerTimeoutS": 3.0},
            "capacity": {"launchTimeoutS": 10.0, "launchBackoffS": 0.5},
        })  # fmt: skip
        server.prefix = net.prefix("server")
        stack.callback(server.stop)
        server.start()
        net.plug("tester")
        stack.enter_context(net.inside("tester"))
        api = server.owner()
        site = Site(net, server, api, {}, tmp_path)
        for number in range(machines):
            name = f"host{number}"
            net.plug(name)
            machine = Machine(tmp_path / name, api, [server.url], prefix=net.prefix(name))
            site.machines[name] = machine
            stack.callback(machine.stop)
            machine.start()
        for machine in site.machines.values():
            machine.wait_online(api)
        yield site


@pytest.fixture
def site(tmp_path: Path, database: str) -> Iterator[Site]:
    with sited(tmp_path, database, 3) as running:
        yield running


def test_a_cut_cable_kills_no_work_and_a_dead_machine_is_replaced(site: Site) -> None:
    """F19, F20, F21, F22, F23 on one network."""
    ledger = Ledger(site.directory / "ledger")
    began_s = time.monotonic()
    run_id = site.run(*(ledger.task(f"t{n}", 4.0) for n in range(2)), ledger.task("loud", 4.0))
    until(lambda: ledger.count("start") == 3, 20, "the first tasks")
    say(f"from an idle host to running tasks in {time.monotonic() - began_s:.2f} s")  # F21

    # F19, F23: cut all cables; the work ends meanwhile, the hosts stay, the results are taken.
    for name in site.machines:
        site.network.cut(name)
    until(lambda: ledger.count("end") == 3, 15, "the end of the work without a line")
    for name in site.machines:
        site.network.mend(name)
    mended_s = time.monotonic()
    until(lambda: site.state(run_id) == "SUCCEEDED", LOST_AFTER_S, "the results")
    say(f"results were in {time.monotonic() - mended_s:.1f} s after the cables were mended")
    assert ledger.executions() == {1: 3}
    assert all(machine.is_up() for machine in site.machines.values())

    # F22: lines far over a frame do not end a stream.
    shell = "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo after"
    loud = {"taskKey": "loud", "title": "loud", "adapter": "command", "input": {"shell": shell}}
    loud_id = site.run(loud)
    until(lambda: site.state(loud_id) == "SUCCEEDED", 20, "the end of the loud one")

    # F20: a machine without power; its work and its place go to the others, nobody cleans up by hand.
    run_id = site.run(ledger.task("homeless", 3.0))
    until(lambda: ledger.notes("homeless"), 20, "the start of the homeless one")
    task = site.api.get(f"/v1/runs/{run_id}/tasks").ok()["tasks"][0]["taskId"]
    until(lambda: site.api.task(task).get("sandboxId"), 5, "its sandbox")
    dead = site.machine_of(site.api.task(task)["sandboxId"])
    site.network.cut(dead)
    site.machines[dead].lose_power()
    lost_s = time.monotonic()
    until(lambda: len(ledger.notes("homeless")) >= 2, LOST_AFTER_S + 15, "the second execution")
    say(f"running elsewhere {time.monotonic() - lost_s:.1f} s after the power went")
    until(lambda: site.state(run_id) == "SUCCEEDED", 20, "its end")
    with psycopg.connect(site.server.dsn) as conn:
        left = "select count(*) from sandboxes where host_id = %s and status in ('launching', 'running')"
        until(lambda: conn.execute(left, [site.machines[dead].host_id]).fetchone() == (0,), 15, "F20")
    assert ledger.overlaps() == []

    # Its power is back: the same host, and it takes work again.
    site.network.mend(dead)
    site.machines[dead].start().wait_online(site.api)
    slots = [ledger.task(f"again{n}", 1.5) for n in range(24)]
    run_id = site.run(*slots)
    until(lambda: site.state(run_id) == "SUCCEEDED", 40, "the work on all three")
    with psycopg.connect(site.server.dsn) as conn:
        hosts = conn.execute(
            "select count(distinct s.host_id) from assignments a join sandboxes s using (sandbox_id)"
            " where a.run_id = %s",
            [run_id],
        ).fetchone()
    assert hosts == (3,)


def test_500_tasks_end_while_machines_come_and_go(site: Site) -> None:
    """Cables are cut, hosts, sandboxes and the server stand still or are killed, machines lose their power."""
    seed, rng = seeded()
    ledger = Ledger(site.directory / "ledger")
    began_s = time.monotonic()
    tasks = [
        ledger.task(
            f"t{n}", rng.uniform(0.2, 0.9),
            dependsOn=[f"t{rng.randrange(n)}"] if n and rng.random() < 0.3 else [],
        )
        for n in range(TASKS)
    ]  # fmt: skip
    run_id = site.run(*tasks)
    harms: list[str] = []
    while site.state(run_id) != "SUCCEEDED":
        assert time.monotonic() - began_s < LIMIT_S, (seed, harms, site.api.get(f"/v1/runs/{run_id}").ok())
        left = TASKS - ledger.count("end")
        if left > TASKS // 10:  # the last of them in peace
            harms.append(harm(site, rng))
        time.sleep(rng.uniform(0.3, 1.2))
    took_s = time.monotonic() - began_s
    say(f"{took_s:.1f} s with {len(harms)} harms: {', '.join(harms)}")
    say(f"executions: {dict(ledger.executions())}")
    assert ledger.overlaps() == []
    assert ledger.twice_by_one() == []
    assert ledger.finished() == {f"t{n}" for n in range(TASKS)}
    counts = site.api.get(f"/v1/runs/{run_id}").ok()["taskCounts"]
    assert counts["SUCCEEDED"] == TASKS


def harm(site: Site, rng: random.Random) -> str:
    """One thing that goes wrong, and is put right again; in a word."""
    name = rng.choice(list(site.machines))
    machine = site.machines[name]
    what = rng.choice(["cut", "cut", "freeze", "host", "daemon", "power", "server"])
    if what == "cut":
        site.network.cut(name)
        time.sleep(rng.uniform(0.2, CUT_S_MAX))
        site.network.mend(name)
    elif what == "freeze":
        frozen = rng.choice([machine.pid, site.server.pid, *(d.pid for d in machine.daemons())])
        with contextlib.suppress(ProcessLookupError):
            os.kill(frozen, signal.SIGSTOP)
            time.sleep(rng.uniform(0.2, 1.5))
            os.kill(frozen, signal.SIGCONT)
    elif what == "host":
        machine.kill_host()
        time.sleep(rng.uniform(0.0, 1.0))
        machine.start()
    elif what == "daemon":
        for daemon in machine.daemons()[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(daemon.pid, signal.SIGKILL)
    elif what == "power":
        if rng.random() < 0.5:
            site.network.cut(name)  # nobody hears of its end
        machine.lose_power()
        time.sleep(rng.uniform(0.0, 2.0))
        site.network.mend(name)
        machine.start()
    else:
        site.server.kill()
        time.sleep(rng.uniform(0.0, 1.0))
        site.server.start()
    return what
