"""Explain why a model does or does not recommend an item.

The service uses the same code.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from segue.core.bundle import TrainedModel
from segue.core.messages import arg
from segue.experiment.inference.constraints import catalog_of, compile_constraints
from segue.experiment.inference.frames import id_texts, positive_integer, typed_ids
from segue.experiment.inference.queries import encode_items
from segue.experiment.inference.query_batch import QueryBatch
from segue.experiment.inference.recommend import warn_once

__all__ = ["ItemExplanation", "explain_item"]


@dataclass(frozen=True, eq=False)
class ItemExplanation:
    """Why an item ranks where it does for one query."""

    item_id: Any
    title: str | None
    is_recommended: bool
    """Whether it is among the first ``k`` items."""
    rank: int | None
    """Its rank among all items that may be recommended, from 1; ``None``: a rule excludes it."""
    score: float
    attributions: pl.DataFrame
    """Items of the history: ``item_id``, ``title`` and ``contribution`` (the item's score minus its score without the
    item of the history, leave-one-out), largest effect first."""
    rules: Mapping[str, str]
    """Effect of each rule on the item; ``history``: the item was already seen."""
    shared_features: Mapping[str, tuple[str, ...]]
    """By feature, the values that the item shares with items of the history."""
    paths: tuple[Mapping[str, Any], ...]
    """Paths in the knowledge graph from items of the history, most specific first: ``id``, ``entity``, ``relations``,
    ``text``; empty without triples."""
    reasons: tuple[str, ...]
    """The same in words."""

    @property
    def table(self) -> pl.DataFrame:
        """The attributions."""
        return self.attributions

    def __repr__(self) -> str:
        name = f"'{self.item_id}'" if self.title is None else f"'{self.title}' ({self.item_id})"
        return "\n".join([f"Explanation of {name}:", *(f"- {reason}" for reason in self.reasons)])

    def _repr_html_(self) -> str:
        name = self.title or str(self.item_id)
        reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in self.reasons)
        return f"<b>{html.escape(name)}</b><ul>{reasons}</ul>{self.attributions.head(10)._repr_html_()}"

    def to_dict(self) -> dict[str, Any]:
        """All parts as JSON holds them."""
        return {
            "item_id": self.item_id,
            "title": self.title,
            "recommended": self.is_recommended,
            "rank": self.rank,
            "score": self.score,
            "attributions": self.attributions.to_dicts(),
            "rules": dict(self.rules),
            "shared_features": {name: list(values) for name, values in self.shared_features.items()},
            "paths": [dict(path) for path in self.paths],
            "reasons": list(self.reasons),
        }


def explain_item(
    trained: TrainedModel,
    batch: QueryBatch,
    item: Any,
    k: int = 10,
    *,
    exclude_seen: bool = True,
    filter: Mapping[str, Any] | None = None,  # noqa: A002 - the name in the public API
    rules: Mapping[str, Any] | None = None,
) -> ItemExplanation:
    """Explain the rank of ``item`` for the only query of ``batch``.

    Raises:
        ValueError: several queries, ``k`` is below 1, or the item is not in the catalog.
    """
    from segue.serving import schemas
    from segue.serving.explain.explain import explain
    from segue.serving.rules.compile import CompiledRules

    if len(batch) != 1:
        raise ValueError(f"explain: got {len(batch)} queries, expected one user or one history")
    k = positive_integer(k, "k")
    codes, unknown = encode_items(trained, [item], "item")
    if unknown:
        raise ValueError(f"{arg('item')}: '{unknown[0]}' is not in the catalog")
    constraints = compile_constraints(trained, batch, filter=filter, rules=rules)
    applied = constraints.compiled or CompiledRules()
    version = schemas.ModelInfo(name=trained.key, key=trained.key, version="", engine="native")
    found = explain(
        trained.model, batch.queries, int(codes[0]), applied, k, not exclude_seen, catalog_of(trained), None, version
    )
    warn_once([*batch.messages, *constraints.warnings])
    listed = found.attributions
    attributions = pl.DataFrame(
        {
            "item_id": typed_ids([one.id for one in listed], trained.items, "item_id"),
            "title": pl.Series([one.title for one in listed], dtype=pl.String),
            "contribution": pl.Series([one.contribution for one in listed], dtype=pl.Float64),
        }
    )
    return ItemExplanation(
        item_id=typed_ids(id_texts(item, "item"), trained.items, "item_id")[0],
        title=found.item.title,
        is_recommended=found.recommended,
        rank=found.position,
        score=found.item.score,
        attributions=attributions,
        rules=dict(found.rules),
        shared_features={name: tuple(values) for name, values in found.shared_features.items()},
        paths=tuple(path.model_dump(mode="json") for path in found.paths),
        reasons=tuple(reason.text for reason in found.reasons),
    )
