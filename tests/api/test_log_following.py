"""Following a log by server-sent events: every line once and in order, until the task has ended."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from api.caller import Api, task
from api.following import Following, Seen
from api.peer import SandboxPeer, adapter, lines, sandbox
from api.plane import Server, serving
from flakes.client import SyncClient
from flakes.client.transport import Address
from flakes.wire import sandbox_stream


def follow(api: Api, task_id: str, last_id: str | None = None, **query: str) -> Following:
    path = f"/v1/tasks/{task_id}/logs"
    return Following(api, last_id, path=path, follow="1", **query)


def texts(seen: list[Seen]) -> list[str]:
    return [one.data["text"] for one in seen if one.event == "log"]


def mixed(assignment_id: str, count: int, first: int = 0) -> sandbox_stream.LogLines:
    """Lines on stdout and stderr in turn, numbered."""
    made = [
        sandbox_stream.LogLine(channel=("stdout", "stderr")[n % 2], at_ms=1_760_000_000_000 + n, text=str(n))
        for n in range(first, first + count)
    ]
    return sandbox_stream.LogLines(assignment_id=assignment_id, first_line=first, lines=made)


def test_lines_come_at_once_and_the_stream_ends_with_the_task(api: Api) -> None:
    own = adapter()
    task_id = api.graph(task("talks", own))["tasks"][0]["taskId"]
    stream = follow(api, task_id)
    assert stream.media_type.startswith("text/event-stream")
    with sandbox(api, adapters=[own]) as peer:
        one = peer.start()
        for n in range(0, 30, 10):
            peer.deliver(mixed(one.assignment_id, 10, n))
            got = stream.until(lambda seen, n=n: seen.data["text"] == str(n + 9))
            assert texts(got) == [str(k) for k in range(n, n + 10)]
        assert got[-1].id == f"{one.assignment_id}:29"
        peer.finish(one.assignment_id)
    assert [(seen.event, seen.data["status"]) for seen in stream.ended()] == [("end", "SUCCEEDED")]
    stream.close()
    again = follow(api, task_id)
    rest = again.ended()
    assert texts(rest) == [str(k) for k in range(30)]
    assert rest[-1].event == "end"
    again.close()


def test_a_reader_goes_on_after_the_last_id(api: Api) -> None:
    own = adapter()
    task_id = api.graph(task("talks", own))["tasks"][0]["taskId"]
    with sandbox(api, adapters=[own]) as peer:
        one = peer.start()
        peer.deliver(mixed(one.assignment_id, 2_500))
        peer.finish(one.assignment_id)
    whole = follow(api, task_id)
    seen = whole.ended()[:-1]
    whole.close()
    assert texts(seen) == [str(k) for k in range(2_500)]
    for at in (0, 7, 999, 1_000, 1_001, 2_498, 2_499):
        rest = follow(api, task_id, seen[at].id, tail="1")
        assert texts(rest.ended()) == [str(k) for k in range(at + 1, 2_500)]
        rest.close()


def test_channel_and_tail_and_after_combine_with_follow(api: Api) -> None:
    own = adapter()
    task_id = api.graph(task("talks", own))["tasks"][0]["taskId"]
    with sandbox(api, adapters=[own]) as peer:
        one = peer.start()
        peer.deliver(mixed(one.assignment_id, 3_000))
        streams = {
            "err": follow(api, task_id, channel="stderr", tail="3"),
            "out": follow(api, task_id, channel="stdout", after=f"{one.assignment_id}:2989"),
            "tail": follow(api, task_id, tail="2"),
            "none": follow(api, task_id, channel="system", tail="5"),
        }
        for stream, count in (("err", 3), ("out", 5), ("tail", 2)):
            for _ in range(count):
                streams[stream].next()
        peer.deliver(mixed(one.assignment_id, 4, 3_000))
        peer.finish(one.assignment_id)
    for stream in streams.values():
        stream.ended()
        stream.close()
    assert texts(streams["err"].all) == ["2995", "2997", "2999", "3001", "3003"]
    assert texts(streams["out"].all) == ["2990", "2992", "2994", "2996", "2998", "3000", "3002"]
    assert texts(streams["tail"].all) == ["2998", "2999", "3000", "3001", "3002", "3003"]
    assert texts(streams["none"].all) == []
    api.get(f"/v1/tasks/{task_id}/logs", follow=1, tail=1, after="x").refused("invalid_request")
    api.get(f"/v1/tasks/{task_id}/logs", follow=1, after="nonsense").refused("invalid_request")


def test_all_attempts_are_followed_in_order(api: Api) -> None:
    own = adapter()
    retry = {"maxAttempts": 2, "backoffS": 0}
    task_id = api.graph(task("twice", own, retry=retry))["tasks"][0]["taskId"]
    stream = follow(api, task_id)
    with sandbox(api, adapters=[own]) as peer:
        for attempt, outcome in ((1, "retryable"), (2, "failed")):
            one = peer.start()
            peer.deliver(lines(one.assignment_id, f"{attempt}a", f"{attempt}b"))
            peer.finish(one.assignment_id, outcome)
    stream.ended()
    stream.close()
    assert texts(stream.all) == ["1a", "1b", "2a", "2b"]
    assert stream.all[-1].data["status"] == "FAILED"


def test_filters_of_pages_reach_over_many_chunks(api: Api) -> None:
    own = adapter()
    task_id = api.graph(task("talks", own))["tasks"][0]["taskId"]
    with sandbox(api, adapters=[own]) as peer:
        one = peer.start()
        peer.deliver(
            sandbox_stream.LogLines(
                assignment_id=one.assignment_id, first_line=0,
                lines=[sandbox_stream.LogLine(channel="stderr", at_ms=0, text="first")],
            ),
            *[lines(one.assignment_id, "x", first=n) for n in range(1, 200)],
        )  # fmt: skip
    path = f"/v1/tasks/{task_id}/logs"
    found = api.get(path, channel="stderr", tail=1).ok()
    assert [e["text"] for e in found["logs"]] == ["first"]
    assert found["nextCursor"] == f"{one.assignment_id}:199"
    found = api.get(path, channel="stdout", limit=150).ok()
    assert len(found["logs"]) == 150
    found = api.get(path, channel="stdout", limit=150, after=found["nextCursor"]).ok()
    assert len(found["logs"]) == 49
    assert api.get(path, channel="stderr", after=f"{one.assignment_id}:0").ok() == {
        "logs": [], "nextCursor": f"{one.assignment_id}:199",
    }  # fmt: skip


def test_an_idle_stream_asks_the_database_nothing(server: Server) -> None:
    """Many followers of a silent task cost no statements of their own."""
    api = server.account()
    own = adapter()
    task_id = api.graph(task("silent", own))["tasks"][0]["taskId"]

    with sandbox(api, adapters=[own]) as peer, server.connect() as conn:
        one = peer.start()
        peer.deliver(lines(one.assignment_id, "only"))
        streams = [follow(api, task_id) for _ in range(8)]
        for stream in streams:
            stream.next()
        scans = "select coalesce(sum(idx_scan), 0) from pg_stat_user_indexes where relname = 'log_chunks'"

        def settled() -> int:
            """Scans of the log's index, once the statistics of everything before have arrived."""
            last = -1
            while (now := conn.execute(scans).fetchone()) != (last,):
                assert now is not None
                last = int(now[0])
                conn.execute("select pg_sleep(1.2)")
                conn.execute("select pg_stat_clear_snapshot()")
            return last

        before = settled()
        conn.execute("select pg_sleep(3)")
        conn.execute("select pg_stat_clear_snapshot()")
        assert settled() == before
        peer.deliver(lines(one.assignment_id, "more", first=1))
        for stream in streams:
            assert stream.next(3).data["text"] == "more"
            stream.close()


