"""Texts of users: encoded for training, stored with the model, and encoded for new users everywhere."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from letter_encoders.letters import Letters
from starlette.testclient import TestClient

import segue
from segue.cli import main
from segue.core.bundle import TrainedModel
from segue.core.config import parse
from segue.core.types import Dataset, Events
from segue.features.text.settings import TextSettings
from segue.features.text.user_texts import UserTexts
from segue.serving.app import create_app
from segue.serving.artifacts.artifact import build_artifact
from segue.serving.server import build_service
from segue.serving.settings import ServingSettings
from segue.testing import dataset

GROUP = 8
"""Users whose text is of ``a`` take items 0 to 7, those whose text is of ``b`` items 8 to 15."""


@pytest.fixture(autouse=True)
def letters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr("segue.features.text.encoder.ENCODERS", "letter_encoders")
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path / "home"))
    yield
    Letters.encoded.clear()
    Letters.fits.clear()


def log() -> Dataset:
    rng = np.random.default_rng(0)
    rows = [(rng.permutation(GROUP)[:4] + GROUP * (user % 2)).tolist() for user in range(80)]
    texts = [f"{'ab'[user % 2] * (1 + user % 3)} {user}" for user in range(80)]
    posts = [f"b {user}" if user % 2 else None for user in range(80)]
    table = pl.DataFrame({"id": [f"u{user}" for user in range(80)], "about": texts, "posts": posts})
    titles = pl.DataFrame({"id": [f"i{code}" for code in range(2 * GROUP)], "title": ["abc"] * 2 * GROUP})
    return replace(dataset(Events.of(rows), 2 * GROUP), user_features=table.lazy(), item_features=titles.lazy())


def encoded() -> Dataset:
    return segue.add_text(log(), user_columns=["about", "posts"], encoder="letters", cache="none", alphabet="ab")


@cache
def trained() -> TrainedModel:
    return segue.train("profile_model", encoded(), l2=1.0)


def groups(table: pl.DataFrame) -> list[int]:
    return [int(item[1:]) // GROUP for item in table["item_id"]]


def test_texts_of_users_become_a_user_feature_and_those_of_items_are_apart() -> None:
    lines: list[str] = []
    both = segue.add_text(
        log(), "title", user_columns="about", encoder="letters", cache="none", log=lines.append, alphabet="abc"
    )
    assert both.user_features is not None
    assert both.item_features is not None
    assert both.user_features.collect()["text_vector"].to_list()[:3] == [[1, 0, 0], [0, 2, 0], [3, 0, 0]]
    assert both.item_features.collect()["text_vector"].to_list()[0] == [1, 1, 1]
    assert [line.partition(",")[0] for line in lines] == [
        "text: letters encoded title of 16 of 16 items as text_vector",
        "text: letters encoded about of 80 of 80 users as text_vector",
    ]
    assert both.text_encodings[0].settings["columns"] == ["title"]
    assert both.user_text_encodings[0].settings["columns"] == ["about"]
    assert encoded().user_features.collect()["text_vector"].to_list()[1] == [0, 3]  # type: ignore[union-attr]
    assert encoded().text_encodings == ()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"user_columns": ["abuot"]}, r"text\.user_columns: 'world' has no user feature 'abuot', did you mean 'about'"),
        ({"user_columns": ["about"], "name": "posts"}, r"text\.name: users of 'world' have a feature 'posts' already"),
        (
            {"user_columns": ["about"], "alphabet": "x"},
            r"text\.user_columns: about: letters knows no word of the texts",
        ),
        ({"user_columns": ["about", "about"]}, "user_columns: got about, about"),
    ],
)
def test_unusable_columns_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segue.add_text(log(), encoder="letters", cache="none", **values)


def test_columns_without_text_are_named_with_their_argument() -> None:
    data = log()
    assert data.user_features is not None
    with_age = replace(data, user_features=data.user_features.with_columns(age=pl.lit(3)))
    with pytest.raises(ValueError, match=r"text\.user_columns: 'age' holds Int32, expected texts or lists of texts"):
        segue.add_text(with_age, user_columns=["age"], encoder="letters", cache="none")
    with pytest.raises(ValueError, match=r"text\.columns: got none, and text\.user_columns neither"):
        segue.add_text(with_age, cache="none")


def test_new_users_with_a_text_get_what_users_with_similar_texts_like() -> None:
    features = [{"about": "aaa"}, {"about": "bbb"}, {"about": ["b", "bb"]}]
    table = segue.recommend(trained(), histories=[[], [], []], user_features=features, k=3)
    assert groups(table) == [0] * 3 + [1] * 6
    assert table["notes"].null_count() == 9
    one = segue.recommend(trained(), histories=[[]], user_features={"text_vector": [3.0, 0.0]}, k=3)
    expected = pytest.approx(table["score"].to_list()[:3], abs=1e-5)
    assert one["score"].to_list() == expected, "the text has the vector of training"


def test_saved_models_and_the_command_line_encode_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segue.save(trained(), tmp_path / "model")
    opened = segue.open(tmp_path / "model")
    arguments: dict[str, Any] = {"histories": [[]], "user_features": {"about": "bbb"}, "k": 3}
    assert segue.recommend(opened, **arguments).equals(segue.recommend(trained(), **arguments))
    with pytest.raises(SystemExit) as status:
        main(["recommend", str(tmp_path / "model"), "--user-features", "about=bbb", "-k", "3"])
    assert not status.value.code
    found = re.findall(r"\bi(\d+)\b", capsys.readouterr().out)
    assert [int(code) // GROUP for code in found] == [1, 1, 1]


def test_the_service_encodes_texts_of_profiles(tmp_path: Path) -> None:
    build_artifact("texts", trained(), log().histories, tmp_path / "texts", engine="native")
    service = build_service([tmp_path / "texts"], "memory:", None, ServingSettings(deadline_ms=60_000))
    with TestClient(create_app(service)) as client:

        def post(**body: Any) -> Any:
            return client.post("/v1/recommend", json={"history": [], "k": 3, **body})

        for profile, group in (({"about": "aaa"}, 0), ({"about": "bbb"}, 1), ({"posts": ["bb", "b"]}, 1)):
            response = post(profile=profile).json()
            assert [int(item["id"][1:]) // GROUP for item in response["items"]] == [group] * 3
            assert response["unknown"]["features"] == []
        wrong = post(profile={"about": 3})
        assert wrong.status_code == 422
        assert "about" in wrong.text
        assert "expected a text" in wrong.text
        both = post(profile={"about": "a", "text_vector": [1.0, 0.0]})
        assert both.status_code == 422


def test_the_service_does_not_tell_clients_why_an_encoder_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    build_artifact("texts", trained(), log().histories, tmp_path / "texts", engine="native")
    service = build_service([tmp_path / "texts"], "memory:", None, ServingSettings(deadline_ms=60_000))

    def fail(self: UserTexts) -> None:
        raise ValueError("no file '/secret/vectors.txt'")

    monkeypatch.setattr(UserTexts, "open", fail)
    with TestClient(create_app(service)) as client:
        response = client.post("/v1/recommend", json={"history": [], "k": 3, "profile": {"about": "a"}})
    assert response.status_code == 422
    assert "about" in response.text
    assert "the log has the reason" in response.text
    assert "secret" not in response.text
    assert "/secret/vectors.txt" in caplog.text


def test_runs_encode_texts_of_users(tmp_path: Path) -> None:
    from segue.experiment.data import load_data, load_run_data
    from segue.experiment.plan import make_plan
    from segue.experiment.run_experiment import run_plan
    from segue.experiment.run_folder import create_run

    data = "simulated?users=40&items=30"
    text = ["text.user_columns=[occupation]", "text.encoder=letters", 'text.options={"alphabet": "aeiou"}']
    plan = make_plan({"model": "profile_model", "data": data}, [*text, "evaluation.baseline=none"], "none")
    folder = create_run(plan, tmp_path / "run")
    lines: list[str] = []
    run_plan(plan, folder, log=lines.append)
    assert any("letters encoded occupation of" in line and "users as text_vector" in line for line in lines)
    again = load_run_data(folder).user_features
    assert again is not None
    assert again.collect().equals(load_data(plan).user_features.collect())  # type: ignore[union-attr]
    assert [one.name for one in segue.open(folder).model.schema.user_features if one.kind == "vector"] == [
        "text_vector"
    ]
    plain = make_plan({"model": "profile_model", "data": data}, ["evaluation.baseline=none"], "none")
    assert plain.fingerprint() != plan.fingerprint()


def test_a_model_that_reads_no_user_features_is_told_that_their_text_has_no_effect() -> None:
    from segue.experiment.data import load_data, report_inputs
    from segue.experiment.plan import make_plan

    plan = make_plan(
        {"model": "popular", "data": "simulated?users=40&items=30"},
        ["text.user_columns=[gender]", "text.encoder=letters", 'text.options={"alphabet": "FM"}'],
        "none",
    )
    lines: list[str] = []
    report_inputs(plan, load_data(plan), lines.append)
    assert lines == ["text: text_vector has no effect: 'popular' reads no user features"]


def test_a_missing_encoder_is_named() -> None:
    encoding = replace(trained().user_text_encodings[0], digest="other")
    with pytest.raises(ValueError, match="about: the text cannot be encoded: text: letters: its files or code have"):
        UserTexts([encoding]).encode([{"about": "a"}])
    unused = UserTexts([encoding]).encode([{"age": 3, "about": None}, None])
    assert [one.values for one in unused] == [{"age": 3, "about": None}, {}]
    assert [one.values for one in UserTexts([]).encode([{"about": "a"}])] == [{"about": "a"}]


def test_settings_of_texts_of_users_need_their_columns() -> None:
    with pytest.raises(ValueError, match=r"text\.user_columns"):
        parse(TextSettings, {"encoder": "letters"}, "text")
    assert parse(TextSettings, {"user_columns": "about", "encoder": "letters"}, "text").user_columns == ("about",)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [1, 0, 2, 3], [3, 2, 1, 0], [0, 3, 1, 2]])
def test_users_without_a_profile_among_others_are_ranked_as_alone(order: list[int]) -> None:
    profiles: list[dict[str, Any]] = [{}, {"about": "b b"}, {"about": "x"}, {"about": None}]

    def lists(rows: list[dict[str, Any]]) -> pl.DataFrame:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: pl.DataFrame = segue.recommend(trained(), histories=[[]] * len(rows), user_features=rows, k=4)
        return found

    alone = [lists([profile])["item_id"].to_list() for profile in profiles]
    assert alone[1] != alone[0] == alone[2] == alone[3]
    together = lists([profiles[row] for row in order])
    for place, row in enumerate(order):
        found = together.filter(pl.col("query") == place)
        assert found["item_id"].to_list() == alone[row]
        has_note = profiles[row].get("about") == "x"
        assert found["notes"].is_not_null().to_list() == [has_note] * len(found), "the model reads the column"
