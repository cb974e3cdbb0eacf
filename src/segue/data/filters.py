"""Which events stay: time window, least value, repeats, and the k-core; each with the count of what it removed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from pydantic import field_validator

from segue.core.config import Settings
from segue.core.types import Mask
from segue.data.raw_log import Log

__all__ = ["Filters", "apply"]


class Filters(Settings):
    """What to leave out before anything is learned."""

    min_user_events: Annotated[int, Ge(1)] = 1
    """Users with fewer events are left out, together with ``min_item_events`` until nothing changes (k-core)."""
    min_item_events: Annotated[int, Ge(1)] = 1
    """Items with fewer events are left out, likewise."""
    min_value: float | None = None
    """Events with a smaller value (rating) are left out; events without a value stay."""
    duplicates: Literal["keep", "first", "last", "error"] = "keep"
    """What to do where a user meets an item again (by the same kind of action)."""
    start: str | None = None
    """Only events from this ISO date or moment on (UTC)."""
    end: str | None = None
    """Only events before this ISO date or moment (UTC)."""

    @field_validator("start", "end")
    @classmethod
    def _moment(cls, text: str | None) -> str | None:
        if text is not None:
            _seconds(text)
        return text


def _seconds(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"expected an ISO date such as 1998-01-31, got {text!r}") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def apply(log: Log, filters: Filters) -> tuple[Log, dict[str, int]]:
    """The events that stay, with new codes, and how many events each filter removed.

    Raises:
        ValueError: nothing is left, a filter needs a column that is absent, or ``duplicates="error"`` met one.
    """
    removed: dict[str, int] = {}

    def keep(name: str, mask: Mask) -> None:
        nonlocal log
        removed[name] = int(len(mask) - mask.sum())
        if removed[name]:
            log = log.where(mask)
        if not len(log):
            raise ValueError(f"filters: nothing is left after {name}={getattr(filters, name)}")

    for name in ("start", "end"):
        text = getattr(filters, name)
        if text is None:
            continue
        if log.times is None:
            raise ValueError(f"filters.{name}={text}: the data has no times")
        keep(name, log.times >= _seconds(text) if name == "start" else log.times < _seconds(text))
    if filters.min_value is not None:
        if log.values is None:
            raise ValueError(f"filters.min_value={filters.min_value}: the data has no values")
        keep("min_value", ~(log.values < filters.min_value))
    if filters.duplicates != "keep":
        again = repeats(log, last=filters.duplicates == "last")
        if filters.duplicates == "error" and again.any():
            row = int(again.argmax())
            user, item = log.user_ids[int(log.users[row])], log.item_ids[int(log.items[row])]
            raise ValueError(
                f"filters.duplicates='error': {int(again.sum())} events repeat an earlier one, "
                f"the first is user {user!r}, item {item!r}"
            )
        keep("duplicates", ~again)
    if filters.min_user_events > 1 or filters.min_item_events > 1:
        core = k_core(log, filters.min_user_events, filters.min_item_events)
        removed["k_core"] = int(len(core) - core.sum())
        log = log.where(core)
        if not len(log):
            raise ValueError(
                f"filters: nothing is left of min_user_events={filters.min_user_events}, "
                f"min_item_events={filters.min_item_events}"
            )
    return log.compact(), removed


def repeats(log: Log, last: bool = False) -> Mask:
    """Events that repeat an earlier (``last``: a later) one of the same user, item and kind of action."""
    order, same = _neighbours(log)
    again = np.zeros(len(log), np.bool_)
    again[order[:-1][same] if last else order[1:][same]] = True
    return again


def repeats_and_identical(log: Log) -> tuple[int, int]:
    """How many events repeat an earlier one of the same user, item and kind, and how many an earlier one in full."""
    order, same = _neighbours(log)
    alike = same if log.times is None else same & (log.times[order[1:]] == log.times[order[:-1]])
    if log.values is None or not alike.any():
        return int(same.sum()), int(alike.sum())
    run = np.cumsum(np.concatenate([[True], ~alike]))  # events alike but for their value share a number
    among = np.concatenate([alike, [False]]) | np.concatenate([[False], alike])
    run, values = run[among], log.values[order[among]]
    sort = np.lexsort((values, run))
    run, values = run[sort], values[sort]
    equal = (values[1:] == values[:-1]) | (np.isnan(values[1:]) & np.isnan(values[:-1]))
    return int(same.sum()), int((equal & (run[1:] == run[:-1])).sum())


def _neighbours(log: Log) -> tuple[NDArray[np.int64], Mask]:
    """Events by user, item, kind of action and time, and which of them are of the same three as the one before."""
    kinds = len(log.kinds) if log.actions is not None else 1
    key = (log.users.astype(np.int64) * len(log.item_ids) + log.items) * kinds
    if log.actions is not None:
        key += log.actions
    order = np.argsort(key, kind="stable")
    return order, key[order[1:]] == key[order[:-1]]


def k_core(log: Log, users: int, items: int) -> Mask:
    """``(T,)`` the events of the largest part where each user has ``users`` and each item ``items`` events."""
    keep = np.ones(len(log), np.bool_)
    while True:
        of_user = np.bincount(log.users[keep], minlength=len(log.user_ids))
        of_item = np.bincount(log.items[keep], minlength=len(log.item_ids))
        stay = keep & (of_user[log.users] >= users) & (of_item[log.items] >= items)
        if stay.sum() == keep.sum():
            return keep
        keep = stay
