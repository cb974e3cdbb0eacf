"""Requests that are ranked together get the list that each gets alone."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from segue.core import bundle
from segue.core.model import Model
from segue.core.recommend import recommend
from segue.core.types import Queries
from segue.serving import schemas
from segue.serving.catalog.catalog import Catalog
from segue.serving.ranking.rank_batch import rank_batch
from segue.serving.rules.compile import CompiledRules, compile_rules
from segue.testing.training import train_small
from tests.serving.world import shop

COMEDY, WAR = ({"genres": {"any": [name]}} for name in ("Comedy", "War"))
RULES: list[dict[str, Any]] = [
    {},
    {"filter": COMEDY},
    {"filter": WAR},
    {"deny": ["i3", "i30"]},
    {"boosts": [{"filter": WAR, "factor": 5.0}]},
    {"diversify": 0.4},
    {"max_per_value": {"genres": 4}},
]


@pytest.fixture(scope="module", params=["ease", "ials"])
def model(request: pytest.FixtureRequest) -> Model:
    return train_small(request.param, shop())


@pytest.fixture(scope="module")
def catalog(model: Model) -> Catalog:
    key = "ease" if type(model).__name__ == "EASE" else "ials"
    return Catalog(bundle.create(key, model, shop()), np.zeros(40, np.float32))


def queries(users: list[int]) -> Queries:
    codes = np.array(users, np.int32)
    return Queries.of_users(codes, shop().histories.take(codes))


def compiled(request: schemas.RecommendRequest, catalog: Catalog) -> CompiledRules:
    return compile_rules(request, schemas.Rules(), catalog)


def requests() -> list[schemas.RecommendRequest]:
    """Every rule with and without seen items, and with lists of different lengths."""
    made = []
    for number, (rules, include_seen, k) in enumerate(product(RULES, (False, True), (3, 9))):
        fields = {"user": f"u{number}", "k": k, "include_seen": include_seen, **rules}
        made.append(schemas.RecommendRequest.model_validate(fields))
    return made


def test_lists_do_not_depend_on_the_other_requests_of_a_batch(model: Model, catalog: Catalog) -> None:
    every = requests()
    together = rank_batch(
        model, queries(list(range(len(every)))), every, [compiled(r, catalog) for r in every], catalog
    )
    for user, (request, found) in enumerate(zip(every, together, strict=True)):
        (alone,) = rank_batch(model, queries([user]), [request], [compiled(request, catalog)], catalog)
        assert found.codes.tolist() == alone.codes.tolist()
        assert found.filtered_counts == alone.filtered_counts
        assert found.notes == alone.notes
        assert len(found.codes) <= request.k


def test_a_list_without_reranking_is_that_of_recommend(model: Model, catalog: Catalog) -> None:
    every = requests()
    together = rank_batch(
        model, queries(list(range(len(every)))), every, [compiled(r, catalog) for r in every], catalog
    )
    n_compared = 0
    for user, (request, found) in enumerate(zip(every, together, strict=True)):
        rules = compiled(request, catalog)
        if not rules.is_trivial:
            continue
        expected = recommend(
            model, queries([user]), request.k, exclude_seen=not request.include_seen, allowed=rules.allowed
        )
        assert found.codes.tolist() == expected.items[0, : expected.lengths[0]].tolist()
        n_compared += 1
    assert n_compared == 16


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: next(iter(rules), "none"))
def test_seen_items_are_in_the_list_only_if_they_are_included(
    rules: dict[str, Any], model: Model, catalog: Catalog
) -> None:
    seen = set(queries([4]).history.items.tolist())
    lists = {}
    for include_seen in (False, True):
        request = schemas.RecommendRequest.model_validate(
            {"user": "u4", "k": 40, "include_seen": include_seen, **rules}
        )
        (found,) = rank_batch(model, queries([4]), [request], [compiled(request, catalog)], catalog)
        lists[include_seen] = set(found.codes.tolist())
    assert not lists[False] & seen
    assert lists[True] & seen


def test_items_are_allowed_by_the_rules_of_the_request_and_by_the_default_rules(catalog: Catalog) -> None:
    def allowed(request: dict[str, Any], default: dict[str, Any]) -> set[int]:
        rules = compile_rules(schemas.Rules.model_validate(request), schemas.Rules.model_validate(default), catalog)
        assert rules.allowed is not None
        return set(np.flatnonzero(rules.allowed).tolist())

    comedies = set(range(0, 40, 3))
    assert allowed({"deny": ["i1"]}, {"deny": ["i2", "i3"]}) == set(range(40)) - {1, 2, 3}
    assert allowed({"allow": ["i1", "i2"]}, {"allow": ["i2", "i3"]}) == {2}
    assert allowed({"filter": COMEDY}, {"filter": {"year": {"max": 1999}}}) == comedies & set(range(10))
    assert allowed({"filter": COMEDY, "deny": ["i3"]}, {"deny": ["i6"]}) == comedies - {3, 6}
