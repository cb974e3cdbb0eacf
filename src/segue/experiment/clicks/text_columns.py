"""Fit text encoders to columns of text, on the training rows alone."""

from __future__ import annotations

from segue.core.config import parse
from segue.core.examples.settings import ExampleSettings
from segue.core.run import Run
from segue.core.types import TextEncoding
from segue.data.examples.streamed import StreamedTable
from segue.data.examples.table import ExampleRows
from segue.features.text.cache import cache_folder, fit_cached
from segue.features.text.settings import TextSettings
from segue.features.text.text_columns import read_text_column

__all__ = ["fit_text_columns"]

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
        texts = [text for text in read_text_column(table.frame, name).unique(maintain_order=True) if text]
        if not texts:
            raise ValueError(f"{table.name}: column '{name}': got no text, expected texts to learn from")
        encoder = own.create()
        try:
            fit_cached(encoder, texts, run, cache_folder())
        except ValueError as error:
            reason = str(error).replace("text.options.", "examples.text_options.")
            raise ValueError(f"{table.name}: column '{name}': {reason}") from None
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
