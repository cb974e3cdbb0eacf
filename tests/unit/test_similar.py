"""Similar items and users from Python and the command line, compared with counts by hand."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from command_line import call

import segue
from segue.cli import main
from segue.core import bundle
from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Dataset, Events, Vocab
from segue.similarity.similarity_registry import MEASURES, SEQUENCE_MEASURES, VALUE_MEASURES

DATA = "simulated?users=60&items=40&seed=3"

HISTORIES = Events(
    np.array([0, 3, 6, 8, 10, 10]),
    np.array([0, 1, 2, 0, 2, 1, 1, 2, 3, 0], np.int32),
    values=np.array([5, 4, 1, 5, 2, 4, 1, 5, 3, 5], np.float32),
)
GENRES = [["war"], ["war", "love"], ["love"], ["space"]]


def small_log(values: bool = True, features: bool = True) -> Dataset:
    histories = HISTORIES if values else Events(HISTORIES.offsets, HISTORIES.items)
    known = pl.LazyFrame({"id": ["a", "b", "c", "d"], "title": ["A", None, "C", "D"], "genres": GENRES})
    users = Vocab(["ann", "bob", "cid", "dan", "eve"])
    return Dataset("small", users, Vocab(["a", "b", "c", "d"]), histories, item_features=known if features else None)


def fit_model(key: str, data: Dataset | None = None, **settings: Any) -> bundle.TrainedModel:
    data = data or small_log()
    kind: Any = model_class(key)
    model = kind(kind.Config(**settings), data.schema)
    model.fit(data, Run(0), None)
    return bundle.create(key, model, data)


def test_similar_items_have_the_number_of_common_users() -> None:
    actual = segue.similar(fit_model("ease", l2=1.0), "a", k=5, measure="jaccard", shrink=0, data=small_log())
    # a: ann, bob, dan; b: ann, bob, cid; c: ann, bob, cid; d: dan
    assert actual["item_id"].to_list() == ["b", "c", "d"]
    assert actual["users_in_common"].to_list() == [2, 2, 1]
    np.testing.assert_allclose(actual["similarity"], [2 / 4, 2 / 4, 1 / 3], rtol=1e-6)
    assert actual.columns == ["rank", "item_id", "title", "genres", "similarity", "users_in_common"]


def _unavailable() -> Dataset:
    raise ValueError("gone")


def test_similarity_of_the_model_needs_no_log() -> None:
    model = fit_model("item_knn", shrink=0.0)
    without_log = segue.similar(replace(model, load_log=_unavailable), "a")
    assert without_log.columns == ["rank", "item_id", "title", "genres", "similarity"]
    assert segue.similar(model, "a").drop("users_in_common").equals(without_log)
    assert without_log["similarity"][0] == pytest.approx(2 / 3)


def test_similar_users_have_their_common_items() -> None:
    for key, how in (("user_knn", {}), ("ease", {"measure": "cosine", "shrink": 0})):
        model = fit_model(key, **({"shrink": 0.0} if key == "user_knn" else {"l2": 1.0}))
        actual = segue.similar(model, user="ann", k=5, data=small_log(), **how)
        assert actual["user_id"].to_list() == ["bob", "cid", "dan"]
        np.testing.assert_allclose(actual["similarity"], [1, 2 / 6**0.5, 1 / 6**0.5], rtol=1e-6)
        assert actual["items_in_common"].to_list() == [3, 2, 1]
        # by title where there is one; all three items have three users
        assert actual["common"].to_list() == [["A", "b", "C"], ["b", "C"], ["A"]]


def test_rare_common_items_come_first() -> None:
    data = small_log().with_histories(Events.of([[0, 1], [0, 1], [0], [0], []]))
    actual = segue.similar(fit_model("ease", data, l2=1.0), user="ann", measure="jaccard", shrink=0, data=data)
    assert actual["common"][0].to_list() == ["b", "A"]


@pytest.mark.parametrize("measure", MEASURES)
def test_every_measure_works(measure: str) -> None:
    model = fit_model("ease", l2=1.0)
    actual = segue.similar(model, user="ann", k=3, measure=measure, data=small_log())
    assert actual["similarity"].is_sorted(descending=True)
    assert "ann" not in actual["user_id"].to_list()
    if measure in SEQUENCE_MEASURES:
        with pytest.raises(ValueError, match="items, which have no history"):
            segue.similar(model, "a", measure=measure, data=small_log())
        return
    assert "a" not in segue.similar(model, "a", measure=measure, data=small_log())["item_id"].to_list()


def test_measures_over_genres_and_values() -> None:
    model, data = fit_model("ease", l2=1.0), small_log()
    by_genre = segue.similar(model, "a", measure="cosine", shrink=0, over="genres", data=data)
    assert by_genre["item_id"].to_list() == ["b"]
    assert by_genre["similarity"][0] == pytest.approx(0.5**0.5)
    by_level = segue.similar(model, "a", measure="bhattacharyya", shrink=0, data=data)
    # a: three times 5; c: 1, 2 and 5; b: 4, 4 and 1
    assert by_level["item_id"].to_list() == ["c"]
    assert by_level["similarity"][0] == pytest.approx((1 / 3) ** 0.5)
    by_value = segue.similar(model, "a", measure="cosine", shrink=0, over="values", data=data)
    x, y = np.array([5, 5, 0, 5]), np.array([4, 4, 1, 0])
    assert dict(zip(by_value["item_id"], by_value["similarity"], strict=True))["b"] == pytest.approx(
        x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    )
    of_users = segue.similar(model, user="ann", measure="cosine", shrink=0, over="genres", data=data)
    ann, cid = np.array([2, 2]), np.array([1, 2])  # war, love
    assert dict(zip(of_users["user_id"], of_users["similarity"], strict=True))["cid"] == pytest.approx(
        ann @ cid / np.linalg.norm(ann) / np.linalg.norm(cid)
    )


def test_similarities_are_shrunk_by_default_except_over_genres() -> None:
    model, data = fit_model("ease", l2=1.0), small_log()
    for shrink, denominator in ((None, 13), (10, 13), (0, 3)):
        actual = segue.similar(model, "a", measure="cosine", shrink=shrink, data=data)
        assert actual["similarity"][0] == pytest.approx(2 / denominator)
    for shrink, denominator in ((None, 2**0.5), (1, 2**0.5 + 1)):
        actual = segue.similar(model, "a", measure="cosine", over="genres", shrink=shrink, data=data)
        assert actual["similarity"][0] == pytest.approx(1 / denominator)


def test_distributions_use_events_without_values() -> None:
    data = small_log(values=False)
    actual = segue.similar(fit_model("ease", data, l2=1.0), "a", measure="bhattacharyya", shrink=0, data=data)
    assert actual["item_id"].to_list() == ["b", "c", "d"]
    np.testing.assert_allclose(actual["similarity"], [2 / 3, 2 / 3, 3**-0.5], rtol=1e-6)


def test_vector_measures() -> None:
    model = fit_model("ials", embedding_dim=2, iterations=2)
    vectors = np.asarray(model.model.vectors)  # type: ignore[attr-defined]
    for measure, similarities in (
        ("vector_dot", vectors @ vectors[0]),
        ("vector_euclidean", 1 / (1 + np.linalg.norm(vectors - vectors[0], axis=1))),
    ):
        actual = segue.similar(model, "a", measure=measure)
        order = [code for code in np.argsort(-similarities, kind="stable") if code]
        assert actual["item_id"].to_list() == ["abcd"[code] for code in order]
        np.testing.assert_allclose(actual["similarity"], similarities[order], rtol=1e-4)
    for measure in (None, "vector_cosine"):
        assert len(segue.similar(model, user="ann", measure=measure, data=small_log())) == 3


INVALID_CALLS: list[tuple[dict[str, Any], str]] = [
    ({}, "(neither|both) of item and user="),
    ({"item": "a", "user": "ann"}, "(neither|both) of item and user="),
    ({"item": "z"}, "item=: 'z' is not in the catalog"),
    ({"user": "zoe", "data": small_log()}, "user=: 'zoe' is not in small, whose users are ann, bob"),
    ({"user": "eve", "data": small_log()}, "'eve' has no event in the training part"),
    ({"user": "ann", "data": small_log()}, "'ease' defines no similarity of users; give measure='cosine'"),
    (
        {"item": "a", "measure": "jacard", "data": small_log()},
        "unknown similarity measure 'jacard', did you mean 'jaccard'",
    ),
    ({"item": "a", "measure": "vector_dot"}, "'vector_dot' compares learned vectors, and 'ease' has none"),
    (
        {"item": "a", "measure": "cosine", "over": "genre", "data": small_log()},
        "unknown 'genre', did you mean 'genres'",
    ),
    ({"item": "a", "shrink": 3, "data": small_log()}, "shrink=: got 3.0, which needs a measure of the log"),
    ({"item": "a", "over": "genres", "data": small_log()}, "over=: got 'genres', which needs a measure of the log"),
    ({"item": "a", "measure": "cosine", "over": "values", "data": small_log(values=False)}, "small has no values"),
    ({"item": "a", "measure": "pearson", "over": "events", "data": small_log()}, "compares values"),
    ({"item": "a", "measure": "cosine", "over": "genres", "data": small_log(features=False)}, "have no genres"),
    ({"user": "ann", "measure": "edit_distance", "over": "genres", "data": small_log()}, "genres, which have no order"),
]


@pytest.mark.parametrize(("arguments", "message"), INVALID_CALLS)
def test_invalid_calls_raise(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segue.similar(fit_model("ease", l2=1.0), **arguments)


def test_value_measures_need_values() -> None:
    data = small_log(values=False)
    for measure in VALUE_MEASURES:
        with pytest.raises(ValueError, match="small has no values"):
            segue.similar(fit_model("ease", data, l2=1.0), "a", measure=measure, data=data)


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
    """Train a run of user_knn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGUE_HOME", str(home))
        with pytest.raises(SystemExit) as left:
            main(["train", "user_knn", "--data", DATA, "--out", str(home / "runs" / "knn")])
    assert not left.value.code
    return "knn"


