"""Strategies for new users in worlds with known answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from segue.core import bundle
from segue.core.recommend import recommend
from segue.core.types import Dataset, Events, Queries
from segue.models.cold_start import fold_in
from segue.solvers.popularity import later_lifts
from segue.solvers.profiles.latent_classes import event_counts, fit_latent_classes
from segue.solvers.profiles.user_profiles import UserProfiles
from segue.testing import dataset, train_small

GROUP = 10
STRATEGIES = ["profile_model", "profile_clusters", "hierarchical_backoff"]


def profile_log(users: int = 200, loyalty: float = 0.9, seed: int = 0) -> Dataset:
    """Create users of whom the young take items 0 to 9 and the old items 10 to 19, with probability ``loyalty``.

    ``gender`` tells nothing. Item 0 of each group is the most popular.
    """
    rng = np.random.default_rng(seed)
    is_old = np.arange(users) % 2 == 1
    chances = 1.0 / np.arange(1, GROUP + 1)
    other = rng.random((users, 8)) > loyalty
    items = rng.choice(GROUP, (users, 8), p=chances / chances.sum()) + GROUP * (is_old[:, None] ^ other)
    table = pl.DataFrame(
        {
            "id": [f"u{code}" for code in range(users)],
            "age": np.where(is_old, rng.integers(50, 70, users), rng.integers(20, 40, users)),
            "gender": rng.choice(["F", "M"], users),
            "zip_code": [f"{1 + old}{number:04d}" for number, old in enumerate(is_old)],
        }
    )
    return replace(dataset(Events.of(items.tolist()), 2 * GROUP), user_features=table.lazy())


def new_users(*histories: list[int], **profile: list[Any]) -> Queries:
    return Queries.anonymous(Events.of(histories), pl.DataFrame(profile) if profile else None)


def groups(model: Any, queries: Queries, k: int = 3) -> Any:
    return recommend(model, queries, k).items // GROUP


@pytest.mark.parametrize("key", STRATEGIES)
def test_new_users_get_what_users_of_their_profile_like(key: str) -> None:
    model: Any = train_small(key, profile_log(), num_clusters=2, l2=1.0)
    found = groups(model, new_users([], [], age=[25, 60]))
    assert (found == [[0] * 3, [1] * 3]).all()
    # the most popular items of the group come first
    assert recommend(model, new_users([], age=[25]), 1).items.tolist() == [[0]]


@pytest.mark.parametrize("key", STRATEGIES)
def test_users_without_profile_get_what_is_popular(key: str) -> None:
    data = profile_log()
    found = recommend(train_small(key, data, num_clusters=2), new_users([]), 2).items[0]
    assert set(found.tolist()) == {0, GROUP}


@pytest.mark.parametrize("key", STRATEGIES)
def test_known_users_have_their_stored_profile(key: str) -> None:
    data = profile_log()
    model: Any = train_small(key, data, num_clusters=2)
    assert data.user_features is not None
    profile = data.user_features.collect()[[3, 4]]
    stored = Queries.of_users(np.array([3, 4], np.int32), Events.of([[], []]))
    given = Queries.anonymous(Events.of([[], []]), profile)
    np.testing.assert_allclose(model.score(stored), model.score(given), rtol=1e-5)
    # what is given with the query takes precedence, one feature at a time
    changed = replace(stored, profile=pl.DataFrame({"age": [25, None]}))
    expected = replace(given, profile=profile.with_columns(age=pl.Series([25, profile["age"][1]])))
    np.testing.assert_allclose(model.score(changed), model.score(expected), rtol=1e-5)


@pytest.mark.parametrize("key", ["profile_clusters", "hierarchical_backoff"])
def test_events_correct_the_profile(key: str) -> None:
    model = train_small(key, profile_log(loyalty=1.0), num_clusters=2, smoothing=1.0, concentration=1.0)
    ages = [25, 25, 25]
    scores = model.score(new_users([], [GROUP], [GROUP, GROUP + 1, GROUP + 2], age=ages))
    gain = scores[:, GROUP:].mean(axis=1) - scores[:, :GROUP].mean(axis=1)
    assert gain[0] < gain[1] <= gain[2]
    without = train_small(key, profile_log(loyalty=1.0), num_clusters=2, event_weight=0.0)
    same = without.score(new_users([], [GROUP], age=[25, 25]))
    np.testing.assert_array_equal(same[0], same[1])


@pytest.mark.parametrize("key", ["profile_clusters", "hierarchical_backoff"])
def test_scores_do_not_depend_on_the_other_queries_at_all(key: str) -> None:
    data = profile_log()
    wide = replace(data, items=dataset(data.histories, 500).items)  # wide enough for other kernels of dense products
    model = train_small(key, wide)
    users = np.arange(40, dtype=np.int32)
    queries = Queries.of_users(users, data.histories.take(users))
    scores, listed = model.score(queries), recommend(model, queries, 5)
    for block in (1, 3, 16):
        rows = [np.arange(start, min(start + block, 40)) for start in range(0, 40, block)]
        np.testing.assert_array_equal(np.concatenate([model.score(queries.take(some)) for some in rows]), scores)
        parts = [recommend(model, queries.take(some), 5) for some in rows]
        np.testing.assert_array_equal(np.concatenate([part.scores for part in parts]), listed.scores)


def test_profile_model_estimates_probabilities() -> None:
    """With weak regularization, the probabilities are the shares of each group of users."""
    data = profile_log(users=2_000)
    assert data.user_features is not None
    data = replace(data, user_features=data.user_features.select("id", "zip_code"))
    model = train_small("profile_model", data, l2=1e-3, prefixes={"zip_code": 1})
    scores = model.score(new_users([], [], zip_code=["10000", "29999"])).astype(np.float64)
    found = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    is_old = data.histories.rows % 2
    for old in (0, 1):
        share = np.bincount(data.histories.items[is_old == old], minlength=2 * GROUP) / (is_old == old).sum()
        np.testing.assert_allclose(found[old], share, atol=2e-3)


def test_strong_regularization_leaves_popularity() -> None:
    data = profile_log()
    scores = train_small("profile_model", data, l2=1e9).score(new_users([], age=[25]))
    popular = train_small("popular", data).score(new_users([]))
    np.testing.assert_allclose(scores, popular, atol=1e-3)


def test_prefixes_read_the_region_of_a_postal_code() -> None:
    data = profile_log()
    data = replace(data, user_features=data.user_features.select("id", "gender", "zip_code"))  # type: ignore[union-attr]
    queries = new_users([], [], zip_code=["19999", "29998"])
    assert (
        groups(train_small("profile_model", data, l2=1.0, prefixes={"zip_code": 1}), queries) == [[0] * 3, [1] * 3]
    ).all()
    model: Any = train_small("profile_model", data)
    assert [feature.name for feature in model.schema.user_features] == ["gender"]
    with pytest.raises(ValueError, match=r"profile_model\.prefixes: the user_features of world have no column 'zip'"):
        train_small("profile_model", data, prefixes={"zip": 1})


def test_backoff_smooths_profiles_by_clusters() -> None:
    data = profile_log()
    assert data.user_features is not None
    for concentration in (1e-3, 1e9):
        model: Any = train_small("hierarchical_backoff", data, num_clusters=1, concentration=concentration)
        scores = model.score(new_users([], age=[60], gender=["F"]))[0]
        assert (scores[GROUP] - scores[0] > 1.0) == (concentration < 1.0)
    probabilities = np.exp(model.score(new_users([], [3], age=[60, None])))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-4)


def test_a_profile_that_is_known_in_part_is_that_of_all_users_who_agree() -> None:
    data = profile_log()
    model: Any = train_small("hierarchical_backoff", data, num_clusters=1, concentration=1e-3)
    counts = np.exp(model.score(new_users([], [], age=[60, None], gender=[None, "F"])).astype(np.float64))
    table = data.user_features.collect()  # type: ignore[union-attr]
    assert counts[0, GROUP:].sum() > 0.8
    is_woman = (table["gender"] == "F").to_numpy()[data.histories.rows]
    expected = np.bincount(data.histories.items[is_woman], minlength=2 * GROUP) / is_woman.sum()
    np.testing.assert_allclose(counts[1], expected, atol=1e-4)


def test_backoff_trusts_profiles_only_where_they_matter() -> None:
    """Without clusters, the concentration is small where the profile predicts the items and large where it does not."""
    found = {}
    for loyalty in (0.5, 0.95):
        data = profile_log(users=400, loyalty=loyalty)
        data = replace(data, user_features=data.user_features.select("id", "age"))  # type: ignore[union-attr]
        model: Any = train_small("hierarchical_backoff", data, num_clusters=1)
        found[loyalty] = model.concentration_1[0]
    assert found[0.5] > 20 * found[0.95]


def test_latent_classes_recover_planted_classes() -> None:
    data = profile_log(loyalty=1.0)
    losses: list[float] = []
    profiles = UserProfiles.fit(data, {}, "test")
    classes = fit_latent_classes(
        event_counts(data),
        profiles.rows_UF,
        2,
        30,
        1.0,
        np.random.default_rng(0),
        lambda _, metrics: losses.append(metrics["loss"]),
    )
    assert losses[-1] < losses[0]
    found = classes.probabilities(profiles.rows_UF, event_counts(data), 1.0)
    assert (found.max(axis=1) > 0.99).all()
    own = found.argmax(axis=1)
    assert len(set(zip(own.tolist(), (np.arange(data.n_users) % 2).tolist(), strict=True))) == 2
    by_profile = classes.probabilities(profiles.rows_UF, 0 * event_counts(data), 1.0)
    assert (by_profile.argmax(axis=1) == own).mean() > 0.95


# --- exploration -----------------------------------------------------------------------------------------------------


def rare_log() -> Dataset:
    """Create a log in which item i has 2^(9 - i) events."""
    return dataset(Events.of([[item] for item in range(10) for _ in range(2 ** (9 - item))]), 10)


def many_queries(count: int = 400) -> Queries:
    return Queries.of_users(np.arange(count, dtype=np.int32), Events.of([[]] * count))


def test_thompson_sampling_draws_items_by_the_uncertainty_of_their_rates() -> None:
    from scipy.special import polygamma

    data = rare_log()
    popular = train_small("popular", data)
    model = train_small("exploration", data)
    errors = model.score(many_queries()) - popular.score(many_queries())
    counts = 2.0 ** np.arange(9, -1, -1) + 1
    np.testing.assert_allclose(errors.std(axis=0), np.sqrt(polygamma(1, counts)), rtol=0.12)
    assert (np.abs(errors.mean(axis=0)) < 4 * np.sqrt(polygamma(1, counts) / 400)).all()
    assert np.abs(np.corrcoef(errors.T)[~np.eye(10, dtype=bool)]).max() < 0.25
    np.testing.assert_array_equal(
        train_small("exploration", data, strength=0.0).score(many_queries()), popular.score(many_queries())
    )


def test_upper_confidence_bounds_raise_rare_items_most() -> None:
    data = rare_log()
    bonus = train_small("exploration", data, policy="ucb").score(many_queries(1)) - train_small("popular", data).score(
        many_queries(1)
    )
    assert (np.diff(bonus[0]) > 0).all()


def test_novelty_cancels_popularity_at_full_strength() -> None:
    data = rare_log()
    scores = train_small("exploration", data, policy="novelty").score(many_queries(1))
    np.testing.assert_allclose(scores, scores.mean(), atol=1e-5)
    half = train_small("exploration", data, policy="novelty", strength=0.5).score(many_queries(1))[0]
    assert (np.diff(half) < 0).all()


def test_a_random_share_of_the_positions_has_random_items() -> None:
    data = dataset(Events.of([[item] * (200 - item) for item in range(200)]), 200)
    queries, share = many_queries(300), 0.2
    lists = recommend(train_small("exploration", data, policy="random_share", share=share), queries, 10).items
    assert all(len(set(row)) == 10 for row in lists.tolist())
    is_popular = lists < 20
    assert is_popular.mean() == pytest.approx(1 - share + share * 0.1, abs=0.04)
    random_items = lists[~is_popular]
    assert random_items.mean() == pytest.approx(109.5, abs=10)
    # the other items keep the order of the base
    assert (lists[:, 0] == 0).mean() == pytest.approx(1 - share, abs=0.08)
    assert (np.diff(np.where(is_popular, lists, -1), axis=1)[is_popular[:, 1:]] > 0).mean() > 0.95
    assert (
        recommend(train_small("exploration", data, policy="random_share", share=0.0), queries, 10).items
        == np.arange(10)
    ).all()


@pytest.mark.parametrize("base", ["popular", "item_knn"])
@pytest.mark.parametrize("policy", ["thompson", "ucb", "novelty", "random_share"])
def test_items_without_events_are_explored(policy: str, base: str, tmp_path: Path) -> None:
    data = dataset(Events.of([[user % 8, (user + 1) % 8] for user in range(40)]), 10)  # items 8 and 9 have no event
    data = replace(data, header={**data.header, "counts": {"items_without_events": 2}})
    assert train_small("popular", data).schema.n_unscored == 2
    settings = {"share": 0.5} if policy == "random_share" else {"strength": 3.0}
    model: Any = train_small("exploration", data, policy=policy, base=base, **settings)
    queries = Queries.anonymous(Events.of([[user % 8, (user * 3) % 8] for user in range(40)]))
    lists = recommend(model, queries, 4).items
    assert {8, 9} & set(lists.ravel().tolist())
    bundle.save(tmp_path / "model", bundle.create("exploration", model, data))
    np.testing.assert_array_equal(recommend(bundle.load(tmp_path / "model").model, queries, 4).items, lists)


def test_each_event_draws_new_random_numbers() -> None:
    model = train_small("exploration", rare_log())
    scores = model.score(Queries.anonymous(Events.of([[], [1], [1], [1, 2]])))
    np.testing.assert_array_equal(scores[1], scores[2])
    assert not np.allclose(scores[0], scores[1])
    assert not np.allclose(scores[1], scores[3])


def test_settings_of_exploration_are_checked() -> None:
    from segue.core.config import parse
    from segue.core.registry import model_class

    kind = model_class("exploration").Config
    cases: list[tuple[dict[str, Any], str]] = [
        ({"base": "sasrec"}, "^model.base: 'sasrec' is trained in epochs"),
        ({"base": "exploration"}, "'exploration' has base models itself"),
        ({"base_settings": {"smoothin": 1}}, "smoothin: unknown key, did you mean 'smoothing'"),
        ({"share": 0.5}, "share: got 0.5, which only policy='random_share' uses"),
    ]
    for settings, message in cases:
        with pytest.raises(ValueError, match=message):
            parse(kind, settings, "model")


# --- fold-in ---------------------------------------------------------------------------------------------------------


def test_fold_in_starts_with_the_prior() -> None:
    data = profile_log()
    queries = new_users([], [], age=[25, 60])
    model = train_small("fold_in", data, prior="profile_model")
    prior = train_small("profile_model", data)
    assert (recommend(model, queries, 20).items == recommend(prior, queries, 20).items).all()


def test_fold_in_trusts_the_history_only_where_it_predicts() -> None:
    """In a world of loyal users, a base model is trusted; where items are drawn at random, it is not."""
    weights = {}
    for loyalty in (0.5, 1.0):
        model: Any = train_small("fold_in", profile_log(loyalty=loyalty, users=300), bases=("item_knn",))
        weights[loyalty] = model.weights_HF[:3, 1]
    assert (weights[1.0] > 0.1).all()
    assert weights[0.5].mean() < 0.3 * weights[1.0].mean()


class NoisyUsers:
    """Users whose nDCG is best at a weight of 1, as far as noise shows."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.tastes = 0.05 * self.rng.normal(size=300)

    def ndcg(self, weights_F: Any) -> Any:
        gain = 0.02 * (1.0 - (weights_F[1] - 1.0) ** 2)
        return 0.4 + gain + weights_F[1] * self.tastes + 0.05 * self.rng.normal(size=len(self.tastes))


