"""The event-stream parser gives the same frames however the bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flakes.client.sse import FRAME_BYTES_MAX, Frame, FrameTooLargeError, Parser

STREAM = (
    ": heartbeat\n\n"
    'id: 1\nevent: a\ndata: {"x": "\u2028 \x85 line"}\n\n'
    "id: 2\r\nevent: b\r\ndata: one\r\ndata: two\r\n\r\n"
    "data:bare\r\r"
    "id: 3\nevent: c\ndata: [1]\n\n"
).encode()
FRAMES = [
    Frame("1", "a", '{"x": "\u2028 \x85 line"}'.encode()),
    Frame("2", "b", b"one\ntwo"),
    Frame(None, "message", b"bare"),
    Frame("3", "c", b"[1]"),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_frames_do_not_depend_on_chunks(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    parser = Parser()
    frames = [frame for start, end in pairwise(places) for frame in parser.feed(STREAM[start:end])]
    assert frames == FRAMES


def test_an_unfinished_frame_is_never_given_out() -> None:
    assert Parser().feed(b"id: 9\nevent: a\ndata: {}\n") == []


def test_a_frame_without_end_is_refused() -> None:
    parser = Parser()
    parser.feed(b"data: " + b"x" * (FRAME_BYTES_MAX - 6))
    with pytest.raises(FrameTooLargeError):
        parser.feed(b"x")
