"""Integer ids, trained, exported and served: numbers and text are the same id in every endpoint."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from starlette.testclient import TestClient

import segue
from segue.core.config import parse
from segue.core.vocab import MAX_ID_LENGTH
from segue.serving import schemas
from segue.serving.app import create_app
from segue.serving.experiments.assignment import Experiments
from segue.serving.model_registry import ModelRegistry
from segue.serving.monitoring.metrics import Metrics
from segue.serving.service import Service
from segue.serving.settings import ServingSettings
from segue.serving.stores.open import open_store
from tests.serving import world

USERS = {"signed": [3, 0, -7, 2**62, 41, 5], "unsigned": [3, 0, 2**63, 2**64 - 1, 41, 5]}
ITEMS = {"signed": [7, 0, -5, 2**40, 12, 13, 14, 15], "unsigned": [7, 0, 2**63 + 1, 2**64 - 1, 12, 13, 14, 15]}
LETTERS = "abcdefgh"


def log(kind: str) -> pl.DataFrame:
    """Each user has five of eight items."""
    rng = np.random.default_rng(0)
    rows = [
        (user, item, 1_700_000_000 + 60 * n)
        for user in USERS[kind]
        for n, item in enumerate(rng.permutation(np.array(ITEMS[kind], object))[:5])
    ]
    dtype = pl.Int64 if kind == "signed" else pl.UInt64
    columns = zip(("user_id", "item_id", "timestamp"), zip(*rows, strict=True), strict=True)
    return pl.DataFrame(
        {name: pl.Series(values, dtype=pl.Int64 if name == "timestamp" else dtype) for name, values in columns}
    )


def serve(folder: Path, **options: Any) -> Service:
    store, serving = open_store("memory:"), parse(ServingSettings, {"deadline_ms": 60_000, **options}, "serving")
    return Service(ModelRegistry([folder], store, default_rules=serving.default_rules), store, serving, Metrics())


class Served:
    """A model with integer ids and a client of its service."""

    def __init__(self, kind: str, source: str, folder: Path) -> None:
        frame = log(kind)
        dtype = frame.schema["item_id"]
        titles = [f"Item {letter}" for letter in LETTERS]
        items = pl.DataFrame({"item_id": pl.Series(ITEMS[kind], dtype=dtype), "title": titles})
        if source == "csv":
            frame.write_csv(folder / "log.csv")
        self.model = segue.train("ease", segue.load(frame if source == "frame" else folder / "log.csv", items=items))
        self.folder = segue.export(self.model, folder / "artifact", name="ease")
        self.users, self.items = USERS[kind], ITEMS[kind]


@pytest.fixture(scope="module", params=["signed frame", "signed csv", "unsigned frame", "unsigned csv"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Served:
    return Served(*request.param.split(), tmp_path_factory.mktemp("ids"))


@pytest.fixture
def client(served: Served) -> Iterator[TestClient]:
    with TestClient(create_app(serve(served.folder))) as one:
        yield one


def to_text(value: Any) -> Any:
    """Replace the ids of a request, which are all of its integers but ``k`` and positions, by text."""
    if isinstance(value, dict):
        return {name: part if name in ("k", "position") else to_text(part) for name, part in value.items()}
    if isinstance(value, list):
        return [to_text(part) for part in value]
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def find_ids(value: Any, name: str = "") -> Iterator[Any]:
    """Yield all ids of a response."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from find_ids(part, key)
    elif isinstance(value, list):
        for part in value:
            yield from find_ids(part, name)
    elif name in ("id", "item", "users", "unknown_items", "items"):
        yield value


def test_numbers_and_text_are_the_same_id_in_every_request(served: Served, client: TestClient) -> None:
    user, item, other, last = served.users[0], served.items[0], served.items[1], served.items[2]
    requests: list[tuple[str, dict[str, Any]]] = [
        *(("recommend", {"user": one, "k": 3}) for one in served.users),
        ("recommend", {"user": user, "history": [item, {"item": other}, last], "k": 4}),
        ("recommend", {"history": [item, 987654321, {"item": -987654321}]}),
        ("recommend", {"user": user, "allow": [item, other, last], "deny": [last], "exclude_seen": False}),
        ("recommend", {"user": user, "pins": [{"item": last, "position": 2}, {"item": 987654321, "position": 1}]}),
        ("recommend", {"user": 987654321}),
        ("recommend/batch", {"requests": [{"user": user}, {"user": 987654321, "deny": [item]}, {"history": [item]}]}),
        *(("explain", {"user": user, "item": one}) for one in served.items),
        ("explain", {"history": [item, 987654321], "item": last, "allow": [987654322, last]}),
        ("explain", {"user": user, "item": 987654321}),
    ]
    for path, body in requests:
        by_number, by_text = (client.post(f"/v1/{path}", json=one) for one in (body, to_text(body)))
        assert by_number.status_code in (200, 404)
        assert (by_number.status_code == 404) == (body.get("item") == 987654321)
        found, expected = by_number.json(), by_text.json()
        for one in (found, expected):
            one.pop("request_id", None)
        assert found == expected, body
        assert all(isinstance(one, str) for one in find_ids(found)), "one form in responses"