def test_the_factor_of_fold_in_varies_little_between_samples_of_users() -> None:
    """The smallest good factor of one sample jumps between factors; the mean over bootstrap samples does not."""
    chosen, single = [], []
    for seed in range(24):
        users: Any = [NoisyUsers(seed)]
        chosen.append(fold_in._choose_factor(users, np.ones(2), np.random.default_rng(seed)))
        again = NoisyUsers(seed)
        values = np.stack([again.ndcg(np.array([1.0, factor])) for factor in fold_in.FACTORS])
        losses = values[values.mean(axis=1).argmax()] - values
        is_good = losses.mean(axis=1) <= losses.std(axis=1) / np.sqrt(values.shape[1])
        single.append(fold_in.FACTORS[int(is_good.argmax())])
    assert np.std(chosen) < 0.85 * np.std(single)
    assert abs(np.mean(chosen) - np.mean(single)) < 0.1
    same = [fold_in._choose_factor([NoisyUsers(0)], np.ones(2), np.random.default_rng(0)) for _ in range(2)]  # type: ignore[list-item]
    assert same[0] == same[1]


def test_factors_of_fold_in_are_smoothed_over_lengths() -> None:
    np.testing.assert_allclose(fold_in._smooth(np.array([0.0, 0.0, 1.0, 0.0])), [0.0, 0.25, 0.5, 0.25])
    np.testing.assert_allclose(fold_in._smooth(np.array([2.0])), [2.0])


