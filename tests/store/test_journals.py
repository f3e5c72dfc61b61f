"""Journals of harnesses: in order, only added to, the same request twice is one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from flakes.core import limits
from flakes.store import journals
from flakes.store.database import Database
from flakes.wire.errors import ApiError

pytestmark = pytest.mark.anyio


@pytest.fixture
async def opened(database: str) -> AsyncIterator[Database]:
    db = Database(database, size=4)
    await db.open()
    yield db
    await db.close()


async def append(db: Database, at: int, *entries: str, task: str = "task_a") -> int:
    async with db.transaction() as conn:
        return await journals.append(conn, task, at, [journals.stored(each) for each in entries])


async def read(db: Database, after: int = 0, task: str = "task_a") -> tuple[list[str | None], bool]:
    async with db.transaction() as conn:
        found, more = await journals.page(conn, task, after)
    return [each.body for each in found], more


async def test_entries_stay_in_order_and_the_same_again_adds_nothing(opened: Database) -> None:
    assert await append(opened, 0, "a", "b") == 2
    assert await append(opened, 2, "c") == 3
    assert await append(opened, 1, "b", "c", "d") == 4, "what is there is the same, and the rest is new"
    assert await append(opened, 0, "a") == 4
    assert await read(opened) == (["a", "b", "c", "d"], False)
    assert await read(opened, 3) == (["d"], False)
    assert await read(opened, task="task_b") == ([], False), "each task has its own (F26)"


@pytest.mark.parametrize(("at", "entries"), [(3, ["x"]), (1, ["x"]), (0, ["a", "x"])])
async def test_other_entries_and_gaps_are_refused(opened: Database, at: int, entries: list[str]) -> None:
    await append(opened, 0, "a", "b")
    with pytest.raises(ApiError) as caught:
        await append(opened, at, *entries)
    assert caught.value.code == "journal_conflict"
    assert await read(opened) == (["a", "b"], False)


async def test_writers_at_the_same_time_leave_one_journal(opened: Database) -> None:
    answers = await asyncio.gather(
        *(append(opened, 0, f"{n % 2}", "same") for n in range(8)), return_exceptions=True
    )
    good = [each for each in answers if each == 2]
    bad = [each for each in answers if isinstance(each, ApiError) and each.code == "journal_conflict"]
    assert len(good) == len(bad) == 4, answers
    assert len((await read(opened))[0]) == 2


async def test_pages_are_bounded_and_large_entries_are_blobs(
    opened: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = journals.stored("x" * (limits.JOURNAL_INLINE_BYTES_MAX + 1))
    assert large.body is None
    assert large.digest is not None
    with pytest.raises(ApiError) as caught:
        journals.stored("x" * (limits.JOURNAL_ENTRY_BYTES_MAX + 1))
    assert caught.value.code == "too_large"
    await append(opened, 0, *(f"{n}" * 10 for n in range(10)))
    monkeypatch.setattr(journals, "PAGE_BYTES", 35)
    assert len((await read(opened))[0]) == 4
    monkeypatch.setattr(journals, "PAGE_ENTRIES", 3)
    pages = [(await read(opened, at))[1] for at in (0, 3, 6, 7)]
    assert pages == [True, True, True, False]
    monkeypatch.setattr(limits, "JOURNAL_ENTRIES_MAX", 11)
    assert await append(opened, 10, "k") == 11
    with pytest.raises(ApiError) as caught:
        await append(opened, 11, "l")
    assert caught.value.code == "limit_exceeded"
