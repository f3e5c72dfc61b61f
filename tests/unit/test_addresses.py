"""Several addresses of one control plane."""

from __future__ import annotations

import pytest

from flakes.wire.addresses import Rotation, is_loopback, split


@pytest.mark.parametrize(
    ("configured", "expected"),
    [
        ("http://a:1", ["http://a:1"]),
        (" http://a:1/ , http://b:2/flakes/,", ["http://a:1", "http://b:2/flakes"]),
        (["http://a:1", "http://b:2/", "http://a:1/"], ["http://a:1", "http://b:2"]),
        ("", [""]),
        ([], [""]),
    ],
)
def test_addresses_are_split_cleaned_and_kept_in_order(
    configured: str | list[str], expected: list[str]
) -> None:
    assert split(configured) == expected


def test_a_rotation_begins_anywhere_and_comes_round() -> None:
    rotation = Rotation(["a", "b", "c"], 1_000_000_001)
    seen: list[str] = []
    for _ in range(6):
        seen.append(rotation.current)
        rotation.turn()
    assert len(rotation) == 3
    assert sorted(seen[:3]) == ["a", "b", "c"]
    assert seen[3:] == seen[:3]


def test_loopback_is_known_by_its_address() -> None:
    assert all(is_loopback(f"http://{host}:1") for host in ("127.0.0.1", "127.9.9.9", "[::1]", "localhost"))
    assert not any(is_loopback(f"https://{host}") for host in ("10.0.0.1", "example.org", "[fe80::1]"))
