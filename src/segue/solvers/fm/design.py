"""Build the features of a factorization machine.

The features represent the user, the item, the time, and what is known about them.

In addition to indicators of the user and the item, there may be

* ``implicit_user``: the items of the user's history, rated or not, each 1 / sqrt(their number), as in SVD++ (Koren
  2008, doi:10.1145/1401890.1401944);
* ``implicit_item``: the users of the item, likewise ("flipped": Rendle, Zhang and Koren 2019, arXiv:1905.01395);
* ``user_features`` and ``item_features``: see :mod:`segue.solvers.fm.feature_matrix`;
* ``date``: an indicator of the time bin of the rating.

Shapes: T ratings, U users, I items, N queries, F feature columns, P time bins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_array, eye_array, hstack

from segue.core.features import encode_features, infer_features
from segue.core.ratings import Ratings, rated_events
from segue.core.types import DataSchema, Dataset, Events, Feature
from segue.solvers.fm.feature_matrix import feature_block, feature_rows
from segue.solvers.fm.relational_blocks import RelationBlock

__all__ = ["Input", "TimeBins", "build_relations", "encode_new_users", "implicit_block", "schema_for"]

Input: TypeAlias = Literal["date", "implicit_user", "implicit_item", "user_features", "item_features"]

SECONDS_PER_DAY = 86_400


@dataclass(frozen=True, eq=False)
class TimeBins:
    """Time bins that contain ratings.

    A further bin stands for all other and unknown times.
    """

    bins_P: NDArray[np.int64]
    """Ascending; number of the bin since 1970."""
    days_per_bin: int
    """Length of a bin in days, in UTC."""

    @classmethod
    def of(cls, times: NDArray[np.int64], is_known: NDArray[np.bool_], days_per_bin: int) -> TimeBins:
        """Collect the bins of those ``times`` that are known."""
        return cls(np.unique(times[is_known] // (days_per_bin * SECONDS_PER_DAY)), days_per_bin)

    def __len__(self) -> int:
        """Return the number of bins, including the one for other times."""
        return len(self.bins_P) + 1

    def rows(
        self, times: NDArray[np.int64] | None, count: int, is_known: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int32]:
        """Return the ``(count,)`` bin index of each time.

        Other times, and those where ``is_known`` is false, have the last index.
        """
        last = len(self.bins_P)
        if times is None or not last:
            return np.full(count, last, np.int32)
        bins = times // (self.days_per_bin * SECONDS_PER_DAY)
        index = np.minimum(np.searchsorted(self.bins_P, bins), last - 1)
        is_own = self.bins_P[index] == bins if is_known is None else (self.bins_P[index] == bins) & is_known
        return np.where(is_own, index, last).astype(np.int32)


def schema_for(inputs: tuple[Input, ...], data: Dataset) -> DataSchema:
    """Return the schema of ``data`` with the user features that queries may carry."""
    schema = data.schema
    if "item_features" in inputs:
        schema = replace(schema, n_without_events=0)  # the features score these items
    if "user_features" not in inputs:
        return schema
    return replace(schema, user_features=infer_features(data.user_features)[0])


def build_relations(
    train: Dataset, ratings: Ratings, inputs: tuple[Input, ...], days_per_bin: int, setting: str
) -> tuple[list[RelationBlock], TimeBins]:
    """Build blocks for users, items and, if configured, time bins.

    The columns of a block are indicators, then features, then implicit features.

    Raises:
        ValueError: the data lacks what an input needs; the message names ``setting``.
    """
    seen_UI = train.histories.csr(train.n_items)
    users: list[Any] = [_identity(train.n_users)]
    items: list[Any] = [_identity(train.n_items)]
    if "user_features" in inputs:
        users += _feature_blocks(train.user_features, train.n_users, f"{setting}: 'user_features'")
    if "implicit_user" in inputs:
        users.append(implicit_block(seen_UI))
    if "item_features" in inputs:
        items += _feature_blocks(train.item_features, train.n_items, f"{setting}: 'item_features'")
    if "implicit_item" in inputs:
        items.append(implicit_block(csr_array(seen_UI.T)))
    blocks = [_relation_block(ratings.users, users), _relation_block(ratings.items, items)]
    time_bins = TimeBins(np.zeros(0, np.int64), days_per_bin)
    if "date" in inputs:
        time_bins, rows_T = _time_bins(
            rated_events(train.histories), days_per_bin, f"{setting}: 'date' needs times, but {train.name}"
        )
        blocks.append(_relation_block(rows_T, [_identity(len(time_bins))]))
    return blocks, time_bins


def implicit_block(seen: Any) -> Any:
    """Scale the rows of an interaction matrix to length 1; empty rows stay empty."""
    lengths = np.maximum(np.diff(seen.indptr), 1)
    values = (1.0 / np.sqrt(lengths)).astype(np.float32).repeat(np.diff(seen.indptr))
    return csr_array((values, seen.indices, seen.indptr), shape=seen.shape)


def encode_new_users(
    schema: DataSchema, inputs: tuple[Input, ...], history: Events, profile: pl.DataFrame | None
) -> csr_array[Any]:
    """Encode unknown users, ``(N, F)``.

    The columns are those of the users' block without the indicators.
    """
    parts: list[Any] = [csr_array((len(history), 0), dtype=np.float32)]
    if "user_features" in inputs:
        features = pl.DataFrame({"id": [""] * len(history)}) if profile is None else profile
        parts.append(feature_rows(schema.user_features, encode_features(schema.user_features, features)))
    if "implicit_user" in inputs:
        parts.append(implicit_block(history.csr(schema.n_items)))
    return csr_array(hstack(parts, format="csr", dtype=np.float32))


def _identity(count: int) -> csr_array[Any]:
    return csr_array(eye_array(count, format="csr", dtype=np.float32))


def _feature_blocks(table: pl.LazyFrame | None, count: int, setting: str) -> list[csr_array[Any]]:
    """Return the columns of each feature separately: each is a group."""
    features_NF = feature_block(table, count, setting)
    ends = np.cumsum([_n_columns(feature) for feature in infer_features(table)[0]])
    starts = [0, *ends[:-1]]
    return [csr_array(features_NF[:, start:end]) for start, end in zip(starts, ends, strict=True)]


def _n_columns(feature: Feature) -> int:
    """Count a feature's columns in :func:`.feature_rows`.

    They include the column for missing values.
    """
    return (len(feature.categories) or feature.size) + 1


def _relation_block(rows_T: NDArray[np.int32], parts: list[csr_array[Any]]) -> RelationBlock:
    groups = tuple(int(row_range.shape[1]) for row_range in parts)
    return RelationBlock(rows_T, csr_array(hstack(parts, format="csr", dtype=np.float32)), groups)


def _time_bins(events: Events, days_per_bin: int, error_prefix: str) -> tuple[TimeBins, NDArray[np.int32]]:
    is_known = events.time_known
    if events.times is None or not is_known.any():
        raise ValueError(f"{error_prefix} has no real times")
    time_bins = TimeBins.of(events.times, is_known, days_per_bin)
    return time_bins, time_bins.rows(events.times, events.size, is_known)
