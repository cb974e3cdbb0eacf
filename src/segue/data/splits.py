"""Split a dataset into training data and held-out queries.

Splits are disjoint, without leakage and deterministic.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from segue.core.run import Run
from segue.core.types import Dataset, Events, HeldOut, Mask, Queries, Split
from segue.data import split_strategies
from segue.data.filters import parse_duration
from segue.data.split_settings import SplitSettings

__all__ = ["SplitSettings", "folds", "sliding_windows", "split"]


def split(dataset: Dataset, settings: SplitSettings | None = None) -> Split:
    """Split ``dataset`` into training data and held-out queries.

    The history of a validation query is the training history of its user; that of a test query also contains the
    validation targets. Targets are distinct items within a query. Queries have the features of their users if some of
    these do not occur in training. ``metadata`` counts users and items that do not occur in training, targets that are
    in the history, and all dropped and unused events.

    Raises:
        ValueError: the strategy needs something that the data lacks, or leaves nothing to train on.
    """
    settings = settings or SplitSettings()
    if settings.use_query_context and not dataset.event_context:
        raise ValueError(
            f"split.use_query_context=true: {dataset.name} has no context columns; load it with columns such as "
            '{"context": ["device"]}'
        )
    if settings.use_query_time and dataset.histories.times is None:
        raise ValueError(f"split.use_query_time=true: {dataset.name} has no times")
    masks: split_strategies.SplitMasks = getattr(split_strategies, settings.strategy)(dataset, settings)
    if settings.cold_items:
        masks = _hold_items_out(dataset, masks, settings)
    events = dataset.histories
    if not masks.train.any():
        raise ValueError(f"split.strategy={settings.strategy}: no event of {dataset.name} is left for training")
    train = events.where(masks.train)
    known = train.lengths > 0
    item_known = np.zeros(dataset.n_items, np.bool_)
    item_known[train.items] = True
    metadata: dict[str, Any] = {
        "strategy": settings.strategy,
        "settings": settings.model_dump(mode="json"),
        "is_ordered": settings.strategy not in split_strategies.UNORDERED,
        "has_query_times": settings.use_query_time,
        **({"has_query_context": True} if settings.use_query_context else {}),
        "train_users": int(known.sum()),
        "train_events": train.size,
        "unused_events": int((~(masks.train | masks.valid | masks.test)).sum()),
        **masks.metadata,
        "warnings": list(dataset.header.get("warnings", [])),
    }
    held_out: dict[str, HeldOut] = {}
    for part, target, history in (
        ("valid", masks.valid, masks.history_valid),
        ("test", masks.test, masks.history_test),
    ):
        held_out[part], metadata[part] = _hold_out(dataset, target, history, known, item_known, settings)
    header = dataset.header
    known_settings = {key: value for key, value in metadata["settings"].items() if key != "cold_items" or value}
    facts = [header.get("hash"), header.get("max_users"), known_settings, train.size]
    test_id = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
    test = replace(held_out["test"], test_id=test_id)
    return Split(dataset.with_histories(train), held_out["valid"], test, metadata)


def folds(
    data: Dataset, k: int = 5, over: Literal["interactions", "users"] = "interactions", **settings: Any
) -> Iterator[Split]:
    """Yield the ``k`` splits of a cross-validation.

    The test sets are disjoint and together cover the data.

    Args:
        k: number of folds, at least 2.
        over: what is divided: ``interactions`` (``k_fold``) or ``users`` (``user_k_fold``).
        settings: further :class:`SplitSettings`, such as ``valid``, ``seed`` and ``history``.

    Raises:
        ValueError: a setting is invalid, or ``over`` is unknown.
    """
    strategies = {"interactions": "k_fold", "users": "user_k_fold"}
    if over not in strategies:
        raise ValueError(f"over: got {over!r}, expected {' or '.join(strategies)}")
    chosen = [SplitSettings(strategy=strategies[over], folds=k, fold=fold, **settings) for fold in range(k)]
    return (split(data, one) for one in chosen)


def sliding_windows(
    data: Dataset,
    *,
    test: str | int | float,
    count: int = 3,
    train: str | int | float | None = None,
    valid: str | int | float | None = None,
    **settings: Any,
) -> Iterator[Split]:
    """Yield ``count`` temporal splits with consecutive test windows.

    The last test window ends with the log.

    Args:
        test: length of a test window: a duration such as ``7d``, ``12h`` or ``2w``, or seconds.
        count: number of windows, at least 1.
        train: length of the training window before validation and test (a sliding window); ``None``: training starts
            with the log (an expanding window). Older events are unused.
        valid: length of the validation window before each test window; ``None``: no validation.
        settings: further :class:`SplitSettings`, such as ``use_query_time`` and ``drop_cold_targets``.

    Raises:
        ValueError: the data has no times, a duration is not positive, or the windows do not fit into the log.
    """
    times = data.histories.times
    if times is None or not len(times):
        raise ValueError(f"sliding_windows: {data.name} has no times")
    if count < 1:
        raise ValueError(f"count: got {count}, expected at least 1")
    test_seconds = parse_duration(test, "test")
    valid_seconds = 0 if valid is None else parse_duration(valid, "valid")
    train_seconds = None if train is None else parse_duration(train, "train")
    first, stop = int(times.min()), int(times.max()) + 1
    begin = stop - count * test_seconds - valid_seconds
    if begin <= first:
        raise ValueError(
            f"sliding_windows: {count} test windows of {test_seconds} s and validation of {valid_seconds} s "
            f"leave nothing to train on in a log of {stop - first} s"
        )
    return _windows(data, stop, test_seconds, valid_seconds, train_seconds, count, settings)


def _windows(
    data: Dataset, stop: int, test: int, valid: int, train: int | None, count: int, settings: dict[str, Any]
) -> Iterator[Split]:
    times = data.histories.times
    assert times is not None
    for window in range(count):
        cutoff = stop - (count - window) * test
        used, unused_before = data, 0
        if train is not None:
            recent = times >= cutoff - valid - train
            unused_before = int((~recent).sum())
            used = data.with_histories(data.histories.where(recent))
        chosen = SplitSettings(
            strategy="global_temporal", cutoff=cutoff, valid_cutoff=cutoff - valid, end=cutoff + test, **settings
        )
        result = split(used, chosen)
        metadata = {
            **result.metadata,
            "window": window,
            "unused_events": result.metadata["unused_events"] + unused_before,
        }
        yield Split(result.train, result.valid, result.test, metadata)


def _hold_items_out(
    data: Dataset, masks: split_strategies.SplitMasks, settings: SplitSettings
) -> split_strategies.SplitMasks:
    """Leave the events of a random share of the items out of training.

    They are left out of all histories, too, and only targets remain. The same items are cold in validation and in the
    test.
    """
    items = data.histories.items
    occurring = np.unique(items)
    drawn = Run(settings.seed).rng("cold_items").permutation(occurring)[: round(len(occurring) * settings.cold_items)]
    is_cold = np.zeros(data.n_items, np.bool_)
    is_cold[drawn] = True
    is_warm_event = ~is_cold[items]
    return replace(
        masks,
        train=masks.train & is_warm_event,
        history_valid=masks.history_valid & is_warm_event,
        history_test=masks.history_test & is_warm_event,
        metadata={**masks.metadata, "held_out_items": len(drawn)},
    )


def _hold_out(
    data: Dataset, target: Mask, history_mask: Mask, known: Mask, item_known: Mask, settings: SplitSettings
) -> tuple[HeldOut, dict[str, Any]]:
    """Return the queries and their targets, and the counts of both."""
    choose = _next_events if settings.strategy == "sessions" else _rest_of_events
    users, history, targets, counts = choose(data, target, history_mask, known, item_known, settings)
    times = time_known = None
    if settings.use_query_time and targets.times is not None:
        first = targets.offsets[:-1]
        times, time_known = targets.times[first], targets.time_known[first]
    context = {}
    if settings.use_query_context:
        context = {one.name: targets.context[one.name][targets.offsets[:-1]] for one in data.event_context}
    in_history = _contains(history, targets, data.n_items)
    metadata = {
        "queries": len(users),
        "targets": targets.size,
        **counts,
        "cold_users": int((~known[users]).sum()),
        "cold_items": int((~item_known[np.unique(targets.items)]).sum()),
        "cold_item_targets": int((~item_known[targets.items]).sum()),
        "targets_in_history": float(in_history.mean()) if targets.size else 0.0,
        "empty_histories": int((history.lengths == 0).sum()),
    }
    profile = None
    if data.user_features is not None and not known[users].all():  # models store the features of known users
        profile = data.user_features.collect()[users.tolist()]
    queries = Queries(history, users, known[users], times, profile, time_known, context)
    return HeldOut(queries, targets, data.users, data.items, data.actions, data.event_context), metadata


_Chosen: TypeAlias = tuple[NDArray[np.int32], Events, Events, dict[str, int]]
"""The user, the history and the targets of each query, and the counts of targets that were left out."""


def _rest_of_events(
    data: Dataset, target: Mask, history_mask: Mask, known: Mask, item_known: Mask, settings: SplitSettings
) -> _Chosen:
    """Return one query per user, with all targets of the user."""
    events = data.histories
    distinct = _first_of_pair(events, target, data.n_items)
    dropped: dict[str, int] = {}
    kept = distinct
    if settings.drop_cold_targets:
        cold = kept & ~(item_known[events.items] & known[events.rows])
        dropped["cold_targets_dropped"] = int(cold.sum())
        kept = kept & ~cold
    if settings.drop_seen_targets:
        seen = np.zeros(events.size, np.bool_)
        seen[kept] = _contains(events.where(history_mask), events.where(kept), data.n_items)
        dropped["seen_targets_dropped"] = int(seen.sum())
        kept = kept & ~seen
    all_targets = events.where(kept)
    users = np.flatnonzero(all_targets.lengths).astype(np.int32)
    targets, history = all_targets.take(users), events.where(history_mask).take(users)
    return users, history, targets, {"repeated_targets": int(target.sum() - distinct.sum()), **dropped}


def _next_events(
    data: Dataset, target: Mask, history_mask: Mask, known: Mask, item_known: Mask, settings: SplitSettings
) -> _Chosen:
    """Return one query per target, whose history holds the user's events before it."""
    events, dropped = data.histories, dict[str, int]()
    kept = np.flatnonzero(target)
    if settings.drop_cold_targets:
        is_warm = item_known[events.items[kept]] & known[events.rows[kept]]
        dropped["cold_targets_dropped"] = int((~is_warm).sum())
        kept = kept[is_warm]
    history = _events_before(events, kept, history_mask)
    targets = events.select(kept, np.arange(len(kept) + 1))
    if settings.drop_seen_targets:
        is_new = np.flatnonzero(~_contains(history, targets, data.n_items))
        dropped["seen_targets_dropped"] = len(kept) - len(is_new)
        kept, history, targets = kept[is_new], history.take(is_new), targets.take(is_new)
    return events.rows[kept].astype(np.int32), history, targets, {"repeated_targets": 0, **dropped}


