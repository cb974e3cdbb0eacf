"""Constraints on what recommendations may contain.

They are allowed and denied items, conditions on features, and reranking rules. Conditions and rules have the same
meaning, and use the same code, as in the service: :mod:`segue.serving.rules`.

Shapes: N queries, I items, R queries of a block.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from segue.core.bundle import TrainedModel
from segue.core.config import suggest
from segue.core.messages import arg
from segue.core.types import Events, Mask, Scores
from segue.experiment.inference.code_mapping import list_ids
from segue.experiment.inference.frames import id_texts
from segue.experiment.inference.query_batch import QueryBatch

if TYPE_CHECKING:
    from segue.serving.catalog.catalog import Catalog
    from segue.serving.rules.compile import CompiledRules

__all__ = ["Constraints", "catalog_of", "compile_constraints"]

_catalogs: WeakKeyDictionary[TrainedModel, Catalog] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Constraints:
    """Constraints on recommendations, in the codes of one catalog."""

    allowed: Mask | None = None
    """``(I,)`` items that any query may get; ``None``: all."""
    allow_rows: Events | None = None
    """One row per query of the only items it may get, where ``has_allow_list``."""
    has_allow_list: Mask | None = None
    """``(N,)``"""
    deny_rows: Events | None = None
    """One row per query of items it must not get."""
    compiled: CompiledRules | None = None
    """Conditions and rules in the form that the service uses."""
    warnings: list[str] = field(default_factory=list)

    def exclude_rows(self, start: int, scores_RI: Scores) -> None:
        """Set the scores of items that single queries exclude to minus infinity.

        Args:
            start: first query of the block.
        """
        stop = start + len(scores_RI)
        if self.allow_rows is not None and self.has_allow_list is not None:
            block = self.allow_rows.rows_between(start, stop)
            keep_RI = np.zeros(scores_RI.shape, np.bool_)
            keep_RI[block.rows, block.items] = True
            keep_RI[~self.has_allow_list[start:stop]] = True
            scores_RI[~keep_RI] = -np.inf
        if self.deny_rows is not None:
            block = self.deny_rows.rows_between(start, stop)
            scores_RI[block.rows, block.items] = -np.inf

    @property
    def has_rows(self) -> bool:
        """Whether queries differ in the items that they may get."""
        return self.allow_rows is not None or self.deny_rows is not None

    @property
    def needs_rerank(self) -> bool:
        """Whether the order of the scores alone does not decide.

        This is the case if there are boosts, quotas, pins or diversity.
        """
        return self.compiled is not None and not self.compiled.is_trivial

    def rules_of(self, row: int, n_items: int) -> CompiledRules:
        """Combine the rules with the items that query ``row`` may get."""
        assert self.compiled is not None
        if not self.has_rows:
            return self.compiled
        scores_1I = np.zeros((1, n_items), np.float32)
        self.exclude_rows(row, scores_1I)
        mine_I = scores_1I[0] == 0
        return _restrict(self.compiled, mine_I if self.allowed is None else mine_I & self.allowed)


def compile_constraints(
    trained: TrainedModel,
    batch: QueryBatch,
    allow: Any = None,
    deny: Any = None,
    filter: Mapping[str, Any] | None = None,  # noqa: A002 - the name in the public API
    rules: Mapping[str, Any] | None = None,
) -> Constraints:
    """Translate constraints to codes.

    Args:
        allow: ids of the only items that may be recommended, or a mapping from user to such ids; a user who is not in
            the mapping is not restricted. Ids may be a list, an array, a series, or a frame with ``item_id``.
        deny: ids of items that must not be recommended, or a mapping likewise.
        filter: by feature a value, a list of values, or a condition of the service such as ``{"min": 1990}``.
        rules: the service's rules, such as ``{"diversify": 0.3}``.

    Raises:
        ValueError: a condition requires a value that its feature cannot have, or a rule is malformed.
    """
    _require_mapping("filter", filter, {"genres": "Comedy"})
    _require_mapping("rules", rules, {"diversify": 0.3})
    warnings: list[str] = []
    allowed: Mask | None = None
    rows: dict[str, Any] = {}
    if allow is not None and not isinstance(allow, Mapping):
        allowed = _mask(trained, id_texts(allow, "allow"), "allow", warnings)
    elif allow is not None:
        rows["allow_rows"], rows["has_allow_list"] = _rows(trained, batch, allow, "allow", warnings)
    if deny is not None and not isinstance(deny, Mapping):
        denied = _mask(trained, id_texts(deny, "deny"), "deny", warnings)
        allowed = ~denied if allowed is None else allowed & ~denied
    elif deny is not None:
        rows["deny_rows"], _ = _rows(trained, batch, deny, "deny", warnings)
    compiled = None
    if filter or rules:
        compiled = _compile_rules(trained, filter or {}, rules or {}, warnings)
        allowed = _and(allowed, compiled.allowed)
        if allowed is not None:
            compiled = _restrict(compiled, allowed)
    return Constraints(allowed, **rows, compiled=compiled, warnings=warnings)


def catalog_of(trained: TrainedModel) -> Catalog:
    """Index the catalog of a model by its features; computed once per model."""
    if trained not in _catalogs:
        from segue.serving.catalog.catalog import Catalog

        _catalogs[trained] = Catalog(trained, np.zeros(len(trained.items), np.float32))
    return _catalogs[trained]


def _and(one: Mask | None, other: Mask | None) -> Mask | None:
    if one is None or other is None:
        return other if one is None else one
    return one & other


def _restrict(rules: CompiledRules, allowed: Mask) -> CompiledRules:
    """Restrict rules to the ``allowed`` items; pins of other items are dropped."""
    pins = tuple((place, code) for place, code in rules.pins if allowed[code])
    return replace(rules, allowed=allowed, pins=pins)


def _encode(trained: TrainedModel, ids: list[str], name: str, warnings: list[str]) -> tuple[Any, Mask]:
    codes, known = trained.items.encode(ids)
    if not known.all():
        unknown = [ids[place] for place in np.flatnonzero(~known).tolist()]
        warnings.append(f"{arg(name)}: items not in the catalog: {list_ids(list(dict.fromkeys(unknown)))}")
    return codes, known


def _mask(trained: TrainedModel, ids: list[str], name: str, warnings: list[str]) -> Mask:
    codes, known = _encode(trained, ids, name, warnings)
    mask = np.zeros(len(trained.items), np.bool_)
    mask[codes[known]] = True
    return mask


def _rows(
    trained: TrainedModel, batch: QueryBatch, lists: Mapping[Any, Iterable[Any]], name: str, warnings: list[str]
) -> tuple[Events, Mask]:
    """Return one row of item codes per query, and which queries have a list."""
    by_key = dict(zip(id_texts(list(lists), name), lists.values(), strict=True))
    keys = id_texts(batch.keys, name)
    if unused := list(dict.fromkeys(by_key).keys() - set(keys)):
        noun = "users for whom" if batch.keys.name == "user_id" else "queries for which"
        unused.sort(key=list(by_key).index)
        warnings.append(f"{arg(name)}: {noun} nothing is recommended: {list_ids(unused)}")
    has_list = np.array([key in by_key for key in keys], np.bool_)
    own = [id_texts(by_key[key], name) if key in by_key else [] for key in keys]
    codes, known = _encode(trained, [item for items in own for item in items], name, warnings)
    row_T = np.repeat(np.arange(len(own)), [len(items) for items in own])[known]
    offsets: NDArray[np.int64] = np.concatenate([[0], np.cumsum(np.bincount(row_T, minlength=len(own)))])
    return Events(offsets, codes[known]), has_list


def _require_mapping(name: str, value: Any, example: Mapping[str, Any]) -> None:
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"{arg(name)}: got {value!r}, expected a mapping such as {json.dumps(example)}")


def _condition(name: str, value: Any) -> Any:
    """Convert a condition to the form of the service.

    A value or a list of values means any of them.

    Raises:
        ValueError: the condition or one of its values is missing.
    """
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):  # arrays, their scalars, and pandas series
        value = value.tolist()
    if isinstance(value, str | bool | int | float):
        return {"any": [value]}
    values = list(value) if isinstance(value, Iterable) else [None]
    if not values or None in values:
        raise ValueError(f"filter.{name}: got {value!r}, expected a value, a list of values, or a condition")
    return {"any": values}


def _compile_rules(
    trained: TrainedModel, conditions: Mapping[str, Any], rules: Mapping[str, Any], warnings: list[str]
) -> CompiledRules:
    from segue.serving import schemas
    from segue.serving.rules.compile import compile_rules

    catalog = catalog_of(trained)
    if unknown := [name for name in conditions if name not in catalog.features]:
        hint = suggest(str(unknown[0]), catalog.features) if catalog.features else "; the catalog has no features"
        raise ValueError(f"{arg('filter')}: unknown feature '{unknown[0]}'{hint}")
    values = dict(rules)
    _require_mapping("rules", values.get("filter"), {"filter": {"genres": {"any": ["Comedy"]}}})
    for name in ("allow", "deny"):
        if values.get(name) is not None:
            values[name] = id_texts(values[name], "rules")
    if isinstance(pins := values.get("pins"), list | tuple):
        values["pins"] = [
            {**pin, "item": str(pin["item"])} if isinstance(pin, Mapping) and "item" in pin else pin for pin in pins
        ]
    try:
        if conditions:
            own = {str(name): _condition(str(name), value) for name, value in conditions.items()}
            values["filter"] = {**(values.get("filter") or {}), **own}
        found = compile_rules(_parse(schemas.Rules, values), schemas.Rules(), catalog)
    except ValueError as error:
        raise ValueError("\n".join(map(_named, str(error).splitlines()))) from None
    if found.unknown_items:
        warnings.append(f"{arg('rules')}: items not in the catalog: {list_ids(found.unknown_items)}")
    warnings += map(_named, found.notes)
    return found


def _named(fault: str) -> str:
    """Prefix an error or a note of a rule with the argument that contained the rule."""
    inside = fault.removeprefix("filter.")
    return f"{arg('rules' if inside == fault else 'filter')}: {inside}"


def _parse(kind: Any, values: Mapping[str, Any]) -> Any:
    """Validate ``values`` as the service does."""
    from pydantic import ValidationError

    try:
        return kind.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise ValueError("\n".join(_describe_fault(one, kind) for one in error.errors())) from None
    except TypeError as error:
        raise ValueError(f"{error}; expected text, numbers, lists and mappings of them") from None


def _describe_fault(fault: Any, kind: Any) -> str:
    """Describe an error of pydantic; an unknown name comes with the nearest known one."""
    from segue.serving import schemas

    where, name = ".".join(map(str, fault["loc"][:-1])), str(fault["loc"][-1])
    if fault["type"] != "extra_forbidden":
        return f"{'.'.join(map(str, fault['loc']))}: got {fault['input']!r}: {fault['msg']}"
    kinds: dict[str, Any] = {"boosts": schemas.Boost, "pins": schemas.Pin}
    fields: Any = schemas.Condition if "filter" in fault["loc"][:-1] else kinds[str(fault["loc"][0])] if where else kind
    return f"{where + '.' if where else ''}{name}: unknown{suggest(name, fields.model_fields)}"
