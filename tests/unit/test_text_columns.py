"""Columns of text in tables of labeled examples: words become vectors, learned from the training rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from command_line import result

import segue
from segue.core.examples.click_model import TEXT
from segue.features.text.encoders.tfidf import Tfidf

pytestmark = pytest.mark.filterwarnings("ignore::segue.core.messages.SegueWarning")  # few rows

GOOD, BAD = ("bright", "warm", "lively"), ("gloomy", "dusty", "broken")
OPTIONS: dict[str, Any] = {"size": 6, "min_texts": 1}


def world(first: int, size: int = 120) -> pl.DataFrame:
    """Return texts that occur once each, whose adjectives say the label."""
    rng = np.random.default_rng(first)
    labels = rng.integers(2, size=size)
    words = [" ".join(rng.choice(GOOD if one else BAD, 2, replace=False)) for one in labels]
    return pl.DataFrame({"label": labels, "text": [f"room{first + row} {word}" for row, word in enumerate(words)],
                         "x": rng.normal(size=size)})  # fmt: skip


TRAIN, VALID, TEST = world(0), world(1_000), world(2_000)


def train(table: Any = TRAIN, valid: Any = VALID, **settings: Any) -> segue.ClickModel:
    given = {"columns": {"text": "text"}, "text_options": OPTIONS, "l2_features": 0.1, **settings}
    return segue.train_clicks("logistic_regression", table, valid, iterations=4, **given)


@pytest.fixture(scope="module")
def model() -> segue.ClickModel:
    return train()


def test_words_tell_what_unknown_categories_do_not(model: segue.ClickModel) -> None:
    assert model.encoder.fields[0].kind == "vector"
    assert model.encoder.fields[0].size == 6
    assert model.metadata is not None
    assert model.metadata["columns"][0] == {"column": "text", "kind": "text", "details": "6 numbers"}
    assert segue.evaluate_clicks(model, TEST)["auc"].mean > 0.95
    blind = segue.train_clicks("logistic_regression", TRAIN, VALID, iterations=4)
    assert segue.evaluate_clicks(blind, TEST)["auc"].mean < 0.7


def test_missing_and_unknown_texts_are_predicted(model: segue.ClickModel) -> None:
    rows = {"text": ["bright warm", None, "", "zzz", "gloomy dusty"], "x": [0.0] * 5}
    predicted = model.predict(rows)
    assert np.isfinite(predicted).all()
    assert predicted[0] > predicted[1] == predicted[2] == predicted[3] > predicted[4]
    assert model.predict({"text": [["bright", "warm"]], "x": [0.0]})[0] > 0.5
    with pytest.raises(ValueError, match="column 'text' holds Int64, expected texts or lists of texts"):
        model.predict({"text": [3], "x": [0.0]})
    with pytest.raises(ValueError, match="column 'text' is missing"):
        model.predict({"x": [0.0]})


def test_the_encoder_is_stored(model: segue.ClickModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model.save(tmp_path / "m")
    assert (tmp_path / "m" / TEXT).is_file()
    np.testing.assert_array_equal(segue.open_clicks(tmp_path / "m").predict(TEST), model.predict(TEST))
    with pytest.raises(ValueError, match=r"the model reads text: open it by segue.open_clicks"):
        segue.ClickModel.load(tmp_path / "m").predict(TEST)
    with monkeypatch.context() as changed:
        changed.setattr(Tfidf, "source_digest", lambda _: "other")
        with pytest.raises(ValueError, match="its files or code have changed since the model was trained"):
            segue.open_clicks(tmp_path / "m")
    (tmp_path / "m" / TEXT).write_bytes(b"")
    with pytest.raises(ValueError, match="text"):
        segue.open_clicks(tmp_path / "m")


def test_only_training_rows_are_learned_from(model: segue.ClickModel) -> None:
    other = train(valid=VALID.with_columns(text=pl.lit("unusual words here")).with_columns(VALID["label"]))
    for name, array in model.encoder.texts[0].arrays.items():
        np.testing.assert_array_equal(array, other.encoder.texts[0].arrays[name])


def test_settings_of_the_encoder() -> None:
    assert train(text_options={**OPTIONS, "size": 3}).encoder.fields[0].size == 3
    word2vec = train(text_encoder="word2vec", text_options={"size": 4, "epochs": 1, "min_count": 1})
    assert word2vec.encoder.texts[0].settings["encoder"] == "word2vec"
    for settings, message in (
        ({"text_encoder": "tfdif"}, "text_encoder: unknown.*did you mean 'tfidf'"),
        ({"text_options": {"sise": 3}}, "text_options.*sise: unknown"),
        ({"columns": {}, "text_encoder": "word2vec", "text_options": {}}, "text_encoder: got 'word2vec', which only a"),
        ({"columns": {"txt": "text"}}, "column 'txt' is missing, did you mean 'text'"),
        ({"columns": {"x": "text"}}, "column 'x' holds Float64, expected texts"),
        ({"table": TRAIN.with_columns(text=pl.lit(None, pl.String))}, "column 'text': got no text"),
    ):
        with pytest.raises(ValueError, match=message):
            train(**settings)


def test_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pl.concat([TRAIN, VALID]).write_csv(tmp_path / "t.csv")
    TEST.write_csv(tmp_path / "later.csv")
    TRAIN.write_parquet(tmp_path / "t.parquet")
    options = ("--set", 'columns={"text": "text"}', "--set", 'text_options={"size": 6, "min_texts": 1}',
               "--set", "l2_features=0.1")  # fmt: skip
    record = result(capsys, "clicks", "train", "logistic_regression", "--data", tmp_path / "t.csv", *options,
                    "--out", tmp_path / "m")  # fmt: skip
    assert record["columns"][0]["kind"] == "text"
    assert result(capsys, "clicks", "evaluate", tmp_path / "m", tmp_path / "later.csv")["metrics"]["auc"][0] > 0.95
    with pytest.raises(ValueError, match="memory: got 'streamed', but column 'text' is text"):
        segue.train_clicks("deepfm", tmp_path / "t.parquet", memory="streamed", columns={"text": "text"})