def test_recommendations_equal_those_of_python(served: Served, client: TestClient) -> None:
    for user in served.users:
        expected = segue.recommend(served.model, [user], k=3)["item_id"].to_list()
        response = client.post("/v1/recommend", json={"user": user, "k": 3}).json()
        assert [item["id"] for item in response["items"]] == [str(item) for item in expected]
        assert not response["unknown"]["user"]
        assert response["items"][0]["title"] == f"Item {LETTERS[served.items.index(int(response['items'][0]['id']))]}"


def test_unknown_ids_are_reported(served: Served, client: TestClient) -> None:
    item = served.items[0]
    body = {"user": 99, "history": [98, item, 98, "098"], "deny": [98, 97], "pins": [{"item": 96, "position": 1}]}
    unknown = client.post("/v1/recommend", json=body).json()["unknown"]
    assert (unknown["user"], unknown["items"]) == (True, ["98", "098", "97", "96"])
    assert client.post("/v1/explain", json={**body, "item": item}).json()["unknown"] == unknown
    event = {"user": 99, "item": 98}
    assert client.post("/v1/events", json=event).json()["unknown_items"] == ["98"]
    assert client.get("/v1/users/99").json()["known"] is False
    for path in ("items/98", "items/98/similar"):
        assert client.get(f"/v1/{path}").status_code == 404


def test_paths_and_searches_use_the_same_ids(served: Served, client: TestClient) -> None:
    for item in served.items:
        assert client.get(f"/v1/items/{item}").json()["id"] == str(item)
        assert len(client.get(f"/v1/items/{item}/similar").json()["items"]) > 0
        assert client.get(f"/v1/items?query={item}").json()["items"][0]["id"] == str(item)
    for user in served.users:
        found = client.get(f"/v1/users/{user}").json()
        assert (found["id"], found["known"], found["total"]) == (str(user), True, 5)
        assert str(user) in client.get(f"/v1/users?query={user}").json()["users"]


def test_events_of_numbers_and_text_belong_to_one_user(served: Served, client: TestClient) -> None:
    user, item = served.users[2], served.items[2]
    client.post("/v1/events", json={"user": user, "item": item})
    client.post(
        "/v1/events/batch", json={"events": [{"user": str(user), "item": str(item)}, {"user": user, "item": 1}]}
    )
    found = client.get(f"/v1/users/{user}").json()
    assert [event["item"] for event in found["events"][-3:]] == [str(item), str(item), "1"]
    assert found["total"] == 8
    assert str(item) not in [
        one["id"] for one in client.post("/v1/recommend", json={"user": user, "k": 8}).json()["items"]
    ]
    deletion = client.delete(f"/v1/users/{user}").json()
    assert deletion == {"id": str(user), "deleted_events": 3, "erased": True, "notes": []}


def test_default_rules_and_experiments_use_the_same_ids(served: Served, tmp_path: Path) -> None:
    user, item = served.users[0], served.items[0]
    service = serve(served.folder, default_rules={"deny": [item], "pins": [{"item": served.items[1], "position": 1}]})
    variants = {"a": {"model": "ease", "share": 0.5}, "b": {"model": "ease", "share": 0.5}}
    (tmp_path / "experiments.json").write_text(json.dumps({"experiments": [{"name": "one", "variants": variants}]}))
    store = service.store
    close, store.close = store.close, lambda: None  # type: ignore[method-assign]
    experiments = Experiments(tmp_path / "experiments.json", service.models.keep_loaded, store)
    with TestClient(create_app(service, experiments=experiments)) as one:
        for form in (user, str(user)):
            items = one.post("/v1/recommend", json={"user": form, "exclude_seen": False}).json()["items"]
            assert str(item) not in [found["id"] for found in items]
            assert items[0]["pinned"]
    exposures = list(store.exposures("one"))
    assert [exposure.user for exposure in exposures] == [str(user)] * 2
    assert len({exposure.variant for exposure in exposures}) == 1
    close()


@pytest.fixture(scope="module")
def plain() -> Iterator[TestClient]:
    with TestClient(create_app(world.service("ease"))) as one:
        yield one


