"""Read tables of examples in Parquet files by row groups, never as a whole.

Shapes: T rows of the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.data import event_files
from segue.data.examples.table import PART, ExampleRows, ExampleTable, Part, combined_schema
from segue.data.raw_log import SourceLocation

__all__ = ["RowGroup", "StreamedTable", "join_streamed", "open_streamed"]


@dataclass(frozen=True)
class RowGroup:
    """Consecutive rows of a file, which are read at once."""

    path: Path
    start: int
    """First row in the file."""
    first: int
    """First row in the table."""
    rows: int


@dataclass(frozen=True, eq=False)
class StreamedTable(ExampleRows):
    """Labeled examples that stay on the disk."""

    groups: tuple[RowGroup, ...]
    schema: pl.Schema
    location: SourceLocation
    notes: tuple[str, ...] = ()
    part_column: str | None = None
    group_parts: tuple[Part, ...] = ()
    """Part of each row group, where the parts are separate files."""
    selected: NDArray[np.int8] | None = None
    """``(T,)`` number of each row; ``None``: all rows are in the table."""
    number: int = 0
    """Rows of this number are in the table."""
    dropped: tuple[str, ...] = ()
    """Columns that are left out."""

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Number of rows of each row group that are in the table."""
        if self.selected is None:
            return tuple(group.rows for group in self.groups)
        parts = (self.selected[group.first : group.first + group.rows] for group in self.groups)
        return tuple(int((part == self.number).sum()) for part in parts)

    @property
    def columns(self) -> list[str]:
        """Names of all columns."""
        return [name for name in self.schema if name not in self.dropped]

    @property
    def frame(self) -> pl.DataFrame:
        """All rows, which are read into memory."""
        return pl.concat([self.empty().frame, *(table.frame for table in self.tables())])

    def __len__(self) -> int:
        return sum(self.counts)

    def empty(self) -> ExampleTable:
        """Return a table without rows, with the same columns."""
        return ExampleTable(pl.DataFrame(schema=self.schema).drop(self.dropped), self.location, self.notes)

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[ExampleTable]:
        """Yield the rows in their order, by row groups."""
        for index, count in enumerate(self.counts):
            if count:
                yield self.read_group(index, columns)

    def read_group(self, index: int, columns: Sequence[str] | None = None) -> ExampleTable:
        """Read the rows of a row group that are in the table.

        Args:
            columns: columns to read; ``None``: all.
        """
        group = self.groups[index]
        wanted = self.columns if columns is None else list(columns)
        lazy = pl.scan_parquet(group.path, glob=False, hive_partitioning=False).slice(group.start, group.rows)
        partitions = event_files.read_partitions(group.path)
        stored = set(lazy.collect_schema().names())
        found = lazy.select(name for name in wanted if name in stored).collect()
        added = {name: partitions.get(name) for name in wanted if name not in stored}
        if PART in added and self.group_parts:
            added[PART] = self.group_parts[index]
        cells = {name: pl.repeat(text, group.rows, dtype=pl.String, eager=True) for name, text in added.items()}
        cells_of = {**found.to_dict(), **cells}
        frame = pl.DataFrame({name: cells_of[name].cast(self.schema[name]) for name in wanted})
        rows = np.arange(group.rows)
        if self.selected is not None:
            rows = np.flatnonzero(self.selected[group.first : group.first + group.rows] == self.number)
            frame = frame[rows]
        location = replace(self.location, selected=group.first + rows)
        part_column = self.part_column if self.part_column in frame.columns else None
        return ExampleTable(frame, location, self.notes, part_column)

    def narrow(self, column: str) -> ExampleTable:
        """Return a table in memory of one column alone."""
        frames = [table.frame for table in self.tables([column])]
        empty = pl.DataFrame(schema={column: self.schema[column]})
        location = self.location
        if self.selected is not None:
            location = replace(location, selected=np.flatnonzero(self.selected == self.number))
        return ExampleTable(pl.concat([empty, *frames]), location, self.notes, self.part_column)

    def select(self, parts_T: NDArray[np.integer[Any]], number: int) -> StreamedTable:
        """Return the rows whose number in ``parts_T`` is ``number``, in their order."""
        selected = np.asarray(parts_T, np.int8)
        if self.selected is not None:
            selected = np.full(len(self.selected), -1, np.int8)
            selected[self.selected == self.number] = parts_T
        return replace(self, selected=selected, number=number)

    def drop(self, column: str) -> StreamedTable:
        """Return the table without a column."""
        part_column = None if column == self.part_column else self.part_column
        return replace(self, dropped=(*self.dropped, column), part_column=part_column)

    def without_parts(self) -> StreamedTable:
        """Return the table without the column of parts."""
        return self if self.part_column is None else self.drop(self.part_column)


def open_streamed(paths: Sequence[Path], address: str) -> StreamedTable:
    """Read the row groups of Parquet files, without their rows.

    Raises:
        ValueError: a file is not Parquet, files have different columns, there are no rows, or pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise ValueError("pyarrow is not installed: pip install 'segue[parquet]'") from None
    groups: list[RowGroup] = []
    locations, schemas = [], []
    total = 0
    for path in paths:
        if event_files.format_of(path) != ".parquet":
            raise ValueError(f"memory: got 'streamed', but {path} is not Parquet, which alone is read by row groups")
        try:
            about = pyarrow.parquet.read_metadata(path)
            schema = pl.read_parquet_schema(path)
        except (pyarrow.ArrowException, pl.exceptions.PolarsError, OSError) as error:
            raise ValueError(f"{path}: not a readable .parquet file: {str(error).splitlines()[0]}") from None
        partitions = [name for name in event_files.read_partitions(path) if name not in schema]
        kinds: dict[str, Any] = {**schema, **dict.fromkeys(partitions, pl.String)}
        schemas.append((str(path), pl.Schema(kinds)))
        start = 0
        for index in range(about.num_row_groups):
            rows = about.row_group(index).num_rows
            if rows:
                groups.append(RowGroup(path, start, total + start, rows))
            start += rows
        locations.append(SourceLocation(str(path), 1, "row", start))
        total += start
    if not total:
        raise ValueError(f"{address}: got no rows, expected examples")
    location = replace(locations[0], next_files=tuple(locations[1:]))
    return StreamedTable(tuple(groups), combined_schema(schemas), location)


def join_streamed(parts: dict[Part, StreamedTable]) -> StreamedTable:
    """Return one table of separate parts.

    The column :data:`segue.data.examples.table.PART` says which part a row belongs to.

    Raises:
        ValueError: a table has a column of that name, or the tables do not have the same columns.
    """
    groups: list[RowGroup] = []
    group_parts: list[Part] = []
    locations: list[SourceLocation] = []
    total = 0
    for part, table in parts.items():
        if PART in table.schema:
            raise ValueError(
                f"{table.name}: got a column '{PART}' and separate files for the parts, expected one of them; rename it"
            )
        groups += [replace(group, first=total + group.first) for group in table.groups]
        group_parts += [part] * len(table.groups)
        locations += [replace(one, next_files=()) for one in (table.location, *table.location.next_files)]
        total += len(table)
    schema = combined_schema([(f"{part}: {table.name}", table.schema) for part, table in parts.items()])
    location = replace(locations[0], next_files=tuple(locations[1:]))
    kinds: dict[str, Any] = {**schema, PART: pl.String}
    return StreamedTable(tuple(groups), pl.Schema(kinds), location, (), PART, tuple(group_parts))
