"""Commands that describe models, losses, samplers, splits, metrics and sources; ``train NAME --help``."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
from command_line import call, result

from segue.core.registry import model_class, model_keys
from segue.experiment.describe import COMPONENTS, describe_component, describe_models, list_components


def test_every_model_is_described() -> None:
    actual = {entry.key: entry for entry in describe_models()}
    assert set(actual) == set(model_keys())
    for entry in actual.values():
        assert entry.summary, entry.key
        assert [setting.name for setting in entry.settings] == list(model_class(entry.key).Config.model_fields)
        assert all(setting.type and setting.default and setting.description for setting in entry.settings), entry.key
    assert (actual["ease"].family, actual["ease"].learns_from) == ("neighbors", "implicit")
    assert actual["als"].learns_from == "explicit"
    assert actual["item_knn"].learns_from == "implicit or explicit"
    assert actual["sasrec"].learns_from == "sequences"
    assert "arXiv:1905.03375" in actual["ease"].paper
    assert actual["sasrec"].uses_training_settings
    assert not actual["ease"].uses_training_settings


def test_models_are_listed_and_described(capsys: pytest.CaptureFixture[str]) -> None:
    listed = {entry["key"]: entry for entry in result(capsys, "models")}
    assert set(listed["ease"]) >= {"family", "learns_from", "summary", "paper"}
    status, out, _ = call(capsys, "models", "ease")
    assert status == 0
    for text in ("l2", "number > 0", "500.0", (model_class("ease").Config.model_fields["l2"].description or "")[:12]):
        assert text in out
    status, _, err = call(capsys, "models", "eese")
    assert status == 2
    assert "did you mean 'ease'" in err


@pytest.mark.parametrize("kind", COMPONENTS)
def test_components_are_listed_and_described(capsys: pytest.CaptureFixture[str], kind: str) -> None:
    listed = result(capsys, kind)
    assert [entry["name"] for entry in listed] == list(list_components(kind))
    for entry in listed:
        assert entry["description"], entry["name"]
        assert describe_component(kind, entry["name"])[0]
    status, out, _ = call(capsys, kind, listed[0]["name"])
    assert status == 0
    assert listed[0]["name"] in out
    status, _, err = call(capsys, kind, "unlike-any-name")
    assert status == 2
    assert "unknown 'unlike-any-name'" in err


def test_settings_of_a_loss_and_a_split(capsys: pytest.CaptureFixture[str]) -> None:
    assert [entry["name"] for entry in result(capsys, "losses", "gbce")["settings"]] == ["calibration"]
    assert "folds" in [entry["name"] for entry in result(capsys, "splits", "k_fold")["settings"]]


@pytest.mark.parametrize(("model", "has_training"), [("ease", False), ("gru4rec", True)])
def test_help_of_train_lists_the_settings_of_the_model(
    capsys: pytest.CaptureFixture[str], model: str, has_training: bool
) -> None:
    status, out, _ = call(capsys, "train", model, "--help")
    assert status == 0
    for name in model_class(model).Config.model_fields:
        assert f"  {name}: " in out
    assert ("Settings of group training" in out) == has_training
    assert "ks: list of integer >= 1 [default: [5, 10]]" in out


def test_help_is_fast() -> None:
    """Measure CPU seconds, the best of three runs, as other processes may compete."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "segue", "--help"], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5
