"""Score many candidates of a query, without computing the same terms twice.

A part of a trained network depends on the item alone and is computed once for all items, and a part depends on the
user, the context and the history alone and is computed once per query. In the first layer of a network, such parts add
up: what is left for a candidate is a lookup, a sum and the other layers. Batch normalization is a part of the weights,
as its statistics no longer change.

Shapes: B candidates of a query, C fields of categories, N queries, I items, T pairs, K numbers of a candidate, X
quantities of an item.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segue.core.examples.candidate_fields import CandidateFields, rows_of_queries
from segue.core.examples.fields import Examples, Field
from segue.core.types import Codes, Scores
from segue.nn.ctr.field_embeddings import ExampleBatch
from segue.nn.ctr.layers import EPSILON, BatchNorm

__all__ = ["CandidateScorer", "DividedNetwork", "Layer", "apply_layers", "fold"]

MAX_BYTES = 256_000_000
"""Size of the quantities of all items; larger catalogs are scored pair by pair."""

PAIRS_PER_BLOCK = 4_096
"""Candidates that are scored at a time."""

Layer = tuple[Tensor, Tensor, bool]
"""Weights and bias of a fully connected layer, and whether ReLU follows."""


class DividedNetwork(ABC):
    """A trained network, divided into what depends on items, queries, and both.

    It is in evaluation mode.
    """

    fields: tuple[Field, ...]
    """All inputs of the network."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Number of quantities of an item, X; at most, before the fields are divided."""

    @abstractmethod
    def divide(self, fields: CandidateFields) -> None:
        """Set which fields depend on what; called once, before the other methods."""

    @abstractmethod
    def of_items(self, batch: ExampleBatch) -> Tensor:
        """Return the quantities of items, ``(I, X)``."""

    @abstractmethod
    def of_query(self, batch: ExampleBatch) -> Any:
        """Return what depends on the query alone; the batch has one row."""

    @abstractmethod
    def logits(self, items_BX: Tensor, query: Any, numbers_BK: Tensor | None) -> Tensor:
        """Return the logits of candidates of one query, ``(B,)``.

        The quantities of the items may be changed.
        """


class CandidateScorer:
    """Scores candidates with quantities of all items that are computed once.

    Args:
        network: a trained network.
        items: examples of all items, in their order; other fields than those of items are not read.
        n_numbers: numbers of a candidate, the last fields of numbers, which depend on query and item.
    """

    def __init__(self, network: DividedNetwork, items: Examples, n_numbers: int = 0) -> None:
        self.network = network
        network.divide(CandidateFields.of(network.fields, n_numbers))
        parts = [items.rows_between(start, start + PAIRS_PER_BLOCK) for start in range(0, len(items), PAIRS_PER_BLOCK)]
        self.items_IX = torch.cat([network.of_items(ExampleBatch(part)) for part in parts])

    @staticmethod
    def fits(network: DividedNetwork, n_items: int) -> bool:
        """Return whether the quantities of all items are small enough to be kept."""
        return 4 * network.width * n_items <= MAX_BYTES

    @torch.inference_mode()
    def score(
        self, queries: Examples, rows_T: NDArray[np.int64], items_T: Codes, numbers_TK: Scores | None = None
    ) -> Scores:
        """Return the logits of pairs of queries and items, ``(T,)``.

        Args:
            queries: one example per query, with any item.
            rows_T: query of each pair, in ascending order.
            items_T: item of each pair.
            numbers_TK: numbers of each pair, none of which is missing.
        """
        items = torch.from_numpy(items_T.astype(np.int64))
        numbers = None if numbers_TK is None else torch.from_numpy(numbers_TK)
        logits_T = np.empty(len(rows_T), np.float32)
        for row, pairs in rows_of_queries(rows_T):
            query = self.network.of_query(ExampleBatch(queries.rows_between(row, row + 1)))
            for start in range(pairs.start, pairs.stop, PAIRS_PER_BLOCK):
                part = slice(start, min(start + PAIRS_PER_BLOCK, pairs.stop))
                items_BX = self.items_IX.index_select(0, items[part])
                found_B = self.network.logits(items_BX, query, None if numbers is None else numbers[part])
                logits_T[part] = found_B.numpy()
        return logits_T


def fold(tower: nn.Sequential) -> list[Layer]:
    """Return the layers of a tower; normalization is a part of their weights."""
    layers: list[Layer] = []
    for module in tower:
        if isinstance(module, nn.Linear):
            layers.append((module.weight.clone(), module.bias.clone(), False))
        elif isinstance(module, BatchNorm):
            weights_OH, bias_O, has_relu = layers[-1]
            scale_O = (module.running_var + EPSILON).rsqrt()
            scale_O = scale_O if module.weight is None else scale_O * module.weight
            shift_O = (bias_O - module.running_mean) * scale_O
            shift_O = shift_O if module.bias is None else shift_O + module.bias
            layers[-1] = weights_OH * scale_O[:, None], shift_O, has_relu
        elif isinstance(module, nn.ReLU):
            layers[-1] = *layers[-1][:2], True
    return layers


def apply_layers(layers: list[Layer], sums_BH: Tensor) -> Tensor:
    """Return the output of a tower from the inputs of its first activation.

    These are changed.
    """
    x_BH = sums_BH
    for number, (weights_OH, bias_O, has_relu) in enumerate(layers):
        if number:
            x_BH = torch.addmm(bias_O, x_BH, weights_OH.T)
        if has_relu:
            x_BH.relu_()
    return x_BH
