"""CEASE: EASE of the events and the knowledge graph together.

Jeunen, Van Balen and Goethals 2020, "Closed-form models for collaborative filtering with side-information",
doi:10.1145/3383313.3418480.

Below the rows of the users stands one row per vertex of the graph, an item or another entity, with the items that share
a triple with it. So the weight between two items depends on the users and on the entities that they have in common, and
items without events have weights too. All relations count the same.

Shapes: U users, I items, V vertices, T triples.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt
from scipy.sparse import csr_array, vstack

from segue.core.config import Settings
from segue.core.knowledge.knowledge import ItemGraph
from segue.core.model import Validate
from segue.core.run import Run
from segue.core.types import Dataset
from segue.solvers.items.item_regression import ItemRegression

__all__ = ["CEASE"]


class CEASE(ItemRegression):
    """Score items by weighted sums; weights are from events and triples."""

    key = "cease"
    required_features = ("knowledge",)

    class Config(Settings):
        """Settings of ``cease``."""

        l2: Annotated[float, Gt(0)] = 500.0
        """L2 regularization, added to the diagonal of the item-item Gram matrix; sparser data needs higher values."""

        entity_weight: Annotated[float, Ge(0)] = 1.0
        """Weight of the row of an entity; that of a user is 1. With 0 this is ``ease``."""

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """See :meth:`ItemRegression.fit`."""
        self.schema = train.knowledge_schema(self.key)  # so that items without events are ranked, too
        super().fit(train, run, validate)

    def observations(self, train: Dataset) -> csr_array[Any]:
        """Return the events of the users, and below them the items of each vertex.

        ``(U + V, I)``
        """
        items_VI = _items_of_vertices(train.knowledge_for(self.key).graph)
        scale = np.float32(np.sqrt(self.config.entity_weight))  # the Gram matrix has the square
        return csr_array(vstack([super().observations(train), items_VI * scale], format="csr"))


def _items_of_vertices(graph: ItemGraph) -> csr_array[Any]:
    """Return which items share a triple with each vertex: ``(V, I)``, 0 or 1.

    A linked item is in its own row, so that the two items of a triple are together in one.
    """
    ends_T = np.concatenate([graph.heads_T, graph.tails_T])
    others_T = np.concatenate([graph.tails_T, graph.heads_T])
    linked = np.unique(ends_T[ends_T < graph.n_items])
    rows, columns = np.concatenate([others_T, linked]), np.concatenate([ends_T, linked])
    is_item = columns < graph.n_items
    shape = (graph.n_vertices, graph.n_items)
    found = csr_array((np.ones(int(is_item.sum()), np.float32), (rows[is_item], columns[is_item])), shape=shape)
    found.sum_duplicates()
    found.data[:] = 1.0
    return found
