"""PostgreSQL goes away and comes back (F29), the server is killed and started (F02): nothing that was promised is lost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import CloseCode

from api.caller import Answer, Api, name, task
from api.following import following
from api.peer import adapter, host, host_hello, open_stream, pool, result, sandbox
from api.plane import Server, serving
from embedded_servers import data_dir, place, seed, server_at, wait_until
from flakes.store.embedded import EmbeddedPostgres
from flakes.wire.host_stream import Launch

__all__ = ["data_dir", "place", "seed"]


@pytest.fixture
def postgresql(data_dir: Path) -> EmbeddedPostgres:
    """A database server of the test's own, to be stopped."""
    return server_at(data_dir)


@pytest.fixture
def alone(postgresql: EmbeddedPostgres, tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path, postgresql.start().dsn, {"leases": {"heartbeatS": 1.0}}) as server:
        yield server


def refused_while_away(answer: Answer) -> None:
    answer.refused("database_unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    for word in ("psycopg", "socket", "connection", "server closed"):
        assert word not in answer.json["message"].lower()


def test_the_database_goes_away_and_comes_back(
    alone: Server, postgresql: EmbeddedPostgres
) -> None:
    api = alone.owner()
    own = adapter()
    project = api.project()
    with (
        sandbox(api, adapters=[own], max_concurrency=2) as daemon,
        host(api, api.host(), pool("a", name("x"))) as attic,
        following(api) as stream,
    ):
        made = api.graph(task("a", own), task("b", own, dependsOn=["a"]), projectKey=project)
        running = daemon.start()
        stream.until(lambda s: s.event == "task.running")
        postgresql.stop("immediate")

        nobody = Api(alone.url, None)
        assert nobody.get("/livez").ok()
        down = nobody.get("/readyz", timeout_s=5.0)
        assert down.status == 503
        assert "retry-after" in down.headers
        for _ in range(2):
            began_s = time.monotonic()
            refused_while_away(api.get("/v1/runs"))
            refused_while_away(api.put(f"/v1/projects/{name('p')}", {"name": "lost"}))
            assert time.monotonic() - began_s < 8, "a refusal comes soon"
        with pytest.raises(InvalidStatus) as caught:
            open_stream(api.url, "sandboxes", *("sandbox_x", "flakes_sandbox_x.y"))
        assert caught.value.response.status_code == 503
        daemon.send(result(running.assignment_id, text="done while it was away"))
        assert alone.is_running()

        postgresql.start()
        wait_until(lambda: nobody.call("GET", "/readyz").status == 200)
        assert daemon.acked() == set()
        follower = daemon.start()
        assert follower.task_key == "b", "the loops go on"
        assert daemon.finish(follower.assignment_id) == set()
        told = stream.until(lambda s: s.event == "task.succeeded" and s.data["taskKey"] == "b")
        ended = [(s.event, s.data.get("taskKey")) for s in told]
        assert ("task.succeeded", "a") in ended, "the stream went on where it was"
        first = made["tasks"][0]["taskId"]
        assert api.get(f"/v1/tasks/{first}/result").ok()["text"] == "done while it was away"
        # The host's stream has lived through it as well.
        other = adapter()
        attic.tell(host_hello(attic.host_id, [pool("b", other)]))
        api.graph(task("c", other))
        assert attic.expect(Launch).pool_key == "b"
        assert len(api.get("/v1/projects").ok()["projects"]) == 2, "what was refused is not there"


def test_connections_that_the_database_drops(server: Server, api: Api) -> None:
    """F29: no process ends, and at most what was under way is refused."""
    own, who = adapter(), api.sandbox()
    with contextlib.ExitStack() as links, following(api) as stream:
        daemon = links.enter_context(sandbox(api, who, adapters=[own]))
        for n in range(3):
            with server.connect() as conn:
                conn.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where datname = current_database() and pid <> pg_backend_pid()"
                )
            made = _insist(api, f"dropped-{n}-{name('r')}", own)
            try:
                taken = daemon.start()
            except ConnectionClosed as closed:  # it was in the middle of something, and is to come again
                if closed.rcvd is None or closed.rcvd.code != CloseCode.TRY_AGAIN_LATER:
                    raise
                daemon = links.enter_context(sandbox(api, who, adapters=[own]))
                taken = daemon.start()
            assert taken.task_id == made
            assert daemon.finish(taken.assignment_id) == set()
            stream.until(lambda s, made=made: (s.event, s.data.get("taskId")) == ("task.succeeded", made))  # type: ignore[misc]
    assert server.is_running()


def _insist(api: Api, key: str, own: str) -> str:
    """Post a graph until it is there: what was refused with 503 may be sent again, unchanged."""
    project = None
    for _ in range(50):
        answer = api.call("PUT", "/v1/projects/insisted", {"name": "insisted"})
        if answer.status in (200, 201):
            project = "insisted"
            body = {"name": key, "projectKey": project, "tasks": [task("a", own)]}
            answer = api.post(f"/v1/runs/{key}/graph", body)
            if answer.status in (200, 201):
                return answer.json["tasks"][0]["taskId"]
        refused_while_away(answer)
        time.sleep(0.05)
    raise AssertionError("it is refused for ever")


def test_work_goes_on_over_a_killed_server(tmp_path: Path, database: str) -> None:
    """F02, F28: a sandbox keeps what it has, and delivers what it could not."""
    with serving(tmp_path, database) as server:
        api = server.owner()
        own = adapter()
        who = api.sandbox()
        with sandbox(api, who, adapters=[own]) as daemon:
            made = api.graph(task("a", own), task("b", own, dependsOn=["a"]), key="kept")
            running = daemon.start()
            server.kill()
        with server.connect() as conn:  # a killed server's term of leadership ends by itself, after seconds
            conn.execute("update leaders set expires_at = now()")
        server.start()
        api = server.owner()
        assert api.get("/v1/runs/kept").ok()["state"] == "RUNNING"
        holds = {running.assignment_id: "ended"}
        with sandbox(api, who, adapters=[own], holds=holds) as daemon:
            assert daemon.welcome.drop == []
            assert daemon.finish(running.assignment_id, text="kept") == set()
            follower = daemon.start()
            assert follower.task_key == "b"
            daemon.finish(follower.assignment_id)
        assert api.get("/v1/runs/kept").ok()["state"] == "SUCCEEDED"
        assert api.get(f"/v1/tasks/{made['tasks'][0]['taskId']}/result").ok()["text"] == "kept"


def test_the_token_of_the_owner_stays_the_same(tmp_path: Path, database: str) -> None:
    with serving(tmp_path, database) as server:
        first = server.owner().token
        me = server.owner().get("/v1/me").ok()["userId"]
        credential = tmp_path / "owner.credential"
        assert credential.stat().st_mode & 0o777 == 0o600
        server.stop()
        server.start()
        assert server.owner().token == first
        credential.unlink()
        server.stop()
        server.start()
        assert server.owner().token != first
        assert server.owner().get("/v1/me").ok()["userId"] == me
        with psycopg.connect(database) as conn:
            count = conn.execute("select count(*) from users").fetchone()
        assert count == (1,)
