"""Errors and reports before or instead of a failed training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import call

import segue
from segue.core.memory_check import explain_memory_errors, size_settings
from segue.core.messages import SegueWarning
from segue.core.registry import model_class, model_keys
from segue.core.run import Run
from segue.core.types import Split
from segue.experiment import arguments
from segue.experiment.plan import make_plan
from segue.experiment.run_experiment import run_plan
from segue.solvers.training_iterations import run_iterations
from segue.training import loop
from segue.training.settings import Training
from segue.training.train import train

DATA = "simulated?users=60&items=40&seed=3"
SMALL: dict[str, Any] = {"embedding_dim": 8, "epochs": 1, "recipe": "none"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    monkeypatch.delenv("SEGUE_ARCHIVES", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def split() -> Split:
    return segue.split(segue.load(DATA))


def test_solvers_run_on_the_cpu_only() -> None:
    assert model_class("als").is_cpu_only
    assert model_class("popular").is_cpu_only
    assert not model_class("sasrec").is_cpu_only
    assert all(model_class(key).is_cpu_only or issubclass(model_class(key), torch.nn.Module) for key in model_keys())


def test_cpu_only_models_record_the_cpu(home: Path, monkeypatch: pytest.MonkeyPatch, split: Split) -> None:
    monkeypatch.setattr(arguments, "check_device", lambda device: device)
    plan = make_plan({"model": "ease", "data": DATA}, ["run.device=cuda"])
    lines: list[str] = []
    record = run_plan(plan, home / "run", log=lines.append)
    assert record["device"] == "cpu"
    assert "device: 'ease' runs on the CPU only, so it uses cpu instead of cuda" in lines


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is available")
@pytest.mark.parametrize("model", ["ease", "sasrec"])
def test_an_absent_gpu_is_rejected_for_every_model(capsys: pytest.CaptureFixture[str], home: Path, model: str) -> None:
    status, _, err = call(capsys, "train", model, "--data", DATA, "--device", "cuda")
    assert status == 2
    assert "device: got 'cuda', which PyTorch cannot use" in err
    assert not list(home.glob("runs/*"))


@pytest.mark.parametrize("text", ["{broken", "[]", "{}"])
def test_one_broken_record_does_not_hide_the_other_runs(
    capsys: pytest.CaptureFixture[str], home: Path, text: str
) -> None:
    for name in ("good", "bad"):
        assert call(capsys, "train", "ease", "--data", DATA, "--out", str(home / "runs" / name))[0] == 0
    (home / "runs" / "bad" / "metrics.json").write_text(text)
    status, out, err = call(capsys, "runs")
    assert status == 0
    assert "good" in out
    assert "broken" in out
    assert str(home / "runs" / "bad" / "metrics.json") in err.replace("\n", "")
    found = {record["run"]: record for record in json.loads(call(capsys, "--json", "runs")[1])}
    assert found["good"]["finished"]
    assert not found["bad"]["finished"]
    assert "metrics.json" in found["bad"]["error"]
    assert call(capsys, "train", "ease", "--data", DATA)[0] == 0  # a broken best run does not stop training


def test_an_error_metric_is_rejected_before_a_model_without_predictions_is_trained(
    capsys: pytest.CaptureFixture[str], home: Path, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, _, err = call(capsys, "train", "sasrec", "--data", DATA, "--set", "metric=rmse")
    assert status == 2
    assert "training.metric: got 'rmse', which 'sasrec' cannot compute" in err
    assert not list(home.glob("runs/*"))
    monkeypatch.setattr("segue.training.loop.fit", lambda *_: pytest.fail("trained"))
    with pytest.raises(ValueError, match=r"training.metric: got 'mae', which 'sasrec' cannot compute"):
        segue.train("sasrec", split, metric="mae", **SMALL)


def test_abtest_creates_no_store(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    path = home / "mistyped.db"
    status, _, err = call(capsys, "abtest", "--store", f"sqlite:///{path}", "--experiment", "one")
    assert status == 2
    assert "store: no such file" in err
    assert not path.exists()


def test_a_run_is_announced_once_its_data_is_loaded(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    status, _, err = call(capsys, "train", "ease", "--data", str(home / "absent.csv"))
    assert status != 0
    assert "run: " not in err
    assert not list(home.glob("runs/*"))
    assert "run: " in call(capsys, "train", "ease", "--data", DATA)[2]


def test_a_loss_without_gradient_is_an_error(split: Split) -> None:
    def constant(
        hidden_MD: torch.Tensor, vectors_ID: torch.Tensor, bias_I: Any, targets_M: torch.Tensor, seen: Any
    ) -> torch.Tensor:
        return (hidden_MD @ vectors_ID.T).mean().detach()

    with pytest.raises(ValueError, match=r"training.loss: .* has no gradient"):
        segue.train("sasrec", split, loss=constant, **SMALL)


def test_a_diverged_network_names_the_learning_rate(split: Split) -> None:
    with pytest.raises(ValueError, match=r"diverged.*learning.rate[= ]1e\+38"):
        segue.train("sasrec", split, learning_rate=1e38, optimizer="sgd", **SMALL)


def test_a_diverged_solver_names_its_learning_rate(split: Split) -> None:
    model = model_class("bpr")(model_class("bpr").Config(learning_rate=30.0), split.train.schema)
    with pytest.raises(ValueError, match=r"diverged, after iteration 1: array 'rows' has .*learning_rate=30.0"):
        run_iterations(
            3,
            lambda _: {},
            Run(),
            arrays=lambda: {"rows": np.array([1.0, np.nan])},
            restore=lambda _: None,
            model=model,
            validate=lambda _: pytest.fail("validated"),
        )


def test_a_solver_whose_last_iteration_diverges_is_an_error(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = model_class("ease")
    fit = kind.fit

    def diverge(self: Any, *arguments: Any) -> None:
        fit(self, *arguments)
        for name, array in vars(self).items():
            if isinstance(array, np.ndarray) and array.dtype.kind == "f":
                setattr(self, name, np.full_like(array, np.nan))

    monkeypatch.setattr(kind, "fit", diverge)
    with pytest.raises(ValueError, match="EASE: training diverged, after the last iteration"):
        train("ease", {}, Training(), split.train, Run())


def test_the_memory_of_training_is_four_numbers_per_weight(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []
    monkeypatch.setattr(loop, "check_memory", lambda what, numbers, instead: checked.append((what, numbers)))
    model = train("gru4rec", {"embedding_dim": 8, "hidden_dim": 8}, Training(epochs=1), split.train, Run())
    assert isinstance(model, torch.nn.Module)
    n_weights = sum(weight.numel() for weight in model.parameters())
    assert checked == [(f"{type(model).__name__}: training {n_weights:,} weights", 4 * n_weights)]


def test_a_network_that_does_not_fit_is_rejected_with_its_size(split: Split) -> None:
    with pytest.raises(ValueError, match=r"SASRec: training .* GiB, .* available; reduce .*embedding_dim=10,000,000"):
        segue.train("sasrec", split, recipe="none", embedding_dim=10_000_000)


@pytest.mark.parametrize(
    ("error", "size"),
    [
        (MemoryError("Unable to allocate 37.3 GiB for an array with shape (10,)"), "37.3 GiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 400 bytes."), "400 bytes"),
    ],
)
def test_a_failed_allocation_is_one_sentence(error: Exception, size: str) -> None:
    config = model_class("als").Config(embedding_dim=100_000)
    message = f"'als' ran out of memory: could not allocate {size}; reduce {size_settings(config)}"
    with pytest.raises(ValueError, match=message), explain_memory_errors("als", config):
        raise error
    with pytest.raises(RuntimeError, match="other"), explain_memory_errors("als", config):
        raise RuntimeError("other")


def test_ignored_sections_of_a_recipe_are_reported(home: Path, split: Split) -> None:
    recipe = home / "mine.toml"
    recipe.write_text(
        '[filters]\nmin_user_events = 7\n[split]\nstrategy = "random"\n[evaluation]\nks = [3]\n[model]\nl2 = 10.0\n'
    )
    calls = (
        lambda: segue.train("ease", split, recipe=recipe),
        lambda: segue.compare({"ease": {}, "ease@b": {"l2": 20.0}}, split, recipe=recipe),
        lambda: segue.cross_validate(["ease"], segue.load(DATA), folds=2, recipe=recipe),
    )
    for one in calls:
        with pytest.warns(SegueWarning) as caught:
            one()
        texts = [str(warning.message) for warning in caught]
        for section, key in (("filters", "min_user_events"), ("split", "strategy"), ("evaluation", "ks")):
            assert any(f"{recipe}: section [{section}] is ignored ({key})" in text for text in texts), texts
