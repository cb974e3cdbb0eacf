"""Compute the numbers that describe an interaction log.

Shapes: U users, I items, T events, G gaps between consecutive events of a user.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.types import Dataset, Events
from segue.reports.html.log_description import (
    Bin,
    FeatureDescription,
    LogDescription,
    TimeDescription,
    ValueCount,
)

__all__ = ["SESSION_GAP", "describe_log"]

SESSION_GAP = 1800.0
"""Pause in seconds that ends a session, as in web analytics."""

MAX_POINTS = 150
"""Points of a curve; more are not visible."""
MAX_BINS = 24
MAX_VALUES = 20
"""Distinct values of events up to which each has its bar."""
MAX_COMMON = 12
"""Most frequent values of a feature."""
MIN_WORDS = 2.0
"""Mean number of words from which texts that are mostly distinct have lengths."""

UNITS = (("hour", 3600.0), ("day", 86400.0), ("week", 604800.0), ("month", 2629746.0), ("year", 31556952.0))
MAX_UNITS = 130
"""Bars of the activity over time."""

TEXTS = (pl.String, pl.Categorical, pl.Enum)


def describe_log(data: Dataset) -> LogDescription:
    """Describe users, items, events and features of ``data``.

    Raises:
        ValueError: the data has no events.
    """
    events = data.histories
    if not events.size:
        raise ValueError(f"report: '{data.name}' has no events to describe")
    counts_I = np.sort(np.bincount(events.items, minlength=data.n_items))[::-1]
    share_I = np.cumsum(counts_I) / events.size
    pairs = len(np.unique(events.rows * np.int64(data.n_items) + events.items))
    used = events.lengths[events.lengths > 0]
    quantiles = np.quantile(used, [0.0, 0.25, 0.5, 0.75, 0.95, 1.0])
    names = ("minimum", "25 %", "median", "75 %", "95 %", "maximum")
    top = {percent: float(share_I[max(1, round(data.n_items * percent / 100)) - 1]) for percent in (1, 10, 20)}
    return LogDescription(
        name=data.name,
        users=data.n_users,
        items=data.n_items,
        events=events.size,
        pairs=pairs,
        data_hash=str(data.header.get("hash") or ""),
        users_without_events=int((events.lengths == 0).sum()),
        items_without_events=int((counts_I == 0).sum()),
        ranks=_popularity_by_rank(counts_I),
        lorenz=_lorenz_curve(counts_I),
        gini=_gini(counts_I),
        top_shares=top,
        half_items=int(np.searchsorted(share_I, 0.5)) + 1,
        lengths=_whole_bins(used),
        length_quantiles=dict(zip(names, map(float, quantiles), strict=True)),
        actions=_describe_actions(data),
        **_describe_values(events),
        time=_describe_times(events),
        item_features=_describe_features(data.item_features),
        user_features=_describe_features(data.user_features),
        warnings=tuple(map(str, data.header.get("warnings") or ())),
    )


def _popularity_by_rank(counts_I: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return ranks with their number of events, at equal logarithmic distances."""
    known = int((counts_I > 0).sum())
    ranks = np.unique(np.geomspace(1, known, min(MAX_POINTS, known)).round().astype(np.int64))
    return [(int(rank), int(counts_I[rank - 1])) for rank in ranks]


def _lorenz_curve(counts_I: NDArray[np.int64]) -> list[tuple[float, float]]:
    """Return the share of events by share of items, least popular first."""
    cumulative = np.append(0.0, np.cumsum(counts_I[::-1])) / counts_I.sum()
    rows = np.unique(np.linspace(0, len(counts_I), min(MAX_POINTS, len(counts_I) + 1)).round().astype(np.int64))
    return [(round(float(row / len(counts_I)), 5), round(float(cumulative[row]), 5)) for row in rows]


def _gini(counts_I: NDArray[np.int64]) -> float:
    """Return the Gini index of the events per item of the whole catalog."""
    n = len(counts_I)
    position = np.arange(n, 0, -1)  # of the most popular item, first here, n
    return float(((2 * position - n - 1) * counts_I).sum() / (n * counts_I.sum()))


def _whole_bins(numbers: NDArray[np.int64]) -> list[Bin]:
    """Return a histogram of whole numbers; bins of large numbers are wider."""
    low, high = int(numbers.min()), int(numbers.max())
    if high - low < MAX_BINS:
        edges = np.arange(low, high + 2)
    else:
        edges = np.unique(np.geomspace(max(low, 1), high + 1, MAX_BINS + 1).round().astype(np.int64))
        edges[0] = low
    counts = np.histogram(numbers, edges)[0]
    return [
        Bin(float(start), float(stop - 1), int(count))
        for start, stop, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]


def _describe_actions(data: Dataset) -> list[ValueCount]:
    """Return the number of events of each kind of action, where there are several."""
    if data.histories.actions is None or len(data.actions) < 2:
        return []
    counts = np.bincount(data.histories.actions, minlength=len(data.actions))
    return [ValueCount(name, int(count)) for name, count in zip(data.actions, counts, strict=True)]


def _describe_values(events: Events) -> dict[str, Any]:
    """Return the distribution of the values of events, such as ratings."""
    if events.values is None:
        return {}
    known = events.values[np.isfinite(events.values)]
    if not len(known):
        return {}
    values, counts = np.unique(known, return_counts=True)
    if len(values) <= MAX_VALUES:
        found = [ValueCount(f"{value:g}", int(count)) for value, count in zip(values, counts, strict=True)]
        return {"value_counts": found}
    heights, edges = np.histogram(known, MAX_BINS)
    bins = zip(edges[:-1], edges[1:], heights, strict=True)
    return {"values": [Bin(float(low), float(high), int(count)) for low, high, count in bins]}


