"""The event stream (F06): order, promptness, filters, resuming, heartbeats, and whose events it shows."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import httpx2

from api.caller import Api, task
from api.following import Seen, following
from api.peer import adapter, sandbox
from api.plane import Server, serving
from flakes.server.api.events import HEARTBEAT_S
from flakes.wire.events import TYPES


def save(api: Api, run: str, key: str) -> Any:
    return api.put(f"/v1/runs/{run}/tasks/{key}", task(key)).ok(201)


def order(seen: list[Seen]) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for a, b in (s.id.split("-") for s in seen)]


def test_a_run_from_its_beginning_to_its_end_in_order(api: Api) -> None:
    own = adapter()
    with sandbox(api, adapters=[own]) as peer:
        made = api.graph(task("a", own), task("b", own, dependsOn=["a"]), close=True)
        run = made["run"]["runId"]
        with following(api, runId=made["run"]["runKey"]) as stream:
            for _ in range(2):
                peer.finish(peer.start().assignment_id)
            seen = stream.until(lambda s: s.data.get("data", {}).get("state") == "SUCCEEDED")
    told = [(s.event, s.data.get("taskKey")) for s in seen]
    assert told[:2] == [("run.created", None), ("task.admitted", "a")]
    for key in ("a", "b"):
        own_events = [event for event, task_key in told if task_key == key]
        middle = ["task.queued"] if key == "b" else []
        assert own_events == ["task.admitted", *middle, "task.running", "task.succeeded"]
    assert told.index(("task.succeeded", "a")) < told.index(("task.queued", "b"))
    states = [s.data["data"]["state"] for s in seen if s.event == "run.state"]
    assert states[0] == "QUEUED"
    assert states[-1] == "SUCCEEDED"
    assert order(seen) == sorted(set(order(seen)))
    for s in seen:
        assert s.event == s.data["type"]
        assert s.event in TYPES
        assert s.id == s.data["cursor"]
        assert s.data["runId"] == run
    for made_task in made["tasks"]:
        mine = [s.data for s in seen if s.data.get("taskId") == made_task["taskId"]]
        assert api.activity(made_task["taskId"]) == mine


def test_events_come_within_a_second(api: Api) -> None:
    run = api.run()["runId"]
    late: list[float] = []
    with following(api, runId=run) as stream:
        stream.next()
        for n in range(20):
            save(api, run, f"t{n}")
            done_s = time.monotonic()
            late.append(stream.next().at_s - done_s)
    assert max(late) < 1.0
    assert sorted(late)[10] < 0.2, late


def test_an_open_transaction_of_others_delays_an_event_no_longer_than_it_lasts(
    server: Server, api: Api
) -> None:
    """An event is readable when every older transaction has ended; then it comes at once."""
    run = api.run()["runId"]
    with following(api, runId=run) as stream, server.connect() as conn:
        stream.next()
        with conn.transaction():
            conn.execute("select pg_current_xact_id()")
            save(api, run, "a")
            time.sleep(1.2)  # the wait itself is what is under test: nothing may come in it
            assert stream.arrived.empty()
        ended_s = time.monotonic()
        assert stream.next().at_s - ended_s < 0.6


def test_events_are_complete_and_in_order_under_many_writers(api: Api) -> None:
    run = api.run()["runId"]
    keys = [[f"t{w}-{n}" for n in range(15)] for w in range(6)]
    with following(api, runId=run) as stream:
        writers = [
            threading.Thread(target=lambda own=own: [save(api, run, key) for key in own])
            for own in keys
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        expected = {key for own in keys for key in own}
        seen: list[Seen] = []
        while expected - {s.data.get("taskKey") for s in seen}:
            seen.append(stream.next())
    saved = [s.data["taskKey"] for s in seen if s.event == "task.saved"]
    assert sorted(saved) == sorted(expected)
    assert order(seen) == sorted(set(order(seen)))
    for own in keys:
        assert [key for key in saved if key in own] == own


def test_resuming_with_either_form_of_the_cursor(api: Api) -> None:
    run = api.run()["runId"]
    for n in range(6):
        save(api, run, f"t{n}")
    with following(api, runId=run) as stream:
        whole = [stream.next() for _ in range(7)]
    for cut in (0, 3, 5):
        rest = [s.data for s in whole[cut + 1 :]]
        with following(api, last_id=whole[cut].id, runId=run) as stream:
            assert [stream.next().data for _ in rest] == rest
        with following(api, after=whole[cut].id, runId=run) as stream:
            assert [stream.next().data for _ in rest] == rest
        with following(api, last_id=whole[cut].id, after=whole[0].id, runId=run) as stream:
            assert [stream.next().data for _ in rest] == rest, "Last-Event-ID wins"


def test_from_now_and_from_everything(api: Api) -> None:
    run = api.run()["runId"]
    before = save(api, run, "before")
    api.activity(before["taskId"], having="task.saved")  # "now" is after what can be read
    with following(api, runId=run, after="now") as of_run, following(api) as of_account:
        save(api, run, "after")
        assert of_run.next().data["taskKey"] == "after"
        assert of_account.next().data["taskKey"] == "after"
        key = api.project()
        seen = of_account.next()
        assert (seen.event, seen.data["data"]["projectKey"]) == ("project.created", key)
        assert of_run.arrived.empty()
    with following(api, after="0-0") as stream:
        assert stream.next().event == "project.created"
        assert stream.next().event == "run.created"


def test_types_run_and_task_filters(api: Api, other: Api) -> None:
    project = api.project()
    run, elsewhere = api.run(project)["runId"], api.run(project)["runId"]
    save(api, run, "a")
    first = api.get(f"/v1/runs/{run}/tasks/a").ok()["taskId"]
    with (
        following(api, types="task.admitted,run.closed", after="now") as by_type,
        following(api, runId=run, types="task.saved") as by_both,
        following(api, taskId=first) as by_task,
    ):
        save(api, elsewhere, "x")
        save(api, run, "b")
        api.post(f"/v1/runs/{run}/tasks/admit", {"all": True}).ok()
        api.post(f"/v1/runs/{elsewhere}/close").ok()
        assert [by_both.next().data["taskKey"] for _ in range(2)] == ["a", "b"]
        assert {by_type.next().data["taskKey"] for _ in range(2)} == {"a", "b"}
        closed = by_type.next()
        assert (closed.event, closed.data["runId"]) == ("run.closed", elsewhere)
        assert [by_task.next().event for _ in range(2)] == ["task.saved", "task.admitted"]
        assert by_both.arrived.empty()
        assert by_task.arrived.empty()
    api.get("/v1/events", types="task.exploded").refused("invalid_request")
    api.get("/v1/events", runId="nothing").refused("not_found")
    for query in ({"runId": run}, {"taskId": first}):
        other.get("/v1/events", **query).refused("not_found")
    api.get("/v1/events", taskId=first, runId=elsewhere).refused("not_found")


def test_nobody_sees_another_accounts_events(api: Api, other: Api) -> None:
    with following(other, after="0-0") as stranger, following(api) as own:
        run = api.run()["runId"]
        save(api, run, "a")
        api.host()
        own.until(lambda s: s.event == "task.saved")
        mine = other.project()
        seen = stranger.next()
        assert seen.data["data"]["projectKey"] == mine
        assert stranger.arrived.empty()
    cursor = seen.id
    with following(other, after=cursor) as stranger:
        save(api, run, "b")
        other.project()
        assert stranger.next().event == "project.created"


def test_a_quiet_stream_has_a_heartbeat_every_15_seconds(api: Api) -> None:
    """Also one that is woken all the time by events that its filter leaves out."""
    run = api.run()["runId"]
    started_s = time.monotonic()
    with (
        following(api, runId=run, after="now") as busy,
        following(api, runId=api.run()["runId"], after="now") as quiet,
        following(api, runId=run, types="run.deleted") as filtered,
    ):
        limit_s = started_s + HEARTBEAT_S + 2
        n = 0
        while not (quiet.heartbeats and filtered.heartbeats) and time.monotonic() < limit_s:
            save(api, run, f"t{n}")
            n += 1
            busy.next()
            time.sleep(0.3)
        for stream in (quiet, filtered):
            assert stream.heartbeats, "a heartbeat is due"
            assert HEARTBEAT_S - 1 < stream.heartbeats[0] - started_s < HEARTBEAT_S + 2
            assert stream.all == []
        assert busy.heartbeats == []


def test_streams_end_when_the_server_goes(tmp_path: Path, database: str) -> None:
    with serving(tmp_path, database) as server:
        api = server.owner()
        with following(api) as stream:
            api.project()
            assert stream.next().event == "project.created"
            assert server.stop() == 0
            assert stream.ended() == []


def test_the_stream_resumes_over_a_killed_server(tmp_path: Path, database: str) -> None:
    """F02: kill -9 while many write; what was answered is there, and nobody misses or repeats an event."""
    with serving(tmp_path, database) as server:
        api = server.owner()
        run = api.run()["runId"]
        answered: list[str] = []
        dying = threading.Event()

        def write(api: Api, part: str, until: threading.Event) -> None:
            n = 0
            while not until.is_set():
                key = f"{part}-{n}"
                try:
                    api.put(f"/v1/runs/{run}/tasks/{key}", task(key)).ok(201)
                except (AssertionError, httpx2.TransportError):
                    assert dying.is_set(), "no request fails before the server is killed"
                    return
                answered.append(key)
                n += 1

        def write_for_a_while(part: str, follower: str | None, stop_server: bool) -> list[Seen]:
            until = threading.Event()
            current = server.owner()
            with following(current, last_id=follower, runId=run) as stream:
                writers = [
                    threading.Thread(target=write, args=(current, f"{part}{w}", until))
                    for w in range(4)
                ]
                for writer in writers:
                    writer.start()
                seen = [stream.next() for _ in range(60)]
                if stop_server:
                    dying.set()
                    server.kill()
                until.set()
                for writer in writers:
                    writer.join()
                dying.clear()
                if stop_server:
                    return seen + stream.ended()
                last = answered[-1]
                return seen + stream.until(lambda s: s.data.get("taskKey") == last)

        first = write_for_a_while("a", None, stop_server=True)
        server.start()
        second = write_for_a_while("b", first[-1].id, stop_server=False)
        seen = first + second
        assert order(seen) == sorted(set(order(seen))), "none twice, none out of order"
        api = server.owner()
        count = len(seen)
        with following(api, runId=run) as stream:
            afresh = [stream.next() for _ in range(count)]
        assert [s.data for s in afresh] == [s.data for s in seen], "none left out"
        there = {t["taskKey"] for t in api.get(f"/v1/runs/{run}/tasks", limit=10_000).ok()["tasks"]}
        assert set(answered) <= there
