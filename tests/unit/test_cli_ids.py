"""Unknown ids, data with other ids, and paths that begin with ``~`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from command_line import call, result

import segue
from segue.cli import main
from segue.core.messages import SegueWarning

ROWS = [
    (f"u{user}", f"i{(3 * user + step) % 9}", 1 + (user + step) % 5, step) for user in range(12) for step in range(6)
]
LOG = pl.DataFrame(ROWS, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    LOG.write_csv(home / "log.csv")
    return home


@pytest.fixture(autouse=True)
def _at_home(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(home))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    """A run of a model that ranks, recommends and predicts ratings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGUE_HOME", str(home))
        with pytest.raises(SystemExit) as left:
            main(["train", "als", "--data", str(home / "log.csv"), "--out", str(home / "runs" / "als")])
    assert not left.value.code
    return home / "runs" / "als"


UNKNOWN: dict[str, tuple[list[str], int, str, str]] = {
    "recommend --user": (["--user", "u1,nobody"], 0, "users not in the log of log: 'nobody'", "unknown user"),
    "recommend --history": (["--history", "i1,nothing"], 0, "items not in the catalog: 'nothing'", "'nothing'"),
    "recommend --allow": (["--user", "u1", "--allow", "i1,nothing"], 0, "not in the catalog: 'nothing'", ""),
    "rank --user": (["--user", "nobody", "--item", "i1"], 0, "users not in the log of log: 'nobody'", "'nobody'"),
    "rank --item": (["--user", "u1", "--item", "i1,nothing"], 0, "items not in the catalog: 'nothing'", "'nothing'"),
    "rank --history": (["--history", "nothing", "--item", "i1"], 0, "items not in the catalog: 'nothing'", "'nothing'"),
    "rank only unknown": (["--user", "u1", "--item", "nothing"], 2, "none of the items is in the catalog", ""),
    "similar --item": (["--item", "nothing"], 2, "error: --item: 'nothing' is not in the catalog", ""),
    "similar --user": (["--user", "nobody"], 2, "error: --user: 'nobody' is not in log, whose users are u0, u1", ""),
    "explain --user": (["--user", "nobody", "--item", "i1"], 0, "users not in the log of log: 'nobody'", "'nobody'"),
    "explain --item": (["--user", "u1", "--item", "nothing"], 2, "error: --item: 'nothing' is not in the catalog", ""),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_unknown_ids_are_reported(capsys: pytest.CaptureFixture[str], run: Path, case: str) -> None:
    options, expected, message, note = UNKNOWN[case]
    command = case.partition(" ")[0]
    status, out, err = call(capsys, command, run, *options)
    assert status == expected
    assert message in err
    status, out, err = call(capsys, command, run, *options, "--json")
    assert status == expected
    assert message in err
    if expected:
        assert out == ""
    else:
        assert note in " ".join(json.loads(out)["notes"])


def test_unknown_ids_of_predictions_are_reported(capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("user_id,item_id\nu1,i1\nnobody,i1\nu1,nothing\n")
    status, _, err = call(capsys, "predict", run, pairs)
    assert status == 0
    assert "warning: users not in training: 'nobody'; items not in training: 'nothing'" in err
    rows = result(capsys, "predict", run, pairs)["predictions"]
    assert [row["notes"] for row in rows] == [
        None,
        "unknown user: predicted as for a new user",
        "unknown item: no prediction",
    ]
    assert rows[2]["prediction"] is None


def test_a_saved_model_is_evaluated_on_data_with_other_ids_as_in_python(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = segue.train("popular", segue.load(LOG))
    segue.save(model, tmp_path / "saved")
    more = [("new", f"i{step}", 1, step) for step in range(4)] + [("u3", "unseen", 1, 99)]
    newer = pl.concat([LOG, pl.DataFrame(more, schema=LOG.schema, orient="row")])
    newer = newer.filter(pl.col("item_id") != "i0")  # other codes
    newer.write_csv(tmp_path / "newer.csv")
    with pytest.warns(SegueWarning) as caught:
        expected = segue.evaluate(model, segue.split(segue.load(tmp_path / "newer.csv")))
    (message,) = [str(one.message) for one in caught if "targets: items not in the catalog" in str(one.message)]
    assert "'unseen' (1 events left out)" in message
    assert "1 of 13 queries have no target left" in message
    assert "users other than those that the model was trained on" in message
    found = result(capsys, "evaluate", tmp_path / "saved", "--data", tmp_path / "newer.csv")
    assert found["ndcg@10"] == round(expected["ndcg@10"].mean, 6)
    assert found["protocol"]["queries"] == expected.metadata["queries"] == 12
    assert message.removeprefix("evaluate: ") in "; ".join(found["warnings"])
    status, _, err = call(
        capsys, "evaluate", tmp_path / "saved", "--data", tmp_path / "newer.csv", "--by", "history_length"
    )
    assert status == 0, err
    assert err.count("1 of 13 queries have no target left") == 1
    strangers = newer.with_columns(pl.col("item_id") + "x")
    strangers.write_csv(tmp_path / "strangers.csv")
    status, _, err = call(capsys, "evaluate", tmp_path / "saved", "--data", tmp_path / "strangers.csv")
    assert status == 2
    assert "none of the 9 items of the queries, such as 'i1x', 'i2x', is in the catalog of 'popular'" in err


def test_a_saved_copy_of_a_run_was_not_trained_on_its_test(
    capsys: pytest.CaptureFixture[str], run: Path, home: Path, tmp_path: Path
) -> None:
    segue.save(segue.open(run), tmp_path / "copy")
    found = result(capsys, "evaluate", tmp_path / "copy", "--data", home / "log.csv")
    assert found["ndcg@10"] == result(capsys, "evaluate", run)["ndcg@10"]
    assert "was trained on" not in call(capsys, "evaluate", tmp_path / "copy", "--data", home / "log.csv")[2]


def test_every_path_expands_the_home_folder(
    capsys: pytest.CaptureFixture[str], home: Path, run: Path, tmp_path: Path
) -> None:
    pl.DataFrame({"item_id": ["i1", "i2"], "kind": ["a", "b"]}).write_csv(home / "items.csv")
    (home / "pairs.csv").write_text("user_id,item_id\nu1,i1\n")
    (home / "ids.txt").write_text("u1\n")
    (home / "rules.json").write_text('{"diversify": 0.3}')
    (home / "ease.toml").write_text("[model]\nl2 = 7.0\n")
    segue.save(segue.open(run), home / "saved")
    commands: list[list[Any]] = [
        ["data", "prepare", "~/log.csv", "--items", "~/items.csv", "--out", "~/prepared"],
        ["train", "ease", "--data", "~/prepared", "--recipe", "~/ease.toml", "--out", "~/made"],
        ["evaluate", "~/made"],
        ["evaluate", "~/saved", "--data", "~/log.csv"],
        ["evaluate", "~/saved", "--audit"],
        ["verify", "~/made"],
        ["export", "~/made", "--out", "~/artifact", "--engine", "native"],
        ["recommend", "~/saved", "--users-file", "~/ids.txt", "--rules", "~/rules.json", "--out", "~/recs.csv"],
        ["recommend", "~/made", "--user", "u1", "--deny", "@~/ids.txt"],
        ["rank", "~/saved", "--user", "u1", "--item", "i1"],
        ["similar", "~/saved", "--item", "i1"],
        ["predict", "~/saved", "~/pairs.csv", "--out", "~/predicted.csv"],
        ["keys", "add", "me", "--scope", "read", "--file", "~/keys.json"],
    ]
    for command in commands:
        status, _, err = call(capsys, *command)
        assert status == 0, (command, err)
    assert {path.name for path in home.iterdir()} >= {"prepared", "made", "artifact", "recs.csv", "predicted.csv"}
    assert (home / "keys.json").exists()
    assert "l2 = 7.0" in (home / "made" / "settings.toml").read_text()
    assert not list(tmp_path.iterdir())
