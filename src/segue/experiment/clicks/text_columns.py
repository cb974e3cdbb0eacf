"""Turn columns of text into vectors.

The encoders learn from the training rows alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import polars as pl

from segue.core.config import parse
from segue.core.examples.click_model import ClickModel
from segue.core.examples.settings import ExampleSettings
from segue.core.run import Run
from segue.core.types import TextEncoding
from segue.data.examples.streamed import StreamedTable
from segue.data.examples.table import ExampleRows
from segue.features.text.cache import cache_folder, fit_cached
from segue.features.text.encode_items import ItemTexts, join_texts, vector_column
from segue.features.text.settings import TextSettings

__all__ = ["fit_text_columns", "open_text_columns", "with_text_columns"]

VECTOR = "vector"
"""Name of the feature in the settings of the encoder of each column."""


def fit_text_columns(table: ExampleRows, settings: ExampleSettings, run: Run) -> tuple[TextEncoding, ...]:
    """Fit an encoder to the different texts of each column of kind ``text``.

    Raises:
        ValueError: a column is missing, has no texts or holds something else, the rows are on the disk, or a setting of
            the encoder is invalid.
    """
    names = [name for name, kind in settings.columns.items() if kind == "text"]
    if not names:
        return ()
    if isinstance(table, StreamedTable):
        raise ValueError(f"memory: got 'streamed', but column '{names[0]}' is text, whose encoder needs all rows")
    encodings = []
    for name in names:
        if name not in table.columns:
            continue  # reported with the other missing columns
        values = {"columns": [name], "encoder": settings.text_encoder, "options": dict(settings.text_options)}
        own = _parse({**values, "name": VECTOR if name != VECTOR else f"{VECTOR}s"})
        texts = [text for text in _texts(table.frame, name).unique(maintain_order=True) if text]
        if not texts:
            raise ValueError(f"{table.name}: column '{name}': got no text, expected texts to learn from")
        encoder = own.create()
        fit_cached(encoder, texts, run, cache_folder())
        encodings.append(TextEncoding(own.model_dump(mode="json"), encoder.arrays(), encoder.digest))
    return tuple(encodings)


def _parse(values: dict[str, object]) -> TextSettings:
    """Return the settings of an encoder.

    Errors have the names of the settings of examples.
    """
    try:
        return parse(TextSettings, values, "examples")
    except ValueError as error:
        text = str(error).replace("examples.encoder", "examples.text_encoder")
        raise ValueError(text.replace("examples.options", "examples.text_options")) from None


def _texts(frame: pl.DataFrame, name: str) -> pl.Series:
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
            texts = _texts(table, name)
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
