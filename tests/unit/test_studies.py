"""Studies: every one runs on a tiny log, continues where it stopped, and measures what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import segue
from segue.core.types import Recommendations
from segue.studies.embedding_utilization import describe_vectors
from segue.studies.framework.context import StudyContext
from segue.studies.framework.page import format_table
from segue.studies.framework.runner import run_study
from segue.studies.framework.study import Grid, StudyTable
from segue.studies.framework.study_modules import load_study, study_names
from segue.studies.framework.summary import shared_share
from segue.studies.gradient_stability import GradientNorms
from segue.studies.long_tail import equal_groups

DATA = "simulated?users=40&items=400&seed=1"
"""More than a hundred items that a user has not seen, for the protocol with sampled items."""
TINY = ("epochs=1",)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which all studies of this file share their trainings."""
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(autouse=True)
def _home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(home))


@pytest.mark.parametrize("name", study_names())
def test_every_study_answers_its_question(name: str) -> None:
    module = load_study(name)
    assert module.QUESTION.endswith("?")
    assert len(module.FULL.seeds) >= 3
    log: list[str] = []
    found = run_study(name, DATA, models=["sasrec"], overrides=TINY, log=log.append, command="segue study")
    record = json.loads((found.folder / "study.json").read_text())
    assert record["cells"]
    assert found.answer
    assert all(sentence.endswith(".") and "nan" not in sentence for sentence in found.answer)
    page = (found.folder / "README.md").read_text()
    assert page.startswith(f"# {module.QUESTION}\n")
    for table in module.tables(record["cells"]):
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.columns)}
    for title in module.figures(record["cells"]):
        assert f"![{title}](figures/" in page
    assert all((found.folder / "figures").glob("*.svg"))
    again: list[str] = []
    repeated = run_study(name, DATA, models=["sasrec"], overrides=TINY, log=again.append, command="segue study")
    assert repeated.record["cells"] == record["cells"]
    assert not [line for line in again if "training" in line or "measured" in line]


def test_another_setting_or_seed_is_measured_again(home: Path) -> None:
    log: list[str] = []
    for overrides, seeds in ((("epochs=1", "dropout=0.1"), (0,)), (("epochs=1",), (5,))):
        before = len(log)
        run_study("embedding_utilization", DATA, models=["lstm"], overrides=overrides, seeds=seeds, log=log.append)
        assert any("measured" in line for line in log[before:])


def test_another_ranking_on_validation_is_another_training() -> None:
    """Early stopping depends on it."""
    grid = Grid((16,), (0,), ("epochs=1",), ("lstm",))
    log: list[str] = []
    for overrides in (["embedding_dim=4"], ["embedding_dim=4", "exclude_seen=false"], ["embedding_dim=4"]):
        StudyContext("x", DATA, grid, log.append, overrides).train("lstm")
    assert len([line for line in log if "training lstm" in line]) == 2
    common = [StudyContext("x", DATA, grid, print, [f"exclude_seen={value}"]).common for value in ("false", "true")]
    assert set(common[1]) - set(common[0]) == {"mask_seen=true"}, "a model that ranks seen items learns to rank them"


def test_measurements_of_other_seeds_are_not_reused() -> None:
    """A cell may summarize all seeds of the grid."""
    found: list[int] = []
    for seeds in ((0,), (1,), (0,)):
        context = StudyContext("x", DATA, Grid((16,), seeds, ("epochs=1",), ("lstm",)), lambda _: None)
        found.append(context.cell({"model": "lstm"}, lambda: {"value": len(found)})["value"])
    assert found == [0, 1, 0]


def test_a_setting_that_the_study_varies_is_an_error() -> None:
    with pytest.raises(ValueError, match="--set max_length=5: the study gradient_stability varies this setting"):
        run_study("gradient_stability", DATA, overrides=["max_length=5"])


def test_errors_name_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--set run\.seed=3: the seeds of a study are given by"):
        segue.run_study("gradient_stability", DATA, overrides=["run.seed=3"])
    with pytest.raises(ValueError, match="seeds=: got 0, 0, expected each once"):
        segue.run_study("gradient_stability", DATA, seeds=[0, 0])
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"out=: .*file is a file, expected a folder"):
        segue.run_study("gradient_stability", DATA, out=tmp_path / "file")
    with pytest.raises(ValueError, match="study: unknown 'gradient_stabilty', did you mean 'gradient_stability'"):
        segue.run_study("gradient_stabilty", DATA)
    with pytest.raises(ValueError, match="epoch"):
        segue.run_study("gradient_stability", DATA, overrides=["epoch=1"])
    with pytest.raises(ValueError, match="sasrek"):
        segue.run_study("gradient_stability", DATA, models=["sasrek"])


