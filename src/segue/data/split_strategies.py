"""The kinds of split: which events train, and which are asked for; one function each, its name is the key.

Shapes: T events of the log, sorted by user then time; U users.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segue.core.run import Run
from segue.core.types import Dataset, Mask
from segue.data.folder import given_split

if TYPE_CHECKING:
    from segue.data.splits import SplitSettings

__all__ = ["given", "held_out_users", "k_fold", "leave_one_out", "random", "random_ratio", "ratio", "temporal"]


@dataclass(frozen=True, eq=False)
class Parts:
    """What each event is for; masks ``(T,)``. The targets of validation are history of the test."""

    train: Mask
    valid: Mask
    """Targets of validation."""
    test: Mask
    """Targets of the test."""
    before_valid: Mask
    """What the queries of validation hold."""
    before_test: Mask
    """What the queries of the test hold."""
    facts: Mapping[str, Any] = field(default_factory=dict)


def leave_one_out(data: Dataset, settings: SplitSettings) -> Parts:
    """Per user the last event is the test, the one before validation, the rest trains.

    ``valid=0``: there is no validation, and all but the last trains. With a target action these are the last two events
    of that kind; between them, events of other kinds are history of the test only, and what comes after the last is not
    used. Who would have no event left to train trains with all.
    """
    events = data.histories
    rows, place = events.rows, np.arange(events.size)
    wanted = np.flatnonzero(_wanted(data))
    found = np.bincount(rows[wanted], minlength=len(events))
    ends = np.cumsum(found)
    held = 2 if settings.valid else 1
    asked = found >= held
    valid_at, test_at = np.full(len(events), events.size), np.full(len(events), events.size)
    valid_at[asked], test_at[asked] = wanted[ends[asked] - held], wanted[ends[asked] - 1]
    asked &= valid_at > events.offsets[:-1]
    valid_at[~asked] = test_at[~asked] = events.size
    return Parts(
        train=place < valid_at[rows],
        valid=(place == valid_at[rows]) & (place != test_at[rows]),
        test=place == test_at[rows],
        before_valid=asked[rows] & (place < valid_at[rows]),
        before_test=asked[rows] & (place < test_at[rows]),
        facts={"train_only_users": int((~asked & (events.lengths > 0)).sum())},
    )


def random(data: Dataset, settings: SplitSettings) -> Parts:
    """Events drawn without regard to time; for rating prediction, as queries may hold events after their targets."""
    drawn = _drawn(_wanted(data), settings)
    n_test = round(len(drawn) * settings.test)
    n_valid = round(len(drawn) * settings.valid)
    return _sets(data, drawn[n_test : n_test + n_valid], drawn[:n_test])


def k_fold(data: Dataset, settings: SplitSettings) -> Parts:
    """Events drawn into ``folds`` equal parts, of which number ``fold`` is the test."""
    drawn = _drawn(_wanted(data), settings)
    test = np.array_split(drawn, settings.folds)[settings.fold]
    rest = np.setdiff1d(drawn, test, assume_unique=True)
    rest = rest[Run(settings.seed).rng("valid").permutation(len(rest))]
    return _sets(data, rest[: round(len(drawn) * settings.valid)], test)


def given(data: Dataset, settings: SplitSettings) -> Parts:
    """Files made by others; validation is drawn from their training part."""
    if settings.name is None:
        known = ", ".join(data.header.get("given", [])) or "none"
        raise ValueError(f"split.name: which given split? {data.name} has {known}")
    part = given_split(data, settings.name)
    wanted = _wanted(data)
    drawn = _drawn(wanted & (part == 1), settings)
    test = np.flatnonzero(wanted & (part == 2))
    share = settings.valid / (1.0 - settings.test)
    parts = _sets(data, drawn[: round(len(drawn) * share)], test, part == 1)
    return Parts(**{**vars(parts), "facts": {"given": settings.name}})


def temporal(data: Dataset, settings: SplitSettings) -> Parts:
    """One moment for everybody: the newest ``test`` share of all events is the test, the ``valid`` share before it.

    Events at the same second stand on the same side, the later one.
    """
    times = data.histories.times
    if times is None:
        raise ValueError(f"split.kind=temporal: {data.name} has no times; leave_one_out and ratio need only the order")
    test_from = _moment(times, 1.0 - settings.test)
    valid_from = _moment(times, 1.0 - settings.test - settings.valid)
    wanted = _wanted(data)
    train, early = times < valid_from, times < test_from
    return Parts(
        train=train,
        valid=wanted & early & ~train,
        test=wanted & ~early,
        before_valid=train,
        before_test=early,
        facts={"valid_from": int(valid_from), "test_from": int(test_from)},
    )


def ratio(data: Dataset, settings: SplitSettings) -> Parts:
    """Per user the newest ``test`` share of the events is the test, the ``valid`` share before it; rounded down."""
    events = data.histories
    n_test = np.floor(events.lengths * settings.test + 1e-9).astype(np.int64)
    n_valid = np.floor(events.lengths * settings.valid + 1e-9).astype(np.int64)
    left = (np.repeat(events.offsets[1:], events.lengths)) - np.arange(events.size)
    rows, wanted = events.rows, _wanted(data)
    test = left <= n_test[rows]
    train = left > (n_test + n_valid)[rows]
    return Parts(train, wanted & ~train & ~test, wanted & test, train, ~test)


def random_ratio(data: Dataset, settings: SplitSettings) -> Parts:
    """As ``ratio``, but a user's shares are drawn without regard to time: queries may hold what came after."""
    events = data.histories
    rows, wanted = events.rows, _wanted(data)
    order = np.lexsort((Run(settings.seed).rng("split").random(events.size), rows))
    place = np.empty(events.size, np.int64)
    place[order] = np.arange(events.size) - events.offsets[:-1][rows]
    n_test, n_valid = (np.floor(events.lengths * share + 1e-9)[rows] for share in (settings.test, settings.valid))
    test = place < n_test
    train = place >= n_test + n_valid
    return Parts(train, wanted & ~train & ~test, wanted & test, train, ~test)


