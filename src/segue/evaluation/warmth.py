"""Break metrics down by the events of users and items.

Users and items are hot, warm or cold, and items are in the head, the middle or the tail.

The warmth of an item is its number of training events, and that of a user is the number of events in the history of the
query: a model knows a cold item by its features only, and a cold user by their profile only. Head and tail are the most
and the least popular items with a fifth of the training events each.

Shapes: N queries, I items, T targets, M queries of one group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from segue.core.types import Events, HeldOut, Mask, Ranks
from segue.evaluation.bootstrap import Estimate, estimate_values
from segue.evaluation.popularity_groups import popularity_groups

__all__ = [
    "ItemSelection",
    "Warmth",
    "WarmthGroup",
    "WarmthThresholds",
    "group_values",
    "merge_groups",
    "select_candidates",
    "select_targets",
]

ItemSelection: TypeAlias = Literal["all", "warm", "cold"]
"""Which items are ranked: the whole catalog, or the items with or without training events."""

Values: TypeAlias = Mapping[str, NDArray[np.float64]]

HOT_SHARE = 5
"""By default at most one in this many items, or users, is hot."""


@dataclass(frozen=True)
class WarmthThresholds:
    """Numbers of events from which an item or a user is warm or hot."""

    warm_items: int = 1
    """Training events from which an item is warm; an item with fewer is cold."""
    hot_items: int | None = None
    """Training events from which an item is hot; ``None``: so many that at most a fifth of the items is hot."""
    warm_users: int = 1
    """Events in the history of the query from which a user is warm; a user with fewer is cold."""
    hot_users: int | None = None
    """Events in the history from which a user is hot; ``None``: so many that at most a fifth of the users is hot."""

    def __post_init__(self) -> None:
        for warm, hot in (("warm_items", "hot_items"), ("warm_users", "hot_users")):
            low, high = getattr(self, warm), getattr(self, hot)
            if low < 1:
                raise ValueError(f"{warm}: got {low}, expected at least 1")
            if high is not None and high <= low:
                raise ValueError(f"{hot}: got {high}, expected more than {warm}, which is {low}")


@dataclass(frozen=True, eq=False)
class Warmth:
    """The training events of each item, and what they mean."""

    item_events: NDArray[np.int64] | None = None
    """``(I,)`` training events per item; ``None``: unknown, and only users are grouped."""
    thresholds: WarmthThresholds = field(default_factory=WarmthThresholds)

    @classmethod
    def of(cls, train: Events, n_items: int, thresholds: WarmthThresholds | None = None) -> Warmth:
        """Count the training events of each item."""
        return cls(np.bincount(train.items, minlength=n_items), thresholds or WarmthThresholds())

    def candidates(self, items: ItemSelection) -> Mask | None:
        """Return which items are ranked, ``(I,)``; ``None``: all of them.

        Raises:
            ValueError: the training events of the items are unknown, or no item is left.
        """
        if items == "all":
            return None
        if self.item_events is None:
            raise ValueError(f"items: '{items}' needs the training events of each item; evaluate on a split")
        is_cold = self.item_events < self.thresholds.warm_items
        mask: Mask = is_cold if items == "cold" else ~is_cold
        if not mask.any():
            limit = _describe_items(items, self.thresholds.warm_items)
            raise ValueError(
                f"items: none of {len(mask):,} items is {items} ({limit}); "
                "split.cold_items=0.1 holds a tenth of the items out of training"
            )
        return mask

    def item_groups(self) -> Iterator[tuple[str, str, Mask]]:
        """Yield name, definition and ``(I,)`` mask of each group of items.

        The groups are hot, warm and cold, and head, middle and tail.
        """
        if self.item_events is not None:
            yield from _degrees("items", "training event", self.item_events, self.thresholds)
            for name, definition, mask in popularity_groups(self.item_events):
                yield f"{name} items", definition, mask

    def user_groups(self, history: Events) -> Iterator[tuple[str, str, Mask]]:
        """Yield name, definition and ``(N,)`` mask of hot, warm and cold users."""
        yield from _degrees("users", "event in the history", history.lengths, self.thresholds)


@dataclass(frozen=True, eq=False)
class WarmthGroup:
    """The metrics of one group of users, or of the targets of one group of items."""

    name: str
    """Such as ``cold items``."""
    definition: str
    """Such as ``no training event``."""
    rows: NDArray[np.int64]
    """``(M,)`` the queries with a target in the group."""
    targets: int
    """Number of targets in the group."""
    values: Values
    """``(M,)`` per metric, one value per query of :attr:`rows`; only the targets in the group count."""

    def estimate(self, seed: int = 0) -> dict[str, Estimate]:
        """Estimate the mean of each metric with its 95 % interval.

        Metrics without any value are left out.
        """
        return estimate_values({name: one for name, one in self.values.items() if not np.isnan(one).all()}, seed)

    def select(self, names: Sequence[str]) -> WarmthGroup:
        """Keep only the metrics ``names``."""
        return replace(self, values={name: self.values[name] for name in names if name in self.values})


def select_candidates(held_out: HeldOut, candidates: Mask | None, items: ItemSelection) -> tuple[HeldOut, int]:
    """Keep only the targets that are ranked, and count the others.

    Raises:
        ValueError: no target is left.
    """
    if candidates is None:
        return held_out, 0
    targets = held_out.targets
    keep = candidates[targets.items]
    if not keep.any():
        raise ValueError(
            f"items: none of {targets.size:,} targets is a {items} item, so there is nothing to rank; "
            "split.cold_items=0.1 holds a tenth of the items out of training"
        )
    return replace(held_out, targets=targets.where(keep)), int((~keep).sum())


def select_targets(ranks: Ranks, keep: Mask) -> Ranks:
    """Keep only the targets in ``keep (T,)``; their ranks stay the same."""
    counts = np.bincount(ranks.rows[keep], minlength=len(ranks))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return Ranks(offsets, ranks.n_higher[keep], ranks.n_tied[keep], ranks.n_candidates, ranks.top)


def group_values(
    warmth: Warmth | None, held_out: HeldOut, restrict: Callable[[Mask], Values]
) -> tuple[WarmthGroup, ...]:
    """Compute metrics for hot, warm and cold items and users.

    Args:
        restrict: computes the ``(N,)`` values of each metric from the targets in a mask ``(T,)`` alone.
    """
    if warmth is None:
        return ()
    targets = held_out.targets
    members = [(name, text, mask[targets.items]) for name, text, mask in warmth.item_groups()]
    members += [(name, text, mask[targets.rows]) for name, text, mask in warmth.user_groups(held_out.queries.history)]
    groups = []
    for name, definition, keep in members:
        rows = np.unique(targets.rows[keep])
        if len(rows):
            found = {metric: values[rows] for metric, values in restrict(keep).items()}
            groups.append(WarmthGroup(name, definition, rows, int(keep.sum()), found))
    return tuple(groups)


def merge_groups(first: Sequence[WarmthGroup], second: Sequence[WarmthGroup]) -> tuple[WarmthGroup, ...]:
    """Merge the metrics of two results over the same queries."""
    others = {group.name: group for group in second}
    return tuple(
        replace(group, values={**group.values, **others.pop(group.name).values}) if group.name in others else group
        for group in first
    ) + tuple(others.values())


def _degrees(
    noun: str, event: str, counts: NDArray[np.int64], thresholds: WarmthThresholds
) -> Iterator[tuple[str, str, Mask]]:
    """Yield name, definition and mask of the hot, warm and cold ones of ``counts``."""
    warm: int = getattr(thresholds, f"warm_{noun}")
    hot: int | None = getattr(thresholds, f"hot_{noun}")
    events = event.replace("event", "events")
    if hot is None:
        hot = _hot_threshold(counts[counts >= warm], warm)
    yield f"hot {noun}", f"{hot:,} or more {events}", counts >= hot
    last = f"{warm:,} to {hot - 1:,} {events}" if hot - 1 > warm else f"{warm:,} {event if warm == 1 else events}"
    yield f"warm {noun}", last, (counts >= warm) & (counts < hot)
    yield f"cold {noun}", f"no {event}" if warm == 1 else f"fewer than {warm:,} {events}", counts < warm


def _hot_threshold(counts: NDArray[np.int64], warm: int) -> int:
    """Return the smallest number of events that at most a fifth of ``counts`` reaches."""
    if not len(counts):
        return warm + 1
    at = len(counts) - 1 - len(counts) // HOT_SHARE
    return int(np.partition(counts, at)[at]) + 1


def _describe_items(items: Any, warm: int) -> str:
    events = "1 training event" if warm == 1 else f"{warm:,} training events"
    return f"fewer than {events}" if items == "cold" else f"at least {events}"
