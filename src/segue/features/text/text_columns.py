"""Turn columns of text of a table of examples into vectors, as in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import polars as pl

from segue.core.examples.click_model import ClickModel
from segue.core.types import TextEncoding
from segue.features.text.encode_items import ItemTexts, join_texts, vector_column

__all__ = ["open_text_columns", "read_text_column", "with_text_columns"]


def read_text_column(frame: pl.DataFrame, name: str) -> pl.Series:
    """Return the texts of a column; empty where they are missing.

    Raises:
        ValueError: the column holds something else.
    """
    try:
        return pl.Series(name, join_texts(frame, [name]), dtype=pl.String)
    except ValueError as error:
        raise ValueError(str(error).replace("text.columns: ", "column ")) from None


def open_text_columns(encodings: Sequence[TextEncoding]) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Return a function that replaces the texts of a table by their vectors.

    Empty texts and those without a known word have no vector.

    Raises:
        ValueError: an encoder is not available, or its files are others than at the time of training.
    """
    encoders = ItemTexts(encodings)
    encoders.open()
    names = [str(one.settings["columns"][0]) for one in encodings]

    def encode(table: pl.DataFrame) -> pl.DataFrame:
        for index, name in enumerate(names):
            texts = read_text_column(table, name)
            different = pl.DataFrame({name: texts.unique(maintain_order=True)})
            vectors = vector_column("vector", encoders.encode(index, different))
            joined = texts.to_frame().join(different.with_columns(vectors.alias("__vector__")), on=name, how="left",
                                           maintain_order="left")  # fmt: skip
            table = table.with_columns(joined["__vector__"].alias(name))
        return table

    return encode


def with_text_columns(model: ClickModel) -> ClickModel:
    """Return a model that was read from a folder with its text encoders opened.

    Raises:
        ValueError: see :func:`open_text_columns`.
    """
    if not model.encoder.texts:
        return model
    return replace(model, encoder=replace(model.encoder, encode_texts=open_text_columns(model.encoder.texts)))
