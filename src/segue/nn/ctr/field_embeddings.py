"""Embed the fields of examples: one vector per field.

Categories, tags and sequences are rows of one table, so that all of them are looked up at once. The vector of tags and
of sequences is the mean of theirs. A number is multiplied by a vector of its field, and a vector by a matrix; where
they are missing, a learned vector takes their place.

Shapes: B examples, F fields, D width of an embedding, K numbers, C codes of all fields, L codes of all lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segue.core.examples.fields import Examples, Field, fields_of_kind

__all__ = ["INIT_STD", "ExampleBatch", "FieldEmbeddings"]

INIT_STD = 1e-4
"""Standard deviation of initial embeddings."""


class ExampleBatch:
    """Tensors of a batch of examples."""

    def __init__(self, examples: Examples, device: str | torch.device = "cpu") -> None:
        def tensor(array: NDArray[Any], dtype: Any = np.float32) -> Tensor:
            return torch.from_numpy(array.astype(dtype)).to(device)  # a copy: arrays of examples are read-only

        self.size = len(examples)
        self.codes_BC = tensor(examples.codes, np.int64)
        self.numbers_BK = tensor(examples.numbers)
        self.lists = {
            name: (tensor(one.items, np.int64), tensor(one.offsets, np.int64)) for name, one in examples.lists.items()
        }
        self.vectors = {name: tensor(one) for name, one in examples.vectors.items()}
        self.labels_B = None if examples.labels is None else tensor(examples.labels)
        self.weights_B = None if examples.weights is None else tensor(examples.weights)


class FieldEmbeddings(nn.Module):
    """Vectors of fields.

    Args:
        fields: inputs in the order of the output.
        dim: width of a vector; 1 for the weights of a linear model.
        init_std: standard deviation of initial values.
        unpooled: tags or sequences that have rows of the table but are not part of the output; see
            :meth:`rows_of_list`.
        lazy_rows: number of rows from which the table has sparse gradients; 0: never.
    """

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int,
        init_std: float = INIT_STD,
        unpooled: Sequence[Field] = (),
        lazy_rows: int = 0,
    ) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.categories = fields_of_kind(fields, "category")
        self.lists = fields_of_kind(fields, "tags", "sequence")
        self.numbers = fields_of_kind(fields, "number")
        self.vectors = fields_of_kind(fields, "vector")
        coded = (*self.categories, *self.lists, *unpooled)
        own = [one for one in coded if one.shares is None]
        starts = dict(zip((one.name for one in own), _starts([one.size for one in own]), strict=True))
        self.start_of = {one.name: starts[one.shares or one.name] for one in coded}
        self.coded_lists = (*self.lists, *unpooled)
        n_rows = sum(one.size for one in own)
        self.table = nn.Embedding(n_rows, dim, sparse=0 < lazy_rows <= n_rows)
        nn.init.normal_(self.table.weight, std=init_std)
        self.starts_C: Tensor
        offsets = [self.start_of[one.name] for one in self.categories]
        self.register_buffer("starts_C", torch.tensor(offsets, dtype=torch.int64), persistent=False)
        self.numbers_KD = nn.Parameter(torch.empty(len(self.numbers), dim).normal_(std=init_std))
        self.missing_KD = nn.Parameter(torch.empty(len(self.numbers), dim).normal_(std=init_std))
        self.projections = nn.ModuleList(nn.Linear(one.size, dim, bias=False) for one in self.vectors)
        self.missing_vectors = nn.Parameter(torch.empty(len(self.vectors), dim).normal_(std=init_std))
        order = [one.name for one in (*self.categories, *self.numbers, *self.lists, *self.vectors)]
        self.order = [order.index(one.name) for one in self.fields]
        self.is_ordered = self.order == list(range(len(order)))

    def forward(self, batch: ExampleBatch) -> Tensor:
        """Return the vectors of all fields, ``(B, F, D)``."""
        parts = [self.look_up(batch.codes_BC + self.starts_C)] if self.categories else []
        if self.numbers:
            x_BK1 = batch.numbers_BK[:, :, None]
            parts.append(torch.where(x_BK1.isnan(), self.missing_KD, x_BK1.nan_to_num() * self.numbers_KD))
        parts += [self.mean_of_list(batch, one)[:, None] for one in self.lists]
        for one, project, missing_D in zip(self.vectors, self.projections, self.missing_vectors, strict=True):
            x_BW = batch.vectors[one.name]
            is_missing_B1 = x_BW[:, :1].isnan()
            parts.append(torch.where(is_missing_B1, missing_D, project(x_BW.nan_to_num()))[:, None])
        x_BFD = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        return x_BFD if self.is_ordered else x_BFD[:, self.order]

    def sum_of_squares(self, batch: ExampleBatch) -> Tensor:
        """Return the sum of squares of the table.

        If gradients are sparse, it is that of the rows of the batch.
        """
        if not self.table.sparse:
            return self.table.weight.square().sum()
        codes = [batch.lists[one.name][0] + self.start_of[one.name] for one in self.coded_lists]
        codes += [(batch.codes_BC + self.starts_C).flatten()] if self.categories else []
        rows = torch.cat(codes).unique()
        squares: Tensor = self.table(rows).square().sum()
        return squares

    def rows_of_list(self, batch: ExampleBatch, one: Field) -> Tensor:
        """Return the vectors of all codes of tags or of a sequence, ``(L, D)``."""
        return self.look_up(batch.lists[one.name][0] + self.start_of[one.name])

    def look_up(self, rows: Tensor) -> Tensor:
        """Return rows of the table; vectors are the last dimension.

        On CPUs the gradient of ``index_select`` equals that of ``nn.Embedding`` in a fraction of the time; on GPUs it
        is not deterministic.
        """
        weight = self.table.weight
        if self.table.sparse or weight.device.type != "cpu":
            vectors: Tensor = self.table(rows)
            return vectors
        return weight.index_select(0, rows.flatten()).view(*rows.shape, weight.shape[1])

    def mean_of_list(self, batch: ExampleBatch, one: Field) -> Tensor:
        """Return the mean vector of each row of tags or of a sequence, ``(B, D)``.

        That of an empty one is 0.
        """
        codes_L, offsets = batch.lists[one.name]
        return nn.functional.embedding_bag(
            codes_L + self.start_of[one.name],
            self.table.weight,
            offsets,
            mode="mean",
            include_last_offset=True,
            sparse=self.table.sparse,
        )


def _starts(sizes: Sequence[int]) -> list[int]:
    """Return where each part starts if parts of these sizes follow each other."""
    return [sum(sizes[:index]) for index in range(len(sizes))]
