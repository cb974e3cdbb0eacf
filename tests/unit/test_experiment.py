"""Runs in folders: begun, marked, listed; and questions to a model, against answers worked out by hand."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from segue.core import bundle
from segue.core.config import Settings
from segue.core.model import Arrays, Solver, Validate
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Events, Queries, Scores, Vocab
from segue.experiment import recommend
from segue.experiment.data import limited
from segue.experiment.plan import plan
from segue.experiment.run_folder import abandon, begin, fresh, point, seal, verify
from segue.experiment.run_history import mark
from segue.experiment.similar import alike_items


class ByCode(Solver):
    """Scores each item by its code."""

    class Config(Settings):
        """None."""

    scale = "logit"

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Nothing to learn."""

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        return np.tile(np.arange(self.domain.n_items, dtype=np.float32), (len(queries), 1))

    def arrays(self) -> Arrays:
        return {}

    def restore(self, arrays: Arrays) -> None:
        """Nothing."""


@pytest.fixture
def data() -> Dataset:
    items = [f"i{code}" for code in range(5)]
    titles = ["Alien (1979)", "Aliens (1986)", "Heat", None, "Heat and Dust"]
    genres = [["Horror", "Sci-Fi"], ["Action"], [], None, ["Drama"]]
    return Dataset(
        name="small",
        users=Vocab(["ann", "bob", "cat"]),
        items=Vocab(items),
        histories=Events.of([[4, 0], [1], []]),
        item_features=pl.DataFrame({"id": items, "title": titles, "genres": genres}).lazy(),
        user_features=pl.DataFrame({"id": ["ann", "bob", "cat"], "age": [1, 2, 3]}).lazy(),
    )


@pytest.fixture
def trained(data: Dataset) -> bundle.Bundle:
    return bundle.of("by_code", ByCode(ByCode.Config(), data.domain), data, {"user_features": ["age"]})


def test_answer_for_a_user(trained: bundle.Bundle, data: Dataset) -> None:
    answer = recommend.by_user(trained, data, "ann", 2)
    exponentials = np.exp([-np.inf, 1.0, 2.0, 3.0, -np.inf])  # of what she has not had
    assert answer.items["item"].to_list() == ["i3", "i2"]
    assert answer.items["place"].to_list() == [1, 2]
    assert answer.items["title"].to_list() == [None, "Heat"]
    assert answer.items["logit"].to_list() == [3.0, 2.0]
    np.testing.assert_allclose(answer.items["probability"], exponentials[[3, 2]] / exponentials.sum(), rtol=1e-5)
    assert answer.history["item"].to_list() == ["i4", "i0"]
    assert recommend.by_user(trained, data, "ann", 2, repeats=True).items["item"].to_list() == ["i4", "i3"]


def test_fewer_items_than_asked_is_told(trained: bundle.Bundle) -> None:
    answer = recommend.by_history(trained, ["i4", "nowhere", "i0"], 10)
    assert answer.items["item"].to_list() == ["i3", "i2", "i1"]
    assert [note.split()[0] for note in answer.notes] == ["item", "only"]


def test_titles(trained: bundle.Bundle) -> None:
    assert recommend.titled(trained, ["alien (1979)", "HEAT", "dust"]) == ["i0", "i2", "i4"]
    with pytest.raises(ValueError, match="2 items") as error:
        recommend.titled(trained, ["alien", "Haet"])
    assert "i1  Aliens (1986)" in str(error.value)
    assert "did you mean 'Heat'" in str(error.value)


def test_likeness_needs_an_opinion(trained: bundle.Bundle) -> None:
    with pytest.raises(ValueError, match="no notion of alike"):
        alike_items(trained, "i0", 3)


def test_unknown_features_are_refused_and_unused_ones_told(trained: bundle.Bundle) -> None:
    with pytest.raises(ValueError, match="unknown 'ago', did you mean 'age'"):
        recommend.by_history(trained, [], 2, profile={"ago": 3})
    assert recommend.by_history(trained, [], 2, profile={"age": 3}).notes == (
        "'by_code' makes no use of these user features",
    )


def test_limited_keeps_the_catalogue(data: Dataset) -> None:
    part = limited(data, 2)
    assert (part.n_users, part.n_items, part.histories.size) == (2, 5, 3)
    assert part.users.ids.to_list() == ["ann", "bob"]
    assert part.user_features is not None
    assert part.user_features.collect().height == 2
    assert limited(data, 9) is data


def test_begin_goes_on_only_with_the_same_settings(tmp_path: Path) -> None:
    task = {"model": "ease", "data": "simulated"}
    first = plan(task, ["l2=1"], "none")
    folder = begin(first, tmp_path / "run")
    assert begin(first, folder) == folder
    with pytest.raises(ValueError, match=r"model\.l2: 2\.0 here, 1\.0 there"):
        begin(plan(task, ["l2=2"], "none"), folder)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="is not a run"):
        begin(first, tmp_path / "else")
    abandon(folder)
    assert not folder.exists()


def test_runs_begun_at_the_same_moment_have_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: fresh(tmp_path / "runs", "log.csv", "model"), range(24)))
    assert len(set(taken)) == 24
    assert all(folder.is_dir() for folder in taken)


def test_the_manifest_sees_every_change(tmp_path: Path) -> None:
    for name in ("a.txt", "b/c.txt", "b/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert verify(tmp_path) == [f"{tmp_path}: not finished: it has no manifest.json"]
    seal(tmp_path)
    assert verify(tmp_path) == []
    (tmp_path / "a.txt").write_text("b.txt")
    (tmp_path / "b/c.txt").unlink()
    (tmp_path / "new.txt").write_text("new")
    kinds = [fault.removeprefix(str(tmp_path)).split(":")[1].split()[0] for fault in verify(tmp_path)]
    assert kinds == ["sha256", "missing", "not"]


def test_a_link_moves_in_one_step(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        point(tmp_path / "links" / "latest", tmp_path / name)
        assert (tmp_path / "links" / "latest").resolve() == (tmp_path / name).resolve()
    assert [path.name for path in (tmp_path / "links").iterdir()] == ["latest"]


def test_the_best_is_chosen_by_validation_on_equal_terms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))

    def finish(name: str, valid: float, test: float, *settings: str, **task: Any) -> bool:
        chosen = plan({"model": "ease", "data": "simulated", **task}, settings, "none")
        folder = begin(chosen, tmp_path / "runs" / name)
        record = {"valid": {"ndcg@10": valid}, "ndcg@10": test, "board": chosen.board(), "data_hash": "h"}
        (folder / "metrics.json").write_text(json.dumps(record))
        return mark(folder, chosen)

    best = tmp_path / "runs" / "best"
    assert finish("a", 0.2, 0.1)
    assert not finish("b", 0.1, 0.9, "l2=3")
    assert not finish("c", 0.9, 0.9, limit=5)
    assert finish("d", 0.05, 0.05, "split.kind=temporal")
    assert finish("e", 0.3, 0.0, "l2=4")
    assert (best / "simulated").resolve().name == "e"
    assert sorted(link.resolve().name for link in best.iterdir()) == ["d", "e"]
    assert (tmp_path / "runs" / "latest").resolve().name == "e"
