"""What is alike and why: items or users beside one of them, by the model's own notion or by a measure of the log.

Shapes: I items, U users, R rows that are compared.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl

from segue.core.bundle import Bundle
from segue.core.model import Factored, Similar, SimilarUsers
from segue.core.recommend import top_k
from segue.core.types import Codes, Dataset, Queries, Scores
from segue.experiment.log_similarity import measured
from segue.experiment.recommend import coded, described
from segue.similarity.similarity_registry import VECTORS, measure_called
from segue.similarity.vector_similarity import vector_cosine

__all__ = ["alike_items", "alike_users"]


def alike_items(
    trained: Bundle,
    item: str,
    k: int,
    *,
    measure: str | None = None,
    over: str | None = None,
    shrink: float | None = None,
    log: Dataset | None = None,
) -> pl.DataFrame:
    """The ``k`` items most like ``item``: ``place``, ``item``, ``title``, ``genres``, ``likeness`` and, with the log,
    ``users_in_common``: how many had both.

    Args:
        measure: the name of a measure; none: the model's own, or the cosine of its item vectors.
        over: what the measure is taken over: see :func:`segue.experiment.log_similarity.measured`.
        shrink: likewise.
        log: what the model was trained on.

    Raises:
        ValueError: the item or the measure is unknown, or cannot be taken.
    """
    (code,) = _item(trained, item)
    model = trained.model
    if measure is None:
        _no_log(over, shrink)
        if isinstance(model, Similar):
            like_I = np.array(model.similar(np.array([code], np.int32))[0], np.float32)
        elif isinstance(model, Factored):
            like_I = vector_cosine(model.vectors[[code]], model.vectors)[0]
        else:
            raise ValueError(
                f"similar: '{trained.key}' has no notion of alike items; a model with item vectors has, or a --measure"
            )
    elif _of_vectors(measure):
        _no_log(over, shrink)
        vectors = _factored(trained, measure).vectors
        like_I = VECTORS[measure](vectors[[code]], vectors)[0]
    else:
        like_I = _of_log(_told(log, measure), "items", int(code), measure, over, shrink)
    like_I[code] = -np.inf
    codes, likeness = _best(like_I, k)
    table = described(trained, codes).with_columns(pl.Series("likeness", likeness))
    if log is not None:
        seen_UI = log.histories.csr(log.n_items)
        both = (seen_UI[:, codes].T @ seen_UI[:, [code]]).toarray()[:, 0]
        table = table.with_columns(pl.Series("users_in_common", both.astype(np.int64)))
    return table.with_row_index("place", offset=1)


def alike_users(
    trained: Bundle,
    user: str,
    k: int,
    *,
    log: Dataset,
    measure: str | None = None,
    over: str | None = None,
    shrink: float | None = None,
) -> pl.DataFrame:
    """The ``k`` users most like ``user``: ``place``, ``user``, ``likeness``, ``items_in_common`` and ``common``: those
    items, by title where it is known, what few had first.

    Arguments are those of :func:`alike_items`; who had nothing in training is like nobody.

    Raises:
        ValueError: the user or the measure is unknown, or cannot be taken; or he has no event in ``log``.
    """
    code = _user(log, user)
    model, everyone = trained.model, Queries.of_users(np.arange(log.n_users, dtype=np.int32), log.histories)
    if measure is None:
        _no_log(over, shrink)
        if isinstance(model, SimilarUsers):
            like_U = np.array(model.similar_users(everyone.block(code, code + 1))[0], np.float32)
        elif isinstance(model, Factored):
            encoded = model.encode(everyone)
            like_U = vector_cosine(encoded[[code]], encoded)[0]
        else:
            raise ValueError(
                f"similar: '{trained.key}' has no notion of alike users; user_knn and models that encode histories "
                "have, or a --measure"
            )
    elif _of_vectors(measure):
        _no_log(over, shrink)
        encoded = _factored(trained, measure).encode(everyone)
        like_U = VECTORS[measure](encoded[[code]], encoded)[0]
    else:
        like_U = _of_log(log, "users", code, measure, over, shrink)
    like_U[log.histories.lengths == 0] = -np.inf
    like_U[code] = -np.inf
    codes, likeness = _best(like_U, k)
    common = _common(log, code, codes)
    table = pl.DataFrame(
        {
            "user": log.users.decode(codes),
            "likeness": likeness,
            "items_in_common": [len(items) for items in common],
            "common": pl.Series([_called(trained, items) for items in common], dtype=pl.List(pl.String)),
        }
    )
    return table.with_row_index("place", offset=1)


def _item(trained: Bundle, item: str) -> Codes:
    codes, unknown = coded(trained, [item])
    if unknown:
        raise ValueError(f"item: '{item}' is not in the catalogue")
    return codes


def _user(log: Dataset, user: str) -> int:
    (code,), (known,) = log.users.encode([user])
    if not known:
        examples = ", ".join(log.users.ids.head(5))
        raise ValueError(f"user: '{user}' is not in {log.name}; its users are such as {examples}")
    if log.histories.lengths[code] == 0:
        raise ValueError(f"user: '{user}' has no event in the training part of {log.name}, and is like nobody")
    return int(code)


def _of_vectors(measure: str) -> bool:
    try:
        measure_called(measure)
    except ValueError as error:
        raise ValueError(f"measure: {error}") from None
    return measure in VECTORS


def _factored(trained: Bundle, measure: str) -> Factored:
    if not isinstance(trained.model, Factored):
        raise ValueError(f"measure: '{measure}' compares learned vectors, and '{trained.key}' has none")
    return trained.model


def _no_log(over: str | None, shrink: float | None) -> None:
    for name, given in (("over", over), ("shrink", shrink)):
        if given is not None:
            raise ValueError(f"{name}: got '{given}', which is for a measure of the log: cosine, jaccard, pearson, ...")


def _told(log: Dataset | None, measure: str) -> Dataset:
    if log is None:
        raise ValueError(f"measure: '{measure}' is taken over the log; give it: data=split.train")
    return log


def _of_log(
    log: Dataset, of: Literal["items", "users"], code: int, measure: str, over: str | None, shrink: float | None
) -> Scores:
    """The likeness of all others; what is not like it at all is not listed."""
    like_R = measured(log, of, code, measure, over, shrink)
    return np.where(like_R == 0.0, np.float32(-np.inf), like_R)


def _best(like_R: Scores, k: int) -> tuple[Codes, Scores]:
    found = top_k(like_R[None], k)
    count = int(found.lengths[0])
    return found.items[0, :count], found.scores[0, :count]


def _common(log: Dataset, code: int, codes: Codes) -> list[Codes]:
    """The items that each of the users shares with one, what few had first."""
    had = np.bincount(log.histories.items, minlength=log.n_items)
    own = np.unique(log.histories.block(code, code + 1).items)
    own = own[np.argsort(had[own], kind="stable")].astype(np.int32)
    return [own[np.isin(own, log.histories.block(other, other + 1).items)] for other in codes.tolist()]


def _called(trained: Bundle, items: Codes) -> list[str]:
    """Titles, or ids where there is none."""
    table = described(trained, items)
    if "title" not in table.columns:
        return table["item"].to_list()
    return table.select(pl.coalesce("title", "item"))["title"].to_list()
