"""Score many candidates of a query with sums over fields.

In some networks the linear part, the products of pairs and the first fully connected layer are sums over fields. Those
of the fields of an item do not depend on the query, and are computed once for all items; those of the user, the context
and the history are computed once per query. What is left for a candidate is a lookup, a sum and the other layers. Batch
normalization is a part of the weights, as its statistics no longer change.

Shapes: B examples, F fields, D width of an embedding, N queries, C candidates, I items, K numbers of a candidate, X
quantities that are sums over fields, H width of the first layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segue.core.examples.fields import Examples
from segue.core.types import Codes, Scores
from segue.nn.ctr.field_embeddings import ExampleBatch, FieldEmbeddings
from segue.nn.ctr.layers import EPSILON, BatchNorm, Tower

__all__ = ["CandidateScorer", "FieldSums"]

MAX_BYTES = 256_000_000
"""Size of the quantities of all items; larger catalogs are scored pair by pair."""

PAIRS_PER_BLOCK = 16_384
"""Pairs of queries and candidates that are scored at a time."""


class FieldSums:
    """The quantities of a trained network that are sums over fields.

    The logit is a function of them.

    They are the inputs of the first layer (H), the linear part (1), the embeddings (D) and their squares (1).

    Args:
        bias: added to the logit; ``None``: nothing.
        linear: weights of values.
        embed: embeddings of the same fields.
        has_products: whether the sum of the products of all pairs of embeddings is a part of the logit.
        tower: fully connected layers over all embeddings, with ReLU; ``None``: none.
    """

    def __init__(
        self,
        bias: Tensor | None,
        linear: FieldEmbeddings,
        embed: FieldEmbeddings,
        has_products: bool,
        tower: Tower | None,
    ) -> None:
        self.linear, self.embed, self.has_products = linear, embed, has_products
        self.layers = [] if tower is None else _fold(tower)
        self.dim = embed.table.embedding_dim
        self.n_hidden = len(self.layers[0][0]) if self.layers else 0
        self.constant_X = torch.zeros(self.width)
        if self.layers:
            self.constant_X[: self.n_hidden] = self.layers[0][1]
        if bias is not None:
            self.constant_X[self.n_hidden] = bias

    @property
    def width(self) -> int:
        """Number of quantities, X."""
        return self.n_hidden + 2 + self.dim

    def of(self, batch: ExampleBatch, index: Sequence[int]) -> Tensor:
        """Return the quantities of some fields, ``(B, X)``."""
        return self._of_embeddings(self.linear(batch)[:, index], self.embed(batch)[:, index], index)

    def of_numbers(self, index: Sequence[int]) -> Tensor:
        """Return the quantities of the last K fields of numbers, ``(K, X)``.

        They are the fields ``index``, and each number is 1.
        Those of another number are proportional, and squares to its square.
        """
        count = len(index)
        rows = [
            self._of_embeddings(
                self.linear.numbers_KD[-count:][None, [k]], self.embed.numbers_KD[-count:][None, [k]], [f]
            )
            for k, f in enumerate(index)
        ]
        return torch.cat(rows)

    def _of_embeddings(self, weights_BF1: Tensor, x_BFD: Tensor, index: Sequence[int]) -> Tensor:
        parts = [weights_BF1.sum(1), x_BFD.sum(1), x_BFD.square().sum((1, 2))[:, None]]
        if self.layers:
            weights_HFD = self.layers[0][0].unflatten(1, (-1, self.dim))
            parts.insert(0, x_BFD.flatten(1) @ weights_HFD[:, index].flatten(1).T)
        return torch.cat(parts, 1)

    def logits(self, sums_BX: Tensor) -> Tensor:
        """Return the logits of examples from sums over all fields, ``(B,)``.

        The sums are changed.
        """
        logits_B = sums_BX[:, self.n_hidden].clone()
        if self.has_products:
            x_BD, squares_B = sums_BX[:, self.n_hidden + 1 : -1], sums_BX[:, -1]
            logits_B += 0.5 * (x_BD.square().sum(1) - squares_B)
        if self.layers:
            hidden_BH = sums_BX[:, : self.n_hidden]
            for number, (weights_OH, bias_O, has_relu) in enumerate(self.layers):
                if number:
                    hidden_BH = torch.addmm(bias_O, hidden_BH, weights_OH.T)
                if has_relu:
                    hidden_BH.relu_()
            logits_B += hidden_BH[:, 0]
        return logits_B


def _fold(tower: Tower) -> list[tuple[Tensor, Tensor, bool]]:
    """Return weights, bias and whether ReLU follows, of each layer.

    Normalization is a part of them.
    """
    layers: list[tuple[Tensor, Tensor, bool]] = []
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


class CandidateScorer:
    """Scores candidates with quantities of all items that are computed once.

    Args:
        sums: of a trained network in evaluation mode.
        items: examples of all items, in their order; other fields than those of items are not read.
        n_numbers: numbers of a candidate, the last fields of numbers, which depend on query and item.
    """

    def __init__(self, sums: FieldSums, items: Examples, n_numbers: int = 0) -> None:
        names = [one.name for one in sums.embed.fields]
        own = [one.name for one in sums.embed.numbers][len(sums.embed.numbers) - n_numbers :]
        of_candidates = [names.index(name) for name in own]
        of_items = [index for index, name in enumerate(names) if name == "item" or name.startswith("item.")]
        self.sums = sums
        self.of_queries = sorted({*range(len(names))} - {*of_items} - {*of_candidates})
        parts = [items.rows_between(start, start + PAIRS_PER_BLOCK) for start in range(0, len(items), PAIRS_PER_BLOCK)]
        self.sums_IX = torch.cat([sums.of(ExampleBatch(part), of_items) for part in parts])
        self.numbers_KX = sums.of_numbers(of_candidates) if n_numbers else sums.constant_X.new_zeros(0, sums.width)
        self.squares_K = self.numbers_KX[:, -1].clone()
        self.numbers_KX[:, -1] = 0.0

    @staticmethod
    def fits(sums: FieldSums, n_items: int) -> bool:
        """Return whether the quantities of all items are small enough to be kept."""
        return 4 * sums.width * n_items <= MAX_BYTES

    @torch.inference_mode()
    def score(
        self, queries: Examples, rows_T: NDArray[np.int64], items_T: Codes, numbers_TK: Scores | None = None
    ) -> Scores:
        """Return the logits of pairs of queries and items, ``(T,)``.

        Args:
            queries: one example per query, with any item.
            rows_T: query of each pair.
            items_T: item of each pair.
            numbers_TK: numbers of each pair, none of which is missing.
        """
        sums_NX = self.sums.of(ExampleBatch(queries), self.of_queries) + self.sums.constant_X
        rows, items = torch.from_numpy(rows_T), torch.from_numpy(items_T.astype(np.int64))
        numbers = None if numbers_TK is None else torch.from_numpy(numbers_TK)
        logits_T = np.empty(len(rows_T), np.float32)
        for start in range(0, len(rows_T), PAIRS_PER_BLOCK):
            part = slice(start, start + PAIRS_PER_BLOCK)
            sums_BX = self.sums_IX[items[part]]
            sums_BX += sums_NX if len(sums_NX) == 1 else sums_NX[rows[part]]
            if numbers is not None:
                x_BK = numbers[part]
                sums_BX.addmm_(x_BK, self.numbers_KX)
                sums_BX[:, -1] += x_BK.square() @ self.squares_K
            logits_T[part] = self.sums.logits(sums_BX).numpy()
        return logits_T
