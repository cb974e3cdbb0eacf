"""Run folders, and inference with a model whose results are known."""

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
from segue.core.model import Solver, StateArrays, Validate
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Events, Queries, Scores, Vocab
from segue.experiment.data import limit_users
from segue.experiment.inference.queries import build_queries, resolve_titles
from segue.experiment.inference.recommend import history_table, recommend_table
from segue.experiment.inference.similar import similar_items
from segue.experiment.plan import make_plan
from segue.experiment.run_folder import (
    create_run,
    create_unique_folder,
    delete_if_untrained,
    update_link,
    verify,
    write_manifest,
)
from segue.experiment.run_history import mark_best


class ByCode(Solver):
    """Scores each item by its code."""

    class Config(Settings):
        """No settings."""

    scale = "logit"

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Do nothing."""

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        return np.tile(np.arange(self.schema.n_items, dtype=np.float32), (len(queries), 1))

    def arrays(self) -> StateArrays:
        return {}

    def restore(self, arrays: StateArrays) -> None:
        """Do nothing."""


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
def trained(data: Dataset) -> bundle.TrainedModel:
    return bundle.create("by_code", ByCode(ByCode.Config(), data.schema), data, {"user_features": ["age"]})


def test_recommendations_for_a_user(trained: bundle.TrainedModel, data: Dataset) -> None:
    batch = build_queries(trained, "ann", data=data)
    table = recommend_table(trained, batch, 2)
    exponentials = np.exp([-np.inf, 1.0, 2.0, 3.0, -np.inf])  # of unseen items
    assert table["item_id"].to_list() == ["i3", "i2"]
    assert table["rank"].to_list() == [1, 2]
    assert table["title"].to_list() == [None, "Heat"]
    assert table["score"].to_list() == [3.0, 2.0]
    np.testing.assert_allclose(table["probability"], exponentials[[3, 2]] / exponentials.sum(), rtol=1e-5)
    assert history_table(trained, batch)["item_id"].to_list() == ["i4", "i0"]
    assert recommend_table(trained, batch, 2, exclude_seen=False)["item_id"].to_list() == ["i4", "i3"]


def test_short_lists_and_unknown_items_are_reported(trained: bundle.TrainedModel) -> None:
    with pytest.warns(UserWarning, match="items not in the catalog: 'nowhere'"):
        table = recommend_table(trained, build_queries(trained, histories=[["i4", "nowhere", "i0"]]), 10)
    assert table["item_id"].to_list() == ["i3", "i2", "i1"]
    assert table["notes"][0] == "items not in the catalog: 'nowhere'; only 3 items were left to recommend"


def test_titles(trained: bundle.TrainedModel) -> None:
    assert resolve_titles(trained, ["alien (1979)", "HEAT", "dust"]) == ["i0", "i2", "i4"]
    with pytest.raises(ValueError, match="2 items") as error:
        resolve_titles(trained, ["alien", "Haet"])
    assert "i1  Aliens (1986)" in str(error.value)
    assert "did you mean 'Heat'" in str(error.value)


def test_similarity_must_be_defined(trained: bundle.TrainedModel) -> None:
    with pytest.raises(ValueError, match="defines no similarity of items"):
        similar_items(trained, "i0", 3)


def test_unknown_features_are_rejected_and_unused_features_are_reported(trained: bundle.TrainedModel) -> None:
    with pytest.raises(ValueError, match="unknown 'ago', did you mean 'age'"):
        build_queries(trained, histories=[[]], user_features={"ago": 3})
    batch = build_queries(trained, histories=[[]], user_features={"age": 3})
    assert batch.notes == {0: ["'by_code' makes no use of these user features: age"]}


def test_limiting_users_keeps_the_catalog(data: Dataset) -> None:
    part = limit_users(data, 2)
    assert (part.n_users, part.n_items, part.histories.size) == (2, 5, 3)
    assert part.users.ids.to_list() == ["ann", "bob"]
    assert part.user_features is not None
    assert part.user_features.collect().height == 2
    assert limit_users(data, 9) is data


def test_a_run_resumes_only_with_the_same_settings(tmp_path: Path) -> None:
    task = {"model": "ease", "data": "simulated"}
    first = make_plan(task, ["l2=1"], "none")
    folder = create_run(first, tmp_path / "run")
    assert create_run(first, folder) == folder
    with pytest.raises(ValueError, match=r"model\.l2: 2\.0 here, 1\.0 there"):
        create_run(make_plan(task, ["l2=2"], "none"), folder)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="is not a run"):
        create_run(first, tmp_path / "else")
    delete_if_untrained(folder)
    assert not folder.exists()


def test_runs_created_at_the_same_moment_get_different_folders(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: create_unique_folder(tmp_path / "runs", "log.csv", "model"), range(24)))
    assert len(set(taken)) == 24
    assert all(folder.is_dir() for folder in taken)


def test_the_manifest_detects_every_change(tmp_path: Path) -> None:
    for name in ("a.txt", "b/c.txt", "b/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert verify(tmp_path) == [f"{tmp_path}: not finished: it has no manifest.json"]
    write_manifest(tmp_path)
    assert verify(tmp_path) == []
    (tmp_path / "a.txt").write_text("b.txt")
    (tmp_path / "b/c.txt").unlink()
    (tmp_path / "new.txt").write_text("new")
    kinds = [error.removeprefix(str(tmp_path)).split(":")[1].split()[0] for error in verify(tmp_path)]
    assert kinds == ["sha256", "missing", "not"]


def test_links_are_updated_atomically(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        update_link(tmp_path / "links" / "latest", tmp_path / name)
        assert (tmp_path / "links" / "latest").resolve() == (tmp_path / name).resolve()
    assert [path.name for path in (tmp_path / "links").iterdir()] == ["latest"]


def test_the_best_run_is_chosen_by_validation_among_comparable_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))

    def finish(name: str, valid: float, test: float, *settings: str, **task: Any) -> bool:
        chosen = make_plan({"model": "ease", "data": "simulated", **task}, settings, "none")
        folder = create_run(chosen, tmp_path / "runs" / name)
        record = {
            "valid": {"ndcg@10": valid},
            "ndcg@10": test,
            "comparison_key": chosen.comparison_key(),
            "data_hash": "h",
        }
        (folder / "metrics.json").write_text(json.dumps(record))
        return mark_best(folder, chosen)

    best = tmp_path / "runs" / "best"
    assert finish("a", 0.2, 0.1)
    assert not finish("b", 0.1, 0.9, "l2=3")
    assert not finish("c", 0.9, 0.9, max_users=5)
    assert finish("d", 0.05, 0.05, "split.strategy=global_temporal")
    assert finish("e", 0.3, 0.0, "l2=4")
    assert (best / "simulated").resolve().name == "e"
    assert sorted(link.resolve().name for link in best.iterdir()) == ["d", "e"]
    assert (tmp_path / "runs" / "latest").resolve().name == "e"