def test_fold_in_interpolates_its_weights() -> None:
    model: Any = train_small("fold_in", profile_log())
    model.weights_HF[:] = np.arange(len(model.weights_HF))[:, None] + [[1.0, 0.0]]
    model.later_lifts_HI[:] = np.arange(len(model.later_lifts_HI))[:, None]
    popularity = train_small("popular", profile_log()).score(new_users([]))[0]
    histories = [[1], [1, 2], [1, 2, 3, 4], [1] * 500]
    queries = new_users(*histories)
    prior, lift = model._features(queries)
    for row, weight in enumerate([0.0, 1.0, 2.0 + np.log(4 / 3) / np.log(5 / 3), 8.0]):
        np.testing.assert_allclose(prior[row] - prior[row].mean(), popularity - popularity.mean(), atol=1e-4)
        assert prior[row].mean() - prior[0].mean() == pytest.approx(weight, abs=1e-4)
        expected = (1.0 + weight) * prior[row] + weight * lift[row]
        np.testing.assert_allclose(model.score(queries)[row], expected, rtol=1e-4)


def test_users_treated_as_new_are_unknown_to_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    from segue.models.cold_start.fold_in import FOLDS, FoldIn

    data, seen, simulated = profile_log(users=30), [], []
    train, simulate = FoldIn._train, FoldIn._simulate

    def recorded_train(self: Any, log: Dataset, run: Any) -> None:
        seen.append(set(np.flatnonzero(log.histories.lengths).tolist()))
        train(self, log, run)

    def recorded_simulate(self: Any, log: Dataset, users: Any, length: int) -> Any:
        simulated.append((len(seen) - 1, set(users.tolist())))
        return simulate(self, log, users, length)

    monkeypatch.setattr(FoldIn, "_train", recorded_train)
    monkeypatch.setattr(FoldIn, "_simulate", recorded_simulate)
    train_small("fold_in", data)
    assert len(seen) == FOLDS + 1
    assert seen[-1] == set(range(30))
    assert all(not users & seen[fold] for fold, users in simulated)
    assert set().union(*(users for _, users in simulated)) == set(range(30))


