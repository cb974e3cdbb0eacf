"""A knowledge graph: facts about items as triples of head, relation and tail.

Shapes: T triples, E entities, R relations, I items, V = I + the entities without an item (vertices).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.events import Codes, read_only
from segue.core.vocab import Vocab

__all__ = ["ITEM_PREFIX", "ItemGraph", "Knowledge"]

ITEM_PREFIX = "item:"
"""Prefix of the id of an entity that stands for an item, where the data has no entity ids of its own."""


@dataclass(frozen=True, eq=False)
class ItemGraph:
    """Triples over vertices.

    Vertex ``j`` below I is item ``j``; the other entities follow.
    """

    heads_T: Codes
    relations_T: Codes
    tails_T: Codes
    entities_V: Codes
    """``(V,)`` entity of each vertex; -1 for an item without an entity."""
    n_items: int

    @property
    def n_vertices(self) -> int:
        """Return the number of vertices, V."""
        return len(self.entities_V)


@dataclass(frozen=True, eq=False)
class Knowledge:
    """Triples, and the entity of each item.

    Raises:
        ValueError: the columns differ in length, or a code is out of range; the message names the column.
    """

    entities: Vocab
    relations: tuple[str, ...]
    """Names of the relations; the index is the code."""
    heads: Codes
    """``(T,)`` entity codes."""
    relation_codes: Codes
    """``(T,)`` relation codes."""
    tails: Codes
    """``(T,)`` entity codes."""
    item_entities: Codes
    """``(I,)`` entity code of each item; -1 where the graph does not contain the item."""

    def __post_init__(self) -> None:
        bounds = {
            "heads": (0, len(self.entities)),
            "relation_codes": (0, len(self.relations)),
            "tails": (0, len(self.entities)),
            "item_entities": (-1, len(self.entities)),
        }
        for name, (low, high) in bounds.items():
            codes = read_only(getattr(self, name), np.int32)
            object.__setattr__(self, name, codes)
            if name != "item_entities" and len(codes) != len(self.heads):
                raise ValueError(f"knowledge.{name}: got {len(codes)} values for {len(self.heads)} triples")
            if len(codes) and not low <= int(codes.min()) <= int(codes.max()) < high:
                raise ValueError(
                    f"knowledge.{name}: got codes from {codes.min()} to {codes.max()}, expected {low} to {high - 1}"
                )

    def __len__(self) -> int:
        """Return the number of triples, T."""
        return len(self.heads)

    @property
    def n_items(self) -> int:
        """Return the number of items of the catalog, I."""
        return len(self.item_entities)

    @property
    def n_other_entities(self) -> int:
        """Return the number of entities that are not items."""
        return len(self.entities) - len(np.unique(self.item_entities[self.item_entities >= 0]))

    @property
    def digest(self) -> str:
        """Return a SHA-256 of the triples, the links and all names."""
        whole = hashlib.sha256("\n".join([*self.relations, "", *self.entities.ids.to_list()]).encode())
        for column in (self.heads, self.relation_codes, self.tails, self.item_entities):
            whole.update(np.ascontiguousarray(column).data)
        return whole.hexdigest()

    @cached_property
    def graph(self) -> ItemGraph:
        """Return the triples over items and other entities.

        A triple of an entity that several items share is repeated for each of them.
        """
        linked = np.flatnonzero(self.item_entities >= 0)
        is_item_E = np.zeros(len(self.entities), np.bool_)
        is_item_E[self.item_entities[linked]] = True
        others = np.flatnonzero(~is_item_E)
        entities_V = np.concatenate([self.item_entities, others]).astype(np.int32)
        entities = np.concatenate([self.item_entities[linked], others])
        vertices = np.concatenate([linked, self.n_items + np.arange(len(others))])
        order = np.argsort(entities, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(entities, minlength=len(self.entities)))])
        triples_T, heads_T = _expand(self.heads, starts, vertices[order])
        rows_T, tails_T = _expand(self.tails[triples_T], starts, vertices[order])
        columns = heads_T[rows_T], self.relation_codes[triples_T][rows_T], tails_T
        heads, relations, tails = (read_only(column, np.int32) for column in columns)
        return ItemGraph(heads, relations, tails, read_only(entities_V), self.n_items)

    def describe(self) -> dict[str, Any]:
        """Return statistics of the links and the triples.

        They are: items with an entity, triples by relation, degrees of entities, and entities without a path to an
        item.
        """
        degrees_E = np.bincount(self.heads, minlength=len(self.entities))
        degrees_E += np.bincount(self.tails, minlength=len(self.entities))
        linked = self.item_entities[self.item_entities >= 0]
        item_degrees = degrees_E[linked]
        counts_R = np.bincount(self.relation_codes, minlength=len(self.relations))
        order = np.argsort(-counts_R, kind="stable")
        return {
            "triples": len(self),
            "entities": len(self.entities),
            "relations": len(self.relations),
            "items_linked": len(linked),
            "items_with_triples": int((item_degrees > 0).sum()),
            "triples_per_relation": {self.relations[code]: int(counts_R[code]) for code in order},
            "triples_per_item": _quantiles(item_degrees),
            "triples_per_entity": _quantiles(degrees_E),
            "isolated_entities": len(self.entities) - int(self._reachable().sum()),
        }

    def _reachable(self) -> NDArray[np.bool_]:
        """Return which entities are connected with an item, ``(E,)``."""
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import connected_components

        ones = np.ones(len(self), np.int8)
        adjacency_EE = csr_array((ones, (self.heads, self.tails)), shape=(len(self.entities),) * 2)
        count, component_E = connected_components(adjacency_EE, directed=False)
        has_item = np.zeros(count, np.bool_)
        has_item[component_E[self.item_entities[self.item_entities >= 0]]] = True
        reachable_E: NDArray[np.bool_] = has_item[component_E]
        return reachable_E


def _expand(
    codes: NDArray[np.integer[Any]], starts: NDArray[np.int64], vertices: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the row and the vertex of every vertex of each code.

    Args:
        starts: where the vertices of each code begin in ``vertices``.
    """
    counts = (starts[1:] - starts[:-1])[codes]
    rows = np.repeat(np.arange(len(codes)), counts)
    offsets = np.cumsum(counts) - counts
    return rows, vertices[starts[codes][rows] + np.arange(len(rows)) - offsets[rows]]


def _quantiles(values: NDArray[np.int64]) -> dict[str, float]:
    found = np.percentile(values, (0, 50, 100)) if len(values) else np.zeros(3)
    return dict(zip(("min", "median", "max"), found.tolist(), strict=True))
