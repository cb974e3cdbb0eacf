"""Items like those you had: item-based nearest neighbours (Deshpande and Karypis 2004, doi:10.1145/963770.963776).

An item's score is the sum of its likeness to the items of the history, of which only its ``neighbours`` nearest count.
Likeness is counted in blocks of items and only neighbours are kept: memory grows with items x neighbours, not items².

Shapes: U users, I items, N queries, B items of a block, C candidates.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import NDArray
from pydantic import field_validator
from scipy.sparse import csr_array

from segue.core.config import Settings, suggest
from segue.core.model import Arrays, Solver, Validate, pick_candidates
from segue.core.registry import functions
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Domain, Queries, Scores
from segue.models.parts import similarity
from segue.models.parts.cooccurrence import cooccurrence
from segue.models.parts.memory import take_back
from segue.models.parts.popularity import answer_ties, shares

__all__ = ["ItemKNN"]


class ItemKNN(Solver):
    """The nearest neighbours of every item, kept sparse; a history that leads nowhere is answered by popularity."""

    class Config(Settings):
        """Settings of ``item_knn``."""

        neighbours: Annotated[int, Ge(1)] = 100
        """Nearest items of each item that count, k; fewer is more particular."""
        shrink: Annotated[float, Ge(0)] = 10.0
        """Added below the line of the similarity: likeness that rests on few people counts less."""
        similarity: str = "cosine"
        """cosine, jaccard, dice or conditional: a function of ``parts/similarity.py``."""
        half_life: Annotated[float, Gt(0)] | None = None
        """Steps back in the history after which an item counts half; none: all count the same, and once."""

        @field_validator("similarity")
        @classmethod
        def _known(cls, name: str) -> str:
            if name not in functions(similarity):
                raise ValueError(f"unknown similarity{suggest(name, functions(similarity))}")
            return name

    near_II: csr_array[Any]
    """Row i: the likeness of i to its neighbours."""

    def __init__(self, config: Any, domain: Domain) -> None:
        super().__init__(config, domain)
        self.shares_I = np.zeros(domain.n_items, np.float32)

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Find the neighbours of every item among the people who have both."""
        like = functions(similarity)[self.config.similarity]
        seen_UI = train.histories.csr(train.n_items)
        people_I = np.asarray(seen_UI.sum(axis=0), np.float32)
        lengths, indices, likeness = [], [], []
        with run.progress(train.n_items, "item_knn") as progress:
            for rows, both_BI in cooccurrence(seen_UI):
                like_BI = like(both_BI, people_I[rows], people_I, self.config.shrink)
                like_BI[np.arange(len(like_BI)), np.arange(train.n_items)[rows]] = 0.0
                kept = _nearest(like_BI, self.config.neighbours)
                lengths.append(kept.sum(axis=1))
                indices.append(np.nonzero(kept)[1].astype(np.int32))
                likeness.append(like_BI[kept])
                progress(len(like_BI))
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
        self.shares_I = shares(train)
        self._keep(np.concatenate(likeness), np.concatenate(indices), offsets)

    def _keep(self, likeness: Scores, indices: Codes, offsets: NDArray[np.int64]) -> None:
        n_items = self.domain.n_items
        self.near_II = csr_array((likeness, indices, offsets), shape=(n_items, n_items))
        self._into_II = csr_array(self.near_II.T)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Likeness to the history, summed; the share of all events where no item has any."""
        history = queries.history
        weights = None
        if self.config.half_life is not None:
            back = history.offsets[1:][history.rows] - 1 - np.arange(history.size)
            weights = np.exp2(-back / self.config.half_life).astype(np.float32)
        scores_NI = (history.csr(self.domain.n_items, weights) @ self._into_II).toarray()
        return pick_candidates(answer_ties(scores_NI, self.shares_I), candidates)

    def similar(self, items: Codes) -> Scores:
        """Likeness of each item's neighbours, 0 for all others and the item itself."""
        return self.near_II[items].toarray()

    def arrays(self) -> Arrays:
        """The neighbours as a sparse matrix, and the shares of popularity."""
        near = self.near_II
        return {
            "likeness": near.data,
            "neighbours": near.indices.astype(np.int32),
            "offsets": near.indptr.astype(np.int64),
            "shares": self.shares_I,
        }

    def restore(self, arrays: Arrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        n_items = self.domain.n_items
        likeness = take_back(arrays, "likeness", (None,), np.float32)
        indices = take_back(arrays, "neighbours", (len(likeness),), np.int32)
        self.shares_I = take_back(arrays, "shares", (n_items,), np.float32)
        self._keep(likeness, indices, take_back(arrays, "offsets", (n_items + 1,), np.int64))


def _nearest(like_BI: Scores, count: int) -> NDArray[np.bool_]:
    """Which cells are among the ``count`` greatest of their row and above 0; of equals, the first in the catalogue."""
    n_items = like_BI.shape[1]
    if count >= n_items:
        return like_BI > 0
    kth_B1 = np.partition(like_BI, n_items - count, axis=1)[:, n_items - count, None]
    above, equal = like_BI > kth_B1, like_BI == kth_B1
    room_B1 = count - above.sum(axis=1, keepdims=True)
    first = equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= room_B1)
    kept: NDArray[np.bool_] = (above | first) & (like_BI > 0)
    return kept
