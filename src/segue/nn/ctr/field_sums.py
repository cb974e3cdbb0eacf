"""Divide networks whose first layers are sums over fields.

The first fully connected layer of a tower, the linear part, the sum of the embeddings and of their squares, and the
first layer of crosses are sums of one term per field. Those of the fields of an item are its quantities.

Shapes: B examples, F fields, D width of all vectors of a field, E = F D, H width of the first layer of the tower, K
numbers of a candidate, X quantities.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segue.core.examples.candidate_fields import CandidateFields
from segue.nn.ctr.candidate_scoring import DividedNetwork, apply_layers, fold
from segue.nn.ctr.field_embeddings import ExampleBatch, FieldEmbeddings
from segue.nn.ctr.layers import Tower

__all__ = ["CrossSums", "FactorizationSums"]


class FieldSums(DividedNetwork):
    """A network whose logit is a function of sums over fields.

    Args:
        tables: embeddings of all fields; a field has a vector of each table, one after the other.
        constant_X: added to the sums.
    """

    def __init__(self, tables: Sequence[FieldEmbeddings], constant_X: Tensor) -> None:
        self.tables, self.fields = tables, tables[0].fields
        self.constant_X = constant_X
        self.item_fields: list[int] = []
        self.query_fields: list[int] = []
        self.query_weights = constant_X.new_zeros(0)
        self.numbers_KX = constant_X.new_zeros(0, self.width)

    @property
    def width(self) -> int:
        """Number of quantities of an item."""
        return len(self.constant_X)

    @abstractmethod
    def weights_of(self, index: Sequence[int]) -> Tensor:
        """Return the weights that :meth:`sums` multiplies with the vectors of some fields."""

    @abstractmethod
    def sums(self, x_BFD: Tensor, weights: Tensor) -> Tensor:
        """Return the sums over fields, ``(B, X)``.

        Args:
            x_BFD: vectors of the fields.
            weights: those of :meth:`weights_of` for the same fields.
        """

    def divide(self, fields: CandidateFields) -> None:
        """See :meth:`DividedNetwork.divide`."""
        self.item_fields, self.query_fields, own = fields.positions(self.fields)
        self.query_weights = self.weights_of(self.query_fields)
        if own:
            vectors_KD = torch.cat([one.numbers_KD[len(one.numbers) - len(own) :] for one in self.tables], 1)
            self.numbers_KX = torch.cat(
                [self.sums(x_D[None, None], self.weights_of([at])) for x_D, at in zip(vectors_KD, own, strict=True)]
            )

    def of_items(self, batch: ExampleBatch) -> Tensor:
        """Return the sums over the fields of items, ``(I, X)``."""
        return self._sums_of(batch, self.item_fields, self.weights_of(self.item_fields))

    def of_query(self, batch: ExampleBatch) -> Tensor:
        """Return the sums over the fields of the query, ``(1, X)``."""
        return self._sums_of(batch, self.query_fields, self.query_weights) + self.constant_X

    def _sums_of(self, batch: ExampleBatch, index: list[int], weights: Tensor) -> Tensor:
        return self.sums(torch.cat([one(batch) for one in self.tables], 2)[:, index], weights)

    def add(self, items_BX: Tensor, query_1X: Tensor, numbers_BK: Tensor | None) -> Tensor:
        """Return the sums over all fields, ``(B, X)``, in place of those of the items."""
        if numbers_BK is None:
            return items_BX.add_(query_1X)
        ones_B1 = numbers_BK.new_ones(len(numbers_BK), 1)
        return items_BX.addmm_(torch.cat([ones_B1, numbers_BK], 1), torch.cat([query_1X, self.numbers_KX]))


class FactorizationSums(FieldSums):
    """A linear part, products of pairs, and a tower.

    The quantities are the inputs of the first layer (H), the linear part (1), the embeddings and their squares (1).

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
        self.has_products = has_products
        self.layers = [] if tower is None else fold(tower)
        dim = embed.table.embedding_dim
        first_H = self.layers[0][1] if self.layers else torch.zeros(0)
        self.n_hidden = len(first_H)
        constant_1 = torch.zeros(1) if bias is None else bias.detach()
        super().__init__((embed, linear), torch.cat([first_H, constant_1, torch.zeros(dim + 1)]))
        self.squares_K = torch.zeros(0)

    def divide(self, fields: CandidateFields) -> None:
        """See :meth:`DividedNetwork.divide`.

        The squares of numbers are not proportional to them.
        """
        super().divide(fields)
        self.squares_K = self.numbers_KX[:, -1].clone()
        self.numbers_KX[:, -1] = 0.0

    def weights_of(self, index: Sequence[int]) -> Tensor:
        """See :meth:`FieldSums.weights_of`; those of the first layer, ``(H, E)``."""
        if not self.layers:
            return self.constant_X.new_zeros(0)
        return _columns(self.layers[0][0], index, self.tables[0].table.embedding_dim)

    def sums(self, x_BFD: Tensor, weights: Tensor) -> Tensor:
        """See :meth:`FieldSums.sums`."""
        x_BFD, weights_BF = x_BFD[:, :, :-1], x_BFD[:, :, -1]
        parts = [weights_BF.sum(1, keepdim=True), x_BFD.sum(1), x_BFD.square().sum((1, 2))[:, None]]
        if self.layers:
            parts.insert(0, x_BFD.flatten(1) @ weights.T)
        return torch.cat(parts, 1)

    def logits(self, items_BX: Tensor, query: Tensor, numbers_BK: Tensor | None) -> Tensor:
        """See :meth:`DividedNetwork.logits`."""
        sums_BX = self.add(items_BX, query, numbers_BK)
        logits_B = sums_BX[:, self.n_hidden].clone()
        if self.has_products:
            squares_B = sums_BX[:, -1]
            if numbers_BK is not None:
                squares_B = squares_B + numbers_BK.square() @ self.squares_K
            logits_B += 0.5 * (sums_BX[:, self.n_hidden + 1 : -1].square().sum(1) - squares_B)
        if self.layers:
            logits_B += apply_layers(self.layers, sums_BX[:, : self.n_hidden])[:, 0]
        return logits_B


