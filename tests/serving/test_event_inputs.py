"""Ids, times and kinds of events over REST are taken as meant, or rejected with their field."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from segue.core.types import DataSchema
from segue.core.vocab import MAX_ID_LENGTH
from segue.serving.app import create_app
from segue.serving.users.event_actions import resolve_action
from segue.serving.users.query_builder import concat_histories, encode_history
from tests.serving import rich_world, world


@pytest.fixture(scope="module")
def plain() -> Iterator[TestClient]:
    with TestClient(create_app(world.service("ease"))) as client:
        yield client


@pytest.fixture(scope="module")
def rich() -> Iterator[TestClient]:
    with TestClient(create_app(rich_world.service("gru4rec"))) as client:
        yield client


EVENT: dict[str, Any] = {"user": "u1", "item": "i1", "action": "view"}


TIMED = {**EVENT, "user": "timed"}
PLACES: list[tuple[str, str, Any]] = [
    ("events", "time", lambda time: {**TIMED, "time": time}),
    ("events/batch", "events[1].time", lambda time: {"events": [TIMED, {**TIMED, "time": time}]}),
    ("recommend", "time", lambda time: {"time": time}),
    ("recommend", "history[0].time", lambda time: {"history": [{"item": "i1", "time": time}]}),
    ("recommend/batch", "requests[1].time", lambda time: {"requests": [{}, {"time": time}]}),
    ("explain", "time", lambda time: {"item": "i1", "time": time}),
    ("explain", "history[0].time", lambda time: {"item": "i1", "history": [{"item": "i2", "time": time}]}),
]
"""Path, field and body of every request with a time."""


@pytest.mark.parametrize(
    ("time", "reason"),
    [
        (1_700_000_000_000, "milliseconds or a finer unit, got 1700000000000"),
        (1.7e12, "milliseconds or a finer unit, got 1700000000000.0"),
        (1_700_000_000_000_000, "milliseconds or a finer unit"),
        (1_700_000_000_000_000_000, "milliseconds or a finer unit"),
        (10**300, "milliseconds or a finer unit, got an integer of 301 digits"),
        (10**11, "milliseconds or a finer unit"),
        (-1, "greater than or equal to 0, got -1"),
        (-0.5, "greater than or equal to 0, got -0.5"),
        (-1_700_000_000_000, "greater than or equal to 0"),
        ("2023-11-14T22:13:20Z", "such as 1700000000, got text of 20 characters"),
        ("2023-11-14", "such as 1700000000, got text"),
        ("1700000000", "such as 1700000000, got text"),
        ("", "such as 1700000000, got empty text"),
        (True, "such as 1700000000, got true"),
        ([1_700_000_000], "such as 1700000000, got a list"),
    ],
)
def test_times_that_are_not_unix_seconds_are_rejected(plain: TestClient, time: Any, reason: str) -> None:
    for path, field, body in PLACES:
        response = plain.post(f"/v1/{path}", json=body(time))
        assert response.status_code == 422
        assert reason in response.json()["fields"][field]
    assert plain.get("/v1/users/timed").json()["total"] == 0, "nothing was stored"


@pytest.mark.parametrize(
    ("time", "stored"),
    [(0, 0), (0.9, 0), (1_700_000_000.987, 1_700_000_000), (1.7e9, 1_700_000_000), (10**11 - 1, 10**11 - 1)],
)
def test_fractions_of_a_second_are_dropped(plain: TestClient, time: float, stored: int) -> None:
    for path, _, body in PLACES:
        assert plain.post(f"/v1/{path}", json=body(time)).status_code == 200
    times = [event["time"] for event in plain.get("/v1/users/timed").json()["events"]]
    assert [times[0], times[2]] == [stored, stored]
    plain.delete("/v1/users/timed")


def test_times_after_2099_are_reported(rich: TestClient) -> None:
    for path, field, body in PLACES:
        late, early = (rich.post(f"/v1/{path}", json=body(time)).json() for time in (4_102_444_800, 4_102_444_799))
        for response, count in ((late, 1), (early, 0)):
            own = response["responses"][1] if path == "recommend/batch" else response
            name = field.rpartition("].")[2] if path == "recommend/batch" else field
            expected = [f"{name}: 4102444800 after 2099; used as given, check the unit"] * count
            assert [note for note in own["notes"] if "after 2099" in note] == expected
    batch = {"events": [{**TIMED, "time": 5_000_000_000}] * 3}
    (note,) = rich.post("/v1/events/batch", json=batch).json()["notes"]
    assert note == "events[0].time: 5000000000 and 2 more after 2099; used as given, check the unit"
    rich.delete("/v1/users/timed")


@pytest.mark.parametrize(("action", "reason"), [(None, "missing"), ("buy", "unknown kind of event")])
def test_events_of_an_unknown_kind_are_rejected_as_a_whole(rich: TestClient, action: Any, reason: str) -> None:
    bad = {**EVENT, "user": "new", "action": action}
    expected = f"{reason}, expected one of view, purchase"
    response = rich.post("/v1/events", json=bad)
    assert (response.status_code, response.json()["fields"]) == (422, {"action": expected})
    response = rich.post("/v1/events/batch", json={"events": [{**bad, "action": "purchase"}, bad]})
    assert (response.status_code, response.json()["fields"]) == (422, {"events[1].action": expected})
    assert rich.get("/v1/users/new").json()["total"] == 0
    accepted = {**bad, "action": "purchase"}
    assert rich.post("/v1/events", json=accepted).json()["accepted"] == 1
    assert rich.get("/v1/users/new").json()["events"][0]["action"] == "purchase"
    rich.delete("/v1/users/new")


def test_an_event_without_a_kind_counts_as_the_target() -> None:
    schema = DataSchema(1, 1, ("cart", "view"), target=1)
    assert resolve_action(schema, None) == "view"
    assert resolve_action(replace(schema, target=None, actions=("buy",)), None) == "buy"
    assert resolve_action(DataSchema(1, 1), None) is None
    assert resolve_action(DataSchema(1, 1), "any") == "any", "the log has no kinds"
    with pytest.raises(ValueError, match="missing, expected one of cart, view"):
        resolve_action(replace(schema, target=None), None)


def test_unknown_kinds_in_a_history_are_rejected_and_missing_ones_are_unknown(rich: TestClient) -> None:
    history: list[Any] = ["i1", {"item": "i2", "action": "buy"}]
    for path, more in (("recommend", {}), ("explain", {"item": "i5"})):
        response = rich.post(f"/v1/{path}", json={"history": history, **more})
        assert response.status_code == 422
        expected = "unknown kind of event, expected one of view, purchase"
        assert response.json()["fields"] == {"history[1].action": expected}
    service = rich_world.service("gru4rec")
    artifact = service.models.active.artifact
    events, _ = encode_history(artifact, ["i1"])
    assert events.context["action_known"].tolist() == [False]
    both = concat_histories([events, encode_history(artifact, ["i2"])[0]], artifact.input_columns)
    assert both.context["action_known"].tolist() == [False, False]
    scores = [
        rich.post("/v1/recommend", json={"history": [{"item": "i1", **action}], "time": 5}).json()["items"][0]["score"]
        for action in ({}, {"action": "view"}, {"action": "purchase"})
    ]
    assert len(set(scores)) == 3, "a missing kind is not the first kind"


def test_ids_may_be_integers(plain: TestClient) -> None:
    body = {"user": 123456, "item": -7, "key": "a"}
    assert plain.post("/v1/events", json=body).json()["unknown_items"] == ["-7"]
    assert plain.get("/v1/users/123456").json()["total"] == 1
    response = plain.post("/v1/recommend", json={"history": [7, "i1", {"item": 2**64 - 1}], "deny": [3], "k": 1})
    assert response.json()["unknown"]["items"] == ["7", str(2**64 - 1), "3"]
    for value in (1.5, True, 10**400, None, [1]):
        assert plain.post("/v1/events", json={**body, "item": value}).status_code in (400, 422)
    assert plain.post("/v1/events", json={**body, "key": 5}).status_code == 422
    assert plain.post("/v1/events", json={**body, "user": "a" * (MAX_ID_LENGTH + 1)}).status_code == 422
    plain.delete("/v1/users/123456")


def test_integer_ids_find_the_items_of_a_log_with_integer_ids() -> None:
    from segue.core.vocab import Vocab

    codes, known = Vocab(["3", "4"], id_type="int64").encode(["4", "5"])
    assert (codes[0], known.tolist()) == (1, [True, False])
    assert np.array_equal(Vocab(["3", "4"]).encode([4])[0], codes[:1])