def test_the_command_line_shows_titles_and_reasons(capsys: pytest.CaptureFixture[str], run: str) -> None:
    user = next(iter(pl.read_parquet(Path(run_folder(run)) / "bundle" / "users.parquet")["id"]))
    status, out, _ = call(capsys, "similar", run, "--user", user, "-k", "3")
    assert status == 0
    assert "Most similar to" in out
    assert "items_in_common" in out
    status, out, _ = call(capsys, "similar", run, "--user", user, "--measure", "smith_waterman", "-k", "3", "--json")
    actual = json.loads(out)
    assert actual["user"] == user
    assert len(actual["similar"]) == 3
    assert all(row["items_in_common"] == len(row["common"]) > 0 for row in actual["similar"])
    status, out, _ = call(
        capsys, "similar", run, "--item", "i03", "--measure", "jensen_shannon", "--over", "genres", "--json"
    )
    actual = json.loads(out)
    assert actual["measure"] == "jensen_shannon"
    assert {"item_id", "title", "similarity", "users_in_common"} <= set(actual["similar"][0])


def test_the_command_line_rejects_invalid_arguments(capsys: pytest.CaptureFixture[str], run: str) -> None:
    for arguments, message in (
        ([], "one of --item ID, --title TITLE and --user ID"),
        (["--item", "i03", "--user", "u1"], "one of --item ID"),
        (["--user", "unknown"], "'unknown' is not in"),
        (["--item", "i03"], "defines no similarity of items; give --measure cosine"),
        (["--item", "i03", "--measure", "cosne"], "did you mean 'cosine'"),
    ):
        status, out, err = call(capsys, "similar", run, *arguments)
        assert status == 2
        assert message in err
        assert not out


def test_without_data_only_the_counts_are_missing(
    capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["train", "ease", "--data", DATA.replace("60", "50"), "--out", str(home / "runs" / "lost")])
    assert not left.value.code
    record = json.loads((home / "runs" / "lost" / "metrics.json").read_text())
    shutil.rmtree(record["data_folder"])
    capsys.readouterr()
    status, out, err = call(capsys, "similar", "lost", "--item", "i03", "-k", "2", "--json")
    assert status == 0
    assert "the number of users in common is not known: lost: its prepared data is gone" in err
    assert len(json.loads(out)["similar"]) == 2
    for arguments in (["--item", "i03", "--measure", "cosine"], ["--user", "u01"]):
        status, out, err = call(capsys, "similar", "lost", *arguments)
        assert status == 2
        assert "its prepared data is gone" in err


def run_folder(name: str) -> str:
    from segue.experiment.paths import find_run

    return str(find_run(name))