def test_vectors_of_known_shape() -> None:
    corners = np.concatenate([np.eye(8), -np.eye(8)])
    found = describe_vectors(corners)
    assert found["effective_rank"] == pytest.approx(8.0)
    assert found["utilization"] == pytest.approx(1.0)
    assert found["isotropy"] == pytest.approx(1.0)
    assert found["mean_cosine"] == pytest.approx(-1 / 15)
    line = np.outer(np.linspace(-1, 1, 9), np.ones(4)) + 3
    assert describe_vectors(line)["effective_rank"] == pytest.approx(1.0, abs=1e-6)
    assert describe_vectors(line)["mean_cosine"] == pytest.approx(1.0)


def test_recorded_norms_are_those_before_clipping(monkeypatch: pytest.MonkeyPatch) -> None:
    from segue.training.gradients import GradientBuffer

    norms: list[float] = []
    finish = GradientBuffer.finish

    def spy(self: GradientBuffer, scale: float, max_norm: float) -> float:
        norms.append(finish(self, scale, max_norm))
        return norms[-1]

    monkeypatch.setattr(GradientBuffer, "finish", spy)
    recorder = GradientNorms()
    parts = segue.split(DATA)
    segue.train("sasrec", parts, epochs=1, clip_norm=0.1, max_length=10, callbacks=[recorder])
    assert recorder.norms["total"] == pytest.approx(norms, rel=1e-5)
    layers = np.square([recorder.norms[name] for name in recorder.norms if name != "total"]).sum(0)
    assert np.sqrt(layers) == pytest.approx(norms, rel=1e-5)


def test_gradients_of_events_equal_finite_differences() -> None:
    from segue.studies.framework.attribution import encoder_inputs, gradient_norms

    parts = segue.split(DATA)
    model: Any = segue.train("lstm", parts, epochs=1, max_length=8, embedding_dim=8).model
    queries = parts.test.queries.take(np.arange(3))
    items = parts.test.targets.items[:3]
    norms = gradient_norms(model, queries, items, 4)
    assert norms.shape == (3, 4)
    vectors = model.item_vectors().detach()
    for rows, _, batch in encoder_inputs(model, queries, 4):
        x = model.embed(batch).detach()
        for number, row in enumerate(rows):
            slope = torch.zeros_like(x[0, 0])
            for column in range(len(slope)):
                ends = []
                for step in (1e-2, -1e-2):
                    moved = x.clone()
                    moved[number, -1, column] += step
                    hidden = model.encode_sequence(moved, batch, batch.lengths_B - 1)[number]
                    ends.append(float(hidden.detach() @ vectors[int(items[row])]))
                slope[column] = (ends[0] - ends[1]) / 2e-2
            assert float(slope.norm()) == pytest.approx(norms[row, 0], rel=2e-2)


def test_lists_share_items_and_not_padding() -> None:
    one = Recommendations(np.array([[1, 2, 0], [3, 0, 0]], np.int32), np.zeros((2, 3), np.float32), np.array([2, 1]))
    other = Recommendations(np.array([[2, 5, 0], [0, 3, 0]], np.int32), np.zeros((2, 3), np.float32), np.array([2, 2]))
    assert shared_share(one, other) == pytest.approx((1 / 2 + 1) / 2)


def test_groups_of_items_have_equal_weights_and_keep_ties_together() -> None:
    assert equal_groups(np.array([1, 4, 1, 2]), 2).tolist() == [1, 0, 1, 1]
    assert equal_groups(np.array([1, 1, 1, 1]), 2).tolist() == [0, 0, 0, 0]
    assert equal_groups(np.array([0, 6, 3, 3]), 4).tolist() == [3, 0, 2, 2]


def test_tables_show_missing_values_and_large_numbers() -> None:
    table = StudyTable("t", ("a", "b", "c"), [["x|y", 1234, None], ["z", 2, 0.5]])
    assert format_table(table)[1:] == ["| --- | ---: | ---: |", "| x\\|y | 1,234 |  |", "| z | 2 | 0.500 |"]


def test_a_context_uses_the_users_settings_before_its_own() -> None:
    module = load_study("embedding_utilization")
    context = StudyContext("x", DATA, module.DEFAULT, print, ["training.learning_rate=0.5", "epochs=7"])
    plan = context.plan("sasrec", "embedding_dim=8", seed=3)
    assert (plan.training.learning_rate, plan.training.epochs, plan.run.seed) == (0.5, 7, 3)
    assert plan.model.model_dump()["embedding_dim"] == 8
