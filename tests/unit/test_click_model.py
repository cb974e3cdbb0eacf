"""Click-through models on labeled examples from Python: training, storage, damage, evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.special import expit

import segue
from segue.core.examples.click_model import ABOUT, ARRAYS, CATEGORIES, SETTINGS
from segue.core.messages import SegueWarning
from segue.evaluation.click_metrics import auc, best_threshold

FAST: dict[str, Any] = {"embedding_dim": 4, "epochs": 4, "batch_size": 64, "learning_rate": 0.01}


def world(size: int = 900, seed: int = 0) -> pl.DataFrame:
    """Return examples of a known model: users and items match by parity, and a number adds to the logit."""
    rng = np.random.default_rng(seed)
    users, items, x = rng.integers(8, size=size), rng.integers(8, size=size), rng.normal(size=size)
    logits = 2.0 * (users % 2 == items % 2) - 1.0 + x
    return pl.DataFrame(
        {
            "click": (rng.random(size) < expit(logits)).astype(int),
            "user": users,
            "item": [f"item {one}" for one in items],
            "x": x,
            "tags": [[str(one % 2), "t"] for one in items],
            "vector": [[float(one), 1.0] for one in items],
            "constant": 1,
        }
    )


TABLE = world()
TRAIN, VALID, TEST = TABLE[:600], TABLE[600:750], TABLE[750:]


def train(name: str = "deepfm", table: Any = TRAIN, valid: Any = VALID, **settings: Any) -> segue.ClickModel:
    return segue.train_clicks(name, table, valid, label="click", **{**FAST, **settings})


@pytest.fixture(scope="module")
def model() -> segue.ClickModel:
    return train(calibration="platt")


def test_a_model_learns_the_world(model: segue.ClickModel) -> None:
    found = segue.evaluate_clicks(model, TEST)
    assert list(found) == ["auc", "log_loss", "uauc", "average_precision", "calibration_error", "f1", "gauc"]
    assert found["auc"].mean == pytest.approx(auc(TEST["click"].to_numpy(), model.predict(TEST)))
    assert found["auc"].low > 0.6
    assert model.metadata is not None
    assert model.metadata["rows"] == 600
    assert {"column": "constant", "kind": "left out", "details": "constant in training"} in model.metadata["columns"]


def test_threshold_and_calibration_are_chosen_on_validation(model: segue.ClickModel) -> None:
    labels = VALID["click"].to_numpy()
    assert model.threshold == best_threshold(labels, model.predict(VALID))
    assert model.calibration is not None
    plain = train()
    assert plain.calibration is None
    raw = plain.predict(VALID)
    np.testing.assert_allclose(model.predict(VALID), model.calibration.apply(np.log(raw / (1 - raw))), rtol=1e-4)
    for method in ("temperature", "isotonic"):
        calibration = train(calibration=method, epochs=1).calibration
        assert calibration is not None
        assert calibration.method == method


def test_training_is_deterministic_and_depends_on_its_arguments() -> None:
    before = train(epochs=1).predict(TEST)
    assert (train(epochs=1).predict(TEST) == before).all()
    changes: tuple[dict[str, Any], ...] = (
        {"seed": 1},
        {"embedding_dim": 5},
        {"min_count": 200},
        {"columns": {"x": "ignore"}},
    )
    for settings in changes:
        assert (train(**{"epochs": 1, **settings}).predict(TEST) != before).any(), settings


def test_nothing_of_the_validation_rows_changes_the_encoding() -> None:
    other = VALID.with_columns(item=pl.lit("never seen"), x=pl.col("x") * 1e3)
    one = train(epochs=1).encoder
    with pytest.warns(segue.SegueWarning, match="column 'item' of polars table: none of its values is known"):
        two = train(epochs=1, valid=other).encoder
    for column, same in zip(one.columns, two.columns, strict=True):
        assert column.values.to_list() == same.values.to_list()
        assert (column.center, column.scale, column.size) == (same.center, same.scale, same.size)


def test_a_column_that_tells_the_label_in_training_alone_is_found() -> None:
    """A planted leak: validation chooses an epoch, but the test part is not better for it."""
    leak = [TRAIN.with_columns(leak=pl.col("click").cast(pl.String)), *(one.with_columns(leak=pl.lit(None, pl.String))
            for one in (VALID, TEST))]  # fmt: skip
    found = segue.evaluate_clicks(train(table=leak[0], valid=leak[1]), leak[2])
    assert found["auc"].mean < 0.9


def test_a_saved_model_is_the_same(model: segue.ClickModel, tmp_path: Path) -> None:
    model.save(tmp_path / "saved")
    for again in (segue.open_clicks(tmp_path / "saved"), segue.ClickModel.load(tmp_path / "saved")):
        assert (again.predict(TEST) == model.predict(TEST)).all()
        assert (again.key, again.threshold, again.metadata) == (model.key, model.threshold, model.metadata)
        assert again.settings == model.settings
    model.save(str(tmp_path / "saved"))  # a saved model is replaced
    assert 'model = "deepfm"' in (tmp_path / "saved" / SETTINGS).read_text()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "a.tex").write_text("text")
    with pytest.raises(ValueError, match="holds other files, expected a new or empty one"):
        model.save(tmp_path / "thesis")
    with pytest.raises(ValueError, match="is a file, expected a folder"):
        model.save(tmp_path / "thesis" / "a.tex")


@pytest.mark.parametrize("name", [ABOUT, ARRAYS, CATEGORIES, SETTINGS])
def test_damage_is_found(model: segue.ClickModel, tmp_path: Path, name: str) -> None:
    model.save(tmp_path / "saved")
    path = tmp_path / "saved" / name
    content = path.read_bytes()
    for damaged in (content[:-20], content[:40] + b"#" + content[41:], b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=name.partition(".")[0]):
            segue.open_clicks(tmp_path / "saved")
    path.unlink()
    with pytest.raises(ValueError, match=name.partition(".")[0]):
        segue.open_clicks(tmp_path / "saved")


def test_other_folders_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no examples.json, expected a folder that"):
        segue.open_clicks(tmp_path)


@pytest.mark.parametrize("table", [None, "rows.csv", Path("rows.csv"), 3])
def test_what_is_no_table_is_not_predicted(model: segue.ClickModel, table: Any) -> None:
    with pytest.raises(ValueError, match=r"table: got '.*', expected a table or a mapping from columns to values"):
        model.predict(table)


def test_loaded_rows_are_predicted(model: segue.ClickModel) -> None:
    assert (model.predict(segue.load_examples(TEST)) == model.predict(TEST)).all()
    pandas = TEST.with_columns(frame=1).to_pandas()  # a column of this name is an attribute
    np.testing.assert_array_equal(model.predict(pandas), model.predict(TEST))


def test_a_folder_of_several_seeds_names_its_models(model: segue.ClickModel, tmp_path: Path) -> None:
    for seed in (0, 1):
        model.save(tmp_path / "deepfm" / f"seed-{seed}" / "model")
    with pytest.raises(ValueError, match="it holds the models seed-0, seed-1, name one of them"):
        segue.open_clicks(tmp_path / "deepfm")


def test_rows_are_predicted_alone_and_without_labels(model: segue.ClickModel) -> None:
    whole = model.predict(TEST.drop("click", "constant"))
    alone = [model.predict(TEST[row : row + 1])[0] for row in range(5)]
    np.testing.assert_allclose(alone, whole[:5], rtol=1e-5)
    row = {name: [value] for name, value in TEST.row(0, named=True).items()}
    assert model.predict(row) == pytest.approx(whole[:1], rel=1e-5)
    with pytest.raises(ValueError, match="column 'x' is missing"):
        model.predict(TEST.drop("x"))


def test_a_folder_resumes_the_same_training_only(tmp_path: Path) -> None:
    model = train(folder=tmp_path / "f", epochs=2)
    assert (segue.open_clicks(tmp_path / "f").predict(TEST) == model.predict(TEST)).all()
    assert len((tmp_path / "f" / "history.jsonl").read_text().splitlines()) == 2
    assert (train(folder=tmp_path / "f", epochs=2).predict(TEST) == model.predict(TEST)).all()
    with pytest.raises(ValueError, match=r"model.embedding_dim: 5 here, 4 there"):
        train(folder=tmp_path / "f", epochs=2, embedding_dim=5)
    with pytest.raises(ValueError, match=r"data.training_hash: '\w+' here"):
        train(folder=tmp_path / "f", epochs=2, table=TRAIN[1:])
    with pytest.raises(ValueError, match="is the folder of a saved model"):
        train(folder=tmp_path / "f" / "model", epochs=2)


def test_only_unknown_values_are_a_warning(model: segue.ClickModel) -> None:
    later = TEST.with_columns(item=pl.lit("new"))
    with pytest.warns(SegueWarning, match="column 'item' of polars table: none of its values is known from training"):
        found = segue.evaluate_clicks(model, later)
    assert np.isfinite(found["log_loss"].mean)


def test_no_validation_is_a_warning() -> None:
    with pytest.warns(SegueWarning, match="no validation rows, so all 1 epochs are trained"):
        model = train(valid=None, epochs=1)
    assert model.threshold == 0.5
    with pytest.warns(SegueWarning, match="no validation rows, so the threshold of F1 is 0.5"):
        segue.train_clicks("logistic_regression", TRAIN, label="click", iterations=1)


def test_models_are_compared_on_the_same_rows(model: segue.ClickModel) -> None:
    blind = train(columns={"x": "ignore", "user": "ignore"})
    models = {"all": model, "blind": blind, "again": model}
    found = segue.compare_clicks(models, TABLE)
    assert [(one.first, one.second) for one in found.tests["auc"]] == [
        ("all", "blind"),
        ("all", "again"),
        ("blind", "again"),
    ]
    for metric in ("auc", "log_loss"):
        first, same, _ = found.tests[metric]
        assert first.significant
        assert first.low > 0  # the first is better, for a loss too
        assert (same.difference, same.p) == (0, 1)
        assert first.p_holm >= first.p
        sign = 1 if metric == "auc" else -1
        means = [found.metrics[name][metric].mean for name in ("all", "blind")]
        assert first.difference == pytest.approx(sign * (means[0] - means[1]))
    assert found.table.columns == ["model", "metric", "mean", "low", "high"]
    assert found.test_table.height == 6
    against = segue.compare_clicks(models, TABLE, baseline="blind")
    assert [(one.first, one.second) for one in against.tests["auc"]] == [("all", "blind"), ("again", "blind")]
    with pytest.raises(ValueError, match="models: got 1, expected at least 2"):
        segue.compare_clicks({"all": model}, TABLE)
    with pytest.raises(ValueError, match="baseline: unknown 'blnd', did you mean 'blind'"):
        segue.compare_clicks(models, TABLE, baseline="blnd")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "sasrec"}, "model: 'sasrec' is trained on an interaction log, not on labeled examples"),
        ({"name": "deep_fm"}, "model: unknown 'deep_fm', did you mean 'deepfm'"),
        ({"embeding_dim": 3}, "embeding_dim: unknown key, did you mean 'embedding_dim'"),
        (
            {"num_negatives": 3},
            "num_negatives: 'deepfm' uses this setting only if it is trained on an interaction",
        ),
        ({"label_smoothing": 0.1}, "training.label_smoothing: 'deepfm' minimizes binary cross-entropy"),
        ({"metric": "ndcg@10"}, "training.metric: got 'ndcg@10', expected auc or log_loss"),
        ({"columns": {"x": "nmber"}}, "examples.columns.x: got 'nmber'"),
        ({"valid": None, "calibration": "platt"}, "calibration='platt': there are no validation rows"),
        ({"valid": VALID.filter(click=1)}, "column 'click': all .* labels are 1 in validation, expected both 0 and 1"),
        ({"table": TRAIN.filter(click=1)}, "column 'click': all .* labels are 1 in training, expected both 0 and 1"),
        ({"table": TRAIN.clear()}, "column 'click': there are no rows in training"),
        ({"table": TRAIN.drop("click")}, "column 'click' is missing"),
    ],
)
def test_unusable_arguments_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(**settings)


def test_one_label_alone_cannot_be_evaluated(model: segue.ClickModel) -> None:
    with pytest.raises(ValueError, match=r"all .* are equal, expected positive and negative ones"):
        segue.evaluate_clicks(model, TEST.filter(click=1))
    with pytest.raises(ValueError, match="has no rows"):
        segue.evaluate_clicks(model, TEST.clear())


def test_parts_of_a_table_are_used(model: segue.ClickModel) -> None:
    table = segue.load_examples(TRAIN, valid=VALID, test=TEST)
    same = segue.train_clicks("deepfm", table, label="click", calibration="platt", **FAST)
    assert (same.predict(TEST) == model.predict(TEST)).all()
    with pytest.raises(ValueError, match="table: polars table has given parts, expected one of them"):
        segue.evaluate_clicks(model, table)
    split = segue.split_examples(table)
    with pytest.raises(ValueError, match="valid: got a table, but the split has a validation part"):
        segue.train_clicks("deepfm", split, VALID)
    with pytest.raises(ValueError, match=r"table: got a split, expected one of its parts, such as split.test"):
        segue.evaluate_clicks(model, split)
    assert json.loads(json.dumps(same.metadata)) == same.metadata


@pytest.mark.filterwarnings("ignore:train. there are no validation rows")
def test_bad_cells_in_predictions_are_named_by_file_and_line(tmp_path: Path) -> None:
    table = pl.DataFrame({"label": [0, 1] * 10, "price": [float(row) for row in range(20)]})
    model = segue.train_clicks("logistic_regression", table)
    (tmp_path / "rows.csv").write_text("label,price\n0,1.5\n1,inf\n")
    with pytest.raises(ValueError, match=r"rows\.csv, line 3, column 'price': got '?inf"):
        model.predict(segue.load_examples(str(tmp_path / "rows.csv")))


def test_a_model_is_shown_in_one_line_and_says_what_it_does_not_use() -> None:
    log: list[str] = []
    model = train("din", log=log.append)
    assert "din: no sequence shares its embeddings with a field of categories, so the model has no attention" in log
    assert repr(model).startswith("ClickModel('din', 5 columns, trained on ")
    assert len(repr(model)) < 100
