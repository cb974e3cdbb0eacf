"""Encode the text of items and users as a feature of theirs.

Every model that reads item or user features can use it.

Shapes: I items, N new items, D numbers per vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from segue.core.config import parse, suggest
from segue.core.run import Run
from segue.core.types import Dataset, TextEncoding
from segue.features.text.cache import encode_cached, fit_cached
from segue.features.text.encoder import TextEncoder, Vectors
from segue.features.text.settings import TextSettings

__all__ = ["ItemTexts", "add_text_features", "encode_table", "join_texts", "vector_column"]

Log = Callable[[str], None]

TEXT_TYPES = (pl.String, pl.Categorical, pl.Enum)


def add_text_features(
    data: Dataset,
    settings: TextSettings,
    run: Run,
    cache: Path | None = None,
    log: Log | None = None,
) -> Dataset:
    """Add the vectors of the texts of items and users to their features.

    The encoder learns from the texts of the whole catalog, or of all users, of which no event is read.

    Args:
        run: provides seed, device and progress.
        cache: folder of cached vectors, such as :func:`segue.features.text.cache.cache_folder`; ``None``: nothing is
            cached.
        log: receives what was encoded.

    Returns:
        A dataset whose item features, or user features, have the column ``settings.name``, a list of numbers per row or
        null, and whose ``text_encodings``, or ``user_text_encodings``, can encode new items and users. Without columns
        in the settings, ``data`` itself.

    Raises:
        ValueError: a column is missing or holds no text, the name is taken, no item or user has a text, or the encoder
            is not available.
    """
    tables = {
        "item": _feature_table(data, settings.name, settings.columns, "item") if settings.columns else None,
        "user": _feature_table(data, settings.name, settings.user_columns, "user") if settings.user_columns else None,
    }
    if (items := tables["item"]) is not None:
        one = settings.model_copy(update={"user_columns": ()})
        column, encoding = _encode_column(items, one, run, cache, log, "item")
        table, encodings = items.with_columns(column).lazy(), (*data.text_encodings, encoding)
        data = replace(data, item_features=table, text_encodings=encodings)
    if (users := tables["user"]) is not None:
        one = settings.model_copy(update={"columns": settings.user_columns, "user_columns": ()})
        column, encoding = _encode_column(users, one, run, cache, log, "user")
        table, encodings = users.with_columns(column).lazy(), (*data.user_text_encodings, encoding)
        data = replace(data, user_features=table, user_text_encodings=encodings)
    return data


def _encode_column(
    table: pl.DataFrame, settings: TextSettings, run: Run, cache: Path | None, log: Log | None, kind: str
) -> tuple[pl.Series, TextEncoding]:
    """Return the column of vectors, and how to encode further rows."""
    setting = "text.user_columns" if kind == "user" else "text.columns"
    where = f"{setting}: {', '.join(settings.columns)}"
    texts = join_texts(table, settings.columns, setting)
    known = [text for text in texts if text]
    if not known:
        raise ValueError(f"{where}: none of {len(texts):,} {kind}s has a text")
    encoder = settings.create()
    fit_cached(encoder, known, run, cache)
    vectors_ID = _encode(encoder, texts, run, cache)
    column = vector_column(settings.name, vectors_ID)
    count = len(column) - column.null_count()
    if not count:
        raise ValueError(f"{where}: {settings.encoder} knows no word of the texts of {len(known):,} {kind}s")
    if log is not None:
        log(
            f"text: {settings.encoder} encoded {', '.join(settings.columns)} of {count:,} of {len(column):,} {kind}s "
            f"as {settings.name}, vectors of {vectors_ID.shape[1]} numbers"
        )
    return column, TextEncoding(settings.model_dump(mode="json"), encoder.arrays(), encoder.digest)


class ItemTexts:
    """Encodes the text of new items or users as that of the training was encoded.

    An encoder is opened when it is needed, and stays open. Not thread-safe.
    """

    def __init__(self, encodings: Sequence[TextEncoding]) -> None:
        self.encodings = tuple(encodings)
        self._settings = [parse(TextSettings, one.settings, "text") for one in encodings]
        self._encoders: dict[int, TextEncoder] = {}

    @property
    def names(self) -> list[str]:
        """The columns with the vectors, one per encoding."""
        return [settings.name for settings in self._settings]

    def open(self) -> None:
        """Open all encoders.

        Raises:
            ValueError: an encoder is not available, or its files are others than at the time of training.
        """
        for index in range(len(self.encodings)):
            self._encoder(index)

    def encode(self, index: int, table: pl.DataFrame) -> Vectors:
        """Return the vectors ``(N, D)`` of one of the encodings.

        Rows without text have NaN. Columns with text that are missing in ``table`` are empty.

        Raises:
            ValueError: see :meth:`open`.
        """
        encoder = self._encoder(index)
        present = [name for name in self._settings[index].columns if name in table.columns]
        texts = join_texts(table, present) if present else [""] * len(table)
        return _encode(encoder, texts, Run(), None)

    def add_to(self, table: pl.DataFrame) -> pl.DataFrame:
        """Return ``table`` with the columns of vectors.

        Raises:
            ValueError: see :meth:`open`.
        """
        for index, name in enumerate(self.names):
            table = table.with_columns(vector_column(name, self.encode(index, table)))
        return table

    def _encoder(self, index: int) -> TextEncoder:
        if index not in self._encoders:
            encoding, settings = self.encodings[index], self._settings[index]
            encoder = settings.create()
            encoder.restore(encoding.arrays)
            if encoder.digest != encoding.digest:
                raise ValueError(
                    f"text: {settings.encoder}: its files or code have changed since the model was trained (digest "
                    f"{encoder.digest[:12]}, expected {encoding.digest[:12]}); restore them, or train the model again"
                )
            self._encoders[index] = encoder
        return self._encoders[index]


def encode_table(encodings: Sequence[TextEncoding], table: pl.DataFrame) -> pl.DataFrame:
    """Add text vectors to the features of ``N`` new items; see :class:`ItemTexts`.

    Raises:
        ValueError: an encoder is not available, or its files are others than at the time of training.
    """
    return ItemTexts(encodings).add_to(table)


def join_texts(table: pl.DataFrame, columns: Sequence[str], where: str = "text.columns") -> list[str]:
    """Return one text per row, the texts of ``columns`` joined.

    Each text is on a line of its own; a row without texts is empty.

    Args:
        where: setting with the columns, for error messages.

    Raises:
        ValueError: a column holds something other than texts or lists of texts.
    """
    parts = []
    for name in columns:
        column = table[name]
        if column.dtype == pl.List and column.dtype.inner in TEXT_TYPES:  # type: ignore[attr-defined]
            column = column.list.eval(pl.element().cast(pl.String)).list.drop_nulls().list.join(", ")
        elif column.dtype not in (*TEXT_TYPES, pl.Null):
            raise ValueError(f"{where}: '{name}' holds {column.dtype}, expected texts or lists of texts")
        parts.append(column.cast(pl.String).fill_null("").str.strip_chars().to_list())
    return ["\n".join(filter(None, row)) for row in zip(*parts, strict=True)]


def _feature_table(data: Dataset, name: str, columns: Sequence[str], kind: str) -> pl.DataFrame:
    """Return the features of the items or users.

    The columns and the name of the settings are checked.
    """
    ids, features = (data.items, data.item_features) if kind == "item" else (data.users, data.user_features)
    table = pl.DataFrame({"id": ids.ids}) if features is None else features.collect()
    available = [column for column in table.columns if column != "id"]
    where = "text.columns" if kind == "item" else "text.user_columns"
    errors = [
        f"{where}: '{data.name}' has no {kind} feature '{column}'"
        + (suggest(column, available) if available else "; it has none")
        for column in columns
        if column not in available
    ]
    if name in table.columns:
        errors.append(f"text.name: {kind}s of '{data.name}' have a feature '{name}' already; choose another name")
    if errors:
        raise ValueError("\n".join(errors))
    return table


def _encode(encoder: TextEncoder, texts: Sequence[str], run: Run, folder: Path | None) -> Vectors:
    """Return the vectors of ``texts``; NaN for empty texts."""
    vectors_ND = np.full((len(texts), encoder.size), np.nan, np.float32)
    rows = [row for row, text in enumerate(texts) if text]
    if rows:
        vectors_ND[rows] = encode_cached(encoder, [texts[row] for row in rows], run, folder)
    return vectors_ND


def vector_column(name: str, vectors_ND: Vectors) -> pl.Series:
    """Return vectors as a column of lists; null where a vector is NaN."""
    column = pl.Series(name, vectors_ND).arr.to_list()
    is_known = pl.Series(~np.isnan(vectors_ND).any(axis=1))
    return pl.select(pl.when(is_known).then(column).alias(name)).to_series()
