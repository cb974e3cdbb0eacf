"""Check that a split does not leak, event by event.

Queries are compared with the training events of their own user. An event is identified by its item and, where the log
has them, its action and time. Identical events may occur more than once, so their occurrences are counted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segue.core.types import Dataset, Events, HeldOut, Split

__all__ = ["check_leakage", "count_trained_targets"]


def check_leakage(split: Split, ordered: bool | None = None) -> list[str]:
    """Find leaks in ``split``.

    Return one line for each of these faults, and an empty list if there are none:

    * A target is also a training event of its user, or is in its own query's history.
    * A training event of a query's user, or a validation target in the test, is missing from the query's history.
      Events of items that ``split.cold_items`` holds out may be missing.
    * A history contains events later than its targets or than the query; with a global temporal split, a training event
      is later than the first target.
    * A user is marked as known but has no training events; a user or an item is outside the dataset.

    Args:
        ordered: whether histories must precede the targets in time; ``None``: as ``split.metadata["is_ordered"]`` says,
            which is false for random strategies and predefined splits.
    """
    strategy = str(split.metadata.get("strategy", ""))
    is_ordered = bool(split.metadata.get("is_ordered", True)) if ordered is None else ordered
    faults = []
    for name, held_out in (("valid", split.valid), ("test", split.test)):
        found = _invalid_codes(split.train, held_out)
        if not found:
            found = _misplaced_events(split, held_out, is_ordered)
        if not found and is_ordered:
            found = _future_events(split.train, held_out, strategy)
        faults += [f"{name}: {fault}" for fault in found]
    return faults


def count_trained_targets(train: Dataset, held_out: HeldOut) -> int:
    """Count the targets of known users that are among their training events.

    Events that the history of the query contains as often do not count.
    """
    queries = held_out.queries
    known = np.flatnonzero(queries.known & (queries.users >= 0) & (queries.users < train.n_users))
    parts = [
        train.histories.take(queries.users[known]),
        queries.history.take(known),
        held_out.targets.take(known),
    ]
    if not parts[2].size:
        return 0
    _, _, (in_train, in_history, in_targets) = _count_occurrences(parts)
    return int(((in_train > in_history) & (in_targets > 0)).sum())


def _invalid_codes(train: Dataset, held_out: HeldOut) -> list[str]:
    """Find codes outside the dataset, and known users without training events."""
    faults = []
    queries = held_out.queries
    for noun, items in (("targets", held_out.targets.items), ("histories", queries.history.items)):
        wrong = (items < 0) | (items >= train.n_items)
        if wrong.any():
            faults.append(f"{wrong.sum()} items of {noun} are outside the catalog, first code {items[wrong][0]}")
    users = queries.users[queries.known]
    wrong = (users < 0) | (users >= train.n_users)
    if wrong.any():
        return [*faults, f"{wrong.sum()} known users are outside the dataset, first code {users[wrong][0]}"]
    idle = train.histories.lengths[users] == 0
    if idle.any():
        faults.append(f"{idle.sum()} users are marked known but have no training event, first user {users[idle][0]}")
    return faults


def _misplaced_events(split: Split, held_out: HeldOut, is_ordered: bool) -> list[str]:
    """Find events of known users that are misplaced or missing."""
    known = np.flatnonzero(held_out.queries.known)
    users = held_out.queries.users[known]
    parts = [split.train.histories.take(users), held_out.queries.history.take(known), held_out.targets.take(known)]
    if held_out is not split.valid:
        targets = _validation_targets(split.valid, users)
        if split.metadata.get("settings", {}).get("cold_items"):  # no history has events of items held out
            targets = targets.where(np.isin(targets.items, split.train.histories.items))
        parts.append(targets)
    rows, items, (in_train, in_history, in_targets, *in_valid) = _count_occurrences(parts)
    before = in_train + sum(in_valid)
    leaked = (in_train > in_history) & (in_targets > 0)
    revealed = (in_history > 0) & (before == 0) & (in_targets > 0)
    missing = ((before if is_ordered else in_train) > in_history) & ~leaked
    faults = []
    for wrong, text in (
        (leaked, "targets are training events of their user"),
        (revealed, "targets are in the history of their own query"),
        (missing, "earlier events of the user are not in the history of the query"),
    ):
        if wrong.any():
            first = np.argmax(wrong)
            faults.append(f"{wrong.sum()} {text}, first item {items[first]} of user {users[rows[first]]}")
    return faults


def _validation_targets(valid: HeldOut, users: NDArray[np.int32]) -> Events:
    """Return for each user the targets of their validation query.

    A user without such a query, or with several, has none.
    """
    valid_users, first, counts = np.unique(valid.queries.users, return_index=True, return_counts=True)
    if len(valid_users) == 0:
        return valid.targets.take(np.zeros(0, np.int64)).select(slice(0, 0), np.zeros(len(users) + 1, np.int64))
    at = np.minimum(np.searchsorted(valid_users, users), len(valid_users) - 1)
    rows = first[at]
    is_unique = (valid_users[at] == users) & (counts[at] == 1) & valid.queries.known[rows]
    targets = valid.targets.take(rows)
    return targets.where(is_unique[targets.rows])


def _future_events(train: Dataset, held_out: HeldOut, strategy: str) -> list[str]:
    """Find events that happened after the moment at which they are used."""
    history, targets, query_times = held_out.queries.history, held_out.targets, held_out.queries.times
    faults = []
    if history.times is not None and targets.times is not None:
        earliest = np.full(len(targets), np.iinfo(np.int64).max)
        np.minimum.at(earliest, targets.rows, targets.times)
        late = history.rows[history.times > earliest[history.rows]]
        if len(late):
            faults.append(f"{len(late)} history events are later than a target, first in query {late[0]}")
    if history.times is not None and query_times is not None:
        late = history.rows[history.times > query_times[history.rows]]
        if len(late):
            faults.append(f"{len(late)} history events are later than the query, first in query {late[0]}")
    train_times = train.histories.times
    if strategy == "global_temporal" and train_times is not None and targets.times is not None and targets.size:
        first = targets.times.min()
        if (train_times > first).any():
            faults.append(f"{(train_times > first).sum()} training events are later than the first target, at {first}")
    return faults


def _count_occurrences(
    parts: list[Events],
) -> tuple[NDArray[np.int64], NDArray[np.int32], list[NDArray[np.int64]]]:
    """Count how often each part contains each distinct event.

    Returns the rows and items of the distinct events, and one array of counts per part.
    """
    rows = np.concatenate([events.rows for events in parts])
    items = np.concatenate([events.items for events in parts])
    ids = rows
    for name in ("items", "actions", "times"):
        columns = [getattr(events, name) for events in parts]
        if all(column is not None for column in columns):
            # consecutive codes stay small enough to be multiplied
            distinct, codes = np.unique(np.concatenate(columns), return_inverse=True)
            ids = np.unique(ids * len(distinct) + codes, return_inverse=True)[1]
    first = np.unique(ids, return_index=True)[1]
    cuts = np.cumsum([events.size for events in parts])[:-1]
    counts = [np.bincount(part, minlength=len(first)) for part in np.split(ids, cuts)]
    return rows[first], items[first], counts
