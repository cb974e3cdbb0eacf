"""The rank of one item in a response, and the effect of each rule on it.

Shapes: I items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segue.serving import schemas
from segue.serving.catalog.catalog import Catalog
from segue.serving.rules.compile import CompiledRules
from segue.serving.rules.rerank import RankedList

__all__ = ["ItemOutcome", "trace_rules"]

MAX_VALUES = 5
"""Values of a condition that are mentioned."""


@dataclass(frozen=True, eq=False)
class ItemOutcome:
    """How one item ranks among all others."""

    item: int
    k: int
    """Number of requested items."""
    ranked_list: RankedList
    """The recommended list."""
    score: float
    """Score with boosts."""
    probability: float | None
    is_in_history: bool
    """Whether it is in the history and seen items are excluded."""
    is_forbidden: bool
    """Whether ``allow``, ``deny`` or ``filter`` exclude it."""
    score_rank: int
    """Rank, from 1, by boosted score among all eligible items, as if it were eligible itself."""
    unboosted_rank: int
    """The same without boosts."""
    boost_delta: float
    """Amount that boosts add to its score."""
    n_eligible: int
    """Number of items that may be recommended."""

    @property
    def rank(self) -> int | None:
        """Position in the list, otherwise rank by score.

        ``None`` if a rule excludes the item.
        """
        positions = np.flatnonzero(self.ranked_list.codes == self.item)
        if len(positions):
            return int(positions[0]) + 1
        return None if self.is_in_history or self.is_forbidden else self.score_rank

    @property
    def is_recommended(self) -> bool:
        """Whether the item is in the list."""
        return bool((self.ranked_list.codes == self.item).any())

    @property
    def is_pinned(self) -> bool:
        """Whether the item is in the list because of a pin."""
        return bool(self.ranked_list.pinned[self.ranked_list.codes == self.item].any())

    @property
    def would_rank(self) -> bool:
        """Whether the score suffices for the list, so that something else excludes it."""
        codes = self.ranked_list.codes[~self.ranked_list.pinned]
        scores = self.ranked_list.scores[~self.ranked_list.pinned]
        if self.is_recommended or self.is_in_history or self.is_forbidden:
            return False
        if len(self.ranked_list.codes) < self.k:
            return True
        return any((score, -code) < (self.score, -self.item) for score, code in zip(scores, codes, strict=True))

    def describe(self) -> str:
        """Describe the rank of the item."""
        by_score = f"by score alone it would rank {self.score_rank} of {self.n_eligible}"
        if self.is_recommended:
            return f"rank {self.rank} of {self.n_eligible} eligible items" + (
                "" if self.rank == self.score_rank and not self.is_pinned else f"; {by_score}"
            )
        if self.is_in_history or self.is_forbidden:
            return f"not recommended: excluded by a rule; without the rule it would rank {self.score_rank} by score"
        if self.would_rank:
            return f"not recommended: {by_score}, but rules put other items above it"
        unpinned_scores = self.ranked_list.scores[~self.ranked_list.pinned]
        gap = (
            f"; its score {self.score:.4g} is {unpinned_scores.min() - self.score:.3g} below the last of them"
            if len(unpinned_scores)
            else ""
        )
        return f"not recommended: {by_score}, and {self.k} items were requested{gap}"


def trace_rules(outcome: ItemOutcome, rules: CompiledRules, catalog: Catalog) -> dict[str, str]:
    """Describe the effect of each rule on the item.

    Rules without an effect are left out.
    """
    item_id = catalog.ids(np.array([outcome.item]))[0]
    sources = [("request", rules.request_rules), ("default rules", rules.default_rules)]
    effects = {
        "seen": "it is in the history, and include_seen is false" if outcome.is_in_history else "",
        "allow": _join_texts(f"{source}: {len(r.allow)} items are allowed, and this is not one of them"
                       for source, r in sources if r.allow is not None and item_id not in r.allow),
        "deny": _join_texts(f"{source}: it is denied" for source, r in sources if item_id in r.deny),
        "filter": _join_texts(_describe_unmet(outcome.item, source, r.filter, catalog) for source, r in sources),
        "boosts": _describe_boosts(outcome),
        "max_per_value": _describe_quotas(outcome, rules, catalog),
        "diversify": _describe_diversity(outcome, rules),
        "pins": _describe_pins(outcome, item_id, [pin for _, r in sources for pin in r.pins]),
    }  # fmt: skip
    return {rule: text for rule, text in effects.items() if text}


def _join_texts(texts: Any) -> str:
    return "; ".join(text for text in texts if text)


def _describe_unmet(item: int, source: str, conditions: schemas.Filter, catalog: Catalog) -> str:
    """Describe the conditions that an item does not match."""
    texts = []
    for name, condition in conditions.items():
        if not catalog.mask({name: condition})[0][item]:
            value = catalog.item(item).features.get(name) if name != "title" else catalog.item(item).title
            shown = "unknown" if value is None else _describe_values(value if isinstance(value, list) else [value])
            texts.append(f"{source}: {name} is {shown}, expected {_describe_condition(condition)}")
    return "; ".join(texts)


def _describe_condition(condition: schemas.Condition) -> str:
    parts = []
    if condition.any is not None:
        parts.append(
            f"one of {_describe_values(condition.any)}" if len(condition.any) > 1 else _describe_values(condition.any)
        )
    if condition.none is not None:
        parts.append(
            f"none of {_describe_values(condition.none)}"
            if len(condition.none) > 1
            else f"not {_describe_values(condition.none)}"
        )
    if condition.min is not None:
        parts.append(f"at least {condition.min:.12g}")
    if condition.max is not None:
        parts.append(f"at most {condition.max:.12g}")
    return " and ".join(parts)


def _describe_values(values: Sequence[Any]) -> str:
    texts = [str(value).lower() if isinstance(value, bool) else str(value) for value in values[:MAX_VALUES]]
    n_more = len(values) - len(texts)
    return (", ".join(texts) or "nothing") + (f" and {n_more} more" if n_more else "")


def _describe_boosts(outcome: ItemOutcome) -> str:
    if not outcome.boost_delta:
        return ""
    before, after = outcome.unboosted_rank, outcome.score_rank
    ranks = f", its rank from {before} to {after}" if before != after else ""
    return f"its score changes by {outcome.boost_delta:+.3g}{ranks}"


def _describe_quotas(outcome: ItemOutcome, rules: CompiledRules, catalog: Catalog) -> str:
    if not outcome.would_rank:
        return ""
    texts = []
    for name, limit in rules.max_per_value:
        item_values = catalog.feature_values(name)
        assert item_values is not None
        counts_V = np.bincount(item_values.gather(outcome.ranked_list.codes)[1], minlength=len(item_values.values))
        codes = item_values.gather(np.array([outcome.item]))[1]
        if full := [str(item_values.values[int(code)]) for code in codes if counts_V[code] >= limit]:
            texts.append(f"the list already holds {limit} with {name} {_describe_values(full)}, the maximum")
    return "; ".join(texts)


def _describe_diversity(outcome: ItemOutcome, rules: CompiledRules) -> str:
    if not rules.diversify or outcome.is_pinned:
        return ""
    if outcome.is_recommended and outcome.rank != outcome.score_rank:
        return f"it ranks {outcome.rank} instead of {outcome.score_rank}, for a more diverse list"
    return "items that are less similar to those above them rank before it" if outcome.would_rank else ""


def _describe_pins(outcome: ItemOutcome, item_id: str, pins: Sequence[schemas.Pin]) -> str:
    position = next((pin.position for pin in pins if pin.item == item_id), None)
    if outcome.is_pinned:
        return f"it is pinned to position {position}"
    if position is not None:
        reason = "but another rule excludes it" if outcome.is_forbidden else f"beyond the {outcome.k} requested items"
        return f"it is pinned to position {position}, {reason}"
    n_pinned = int(outcome.ranked_list.pinned.sum())
    is_excluded = outcome.is_in_history or outcome.is_forbidden
    if not n_pinned or is_excluded or outcome.is_recommended or outcome.score_rank > outcome.k:
        return ""
    return (
        "1 position is taken by a pinned item" if n_pinned == 1 else f"{n_pinned} positions are taken by pinned items"
    )
