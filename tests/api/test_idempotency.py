"""`Idempotency-Key`: one execution for one key, its first answer ever after, also over kill -9 (F02)."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from api.caller import Answer, Api, name, task
from api.peer import adapter, sandbox
from api.plane import Server, serving
from api.routes import BLOB, BODIES, artifact_of, build
from embedded_servers import wait_until
from flakes.server.app import ENDPOINTS
from flakes.store import accounts
from flakes.wire import sandbox_stream
from flakes.wire.operations import Empty

MUTATIONS = {f"{e.method} {e.path}": e for e in ENDPOINTS if e.takes_key}


def failed(api: Api) -> str:
    """A task that can be retried."""
    made = api.graph(task("only"))
    api.post(f"/v1/tasks/{made['tasks'][0]['taskId']}/cancel", {}).ok(202)
    return made["tasks"][0]["taskId"]


def same(first: Answer, second: Answer) -> None:
    assert (second.status, second.content) == (first.status, first.content)
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize("key", MUTATIONS)
def test_every_mutation_replays_its_first_answer(server: Server, key: str) -> None:
    endpoint = MUTATIONS[key]
    world = build(server.account())
    make = BODIES.get((endpoint.method, endpoint.path))
    body = make(world) if make else None
    path, mark = world.fill(endpoint.path), name("key")
    api = world.sandbox_api if endpoint.family == "sandbox" else world.api
    first = api.keyed(endpoint.method, path, mark, body)
    assert first.status < 500
    same(first, api.keyed(endpoint.method, path, mark, body))
    if make and endpoint.body is not Empty:
        other = (body or {}) | _another(endpoint.path)
        answer = api.keyed(endpoint.method, path, mark, other)
        answer.refused("idempotency_conflict")


def _another(path: str) -> dict[str, object]:
    """A field that makes a body another one."""
    if path.endswith("/admit"):
        return {"all": False, "taskKeys": ["x"]}
    if path.endswith("/setup"):
        return {"hostName": "another"}
    if path.endswith(("/workpad", "/workpad.save")):
        return {"bodyMarkdown": "another"}
    if path.endswith("/messages"):
        return {"message": "another"}
    if path.endswith("/permission.ask"):
        return {"prompt": "another"}
    if path.endswith("/files.release"):
        return {"all": False, "selectors": [{"path": "another", "kind": "exact"}]}
    if path.endswith("/files.check"):
        return {"selectors": [{"path": "another", "kind": "exact"}]}
    if path.endswith(("/workspace.selected", "/workspace.promote")):
        return {"ref": "another"}
    if path.endswith("/workspace.changing"):
        return {"paths": ["another"]}
    if path.endswith("/workspaces"):
        return {"tree": "8" * 40}
    if path.endswith("/promotions"):
        return {"ref": "another"}
    if path.endswith("/prune"):
        return {"offlineS": 7_777_777}
    if path.endswith("/rotate"):
        return {"graceS": 7}
    if path.endswith("/project-workspace-root"):
        return {"path": "/another"}
    if path.endswith("/project-bindings/{projectKey}"):
        return {"poolKeys": ["another"]}
    if path.endswith((
        "/cancel", "/close", "/retry", "/respond", "/files.reserve", "/drain", "/stop", "/abandon", "/disable", "/revoke",
    )):  # fmt: skip
        return {"reason": "another"}
    if path.endswith("{taskKey}"):
        return {"title": "another"}
    if path.endswith(("/group.close", "/group.status")):
        return {"group": "another"}
    if path.endswith(("/group.cancel", "/task.cancel")):
        return {"reason": "another"}
    if path.endswith(("/task.spawn", "/task.signal")):
        return {"operationId": "another"}
    if path.endswith(("/task.children", "/run.tasks")):
        return {"limit": 7}
    if path.endswith("/budget.reserve"):
        return {"tokens": 11}
    if path.endswith("/budget.extend"):
        return {"permissionRequestId": "another"}
    if path.endswith("/task.results"):
        return {"tasks": ["another"]}
    if path.endswith(("/task.outputs", "/task.workpad")):
        return {"task": "another"}
    if path.endswith(("/round.send", "/{taskId}/rounds")):
        return {"prompt": "another"}
    if path.endswith("/round.finish"):
        return {"task": "another"}
    if path.endswith("/round.complete"):
        return {"text": "another"}
    if path.endswith("/round.read"):
        return {"roundKey": "another"}
    if path.endswith("/round.list"):
        return {"limit": 7}
    if path.endswith("/signals/{name}"):
        return {"payload": "another"}
    if path.endswith("/change-password"):
        return {"newPassword": "another horse battery"}
    if path.endswith("{userCode}"):
        return {"decision": "approved"}
    return {"name": "another"}


def test_a_retry_happens_once_for_one_key_and_again_for_another(api: Api) -> None:
    task_id = failed(api)
    path = f"/v1/tasks/{task_id}/retry"
    first = api.keyed("POST", path, "one")
    assert first.ok(200)["attempt"] == 2
    api.post(f"/v1/tasks/{task_id}/cancel", {}).ok(202)
    same(first, api.keyed("POST", path, "one"))
    assert api.task(task_id)["status"] == "CANCELLED"
    assert api.keyed("POST", path, "two").ok()["attempt"] == 3


def test_a_refusal_is_an_answer_too_and_changes_nothing(api: Api) -> None:
    task_id = api.graph(task("only"))["tasks"][0]["taskId"]
    path = f"/v1/tasks/{task_id}/retry"
    first = api.keyed("POST", path, "early")
    first.refused("task_not_retryable")
    api.post(f"/v1/tasks/{task_id}/cancel", {}).ok(202)
    same(first, api.keyed("POST", path, "early"))
    assert "attempt" not in api.task(task_id), "the first one is not said"


def test_the_way_a_body_is_written_does_not_matter(api: Api) -> None:
    project = api.project()
    path, headers = f"/v1/runs/{name('run')}", {"Idempotency-Key": "k"}
    one = f'{{"name": "r", "projectKey": "{project}"}}'.encode()
    two = f'{{ "projectKey":"{project}" , "name":"\\u0072" }}'.encode()
    first = api.call("PUT", path, content=one, headers=headers)
    assert first.ok(201)
    same(first, api.call("PUT", path, content=two, headers=headers))


def test_a_key_belongs_to_its_owner_its_method_and_its_path(api: Api, other: Api) -> None:
    paths = [f"/v1/projects/{name('p')}" for _ in range(2)]
    for caller in (api, other):
        for path in paths:
            assert caller.keyed("PUT", path, "shared", {"name": path}).ok(201)
    assert api.keyed("PATCH", paths[0], "shared", {"name": "new"}).ok(200)["name"] == "new"


def test_an_answer_with_a_credential_is_sealed_for_whoever_asked(server: Server) -> None:
    api = server.account()
    first = api.keyed("POST", "/v1/sandboxes", "sandbox", {"name": "mine"})
    raw = first.ok(201)["rawCredential"]
    same(first, api.keyed("POST", "/v1/sandboxes", "sandbox", {"name": "mine"}))
    assert len(api.get("/v1/sandboxes").ok()["sandboxes"]) == 1
    with server.connect() as conn:
        owner = api.get("/v1/me").ok()["userId"]
        rows = conn.execute("select sealed, answer from idempotency_keys where scope_id = %s", [owner])
        ((sealed, answer),) = rows.fetchall()
        assert sealed
        assert raw.encode() not in answer
        assert b"sandbox" not in answer
    second = _second_token(server, owner)
    refused = api.as_(second).keyed("POST", "/v1/sandboxes", "sandbox", {"name": "mine"})
    refused.refused("idempotency_conflict")


def _second_token(server: Server, user_id: str) -> str:
    async def issue() -> str:
        async with await psycopg.AsyncConnection.connect(server.dsn) as conn:
            return await accounts.issue_token(conn, "user", user_id, user_id, "second")

    return asyncio.run(issue())


@pytest.mark.parametrize("key", ["", "a b", "ü", "x" * 256, "tab\there"])
def test_a_key_that_is_none_is_refused(api: Api, key: str) -> None:
    path = f"/v1/projects/{name('p')}"
    headers = {"Idempotency-Key": key.encode()}
    answer = api.call("PUT", path, {"name": "x"}, headers=headers)  # type: ignore[arg-type]
    assert answer.refused("invalid_request")["issues"][0]["path"] == "Idempotency-Key"
    api.get(path).refused("not_found")


def test_what_was_never_valid_uses_no_key_up(api: Api) -> None:
    path = f"/v1/projects/{name('p')}"
    api.keyed("PUT", path, "k", {"nam": "x"}).refused("invalid_request")
    assert api.keyed("PUT", path, "k", {"name": "x"}).ok(201)


def test_concurrent_first_uses_run_once(api: Api) -> None:
    """Each of 12 gets the answer of the one that ran, or is told to ask again; then it gets it too."""
    for round_ in range(5):
        task_id = failed(api)
        path, barrier = f"/v1/tasks/{task_id}/retry", threading.Barrier(12)

        def send(path: str = path, barrier: threading.Barrier = barrier, key: str = f"k{round_}") -> bytes:
            barrier.wait()
            while True:
                answer = api.keyed("POST", path, key)
                if answer.status != 409:
                    assert answer.ok(200)
                    return answer.content
                answer.refused("idempotency_in_progress")
                assert answer.headers["retry-after"] == "1"

        with ThreadPoolExecutor(12) as pool:
            answers = {future.result() for future in [pool.submit(send) for _ in range(12)]}
        assert len(answers) == 1
        assert api.task(task_id)["attempt"] == 2


def test_one_that_still_runs_is_said_to_run(server: Server) -> None:
    api = server.account()
    path = f"/v1/runs/{api.run()['runId']}/close"
    with server.connect() as conn, server.connect() as looking, ThreadPoolExecutor(1) as pool:
        conn.execute("begin")
        conn.execute("lock table runs in access exclusive mode")
        slow = pool.submit(lambda: api.keyed("POST", path, "slow", {}))
        waiting = "select 1 from pg_locks where relation = 'runs'::regclass and not granted"
        wait_until(lambda: looking.execute(waiting).fetchone() is not None)
        api.keyed("POST", path, "slow", {}).refused("idempotency_in_progress")
        conn.execute("commit")
        first = slow.result(10)
    assert first.ok(200)["closed"] is True
    same(first, api.keyed("POST", path, "slow", {}))


def test_the_answer_outlives_the_server(tmp_path: Path, database: str) -> None:
    """kill -9 and start: the same answers, and no second execution (F02)."""
    with serving(tmp_path, database) as server:
        api = server.account()
        task_id = failed(api)
        retried = api.keyed("POST", f"/v1/tasks/{task_id}/retry", "r")
        host = api.keyed("POST", "/v1/hosts/setup", "h", {"hostName": "x"})
        retried.ok(200)
        host.ok(201)
        server.kill()
        server.start()
        api = Api(server.url, api.token)
        same(retried, api.keyed("POST", f"/v1/tasks/{task_id}/retry", "r"))
        same(host, api.keyed("POST", "/v1/hosts/setup", "h", {"hostName": "x"}))
        assert api.task(task_id)["attempt"] == 2
        assert len(api.get("/v1/hosts").ok()["hosts"]) == 1


def test_killed_in_the_middle_it_runs_once(tmp_path: Path, database: str) -> None:
    """The server dies while it holds the mutation back: nothing happened, and the key is free."""
    with serving(tmp_path, database) as server:
        api = server.account()
        for round_ in range(3):
            task_id = failed(api)
            path = f"/v1/tasks/{task_id}/retry"
            with server.connect() as conn:
                # The answer can be stored, and the transaction cannot end: the last moment before a commit.
                conn.execute("""
                    create or replace function stall() returns trigger language plpgsql as $$
                    begin perform pg_advisory_xact_lock(4711); return new; end $$""")
                conn.execute("""
                    create or replace trigger stall after insert on idempotency_keys
                    for each row execute function stall()""")
                conn.execute("select pg_advisory_lock(4711)")
                with ThreadPoolExecutor(1) as pool:
                    lost = pool.submit(lambda: api.keyed("POST", path, f"k{round_}"))  # noqa: B023
                    waiting = "select 1 from pg_locks where locktype = 'advisory' and not granted"
                    wait_until(lambda: conn.execute(waiting).fetchone() is not None)  # noqa: B023
                    server.kill()
                    assert lost.exception(10) is not None
                conn.execute("select pg_advisory_unlock(4711)")
                conn.execute("drop trigger stall on idempotency_keys")
            server.start()
            api = Api(server.url, api.token)

            def arrives(key: str = f"k{round_}", path: str = path) -> bool:
                answer = api.keyed("POST", path, key)  # noqa: B023
                if answer.status == 409 and answer.json["error"] == "idempotency_in_progress":
                    return False  # PostgreSQL has not yet noticed that the killed server has gone
                answer.ok(200)
                return True

            wait_until(arrives)
            assert api.task(task_id)["attempt"] == 2

            def queued(task_id: str = task_id) -> int:
                return sum(e["data"].get("reason") == "retried" for e in api.activity(task_id))  # noqa: B023

            # An event is readable once no older transaction of the whole PostgreSQL server is open.
            wait_until(lambda: queued() > 0)
            assert queued() == 1


def test_a_cancel_with_a_key_reaches_the_sandbox(api: Api) -> None:
    """What a mutation says to the outside is said, after its commit."""
    own = adapter()
    made = api.graph(task("long", own))
    with sandbox(api, adapters=[own]) as peer:
        running = peer.start()
        path = f"/v1/tasks/{made['tasks'][0]['taskId']}/cancel"
        first = api.keyed("POST", path, "stop", {"reason": "enough"})
        assert first.ok(202)["cancelRequested"] is True
        told = peer.expect(sandbox_stream.Cancel)
        assert told.assignment_ids == [running.assignment_id]
        peer.finish(running.assignment_id, "cancelled")
        wait_until(lambda: api.task(running.task_id)["status"] == "CANCELLED")
        same(first, api.keyed("POST", path, "stop", {"reason": "enough"}))


def test_a_message_with_a_key_reaches_the_sandbox_once(api: Api) -> None:
    own = adapter()
    made = api.graph(task("long", own))
    with sandbox(api, adapters=[own]) as peer:
        running = peer.start()
        path = f"/v1/tasks/{made['tasks'][0]['taskId']}/messages"
        body = {"mode": "steer", "message": "left"}
        first = api.keyed("POST", path, "say", body)
        told = peer.expect(sandbox_stream.Input)
        assert [m.message_id for m in told.messages] == [first.ok(202)["messageId"]]
        assert told.messages[0].assignment_id == running.assignment_id
        same(first, api.keyed("POST", path, "say", body))
        assert len(api.get(path).ok()["messages"]) == 1


def test_an_answer_with_a_key_wakes_the_asker_whose_wait_takes_none(server: Server) -> None:
    """A wait is no mutation: it holds no transaction and no key, and is told what was committed."""
    api = server.account()
    own, who = adapter(), api.sandbox()
    api.graph(task("only", own))
    with sandbox(api, who, adapters=[own]) as peer, ThreadPoolExecutor(1) as pool:
        given = peer.start()
        base = f"/v1/sandboxes/{who[0]}/assignments/{given.assignment_id}/operations"
        mate = api.as_(who[1])
        question = {"operationId": "q", "prompt": "May I?"}
        asked = mate.keyed("POST", f"{base}/permission.ask", "ask", question)
        permission_id = asked.ok(200)["permissionRequestId"]
        waiting = {"permissionRequestId": permission_id, "waitS": 20}
        waits = pool.submit(lambda: mate.keyed("POST", f"{base}/permission.status", "wait", waiting))
        path = f"/v1/tasks/{given.task_id}/permissions/{permission_id}/respond"
        first = api.keyed("POST", path, "yes", {"decision": "approved"})
        assert first.ok(200)["status"] == "approved"
        assert waits.result(15).ok(200)["status"] == "approved"
        same(first, api.keyed("POST", path, "yes", {"decision": "approved"}))
        again = mate.keyed("POST", f"{base}/permission.status", "wait", waiting)
        assert again.ok(200)["status"] == "approved"
        assert "idempotency-replayed" not in again.headers
        same(asked, mate.keyed("POST", f"{base}/permission.ask", "ask", question))


def test_an_operation_refused_as_stale_is_written_down_with_a_key_too(api: Api) -> None:
    own, who = adapter(), api.sandbox()
    api.graph(task("only", own))
    with sandbox(api, who, adapters=[own]) as peer:
        given = peer.start()
        peer.finish(given.assignment_id)
        wait_until(lambda: api.task(given.task_id)["status"] == "SUCCEEDED")
    path = f"/v1/sandboxes/{who[0]}/assignments/{given.assignment_id}/operations/workpad.save"
    body = {"bodyMarkdown": "late", "baseVersion": 0}
    first = api.as_(who[1]).keyed("POST", path, "late", body)
    first.refused("stale_assignment")
    same(first, api.as_(who[1]).keyed("POST", path, "late", body))
    events = api.activity(given.task_id, having="attempt.refused")
    assert [e["data"]["what"] for e in events if e["type"] == "attempt.refused"] == ["workpad.save"]


def test_an_artifact_with_a_key_is_made_once_and_goes_once(server: Server) -> None:
    api = server.account()
    first = api.keyed("POST", "/v1/artifacts", "make", artifact_of(BLOB))
    path = f"/v1/artifacts/{first.ok(201)['artifactId']}"
    assert api.get(f"{path}/fetch").content == BLOB
    same(first, api.keyed("POST", "/v1/artifacts", "make", artifact_of(BLOB)))
    assert len(api.get("/v1/artifacts").ok()["artifacts"]) == 1
    gone = api.keyed("DELETE", path, "drop")
    gone.ok(200)
    same(gone, api.keyed("DELETE", path, "drop"))
    api.get(path).refused("not_found")


def test_more_keyed_requests_than_connections_do_not_starve_each_other(api: Api) -> None:
    """Making an artifact notes its blob on another connection than the one that holds the key."""
    with ThreadPoolExecutor(40) as pool:
        made = list(pool.map(
            lambda n: api.keyed("POST", "/v1/artifacts", f"k{n}", artifact_of(f"{n}".encode())), range(40)
        ))  # fmt: skip
    assert len({answer.ok(201)["artifactId"] for answer in made}) == 40


def test_a_keyed_graph_is_scheduled(api: Api) -> None:
    own = adapter()
    with sandbox(api, adapters=[own]) as peer:
        body = {"name": "g", "projectKey": api.project(), "tasks": [task("a", own)]}
        api.keyed("POST", f"/v1/runs/{name('run')}/graph", "g", body).ok(201)
        assert peer.start().task_key == "a"


def test_old_answers_are_forgotten(server: Server) -> None:
    api = server.account()
    path = f"/v1/projects/{name('p')}"
    api.keyed("PUT", path, "k", {"name": "x"}).ok(201)
    with server.connect() as conn:
        owner = api.get("/v1/me").ok()["userId"]
        conn.execute(
            "update idempotency_keys set created_at = now() - interval '25 h' where scope_id = %s", [owner]
        )
        assert api.keyed("PUT", path, "k", {"name": "x"}).ok(200)["name"] == "x"
        conn.execute(
            "update idempotency_keys set created_at = now() - interval '25 h' where scope_id = %s", [owner]
        )
        # A delete of something live wakes the janitor.
        own = adapter()
        made = api.graph(task("long", own))
        with sandbox(api, adapters=[own]) as peer:
            peer.start()
            api.delete(f"/v1/runs/{made['run']['runId']}").ok(202)
            count = "select count(*) from idempotency_keys where scope_id = %s"
            wait_until(lambda: conn.execute(count, [owner]).fetchone() == (0,))
