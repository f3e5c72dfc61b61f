"""Two replicas over one database: what is asked of one reaches the peers of the other at once, and a call that is
lost costs seconds."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

import postgres as databases
from api.caller import Api, name, task
from api.following import Following
from api.peer import adapter, host, lines, pool, sandbox
from api.replicas import Pair, median_s, paired, timed
from embedded_servers import wait_until
from flakes.store.embedded import ConnectionInfo
from flakes.wire.host_stream import Launch, LeaseResult, Stop
from flakes.wire.sandbox_stream import Cancel, Drain, Input

pytestmark = pytest.mark.timeout(90)

PUSHED_S = 0.5
"""The slow look comes every two seconds: whatever is faster than this, as a rule, was pushed."""
SLOW_LOOK_S = 6.0


@pytest.fixture(scope="module")
def pair(
    postgres: ConnectionInfo, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    with (
        databases._fresh(postgres, template) as dsn,
        paired(tmp_path_factory.mktemp("pair"), dsn, {"capacity": {"idleRetireS": 1.0}}) as running,
    ):
        yield running


@pytest.fixture
def apis(pair: Pair) -> tuple[Api, Api]:
    """One account: as the server that leads answers it, and as the other does."""
    first, second = pair.accounts()
    return (first, second) if pair.leader() is pair.first else (second, first)


def test_offers_cancels_and_messages_reach_the_sandbox_of_the_other_replica(
    apis: tuple[Api, Api]
) -> None:
    leading, other = apis
    own = adapter()
    offers: list[float] = []
    messages: list[float] = []
    cancels: list[float] = []
    with sandbox(other, adapters=[own]) as peer:
        for round_ in range(7):
            with timed(offers):
                leading.graph(task("only", own))
                given = peer.start()
            with timed(messages):
                body = {"mode": "steer", "message": f"{round_}"}
                path = f"/v1/tasks/{given.task_id}/messages"
                key = name("key")
                sent = leading.keyed("POST", path, key, body) if round_ % 2 else leading.post(path, body)
                message_id = sent.ok(202)["messageId"]
                peer.expect(Input, lambda m, sent=message_id: m.messages[0].message_id == sent)
            with timed(cancels):
                leading.post(f"/v1/tasks/{given.task_id}/cancel", {"reason": "enough"}).ok(202)
                cancel = peer.expect(Cancel)
            assert (cancel.assignment_ids, cancel.reason) == ([given.assignment_id], "enough")
            peer.finish(given.assignment_id, "cancelled")
    for what, samples in (("offers", offers), ("messages", messages), ("cancels", cancels)):
        assert median_s(what, samples) < PUSHED_S


def test_a_run_that_the_follower_takes_is_scheduled_at_once(apis: tuple[Api, Api]) -> None:
    leading, other = apis
    own = adapter()
    samples: list[float] = []
    with sandbox(leading, adapters=[own]) as peer:
        for _ in range(7):
            with timed(samples):
                other.graph(task("only", own))
                given = peer.start()
            peer.finish(given.assignment_id)
    assert median_s("all", samples) < PUSHED_S


def test_an_answer_reaches_the_asker_that_waits_at_the_other_replica(apis: tuple[Api, Api]) -> None:
    leading, other = apis
    own, who = adapter(), leading.sandbox()
    samples: list[float] = []
    leading.graph(task("only", own))
    with sandbox(other, who, adapters=[own]) as peer:
        given = peer.start()
        base = f"/v1/sandboxes/{who[0]}/assignments/{given.assignment_id}/operations"
        asker = other.as_(who[1])
        for _ in range(5):
            body = {"operationId": name("op"), "prompt": "May I?"}
            asked = asker.post(f"{base}/permission.ask", body).ok()["permissionRequestId"]
            got: list[str] = []

            def wait(asked: str = asked, got: list[str] = got) -> None:
                body = {"permissionRequestId": asked, "waitS": 20}
                got.append(asker.post(f"{base}/permission.status", body).ok()["status"])

            waiting = threading.Thread(target=wait)
            waiting.start()
            waiting.join(0.2)
            assert waiting.is_alive()
            with timed(samples):
                path = f"/v1/tasks/{given.task_id}/permissions/{asked}/respond"
                leading.post(path, {"decision": "approved"}).ok()
                waiting.join(10)
            assert got == ["approved"]
    assert median_s("all", samples) < PUSHED_S


def test_event_streams_and_logs_wake_on_the_replica_that_serves_them(apis: tuple[Api, Api]) -> None:
    leading, other = apis
    own = adapter()
    made = leading.graph(task("only", own))
    task_id = made["tasks"][0]["taskId"]
    events: list[float] = []
    logs: list[float] = []
    with sandbox(leading, adapters=[own]) as peer, contextlib.ExitStack() as stack:
        given = peer.start()
        following = Following(other, runId=made["run"]["runId"])
        stack.callback(following.close)
        following.until(lambda seen: seen.event == "task.running")
        log = Following(other, path=f"/v1/tasks/{task_id}/logs", follow="1")
        stack.callback(log.close)
        for n in range(7):
            with timed(logs):
                peer.send(lines(given.assignment_id, f"line {n}", first=n))
                log.until(lambda seen, n=n: seen.data.get("text") == f"line {n}")
        for n in range(7):
            with timed(events):
                body = {"mode": "steer", "message": f"{n}"}
                leading.post(f"/v1/tasks/{task_id}/messages", body).ok(202)
                following.until(lambda seen: seen.event == "message.queued")
        peer.finish(given.assignment_id)
        following.until(lambda seen: seen.event == "task.succeeded")
        log.until(lambda seen: seen.event == "end")
        ids = [seen.id for seen in following.all]
        assert len(set(ids)) == len(ids)
    assert median_s("events", events) < PUSHED_S
    assert median_s("lines", logs) < PUSHED_S


def test_launches_and_stops_reach_the_host_of_the_other_replica(apis: tuple[Api, Api]) -> None:
    """F21: and the sandbox, on a third connection, is told to drain."""
    leading, other = apis
    own, who = adapter(), leading.host()
    launches: list[float] = []
    with host(other, who, pool("p", own)) as machine:
        with timed(launches):
            leading.graph(task("only", own))
            launch = machine.expect(Launch)
        assert launches[0] < 1.5
        machine.tell(LeaseResult(lease_id=launch.lease_id, ok=True))
        with sandbox(other, (launch.sandbox_id, launch.sandbox_token), adapters=[own]) as peer:
            given = peer.start()
            peer.finish(given.assignment_id)
            assert machine.expect(Stop).drain
            assert peer.expect(Drain).reason == "idle"


def test_a_call_that_was_lost_costs_seconds(pair: Pair, apis: tuple[Api, Api]) -> None:
    """Nobody notifies for what a test does to the database itself."""
    leading, other = apis
    own, who = adapter(), leading.sandbox()
    leading.graph(task("only", own))
    with sandbox(other, who, adapters=[own]) as peer, pair.first.connect() as conn:
        given = peer.start()
        samples: list[float] = []
        with timed(samples):
            conn.execute(
                "insert into messages (message_id, owner_id, run_id, task_id, assignment_id, sandbox_id, mode,"
                " message) select 'msg_lost', r.owner_id, t.run_id, t.task_id, t.assignment_id, %s, 'steer', 'x'"
                " from tasks t join runs r using (run_id) where task_id = %s",
                [who[0], given.task_id],
            )
            peer.expect(Input, lambda m: m.messages[0].message_id == "msg_lost")
        conn.execute(
            "update tasks set cancel_requested_at = now(), cancel_reason = 'lost' where task_id = %s",
            [given.task_id],
        )
        assert peer.expect(Cancel).reason == "lost"
        peer.finish(given.assignment_id, "cancelled")
    assert samples[0] < SLOW_LOOK_S


def test_listening_begins_again_when_its_connection_is_lost(
    pair: Pair, apis: tuple[Api, Api]
) -> None:
    """F29."""
    leading, other = apis
    own = adapter()
    with pair.first.connect() as conn, sandbox(other, adapters=[own]) as peer:
        conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'flakes server: listening' and datname = current_database()"
        )
        leading.graph(task("only", own))
        peer.finish(peer.start().assignment_id)
        pair.wait_acquainted()
        samples: list[float] = []
        for _ in range(5):
            with timed(samples):
                leading.graph(task("only", own))
                given = peer.start()
            peer.finish(given.assignment_id)
    assert median_s("all", samples) < PUSHED_S


def test_a_peer_that_connects_elsewhere_leaves_no_ghost_behind(apis: tuple[Api, Api]) -> None:
    leading, other = apis
    own, who = adapter(), leading.sandbox()
    with sandbox(leading, who, adapters=[own]) as old, sandbox(other, who, adapters=[own]) as new:
        assert old.wait_closed() == 1012
        leading.graph(task("only", own))
        new.finish(new.start().assignment_id)
        with sandbox(leading, who, adapters=[own]) as newest:
            assert new.wait_closed() == 1012
            leading.graph(task("only", own))
            newest.finish(newest.start().assignment_id)


def test_work_goes_to_sandboxes_of_both_and_ends_once(pair: Pair, apis: tuple[Api, Api]) -> None:
    leading, other = apis
    own = adapter()
    seen: list[str] = []
    with sandbox(leading, adapters=[own]) as here, sandbox(other, adapters=[own]) as there:
        run = leading.graph(*(task(f"t{n}", own) for n in range(40)), close=True)["run"]["runId"]
        peers = [here, there]

        def work(peer_index: int) -> None:
            peer = peers[peer_index]
            with contextlib.suppress(TimeoutError):
                while True:
                    given = peer.start(timeout_s=2.0)
                    seen.append(given.task_key)
                    peer.finish(given.assignment_id)

        workers = [threading.Thread(target=work, args=[n]) for n in range(2)]
        for worker in workers:
            worker.start()
        wait_until(lambda: other.get(f"/v1/runs/{run}").ok()["state"] == "SUCCEEDED")
        for worker in workers:
            worker.join()
    assert sorted(seen) == sorted(f"t{n}" for n in range(40))
    with pair.first.connect() as conn:
        by_sandbox = conn.execute(
            "select sandbox_id, count(*) from assignments where run_id = %s group by 1", [run]
        ).fetchall()
    assert len(by_sandbox) == 2


def test_waits_are_settled_by_whichever_replica_hears_of_it(
    pair: Pair, apis: tuple[Api, Api]
) -> None:
    """Registered at one, settled by what comes in at the other: the end of a child, a signal, a timer; the same
    whether the task yielded or is held."""
    leading, other = apis
    own = adapter()
    grants = ["flakes.tasks.spawn", "flakes.groups"]
    made = leading.graph(task("parent", own, toolGrants=grants))
    who, whose = leading.sandbox(), leading.sandbox()
    with sandbox(other, who, adapters=[own]) as parents:
        given = parents.start()
        path = f"/v1/sandboxes/{who[0]}/assignments"

        def ask(api: Api, operation: str, body: dict[str, object]) -> dict[str, Any]:
            return api.as_(who[1]).post(f"{path}/{given.assignment_id}/operations/{operation}", body).ok()

        child_of = adapter()
        with sandbox(leading, whose, adapters=[child_of]) as children:
            spawned = [{"title": "c", "adapter": child_of, "taskKey": key} for key in ("one", "two")]
            ask(other, "task.spawn", {"operationId": "o", "tasks": spawned})
            running = {each.task_key: each for each in (children.start(), children.start())}

            # Yielded at one replica; the child ends at the other.
            on_one = {"operationId": "one", "on": {"kind": "children", "tasks": ["one"]}}
            assert ask(other, "task.wait", on_one)["state"] == "pending"
            parents.finish(given.assignment_id, "retryable")
            wait_until(lambda: leading.task(given.task_id)["status"] == "WAITING")
            children.finish(running["one"].assignment_id)
            given = parents.start()
            assert ask(leading, "task.wait", on_one)["verdict"] == "SUCCEEDED"

            # Held at one replica; the child ends, and a signal comes, at the other.
            for what, on, settle in (
                ("two", {"kind": "children", "tasks": ["two"]}, lambda: children.finish(running["two"].assignment_id)),
                ("go", {"kind": "signal", "name": "go"},
                 lambda: leading.post(f"/v1/tasks/{given.task_id}/signals/go", {"payload": 7}).ok(202)),
            ):  # fmt: skip
                got: list[dict[str, Any]] = []
                body = {"operationId": what, "on": on, "holdS": 25, "yields": False}
                waiting = threading.Thread(target=lambda body=body, got=got: got.append(ask(other, "task.wait", body)))
                waiting.start()
                waiting.join(0.2)
                assert waiting.is_alive()
                settle()
                waiting.join(30)
                assert got[0]["state"] == "settled"
            assert got[0]["payload"] == 7

        # Timers fire once, whoever leads, and wake a task of the other replica.
        for number in range(3):
            body = {"operationId": f"timer-{number}", "on": {"kind": "timer", "seconds": 0.3}}
            assert ask((leading, other)[number % 2], "task.wait", body)["state"] == "pending"
            parents.finish(given.assignment_id, "retryable")
            given = parents.start()
            assert ask(other, "task.wait", body)["state"] == "settled"
        parents.finish(given.assignment_id)
        wait_until(lambda: "task.succeeded" in [e["type"] for e in other.activity(given.task_id)])
        settled = [e["data"]["operationId"] for e in other.activity(given.task_id) if e["type"] == "wait.settled"]
        assert sorted(settled) == ["go", "one", "timer-0", "timer-1", "timer-2", "two"]
    assert leading.get(f"/v1/runs/{made['run']['runId']}").ok()["taskCounts"] == {"SUCCEEDED": 3}


def test_a_replica_that_is_alone_notifies_nobody(database: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    from api.plane import serving

    with serving(tmp_path_factory.mktemp("alone"), database) as server:
        api, own = server.account(), adapter()
        with psycopg.connect(database, autocommit=True) as listener:
            listener.execute("listen flakes_replica")
            with sandbox(api, adapters=[own]) as peer:
                api.graph(task("only", own))
                peer.finish(peer.start().assignment_id)
            assert list(listener.notifies(timeout=0.3)) == []
            known = listener.execute("select count(*) from replicas").fetchone()
            listening = listener.execute(
                "select count(*) from pg_stat_activity where application_name = 'flakes server: listening'"
                " and datname = current_database()"
            ).fetchone()
        assert (known, listening) == ((1,), (0,))
        server.stop()
        with psycopg.connect(database, autocommit=True) as conn:
            assert conn.execute("select count(*) from replicas").fetchone() == (0,)