def held_out_users(data: Dataset, settings: SplitSettings) -> Parts:
    """Strong generalisation: nothing of the held-out users trains; the oldest ``history`` share of each is given."""
    events = data.histories
    able = np.flatnonzero(events.lengths >= 2)
    drawn = able[Run(settings.seed).rng("split").permutation(len(able))]
    n_test, n_valid = round(len(able) * settings.test), round(len(able) * settings.valid)
    role = np.zeros(len(events), np.uint8)
    role[drawn[:n_test]], role[drawn[n_test : n_test + n_valid]] = 2, 1
    shown = np.clip(np.floor(events.lengths * settings.history + 1e-9).astype(np.int64), 1, None)
    rows, wanted = events.rows, _wanted(data)
    early = np.arange(events.size) < (events.offsets[:-1] + np.minimum(shown, events.lengths - 1))[rows]
    of = role[rows]
    return Parts(
        train=of == 0,
        valid=wanted & (of == 1) & ~early,
        test=wanted & (of == 2) & ~early,
        before_valid=(of == 1) & early,
        before_test=(of == 2) & early,
        facts={"held_out_users": {"valid": n_valid, "test": n_test}},
    )


def _wanted(data: Dataset) -> Mask:
    """``(T,)`` events of the kind that is predicted."""
    if data.target is None or data.histories.actions is None:
        return np.ones(data.histories.size, np.bool_)
    return np.equal(data.histories.actions, data.target)


def _drawn(mask: Mask, settings: SplitSettings) -> NDArray[np.int64]:
    """The events of ``mask`` in random order."""
    return Run(settings.seed).rng("split").permutation(np.flatnonzero(mask))


def _sets(data: Dataset, valid: NDArray[np.int64], test: NDArray[np.int64], used: Mask | None = None) -> Parts:
    """Parts of two sets of targets; all other events (of ``used``) train."""
    is_valid, is_test = np.zeros((2, data.histories.size), np.bool_)
    is_valid[valid], is_test[test] = True, True
    rest = np.ones(data.histories.size, np.bool_) if used is None else used
    train = rest & ~is_valid & ~is_test
    return Parts(train, is_valid, is_test, train, train | is_valid)


def _moment(times: NDArray[np.int64], share: float) -> int:
    """The first moment with at least ``share`` of the events up to it, from which on events stand after the cut."""
    place = round(len(times) * share)
    return int(np.partition(times, place)[place]) if place < len(times) else int(times.max()) + 1
