"""Training events and item features, in the item codes of the evaluated model."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.bundle import TrainedModel
from segue.core.types import Dataset, Events
from segue.evaluation.beyond_accuracy.training_data import TrainingData

__all__ = ["count_item_events", "find_training_data"]


def find_training_data(model: Any, train_data: Dataset | None) -> TrainingData | None:
    """Return the training events and item features, in the item codes of the model.

    They are those of ``train_data``, the training part of a split, or else of the log that the model was trained on;
    ``None`` if neither is available.
    """
    is_trained = isinstance(model, TrainedModel)
    if train_data is None:
        if not is_trained or model.log_has_held_out:
            return None
        try:
            train_data = model.train_log
        except ValueError:
            return None
    ids = train_data.items.ids
    if not is_trained or train_data.items is model.items or ids.equals(model.items.ids):
        return TrainingData.of(train_data)
    codes, known = model.items.encode(ids)
    histories = train_data.histories.where(known[train_data.histories.items])
    features = train_data.item_features
    if features is not None:
        row_of = np.full(len(model.items), -1, np.int64)
        row_of[codes[known]] = np.flatnonzero(known)
        rows = pl.Series(row_of).set(pl.Series(row_of < 0), None)
        features = features.collect().select(pl.all().gather(rows)).lazy()
    return TrainingData(Events(histories.offsets, codes[histories.items]), len(model.items), features)


def count_item_events(model: Any, train_data: Dataset | None) -> NDArray[np.int64] | None:
    """Count the training events of each item, see :func:`find_training_data`."""
    found = find_training_data(model, train_data)
    return None if found is None else found.item_events
