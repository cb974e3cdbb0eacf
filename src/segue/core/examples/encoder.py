"""Encode tables of examples; fitted on the rows of training.

Shapes: T rows, F fields of categories, K fields of numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.config import suggest
from segue.core.events import Events, Scores
from segue.core.examples.columns import CellError, Column, fit_column, share_codes
from segue.core.examples.fields import Examples, Field
from segue.core.examples.settings import ExampleSettings

__all__ = ["ExampleEncoder", "fit_encoder"]

USER_COLUMNS = ("user", "user_id")
"""Columns that say whose example it is, unless the settings name another."""


@dataclass(frozen=True, eq=False)
class ExampleEncoder:
    """How a table becomes examples."""

    columns: tuple[Column, ...]
    label: str
    user: str | None = None
    unused: Mapping[str, str] | None = None
    """Why columns were left out, by name."""

    @property
    def fields(self) -> tuple[Field, ...]:
        """The inputs of a model."""
        return tuple(field for column in self.columns for field in column.fields)

    def encode(self, table: pl.DataFrame, needs_labels: bool = True) -> Examples:
        """Encode the rows of a table.

        Columns that are not used are ignored. Without ``needs_labels`` the column of labels may be missing.

        Raises:
            ValueError: a column is missing, or a cell does not fit its column.
        """
        wanted = [column.name for column in self.columns] + ([self.label] if needs_labels else [])
        if missing := [name for name in wanted if name not in table.columns]:
            raise ValueError(f"column '{missing[0]}' is missing{suggest(missing[0], table.columns)}")
        n_rows = len(table)
        codes: list[NDArray[np.int32]] = []
        numbers: list[Scores] = []
        lists: dict[str, Events] = {}
        vectors: dict[str, Scores] = {}
        for column in self.columns:
            cells = table[column.name]
            if column.kind in ("category", "time"):
                codes.append(column.codes(cells).reshape(n_rows, len(column.fields)))
            elif column.kind == "number":
                numbers.append(column.numbers(cells).reshape(n_rows, 1))
            elif column.kind == "vector":
                vectors[column.name] = column.vectors(cells)
            else:
                lists[column.name] = column.lists(cells)
        return Examples(
            self.fields,
            np.concatenate([np.zeros((n_rows, 0), np.int32), *codes], axis=1),
            np.concatenate([np.zeros((n_rows, 0), np.float32), *numbers], axis=1),
            lists,
            vectors,
            read_labels(table, self.label) if needs_labels else None,
            None if self.user not in table.columns else table[self.user].cast(pl.String).rank("dense").to_numpy(),
        )


def fit_encoder(table: pl.DataFrame, settings: ExampleSettings) -> ExampleEncoder:
    """Learn from the rows of training how columns are encoded.

    Raises:
        ValueError: a column of the settings is missing, a cell does not fit its column, labels are not 0 or 1 or all
            equal, or no column can be used.
    """
    named = [settings.label, *([settings.user] if settings.user else []), *settings.columns, *settings.buckets]
    named += [*settings.shares, *settings.shares.values()]
    named += list(settings.scaling) if isinstance(settings.scaling, Mapping) else []
    if missing := [name for name in named if name not in table.columns]:
        raise ValueError(f"column '{missing[0]}' is missing{suggest(missing[0], table.columns)}")
    labels = read_labels(table, settings.label)
    if len(labels) == 0 or labels.min() == labels.max():
        got = f"all {len(labels)} labels are {labels[0]:g}" if len(labels) else "there are no rows"
        raise ValueError(f"column '{settings.label}': {got} in training, expected both 0 and 1")
    fitted = {name: fit_column(table[name], settings) for name in table.columns if name != settings.label}
    fitted |= {name: share_codes(fitted[name], fitted[of], settings) for name, of in settings.shares.items()}
    columns = tuple(one for one in fitted.values() if isinstance(one, Column))
    unused = {name: one for name, one in fitted.items() if isinstance(one, str)}
    if not columns:
        raise ValueError(f"no column can be used: {'; '.join(f'{name}: {why}' for name, why in unused.items())}")
    user = settings.user or next((name for name in USER_COLUMNS if name in table.columns), None)
    return ExampleEncoder(columns, settings.label, user, unused)


def read_labels(table: pl.DataFrame, name: str) -> Scores:
    """Return the labels, ``(T,)``.

    Raises:
        ValueError: a label is not 0 or 1; names the row.
    """
    column = table[name]
    numbers: Any = column.cast(pl.Float64, strict=False)
    is_wrong = ~numbers.is_in([0.0, 1.0]).fill_null(False).to_numpy()
    if len(rows := np.flatnonzero(is_wrong)):
        more = f" ({len(rows)} such rows)" if len(rows) > 1 else ""
        raise CellError(name, int(rows[0]), f"got {column[int(rows[0])]!r}, expected 0 or 1{more}")
    return np.asarray(numbers.to_numpy(), np.float32)
