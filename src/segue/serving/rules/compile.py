"""The rules of a question and those that stand for a whole service, as codes and numbers of one catalogue.

See :mod:`segue.serving.schemas` for what each rule means.

Shapes: I items.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from segue.core.events import Mask, Scores, frozen
from segue.serving import schemas
from segue.serving.catalog.catalog import Catalogue

__all__ = ["Applied", "applied"]

NONE = schemas.Rules()

MOST_CONDITIONS = 100
"""Conditions in all rules of one question: each looks at the whole catalogue."""


@dataclass(frozen=True, eq=False)
class Applied:
    """The rules of a question and those that stand, for one catalogue."""

    allowed: Mask | None = None
    """``(I,)`` items that ``allow``, ``deny`` and ``where`` leave; ``None``: all."""
    shift: Scores | None = None
    """``(I,)`` the sum of ``ln(factor)`` of all boosts that an item gets."""
    removed: Mapping[str, int] = field(default_factory=dict)
    """By rule how many items of the catalogue it keeps out, each rule counted alone."""
    most: tuple[tuple[str, int], ...] = ()
    """Features and how many items of each of their values there may be."""
    diversify: float = 0.0
    pins: tuple[tuple[int, int], ...] = ()
    """Places, from 1, and item codes, by place; those that other rules forbid are left out."""
    unknown_items: tuple[str, ...] = ()
    """Ids of the question's rules that are not in the catalogue."""
    unknown_features: tuple[str, ...] = ()
    """Features that rules name and the catalogue does not have."""
    notes: tuple[str, ...] = ()
    """What could not be done as it was asked, in words."""
    own: schemas.Rules = NONE
    """The question's rules as they came."""
    standing: schemas.Rules = NONE
    """The standing rules as they came."""

    @property
    def plain(self) -> bool:
        """Whether ``allowed`` is all there is, so that :func:`segue.core.recommend.recommend` can answer."""
        return self.shift is None and not (self.most or self.diversify or self.pins)


NOTHING = Applied()


def applied(own: schemas.Rules, standing: schemas.Rules, catalogue: Catalogue) -> Applied:
    """The rules of a question and the standing ones, for one catalogue; what was worked out lately is kept.

    Items must be in both ``allow`` and in no ``deny``, and meet both ``where``; of two quotas of a feature the smaller
    holds, and the larger ``diversify``. A pin whose place is taken, by the question's own first, goes to the next.

    Raises:
        ValueError: a condition or a quota asks for what its feature cannot hold, or there are more than
            ``MOST_CONDITIONS`` in the question.
    """
    if not (_told(own) or _told(standing)):
        return NOTHING
    # standing rules are one object for as long as the service runs: the entry keeps it, so its id stays its own
    standing_key = catalogue.cache.get(("standing", id(standing)), lambda: ((standing, _key(standing)), 1_000))[1]
    key = ("rules", _key(own), standing_key)

    def make() -> tuple[Applied, int]:
        found = _apply(own, standing, catalogue)
        return found, 10_000 + sum(array.nbytes for array in (found.allowed, found.shift) if array is not None)

    count = len(own.where) + sum(len(boost.where) for boost in own.boosts)
    if count > MOST_CONDITIONS:
        raise ValueError(f"boosts: {count} conditions with those of 'where', expected at most {MOST_CONDITIONS}")
    found: Applied = catalogue.cache.get(key, make)
    return found


def _told(rules: schemas.Rules) -> bool:
    """Whether there is any rule at all."""
    return rules.allow is not None or bool(
        rules.deny or rules.where or rules.boosts or rules.most or rules.diversify or rules.pins
    )


def _key(rules: schemas.Rules) -> bytes:
    """The same for the same rules; ids hold no control characters."""
    digest = hashlib.blake2b(digest_size=24)
    for ids in (rules.allow, rules.deny):
        text = "\x01" if ids is None else "\x00".join(ids) + "\x02"
        digest.update(text.encode("utf-8", "surrogatepass"))
    rest = repr((rules.where, rules.boosts, rules.most, rules.diversify, rules.pins))
    digest.update(rest.encode("utf-8", "surrogatepass"))
    return digest.digest()


