"""Encode tables of examples; fitted on the rows of training.

Shapes: T rows, F fields of categories, K fields of numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.config import suggest
from segue.core.events import Events, Scores
from segue.core.examples.column_fitter import ColumnFitter
from segue.core.examples.columns import CellError, Column, read_texts, share_codes
from segue.core.examples.fields import Examples, Field
from segue.core.examples.settings import ColumnKind, ExampleSettings
from segue.core.types import TextEncoding

__all__ = ["EncoderFitter", "ExampleEncoder", "fit_encoder"]

COLUMN_KINDS = get_args(ColumnKind)

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
    texts: tuple[TextEncoding, ...] = ()
    """How columns of text become vectors."""
    encode_texts: Callable[[pl.DataFrame], pl.DataFrame] | None = None
    """Replaces texts of a table by their vectors; ``None``: a column of text is an error."""

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
        if self.texts:
            if self.encode_texts is None:
                raise ValueError("the model reads text: open it by segue.open_clicks, which opens the text encoder")
            table = self.encode_texts(table)
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
            elif column.kind in ("vector", "text"):
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
            None if self.user not in table.columns else self.rank_users(table[self.user]),
        )

    def rank_users(self, users: pl.Series) -> NDArray[Any]:
        """Return numbers of users in the order of their ids, ``(T,)``.

        They are NaN where users are missing.
        """
        ranks: NDArray[Any] = read_texts(users).rank("dense").to_numpy()
        return ranks


class EncoderFitter:
    """Learns from the rows of training how columns are encoded, in parts or at once.

    Args:
        texts: how columns of text become vectors; ``encode_texts`` replaces them.
    """

    def __init__(
        self,
        settings: ExampleSettings,
        texts: tuple[TextEncoding, ...] = (),
        encode_texts: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
    ) -> None:
        self.settings, self.texts, self.encode_texts = settings, texts, encode_texts
        self.n_rows, self.n_positive = 0, 0
        self.names: list[str] = []
        self.fitters: dict[str, ColumnFitter] = {}

    def update(self, table: pl.DataFrame) -> None:
        """Learn from further rows, which have the columns of the first ones.

        Raises:
            ValueError: a column of the settings is missing, a label is not 0 or 1, or a cell does not fit its column.
        """
        settings = self.settings
        if not self.fitters:
            _check_columns(table, settings)
        if self.encode_texts is not None:
            table = self.encode_texts(table)
        if not self.fitters:
            self.names = table.columns
            inputs = [name for name in table.columns if name not in (settings.label, settings.position)]
            self.fitters = {name: ColumnFitter(name, table.schema[name], settings) for name in inputs}
        labels_T = read_labels(table, settings.label)
        self.n_rows, self.n_positive = self.n_rows + len(labels_T), self.n_positive + int(labels_T.sum())
        for name, fitter in self.fitters.items():
            fitter.update(table[name])

    def finish(self) -> ExampleEncoder:
        """Return the encoder.

        Raises:
            ValueError: there are no rows, all labels are equal, no column can be used, or a setting of a column has no
                effect.
        """
        settings = self.settings
        if self.n_positive in (0, self.n_rows):
            got = f"all {self.n_rows} labels are {int(self.n_positive > 0)}" if self.n_rows else "there are no rows"
            raise ValueError(f"column '{settings.label}': {got} in training, expected both 0 and 1")
        fitted = {name: fitter.finish() for name, fitter in self.fitters.items()}
        fitted |= {name: share_codes(fitted[name], fitted[of], settings) for name, of in settings.shares.items()}
        _check_uses(fitted, settings)
        columns = tuple(one for one in fitted.values() if isinstance(one, Column))
        _check_field_names(columns)
        unused = {name: one for name, one in fitted.items() if isinstance(one, str)}
        if not columns:
            raise ValueError(f"no column can be used: {'; '.join(f'{name}: {why}' for name, why in unused.items())}")
        if settings.separator is not None and not any(one.kind in ("tags", "sequence") for one in columns):
            raise ValueError(
                f"examples.separator: got '{settings.separator}', which no column uses; columns of lists that are "
                'written as text need a kind, such as columns={"genres": "tags"}'
            )
        user = settings.user or next((name for name in USER_COLUMNS if name in self.names), None)
        return ExampleEncoder(columns, settings.label, user, unused, self.texts, self.encode_texts)


def fit_encoder(table: pl.DataFrame, settings: ExampleSettings) -> ExampleEncoder:
    """Learn from the rows of training how columns are encoded.

    Raises:
        ValueError: a column of the settings is missing, a cell does not fit its column, labels are not 0 or 1 or all
            equal, or no column can be used.
    """
    fitter = EncoderFitter(settings)
    fitter.update(table)
    return fitter.finish()


def _check_columns(table: pl.DataFrame, settings: ExampleSettings) -> None:
    """Check that all columns of the settings are in the table."""
    named = [settings.label, *([settings.user] if settings.user else []), *settings.columns, *settings.buckets]
    named += [*settings.shares, *settings.shares.values()]
    named += list(settings.scaling) if isinstance(settings.scaling, Mapping) else []
    named += [name for name in (settings.position, settings.position_item) if name is not None]
    if missing := [name for name in named if name not in table.columns]:
        raise ValueError(f"column '{missing[0]}' is missing{suggest(missing[0], table.columns)}")


def _check_field_names(columns: Sequence[Column]) -> None:
    """Check that no column has the name of an input that a time becomes.

    Raises:
        ValueError: one has.
    """
    names = {column.name for column in columns}
    for column in columns:
        if twice := [one.name for one in column.fields if one.name in names - {column.name}]:
            raise ValueError(
                f"column '{twice[0]}': the time '{column.name}' becomes an input of this name; rename one of the "
                f'columns, or leave one out, such as columns={{"{column.name}": "ignore"}}'
            )


def _check_uses(fitted: Mapping[str, Column | str], settings: ExampleSettings) -> None:
    """Check that settings of single columns have an effect.

    Columns that are left out need none.

    Raises:
        ValueError: a column is the label or the position, or has a kind that does not read the setting.
    """
    kinds = {name: one.kind for name, one in fitted.items() if isinstance(one, Column)}
    inputs = [name for name, kind in settings.columns.items() if kind != "ignore"]
    scaled = settings.scaling if isinstance(settings.scaling, Mapping) else {}
    for group, names, expected in (
        ("columns", inputs, COLUMN_KINDS),
        ("buckets", settings.buckets, ("category", "tags", "sequence")),
        ("scaling", scaled, ("number",)),
    ):
        for name in names:
            if name not in fitted:
                raise ValueError(f"examples.{group}: got '{name}', which is no input, expected another column")
            if name in kinds and kinds[name] not in expected:
                raise ValueError(
                    f"examples.{group}: got '{name}', which is a {kinds[name]}, expected a {' or '.join(expected)}"
                )


def read_labels(table: pl.DataFrame, name: str) -> Scores:
    """Return the labels, ``(T,)``.

    Raises:
        ValueError: a label is not 0 or 1; names the row. Or the type of the column has no such values.
    """
    column = table[name]
    if column.dtype.is_nested() or column.dtype.is_temporal():
        raise ValueError(f"column '{name}': got the type {column.dtype}, expected labels of 0 or 1")
    numbers: Any = column.cast(pl.Float64, strict=False)
    is_wrong = ~numbers.is_in([0.0, 1.0]).fill_null(False).to_numpy()
    if len(rows := np.flatnonzero(is_wrong)):
        more = f" ({len(rows)} such rows)" if len(rows) > 1 else ""
        raise CellError(name, int(rows[0]), f"got {column[int(rows[0])]!r}, expected 0 or 1{more}")
    return np.asarray(numbers.to_numpy(), np.float32)
