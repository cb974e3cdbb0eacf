"""Metrics beyond accuracy in Python, on the command line, in runs and in comparisons."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from command_line import call, result

import segue
from segue.core.bundle import TrainedModel
from segue.core.types import Split
from segue.evaluation.beyond_accuracy.list_metrics import known_list_metrics
from segue.experiment.inference.training_data import find_training_data

pytestmark = pytest.mark.filterwarnings("ignore::segue.core.messages.SegueWarning")

DATA = "simulated?users=60&items=150"
GENRE = "Drama"
NAMES = ["ndcg@5", "novelty@5", "coverage@5", "gini@5", "diversity:genres@5", "miscalibration:genres@5"]


@pytest.fixture(scope="module")
def parts() -> Split:
    return segue.split(segue.load(DATA))


@pytest.fixture(scope="module")
def model(parts: Split) -> TrainedModel:
    return segue.train("popular", parts, baseline="none")


def test_evaluate_takes_their_names(model: TrainedModel, parts: Split) -> None:
    found = segue.evaluate(model, parts, metrics=[*NAMES, "gap:age:ndcg@5"], by="age")
    assert list(found.estimates) == [*NAMES, "gap:age:ndcg@5"]
    is_full = found.top.lengths == 5  # one user has seen all items but one
    lists, n_users = found.top.items, np.count_nonzero(parts.train.histories.lengths)
    users = np.bincount(parts.train.histories.csr(150).indices, minlength=150)
    expected = -np.log2(np.maximum(users, 1) / n_users)[lists[is_full]].mean(axis=1)
    np.testing.assert_allclose(found.values["novelty@5"][is_full], expected)
    assert found["coverage@5"].mean == pytest.approx(len({*lists[is_full].ravel()} | {*lists[~is_full, 0]}) / 150)
    for estimate in found.estimates.values():
        assert estimate.low <= estimate.mean <= estimate.high
    means = [group["ndcg@5"].mean for group in found.group_estimates.values()]
    assert found["gap:age:ndcg@5"].mean == pytest.approx(max(means) - min(means))
    assert {"coverage@5", "novelty@5"} <= next(iter(found.group_estimates.values())).keys()


def test_lists_from_elsewhere_have_the_same_values(model: TrainedModel, parts: Split) -> None:
    by_model = segue.evaluate(model, parts, metrics=NAMES)
    by_lists = segue.evaluate(segue.recommend(model, parts.test, k=5), parts, metrics=NAMES)
    for name in NAMES[1:]:
        assert by_lists[name].mean == pytest.approx(by_model[name].mean)


def test_a_model_on_held_out_queries_alone_uses_its_own_log(model: TrainedModel, parts: Split) -> None:
    own = segue.evaluate(model, parts.test, metrics=["novelty@5"])
    assert own["novelty@5"].mean == pytest.approx(segue.evaluate(model, parts, metrics=["novelty@5"])["novelty@5"].mean)
    with pytest.raises(ValueError, match=r"metric novelty@5: needs the training events, .*evaluate on a split"):
        segue.evaluate(model.model, parts.test, metrics=["novelty@5"])


def test_what_the_data_lacks_is_an_error(model: TrainedModel, parts: Split) -> None:
    with pytest.raises(
        ValueError, match="metric diversity:genre@5: unknown item feature 'genre', did you mean 'genres'"
    ):
        segue.evaluate(model, parts, metrics=["diversity:genre@5"])
    with pytest.raises(ValueError, match="metric gap:aeg:ndcg@5: unknown 'aeg', did you mean 'age'"):
        segue.compare(["popular", "random"], parts, metrics=["gap:aeg:ndcg@5"])

    def novelty(ranks: object, k: int) -> None: ...

    with pytest.raises(ValueError, match="metrics: a function is named 'novelty@5', which is a metric of Segue"):
        segue.evaluate(model, parts, metrics=[novelty], ks=[5])  # type: ignore[list-item]


def test_features_are_matched_by_id(model: TrainedModel, parts: Split) -> None:
    """Other data numbers its items in another way."""
    log = parts.test.targets
    users, items = parts.train.users.decode(parts.test.queries.users[log.rows]), parts.train.items.decode(log.items)
    table = parts.train.item_features
    assert table is not None
    features = table.collect().rename({"id": "item_id"})
    other = segue.load(pl.DataFrame({"user_id": users, "item_id": items}), items=features)
    assert other.items.ids.to_list() != parts.train.items.ids.to_list()
    found, own = find_training_data(model, other), find_training_data(model, parts.train)
    assert found is not None
    assert own is not None
    assert found.item_events.tolist() == [items.count(item) for item in parts.train.items.ids.to_list()]
    found_genres, own_genres = found.feature("genres"), own.feature("genres")
    assert found_genres.categories == own_genres.categories
    assert (found_genres.table.toarray() == own_genres.table.toarray()).all()  # type: ignore[union-attr]


def test_compare_tests_them(parts: Split) -> None:
    settings = {"evaluation.baseline": "none"}
    found = segue.compare(["popular", "random"], parts, metrics=["gini@5", "novelty@5"], seeds=(0, 1), **settings)
    assert found.ranking == ["random", "popular"]  # a lower Gini index is better
    test = next(test for test in found.paired_tests["gini@5"])
    assert {test.first, test.second} == {"popular", "random"}
    assert (test.difference > 0) == (test.first == "random")
    assert found.tests["metric"].to_list() == ["gini@5", "novelty@5"]
    overlap = found.overlap_table(5)
    assert overlap.columns == [
        "first",
        "second",
        "jaccard",
        "jaccard_low",
        "jaccard_high",
        "rbo",
        "rbo_low",
        "rbo_high",
    ]
    pairs = [("popular", "popular"), ("popular", "random"), ("random", "random")]
    assert overlap.select("first", "second").rows() == pairs
    assert overlap["jaccard"][0] == overlap["rbo_low"][0] == 1.0
    assert overlap["jaccard"][2] < 1
    with pytest.raises(ValueError, match="k: got 6, expected 1 to 5"):
        found.overlap_table(6)


def test_queries_without_a_value_in_one_model_are_left_out(parts: Split) -> None:
    """The text of some lists may not be known."""
    from segue.experiment.compare import compare_values

    first, second = np.array([1.0, np.nan, 0.5, 0.2]), np.array([0.5, 0.7, 0.2, np.nan])
    (test,) = compare_values({"a": {"diversity@5": first}, "b": {"diversity@5": second}}, "diversity@5")
    assert test.difference == pytest.approx(0.4)
    with pytest.raises(ValueError, match="has a value in some models only"):
        compare_values({"a": {"ndcg@5": first}, "b": {"ndcg@5": second}}, "ndcg@5")


def test_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    run = tmp_path / "run"
    settings = f"evaluation.metrics=[{','.join(NAMES)},exposure:genres={GENRE}@5]"
    trained = result(capsys, "train", "popular", "--data", DATA, "--out", run, "--set", settings)
    assert set(NAMES) <= trained["intervals"].keys()
    assert json.loads((run / "metrics.json").read_text())["gini@5"] == trained["gini@5"]
    assert set(NAMES) <= set(pl.read_parquet(run / "values.parquet").columns)
    users = [group for group in trained["warmth"] if group["group"] == "warm users" or group["group"] == "hot users"]
    assert all({"coverage@5", "novelty@5"} <= group["metrics"].keys() for group in users)
    status, out, _ = call(capsys, "evaluate", run, "--metrics", "ndcg@10,novelty@10,coverage@10", "--by", "age")
    assert status == 0
    assert "Novelty@10" in out
    assert "Coverage@10" in out
    status, _, error = call(capsys, "evaluate", run, "--metrics", "noveltee@10")
    assert status != 0
    assert "did you mean 'novelty'" in error
    status, _, error = call(capsys, "train", "popular", "--data", DATA, "--set", "evaluation.metrics=[diversity:x@5]")
    assert status != 0
    assert "metric diversity:x@5: unknown item feature 'x'" in error


def test_the_command_line_compares_by_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    metrics = "evaluation.metrics=[ndcg@5,gini@5,popularity_lift@5]"
    found = result(capsys, "compare", DATA, "popular", "random", "--metric", "gini@5", "--set", metrics)
    assert found["metric"] == "gini@5"
    assert found["tests"][0]["significant"]
    page = Path(found["page"]).read_text()
    assert "Gini@5" in page
    assert "the lowest of 2 models" in page
    assert "Popularity lift@5" in page
    assert "Overlap of the lists, first 5 items" in page
    (overlap,) = found["overlaps"]["pairs"]
    assert (overlap["first"], overlap["second"]) == ("popular", "random")
    runs = [found["models"][name]["run"] for name in ("popular", "random")]
    tables = [pl.read_parquet(tmp_path / "runs" / run / "lists.parquet") for run in runs]
    assert tables[0].columns == ["user", "items"]
    pairs = zip(*(table["items"].to_list() for table in tables), strict=True)
    assert overlap["jaccard"] == pytest.approx(np.mean([len({*a} & {*b}) / len({*a, *b}) for a, b in pairs]))
    compare = ("compare", DATA, "popular", "random", "--metrics", "ndcg@5,gini@5,popularity_lift@5")
    status, out, _ = call(capsys, *compare, "--metric", "popularity_lift@5")
    assert status == 0
    assert "popular and random" in out
    (tmp_path / "runs" / runs[0] / "lists.parquet").unlink()  # as in a run of an older version
    assert result(capsys, *compare)["overlaps"] is None


def test_they_are_listed_and_described(capsys: pytest.CaptureFixture[str]) -> None:
    names = {one["name"] for one in result(capsys, "metrics")}
    assert set(known_list_metrics()) <= names
    status, out, _ = call(capsys, "metrics", "miscalibration")
    assert status == 0
    assert "Kullback-Leibler divergence" in out


def test_cross_validation_bounds_the_intervals() -> None:
    found = segue.cross_validate(["popular"], segue.load(DATA), folds=2, metrics=["coverage@5", "popularity_lift@5"])
    assert found.metrics == ("coverage@5", "popularity_lift@5")
    assert found.table["low"].to_list()[0] >= 0.0
    assert found.table["high"].to_list()[0] <= 1.0
