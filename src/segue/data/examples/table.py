"""Define a table of labeled examples whose rows can be located in its source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.examples.columns import CellError
from segue.data.raw_log import SourceLocation

__all__ = [
    "PART",
    "PARTS",
    "ExampleRows",
    "ExampleTable",
    "Part",
    "combine_hashes",
    "combined_schema",
    "concatenate",
    "join_parts",
]

Part: TypeAlias = Literal["train", "valid", "test"]
PARTS: tuple[Part, ...] = ("train", "valid", "test")

PART = "part"
"""Column of a table with given parts, whose values are those of :data:`PARTS`."""


HASH_ROWS = 100_000
"""Rows whose categories are converted to text at a time, to hash them."""


class ExampleRows(ABC):
    """Labeled examples, in memory or on the disk: a label and any other columns."""

    if TYPE_CHECKING:  # fields of dataclasses do not implement abstract properties

        @property
        def frame(self) -> pl.DataFrame:
            """All rows in memory."""

        @property
        def location(self) -> SourceLocation:
            """Where the rows were read from."""

        @property
        def notes(self) -> tuple[str, ...]:
            """Decisions of the reader, and warnings of the source."""

        @property
        def part_column(self) -> str | None:
            """Column with the part of each row, if the source gives parts.

            It is no input of a model.
            """

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """Names of all columns."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows."""

    @abstractmethod
    def tables(self) -> Iterator[ExampleTable]:
        """Yield the rows in their order, in one or several tables."""

    @abstractmethod
    def narrow(self, column: str) -> ExampleTable:
        """Return a table in memory that has at least this column."""

    @abstractmethod
    def select(self, parts_T: NDArray[np.integer[Any]], number: int) -> ExampleRows:
        """Return the rows whose number in ``parts_T`` is ``number``, in their order."""

    @abstractmethod
    def drop(self, column: str) -> ExampleRows:
        """Return the table without a column."""

    @abstractmethod
    def without_parts(self) -> ExampleRows:
        """Return the table without the column of parts."""

    @property
    def name(self) -> str:
        """File, dataset, address of the database, or type of the in-memory table."""
        return self.location.name

    @property
    def rows_hash(self) -> str:
        """Hash of the rows, whatever their order."""
        return combine_hashes(f"{_hash_rows(table.frame):x}" for table in self.tables())


@dataclass(frozen=True, eq=False)
class ExampleTable(ExampleRows):
    """Labeled examples in memory, as read from a source."""

    frame: pl.DataFrame
    location: SourceLocation
    notes: tuple[str, ...] = ()
    part_column: str | None = None

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def columns(self) -> list[str]:
        """Names of all columns."""
        return self.frame.columns

    def take(self, rows: NDArray[np.integer[Any]]) -> ExampleTable:
        """Return rows by index, in the order of ``rows``."""
        before = self.location.selected
        selected = np.asarray(rows, np.int64) if before is None else before[rows]
        return replace(self, frame=self.frame[rows], location=replace(self.location, selected=selected))

    def tables(self) -> Iterator[ExampleTable]:
        """Yield the table itself."""
        yield self

    def narrow(self, column: str) -> ExampleTable:
        """Return the table itself."""
        return self

    def select(self, parts_T: NDArray[np.integer[Any]], number: int) -> ExampleTable:
        """Return the rows whose number in ``parts_T`` is ``number``, in their order."""
        return self.take(np.flatnonzero(parts_T == number))

    def drop(self, column: str) -> ExampleTable:
        """Return the table without a column."""
        part_column = None if column == self.part_column else self.part_column
        return replace(self, frame=self.frame.drop(column), part_column=part_column)

    def without_parts(self) -> ExampleTable:
        """Return the table without the column of parts."""
        return self if self.part_column is None else self.drop(self.part_column)

    @contextmanager
    def located(self) -> Iterator[None]:
        """Let errors name the source, and those in a cell the place of its row."""
        try:
            yield
        except CellError as error:
            where = self.location.describe_row(error.row)
            raise ValueError(f"{where}, column '{error.column}': {error.problem}") from None
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None


