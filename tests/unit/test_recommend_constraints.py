"""Allowed and denied items, conditions, rules and seen items are combined, in every block of queries."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

import segue
from segue.core.bundle import TrainedModel

GENRES = ["Comedy", "Drama", "War"]
WAR = {item for item in range(24) if item % 3 == 2}


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    rng = np.random.default_rng(0)
    rows = [(user, int(item)) for user in range(12) for item in rng.permutation(24)[:6]]
    log = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    items = pl.DataFrame({"item_id": range(24), "genres": [[GENRES[item % 3]] for item in range(24)]})
    return segue.train("ease", segue.load(log, items=items), l2=5.0)


def seen(model: TrainedModel, user: int) -> set[int]:
    codes, _ = model.users.encode([str(user)])
    return {int(item) for item in model.items.decode(model.log.histories.take(codes).items)}


def found(model: TrainedModel, users: Any = 3, **arguments: Any) -> list[int]:
    table = segue.recommend(model, users, **{"k": 24, **arguments})
    return [int(item) for item in table["item_id"]]


@pytest.mark.parametrize("rules", [None, {"diversify": 0.2}])
def test_seen_items_are_in_the_list_only_if_they_are_included(model: TrainedModel, rules: Any) -> None:
    assert set(found(model, rules=rules)) == set(range(24)) - seen(model, 3)
    assert set(found(model, rules=rules, exclude_seen=False)) == set(range(24))


@pytest.mark.parametrize("rules", [None, {"diversify": 0.2}])
def test_allow_deny_and_filter_all_apply(model: TrainedModel, rules: Any) -> None:
    allow, deny = list(range(12)), [2, 5, 20]
    every = {"rules": rules, "exclude_seen": False}
    assert set(found(model, allow=allow, **every)) == set(allow)
    assert set(found(model, deny=deny, **every)) == set(range(24)) - set(deny)
    assert set(found(model, allow=allow, deny=deny, **every)) == set(allow) - set(deny)
    assert set(found(model, filter={"genres": "War"}, **every)) == WAR
    assert set(found(model, filter={"genres": "War"}, allow=allow, **every)) == WAR & set(allow)
    combined = found(model, filter={"genres": "War"}, allow=allow, deny=deny, **every)
    assert set(combined) == WAR & set(allow) - set(deny)


@pytest.mark.parametrize("rules", [None, {"diversify": 0.2}])
def test_lists_of_single_users_apply_to_these_users(model: TrainedModel, rules: Any) -> None:
    options = {"rules": rules, "exclude_seen": False, "k": 24}
    table = segue.recommend(model, [1, 2, 3], allow={1: [4, 5, 6]}, deny={1: [5], 2: [0, 1]}, **options)
    lists = {user: set(part["item_id"]) for (user,), part in table.group_by("user_id")}
    assert lists == {1: {4, 6}, 2: set(range(2, 24)), 3: set(range(24))}


@pytest.mark.parametrize("rules", [None, {"diversify": 0.2}])
def test_constraints_of_users_do_not_depend_on_blocks(
    model: TrainedModel, rules: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {
        "k": 5,
        "rules": rules,
        "allow": {user: list(range(user, user + 9)) for user in range(0, 12, 2)},
        "deny": {user: [user, user + 1] for user in range(12)},
        "exclude_seen": False,
    }
    whole = segue.recommend(model, list(range(12)), **options)
    monkeypatch.setattr("segue.experiment.inference.recommend.RULES_BLOCK", 5)
    for name, value in {"BLOCK_SCORES": 72, "CACHE_SCORES": 48, "MIN_ROWS": 2}.items():
        monkeypatch.setattr(f"segue.core.recommend.{name}", value)
    assert segue.recommend(model, list(range(12)), **options).equals(whole)
    for user in range(12):
        items = set(whole.filter(pl.col("user_id") == user)["item_id"])
        assert not items & {user, user + 1}
        assert user % 2 or items <= set(range(user, user + 9))


@pytest.mark.parametrize("k", [1, 7])
@pytest.mark.parametrize("rules", [None, {"diversify": 0.2}])
def test_a_list_has_k_items(model: TrainedModel, k: int, rules: Any) -> None:
    assert len(found(model, k=k, rules=rules)) == k
