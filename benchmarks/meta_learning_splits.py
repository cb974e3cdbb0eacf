"""The two protocols of the benchmark ``meta_learning``: new users, and warm and cold users with warm and cold items.

Both use the users with :data:`N_RATINGS` ratings, divided at random into training, validation and test, 8:1:1. Users of
the latter two are not in training; some of their ratings are held out, the others are the history of their query.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from segue.core.types import Dataset, HeldOut, Mask, Queries, Split

__all__ = ["GROUPS", "N_RATINGS", "QUERY", "Protocol", "split_quadrants", "split_users"]

Index: TypeAlias = NDArray[np.int64]

N_RATINGS = (13, 100)
"""Ratings of a user, least and most."""
QUERY = 10
"""Ratings of a new user that are held out."""
QUERY_QUADRANT = 5
"""Ratings of a user that are held out of warm items, and of cold items."""
COLD_ITEMS, VALID_ITEMS = 0.2, 0.1
"""Shares of the items that are cold in the test, and in validation."""
NEW_USERS = "new users"
GROUPS = ("warm users, warm items", "warm users, cold items", "cold users, warm items", "cold users, cold items")
"""Test groups of :func:`split_quadrants`."""
WARM, COLD_IN_VALID, COLD_IN_TEST = range(3)


@dataclass(frozen=True)
class Protocol:
    """Training and validation, and the test queries by group."""

    parts: Split
    groups: Mapping[str, HeldOut]


def split_users(data: Dataset, seed: int) -> Protocol:
    """Hold out :data:`QUERY` random ratings of each validation and test user.

    Raises:
        ValueError: the data has no values, or fewer than ten suitable users.
    """
    rng = np.random.default_rng(seed)
    train, valid, test = _divide_users(data, rng)
    events = data.histories
    position_T = _random_positions(events.rows, rng)
    is_held_out_T = position_T < QUERY
    parts = Split(
        data.with_histories(events.where(_contains(train, data.n_users)[events.rows])),
        _hold_out(data, valid, ~is_held_out_T, is_held_out_T),
        _hold_out(data, test, ~is_held_out_T, is_held_out_T),
    )
    return Protocol(parts, {NEW_USERS: parts.test})


def split_quadrants(data: Dataset, seed: int) -> Protocol:
    """Hold out ratings of warm and cold items, of training users and of others (Lee et al. 2019).

    A fifth of the items is cold: training and histories do not have them. A further tenth takes their place in
    validation. Test users have at least :data:`QUERY_QUADRANT` ratings of cold items and twice as many of warm items.
    The warm users are as many training users of this kind.

    Raises:
        ValueError: the data has no values, or fewer than ten suitable users.
    """
    rng = np.random.default_rng(seed)
    train, valid, test = _divide_users(data, rng)
    events = data.histories
    share_I = rng.permutation(data.n_items) / data.n_items
    kind_T = np.where(
        share_I < COLD_ITEMS, COLD_IN_TEST, np.where(share_I < COLD_ITEMS + VALID_ITEMS, COLD_IN_VALID, 0)
    )
    kind_T = kind_T[events.items]
    position_T = _random_positions(events.rows * 3 + kind_T, rng)
    counts_UK = np.bincount(events.rows * 3 + kind_T, minlength=3 * data.n_users).reshape(-1, 3)
    is_suitable_U = (counts_UK[:, WARM] >= 2 * QUERY_QUADRANT) & (counts_UK[:, COLD_IN_TEST] >= QUERY_QUADRANT)
    cold_users = test[is_suitable_U[test]]
    warm_users = rng.permutation(train[is_suitable_U[train]])[: len(cold_users)]
    if not len(warm_users):
        raise ValueError(f"{data.name}: no user has {QUERY_QUADRANT} ratings of cold items, expected some")
    is_drawn_T = position_T < QUERY_QUADRANT
    is_warm_T, is_warm_query_T = kind_T == WARM, (kind_T == WARM) & is_drawn_T
    is_known_T = is_warm_T & ~is_drawn_T
    is_training_T = is_warm_T & ~(is_warm_query_T & _contains(warm_users, data.n_users)[events.rows])
    is_training_T &= _contains(train, data.n_users)[events.rows]
    valid_queries = is_warm_query_T | ((kind_T == COLD_IN_VALID) & is_drawn_T)
    valid = valid[counts_UK[valid, WARM] >= 2 * QUERY_QUADRANT]
    targets = is_warm_query_T, (kind_T == COLD_IN_TEST) & is_drawn_T
    groups = [
        _hold_out(data, users, is_known_T, is_target_T, is_known=users is warm_users)
        for users in (warm_users, cold_users)
        for is_target_T in targets
    ]
    parts = Split(
        data.with_histories(events.where(is_training_T)),
        _hold_out(data, valid, is_known_T, valid_queries),
        groups[-1],
    )
    return Protocol(parts, dict(zip(GROUPS, groups, strict=True)))


def _divide_users(data: Dataset, rng: np.random.Generator) -> tuple[Index, Index, Index]:
    """Divide the users with a suitable number of ratings into training, validation and test."""
    if data.histories.values is None:
        raise ValueError(f"{data.name}: has no values, expected ratings")
    low, high = N_RATINGS
    lengths = data.histories.lengths
    users = rng.permutation(np.flatnonzero((lengths >= low) & (lengths <= high)))
    if len(users) < 10:
        raise ValueError(f"{data.name}: {len(users)} users have {low} to {high} ratings, expected at least 10")
    n = len(users) // 10
    return users[2 * n :], users[n : 2 * n], users[:n]


def _random_positions(groups_T: Index, rng: np.random.Generator) -> Index:
    """Return the position of each event in a random order of the events of its group."""
    order = np.lexsort((rng.random(len(groups_T)), groups_T))
    sorted_groups = groups_T[order]
    positions = np.empty(len(order), np.int64)
    positions[order] = np.arange(len(order)) - np.searchsorted(sorted_groups, sorted_groups)
    return positions


def _contains(users: Index, count: int) -> Mask:
    mask = np.zeros(count, np.bool_)
    mask[users] = True
    return mask


def _hold_out(data: Dataset, users: Index, is_history_T: Mask, is_target_T: Mask, is_known: bool = False) -> HeldOut:
    """Return queries of users with the features of those who are new."""
    users = np.sort(users)
    history, targets = (data.histories.where(mask).take(users) for mask in (is_history_T, is_target_T))
    if is_known:
        return HeldOut(Queries.of_users(users.astype(np.int32), history), targets)
    profile = None if data.user_features is None else data.user_features.collect()[users.tolist()]
    queries = replace(Queries.anonymous(history, profile), users=users.astype(np.int32))
    return HeldOut(queries, targets)
