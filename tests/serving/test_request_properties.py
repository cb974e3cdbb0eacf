"""Property-based tests: any request receives a valid response or an error, and responses are consistent."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from segue.serving import schemas
from segue.serving.app import create_app
from tests.serving import rich_world
from tests.serving.world import service

RESPONSE_TYPES: dict[str, type[schemas.ApiModel]] = {
    "recommend": schemas.RecommendResponse,
    "recommend/batch": schemas.BatchResponse,
    "explain": schemas.Explanation,
    "events": schemas.EventsAccepted,
    "events/batch": schemas.EventsAccepted,
}


@pytest.fixture(scope="module")
def plain() -> Iterator[TestClient]:
    it = service("sasrec", "ease", "ials", "gru4rec", fallback="ease")
    with TestClient(create_app(it), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def rich() -> Iterator[TestClient]:
    with TestClient(create_app(rich_world.service("sasrec", "gru4rec")), raise_server_exceptions=False) as client:
        yield client


def parse_strict(text: str) -> Any:
    """Parse JSON strictly by RFC 8259: no ``NaN`` and no duplicate keys."""

    def check_unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        assert len(result) == len(pairs)
        return result

    def reject_constant(name: str) -> Any:
        raise AssertionError(name)

    return json.loads(text, parse_constant=reject_constant, object_pairs_hook=check_unique)


def post(client: TestClient, path: str, body: str) -> Any:
    """Send a request and return the validated response, or ``None`` for an error."""
    response = client.post(f"/v1/{path}", content=body.encode(), headers={"Content-Type": "application/json"})
    parse_strict(response.text)
    if response.status_code == 200:
        return RESPONSE_TYPES[path].model_validate_json(response.text)
    assert response.status_code in (400, 404, 413, 422), response.text
    error = schemas.ErrorResponse.model_validate_json(response.text)
    assert error.request_id == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    return None


WORDS = st.sampled_from(
    ["u1", "u2", "i1", "i2", "i39", "genres", "year", "title", "War", "sasrec", "ease", "age", "city", "Oslo"]
)
TEXTS = (
    WORDS
    | st.text(max_size=8)
    | st.sampled_from(["", "\x00", "\ud800", "a" * 257, "\u202e", "é", "e\u0301", "__proto__"])
)
NUMBERS = (
    st.integers(-3, 300)
    | st.floats()
    | st.sampled_from(
        [0, -1, 10**18, 2**53, 2**53 + 1, -(2**63), 10**400, 1e308, 5e-324, 1e15, float("nan"), float("inf")]
    )
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
FIELDS = st.sampled_from(
    ["user", "item", "history", "profile", "k", "include_seen", "time", "model", "deadline_ms", "allow", "deny",
     "filter", "boosts", "max_per_value", "diversify", "pins", "requests", "events", "action", "value", "key", "any",
     "none", "min", "max", "factor", "position"]
)  # fmt: skip
JSON = st.recursive(
    SCALARS, lambda part: st.lists(part, max_size=4) | st.dictionaries(FIELDS | TEXTS, part, max_size=5), max_leaves=12
)
FULL: dict[str, Any] = {
    "user": "u1", "history": ["i1", {"item": "i2", "action": "view", "value": 3.5, "time": 9}], "profile": {"age": 30},
    "k": 5, "include_seen": True, "time": 10, "model": "sasrec", "deadline_ms": 600_000, "allow": ["i1", "i2", "i3"],
    "deny": ["i3"], "filter": {"genres": {"any": ["War"], "none": ["Drama"]}, "year": {"min": 1, "max": 9999}},
    "boosts": [{"filter": {"genres": {"any": ["War"]}}, "factor": 2.0}], "max_per_value": {"genres": 3},
    "diversify": 0.5, "pins": [{"item": "i4", "position": 2}],
}  # fmt: skip
EVENT: dict[str, Any] = {"user": "u1", "item": "i1", "action": "view", "value": 1.0, "time": 5, "key": "a"}
VALID: dict[str, Any] = {
    "recommend": FULL,
    "recommend/batch": {"requests": [{"user": "u1"}, FULL]},
    "explain": {**FULL, "item": "i5"},
    "events": EVENT,
    "events/batch": {"events": [EVENT, EVENT]},
}


@st.composite
def corrupted_requests(draw: st.DrawFn) -> tuple[str, Any]:
    """Draw a valid request in which one value at any depth is replaced."""
    path = draw(st.sampled_from(sorted(VALID)))
    request = json.loads(json.dumps(VALID[path]))
    part: Any = request
    while True:
        key = draw(st.sampled_from(sorted(part) if isinstance(part, dict) else range(len(part))))
        if isinstance(part[key], dict | list) and part[key] and draw(st.booleans()):
            part = part[key]
            continue
        part[key] = draw(JSON)
        return path, request


@given(st.sampled_from(sorted(RESPONSE_TYPES)), JSON)
def test_any_json(plain: TestClient, path: str, body: Any) -> None:
    post(plain, path, json.dumps(body))


@settings(max_examples=150)
@given(corrupted_requests())
def test_any_value_in_any_field(rich: TestClient, case: tuple[str, Any]) -> None:
    post(rich, case[0], json.dumps(case[1]))


@given(st.binary(max_size=60))
def test_any_bytes(plain: TestClient, body: bytes) -> None:
    response = plain.post("/v1/recommend", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (200, 400, 422)


@pytest.mark.parametrize("path", sorted(VALID))
def test_the_templates_are_valid(plain: TestClient, rich: TestClient, path: str) -> None:
    assert post(plain, path, json.dumps(VALID[path])) is not None
    assert post(rich, path, json.dumps(VALID[path])) is not None


ITEMS = st.integers(0, 41).map(lambda code: f"i{code}")
VALUES = st.sampled_from([-1e15, -1.0, 0.0, 5e-324, 0.5, 5.0, 1e15])
TIMES = st.sampled_from([0, 1, 1_700_000_000, 10**11 - 1])
EVENTS = st.fixed_dictionaries(
    {"item": ITEMS},
    optional={"value": VALUES, "time": TIMES, "action": st.sampled_from(["view", "purchase"])},
)
CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "genres": st.sampled_from([{"any": ["War"]}, {"none": ["War", "Drama"]}, {"any": ["unknown"]}, {}]),
        "year": st.sampled_from(
            [{"min": 2000}, {"max": -1e308}, {"any": [1990, 1991.0, 10**300]}, {"min": 1995, "max": 2020}]
        ),
        "title": st.just({"none": ["Title 3"]}),
        "shoe": st.sampled_from([{"any": [1]}, {}]),
    },
)
FACTORS = st.sampled_from([5e-324, 1e-10, 0.5, 1.0, 3.0, 1000.0])
REQUESTS = st.fixed_dictionaries(
    {"k": st.sampled_from([1, 2, 10, 39, 40, 200]), "deadline_ms": st.just(600_000)},
    optional={
        "user": st.sampled_from(["u1", "u2", "u59", "unknown-user", "\U0001f600" * 256]),
        "history": st.lists(ITEMS | EVENTS, max_size=60),
        "profile": st.fixed_dictionaries(
            {}, optional={"age": VALUES, "city": WORDS, "tastes": st.lists(WORDS, max_size=3)}
        ),
        "include_seen": st.booleans(),
        "time": TIMES,
        "allow": st.lists(ITEMS, max_size=30),
        "deny": st.lists(ITEMS, max_size=30),
        "filter": CONDITIONS,
        "boosts": st.lists(st.fixed_dictionaries({"filter": CONDITIONS, "factor": FACTORS}), max_size=30),
        "max_per_value": st.dictionaries(
            st.sampled_from(["genres", "year", "title", "shoe"]), st.integers(1, 30), max_size=3
        ),
        "diversify": st.sampled_from([0.0, 5e-324, 0.5, 1.0]),
        "pins": st.lists(
            st.fixed_dictionaries({"item": ITEMS, "position": st.sampled_from([1, 2, 3, 40, 1000])}), max_size=12
        ),
    },
)


def check_consistency(request: dict[str, Any], response: schemas.RecommendResponse) -> None:
    ids = [item.id for item in response.items]
    assert len(set(ids)) == len(ids) <= request["k"]
    assert response.source == "model", response.notes
    pinned = {pin["item"] for pin in request.get("pins", [])}
    assert {item.id for item in response.items if item.pinned} <= pinned
    assert not set(ids) & set(request.get("deny", []))
    assert "allow" not in request or set(ids) <= set(request["allow"])
    probabilities = [item.probability for item in response.items]
    assert all(probability is None for probability in probabilities) or all(
        0 <= probability <= 1 + 1e-5 for probability in probabilities
    )  # type: ignore[operator]
    assert sum(probability or 0.0 for probability in probabilities) <= 1 + 1e-4
    assert all(count > 0 for count in response.filtered_counts.values())
    if not request.get("max_per_value") and not request.get("diversify"):
        scores = [item.score for item in response.items if not item.pinned]
        assert scores == sorted(scores, reverse=True)


@settings(max_examples=40)
@given(st.lists(REQUESTS, min_size=1, max_size=4), st.data())
def test_responses_are_consistent(
    plain: TestClient, rich: TestClient, requests: list[dict[str, Any]], data: Any
) -> None:
    for client, models in ((plain, ["sasrec", "ease", "ials", "gru4rec"]), (rich, ["sasrec", "gru4rec"])):
        batch = [{**request, "model": data.draw(st.sampled_from(models))} for request in requests]
        result = post(client, "recommend/batch", json.dumps({"requests": batch}))
        assert result is not None
        for request, response in zip(batch, result.responses, strict=True):
            check_consistency(request, response)
        item = data.draw(ITEMS)
        post(client, "explain", json.dumps({**batch[0], "item": item}))


@given(
    st.lists(EVENTS, min_size=1, max_size=5),
    st.sampled_from(["u1", "u2", "unknown-user"]),
    st.sampled_from(["sasrec", "gru4rec"]),
)
def test_any_events_leave_users_in_a_valid_state(
    rich: TestClient, events: list[dict[str, Any]], user: str, model: str
) -> None:
    body = json.dumps({"events": [{"action": "view", **event, "user": user} for event in events]})
    assert post(rich, "events/batch", body).accepted == len(events)
    schemas.User.model_validate_json(rich.get(f"/v1/users/{user}").text)
    request = {"user": user, "model": model, "k": 5, "deadline_ms": 600_000}
    check_consistency(request, post(rich, "recommend", json.dumps(request)))


@given(TEXTS | st.text(max_size=40), st.sampled_from(["items", "users"]))
def test_any_search_text(plain: TestClient, text: str, what: str) -> None:
    response = plain.get(f"/v1/{what}", params={"query": text.encode("utf-8", "replace").decode(), "limit": 5})
    if len(text) > 256:
        assert response.status_code == 422
    elif what == "items":
        assert len(schemas.ItemList.model_validate_json(response.text).items) <= 5
    else:
        assert len(schemas.UserList.model_validate_json(response.text).users) <= 5
