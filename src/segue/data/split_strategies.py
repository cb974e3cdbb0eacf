"""Split strategies; the function name is the key.

A strategy assigns each event to training, validation or test.

Shapes: T events of the log, sorted by user then time; U users; I items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.run import Run
from segue.core.types import Dataset, Mask
from segue.data.filters import parse_time
from segue.data.folder import load_predefined_split
from segue.data.split_settings import SplitSettings

__all__ = [
    "cold_items",
    "cold_users",
    "global_temporal",
    "held_out_users",
    "k_fold",
    "leave_n_out",
    "leave_one_out",
    "none",
    "per_user_random",
    "per_user_ratio",
    "predefined",
    "random",
    "sessions",
    "user_k_fold",
]

UNORDERED = frozenset({"cold_items", "k_fold", "per_user_random", "predefined", "random"})
"""Strategies in which training or history events may be later than targets."""

EPSILON = 1e-9
"""Added before rounding down, so that 0.7 * 10 is 7."""


@dataclass(frozen=True, eq=False)
class SplitMasks:
    """Role of each event; masks ``(T,)``.

    Validation targets belong to the history of test queries.
    """

    train: Mask
    valid: Mask
    """Targets of validation."""
    test: Mask
    """Targets of the test."""
    history_valid: Mask
    """Histories of validation queries."""
    history_test: Mask
    """Histories of test queries."""
    metadata: Mapping[str, Any] = field(default_factory=dict)


def none(data: Dataset, settings: SplitSettings) -> SplitMasks:
    """Train on all events; validation and test are empty."""
    every = np.ones(data.histories.size, np.bool_)
    return SplitMasks(every, ~every, ~every, ~every, ~every)


def leave_one_out(data: Dataset, settings: SplitSettings) -> SplitMasks:
    """Hold out the last event of each user for test, the one before for validation.

    With ``valid=0`` there is no validation, and all events but the last train. With a target action, the last two
    events of that action are held out; events of other actions between them belong to the history of the test query
    only, and events after the last one are unused. Users who would have no training event left are not held out.
    """
    return _leave_last(data, 1, 1 if settings.valid else 0)


def leave_n_out(data: Dataset, settings: SplitSettings) -> SplitMasks:
    """Hold out the last ``n`` events of each user for the test.

    The ``n`` events before them are held out for validation. ``valid=0``: no validation. Users who would have no
    training event left are not held out. Target actions are treated as in :func:`leave_one_out`.
    """
    return _leave_last(data, settings.n, settings.n if settings.valid else 0)


def _leave_last(data: Dataset, n_test: int, n_valid: int) -> SplitMasks:
    events = data.histories
    rows, position = events.rows, np.arange(events.size)
    is_target = _target_mask(data)
    targets = np.flatnonzero(is_target)
    counts = np.bincount(rows[targets], minlength=len(events))
    ends = np.cumsum(counts)
    held_out = counts >= n_test + n_valid
    first_valid, first_test, last = (np.full(len(events), events.size) for _ in range(3))
    first_valid[held_out] = targets[ends[held_out] - n_test - n_valid]
    first_test[held_out] = targets[ends[held_out] - n_test]
    last[held_out] = targets[ends[held_out] - 1]
    held_out &= first_valid > events.offsets[:-1]
    for bound in (first_valid, first_test, last):
        bound[~held_out] = events.size
    in_test = (position >= first_test[rows]) & (position <= last[rows])
    return SplitMasks(
        train=position < first_valid[rows],
        valid=is_target & (position >= first_valid[rows]) & (position < first_test[rows]),
        test=is_target & in_test,
        history_valid=held_out[rows] & (position < first_valid[rows]),
        history_test=held_out[rows] & (position < first_test[rows]),
        metadata={"train_only_users": int((~held_out & (events.lengths > 0)).sum())},
    )


def random(data: Dataset, settings: SplitSettings) -> SplitMasks:
    """Draw events regardless of time, for rating prediction.

    Histories may contain events later than the targets.
    """
    shuffled = _shuffled(_target_mask(data), settings)
    n_test = round(len(shuffled) * settings.test)
    n_valid = round(len(shuffled) * settings.valid)
    return _from_targets(data, shuffled[n_test : n_test + n_valid], shuffled[:n_test])


def k_fold(data: Dataset, settings: SplitSettings) -> SplitMasks:
    """Divide events randomly into ``folds`` parts of equal size.

    Part ``fold`` is the test.
    """
    shuffled = _shuffled(_target_mask(data), settings)
    test = np.array_split(shuffled, settings.folds)[settings.fold]
    rest = np.setdiff1d(shuffled, test, assume_unique=True)
    rest = rest[Run(settings.seed).rng("valid").permutation(len(rest))]
    return _from_targets(data, rest[: round(len(shuffled) * settings.valid)], test)


def predefined(data: Dataset, settings: SplitSettings) -> SplitMasks:
    """Use the split ``name`` that comes with the data.

    Validation is the one that comes with it, or else drawn from its training part. With ``valid=0`` there is none, and
    its events train.
    """
    if settings.name is None:
        known = ", ".join(data.header.get("predefined_splits", [])) or "none"
        raise ValueError(f"split.name: missing, expected a predefined split of {data.name}: {known}")
    part = load_predefined_split(data, settings.name)
    is_target = _target_mask(data)
    test = np.flatnonzero(is_target & (part == 2))
    if (part == 3).any():
        valid = np.flatnonzero(is_target & (part == 3) & (settings.valid > 0))
    else:
        shuffled = _shuffled(is_target & (part == 1), settings)
        valid = shuffled[: round(len(shuffled) * settings.valid / (1.0 - settings.test))]
    masks = _from_targets(data, valid, test, (part == 1) | (part == 3))
    return SplitMasks(**{**vars(masks), "metadata": {"name": settings.name}})


def global_temporal(data: Dataset, settings: SplitSettings) -> SplitMasks:
    """Cut the log at one time for all users: later events are the test.

    The cut is ``cutoff``, or the time after which the newest ``test`` share of all events happens. Validation starts at
    ``valid_cutoff``, or contains the ``valid`` share of all events before the cut. Events at the time of a cut are on
    its later side. ``end``: events from this time on are unused.
    """
    times = data.histories.times
    if times is None:
        raise ValueError(
            f"split.strategy=global_temporal: {data.name} has no times; use leave_one_out or per_user_ratio, "
            "which need only the order"
        )
    is_used = np.ones(len(times), np.bool_)
    if settings.end is not None:
        is_used = times < parse_time(settings.end)
    test_from = _cutoff(times[is_used], settings.cutoff, 1.0 - settings.test)
    if settings.valid_cutoff is not None:
        valid_from = parse_time(settings.valid_cutoff)
    elif settings.cutoff is None:
        valid_from = _time_quantile(times[is_used], 1.0 - settings.test - settings.valid)
    else:
        before = times[is_used & (times < test_from)]
        n_valid = round(int(is_used.sum()) * settings.valid)
        valid_from = _time_quantile(before, 1.0 - n_valid / len(before)) if 0 < n_valid < len(before) else test_from
    if settings.end is not None and test_from > parse_time(settings.end):
        raise ValueError(f"split.end: got {settings.end}, expected a time after the test cutoff {_iso(test_from)}")
    if valid_from > test_from:
        raise ValueError(
            f"split.valid_cutoff: got {_iso(valid_from)}, expected a time before the test cutoff {_iso(test_from)}"
        )
    is_target = _target_mask(data) & is_used
    train, before_test = times < valid_from, times < test_from
    metadata = {"valid_from": int(valid_from), "test_from": int(test_from)}
    if settings.end is not None:
        metadata["end"] = parse_time(settings.end)
    return SplitMasks(
        train=train,
        valid=is_target & before_test & ~train,
        test=is_target & ~before_test,
        history_valid=train,
        history_test=before_test,
        metadata=metadata,
    )


def per_user_ratio(data: Dataset, settings: SplitSettings) -> SplitMasks:
    """Hold out the newest ``test`` share of each user's events.

    The ``valid`` share before it is held out for validation. Numbers of events are rounded down.
    """
    events = data.histories
    n_test = np.floor(events.lengths * settings.test + EPSILON).astype(np.int64)
    n_valid = np.floor(events.lengths * settings.valid + EPSILON).astype(np.int64)
    n_left = np.repeat(events.offsets[1:], events.lengths) - np.arange(events.size)
    rows, is_target = events.rows, _target_mask(data)
    test = n_left <= n_test[rows]
    train = n_left > (n_test + n_valid)[rows]
    return SplitMasks(train, is_target & ~train & ~test, is_target & test, train, ~test)


def per_user_random(data: Dataset, settings: SplitSettings) -> SplitMasks:
    """Hold out random shares of each user's events, regardless of time.

    Otherwise like ``per_user_ratio``. Histories may contain events later than the targets.
    """
    events = data.histories
    rows, is_target = events.rows, _target_mask(data)
    order = np.lexsort((Run(settings.seed).rng("split").random(events.size), rows))
    position = np.empty(events.size, np.int64)
    position[order] = np.arange(events.size) - events.offsets[:-1][rows]
    n_test, n_valid = (np.floor(events.lengths * share + EPSILON)[rows] for share in (settings.test, settings.valid))
    test = position < n_test
    train = position >= n_test + n_valid
    return SplitMasks(train, is_target & ~train & ~test, is_target & test, train, ~test)


def held_out_users(data: Dataset, settings: SplitSettings) -> SplitMasks:
    """Hold out all events of some users (strong generalization).

    The oldest ``history`` share of a held-out user's events is the history of the query, the rest are targets. Users
    with fewer than two events are not held out.
    """
    events = data.histories
    able = np.flatnonzero(events.lengths >= 2)
    drawn = able[Run(settings.seed).rng("split").permutation(len(able))]
    n_test, n_valid = round(len(able) * settings.test), round(len(able) * settings.valid)
    return _hold_out_users(data, settings, drawn[n_test : n_test + n_valid], drawn[:n_test])


def user_k_fold(data: Dataset, settings: SplitSettings) -> SplitMasks:
    """Divide users randomly into ``folds`` parts of equal size.

    The users of part ``fold`` are held out for the test. Histories, targets and users with fewer than two events are
    treated as in :func:`held_out_users`.
    """
    able = np.flatnonzero(data.histories.lengths >= 2)
    drawn = able[Run(settings.seed).rng("split").permutation(len(able))]
    test = np.array_split(drawn, settings.folds)[settings.fold]
    rest = np.setdiff1d(drawn, test, assume_unique=True)
    rest = rest[Run(settings.seed).rng("valid").permutation(len(rest))]
    return _hold_out_users(data, settings, rest[: round(len(drawn) * settings.valid)], test)


def cold_users(data: Dataset, settings: SplitSettings) -> SplitMasks:
    """Hold out all events of some users, whose queries have no history.

    This is the user cold start. A ``test`` share and a ``valid`` share of the users are held out; models can use only
    their features.
    """
    events = data.histories
    active = np.flatnonzero(events.lengths)
    drawn = active[Run(settings.seed).rng("split").permutation(len(active))]
    n_test, n_valid = round(len(active) * settings.test), round(len(active) * settings.valid)
    role = _roles(len(events), drawn[n_test : n_test + n_valid], drawn[:n_test])[events.rows]
    is_target, nothing = _target_mask(data), np.zeros(events.size, np.bool_)
    return SplitMasks(
        train=role == 0,
        valid=is_target & (role == 1),
        test=is_target & (role == 2),
        history_valid=nothing,
        history_test=nothing,
        metadata={"held_out_users": {"valid": n_valid, "test": n_test}},
    )


def cold_items(data: Dataset, settings: SplitSettings) -> SplitMasks:
    """Hold out all events of some items (item cold start).

    A ``test`` share and a ``valid`` share of the items are held out. Their events are targets; the histories of their
    users contain only events with training items, which may be later than the targets.
    """
    events = data.histories
    occurring = np.unique(events.items[_target_mask(data)])
    drawn = occurring[Run(settings.seed).rng("split").permutation(len(occurring))]
    n_test, n_valid = round(len(occurring) * settings.test), round(len(occurring) * settings.valid)
    role = _roles(data.n_items, drawn[n_test : n_test + n_valid], drawn[:n_test])[events.items]
    is_target, train = _target_mask(data), role == 0
    return SplitMasks(
        train=train,
        valid=is_target & (role == 1),
        test=is_target & (role == 2),
        history_valid=train,
        history_test=train,
        metadata={"held_out_items": {"valid": n_valid, "test": n_test}},
    )


def sessions(data: Dataset, settings: SplitSettings) -> SplitMasks:
    """Hold out the sessions that end last, and predict them event by event.

    Each user of the log is one session. A ``test`` share of the sessions ends last, and a ``valid`` share before it;
    sessions that end at the same time stay together. There is one query per event of the target action, except for the
    first event of a session; its history holds the earlier events of the session. An item may be the target again.
    """
    events, times = data.histories, data.histories.times
    if times is None:
        raise ValueError(
            f"split.strategy=sessions: {data.name} has no times; use held_out_users, which holds out users at random"
        )
    active = np.flatnonzero(events.lengths)
    ends = times[events.offsets[active + 1] - 1]
    test_from = _time_quantile(ends, 1.0 - settings.test)
    valid_from = _time_quantile(ends, 1.0 - settings.test - settings.valid)
    test, valid = ends >= test_from, (ends >= valid_from) & (ends < test_from)
    role = _roles(len(events), active[valid], active[test])[events.rows]
    is_target = _target_mask(data) & (np.arange(events.size) > events.offsets[:-1][events.rows])
    return SplitMasks(
        train=role == 0,
        valid=is_target & (role == 1),
        test=is_target & (role == 2),
        history_valid=role == 1,
        history_test=role == 2,
        metadata={
            "valid_from": valid_from,
            "test_from": test_from,
            "held_out_sessions": {"valid": int(valid.sum()), "test": int(test.sum())},
        },
    )


def _hold_out_users(
    data: Dataset, settings: SplitSettings, valid: NDArray[np.int64], test: NDArray[np.int64]
) -> SplitMasks:
    events = data.histories
    rows, is_target = events.rows, _target_mask(data)
    n_history = np.clip(np.floor(events.lengths * settings.history + EPSILON).astype(np.int64), 1, None)
    early = np.arange(events.size) < (events.offsets[:-1] + np.minimum(n_history, events.lengths - 1))[rows]
    role = _roles(len(events), valid, test)[rows]
    return SplitMasks(
        train=role == 0,
        valid=is_target & (role == 1) & ~early,
        test=is_target & (role == 2) & ~early,
        history_valid=(role == 1) & early,
        history_test=(role == 2) & early,
        metadata={"held_out_users": {"valid": len(valid), "test": len(test)}},
    )


def _roles(count: int, valid: NDArray[np.integer[Any]], test: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """Return the role of each of ``count`` users or items.

    The roles are: 0 training, 1 validation, 2 test.
    """
    role = np.zeros(count, np.uint8)
    role[test], role[valid] = 2, 1
    return role


def _target_mask(data: Dataset) -> Mask:
    """Return which events are of the target action, ``(T,)``."""
    if data.target is None or data.histories.actions is None:
        return np.ones(data.histories.size, np.bool_)
    return np.equal(data.histories.actions, data.target)


def _shuffled(mask: Mask, settings: SplitSettings) -> NDArray[np.int64]:
    """Return the events of ``mask`` in random order."""
    return Run(settings.seed).rng("split").permutation(np.flatnonzero(mask))


def _from_targets(
    data: Dataset, valid: NDArray[np.int64], test: NDArray[np.int64], used: Mask | None = None
) -> SplitMasks:
    """Create masks from target events; all other events (of ``used``) are training."""
    is_valid, is_test = np.zeros((2, data.histories.size), np.bool_)
    is_valid[valid], is_test[test] = True, True
    rest = np.ones(data.histories.size, np.bool_) if used is None else used
    train = rest & ~is_valid & ~is_test
    return SplitMasks(train, is_valid, is_test, train, train | is_valid)


def _cutoff(times: NDArray[np.int64], cutoff: str | int | None, share: float) -> int:
    return _time_quantile(times, share) if cutoff is None else parse_time(cutoff)


def _time_quantile(times: NDArray[np.int64], share: float) -> int:
    """Return the time of the event with a ``share`` of all events before it.

    If there is no such event, return a time after the last event.
    """
    position = round(len(times) * share)
    if position < len(times):
        return int(np.partition(times, position)[position])
    return int(times.max(initial=0)) + 1


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
