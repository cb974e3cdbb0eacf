"""Split a table of labeled examples into training, validation and test.

Shapes: T rows, G groups of rows that stay together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, TypeAlias, get_args

import numpy as np
import polars as pl
from annotated_types import Ge, Lt
from numpy.typing import NDArray
from pydantic import model_validator

from segue.core.config import Settings, parse, reject_unused, suggest
from segue.data.examples.table import PARTS, ExampleRows, ExampleTable, combine_hashes

__all__ = ["ExampleSplit", "ExampleSplitSettings", "ExampleSplitStrategy", "split_table"]

ExampleSplitStrategy: TypeAlias = Literal["random", "time", "user", "given"]

USER_COLUMNS = ("user", "user_id")

Rows: TypeAlias = NDArray[np.int64]


class ExampleSplitSettings(Settings):
    """How a table of examples is split."""

    strategy: ExampleSplitStrategy | None = None
    """``random``; ``time``, the newest rows are the test and those before validation; ``user``, all rows of a user are
    in one part; ``given``, by a column. None: ``given`` if the table has given parts, else ``random``."""
    valid: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of the rows that is validation; 0: none."""
    test: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of the rows that is the test; 0: none."""
    column: str | None = None
    """Column of the times, of the users (none: ``user`` or ``user_id``), or of the given parts, with the values
    ``train``, ``valid`` and ``test`` (none: that of the table, which is then no input)."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of ``random`` and ``user``."""

    @model_validator(mode="after")
    def _check(self) -> ExampleSplitSettings:
        if self.valid + self.test >= 1:
            raise ValueError(f"test: got {self.test:g} with valid={self.valid:g}, expected a sum below 1")
        if self.strategy is not None:
            uses = {
                "column": (self.strategy != "random", "the strategies time, user and given"),
                "valid": (self.strategy != "given", "the strategies random, time and user"),
                "test": (self.strategy != "given", "the strategies random, time and user"),
                "seed": (self.strategy in ("random", "user"), "the strategies random and user"),
            }
            reject_unused(self, uses)
        return self


@dataclass(frozen=True, eq=False)
class ExampleSplit:
    """The parts of a table; a part may be empty."""

    train: ExampleRows
    valid: ExampleRows
    test: ExampleRows
    settings: ExampleSplitSettings
    """With the strategy and the column that were used."""

    @cached_property
    def rows_hash(self) -> str:
        """Hash of the rows of all parts, whatever their order."""
        return combine_hashes(one.rows_hash for one in (self.train, self.valid, self.test))


def split_table(table: ExampleRows, settings: ExampleSplitSettings) -> ExampleSplit:
    """Split a table; rows keep their order within the parts.

    Of a table on the disk, only the column is read that the split depends on.

    Raises:
        ValueError: a column is missing or has unusable values, or a part would be empty.
    """
    strategy = settings.strategy or ("given" if table.part_column else "random")
    column = _column_of(table, strategy, settings.column)
    values = settings.model_dump() | {"strategy": strategy, "column": column}
    used = parse(ExampleSplitSettings, values, "split")
    if strategy == "given":
        assert column is not None
        parts_T = _given(table.narrow(column), column)
        inputs = table.drop(column)
    else:
        _check_size(table, used)
        if strategy == "random":
            groups_T: Rows = np.random.default_rng(used.seed).permutation(len(table))
        else:
            assert column is not None
            groups_T = _ordered_groups(table.narrow(column), column, used.seed if strategy == "user" else None)
        parts_T = _cut(groups_T, used)
        inputs = table.without_parts()
    train, valid, test = (inputs.select(parts_T, number) for number in range(len(PARTS)))
    shares = {"train": 1.0, "valid": used.valid, "test": used.test}
    for part, rows in zip(PARTS, (train, valid, test), strict=True):
        if not len(rows) and (part == "train" or (strategy != "given" and shares[part] > 0)):
            raise ValueError(
                f"split: no rows of {table.name} are left for {part}, expected some; there are {len(table)} rows"
                + (f" and few different values of '{column}'" if column else "")
            )
    return ExampleSplit(train, valid, test, used)


