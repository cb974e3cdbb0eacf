"""The command line in this process: commands, JSON, errors and exit statuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import call, result

from segue.cli import main
from segue.core.registry import model_class

DATA = "simulated?users=60&items=40&seed=3"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(home))
    monkeypatch.delenv("SEGUE_ARCHIVES", raising=False)


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    """Train a run of ease."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGUE_HOME", str(home))
        with pytest.raises(SystemExit) as left:
            main(["train", "ease", "--data", DATA, "--set", "l2=10", "--out", str(home / "runs" / "first")])
    assert not left.value.code
    return home / "runs" / "first"


def test_a_run_contains_all_files(run: Path) -> None:
    record = json.loads((run / "metrics.json").read_text())
    low, high = record["intervals"]["ndcg@10"]
    assert low <= record["ndcg@10"] <= high
    names = {f"{name}@{k}" for name in ("recall", "precision", "hit_rate", "mrr", "ndcg") for k in (5, 10)}
    assert names <= set(record)
    assert record["baseline"]["model"] in ("popular", "recent_popular", "transitions")
    assert record["cost"]["parameters"] >= 40 * 40
    assert record["cost"]["peak_memory_bytes"] > 0
    assert set(record["valid"]) == set(record["intervals"])
    for name in ("settings.toml", "card.md", "values.parquet", "manifest.json", "bundle/arrays.safetensors"):
        assert (run / name).is_file()
    assert (run.parent / "latest").resolve() == run.resolve()
    assert (run.parent / "best" / "simulated").resolve() == run.resolve()


def test_settings_are_resolved_and_documented(run: Path) -> None:
    text = (run / "settings.toml").read_text()
    assert "l2 = 10" in text
    description = model_class("ease").Config.model_fields["l2"].description or ""
    assert f"# {description[:20]}" in text


def test_train_prints_metrics_and_the_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, "train", "item_knn", "--data", DATA, "--max-users", "30")
    assert status == 0
    for word in ("Recall@5", "Precision@10", "HitRate@10", "MRR@5", "NDCG@10", "95 % interval", "popular"):
        assert word in out
    assert "recipe: none" in err
    assert "first 30" in err


