"""Settings from defaults, recipe and overrides; reading and writing TOML."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from segue.core.registry import model_keys
from segue.experiment import plan as module
from segue.experiment.paths import recipes_folder
from segue.experiment.plan import format_plan, make_plan, read_plan
from segue.experiment.settings import setting_groups

TASK = {"model": "gru4rec", "data": "simulated?users=50"}


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "recipes_folder", lambda: tmp_path)
    (tmp_path / "simulated").mkdir()
    (tmp_path / "simulated" / "gru4rec.toml").write_text(
        "[model]\nembedding_dim = 7\n[training]\nepochs = 3\nmetric = 'mrr@10'\n"
    )
    return tmp_path


def test_later_settings_take_precedence(recipes: Path) -> None:
    chosen = make_plan(TASK, ["epochs=5"])
    assert (chosen.model.embedding_dim, chosen.training.epochs, chosen.training.metric) == (7, 5, "mrr@10")  # type: ignore[attr-defined]
    assert chosen.training.batch_size == type(chosen.training)().batch_size
    assert chosen.task.recipe == "recipes/simulated/gru4rec.toml"


def test_recipe_none_uses_defaults(recipes: Path) -> None:
    chosen = make_plan(TASK, recipe="none")
    assert chosen.model == type(chosen.model)()
    assert chosen.task.recipe is None


def test_all_errors_are_reported_at_once(recipes: Path) -> None:
    bad = recipes / "bad.toml"
    bad.write_text("[modle]\nl2 = 1\n[training]\nepochs = 0\nloss = 'cros_entropy'\n")
    with pytest.raises(ValueError, match="modle") as error:
        make_plan(TASK, ["widht=3", "run.seed=-1"], bad)
    message = str(error.value)
    for part in (
        "did you mean 'model'",
        "training.epochs: got 0",
        "training.loss: got 'cros_entropy'",
        "widht",
        "seed: got -1",
    ):
        assert part in message


def test_masked_seen_items_cannot_be_ranked() -> None:
    task = {"model": "sasrec", "data": "log"}
    assert make_plan(task, ["mask_seen=true"], "none").evaluation.exclude_seen
    with pytest.raises(ValueError, match=r"model.mask_seen: true with evaluation.exclude_seen false, expected false"):
        make_plan(task, ["mask_seen=true", "exclude_seen=false"], "none")


def test_a_recipe_of_another_model_is_rejected(recipes: Path) -> None:
    other = recipes / "other.toml"
    other.write_text("[task]\nmodel = 'popular'\ndata = 'x'\n")
    with pytest.raises(ValueError, match="a recipe for 'popular', expected one for 'gru4rec'"):
        make_plan(TASK, recipe=other)


@pytest.mark.parametrize("text", ["epochs = 3\n", "[model\n"])
def test_errors_in_a_recipe_name_the_file(recipes: Path, text: str) -> None:
    broken = recipes / "broken.toml"
    broken.write_text(text)
    with pytest.raises(ValueError, match=r"broken\.toml"):
        make_plan(TASK, recipe=broken)


@pytest.mark.parametrize("model", model_keys())
def test_toml_round_trip_keeps_every_value(tmp_path: Path, model: str) -> None:
    task = {"model": model, "data": "a b.csv", "columns": {"user": "customer", "item": 'the "thing"'}, "max_users": 9}
    chosen = make_plan(task, ["baseline=none", "ks=[3]", "filters.start=1998-01-31", "run.seed=4"], "none")
    path = tmp_path / "settings.toml"
    path.write_text(format_plan(chosen))
    restored = read_plan(path)
    assert restored == chosen
    assert restored.evaluation.baseline is None
    assert restored.fingerprint() == chosen.fingerprint()
    assert tomllib.loads(path.read_text())["evaluation"]["ks"] == [3]


def test_settings_of_a_run_can_be_used_as_a_recipe(tmp_path: Path) -> None:
    chosen = make_plan(TASK, ["embedding_dim=3", "epochs=9"], "none")
    path = tmp_path / "settings.toml"
    path.write_text(format_plan(chosen))
    assert make_plan(TASK, recipe=path).model == chosen.model


def test_settings_that_change_the_result_change_the_fingerprint() -> None:
    base = make_plan(TASK, [], "none")
    for change in (
        "embedding_dim=3",
        "run.seed=1",
        "split.valid=0.3",
        "exclude_seen=false",
        "epochs=2",
        "min_user_events=2",
    ):
        assert make_plan(TASK, [change], "none").fingerprint() != base.fingerprint()
    assert make_plan(TASK, ["embedding_dim=3"], "none").comparison_key() == base.comparison_key()
    assert make_plan(TASK, ["exclude_seen=false"], "none").comparison_key() != base.comparison_key()
    assert base.diff(make_plan(TASK, ["embedding_dim=3"], "none")) == [
        f"model.embedding_dim: {base.model.embedding_dim} here, 3 there"  # type: ignore[attr-defined]
    ]


@pytest.mark.parametrize(
    "path", sorted(recipes_folder().glob("*/*.toml")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_shipped_recipes_are_valid(path: Path) -> None:
    model, _, variant = path.stem.partition("-")
    chosen = make_plan({"model": model, "data": path.parent.name}, (), path if variant else None)
    assert chosen.task.recipe == f"recipes/{path.parent.name}/{path.name}"


def test_every_setting_is_documented() -> None:
    for model in model_keys():
        for name, kind in setting_groups(model).items():
            for key, field in kind.model_fields.items():
                assert field.description, f"{model}: {name}.{key} has no documentation"
