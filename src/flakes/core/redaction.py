"""Taking secrets out of text that leaves the product's keeping (exports, reports).

Recognised by shape: this product's own tokens, `Authorization` headers, the tokens of well-known
services, keys of Amazon, private keys, passwords in URLs, and values assigned to names that say what
they are (`GITHUB_TOKEN=...`). A secret without a shape cannot be recognised, so redaction is a net under
the rule that secrets are not printed, not a replacement for it.

What stays is enough to see what was there: `flakes_user_[redacted]`. Redacting twice changes nothing.
"""

from __future__ import annotations

import re
from typing import Any, Final, cast

MARK: Final = "[redacted]"

_WORDS = r"(?:API_?KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|ACCESS_KEY(?:_ID)?|PRIVATE_KEY)"
_NAME = rf"[A-Z0-9_]*{_WORDS}[A-Z0-9_]*"

_RULES: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"\b(flakes_[a-z]+_)[A-Za-z0-9]{4,}(?:\.[A-Za-z0-9_\-]+)?"), rf"\1{MARK}"),
    (
        re.compile(
            r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----(?! \[redacted\]).*?(?:-----END \1-----|\Z)", re.DOTALL
        ),
        rf"-----BEGIN \1----- {MARK}",
    ),
    (
        re.compile(
            r"""(?i)\b(authorization["']?\s*[:=]\s*["']?(?:(?:bearer|basic|token)\s+)?)(?!\[redacted\]|(?:bearer|basic|token)\s)[^\s"',;\\\[]+"""
        ),
        rf"\1{MARK}",
    ),
    (re.compile(r"(?i)\b(bearer\s+)[A-Za-z0-9_\-.~+/]{8,}=*"), rf"\1{MARK}"),
    (re.compile(r"\b(sk-)(?:[a-z]+-)*[A-Za-z0-9_\-]{16,}"), rf"\1{MARK}"),
    (re.compile(r"\b(gh[pousr]_)[A-Za-z0-9]{16,}"), rf"\1{MARK}"),
    (re.compile(r"\b(github_pat_)[A-Za-z0-9_]{16,}"), rf"\1{MARK}"),
    (re.compile(r"\b(glpat-)[A-Za-z0-9_\-]{16,}"), rf"\1{MARK}"),
    (re.compile(r"\b(xox[abeoprs]-)[A-Za-z0-9\-]{10,}"), rf"\1{MARK}"),
    (re.compile(r"\b(A(?:KIA|SIA|ROA|IDA))[A-Z0-9]{16}\b"), rf"\1{MARK}"),
    (re.compile(r"\b(AIza)[A-Za-z0-9_\-]{35}"), rf"\1{MARK}"),
    (
        re.compile(
            r"""(?i)\b(aws_?secret_?access_?key["']?\s*[:=]\s*["']?)(?!\[redacted\])[A-Za-z0-9/+=]{16,}"""
        ),
        rf"\1{MARK}",
    ),
    (re.compile(r"\b([a-z][a-z0-9+.\-]*://[^\s:/@\"']*:)(?!\[redacted\]@)[^\s/@\"']+@"), rf"\1{MARK}@"),
    (
        re.compile(rf"""\b({_NAME}["']?\s*[=:]\s*["']?)(?!\[redacted\])[^\s"',;\\\[]{{4,}}"""),
        rf"\1{MARK}",
    ),
)

# Looking for these first costs a tenth of trying every rule, and most text has none.
_HINTS: Final = (
    "flakes_", "PRIVATE KEY", "sk-", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_", "glpat-", "xox", "AKIA", "ASIA", "AROA", "AIDA", "AIza",
    "://", "TOKEN", "SECRET", "PASSW", "KEY", "CREDENTIAL",
)  # fmt: skip
_HINTS_ANY_CASE: Final = ("authorization", "bearer", "aws")

_SECRET_NAME = re.compile(rf"{_NAME}\Z")


def redact(text: str) -> str:
    """`text` with every secret that has a known shape replaced."""
    lower = text.lower()
    if not any(hint in text for hint in _HINTS) and not any(h in lower for h in _HINTS_ANY_CASE):
        return text
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


def redact_value(value: Any) -> Any:
    """A JSON value with every string in it redacted, names of fields included.

    A string under a name that says it is a secret (`{"DB_PASSWORD": "..."}`) goes whatever its shape.
    """
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [redact_value(each) for each in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {
            redact(name): MARK
            if isinstance(each, str) and each and _SECRET_NAME.match(name)
            else redact_value(each)
            for name, each in cast("dict[str, Any]", value).items()
        }
    return value


class LineRedactor:
    """Redacts the lines of one channel in order: a private key is many of them."""

    def __init__(self) -> None:
        self._in_key = False

    def line(self, text: str) -> str:
        """One line, without its secrets."""
        if self._in_key:
            self._in_key = "-----END " not in text
            return MARK
        begins = text.rfind("-----BEGIN ")
        self._in_key = (
            begins >= 0 and "PRIVATE KEY-----" in text[begins:] and "-----END " not in text[begins:]
        )
        return redact(text)

    def lines(self, texts: list[str]) -> list[str]:
        """Several lines; most of the time none holds a secret, and one look at all of them tells."""
        if not self._in_key:
            joined = "\n".join(texts)
            if redact(joined) == joined:
                return texts
        return [self.line(text) for text in texts]
