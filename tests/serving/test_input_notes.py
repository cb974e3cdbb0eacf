"""Notes on inputs that a model reads and a query does not have: the same from Python and over REST."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from starlette.testclient import TestClient

import segue
from segue.cli import main
from segue.core import bundle
from segue.core.bundle import TrainedModel
from segue.core.types import Dataset, Events, Queries
from segue.serving.app import create_app
from segue.serving.artifacts.artifact import build_artifact
from segue.serving.server import build_service
from segue.serving.settings import ServingSettings
from segue.testing.training import train_small
from tests.folders import new_folder
from tests.serving.rich_world import rich_world

ZIP = {"prefixes": {"zip_code": 1}}
PROFILE_MODELS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "profile_model": ("profile_model", ZIP),
    "clusters": ("profile_clusters", {**ZIP, "n_clusters": 2}),
    "fold_in": (
        "fold_in",
        {"prior": "profile_model", "bases": ("popular",), "base_settings": {"profile_model": ZIP}},
    ),
    "exploration": ("exploration", {"base": "profile_model", "base_settings": ZIP}),
}


@cache
def people() -> Dataset:
    """Users with postal codes, which are all different, and whether they are members."""
    data = rich_world()
    assert data.user_features is not None
    table = data.user_features.with_columns(
        zip_code=pl.Series([f"{1 + user % 3}{user:04}" for user in range(data.n_users)]),
        is_member=pl.Series([user % 2 == 0 for user in range(data.n_users)]),
    )
    return replace(data, user_features=table)


@cache
def trained(name: str) -> TrainedModel:
    key, settings = PROFILE_MODELS[name]
    names = {"user_features": people().user_features.collect_schema().names()[1:]}  # type: ignore[union-attr]
    return bundle.create(key, train_small(key, people(), **settings), people(), names)


READERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "gru4rec": ("gru4rec", {"inputs": ["query_context", "query_hour", "value", "gap"], "epochs": 1}),
    "hybrid": (
        "hybrid",
        {
            "members": ["popular", "gru4rec"],
            "weights": [0.5, 0.5],
            "settings": {"gru4rec": {"inputs": ["query_context", "query_hour", "value", "gap"], "epochs": 1}},
        },
    ),
    "llm": (
        "llm",
        {
            "base": "hybrid",
            "base_settings": {
                "members": ["popular", "gru4rec"],
                "weights": [0.5, 0.5],
                "settings": {"gru4rec": {"inputs": ["query_context", "query_hour", "value", "gap"], "epochs": 1}},
            },
        },
    ),
}


@cache
def reader(name: str) -> TrainedModel:
    key, settings = READERS[name]
    return segue.train(key, context_world(), recipe="none", **settings)


@cache
def context_world() -> Dataset:
    data = rich_world()
    device = np.arange(data.histories.size, dtype=np.int32) % 2
    return replace(
        data,
        histories=replace(data.histories, context={"device": device}),
        header={**data.header, "context": {"device": ["phone", "tv"]}},
    )


@contextmanager
def rest(name: str, model: TrainedModel, data: Dataset) -> Iterator[Any]:
    """Serve a model and return the notes of responses."""
    folder = new_folder() / name
    build_artifact(name, model, data.histories, folder, engine="native")
    service = build_service([folder], "memory:", None, ServingSettings(deadline_ms=60_000))
    with TestClient(create_app(service)) as client:

        def notes(path: str = "recommend", **body: Any) -> Any:
            response = client.post(f"/v1/{path}", json=body)
            assert response.status_code == 200, response.text
            found: Any = response.json()
            return found["notes"] if "notes" in found else [one["notes"] for one in found["responses"]]

        notes.client = client  # type: ignore[attr-defined]
        yield notes


def python_notes(model: TrainedModel, **arguments: Any) -> str:
    """Return the notes of the only query."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (text,) = segue.recommend(model, histories=[[]], k=2, **arguments)["notes"].unique()
    return text or ""


@pytest.mark.parametrize("name", PROFILE_MODELS)
def test_categories_that_the_model_knows_are_not_reported(name: str) -> None:
    model = trained(name)
    known = {"zip_code": "29999", "is_member": True, "tastes": ["jazz", "all"], "city": "Lima"}
    assert python_notes(model, user_features=known) == ""
    assert python_notes(model, user_features={**known, "city": None, "tastes": None}) == ""
    changes = {"zip_code": "9", "tastes": ["jazz", "rock"], "city": "Paris"}
    for column, value in changes.items():
        note = python_notes(model, user_features={**known, column: value})
        assert note.startswith(f"{column} '{'rock' if column == 'tastes' else value}' did not occur in training")
        assert note.count("did not occur") == 1
    with rest(name, model, people()) as notes:
        assert notes(history=[], profile=known) == []
        for column, value in changes.items():
            expected = [f"profile.{column}: the model does not know the value"]
            if column == "tastes":
                expected = ["profile.tastes: the model does not know 1 of the values"]
            assert notes(history=[], profile={**known, column: value}) == expected


