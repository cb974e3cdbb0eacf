"""Score candidates with trees, without visiting the same nodes twice.

A leaf is reached if no node on its path decides for the other child. Each decision therefore rules out the leaves below
the other child, as a mask of bits, and the leaf that a row reaches is the one bit that is set in the masks of all
decisions of a tree (Lucchese et al. 2015, "QuickScorer", doi:10.1145/2766462.2767733). Masks can be combined in any
order: those of the columns of an item are computed once for all items, those of the columns of a query once per query,
and those of a number that depends on both are looked up by the interval between thresholds in which it lies.

Shapes: R rows, P columns, S nodes, T trees, L leaves, B candidates, C columns that depend on query and item, M
intervals of all of them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.numba_kernels import kernel

__all__ = ["MAX_LEAVES", "LeafMasks", "Nodes"]

MAX_LEAVES = 64
"""Leaves of a tree that fit into a mask."""

IS_CATEGORY, DEFAULT_LEFT, MISSING_SHIFT = 1, 2, 2
"""Bits of ``decision_type`` in LightGBM: kind of the split, where missing values go, and what is missing."""

NONE_MISSING, ZERO_MISSING = 0, 1
"""What is missing in a node: nothing, and NaN is 0; or also zeros. Otherwise NaN."""

DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
"""A power of two times this number has different highest six bits for each of the 64 powers (Leiserson et al. 1998)."""

Masks = NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Nodes:
    """Nodes of some trees."""

    trees_S: NDArray[np.int64]
    columns_S: NDArray[np.int64]
    thresholds_S: NDArray[np.float64]
    """Largest value that goes to the left, or index of the first word of the categories that do."""
    words_S: NDArray[np.int64]
    """Number of words of categories; 0: the column is a number."""
    missing_S: NDArray[np.int64]
    """0: NaN is 0; 1: it goes to the left; 2: to the right."""
    left_S: Masks
    """Leaves that are left over if the decision is the left child."""
    right_S: Masks
    words: NDArray[np.uint32]
    """Sets of categories, as bits."""

    def of_columns(self, columns: Collection[int]) -> Nodes:
        """Return the nodes of some columns."""
        part = np.isin(self.columns_S, list(columns))
        names = [one.name for one in fields(self) if one.name != "words"]
        return replace(self, **{name: getattr(self, name)[part] for name in names})

    def masks(self, x_RP: NDArray[np.floating[Any]], n_trees: int) -> Masks:
        """Return the leaves that decisions of these nodes leave over, ``(R, T)``."""
        masks_RT = np.full((len(x_RP), n_trees), np.iinfo(np.uint64).max, np.uint64)
        _apply(
            np.ascontiguousarray(x_RP, np.float64),
            self.trees_S,
            self.columns_S,
            self.thresholds_S,
            self.words_S,
            self.missing_S,
            self.left_S,
            self.right_S,
            self.words,
            masks_RT,
        )
        return masks_RT


@dataclass(frozen=True, eq=False)
class LeafMasks:
    """Trees, divided by what their columns depend on."""

    leaves_T: Masks
    """All leaves of each tree."""
    of_items: Nodes
    of_queries: Nodes
    pair_columns: tuple[int, ...]
    """Columns of numbers that depend on query and item."""
    thresholds: tuple[NDArray[np.float64], ...]
    """Thresholds of each of these columns in ascending order."""
    table_MT: Masks
    """Masks of the intervals of each of these columns, and of NaN."""
    values_TL: NDArray[np.float64]
    """Values of the leaves of each tree, in the order of :data:`DE_BRUIJN`."""

    @property
    def n_trees(self) -> int:
        """Number of trees, T."""
        return len(self.leaves_T)

    @classmethod
    def of(
        cls, blocks: Collection[str], n_columns: int, items: Collection[int], pairs: Collection[int]
    ) -> LeafMasks | None:
        """Read trees in the text format of LightGBM.

        ``None``: a tree has more leaves than a mask has bits, or other parts than this module knows.

        Args:
            blocks: the text of each tree.
            items: columns that depend on the item alone.
            pairs: columns that depend on query and item; all others depend on the query alone.
        """
        trees = [dict(line.partition("=")[::2] for line in block.splitlines() if "=" in line) for block in blocks]
        if any(int(one["num_leaves"]) > MAX_LEAVES or one.get("is_linear", "0") != "0" for one in trees):
            return None
        nodes = _read_nodes(trees)
        pairs = sorted(pairs)
        of_pairs = nodes.of_columns(pairs)
        if (nodes.missing_S < 0).any() or of_pairs.words_S.any():
            return None
        thresholds, tables = [], []
        for column in pairs:
            own = of_pairs.of_columns([column])
            limits = np.unique(own.thresholds_S)
            x_MP = np.zeros((len(limits) + 2, n_columns))
            x_MP[:, column] = [*limits, np.inf, np.nan]
            thresholds.append(limits)
            tables.append(own.masks(x_MP, len(trees)))
        values_TL = np.zeros((len(trees), MAX_LEAVES))
        for number, tree in enumerate(trees):
            values = _numbers(tree, "leaf_value", np.float64)
            values_TL[number, _slots(np.arange(len(values)))] = values
        others = set(range(n_columns)) - {*items} - {*pairs}
        return cls(
            np.array([(1 << int(one["num_leaves"])) - 1 for one in trees], np.uint64),
            nodes.of_columns(items),
            nodes.of_columns(others),
            tuple(pairs),
            tuple(thresholds),
            np.concatenate([np.zeros((0, len(trees)), np.uint64), *tables]),
            values_TL,
        )

    def score(self, items_IT: Masks, chosen_B: NDArray[np.int64], query_P: NDArray[np.float32], pairs_BC: Any) -> Any:
        """Return the sums of the leaves that candidates reach, ``(B,)``, in float64.

        Args:
            items_IT: masks of all items.
            chosen_B: index of each candidate, at least one.
            query_P: columns of the query; others are not read.
            pairs_BC: values of :attr:`pair_columns`.
        """
        query_T = self.of_queries.masks(query_P[None], self.n_trees)[0] & self.leaves_T
        rows = []
        start = 0
        for at, limits in enumerate(self.thresholds):
            x_B = pairs_BC[:, at].astype(np.float64)
            rows_B = np.where(np.isnan(x_B), len(limits) + 1, np.searchsorted(limits, x_B)) + start
            start += len(limits) + 2
            if (rows_B == rows_B[0]).all():  # such as the matches with a history whose items are no candidates
                query_T &= self.table_MT[rows_B[0]]
            else:
                rows.append(rows_B)
        rows_CB = np.array(rows, np.int64).reshape(len(rows), len(chosen_B))
        scores_B = np.empty(len(chosen_B))
        _sum_leaves(items_IT, chosen_B, query_T, self.table_MT, rows_CB, self.values_TL, scores_B)
        return scores_B


def _read_nodes(trees: list[dict[str, str]]) -> Nodes:
    """Return the nodes of all trees.

    ``missing_S`` is negative where zeros are missing.
    """
    parts: dict[str, list[Any]] = {
        name: [] for name in ("tree", "column", "threshold", "words", "missing", "left", "right")
    }
    words: list[NDArray[np.uint32]] = [np.zeros(0, np.uint32)]
    n_words = 0
    for number, tree in enumerate(trees):
        columns = _numbers(tree, "split_feature", np.int64)
        thresholds, kinds = _numbers(tree, "threshold", np.float64), _numbers(tree, "decision_type", np.int64)
        bounds, own = _numbers(tree, "cat_boundaries", np.int64), _numbers(tree, "cat_threshold", np.uint32)
        sizes = np.zeros(len(columns), np.int64)
        is_category = (kinds & IS_CATEGORY) > 0
        sets = thresholds[is_category].astype(np.int64)
        if len(sets):
            sizes[is_category] = np.diff(bounds)[sets]
            thresholds[is_category] = bounds[sets] + n_words
        missing = np.where(kinds & DEFAULT_LEFT, 1, 2)
        kinds_of_missing = (kinds >> MISSING_SHIFT) & 3
        missing = np.where(kinds_of_missing == NONE_MISSING, 0, missing)
        missing = np.where((kinds_of_missing == ZERO_MISSING) & ~is_category, -1, missing)
        left, right = _subtree_masks(tree)
        values = (np.full(len(columns), number), columns, thresholds, sizes, missing, ~right, ~left)
        for name, column in zip(parts, values, strict=True):
            parts[name].append(column)
        words.append(own)
        n_words += len(own)
    types = (np.int64, np.int64, np.float64, np.int64, np.int64, np.uint64, np.uint64)
    found: list[Any] = [np.concatenate(part).astype(dtype) for part, dtype in zip(parts.values(), types, strict=True)]
    trees_S, columns_S, thresholds_S, words_S, missing_S, left_S, right_S = found
    return Nodes(trees_S, columns_S, thresholds_S, words_S, missing_S, left_S, right_S, np.concatenate(words))


def _subtree_masks(tree: dict[str, str]) -> tuple[Masks, Masks]:
    """Return the leaves below the left and the right child of each node."""
    children = [_numbers(tree, f"{side}_child", np.int64).tolist() for side in ("left", "right")]
    masks: list[list[int]] = [[0] * len(children[0]) for _ in children]
    below = [0] * len(children[0])
    for node in reversed(range(len(below))):  # children have greater numbers than their parents
        for side, child in enumerate(one[node] for one in children):
            masks[side][node] = below[child] if child >= 0 else 1 << ~child
        below[node] = masks[0][node] | masks[1][node]
    left, right = (np.array(one, np.uint64) for one in masks)
    return left, right


def _numbers(tree: dict[str, str], name: str, dtype: Any) -> NDArray[Any]:
    return np.array(tree.get(name, "").split(), dtype)


def _slots(leaves: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where the value of each leaf is stored."""
    with np.errstate(over="ignore"):
        found: NDArray[np.int64] = ((np.uint64(1) << leaves.astype(np.uint64)) * DE_BRUIJN >> np.uint64(58)).astype(
            np.int64
        )
    return found