def _apply(own: schemas.Rules, standing: schemas.Rules, catalogue: Catalogue) -> Applied:
    n = catalogue.n_items
    keeps: dict[str, Mask] = {}
    unknown_items: list[str] = []
    unknown_features: list[str] = []
    for rules in (own, standing):
        prefix = "" if rules is own else "standing rules: "
        strange: list[str] = []
        if rules.allow is not None:
            codes, strange = catalogue.encode(rules.allow)
            mask = np.zeros(n, np.bool_)
            mask[codes] = True
            keeps["allow"] = mask & keeps.get("allow", True)
        if rules.deny:
            codes, more = catalogue.encode(rules.deny)
            mask = keeps.pop("deny", np.ones(n, np.bool_))
            mask[codes] = False
            keeps["deny"], strange = mask, [*strange, *more]
        if rules.where:
            mask = _met(rules.where, f"{prefix}where", catalogue, unknown_features)
            keeps["where"] = mask & keeps.get("where", True)
        if rules is own:  # who asks is not told which items stand in rules that are not his
            unknown_items += strange
    allowed = None
    for mask in keeps.values():
        allowed = mask if allowed is None else allowed & mask
    shift = _shift(own, standing, catalogue, unknown_features)
    most = _quotas(own, standing, catalogue, unknown_features)
    pins, strange, notes = _pinned(own, standing, allowed, catalogue)
    names = dict.fromkeys(unknown_features)
    return Applied(
        allowed=None if allowed is None else frozen(allowed),
        shift=shift,
        removed={rule: kept_out for rule, mask in keeps.items() if (kept_out := n - int(np.count_nonzero(mask)))},
        most=most,
        diversify=max(own.diversify, standing.diversify),
        pins=pins,
        unknown_items=tuple(dict.fromkeys([*unknown_items, *strange])),
        unknown_features=tuple(names),
        notes=(*(f"'{name}': the catalogue has no such feature: nothing is known of it" for name in names), *notes),
        own=_bare(own),
        standing=_bare(standing),
    )


def _bare(rules: schemas.Rules) -> schemas.Rules:
    """The rules without what else a question holds: they are kept longer than it."""
    return schemas.Rules.model_construct(**{name: getattr(rules, name) for name in schemas.Rules.model_fields})


def _met(where: schemas.Where, field: str, catalogue: Catalogue, unknown: list[str]) -> Mask:
    try:
        mask, strange = catalogue.mask(where)
    except ValueError as error:
        raise ValueError(f"{field}.{error}") from None
    unknown += strange
    return mask


def _shift(own: schemas.Rules, standing: schemas.Rules, catalogue: Catalogue, unknown: list[str]) -> Scores | None:
    if not (own.boosts or standing.boosts):
        return None
    shift = np.zeros(catalogue.n_items, np.float32)
    for rules in (own, standing):
        prefix = "" if rules is own else "standing rules: "
        for place, boost in enumerate(rules.boosts):
            mask = _met(boost.where, f"{prefix}boosts.{place}.where", catalogue, unknown)
            shift[mask] += np.float32(np.log(boost.factor))
    found: Scores = frozen(shift)
    return found


def _quotas(
    own: schemas.Rules, standing: schemas.Rules, catalogue: Catalogue, unknown: list[str]
) -> tuple[tuple[str, int], ...]:
    found: list[tuple[str, int]] = []
    for name in dict.fromkeys([*own.most, *standing.most]):
        try:
            groups = catalogue.groups(name)
        except ValueError as error:
            raise ValueError(f"most.{error}") from None
        if groups is None:
            unknown.append(name)
        else:
            found.append((name, min(rules.most[name] for rules in (own, standing) if name in rules.most)))
    return tuple(found)


def _pinned(
    own: schemas.Rules, standing: schemas.Rules, allowed: Mask | None, catalogue: Catalogue
) -> tuple[tuple[tuple[int, int], ...], list[str], list[str]]:
    """Places and codes; ids of the question's pins that are unknown; and what is to be said."""
    places: dict[int, int] = {}
    strange: list[str] = []
    notes: list[str] = []
    for rules in (own, standing):
        for pin in rules.pins:
            codes, unknown = catalogue.encode([pin.item])
            if unknown:
                strange += unknown if rules is own else []
            elif allowed is not None and not allowed[codes[0]]:
                notes += [f"pins: '{pin.item}' is not shown: another rule forbids it"] if rules is own else []
            elif int(codes[0]) not in places.values():
                place = pin.place
                while place in places:
                    place += 1
                places[place] = int(codes[0])
    return tuple(sorted(places.items())), strange, notes
