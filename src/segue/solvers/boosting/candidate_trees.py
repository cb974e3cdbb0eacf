"""Score candidates by trees, with masks of all items that are computed once.

Shapes: T pairs, I items, K numbers of a candidate, B candidates of a query, L events of a history, C columns that
depend on query and item.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.examples.candidate_fields import CandidateFields, rows_of_queries
from segue.core.examples.fields import Examples, fields_of_kind
from segue.core.examples.log_fields import ITEM
from segue.core.types import Codes, Scores
from segue.solvers.boosting.leaf_masks import LeafMasks
from segue.solvers.boosting.tree_columns import column_origins, match_candidates, tree_columns
from segue.solvers.boosting.trees import Trees

__all__ = ["CandidateTrees"]

MAX_BYTES = 256_000_000
"""Size of the masks of all items; larger catalogs are scored pair by pair."""


class CandidateTrees:
    """Scores candidates; the same numbers as those of LightGBM.

    Args:
        masks: the trees.
        items: examples of all items, in their order; other fields than those of items are not read.
    """

    def __init__(self, masks: LeafMasks, items: Examples) -> None:
        self.masks = masks
        self.items_IT = masks.of_items.masks(tree_columns(items), masks.n_trees)
        categories = [one.name for one in fields_of_kind(items.fields, "category")]
        self.codes_I = items.codes[:, categories.index(ITEM)]
        origins = column_origins(items.fields)
        columns = {column: at for at, column in enumerate(masks.pair_columns)}
        self.match_columns = {
            origins[column].name: [columns[column], columns[column + 1]]
            for column in masks.pair_columns
            if origins[column].part == "count"
        }
        matched = {column for pair in self.match_columns.values() for column in pair}
        self.number_columns = [at for at in columns.values() if at not in matched]

    @classmethod
    def of(cls, trees: Trees, items: Examples, n_numbers: int) -> CandidateTrees | None:
        """Divide trees by what their columns depend on.

        ``None``: they cannot be, or there are too many items.

        Args:
            n_numbers: numbers of a candidate, the last fields of numbers, which depend on query and item.
        """
        fields = CandidateFields.of(items.fields, n_numbers)
        origins = column_origins(items.fields)
        of_items = [at for at, one in enumerate(origins) if one.name in fields.items]
        pairs = [
            at for at, one in enumerate(origins) if one.part in ("count", "since") or one.name in fields.candidates
        ]
        if 8 * len(trees) * len(items) > MAX_BYTES or any(one.shares not in (None, ITEM) for one in items.fields):
            return None
        masks = LeafMasks.of(trees.blocks, len(origins), of_items, pairs)
        return None if masks is None else cls(masks, items)

    def score(
        self, queries: Examples, rows_T: NDArray[np.int64], items_T: Codes, numbers_TK: Scores | None = None
    ) -> Scores:
        """Return the scores of pairs of queries and items, ``(T,)``.

        Args:
            queries: one example per query, with any item.
            rows_T: query of each pair, in ascending order.
            items_T: item of each pair.
            numbers_TK: numbers of each pair.
        """
        columns_NP = tree_columns(queries)
        codes_T = items_T.astype(np.int64)
        scores_T = np.empty(len(rows_T), np.float32)
        for row, part in rows_of_queries(rows_T):
            chosen_B = codes_T[part]
            pairs_BC = np.empty((len(chosen_B), len(self.masks.pair_columns)), np.float32)
            for name, columns in self.match_columns.items():
                lists: Any = queries.lists[name]
                history_L = lists.items[lists.offsets[row] : lists.offsets[row + 1]]
                pairs_BC[:, columns] = match_candidates(history_L, self.codes_I[chosen_B])
            if numbers_TK is not None:
                pairs_BC[:, self.number_columns] = numbers_TK[part]
            scores_T[part] = self.masks.score(self.items_IT, chosen_B, columns_NP[row], pairs_BC)
        return scores_T
