"""What is alike and why: from Python and from the command line, against what can be counted by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import segue
from segue.cli import main
from segue.core import bundle
from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Dataset, Events, Vocab
from segue.similarity.similarity_registry import MEASURES, OF_VALUES, SEQUENCES

DATA = "simulated?users=60&items=40&seed=3"

HISTORIES = Events(
    np.array([0, 3, 6, 8, 10, 10]),
    np.array([0, 1, 2, 0, 2, 1, 1, 2, 3, 0], np.int32),
    values=np.array([5, 4, 1, 5, 2, 4, 1, 5, 3, 5], np.float32),
)
GENRES = [["war"], ["war", "love"], ["love"], ["space"]]


def log(values: bool = True, features: bool = True) -> Dataset:
    histories = HISTORIES if values else Events(HISTORIES.offsets, HISTORIES.items)
    known = pl.LazyFrame({"id": ["a", "b", "c", "d"], "title": ["A", None, "C", "D"], "genres": GENRES})
    users = Vocab(["ann", "bob", "cid", "dan", "eve"])
    return Dataset("small", users, Vocab(["a", "b", "c", "d"]), histories, item_features=known if features else None)


def trained(key: str, data: Dataset | None = None, **settings: Any) -> bundle.Bundle:
    data = data or log()
    kind: Any = model_class(key)
    model = kind(kind.Config(**settings), data.domain)
    model.fit(data, Run(0), None)
    return bundle.of(key, model, data)


def test_items_with_the_number_of_people_who_had_both() -> None:
    found = segue.similar(trained("ease", l2=1.0), "a", k=5, measure="jaccard", shrink=0, data=log())
    # a: ann, bob, dan; b: ann, bob, cid; c: ann, bob, cid; d: dan
    assert found["item"].to_list() == ["b", "c", "d"]
    assert found["users_in_common"].to_list() == [2, 2, 1]
    np.testing.assert_allclose(found["likeness"], [2 / 4, 2 / 4, 1 / 3], rtol=1e-6)
    assert found.columns == ["place", "item", "title", "genres", "likeness", "users_in_common"]


def test_items_by_the_models_own_notion_need_no_log() -> None:
    model = trained("item_knn", shrink=0.0)
    bare = segue.similar(model, "a")
    assert bare.columns == ["place", "item", "title", "genres", "likeness"]
    told = segue.similar(model, "a", data=log())
    assert told.drop("users_in_common").equals(bare)
    assert bare["likeness"][0] == pytest.approx(2 / 3)


def test_users_with_what_they_have_in_common() -> None:
    for key, how in (("user_knn", {}), ("ease", {"measure": "cosine", "shrink": 0})):
        model = trained(key, **({"shrink": 0.0} if key == "user_knn" else {"l2": 1.0}))
        found = segue.similar(model, user="ann", k=5, data=log(), **how)
        assert found["user"].to_list() == ["bob", "cid", "dan"]
        np.testing.assert_allclose(found["likeness"], [1, 2 / 6**0.5, 1 / 6**0.5], rtol=1e-6)
        assert found["items_in_common"].to_list() == [3, 2, 1]
        # by title where there is one; all three items were had by three people
        assert found["common"].to_list() == [["A", "b", "C"], ["b", "C"], ["A"]]


def test_what_few_had_is_named_first() -> None:
    data = log().having(Events.of([[0, 1], [0, 1], [0], [0], []]))
    found = segue.similar(trained("ease", data, l2=1.0), user="ann", measure="jaccard", shrink=0, data=data)
    assert found["common"][0].to_list() == ["b", "A"]


@pytest.mark.parametrize("measure", MEASURES)
def test_every_measure_answers(measure: str) -> None:
    model = trained("ease", l2=1.0)
    found = segue.similar(model, user="ann", k=3, measure=measure, data=log())
    assert found["likeness"].is_sorted(descending=True)
    assert "ann" not in found["user"].to_list()
    if measure in SEQUENCES:
        with pytest.raises(ValueError, match="items, which have no history"):
            segue.similar(model, "a", measure=measure, data=log())
        return
    assert "a" not in segue.similar(model, "a", measure=measure, data=log())["item"].to_list()


def test_what_a_measure_is_taken_over() -> None:
    model, data = trained("ease", l2=1.0), log()
    by_genre = segue.similar(model, "a", measure="cosine", shrink=0, over="genres", data=data)
    assert by_genre["item"].to_list() == ["b"]
    assert by_genre["likeness"][0] == pytest.approx(0.5**0.5)
    by_level = segue.similar(model, "a", measure="bhattacharyya", shrink=0, data=data)
    # a: three times 5; c: 1, 2 and 5; b: 4, 4 and 1
    assert by_level["item"].to_list() == ["c"]
    assert by_level["likeness"][0] == pytest.approx((1 / 3) ** 0.5)
    by_value = segue.similar(model, "a", measure="cosine", shrink=0, over="values", data=data)
    x, y = np.array([5, 5, 0, 5]), np.array([4, 4, 1, 0])
    assert dict(zip(by_value["item"], by_value["likeness"], strict=True))["b"] == pytest.approx(
        x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    )
    of_users = segue.similar(model, user="ann", measure="cosine", shrink=0, over="genres", data=data)
    ann, cid = np.array([2, 2]), np.array([1, 2])  # war, love
    assert dict(zip(of_users["user"], of_users["likeness"], strict=True))["cid"] == pytest.approx(
        ann @ cid / np.linalg.norm(ann) / np.linalg.norm(cid)
    )


def test_likeness_that_rests_on_little_is_drawn_to_zero_unless_it_rests_on_genres() -> None:
    model, data = trained("ease", l2=1.0), log()
    for shrink, below in ((None, 13), (10, 13), (0, 3)):
        found = segue.similar(model, "a", measure="cosine", shrink=shrink, data=data)
        assert found["likeness"][0] == pytest.approx(2 / below)
    for shrink, below in ((None, 2**0.5), (1, 2**0.5 + 1)):
        found = segue.similar(model, "a", measure="cosine", over="genres", shrink=shrink, data=data)
        assert found["likeness"][0] == pytest.approx(1 / below)


def test_events_serve_distributions_where_there_are_no_values() -> None:
    data = log(values=False)
    found = segue.similar(trained("ease", data, l2=1.0), "a", measure="bhattacharyya", shrink=0, data=data)
    assert found["item"].to_list() == ["b", "c", "d"]
    np.testing.assert_allclose(found["likeness"], [2 / 3, 2 / 3, 3**-0.5], rtol=1e-6)


def test_vectors() -> None:
    model = trained("ials", width=2, sweeps=2)
    vectors = np.asarray(model.model.vectors)  # type: ignore[attr-defined]
    for measure, likeness in (
        ("vector_dot", vectors @ vectors[0]),
        ("vector_euclidean", 1 / (1 + np.linalg.norm(vectors - vectors[0], axis=1))),
    ):
        found = segue.similar(model, "a", measure=measure)
        order = [code for code in np.argsort(-likeness, kind="stable") if code]
        assert found["item"].to_list() == ["abcd"[code] for code in order]
        np.testing.assert_allclose(found["likeness"], likeness[order], rtol=1e-4)
    for measure in (None, "vector_cosine"):
        assert len(segue.similar(model, user="ann", measure=measure, data=log())) == 3


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "one of an item and user="),
    ({"item": "a", "user": "ann"}, "one of an item and user="),
    ({"item": "z"}, "'z' is not in the catalogue"),
    ({"user": "ann"}, "a user needs data="),
    ({"user": "zoe", "data": log()}, "'zoe' is not in small; its users are such as ann, bob"),
    ({"user": "eve", "data": log()}, "'eve' has no event in the training part"),
    ({"user": "ann", "data": log()}, "'ease' has no notion of alike users"),
    ({"item": "a", "measure": "jacard", "data": log()}, "unknown measure 'jacard', did you mean 'jaccard'"),
    ({"item": "a", "measure": "jaccard"}, "'jaccard' is taken over the log"),
    ({"item": "a", "measure": "vector_dot"}, "'vector_dot' compares learned vectors, and 'ease' has none"),
    ({"item": "a", "measure": "cosine", "over": "genre", "data": log()}, "unknown 'genre', did you mean 'genres'"),
    ({"item": "a", "shrink": 3, "data": log()}, "shrink: got '3', which is for a measure of the log"),
    ({"item": "a", "over": "genres", "data": log()}, "got 'genres', which is for a measure of the log"),
    ({"item": "a", "measure": "cosine", "over": "values", "data": log(values=False)}, "small has no values"),
    ({"item": "a", "measure": "pearson", "over": "events", "data": log()}, "compares values"),
    ({"item": "a", "measure": "cosine", "over": "genres", "data": log(features=False)}, "have no genres"),
    ({"user": "ann", "measure": "edit_distance", "over": "genres", "data": log()}, "genres, which have no order"),
]


@pytest.mark.parametrize(("asked", "told"), REFUSED)
def test_what_cannot_be_answered_is_told(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        segue.similar(trained("ease", l2=1.0), **asked)


def test_values_are_needed_by_their_measures() -> None:
    data = log(values=False)
    for measure in OF_VALUES:
        with pytest.raises(ValueError, match="small has no values"):
            segue.similar(trained("ease", data, l2=1.0), "a", measure=measure, data=data)


# --- command line -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(home))
    monkeypatch.delenv("SEGUE_ARCHIVES", raising=False)


@pytest.fixture(scope="module")
def run(home: Path) -> str:
    """A finished run of user_knn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGUE_HOME", str(home))
        with pytest.raises(SystemExit) as left:
            main(["train", "user_knn", "--data", DATA, "--out", str(home / "runs" / "knn")])
    assert not left.value.code
    return "knn"


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(["similar", *arguments])
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def test_the_command_line_shows_titles_and_reasons(capsys: pytest.CaptureFixture[str], run: str) -> None:
    user = next(iter(pl.read_parquet(Path(run_folder(run)) / "bundle" / "users.parquet")["id"]))
    status, out, _ = call(capsys, run, "--user", user, "-k", "3")
    assert status == 0
    assert "Most like" in out
    assert "items_in_common" in out
    status, out, _ = call(capsys, run, "--user", user, "--measure", "smith_waterman", "-k", "3", "--json")
    found = json.loads(out)
    assert found["user"] == user
    assert len(found["similar"]) == 3
    assert all(row["items_in_common"] == len(row["common"]) > 0 for row in found["similar"])
    status, out, _ = call(capsys, run, "--item", "i03", "--measure", "jensen_shannon", "--over", "genres", "--json")
    found = json.loads(out)
    assert found["measure"] == "jensen_shannon"
    assert {"item", "title", "likeness", "users_in_common"} <= set(found["similar"][0])


