"""Transcripts of tasks: appended once, read by cursor, followed, given natively; what was spent is summed."""

from __future__ import annotations

import json
from typing import Any

from api.caller import Api, task
from api.following import following
from api.peer import adapter, sandbox
from flakes.wire.sandbox_stream import TranscriptChunk
from flakes.wire.transcripts import AgentUsage, EntryBody

SPENT = AgentUsage(input_total=100, cached_read=40, output=10, cost_micro_usd=84, calls=1)
TWICE = AgentUsage(input_total=200, cached_read=80, output=20, cost_micro_usd=168, calls=2)


def entry(of: Any, raw: str | None = None, *, more: bool = False, **data: Any) -> EntryBody:
    return EntryBody(at_ms=1_700_000_000_000, kind=of, data=data, raw=raw, more=more)


def chunk(assignment_id: str, first: int, *entries: EntryBody, usage: AgentUsage | None = None) -> TranscriptChunk:
    return TranscriptChunk(assignment_id=assignment_id, first_entry=first, entries=list(entries), usage=usage)


def test_a_transcript_is_appended_once_and_read_in_every_form(api: Api) -> None:
    own = adapter()
    project = api.project()
    made = api.graph(task("talks", own, retry={"maxAttempts": 2, "backoffS": 0}), projectKey=project, close=True)
    run = made["run"]["runKey"]
    with sandbox(api, adapters=[own]) as peer:
        first = peer.start()
        task_id, one = first.task_id, first.assignment_id
        begun = chunk(one, 0, entry("session", kind="pi", value="s", resumed=False), entry("prompt", text="do it"))
        peer.deliver(begun)
        peer.deliver(begun)  # a replay
        said = chunk(one, 2, entry("text", '{"a": ', more=True, text="hello"), entry("record", "1}"), usage=SPENT)
        peer.deliver(said, chunk(one, 4, entry("record", '{"b": 2}'), usage=TWICE))
        path = f"/v1/tasks/{task_id}/transcript"
        page = api.get(f"{path}?limit=2").ok()
        assert [e["kind"] for e in page["entries"]] == ["session", "prompt"]
        assert page["entries"][1]["data"] == {"text": "do it"}
        rest = api.get(f"{path}?after={page['nextCursor']}").ok()
        assert [e["data"]["text"] for e in rest["entries"]] == ["hello"]
        assert api.get(f"{path}?after={rest['nextCursor']}").ok()["entries"] == []
        assert api.get(f"/v1/tasks/{task_id}").ok()["usage"]["calls"] == 2
        peer.finish(one, "retryable")
        second = peer.start()
        peer.deliver(chunk(second.assignment_id, 0, entry("text", "{}", text="again"), usage=SPENT))
        with following(api, path=path, follow="1") as stream:
            assert [stream.next().data["kind"] for _ in range(4)] == ["session", "prompt", "text", "text"]
            peer.finish(second.assignment_id)
            assert stream.next().event == "end"
    raw = api.get(f"{path}?format=raw").content
    assert [json.loads(line) for line in raw.splitlines()] == [{"a": 1}, {"b": 2}, {}]
    metrics = api.get(f"/v1/runs/{run}/metrics").ok()
    assert (metrics["tokens"], metrics["costMicroUsd"]) == (330, 252)
    assert metrics["usage"]["inputTotal"] == 300
    assert api.get(f"/v1/projects/{project}/metrics").ok()["tokens"] == 330
    types = [e["type"] for e in api.get(f"/v1/tasks/{task_id}/activity").ok()["events"]]
    assert types.count("attempt.session") == 1
    api.delete(f"/v1/runs/{run}").ok()
    assert api.get(f"/v1/projects/{project}/metrics").ok()["usage"] is None


def test_what_is_not_a_cursor_is_refused(api: Api) -> None:
    made = api.graph(task("t", adapter()))
    path = f"/v1/tasks/{made['tasks'][0]['taskId']}/transcript"
    api.get(f"{path}?after=nonsense").refused("invalid_request")
    api.get(f"{path}?limit=0").refused("invalid_request")
    api.get(f"{path}?format=raw&follow=1").refused("invalid_request")
    assert api.get(path).ok() == {"entries": [], "nextCursor": None}


def test_a_stale_attempt_adds_nothing(api: Api) -> None:
    """F03."""
    own = adapter()
    api.graph(task("t", own, retry={"maxAttempts": 2, "backoffS": 0}))
    with sandbox(api, adapters=[own]) as peer:
        first = peer.start()
        peer.finish(first.assignment_id, "retryable")
        peer.start()
        late = chunk(first.assignment_id, 0, entry("text", text="late"), usage=SPENT)
        assert peer.deliver(late) == {first.assignment_id}
    assert api.get(f"/v1/tasks/{first.task_id}/transcript").ok()["entries"] == []
