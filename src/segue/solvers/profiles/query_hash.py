"""Reproducible random numbers for pairs of a query and an item.

A number is a hash of a seed, the query and the item: SplitMix64 (Steele, Lea and Flood 2014,
doi:10.1145/2660193.2660195). Equal queries get equal numbers, whether scored alone or in a batch, and nothing but the
seed is stored.

Shapes: N queries, C items.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segue.core.types import Codes, Queries, Scores

__all__ = ["Words", "hash_queries", "uniform_numbers"]

Words = NDArray[np.uint64]

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
MULTIPLIER_1, MULTIPLIER_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def hash_queries(queries: Queries, seed: Words) -> Words:
    """Return the ``(N,)`` hash of each query: seed, user (if known) and history.

    Args:
        seed: an array of one number.
    """
    history = queries.history
    positions = np.arange(history.size) - history.offsets[:-1][history.rows]
    events = _splitmix64(history.items.astype(np.uint64) + (positions.astype(np.uint64) << np.uint64(32)))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(events, dtype=np.uint64)])
    users = np.where(queries.known, queries.users + 1, 0).astype(np.uint64)
    return _splitmix64(_splitmix64(seed + users) + sums[history.offsets[1:]] - sums[history.offsets[:-1]])


def uniform_numbers(words_N: Words, items: Codes) -> Scores:
    """Return numbers in [0, 1), ``(N, C)``, in float32 steps of 2^-24.

    Args:
        items: ``(1, C)`` or ``(N, C)``.
    """
    words_NC = _splitmix64(items.astype(np.uint64) + words_N[:, None])
    return (words_NC >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def _splitmix64(words: Words) -> Words:
    """Compute SplitMix64 of each word; arithmetic is modulo 2^64."""
    words = words + GOLDEN_GAMMA
    words ^= words >> np.uint64(30)
    words *= MULTIPLIER_1
    words ^= words >> np.uint64(27)
    words *= MULTIPLIER_2
    words ^= words >> np.uint64(31)
    return words
