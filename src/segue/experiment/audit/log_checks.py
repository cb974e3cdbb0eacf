"""Check logs for repeated events, constant times and users with one history.

Shapes: U users, T events.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.types import Dataset, Events
from segue.experiment.audit.findings import Finding, describe_event
from segue.experiment.inference.argument_checks import format_count

__all__ = ["LOG_CHECKS", "check_log"]

LOG_CHECKS = ("duplicate_events", "constant_times", "duplicate_users")

LARGE_SHARE = 0.5
"""Share of the events at one time from which that time is taken for a default value."""

MIN_EVENTS = 3
"""Events from which two users with the same items at the same times are duplicates."""

MIN_UNTIMED_EVENTS = 10
"""Events from which two users with the same items in the same order are, where no times are known."""


def check_log(data: Dataset, is_ordered: bool = True) -> list[Finding]:
    """Return what is wrong with the events of ``data``.

    Args:
        is_ordered: whether the split depends on the order of the events.
    """
    events = data.histories
    if events.size < 2:
        return []
    found = [_duplicate_events(data), _constant_times(data, is_ordered), _duplicate_users(data)]
    return [one for one in found if one is not None]


def _duplicate_events(data: Dataset) -> Finding | None:
    """Find events of the same user, item and action at the same time.

    Where no time is known, events with the same value and context as well.
    """
    events, known = data.histories, data.histories.time_known
    is_timed = events.times is not None and bool(known.any())
    columns: list[NDArray[Any]] = [events.rows, events.items]
    columns += [] if events.actions is None else [events.actions]
    if is_timed and events.times is not None:
        columns.append(events.times)
    else:
        columns += [] if events.values is None else [np.nan_to_num(events.values, nan=-np.inf)]
        columns += list(events.context.values())
        known = np.ones(events.size, np.bool_)
    order = np.lexsort(columns[::-1])
    is_same = known[order][1:] & known[order][:-1]
    for column in columns:
        sorted_T = column[order]
        is_same &= sorted_T[1:] == sorted_T[:-1]
    count = int(is_same.sum())
    if not count:
        return None
    first = int(order[1:][is_same].min())
    time = int(events.times[first]) if is_timed and events.times is not None else None
    where = "at the same time" if is_timed else "with the same value and context"
    return Finding(
        "duplicate_events",
        "warning",
        f"{count:,} of {events.size:,} events ({count / events.size:.2%}) repeat an event of the same user, item and "
        f"action {where}, so they count twice and can be in training and be a target as well",
        "keep one of each: filters.duplicates=first"
        + ("" if is_timed else "; or load the log with its times, if users return to items"),
        count,
        describe_event(data, int(events.rows[first]), int(events.items[first]), time),
    )


def _constant_times(data: Dataset, is_ordered: bool) -> Finding | None:
    """Find a time that most events have, such as a default date."""
    events, known = data.histories, data.histories.time_known
    if events.times is None or not known.any():
        return None
    times, counts = np.unique(events.times[known], return_counts=True)
    most = int(np.argmax(counts))
    count, share = int(counts[most]), float(counts[most] / known.sum())
    if share < LARGE_SHARE or count < 2:
        return None
    first = int(np.flatnonzero(known & (events.times == times[most]))[0])
    event = describe_event(data, int(events.rows[first]), int(events.items[first]), int(times[most]))
    which = f"all {count:,} events" if share == 1.0 else f"{count:,} of {int(known.sum()):,} events ({share:.0%})"
    effect = (
        "the order of the file decides which of them is the last one of a user"
        if is_ordered
        else ("it does not say when they happened")
    )
    return Finding(
        "constant_times",
        "error" if is_ordered and share == 1.0 else "warning",
        f"{which} have the same time, {event['time']}, probably a default value or a date without time of day, so "
        f"{effect}",
        "load the log with its real times, or without the column of times and with a split that ignores order: "
        "split.strategy=random",
        count,
        event,
    )


def _duplicate_users(data: Dataset) -> Finding | None:
    """Find users with the same history; times are compared where they are known.

    Then the order of events at one time does not matter.
    """
    events = data.histories
    times = events.times if events.times is not None and events.time_known.all() else None
    min_events = MIN_UNTIMED_EVENTS if times is None else MIN_EVENTS
    groups = _group_histories(events, times, min_events)
    if not groups:
        return None
    users = sum(map(len, groups))
    first = groups[0]
    ids = data.users.decode(np.array(first[:2]))
    return Finding(
        "duplicate_users",
        "warning",
        f"{users:,} of {data.n_users:,} users have the same history as another one, in "
        f"{format_count(len(groups), 'group')}, so the targets of one are training events of the other",
        "join the ids of each group, or keep one id",
        users,
        {"user": ids[0], "same as": ids[1], "events": int(events.lengths[first[0]])},
    )


def _group_histories(events: Events, times: NDArray[np.int64] | None, min_events: int) -> list[list[int]]:
    """Return the groups of rows with equal events, each with at least two rows."""
    rows_by_content: dict[tuple[bytes, bytes], list[int]] = {}
    items, offsets = np.ascontiguousarray(events.items), events.offsets
    if times is not None:  # each row is ordered by time
        items = items[np.lexsort((items, times, events.rows))]
    for row in np.flatnonzero(events.lengths >= min_events).tolist():
        part = slice(offsets[row], offsets[row + 1])
        key = (items[part].tobytes(), b"" if times is None else times[part].tobytes())
        rows_by_content.setdefault(key, []).append(row)
    return [rows for rows in rows_by_content.values() if len(rows) > 1]
