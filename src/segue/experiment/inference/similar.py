"""List similar items or users.

The similarity is the model's own or a measure of the log.

Shapes: I items, U users, R rows that are compared.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import polars as pl

from segue.core.bundle import TrainedModel
from segue.core.messages import arg, warn
from segue.core.model import Factored, Similar, SimilarUsers
from segue.core.recommend import top_k
from segue.core.types import Codes, Dataset, Queries, Scores
from segue.experiment.inference.code_mapping import map_log, user_codes
from segue.experiment.inference.frames import id_texts, positive_integer
from segue.experiment.inference.log_similarity import log_similarity
from segue.experiment.inference.queries import encode_items
from segue.experiment.inference.recommend import item_frame
from segue.similarity.similarity_registry import VECTOR_MEASURES, check_measure
from segue.similarity.vector_similarity import vector_cosine

__all__ = ["similar_items", "similar_users"]


def similar_items(
    trained: TrainedModel,
    item: Any,
    k: int = 10,
    *,
    measure: str | None = None,
    over: str | None = None,
    shrink: float | None = None,
    log: Dataset | None = None,
) -> pl.DataFrame:
    """List the ``k`` items that are most similar to ``item``.

    Args:
        measure: name of a similarity measure; ``None``: the model's own, or the cosine of its item vectors.
        over: what the measure compares; see :func:`segue.experiment.inference.log_similarity.log_similarity`.
        shrink: likewise.
        log: what the model was trained on; measures of the log need it.

    Returns:
        ``rank`` from 1, ``item_id``, ``title``, ``genres``, ``similarity`` and, where the log is given,
        ``users_in_common``: how many users have both items.

    Raises:
        ValueError: the item or the measure is unknown, the measure does not apply, or the item has no events and the
            model reads no item features.
    """
    k, shrink = positive_integer(k, "k"), _check_shrink(shrink)
    code = _item_code(trained, item)
    model = trained.model
    if log is not None:
        log = _in_model_codes(trained, log)
    if measure is None:
        _require_measure(over, shrink)
        if isinstance(model, Similar):
            similarity_I = np.array(model.similar(np.array([code], np.int32))[0], np.float32)
        elif isinstance(model, Factored):
            similarity_I = vector_cosine(model.vectors[[code]], model.vectors)[0]
        else:
            raise ValueError(
                f"similar: '{trained.key}' defines no similarity of items; give {arg('measure', 'cosine')}, or use "
                "a model with item vectors"
            )
    elif _compares_vectors(measure):
        _require_measure(over, shrink)
        vectors = _factored(trained, measure).vectors
        similarity_I = VECTOR_MEASURES[measure](vectors[[code]], vectors)[0]
    else:
        similarity_I = _of_log(_require_log(log, measure), "items", code, measure, over, shrink)
    if measure is None or measure in VECTOR_MEASURES:
        _exclude_unscored(trained, similarity_I, code)
    similarity_I[code] = -np.inf
    codes, similarity = _best(similarity_I, k)
    table = item_frame(trained, codes).with_columns(pl.Series("similarity", similarity))
    if log is not None:
        seen_UI = log.histories.csr(log.n_items)
        both = (seen_UI[:, codes].T @ seen_UI[:, [code]]).toarray()[:, 0]
        table = table.with_columns(pl.Series("users_in_common", both.astype(np.int64)))
    return _ranked(table)


def similar_users(
    trained: TrainedModel,
    user: Any,
    k: int = 10,
    *,
    log: Dataset,
    measure: str | None = None,
    over: str | None = None,
    shrink: float | None = None,
) -> pl.DataFrame:
    """List the ``k`` users that are most similar to ``user``.

    The arguments are those of :func:`similar_items`. A user without events in training is similar to none.

    Returns:
        ``rank`` from 1, ``user_id``, ``similarity``, ``items_in_common`` and ``common``: those items, by title where it
        is known, the rarest first.

    Raises:
        ValueError: the user or the measure is unknown, the measure does not apply, or the user has no event in ``log``.
    """
    k, shrink = positive_integer(k, "k"), _check_shrink(shrink)
    log = _in_model_codes(trained, log)
    code = _user_code(log, user)
    own_U, known_U = user_codes(trained, log.users, np.arange(log.n_users, dtype=np.int32))
    model, everyone = trained.model, Queries(log.histories, own_U, known_U)
    if measure is None:
        _require_measure(over, shrink)
        if isinstance(model, SimilarUsers):
            similarity_U = np.array(model.similar_users(everyone.rows_between(code, code + 1))[0], np.float32)
        elif isinstance(model, Factored):
            encoded = model.encode(everyone)
            similarity_U = vector_cosine(encoded[[code]], encoded)[0]
        else:
            raise ValueError(
                f"similar: '{trained.key}' defines no similarity of users; give {arg('measure', 'cosine')}, or use "
                "user_knn or a model that encodes histories"
            )
    elif _compares_vectors(measure):
        _require_measure(over, shrink)
        encoded = _factored(trained, measure).encode(everyone)
        similarity_U = VECTOR_MEASURES[measure](encoded[[code]], encoded)[0]
    else:
        similarity_U = _of_log(log, "users", code, measure, over, shrink)
    similarity_U[log.histories.lengths == 0] = -np.inf
    similarity_U[code] = -np.inf
    codes, similarity = _best(similarity_U, k)
    common = _common_items(log, code, codes)
    return _ranked(
        pl.DataFrame(
            {
                "user_id": log.users.decode_typed(codes),
                "similarity": similarity,
                "items_in_common": [len(items) for items in common],
                "common": pl.Series([_titles(trained, items) for items in common], dtype=pl.List(pl.String)),
            }
        )
    )


def _exclude_unscored(trained: TrainedModel, similarity_I: Scores, code: int) -> None:
    """Exclude items without events, whose vectors the model has not learned, in place.

    Raises:
        ValueError: the item ``code`` is one of them.
    """
    n_scored = len(trained.items) - trained.model.schema.n_unscored
    if code >= n_scored:
        item = trained.items.decode(np.array([code]))[0]
        raise ValueError(
            f"{arg('item')}: '{item}' has no events in training and '{trained.key}' reads no item features, so no item "
            f"is similar to it; compare features instead: {arg('measure', 'jaccard')} {arg('over', 'genres')}"
        )
    similarity_I[n_scored:] = -np.inf


def _in_model_codes(trained: TrainedModel, log: Dataset) -> Dataset:
    found, messages = map_log(trained, log)
    if messages:
        warn("; ".join(messages))
    return found


def _ranked(table: pl.DataFrame) -> pl.DataFrame:
    return table.insert_column(0, pl.Series("rank", np.arange(1, len(table) + 1)))


def _check_shrink(shrink: float | None) -> float | None:
    if shrink is None:
        return None
    if isinstance(shrink, bool) or not isinstance(shrink, int | float | np.number) or not 0 <= shrink < np.inf:
        raise ValueError(f"{arg('shrink')}: got {shrink!r}, expected a number of at least 0")
    return float(shrink)


def _item_code(trained: TrainedModel, item: Any) -> int:
    codes, unknown = encode_items(trained, item, "item")
    if unknown:
        raise ValueError(f"{arg('item')}: '{unknown[0]}' is not in the catalog")
    if len(codes) != 1:
        raise ValueError(f"{arg('item')}: got {len(codes)} items, expected one")
    return int(codes[0])


def _user_code(log: Dataset, user: Any) -> int:
    ids = id_texts(user, "user")
    if len(ids) != 1:
        raise ValueError(f"{arg('user')}: got {len(ids)} users, expected one")
    (code,), (is_known,) = log.users.encode(ids)
    if not is_known:
        examples = ", ".join(log.users.ids.head(5))
        raise ValueError(f"{arg('user')}: '{user}' is not in {log.name}, whose users are {examples}, ...")
    if log.histories.lengths[code] == 0:
        raise ValueError(f"{arg('user')}: '{user}' has no event in the training part of {log.name} to be compared by")
    return int(code)


def _compares_vectors(measure: str) -> bool:
    try:
        check_measure(measure)
    except ValueError as error:
        raise ValueError(f"{arg('measure')}: {error}") from None
    return measure in VECTOR_MEASURES


def _factored(trained: TrainedModel, measure: str) -> Factored:
    if not isinstance(trained.model, Factored):
        raise ValueError(f"{arg('measure')}: '{measure}' compares learned vectors, and '{trained.key}' has none")
    return trained.model


def _require_measure(over: str | None, shrink: float | None) -> None:
    for name, value in (("over", over), ("shrink", shrink)):
        if value is not None:
            raise ValueError(
                f"{arg(name)}: got {value!r}, which needs a measure of the log: cosine, jaccard, pearson, ..."
            )


def _require_log(log: Dataset | None, measure: str) -> Dataset:
    if log is None:
        raise ValueError(
            f"{arg('measure')}: '{measure}' compares the log that the model was trained on; give it: {arg('data')}"
        )
    return log


def _of_log(
    log: Dataset, of: Literal["items", "users"], code: int, measure: str, over: str | None, shrink: float | None
) -> Scores:
    """Return the similarity to all others; those without similarity are excluded."""
    similarity_R = log_similarity(log, of, code, measure, over, shrink)
    return np.where(similarity_R == 0.0, np.float32(-np.inf), similarity_R)


def _best(similarity_R: Scores, k: int) -> tuple[Codes, Scores]:
    found = top_k(similarity_R[None], k)
    count = int(found.lengths[0])
    return found.items[0, :count], found.scores[0, :count]


def _common_items(log: Dataset, code: int, codes: Codes) -> list[Codes]:
    """Return the items that each of ``codes`` shares with ``code``, rarest first."""
    counts_I = np.bincount(log.histories.items, minlength=log.n_items)
    own = np.unique(log.histories.rows_between(code, code + 1).items)
    own = own[np.argsort(counts_I[own], kind="stable")].astype(np.int32)
    return [own[np.isin(own, log.histories.rows_between(other, other + 1).items)] for other in codes.tolist()]


def _titles(trained: TrainedModel, items: Codes) -> list[str]:
    """Return the titles, or ids of items without a title."""
    table = item_frame(trained, items).with_columns(pl.col("item_id").cast(pl.String))
    if "title" not in table.columns:
        return table["item_id"].to_list()
    return table.select(pl.coalesce("title", "item_id"))["title"].to_list()