def _events_before(events: Events, positions: NDArray[np.int64], keep: Mask) -> Events:
    """Return the events of ``keep`` before each event at ``positions``, in its row."""
    chosen = np.flatnonzero(keep)
    n_before = np.concatenate([[0], np.cumsum(keep)])
    first = n_before[events.offsets[:-1][events.rows[positions]]]
    lengths = n_before[positions] - first
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    index = np.repeat(first - offsets[:-1], lengths) + np.arange(offsets[-1])
    return events.select(chosen[index], offsets)


def _first_of_pair(events: Events, mask: Mask, n_items: int) -> Mask:
    """Return ``mask`` with only the first event of each user-item pair."""
    position = np.flatnonzero(mask)
    keys = events.rows[position] * n_items + events.items[position]
    _, first = np.unique(keys, return_index=True)
    result = np.zeros(events.size, np.bool_)
    result[position[first]] = True
    return result


def _contains(history: Events, targets: Events, n_items: int) -> Mask:
    """Return whether each target is in the history of its query, ``(targets,)``."""
    wanted, position = np.unique(targets.rows * n_items + targets.items, return_inverse=True)
    if not len(wanted):
        return np.zeros(0, np.bool_)
    keys = history.rows * n_items + history.items
    near = np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)
    found = np.zeros(len(wanted), np.bool_)
    found[near[wanted[near] == keys]] = True
    return np.asarray(found[position])