@kernel
def _apply(
    x_RP: Any,
    trees_S: Any,
    columns_S: Any,
    thresholds_S: Any,
    words_S: Any,
    missing_S: Any,
    left_S: Any,
    right_S: Any,
    words: Any,
    masks_RT: Any,
) -> None:
    for row in range(len(x_RP)):
        for node in range(len(trees_S)):
            x = x_RP[row, columns_S[node]]
            if words_S[node] > 0:
                is_left = False
                if 0 <= x < 32 * words_S[node]:  # false for NaN
                    code = np.int64(x)
                    word = words[np.int64(thresholds_S[node]) + (code >> 5)]
                    is_left = (np.int64(word) >> (code & 31)) & 1 == 1
            elif np.isnan(x) and missing_S[node] > 0:
                is_left = missing_S[node] == 1
            else:
                is_left = (0.0 if np.isnan(x) else x) <= thresholds_S[node]
            masks_RT[row, trees_S[node]] &= left_S[node] if is_left else right_S[node]


@kernel
def _sum_leaves(
    items_IT: Any, chosen_B: Any, query_T: Any, table_MT: Any, rows_CB: Any, values_TL: Any, scores_B: Any
) -> None:
    masks_T = np.empty_like(query_T)
    for index in range(len(chosen_B)):
        item_T = items_IT[chosen_B[index]]
        for tree in range(len(query_T)):  # a loop without look-ups, which the compiler vectorizes, like the next one
            masks_T[tree] = item_T[tree] & query_T[tree]
        for column in range(len(rows_CB)):
            row_T = table_MT[rows_CB[column, index]]
            for tree in range(len(query_T)):
                masks_T[tree] &= row_T[tree]
        total = 0.0
        for tree in range(len(query_T)):
            total += values_TL[tree, (masks_T[tree] * DE_BRUIJN) >> np.uint64(58)]
        scores_B[index] = total
