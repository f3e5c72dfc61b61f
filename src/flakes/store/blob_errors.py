"""What the blob store says when it cannot: one error with a code, whichever store is behind it."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from obstore import exceptions

_FULL_SIGNS = tuple(f"os error {number}" for number in (errno.ENOSPC, errno.EDQUOT))


class BlobError(Exception):
    """A blob cannot be stored or read.

    Codes: `digest_invalid`, `digest_mismatch`, `too_large`, `range_invalid` (the caller's); `blob_missing`,
    `blob_corrupt` (the store's content); `disk_full`, `store_denied`, `store_unavailable` (the store itself); `upload_busy`.
    """

    def __init__(self, code: str, message: str, fix: str) -> None:
        super().__init__(f"{message}\n{fix}")
        self.code = code
        self.message = message
        self.fix = fix


@contextlib.contextmanager
def telling(what: str, digest: str | None = None) -> Iterator[None]:
    """Turn what the store raises into BlobError."""
    try:
        yield
    except (exceptions.BaseError, OSError) as failure:
        raise told(failure, what, digest) from failure


def told(failure: Exception, what: str, digest: str | None) -> BlobError:
    """The same failure in our words."""
    said = str(failure).split("\n")[0]  # obstore adds a dump of its internals
    number = failure.errno if isinstance(failure, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT) or any(sign in str(failure) for sign in _FULL_SIGNS):
        return BlobError(
            "disk_full",
            f"{what}: the disk is full ({said}).",
            "Free some space where the blob store is.",
        )
    if isinstance(failure, FileNotFoundError) and digest is not None:
        return BlobError(
            "blob_missing",
            f"There is no blob {digest}.",
            "Put it first; a collected blob has to be made again.",
        )
    denied = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, PermissionError)
    if isinstance(failure, denied):
        return BlobError(
            "store_denied",
            f"{what}: {said}",
            "Give Flakes the right to read and write the blob store.",
        )
    return BlobError(
        "store_unavailable",
        f"{what}: {said}",
        "See whether the blob store is reachable, and try again.",
    )
