"""Keeping an answer that holds a secret readable only for the credential that asked for it.

The database never holds a usable secret, so an answer with a raw credential is stored encrypted under a
key made from the bearer token of the request, of which the database holds only a hash. The stream is
HMAC-SHA-256 in counter mode under a random nonce, authenticated by a second HMAC (encrypt, then MAC).
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Final

NONCE_BYTES: Final = 16
TAG_BYTES: Final = 32


def seal(token: str, content: bytes) -> bytes:
    """`content` for the holder of `token`: nonce, ciphertext, tag."""
    nonce = os.urandom(NONCE_BYTES)
    stream_key, tag_key = _keys(token)
    body = nonce + _xor(stream_key, nonce, content)
    return body + hmac.digest(tag_key, body, "sha256")


def unseal(token: str, sealed: bytes) -> bytes | None:
    """The content, or None for another token or changed bytes."""
    body, tag = sealed[:-TAG_BYTES], sealed[-TAG_BYTES:]
    stream_key, tag_key = _keys(token)
    if not hmac.compare_digest(tag, hmac.digest(tag_key, body, "sha256")):
        return None
    return _xor(stream_key, body[:NONCE_BYTES], body[NONCE_BYTES:])


def _keys(token: str) -> tuple[bytes, bytes]:
    secret = token.encode()
    return (
        hmac.digest(secret, b"flakes sealed answer: stream", "sha256"),
        hmac.digest(secret, b"flakes sealed answer: tag", "sha256"),
    )


def _xor(key: bytes, nonce: bytes, content: bytes) -> bytes:
    blocks = -(-len(content) // hashlib.sha256().digest_size)
    stream = b"".join(
        hmac.digest(key, nonce + counter.to_bytes(8, "big"), "sha256") for counter in range(blocks)
    )
    size = len(content)
    mixed = int.from_bytes(content, "big") ^ int.from_bytes(stream[:size], "big")
    return mixed.to_bytes(size, "big")
