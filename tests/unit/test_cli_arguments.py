"""Options and overrides of ``segue train``, ``compare`` and ``cross-validate``: each is used or rejected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import call

DATA = "simulated?users=60&items=40&seed=3"


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    monkeypatch.delenv("SEGUE_ARCHIVES", raising=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "ease", "--data", DATA, "--device", "gpu"], "device: got 'gpu', expected cpu, cuda"),
        (["train", "ease", "--data", DATA, "--seed", "-1"], "run.seed: got -1"),
        (["train", "ease", "--data", DATA, "--set", "epochs=3"], "epochs: 'ease' is not trained by the training loop"),
        (["compare", DATA, "ease", "popular", "--metric", "ndgc@10"], "unknown 'ndgc@10', did you mean 'ndcg@10'"),
        (["compare", DATA, "ease", "popular", "--metric", "ndcg@20"], "--set 'evaluation.ks=[5, 10, 20]'"),
        (
            ["compare", DATA, "ease", "popular", "--metric", "rmse"],
            "'rmse' needs a model that predicts ratings",
        ),
        (["compare", DATA, "ease", "popular", "--set", "evaluation.metrics=[ndgc]"], "unknown 'ndgc'"),
        (["compare", DATA, "item_knn", "popular", "--set", "k=5"], "popular has no such setting; set it for one model"),
        (["compare", DATA, "item_knn", "popular", "--set", "k=5"], "--set item_knn.k=..."),
        (["compare", DATA, "ease", "popular", "--set", "epochs=3"], "'ease' is not trained by the training loop"),
        (["compare", DATA, "ease", "popular", "--set", "run.device=gpu"], "device: got 'gpu'"),
        (["cross-validate", DATA, "popular", "--set", "evaluation.sampled=5"], "sampled: not used by cross-validation"),
        (["cross-validate", DATA, "popular", "--set", "split.strategy=random"], "strategy: got 'random', expected"),
        (["cross-validate", DATA, "popular", "--set", "split.test=0.3"], "test: not used by cross-validation"),
        (["cross-validate", DATA, "popular", "--set", "split.folds=3"], "use --folds, --valid"),
        (["cross-validate", DATA, "popular", "--set", "run.seed=3"], "run.seed: not used by cross-validation, use --s"),
        (["cross-validate", DATA, "popular", "--metrics", "ndgc"], "unknown 'ndgc'"),
    ],
)
def test_rejected_before_anything_is_trained(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], message: str
) -> None:
    status, _, err = call(capsys, *arguments)
    assert status == 1 or status == 2
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.glob("runs/*"))


def test_cross_validation_uses_evaluation_and_split_settings(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["cross-validate", DATA, "popular", "gru4rec", "--folds", "2", "--json", "--set", "epochs=1"]
    arguments += ["--set", "evaluation.metrics=[ndcg,recall]", "--set", "evaluation.ks=[3]"]
    arguments += ["--set", "gru4rec.embedding_dim=8", "--set", "gru4rec.hidden_dim=8"]
    status, out, err = call(capsys, *arguments)
    assert status == 0, err
    found = json.loads(out)["values"]
    assert list(found["popular"]) == ["ndcg@3", "recall@3"]
    for override in ("exclude_seen=false", "split.strategy=user_k_fold", "split.seed=4"):
        status, out, err = call(capsys, *arguments, "--set", override)
        assert status == 0, err
        assert json.loads(out)["values"] != found
