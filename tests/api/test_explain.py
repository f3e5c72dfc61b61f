"""Why a task is not running: every code that facts can lead to today, with its evidence."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from api.caller import Api, task
from api.peer import adapter, beating, host, pool, sandbox
from api.plane import serving
from embedded_servers import wait_until
from flakes.store.explanations import CODES
from flakes.wire.host_stream import Launch, LeaseResult
from flakes.wire.sandbox_stream import Accepted, Cancel

NOT_REACHABLE = {
    "wait_pending": "no task can wait for anything yet",
    "project_not_bound": "every pool of an automatically bound host serves every project",
    "workspace_root_missing": "hosts have bindings in tests/unit/test_placement.py and tests/e2e/test_machine.py",
    "binding_unavailable": "the same",
    "merge_pending": "in test_merging", "merge_conflict": "in test_merging",
    "merge_refused": "in test_merging",
}


def one(api: Api, own: str, **fields: Any) -> str:
    return api.graph(task("a", own, **fields))["tasks"][0]["taskId"]


def expect(api: Api, task_id: str, code: str) -> dict[str, Any]:
    wait_until(lambda: api.explained(task_id)["code"] == code)
    found = api.explained(task_id)
    assert found["sentence"].endswith(".")
    assert found["nextAction"]
    return found


def not_admitted(api: Api) -> None:
    run = api.run()["runKey"]
    saved = api.put(f"/v1/runs/{run}/tasks/a", task("a")).ok(201)
    expect(api, saved["taskId"], "not_admitted")


def dependency_pending(api: Api) -> None:
    made = api.graph(task("a"), task("b"), task("c", dependsOn=["a", "b"]))
    found = expect(api, made["tasks"][2]["taskId"], "dependency_pending")
    assert found["sentence"] == "Waits for a (QUEUED), b (QUEUED)."
    assert found["evidence"] == {"dependencies": {"a": "QUEUED", "b": "QUEUED"}}
    api.post(f"/v1/tasks/{made['tasks'][0]['taskId']}/cancel").ok()


def no_host_online(api: Api) -> None:
    """Without any host; and with one that is away."""
    nobody = expect(api, one(api, adapter()), "no_host_online")["evidence"]
    assert (nobody["pools"], nobody["hosts"]) == (0, [])
    who, own = api.host(), adapter()
    with host(api, who, pool("a", own)):
        pass
    wait_until(lambda: api.get(f"/v1/hosts/{who[0]}").ok()["status"] == "offline")
    task_id = one(api, own)
    found = expect(api, task_id, "no_host_online")
    assert found["evidence"]["pools"] == 1
    (away,) = found["evidence"]["hosts"]
    shown = api.get(f"/v1/hosts/{who[0]}").ok()
    assert (away["hostId"], away["disabled"]) == (who[0], False)
    assert datetime.fromisoformat(away["offlineSince"]) == datetime.fromisoformat(shown["lastSeenAt"])
    assert away["offlineSince"] in found["sentence"]
    api.post(f"/v1/hosts/{who[0]}/disable").ok()
    wait_until(lambda: api.explained(task_id)["evidence"]["hosts"][0]["disabled"])
    assert "disabled" in api.explained(task_id)["sentence"]


def adapter_unavailable(api: Api) -> None:
    own, missing = adapter(), adapter()
    with host(api, api.host(), pool("a", own)):
        found = expect(api, one(api, missing), "adapter_unavailable")
    assert repr(missing) in found["sentence"]
    assert found["evidence"]["available"] == [own]


def capability_unavailable(api: Api) -> None:
    own = adapter()
    with host(api, api.host(), pool("a", own, capabilities=["linux"])):
        made = one(api, own, requiredCapabilities=["linux", "gpu"])
        found = expect(api, made, "capability_unavailable")
    assert found["sentence"] == "Nothing connected offers gpu."
    assert found["evidence"]["missing"] == ["gpu"]


def launch_in_flight_then_failed(api: Api) -> None:
    own = adapter()
    with host(api, api.host(), pool("a", own)) as peer:
        made = one(api, own)
        assert expect(api, made, "launch_in_flight")["evidence"]["launching"] == 1
        launch = peer.expect(Launch)
        peer.tell(LeaseResult(lease_id=launch.lease_id, ok=False, reason="disk full"))
        assert expect(api, made, "launch_failed")["evidence"]["reason"] == "disk full"


def pool_at_limit(api: Api) -> None:
    own = adapter()
    with host(api, api.host(), pool("a", own)) as peer:
        one(api, own)
        launch = peer.launched()
        who = (launch.sandbox_id, launch.sandbox_token)
        with sandbox(api, who, adapters=[own], max_concurrency=1) as daemon:
            daemon.start()
            found = expect(api, one(api, own), "pool_at_limit")
    assert found["sentence"] == "1 of 1 slots that fit it are busy."


def busy_and_running_and_offered_and_retrying_and_ended(api: Api) -> None:
    own = adapter()
    with sandbox(api, adapters=[own], max_concurrency=1) as daemon:
        made = one(api, own, retry={"maxAttempts": 2, "backoffS": 3600, "maxBackoffS": 3600})
        offered = daemon.offer()
        found = expect(api, made, "offer_in_flight")
        assert found["evidence"] == {"sandboxId": daemon.sandbox_id}
        daemon.deliver(Accepted(assignment_id=offered.assignment_id))
        assert expect(api, made, "running")["evidence"]["sandboxId"] == daemon.sandbox_id
        waiting = one(api, own)
        found = expect(api, waiting, "capacity_saturated")
        assert (found["evidence"]["busy"], found["evidence"]["slots"]) == (1, 1)
        daemon.finish(offered.assignment_id, "failed")
        found = expect(api, made, "retry_backoff")
        assert found["evidence"]["attempt"] == 2
        assert found["evidence"]["nextAttemptAt"] in found["sentence"]
        daemon.finish(daemon.start().assignment_id)
        assert expect(api, waiting, "ended")["evidence"] == {"status": "SUCCEEDED"}


def not_scheduled_yet(directory: Path, dsn: str) -> None:
    """While another replica holds the lease, and has not looked yet."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            "insert into leaders (name, holder, term, since, expires_at)"
            " values ('loops', 'another', 1, now(), now() + interval '1 hour')"
        )
    with serving(directory, dsn) as server:
        api = server.owner()
        assert api.get("/readyz").ok()["leading"] is False
        own = adapter()
        made = one(api, own)
        expect(api, made, "not_scheduled_yet")
        with server.connect() as conn:
            conn.execute("update leaders set expires_at = now()")
        wait_until(lambda: api.get("/readyz").ok()["leading"])
        expect(api, made, "no_host_online")