def combine_hashes(hashes: Iterable[str]) -> str:
    """Return the hash of the rows of several tables together."""
    return f"{sum(int(one, 16) for one in hashes) % 2**64:016x}"


def _hash_rows(frame: pl.DataFrame) -> int:
    """Return the sum of the hashes of all rows.

    It depends on the texts of categories, not on their codes.
    """
    lists = [name for name, kind in frame.schema.items() if getattr(kind, "inner", None) == pl.Categorical]
    total = 0
    for rows in frame.iter_slices(HASH_ROWS):
        texts = rows.with_columns(pl.col(pl.Categorical).cast(pl.String), pl.col(lists).cast(pl.List(pl.String)))
        total += int(texts.hash_rows(0).cast(pl.UInt128).sum() or 0)
    return total


def combined_schema(schemas: Sequence[tuple[str, pl.Schema]]) -> pl.Schema:
    """Return the types of the columns of several files together.

    They are combined as by :func:`concatenate`.

    Args:
        schemas: name and types of each file.

    Raises:
        ValueError: files have different columns, or columns of types that cannot be combined.
    """
    empty = [ExampleTable(pl.DataFrame(schema=schema), SourceLocation(name)) for name, schema in schemas]
    return concatenate(empty).frame.schema


def concatenate(tables: Sequence[ExampleTable]) -> ExampleTable:
    """Concatenate the rows of tables that were read from files of one format.

    Raises:
        ValueError: the tables have different columns, or columns of types that cannot be combined.
    """
    first = tables[0]
    if len(tables) == 1:
        return first
    for table in tables:
        if set(table.frame.columns) != set(first.frame.columns):
            got, expected = (", ".join(sorted(one.frame.columns)) for one in (table, first))
            raise ValueError(f"{table.name}: got the columns {got}, expected {expected} as in {first.name}")
    schemas = [table.frame.schema for table in tables]
    mixed = [name for name in first.frame.columns if any((one[name] == pl.String) for one in schemas)]
    frames = [_as_text(table.frame, mixed).select(first.frame.columns) for table in tables]
    try:
        frame = pl.concat(frames, how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{first.name} and {tables[-1].name}: columns of different types: {error}") from None
    locations: list[SourceLocation] = []
    for table in tables:
        parts = (table.location, *table.location.next_files)
        locations += [replace(one, rows=one.rows or len(table), next_files=()) for one in parts]
    location = replace(locations[0], next_files=tuple(locations[1:]))
    notes = tuple(dict.fromkeys(note for table in tables for note in table.notes))
    return ExampleTable(frame, location, notes, first.part_column)


def _as_text(frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """Convert columns to text, if their type allows it; lists are left as they are."""
    return frame.with_columns(frame[name].cast(pl.String) for name in columns if not frame.schema[name].is_nested())


def join_parts(parts: dict[Part, ExampleTable]) -> ExampleTable:
    """Return one table of separate parts.

    The column :data:`PART` says which part a row belongs to.


    Raises:
        ValueError: a table has a column of that name, or the tables do not have the same columns.
    """
    tables: list[ExampleTable] = []
    expected = set(parts["train"].frame.columns)
    for part, table in parts.items():
        if set(table.frame.columns) != expected:
            got, wanted = (", ".join(sorted(names)) for names in (table.frame.columns, expected))
            raise ValueError(
                f"{part}: got the columns {got} in {table.name}, expected {wanted} as in the training part"
            )
        if PART in table.frame.columns:
            raise ValueError(
                f"{table.name}: got a column '{PART}' and separate files for the parts, expected one of them; rename it"
            )
        tables.append(replace(table, frame=table.frame.with_columns(pl.lit(part).alias(PART)), part_column=PART))
    return concatenate(tables)
