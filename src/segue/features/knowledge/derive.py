"""Derive triples from item features, with one relation per column.

Such a triple is ``film - genre - drama``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from pydantic import field_validator

from segue.core.config import Settings, suggest
from segue.core.features import infer_features
from segue.core.knowledge.knowledge import ITEM_PREFIX, Knowledge
from segue.core.types import Dataset
from segue.core.vocab import Vocab

__all__ = ["KnowledgeSettings", "add_knowledge", "derive_knowledge"]


class KnowledgeSettings(Settings):
    """Which item features become triples of the knowledge graph."""

    columns: tuple[str, ...] = ()
    """Item features whose values become entities, such as ``[genres, directors]``; empty: no triples are derived."""

    @field_validator("columns", mode="before")
    @classmethod
    def _accept_one_column(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


SHARED = ("category", "tags")
"""Kinds of features whose values several items share."""


def derive_knowledge(data: Dataset, settings: KnowledgeSettings, log: Callable[[str], None] | None = None) -> Dataset:
    """Add the triples of the settings, if there are any; see :func:`add_knowledge`.

    The content hash stays that of the data without them: they follow from the data and the settings.
    """
    if not settings.columns:
        return data
    return replace(add_knowledge(data, settings.columns, log=log), header=data.header)


def add_knowledge(data: Dataset, columns: Sequence[str] = (), *, log: Callable[[str], None] | None = None) -> Dataset:
    """Add triples that are derived from item features to those of ``data``.

    Every value of a column is an entity, and the column is the relation. Texts are the same entity in all columns, so
    that a person who directs one film and acts in another links the two. Numbers and truth values are entities of their
    column, such as ``year:1995``.

    Args:
        columns: names of the item features; empty: all categories and tags.
        log: receives the statistics of the links.

    Raises:
        ValueError: the data has no such feature, or a feature has no values that can be entities.
    """
    table = pl.DataFrame() if data.item_features is None else data.item_features.collect()
    chosen = tuple(columns) or tuple(one.name for one in infer_features(table.lazy())[0] if one.kind in SHARED)
    available = [name for name in table.columns if name != "id"]
    if not available:
        raise ValueError(f"knowledge.columns: '{data.name}' has no item features to derive triples from")
    if not chosen:
        raise ValueError(f"knowledge.columns: '{data.name}' has no categories or tags among {', '.join(available)}")
    for name in chosen:
        if name not in available:
            raise ValueError(f"knowledge.columns: '{data.name}' has no item feature '{name}'{suggest(name, available)}")
    parts = [_triples(table, name) for name in chosen]
    derived = pl.concat(parts).unique(maintain_order=True)
    if not len(derived):
        raise ValueError(f"knowledge.columns: {', '.join(chosen)}: no item has a value")
    known = data.knowledge
    item_ids = [f"{ITEM_PREFIX}{one}" for one in data.items.ids]
    if known is not None:  # items keep the entities that they have
        item_ids = [
            known.entities.ids[code] if code >= 0 else own
            for code, own in zip(known.item_entities.tolist(), item_ids, strict=True)
        ]
        ids = known.entities.ids
        old = pl.DataFrame(
            {
                "head": ids.gather(known.heads),
                "relation": pl.Series(known.relations).gather(known.relation_codes),
                "tail": ids.gather(known.tails),
            }
        )
    head = pl.Series("head", item_ids, dtype=pl.String).gather(derived["item"])
    whole = derived.select(head, "relation", "tail")
    whole = whole if known is None else pl.concat([old, whole]).unique(maintain_order=True)
    entities = pl.concat([whole["head"], whole["tail"].alias("head")]).unique().sort()
    relations = whole["relation"].unique().sort()
    codes, of_relations = pl.Enum(entities), pl.Enum(relations)
    heads, tails = (whole[name].cast(codes).to_physical().to_numpy().astype(np.int32) for name in ("head", "tail"))
    relation_codes = whole["relation"].cast(of_relations).to_physical().to_numpy().astype(np.int32)
    links = pl.Series(item_ids, dtype=pl.String).cast(codes, strict=False).to_physical().cast(pl.Int32).fill_null(-1)
    found = Knowledge(Vocab(entities), tuple(relations), heads, relation_codes, tails, links.to_numpy())
    if log is not None:
        facts = found.describe()
        log(
            f"knowledge: {len(derived):,} triples from {', '.join(chosen)}; {facts['items_linked']:,} of "
            f"{data.n_items:,} items linked, {facts['entities'] - facts['items_linked']:,} other entities"
        )
    return replace(data, knowledge=found, header=_with_hash(data, found))


def _triples(table: pl.DataFrame, name: str) -> pl.DataFrame:
    """Return item code, relation and entity of each value of a column."""
    rows = table.select(pl.int_range(pl.len()).alias("item"), pl.col(name).alias("tail"))
    kind: Any = table.schema[name]
    inner = getattr(kind, "inner", kind)
    if inner.is_float() or inner.is_nested():
        raise ValueError(
            f"knowledge.columns: '{name}' holds {kind}, expected texts, integers, truth values or lists of them"
        )
    if kind.is_nested():
        rows = rows.explode("tail")
    text = pl.col("tail").cast(pl.String).str.strip_chars()
    is_text = inner in (pl.String, pl.Categorical, pl.Enum)
    tail = text if is_text else pl.lit(f"{name}:") + text
    rows = rows.select("item", pl.lit(name).alias("relation"), tail.alias("tail"))
    return rows.drop_nulls("tail").filter(pl.col("tail") != "")


def _with_hash(data: Dataset, knowledge: Knowledge) -> dict[str, Any]:
    """Return the header with a content hash that covers the graph."""
    header = dict(data.header)
    if "hash" in header:
        header["hash"] = hashlib.sha256(f"{header['hash']} knowledge {knowledge.digest}".encode()).hexdigest()
    return header
