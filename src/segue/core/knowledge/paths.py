"""Find paths in the knowledge graph from items of a history to an item.

A path is history item - shared entity - item.

Shapes: V vertices, A neighbors of all vertices, both directions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from segue.core.knowledge.knowledge import ITEM_PREFIX, Knowledge

__all__ = ["ItemPath", "PathFinder"]


@dataclass(frozen=True)
class ItemPath:
    """One path from an item of the history to an item."""

    history_item: int
    """Item code; the path starts here."""
    first_relation: str
    """Relation between the item of the history and the entity; the only relation of a direct triple."""
    entity: str | None
    """Id of the shared entity; ``None``: a triple links the two items directly."""
    second_relation: str | None
    """Relation between the entity and the item."""
    item: int
    degree: int
    """Number of neighbors of the entity: an entity that few items share says more."""
    starts_at_item: bool = False
    """Whether the triples of a direct triple or a chain lead from the item to the item of the history."""
    is_chain: bool = False
    """Whether the entity is the tail of one triple and the head of the other, and both have the same relation."""

    def describe(self, history_name: str, item_name: str) -> str:
        """Return the path in words."""
        head, tail = (item_name, history_name) if self.starts_at_item else (history_name, item_name)
        if self.entity is None:
            return f"{head} - {self.first_relation} - {tail}"
        entity = self.entity.removeprefix(ITEM_PREFIX)
        if self.first_relation == self.second_relation and not self.is_chain:
            return f"{history_name} and {item_name} share {self.first_relation}: {entity}"
        return f"{head} - {self.first_relation} - {entity} - {self.second_relation} - {tail}"


class PathFinder:
    """The neighbors of every vertex, for looking up paths."""

    def __init__(self, knowledge: Knowledge) -> None:
        self.knowledge = knowledge

    @cached_property
    def _neighbors(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Return offsets, neighbors, relations, and whether the vertex is the head.

        The first has shape ``(V + 1,)``; the others ``(A,)``, sorted by neighbor within a vertex.
        """
        graph = self.knowledge.graph
        heads, tails = graph.heads_T.astype(np.int64), graph.tails_T.astype(np.int64)
        vertices, neighbors = np.concatenate([heads, tails]), np.concatenate([tails, heads])
        relations = np.concatenate([graph.relations_T, graph.relations_T]).astype(np.int64)
        order = np.lexsort((relations, neighbors, vertices))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(vertices, minlength=graph.n_vertices))])
        return offsets, neighbors[order], relations[order], order < len(heads)

    def degree(self, vertex: int) -> int:
        """Return the number of triples of a vertex."""
        offsets = self._neighbors[0]
        return int(offsets[vertex + 1] - offsets[vertex])

    def entity(self, vertex: int) -> str:
        """Return the id of the entity of a vertex."""
        return str(self.knowledge.entities.ids[int(self.knowledge.graph.entities_V[vertex])])

    def find(self, history: Iterable[int], item: int) -> list[tuple[int, int | None, int, int | None]]:
        """Return all paths: history item, vertex between, codes of both relations.

        The vertex is ``None`` for a direct triple. Vertices with the fewest neighbors come first. One path per item of
        the history and vertex is returned. Items that were added to the catalog later have no paths.
        """
        n_items = self.knowledge.n_items
        if item >= n_items:
            return []
        near, relations_near = self._around(item)
        found: list[tuple[int, int | None, int, int | None]] = []
        for other in dict.fromkeys(int(code) for code in history if code != item and code < n_items):
            vertices, relations = self._around(other)
            if len(direct := np.flatnonzero(vertices == item)):
                found.append((other, None, int(relations[direct[0]]), None))
            shared, at_other, at_item = np.intersect1d(vertices, near, return_indices=True)
            pairs = zip(shared.tolist(), relations[at_other].tolist(), relations_near[at_item].tolist(), strict=True)
            found += [(other, vertex, first, second) for vertex, first, second in pairs if vertex not in (other, item)]
        return sorted(found, key=lambda path: 0 if path[1] is None else self.degree(path[1]))

    def explain(self, history: Iterable[int], item: int, limit: int) -> list[ItemPath]:
        """Return the ``limit`` most specific paths."""
        names, paths = self.knowledge.relations, []
        for other, vertex, first, second in self.find(history, item)[:limit]:
            if vertex is None or second is None:
                starts_at_item = not self._has_triple(other, first, item)
                paths.append(ItemPath(other, names[first], None, None, item, 0, starts_at_item))
                continue
            starts_at_history = self._has_triple(other, first, vertex)
            is_chain = first == second and starts_at_history != self._has_triple(item, second, vertex)
            relations = names[first], self.entity(vertex), names[second]
            paths.append(
                ItemPath(other, *relations, item, self.degree(vertex), is_chain and not starts_at_history, is_chain)
            )
        return paths

    def _has_triple(self, head: int, relation: int, tail: int) -> bool:
        offsets, neighbors, relations, is_head = self._neighbors
        part = slice(offsets[head], offsets[head + 1])
        return bool((is_head[part] & (relations[part] == relation) & (neighbors[part] == tail)).any())

    def _around(self, vertex: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        offsets, neighbors, relations, _ = self._neighbors
        part = slice(offsets[vertex], offsets[vertex + 1])
        return neighbors[part], relations[part]
