"""Read the candidates of queries: items among which a target policy chooses.

Shapes: R candidates of all queries, Q queries, T impressions, L different items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.messages import arg
from segue.data.examples.read import read_examples
from segue.data.examples.table import ExampleTable
from segue.experiment.inference.code_mapping import list_ids
from segue.experiment.off_policy.impressions import LoggedImpressions, read_column, read_probabilities

__all__ = ["CandidateSets", "CandidateTable", "read_candidates"]

MAX_CANDIDATES = 100_000_000
"""Pairs of a query and a candidate, at most."""

Codes = NDArray[np.int64]
Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CandidateSets:
    """The candidates of each query."""

    items: pl.Series
    """``(L,)`` different ids as text."""
    offsets: Codes
    """``(Q + 1,)`` the candidates of query q are ``codes[offsets[q]:offsets[q + 1]]``."""
    codes: Codes
    """``(R,)`` indices into ``items``, in ascending order within a query."""

    @classmethod
    def of_log(cls, impressions: LoggedImpressions) -> CandidateSets:
        """Return all items of the log as the candidates of every query.

        Raises:
            ValueError: these are too many.
        """
        items = impressions.item_T.unique(maintain_order=True)
        count = impressions.n_queries * len(items)
        if count > MAX_CANDIDATES:
            raise ValueError(
                f"{arg('candidates')}: {impressions.n_queries:,} queries and {len(items):,} items are {count:,} pairs, "
                f"expected at most {MAX_CANDIDATES:,}; give a table of the candidates of each query"
            )
        offsets = np.arange(impressions.n_queries + 1) * len(items)
        return cls(items, offsets, np.tile(np.arange(len(items)), impressions.n_queries))

    def find(self, query_X: Codes, item_X: pl.Series) -> Codes:
        """Return the number of a candidate in ``codes``; -1 where it is none."""
        known = pl.DataFrame({"item": self.items, "code": np.arange(len(self.items))})
        codes_X = pl.DataFrame({"item": item_X}).join(known, "item", "left", maintain_order="left")["code"]
        query_R = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        keys_R = query_R * len(self.items) + self.codes
        keys_X = query_X * len(self.items) + codes_X.fill_null(0).to_numpy()
        found_X = np.minimum(np.searchsorted(keys_R, keys_X), len(keys_R) - 1)
        is_found_X = (keys_R[found_X] == keys_X) & codes_X.is_not_null().to_numpy()
        return np.where(is_found_X, found_X, -1)


@dataclass(frozen=True, eq=False)
class CandidateTable:
    """A table with a row per query and item, or per query, item and position."""

    table: ExampleTable
    query_X: Codes
    item_X: pl.Series
    position_X: Codes | None
    """Index into the positions of the log; ``None``: the table has no positions."""
    candidates: CandidateSets

    def cells(self, impressions: LoggedImpressions, name: str) -> tuple[Codes, Codes, Codes]:
        """Return query, candidate and position of each row.

        Raises:
            ValueError: the table has no positions, but the log has several; or a cell occurs twice.
        """
        n_positions = len(impressions.positions)
        if self.position_X is None and n_positions > 1:
            raise ValueError(
                f"{arg('candidates')}: {self.table.name} has no column '{impressions.columns['position']}', expected "
                f"'{name}' for each position"
            )
        position_X = np.zeros(len(self.query_X), np.int64) if self.position_X is None else self.position_X
        candidate_X = self.candidates.find(self.query_X, self.item_X)
        cells_X = candidate_X * n_positions + position_X
        if len(np.unique(cells_X)) < len(cells_X):
            raise ValueError(f"{arg('candidates')}: {self.table.name}: a candidate of a query occurs twice")
        return self.query_X, candidate_X, position_X

    def numbers(self, name: str, *, are_probabilities: bool = False) -> Numbers:
        """Return a column of numbers, ``(X,)``.

        Raises:
            ValueError: there is no such column, or a cell is not usable.
        """
        if name not in self.table.columns:
            raise ValueError(f"{arg('candidates')}: {self.table.name} has no column '{name}'")
        with self.table.located():
            if are_probabilities:
                return read_probabilities(self.table.frame, name)
            return read_column(self.table.frame, name, "a number")


def read_candidates(source: Any, impressions: LoggedImpressions) -> CandidateTable:
    """Read a table of the candidates of each query, with the column names of the log.

    Raises:
        ValueError: a column is missing, or a query of the log or an item that was shown is not in the table.
    """
    try:
        return _read(source, impressions)
    except ValueError as error:
        raise ValueError(f"{arg('candidates')}: {error}") from None


def _read(source: Any, impressions: LoggedImpressions) -> CandidateTable:
    columns = impressions.columns
    if "query" not in columns:
        raise ValueError(f"{impressions.table.name} has no column 'query', by which candidates are found")
    table = read_examples(source)
    assert isinstance(table, ExampleTable)
    for role, several in (("query", "queries"), ("item", "items")):
        if columns[role] not in table.columns:
            raise ValueError(
                f"{table.name} has no column '{columns[role]}', expected the {several} of the log; its columns are "
                f"{', '.join(table.columns)}"
            )
    ids = impressions.query_ids
    numbered = pl.DataFrame({"query": ids, "number": np.arange(len(ids))})
    texts = impressions.read_ids(table, "query")
    joined = pl.DataFrame({"query": texts}).join(numbered, "query", "left", maintain_order="left")["number"]
    is_known = joined.is_not_null()
    table = table.take(np.flatnonzero(is_known.to_numpy()))
    query_X = joined.drop_nulls().to_numpy().astype(np.int64)
    if len(missing := np.setdiff1d(np.arange(len(ids)), query_X)):
        listed = list_ids(ids.gather(missing).to_list())
        raise ValueError(f"{table.name} has no candidates of the queries {listed}")
    item_X = impressions.read_ids(table, "item")
    position_X = impressions.read_positions_of(table)
    items = item_X.unique(maintain_order=True)
    codes = pl.DataFrame({"item": items, "code": np.arange(len(items))})
    codes_X = pl.DataFrame({"item": item_X}).join(codes, "item", "left", maintain_order="left")["code"].to_numpy()
    query_R, code_R = np.divmod(np.unique(query_X * len(items) + codes_X), len(items))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(query_R, minlength=len(ids)))])
    candidates = CandidateSets(items, offsets, code_R)
    if ((shown_T := candidates.find(impressions.query_T, impressions.item_T)) < 0).any():
        row = int(np.argmax(shown_T < 0))
        where, item = impressions.table.location.describe_row(row), impressions.item_T[row]
        raise ValueError(f"{where}: item '{item}' was shown, but is no candidate of its query in {table.name}")
    return CandidateTable(table, query_X, item_X, position_X, candidates)