@pytest.mark.parametrize(
    "situation",
    [
        not_admitted, dependency_pending, no_host_online, adapter_unavailable,
        capability_unavailable, launch_in_flight_then_failed, pool_at_limit,
        busy_and_running_and_offered_and_retrying_and_ended,
    ],
)  # fmt: skip
def test_the_reason(api: Api, situation: Any) -> None:
    situation(api)


def test_an_offer_that_nobody_takes_is_made_again_later_and_explained(quick: Api) -> None:
    """The sandbox is connected and says nothing to its offers: they cost time and nothing else."""
    own = adapter()
    with sandbox(quick, adapters=[own], max_concurrency=1) as silent, beating(silent):
        made = one(quick, own)
        first = silent.offer()
        withdrawn = silent.expect(Cancel)
        assert withdrawn.assignment_ids == [first.assignment_id]
        second = silent.offer()
        silent.expect(Cancel, lambda cancel: second.assignment_id in cancel.assignment_ids)
        found = expect(quick, made, "retry_backoff")
        assert found["evidence"]["offersNotTaken"] == 2
        assert found["evidence"]["lastSandboxId"] == silent.sandbox_id
        assert "did not take the last offer" in found["sentence"]
        taken = silent.start()
        assert taken.attempt == 1
        run = quick.task(made)["runId"]
        found = quick.get(f"/v1/runs/{run}/metrics").ok()
        assert (found["offersNotTaken"], found["infrastructureLosses"]) == (2, 0)
        assert found["queue"]["count"] == 1
        assert found["queue"]["maxMs"] > 2_000, "until somebody took it, it was queued"
        silent.finish(taken.assignment_id)
    assert quick.task(made)["status"] == "SUCCEEDED"


