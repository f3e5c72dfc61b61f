"""A server and some hosts, each with an address of its own in a network namespace, and the test on a machine beside."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from api.caller import Api
from api.plane import Server
from net.machines import Machine
from net.network import Network, network, why_not

NO = why_not()
needs_namespaces = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(NO is not None, reason=NO or ""),
]
LOST_AFTER_S = 8.0


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
