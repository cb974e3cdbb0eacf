"""Find columns none of whose values is known from training.

A column with other ids than in training, or of another kind, says nothing about its rows: all of them are encoded as
unknown. The probabilities are still valid, but they are those of rows without this column.

Shapes: T rows.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.examples.encoder import ExampleEncoder
from segue.core.examples.fields import MISSING, UNKNOWN, Examples, fields_of_kind

__all__ = ["UnknownValues"]


class UnknownValues:
    """Columns whose values are all unknown in the rows so far.

    Args:
        encoder: how the columns are encoded.
        name: name of the table for the notes; empty: none.
    """

    def __init__(self, encoder: ExampleEncoder, name: str = "") -> None:
        self._texts = [column.name for column in encoder.columns if column.kind == "text"]
        self._where = f" of {name}" if name else ""
        self._is_unknown: dict[str, bool] = {}  # columns without a value are left out

    def update(self, table: pl.DataFrame, examples: Examples) -> None:
        """Look at further rows, and how they are encoded."""
        for at, field in enumerate(fields_of_kind(examples.fields, "category")):
            self._add_codes(field.name, examples.codes[:, at])
        for name, lists in examples.lists.items():
            self._add_codes(name, lists.items)
        for name in self._texts:
            texts = table[name]
            if texts.dtype == pl.List:
                texts = texts.cast(pl.List(pl.String)).list.join(" ", ignore_nulls=True)
            texts = texts.cast(pl.String)
            has_text_T = (texts.is_not_null() & (texts.str.strip_chars() != "")).to_numpy()
            if has_text_T.any():
                vectors_TW = examples.vectors[name][has_text_T]
                self._add(name, is_unknown=bool(np.isnan(vectors_TW).any(1).all()))

    def _add_codes(self, name: str, codes: NDArray[np.integer]) -> None:
        codes = codes[codes != MISSING]
        if len(codes):
            self._add(name, is_unknown=bool((codes == UNKNOWN).all()))

    def _add(self, name: str, *, is_unknown: bool) -> None:
        self._is_unknown[name] = self._is_unknown.get(name, True) and is_unknown

    def notes(self) -> list[str]:
        """Return one note per column none of whose values is known."""
        names = [name for name, is_unknown in self._is_unknown.items() if is_unknown]
        return [f"column '{name}'{self._where}: none of its values is known from training" for name in names]
