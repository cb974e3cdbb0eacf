"""Define a table of labeled examples whose rows can be located in its source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.examples.columns import CellError
from segue.data.raw_log import SourceLocation

__all__ = ["PART", "PARTS", "ExampleTable", "Part", "concatenate", "join_parts"]

Part: TypeAlias = Literal["train", "valid", "test"]
PARTS: tuple[Part, ...] = ("train", "valid", "test")

PART = "part"
"""Column of a table with given parts, whose values are those of :data:`PARTS`."""


@dataclass(frozen=True, eq=False)
class ExampleTable:
    """Labeled examples as read from a source: a label and any other columns."""

    frame: pl.DataFrame
    location: SourceLocation
    notes: tuple[str, ...] = ()
    """Decisions of the reader, and warnings of the source."""
    part_column: str | None = None
    """Column with the part of each row, if the source gives parts; it is no input of a model."""

    @property
    def name(self) -> str:
        """File, dataset, address of the database, or type of the in-memory table."""
        return self.location.name

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, rows: NDArray[np.integer[Any]]) -> ExampleTable:
        """Return rows by index, in the order of ``rows``."""
        before = self.location.selected
        selected = np.asarray(rows, np.int64) if before is None else before[rows]
        return replace(self, frame=self.frame[rows], location=replace(self.location, selected=selected))

    def without_parts(self) -> ExampleTable:
        """Return the table without the column of parts."""
        if self.part_column is None:
            return self
        return replace(self, frame=self.frame.drop(self.part_column), part_column=None)

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
