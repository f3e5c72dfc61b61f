"""500 tasks on three hosts while cables are cut, and hosts, sandboxes and the server stand still, are killed, or lose
their power. Seeded."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time

from e2e.stage import say, seeded
from net.ledger import Ledger
from net.sites import Site, needs_namespaces, site

__all__ = ["site"]
pytestmark = needs_namespaces

CUT_S_MAX = 1.5
"""A packet that was lost in a cut this short is sent again well before anybody is given up."""
TASKS = 500
LIMIT_S = 180.0


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