class CrossSums(FieldSums):
    """Crosses, and a tower beside them or after them.

    A cross is x_{l + 1} = x_0 * (W_l x_l + b_l) + x_l.

    The quantities are x_0 (E) and W_0 x_0 + b_0 (E). If the tower is beside the crosses, the inputs of its first layer
    (H) are others, and the last cross, of which only the product with the weights w of the output is needed, is one
    of vectors that are linear in x_0:

        w . x_L = x_{L - 1} . (W_{L - 1}^T (w * x_0) + w) + x_0 . (w * b_{L - 1})

    so that the first vector (E) and the last number (1) are quantities too, and only the crosses between the first and
    the last one multiply matrices.

    Args:
        embed: embeddings of all fields.
        crosses: the linear layer of each cross, or two narrow ones.
        tower: fully connected layers with ReLU.
        out: last layer, over the outputs of the crosses (E), if the tower is beside them, and of the tower.
        is_parallel: whether the tower is beside the crosses.
    """

    def __init__(
        self,
        embed: FieldEmbeddings,
        crosses: nn.ModuleList,
        tower: Tower,
        out: nn.Linear,
        is_parallel: bool,
    ) -> None:
        self.layers, self.is_parallel = fold(tower), is_parallel
        self.crosses = [_matrix_of(cross) for cross in crosses]
        self.middle = list(crosses)[1:]
        weights_EE, bias_E = self.crosses[0]
        n_inputs = len(bias_E)
        identity_EE = torch.eye(n_inputs)
        maps, constants = [identity_EE, weights_EE], [torch.zeros(n_inputs), bias_E]
        weights_E, weights_O = out.weight[0].split([n_inputs if is_parallel else 0, tower.width])
        self.layers.append((weights_O[None], out.bias, False))
        if is_parallel:
            maps.append(self.layers[0][0])
            constants.append(self.layers[0][1])
            if len(self.crosses) > 1:
                self.middle.pop()
                last_EE, last_E = self.crosses[-1]
                maps += [last_EE.T * weights_E, (weights_E * last_E)[None]]
                constants += [weights_E, torch.zeros(1)]
        self.weights_E = weights_E
        self.sizes = [len(one) for one in constants]
        self.map_XE = torch.cat(maps)
        super().__init__((embed,), torch.cat(constants))

    def weights_of(self, index: Sequence[int]) -> Tensor:
        """See :meth:`FieldSums.weights_of`; ``(X, E)``."""
        return _columns(self.map_XE, index, self.tables[0].table.embedding_dim)

    def sums(self, x_BFD: Tensor, weights: Tensor) -> Tensor:
        """See :meth:`FieldSums.sums`."""
        return x_BFD.flatten(1) @ weights.T

    def logits(self, items_BX: Tensor, query: Tensor, numbers_BK: Tensor | None) -> Tensor:
        """See :meth:`DividedNetwork.logits`."""
        first_BE, x_BE, *others = self.add(items_BX, query, numbers_BK).split(self.sizes, 1)
        x_BE = torch.addcmul(first_BE, first_BE, x_BE)
        for cross in self.middle:
            x_BE = torch.addcmul(x_BE, first_BE, cross(x_BE))
        if not self.is_parallel:
            for weights_OH, bias_O, has_relu in self.layers:
                x_BE = torch.addmm(bias_O, x_BE, weights_OH.T)
                x_BE = x_BE.relu_() if has_relu else x_BE
            last_B: Tensor = x_BE[:, 0]
            return last_B
        logits_B: Tensor = apply_layers(self.layers, others[0])[:, 0]
        if len(others) == 1:
            return logits_B.add_(x_BE @ self.weights_E)
        logits_B += (x_BE * others[1]).sum(1) + others[2][:, 0]
        return logits_B


def _columns(weights_OE: Tensor, index: Sequence[int], dim: int) -> Tensor:
    """Return the columns of weights that multiply the vectors of some fields."""
    columns: Tensor = weights_OE.unflatten(1, (-1, dim))[:, index].flatten(1)
    return columns


def _matrix_of(cross: nn.Module) -> tuple[Tensor, Tensor]:
    """Return weights and bias of a cross, the product of its matrices if it has two."""
    matrices = [one for one in cross.modules() if isinstance(one, nn.Linear)]
    weights_EE = matrices[0].weight if len(matrices) == 1 else matrices[1].weight @ matrices[0].weight
    return weights_EE, matrices[-1].bias