def test_evaluate_reproduces_the_recorded_metrics(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    recorded = json.loads((run / "metrics.json").read_text())
    assert recorded["part"] == "valid"
    evaluated = result(capsys, "evaluate", str(run), "--part", "valid")
    assert evaluated["ndcg@10"] == recorded["ndcg@10"]
    assert evaluated["intervals"] == recorded["intervals"]
    assert "recall@7" in result(capsys, "evaluate", "first", "--set", "ks=[7]", "--part", "valid")


def test_recommend_for_a_user_excludes_the_history(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    user = result(capsys, "data", "describe", DATA)
    assert user["users"] == 60
    from segue.data import load

    data = load(DATA)
    user = data.users.ids[7]
    seen = set(data.items.decode(data.histories.items[data.histories.offsets[7] : data.histories.offsets[8]]))
    record = result(capsys, "recommend", "first", "--user", user, "-k", "4", "--last", "2")
    items = [row["item_id"] for row in record["recommendations"]]
    assert len(items) == 4
    assert not seen & set(items)
    assert [row["rank"] for row in record["recommendations"]] == [1, 2, 3, 4]
    assert len(record["history"]) == 2
    assert {"title", "genres", "score"} <= set(record["recommendations"][0])


def test_recommending_by_title_and_by_id_agree(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    from segue.data import load

    rows = load(DATA).item_features.select("id", "title").collect()  # type: ignore[union-attr]
    by_id = result(capsys, "recommend", "latest", "--history", rows["id"][0])
    by_title = result(capsys, "recommend", "latest", "--title", rows["title"][0].upper())
    assert by_id["recommendations"] == by_title["recommendations"]


def test_ambiguous_and_unknown_titles_are_reported_together(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    status, _, err = call(capsys, "recommend", "first", "--title", "the", "--title", "no such film at all")
    assert status == 2
    assert "'the' matches" in err
    assert "i0" in err
    assert "no item is called 'no such film at all'" in err


def test_unused_inputs_are_reported(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    record = result(capsys, "recommend", "first", "--history", "nowhere", "--user-features", "age=25")
    assert any("nowhere" in note for note in record["notes"])
    assert any("no use of these user features" in note for note in record["notes"])
    assert len(record["recommendations"]) == 10
    status, _, err = call(capsys, "recommend", "first", "--history", "i01", "--user-features", "agee=25")
    assert status == 2
    assert "did you mean 'age'" in err


def test_similar_is_ordered_and_without_the_item(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    actual = result(capsys, "similar", "first", "--item", "i01", "-k", "5")["similar"]
    similarity = [row["similarity"] for row in actual]
    assert similarity == sorted(similarity, reverse=True)
    assert "i01" not in [row["item_id"] for row in actual]


def test_runs_and_global_json(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    status, out, _ = call(capsys, "--json", "runs")
    assert status == 0
    actual = {record["run"]: record for record in json.loads(out)}
    assert actual["first"]["ndcg@10"] > 0
    assert actual["first"]["finished"]
    status, out, _ = call(capsys, "runs")
    assert "first" in out


def test_verify_detects_a_changed_byte(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    assert result(capsys, "verify", "first")["intact"]
    path = run / "bundle" / "arrays.safetensors"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        status, out, _ = call(capsys, "verify", "first")
    finally:
        path.write_bytes(whole)
    assert status == 1
    assert "arrays.safetensors" in out


def test_doctor_lists_models_and_finds_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    report = result(capsys, "doctor")
    assert {"popular", "ease"} <= set(report["models"])
    assert report["errors"] == []


def test_data_list(capsys: pytest.CaptureFixture[str]) -> None:
    listed = {entry["data"]: entry for entry in result(capsys, "data", "list")}
    assert listed["simulated"]["available"]
    assert "ml-100k" in listed


def test_prepare_into_a_folder_and_train_from_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    rows = [f"c{user},s{(user * 3 + step) % 7},{step}" for user in range(12) for step in range(4)]
    log.write_text("customer,sku,ts\n" + "\n".join(rows) + "\n")
    columns = "user=customer,item=sku,time=ts"
    counts = result(capsys, "data", "prepare", str(log), "--out", str(tmp_path / "ready"), "--columns", columns)
    assert (counts["users"], counts["items"], counts["events"]) == (12, 7, 48)
    record = result(capsys, "train", "popular", "--data", str(tmp_path / "ready"))
    assert record["counts"]["test_queries"] == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "no MODEL given"),
        (["train", "ease"], "no --data given"),
        (["train", "eese", "--data", DATA], "did you mean 'ease'"),
        (["train", "ease", "--data", "ml-100"], "did you mean 'ml-1"),
        (["train", "ease", "--data", DATA, "--set", "l3=1", "--set", "epoch=2"], "did you mean 'epochs'"),
        (["train", "ease", "--data", DATA, "--set", "l3=1", "--set", "epoch=2"], "l3: unknown key"),
        (["train", "ease", "--data", DATA, "--set", "l2=-1"], "model.l2: got -1"),
        (["train", "ease", "--data", DATA, "--set", "strategy=random", "--set", "seed=1"], "split.seed or run.seed"),
        (["train", "ease", "--data", DATA, "--recipe", "nowhere.toml"], "no such file: nowhere.toml"),
        (["train", "ease", "--data", DATA, "--set", 'metrics=["ndgc"]'], "did you mean 'ndcg'"),
        (["train", "--resume", "first", "--seed", "3"], "remove run.seed=3"),
        (["evaluate", "nowhere"], "no run 'nowhere'"),
        (["recommend", "first"], "for which users?"),
        (["recommend", "first", "--all-users"], "--all-users needs --out"),
        (["recommend", "first", "--user", "1", "--history", "2"], "got --user and --history, expected one of them"),
        (["similar", "first", "--item", "nowhere"], "--item: 'nowhere' is not in the catalog"),
        (["explain", "first", "--user", "1", "--item", "nowhere"], "--item: 'nowhere' is not in the catalog"),
        (["rank", "first", "--user", "1"], "which items?"),
        (["compare", DATA, "ease"], "expected at least 2"),
        (["data", "describe", DATA, "--columns", "user"], "expected name=value"),
    ],
)
def test_a_user_error_is_one_message_with_status_2(
    capsys: pytest.CaptureFixture[str], run: Path, arguments: list[str], message: str
) -> None:
    status, out, err = call(capsys, *arguments)
    assert status == 2
    assert message in err
    assert "Traceback" not in err
    assert not out


def test_an_unknown_option_has_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "train", "--nonsense")[0] == 2


def test_a_failed_training_leaves_no_run(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    status, _, _ = call(
        capsys, "train", "ease", "--data", DATA, "--set", 'metrics=["ndgc"]', "--out", str(home / "runs" / "failed")
    )
    assert status == 2
    assert not (home / "runs" / "failed").exists()


def test_out_rejects_a_finished_run(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    status, _, err = call(capsys, "train", "ease", "--data", DATA, "--set", "l2=10", "--out", str(run))
    assert status == 2
    assert "holds a finished run" in err


def test_evaluate_other_metrics_by_group(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    actual = result(capsys, "evaluate", "first", "--metrics", "ndcg@10,map@3", "--by", "gender", "--include-seen")
    assert list(actual["intervals"]) == ["ndcg@10", "map@3"]
    assert actual["protocol"]["exclude_seen"] is False
    assert sum(group["queries"] for group in actual["groups"].values()) == 60
    status, out, _ = call(capsys, "evaluate", "first", "--by", "history_length")
    assert status == 0
    assert "By history length" in out


def test_cross_validate(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (
        "cross-validate",
        DATA,
        "ease",
        "popular",
        "--folds",
        "2",
        "--metrics",
        "ndcg@10",
        "--set",
        "ease.l2=10",
    )
    actual = result(capsys, *arguments)
    assert {row["model"] for row in actual["models"]} == {"ease", "popular"}
    assert len(actual["values"]["ease"]["ndcg@10"]) == 2
    status, out, err = call(capsys, *arguments)
    assert status == 0
    assert "2-fold cross-validation" in out
    assert "fold 2 of 2, popular: ndcg@10" in err


def test_compare_averages_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    actual = result(capsys, "compare", DATA, "popular", "random", "--seeds", "0,1", "--baseline", "popular")
    chance = actual["models"]["random"]
    assert chance["seeds"] == [0, 1]
    assert chance["ndcg@10"] == pytest.approx(sum(chance["seed_means"]["ndcg@10"]) / 2, abs=1e-6)
    assert [(test["first"], test["second"]) for test in actual["tests"]] == [("random", "popular")]
    status, _, err = call(capsys, "compare", DATA, "popular", "random", "--seeds", "a")
    assert status == 2
    assert "--seeds: got 'a'" in err


def test_train_reports_the_training_error_of_a_rating_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    log = tmp_path / "ratings.csv"
    rows = [f"u{user},i{item},{1 + (user * item) % 5},{user + item}" for user in range(20) for item in range(12)]
    log.write_text("user_id,item_id,rating,timestamp\n" + "\n".join(rows) + "\n")
    arguments = ("train", "als", "--data", str(log), "--set", "embedding_dim=2", "--set", "iterations=2")
    record = result(capsys, *arguments, "--set", "split.strategy=random")
    assert set(record["train"]) == {"rmse", "mae"}
    assert 0 < record["train"]["rmse"] < 5
    status, out, err = call(capsys, *arguments, "--set", "split.strategy=random")
    assert status == 0
    assert f"rmse on the training part: {record['train']['rmse']:.4f}" in err
    assert "train" in out


def test_the_folder_of_a_run_is_not_mistaken_for_an_artifact() -> None:
    from segue.experiment.run_folder import MANIFEST as RUN_MANIFEST
    from segue.serving.artifacts.manifest import MANIFEST

    assert MANIFEST != RUN_MANIFEST
