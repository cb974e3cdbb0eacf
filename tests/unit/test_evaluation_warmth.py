"""Metrics of hot, warm and cold items and users, and rankings of warm or cold items only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.core.types import Codes, DataSchema, Events, HeldOut, Queries, Scores
from segue.evaluation.evaluate import EvaluationResult, evaluate, evaluate_lists
from segue.evaluation.ranking import rank
from segue.evaluation.warmth import Warmth, WarmthGroup, WarmthThresholds

N_ITEMS = 12


class Ascending:
    """Item j has score j for every user, so the last item of the catalog is the best."""

    schema = DataSchema(40, N_ITEMS)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        scores = np.arange(N_ITEMS, dtype=np.float32)
        return np.tile(scores, (len(queries), 1)) if candidates is None else scores[candidates]


class Rated(Ascending):
    """Predicts the rating 3 for every item."""

    predicts_ratings = True

    def predict(self, users: Codes, items: Codes, times: object = None) -> Scores:
        return np.full(len(items), 3.0, np.float32)

    def clip_predictions(self, values: Scores) -> Scores:
        return values


EVENTS = np.array([0, 0, 1, 1, 1, 2, 2, 3, 3, 5, 9, 9])
"""Training events per item: items 0 and 1 are cold, and by default the two most popular ones are hot."""


def make_held_out(targets: list[list[int]], histories: list[list[int]] | None = None) -> HeldOut:
    history = Events.of(histories if histories is not None else [[2]] * len(targets))
    return HeldOut(Queries.of_users(np.arange(len(targets), dtype=np.int32), history), Events.of(targets))


def group_of(result: EvaluationResult, name: str) -> WarmthGroup:
    return next(group for group in result.warmth if group.name == name)


def test_groups_have_the_values_of_their_targets() -> None:
    held_out = make_held_out([[11], [0], [4, 1], [10, 3], []], [[2], [2, 3], [], [2], []])
    warmth = Warmth(EVENTS, WarmthThresholds(hot_users=2))
    result = evaluate(Ascending(), held_out, ks=(3,), metrics=("recall", "hit_rate"), warmth=warmth)
    assert {group.name: (group.definition, group.rows.tolist(), group.targets) for group in result.warmth} == {
        "hot items": ("6 or more training events", [0, 3], 2),
        "warm items": ("1 to 5 training events", [2, 3], 2),
        "cold items": ("no training event", [1, 2], 2),
        "warm users": ("1 event in the history", [0, 3], 3),
        "hot users": ("2 or more events in the history", [1], 1),
        "cold users": ("no event in the history", [2], 2),
        "head items": ("9 training events", [0, 3], 2),
        "tail items": ("0 to 2 training events", [1, 2, 3], 4),
    }
    assert group_of(result, "hot items").values["recall@3"].tolist() == [1.0, 1.0]
    assert group_of(result, "warm items").values["recall@3"].tolist() == [0.0, 0.0]
    assert group_of(result, "warm users").values["recall@3"].tolist() == [1.0, 0.5]
    assert result.values["recall@3"][:4].tolist() == [1.0, 0.0, 0.0, 0.5]


def test_the_table_and_the_text_state_the_thresholds() -> None:
    held_out = make_held_out([[11], [0], [4]])
    result = evaluate(Ascending(), held_out, ks=(3,), metrics=("recall",), warmth=Warmth(EVENTS))
    rows = result.warmth_table.filter(group="hot items").to_dicts()
    assert [(row["metric"], row["mean"], row["queries"], row["targets"]) for row in rows] == [("recall@3", 1.0, 1, 1)]
    assert "cold items (no training event; 1 queries): recall@3 0.0000" in repr(result)
    assert result.select(["recall@3"]).warmth[0].values.keys() == {"recall@3"}
    assert not evaluate(Ascending(), held_out).warmth


@pytest.mark.parametrize(("items", "expected"), [("all", 12), ("warm", 10), ("cold", 2)])
def test_only_the_candidates_are_ranked(items: str, expected: int) -> None:
    held_out = make_held_out([[0], [1], [2], [11]], [[5], [5], [5], [0, 5]])
    result = evaluate(Ascending(), held_out, ks=(1,), metrics=("mrr",), warmth=Warmth(EVENTS), items=items)  # type: ignore[arg-type]
    assert result.metadata["items"] == expected
    ranks = {"all": [0.0, 0.0, 0.0, 1.0], "warm": [np.nan, np.nan, 0.0, 1.0], "cold": [0.0, 1.0, np.nan, np.nan]}
    np.testing.assert_array_equal(result.values["mrr@1"], ranks[items])
    assert result.metadata.get("targets_outside_candidates", 0) == {"all": 0, "warm": 2, "cold": 2}[items]
    assert set(result.top.items[result.top.lengths > 0, 0].tolist()) == {"all": {11}, "warm": {11}, "cold": {1}}[items]


@settings(max_examples=25)
@given(data=st.data())
def test_a_group_equals_an_evaluation_of_its_targets_alone(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 6))
    rows = st.lists(st.integers(0, N_ITEMS - 1), max_size=5)
    held_out = make_held_out(data.draw(st.lists(rows, min_size=n, max_size=n)), data.draw(
        st.lists(rows, min_size=n, max_size=n)))  # fmt: skip
    events = np.array(data.draw(st.lists(st.integers(0, 4), min_size=N_ITEMS, max_size=N_ITEMS)))
    warmth = Warmth(events, WarmthThresholds(warm_items=2, hot_items=4))
    if not held_out.targets.size:
        return
    groups = evaluate(Ascending(), held_out, ks=(2, 4), warmth=warmth).warmth
    n_targets = len(set(zip(held_out.targets.rows.tolist(), held_out.targets.items.tolist(), strict=True)))
    for names in (("hot items", "warm items", "cold items"), ("head items", "middle items", "tail items")):
        assert sum(group.targets for group in groups if group.name in names) == n_targets
    for (name, _, is_member), group in [
        (one, group) for one in warmth.item_groups() for group in groups if group.name == one[0]
    ]:
        targets = held_out.targets
        alone = replace(held_out, targets=targets.where(is_member[targets.items]))
        expected = evaluate(Ascending(), alone, ks=(2, 4))
        for metric, values in group.values.items():
            np.testing.assert_array_equal(values, expected.values[metric][group.rows], name)


@given(
    seen=st.sets(st.integers(0, N_ITEMS - 1), max_size=8),
    mask=st.lists(st.booleans(), min_size=N_ITEMS, max_size=N_ITEMS),
    excluded=st.booleans(),
)
def test_ranks_among_candidates_are_those_of_a_sorted_list(seen: set[int], mask: list[bool], excluded: bool) -> None:
    candidates = np.array(mask)
    held_out = make_held_out([[item] for item in range(N_ITEMS)], [sorted(seen)] * N_ITEMS)
    ranks = rank(Ascending(), held_out, k=3, exclude_seen=excluded, candidates=candidates)
    left = [j for j in range(N_ITEMS - 1, -1, -1) if mask[j] and not (excluded and j in seen)]
    for item in range(N_ITEMS):
        expected = left.index(item) + 1 if item in left else np.inf
        assert ranks.expected_ranks[item] == expected
        assert ranks.n_candidates[item] == len(left)
        assert ranks.top.items[item, : ranks.top.lengths[item]].tolist() == left[:3]


def test_sampled_items_are_candidates() -> None:
    held_out = make_held_out([[0], [1]])
    result = evaluate(Ascending(), held_out, ks=(1,), metrics=("mrr",), sampled=1, warmth=Warmth(EVENTS), items="cold")
    np.testing.assert_array_equal(result.values["sampled_mrr@1"], [0.0, 1.0])


@given(counts=st.lists(st.integers(0, 50), min_size=1, max_size=60), warm=st.integers(1, 3))
def test_at_most_a_fifth_of_the_items_is_hot_by_default(counts: list[int], warm: int) -> None:
    masks = [mask for *_, mask in Warmth(np.array(counts), WarmthThresholds(warm_items=warm)).item_groups()]
    hot, warm_items, cold = masks[:3]
    np.testing.assert_array_equal(hot.astype(int) + warm_items + cold, 1)
    assert hot.sum() <= (~cold).sum() / 5
    np.testing.assert_array_equal(cold, np.array(counts) < warm)
    if hot.any() and warm_items.any():
        assert np.array(counts)[hot].min() > np.array(counts)[warm_items].max()


def test_errors_of_ratings_by_group() -> None:
    targets = Events(np.array([0, 1, 3]), np.array([11, 0, 4]), values=np.array([5.0, 2.0, 3.0], np.float32))
    held_out = HeldOut(Queries.of_users(np.arange(2, dtype=np.int32), Events.of([[2], []])), targets)
    result = evaluate(Rated(), held_out, metrics=(), warmth=Warmth(EVENTS))
    means = {group.name: group.estimate()["mae"].mean for group in result.warmth}
    assert means.pop("head items") == means.pop("hot items") == 2.0
    assert means.pop("tail items") == 0.5
    assert means == {"warm items": 0.0, "cold items": 1.0, "warm users": 2.0, "cold users": 0.5}
    both = evaluate(Rated(), held_out, ks=(3,), metrics=("recall",), warmth=Warmth(EVENTS))
    assert group_of(both, "cold items").values.keys() == {"recall@3", "rmse", "mae"}


def test_groups_of_given_lists() -> None:
    held_out = make_held_out([[11], [0], [4]])
    lists = rank(Ascending(), held_out, k=3).top
    given_lists = evaluate_lists(lists, held_out, ks=(3,), warmth=Warmth(EVENTS))
    own = evaluate(Ascending(), held_out, ks=(3,), warmth=Warmth(EVENTS))
    assert given_lists.warmth_table.equals(own.warmth_table)


def test_without_training_events_only_users_are_grouped() -> None:
    held_out = make_held_out([[11], [0]])
    assert [group.name for group in evaluate(Ascending(), held_out, warmth=Warmth()).warmth] == ["warm users"]
    with pytest.raises(ValueError, match="items: 'cold' needs the training events of each item"):
        evaluate(Ascending(), held_out, items="cold")


def test_nothing_to_rank_is_an_error() -> None:
    held_out = make_held_out([[11], [10]])
    with pytest.raises(ValueError, match=r"items: none of 2 targets is a cold item, .*split.cold_items=0.1"):
        evaluate(Ascending(), held_out, warmth=Warmth(EVENTS), items="cold")
    with pytest.raises(ValueError, match=r"none of 12 items is cold \(fewer than 1 training event\)"):
        evaluate(Ascending(), held_out, warmth=Warmth(EVENTS + 1), items="cold")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warm_items": 0}, "warm_items: got 0, expected at least 1"),
        ({"hot_items": 1}, "hot_items: got 1, expected more than warm_items, which is 1"),
        ({"warm_users": 5, "hot_users": 5}, "hot_users: got 5, expected more than warm_users, which is 5"),
    ],
)
def test_wrong_thresholds(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WarmthThresholds(**settings)
