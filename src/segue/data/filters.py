"""Filter events by time range, minimum value, repetition and k-core.

Removed events are counted.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from pydantic import field_validator

from segue.core.config import Settings
from segue.core.types import Mask
from segue.data.raw_log import EncodedLog

__all__ = ["Filters", "apply_filters", "count_repeats", "parse_duration", "parse_time"]

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
"""Units of durations, in seconds."""


class Filters(Settings):
    """Which events are removed when a dataset is built."""

    min_user_events: Annotated[int, Ge(1)] = 1
    """Remove users with fewer events, together with ``min_item_events`` until nothing changes (k-core)."""
    min_item_events: Annotated[int, Ge(1)] = 1
    """Remove items with fewer events, likewise."""
    incomplete: Literal["error", "drop"] = "error"
    """What to do with events without a user, item or time."""
    min_value: float | None = None
    """Remove events with a smaller value (rating); events without a value are kept."""
    duplicates: Literal["keep", "first", "last", "error"] = "keep"
    """What to do with repeated events of the same user, item and action."""
    start: str | None = None
    """Remove events before this ISO date or time (UTC)."""
    end: str | None = None
    """Remove events from this ISO date or time (UTC) on."""

    @field_validator("start", "end")
    @classmethod
    def _check_time(cls, text: str | None) -> str | None:
        if text is not None:
            parse_time(text)
        return text


def parse_time(value: str | int) -> int:
    """Convert a time to Unix seconds.

    The time is an ISO date or time (UTC unless it has a time zone), or Unix seconds.

    Raises:
        ValueError: the text is neither.
    """
    if isinstance(value, int):
        return value
    if value.isdecimal():
        return int(value)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(f"expected an ISO date such as 1998-01-31, got {value!r}") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def parse_duration(value: str | int | float, name: str) -> int:
    """Convert a duration to seconds.

    The duration is a text such as ``7d``, ``12h`` or ``2w``, or a number of seconds.

    Raises:
        ValueError: the duration is not understood or not positive; the message names ``name``.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", str(value).strip().lower())
    seconds = int(float(match[1]) * UNITS.get(match[2], 1)) if match else 0
    if seconds < 1:
        raise ValueError(f"{name}: got {value!r}, expected a duration such as 7d, 12h or 2w, or seconds")
    return seconds


def apply_filters(log: EncodedLog, filters: Filters) -> tuple[EncodedLog, dict[str, int]]:
    """Apply the filters to events.

    Returns the remaining events, with new codes, and the number of events that each filter removed.

    Raises:
        ValueError: no event is left, a filter needs a missing column, or ``duplicates="error"`` found a duplicate.
    """
    removed: dict[str, int] = {}

    def keep(name: str, mask: Mask) -> None:
        nonlocal log
        removed[name] = int(len(mask) - mask.sum())
        if removed[name]:
            log = log.where(mask)
        if not len(log):
            raise ValueError(f"filters: no event is left after {name}={getattr(filters, name)}")

    for name in ("start", "end"):
        text = getattr(filters, name)
        if text is None:
            continue
        if log.times is None:
            raise ValueError(f"filters.{name}={text}: the data has no times")
        keep(name, log.times >= parse_time(text) if name == "start" else log.times < parse_time(text))
    if filters.min_value is not None:
        if log.values is None:
            raise ValueError(f"filters.min_value={filters.min_value}: the data has no values")
        keep("min_value", ~(log.values < filters.min_value))
    if filters.duplicates != "keep":
        repeated = find_repeats(log, last=filters.duplicates == "last")
        if filters.duplicates == "error" and repeated.any():
            row = int(repeated.argmax())
            user, item = log.user_ids[int(log.users[row])], log.item_ids[int(log.items[row])]
            raise ValueError(
                f"filters.duplicates='error': got {int(repeated.sum())} repeated events, the first of "
                f"user {user!r}, item {item!r}"
            )
        keep("duplicates", ~repeated)
    if filters.min_user_events > 1 or filters.min_item_events > 1:
        core = k_core(log, filters.min_user_events, filters.min_item_events)
        removed["k_core"] = int(len(core) - core.sum())
        log = log.where(core)
        if not len(log):
            raise ValueError(
                f"filters: no event is left after min_user_events={filters.min_user_events}, "
                f"min_item_events={filters.min_item_events}"
            )
    return log.compact(), removed


def find_repeats(log: EncodedLog, last: bool = False) -> Mask:
    """Return which events repeat an earlier event.

    With ``last``, return which events are repeated by a later event. Events are repeated if user, item and action are
    the same.
    """
    order, same = _sort_by_pair(log)
    repeated = np.zeros(len(log), np.bool_)
    repeated[order[:-1][same] if last else order[1:][same]] = True
    return repeated


def count_repeats(log: EncodedLog) -> tuple[int, int]:
    """Count repeated events, and those that are identical to an earlier event.

    An event is repeated if an earlier event has the same user, item and action.
    """
    order, same = _sort_by_pair(log)
    identical = same if log.times is None else same & (log.times[order[1:]] == log.times[order[:-1]])
    if log.values is None or not identical.any():
        return int(same.sum()), int(identical.sum())
    run = np.cumsum(np.concatenate([[True], ~identical]))  # events equal except for the value share a number
    among = np.concatenate([identical, [False]]) | np.concatenate([[False], identical])
    run, values = run[among], log.values[order[among]]
    sort = np.lexsort((values, run))
    run, values = run[sort], values[sort]
    equal = (values[1:] == values[:-1]) | (np.isnan(values[1:]) & np.isnan(values[:-1]))
    return int(same.sum()), int((equal & (run[1:] == run[:-1])).sum())


def _sort_by_pair(log: EncodedLog) -> tuple[NDArray[np.int64], Mask]:
    """Sort events by user, item and action (stable).

    Returns the order, and which events equal the preceding one in all three.
    """
    n_actions = len(log.action_names) if log.actions is not None else 1
    key = (log.users.astype(np.int64) * len(log.item_ids) + log.items) * n_actions
    if log.actions is not None:
        key += log.actions
    order = np.argsort(key, kind="stable")
    return order, key[order[1:]] == key[order[:-1]]


def k_core(log: EncodedLog, users: int, items: int) -> Mask:
    """Return the events of the k-core, ``(T,)``.

    It is the largest subset with at least ``users`` events per user and ``items`` per item.
    """
    keep = np.ones(len(log), np.bool_)
    while True:
        per_user = np.bincount(log.users[keep], minlength=len(log.user_ids))
        per_item = np.bincount(log.items[keep], minlength=len(log.item_ids))
        still = keep & (per_user[log.users] >= users) & (per_item[log.items] >= items)
        if still.sum() == keep.sum():
            return keep
        keep = still
