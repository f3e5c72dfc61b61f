"""Human keys and opaque identifiers.

A *key* is chosen by a person and unique in its scope (project and run keys per owner, task keys per
run). An *id* is ``<prefix>_<26 characters>``: 48 bits of milliseconds then 80 random bits, in
Crockford base 32, so ids of one kind sort by creation time. This module only formats: the caller
brings the clock and the random bytes.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from flakes.core.limits import KEY_LENGTH_MAX

Prefix = Literal[
    "user", "project", "run", "task", "group", "assignment", "sandbox", "host", "pool", "lease",
    "artifact", "perm", "msg", "op", "event", "key", "instance", "binding", "replica", "wait", "signal", "round",
    "ws",
]  # fmt: skip

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS: Final = tuple(a + b for a in _ALPHABET for b in _ALPHABET)
_KEY: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*\Z")


def is_key(text: str) -> bool:
    """Whether `text` may be a project, run, task, group, output or pool key."""
    return len(text) <= KEY_LENGTH_MAX and _KEY.match(text) is not None


def key_from(text: str, fallback: str = "run") -> str:
    """The nearest valid key to free text, cut at a word where it can be."""
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if len(words) > KEY_LENGTH_MAX:
        cut = words[:KEY_LENGTH_MAX]
        words = cut.rsplit("-", 1)[0] if "-" in cut else cut
    return words.strip("-") or fallback


def format_id(prefix: Prefix, at_ms: int, random_80_bits: int) -> str:
    """An opaque id. `at_ms` is Unix time in milliseconds; ids made later sort later."""
    assert 0 <= at_ms < 1 << 48
    assert 0 <= random_80_bits < 1 << 80
    number = (at_ms << 80) | random_80_bits
    # 128 bits are 26 digits of 5 bits, the first digit holding only 3; 13 pairs of digits.
    digits = [_PAIRS[(number >> shift) & 1023] for shift in range(120, -1, -10)]
    return f"{prefix}_{''.join(digits)}"


def has_prefix(text: str, prefix: Prefix) -> bool:
    """Whether a path segment is an id of this kind rather than a key (keys hold no underscore)."""
    return text.startswith(prefix + "_")
