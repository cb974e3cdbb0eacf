"""Queries with the names that the caller has for them, and notes on each.

Shapes: N queries.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from segue.core.types import Queries
from segue.experiment.inference.code_mapping import list_ids

__all__ = ["QueryBatch"]


@dataclass(frozen=True, eq=False)
class QueryBatch:
    """Queries with the caller's names for them."""

    queries: Queries
    keys: pl.Series
    """``(N,)`` user ids, or numbers from 0; its name is the column of the result: ``user_id`` or ``query``."""
    notes: dict[int, list[str]] = field(default_factory=dict)
    """Per query, what could not be taken into account."""
    warnings: list[str] = field(default_factory=list)
    """The same for all queries together, to be issued as one warning."""
    unknown: dict[str, list[str]] = field(default_factory=dict)
    """Ids that could not be used, by what they are, such as ``items not in the catalog``; part of the warning."""

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def messages(self) -> list[str]:
        """Every text of the warning, once: unknown ids, and then the rest."""
        texts = [f"{what}: {list_ids(list(dict.fromkeys(ids)))}" for what, ids in self.unknown.items()]
        return list(dict.fromkeys([*texts, *self.warnings]))

    def note(self, row: int, text: str) -> None:
        """Add a note to a query."""
        self.notes.setdefault(row, []).append(text)

    def note_rows(self, rows: Iterable[int], text: str) -> None:
        """Add a note to some queries, and one warning if there are any."""
        for row in (found := list(rows)):
            self.note(row, text)
        if found:
            self.warnings.append(text)

    def note_all(self, text: str) -> None:
        """Add a note to every query, and one warning."""
        self.note_rows(range(len(self)), text)

    def note_items(self, row_T: Any, unknown: Sequence[str], what: str) -> None:
        """Note ids that are not in the catalog.

        Args:
            row_T: query of each id.
        """
        by_row: dict[int, list[str]] = {}
        for row, item in zip(row_T, unknown, strict=True):
            by_row.setdefault(int(row), []).append(item)
        for row, items in by_row.items():
            self.note(row, f"{what} not in the catalog: {list_ids(items)}")
        if unknown:
            self.unknown.setdefault(f"{what} not in the catalog", []).extend(unknown)