def test_fold_in_beats_popularity_after_one_event() -> None:
    model = train_small("fold_in", profile_log(loyalty=1.0))
    found = groups(model, new_users([3], [GROUP + 3]))
    assert (found == [[0] * 3, [1] * 3]).all()


def test_later_lifts_are_ratios_of_rates() -> None:
    """Rates are counted by hand; with many users, smoothing hardly matters."""
    rows = [[0, 1, 2]] * 6000 + [[0, 2]] * 3000 + [[1, 0, 3]] * 1000
    usual = np.array([10_000, 7000, 9000, 1000]) / 10_000
    lifts = later_lifts(dataset(Events.of(rows), 4), (1, 2, 5))
    after_one = np.array([1000 / 1000, 6000 / 9000, 9000 / 10_000, 1000 / 10_000])
    np.testing.assert_allclose(np.exp(lifts[0]), after_one / usual, rtol=0.02)
    # users with more than two events; nobody among them has not chosen items 0 and 1
    assert np.exp(lifts[1])[2] == pytest.approx(6000 / 7000 / usual[2], rel=0.02)
    assert np.exp(lifts[1])[3] == pytest.approx(1000 / 7000 / usual[3], rel=0.02)
    np.testing.assert_allclose(lifts[2], 0.0, atol=1e-6)


