"""Compile the rules of a request and the service's default rules for one catalog.

See :mod:`segue.serving.schemas` for the meaning of each rule.

Shapes: I items.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from segue.core.events import Mask, Scores, read_only
from segue.serving import schemas
from segue.serving.catalog.catalog import Catalog

__all__ = ["CompiledRules", "compile_rules"]

NO_RULES = schemas.Rules()

MAX_SHOWN_VALUES = 3
"""Unknown values of one condition that a note lists."""

MAX_CONDITIONS = 100
"""Conditions in all rules of one request; each is evaluated on the whole catalog."""


@dataclass(frozen=True, eq=False)
class CompiledRules:
    """Request rules and default rules as item codes and numbers of one catalog."""

    allowed: Mask | None = None
    """``(I,)`` items that pass ``allow``, ``deny`` and ``filter``; ``None``: all."""
    score_offsets: Scores | None = None
    """``(I,)`` sum of ``ln(factor)`` over all boosts that match an item."""
    filtered_counts: Mapping[str, int] = field(default_factory=dict)
    """Number of catalog items that each rule excludes, each rule counted by itself."""
    max_per_value: tuple[tuple[str, int], ...] = ()
    """Features and the largest number of items per value."""
    diversify: float = 0.0
    pins: tuple[tuple[int, int], ...] = ()
    """Positions, from 1, and item codes, by position; pins that other rules forbid are left out."""
    unknown_items: tuple[str, ...] = ()
    """Ids in the request's rules that are not in the catalog."""
    unknown_features: tuple[str, ...] = ()
    """Features in the rules that the catalog does not have."""
    notes: tuple[str, ...] = ()
    """What could not be applied."""
    request_rules: schemas.Rules = NO_RULES
    """The request's rules as received."""
    default_rules: schemas.Rules = NO_RULES
    """The default rules as configured."""

    @property
    def is_trivial(self) -> bool:
        """Whether ``allowed`` is the only rule.

        Then :func:`segue.core.recommend.recommend` suffices.
        """
        return self.score_offsets is None and not (self.max_per_value or self.diversify or self.pins)


TRIVIAL_RULES = CompiledRules()


def compile_rules(request_rules: schemas.Rules, default_rules: schemas.Rules, catalog: Catalog) -> CompiledRules:
    """Compile request rules and default rules for one catalog; results are cached.

    An item must be in both ``allow`` lists, be in no ``deny`` list, and match both ``filter`` conditions. Of two quotas
    on a feature the smaller applies, of two ``diversify`` values the larger. A pin whose position is taken moves to the
    next position, and an item is pinned once; the request's pins take precedence, and are reported if they are not
    applied as given.

    Raises:
        ValueError: a condition or a quota does not fit the type of its feature, or the request has more than
            ``MAX_CONDITIONS`` conditions.
    """
    if not (_has_rules(request_rules) or _has_rules(default_rules)):
        return TRIVIAL_RULES
    # the cache entry keeps the default rules alive, so their id identifies them
    default_key = catalog.cache.get(
        ("default_rules", id(default_rules)), lambda: ((default_rules, _digest_rules(default_rules)), 1_000)
    )[1]
    key = ("rules", _digest_rules(request_rules), default_key)

    def compute() -> tuple[CompiledRules, int]:
        compiled = _compile(request_rules, default_rules, catalog)
        return compiled, 10_000 + sum(
            array.nbytes for array in (compiled.allowed, compiled.score_offsets) if array is not None
        )

    n_conditions = len(request_rules.filter) + sum(len(boost.filter) for boost in request_rules.boosts)
    if n_conditions > MAX_CONDITIONS:
        raise ValueError(
            f"boosts: got {n_conditions} conditions together with 'filter', expected at most {MAX_CONDITIONS}"
        )
    compiled: CompiledRules = catalog.cache.get(key, compute)
    return compiled


def _has_rules(rules: schemas.Rules) -> bool:
    """Return whether there is any rule at all."""
    return rules.allow is not None or bool(
        rules.deny or rules.filter or rules.boosts or rules.max_per_value or rules.diversify or rules.pins
    )


def _digest_rules(rules: schemas.Rules) -> bytes:
    """Return a digest that is the same for the same rules.

    Ids hold no control characters, so the separators are unambiguous.
    """
    digest = hashlib.blake2b(digest_size=24)
    for ids in (rules.allow, rules.deny):
        text = "\x01" if ids is None else "\x00".join(ids) + "\x02"
        digest.update(text.encode("utf-8", "surrogatepass"))
    rest = repr((rules.filter, rules.boosts, rules.max_per_value, rules.diversify, rules.pins))
    digest.update(rest.encode("utf-8", "surrogatepass"))
    return digest.digest()


