"""The content model on catalogs with known similarities."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from starlette.testclient import TestClient

import segue
from segue.cli import main
from segue.core.features import encode_features, infer_features
from segue.core.model import describe_fallbacks, explain_features
from segue.core.recommend import recommend
from segue.core.types import Dataset, Events, Queries
from segue.serving.app import create_app
from segue.serving.artifacts.artifact import build_artifact
from segue.serving.server import build_service
from segue.serving.settings import ServingSettings
from segue.solvers.profiles.feature_blocks import FeatureBlocks
from segue.testing import dataset, train_small

ITEMS_PER_GROUP, GROUPS = 6, 4
N_ITEMS = ITEMS_PER_GROUP * GROUPS


def catalog(**columns: Any) -> pl.DataFrame:
    size = len(next(iter(columns.values())))
    return pl.DataFrame({"id": [f"i{code}" for code in range(size)], **columns})


def similarity(values: list[Any]) -> Any:
    """Return the inner products of the blocks of one feature."""
    table = catalog(feature=values)
    features, _ = infer_features(table)
    encoded = encode_features(features, table)
    block: Any
    (block,) = FeatureBlocks.fit(features, encoded).encode(encoded)
    rows = block.toarray() if hasattr(block, "toarray") else block
    return rows @ rows.T


def grouped_log(users: int = 120, seed: int = 0) -> Dataset:
    """Create a log in which each user has items of one group; the last item of each group has no event.

    The feature ``topic`` tells the group, ``noise`` and ``numbers`` tell nothing.
    """
    rng = np.random.default_rng(seed)
    rows = [
        (rng.permutation(ITEMS_PER_GROUP - 1)[:3] + ITEMS_PER_GROUP * (user % GROUPS)).tolist() for user in range(users)
    ]
    groups = np.arange(N_ITEMS) // ITEMS_PER_GROUP
    table = catalog(
        topic=[[f"topic {group}", f"person {group % 2}"] for group in groups],
        noise=rng.choice(["red", "green", "blue"], N_ITEMS).tolist(),
        numbers=rng.normal(size=N_ITEMS),
    )
    return replace(dataset(Events.of(rows), N_ITEMS), item_features=table.lazy())


def test_shared_rare_tags_count_more_than_common_ones() -> None:
    tags = [["common", "rare"], ["common", "rare"], ["common", "other"], ["common", "other"], ["common"], None]
    found = similarity(tags)
    common, rare = np.log(7 / 6) + 1e-3, np.log(7 / 3) + 1e-3
    lengths = common**2 + rare**2
    np.testing.assert_allclose(found[0, 2], common**2 / lengths, rtol=1e-5)
    np.testing.assert_allclose(found[0, 4], common / np.sqrt(lengths), rtol=1e-5)
    np.testing.assert_allclose(np.diag(found), [1, 1, 1, 1, 1, 0], rtol=1e-5)
    assert not found[5].any()


def test_categories_are_equal_or_not() -> None:
    np.testing.assert_allclose(similarity(["a", "a", "b", "b"]), np.kron(np.eye(2), np.ones((2, 2))), rtol=1e-5)


def test_similarity_of_numbers_decreases_with_the_items_between_them() -> None:
    numbers = [*range(1, 30), 10_000]  # an outlier is as far away as its rank
    found = similarity(numbers)[0]
    assert (np.diff(found) <= 1e-6).all()
    np.testing.assert_allclose(found[[0, -1]], [1.0, 0.0], atol=1e-5)
    assert 0.3 < found[4] < 0.99
    assert similarity([1.0, None, 2.0, 3.0])[1].tolist() == [0, 0, 0, 0]


def test_repeated_numbers_are_equal() -> None:
    found = similarity([1990] * 6 + [*range(2000, 2012)])
    np.testing.assert_allclose(found[:6, :6], 1.0, rtol=1e-5)
    assert found[0, 10] < found[0, 6] < 1.0


def test_vectors_are_compared_relative_to_the_mean_of_the_catalog() -> None:
    found = similarity([[5.0, 6.0], [5.0, 4.0], [6.0, 5.0], [4.0, 5.0], None])
    np.testing.assert_allclose(found[0, :4], [1, -1, 0, 0], atol=1e-6)
    assert not found[4].any()


def test_informative_features_get_the_greatest_weight() -> None:
    data = grouped_log()
    model: Any = train_small("content", data)
    weights = dict(zip([feature.name for feature in model.schema.item_features], model.weights_F, strict=True))
    assert weights["topic"] > 5 * max(weights["noise"], weights["numbers"], 0.1)
    assert train_small("content", data, weights="equal").weights_F.tolist() == [1, 1, 1]  # type: ignore[attr-defined]


def test_items_of_the_history_are_not_negatives() -> None:
    """Each pair of items has a person of its own, which predicts the next item."""
    rng = np.random.default_rng(0)
    pairs = rng.permuted(np.tile(np.arange(12), (60, 1)), axis=1)[:, :3]
    rows = (2 * pairs[:, :, None] + np.arange(2)).reshape(60, 6).tolist()
    table = catalog(people=[[f"person {code // 2}"] for code in range(N_ITEMS)], half=["a"] * 12 + ["b"] * 12)
    data = replace(dataset(Events.of(rows), N_ITEMS), item_features=table.lazy())
    model: Any = train_small("content", data)
    assert model.weights_F[0] > 1.0


def test_items_without_events_are_recommended_by_their_features() -> None:
    data = grouped_log()
    is_new = np.bincount(data.histories.items, minlength=N_ITEMS) == 0
    assert is_new.sum() == GROUPS
    queries = Queries.anonymous(Events.of([[ITEMS_PER_GROUP * group] for group in range(GROUPS)]))
    model = train_small("content", data)
    assert model.schema.n_unscored == 0
    best = recommend(model, queries, 1, allowed=is_new).items[:, 0]
    assert (best // ITEMS_PER_GROUP).tolist() == [0, 1, 2, 3]
    similar = model.similar(np.flatnonzero(is_new).astype(np.int32))  # type: ignore[attr-defined]
    top = np.argsort(-similar, axis=1, kind="stable")[:, :ITEMS_PER_GROUP]
    assert (top // ITEMS_PER_GROUP == np.arange(GROUPS)[:, None]).all()


def test_recent_events_count_more() -> None:
    data = grouped_log()
    queries = Queries.anonymous(Events.of([[0, 0, 6], [0, 6, 6, 0, 0]]))
    for half_life, expected in ((1.0, [1, 0]), (None, [0, 0])):
        best = recommend(train_small("content", data, half_life=half_life, features=("topic",)), queries, 1).items[:, 0]
        assert (best // ITEMS_PER_GROUP).tolist() == expected
    model: Any = train_small("content", data, half_life=1.0)
    expected_profile = (model.vectors[0] * 0.75 + model.vectors[6]) / 1.75
    np.testing.assert_allclose(model.encode(queries)[0], expected_profile, rtol=1e-5)


def test_users_without_history_have_the_mean_profile() -> None:
    data = grouped_log()
    model: Any = train_small("content", data)
    profiles = model.encode(Queries.anonymous(data.histories))
    empty = model.encode(Queries.anonymous(Events.of([[]])))
    np.testing.assert_allclose(empty[0], profiles.mean(axis=0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("embedding_dim", [2, 256])
def test_contributions_of_features_sum_to_the_score(embedding_dim: int) -> None:
    data = grouped_log()
    model: Any = train_small("content", data, embedding_dim=embedding_dim)
    queries = Queries.anonymous(Events.of([[0, 7]]))
    for item in (1, 5, 8, 23):
        name, terms = explain_features(model, queries, item)
        assert name == "score"
        assert list(terms) == (["numbers", "topic", "noise"] if embedding_dim == 256 else ["numbers", "topic, noise"])
        assert sum(terms.values()) == pytest.approx(model.score(queries)[0, item], abs=1e-5)
    if embedding_dim == 256:
        only: Any = train_small("content", data, features=("topic",), weights="equal", half_life=None)
        assert explain_features(only, Queries.anonymous(Events.of([[0]])), 5)[1]["topic"] == pytest.approx(
            1.0, abs=1e-5
        )
        weights = dict(zip((one.name for one in model.schema.item_features), model.weights_F, strict=True))
        assert explain_features(model, Queries.anonymous(Events.of([[0]])), 5)[1]["topic"] == pytest.approx(
            weights["topic"], rel=1e-4
        )
    assert explain_features(train_small("popular", data), queries, 0) == ("score", {})


def test_explanations_name_the_contributions_of_features() -> None:
    model = segue.train("content", grouped_log())
    found = segue.explain(model, item="i5", history=["i0"])
    assert any(text.startswith("its score of ") and "topic (+" in text for text in found.reasons), found.reasons


def without_features(data: Dataset, *codes: int) -> Dataset:
    assert data.item_features is not None
    is_empty = pl.col("id").is_in([f"i{code}" for code in codes])
    table = data.item_features.with_columns(
        pl.when(~is_empty).then(pl.col(name)) for name in ("topic", "noise", "numbers")
    )
    return replace(data, item_features=table)


def test_histories_without_features_are_like_empty_ones_and_reported() -> None:
    data = without_features(grouped_log(), 0, 1)
    model: Any = train_small("content", data)
    queries = Queries.anonymous(Events.of([[], [0, 1], [0, 2], [2]]))
    scores = model.score(queries)
    assert scores[0].any()
    np.testing.assert_array_equal(scores[1], scores[0])
    assert not np.array_equal(scores[2], scores[0])
    assert describe_fallbacks(model, queries) == {1: "no item of the history has features: ranked as without a history"}
    assert describe_fallbacks(train_small("popular", data), queries) == {}


def test_fallbacks_are_noted_in_python_and_over_rest(tmp_path: Path) -> None:
    data = without_features(grouped_log(), 0, 1)
    model = segue.train("content", data)
    table = segue.recommend(model, histories=[["i0"], ["i2"]], k=2)
    note = "no item of the history has features: ranked as without a history"
    assert table["notes"].to_list() == [note, note, None, None]
    build_artifact("content", model, data.histories, tmp_path / "model", engine="native")
    service = build_service([tmp_path / "model"], "memory:", None, ServingSettings(deadline_ms=60_000))
    with TestClient(create_app(service)) as client:
        for history, notes in ((["i0"], [note]), (["i2"], []), ([], [])):
            body = {"history": history, "k": 2}
            assert client.post("/v1/recommend", json=body).json()["notes"] == notes
            found = client.post("/v1/explain", json={**body, "item": "i3"}).json()["reasons"]
            assert (note in [one["text"] for one in found]) == bool(notes)


@pytest.mark.parametrize("embedding_dim", [2, 256])
def test_new_items_are_encoded_like_those_of_the_catalog(embedding_dim: int) -> None:
    data = grouped_log()
    assert data.item_features is not None
    table = data.item_features.collect()
    model: Any = train_small("content", data, embedding_dim=embedding_dim)
    np.testing.assert_allclose(model.encode_items(table), model.vectors, rtol=1e-5, atol=1e-6)
    new = pl.DataFrame({"id": ["new"], "topic": [["topic 2", "unknown"]]})
    vector = model.encode_items(new)
    if embedding_dim == 256:
        assert (model.vectors @ vector[0]).argmax() // ITEMS_PER_GROUP == 2
    assert model.encode_items(pl.DataFrame({"id": ["new"]})).tolist() == [[0.0] * model.vectors.shape[1]]


def test_projection_keeps_similarities_as_well_as_the_best_of_its_rank() -> None:
    data = grouped_log()
    exact: Any = train_small("content", data, features=("topic",), embedding_dim=256)
    assert exact.vectors.shape == (N_ITEMS, 6)
    projected: Any = train_small("content", data, features=("topic",), embedding_dim=3)
    lengths = np.linalg.svd(exact.vectors, compute_uv=False)
    error = np.linalg.norm(exact.vectors @ exact.vectors.T - projected.vectors @ projected.vectors.T)
    np.testing.assert_allclose(error, np.linalg.norm(lengths[3:] ** 2), rtol=1e-3)


def test_feature_settings_are_checked() -> None:
    data = grouped_log()
    with pytest.raises(ValueError, match=r"content\.features: world has no item feature 'topics', did you mean 'topi"):
        train_small("content", data, features=("topics",))
    table = data.item_features.collect().with_columns(constant=1.0)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="'constant' is not usable as a feature: constant column"):
        train_small("content", replace(data, item_features=table.lazy()), features=("constant",))
    with pytest.raises(ValueError, match=r"content: compares item features, .* none that is usable \(constant: const"):
        train_small("content", replace(data, item_features=table.select("id", "constant").lazy()))


def test_features_that_predict_nothing_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    table = catalog(side=["left", "right"] * 12, half=["first"] * 12 + ["second"] * 12)
    rows = [[code, 23 - code] for code in range(N_ITEMS)] * 5  # the next item always differs in both features
    data = replace(dataset(Events.of(rows), N_ITEMS), item_features=table.lazy())
    model: Any = train_small("content", data)
    assert "no feature predicts the next items" in caplog.text
    assert model.weights_F.tolist() == [1, 1]


NOTE = "no item of the history has features: ranked as without a history"
INNER = f"inner model 'content': {NOTE}"
WRAPPERS: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "weighted": ("hybrid", {"members": ["content", "popular"], "weights": [0.5, 0.5]}, {"i0": INNER, "i0,i1": INNER}),
    "without weight": ("hybrid", {"members": ["content", "popular"], "weights": [0.0, 1.0]}, {}),
    "first": (
        "hybrid",
        {"members": ["content", "popular"], "method": "switching", "switch_at": 1},
        {"i0": INNER, "i0,i1": INNER},
    ),
    "second": ("hybrid", {"members": ["popular", "content"], "method": "switching", "switch_at": 1}, {}),
    "by length": (
        "hybrid",
        {"members": ["popular", "content"], "method": "switching", "switch_at": 2},
        {"i0": INNER},
    ),
    "exploration": ("exploration", {"base": "content"}, {"i0": INNER, "i0,i1": INNER}),
    "llm": (
        "llm",
        {"base": "hybrid", "base_settings": {"members": ["content", "popular"], "weights": [0.5, 0.5]}},
        {"i0": INNER, "i0,i1": INNER},
    ),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_fallbacks_of_inner_models_are_noted_for_the_queries_that_they_score(name: str) -> None:
    key, settings, expected = WRAPPERS[name]
    model = segue.train(key, without_features(grouped_log(), 0, 1), recipe="none", **settings)
    histories = ["i0", "i2", "i0,i1", ""]
    rows = [[item for item in one.split(",") if item] for one in histories]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = segue.recommend(model, histories=rows, k=1)
    notes = [str(note or "") for note in table["notes"]]
    for history, note in zip(histories, notes, strict=True):
        assert [text for text in note.split("; ") if "features" in text] == [
            expected[one] for one in (history,) if one in expected
        ]


@pytest.mark.parametrize("name", ["content", "hybrid"])
def test_rank_warns_of_fallbacks_as_recommend_notes_them(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = without_features(grouped_log(), 0, 1)
    settings: dict[str, Any] = {"members": ["content", "popular"], "weights": [0.5, 0.5]} if name == "hybrid" else {}
    model, note = segue.train(name, data, recipe="none", **settings), INNER if name == "hybrid" else NOTE
    with pytest.warns(segue.SegueWarning) as found:
        segue.rank(model, history=["i0"], items=["i3", "i4"])
    assert [str(one.message) for one in found] == [note]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segue.rank(model, history=["i2"], items=["i3", "i4"])
    segue.save(model, tmp_path / "saved")
    for history, notes in (("i0", [note]), ("i2", [])):
        with pytest.raises(SystemExit) as status:
            main(["rank", str(tmp_path / "saved"), "--history", history, "--item", "i3,i4", "--json"])
        assert not status.value.code
        assert json.loads(capsys.readouterr().out)["notes"] == notes
    build_artifact(name, model, data.histories, tmp_path / "model", engine="native")
    service = build_service([tmp_path / "model"], "memory:", None, ServingSettings(deadline_ms=60_000))
    with TestClient(create_app(service)) as client:
        for items, notes in ((["i0"], [note]), (["i2"], [])):
            body = {"history": items, "allow": ["i3", "i4"]}
            found = client.post("/v1/recommend", json=body).json()["notes"]
            assert [text for text in found if "features" in text] == notes
