"""Requests that parsers, encodings or rules could read in several ways are answered as meant, reported, or rejected."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from starlette.testclient import TestClient

from segue.core import bundle
from segue.core.types import Vocab
from segue.serving import schemas
from segue.serving.app import create_app
from segue.serving.artifacts.artifact import build_artifact
from segue.serving.model_registry import ModelRegistry
from segue.serving.monitoring.metrics import Metrics
from segue.serving.service import Service
from segue.serving.settings import ServingSettings
from segue.serving.stores.open import open_store
from segue.testing.training import train_small
from tests.folders import new_folder
from tests.serving import rich_world, world

JSON = {"Content-Type": "application/json"}

UNUSUAL = [
    "é", "e\u0301", "\u212b", "\u00c5", "ﬁ", "fi", "ß", "ss", "A", "a", "7", "007", "7.0", " 7", "-7", "٧", "a/b",
    "a%2Fb", "a%252Fb", "a/similar", "a+b", "a b", "50%", "a?b", "a#b", "[1]", '{"item": "A"}', "null", "true", "NaN",
    "a/similar/similar", "similar", "/similar", "/a", "a/", "//",
]  # fmt: skip
"""Ids that some normalization or decoding would merge or change."""


@cache
def unusual_folder() -> Path:
    """Build an artifact whose item ids are unusual."""
    data = world.shop()
    names = [*UNUSUAL, *(f"i{n}" for n in range(len(UNUSUAL), data.n_items))]
    price = pl.Series([0.01 * n + 19.9 for n in range(data.n_items)], dtype=pl.Float32)
    features = pl.LazyFrame({"id": names, "title": [f"Title {n}" for n in range(data.n_items)], "price": price})
    data = replace(data, items=Vocab(names), item_features=features)
    folder = new_folder() / "ease"
    build_artifact(
        "ease", bundle.create("ease", train_small("ease", data), data), data.histories, folder, engine="native"
    )
    return folder


@pytest.fixture(scope="module")
def plain() -> Iterator[TestClient]:
    with TestClient(create_app(world.service("ease", max_history=50, max_k=60))) as client:
        yield client


@pytest.fixture(scope="module")
def unusual() -> Iterator[TestClient]:
    store = open_store("memory:")
    service = Service(ModelRegistry([unusual_folder()], store), store, ServingSettings(deadline_ms=60_000), Metrics())
    with TestClient(create_app(service)) as client:
        yield client


def post(client: TestClient, path: str, body: Any, status: int = 200) -> Any:
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    response = client.post(f"/v1/{path}", content=content, headers=JSON)
    assert response.status_code == status, response.text
    return response.json()


def recommend(client: TestClient, **body: Any) -> tuple[list[str], Any]:
    response = post(client, "recommend", body)
    return [item["id"] for item in response["items"]], response


# JSON and URLs


@pytest.mark.parametrize(
    ("path", "body", "key"),
    [
        ("recommend", '{"user": "u1", "user": "u2"}', "user"),
        ("recommend", '{"user": "u1", "k": 3, "k": 3}', "k"),
        ("recommend", '{"user": "u1", "u\\u0073er": "u2"}', "user"),
        ("recommend", '{"filter": {"year": {"min": 1990, "min": 2000}}}', "min"),
        ("recommend", '{"history": [{"item": "i1", "item": "i2"}]}', "item"),
        ("events", '{"user": "u1", "item": "i1", "item": "i2"}', "item"),
        ("events/batch", '{"events": [{"user": "u1", "item": "i1"}], "events": []}', "events"),
        ("explain", '{"item": "i1", "profile": {"age": 1, "age": 2}}', "age"),
    ],
)
def test_duplicate_keys_are_rejected(plain: TestClient, path: str, body: str, key: str) -> None:
    error = post(plain, path, body, 400)
    assert error["message"] == f"the body is not valid JSON: duplicate key '{key}'"
    assert plain.get("/v1/users/u1").json()["events"][-1]["origin"] == "training", "nothing was stored"


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("body", ['{"time": %s}', '{"diversify": %s}', '{"filter": {"year": {"min": %s}}}'])
def test_numbers_that_are_not_json_are_rejected(plain: TestClient, body: str, constant: str) -> None:
    assert "NaN and Infinity are not allowed" in post(plain, "recommend", body % constant, 400)["message"]
    assert post(plain, "recommend", body % "1e999", 422)["fields"]


def test_words_that_are_no_constants_are_text(plain: TestClient) -> None:
    for word in ("NaN", "Infinity", "null", "true"):
        assert recommend(plain, history=[word], deny=[word])[1]["unknown"]["items"] == [word]


@pytest.mark.parametrize(
    ("method", "path", "field", "reason"),
    [
        ("GET", "items?qurey=title", "qurey", "unknown query parameter, expected query or limit"),
        ("GET", "items?limit=3&limit=5", "limit", "got the query parameter 2 times, expected it once"),
        ("GET", "items/i1?k=3", "k", "unknown query parameter, expected none"),
        ("GET", "items/i1/similar?limit=3", "limit", "unknown query parameter, expected k"),
        ("GET", "users/u1?k=3", "k", "unknown query parameter, expected limit"),
        ("DELETE", "users/u1?confirm=no", "confirm", "unknown query parameter, expected none"),
        ("POST", "recommend?k=3", "k", "unknown query parameter, expected none"),
        ("POST", "events?user=u1", "user", "unknown query parameter, expected none"),
    ],
)
def test_query_parameters_that_nothing_reads_are_rejected(
    plain: TestClient, method: str, path: str, field: str, reason: str
) -> None:
    content = b'{"user": "u1", "item": "i1"}' if method == "POST" else None
    response = plain.request(method, f"/v1/{path}", content=content, headers=JSON if content else {})
    assert (response.status_code, response.json()["fields"]) == (422, {field: reason})
    assert plain.get("/v1/users/u1").json()["deleted"] is False


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "text/json", "", "json"])
def test_other_content_types_store_nothing(plain: TestClient, content_type: str) -> None:
    body = b'{"user": "typed", "item": "i1"}'
    response = plain.post("/v1/events", content=body, headers={"Content-Type": content_type})
    assert response.status_code == 415
    assert plain.get("/v1/users/typed").json()["total"] == 0


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"user": "\xe9"}', "at character 10: expected UTF-8"),
        (b'{"user": "\xed\xa0\x80"}', "at character 10: expected UTF-8"),
        (b'{"profile":' + b"[" * 90_000, ": nested too deeply"),
        (b'{"user": "u1"} {"user": "u2"}', "at character 15: Extra data"),
    ],
)
def test_malformed_bodies_have_a_reason(plain: TestClient, body: bytes, reason: str) -> None:
    assert post(plain, "recommend", body, 400)["message"].startswith("the body is not valid JSON")
    assert post(plain, "recommend", body, 400)["message"].endswith(reason)


# Ids


def test_ids_that_look_alike_are_different_items(unusual: TestClient) -> None:
    for item in UNUSUAL:
        ids, response = recommend(unusual, allow=[item], history=[])
        assert (ids, response["unknown"]["items"]) == ([item], [])
        assert post(unusual, "explain", {"item": item, "history": []})["item"]["id"] == item
        stored = post(unusual, "events", {"user": item, "item": item, "time": 5})
        assert stored["unknown_items"] == []
    users = [f"{item}" for item in UNUSUAL]
    responses = post(unusual, "recommend/batch", {"requests": [{"user": user, "k": 40} for user in users]})["responses"]
    for user, response in zip(users, responses, strict=True):
        assert {item["id"] for item in response["items"]} >= set(UNUSUAL) - {user}
        assert user not in {item["id"] for item in response["items"]}
    for form in ("7.00", "E\u0301", "fı", "7 ", "a%2fb"):
        assert recommend(unusual, history=[form])[1]["unknown"]["items"] == [form]


def test_paths_name_exactly_one_item(unusual: TestClient) -> None:
    """Percent-encoded slashes are part of the id, also before ``similar``."""

    async def get_all() -> list[Any]:
        transport = httpx.ASGITransport(unusual.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            found = []
            for item in UNUSUAL:
                encoded = "".join(f"%{byte:02X}" for byte in item.encode())
                found.append((item, await client.get(f"/v1/items/{encoded}")))
                found.append((None, await client.get(f"/v1/items/{encoded}/similar?k=3")))
            found.append(("a/b", await client.get("/v1/items/a/b")))
            found.append((None, await client.get("/v1/items/a/similar")))
            found.append((None, await client.get("/v1/items/a/simil%61r?k=3")))
            found.append(("/a", await client.get("/v1/items//a")))
            found.append(("similar", await client.get("/v1/items/similar")))
            found.append((None, await client.get("/v1/items/a/b/similar?k=3")))
            return found

    for item, response in asyncio.run(get_all()):
        assert response.status_code == 200, item
        assert response.json()["id"] == item if item is not None else len(response.json()["items"]) > 0


def test_empty_and_overlong_ids_are_rejected(plain: TestClient) -> None:
    for path in ("items/", "users/", "items//similar"):
        assert plain.get(f"/v1/{path}").status_code in (404, 422)
    assert plain.delete("/v1/users/").status_code == 422
    for path in ("items", "users"):
        response = plain.get(f"/v1/{path}/{'a' * 1_000}")
        assert (response.status_code, list(response.json()["fields"])) == (422, ["id"])
        assert plain.get(f"/v1/{path}/{'a' * 10_000}").status_code == 414


# Counts and lists


@pytest.mark.parametrize("k", [0, -1, 61, 10**6, 10**100, 2.5, "3", True, None, [3]])
def test_impossible_numbers_of_items_are_rejected(plain: TestClient, k: Any) -> None:
    for path, more in (("recommend", {}), ("explain", {"item": "i1"})):
        assert list(post(plain, path, {"k": k, **more}, 422)["fields"]) == ["k"]
    assert list(post(plain, "recommend/batch", {"requests": [{}, {"k": k}]}, 422)["fields"]) == ["requests[1].k"]
    if isinstance(k, int) and not isinstance(k, bool):
        assert plain.get(f"/v1/items/i1/similar?k={k}").status_code == 422
        assert plain.get("/v1/items?limit=0").status_code == 422


def test_more_items_than_the_catalog_has_are_noted(plain: TestClient) -> None:
    ids, response = recommend(plain, history=["i1"], k=60)
    assert len(set(ids)) == len(ids) == 39
    assert response["notes"] == ["only 39 items left to recommend"]


def test_empty_lists(plain: TestClient) -> None:
    for path, name in (("recommend/batch", "requests"), ("events/batch", "events")):
        assert list(post(plain, path, {name: []}, 422)["fields"]) == [name]
    everything, _ = recommend(plain, history=[], k=40)
    assert len(everything) == 40
    same = {"deny": [], "pins": [], "boosts": [], "filter": {}, "max_per_value": {}, "profile": {}}
    assert recommend(plain, history=[], k=40, **same)[0] == everything
    ids, response = recommend(plain, history=[], allow=[])
    assert (ids, response["notes"]) == ([], ["no items left to recommend"])
    assert response["filtered_counts"]["allow"] == 40
    for condition in ([], {"any": []}):
        assert post(plain, "recommend", {"filter": {"genres": condition}}, 422)


def test_items_outside_the_catalog_are_reported_once(plain: TestClient) -> None:
    ids, response = recommend(plain, allow=["i1", "gone", "i1", "gone"], deny=["lost", "gone"], history=["old", "old"])
    assert ids == ["i1"]
    assert response["unknown"]["items"] == ["old", "gone", "lost"]
    ids, response = recommend(plain, allow=["gone"])
    assert (ids, response["unknown"]["items"]) == ([], ["gone"])
    assert "no items left to recommend" in response["notes"]


def test_repeated_items_of_a_history_are_events_of_their_own(plain: TestClient) -> None:
    for model in ("ease",):
        once, response = recommend(plain, history=["i1", "i2"], model=model, k=40)
        assert response["filtered_counts"]["seen"] == 2
        repeated, response = recommend(plain, history=["i1", "i2", "i1", "i1"], model=model, k=40)
        assert response["filtered_counts"]["seen"] == 2
        assert set(repeated) == set(once)
        assert not {"i1", "i2"} & set(repeated)


def test_long_histories(plain: TestClient) -> None:
    history = [f"i{n % 20}" for n in range(50)]
    assert recommend(plain, history=history)[1]["filtered_counts"]["seen"] == 20
    error = post(plain, "recommend", {"history": [*history, "i1"]}, 422)
    assert error["fields"] == {"history": "got 51 events, expected at most 50"}
    assert list(post(plain, "explain", {"item": "i1", "history": [*history, "i1"]}, 422)["fields"]) == ["history"]


def test_histories_with_the_newest_event_first_are_reported(plain: TestClient) -> None:
    history = [{"item": "i1", "time": 9}, "i2", {"item": "i3", "time": 5}, {"item": "i4", "time": 3}]
    expected = ["history[2].time: 5 is before the time of an earlier event; expected the oldest event first"]
    assert recommend(plain, history=history)[1]["notes"] == expected
    assert post(plain, "explain", {"item": "i9", "history": history})["notes"] == expected
    assert recommend(plain, history=history[::-1])[1]["notes"] == []


def test_unknown_categories_of_a_profile_are_reported() -> None:
    with TestClient(create_app(rich_world.service("gru4rec"))) as client:
        for profile, notes in (
            ({"city": "Oslo", "tastes": ["jazz", "all"]}, []),
            ({"city": 5.0}, ["profile.city: the model does not know the value"]),
            ({"city": "Paris"}, ["profile.city: the model does not know the value"]),
            ({"city": "oslo", "tastes": ["rock", "jazz", "pop"]}, [
                "profile.city: the model does not know the value",
                "profile.tastes: the model does not know 2 of the values",
            ]),
        ):  # fmt: skip
            assert recommend(client, user="u1", profile=profile)[1]["notes"] == notes
            assert post(client, "explain", {"item": "i1", "profile": profile})["notes"] == notes
        for value, shown in (("alice", "text"), (["alice"], "a list"), (True, "true")):
            error = post(client, "recommend", {"profile": {"age": value}}, 422)
            assert error["fields"]["profile.age"].startswith(f"got {shown}, expected a number"), "no text of people"


@pytest.mark.parametrize(("model", "reads"), [("ease", "read and "), ("gru4rec", "")])
def test_users_with_more_events_than_are_used_are_reported(model: str, reads: str) -> None:
    with TestClient(create_app(world.service(model, max_user_events=12))) as client:
        n_training = client.get("/v1/users/u1").json()["total"]
        for user, n_known in (("u1", n_training), ("new", 0)):
            for number in range(14 - n_known):
                assert recommend(client, user=user)[1]["notes"] == [] or number + n_known > 12
                post(client, "events", {"user": user, "item": f"i{20 + number}"})
            expected = [f"the user has 14 events; only the newest 12 are {reads}excluded as seen"]
            assert recommend(client, user=user)[1]["notes"] == expected
            assert post(client, "explain", {"user": user, "item": "i1"})["notes"] == expected
            assert recommend(client, user=user, history=[])[1]["notes"] == []


# Rules


def test_contradictory_rules_are_reported(plain: TestClient) -> None:
    pins = [{"item": "i3", "position": 1}, {"item": "i4", "position": 1}, {"item": "i4", "position": 5}]
    ids, response = recommend(plain, history=[], pins=[*pins, {"item": "i5", "position": 50}], deny=["i3"], k=4)
    assert "i3" not in ids
    assert ids[0] == "i4"
    assert "i5" not in ids
    assert response["notes"] == [
        "pins: 'i3' is not shown: another rule excludes it",
        "pins: 'i4' is pinned more than once; position 5 is ignored",
        "pins: 'i5' is not shown: position 50 is beyond the 4 requested items",
    ]
    ids, response = recommend(plain, history=[], pins=[pins[0], pins[1]], k=4)
    assert ids[:2] == ["i3", "i4"]
    assert response["notes"] == ["pins: 'i4' moves to position 2: 1 is taken"]
    comedies = [{"item": f"i{3 * n}", "position": n + 1} for n in range(3)]
    ids, response = recommend(plain, history=[], pins=comedies, max_per_value={"genres": 1}, k=10)
    assert ids[:3] == ["i0", "i3", "i6"]
    assert len(ids) == 5
    assert response["notes"][0] == "max_per_value: pins put 3 items with genres Comedy into the list, above 1"
    assert recommend(plain, history=[], pins=comedies, max_per_value={"genres": 3}, k=4)[1]["notes"] == []
    ids, response = recommend(plain, history=[], allow=["i1", "i2"], deny=["i1", "i2"])
    assert (ids, response["notes"]) == ([], ["no items left to recommend"])
    ids, response = recommend(plain, history=[], filter={"year": {"min": 2000, "max": 1995}})
    assert (ids, response["filtered_counts"]["filter"]) == ([], 40)
    explanation = post(plain, "explain", {"item": "i3", "pins": [pins[0]], "deny": ["i3"], "history": []})
    assert not explanation["recommended"]
    assert "another rule excludes it" in explanation["rules"]["pins"]
    assert explanation["notes"] == ["pins: 'i3' is not shown: another rule excludes it"]


def test_values_that_no_item_has_are_reported(plain: TestClient) -> None:
    for condition, notes in (
        ({"genres": "war"}, ["filter.genres: no item has the value 'war'"]),
        ({"genres": ["War", "Commedy"]}, ["filter.genres: no item has the value 'Commedy'"]),
        ({"genres": {"none": ["Horror"]}}, ["filter.genres: no item has the value 'Horror'"]),
        ({"genres": {"any": ["War"], "none": list("abcde")}},
         ["filter.genres: no item has the value 'a', 'b', 'c' and 2 more"]),
        ({"year": [1995, 1995.5, 10**30]}, [f"filter.year: no item has the value 1995.5, {10**30}"]),
        ({"year": 1995.0, "genres": "War", "title": {"none": ["Title 3"]}}, []),
        ({"year": {"min": 3000}}, []),
    ):  # fmt: skip
        response = recommend(plain, history=[], filter=condition, k=1)[1]
        assert [note for note in response["notes"] if "left to recommend" not in note] == notes
    boosts = [{"filter": {"genres": "War"}, "factor": 2}, {"filter": {"title": "Titel 3"}, "factor": 2}]
    assert recommend(plain, history=[], boosts=boosts)[1]["notes"] == [
        "boosts[1].filter.title: no item has the value 'Titel 3'"
    ]


def test_numbers_of_32_bits_match_the_number_that_was_meant(unusual: TestClient) -> None:
    """19.99 in a column of 32 bits is 19.9899997..., which is less than 19.99."""
    prices = np.round(0.01 * np.arange(40) + 19.9, 2)
    assert len(recommend(unusual, history=[], filter={"price": 19.99}, k=40)[0]) == 1
    for low, high in ((19.99, None), (None, 19.99), (19.93, 19.99)):
        bounds = {name: bound for name, bound in (("min", low), ("max", high)) if bound is not None}
        expected = int(((prices >= (low or 0)) & (prices <= (high or 99))).sum())
        assert len(recommend(unusual, history=[], filter={"price": bounds}, k=40)[0]) == expected


# Events


def test_a_key_with_other_content_is_reported(plain: TestClient) -> None:
    first = {"user": "keyed", "item": "i1", "value": 3, "time": 5, "key": "a"}
    assert post(plain, "events", first)["conflicts"] == []
    for retry in (first, {name: value for name, value in first.items() if name != "time"}):
        result = post(plain, "events", retry)
        assert (result["accepted"], result["duplicates"], result["conflicts"]) == (0, 1, [])
    for changed in ({"item": "i2"}, {"value": 4}, {"time": 6}, {"action": "other"}):
        result = post(plain, "events", {**first, **changed})
        assert (result["accepted"], result["duplicates"], result["conflicts"]) == (0, 1, ["a"])
    assert post(plain, "events", {**first, "user": "other", "item": "i2"})["accepted"] == 1, "keys belong to a user"
    batch = [{**first, "key": "b"}, {**first, "key": "b", "item": "i9"}, {**first, "key": "c"}, first]
    result = post(plain, "events/batch", {"events": batch})
    assert (result["accepted"], result["duplicates"], result["conflicts"]) == (2, 2, ["b"])
    events = plain.get("/v1/users/keyed").json()["events"]
    assert [(event["item"], event["value"]) for event in events] == [("i1", 3.0)] * 3
    assert "conflicts" in schemas.EventsAccepted.model_json_schema()["properties"]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "redis"])
def test_conflicts_are_found_in_every_store(kind: str, new_address: Callable[[str], str]) -> None:
    event = {"user": "é\u2028", "item": 2**64, "value": 1 / 3, "time": 10**11 - 1, "action": "ü", "key": "k"}
    with TestClient(create_app(world.service("ease", store=new_address(kind)))) as client:
        assert post(client, "events", event)["accepted"] == 1
        for changed, conflicts in (({}, []), ({"value": 0.3333}, ["k"]), ({"item": "18446744073709551616"}, [])):
            assert post(client, "events", {**event, **changed})["conflicts"] == conflicts


def test_a_failing_comparison_of_keys_does_not_hide_that_events_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    from segue.serving.stores.store import StoreError

    service = world.service("ease")
    event = {"user": "u1", "item": "i1", "key": "a"}
    with TestClient(create_app(service)) as client:
        post(client, "events", event)

        def unavailable(*_: Any) -> Any:
            raise StoreError("unavailable")

        monkeypatch.setattr(service.store, "recent_events", unavailable)
        result = post(client, "events/batch", {"events": [event, {**event, "key": "b"}]})
        assert (result["accepted"], result["duplicates"]) == (1, 1)
