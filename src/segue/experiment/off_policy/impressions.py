"""Read a log of impressions with the probabilities of the policy that chose them.

Shapes: T impressions, Q queries, K positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.config import suggest
from segue.core.examples.columns import CellError, read_numbers, read_texts, read_times
from segue.core.examples.propensities import read_positions
from segue.core.messages import arg
from segue.data.examples.read import read_examples
from segue.data.examples.table import ExampleTable

__all__ = ["ROLES", "LoggedImpressions", "read_column", "read_impressions", "read_probabilities", "resolve_columns"]

ROLES = ("query", "user", "item", "position", "propensity", "reward", "time")
"""What a log has to say about an impression, and the default names of the columns."""

REQUIRED = ("item", "propensity", "reward")

TOLERANCE = 1e-6
"""By how much the sum of rounded probabilities may exceed 1."""

Numbers = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LoggedImpressions:
    """Impressions of a logging policy, and what they earned."""

    table: ExampleTable
    columns: Mapping[str, str]
    """Name of the column of each role that the log has."""
    query_T: Codes
    """Number of the query of each impression, in the order of their first rows."""
    position_T: Codes
    """Index into ``positions``."""
    item_T: pl.Series
    """Item ids as text."""
    propensity_T: Numbers
    """Probability that the logging policy shows the item at the position, in (0, 1]."""
    reward_T: Numbers
    positions: Codes
    """``(K,)`` the positions of the log in ascending order, from 1."""
    propensity_TK: Numbers | None
    """Probability that the logging policy shows the item at each position, if the log has such columns."""
    user_Q: pl.Series | None
    """User id of each query as text."""
    time_Q: Codes | None
    """Time of each query, Unix seconds."""

    @property
    def n_queries(self) -> int:
        """Number of queries."""
        return int(self.query_T.max()) + 1

    @property
    def first_rows(self) -> Codes:
        """First row of each query."""
        return np.unique(self.query_T, return_index=True)[1]

    @property
    def units(self) -> Codes | None:
        """Number of the user of each query; ``None``: the log has no users."""
        return None if self.user_Q is None else self.user_Q.rank("dense").to_numpy().astype(np.int64) - 1

    @property
    def is_shown(self) -> NDArray[np.bool_]:
        """Whether a query has an impression at each position."""
        return self.to_grid(np.ones(len(self.query_T))) > 0

    @property
    def query_ids(self) -> pl.Series:
        """Ids of the queries as text."""
        return read_texts(self.table.frame[self.columns["query"]]).gather(self.first_rows)

    def read_ids(self, table: ExampleTable, role: str) -> pl.Series:
        """Return the ids of a role in another table with the same names of columns."""
        with table.located():
            return _read_ids(table.frame, self.columns[role])

    def read_positions_of(self, table: ExampleTable) -> Codes | None:
        """Return the positions of another table as indices into ``positions``.

        ``None``: it has none.

        Raises:
            ValueError: a position does not occur in the log.
        """
        name = self.columns.get("position", "position")
        if name not in table.columns:
            return None
        with table.located():
            numbers = read_column(table.frame, name, "a position")
            found = np.minimum(np.searchsorted(self.positions, numbers), len(self.positions) - 1)
            if (is_other := self.positions[found] != numbers).any():
                row = int(np.argmax(is_other))
                raise CellError(name, row, f"got {numbers[row]:g}, which is no position of the log")
        return found

    def check_binary(self, why: str) -> None:
        """Check that rewards are clicks.

        Raises:
            CellError: a reward is neither 0 nor 1.
        """
        is_other_T = (self.reward_T != 0) & (self.reward_T != 1)
        if is_other_T.any():
            row = int(np.argmax(is_other_T))
            with self.table.located():
                raise CellError(
                    self.columns["reward"], row, f"got {self.reward_T[row]:g}, expected 0 or 1, because {why}"
                )

    def to_grid(self, values_T: NDArray[Any]) -> Numbers:
        """Arrange values of impressions by query and position, ``(Q, K, ...)``.

        They are 0 where nothing is shown.
        """
        grid = np.zeros((self.n_queries, len(self.positions), *values_T.shape[1:]))
        grid[self.query_T, self.position_T] = values_T
        return grid


def read_impressions(
    source: Any,
    columns: Mapping[str, str] | None = None,
    query: str | None = None,
    separator: str | None = None,
) -> LoggedImpressions:
    """Read a log of impressions.

    Args:
        source: a table, file, folder or database; see :func:`segue.load_examples`.
        columns: name of the column of a role of :data:`ROLES`, where it is another one. ``query`` is the id of the list
            that was shown; without positions, each row is a list by default. ``position`` counts from 1, and is not
            needed for lists of one item. Columns ``propensity_1``, ``propensity_2``, ... are the probabilities that the
            logging policy shows the item of the row at each position.
        query: SQL query whose result is the log, if ``source`` is a database.

    Raises:
        ValueError: a column is missing, or a cell is not usable; the message names file and row.
    """
    try:
        table = read_examples(source, query, separator)
        assert isinstance(table, ExampleTable)
        if not len(table):
            raise ValueError(f"{table.name}: got no rows, expected impressions")
        names = resolve_columns(table, columns)
        with table.located():
            return _read(table, names)
    except ValueError as error:
        raise ValueError(f"log: {error}") from None


def resolve_columns(table: ExampleTable, columns: Mapping[str, str] | None) -> dict[str, str]:
    """Return the column of each role that a table has.

    Raises:
        ValueError: an unknown role, or a column that the table does not have.
    """
    given = dict(columns or {})
    for role, name in given.items():
        if role not in ROLES:
            raise ValueError(f"{arg('columns')}: unknown role '{role}'{suggest(str(role), ROLES)}")
        if not isinstance(name, str) or name not in table.columns:
            raise ValueError(
                f"{arg('columns')}: {table.name} has no column {name!r} for '{role}'{suggest(str(name), table.columns)}"
            )
    if len(set(given.values())) < len(given):
        raise ValueError(f"{arg('columns')}: got {given}, expected a column of its own for each role")
    names = {role: given.get(role, role) for role in ROLES if role in given or role in table.columns}
    for role in REQUIRED:
        if role not in names:
            raise ValueError(
                f"{table.name}: no column '{role}', expected the {role} of each impression; its columns are "
                f"{', '.join(table.columns)}; name it by columns, such as {role}=NAME"
            )
    if "query" not in names and "position" in names:
        raise ValueError(
            f"{table.name}: positions, but no column 'query', expected the id of the list that an impression is of"
        )
    return names


def read_column(frame: pl.DataFrame, name: str, expected: str) -> Numbers:
    """Return a column of numbers, none of which is missing.

    Raises:
        CellError: a cell is missing or no number.
    """
    values_T = read_numbers(frame[name])
    if (is_missing_T := np.isnan(values_T)).any():
        raise CellError(name, int(np.argmax(is_missing_T)), f"got no value, expected {expected}")
    return values_T


def read_probabilities(frame: pl.DataFrame, name: str, *, is_positive: bool = False) -> Numbers:
    """Return a column of probabilities.

    Args:
        is_positive: whether 0 is an error.

    Raises:
        CellError: a cell is missing or no probability.
    """
    expected = "a probability above 0, up to 1" if is_positive else "a probability from 0 to 1"
    values_T = read_column(frame, name, expected)
    is_wrong_T = (values_T <= 0 if is_positive else values_T < 0) | (values_T > 1)
    if is_wrong_T.any():
        row = int(np.argmax(is_wrong_T))
        raise CellError(name, row, f"got {values_T[row]:g}, expected {expected}{_count(is_wrong_T)}")
    return values_T


def read_by_position(frame: pl.DataFrame, name: str, positions: Codes) -> Numbers | None:
    """Return the columns ``NAME_1``, ``NAME_2``, ... of all positions, ``(T, K)``.

    Returns:
        ``None`` if the table has none of them.

    Raises:
        ValueError: one of them is missing, or the probabilities of an item sum to more than 1.
    """
    names = [f"{name}_{position}" for position in positions]
    missing = [one for one in names if one not in frame.columns]
    if len(missing) == len(names):
        return None
    if missing:
        raise ValueError(f"no column '{missing[0]}', expected one for each of the positions {positions.tolist()}")
    values_TK = np.stack([read_probabilities(frame, one) for one in names], axis=1)
    totals_T = values_TK.sum(1)
    if (totals_T > 1 + TOLERANCE).any():
        row = int(np.argmax(totals_T))
        raise CellError(
            names[0], row, f"the probabilities of all positions sum to {totals_T[row]:g}, expected at most 1"
        )
    return values_TK


def _read(table: ExampleTable, names: Mapping[str, str]) -> LoggedImpressions:
    frame = table.frame
    item_T = _read_ids(frame, names["item"])
    propensity_T = read_probabilities(frame, names["propensity"], is_positive=True)
    reward_T = read_column(frame, names["reward"], "a number, such as 1 for a click and 0 for none")
    query_T = _number_by_first_row(_read_ids(frame, names["query"])) if "query" in names else np.arange(len(frame))
    position_T = np.ones(len(frame), np.int64)
    if "position" in names:
        column = frame[names["position"]]
        numbers = read_column(frame, names["position"], "a position: a whole number from 1")
        position_T = read_positions(names["position"], numbers, column)
    positions, position_T = np.unique(position_T, return_inverse=True)
    _check_cells(query_T, position_T, positions, names, frame)
    _check_items(query_T, item_T, positions[position_T], names)
    propensity_TK = read_by_position(frame, names["propensity"], positions)
    if propensity_TK is not None:
        _check_equal(propensity_TK[np.arange(len(frame)), position_T], propensity_T, names["propensity"])
    user_Q = time_Q = None
    first = np.unique(query_T, return_index=True)[1]
    if "user" in names:
        users_T = _read_ids(frame, names["user"])
        _check_constant(users_T, query_T, first, names["user"])
        user_Q = users_T.gather(first)
    if "time" in names:
        times_T = read_times(frame[names["time"]]).dt.epoch("s")
        if times_T.null_count():
            raise CellError(names["time"], int(times_T.is_null().arg_max() or 0), "got no value, expected a time")
        _check_constant(times_T, query_T, first, names["time"])
        time_Q = times_T.gather(first).to_numpy().astype(np.int64)
    return LoggedImpressions(
        table, names, query_T, position_T, item_T, propensity_T, reward_T, positions, propensity_TK, user_Q, time_Q
    )


def _read_ids(frame: pl.DataFrame, name: str) -> pl.Series:
    ids = read_texts(frame[name])
    if ids.null_count():
        raise CellError(name, int(ids.is_null().arg_max() or 0), "got no value, expected an id")
    return ids


def _number_by_first_row(ids: pl.Series) -> Codes:
    """Number values in the order of their first rows."""
    _, first, inverse = np.unique(ids.rank("dense").to_numpy(), return_index=True, return_inverse=True)
    order = np.empty(len(first), np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    return order[inverse]


def _check_cells(
    query_T: Codes, position_T: Codes, positions: Codes, names: Mapping[str, str], frame: pl.DataFrame
) -> None:
    """Check that a query has at most one impression at each position.

    Raises:
        CellError: names the second row of a position.
    """
    cells_T = query_T * len(positions) + position_T
    if len(np.unique(cells_T)) == len(cells_T):
        return
    order = np.argsort(cells_T, kind="stable")
    row = int(order[1:][np.diff(cells_T[order]) == 0].min())
    query = frame[names["query"]][row]
    if "position" not in names:
        raise CellError(
            names["query"], row, f"got a second impression of query {query!r}, expected one, or a column of positions"
        )
    raise CellError(
        names["position"], row, f"got a second impression at position {positions[position_T[row]]} of query {query!r}"
    )


def _check_items(query_T: Codes, item_T: pl.Series, position_T: Codes, names: Mapping[str, str]) -> None:
    """Check that a query shows an item at most once.

    Raises:
        CellError: names the second row of an item.
    """
    item_codes_T = item_T.rank("dense").to_numpy().astype(np.int64)
    pairs_T = query_T * (1 + int(item_codes_T.max())) + item_codes_T
    order = np.argsort(pairs_T, kind="stable")
    if not len(again := np.flatnonzero(np.diff(pairs_T[order]) == 0)):
        return
    row = int(order[again + 1].min())
    first = int(np.argmax(pairs_T == pairs_T[row]))
    raise CellError(
        names["item"],
        row,
        f"got '{item_T[row]}' at position {position_T[row]}, but it is at position {position_T[first]} of the same "
        "query too, expected each item once in a list",
    )


def _check_constant(values_T: pl.Series, query_T: Codes, first_Q: Codes, name: str) -> None:
    """Check that all impressions of a query have the same value.

    Raises:
        CellError: names the first row with another one.
    """
    is_other_T = (values_T != values_T.gather(first_Q[query_T])).to_numpy()
    if is_other_T.any():
        row = int(np.argmax(is_other_T))
        first = int(first_Q[query_T[row]])
        raise CellError(name, row, f"got {values_T[row]!r}, but {values_T[first]!r} in an earlier row of its query")


def _check_equal(by_position_T: Numbers, propensity_T: Numbers, name: str) -> None:
    is_other_T = np.abs(by_position_T - propensity_T) > TOLERANCE
    if is_other_T.any():
        row = int(np.argmax(is_other_T))
        raise CellError(
            name,
            row,
            f"got {propensity_T[row]:g}, but {by_position_T[row]:g} in the column of its position, expected the same",
        )


def _count(is_wrong_T: NDArray[np.bool_]) -> str:
    return f" ({is_wrong_T.sum():,} such rows)" if is_wrong_T.sum() > 1 else ""
