"""Recommend items to users, or after histories.

Results are tables with ids, titles and genres.

Shapes: N queries, k items of a list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from segue.core.bundle import TrainedModel
from segue.core.messages import warn
from segue.core.model import FALLBACK_NOTES, DeadlineAware, describe_fallbacks
from segue.core.recommend import recommend
from segue.core.types import Codes, Queries, Recommendations
from segue.experiment.inference.constraints import Constraints, catalog_of, compile_constraints
from segue.experiment.inference.frames import id_texts, positive_integer
from segue.experiment.inference.query_batch import QueryBatch

__all__ = [
    "describe_scoring",
    "history_table",
    "item_frame",
    "recommend_block",
    "recommend_table",
    "to_frame",
    "warn_once",
]

CATALOG_COLUMNS = ("title", "genres")
"""Columns of the catalog that results include where they exist."""

RULES_BLOCK = 1024
"""Queries that are reranked by rules at a time."""


def recommend_table(
    trained: TrainedModel,
    batch: QueryBatch,
    k: int = 10,
    *,
    allow: Any = None,
    deny: Any = None,
    filter: Mapping[str, Any] | None = None,  # noqa: A002 - the name in the public API
    exclude_seen: bool = True,
    rules: Mapping[str, Any] | None = None,
) -> pl.DataFrame:
    """Recommend ``k`` items to each query of ``batch``.

    Returns:
        The key column of ``batch``, ``item_id``, ``rank`` from 1, ``score``, ``probability``, ``title`` and ``genres``
        where the catalog has them, and ``notes``; the rows of a query are consecutive, best first.

    Raises:
        ValueError: ``k`` is below 1, or a constraint is malformed.
    """
    table, warnings = recommend_block(
        trained, batch, k, allow=allow, deny=deny, filter=filter, exclude_seen=exclude_seen, rules=rules
    )
    warn_once([*batch.messages, *warnings])
    return table


def recommend_block(
    trained: TrainedModel,
    batch: QueryBatch,
    k: int = 10,
    *,
    allow: Any = None,
    deny: Any = None,
    filter: Mapping[str, Any] | None = None,  # noqa: A002 - the name in the public API
    exclude_seen: bool = True,
    rules: Mapping[str, Any] | None = None,
) -> tuple[pl.DataFrame, list[str]]:
    """Recommend like :func:`recommend_table`, but do not issue warnings.

    Warnings about constraints are returned instead. Queries for which no item is left are added to ``batch.unknown``.
    """
    k = positive_integer(k, "k")
    constraints = compile_constraints(trained, batch, allow, deny, filter, rules)
    texts: list[tuple[str, ...]] = []
    if constraints.needs_rerank:
        found, texts = _rerank(trained, batch, constraints, k, exclude_seen)
    else:
        found = recommend(
            trained.model,
            batch.queries,
            min(k, len(trained.items)),
            exclude_seen=exclude_seen,
            allowed=constraints.allowed,
            exclude_rows=constraints.exclude_rows if constraints.has_rows else None,
        )
    for row, lines in describe_scoring(trained, batch.queries).items():
        for text in lines:
            batch.note(row, text)
    empty = batch.keys.filter(pl.Series(found.lengths == 0))
    if len(empty):
        batch.unknown["no item was left to recommend for"] = id_texts(empty, "users")
    return to_frame(trained, found, batch.keys, _notes(batch, found, k, texts)), constraints.warnings


def describe_scoring(trained: TrainedModel, queries: Queries) -> dict[int, list[str]]:
    """Say by row which queries the model scored in another way, and why.

    Call it after the queries were scored.
    """
    found: dict[int, list[str]] = {}
    if isinstance(trained.model, DeadlineAware):
        for row, reason in trained.model.fallbacks(queries).items():
            found.setdefault(row, []).append(f"not reranked: {FALLBACK_NOTES[reason]}")
    for row, text in describe_fallbacks(trained.model, queries).items():
        found.setdefault(row, []).append(text)
    return found


def warn_once(texts: list[str]) -> None:
    """Issue one warning with all ``texts``, if there are any.

    It points at the caller of the public function.
    """
    if texts:
        warn("; ".join(dict.fromkeys(texts)))


def to_frame(trained: TrainedModel, found: Recommendations, keys: pl.Series, notes: pl.Series | None) -> pl.DataFrame:
    """Convert lists to a table; see :func:`recommend_table`.

    Args:
        keys: ``(N,)`` name of each query; the name of the series is that of the first column.
        notes: ``(N,)`` text, or ``None``: all null.
    """
    rows, ranks = np.nonzero(np.arange(found.items.shape[1]) < found.lengths[:, None])
    items, scores = found.items[rows, ranks], found.scores[rows, ranks]
    probabilities = None if found.probabilities is None else found.probabilities[rows, ranks]
    empty = pl.Series([None], dtype=pl.Float32)
    table = item_frame(trained, items)
    return pl.DataFrame(
        [
            keys.gather(rows),
            table["item_id"],
            pl.Series("rank", ranks + 1),
            pl.Series("score", scores),
            (empty.new_from_index(0, len(rows)) if probabilities is None else pl.Series(probabilities)).alias(
                "probability"
            ),
            *(table[name] for name in table.columns if name != "item_id"),
            (
                pl.Series([None], dtype=pl.String).new_from_index(0, len(rows)) if notes is None else notes.gather(rows)
            ).alias("notes"),
        ]
    )


def item_frame(trained: TrainedModel, codes: Codes) -> pl.DataFrame:
    """Describe items in a table, one row per code.

    The columns are ``item_id``, and ``title`` and ``genres`` where the catalog has them.
    """
    known = trained.catalog.collect_schema().names()
    names = [name for name in CATALOG_COLUMNS if name in known]
    ids = trained.items.decode_typed(codes).alias("item_id")
    if not names:
        return pl.DataFrame([ids])
    catalog = trained.catalog.select(names).collect()
    return catalog[codes.astype(np.int64)].insert_column(0, ids)


def history_table(trained: TrainedModel, batch: QueryBatch) -> pl.DataFrame:
    """Describe the history of the first query, oldest first."""
    return item_frame(trained, batch.queries.history.rows_between(0, 1).items)


def _notes(batch: QueryBatch, found: Recommendations, k: int, texts: list[tuple[str, ...]]) -> pl.Series | None:
    """Return one text per query, or null; ``None`` if there are no notes at all."""
    notes = {row: list(lines) for row, lines in batch.notes.items()}
    for row, lines in enumerate(texts):
        if lines:
            notes.setdefault(row, []).extend(lines)
    if not texts:
        for row in np.flatnonzero(found.lengths < k).tolist():
            count = int(found.lengths[row])
            text = f"only {count} item{'s were' if count > 1 else ' was'} left to recommend"
            notes.setdefault(row, []).append(text if count else "no item was left to recommend")
    if not notes:
        return None
    return pl.Series([("; ".join(notes[row]) if row in notes else None) for row in range(len(batch))], dtype=pl.String)


def _rerank(
    trained: TrainedModel, batch: QueryBatch, constraints: Constraints, k: int, exclude_seen: bool
) -> tuple[Recommendations, list[tuple[str, ...]]]:
    """Recommend under rules that the order of scores alone does not satisfy.

    Also return notes per query.
    """
    from segue.serving import schemas
    from segue.serving.ranking.rank_batch import rank_batch

    n, n_items = len(batch), len(trained.items)
    request = schemas.RecommendRequest(k=k, include_seen=not exclude_seen)
    items, scores = np.zeros((n, k), np.int32), np.zeros((n, k), np.float32)
    lengths = np.zeros(n, np.int64)
    probabilities = np.zeros((n, k), np.float32) if trained.model.scale == "logit" else None
    notes: list[tuple[str, ...]] = []
    for start in range(0, n, RULES_BLOCK):
        block = batch.queries.rows_between(start, min(start + RULES_BLOCK, n))
        rules = [constraints.rules_of(start + row, n_items) for row in range(len(block))]
        lists = rank_batch(trained.model, block, [request] * len(block), rules, catalog_of(trained))
        for row, one in enumerate(lists, start):
            count = lengths[row] = len(one.codes)
            items[row, :count], scores[row, :count] = one.codes, one.scores
            if probabilities is not None and one.probabilities is not None:
                probabilities[row, :count] = one.probabilities
            notes.append(one.notes)
    return Recommendations(items, scores, lengths, probabilities), notes
