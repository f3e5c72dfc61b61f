"""What is lent to an attempt comes back when it was renewed, and never anything else."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from flakes.agents import credentials

OLD, NEW = b'{"refresh": "old"}', b'{"refresh": "new"}'


@dataclass
class Lent:
    """A credential of the user, and an attempt's copy of it."""

    original: Path
    copy: Path
    ledger: Path
    root: Path

    def settle(self) -> list[Path]:
        return credentials.settle(self.ledger)


@pytest.fixture
def lent(tmp_path: Path) -> Lent:
    user, root = tmp_path / "user", tmp_path / "attempt"
    user.mkdir()
    (root / "home").mkdir(parents=True)
    (user / "auth.json").write_bytes(OLD)
    own, ledger = root / "home" / ".agent", tmp_path / "ledgers" / "one"
    credentials.lend(user, own, ("auth.json", "not-there.json"), ledger, root)
    return Lent(user / "auth.json", own / "auth.json", ledger, root)


def test_a_copy_is_private_and_an_unchanged_one_stays_where_it_is(lent: Lent) -> None:
    assert lent.copy.read_bytes() == OLD
    assert lent.copy.stat().st_mode & 0o777 == 0o600
    assert lent.ledger.stat().st_mode & 0o777 == 0o600
    before = lent.original.stat().st_ino
    assert lent.settle() == []
    assert lent.original.stat().st_ino == before
    assert not lent.ledger.exists()


def test_a_renewed_one_is_written_back_once(lent: Lent) -> None:
    lent.copy.write_bytes(NEW)
    assert lent.settle() == []
    assert lent.original.read_bytes() == NEW
    assert lent.original.stat().st_mode & 0o777 == 0o600
    lent.original.write_bytes(OLD)
    assert lent.settle() == []
    assert lent.original.read_bytes() == OLD, "settled is settled"


def test_a_link_of_the_user_stays_a_link(lent: Lent, tmp_path: Path) -> None:
    elsewhere = tmp_path / "dotfiles.json"
    elsewhere.write_bytes(OLD)
    lent.original.unlink()
    lent.original.symlink_to(elsewhere)
    lent.copy.write_bytes(NEW)
    assert lent.settle() == []
    assert lent.original.is_symlink()
    assert elsewhere.read_bytes() == NEW


def test_an_original_that_changed_meanwhile_counts(lent: Lent) -> None:
    lent.copy.write_bytes(NEW)
    lent.original.write_bytes(b'{"refresh": "newer"}')
    assert lent.settle() == [lent.original]
    assert json.loads(lent.original.read_bytes()) == {"refresh": "newer"}


@pytest.mark.parametrize("content", [b"", b"{}", b'{"refresh": "ne', b"\0" * 2_000_000])
def test_what_is_no_credential_is_not_written_back(lent: Lent, content: bytes) -> None:
    lent.copy.write_bytes(content)
    assert lent.settle() == []
    assert lent.original.read_bytes() == OLD


@pytest.mark.parametrize("how", ["file", "directory", "hard", "pipe", "gone"])
def test_nothing_is_read_outside_of_the_attempt(lent: Lent, tmp_path: Path, how: str) -> None:
    """A task may put anything in the copy's place."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "auth.json").write_bytes(b'{"of": "somebody else"}')
    lent.copy.unlink()
    match how:
        case "file":
            lent.copy.symlink_to(outside / "auth.json")
        case "directory":
            lent.copy.parent.rmdir()
            lent.copy.parent.symlink_to(outside)
        case "hard":
            os.link(outside / "auth.json", lent.copy)
        case "pipe":
            os.mkfifo(lent.copy)
        case _:
            lent.copy.parent.rmdir()
    assert lent.settle() == []
    assert lent.original.read_bytes() == OLD


def test_a_draft_of_a_ledger_is_no_obstacle(lent: Lent) -> None:
    draft = lent.ledger.with_name(".one.x")
    draft.write_bytes(lent.ledger.read_bytes()[:-9])
    assert credentials.settle(draft) == []
    assert not draft.exists()
