"""The model ``maml``: gradients of the inner and outer loop, and worlds in which adaptation helps."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from segue.core.config import parse
from segue.core.recommend import recommend
from segue.core.registry import model_class
from segue.core.types import Dataset, Events, Queries
from segue.nn.adapted_layers import DecisionLayers, RecentFastWeights
from segue.testing import CHECKS, Subject, dataset, train_small

EXPLICIT: dict[str, Any] = {"feedback": "explicit"}
GROUP, N_COLD = 12, 2
"""Items of each of two groups, and items of each group without training events."""


def rated(rows: list[list[int]], values: list[list[float]]) -> Events:
    flat = np.array([value for row in values for value in row], np.float32)
    return replace(Events.of(rows), values=flat)


def opposite_tastes(users: int, first: int = 0) -> tuple[list[list[int]], list[list[float]]]:
    """Draw six ratings per user: even users give 5 to the first group and 1 to the second, odd users the reverse."""
    rows, values = [], []
    for user in range(first, first + users):
        rng = np.random.default_rng(user)
        row = [int(code) for group in (0, 1) for code in group * GROUP + rng.permutation(GROUP - N_COLD)[:3]]
        rows.append(row)
        values.append([5.0 if (code >= GROUP) == bool(user % 2) else 1.0 for code in row])
    return rows, values


@cache
def world() -> Dataset:
    table = pl.DataFrame(
        {"id": [f"i{code}" for code in range(2 * GROUP)], "group": [f"g{code // GROUP}" for code in range(2 * GROUP)]}
    )
    return replace(dataset(rated(*opposite_tastes(80)), 2 * GROUP), item_features=table.lazy())


@cache
def trained(inner_steps: int, epochs: int = 10, **settings: Any) -> Any:
    rate: dict[str, Any] = {"inner_learning_rate": 0.3} if inner_steps else {}
    return train_small("maml", world(), **EXPLICIT, inner_steps=inner_steps, epochs=epochs, **rate, **settings)


def new_users() -> Queries:
    return Queries.anonymous(rated(*opposite_tastes(10, first=1_000)))


def small_model(**settings: Any) -> Any:
    """Return a trained model of one hidden layer with an inner rate that moves the weights well."""
    return train_small("maml", world(), **EXPLICIT, hidden_dim=5, epochs=1, inner_learning_rate=0.3, **settings)


def own_support(model: Any, queries: Queries) -> tuple[Any, torch.Tensor]:
    support = model._support_examples(model._support(queries))
    return support, torch.zeros(len(queries), 0)


# --- what it learns --------------------------------------------------------------------------------------------------


def test_adaptation_learns_the_taste_of_new_users_in_a_world_of_opposite_tastes() -> None:
    expected = np.where((np.arange(2 * GROUP) >= GROUP) == (np.arange(10) % 2 == 1)[:, None], 5.0, 1.0)
    adapted = trained(3).score(new_users())
    assert np.sqrt(np.square(adapted - expected).mean()) < 0.7
    same = trained(0, epochs=5).score(new_users())  # without adaptation, all users get the mean
    assert np.sqrt(np.square(same - expected).mean()) > 1.8
    np.testing.assert_array_equal(same[0], same[1])


def test_items_without_events_are_predicted_from_their_features() -> None:
    scores = trained(3).score(new_users())
    is_cold = np.arange(2 * GROUP) % GROUP >= GROUP - N_COLD
    assert not np.isin(np.flatnonzero(is_cold), world().histories.items).any()
    first, second = scores[:, is_cold][:, :N_COLD].mean(axis=1), scores[:, is_cold][:, N_COLD:].mean(axis=1)
    assert ((second - first > 2.0) == (np.arange(10) % 2 == 1)).all()


@cache
def with_profiles() -> Any:
    table = pl.DataFrame({"id": [f"u{code}" for code in range(80)], "side": ["left", "right"] * 40})
    data = replace(world(), user_features=table.lazy())
    return train_small("maml", data, **EXPLICIT, epochs=10, support_dropout=0.5)


def test_profiles_predict_users_without_events() -> None:
    model = with_profiles()
    profile = pl.DataFrame({"side": ["left", "right", None]})
    scores = model.score(Queries.anonymous(Events.of([[], [], []]), profile))
    difference = scores[:, :GROUP].mean(axis=1) - scores[:, GROUP:].mean(axis=1)
    assert difference[0] > 2.0
    assert difference[1] < -2.0
    assert abs(difference[2]) < 2.0


def test_events_without_values_are_learned_as_choices() -> None:
    rng = np.random.default_rng(0)
    rows = [(rng.permutation(GROUP)[:6] + GROUP * (user % 2)).tolist() for user in range(80)]
    data = dataset(Events.of(rows), 2 * GROUP)
    model = train_small("maml", data, epochs=10)
    queries = Queries.anonymous(Events.of([[0, 1, 2], [GROUP, GROUP + 1, GROUP + 2]]))
    found = recommend(model, queries, 9).items // GROUP  # all other items of the user's group
    assert (found == [[0] * 9, [1] * 9]).all()
    same = model.score(replace(queries, history=Events.of([[], []])))
    np.testing.assert_array_equal(same[0], same[1])


# --- the inner and the outer loop ------------------------------------------------------------------------------------


def test_the_inner_gradient_is_the_one_computed_by_hand() -> None:
    model = small_model(inner_steps=1, learn_rates=False)
    support, users = own_support(model, new_users())
    fast = model.adapt(users, support)
    weights = {name: weight.detach().numpy().astype(np.float64) for name, weight in model.decision.named_parameters()}
    w1_HE, b1_H = weights["item_layer.weight"], weights["item_layer.bias"]
    w2_H, b2 = weights["out.weight"][0], weights["out.bias"][0]
    mean, scale = model.value_moments_2.tolist()
    history = new_users().history
    for user in range(len(history)):
        row = slice(*history.offsets[user : user + 2])
        items = torch.from_numpy(history.items[row].astype(np.int64))
        x_SE = model.item_vectors(items).detach().numpy().astype(np.float64)
        before_SH = x_SE @ w1_HE.T + b1_H
        hidden_SH = np.maximum(before_SH, 0.0)
        targets_S = (history.values[row].astype(np.float64) - mean) / scale  # type: ignore[index]
        slope_S = 2.0 * (hidden_SH @ w2_H + b2 - targets_S) / len(items)
        slope_SH = slope_S[:, None] * w2_H * (before_SH > 0)
        expected = {
            "out.weight": (w2_H - 0.3 * slope_S @ hidden_SH)[None],
            "out.bias": np.array([b2 - 0.3 * slope_S.sum()]),
            "item_layer.weight": w1_HE - 0.3 * slope_SH.T @ x_SE,
            "item_layer.bias": b1_H - 0.3 * slope_SH.sum(axis=0),
        }
        assert set(expected) == set(fast)
        for name, value in expected.items():
            np.testing.assert_allclose(fast[name][user].detach().numpy(), value, rtol=1e-4, atol=1e-5, err_msg=name)


def unrolled(model: Any, examples: Any, user: int, user_E: torch.Tensor) -> dict[str, torch.Tensor]:
    """Adapt to one user by plain automatic differentiation, as an independent computation."""
    fast = dict(model.decision.named_parameters())
    for rates in model.rates:
        outputs = torch.func.functional_call(
            model.decision, fast, (user_E, model.item_vectors(examples.items_BS[user]))
        )
        loss = ((outputs - examples.targets_BS[user]) ** 2 * examples.weights_BS[user]).sum()
        gradients = torch.autograd.grad(loss, list(fast.values()), create_graph=not model.config.first_order)
        fast = {
            name: weight - rate * gradient
            for (name, weight), rate, gradient in zip(fast.items(), rates, gradients, strict=True)
        }
    return fast


@pytest.mark.parametrize("first_order", [False, True])
def test_both_loops_agree_with_plain_automatic_differentiation(first_order: bool) -> None:
    model = small_model(first_order=first_order, num_layers=2)
    parts = [
        Queries.anonymous(rated([[0, 1, 12]], [[5.0, 1.0, 3.0]])),
        Queries.anonymous(rated([[3, 14, 5, 20, 2]], [[1.0, 2.0, 5.0, 4.0, 3.0]])),
    ]
    history = rated([[0, 1, 12], [3, 14, 5, 20, 2]], [[5.0, 1.0, 3.0], [1.0, 2.0, 5.0, 4.0, 3.0]])
    support, users = own_support(model, Queries.anonymous(history))
    fast = model.adapt(users, support)
    targets = torch.tensor([4, 13, 21])
    outputs = model.decision.outputs(fast, users, model.item_vectors(targets))
    expected = []
    for user, part in enumerate(parts):  # also without the padding of the batch
        weights = unrolled(model, own_support(model, part)[0], 0, users[0])
        for name, weight in weights.items():
            torch.testing.assert_close(fast[name][user], weight, rtol=1e-4, atol=1e-5)
        call = torch.func.functional_call(model.decision, weights, (users[0], model.item_vectors(targets)))
        expected.append(call)
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    found = torch.autograd.grad(outputs.square().sum(), parameters)
    for one, other in zip(found, torch.autograd.grad(torch.stack(expected).square().sum(), parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_the_outer_loop_learns_rates_only_where_it_is_configured_to() -> None:
    start = np.float32(np.log(0.3))
    assert np.abs(small_model().arrays()["log_rates"] - start).min() > 0
    np.testing.assert_array_equal(small_model(learn_rates=False).arrays()["log_rates"], start)


# --- prediction ------------------------------------------------------------------------------------------------------


def test_a_batch_of_queries_gives_the_scores_of_single_queries() -> None:
    model = trained(3)
    histories = rated([[0, 1, 12], [], [3, 14, 5, 20, 2, 7]], [[5, 1, 3], [], [1, 2, 5, 4, 3, 2]])
    queries = Queries.anonymous(histories)
    single = np.concatenate([model.score(queries.rows_between(row, row + 1)) for row in range(3)])
    np.testing.assert_allclose(model.score(queries), single, rtol=1e-5, atol=1e-5)


def test_without_support_the_layers_are_not_adapted() -> None:
    model = trained(3)
    found = model.score(Queries.anonymous(Events.of([[]])))
    with torch.no_grad():
        outputs = model.decision(torch.zeros(0), model.item_vectors(torch.arange(2 * GROUP))).numpy()
    mean, scale = model.value_moments_2.tolist()
    np.testing.assert_allclose(found[0], mean + scale * outputs, rtol=1e-4, atol=1e-5)
    no_values = model.score(Queries.anonymous(Events.of([[3, 4]])))  # events without values say nothing here
    np.testing.assert_allclose(no_values, found, rtol=1e-5, atol=1e-5)


def test_adapted_layers_are_reused_until_the_events_the_profile_or_the_model_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = small_model()
    model.eval()
    adapted: list[int] = []
    original = model.adapt

    def count(users: torch.Tensor, support: Any) -> Any:
        adapted.append(len(users))
        return original(users, support)

    monkeypatch.setattr(model, "adapt", count)
    first, second = rated([[0, 1, 12]], [[5, 1, 3]]), rated([[3]], [[1]])
    both = rated([[0, 1, 12], [3]], [[5, 1, 3], [1]])
    scores = model.score(Queries.anonymous(first))
    np.testing.assert_array_equal(model.score(Queries.anonymous(first)), scores)
    candidates = np.array([[4, 2]], np.int32)
    np.testing.assert_allclose(model.score(Queries.anonymous(first), candidates), scores[:, [4, 2]], rtol=1e-5)
    assert adapted == [1]
    found = model.score(Queries.anonymous(both))  # the second user only
    np.testing.assert_allclose(found[:1], scores, rtol=1e-5, atol=1e-5)
    assert adapted == [1, 1]
    changed = rated([[0, 1, 12, 2]], [[5, 1, 3, 1]]), rated([[0, 1, 12]], [[5, 1, 4]]), rated([[0, 1]], [[5, 1]])
    for history in changed:
        assert not np.allclose(model.score(Queries.anonymous(history)), scores)
    assert adapted == [1] * 5
    model.score(Queries.anonymous(both.take(np.tile([0, 1], 20))))  # many queries at once are not cached
    assert adapted == [*[1] * 5, 40]
    other = train_small("maml", world(), seed=3, **EXPLICIT, hidden_dim=5, epochs=1, inner_learning_rate=0.3)
    model.restore(other.arrays())
    np.testing.assert_array_equal(model.score(Queries.anonymous(second)), other.score(Queries.anonymous(second)))


def test_the_cache_of_adapted_layers_is_bounded_and_drops_the_oldest() -> None:
    layers = DecisionLayers(0, 2, 3, 1)
    recent = RecentFastWeights(layers)
    recent.capacity = 3
    calls: list[list[int]] = []

    def adapt(rows: list[int]) -> dict[str, torch.Tensor]:
        calls.append(rows)
        return {"out.bias": torch.arange(len(rows), dtype=torch.float32)[:, None]}

    found = recent.get([b"a", b"b", b"c"], adapt)
    assert found["out.bias"][:, 0].tolist() == [0, 1, 2]
    assert recent.get([b"c", b"a"], adapt)["out.bias"][:, 0].tolist() == [2, 0]
    recent.get([b"d"], adapt)  # replaces b, which is the oldest
    assert len(recent) == 3
    recent.get([b"a", b"b"], adapt)
    assert calls == [[0, 1, 2], [0], [1]]
    recent.get([b"e", b"a", b"e"], adapt)  # once for both
    assert calls[3:] == [[0]]
    recent.clear()
    assert len(recent) == 0


def test_profiles_are_part_of_the_cached_state() -> None:
    model = with_profiles()
    left, right = (Queries.anonymous(Events.of([[]]), pl.DataFrame({"side": [side]})) for side in ("left", "right"))
    scores = model.score(left)
    assert not np.allclose(model.score(right), scores)
    np.testing.assert_array_equal(model.score(left), scores)


def test_items_are_added_by_their_features() -> None:
    model = trained(3)
    n_items = 2 * GROUP
    table = pl.DataFrame({"group": ["g1", "g0", "g1"]})
    extended = model.with_items(np.array([n_items, 3, n_items + 1], np.int32), table)
    assert extended.schema.n_items == n_items + 2
    before, after = model.score(new_users()), extended.score(new_users())
    unchanged = np.delete(np.arange(n_items), 3)
    np.testing.assert_allclose(after[:, unchanged], before[:, unchanged], atol=1e-4)
    np.testing.assert_allclose(after[:, n_items:], np.repeat(after[:, n_items - 1 :][:, :1], 2, axis=1), atol=1e-4)
    without = train_small("maml", world(), **EXPLICIT, inputs=(), epochs=1)
    assert not without.can_add_items  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="maml: reads no item features"):
        without.with_items(np.array([n_items], np.int32), table[:1])  # type: ignore[attr-defined]
    implicit: Any = train_small("maml", world(), epochs=1)
    more = implicit.with_items(np.array([n_items], np.int32), table[:1])
    np.testing.assert_allclose(more.score(new_users())[:, :n_items], implicit.score(new_users()), atol=1e-5)


def test_known_users_have_the_support_of_training() -> None:
    model, histories = trained(3), world().histories
    users = np.array([5, 2], np.int32)
    given = model.score(Queries.of_users(users, histories.take(users)))
    stored = model.score(Queries.of_users(users, Events.of([[], []])))
    np.testing.assert_allclose(stored, given, rtol=1e-4, atol=1e-4)
    pairs, items = np.array([5, 2, 5, 5, 2], np.int32), np.array([0, 23, 13, 7, 0], np.int32)
    expected = given[np.array([0, 1, 0, 0, 1]), items]
    np.testing.assert_allclose(model.predict(pairs, items), expected, rtol=1e-4, atol=1e-4)


def test_only_the_newest_events_are_the_support() -> None:
    model = trained(3, epochs=2, support_size=2)
    long = Queries.anonymous(rated([[4, 5, 6, 0, 12]], [[1, 1, 1, 5, 1]]))
    short = Queries.anonymous(rated([[0, 12]], [[5, 1]]))
    np.testing.assert_allclose(model.score(long), model.score(short), rtol=1e-5, atol=1e-5)


def test_predictions_are_clipped_only_if_configured() -> None:
    scores = np.array([-3.0, 2.0, 9.0], np.float32)
    np.testing.assert_array_equal(trained(3).clip_predictions(scores), scores)
    clipping: Any = train_small("maml", world(), **EXPLICIT, clip_predictions=True, epochs=1)
    np.testing.assert_array_equal(clipping.clip_predictions(scores), [1.0, 2.0, 5.0])


def test_the_contract_holds_with_ratings() -> None:
    rng = np.random.default_rng(0)
    rows = Events.of([rng.integers(28, size=n) for n in [0, 1, 60, *rng.integers(2, 20, size=30)]])
    events = replace(rows, values=rng.integers(1, 6, rows.size).astype(np.float32))
    data = dataset(events, 30)
    subject = Subject("maml", data, train_small("maml", data, **EXPLICIT), 0.0)
    for name in (
        "accepts_any_query",
        "candidate_scores_match",
        "batch_equals_single",
        "bundle_round_trip",
        "scoring_has_no_side_effects",
        "predicts_values",
    ):
        CHECKS[name](subject)


# --- tasks and settings ----------------------------------------------------------------------------------------------


def test_support_and_query_of_a_task_are_different_events_of_the_user() -> None:
    rows = [list(range(n)) for n in (1, 2, 7, 40)]
    data = dataset(rated(rows, [[float(code) for code in row] for row in rows]), 40)
    kind: Any = model_class("maml")
    model = kind(kind.Config(**EXPLICIT, support_size=12, query_size=5, support_dropout=0.0), data.schema)
    model.prepare(data)
    count, batches = model.batches(data, 4, np.random.default_rng(0))
    assert count == 1
    (batch,) = batches
    assert batch.query.lengths_B.tolist() == [1, 1, 4, 5]
    assert batch.support.lengths_B.tolist() == [0, 1, 3, 12]
    for user, size in enumerate((1, 2, 7, 17)):
        support = batch.support.items_BS[user, : batch.support.lengths_B[user]]
        query = batch.query.items_BS[user, : batch.query.lengths_B[user]]
        assert len({*support.tolist(), *query.tolist()}) == size
        np.testing.assert_array_equal(batch.query.values_BS[user, : len(query)], query)
    dropping = kind(kind.Config(**EXPLICIT, support_dropout=0.99), data.schema)
    assert all((one.support.lengths_B == 0).all() for one in dropping.batches(data, 4, np.random.default_rng(0))[1])


def test_explicit_feedback_needs_values() -> None:
    with pytest.raises(ValueError, match="maml with feedback='explicit' needs values"):
        train_small("maml", dataset(Events.of([[0, 1], [1]]), 2), **EXPLICIT)
    implicit: Any = train_small("maml", dataset(Events.of([[0, 1], [1]]), 2))
    with pytest.raises(ValueError, match=r"maml\.feedback: got 'implicit', expected 'explicit'"):
        implicit.predict(np.zeros(1, np.int32), np.zeros(1, np.int32))


@pytest.mark.parametrize("rate", [1e6, 1e30])
def test_a_huge_inner_learning_rate_is_named_in_the_error(rate: float) -> None:
    with pytest.raises(ValueError, match=r"diverged.*try a lower inner_learning_rate"):
        train_small("maml", world(), **EXPLICIT, epochs=3, inner_learning_rate=rate, learning_rate=0.1)


def test_settings_without_effect_are_rejected() -> None:
    kind = model_class("maml").Config
    cases: list[tuple[dict[str, Any], str]] = [
        ({"inner_steps": 0, "first_order": True}, "first_order: got True, which only inner_steps above 0 uses"),
        ({**EXPLICIT, "num_negatives": 2}, "num_negatives: got 2, which only feedback='implicit' uses"),
        ({"clip_predictions": True}, "clip_predictions: got True, which only feedback='explicit' uses"),
        ({"inputs": [], "feature_dropout": 0.5}, "feature_dropout: got 0.5, which only the input user_features uses"),
        ({"inner_steps": -1}, "inner_steps"),
    ]
    for settings, message in cases:
        with pytest.raises(ValueError, match=message):
            parse(kind, settings, "model")


def test_fast_weights_leave_the_model_unchanged() -> None:
    model = trained(3)
    before = copy.deepcopy(dict(model.arrays()))
    model.score(new_users())
    for name, array in model.arrays().items():
        np.testing.assert_array_equal(array, before[name])