def _compile(request_rules: schemas.Rules, default_rules: schemas.Rules, catalog: Catalog) -> CompiledRules:
    n_items = catalog.n_items
    masks: dict[str, Mask] = {}
    unknown_items: list[str] = []
    unknown_features: list[str] = []
    for rules in (request_rules, default_rules):
        prefix = "" if rules is request_rules else "default_rules."
        unknown: list[str] = []
        if rules.allow is not None:
            codes, unknown = catalog.encode(rules.allow)
            mask = np.zeros(n_items, np.bool_)
            mask[codes] = True
            masks["allow"] = mask & masks.get("allow", True)
        if rules.deny:
            codes, more_unknown = catalog.encode(rules.deny)
            mask = masks.pop("deny", np.ones(n_items, np.bool_))
            mask[codes] = False
            masks["deny"], unknown = mask, [*unknown, *more_unknown]
        if rules.filter:
            mask = _filter_mask(rules.filter, f"{prefix}filter", catalog, unknown_features)
            masks["filter"] = mask & masks.get("filter", True)
        if rules is request_rules:  # item ids in the default rules are not disclosed to clients
            unknown_items += unknown
    allowed = None
    for mask in masks.values():
        allowed = mask if allowed is None else allowed & mask
    score_offsets = _boost_offsets(request_rules, default_rules, catalog, unknown_features)
    value_notes = _unknown_value_notes(request_rules, catalog)
    max_per_value = _merge_quotas(request_rules, default_rules, catalog, unknown_features)
    pins, unknown, notes = _resolve_pins(request_rules, default_rules, allowed, catalog)
    names = dict.fromkeys(unknown_features)
    return CompiledRules(
        allowed=None if allowed is None else read_only(allowed),
        score_offsets=score_offsets,
        filtered_counts={
            rule: excluded for rule, mask in masks.items() if (excluded := n_items - int(np.count_nonzero(mask)))
        },
        max_per_value=max_per_value,
        diversify=max(request_rules.diversify, default_rules.diversify),
        pins=pins,
        unknown_items=tuple(dict.fromkeys([*unknown_items, *unknown])),
        unknown_features=tuple(names),
        notes=(*(f"'{name}': the catalog has no such feature" for name in names), *value_notes, *notes),
        request_rules=_rules_only(request_rules),
        default_rules=_rules_only(default_rules),
    )


def _unknown_value_notes(rules: schemas.Rules, catalog: Catalog) -> list[str]:
    """Return notes on values in the conditions that no item has.

    They may be misspelled.
    """
    conditions = {"filter": rules.filter, **{f"boosts[{n}].filter": one.filter for n, one in enumerate(rules.boosts)}}
    notes = []
    for field_name, condition in conditions.items():
        for feature, values in catalog.unknown_values(condition).items():
            shown = ", ".join(repr(value) for value in values[:MAX_SHOWN_VALUES])
            more = f" and {len(values) - MAX_SHOWN_VALUES} more" if len(values) > MAX_SHOWN_VALUES else ""
            notes.append(f"{field_name}.{feature}: no item has the value {shown}{more}")
    return notes


def _rules_only(rules: schemas.Rules) -> schemas.Rules:
    """Drop the other fields of a request.

    The rules are cached longer than the request lives.
    """
    return schemas.Rules.model_construct(**{name: getattr(rules, name) for name in schemas.Rules.model_fields})


def _filter_mask(conditions: schemas.Filter, field: str, catalog: Catalog, unknown: list[str]) -> Mask:
    try:
        mask, unknown_names = catalog.mask(conditions)
    except ValueError as error:
        raise ValueError(f"{field}.{error}") from None
    unknown += unknown_names
    return mask


def _boost_offsets(
    request_rules: schemas.Rules, default_rules: schemas.Rules, catalog: Catalog, unknown: list[str]
) -> Scores | None:
    if not (request_rules.boosts or default_rules.boosts):
        return None
    offsets = np.zeros(catalog.n_items, np.float32)
    for rules in (request_rules, default_rules):
        prefix = "" if rules is request_rules else "default_rules."
        for index, boost in enumerate(rules.boosts):
            mask = _filter_mask(boost.filter, f"{prefix}boosts.{index}.filter", catalog, unknown)
            offsets[mask] += np.float32(np.log(boost.factor))
    read_only_offsets: Scores = read_only(offsets)
    return read_only_offsets


def _merge_quotas(
    request_rules: schemas.Rules, default_rules: schemas.Rules, catalog: Catalog, unknown: list[str]
) -> tuple[tuple[str, int], ...]:
    quotas: list[tuple[str, int]] = []
    for name in dict.fromkeys([*request_rules.max_per_value, *default_rules.max_per_value]):
        try:
            item_values = catalog.feature_values(name)
        except ValueError as error:
            raise ValueError(f"max_per_value.{error}") from None
        if item_values is None:
            unknown.append(name)
        else:
            quotas.append(
                (
                    name,
                    min(
                        rules.max_per_value[name]
                        for rules in (request_rules, default_rules)
                        if name in rules.max_per_value
                    ),
                )
            )
    return tuple(quotas)


def _resolve_pins(
    request_rules: schemas.Rules, default_rules: schemas.Rules, allowed: Mask | None, catalog: Catalog
) -> tuple[tuple[tuple[int, int], ...], list[str], list[str]]:
    """Return positions and codes, unknown ids among the request's pins, and notes."""
    by_position: dict[int, int] = {}
    unknown_ids: list[str] = []
    notes: list[str] = []
    for rules in (request_rules, default_rules):
        for pin in rules.pins:
            codes, unknown = catalog.encode([pin.item])
            if unknown:
                unknown_ids += unknown if rules is request_rules else []
            elif allowed is not None and not allowed[codes[0]]:
                notes += (
                    [f"pins: '{pin.item}' is not shown: another rule excludes it"] if rules is request_rules else []
                )
            elif int(codes[0]) in by_position.values():
                if rules is request_rules:
                    notes.append(f"pins: '{pin.item}' is pinned more than once; position {pin.position} is ignored")
            else:
                position = pin.position
                while position in by_position:
                    position += 1
                if position != pin.position and rules is request_rules:
                    notes.append(f"pins: '{pin.item}' moves to position {position}: {pin.position} is taken")
                by_position[position] = int(codes[0])
    return tuple(sorted(by_position.items())), unknown_ids, notes