INVALID: list[tuple[Any, str]] = [
    (1.5, "got 1.5"), (3.0, "got 3.0"), (-0.0, "got -0.0"), (True, "got true"), (False, "got false"),
    (["a"], "got a list"), ({"id": 3}, "got an object"), ([], "got an empty list"), ("", "got empty text"),
    ("a" * 10_000, "got text of 10000 characters"), ("a\tb", "got text of 3 characters"),
    (10**256, "got an integer of 257 digits"), (-(10**400), "got an integer of 401 digits"),
]  # fmt: skip
FIELDS: list[tuple[str, str, Any]] = [
    ("recommend", "user", lambda value: {"user": value}),
    ("recommend", "history[1]", lambda value: {"history": ["i1", value]}),
    ("recommend", "history[0].item", lambda value: {"history": [{"item": value}]}),
    ("recommend", "allow[0]", lambda value: {"allow": [value]}),
    ("recommend", "deny[1]", lambda value: {"deny": ["i1", value]}),
    ("recommend", "pins[0].item", lambda value: {"pins": [{"item": value, "position": 1}]}),
    ("recommend/batch", "requests[1].user", lambda value: {"requests": [{}, {"user": value}]}),
    ("explain", "item", lambda value: {"item": value}),
    ("explain", "user", lambda value: {"item": "i1", "user": value}),
    ("events", "user", lambda value: {"user": value, "item": "i1"}),
    ("events", "item", lambda value: {"user": "u1", "item": value}),
    ("events/batch", "events[1].item", lambda value: {"events": [{"user": 1, "item": 2}, {"user": 1, "item": value}]}),
]


@pytest.mark.parametrize(("path", "field", "body"), FIELDS, ids=[f"{path} {field}" for path, field, _ in FIELDS])
def test_values_that_are_no_ids_are_rejected_with_field_and_value(
    plain: TestClient, path: str, field: str, body: Any
) -> None:
    for value, expected in [*INVALID, (None, "got null")]:
        if value is None and field.endswith("user") and not path.startswith("events"):
            continue  # no user
        if isinstance(value, dict) and field == "history[1]":
            continue  # an event, whose fields are checked
        response = plain.post(f"/v1/{path}", json=body(value))
        assert response.status_code == 422, value
        reason = response.json()["fields"][field]
        assert reason.endswith(expected), reason
        assert response.json()["message"] == f"{field}: {reason}"


def test_openapi_documents_both_forms(plain: TestClient) -> None:
    components = plain.get("/openapi.json").json()["components"]["schemas"]

    def types(schema: dict[str, Any]) -> set[str]:
        return {option["type"] for option in schema.get("anyOf", [schema])}

    for schema, name in (
        ("EventRequest", "user"),
        ("EventRequest", "item"),
        ("ExplainRequest", "item"),
        ("Pin", "item"),
    ):
        assert types(components[schema]["properties"][name]) == {"string", "integer"}
    for name in ("allow", "deny"):
        array = components["RecommendRequest"]["properties"][name]
        array = next(option for option in array.get("anyOf", [array]) if option["type"] == "array")
        assert types(array["items"]) == {"string", "integer"}
    assert types(components["RecommendRequest"]["properties"]["user"]) == {"string", "integer", "null"}
    assert types(components["RecommendedItem"]["properties"]["id"]) == {"string"}


IDS: TypeAdapter[str] = TypeAdapter(schemas.Id)
TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=5)
SIMILAR = st.sampled_from(
    [
        "7",
        "007",
        "7.0",
        " 7",
        "7 ",
        "+7",
        "-7",
        "٧",
        "７",
        "0",
        "-0",
        "00",
        "é",
        "e\u0301",
        "E",
        "e",
        "true",
        "null",
        "1e3",
    ]
)


@given(st.integers() | st.integers(-(10**300), 10**300))
def test_an_integer_is_its_digits(number: int) -> None:
    if abs(number) < 10 ** (MAX_ID_LENGTH - 1):
        assert IDS.validate_python(number) == IDS.validate_python(str(number)) == str(number)
    else:
        with pytest.raises(ValidationError):
            IDS.validate_python(number)


@given(TEXTS | SIMILAR)
def test_text_is_never_changed(text: str) -> None:
    assert IDS.validate_python(text) == text


@settings(max_examples=20)
@given(st.lists(TEXTS | SIMILAR | st.integers(-9, 9) | st.sampled_from([7, 2**63, 2**64]), min_size=2, max_size=8))
def test_users_never_merge(plain: TestClient, users: list[Any]) -> None:
    events = [{"user": user, "item": n} for n, user in enumerate(users)]
    assert plain.post("/v1/events/batch", json={"events": events}).json()["accepted"] == len(users)
    counts = Counter(map(str, users))
    requests = [{"user": user, "exclude_seen": False} for user in counts]
    responses = plain.post("/v1/recommend/batch", json={"requests": requests}).json()["responses"]
    for user, response in zip(counts, responses, strict=True):
        expected = [str(n) for n, one in enumerate(users) if str(one) == user]
        assert response["unknown"]["items"] == expected, user
    for user in counts:
        delete(plain, user)


def delete(client: TestClient, user: str) -> None:
    """Delete a user; the path is percent-encoded twice because the test client decodes it twice."""
    from urllib.parse import quote

    encoded = quote(quote(user, safe=""), safe="").replace(".", "%252E")
    assert client.delete(f"/v1/users/{encoded}").json()["id"] == user
