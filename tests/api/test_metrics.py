"""Metrics of a run: every number against the times that the test put there."""

from __future__ import annotations

from api.caller import Api, task
from api.peer import adapter, sandbox
from api.plane import Server

NONE = {"count": 0, "meanMs": None, "p50Ms": None, "p90Ms": None, "p99Ms": None, "maxMs": None}


def test_an_empty_run_has_no_numbers(api: Api) -> None:
    run = api.run()
    found = api.get(f"/v1/runs/{run['runKey']}/metrics").ok()
    assert found["runId"] == run["runId"]
    assert [found[name] for name in ("queue", "assignment", "run", "wait")] == [NONE] * 4
    assert found["success"] == {
        "tasks": 0, "succeeded": 0, "failed": 0, "cancelled": 0, "live": 0, "rate": None,
    }  # fmt: skip
    assert found["parallelism"] == {"mean": None, "max": 0}
    assert (found["tokens"], found["costMicroUsd"]) == (None, None)


def test_what_happened_is_counted(api: Api) -> None:
    """Three tasks: one succeeds, one at its second attempt, one is lost once and then fails."""
    own = adapter()
    retry = {"maxAttempts": 2, "backoffS": 0}
    made = api.graph(
        task("good", own), task("second", own, retry=retry), task("bad", own), close=True
    )
    run = made["run"]["runKey"]
    with sandbox(api, adapters=[own], max_concurrency=3) as peer:
        seen: dict[str, int] = {}
        held = {}
        for _ in range(3):
            one = peer.start()
            held[one.task_key] = one.assignment_id
        live = api.get(f"/v1/runs/{run}/metrics").ok()
        assert live["success"]["live"] == 3
        assert live["run"]["count"] == 0
        assert live["queue"]["count"] == live["assignment"]["count"] == live["attempts"] == 3
        peer.finish(held["good"])
        peer.finish(held["second"], "retryable")
        again = peer.start()
        seen[again.task_key] = again.attempt
        peer.finish(again.assignment_id)
        peer.finish(held["bad"], "failed")
    assert seen == {"second": 2}
    found = api.get(f"/v1/runs/{run}/metrics").ok()
    assert found["success"] == {
        "tasks": 3, "succeeded": 2, "failed": 1, "cancelled": 0, "live": 0, "rate": 2 / 3,
    }  # fmt: skip
    assert (found["attempts"], found["retries"], found["infrastructureLosses"]) == (4, 1, 0)
    assert found["parallelism"]["max"] == 3
    assert 1 <= found["parallelism"]["mean"] <= 3
    for kind in ("queue", "assignment", "run"):
        spread = found[kind]
        assert spread["count"] == 4
        assert 0 <= spread["p50Ms"] <= spread["p90Ms"] <= spread["p99Ms"] <= spread["maxMs"]
        assert spread["meanMs"] <= spread["maxMs"] <= found["wallMs"]


def test_the_numbers_are_those_of_the_stored_times(server: Server) -> None:
    """Times set by hand: 100 tasks, the n-th queued for n, offered for 2n and running for 10n milliseconds."""
    api = server.account()
    own = adapter()
    made = api.graph(*[task(f"t{n}", own) for n in range(1, 101)], close=True)
    run = made["run"]["runId"]
    with sandbox(api, adapters=[own], max_concurrency=100) as peer:
        for _ in range(100):
            peer.finish(peer.start().assignment_id)
    with server.connect() as conn:
        conn.execute("""
            with base as (select min(created_at) as t from tasks where run_id = %(run)s),
            n as (select task_id, substr(task_key, 2)::int * interval '1 ms' as ms from tasks where run_id = %(run)s),
            queued as (
                update events e set at = base.t from base
                where e.run_id = %(run)s and e.type = 'task.admitted')
            update assignments a set offered_at = base.t + n.ms, accepted_at = base.t + 3 * n.ms,
                ended_at = base.t + 13 * n.ms
            from n, base where a.task_id = n.task_id""", {"run": run})  # fmt: skip
    found = api.get(f"/v1/runs/{run}/metrics").ok()
    for kind, factor in (("queue", 1), ("assignment", 2), ("run", 10)):
        assert found[kind] == {
            "count": 100, "meanMs": 50.5 * factor, "p50Ms": 50.5 * factor, "p90Ms": 90.1 * factor,
            "p99Ms": 99.01 * factor, "maxMs": 100 * factor,
        }, kind  # fmt: skip
    # At time t those run whose start (3n) has come and whose end (13n) has not: most at t = 300.
    starts = {n: (3 * n, 13 * n) for n in range(1, 101)}
    most = max(sum(s <= t < e for s, e in starts.values()) for t in range(1400))
    assert found["parallelism"]["max"] == most
    assert abs(found["parallelism"]["mean"] - 10 * 5050 / (1300 - 3)) < 0.01


def test_waiting_is_what_questions_took_and_overlapping_ones_count_once(server: Server) -> None:
    """One attempt asks three times, two of them at once; another asks once; a question that is open is none."""
    api = server.account()
    own = adapter()
    who = api.sandbox()
    made = api.graph(task("a", own), task("b", own))
    run = made["run"]["runId"]
    with sandbox(api, who, adapters=[own], max_concurrency=2) as peer:
        held = {one.task_key: one.assignment_id for one in (peer.start(), peer.start())}

        def ask(key: str, name: str) -> dict[str, str]:
            path = f"/v1/sandboxes/{who[0]}/assignments/{held[key]}/operations/permission.ask"
            return api.as_(who[1]).post(path, {"operationId": name, "prompt": name}).ok()

        spans = {"a1": (0, 100), "a2": (50, 200), "a3": (300, 400), "b1": (0, 1000)}
        ids = {}
        for name in (*spans, "b2"):
            asked = ask(name[0], name)
            ids[name] = asked["permissionRequestId"]
            if name in spans:
                path = f"/v1/tasks/{asked['taskId']}/permissions/{ids[name]}/respond"
                api.post(path, {"decision": "approved"}).ok()
        with server.connect() as conn:
            for name, (start, end) in spans.items():
                conn.execute(
                    "update permissions set created_at = '2026-01-01'::timestamptz + %s * interval '1 ms',"
                    " ended_at = '2026-01-01'::timestamptz + %s * interval '1 ms' where permission_id = %s",
                    [start, end, ids[name]],
                )
        found = api.get(f"/v1/runs/{run}/metrics").ok()["wait"]
        assert (found["count"], found["p50Ms"], found["maxMs"]) == (3, 200, 1000)
        for assignment_id in held.values():
            peer.finish(assignment_id)


def test_backoff_is_not_queueing_and_losses_are_counted(server: Server) -> None:
    api = server.account()
    own = adapter()
    made = api.graph(task("slow", own, retry={"maxAttempts": 2, "backoffS": 1, "maxBackoffS": 1}))
    run = made["run"]["runId"]
    with sandbox(api, adapters=[own]) as peer:
        peer.finish(peer.start().assignment_id, "retryable")
        peer.finish(peer.start().assignment_id)
    found = api.get(f"/v1/runs/{run}/metrics").ok()
    assert found["queue"]["count"] == 2
    assert found["queue"]["maxMs"] < 900, "the back-off of half a second and more is not in it"
    assert found["retries"] == 1
    with server.connect() as conn:
        conn.execute("update assignments set state = 'lost' where run_id = %s and attempt = 1", [run])
    assert api.get(f"/v1/runs/{run}/metrics").ok()["infrastructureLosses"] == 1