def test_what_stands_still_in_a_run_and_why(api: Api, other: Api) -> None:
    own = adapter()
    who = api.sandbox()
    run = api.run()["runKey"]
    api.put(f"/v1/runs/{run}/tasks/saved", task("saved")).ok(201)
    nobody = adapter()
    for key, fields in (
        ("asks", {"adapter": own}), ("works", {"adapter": own}), ("after", {"dependsOn": ["asks", "works"]}),
        ("picky", {"adapter": nobody}),
    ):  # fmt: skip
        api.put(f"/v1/runs/{run}/tasks/{key}", task(key) | fields).ok(201)
    api.post(f"/v1/runs/{run}/tasks/admit", {"taskKeys": ["asks", "works", "after", "picky"]}).ok()
    path = f"/v1/runs/{run}/explanations"
    with sandbox(api, who, adapters=[own], max_concurrency=2) as peer:
        held = {one.task_key: one for one in (peer.start(), peer.start())}
        base = f"/v1/sandboxes/{who[0]}/assignments/{held['asks'].assignment_id}/operations"
        body = {"operationId": "one", "prompt": "May I?"}
        asked = api.as_(who[1]).post(f"{base}/permission.ask", body).ok()

        def told() -> list[tuple[str, str]]:
            return [(t["taskKey"], t["explanation"]["code"]) for t in api.get(path).ok()["tasks"]]

        expected = [
            ("asks", "needs_input"), ("picky", "adapter_unavailable"), ("after", "dependency_pending"),
            ("saved", "not_admitted"),
        ]  # fmt: skip
        wait_until(lambda: told() == expected)
        first = api.get(path, limit=1).ok()
        why = first["tasks"][0]["explanation"]
        assert asked["permissionRequestId"] in why["nextAction"]
        assert why == api.explained(held["asks"].task_id)
        pages, cursor = list(first["tasks"]), first["nextCursor"]
        while cursor is not None:
            page = api.get(path, limit=1, cursor=cursor).ok()
            pages += page["tasks"]
            cursor = page["nextCursor"]
        assert [(t["taskKey"], t["explanation"]["code"]) for t in pages] == expected
        other.get(path).refused("not_found")
        api.get(path, cursor="nonsense").ok()
        for one in held.values():
            peer.finish(one.assignment_id)
        assert ("asks", "needs_input") not in told()


def test_the_reason_before_anybody_looked(tmp_path: Path, database: str) -> None:
    not_scheduled_yet(tmp_path, database)


def test_every_code_is_reached_by_a_test_or_known_not_to_be() -> None:
    text = Path(__file__).read_text()
    tested = {code for code in CODES if f'"{code}")' in text}
    assert tested | NOT_REACHABLE.keys() == CODES.keys()
    assert not tested & NOT_REACHABLE.keys()


def test_an_explanation_is_given_when_asked_for(api: Api) -> None:
    made = one(api, adapter())
    assert "explanation" not in api.task(made)
    run = api.task(made)["runId"]
    assert api.get(f"/v1/runs/{run}/tasks/a", explain=1).ok()["explanation"]["code"]
    assert api.get(f"/v1/tasks/{made}", explain="true").ok()["explanation"]["code"]
    assert "explanation" not in api.get(f"/v1/tasks/{made}", explain=0).ok()
    api.get(f"/v1/tasks/{made}", explain="maybe").refused("invalid_request")
