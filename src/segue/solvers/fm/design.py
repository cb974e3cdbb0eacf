"""What a factorisation machine reads of a rating: who and what, and what is known of both; when.

Beside a column for each user and for each item there may be columns of

* ``implicit_user``: the items of the user's history, with a rating or without, each 1 / sqrt(their number), as in SVD++
  (Koren 2008, doi:10.1145/1401890.1401944);
* ``implicit_item``: the users of the item, likewise ("flipped": Rendle, Zhang and Koren 2019, arXiv:1905.01395);
* ``user_features`` and ``item_features``: see :mod:`segue.solvers.fm.feature_matrix`;
* ``date``: the day of the rating, or the week.

Shapes: T ratings, U users, I items, N queries, F columns of features, P periods.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_array, eye_array, hstack

from segue.core.features import coded, described
from segue.core.ratings import Ratings, valued
from segue.core.types import Dataset, Domain, Events, Feature
from segue.solvers.fm.feature_matrix import design, rows_of
from segue.solvers.fm.relational_blocks import Block

__all__ = ["Dates", "Input", "blocks_of", "domain_of", "implicit", "newcomers"]

Input: TypeAlias = Literal["date", "implicit_user", "implicit_item", "user_features", "item_features"]

DAY = 86_400
"""Seconds of a day in UTC."""


@dataclass(frozen=True, eq=False)
class Dates:
    """Periods in which something was rated; one more stands for all other times, and for those not known."""

    periods_P: NDArray[np.int64]
    """Ascending; the number of a period since 1970."""
    days: int
    """Days of a period."""

    @classmethod
    def of(cls, times: NDArray[np.int64], known: NDArray[np.bool_], days: int) -> Dates:
        """The periods of ``times`` that are ``known``."""
        return cls(np.unique(times[known] // (days * DAY)), days)

    def __len__(self) -> int:
        """Rows: the periods and the one more."""
        return len(self.periods_P) + 1

    def rows(self, times: NDArray[np.int64] | None, count: int) -> NDArray[np.int32]:
        """``(count,)`` the row of each time; the last where it is not known."""
        last = len(self.periods_P)
        if times is None or not last:
            return np.full(count, last, np.int32)
        asked = times // (self.days * DAY)
        at = np.minimum(np.searchsorted(self.periods_P, asked), last - 1)
        return np.where(self.periods_P[at] == asked, at, last).astype(np.int32)


def domain_of(inputs: tuple[Input, ...], data: Dataset) -> Domain:
    """The domain of ``data`` with the user features that are read: a question may carry them."""
    if "user_features" not in inputs:
        return data.domain
    return replace(data.domain, user_features=described(data.user_features)[0])


def blocks_of(
    train: Dataset, ratings: Ratings, inputs: tuple[Input, ...], days: int, setting: str
) -> tuple[list[Block], Dates]:
    """Users, items and, where asked for, dates; within a block its ids, then features, then what is implicit.

    Raises:
        ValueError: the data has nothing to make an input of; ``setting`` is named.
    """
    seen_UI = train.histories.csr(train.n_items)
    users: list[Any] = [_ids(train.n_users)]
    items: list[Any] = [_ids(train.n_items)]
    if "user_features" in inputs:
        users += _features(train.user_features, train.n_users, f"{setting}: 'user_features'")
    if "implicit_user" in inputs:
        users.append(implicit(seen_UI))
    if "item_features" in inputs:
        items += _features(train.item_features, train.n_items, f"{setting}: 'item_features'")
    if "implicit_item" in inputs:
        items.append(implicit(csr_array(seen_UI.T)))
    blocks = [_block(ratings.users, users), _block(ratings.items, items)]
    dates = Dates(np.zeros(0, np.int64), days)
    if "date" in inputs:
        dates, rows_T = _dated(valued(train.histories), days, f"{setting}: 'date' is asked for, but {train.name}")
        blocks.append(_block(rows_T, [_ids(len(dates))]))
    return blocks, dates


def implicit(seen: Any) -> Any:
    """Rows of what was seen, of length 1; an empty one stays empty."""
    lengths = np.maximum(np.diff(seen.indptr), 1)
    values = (1.0 / np.sqrt(lengths)).astype(np.float32).repeat(np.diff(seen.indptr))
    return csr_array((values, seen.indices, seen.indptr), shape=seen.shape)


def newcomers(
    domain: Domain, inputs: tuple[Input, ...], history: Events, profile: pl.DataFrame | None
) -> csr_array[Any]:
    """``(N, F)`` the columns of the users' block behind its ids, of people who were not there in training."""
    parts: list[Any] = [csr_array((len(history), 0), dtype=np.float32)]
    if "user_features" in inputs:
        told = pl.DataFrame({"id": [""] * len(history)}) if profile is None else profile
        parts.append(rows_of(domain.user_features, coded(domain.user_features, told)))
    if "implicit_user" in inputs:
        parts.append(implicit(history.csr(domain.n_items)))
    return csr_array(hstack(parts, format="csr", dtype=np.float32))


def _ids(count: int) -> csr_array[Any]:
    return csr_array(eye_array(count, format="csr", dtype=np.float32))


def _features(table: pl.LazyFrame | None, count: int, setting: str) -> list[csr_array[Any]]:
    """The columns of each feature apart: each is a group."""
    whole = design(table, count, setting)
    ends = np.cumsum([_width(feature) for feature in described(table)[0]])
    starts = [0, *ends[:-1]]
    return [csr_array(whole[:, start:end]) for start, end in zip(starts, ends, strict=True)]


def _width(feature: Feature) -> int:
    """Columns of a feature in :func:`segue.solvers.fm.feature_matrix.rows_of`, the one for "not known" among them."""
    return (len(feature.categories) or feature.size) + 1


def _block(rows_T: NDArray[np.int32], parts: list[csr_array[Any]]) -> Block:
    groups = tuple(int(part.shape[1]) for part in parts)
    return Block(rows_T, csr_array(hstack(parts, format="csr", dtype=np.float32)), groups)


def _dated(events: Events, days: int, otherwise: str) -> tuple[Dates, NDArray[np.int32]]:
    known = events.context.get("time_known", np.ones(events.size, np.bool_))
    if events.times is None or not known.any():
        raise ValueError(f"{otherwise} has no real times")
    dates = Dates.of(events.times, known, days)
    rows_T = np.where(known, dates.rows(events.times, events.size), len(dates) - 1)
    return dates, rows_T.astype(np.int32)