def test_later_lifts_ignore_repeats_and_other_actions() -> None:
    once = later_lifts(dataset(Events.of([[0, 1, 2], [1, 2]]), 3), (1,))
    again = later_lifts(dataset(Events.of([[0, 1, 2, 1, 2], [1, 2, 2]]), 3), (1,))
    np.testing.assert_array_equal(once, again)
    events = replace(Events.of([[0, 1, 2], [1, 2]]), actions=np.array([0, 1, 0, 0, 0], np.int32))
    data = replace(dataset(events, 3), actions=("buy", "view"), target=0)
    lifts = later_lifts(data, (1,))[0]
    assert lifts[1] < once[0, 1]


def test_fold_in_ranks_what_users_choose_later() -> None:
    """Item 0 is chosen first or never, and item 1 by half of the users later: it is the better second one."""
    rng = np.random.default_rng(0)
    rows = [
        [int(rng.choice([0] * 20 + list(range(10, 20)))), int(rng.integers(2, 7)), *([1] if rng.random() < 0.5 else [])]
        for _ in range(300)
    ]
    log = dataset(Events.of(rows), 20)
    lists = {}
    for later in (False, True):
        model = train_small("fold_in", log, bases=("random",), later_popularity=later)
        lists[later] = recommend(model, new_users([12]), 2).items[0].tolist()
    assert lists[False][0] == 0
    assert lists[True][0] == 1


