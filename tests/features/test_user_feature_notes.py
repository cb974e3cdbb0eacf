"""Features and texts of new users: the same notes and scores from every path, and none for another row."""

from __future__ import annotations

import json
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
from segue.core.types import Dataset, Events
from segue.experiment.inference.batch import recommend_to_file
from segue.experiment.inference.profiles import validate_profile
from segue.serving.app import create_app
from segue.serving.artifacts.artifact import build_artifact
from segue.serving.server import build_service
from segue.serving.settings import ServingSettings
from segue.testing import dataset

JOBS = ("aa", "bb", "ab", "cc")


@pytest.fixture(autouse=True)
def letters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr("segue.features.text.encoder.ENCODERS", "letter_encoders")
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path / "home"))
    yield
    Letters.encoded.clear()
    Letters.fits.clear()


@cache
def log() -> Dataset:
    """Users with two texts, a category that is a text, too, a number, tags and a column of distinct values."""
    rng = np.random.default_rng(0)
    rows = [(rng.permutation(8)[:4] + 8 * (user % 2)).tolist() for user in range(80)]
    table = pl.DataFrame(
        {
            "id": [f"u{user}" for user in range(80)],
            "about": [f"{'ab'[user % 2] * (1 + user % 3)} {user}" for user in range(80)],
            "posts": [f"b {user}" if user % 2 else None for user in range(80)],
            "job": [JOBS[user % 4] for user in range(80)],
            "age": [20 + user % 30 for user in range(80)],
            "tastes": [["jazz", "folk"] if user % 2 else ["folk"] for user in range(80)],
            "phone": [f"+{user}" for user in range(80)],
        }
    )
    return replace(dataset(Events.of(rows), 16), user_features=table.lazy())


@cache
def trained(*columns: str) -> TrainedModel:
    data = segue.add_text(log(), user_columns=list(columns), encoder="letters", cache="none", alphabet="ab")
    return segue.train("profile_model", data, l2=1.0)


@cache
def both() -> TrainedModel:
    return trained("about", "posts", "job")


