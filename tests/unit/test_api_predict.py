"""Ranks, predicted ratings, explanations and artifacts from Python, on a log with two kinds of users."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

import segue
from segue.core.bundle import TrainedModel
from segue.core.messages import SegueWarning

USERS, ITEMS = 30, 12


@pytest.fixture(scope="module")
def log() -> pd.DataFrame:
    """Build a log in which even users rate even items 5 and odd items 1, and odd users vice versa."""
    rng = np.random.default_rng(0)
    pairs = [(user, item) for user in range(USERS) for item in rng.permutation(ITEMS)[:9]]
    users, items = np.array(pairs).T
    ratings = np.where((users + items) % 2 == 0, 5.0, 1.0)
    return pd.DataFrame({"user_id": users, "item_id": items * 100, "rating": ratings})


@pytest.fixture(scope="module")
def rater(log: pd.DataFrame) -> TrainedModel:
    return segue.train("als", log, embedding_dim=4)


@pytest.fixture(scope="module")
def ranker(log: pd.DataFrame) -> TrainedModel:
    return segue.train("ease", log[log["rating"] > 3], l2=1.0)


def test_predictions_of_pairs(rater: TrainedModel, log: pd.DataFrame) -> None:
    actual = segue.predict(rater, log[["user_id", "item_id"]])
    assert isinstance(actual, pd.DataFrame)
    assert list(actual.columns) == ["user_id", "item_id", "prediction", "notes"]
    assert actual["item_id"].tolist() == log["item_id"].tolist()
    assert np.abs(actual["prediction"] - log["rating"]).mean() < 0.7
    tuples = segue.predict(rater, [(0, 200), (0, "100")])
    assert isinstance(tuples, pl.DataFrame)
    assert tuples["prediction"][0] > 3 > tuples["prediction"][1]


def test_predictions_for_unknown_ids(rater: TrainedModel) -> None:
    with pytest.warns(SegueWarning, match="users not in training: '77'; items not in training: '5'") as caught:
        actual = segue.predict(rater, pl.DataFrame({"user_id": [0, 77, 0], "item_id": [200, 200, 5]}))
    assert len(caught) == 1
    assert 1 <= actual["prediction"][1] <= 5
    assert actual["prediction"][2] is None
    assert actual["notes"].to_list() == [
        None,
        "unknown user: predicted as for a new user",
        "unknown item: no prediction",
    ]


def test_models_without_rating_predictions_raise(ranker: TrainedModel) -> None:
    with pytest.raises(ValueError, match="'ease' as it is set predicts no ratings; train a rating model"):
        segue.predict(ranker, [(0, 200)])
    with pytest.raises(ValueError, match="pairs=: no column item_id"):
        segue.predict(segue.train("als", pl.DataFrame({"user_id": [0, 1], "item_id": [0, 1], "rating": [1.0, 2.0]})),
                      pl.DataFrame({"user_id": [1]}))  # fmt: skip


def test_rank_orders_the_given_items(ranker: TrainedModel) -> None:
    actual = segue.rank(ranker, 0, items=[100, 200, 300, "400"])
    assert actual.columns[:3] == ["item_id", "rank", "score"]
    assert actual["item_id"].dtype == pl.Int64
    assert set(actual["item_id"][:2]) == {200, 400}
    assert actual["score"].is_sorted(descending=True)
    scores = dict(segue.recommend(ranker, 0, k=ITEMS, exclude_seen=False).select("item_id", "score").iter_rows())
    assert dict(actual.select("item_id", "score").iter_rows()) == pytest.approx(
        {i: scores[i] for i in (100, 200, 300, 400)}
    )
    assert segue.rank(ranker, history=[200, 400], items=[100, 600])["item_id"].to_list() == [600, 100]
    with pytest.warns(SegueWarning, match="items=: items not in the catalog: '7'"):
        assert len(segue.rank(ranker, 0, items=[100, 7])) == 1
    with pytest.raises(ValueError, match="expected one user"):
        segue.rank(ranker, [0, 1], items=[100])


def test_explain_attributes_scores_to_the_history(ranker: TrainedModel) -> None:
    why = segue.explain(ranker, history=[200, 400, 300], item=600)
    assert why.is_recommended
    assert why.rank == 1
    assert why.attributions.columns == ["item_id", "title", "contribution"]
    contributions = dict(why.attributions.select("item_id", "contribution").iter_rows())
    assert min(contributions[200], contributions[400]) > contributions[300]
    assert why.score == pytest.approx(sum(contributions.values()), rel=1e-4)  # linear in the history
    assert "Explanation of '600'" in repr(why)
    assert "600" in why._repr_html_()
    seen = segue.explain(ranker, history=[200, 400], item=200)
    assert not seen.is_recommended
    assert "seen" in seen.rules
    with pytest.raises(ValueError, match="item=: '5' is not in the catalog"):
        segue.explain(ranker, 0, item=5)


def test_explain_reports_a_filter(log: pd.DataFrame) -> None:
    items = pl.DataFrame(
        {"item_id": [code * 100 for code in range(ITEMS)], "year": [1980 + code for code in range(ITEMS)]}
    )
    model = segue.train("popular", segue.load(log, items=items))
    why = segue.explain(model, history=[100], item=200, filter={"year": {"min": 1990}})
    assert not why.is_recommended
    assert "filter" in why.rules


def test_models_are_described(rater: TrainedModel, log: pd.DataFrame) -> None:
    assert "'als'" in repr(rater)
    assert "embedding_dim=4" in repr(rater)
    assert "30 users, 12 items" in repr(rater)
    assert rater.training_history
    assert "<code>" in rater._repr_html_()
    data = segue.load(log)
    assert "30 users" in repr(data)
    assert "Split(" in repr(segue.split(data))


def test_export_builds_an_artifact(ranker: TrainedModel, tmp_path: Path) -> None:
    from segue.serving.artifacts.artifact import load_artifact

    folder = segue.export(ranker, tmp_path / "ease-1")
    actual = load_artifact(folder)
    assert actual.name == "ease-1"
    assert actual.histories is not None
    segue.save(ranker, tmp_path / "saved")
    assert load_artifact(segue.export(tmp_path / "saved", tmp_path / "two")).version == actual.version


def test_the_public_names() -> None:
    assert set(segue.__all__) <= set(dir(segue))
    for name in segue.__all__:
        assert getattr(segue, name).__doc__
    assert "sasrec" in segue.models.keys()  # noqa: SIM118 - a module, not a mapping
    assert issubclass(segue.SegueWarning, UserWarning)
