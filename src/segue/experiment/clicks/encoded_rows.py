"""Encode rows that may be on the disk, for training and for predictions.

Shapes: T rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.events import Scores
from segue.core.examples.encoder import EncoderFitter, ExampleEncoder
from segue.core.examples.fields import Examples
from segue.core.examples.settings import ExampleSettings
from segue.core.examples.stream import ExampleStream
from segue.core.examples.unknown_values import UnknownValues
from segue.core.messages import warn
from segue.core.model import ExampleModel, Model
from segue.core.run import Run
from segue.data.examples.streamed import StreamedTable
from segue.data.examples.table import ExampleRows, ExampleTable
from segue.experiment.clicks.text_columns import fit_text_columns
from segue.features.text.text_columns import open_text_columns

__all__ = ["EncodedRows", "ShuffledRows", "encode_rows", "fit_rows"]


def fit_rows(table: ExampleRows, settings: ExampleSettings, run: Run | None = None) -> tuple[ExampleEncoder, int]:
    """Learn from the rows of training how columns are encoded, in one pass.

    Args:
        run: provides seed, device and progress of text encoders.

    Returns:
        the encoder, and the number of positive rows.

    Raises:
        ValueError: see :func:`segue.core.examples.encoder.fit_encoder`; errors in a cell name its row.
    """
    texts = fit_text_columns(table, settings, run or Run())
    fitter = EncoderFitter(settings, texts, open_text_columns(texts) if texts else None)
    part: ExampleTable | None = None
    for part in table.tables():
        with part.located():
            fitter.update(part.frame)
    if part is None:
        raise ValueError(f"{table.name}: there are no rows in training")
    with part.located():
        return fitter.finish(), fitter.n_positive


def encode_rows(encoder: ExampleEncoder, table: ExampleTable, needs_labels: bool = True) -> Examples:
    """Encode rows in memory; errors in a cell name its row."""
    with table.located():
        return encoder.encode(table.frame, needs_labels)


class ShuffledRows(ExampleStream):
    """Batches of rows on the disk.

    An epoch reads the row groups in random order. As many are encoded as have at least ``buffer_rows`` rows together,
    and batches are drawn from them without replacement; what remains, less than a batch, goes to the next ones.

    Args:
        buffer_rows: rows in memory; more if a single row group has more.
    """

    def __init__(self, table: StreamedTable, encoder: ExampleEncoder, buffer_rows: int) -> None:
        self.table, self.encoder, self.buffer_rows = table, encoder, buffer_rows
        self.fields = encoder.fields

    def __len__(self) -> int:
        return len(self.table)

    def batches(self, size: int, rng: np.random.Generator) -> tuple[int, Iterator[Examples]]:
        """See :meth:`segue.core.examples.stream.ExampleStream.batches`."""
        n_batches = self.count_batches(size)
        return n_batches, self._draw(size, n_batches, rng)

    def _draw(self, size: int, n_batches: int, rng: np.random.Generator) -> Iterator[Examples]:
        groups = np.flatnonzero(self.table.counts)
        waiting, n_yielded = list(rng.permutation(groups)), 0
        rest: Examples | None = None
        while waiting:
            parts = [] if rest is None else [rest]
            n_rows = 0
            while waiting and (not n_rows or n_rows + self.table.counts[waiting[-1]] <= self.buffer_rows):
                index = int(waiting.pop())
                parts.append(encode_rows(self.encoder, self.table.read_group(index)))
                n_rows += self.table.counts[index]
            buffer = Examples.concat(parts)
            order, start = rng.permutation(len(buffer)), 0
            rest = None
            del parts
            while len(order) - start >= size and n_yielded < n_batches - 1:
                yield buffer.take(np.sort(order[start : start + size]))
                start, n_yielded = start + size, n_yielded + 1
            rest = buffer.take(order[start:])
            del buffer
        if rest is not None:
            yield rest


class EncodedRows:
    """Labeled rows that models predict, in parts.

    A warning names columns none of whose values is known from training.
    Up to ``buffer_rows`` rows stay encoded in memory; more are encoded again for each prediction.
    """

    def __init__(self, table: ExampleRows, encoder: ExampleEncoder, buffer_rows: int | None = None) -> None:
        """Read the labels and users of all rows.

        Raises:
            ValueError: a column is missing, or a cell does not fit its column; names the row.
        """
        self.table, self.encoder = table.without_parts(), encoder
        labels: list[Scores] = []
        users: list[pl.Series] = []
        unknown = UnknownValues(encoder, table.name)
        stays = buffer_rows is None or isinstance(table, ExampleTable) or len(table) <= buffer_rows
        self.parts: list[Examples] | None = [] if stays else None
        for part in self.table.tables():
            examples = encode_rows(encoder, part)
            unknown.update(part.frame, examples)
            assert examples.labels is not None
            labels.append(examples.labels)
            if encoder.user in part.columns:
                users.append(part.frame[encoder.user])
            if self.parts is not None:
                self.parts.append(examples)
        for note in unknown.notes():
            warn(note)
        self.labels_T: Scores = np.concatenate([np.zeros(0, np.float32), *labels])
        self.users_T: NDArray[Any] | None = encoder.rank_users(pl.concat(users)) if users else None

    def __len__(self) -> int:
        return len(self.labels_T)

    def examples(self) -> Iterator[Examples]:
        """Yield all rows in their order, encoded."""
        if self.parts is not None:
            yield from self.parts
            return
        for part in self.table.tables():
            yield encode_rows(self.encoder, part)

    def predict(self, model: Model) -> Scores:
        """Return the logits of all rows, ``(T,)``."""
        assert isinstance(model, ExampleModel)
        logits = [model.predict_logits(part) for part in self.examples()]
        return np.concatenate([np.zeros(0, np.float32), *logits])
