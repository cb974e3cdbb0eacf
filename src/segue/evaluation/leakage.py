"""Check that a split does not leak, event by event.

Queries are compared with the training events of their own user. An event is identified by its item and, where the log
has them, its action and time. Identical events may occur more than once, so their occurrences are counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from segue.core.types import Dataset, Events, HeldOut, Mask, Split

__all__ = ["Leak", "LeakKind", "check_leakage", "count_trained_targets", "find_leaks"]

LeakKind: TypeAlias = Literal["invalid_codes", "targets_in_training", "incomplete_histories", "future_events"]


@dataclass(frozen=True)
class Leak:
    """One fault of a split, with the first event that has it."""

    kind: LeakKind
    text: str
    """The fault with its numbers and the codes of its first event."""
    count: int
    part: str = ""
    """``valid`` or ``test``."""
    user: int | None = None
    """Code of the first user; ``None``: unknown."""
    item: int | None = None
    """Code of the first item, likewise."""

    def __str__(self) -> str:
        return f"{self.part}: {self.text}"


def check_leakage(split: Split, ordered: bool | None = None) -> list[str]:
    """Describe the leaks in ``split``, one line each; see :func:`find_leaks`."""
    return [str(leak) for leak in find_leaks(split, ordered)]


def find_leaks(split: Split, ordered: bool | None = None) -> list[Leak]:
    """Find leaks in ``split``.

    Return one leak for each of these faults, and an empty list if there are none:

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
    leaks = []
    for name, held_out in (("valid", split.valid), ("test", split.test)):
        found = _invalid_codes(split.train, held_out)
        if not found:
            found = _misplaced_events(split, held_out, is_ordered)
        if not found and is_ordered:
            found = _future_events(split.train, held_out, strategy)
        leaks += [replace(leak, part=name) for leak in found]
    return leaks


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


def _invalid_codes(train: Dataset, held_out: HeldOut) -> list[Leak]:
    """Find codes outside the dataset, and known users without training events."""
    leaks = []
    queries = held_out.queries

    def add(count: np.int64, text: str) -> None:
        leaks.append(Leak("invalid_codes", f"{count} {text}", int(count)))

    for noun, items in (("targets", held_out.targets.items), ("histories", queries.history.items)):
        wrong = (items < 0) | (items >= train.n_items)
        if wrong.any():
            add(wrong.sum(), f"items of {noun} are outside the catalog, first code {items[wrong][0]}")
    users = queries.users[queries.known]
    wrong = (users < 0) | (users >= train.n_users)
    if wrong.any():
        add(wrong.sum(), f"known users are outside the dataset, first code {users[wrong][0]}")
        return leaks
    idle = train.histories.lengths[users] == 0
    if idle.any():
        add(idle.sum(), f"users are marked known but have no training event, first user {users[idle][0]}")
    return leaks


def _misplaced_events(split: Split, held_out: HeldOut, is_ordered: bool) -> list[Leak]:
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
    kinds: tuple[tuple[Mask, LeakKind, str], ...] = (
        (leaked, "targets_in_training", "targets are training events of their user"),
        (revealed, "targets_in_training", "targets are in the history of their own query"),
        (missing, "incomplete_histories", "earlier events of the user are not in the history of the query"),
    )
    leaks = []
    for wrong, kind, text in kinds:
        if wrong.any():
            first = np.argmax(wrong)
            count, user, item = int(wrong.sum()), int(users[rows[first]]), int(items[first])
            leaks.append(Leak(kind, f"{count} {text}, first item {item} of user {user}", count, user=user, item=item))
    return leaks


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


def _future_events(train: Dataset, held_out: HeldOut, strategy: str) -> list[Leak]:
    """Find events that happened after the moment at which they are used."""
    history, targets, query_times = held_out.queries.history, held_out.targets, held_out.queries.times
    leaks = []

    def add(late: Mask, than: str) -> None:
        first = int(np.argmax(late))
        row = int(history.rows[first])
        user = int(held_out.queries.users[row]) if held_out.queries.known[row] else None
        text = f"{late.sum()} history events are later than {than}, first in query {row}"
        leaks.append(Leak("future_events", text, int(late.sum()), user=user, item=int(history.items[first])))

    if history.times is not None and targets.times is not None:
        earliest = np.full(len(targets), np.iinfo(np.int64).max)
        np.minimum.at(earliest, targets.rows, targets.times)
        if (late := history.times > earliest[history.rows]).any():
            add(late, "a target")
    if (
        history.times is not None
        and query_times is not None
        and (late := history.times > query_times[history.rows]).any()
    ):
        add(late, "the query")
    train_times = train.histories.times
    if strategy == "global_temporal" and train_times is not None and targets.times is not None and targets.size:
        cutoff = targets.times.min()
        late = train_times > cutoff
        if late.any():
            first = int(np.argmax(late))
            text = f"{late.sum()} training events are later than the first target, at {cutoff}"
            user, item = int(train.histories.rows[first]), int(train.histories.items[first])
            leaks.append(Leak("future_events", text, int(late.sum()), user=user, item=item))
    return leaks


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
