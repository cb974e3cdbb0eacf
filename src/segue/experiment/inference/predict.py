"""Rank given items for one query, or predict ratings of user-item pairs.

Shapes: T pairs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl

from segue.core.bundle import TrainedModel
from segue.core.messages import arg
from segue.core.model import Predictor, Recommender
from segue.core.recommend import score_blocks
from segue.core.types import Codes, Events, Mask, Queries, Scores
from segue.experiment.inference.code_mapping import list_ids
from segue.experiment.inference.frames import as_frame, id_texts, is_frame, like_input
from segue.experiment.inference.queries import encode_items
from segue.experiment.inference.query_batch import QueryBatch
from segue.experiment.inference.recommend import describe_scoring, item_frame, warn_once

__all__ = ["predict_pairs", "rank_candidates", "rank_items"]


UNTYPED = (pl.Null, pl.Object, pl.Float64)
"""Types of an empty column of ids that say nothing about the type of the ids."""


def rank_items(trained: TrainedModel, batch: QueryBatch, items: Any) -> pl.DataFrame:
    """Rank candidate items for the only query of ``batch``, best first.

    Equal scores keep the given order.

    Returns:
        ``item_id``, ``rank`` from 1, ``score``, and ``title`` and ``genres`` where known.

    Raises:
        ValueError: several queries, or no known candidate.
    """
    table, messages = rank_candidates(trained, batch, items)
    warn_once(messages)
    return table


def rank_candidates(trained: TrainedModel, batch: QueryBatch, items: Any) -> tuple[pl.DataFrame, list[str]]:
    """Rank like :func:`rank_items`, but return warnings instead of issuing them."""
    if len(batch) != 1:
        raise ValueError(f"rank: got {len(batch)} queries, expected one user or one history")
    codes, unknown = encode_items(trained, items)
    if not len(codes) and not unknown:
        raise ValueError(f"{arg('items')}: got no items, expected at least one to rank")
    codes = codes[np.sort(np.unique(codes, return_index=True)[1])]
    if not len(codes):
        raise ValueError(f"{arg('items')}: none of the items is in the catalog: {list_ids(unknown)}")
    is_unscored = _is_unscored(trained.model, codes)
    if is_unscored.any():  # they are ranked as in recommendations
        scores_C: Scores = next(score_blocks(trained.model, batch.queries))[1][0][codes]
    else:
        scores_C = trained.model.score(batch.queries, codes[None])[0]
    order = np.argsort(-scores_C, kind="stable")
    messages = [*batch.messages, *describe_scoring(trained, batch.queries).get(0, [])]
    if unknown:
        messages.append(f"{arg('items')}: items not in the catalog: {list_ids(unknown)}")
    if is_unscored.any():
        ids = list_ids(trained.items.decode(codes[is_unscored]))
        messages.append(f"{arg('items')}: items without events in training, which are ranked last: {ids}")
    table = item_frame(trained, codes[order])
    rank, score = pl.Series("rank", np.arange(1, len(order) + 1)), pl.Series("score", scores_C[order])
    return table.insert_column(1, rank).insert_column(2, score), messages


def _is_unscored(model: Recommender, codes: Codes) -> Mask:
    """Return which items the model cannot score, as they have no events."""
    found: Mask = codes >= model.schema.n_items - model.schema.n_unscored
    return found


def predict_pairs(trained: TrainedModel, pairs: Any) -> Any:
    """Predict the value of each user-item pair, such as a rating.

    Values are in the scale of the data. A user who was not in training is treated as a new user without a history.

    Args:
        pairs: a frame with ``user_id`` and ``item_id``, or ``(user, item)`` tuples.

    Returns:
        ``user_id`` and ``item_id`` as given, ``prediction`` (null for an item outside the catalog or without events in
        training, unless the model reads item features) and ``notes``, as the same kind of frame as the input.

    Raises:
        ValueError: the model predicts no ratings, or a column is missing.
    """
    model = trained.model
    if not (isinstance(model, Predictor) and model.predicts_ratings):
        hint = 'train it with feedback="explicit", or ' if hasattr(model.config, "feedback") else "train "
        raise ValueError(
            f"predict: '{trained.key}' as it is set predicts no ratings; {hint}a rating model such as als, nmf or "
            "svdpp, on data with ratings"
        )
    table = _pair_table(trained, pairs)
    users, items = id_texts(table["user_id"], "pairs"), id_texts(table["item_id"], "pairs")
    user_T, user_known_T = trained.users.encode(users)
    item_T, item_known_T = trained.items.encode(items)
    found_T = np.full(len(table), np.nan, np.float32)
    unscored_T = item_known_T & _is_unscored(model, item_T)
    item_known_T &= ~unscored_T
    known_T = user_known_T & item_known_T
    if known_T.any():
        found_T[known_T] = model.predict(user_T[known_T], item_T[known_T])
    new_T = item_known_T & ~user_known_T
    if new_T.any():
        scores_I = model.score(Queries.anonymous(Events.of([[]])))[0]
        found_T[new_T] = model.clip_predictions(scores_I[item_T[new_T]])
    notes, warnings = _pair_notes(users, items, user_known_T, item_known_T, unscored_T)
    warn_once(warnings)
    prediction = pl.Series("prediction", found_T).fill_nan(None)
    return like_input(
        table.with_columns(prediction, pl.Series("notes", notes, pl.String)), pairs, getattr(pairs, "index", None)
    )


def _pair_table(trained: TrainedModel, pairs: Any) -> pl.DataFrame:
    if not is_frame(pairs):
        if isinstance(pairs, str) or not isinstance(pairs, Iterable):
            raise ValueError(f"{arg('pairs')}: got {type(pairs).__name__}, expected a frame or a list of (user, item)")
        rows = [tuple(pair) if isinstance(pair, Iterable) and not isinstance(pair, str) else (pair,) for pair in pairs]
        if wrong := [row for row in rows if len(row) != 2]:
            raise ValueError(f"{arg('pairs')}: got {wrong[0]!r}, expected (user, item)")
        columns = {"user_id": [row[0] for row in rows], "item_id": [row[1] for row in rows]}
        table = pl.DataFrame({name: pl.Series(name, values, strict=False) for name, values in columns.items()})
    else:
        table = as_frame(pairs, "pairs")
    if missing := [name for name in ("user_id", "item_id") if name not in table.columns]:
        raise ValueError(f"{arg('pairs')}: no column {', '.join(missing)}; the frame has {', '.join(table.columns)}")
    table = table.select("user_id", "item_id")
    if len(table):
        return table
    no_codes = np.zeros(0, np.int32)
    types = {
        "user_id": trained.users.decode_typed(no_codes).dtype,
        "item_id": trained.items.decode_typed(no_codes).dtype,
    }
    untyped = [name for name, dtype in table.schema.items() if dtype in UNTYPED]
    return table.with_columns(pl.Series(name, [], dtype=types[name]) for name in untyped)


def _pair_notes(
    users: list[str], items: list[str], user_known_T: Mask, item_known_T: Mask, unscored_T: Mask
) -> tuple[list[str | None], list[str]]:
    """Return a note per pair, and warnings about all pairs.

    Args:
        item_known_T: whether the model predicts values of the item.
        unscored_T: whether it does not because the item has no events.
    """
    texts = {
        (False, True): "unknown user: predicted as for a new user",
        (True, False): "unknown item: no prediction",
        (False, False): "unknown user and unknown item: no prediction",
    }
    notes = [texts.get(pair) for pair in zip(user_known_T.tolist(), item_known_T.tolist(), strict=True)]
    for row in np.flatnonzero(unscored_T).tolist():
        notes[row] = "item without events in training: no prediction"
    warnings = []
    for text, ids, wrong_T in (
        ("users not in training", users, ~user_known_T),
        ("items not in training", items, ~item_known_T),
    ):
        rows = np.flatnonzero(wrong_T).tolist()
        if rows:
            warnings.append(f"{text}: {list_ids(list(dict.fromkeys(ids[row] for row in rows)))}")
    return notes, warnings