def test_the_command_line_refuses_what_it_cannot_answer(capsys: pytest.CaptureFixture[str], run: str) -> None:
    for arguments, told in (
        ([], "one of --item ID, --title TITLE and --user ID"),
        (["--item", "i03", "--user", "u1"], "one of --item ID"),
        (["--user", "nobody"], "'nobody' is not in"),
        (["--item", "i03"], "no notion of alike items"),
        (["--item", "i03", "--measure", "cosne"], "did you mean 'cosine'"),
    ):
        status, out, err = call(capsys, run, *arguments)
        assert status == 2
        assert told in err
        assert not out


def test_without_the_data_only_the_reason_is_missing(
    capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["train", "ease", "--data", DATA.replace("60", "50"), "--out", str(home / "runs" / "lost")])
    assert not left.value.code
    record = json.loads((home / "runs" / "lost" / "metrics.json").read_text())
    shutil.rmtree(record["data_folder"])
    capsys.readouterr()
    status, out, err = call(capsys, "lost", "--item", "i03", "-k", "2", "--json")
    assert status == 0
    assert "how many had both is not known: the prepared data of this run is gone" in err
    assert len(json.loads(out)["similar"]) == 2
    for arguments in (["--item", "i03", "--measure", "cosine"], ["--user", "u01"]):
        status, out, err = call(capsys, "lost", *arguments)
        assert status == 2
        assert "the prepared data of this run is gone" in err


def run_folder(name: str) -> str:
    from segue.experiment.paths import find_run

    return str(find_run(name))