def test_settings_of_fold_in_are_checked() -> None:
    from segue.core.config import parse
    from segue.core.registry import model_class

    kind = model_class("fold_in").Config
    cases: list[tuple[dict[str, Any], str]] = [
        ({"bases": ["gru4rec"]}, "'gru4rec' is trained in epochs"),
        ({"prior": "user_knn"}, "expected different models"),
        ({"base_settings": {"item_knn": {}}}, r"got settings of \['item_knn'\], expected some of popular, user_knn"),
        ({"bases": []}, "bases"),
        ({"bases": ["llm"]}, "model.bases: got 'llm'.*train llm with the combination as its base"),
        ({"prior": "sasrec"}, "^model.prior: 'sasrec' is trained in epochs"),
        ({"prior": "populer"}, "^model.prior: unknown model 'populer', did you mean 'popular'"),
        ({"bases": ["user_knn", "gru4rec"]}, "^model.bases: 'gru4rec' is trained in epochs"),
    ]
    for settings, message in cases:
        with pytest.raises(ValueError, match=message):
            parse(kind, settings, "model")


def test_each_base_of_a_saved_fold_in_has_its_own_features(tmp_path: Path) -> None:
    from segue.core import bundle

    log = profile_log(users=40)
    settings = {"profile_model": {"prefixes": {"zip_code": 1}}}
    model = train_small("fold_in", log, prior="profile_model", bases=("profile_clusters",), base_settings=settings)
    bundle.save(tmp_path / "model", bundle.create("fold_in", model, log))
    rows = new_users([3], [], zip_code=["10001", "20001"])
    np.testing.assert_array_equal(bundle.load(tmp_path / "model").model.score(rows), model.score(rows))


# --- queries of held-out users ---------------------------------------------------------------------------------------


def test_queries_of_users_who_are_not_in_training_carry_their_features() -> None:
    from segue.data.splits import SplitSettings, split

    data = profile_log()
    assert data.user_features is not None
    parts = split(data, SplitSettings(strategy="cold_users", seed=1))
    for held_out in (parts.valid, parts.test):
        assert held_out.queries.profile is not None
        expected = data.user_features.collect()[held_out.queries.users.tolist()]
        assert held_out.queries.profile.equals(expected)
    found = groups(train_small("profile_model", parts.train, l2=1.0), parts.test.queries, 1)[:, 0]
    assert (found == parts.test.queries.users % 2).mean() > 0.95
    known_only = split(data, SplitSettings(strategy="leave_one_out"))
    assert known_only.test.queries.profile is None
