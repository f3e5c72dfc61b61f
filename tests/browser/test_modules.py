"""The console's pure modules, run where they run: three-way merge, what events do, streams, colours, durations."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from browser.conftest import visiting
from flakes.console.assets import load


@pytest.fixture(scope="module")
def page(browser: Any, server: Any) -> Iterator[Any]:
    with visiting(browser, server.url) as visit:
        page = visit("/sign-in")
        page.evaluate(
            """async (base) => {
                for (const name of ["merge", "reducer", "sse", "ansi", "time"]) window[name] = await import(`${base}/app/${name}.js`);
                const { parsed } = await import(`${base}/app/pages/task-transcript.js`);
                window.transcript = { parsed };
            }""",
            f"/console/static/{load().version}",
        )
        yield page


def merged(page: Any, base: str, mine: str, theirs: str) -> list[dict[str, str]]:
    return page.evaluate(
        "([base, mine, theirs]) => merge.merge(base, mine, theirs)", [base, mine, theirs]
    )


def test_what_one_side_changed_is_taken(page: Any) -> None:
    base = "one\ntwo\nthree\nfour\nfive\n"
    assert merged(page, base, base.replace("one", "1"), base.replace("five", "5")) == [
        {"text": "1\ntwo\nthree\nfour\n5\n"}
    ]
    assert merged(page, base, base, "") == [{"text": ""}] or merged(page, base, base, "") == []
    assert merged(page, "", "mine\n", "mine\n") == [{"text": "mine\n"}]


def test_what_both_changed_is_a_conflict_with_both(page: Any) -> None:
    parts = merged(page, "a\nb\nc\n", "a\nmine\nc\n", "a\ntheirs\nc\n")
    assert parts == [
        {"text": "a\n"},
        {"base": "b\n", "mine": "mine\n", "theirs": "theirs\n"},
        {"text": "c\n"},
    ]
    assert merged(page, "", "mine\n", "theirs\n") == [
        {"base": "", "mine": "mine\n", "theirs": "theirs\n"}
    ]


def test_no_line_of_either_side_is_lost(page: Any) -> None:
    """Whatever both did: with one side's choice in every conflict, everything that this side added is there, and so is
    what the other added elsewhere."""
    seed = random.randrange(1_000_000)
    sys.stdout.write(f"seed {seed}\n")
    rng = random.Random(seed)
    cases = []
    for _ in range(200):
        base = [f"line {rng.randrange(12)}\n" for _ in range(rng.randrange(12))]
        cases.append(["".join(base), changed(rng, base, "mine"), changed(rng, base, "theirs")])
    found = page.evaluate("(cases) => cases.map(([b, m, t]) => merge.merge(b, m, t))", cases)
    for (_, mine, theirs), parts in zip(cases, found, strict=True):
        whole = "".join(p["text"] if "text" in p else p["mine"] + p["theirs"] for p in parts)
        for line in {*mine.splitlines(), *theirs.splitlines()}:
            if "new" in line:
                assert line in whole.splitlines(), (mine, theirs, parts)
        ours = "".join(p.get("text", p.get("mine", "")) for p in parts)
        if all("text" in p or p["mine"] for p in parts) and theirs == mine:
            assert ours == mine


def changed(rng: random.Random, base: list[str], who: str) -> str:
    lines = list(base)
    for n in range(rng.randrange(4)):
        at = rng.randrange(len(lines) + 1)
        if rng.random() < 0.4 and at < len(lines):
            del lines[at]
        else:
            lines.insert(at, f"new {who} {n}\n")
    return "".join(lines)


def test_long_texts_are_merged_quickly_or_given_up_safely(page: Any) -> None:
    base = "".join(f"line {n}\n" for n in range(20_000))
    mine, theirs = base.replace("line 7\n", "mine\n"), base.replace("line 19000\n", "theirs\n")
    parts = merged(page, base, mine, theirs)
    assert len(parts) == 1
    assert "mine\n" in parts[0]["text"]
    assert "theirs\n" in parts[0]["text"]
    other = "".join(f"another {n}\n" for n in range(9_000))
    assert merged(page, base, other, theirs)[0].get("mine", other) == other


def test_an_older_event_changes_nothing(page: Any) -> None:
    task = {
        "taskId": "t",
        "status": "SUCCEEDED",
        "finishedAt": "2026-01-01T00:00:10Z",
        "queuedAt": "2026-01-01T00:00:01Z",
    }
    old = {
        "type": "task.running",
        "at": "2026-01-01T00:00:05Z",
        "taskId": "t",
        "data": {"attempt": 1},
    }
    assert page.evaluate("([task, event]) => reducer.taskAfter(task, event) === task", [task, old])
    new = old | {"type": "task.queued", "at": "2026-01-01T00:00:20Z", "data": {"status": "QUEUED"}}
    after = page.evaluate("([task, event]) => reducer.taskAfter(task, event)", [task, new])
    assert (after["status"], after.get("finishedAt")) == ("QUEUED", None)


def test_frames_of_a_stream_in_any_pieces(page: Any) -> None:
    text = (
        'retry: 1\n\nid: 1\nevent: a\ndata: {"x":\ndata: 1}\n\n: beat\n\nid: 2\r\ndata: two\r\n\r\n'
    )
    for size in (1, 3, 7, 1_000):
        pieces = [text[n : n + size] for n in range(0, len(text), size)]
        frames = page.evaluate(
            "(pieces) => { const p = new sse.SseParser(); return pieces.flatMap((x) => p.push(x)); }",
            pieces,
        )
        assert [(f["id"], f["event"], f["data"]) for f in frames] == [
            ("1", "a", '{"x":\n1}'),
            ("2", "message", "two"),
        ], size


def test_colours_of_a_terminal_are_classes(page: Any) -> None:
    pieces = page.evaluate(
        "(line) => ansi.pieces(line)", "\x1b[1;31mred\x1b[0m plain \x1b]0;title\x07\x1b[2Kend"
    )
    assert pieces == [["ansi-1 ansi-bold", "red"], ["", " plain "], ["", "end"]]
    assert page.evaluate("ansi.pieces('10 %\\r50 %\\r100 %')") == [["", "100 %"]]


def test_durations(page: Any) -> None:
    said = {
        0: "0 ms",
        840: "840 ms",
        1_500: "1.5 s",
        12_000: "12 s",
        250_000: "4 m 10 s",
        11_100_000: "3 h 05 m",
        187_200_000: "2 d 4 h",
    }
    assert page.evaluate("(all) => all.map((ms) => time.duration(ms))", list(said)) == list(
        said.values()
    )


def test_both_ends_of_a_tools_use_are_one_part(page: Any) -> None:
    def entry(n: int, kind: str, **data: Any) -> dict[str, Any]:
        return {
            "cursor": str(n),
            "at": f"2026-01-01T00:00:{n:02}Z",
            "assignmentId": "a",
            "kind": kind,
            "data": data,
        }

    entries = [
        entry(1, "prompt", text="do it"), entry(2, "tool", state="start", id="x", name="bash", input={"command": "ls"}), entry(3, "record"),
        entry(4, "text", text="meanwhile"), entry(5, "tool", state="end", id="x", name="bash", output="a b", ok=True), entry(6, "usage"),
    ]  # fmt: skip
    parts = page.evaluate("(entries) => transcript.parsed(entries)", entries)
    assert [p["kind"] for p in parts] == ["prompt", "tool", "text"]
    assert parts[1]["ended"] == {"ok": True, "output": "a b", "tookMs": 3_000}
