"""Does a split keep its promises? What would make figures too good is found here, event by event.

Queries are compared with the training events of their own user. An event is known by its item and, where the log has
them, its action and time; the same item twice in a log is two events, so occurrences are counted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segue.core.types import Dataset, Events, HeldOut, Split

__all__ = ["audit"]

UNORDERED = ("random", "random_ratio", "k_fold", "given")
"""Kinds of split that do not promise that what trains lies before what is asked for."""


def audit(split: Split, ordered: bool | None = None) -> list[str]:
    """The faults of ``split``, one line each; empty when there is none.

    * A target is also a training event of its user, or stands in its own query's history.
    * A training event of a query's user, or a validation target in the test, is missing from the query's history.
    * A history reaches beyond its targets or the question in time; with ``kind`` temporal, any training event does.
    * A user is called known without training events; a user or an item is outside the dataset.

    Args:
        ordered: whether the split promises that time runs from training to test; ``None``: all kinds do except
            random, random_ratio, k_fold and given.
    """
    kind = str(split.facts.get("kind", ""))
    in_order = kind not in UNORDERED if ordered is None else ordered
    faults = []
    for name, held_out in (("valid", split.valid), ("test", split.test)):
        found = _outside(split.train, held_out)
        if not found:
            found = _misplaced(split, held_out, in_order)
        if not found and in_order:
            found = _future(split.train, held_out, kind)
        faults += [f"{name}: {fault}" for fault in found]
    return faults


def _outside(train: Dataset, held_out: HeldOut) -> list[str]:
    """Codes that stand for nothing, and what is said of users."""
    faults = []
    queries = held_out.queries
    for noun, items in (("targets", held_out.targets.items), ("histories", queries.history.items)):
        wrong = (items < 0) | (items >= train.n_items)
        if wrong.any():
            faults.append(f"{wrong.sum()} items of {noun} are outside the catalogue, first code {items[wrong][0]}")
    users = queries.users[queries.known]
    wrong = (users < 0) | (users >= train.n_users)
    if wrong.any():
        return [*faults, f"{wrong.sum()} known users are outside the dataset, first code {users[wrong][0]}"]
    idle = train.histories.lengths[users] == 0
    if idle.any():
        faults.append(f"{idle.sum()} users are called known and have no training event, first user {users[idle][0]}")
    return faults


def _misplaced(split: Split, held_out: HeldOut, in_order: bool) -> list[str]:
    """Events of known users that are where they should not be, or are not where they should be."""
    known = np.flatnonzero(held_out.queries.known)
    users = held_out.queries.users[known]
    parts = [split.train.histories.take(users), held_out.queries.history.take(known), held_out.targets.take(known)]
    if held_out is not split.valid:
        parts.append(_asked_before(split.valid, users))
    rows, items, (trained, held, true, *asked) = _counted(parts)
    before = trained + sum(asked)
    leaked = (trained > held) & (true > 0)
    told = (held > 0) & (before == 0) & (true > 0)
    missing = ((before if in_order else trained) > held) & ~leaked
    faults = []
    for wrong, text in (
        (leaked, "targets are training events of their user"),
        (told, "targets stand in the history of their own query"),
        (missing, "earlier events of the user are not in the history of the query"),
    ):
        if wrong.any():
            first = np.argmax(wrong)
            faults.append(f"{wrong.sum()} {text}, first item {items[first]} of user {users[rows[first]]}")
    return faults


def _asked_before(valid: HeldOut, users: NDArray[np.int32]) -> Events:
    """For each user the targets of their validation query: none where they have none, or several."""
    asked, first, counts = np.unique(valid.queries.users, return_index=True, return_counts=True)
    if len(asked) == 0:
        return valid.targets.take(np.zeros(0, np.int64)).pick(slice(0, 0), np.zeros(len(users) + 1, np.int64))
    at = np.minimum(np.searchsorted(asked, users), len(asked) - 1)
    rows = first[at]
    once = (asked[at] == users) & (counts[at] == 1) & valid.queries.known[rows]
    targets = valid.targets.take(rows)
    return targets.where(once[targets.rows])


def _future(train: Dataset, held_out: HeldOut, kind: str) -> list[str]:
    """What happened after it should not have been known."""
    history, targets, asked = held_out.queries.history, held_out.targets, held_out.queries.times
    faults = []
    if history.times is not None and targets.times is not None:
        earliest = np.full(len(targets), np.iinfo(np.int64).max)
        np.minimum.at(earliest, targets.rows, targets.times)
        late = history.rows[history.times > earliest[history.rows]]
        if len(late):
            faults.append(f"{len(late)} events of histories are later than a target, first in query {late[0]}")
    if history.times is not None and asked is not None:
        late = history.rows[history.times > asked[history.rows]]
        if len(late):
            faults.append(f"{len(late)} events of histories are later than the question, first in query {late[0]}")
    trained = train.histories.times
    if kind == "temporal" and trained is not None and targets.times is not None and targets.size:
        first = targets.times.min()
        if (trained > first).any():
            faults.append(f"{(trained > first).sum()} training events are later than the first target, at {first}")
    return faults


def _counted(parts: list[Events]) -> tuple[NDArray[np.int64], NDArray[np.int32], list[NDArray[np.int64]]]:
    """All different events of ``parts``: their rows, their items, and for each part how often it holds each."""
    rows = np.concatenate([events.rows for events in parts])
    items = np.concatenate([events.items for events in parts])
    ids = rows
    for name in ("items", "actions", "times"):
        columns = [getattr(events, name) for events in parts]
        if all(column is not None for column in columns):
            # numbers without gaps stay small enough to be multiplied
            distinct, codes = np.unique(np.concatenate(columns), return_inverse=True)
            ids = np.unique(ids * len(distinct) + codes, return_inverse=True)[1]
    first = np.unique(ids, return_index=True)[1]
    cuts = np.cumsum([events.size for events in parts])[:-1]
    counts = [np.bincount(part, minlength=len(first)) for part in np.split(ids, cuts)]
    return rows[first], items[first], counts
