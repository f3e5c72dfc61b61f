"""Passwords: what is accepted as one, and Argon2id in threads, a few at a time.

A hash takes a tenth of a second and 64 MiB on purpose, so only some are made at once. Checking the password
of an account that is not there takes as long as that of one that is.
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import TYPE_CHECKING, Final

from flakes.wire.codec import Issue
from flakes.wire.errors import ApiError

if TYPE_CHECKING:
    from argon2 import PasswordHasher

LENGTH_MIN: Final = 10
LENGTH_MAX: Final = 200
AT_ONCE_MAX: Final = 2

COMMON: Final = frozenset((
    "0123456789", "1234567890", "12345678910", "123456789a", "1q2w3e4r5t", "1q2w3e4r5t6y", "1qaz2wsx3edc",
    "abcdefghij", "abcdefghijk", "adminadmin", "administrator", "asdfghjkl1", "basketball", "changeme123",
    "iloveyou123", "iloveyou12", "letmein123", "password01", "password10", "password11", "password12",
    "password123", "password1234", "password12345", "password123456", "passwordpassword", "princess123",
    "q1w2e3r4t5", "qazwsxedcrfv", "qwerty12345", "qwerty123456", "qwerty1234", "qwertyuiop", "qwertyuiop123",
    "qwertyuiop[]", "sunshine123", "superman123", "unknown123", "welcome123", "zxcvbnm123",
))  # fmt: skip
"""The ones of that length that everybody tries first."""

def check(password: str, email: str, path: str = "password") -> None:
    """Refuse what is too short or the first thing to be guessed, as `invalid_request`."""
    plain = password.casefold()
    if not LENGTH_MIN <= len(password) <= LENGTH_MAX:
        message = f"must have {LENGTH_MIN} to {LENGTH_MAX} characters"
    elif plain in COMMON or len(set(plain)) < 4 or plain in (email, email.partition("@")[0]):
        message = "is one of the first that somebody would guess"
    else:
        return
    issue = Issue(path=path, message=message)
    raise ApiError("invalid_request", f"the password {message}", "choose a longer one, such as four words", issues=[issue])


class Hashing:
    """The hashing of one replica, which takes turns."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(AT_ONCE_MAX)

    async def hashed(self, password: str) -> str:
        """The hash to store."""
        async with self._turns:
            return await asyncio.to_thread(lambda: _hasher().hash(password))

    async def matches(self, password_hash: str | None, password: str) -> bool:
        """Whether it is the password of this hash; for None it takes as long, and is not."""
        if len(password) > LENGTH_MAX:
            password = ""
        async with self._turns:
            return await asyncio.to_thread(_matches, password_hash, password)


def is_outdated(password_hash: str) -> bool:
    """Whether the hash was made with other parameters than today's."""
    return _hasher().check_needs_rehash(password_hash)


def _matches(password_hash: str | None, password: str) -> bool:
    from argon2.exceptions import InvalidHashError, VerificationError

    try:
        return _hasher().verify(password_hash or _nobodys(), password) and password_hash is not None
    except (VerificationError, InvalidHashError):
        return False


@cache
def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher

    return PasswordHasher()


@cache
def _nobodys() -> str:
    return _hasher().hash("nobody's password")
