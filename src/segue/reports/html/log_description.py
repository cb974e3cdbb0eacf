"""Numbers that describe an interaction log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Bin", "FeatureDescription", "LogDescription", "TimeDescription", "ValueCount"]

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Bin:
    """A bar of a histogram, from ``low`` to ``high``.

    Of whole numbers, both ends are inside.
    """

    low: float
    high: float
    count: int


@dataclass(frozen=True)
class ValueCount:
    """How often a value occurs."""

    value: str
    count: int


@dataclass(frozen=True)
class TimeDescription:
    """Times of the events; only real ones count."""

    first: str
    last: str
    unit: str
    """Unit of ``activity``: hour, day, week, month or year."""
    activity: Sequence[tuple[str, int]]
    """Events by the start of each unit, in ISO 8601."""
    known_share: float
    """Share of the events whose time is real."""
    gaps: Sequence[Bin]
    """Seconds between consecutive events of a user, in bins of equal width on a logarithmic scale."""
    zero_gaps: float
    """Share of the gaps that are 0."""
    median_gap: float | None
    """In seconds."""
    sessions: int
    """Events of a user without a pause longer than ``session_gap``."""
    session_gap: float
    median_session: float
    """Median number of events."""
    single_sessions: float
    """Share of sessions with one event."""
    session_lengths: Sequence[Bin]


@dataclass(frozen=True)
class FeatureDescription:
    """One column of the item or user features."""

    name: str
    kind: str
    missing: float
    """Share of the rows without a value."""
    distinct: int | None
    """Number of distinct values; ``None``: not counted, as of vectors."""
    common: Sequence[ValueCount]
    """Most frequent values or tags."""
    characters: tuple[float, float, float] | None = None
    """Median, 95th percentile and maximum length of texts in characters."""
    words: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class LogDescription:
    """Everything that a report says about a log."""

    name: str
    users: int
    items: int
    events: int
    pairs: int
    """Distinct pairs of user and item."""
    data_hash: str
    users_without_events: int
    items_without_events: int
    ranks: Sequence[tuple[int, int]]
    """Rank and number of events of items, most popular first, thinned out."""
    lorenz: Sequence[tuple[float, float]]
    """Share of the items, least popular first, and their share of the events."""
    gini: float
    top_shares: Mapping[int, float]
    """Share of the events of the most popular items, by percentage of the catalog."""
    half_items: int
    """Number of most popular items that have half of the events."""
    lengths: Sequence[Bin]
    length_quantiles: Mapping[str, float]
    actions: Sequence[ValueCount] = ()
    values: Sequence[Bin] = ()
    value_counts: Sequence[ValueCount] = ()
    """Number of events of each value, where there are few; otherwise ``values``."""
    time: TimeDescription | None = None
    item_features: Sequence[FeatureDescription] = ()
    user_features: Sequence[FeatureDescription] = ()
    warnings: Sequence[str] = ()
    audit: Record | None = None
    """Record of the audit; ``None``: it could not be made."""
    baselines: Record | None = None
    """Record of the simple baselines on validation, likewise."""
    notes: Sequence[str] = field(default=())

    @property
    def density(self) -> float:
        """Share of the pairs of user and item that have an event."""
        return self.pairs / (self.users * self.items) if self.users and self.items else 0.0

    @property
    def repeats(self) -> float:
        """Share of the events whose user had the item before."""
        return 1.0 - self.pairs / self.events if self.events else 0.0