def _describe_times(events: Events) -> TimeDescription | None:
    """Describe real times; ``None``: there are none, or they are not Unix seconds."""
    known_T = events.time_known
    if events.times is None or not known_T.any():
        return None
    times_T = events.times
    known = times_T[known_T]
    first, last = int(known.min()), int(known.max())
    try:
        ends = [datetime.fromtimestamp(end, UTC).isoformat(timespec="minutes")[:16] for end in (first, last)]
    except (ValueError, OverflowError, OSError):
        return None
    rows = events.rows
    is_gap = (rows[1:] == rows[:-1]) & known_T[1:] & known_T[:-1]
    gaps_G = (times_T[1:] - times_T[:-1])[is_gap].astype(np.float64)
    positive = gaps_G[gaps_G > 0]
    session = 1 + np.cumsum(~(is_gap & ((times_T[1:] - times_T[:-1]) <= SESSION_GAP)))
    session = np.append(1, session)[known_T]
    lengths = np.unique(session, return_counts=True)[1]
    unit, activity = _activity(known, first, last)
    return TimeDescription(
        first=ends[0].replace("T", " "),
        last=ends[1].replace("T", " "),
        unit=unit,
        activity=activity,
        known_share=float(known_T.mean()),
        gaps=_logarithmic_bins(positive),
        zero_gaps=float((gaps_G == 0).mean()) if len(gaps_G) else 0.0,
        median_gap=float(np.median(gaps_G)) if len(gaps_G) else None,
        sessions=len(lengths),
        session_gap=SESSION_GAP,
        median_session=float(np.median(lengths)),
        single_sessions=float((lengths == 1).mean()),
        session_lengths=_whole_bins(lengths),
    )


def _activity(times: NDArray[np.int64], first: int, last: int) -> tuple[str, list[tuple[str, int]]]:
    """Count events by the smallest unit of time that gives few bars.

    Units without events count 0.
    """
    unit = next((name for name, seconds in UNITS if (last - first) / seconds <= MAX_UNITS), "year")
    every = {"hour": "1h", "day": "1d", "week": "1w", "month": "1mo", "year": "1y"}[unit]
    starts = pl.DataFrame({"time": pl.from_epoch(pl.Series(times), "s")}).sort("time")
    counted = starts.group_by_dynamic("time", every=every).agg(pl.len().alias("events")).upsample("time", every=every)
    rows = counted.with_columns(pl.col("events").fill_null(0)).iter_rows()
    return unit, [(time.isoformat(), int(count)) for time, count in rows]


def _logarithmic_bins(positive: NDArray[np.float64]) -> list[Bin]:
    if not len(positive):
        return []
    low, high = float(positive.min()), float(positive.max())
    edges = np.geomspace(low, max(high, 1.1 * low), MAX_BINS + 1 if high > low else 2)
    edges[0], edges[-1] = low, max(high, edges[-1])  # without rounding errors, so that the bins hold both ends
    counts = np.histogram(positive, edges)[0]
    return [Bin(float(a), float(b), int(n)) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)]


def _describe_features(table: pl.LazyFrame | None) -> list[FeatureDescription]:
    """Describe the columns of a table of features."""
    if table is None:
        return []
    return [_describe_feature(column) for column in table.collect().get_columns() if column.name != "id"]


def _describe_feature(column: pl.Series) -> FeatureDescription:
    inner: Any = getattr(column.dtype, "inner", None)
    if column.dtype.is_float():
        column = column.fill_nan(None)
    missing = column.null_count() / len(column) if len(column) else 0.0
    if inner is not None and inner.is_numeric():
        size = column.list.len() if isinstance(column.dtype, pl.List) else None
        kind = "vector" if size is None or size.n_unique() == 1 else "list of numbers"
        return FeatureDescription(column.name, kind, missing, None, ())
    if inner is not None:
        empty = (column.list.len() == 0).sum() if isinstance(column.dtype, pl.List) else 0
        values = column.explode().drop_nulls().cast(pl.String)
        missing = (column.null_count() + int(empty or 0)) / len(column) if len(column) else 0.0
        return FeatureDescription(column.name, "tags", missing, values.n_unique(), _common(values))
    known = column.drop_nulls()
    if column.dtype.is_numeric():
        return FeatureDescription(column.name, "number", missing, known.n_unique(), _common(known))
    if column.dtype in TEXTS:
        return _describe_text(known.cast(pl.String), missing)
    return FeatureDescription(column.name, str(column.dtype).lower(), missing, known.n_unique(), _common(known))


def _describe_text(known: pl.Series, missing: float) -> FeatureDescription:
    """Describe texts as categories, or by their lengths if they are mostly distinct."""
    distinct = known.n_unique()
    words = known.str.strip_chars().str.split(" ").list.len()
    mean: Any = words.mean() if len(known) else None
    if mean is None or mean < MIN_WORDS or distinct <= len(known) / 2:
        kind = "category" if distinct <= len(known) / 2 else "mostly distinct"
        return FeatureDescription(known.name, kind, missing, distinct, _common(known))
    lengths = _length_quantiles(known.str.len_chars()), _length_quantiles(words)
    return FeatureDescription(known.name, "text", missing, distinct, (), *lengths)


def _length_quantiles(lengths: pl.Series) -> tuple[float, float, float]:
    median, high, maximum = np.quantile(lengths.to_numpy(), [0.5, 0.95, 1.0])
    return float(median), float(high), float(maximum)


def _common(values: pl.Series) -> Sequence[ValueCount]:
    """Return the most frequent values; none if all are distinct."""
    counts = values.value_counts(sort=True).head(MAX_COMMON)
    rows = [ValueCount(f"{value:g}" if isinstance(value, float) else str(value), int(n)) for value, n in counts.rows()]
    return rows if rows and rows[0].count > 1 else []
