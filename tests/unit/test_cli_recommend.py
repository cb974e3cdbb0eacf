"""Commands that use a model give the results of the Python API; output files survive interruptions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from command_line import call, result

import segue
from segue.cli import main
from segue.experiment.inference import batch
from segue.experiment.inference.batch import recommend_to_file

DATA = "simulated?users=50&items=300&mean_length=20&seed=3"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(home))
    monkeypatch.delenv("SEGUE_ARCHIVES", raising=False)


@pytest.fixture(scope="module")
def run(home: Path) -> str:
    """Train a run of a rating model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGUE_HOME", str(home))
        with pytest.raises(SystemExit) as left:
            main(["train", "als", "--data", DATA, "--out", str(home / "runs" / "als"), "--set", "embedding_dim=4"])
    assert not left.value.code
    return "als"


def test_the_command_line_matches_the_python_api(capsys: pytest.CaptureFixture[str], run: str) -> None:
    model = segue.open(run)
    user = model.users.ids[3]
    expected = segue.recommend(model, user)
    actual = result(capsys, "recommend", run, "--user", user)
    assert [row["item_id"] for row in actual["recommendations"]] == expected["item_id"].to_list()
    constraints = ["--allow", "i001,i002,i003,i004", "--deny", "i002", "--include-seen", "-k", "3"]
    actual = result(capsys, "recommend", run, "--user", user, *constraints)
    expected = segue.recommend(
        model, user, k=3, allow=["i001", "i002", "i003", "i004"], deny=["i002"], exclude_seen=False
    )
    assert [row["item_id"] for row in actual["recommendations"]] == expected["item_id"].to_list()
    actual = result(capsys, "recommend", run, "--history", "i001,i002", "--rules", '{"diversify": 0.4}')
    expected = segue.recommend(model, histories=[["i001", "i002"]], rules={"diversify": 0.4})
    assert [row["item_id"] for row in actual["recommendations"]] == expected["item_id"].to_list()
    ranked = result(capsys, "rank", run, "--user", user, "--item", "i005,i006")["ranked"]
    assert [row["item_id"] for row in ranked] == segue.rank(model, user, items=["i005", "i006"])["item_id"].to_list()
    why = result(capsys, "explain", run, "--user", user, "--item", "i005")
    assert why["rank"] == segue.explain(model, user, item="i005").rank
    status, out, _ = call(capsys, "explain", run, "--user", user, "--item", "i005")
    assert status == 0
    assert out.startswith("Explanation of ")


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl"])
def test_all_users_into_a_file(capsys: pytest.CaptureFixture[str], run: str, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"recs{suffix}"
    status, _, err = call(capsys, "recommend", run, "--all-users", "--out", str(out), "-k", "3")
    assert status == 0, err
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    expected = segue.recommend(run, k=3)
    actual = {".parquet": pl.read_parquet, ".jsonl": pl.read_ndjson, ".csv": pl.read_csv}.get(suffix)
    table = pl.read_csv(out, separator="\t") if actual is None else actual(out)  # type: ignore[operator]
    assert table.columns == expected.columns
    assert table.select("user_id", "item_id", "rank").equals(expected.select("user_id", "item_id", "rank"))
    if suffix == ".parquet":
        assert table.equals(expected)


def test_users_from_a_file(capsys: pytest.CaptureFixture[str], run: str, tmp_path: Path) -> None:
    users = segue.open(run).users.ids.head(3).to_list()
    (tmp_path / "users.txt").write_text("\n".join([*users, "", "absent"]) + "\n")
    pl.DataFrame({"user_id": users}).write_csv(tmp_path / "users.csv")
    for name in ("users.txt", "users.csv"):
        arguments = ["--users-file", str(tmp_path / name), "--out", str(tmp_path / "recs.csv"), "-k", "2"]
        status, _, err = call(capsys, "recommend", run, *arguments)
        assert status == 0, err
        assert ("warning: users not in the log" in err) == (name == "users.txt")
        actual = pl.read_csv(tmp_path / "recs.csv").filter(pl.col("user_id") != "absent")
        expected = segue.recommend(run, users, k=2)
        assert actual["item_id"].to_list() == expected["item_id"].to_list()


def test_an_interrupted_file_is_resumed(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, out, messages, completed = segue.open(run), tmp_path / "recs.parquet", list[str](), list[int]()
    real = batch.recommend_block

    def stops_after_two(*arguments: Any, **options: Any) -> tuple[pl.DataFrame, list[str]]:
        if len(completed) == 2:
            raise KeyboardInterrupt
        completed.append(1)
        return real(*arguments, **options)

    def write(k: int = 3) -> None:
        recommend_to_file(model, out, k=k, block_users=20, log=messages.append)

    monkeypatch.setattr(batch, "recommend_block", stops_after_two)
    with pytest.raises(KeyboardInterrupt):
        write()
    assert not out.exists()
    completed.clear()
    write()
    assert "recommend: resuming, 2 of 3 blocks are done" in messages
    assert len(completed) == 1
    assert pl.read_parquet(out).equals(segue.recommend(model, k=3))
    completed.clear()
    with pytest.raises(KeyboardInterrupt):
        write(4)
    completed.clear()
    monkeypatch.setattr(batch, "recommend_block", real)
    write(5)
    assert any("starting over" in message for message in messages)
    assert pl.read_parquet(out).equals(segue.recommend(model, k=5))
    assert [path.name for path in tmp_path.iterdir()] == ["recs.parquet"]


def test_predictions_of_a_file(capsys: pytest.CaptureFixture[str], run: str, tmp_path: Path) -> None:
    pairs = pl.DataFrame({"user_id": ["u01", "u02", "absent"], "item_id": ["i001", "i002", "i003"]})
    pairs.write_csv(tmp_path / "pairs.csv")
    status, _, err = call(capsys, "predict", run, str(tmp_path / "pairs.csv"), "--out", str(tmp_path / "out.csv"))
    assert status == 0, err
    assert "warning: users not in training" in err
    actual = pl.read_csv(tmp_path / "out.csv")
    assert actual.columns == ["user_id", "item_id", "prediction", "notes"]
    with pytest.warns(UserWarning, match="absent"):
        assert actual["prediction"].to_list() == pytest.approx(segue.predict(run, pairs)["prediction"].to_list())
    status, out, _ = call(capsys, "predict", run, str(tmp_path / "pairs.csv"))
    assert out.splitlines()[0] == "user_id,item_id,prediction,notes"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["recommend", "als", "--user", "u01", "--filter", "genre=War"],
            "--filter: unknown feature 'genre', did you mean",
        ),
        (["recommend", "als", "--user", "u01", "--filter", "genres"], "--filter: got 'genres', expected FEATURE=VALUE"),
        (["recommend", "als", "--user", "u01", "--rules", '{"diversity": 1}'], "--rules: diversity"),
        (["recommend", "als", "--all-users", "--out", "recs.xlsx"], "unknown format '.xlsx'"),
        (["recommend", "als", "--user", "u01", "--user-features", "age=3"], "--user-features describe a new user"),
        (["predict", "als", "nowhere.csv"], "nowhere.csv: no such file"),
        (["rank", "als", "--item", "i001"], "expected one of --user ID"),
    ],
)
def test_errors_name_options(capsys: pytest.CaptureFixture[str], run: str, arguments: list[str], message: str) -> None:
    status, _, err = call(capsys, *arguments)
    assert status == 2
    assert message in err


def test_an_empty_json_list_states_the_reason(capsys: pytest.CaptureFixture[str], run: str) -> None:
    found = result(capsys, "recommend", run, "--user", "u01", "--filter", "genres=Absent")
    assert found["recommendations"] == []
    assert any("no item has the value 'Absent'" in note for note in found["notes"])
    assert any("no item was left to recommend" in note for note in found["notes"])
    found = result(capsys, "recommend", run, "--user", "u01", "--allow", "i001,absent", "--include-seen")
    assert [row["item_id"] for row in found["recommendations"]] == ["i001"]
    assert any("items not in the catalog: 'absent'" in note for note in found["notes"])
    assert result(capsys, "recommend", run, "--user", "u01")["notes"] == []
