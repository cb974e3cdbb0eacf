"""Tests, corrections, effect sizes, power and named errors in Python, on the command line and on pages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from command_line import call, result
from scipy import stats

import segue
from segue.core.types import Split
from segue.evaluation.significance import compare_all

pytestmark = pytest.mark.filterwarnings("ignore::segue.core.messages.SegueWarning")

DATA = "simulated?users=60&items=40&seed=3"


@pytest.fixture(scope="module")
def parts() -> Split:
    return segue.split(segue.load(DATA))


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))


def test_comparisons_use_the_chosen_test_and_correction(parts: Split) -> None:
    models = ["popular", "random", "item_knn"]
    found = segue.compare(models, parts, metrics="ndcg@10", stat_test="wilcoxon", correction="fdr_bh")
    values = {name: columns["ndcg@10"] for name, columns in found.values.items()}
    assert found.paired_tests["ndcg@10"] == compare_all(values, stat_test="wilcoxon", correction="fdr_bh")
    for row in found.tests.iter_rows(named=True):
        differences = values[row["first"]] - values[row["second"]]
        assert row["p"] == pytest.approx(stats.wilcoxon(differences[differences != 0]).pvalue)
        assert row["d_z"] == pytest.approx(differences.mean() / differences.std(ddof=1))
    assert "p (BH)" in repr(found)
    group = found.test_group(found.warmth_table["group"][0])
    assert group["p_fdr_bh"].len() == 3
    by_default = segue.compare(models, parts, metrics="ndcg@10")
    assert [(one.stat_test, one.correction) for one in by_default.paired_tests["ndcg@10"]] == [
        ("randomization", "holm")
    ] * 3


def test_a_repr_says_what_difference_would_be_found(parts: Split) -> None:
    found = segue.compare({"random@a": {"model": "random"}, "random@b": {"model": "popular"}}, parts, metrics="ndcg@1")
    (test,) = found.paired_tests["ndcg@1"]
    assert not test.significant
    assert f"not significant; {test.smallest_difference:.4f} would be found with 80 % probability" in repr(found)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"stat_test": "anova"}, ": got 'anova', expected 'randomization' or 'bootstrap' or 'wilcoxon' or 'student'"),
        ({"correction": "bonferroni"}, ": got 'bonferroni', expected 'holm' or 'fdr_bh'"),
    ],
)
def test_unknown_names(setting: dict[str, str], message: str, parts: Split, capsys: pytest.CaptureFixture[str]) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=f"{name}=?{message}"):
        segue.compare(["popular", "random"], parts, **setting)  # type: ignore[arg-type]
    status, _, error = call(capsys, "compare", DATA, "popular", "random", f"--{name.replace('_', '-')}", value)
    assert status == 2
    assert f"{name}{message}" in error


def test_the_command_line_and_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    command = ("compare", DATA, "popular", "random", "--stat-test", "bootstrap", "--correction", "fdr_bh")
    command = (*command, "--metric", "rbp:0.5@10", "--set", "evaluation.metrics=[rbp:0.5,r_precision]")
    found = result(capsys, *command)
    (test,) = found["tests"]
    assert (test["stat_test"], test["correction"], test["n_tests"]) == ("bootstrap", "fdr_bh", 1)
    assert test["p_fdr_bh"] == test["p"] != test["p_t"]
    status, out, _ = call(capsys, *command)
    assert status == 0
    assert "Paired bootstrap tests of RBP:0.5@10" in out
    assert "p (BH)" in out
    assert "Effect sizes" in out
    page = Path(found["page"]).read_text()
    for text in ("Paired bootstrap tests", "Cohen&#39;s d_z", "Benjamini and Hochberg", "R-precision"):
        assert text in page
    note = "smallest difference that would be found with 80 % probability"
    assert (note in out) == (note in page) == (not test["significant"])


def test_a_note_where_models_do_not_differ(capsys: pytest.CaptureFixture[str]) -> None:
    models = ("item_knn@a", "item_knn@b", "--set", "item_knn@a.k=39", "--set", "item_knn@b.k=5")
    found = result(capsys, "compare", DATA, *models)
    (test,) = found["tests"]
    assert not test["significant"]
    note = f"smallest difference that would be found with 80 % probability: {test['smallest_difference']:.4f}"
    status, out, _ = call(capsys, "compare", DATA, *models)
    assert status == 0
    assert sum(line.endswith(note) for line in out.splitlines()) == 1
    assert note in Path(found["page"]).read_text()


def write_ratings(folder: Path) -> str:
    rng = np.random.default_rng(0)
    table = {
        "user_id": np.repeat(np.arange(40), 12),
        "item_id": [*map(int, np.ravel([rng.permutation(25)[:12] for _ in range(40)]))],
    }
    table |= {"rating": rng.integers(1, 6, 480), "timestamp": np.tile(np.arange(12), 40) + 1_600_000_000}
    pl.DataFrame(table).write_csv(folder / "ratings.csv")
    return str(folder / "ratings.csv")


def test_errors_by_user_and_item_are_computed_where_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ratings = write_ratings(tmp_path)
    parts = segue.split(segue.load(ratings), strategy="random")
    model = segue.train("als", parts, embedding_dim=4)
    by_default = segue.evaluate(model, parts).estimates.keys()
    assert {"rmse", "mae"} <= by_default
    assert "rmse_by_user" not in by_default
    found = segue.evaluate(model, parts, metrics=["rmse_by_item", "mae_by_user", "rmse"])
    assert list(found.estimates) == ["rmse_by_item", "mae_by_user", "rmse"]
    assert found["mae_by_user"].mean == pytest.approx(np.nanmean(found.values["mae_by_user"]))
    chosen = segue.train("als", parts, embedding_dim=4, metric="rmse_by_user")
    assert chosen.metadata["validation"]["metric"] == "rmse_by_user"
    compared = segue.compare({"als": model, "svdpp": {}}, parts, metrics=["rmse_by_item"])
    assert compared.ranking[0] == min(
        compared.estimates, key=lambda name: compared.estimates[name]["rmse_by_item"].mean
    )
    command = ("compare", ratings, "als", "svdpp", "--metric", "rmse_by_item", "--set", "split.strategy=random")
    status, _, error = call(capsys, *command)
    assert status == 2
    assert "metric: 'rmse_by_item' is not computed for als" in error
    assert "rmse_by_item]'" in error
    record = result(capsys, *command, "--set", "evaluation.metrics=[rmse_by_item]")
    assert record["metric"] == "rmse_by_item"
    assert "RMSE by item" in Path(record["page"]).read_text()
    status, _, error = call(capsys, "compare", ratings, "popular", "random", "--metric", "rmse_by_item")
    assert "metric: 'rmse_by_item' needs a model that predicts ratings, popular does not" in error


@pytest.mark.parametrize("name", ["r_precision@10", "auc@5", "ndcg@0", "rbp:1.5@10"])
def test_wrong_cutoffs_are_found_before_training(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, error = call(capsys, "train", "popular", "--data", DATA, "--set", f"evaluation.metrics=['{name}']")
    assert status == 2
    assert name in error
    assert "run:" not in error


def test_metrics_without_a_cutoff_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    command = ("compare", DATA, "popular", "random", "--metric", "r_precision")
    status, _, error = call(capsys, *command)
    assert status == 2
    assert "--set 'evaluation.metrics=[recall,precision,hit_rate,mrr,ndcg,r_precision]'" in error
    found = result(capsys, *command, "--set", "evaluation.metrics=[recall,precision,hit_rate,mrr,ndcg,r_precision]")
    assert found["metric"] == "r_precision"