def test_nobody_follows_what_is_another_accounts(api: Api, other: Api) -> None:
    task_id = api.graph(task("mine"))["tasks"][0]["taskId"]
    other.get(f"/v1/tasks/{task_id}/logs", follow=1).refused("not_found")


def test_nothing_is_lost_or_repeated_over_kills(tmp_path: Path, database: str) -> None:
    """The server is killed with kill -9 three times while a task talks; its reader comes back (F02)."""
    rng = random.Random(7)
    own = adapter()
    count, step = 1_200, 20
    with serving(tmp_path, database) as server:
        api = server.account()
        who = api.sandbox()
        task_id = api.graph(task("talks", own))["tasks"][0]["taskId"]
        kills = sorted(rng.sample(range(step * 4, count - step, step), 3))
        seen: list[Seen] = []
        sent = 0
        assignment_id = ""
        while sent < count:
            last = seen[-1].id if seen else None
            stream = follow(api, task_id, last)
            until = kills.pop(0) if kills else count
            holds = {assignment_id: "running"} if assignment_id else {}
            with sandbox(api, who, adapters=[own], holds=holds) as peer:
                assignment_id = assignment_id or peer.start().assignment_id
                while sent < until:
                    peer.deliver(mixed(assignment_id, step, sent))
                    sent += step
                if until == count:
                    peer.finish(assignment_id)
                    stream.ended()
                else:
                    # Stored and acknowledged, and perhaps not yet sent to the reader.
                    server.kill()
            stream.close()
            seen += [one for one in stream.all if one.event == "log"]
            if until < count:
                server.start()
                api = Api(server.url, api.token)
        assert texts(seen) == [str(n) for n in range(count)]
        assert len({one.id for one in seen}) == count


