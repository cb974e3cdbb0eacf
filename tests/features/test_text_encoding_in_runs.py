"""The settings of text reach every path that loads the data of a run."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from letter_encoders.letters import Letters

import segue
from segue.core.types import Dataset
from segue.experiment.arguments import take_data_settings
from segue.experiment.compare_runs import make_plans
from segue.experiment.data import load_data, load_run_data, load_training_data, report_inputs
from segue.experiment.evaluate_run import evaluate_run
from segue.experiment.plan import Plan, make_plan, read_plan
from segue.experiment.run_experiment import run_plan
from segue.experiment.run_folder import create_run

DATA = "simulated?users=40&items=30"
TEXT = ["text.columns=[title]", "text.encoder=letters", 'text.options={"alphabet": "aeiou"}', "text.name=vowels"]
SASREC = ["epochs=1", "embedding_dim=8", 'model.inputs=["item_features"]', "evaluation.baseline=none"]


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.setattr("segue.features.text.encoder.ENCODERS", "letter_encoders")
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path / "home"))
    yield tmp_path
    Letters.encoded.clear()
    Letters.fits.clear()


def plan_for(model: str, *overrides: str) -> Plan:
    return make_plan({"model": model, "data": DATA}, [*TEXT, *overrides], "none")


def vowels(data: Dataset) -> np.ndarray[Any, Any]:
    assert data.item_features is not None
    return np.array(data.item_features.collect()["vowels"].to_list())


def expected_vowels(data: Dataset) -> np.ndarray[Any, Any]:
    assert data.item_features is not None
    titles = data.item_features.collect()["title"]
    return np.array([[title.strip().count(letter) for letter in "aeiou"] for title in titles])


def test_training_reads_the_vectors_and_every_later_path_the_stored_ones(home: Path) -> None:
    plan, lines = plan_for("sasrec", *SASREC), list[str]()
    folder = create_run(plan, home / "run")
    run_plan(plan, folder, log=lines.append)
    assert any(line.startswith("text: letters encoded title of 30 of 30 items as vowels") for line in lines)
    assert any(line.startswith("item_features: using") and "vowels (vector of 5)" in line for line in lines)
    stored = tomllib.loads((folder / "settings.toml").read_text())["text"]
    assert stored == {
        "columns": ["title"],
        "user_columns": [],
        "encoder": "letters",
        "options": {"alphabet": "aeiou", "learns": False, "batch_size": 1},
        "name": "vowels",
    }
    assert read_plan(folder / "settings.toml").fingerprint() == plan.fingerprint()
    model = segue.open(folder)
    features = {feature.name: feature for feature in model.model.schema.item_features}
    assert (features["vowels"].kind, features["vowels"].size) == ("vector", 5)
    Letters.encoded.clear()
    for data in (load_run_data(folder), load_training_data(folder), model.log, model.train_log):
        np.testing.assert_array_equal(vowels(data), expected_vowels(data))
    assert model.text_encodings[0].settings == stored
    assert np.isfinite(evaluate_run(folder, "valid").record["ndcg@10"])
    assert len(segue.recommend(folder, [model.users.ids[0]], k=3, exclude_seen=False)) == 3
    assert Letters.encoded == [], "the vectors are stored with the catalog"


def test_vectors_that_are_not_stored_are_encoded_again(home: Path) -> None:
    plan = plan_for("popular", "evaluation.baseline=none")
    folder = create_run(plan, home / "run")
    run_plan(plan, folder, log=lambda text: None)
    items = folder / "bundle" / "items.parquet"
    import polars as pl

    pl.read_parquet(items).drop("vowels").write_parquet(items)
    data = load_run_data(folder)
    np.testing.assert_array_equal(vowels(data), expected_vowels(data))


def test_a_model_without_item_features_is_told_that_text_has_no_effect() -> None:
    for model, hint in (
        ("popular", "reads no item features"),
        ("sasrec", "add 'item_features' to model.inputs"),
        ("als", "set model.item_features=true"),
    ):
        plan, lines = plan_for(model), list[str]()
        report_inputs(plan, load_data(plan), lines.append)
        assert [hint in line for line in lines if line.startswith("text: vowels has no effect")] == [True], model
    plan, lines = plan_for("als", "item_features=true"), list[str]()
    report_inputs(plan, load_data(plan), lines.append)
    assert not [line for line in lines if "no effect" in line]


def test_the_seed_of_the_run_reaches_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []
    monkeypatch.setattr(Letters, "fit", lambda self, texts, run: seeds.append(run.seed))
    load_data(plan_for("popular", "run.seed=7"))
    assert seeds == [7]


def test_settings_of_text_change_the_identity_of_a_run() -> None:
    without = make_plan({"model": "popular", "data": DATA}, (), "none")
    used = plan_for("popular")
    assert without.fingerprint() != used.fingerprint()
    assert without.comparison_key() == used.comparison_key()
    assert any(line.startswith("text.columns") for line in without.diff(used))


def test_settings_of_text_need_columns() -> None:
    with pytest.raises(ValueError, match=r"text\.encoder: got 'letters', but text\.columns names no text to encode"):
        make_plan({"model": "popular", "data": DATA}, ["text.encoder=letters"], "none")


def test_settings_of_text_need_their_group() -> None:
    plan = make_plan({"model": "huggingface", "data": DATA}, ['options={"resid_pdrop": 0.3}'], "none")
    assert plan.model.options == {"resid_pdrop": 0.3}  # type: ignore[attr-defined]
    assert plan.text.options == {}
    with pytest.raises(ValueError, match=r"text\.encoder: unknown 'leters', did you mean 'letters'\?"):
        plan_for("popular", "text.encoder=leters")
    with pytest.raises(ValueError, match=r"text\.options\.alphabt: unknown key, did you mean 'alphabet'\?"):
        plan_for("popular", 'text.options={"alphabt": "a"}')


def test_comparisons_of_runs_pass_text_to_all_models() -> None:
    plans = make_plans(["sasrec", "popular"], {"data": DATA}, [*TEXT])
    assert [plan.text.columns for plan in plans.values()] == [("title",), ("title",)]


def test_comparisons_in_python_encode_text() -> None:
    given = {"text.columns": ["title"], "text.encoder": "letters", "text.name": "vowels"}
    assert take_data_settings(given, ["popular"])[0]["text"] == {
        "columns": ["title"],
        "encoder": "letters",
        "name": "vowels",
    }
    models = {"sasrec": {"epochs": 1, "embedding_dim": 8, "inputs": ["item_features"]}, "popular": {}}
    result = segue.compare(models, segue.load(DATA), **given)
    names = [feature.name for feature in result.models["sasrec"].model.schema.item_features]
    assert "vowels" in names
    with pytest.raises(ValueError, match=r"text\.columns.*: got a split.*segue\.add_text"):
        segue.compare(["popular", "random"], segue.split(segue.load(DATA)), **given)


def test_training_in_memory_points_to_add_text() -> None:
    with pytest.raises(ValueError, match=r"text\.columns: train does not use this setting; .*segue\.add_text"):
        segue.train("popular", segue.load(DATA), **{"text.columns": ["title"]})


def test_text_added_in_python_is_read_by_models_and_saved(tmp_path: Path) -> None:
    data = segue.add_text(segue.load(DATA), ["title"], encoder="letters", alphabet="aeiou", name="vowels")
    model = segue.train("als", segue.split(data), item_features=True, iterations=1)
    segue.save(model, tmp_path / "saved")
    opened = segue.open(tmp_path / "saved")
    np.testing.assert_array_equal(vowels(opened.log), expected_vowels(data))
    assert opened.text_encodings[0].settings["options"]["alphabet"] == "aeiou"
