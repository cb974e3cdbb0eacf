"""Markers of deleted users, which do not contain the user's id.

A deleted user must stay deleted: their training data, which model artifacts still contain, must not be used. The store
keeps a marker for that, together with the sequence number and the Unix time of the deletion. The marker is
HMAC-SHA256 (RFC 2104) of the id under a random key that is created with the store. A reader of the whole store
including the key can test whether a given id was deleted, but cannot read the ids from the markers.
"""

from __future__ import annotations

import hashlib
import secrets
from functools import lru_cache

__all__ = ["CLOCK_SKEW_SECONDS", "create_deletion_key", "create_deletion_marker", "precedes_deletion"]

CLOCK_SKEW_SECONDS = 5
"""Maximum difference between the clocks of services that share a store."""


def create_deletion_key() -> bytes:
    """Create the key of a new store, 32 random bytes."""
    return secrets.token_bytes(32)


def create_deletion_marker(key: bytes, user: str) -> bytes:
    """Return the marker of a user, 32 bytes."""
    inner, outer = (padded.copy() for padded in _hash_padded_keys(key))
    inner.update(user.encode())
    outer.update(inner.digest())
    return outer.digest()


@lru_cache(8)
def _hash_padded_keys(key: bytes) -> tuple[hashlib._Hash, hashlib._Hash]:
    """Return the inner and the outer hash of HMAC after the padded key.

    They are cached, as computing them takes half of the time.
    """
    block = key.ljust(64, b"\0")
    return hashlib.sha256(bytes(byte ^ 0x36 for byte in block)), hashlib.sha256(bytes(byte ^ 0x5C for byte in block))


def precedes_deletion(time: int, deletion_time: int) -> bool:
    """Check whether something may have happened before a deletion.

    Times are Unix times in seconds.
    """
    return time <= deletion_time + CLOCK_SKEW_SECONDS
