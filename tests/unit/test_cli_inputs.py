"""Features on the command line: prepare, train and recommend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from command_line import call

import segue

SETTINGS = ["epochs=25", "embedding_dim=16", "hidden_dim=16", "dropout=0", "learning_rate=0.02", "batch_size=16"]
SETTINGS += [
    "split.strategy=per_user_ratio",
    "split.valid=0",
]  # longer histories also determine the next item, so all epochs train on the first target


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(home))
    monkeypatch.delenv("SEGUE_ARCHIVES", raising=False)


@pytest.fixture(scope="module")
def prepared(home: Path) -> Path:
    """Prepare a log of 13 items in which women go from i to i + 1 and men from i to i + 2."""
    rng, rows = np.random.default_rng(0), []
    for user in range(120):
        first = int(rng.integers(13))
        rows += [(f"u{user}", f"i{(first + at * (1 + user % 2)) % 13}", at) for at in range(6)]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    log.write_csv(home / "log.csv")
    gender = pl.DataFrame({"user_id": [f"u{user}" for user in range(120)], "gender": ["F", "M"] * 60})
    gender.write_csv(home / "users.csv")
    return home / "ready"


def test_from_two_files_to_recommendations(prepared: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(home / "log.csv"), "--users", str(home / "users.csv")]
    status, _, err = call(capsys, "data", "prepare", *files, "--out", str(prepared))
    assert status == 0, err
    assert "users: joined 120 rows of" in err
    run = str(home / "runs" / "profile")
    train = ["train", "gru4rec", "--data", str(prepared), "--out", run, "--set", "inputs=[user_features]"]
    status, _, err = call(capsys, *train, *[word for text in SETTINGS for word in ("--set", text)])
    assert status == 0, err
    assert "user_features: using gender (category, 2 values)" in err

    def top_item(*options: str) -> tuple[str, list[str]]:
        status, out, err = call(capsys, "recommend", run, "--history", "i3", "-k", "1", "--json", *options)
        assert status == 0, err
        record: Any = json.loads(out)
        return record["recommendations"][0]["item_id"], record["notes"]

    assert top_item("--user-features", "gender=F") == ("i4", [])
    assert top_item("--user-features", "gender=M") == ("i5", [])
    item, notes = top_item("--user-features", "gender=X")
    assert item in ("i4", "i5")
    assert any("gender 'X' did not occur in training" in note for note in notes)
    stream = segue.stream(run)
    for gender, expected in (("F", "i4"), ("M", "i5")):
        state = stream.step(stream.state(user_features={"gender": gender}), "i3")
        assert stream.recommend(state, k=1)["item_id"].to_list() == [expected]
    status, _, err = call(capsys, "recommend", run, "--user-features", "age=3")
    assert status != 0
    assert "unknown 'age', did you mean" in err or "unknown 'age'; known: gender" in err


def test_query_times_must_be_available(prepared: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = home / "runs" / "when"
    log = str(home / "log.csv")
    train = ["train", "gru4rec", "--data", log, "--out", str(out), "--set", "inputs=[query_time]", "--set", "epochs=1"]
    status, _, err = call(capsys, *train)
    assert status != 0
    assert "--set split.use_query_time=true" in err
    assert not out.exists()
    status, _, err = call(capsys, "compare", log, "popular", "gru4rec", "--set", "gru4rec.inputs=[query_time]")
    assert status != 0
    assert "--set split.use_query_time=true" in err
    status, _, err = call(capsys, *train, "--set", "split.use_query_time=true")
    assert status == 0, err
    data = segue.load(log)
    with pytest.raises(ValueError, match="needs the time of each query"):
        segue.train("gru4rec", segue.split(data), recipe="none", epochs=1, inputs=["query_time"])
    with_query_times = segue.split(data, use_query_time=True)
    assert segue.train("gru4rec", with_query_times, recipe="none", epochs=1, inputs=["query_time"]).key == "gru4rec"


def test_errors_in_feature_files_name_the_file(prepared: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = call(capsys, "data", "describe", str(home / "log.csv"), "--items", str(home / "users.csv"))
    assert status != 0
    assert "no id column 'id' or 'item_id'" in err