def test_a_list_for_a_column_with_one_category_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"user_features=: city: got \['Lima', 'Oslo'\], expected one text"):
        segue.recommend(trained("profile_model"), histories=[[]], user_features={"city": ["Lima", "Oslo"]})


@pytest.mark.parametrize("value", [[20], [20, 30], True], ids=str)
def test_a_list_or_a_truth_value_for_a_number_is_an_error(value: Any) -> None:
    """As in the service."""
    model = trained("profile_model")
    with pytest.raises(ValueError, match=r"user_features=: age: got .*, expected a number"):
        segue.recommend(model, histories=[[]], user_features={"age": value})


@pytest.mark.parametrize("name", ["gru4rec", "hybrid"])
def test_inputs_that_a_query_lacks_are_noted_in_the_same_way_everywhere(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = reader(name)
    key, ids = model.key, context_world().users.ids
    no_context = f"'{key}' also reads query_context, which is unknown here; give context"
    no_time = f"'{key}' also reads query_hour, which is unknown here; give time"
    no_columns = f"'{key}' also reads value, gap, which item ids alone do not provide"
    given: dict[str, Any] = {"context": {"device": "tv"}, "time": 1_700_000_000}
    with pytest.warns(segue.SegueWarning) as found:
        notes = segue.recommend(model, [ids[0]], k=2)["notes"].unique().to_list()
    assert notes == [f"{no_context}; {no_time}"]
    assert str(found[0].message) == f"{no_context}; {no_time}"
    assert segue.recommend(model, [ids[0]], k=2, **given)["notes"].null_count() == 2
    segue.save(model, tmp_path / "model")
    with pytest.raises(SystemExit) as status:
        main(["recommend", str(tmp_path / "model"), "--user", ids[0], "-k", "2"])
    assert not status.value.code
    err = capsys.readouterr().err
    assert no_context in err
    assert no_time in err
    events = [{"item": "i1", "value": 3.0, "time": 1}, {"item": "i2", "value": 1.0, "time": 2}]
    with rest(name, model, context_world()) as notes_of:
        assert notes_of(user=ids[0]) == [no_context], "the time is that of the request"
        assert notes_of(user=ids[0], **given) == []
        assert notes_of("explain", user=ids[0], item="i1") == [no_context]
        assert notes_of("explain", user=ids[0], item="i1", **given) == []
        assert notes_of(history=["i1", "i2"]) == [no_context, no_columns]
        assert notes_of(history=[], **given) == []
        assert notes_of(history=events, **given) == []
        partial = [{"item": "i1", "value": 3.0}, "i2"]
        assert notes_of(history=partial, **given) == [f"'{key}' also reads gap, which no event of the history has"]
        requests = [{"user": ids[0]}, {"user": ids[0], **given}]
        assert notes_of("recommend/batch", requests=requests) == [[no_context], []]


def test_a_member_without_weight_reads_nothing() -> None:
    key, settings = READERS["hybrid"]
    model = segue.train(key, context_world(), recipe="none", **{**settings, "weights": [1.0, 0.0]})
    assert segue.recommend(model, [context_world().users.ids[0]], k=2)["notes"].null_count() == 2


@pytest.mark.parametrize("name", READERS)
def test_training_requires_what_an_inner_model_reads(name: str) -> None:
    key, settings = READERS[name]
    with pytest.raises(ValueError, match="'query_context' needs the context of each query, which this split withholds"):
        segue.train(key, segue.split(context_world(), use_query_time=True), recipe="none", **settings)


def test_rank_and_explain_read_the_context_and_time_of_the_query(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, user = reader("gru4rec"), context_world().users.ids[0]
    items = list(context_world().items.ids[:5])

    def output(*arguments: str) -> Any:
        capsys.readouterr()
        with pytest.raises(SystemExit) as status:
            main([*arguments, "--json"])
        assert not status.value.code
        return json.loads(capsys.readouterr().out)

    with pytest.warns(segue.SegueWarning, match="reads query_context, which is unknown here"):
        unknown = segue.explain(model, user, item="i1", exclude_seen=False).score
    segue.save(model, tmp_path / "model")
    given: dict[str, Any] = {"context": {"device": "tv"}, "time": 1_700_000_000}
    listed = segue.recommend(model, [user], k=40, exclude_seen=False, **given)
    expected = dict(listed.select("item_id", "score").rows())
    ranked = segue.rank(model, user, items=items, **given)
    assert dict(ranked.select("item_id", "score").rows()) == pytest.approx({item: expected[item] for item in items})
    explained = segue.explain(model, user, item="i1", exclude_seen=False, **given)
    assert explained.score == pytest.approx(expected["i1"], abs=1e-5)
    assert explained.score != pytest.approx(unknown, abs=1e-5)
    options = ["--context", "device=tv", "--time", "1700000000"]
    ranks = output("rank", str(tmp_path / "model"), "--user", user, "--item", ",".join(items), *options)
    assert {one["item_id"]: one["score"] for one in ranks["ranked"]} == pytest.approx(
        {item: expected[item] for item in items}, abs=1e-5
    )
    of_item = output("explain", str(tmp_path / "model"), "--user", user, "--item", "i1", "--include-seen", *options)
    assert of_item["score"] == pytest.approx(expected["i1"], abs=1e-5)
    assert of_item["notes"] == []
    with rest("gru4rec", model, context_world()) as notes_of:
        body = {"user": user, "item": "i1", "include_seen": True, **given}
        found = notes_of.client.post("/v1/explain", json=body).json()
        assert found["item"]["score"] == pytest.approx(expected["i1"], abs=1e-4)


def test_scores_that_a_hybrid_keeps_are_those_of_the_context() -> None:
    from segue.models.hybrid.hybrid import _digest

    queries = replace(Queries.anonymous(Events.of([[0, 1]])), context={"device": np.array([0], np.int32)})
    assert _digest(queries) == _digest(replace(queries))
    assert _digest(queries) != _digest(replace(queries, context={"device": np.array([1], np.int32)}))


def rows_of_notes(model: TrainedModel, **arguments: Any) -> list[str]:
    """Return the notes of each query."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [note or "" for note in segue.recommend(model, k=1, **arguments)["notes"].to_list()]


def test_an_empty_history_has_no_note_of_the_histories_beside_it() -> None:
    given: dict[str, Any] = {"context": {"device": "tv"}, "time": 1_700_000_000}
    note = "'gru4rec' also reads value, gap, which item ids alone do not provide"
    model = reader("gru4rec")
    assert rows_of_notes(model, histories=[[], ["i1"], []], **given) == ["", note, ""]
    assert rows_of_notes(model, histories=[[]], **given) == [""]
    with rest("gru4rec", model, context_world()) as notes_of:
        requests = [{"history": [], **given}, {"history": ["i1"], **given}]
        assert notes_of("recommend/batch", requests=requests) == [[], [note]]


@pytest.mark.parametrize("name", READERS)
def test_an_empty_context_is_none_and_null_is_a_statement(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, time = reader(name), 1_700_000_000
    note = f"'{model.key}' also reads query_context, which is unknown here; give context"
    llm = "not reranked: no language model is set"
    users = context_world().users.ids[:3].to_list()
    contexts: list[Any] = [{}, {"device": None}, {"device": "tv"}]
    expected = [note, "", ""]
    if name != "llm":
        assert rows_of_notes(model, users=users, context=contexts, time=time) == expected
        table = pl.DataFrame({"user_id": users, "device": [None, "NA", "tv"]})
        assert rows_of_notes(model, users=table, time=time) == ["", "", ""]
        with pytest.warns(segue.SegueWarning, match="which is unknown here; give context"):
            segue.rank(model, users[0], items=["i1"], context={}, time=time)
    segue.save(model, tmp_path / "model")
    command = ["rank", str(tmp_path / "model"), "--user", users[0], "--item", "i1", "--time", str(time), "--json"]
    for options, has_note in (([], True), (["--context", "device=null"], False)):
        with pytest.raises(SystemExit) as status:
            main([*command, *options])
        assert not status.value.code
        assert (note in json.loads(capsys.readouterr().out)["notes"]) == has_note
    with rest(name, model, context_world()) as notes_of:
        for context, text in zip(contexts, expected, strict=True):
            found = [one for one in notes_of(user=users[0], context=context) if one != llm]
            assert found == ([text] if text else [])
