"""Derive a table of labeled examples from an interaction log.

Every row holds what was known before its event: the features of its user and item, its context, and the items that its
user liked at earlier times.

Shapes: T events of the log, E examples, P events that histories consist of, K negatives of an event, L items of all
histories.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.config import suggest
from segue.core.events import Events
from segue.core.examples.log_fields import HISTORY, ITEM, USER
from segue.core.types import Dataset
from segue.data.examples.table import ExampleTable
from segue.data.raw_log import SourceLocation

__all__ = ["choose_rule", "derive_examples"]

LABEL = "label"

Index = NDArray[np.int64]


def derive_examples(
    data: Dataset,
    *,
    threshold: float | None = None,
    impression: str | None = None,
    negatives: int = 0,
    history: int = 50,
    seed: int = 0,
) -> ExampleTable:
    """Make examples from the events of a log, see :func:`segue.derive_examples`.

    The rows are in the order of users and of their events; sampled negatives follow their event. Without times, earlier
    is an earlier place in the log.

    Raises:
        ValueError: none or several rules are given, the log lacks what the rule needs, or all labels would be equal.
    """
    rule = choose_rule(threshold, impression, negatives)
    if history < 0:
        raise ValueError(f"history: got {history}, expected 0 or more")
    notes: list[str] = []
    if threshold is not None:
        index_E, is_positive_E = _by_value(data, threshold, notes)
        positive_P = index_E[is_positive_E]
    elif impression is not None:
        index_E, is_positive_E, positive_P = _by_action(data, impression, notes)
    else:
        index_E = positive_P = data.target_events
        is_positive_E = np.ones(len(index_E), np.bool_)
    items_E = data.histories.items[index_E].astype(np.int64)
    if negatives:
        index_E, items_E, is_positive_E = _with_negatives(data, index_E, negatives, seed, notes)
    if is_positive_E.all() or not is_positive_E.any():
        kind = "positive" if is_positive_E.any() else "negative"
        count = f"all {len(is_positive_E):,} examples are {kind}" if len(is_positive_E) else "there are no examples"
        raise ValueError(f"{rule}, with which {count}")
    frame = _table(data, index_E, items_E, is_positive_E)
    if history:
        frame = frame.with_columns(_histories(data, index_E, positive_P, history))
    return ExampleTable(frame, SourceLocation(f"examples of {data.name}"), tuple(notes))


def choose_rule(threshold: float | None, impression: str | None, negatives: int) -> str:
    """Return a description of the given rule, such as ``threshold: got 3.5``.

    Raises:
        ValueError: none or several are given, or a value is out of range.
    """
    rules = {
        "threshold": None if threshold is None else f"{threshold:g}",
        "impression": None if impression is None else repr(impression),
        "negatives": str(negatives) if negatives else None,
    }
    given = {name: value for name, value in rules.items() if value is not None}
    if len(given) != 1:
        raise ValueError(f"{' and '.join(given) or 'no rule'}: expected exactly one of {', '.join(rules)}")
    if threshold is not None and not np.isfinite(threshold):
        raise ValueError(f"threshold: got {threshold:g}, expected a finite number")
    if negatives < 0:
        raise ValueError(f"negatives: got {negatives}, expected 1 or more")
    ((name, value),) = given.items()
    return f"{name}: got {value}"


def _by_value(data: Dataset, threshold: float, notes: list[str]) -> tuple[Index, NDArray[np.bool_]]:
    values_T = data.histories.values
    if values_T is None:
        raise ValueError(f"threshold: got {threshold:g}, but the events of '{data.name}' have no values")
    index = data.target_events
    known = index[~np.isnan(values_T[index])]
    if missing := len(index) - len(known):
        notes.append(f"{missing:,} of {len(index):,} events have no value and are no examples")
    return known, values_T[known] > threshold


def _by_action(data: Dataset, impression: str, notes: list[str]) -> tuple[Index, NDArray[np.bool_], Index]:
    """Match every click with the last impression of the same user and item before it.

    Returns:
        The impressions, which of them are positive, and the clicks.
    """
    events = data.histories
    if impression not in data.actions:
        raise ValueError(
            f"impression: got {impression!r}, expected an action of '{data.name}'{suggest(impression, data.actions)}"
        )
    if len(data.actions) == 1 or events.actions is None:
        raise ValueError(f"impression: '{data.name}' has no other action than {impression!r}, expected one of clicks")
    code = data.actions.index(impression)
    if data.target == code:
        raise ValueError(f"impression: got {impression!r}, which is the target action, expected another one")
    is_shown_T = events.actions == code
    is_click_T = ~is_shown_T if data.target is None else events.actions == data.target
    order = np.lexsort((np.arange(events.size), events.items, events.rows))  # by pair, then in the order of the log
    order = order[is_shown_T[order] | is_click_T[order]]
    pairs = events.rows[order].astype(np.int64) * data.n_items + events.items[order]
    is_shown = is_shown_T[order]
    last_shown = np.maximum.accumulate(np.where(is_shown, np.arange(len(order)), -1))
    clicks = np.flatnonzero(~is_shown)
    found = last_shown[clicks]
    is_matched = (found >= 0) & (pairs[found] == pairs[clicks])
    is_positive = np.zeros(len(order), np.bool_)
    is_positive[found[is_matched]] = True
    if lost := int((~is_matched).sum()):
        notes.append(f"{lost:,} of {len(clicks):,} clicks follow no impression of their item and are no examples")
    by_place = np.argsort(order[is_shown])
    return order[is_shown][by_place], is_positive[is_shown][by_place], np.flatnonzero(is_click_T)


def _with_negatives(
    data: Dataset, index_E: Index, negatives: int, seed: int, notes: list[str]
) -> tuple[Index, Index, NDArray[np.bool_]]:
    """Add sampled items after each event.

    Items with which the user had an event until then, or at the same time, are drawn again.
    """
    events, rng = data.histories, np.random.default_rng(seed)
    if negatives > data.n_items:
        raise ValueError(f"negatives: got {negatives}, expected at most {data.n_items}, the items of '{data.name}'")
    moment_T = _moments(events)
    seen = _FirstMoments(events, data.n_items, moment_T)
    users_EK = np.repeat(events.rows[index_E].astype(np.int64)[:, None], negatives, axis=1)
    moment_EK = np.repeat(moment_T[index_E][:, None], negatives, axis=1)
    items_EK = rng.integers(data.n_items, size=users_EK.shape)
    again = seen.is_at_most(users_EK, items_EK, moment_EK)
    for _ in range(100):
        if not again.any():
            break
        items_EK[again] = rng.integers(data.n_items, size=int(again.sum()))
        again[again] = seen.is_at_most(users_EK[again], items_EK[again], moment_EK[again])
    if lost := int(again.sum()):
        notes.append(f"{lost:,} negatives were left out: their users had events with nearly all items")
    keep = np.column_stack([np.ones(len(index_E), np.bool_), ~again]).ravel()
    items = np.column_stack([events.items[index_E], items_EK]).ravel()[keep]
    is_positive = np.column_stack([np.ones(len(index_E), np.bool_), np.zeros_like(again)]).ravel()[keep]
    return np.repeat(index_E, negatives + 1)[keep], items, is_positive


class _FirstMoments:
    """The moment of the first event of each pair of user and item."""

    def __init__(self, events: Events, n_items: int, moment_T: Index) -> None:
        self.n_items = n_items
        pairs_T = events.rows.astype(np.int64) * n_items + events.items
        self.pairs, first = np.unique(pairs_T, return_index=True)
        self.moments = moment_T[first]

    def is_at_most(self, users: Index, items: Index, moments: Index) -> NDArray[np.bool_]:
        """Return whether the pair has an event at this moment or before."""
        pairs = users * self.n_items + items
        found = np.minimum(np.searchsorted(self.pairs, pairs), len(self.pairs) - 1)
        is_found: NDArray[np.bool_] = (self.pairs[found] == pairs) & (self.moments[found] <= moments)
        return is_found


def _table(data: Dataset, index_E: Index, items_E: Index, is_positive_E: NDArray[np.bool_]) -> pl.DataFrame:
    events = data.histories
    users_E = events.rows[index_E].astype(np.int64)
    columns: dict[str, Any] = {
        LABEL: is_positive_E.astype(np.int8),
        USER: data.users.ids.gather(users_E),
        ITEM: data.items.ids.gather(items_E),
    }
    if events.times is not None and events.time_known.any():
        times = pl.Series(events.times[index_E] * 1_000, dtype=pl.Datetime("ms"))
        columns["time"] = times.set(~pl.Series(events.time_known[index_E]), None)
    for feature in data.event_context:
        codes = events.context[feature.name][index_E]
        name = f"context.{feature.name}"
        if feature.kind == "number":
            columns[name] = pl.Series(codes, nan_to_null=True)
        else:
            columns[name] = pl.Series(feature.categories, dtype=pl.String).gather(pl.Series(codes).replace(-1, None))
    frame = pl.DataFrame(columns)
    for prefix, features, codes_E in (
        ("user.", data.user_features, users_E),
        ("item.", data.item_features, items_E),
    ):
        if features is not None:
            rows = features.drop("id").collect()[codes_E]
            frame = frame.hstack(rows.rename({name: prefix + name for name in rows.columns}))
    return frame


def _histories(data: Dataset, index_E: Index, positive_P: Index, length: int) -> pl.Series:
    """Return the last items that the user of each example liked before its time."""
    events = data.histories
    user_E, user_P = events.rows[index_E], events.rows[positive_P]
    start_E = np.searchsorted(user_P, user_E)
    moment_T = _moments(events)
    stop_E = np.searchsorted(moment_T[positive_P], moment_T[index_E])
    start_E = np.maximum(start_E, stop_E - min(length, events.size))
    counts_E = stop_E - start_E
    offsets = np.cumsum(counts_E) - counts_E
    taken_L = np.arange(counts_E.sum()) + np.repeat(start_E - offsets, counts_E)
    items = data.items.ids.cast(pl.Categorical)
    flat = pl.DataFrame(
        {"row": np.repeat(np.arange(len(index_E)), counts_E), HISTORY: items.gather(events.items[positive_P[taken_L]])}
    )
    lists = flat.group_by("row", maintain_order=True).agg(HISTORY)
    rows = pl.DataFrame({"row": np.arange(len(index_E))}).join(lists, on="row", how="left", maintain_order="left")
    return rows[HISTORY].fill_null([])


def _moments(events: Events) -> Index:
    """Number the moments of each user's events, ``(T,)``.

    Events at the same time have equal numbers, which ascend over users and times. Without times, each event has a
    moment of its own.
    """
    if events.times is None:
        return np.arange(events.size)
    is_new = np.ones(events.size, np.bool_)
    is_new[1:] = (np.diff(events.times) != 0) | (np.diff(events.rows) != 0)
    return np.cumsum(is_new)