def _column_of(table: ExampleRows, strategy: ExampleSplitStrategy, given: str | None) -> str | None:
    """Return the column that a strategy reads.

    Raises:
        ValueError: it is missing.
    """
    assert strategy in get_args(ExampleSplitStrategy)
    columns = table.columns
    if given is None and strategy == "user":
        given = next((name for name in USER_COLUMNS if name in columns), None)
    if given is None and strategy == "given":
        given = table.part_column
    if given is None and strategy != "random":
        raise ValueError(
            f"split.column: got none, expected a column of {table.name} for '{strategy}', such as column=..."
        )
    if given is not None and given not in columns:
        raise ValueError(f"split.column: '{given}' is no column of {table.name}{suggest(given, columns)}")
    return given


def _check_size(table: ExampleRows, settings: ExampleSplitSettings) -> None:
    wanted = 1 + (settings.valid > 0) + (settings.test > 0)
    if len(table) < wanted:
        raise ValueError(f"split: got {len(table)} rows in {table.name}, expected at least {wanted}")


def _given(table: ExampleTable, column: str) -> Rows:
    """Return the number of the part of each row, ``(T,)``."""
    cells = table.frame[column].cast(pl.String)
    numbers: Mapping[str, int] = {part: number for number, part in enumerate(PARTS)}
    found = cells.replace_strict(numbers, default=None, return_dtype=pl.Int64)
    if found.null_count():
        row = int(found.is_null().arg_max() or 0)
        raise ValueError(
            f"{table.location.describe_row(row)}, column '{column}': got {cells[row]!r}, expected {', '.join(PARTS)}"
        )
    return found.to_numpy()


def _ordered_groups(table: ExampleTable, column: str, seed: int | None) -> Rows:
    """Return the number of the group of each row.

    Groups are in the order of the values, or shuffled with ``seed``.
    """
    cells = table.frame[column]
    if cells.dtype.is_float():
        cells = cells.fill_nan(None)
    if cells.null_count():
        row = int(cells.is_null().arg_max() or 0)
        raise ValueError(f"{table.location.describe_row(row)}, column '{column}': got an empty cell, expected a value")
    if cells.dtype.is_nested():
        raise ValueError(f"split.column: '{column}' has the type {cells.dtype}, expected single values")
    if seed is None and cells.dtype == pl.String:
        raise ValueError(
            f"split.column: '{column}' is text, such as {cells[0]!r}, whose order is not that of time; expected "
            "numbers or dates"
        )
    groups_T: Rows = cells.rank("dense").to_numpy().astype(np.int64) - 1
    if seed is None:
        return groups_T
    order_G = np.random.default_rng(seed).permutation(int(groups_T.max()) + 1)
    return order_G[groups_T]


def _cut(groups_T: Rows, settings: ExampleSplitSettings) -> Rows:
    """Cut the groups in their order.

    The first ones are training, the last ones the test. A cut is between two groups, as near as possible to the wanted
    share.

    Returns:
        the number of the part of each row, ``(T,)``.
    """
    ends_G = np.cumsum(np.bincount(groups_T))
    n_rows = len(groups_T)
    bounds = np.concatenate([[0], ends_G])  # number of rows before each possible cut
    cuts = [int(np.abs(bounds - n_rows * share).argmin()) for share in _shares_before(settings)]
    # a wanted part has at least one group, where there are enough
    if settings.test > 0:
        cuts[1] = min(cuts[1], len(ends_G) - 1)
    if settings.valid > 0:
        cuts[0] = min(cuts[0], cuts[1] - 1)
    cuts[0] = min(cuts[0], cuts[1])
    return np.searchsorted(np.asarray(cuts), groups_T, side="right").astype(np.int64)


def _shares_before(settings: ExampleSplitSettings) -> tuple[float, float]:
    return 1 - settings.valid - settings.test, 1 - settings.test
