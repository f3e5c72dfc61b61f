"""Three hosts and a server, each with an address of its own: cables are cut, and a machine loses its power and comes
back."""

from __future__ import annotations

import time

import psycopg

from e2e.stage import say, until
from net.ledger import Ledger
from net.sites import LOST_AFTER_S, Site, needs_namespaces, site

__all__ = ["site"]
pytestmark = needs_namespaces

PATIENCE_S = 60.0


def test_a_cut_cable_kills_no_work_and_a_dead_machine_is_replaced(site: Site) -> None:
    """F19, F20, F21, F22, F23 on one network."""
    ledger = Ledger(site.directory / "ledger")
    began_s = time.monotonic()
    run_id = site.run(*(ledger.held(f"t{n}", "cables") for n in range(3)))
    until(lambda: ledger.count("start") == 3, PATIENCE_S, "the first tasks")
    say(f"from an idle host to running tasks in {time.monotonic() - began_s:.2f} s")  # F21

    # F19, F23: cut all cables; the work ends meanwhile, the hosts stay, the results are taken.
    for name in site.machines:
        site.network.cut(name)
    with psycopg.connect(site.server.dsn, autocommit=True) as conn:
        heard = "select count(*) from links where connected and seen_at > now() - interval '2.5 s'"
        until(lambda: conn.execute(heard).fetchone() == (0,), PATIENCE_S, "silence")
    ledger.open("cables")
    until(lambda: ledger.count("end") == 3, PATIENCE_S, "the end of the work without a line")
    for name in site.machines:
        site.network.mend(name)
    mended_s = time.monotonic()
    until(lambda: site.state(run_id) == "SUCCEEDED", PATIENCE_S, "the results")
    say(f"results were in {time.monotonic() - mended_s:.1f} s after the cables were mended")
    assert ledger.executions() == {1: 3}
    assert all(machine.is_up() for machine in site.machines.values())

    # F22: lines far over a frame do not end a stream.
    shell = "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo after"
    loud = {"taskKey": "loud", "title": "loud", "adapter": "command", "input": {"shell": shell}}
    loud_id = site.run(loud)
    until(lambda: site.state(loud_id) == "SUCCEEDED", PATIENCE_S, "the end of the loud one")

    # F20: a machine without power; its work and its place go to the others, nobody cleans up by hand.
    run_id = site.run(ledger.held("homeless", "power"))
    until(lambda: ledger.notes("homeless"), PATIENCE_S, "the start of the homeless one")
    task = site.api.get(f"/v1/runs/{run_id}/tasks").ok()["tasks"][0]["taskId"]
    until(lambda: site.api.task(task).get("sandboxId"), PATIENCE_S, "its sandbox")
    dead = site.machine_of(site.api.task(task)["sandboxId"])
    site.network.cut(dead)
    site.machines[dead].lose_power()
    lost_s = time.monotonic()
    until(lambda: len(ledger.notes("homeless")) >= 2, LOST_AFTER_S + PATIENCE_S, "the second execution")
    say(f"running elsewhere {time.monotonic() - lost_s:.1f} s after the power went")
    ledger.open("power")
    until(lambda: site.state(run_id) == "SUCCEEDED", PATIENCE_S, "its end")
    with psycopg.connect(site.server.dsn) as conn:
        left = "select count(*) from sandboxes where host_id = %s and status in ('launching', 'running')"
        until(lambda: conn.execute(left, [site.machines[dead].host_id]).fetchone() == (0,), PATIENCE_S, "F20")
    assert ledger.overlaps() == []

    # Its power is back: the same host, and it takes work again.
    site.network.mend(dead)
    site.machines[dead].start().wait_online(site.api)
    run_id = site.run(*(ledger.held(f"again{n}", "again") for n in range(24)))
    with psycopg.connect(site.server.dsn, autocommit=True) as conn:
        hosts = (
            "select count(distinct s.host_id) from assignments a join sandboxes s using (sandbox_id)"
            " where a.run_id = %s"
        )
        until(lambda: conn.execute(hosts, [run_id]).fetchone() == (3,), PATIENCE_S, "work on all three")
    ledger.open("again")
    until(lambda: site.state(run_id) == "SUCCEEDED", PATIENCE_S, "the end of it")
