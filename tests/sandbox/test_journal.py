"""The journal, the outbox over it, and the log on its way in: with a real file, no daemon."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flakes.sandbox import loglines, outbox
from flakes.sandbox.journal import Journal
from flakes.sandbox.loglines import LogSink, Splitter, pieces
from flakes.sandbox.outbox import Outbox

Scenario = Callable[[Journal], Awaitable[None]]


def with_journal(directory: Path, scenario: Scenario) -> None:
    async def run() -> None:
        journal = await Journal.open(directory)
        try:
            async with asyncio.timeout(20):
                await scenario(journal)
        finally:
            await journal.close()

    asyncio.run(run())


def test_what_is_durable_is_there_for_the_next_one(tmp_path: Path) -> None:
    async def write(journal: Journal) -> None:
        sql = (
            "insert into assignments (assignment_id, state, payload, directory) values (?, ?, ?, ?)"
        )
        journal.write((sql, ("a", "pending", b"{}", "/d")))
        await journal.durable()
        with sqlite3.connect(tmp_path / "journal.sqlite") as other:
            assert other.execute("select count(*) from assignments").fetchone() == (1,)
        other.close()

    async def read(journal: Journal) -> None:
        (row,) = await journal.rows()
        assert (row.assignment_id, row.state, row.payload, row.pid) == ("a", "pending", b"{}", None)

    with_journal(tmp_path, write)
    with_journal(tmp_path, read)


def test_numbers_never_restart_even_when_everything_is_acknowledged(tmp_path: Path) -> None:
    async def fill(journal: Journal) -> None:
        box = Outbox(journal)
        await box.load()
        assert [box.append("a", b"{}") for _ in range(3)] == [1, 2, 3]
        await journal.durable()
        box.ack(3)

    async def again(journal: Journal) -> None:
        box = Outbox(journal)
        await box.load()
        assert box.empty
        assert box.append("a", b"{}") == 4

    with_journal(tmp_path, fill)
    with_journal(tmp_path, again)


def test_frames_hold_consecutive_numbers_within_the_window_and_the_size(tmp_path: Path) -> None:
    async def scenario(journal: Journal) -> None:
        box = Outbox(journal)
        for n in range(10):
            box.append("a" if n != 4 else "b", b"[%d]" % n)
        assert await box.frame(100) is None, "nothing leaves before it is durable"
        await journal.durable()
        await box.sendable.wait()
        box.forget("b")
        assert parsed(await box.frame(3)) == (1, [[0], [1], [2]])
        assert await box.frame(3) is None, "the window is used up"
        box.ack(2)
        assert parsed(await box.frame(100)) == (4, [[3]]), "a gap ends a frame"
        assert parsed(await box.frame(100)) == (6, [[5], [6], [7], [8], [9]])
        box.set_connected(True)
        assert parsed(await box.frame(100)) == (3, [[2], [3]]), (
            "again from the first unacknowledged"
        )
        box.ack(10)
        assert box.empty
        for _ in range(3):
            box.append("a", b'"%s"' % (b"x" * 400_000))
        await journal.durable()
        sizes = []
        while len(sizes) < 2:
            if frame := await box.frame(100):
                sizes.append(len(frame))
            await asyncio.sleep(0)
        assert max(sizes) <= 1 << 20

    with_journal(tmp_path, scenario)


def test_what_memory_let_go_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "IN_MEMORY_BYTES_MAX", 1000)

    async def scenario(journal: Journal) -> None:
        box = Outbox(journal)
        for n in range(500):
            box.append("a", b'"%04d%s"' % (n, b"x" * 90))
        await box.sendable.wait()
        seen: list[str] = []
        while len(seen) < 500:
            frame = await box.frame(60)
            if frame is None:
                box.sendable.clear()
                if box.in_flight:
                    box.ack(len(seen))
                else:
                    await box.sendable.wait()
                continue
            first, messages = parsed(frame)
            assert first == len(seen) + 1
            seen += messages
        assert [int(text[:4]) for text in seen] == list(range(500))

    with_journal(tmp_path, scenario)


@pytest.mark.parametrize("damage", [b"", b"junk" * 5000, "header"])
def test_a_damaged_file_is_set_aside(tmp_path: Path, damage: bytes | str) -> None:
    async def fill(journal: Journal) -> None:
        box = Outbox(journal)
        for _ in range(200):
            box.append("a", b"x" * 1000)
        await journal.durable()

    with_journal(tmp_path, fill)
    path = tmp_path / "journal.sqlite"
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    else:
        data = bytearray(path.read_bytes())
        data[4096:12288] = b"\xee" * 8192
        path.write_bytes(data)

    async def use(journal: Journal) -> None:
        assert await journal.rows() == []
        assert await journal.index() == []

    with_journal(tmp_path, use)
    assert len(list(tmp_path.glob("journal.damaged-*"))) == (damage != b"")


def test_lines_are_dropped_with_a_count_once_too_many_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "BACKLOG_BYTES_MAX", 5_000)
    monkeypatch.setattr(loglines, "GATHERED_BYTES_MAX", 500)

    async def scenario(journal: Journal) -> None:
        box = Outbox(journal)
        sink = LogSink("a", box)
        for n in range(1000):
            await sink.write("stdout", b"line %d\n" % n)
        sink.close()
        assert box.backlog_bytes("a") < 8_000
        await box.sendable.wait()
        await journal.durable()
        lines: list[dict[str, str]] = []
        for _, body in await journal.messages(1, 10_000):
            message = json.loads(body)
            assert message["firstLine"] == len(lines), "no gap in the numbers"
            lines += message["lines"]
        kept = [line for line in lines if line["channel"] == "stdout"]
        (marker,) = [line for line in lines if line["channel"] == "system"]
        assert kept[0]["text"] == "line 0"
        assert (
            marker["text"] == f"[{1000 - len(kept)} lines dropped while the control plane was away]"
        )

    with_journal(tmp_path, scenario)


def test_a_log_waits_while_connected_and_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "SLOW_DOWN_BYTES", 1_000)

    async def scenario(journal: Journal) -> None:
        box = Outbox(journal)
        box.set_connected(True)
        last = box.append("a", b"x" * 2_000)
        sink = LogSink("a", box)
        writing = asyncio.create_task(sink.write("stdout", b"more\n"))
        await asyncio.sleep(0.01)
        assert not writing.done()
        box.ack(last)
        await writing

    with_journal(tmp_path, scenario)


@given(
    st.lists(st.binary(max_size=30) | st.just(b"\n") | st.just("é€\0x".encode() * 3000), max_size=8)
)
def test_lines_do_not_depend_on_how_they_were_cut(chunks: list[bytes]) -> None:
    def joined(parts: list[bytes]) -> list[str]:
        splitter = Splitter()
        texts = [text for part in parts for text in splitter.feed(part)] + splitter.end()
        assert all(len(text.encode()) <= 8192 for text in texts)
        lines, open_line = [], ""
        for text in texts:
            open_line += text.removesuffix(loglines.CONTINUES)
            if not text.endswith(loglines.CONTINUES):
                lines.append(open_line)
                open_line = ""
        return lines

    whole = b"".join(chunks)
    assert joined(chunks) == joined([whole])
    expected = whole.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert joined(chunks) == [
        line.decode("utf-8", "replace").replace("\0", "\ufffd") for line in expected
    ]


def test_a_piece_never_cuts_a_character() -> None:
    texts = pieces("€".encode() * 10_000)
    assert "\ufffd" not in "".join(texts)
    assert all(text.endswith(loglines.CONTINUES) for text in texts[:-1])


def parsed(frame: bytes | None) -> tuple[int, list[object]]:
    assert frame is not None
    values = json.loads(frame)
    assert values["type"] == "batch"
    return values["firstSeq"], values["messages"]
