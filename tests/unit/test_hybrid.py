"""Combinations of models."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from segue.core import bundle
from segue.core.config import parse
from segue.core.run import Run
from segue.core.types import Dataset, Events, Queries, Scores, Split
from segue.data.splits import SplitSettings, split
from segue.evaluation.evaluate import evaluate, make_validator
from segue.models.hybrid.hybrid import N_NEGATIVES, Hybrid, _ranks
from segue.solvers.logistic.conditional_logit import fit_conditional_logit, sample_alternatives
from segue.testing import dataset, with_features
from segue.testing.training import train_small
from segue.training.train import Training, train
from tests.serving.world import shop


@pytest.fixture(scope="module")
def data() -> Dataset:
    rng = np.random.default_rng(3)
    rows = [(rng.permutation(12)[: rng.integers(4, 10)] + 12 * (user % 2)).tolist() for user in range(300)]
    return dataset(Events.of(rows), 24)


@pytest.fixture(scope="module")
def parts(data: Dataset) -> Split:
    return split(data, SplitSettings())


def queries(data: Dataset) -> Queries:
    history = data.histories.take(np.arange(10))
    return Queries.of_users(np.arange(10, dtype=np.int32), history)


def zscores(scores_NI: Scores) -> Scores:
    normalized: Scores = (scores_NI - scores_NI.mean(1, keepdims=True)) / scores_NI.std(1, keepdims=True)
    return normalized


def fit(data: Dataset, validate: Any = None, folder: Path | None = None, **settings: Any) -> Hybrid:
    model = train("hybrid", settings, Training(), data, Run(0, folder), validate)
    assert isinstance(model, Hybrid)
    return model


def test_members_are_trained_as_if_alone(data: Dataset) -> None:
    settings = {"gru4rec": {"embedding_dim": 8, "epochs": 1, "batch_size": 16}, "ease": {"l2": 3.0}}
    hybrid = fit(data, members=["gru4rec", "ease"], settings=settings)
    alone = [
        train("gru4rec", {"embedding_dim": 8}, Training(epochs=1, batch_size=16), data, Run(0)),
        train("ease", {"l2": 3.0}, Training(), data, Run(0)),
    ]
    for member, expected in zip(hybrid.members, alone, strict=True):
        np.testing.assert_array_equal(member.score(queries(data)), expected.score(queries(data)))


def test_weighted_scores_are_sums_of_normalized_ones(data: Dataset) -> None:
    ease, knn = (train(key, {}, Training(), data, Run(0)).score(queries(data)) for key in ("ease", "item_knn"))
    scores = fit(data, members=["ease", "item_knn"], weights=[3, 1]).score(queries(data))
    np.testing.assert_allclose(scores, 0.75 * zscores(ease) + 0.25 * zscores(knn), atol=1e-5)
    scores = fit(data, members=["ease", "item_knn"], weights=[0, 1], normalization="minmax").score(queries(data))
    low, high = knn.min(1, keepdims=True), knn.max(1, keepdims=True)
    np.testing.assert_allclose(scores, (knn - low) / (high - low), atol=1e-6)


def test_reciprocal_rank_fusion_is_that_of_the_paper(data: Dataset) -> None:
    members = [train(key, {}, Training(), data, Run(0)).score(queries(data)) for key in ("ease", "popular")]
    found = fit(data, members=["ease", "popular"], method="rrf", weights=[1, 1]).score(queries(data))
    for row in range(len(found)):
        for item in range(data.n_items):
            # the mean rank of items with equal scores
            ranks = [
                (one[row] > one[row, item]).sum() + ((one[row] == one[row, item]).sum() + 1) / 2 for one in members
            ]
            assert found[row, item] == pytest.approx(sum(0.5 / (60 + rank) for rank in ranks), rel=1e-5)


@given(st.lists(st.lists(st.integers(0, 4), min_size=7, max_size=7), min_size=1, max_size=5))
def test_equal_scores_have_their_mean_rank(rows: list[list[int]]) -> None:
    scores = np.array(rows, np.float32)
    np.testing.assert_allclose(_ranks(scores), rankdata(-scores, axis=1))


def test_switching_depends_on_the_history(data: Dataset) -> None:
    model = fit(data, members=["ease", "popular"], method="switching", switch_at=3)
    ease, popular = model.members
    rows = Queries.anonymous(Events.of([[0, 1], [0, 1, 2], []]))
    expected = np.stack([popular.score(rows)[0], ease.score(rows)[1], popular.score(rows)[2]])
    np.testing.assert_array_equal(model.score(rows), expected)


def test_switching_depends_on_the_item(data: Dataset) -> None:
    events = np.bincount(data.histories.items, minlength=data.n_items)
    threshold = int(np.median(events))
    settings = {"method": "switching", "switch_by": "item", "switch_at": threshold}
    model = fit(data, members=["ease", "popular"], **settings)
    ease, popular = (zscores(member.score(queries(data))) for member in model.members)
    np.testing.assert_allclose(model.score(queries(data)), np.where(events >= threshold, ease, popular), atol=1e-5)


@pytest.mark.parametrize("method", ["weighted", "rrf"])
def test_weights_are_chosen_on_validation(parts: Split, method: str) -> None:
    """A member that knows nothing gets little weight, and validation is at least that of the best member."""
    validate = make_validator(parts.valid)
    model = fit(parts.train, validate, members=["random", "ease"], method=method)
    assert model.weights_M[1] > 0.6
    assert model.weights_M.sum() == pytest.approx(1)
    single = [validate(member)["ndcg@10"] for member in model.members]
    assert validate(model)["ndcg@10"] >= max(single) - 1e-9
    other = fit(
        parts.train, lambda model: {"other": -validate(model)["ndcg@10"]}, members=["random", "ease"], method=method
    )
    assert other.weights_M[1] < model.weights_M[1]  # the metric decides


def test_small_weights_are_tried(data: Dataset) -> None:
    """The best combination may lie near the best member, where equal parts are worse than the member alone."""

    def validate(model: Any) -> dict[str, float]:
        weights = model.weights_M / model.weights_M.max() if isinstance(model, Hybrid) else np.eye(3)[0]
        return {"ndcg@10": 1 - abs(weights[1] - 0.05) - abs(weights[2] - 0.2) - (weights[0] < 1)}

    model = fit(data, validate, members=["ease", "popular", "item_knn"])
    np.testing.assert_allclose(model.weights_M, np.array([1, 0.05, 0.2]) / 1.25)


def test_the_threshold_is_chosen_on_validation(data: Dataset) -> None:
    thresholds: list[int] = []

    def validate(model: Any) -> dict[str, float]:
        thresholds.append(model.switch_at)
        return {"ndcg@10": -abs(model.switch_at - 10)}

    model = fit(data, validate, members=["ease", "popular"], method="switching")
    assert model.switch_at == 10
    assert len(set(thresholds)) == 8
    assert fit(data, members=["ease", "popular"], method="switching").switch_at == 5


def test_validation_does_not_score_the_members_again(parts: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    from segue.models.neighbors.ease import EASE

    calls = []
    score = EASE.score
    monkeypatch.setattr(EASE, "score", lambda self, *arguments: (calls.append(1), score(self, *arguments))[1])
    validate = make_validator(parts.valid)
    model = fit(parts.train, validate, members=["ease", "item_knn", "popular"])
    assert 0 < model.weights_M[0] < 1 or model.weights_M.max() == 1
    n_blocks = 1
    assert len(calls) <= 2 * n_blocks  # once while weights are chosen, once for the last validation


def test_stacking_learns_which_member_to_trust(data: Dataset, parts: Split) -> None:
    model = fit(parts.train, members=["random", "ease"], method="stacked")
    combined, (random, ease) = model.score(queries(data)), (one.score(queries(data)) for one in model.members)
    correlations = [
        np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(combined, one, strict=True)]) for one in (random, ease)
    ]
    assert correlations[1] > 0.9 > abs(correlations[0]) * 3
    assert evaluate(model, parts.test)["ndcg@10"].mean > 0.9 * evaluate(model.members[1], parts.test)["ndcg@10"].mean
    # the members of the final model are trained on all events
    expected = train("ease", {}, Training(), parts.train, Run(0)).score(queries(data))
    np.testing.assert_array_equal(model.members[1].score(queries(data)), expected)


def test_stacking_learns_on_validation_where_there_is_one(parts: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    from segue.models.neighbors.ease import EASE

    trainings = []
    original = EASE.fit
    monkeypatch.setattr(
        EASE, "fit", lambda self, train, *others: (trainings.append(train), original(self, train, *others))[1]
    )
    validate = make_validator(parts.valid)
    model = fit(parts.train, validate, members=["random", "ease"], method="stacked")
    assert [train.histories.size for train in trainings] == [parts.train.histories.size]  # once, with all events
    assert validate(model)["ndcg@10"] > 0.95 * validate(model.members[1])["ndcg@10"]
    fewer = replace(
        parts.valid, queries=parts.valid.queries.take(np.arange(9)), targets=parts.valid.targets.take(np.arange(9))
    )
    other = fit(parts.train, make_validator(fewer), members=["random", "ease"], method="stacked")
    assert not np.allclose(other.coefficients_F, model.coefficients_F)


def test_examples_of_stacking_are_unseen_items() -> None:
    rng = np.random.default_rng(0)
    histories = Events.of([[0, 1, 2], [3, 4]])
    scores = [rng.normal(size=(2, 300)).astype(np.float32) for _ in range(2)]
    targets = np.array([10, 20], np.int32)
    is_eligible = np.arange(300) < 290
    items, log_weights = sample_alternatives(
        scores, Queries.anonymous(histories), targets, is_eligible, N_NEGATIVES, rng
    )
    is_candidate = log_weights > -np.inf
    assert (log_weights[:, :51] == 0).all()
    np.testing.assert_allclose(np.exp(log_weights).sum(1), [290 - 3, 290 - 2])  # all unseen eligible items
    assert (items[:, 0] == targets).all()
    assert is_candidate[:, :51].all()
    best = np.argsort(-(scores[0] + scores[1]), axis=1)
    for row, seen in enumerate(([0, 1, 2], [3, 4])):
        chosen = items[row][is_candidate[row]]
        assert not set(chosen[1:].tolist()) & {*seen, int(targets[row])}
        expected = [item for item in best[row] if item < 290 and item not in seen and item != targets[row]][:50]
        assert set(chosen[1:51].tolist()) == set(expected)
        assert not set(chosen[51:].tolist()) & set(expected)


def test_items_that_a_member_cannot_score_are_its_lowest() -> None:
    """Of the items without events, the member without features knows nothing."""
    data = shop()
    rows = [row[row < 35].tolist() for row in np.split(data.histories.items, data.histories.offsets[1:-1])]
    header = {"counts": {"items_without_events": 5}}
    cold = replace(data, histories=Events.of(rows), header=header)
    model = fit(cold, members=["ease", "content"])
    scores = model._normalize(0, queries(cold))
    assert (scores[:, 35:] == scores.min(1, keepdims=True)).all()
    assert model.schema.n_unscored == 0
    assert fit(cold, members=["ease", "popular"]).schema.n_unscored == 5


def groups_with_new_items() -> Dataset:
    """Create users who take items of one of two groups; the last two items of each group are new.

    Items 0 to 9 are warm and in group 0, 10 to 19 warm and in group 1; 20 and 21 are new and in group 0, 22 and 23 in
    group 1.
    """
    rng = np.random.default_rng(1)
    chances = 0.7 ** np.arange(10)
    chances /= chances.sum()
    rows = [(rng.choice(10, rng.integers(3, 6), False, chances) + 10 * (user % 2)).tolist() for user in range(120)]
    groups = [0] * 10 + [1] * 10 + [0, 0, 1, 1]
    data = with_features(dataset(Events.of(rows), 24), groups)
    return replace(data, header={"counts": {"items_without_events": 4}})


@pytest.mark.parametrize("members", [["ease", "content"], ["content", "popular"], ["content"]])
@pytest.mark.parametrize("normalization", ["zscore", "minmax"])
def test_stacking_ranks_new_items_by_the_members_that_can_score_them(members: list[str], normalization: str) -> None:
    data = groups_with_new_items()
    model = fit(data, members=members, method="stacked", normalization=normalization)
    assert model.schema.n_unscored == 0
    for histories, own, other in (([[0, 1, 2]], [20, 21], [22, 23]), ([[10, 11]], [22, 23], [20, 21])):
        scores = model.score(Queries.anonymous(Events.of(histories)))[0]
        warm_own, warm_other = np.split(scores[:20], 2) if own[0] == 20 else np.split(scores[:20], 2)[::-1]
        assert scores[own].min() > max(scores[other].max(), warm_other.max())
        assert scores[own].min() > warm_own.min(), "new items are among the warm ones of their group, not below them"


def test_new_items_of_a_stacked_model_have_the_expected_score_of_the_other_members() -> None:
    """Scores that a member cannot give are those of a regression on the members that can give them."""
    data = groups_with_new_items()
    model = fit(data, members=["ease", "content"], method="stacked")
    rng = np.random.default_rng(0)
    content_NI = rng.normal(size=(3, 24)).astype(np.float32)
    ease_NI = 2 * content_NI + 1
    ease_NI[:, 20:] = -9
    imputed_NI = model._impute_new_items([ease_NI, content_NI])[0]
    np.testing.assert_allclose(imputed_NI, 2 * content_NI + 1, rtol=1e-4, atol=1e-4)
    constant_NI = np.ones_like(content_NI)
    same_NI = model._impute_new_items([ease_NI, constant_NI])[0]
    np.testing.assert_allclose(same_NI[:, 20:], np.repeat(ease_NI[:, :20].mean(1, keepdims=True), 4, axis=1), rtol=1e-4)


def test_a_saved_hybrid_has_its_members(tmp_path: Path) -> None:
    data = shop()
    settings = {"gru4rec": {"embedding_dim": 8, "epochs": 1, "inputs": ["item_features"]}}
    model = fit(data, members=["gru4rec", "ease"], settings=settings)
    assert [bool(member.schema.item_features) for member in model.members] == [True, False]
    bundle.save(tmp_path / "model", bundle.create("hybrid", model, data))
    loaded = bundle.load(tmp_path / "model").model
    np.testing.assert_array_equal(loaded.score(queries(data)), model.score(queries(data)))


TINY = {"epochs": 1, "embedding_dim": 4, "batch_size": 16}


def unknown_years() -> Dataset:
    """Build a log with features of which some are unknown."""
    data = shop(n_users=30, n_items=20)
    assert data.item_features is not None
    table = data.item_features.collect()
    year = pl.when(pl.col("year") % 3 > 0).then("year").alias("year")
    vectors = np.random.default_rng(0).normal(size=(20, 4)).tolist()
    table = table.with_columns(year, pl.Series("text_vector", vectors), genre=pl.col("genres").list.first())
    zips = [f"{1 + user % 2}{user % 6:04d}" for user in range(30)]
    users = pl.LazyFrame({"id": data.users.ids, "zip_code": zips, "age": [20 + user for user in range(30)]})
    return replace(data, item_features=table.lazy(), user_features=users)


@pytest.mark.parametrize("members", [["two_tower"], ["fusion", "two_tower"], ["item_knn", "maml"]])
def test_members_may_read_unknown_features(members: list[str]) -> None:
    data = unknown_years()
    settings = {key: {} if key == "item_knn" else {"epochs": 1} for key in members}
    model = fit(data, members=members, settings=settings)
    assert any(not np.isfinite(one).all() for one in model.arrays().values() if one.dtype.kind == "f")
    assert np.isfinite(model.score(queries(data))).all()


def test_own_numbers_of_a_hybrid_must_be_finite(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hybrid, "choose", lambda self, validate: self.weights_M.fill(np.nan))
    monkeypatch.setattr("segue.models.hybrid.hybrid.check_restorable", lambda model: None)
    with pytest.raises(ValueError, match="array 'weights' has numbers that are not finite"):
        fit(data, lambda model: {"ndcg@10": 1.0}, members=["ease", "popular"])


PREFIXES = {"prefixes": {"zip_code": 1}}


@pytest.mark.parametrize(
    ("members", "settings"),
    [
        (
            ["fold_in", "profile_clusters"],
            {"fold_in": {"prior": "profile_model", "base_settings": {"profile_model": PREFIXES}}},
        ),
        (["transfer", "fusion"], {"transfer": TINY, "fusion": {"epochs": 1}}),
        (["fusion", "transfer"], {"transfer": TINY, "fusion": {"epochs": 1}}),
        (["content", "fusion"], {"content": {"features": ["genre"]}, "fusion": {"epochs": 1}}),
        (["profile_model", "two_tower"], {"profile_model": PREFIXES, "two_tower": TINY}),
        (["profile_clusters", "profile_model"], {"profile_model": PREFIXES}),
    ],
)
def test_each_saved_member_has_its_own_features(members: list[str], settings: Any, tmp_path: Path) -> None:
    data = unknown_years()
    model = fit(data, members=members, settings=settings)
    bundle.save(tmp_path / "model", bundle.create("hybrid", model, data))
    loaded = bundle.load(tmp_path / "model").model
    assert isinstance(loaded, Hybrid)
    assert [one.schema for one in loaded.members] == [one.schema for one in model.members]
    np.testing.assert_array_equal(loaded.score(queries(data)), model.score(queries(data)))


def test_a_hybrid_lists_the_features_of_all_members() -> None:
    data = unknown_years()
    model = fit(data, members=["profile_model", "profile_clusters"], settings={"profile_model": PREFIXES})
    zip_code = next(one for one in model.schema.user_features if one.name == "zip_code")
    assert zip_code.categories[:2] == ("1", "2")
    assert "10000" in zip_code.categories


@pytest.mark.parametrize("key", ["hybrid", "llm"])
def test_a_saved_member_needs_its_source_no_more(key: str, tmp_path: Path) -> None:
    data = unknown_years()
    source = tmp_path / "source"
    bundle.save(source, bundle.create("transfer", train_small("transfer", data, embedding_dim=4, epochs=1), data))
    values = {"source": str(source), "epochs": 1, "batch_size": 16}
    settings: dict[str, Any] = {"base": "transfer", "base_settings": values}
    if key == "hybrid":
        settings = {"members": ["content", "transfer"], "settings": {"transfer": values}}
    model = train(key, settings, Training(), data, Run(0))
    bundle.save(tmp_path / "model", bundle.create(key, model, data))
    shutil.rmtree(source)
    loaded = bundle.load(tmp_path / "model").model
    np.testing.assert_array_equal(loaded.score(queries(data)), model.score(queries(data)))
    shutil.rmtree(tmp_path / "model")
    bundle.save(source, bundle.create("transfer", train_small("transfer", data, seed=1, embedding_dim=8), data))
    restored = type(model)(model.config, model.schema)
    restored.restore(model.arrays())
    np.testing.assert_array_equal(restored.score(queries(data)), model.score(queries(data)))


def test_a_model_that_cannot_be_restored_is_an_error_of_training(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hybrid, "own_arrays", lambda self: {})
    with pytest.raises(ValueError, match=r"Hybrid: the trained model cannot be restored.*missing array 'weights'"):
        fit(data, members=["popular"])


@pytest.mark.parametrize("content", [b"[]", b"{}", b"\xff", b'{"config": {}, "schema": {"actions": 3}}'])
def test_damaged_descriptions_of_members_are_named(data: Dataset, content: bytes) -> None:
    model = fit(data, members=["popular"])
    arrays = {**model.arrays(), "members/popular": np.frombuffer(content, np.uint8)}
    with pytest.raises(ValueError, match="array 'members/popular' in the saved model: malformed"):
        Hybrid(model.config, data.schema).restore(arrays)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"members": []}, "members"),
        ({"members": ["ease", "ease"]}, "expected different models"),
        ({"members": ["ease", "hybrid"]}, "other than hybrid"),
        ({"members": ["ease", "llm"]}, "got 'llm'.*rerank the hybrid instead: llm with base=hybrid"),
        ({"members": ["ease"], "settings": {"eas": {}}}, "'eas', which is not among the members"),
        ({"members": ["ease", "popular"], "weights": [1]}, "expected one per member"),
        ({"members": ["ease", "popular"], "weights": [0, 0]}, "one is positive"),
        ({"members": ["ease"], "method": "switching"}, "switching needs 2"),
        ({"method": "switching", "weights": [1, 1]}, "weights: got"),
        ({"switch_at": 3}, "switch_at: got 3"),
        ({"method": "rrf", "normalization": "minmax"}, "normalization: got"),
    ],
)
def test_invalid_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(Hybrid.Config, settings, "model")


@pytest.mark.parametrize(
    ("members", "settings", "message"),
    [
        (["ease", "itemknn"], {}, "unknown 'itemknn', did you mean 'item_knn'"),
        (["ease", "popular"], {"ease": {"l3": 1}}, "settings.ease.l3: unknown key, did you mean 'l2'"),
        (["ease", "gru4rec"], {"gru4rec": {"epochs": 0}}, "settings.gru4rec.epochs: got 0"),
    ],
)
def test_invalid_members_are_named(data: Dataset, members: list[str], settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(data, members=members, settings=settings)


def test_members_have_checkpoints_of_their_own(data: Dataset, tmp_path: Path) -> None:
    settings = {"gru4rec": {"embedding_dim": 8, "epochs": 1}, "sasrec": {"embedding_dim": 8, "epochs": 1}}
    model = fit(data, None, tmp_path, members=["gru4rec", "sasrec"], settings=settings)
    assert {path.name for path in (tmp_path / "members").iterdir()} == {"gru4rec", "sasrec"}
    again = fit(data, None, tmp_path, members=["gru4rec", "sasrec"], settings=settings)
    np.testing.assert_array_equal(again.score(queries(data)), model.score(queries(data)))


def test_the_contract_covers_hybrid() -> None:
    assert isinstance(train_small("hybrid", dataset(Events.of([[0, 1], [1, 2]]), 3)), Hybrid)


def test_coefficients_from_sampled_alternatives_are_those_of_all_items() -> None:
    """Targets are drawn from the softmax of a known combination over many items, of which few are sampled."""
    rng = np.random.default_rng(2)
    scores = [rng.normal(size=(3_000, 2_000)).astype(np.float32) for _ in range(2)]
    logits = 1.5 * scores[0] + 0.5 * scores[1]
    targets = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1).astype(np.int32)
    queries = Queries.anonymous(Events.of([[]] * 3_000))
    items, log_weights = sample_alternatives(scores, queries, targets, np.ones(2_000, bool), N_NEGATIVES, rng)
    inputs = np.stack([np.take_along_axis(one, items.astype(np.int64), axis=1) for one in scores], axis=2)
    np.testing.assert_allclose(fit_conditional_logit(inputs.astype(float), log_weights, 0.0), [1.5, 0.5], atol=0.06)
    unweighted = np.where(log_weights > -np.inf, 0.0, -np.inf)
    assert fit_conditional_logit(inputs.astype(float), unweighted, 0.0)[0] < 1.0