def test_the_client_follows_over_a_kill(tmp_path: Path, database: str) -> None:
    """The product's own client against a server that is killed and comes back elsewhere."""
    own = adapter()
    with serving(tmp_path, database) as server:
        api = server.account()
        who = api.sandbox()
        task_id = api.graph(task("talks", own))["tasks"][0]["taskId"]
        got: list[str] = []
        here = SyncClient(api.url, api.token, locate=lambda: Address(server.url, api.token))

        def read() -> None:
            got.extend(entry.text for entry in here.follow_logs(task_id))

        reading = threading.Thread(target=read, daemon=True)
        with here:
            reading.start()
            with sandbox(api, who, adapters=[own]) as peer:
                one = peer.start()
                peer.deliver(mixed(one.assignment_id, 50))
            server.kill()
            server.start()
            api = Api(server.url, api.token)
            with sandbox(api, who, adapters=[own], holds={one.assignment_id: "running"}) as peer:
                peer.deliver(mixed(one.assignment_id, 50, 50))
                peer.finish(one.assignment_id)
            reading.join(20)
            assert not reading.is_alive()
        assert got == [str(n) for n in range(100)]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_task_keeps_64_mib_of_its_log(server: Server) -> None:
    """80 MiB written through the stream: the first and the newest lines are there, and a line says what is not."""
    api = server.account()
    own = adapter()
    task_id = api.graph(task("loud", own))["tasks"][0]["taskId"]
    line, per_message, messages = "y" * 8_000, 60, 180
    with sandbox(api, adapters=[own]) as peer:
        one = peer.start()
        total = _shout(peer, one.assignment_id, line, per_message, messages)
        path = f"/v1/tasks/{task_id}/logs"
        head = api.get(path, limit=1000).ok()["logs"]
        assert head[0]["text"] == f"0 {line}"
        tail = api.get(path, tail=1000).ok()["logs"]
        assert [e["text"].split()[0] for e in tail] == [str(n) for n in range(total - 1000, total)]
        system = api.get(path, channel="system").ok()["logs"]
        assert len(system) == 1
        assert "dropped here" in system[0]["text"]
        with server.connect() as conn:
            stored = conn.execute(
                "select sum(size_bytes), sum(octet_length(lines::text)) from log_chunks where assignment_id = %s",
                [one.assignment_id],
            ).fetchone()
            counted = conn.execute("select size_bytes from task_logs where task_id = %s", [task_id]).fetchone()
        assert stored is not None
        assert counted is not None
        assert stored[0] == stored[1] == counted[0]
        assert 48 * 2**20 < counted[0] <= 64 * 2**20
        dropped = int(system[0]["text"].split()[0].strip("[").replace(",", ""))
        stream = follow(api, task_id)
        peer.finish(one.assignment_id)
        stream.ended(60)
        stream.close()
    logged = [seen for seen in stream.all if seen.event == "log"]
    assert len(logged) == total - dropped + 1
    assert len({seen.id for seen in logged}) == len(logged)


def _shout(peer: SandboxPeer, assignment_id: str, line: str, per_message: int, messages: int) -> int:
    sent = 0
    for _ in range(messages):
        peer.send(lines(assignment_id, *[f"{sent + n} {line}" for n in range(per_message)], first=sent))
        sent += per_message
        peer.acked(30)
    return sent


def test_the_end_of_the_log_is_waited_for(api: Api) -> None:
    """Lines and result in one frame: whoever sees the end has seen the lines."""
    own = adapter()
    for _ in range(10):
        task_id = api.graph(task("quick", own))["tasks"][0]["taskId"]
        stream = follow(api, task_id)
        with sandbox(api, adapters=[own]) as peer:
            one = peer.start()
            peer.send(
                mixed(one.assignment_id, 100),
                sandbox_stream.Result(assignment_id=one.assignment_id, outcome=sandbox_stream.Outcome("succeeded")),
            )
            peer.acked()
        stream.ended()
        stream.close()
        assert texts(stream.all) == [str(n) for n in range(100)]
        assert stream.all[-1].event == "end"