def notes_of(model: TrainedModel, profiles: list[dict[str, Any]]) -> list[str | None]:
    """Return the notes of each row."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = segue.recommend(model, histories=[[]] * len(profiles), user_features=profiles, k=1)
    notes: list[str | None] = found["notes"].to_list()
    return notes


class Service:
    """Recommendations over REST."""

    def __init__(self, client: TestClient) -> None:
        self.client = client

    def post(self, path: str = "recommend", **body: Any) -> Any:
        response = self.client.post(f"/v1/{path}", json={"history": [], "k": 16, **body})
        assert response.status_code == 200, response.text
        return response.json()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segue.features.text.encoder.ENCODERS", "letter_encoders")
        folder = tmp_path_factory.mktemp("artifacts") / "both"
        build_artifact("both", both(), log().histories, folder, engine="native")
        found = build_service([folder], "memory:", None, ServingSettings(deadline_ms=60_000))
        with TestClient(create_app(found)) as client:
            yield Service(client)


UNKNOWN_TEXT = "{}: no word of the text '{}' is known, so that it counts as unknown"
CASES: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({}, [], []),
    ({"about": "a"}, [], []),
    ({"about": None}, [], []),
    ({"about": " "}, [], []),
    ({"about": []}, [], []),
    ({"about": "zz"}, [UNKNOWN_TEXT.format("about", "zz")], ["profile.about: the model knows no word of the text"]),
    (
        {"about": ["z", "zz"]},
        [UNKNOWN_TEXT.format("about", "z, zz")],
        ["profile.about: the model knows no word of the text"],
    ),
    ({"about": ["z", "a"]}, [], []),
    (
        {"about": "a", "posts": "zz"},
        [UNKNOWN_TEXT.format("posts", "zz")],
        ["profile.posts: the model knows no word of the text"],
    ),
    ({"job": "aa"}, [], []),
    ({"job": "aaa"}, [], []),
    ({"job": "cc"}, [], []),
    (
        {"job": "zz"},
        ["job 'zz' did not occur in training and counts as unknown; known: aa, ab, bb, cc"],
        ["profile.job: the model does not know the value"],
    ),
    (
        {"job": "zz", "about": "a"},
        ["job 'zz' did not occur in training and counts as unknown; known: aa, ab, bb, cc"],
        ["profile.job: the model does not know the value"],
    ),
    (
        {"phone": "+1"},
        ["'profile_model' makes no use of these user features: phone"],
        ["'profile_model' makes no use of these user features: phone"],
    ),
    (
        {"phone": "+1", "age": 30, "tastes": ["jazz", "blues"]},
        [
            "tastes 'blues' did not occur in training and counts as unknown; known: folk, jazz",
            "'profile_model' makes no use of these user features: phone",
        ],
        [
            "profile.tastes: the model does not know 1 of the values",
            "'profile_model' makes no use of these user features: phone",
        ],
    ),
    ({"phone": None}, [], []),
]


@pytest.mark.parametrize(("profile", "python", "rest"), CASES)
def test_each_profile_has_the_notes_that_hold_for_it(
    profile: dict[str, Any], python: list[str], rest: list[str], service: Service
) -> None:
    assert notes_of(both(), [profile]) == ["; ".join(python) or None]
    assert service.post(profile=profile)["notes"] == rest
    assert service.post("explain", profile=profile, item="i1")["notes"] == rest


def test_the_profile_of_a_stream_is_described_in_the_same_way() -> None:
    for profile, expected, _ in CASES:
        assert validate_profile(both(), profile)[1] == expected


@pytest.mark.parametrize("seed", [0, 1])
def test_notes_do_not_depend_on_other_rows(seed: int, service: Service) -> None:
    order = np.random.default_rng(seed).permutation(len(CASES))
    profiles = [CASES[row][0] for row in order]
    assert notes_of(both(), profiles) == ["; ".join(CASES[row][1]) or None for row in order]
    requests = [{"history": [], "k": 1, "profile": profile} for profile in profiles]
    found = service.client.post("/v1/recommend/batch", json={"requests": requests}).json()["responses"]
    assert [one["notes"] for one in found] == [CASES[row][2] for row in order]


def test_the_text_of_a_category_counts_only_if_the_model_reads_it() -> None:
    plain = segue.train("profile_model", log(), l2=1.0)
    (note,) = notes_of(plain, [{"job": "aaa"}])
    assert str(note).startswith("job 'aaa' did not occur in training")
    (note,) = notes_of(plain, [{"about": "a"}])
    assert note == "'profile_model' makes no use of these user features: about"


PARITY: list[dict[str, Any]] = [{"about": "a"}, {"about": "b, bb"}, {"job": "bb", "age": 41.0}, {"tastes": ["jazz"]}]


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    with pytest.raises(SystemExit) as status:
        main([*arguments, "--json"])
    out, err = capsys.readouterr()
    assert not status.value.code, err
    return json.loads(out)


@pytest.mark.parametrize("profile", PARITY)
def test_rank_and_explain_read_user_features_as_recommend_does(
    profile: dict[str, Any], service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, items = both(), [f"i{code}" for code in range(16)]
    expected = dict(segue.recommend(model, user_features=profile, k=16).select("item_id", "score").rows())
    assert expected != dict(segue.recommend(model, histories=[[]], k=16).select("item_id", "score").rows())
    users: list[dict[str, Any]] = [{}, {"history": []}, {"user": "new"}]
    for given in users:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ranked = segue.rank(model, items=items, user_features=profile, **given)
            found = segue.explain(model, item="i3", user_features=profile, **given)
        assert dict(ranked.select("item_id", "score").rows()) == pytest.approx(expected, abs=1e-5)
        assert found.score == pytest.approx(expected["i3"], abs=1e-5)
    segue.save(model, tmp_path / "model")
    option = ["--user-features", json.dumps(profile)]
    recommended = output(capsys, "recommend", str(tmp_path / "model"), "-k", "16", *option)["recommendations"]
    assert {one["item_id"]: one["score"] for one in recommended} == pytest.approx(expected, abs=1e-5)
    ranked_items = output(capsys, "rank", str(tmp_path / "model"), "--item", ",".join(items), *option)["ranked"]
    assert {one["item_id"]: one["score"] for one in ranked_items} == pytest.approx(expected, abs=1e-5)
    explained = output(capsys, "explain", str(tmp_path / "model"), "--item", "i3", *option)
    assert explained["score"] == pytest.approx(expected["i3"], abs=1e-5)
    listed = service.post(profile=profile)["items"]
    assert {one["id"]: one["score"] for one in listed} == pytest.approx(expected, abs=1e-5)
    allowed = service.post(profile=profile, allow=["i3"])["items"]
    assert allowed[0]["score"] == pytest.approx(expected["i3"], abs=1e-5)
    assert service.post("explain", profile=profile, item="i3")["item"]["score"] == pytest.approx(
        expected["i3"], abs=1e-5
    )


def test_rank_and_explain_name_wrong_user_features() -> None:
    model = both()
    for call in (
        lambda **given: segue.rank(model, items=["i1"], **given),
        lambda **given: segue.explain(model, item="i1", **given),
    ):
        with pytest.raises(ValueError, match="user_features=: apply to new users; user 'u1' was in training"):
            call(user="u1", user_features={"age": 3})
        with pytest.raises(ValueError, match="user_features=: unknown 'abuot', did you mean 'about'"):
            call(user_features={"abuot": "a"})
        with pytest.raises(ValueError, match="or user_features= of a new user"):
            call()
        with pytest.warns(segue.SegueWarning, match="about: no word of the text 'zz' is known"):
            call(user_features={"about": "zz"})


def table_of_users() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_id": ["n1", "u2", "n2", "n3", "n4"],
            "about": ["bb, b", "bbb", None, "1984", "zz"],
            "age": [None, 33, 41, None, None],
            "job": [None, None, "bb", "", None],
        }
    )


@pytest.mark.parametrize("suffix", ["memory", "pandas", "csv", "tsv", "jsonl", "parquet"])
def test_a_table_of_users_has_the_features_of_new_users(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, model = table_of_users(), both()
    profiles = [{"about": "bb, b"}, {"age": 41, "job": "bb"}, {"about": "1984"}, {"about": "zz"}]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        new = segue.recommend(model, ["n1", "n2", "n3", "n4"], user_features=profiles, k=3)
        known = segue.recommend(model, ["u2"], k=3)
        expected = {user: new.filter(pl.col("user_id") == user) for user in ("n1", "n2", "n3", "n4")} | {"u2": known}
        if suffix in ("memory", "pandas"):
            found = pl.DataFrame(segue.recommend(model, table.to_pandas() if suffix == "pandas" else table, k=3))
    if suffix not in ("memory", "pandas"):
        path = tmp_path / f"users.{suffix}"
        write: dict[str, Any] = {"csv": table.write_csv, "jsonl": table.write_ndjson, "parquet": table.write_parquet,
         "tsv": lambda file: table.write_csv(file, separator="\t")}  # fmt: skip
        write[suffix](path)
        segue.save(model, tmp_path / "model")
        command = ["recommend", str(tmp_path / "model"), "--users-file", str(path), "-k", "3"]
        listed = output(capsys, *command)
        with pytest.raises(SystemExit) as status:
            main([*command, "--out", str(tmp_path / "out.parquet")])
        assert not status.value.code
        assert "users in training have the features of the training data" in capsys.readouterr().err
        found = pl.read_parquet(tmp_path / "out.parquet")
        assert [one["item_id"] for one in listed["recommendations"]] == found["item_id"].to_list()
    for user, rows in expected.items():
        own = found.filter(pl.col("user_id") == user)
        assert own["item_id"].to_list() == rows["item_id"].to_list(), user
        assert own["score"].to_list() == pytest.approx(rows["score"].to_list(), abs=1e-6), user
    notes = {user: str(found.filter(pl.col("user_id") == user)["notes"][0]) for user in expected}
    assert (
        notes["u2"] == "users in training have the features of the training data; those of the table are for new users"
    )
    assert "no word of the text" not in notes["n1"]
    assert "no word of the text '1984'" in notes["n3"]
    assert "no word of the text 'zz'" in notes["n4"]


@pytest.mark.parametrize("block_users", [1, 2, 100])
def test_blocks_of_users_have_their_own_features(block_users: int, tmp_path: Path) -> None:
    table = table_of_users()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = segue.recommend(both(), table, k=2)
        recommend_to_file(both(), tmp_path / "out.parquet", table, 2, block_users=block_users)
    found = pl.read_parquet(tmp_path / "out.parquet")
    assert found.drop("score", "probability").equals(expected.drop("score", "probability"))
    assert found["score"].to_list() == pytest.approx(expected["score"].to_list(), abs=1e-6)


def test_columns_of_users_are_used_or_named() -> None:
    model = both()
    with pytest.warns(segue.SegueWarning, match="the column 'abuot' of the table of users is neither .* mean 'about'"):
        segue.recommend(model, pl.DataFrame({"user_id": ["n1"], "abuot": ["a"]}), k=1)
    events = pl.DataFrame({"user_id": ["n1"], "item_id": ["i1"], "about": ["a"]})
    with pytest.warns(segue.SegueWarning, match="holds events, so that its columns about are not used"):
        segue.recommend(model, events, k=1)
    with pytest.raises(ValueError, match=r"several rows of user 'n1' in a table with user features \(about\)"):
        segue.recommend(model, pl.DataFrame({"user_id": ["n1", "n1"], "about": ["a", "b"]}), k=1)
    with pytest.raises(ValueError, match="users=, row 2, column age: got 'old', expected a finite number"):
        segue.recommend(model, pl.DataFrame({"user_id": ["n1", "n2"], "age": ["3", "old"]}), k=1)
    with pytest.raises(ValueError, match="user_features=: the table of users has columns of user features, too"):
        segue.recommend(model, pl.DataFrame({"user_id": ["n1"], "about": ["a"]}), user_features={"age": 3}, k=1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["about=b, bb"], {"about": "b, bb"}),
        (["about=1984"], {"about": "1984"}),
        (["about=null", "age=25"], {"about": "null", "age": 25}),
        (["about=a=b"], {"about": "a=b"}),
        (["about=well, 2 b=3"], {"about": "well, 2 b=3"}),
        (["age=25,about=b, bb"], {"age": 25, "about": "b, bb"}),
        (['about=["a", "b, c"]'], {"about": ["a", "b, c"]}),
        (["about=[sic] b"], {"about": "[sic] b"}),
        (['{"about": "b, age=3", "age": null}'], {"about": "b, age=3", "age": None}),
        (["job=1984, x,age=3"], {"job": "1984, x", "age": 3}),
        (['tastes=["jazz", "folk"]'], {"tastes": ["jazz", "folk"]}),
        (["tastes=jazz"], {"tastes": ["jazz"]}),
        (["age=25,job=aa"], {"age": 25, "job": "aa"}),
    ],
)
def test_values_of_the_option_user_features(options: list[str], expected: dict[str, Any]) -> None:
    from segue.cli.query_options import parse_user_features

    assert parse_user_features(trained("about"), options) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([""], "got '' in '', expected NAME=VALUE, or JSON"),
        (["about"], "got 'about' in 'about', expected NAME=VALUE, or JSON"),
        (["about="], "got 'about=' in 'about=', expected NAME=VALUE"),
        (["=b"], "got '=' in '=b', expected NAME=VALUE"),
        (["job=,age=3"], "got 'job=' in 'job=,age=3', expected NAME=VALUE"),
        (["about=a", "about=b"], "got two values of 'about', expected one"),
        (['{"age": 1, "age": 2}'], "got two values of 'age', expected one"),
        (["age=old"], "age: got 'old', expected a number"),
        (["age=true"], "age: got 'true', expected a number"),
        (["tastes=[3.5]"], "tastes: got '[3.5]', expected a tag, or a list such as"),
        (["text_vector=3"], "text_vector: got '3', expected a list of numbers"),
        (['{"about": "a"'], 'got \'{"about": "a"\', which is not JSON'),
        (["about=hello, age=3"], "got 'age=' in the text of 'about', which is the rest of the option"),
    ],
)
def test_errors_of_the_option_user_features_name_what_is_expected(options: list[str], message: str) -> None:
    from segue.cli.query_options import parse_user_features

    with pytest.raises(ValueError, match="--user-features") as error:
        parse_user_features(trained("about"), options)
    assert message in str(error.value)


def test_halves_of_characters_are_errors_that_name_the_argument(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, half = both(), "a \ud800"
    for profile in ({"about": half}, {"about": ["b", half]}, {"job": half}, {"tastes": [half]}):
        (name,) = profile
        with pytest.raises(ValueError, match=rf"user_features=: {name}: got .*, expected text without lone surrogates"):
            segue.recommend(model, user_features=profile, k=1)
        body = json.dumps({"history": [], "profile": profile})
        headers = {"content-type": "application/json"}
        for path, more in (("recommend", {}), ("explain", {"item": "i1"})):
            response = service.client.post(
                f"/v1/{path}", content=json.dumps({**json.loads(body), **more}), headers=headers
            )
            assert response.status_code == 422
            assert f"profile.{name}" in response.text
    for given in ({"histories": [[half]]}, {"users": [half]}, {"titles": [half]}, {"users": ["u1"], "allow": [half]}):
        with pytest.raises(
            ValueError, match=r"(user|histor|title|allow)\w*=?: got .* without lone surrogates|no titles"
        ):
            segue.recommend(model, k=1, **given)
    with pytest.raises(ValueError, match=r"items=: got .* without lone surrogates"):
        segue.rank(model, "u1", items=[half])
    segue.save(model, tmp_path / "model")
    with pytest.raises(SystemExit) as status:
        main(["recommend", str(tmp_path / "model"), "--user-features", "about=a \udcff"])
    assert status.value.code
    assert "--user-features: about: got" in capsys.readouterr().err


def test_null_is_unknown_over_rest(service: Service) -> None:
    empty = service.post()["items"]
    for profile in ({"about": None}, {"age": None, "job": None}, {"tastes": None, "text_vector": None}):
        assert service.post(profile=profile)["items"] == empty
        assert notes_of(both(), [profile]) == [None]
    with_text = service.post(profile={"about": "bb", "text_vector": None})["items"]
    assert with_text == service.post(profile={"about": "bb"})["items"] != empty
