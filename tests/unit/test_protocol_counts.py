"""What is printed about a protocol: the ranked queries, the baseline by its metric, warnings, and errors in time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from command_line import call, result

import segue
from segue.core.types import Events, HeldOut, Queries
from segue.evaluation.evaluate import evaluate
from segue.evaluation.sampled import check_sampling, rank_sampled
from tests.fixed_scores import Fixed

SMALL = "simulated?users=40&items=110&seed=3&repeats=0.4&mean_length=20"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def sessions(tmp_path: Path) -> Path:
    """Sessions, of which the newest have items that no earlier one has."""
    rng = np.random.default_rng(0)
    rows = []
    for session in range(200):
        for item in rng.integers(0, 20 if session < 150 else 30, rng.integers(2, 6)).tolist():
            rows.append((f"s{session}", f"i{item}", 1_600_000_000 + len(rows)))
    path = tmp_path / "sessions.csv"
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_csv(path)
    return path


def test_only_queries_with_a_ranked_target_are_counted(sessions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = sessions.parent / "run"
    command = ("popular", "--data", sessions, "--protocol", "session", "--test", "--out", run)
    status, shown, _ = call(capsys, "train", *command)
    protocol = result(capsys, "evaluate", run)["protocol"]
    ranked = protocol["queries"] - protocol["queries_without_target"]
    assert 0 < ranked < protocol["queries"]
    assert (status, f"(test, {ranked} queries, warm items, protocol session)" in shown) == (0, True)
    assert f"(test, {ranked} queries, warm items" in call(capsys, "evaluate", run)[1]
    parts = segue.split(segue.load(sessions), "sessions")
    model = segue.train("popular", parts, baseline="none")
    found = segue.evaluate(model, parts, protocol="session", by="history_length")
    assert repr(found).startswith(f"EvaluationResult: {ranked} queries")
    whole = found.table.filter(pl.col("group").is_null())["queries"].unique().to_list()
    assert (whole, sum(found.group_sizes.values())) == ([ranked], ranked)
    measured = segue.baselines(parts, protocol="session", test=True)
    assert (measured.queries, measured.targets) == (ranked, protocol["targets"])
    assert f"{ranked} test queries" in repr(measured)
    compared = call(capsys, "compare", sessions, "popular", "random", "--protocol", "session")
    assert f"{ranked} test queries, warm items only, protocol session" in compared[1]
    page = next((sessions.parent / "runs" / "compare").glob("*/index.html")).read_text()
    assert f"{ranked} with {protocol['targets']} true items" in page


def test_the_simple_baseline_is_chosen_by_the_metric_of_the_protocol(
    sessions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_protocol = result(capsys, "train", "random", "--data", sessions, "--protocol", "session")
    assert by_protocol["validation"]["metric"] == "mrr@20"
    assert any("random is below a simple baseline: mrr@20 " in text for text in by_protocol["warnings"])
    other = ("--set", "evaluation.metrics=[ndcg]", "--set", "evaluation.ks=[10]")
    by_metric = result(capsys, "train", "random", "--data", sessions, "--protocol", "session", *other)
    assert by_metric["validation"]["metric"] == "ndcg@10"
    sampled = result(capsys, "train", "random", "--data", SMALL.replace("110", "400"), "--protocol", "ncf")
    assert sampled["validation"]["metric"] == "ndcg@10"


def test_another_protocol_does_not_repeat_the_warnings_of_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    record = result(capsys, "train", "random", "--data", SMALL, "--max-users", "30", "--test", "--out", run)
    assert any("is below a simple baseline" in text for text in record["warnings"])
    assert any("test targets are items that the user's history" in text for text in record["warnings"])
    same = result(capsys, "evaluate", run)
    assert any("is below a simple baseline" in text for text in same["warnings"])
    other = result(capsys, "evaluate", run, "--protocol", "repeats")
    assert other["warnings"] == ["limited to the first 30 users: not a result"]


def few_items() -> HeldOut:
    return HeldOut(Queries.anonymous(Events.of([[0, 1, 2], [0, 1], [3]])), Events.of([[3], [4], []]))


def test_users_with_too_few_unseen_items_are_counted() -> None:
    check_sampling(few_items(), 6, 2)
    message = (
        "sampled: the users of 2 of 3 queries have fewer than 4 unseen items among 6; the fewest are 2, of query 0; "
        "expected at least 4 to sample"
    )
    with pytest.raises(ValueError, match=message):
        check_sampling(few_items(), 6, 4)
    with pytest.raises(ValueError, match="sampled: got 6, expected fewer than the 6 items of the catalog"):
        check_sampling(few_items(), 6, 6)
    warm = np.array([True, True, True, True, True, False])
    with pytest.raises(ValueError, match="1 of 3 queries have fewer than 2 unseen items among 5; the fewest are 1, of"):
        check_sampling(few_items(), 6, 2, warm)
    with pytest.raises(ValueError, match="sampled: query 0 has 2 targets, expected at most one"):
        check_sampling(HeldOut(Queries.anonymous(Events.of([[0]])), Events.of([[1, 2]])), 9, 3)


def test_too_few_unseen_items_are_an_error_before_training(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("something was trained")

    for module in ("run_experiment", "train_model", "quality", "tuning.trial"):
        monkeypatch.setattr(f"segue.experiment.{module}.train", fail)
    message = (
        r"sampled: the users of 1\d of 40 queries have fewer than 99 unseen items among 110; the fewest are 6\d, of"
    )
    with pytest.raises(ValueError, match=message):
        segue.compare(["popular", "random"], SMALL, protocol="ncf")
    with pytest.raises(ValueError, match=message):
        segue.baselines(SMALL, protocol="ncf", test=True)
    commands: list[tuple[str, ...]] = [
        ("train", "popular", "--data", SMALL),
        ("baselines", SMALL),
        ("tune", "item_knn", "--data", SMALL),
        ("auto", SMALL, "--time", "20s"),
    ]
    for command in commands:
        status, _, err = call(capsys, *command, "--protocol", "ncf")
        assert (status, "queries have fewer than 99 unseen items among 110" in err) == (2, True), (command, err)


def test_a_target_in_the_history_is_treated_as_in_the_whole_catalog() -> None:
    held_out = HeldOut(Queries.anonymous(Events.of([[7, 0], [7, 0], [1]])), Events.of([[7], [6], [7]]))
    model = Fixed([float(item) for item in range(8)])
    removed = rank_sampled(model, held_out, 4)
    assert (removed.n_higher.tolist()[0], removed.n_candidates.tolist()) == (4, [4, 5, 5])
    assert removed.n_higher.tolist()[1:] == [0, 0]
    assert rank_sampled(model, held_out, 4, exclude_seen=False).n_higher.tolist() == [0, 0, 0]
    window = HeldOut(Queries.anonymous(Events.of([[7, 0, 1]])), Events.of([[7]]))
    found = [rank_sampled(model, window, 4, exclude_seen=seen).n_higher.tolist() for seen in (True, 3, 2)]
    assert found == [[4], [4], [0]]
    both = evaluate(model, held_out, ks=(1,), metrics=["hit_rate", "auc"], sampled=4)
    for name in ("hit_rate@1", "auc"):
        assert both.values[f"sampled_{name}"].tolist() == both.values[name].tolist() == [0.0, 1.0, 1.0]
