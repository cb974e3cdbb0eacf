"""Where an item stands in an answer, and what each rule does to it, in words.

Shapes: I items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segue.serving import schemas
from segue.serving.catalog.catalog import Catalogue
from segue.serving.rules.compile import Applied
from segue.serving.rules.rerank import Picked

__all__ = ["Standing", "traced"]

VALUES = 5
"""Values of a condition that are named."""


@dataclass(frozen=True, eq=False)
class Standing:
    """An item among all others."""

    item: int
    k: int
    """Items that were asked for."""
    picked: Picked
    """The answer."""
    score: float
    """With boosts."""
    probability: float | None
    had: bool
    """Whether the history holds it, and may not be repeated."""
    forbidden: bool
    """Whether ``allow``, ``deny`` or ``where`` keep it out."""
    by_score: int
    """Its place, from 1, by scores with boosts among all that may be recommended, as if it might."""
    unboosted: int
    """The same without boosts."""
    moved: float
    """What boosts add to its score."""
    eligible: int
    """Items that may be recommended."""

    @property
    def place(self) -> int | None:
        """Its place in the answer; if it has none there, by score; none where a rule keeps it out."""
        there = np.flatnonzero(self.picked.codes == self.item)
        if len(there):
            return int(there[0]) + 1
        return None if self.had or self.forbidden else self.by_score

    @property
    def recommended(self) -> bool:
        """Whether it is in the answer."""
        return bool((self.picked.codes == self.item).any())

    @property
    def pinned(self) -> bool:
        """Whether it is in the answer because a rule put it there."""
        return bool(self.picked.pinned[self.picked.codes == self.item].any())

    @property
    def beats(self) -> bool:
        """Whether its score is enough for the answer, so that something else keeps it out."""
        others = self.picked.codes[~self.picked.pinned]
        scores = self.picked.scores[~self.picked.pinned]
        if self.recommended or self.had or self.forbidden:
            return False
        if len(self.picked.codes) < self.k:
            return True
        return any((score, -code) < (self.score, -self.item) for score, code in zip(scores, others, strict=True))

    def words(self) -> str:
        """Its place, in words."""
        alone = f"by its score alone it has place {self.by_score} of {self.eligible}"
        if self.recommended:
            return f"place {self.place} of {self.eligible} that may be recommended" + (
                "" if self.place == self.by_score and not self.pinned else f"; {alone}"
            )
        if self.had or self.forbidden:
            return (
                f"not recommended: a rule keeps it out; without that it would have place {self.by_score} by its score"
            )
        if self.beats:
            return f"not recommended: {alone}, but rules put others before it"
        free = self.picked.scores[~self.picked.pinned]
        gap = (
            f": its score {self.score:.4g} is {free.min() - self.score:.3g} below the last of those"
            if len(free)
            else ""
        )
        return f"not recommended: {alone}, and {self.k} were asked for{gap}"


def traced(standing: Standing, rules: Applied, catalogue: Catalogue) -> dict[str, str]:
    """By rule, what it did to the item; rules that did nothing are not there."""
    own = catalogue.ids(np.array([standing.item]))[0]
    named = [("the question", rules.own), ("the service", rules.standing)]
    found = {
        "history": "it is in the history, and repeats were not asked for" if standing.had else "",
        "allow": _told(f"{who} allows {len(r.allow)} items, and it is none of them"
                       for who, r in named if r.allow is not None and own not in r.allow),
        "deny": _told(f"{who} denies it" for who, r in named if own in r.deny),
        "where": _told(_unmet(standing.item, who, r.where, catalogue) for who, r in named),
        "boosts": _boosted(standing),
        "most": _quotas(standing, rules, catalogue),
        "diversify": _diversified(standing, rules),
        "pins": _pinned(standing, own, [pin for _, r in named for pin in r.pins]),
    }  # fmt: skip
    return {rule: text for rule, text in found.items() if text}


def _told(texts: Any) -> str:
    return "; ".join(text for text in texts if text)


def _unmet(item: int, who: str, where: schemas.Where, catalogue: Catalogue) -> str:
    """Conditions that an item does not meet."""
    faults = []
    for name, condition in where.items():
        if not catalogue.mask({name: condition})[0][item]:
            value = catalogue.item(item).features.get(name) if name != "title" else catalogue.item(item).title
            known = "not known" if value is None else _words(value if isinstance(value, list) else [value])
            faults.append(f"{name} is {known}, {who} wants {_wanted(condition)}")
    return "; ".join(faults)


def _wanted(condition: schemas.Condition) -> str:
    parts = []
    if condition.any is not None:
        parts.append(f"one of {_words(condition.any)}" if len(condition.any) > 1 else _words(condition.any))
    if condition.none is not None:
        parts.append(
            f"none of {_words(condition.none)}" if len(condition.none) > 1 else f"not {_words(condition.none)}"
        )
    if condition.min is not None:
        parts.append(f"at least {condition.min:.12g}")
    if condition.max is not None:
        parts.append(f"at most {condition.max:.12g}")
    return " and ".join(parts)


def _words(values: Sequence[Any]) -> str:
    told = [str(value).lower() if isinstance(value, bool) else str(value) for value in values[:VALUES]]
    more = len(values) - len(told)
    return (", ".join(told) or "nothing") + (f" and {more} more" if more else "")


def _boosted(standing: Standing) -> str:
    if not standing.moved:
        return ""
    where = f", from place {standing.unboosted} to {standing.by_score}" * (standing.unboosted != standing.by_score)
    return f"its score is changed by {standing.moved:+.3g}{where}"


def _quotas(standing: Standing, rules: Applied, catalogue: Catalogue) -> str:
    if not standing.beats:
        return ""
    faults = []
    for name, most in rules.most:
        groups = catalogue.groups(name)
        assert groups is not None
        counts_V = np.bincount(groups.of(standing.picked.codes)[1], minlength=len(groups.values))
        own = groups.of(np.array([standing.item]))[1]
        if full := [str(groups.values[int(code)]) for code in own if counts_V[code] >= most]:
            faults.append(f"of {name} {_words(full)} the answer holds {most} already, and no more may be")
    return "; ".join(faults)


def _diversified(standing: Standing, rules: Applied) -> str:
    if not rules.diversify or standing.pinned:
        return ""
    if standing.recommended and standing.place != standing.by_score:
        return f"it has place {standing.place}, not {standing.by_score}, so that neighbours in the list differ"
    return "others that are less like those above them go before it" if standing.beats else ""


def _pinned(standing: Standing, own: str, pins: Sequence[schemas.Pin]) -> str:
    wanted = next((pin.place for pin in pins if pin.item == own), None)
    if standing.pinned:
        return f"it is pinned to place {wanted}"
    if wanted is not None:
        return f"it is pinned to place {wanted}, " + (
            "but another rule forbids it" if standing.forbidden else f"which an answer of {standing.k} does not reach"
        )
    taken = int(standing.picked.pinned.sum())
    if not standing.recommended and not standing.had and not standing.forbidden and standing.by_score <= standing.k:
        words = "is taken by an item that is" if taken == 1 else "are taken by items that are"
        return f"{taken} of the places {words} pinned" if taken else ""
    return ""
