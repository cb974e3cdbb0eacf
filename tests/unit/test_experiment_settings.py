"""Settings from defaults, recipe and assignments; in and out of TOML."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from segue.core.registry import model_keys
from segue.experiment import recipe as module
from segue.experiment.paths import recipes_folder
from segue.experiment.plan import plan, read_plan
from segue.experiment.settings import groups
from segue.experiment.settings_file import write_plan

TASK = {"model": "ease", "data": "simulated?users=50"}


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "recipes_folder", lambda: tmp_path)
    (tmp_path / "simulated").mkdir()
    (tmp_path / "simulated" / "ease.toml").write_text("[model]\nl2 = 7\n[training]\nepochs = 3\nmetric = 'mrr@10'\n")
    return tmp_path


def test_later_wins(recipes: Path) -> None:
    chosen = plan(TASK, ["epochs=5"])
    assert (chosen.model.l2, chosen.training.epochs, chosen.training.metric) == (7, 5, "mrr@10")  # type: ignore[attr-defined]
    assert chosen.training.batch_size == type(chosen.training)().batch_size
    assert chosen.task.recipe == "recipes/simulated/ease.toml"


def test_none_is_no_recipe(recipes: Path) -> None:
    chosen = plan(TASK, recipe="none")
    assert chosen.model == type(chosen.model)()
    assert chosen.task.recipe is None


def test_all_faults_at_once(recipes: Path) -> None:
    bad = recipes / "bad.toml"
    bad.write_text("[modle]\nl2 = 1\n[training]\nepochs = 0\nloss = 'cros_entropy'\n")
    with pytest.raises(ValueError, match="modle") as error:
        plan(TASK, ["widht=3", "run.seed=-1"], bad)
    told = str(error.value)
    for part in (
        "did you mean 'model'",
        "training.epochs: got 0",
        "training.loss: got 'cros_entropy'",
        "widht",
        "seed: got -1",
    ):
        assert part in told


def test_what_the_loss_leaves_out_cannot_be_ranked() -> None:
    task = {"model": "sasrec", "data": "log"}
    assert plan(task, ["mask_seen=true"], "none").evaluation.repeats == "remove"
    with pytest.raises(ValueError, match=r"model.mask_seen: true with evaluation.repeats 'keep', expected false"):
        plan(task, ["mask_seen=true", "repeats=keep"], "none")


def test_a_recipe_of_another_model_is_refused(recipes: Path) -> None:
    other = recipes / "other.toml"
    other.write_text("[task]\nmodel = 'popular'\ndata = 'x'\n")
    with pytest.raises(ValueError, match="a recipe for 'popular', not for 'ease'"):
        plan(TASK, recipe=other)


@pytest.mark.parametrize("text", ["epochs = 3\n", "[model\n"])
def test_a_recipe_that_is_not_one_names_its_file(recipes: Path, text: str) -> None:
    broken = recipes / "broken.toml"
    broken.write_text(text)
    with pytest.raises(ValueError, match=r"broken\.toml"):
        plan(TASK, recipe=broken)


@pytest.mark.parametrize("model", model_keys())
def test_toml_keeps_every_value(tmp_path: Path, model: str) -> None:
    task = {"model": model, "data": "a b.csv", "columns": {"user": "who", "item": 'the "thing"'}, "limit": 9}
    chosen = plan(task, ["baseline=none", "ks=[3]", "filters.start=1998-01-31", "run.seed=4"], "none")
    path = tmp_path / "settings.toml"
    path.write_text(write_plan(chosen))
    again = read_plan(path)
    assert again == chosen
    assert again.evaluation.baseline is None
    assert again.fingerprint() == chosen.fingerprint()
    assert tomllib.loads(path.read_text())["evaluation"]["ks"] == [3]


def test_a_runs_settings_are_a_recipe(tmp_path: Path) -> None:
    chosen = plan(TASK, ["l2=3", "epochs=9"], "none")
    path = tmp_path / "settings.toml"
    path.write_text(write_plan(chosen))
    assert plan(TASK, recipe=path).model == chosen.model


def test_what_changes_the_result_changes_the_fingerprint() -> None:
    base = plan(TASK, [], "none")
    for change in ("l2=3", "run.seed=1", "split.seed=1", "repeats=keep", "epochs=2", "min_user_events=2"):
        assert plan(TASK, [change], "none").fingerprint() != base.fingerprint()
    assert plan(TASK, ["l2=3"], "none").board() == base.board()
    assert plan(TASK, ["repeats=keep"], "none").board() != base.board()
    assert base.differences(plan(TASK, ["l2=3"], "none")) == [f"model.l2: {base.model.l2} here, 3.0 there"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "path", sorted(recipes_folder().glob("*/*.toml")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_our_recipes_are_understood(path: Path) -> None:
    model, _, variant = path.stem.partition("-")
    chosen = plan({"model": model, "data": path.parent.name}, (), path if variant else None)
    assert chosen.task.recipe == f"recipes/{path.parent.name}/{path.name}"


def test_every_setting_is_documented() -> None:
    for model in model_keys():
        for name, kind in groups(model).items():
            for key, field in kind.model_fields.items():
                assert field.description, f"{model}: {name}.{key} has no documentation"
