"""``segue.evaluate_policy`` and ``segue off-policy``: what a log has to say, refusals, and wiring."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from command_line import call, result

import segue
from segue.core.bundle import TrainedModel
from segue.evaluation.off_policy.overlap import ThinOverlapError

N = 400


def make_log(seed: int = 0) -> pl.DataFrame:
    """Return lists of one item of three: the logging policy prefers the first, the target policy the last."""
    rng = np.random.default_rng(seed)
    logging, target = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    shown = rng.choice(3, N, p=logging)
    clicks = rng.random(N) < np.array([0.1, 0.3, 0.6])[shown]
    columns = {"query": np.arange(N), "item": shown + 1, "propensity": logging[shown], "reward": clicks.astype(int)}
    return pl.DataFrame({**columns, "target": target[shown], "same": logging[shown]})


def make_candidates() -> pl.DataFrame:
    table = pl.DataFrame({"item": [1, 2, 3], "target": [0.2, 0.3, 0.5], "same": [0.5, 0.3, 0.2], "click": 0.3})
    return pl.DataFrame({"query": np.arange(N)}).join(table, how="cross")


LOG = make_log()

TWICE = pl.DataFrame(
    {
        "query": [7, 7, 8, 8],
        "item": [1, 2, 2, 2],
        "position": [1, 2, 1, 2],
        "propensity": 0.5,
        "reward": 0,
        "target": 1.0,
    }
)
"""Two lists, of which the second has an item twice."""


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    rng = np.random.default_rng(0)
    log = {"user_id": np.repeat(np.arange(30), 2), "item_id": [int(n) for _ in range(30) for n in
           rng.choice([1, 2, 3, 4], 2, replace=False, p=[0.1, 0.2, 0.3, 0.4])]}  # fmt: skip
    return segue.train("popular", pl.DataFrame(log))


def test_estimates_are_those_of_a_plain_loop() -> None:
    found = segue.evaluate_policy(LOG, "target", baseline="same", clip=2.0)
    weights = (LOG["target"] / LOG["propensity"]).to_numpy()
    rewards = LOG["reward"].to_numpy()
    assert found["ips"].mean == pytest.approx((weights * rewards).mean())
    assert found["snips"].mean == pytest.approx((weights * rewards).sum() / weights.sum())
    assert found["clipped_ips"].mean == pytest.approx((np.minimum(weights, 2) * rewards).mean())
    assert found.logged.mean == pytest.approx(rewards.mean())
    assert found.baseline_estimates["ips"] == found.logged  # the same policy
    assert found.differences["ips"].mean == pytest.approx(found["ips"].mean - rewards.mean())
    assert found.overlap["item_position"].effective_sample_size == pytest.approx(
        weights.sum() ** 2 / (weights**2).sum()
    )
    assert (found.queries, found.impressions, found.positions, found.unit) == (N, N, 1, "queries")
    alone = segue.evaluate_policy(LOG, "target", clip=2.0)
    assert (alone.baseline, alone.differences["ips"]) == ("logging policy", found.differences["ips"])
    assert "snips=" in repr(found)
    assert found.table["estimator"].to_list() == ["ips", "clipped_ips", "snips"]


def test_the_difference_of_a_policy_from_itself_is_zero() -> None:
    found = segue.evaluate_policy(LOG, "target", baseline="target").differences["snips"]
    assert (found.mean, found.low, found.high) == (0, 0, 0)


def test_given_predictions() -> None:
    log = LOG.with_columns(click=pl.lit(0.3))
    found = segue.evaluate_policy(log, "target", candidates=make_candidates(), predictions="click")
    assert found["dm"].mean == pytest.approx(0.3)
    assert np.isnan(found["dm"].low)  # resampling does not show the bias of predictions
    assert found.record()["estimates"]["dm"] == [pytest.approx(0.3), None, None]
    weights = (log["target"] / log["propensity"]).to_numpy()
    assert found["dr"].mean == pytest.approx(0.3 + (weights * (log["reward"].to_numpy() - 0.3)).mean())


def test_a_model_of_rewards_narrows_the_interval() -> None:
    options: Any = {"candidates": make_candidates(), "reward_model": "logistic_regression"}
    found = segue.evaluate_policy(LOG, "target", **options)
    truth = 0.2 * 0.1 + 0.3 * 0.3 + 0.5 * 0.6
    assert found["dm"].mean == pytest.approx(truth, abs=0.08)
    assert found["dr"].low <= truth <= found["dr"].high
    assert found["dr"].high - found["dr"].low < found["ips"].high - found["ips"].low
    other = segue.evaluate_policy(LOG, "target", **options, folds=4)
    assert other["dr"].mean != found["dr"].mean
    features = LOG.with_columns(**{"item.price": pl.col("item") * 1.5, "context.day": pl.lit("a")}, note=pl.lit("x"))
    noted = segue.evaluate_policy(features, "target", **options)
    assert noted.notes == (
        "the model of rewards does not read 'target', 'same', 'note': features have the prefixes item., user. and "
        "context.",
    )


@pytest.mark.filterwarnings("ignore:thin overlap, allowed by limits")
def test_a_model_is_a_policy(model: TrainedModel, tmp_path: Path) -> None:
    """The most popular item is 4, which the log does not have: candidates are the items of the log."""
    scores = {item: segue.rank(model, history=[], items=[item])["score"][0] for item in (1, 2, 3)}
    best = max(scores, key=lambda item: scores[item])
    is_best = (LOG["item"] == best).to_numpy()
    limits = {"min_effective_sample_size": 50}
    found = segue.evaluate_policy(LOG, model, limits=limits)
    weights = is_best / LOG["propensity"].to_numpy()
    assert found["ips"].mean == pytest.approx((weights * LOG["reward"].to_numpy()).mean())
    assert "no column of users" in found.notes[0]
    rates = np.exp(np.array(list(scores.values())) / 5)
    rates /= rates.sum()
    soft = segue.evaluate_policy(LOG, model, temperature=5.0)
    weights = rates[LOG["item"].to_numpy() - 1] / LOG["propensity"].to_numpy()
    assert soft["ips"].mean == pytest.approx((weights * LOG["reward"].to_numpy()).mean(), rel=1e-5)
    segue.save(model, tmp_path / "model")
    assert segue.evaluate_policy(LOG, tmp_path / "model", limits=limits)["ips"] == found["ips"]


@pytest.mark.filterwarnings("ignore:thin overlap, allowed by limits")
def test_seen_items_and_time(model: TrainedModel) -> None:
    """The user has had item 3 at time 50: the model shows it before, and later another one."""
    log = LOG.with_columns(user=pl.lit("u"), time=pl.lit(100))
    history = pl.DataFrame({"user_id": ["u", "u"], "item_id": [3, 4], "timestamp": [50, 150]})
    limits = {"min_effective_sample_size": 1, "min_units": 1, "max_unsupported": 0.2}
    options: Any = {"data": history, "limits": limits, "temperature": 1e6}  # all candidates alike
    after = segue.evaluate_policy(log, model, **options)
    assert after.overlap["item_position"].mean_weight.mean == pytest.approx(1, abs=0.2)
    shown = LOG["propensity"].to_numpy()
    is_third = (LOG["item"] == 3).to_numpy()
    rewards = LOG["reward"].to_numpy()
    assert after["ips"].mean == pytest.approx((np.where(is_third, 0, 1 / 2) / shown * rewards).mean(), rel=1e-4)
    expected = (1 / 3 / shown * rewards).mean()
    before = segue.evaluate_policy(log.with_columns(time=pl.lit(20)), model, **options)
    assert before["ips"].mean == pytest.approx(expected, rel=1e-4)
    seen = segue.evaluate_policy(log, model, exclude_seen=False, **options)
    assert seen["ips"].mean == pytest.approx(expected, rel=1e-4)
    assert after.unit == "users"


@pytest.mark.filterwarnings("ignore:thin overlap, allowed by limits")
def test_queries_before_the_end_of_the_training_log_are_noted() -> None:
    """A model that was trained on later events may know the clicks."""
    rows = [(f"u{user}", item, 100 + item) for user in range(8) for item in (1, 2, 3, 4)]
    trained = segue.train("popular", segue.load(pl.DataFrame(rows, ["user_id", "item_id", "timestamp"], orient="row")))
    limits = {"min_effective_sample_size": 1, "min_units": 1}
    log = LOG.with_columns(user=pl.lit("u1"), time=pl.lit(104))
    options: Any = {"limits": limits, "temperature": 1e6, "exclude_seen": False}
    early = segue.evaluate_policy(log, trained, **options)
    assert any(f"{len(LOG):,} of {len(LOG):,} queries are not later than the last event" in one for one in early.notes)
    late = segue.evaluate_policy(log.with_columns(time=pl.lit(105)), trained, **options)
    assert not any("not later" in note for note in late.notes)


def test_thin_overlap_is_refused_with_its_numbers() -> None:
    few = LOG.head(60)
    with pytest.raises(ThinOverlapError, match=r"policy=: the log says too little about column 'target': effective"):
        segue.evaluate_policy(few, "target")
    with pytest.warns(segue.SegueWarning, match="thin overlap, allowed by limits: column 'target': effective sample"):
        found = segue.evaluate_policy(few, "target", limits={"min_effective_sample_size": 10})
    assert len(found.flags) == 1
    assert "of 60 queries, expected at least 100" in found.flags[0]
    rare = LOG.with_columns(target=pl.when(pl.col("item") == 3).then(0.5).otherwise(0.0))
    with pytest.raises(ThinOverlapError, match="all but about"):
        segue.evaluate_policy(rare, "target")
    with pytest.raises(ThinOverlapError, match="baseline=: the log says too little"):
        segue.evaluate_policy(LOG.with_columns(other=rare["target"]), "target", baseline="other")
    wrong = LOG.with_columns(propensity=pl.col("propensity") / 2)
    with pytest.raises(ThinOverlapError, match="expected about 1: the propensities are too small"):
        segue.evaluate_policy(wrong, "target")
    assert "dm" in segue.evaluate_policy(
        few.with_columns(click=0.3), "target", candidates=make_candidates(), predictions="click", estimators=["dm"]
    )  # reads no weights


def spoil(column: str, value: Any) -> pl.DataFrame:
    """Replace the cell of the third row."""
    values = LOG[column].to_list()
    values[2] = value
    return LOG.with_columns(pl.Series(column, values, strict=False))


FAULTS = {
    "zero": ("propensity", 0.0, "column 'propensity': got 0, expected a probability above 0, up to 1"),
    "large": ("propensity", 1.5, "column 'propensity': got 1.5, expected a probability above 0, up to 1"),
    "negative": ("propensity", -0.1, "column 'propensity': got -0.1, expected a probability above 0"),
    "missing": ("propensity", None, "column 'propensity': got no value, expected a probability"),
    "no reward": ("reward", None, "column 'reward': got no value, expected a number"),
    "no item": ("item", None, "column 'item': got no value, expected an id"),
    "target": ("target", 1.2, "column 'target': got 1.2, expected a probability from 0 to 1"),
    "twice": ("query", 1, "column 'query': got a second impression of query 1, expected one, or a column of positions"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_unusable_cells_are_errors_in_every_path(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    column, value, message = FAULTS[kind]
    log = spoil(column, value)
    log.write_csv(tmp_path / "log.csv")
    log.write_parquet(tmp_path / "log.parquet")
    with closing(sqlite3.connect(tmp_path / "log.db")) as connection:
        connection.execute(f"CREATE TABLE log ({', '.join(log.columns)})")
        connection.executemany(f"INSERT INTO log VALUES ({', '.join('?' * log.width)})", log.rows())
        connection.commit()
    paths = {"log.csv": "line 4", "log.parquet": "row 3"}
    for name, row in paths.items():
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - checked below
            segue.evaluate_policy(tmp_path / name, "target")
        assert f"{name}, {row}, {message}" in str(caught.value)
        status, _, err = call(capsys, "off-policy", tmp_path / name, "--policy", "target")
        assert status == 2
        assert f"{name}, {row}, {message}" in err
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        segue.evaluate_policy(log, "target")
    assert f"row 3, {message}" in str(caught.value)
    options = ("--query", "SELECT * FROM log")
    status, _, err = call(capsys, "off-policy", f"sqlite:///{tmp_path / 'log.db'}", "--policy", "target", *options)
    assert (status, f"row 3, {message}" in err) == (2, True), err


def test_infinite_and_textual_propensities(tmp_path: Path) -> None:
    for cell in ("inf", "nan", "often"):
        text = LOG.head(5).write_csv().replace("0.3", cell, 1)
        (tmp_path / "log.csv").write_text(text)
        with pytest.raises(ValueError, match="propensity"):
            segue.evaluate_policy(tmp_path / "log.csv", "target")


@pytest.mark.parametrize(
    ("log", "options", "message"),
    [
        (LOG.drop("propensity"), {}, "no column 'propensity', expected the propensity of each impression"),
        (LOG.drop("query").with_columns(position=1), {}, "positions, but no column 'query'"),
        (LOG.with_columns(position=0), {}, "column 'position': got 0, expected a position"),
        (LOG.with_columns(query=1, position=2), {}, "got a second impression at position 2 of query 1"),
        (TWICE, {}, "row 4, column 'item': got '2' at position 2, but it is at position 1 of the same query too"),
        (LOG, {"columns": {"rewart": "reward"}}, "unknown role 'rewart', did you mean 'reward'"),
        (LOG, {"columns": {"reward": "click"}}, "has no column 'click' for 'reward'"),
        (LOG, {"columns": {"reward": "item", "item": "item"}}, "expected a column of its own"),
        (LOG, {"estimators": ["ipsss"]}, "unknown 'ipsss', did you mean 'ips'"),
        (LOG, {"estimators": ["dm"]}, "dm and dr need reward_model= or predictions="),
        (LOG, {"estimators": ["ips"], "reward_model": "logistic_regression"}, "and only they read them"),
        (LOG, {"estimators": ["pbm"]}, "pbm needs position_propensities="),
        (LOG, {"position_propensities": [1.0]}, "has no columns propensity_1, propensity_2, ..."),
        (LOG, {"temperature": 1.0}, "temperature=: has no effect here"),
        (LOG, {"exclude_seen": False}, "exclude_seen=: has no effect here"),
        (LOG, {"clip": 2.0, "estimators": ["ips"]}, "clip=: has no effect here"),
        (LOG, {"folds": 4}, "folds=: has no effect here"),
        (LOG, {"candidates": make_candidates()}, "candidates=: has no effect here"),
        (LOG, {"clip": 0.0}, "clip=: got 0, expected a finite number above 0"),
        (LOG, {"limits": {"max_weight_share": 2}}, "limits.max_weight_share: got 2"),
        (LOG, {"limits": {"min_units": True}}, "limits.min_units: got True: expected a number"),
        (LOG.with_columns(user=pl.col("query") % 7, item="query", query=pl.col("query") // 2,
                          position=pl.col("query") % 2 + 1), {},
         "column 'user': got '1', but '0' in an earlier row of its query"),
        (LOG.with_columns(reward=0.5), {"reward_model": "logistic_regression", "candidates": make_candidates()},
         "got 0.5, expected 0 or 1, because 'logistic_regression' predicts clicks"),
        (LOG, {"reward_model": "logistic_regression", "candidates": make_candidates().filter(pl.col("item") != 2)},
         "item '2' was shown, but is no candidate"),
        (LOG, {"reward_model": "logistic_regression", "candidates": make_candidates().filter(pl.col("query") != 5)},
         "has no candidates of the queries '5'"),
        (LOG, {"reward_model": "logistic_regression", "candidates": make_candidates().with_columns(target=0.5)},
         "'target' of query '0' sums to 1.5 at a position, expected at most 1"),
        (LOG, {"reward_model": "logistic_regression", "candidates": make_candidates().with_columns(target=0.1)},
         "got 0.3, but 0.1 in polars table, expected the same"),
        (LOG.with_columns(click=0.3), {"predictions": "click", "candidates": make_candidates().drop("click")},
         "has no column 'click'"),
    ],
)  # fmt: skip
def test_other_faults_are_explained(log: pl.DataFrame, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - checked below
        segue.evaluate_policy(log, "target", **options)
    assert message in str(caught.value)


def test_a_column_with_the_name_of_a_folder_is_ambiguous(
    model: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    segue.save(model, "target")
    with pytest.raises(ValueError, match="'target' is a column of polars table and a run or folder"):
        segue.evaluate_policy(LOG, "target")
    assert segue.evaluate_policy(LOG, "./target", temperature=5.0).policy == "./target"


def test_the_command_prints_what_python_returns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = LOG.rename({"reward": "click"}).with_columns(position=1, propensity_1=pl.col("propensity"))
    log = log.with_columns(target_1=pl.col("target"))
    log.write_csv(tmp_path / "log.csv")
    make_candidates().rename({"click": "predicted"}).write_parquet(tmp_path / "candidates.parquet")
    log = log.with_columns(predicted=0.3)
    log.write_csv(tmp_path / "log.csv", separator=";")
    options: Any = {"baseline": "same", "columns": {"reward": "click"}, "candidates": tmp_path / "candidates.parquet",
                    "predictions": "predicted", "clip": 1.5, "seed": 3, "limits": {"min_effective_sample_size": 150},
                    "estimators": ["ips", "clipped_ips", "dr"], "separator": ";"}  # fmt: skip
    expected = segue.evaluate_policy(tmp_path / "log.csv", "target", **options).record()
    arguments: Any = ("off-policy", tmp_path / "log.csv", "--policy", "target", "--baseline", "same", "--columns",
                      "reward=click", "--candidates", tmp_path / "candidates.parquet", "--predictions", "predicted",
                      "--clip", "1.5", "--seed", "3", "--limits", "min_effective_sample_size=150", "--estimators",
                      "ips,clipped_ips, dr", "--separator", ";")  # fmt: skip
    assert result(capsys, *arguments) == expected
    status, out, _ = call(capsys, *arguments)
    assert status == 0
    assert "Overlap with the log" in out
    found = result(
        capsys, "off-policy", tmp_path / "log.csv", "--policy", "target", "--columns", "reward=click",
        "--separator", ";", "--position-propensities", "1",
    )  # fmt: skip
    assert found["estimates"]["pbm"] == found["estimates"]["ips"]  # one position
    status, _, err = call(capsys, *arguments[:-2], "--separator", ";", "--position-propensities", "a")
    assert (status, "--position-propensities: got 'a'" in err) == (2, True)
