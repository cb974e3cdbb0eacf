"""Invalid, excessive and failing requests receive precise errors and do not affect others."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from starlette.testclient import TestClient

from segue.core.files import write_checked_json
from segue.serving import schemas
from segue.serving.app import create_app
from segue.serving.artifacts.manifest import FORMAT, MANIFEST
from segue.serving.ranking.scorer import PendingRequest
from segue.serving.scheduling.engine_scheduler import MAX_EXPENSIVE_ROWS
from tests.serving import rich_world
from tests.serving.world import service


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    large = service("sasrec", "ease", max_body_values=2_000_000)
    with TestClient(create_app(large), raise_server_exceptions=False) as client:
        yield client


def test_405_lists_allowed_methods(client: TestClient) -> None:
    for path, methods in {
        "/v1/users/a%2Fb": "DELETE, GET, HEAD",
        "/v1/items/i1/similar": "GET, HEAD",
        "/v1/events": "POST",
        "/docs": "GET, HEAD",
    }.items():
        response = client.request("PUT", path)
        assert (response.status_code, response.headers["allow"]) == (405, methods), path


def test_whole_numbers_in_any_notation(client: TestClient) -> None:
    response = client.post(
        "/v1/recommend", content='{"k": 3.0, "time": 1e9, "max_per_value": {"genres": 1.0}}', headers=JSON
    )
    assert (response.status_code, len(response.json()["items"])) == (200, 3)
    for k in ("2.5", "true", '"3"', "1e400", "[3]", "null"):
        assert client.post("/v1/recommend", content=f'{{"k": {k}}}', headers=JSON).status_code in (400, 422), k


def test_openapi_contains_the_configured_limits() -> None:
    it = service("ease", max_k=12, max_history=3, max_batch_requests=2, max_batch_events=4)
    with TestClient(create_app(it)) as small:
        schemas: Any = small.get("/openapi.json").json()["components"]["schemas"]
        properties = schemas["RecommendRequest"]["properties"]
        assert (properties["k"]["minimum"], properties["k"]["maximum"]) == (1, 12)
        assert schemas["Pin"]["properties"]["position"]["maximum"] == 1000
        assert properties["history"]["anyOf"][0]["maxItems"] == 3
        assert schemas["ExplainRequest"]["properties"]["k"]["maximum"] == 12
        assert schemas["BatchRequest"]["properties"]["requests"]["maxItems"] == 2
        assert schemas["EventBatch"]["properties"]["events"]["maxItems"] == 4
        event = {"user": "u1", "item": "i1"}
        for path, good, bad in (
            ("recommend", {"k": 12}, {"k": 13}),
            ("recommend", {"history": ["i1"] * 3}, {"history": ["i1"] * 4}),
            ("explain", {"item": "i1", "history": ["i1"] * 3}, {"item": "i1", "history": ["i1"] * 4}),
            ("recommend/batch", {"requests": [{}] * 2}, {"requests": [{}] * 3}),
            ("events/batch", {"events": [event] * 4}, {"events": [event] * 5}),
        ):
            assert small.post(f"/v1/{path}", content=json.dumps(good), headers=JSON).status_code == 200
            assert small.post(f"/v1/{path}", content=json.dumps(bad), headers=JSON).status_code == 422


JSON = {"Content-Type": "application/json"}

KEYS = {str(key): 1 for key in range(150_000)}
FLOODS: dict[str, tuple[str, Any]] = {
    "many empty requests": ("recommend/batch", {"requests": [{}] * 600_000}),
    "many empty events": ("events/batch", {"events": [{}] * 600_000}),
    "invalid ids": ("recommend", {"allow": [1] * 900_000}),
    "invalid histories": ("recommend", {"history": [{}] * 90_000}),
    "invalid features": ("recommend", {"profile": {"age": [{}] * 600_000}}),
    "invalid lists in many requests": ("recommend/batch", {"requests": [{"deny": [1] * 1_000}] * 900}),
    "unknown keys": ("recommend", KEYS),
    "unknown keys in a list": ("events/batch", {"events": [KEYS]}),
    "many quotas": ("recommend", {"max_per_value": KEYS}),
}


@pytest.mark.parametrize("name", FLOODS)
def test_repeated_errors_are_reported_once(client: TestClient, name: str) -> None:
    path, content = FLOODS[name]
    body = json.dumps(content, separators=(",", ":"))
    assert len(body) < 2_000_000
    response = client.post(f"/v1/{path}", content=body, headers=JSON)
    assert response.status_code == 422
    assert len(response.json()["fields"]) <= 9


def test_profiles_affect_only_their_own_request() -> None:
    profiles = [{"age": 30}, {"city": "Oslo"}, {"tastes": ["jazz"]}, {"tastes": "folk"}, {"face": [1, 2, 3.5]}, {}]
    invalid: list[dict[str, Any]] = [
        {"age": "30"}, {"age": True}, {"age": 1e300}, {"age": 10**400}, {"age": [1]}, {"city": ["Oslo"]},
        {"face": [1, 2]}, {"face": 1}, {"face": [1, 2, "x"]}, {"face": [1, 2, 1e16]},
    ]  # fmt: skip
    for model in ("sasrec", "gru4rec"):
        with TestClient(create_app(rich_world.service(model))) as client:
            alone = [client.post("/v1/recommend", json={"user": "u1", "profile": one}).json() for one in profiles]
            assert len({response["items"][0]["score"] for response in alone}) == len(profiles), (
                "each profile has an effect"
            )
            assert not any(response["unknown"]["features"] for response in alone)
            convertible = [{"city": 5}, {"city": True}, {"tastes": [1, True, 2.5, "x"]}, {"tastes": []}]
            requests = [{"user": "u1", "profile": one} for one in (*convertible, *profiles)]
            responses = client.post("/v1/recommend/batch", json={"requests": requests}).json()["responses"]
            for response, other in zip(responses[4:], alone, strict=True):
                assert response["items"][0]["score"] == pytest.approx(other["items"][0]["score"], abs=1e-5)
            for one in invalid:
                response = client.post("/v1/recommend/batch", json={"requests": [{"profile": one}, {"user": "u1"}]})
                (name,) = one
                assert (response.status_code, list(response.json()["fields"])) == (422, [f"requests[0].profile.{name}"])
                explanation = client.post("/v1/explain", json={"profile": one, "item": "i1"})
                assert (explanation.status_code, list(explanation.json()["fields"])) == (422, [f"profile.{name}"])


def test_a_failing_request_does_not_affect_others() -> None:
    it = service("sasrec")
    rank_by_model, build = it._scorer.rank_by_model, it.query_builder.build

    def failing_rank(batch: Any) -> Any:
        if any(request.user == "poison" for request in batch.requests):
            raise ValueError("poison")
        return rank_by_model(batch)

    def failing_build(artifact: Any, requests: Any, **options: Any) -> Any:
        if any(request.user == "worse" for request in requests):
            raise RuntimeError("worse")
        return build(artifact, requests, **options)

    it._scorer.rank_by_model, it.query_builder.build = failing_rank, failing_build  # type: ignore[method-assign]
    users = ["u1", "poison", "u2", "worse", "u3", "u4", "poison"]
    requests = [PendingRequest(schemas.RecommendRequest(user=user), monotonic() + 60) for user in users]
    results: list[Any] = it.recommend(requests)
    assert isinstance(results[3], RuntimeError)
    del results[3], users[3]
    assert [one.source for one in results] == ["popular" if user == "poison" else "model" for user in users]
    it.store.close()


def test_latency_estimates_depend_on_the_load() -> None:
    it = service("ease")
    rank_by_model = it._scorer.rank_by_model

    def slow_rank(batch: Any) -> Any:
        if len(batch.pending) > 1 or not batch.rules[0].is_trivial:
            sleep(0.3)
        return (yield from rank_by_model(batch))

    it._scorer.rank_by_model = slow_rank  # type: ignore[method-assign]
    plain, with_rules = schemas.RecommendRequest(user="u1"), schemas.RecommendRequest(user="u1", diversify=0.5)
    it.recommend([PendingRequest(plain, monotonic() + 60)] * 60)
    it.recommend([PendingRequest(with_rules, monotonic() + 60)])
    results: list[Any] = [it.recommend([PendingRequest(one, monotonic() + 0.2)])[0] for one in (with_rules, plain)]
    assert [result.source for result in results] == ["neighbors", "model"]
    it.store.close()


def test_expensive_batches_do_not_block_other_requests() -> None:
    it = service("ease", max_batch_size=16)
    batches = []
    recommend = it.recommend_in_steps

    def slow_recommend(pending: Any) -> Any:
        batches.append([one.request.user for one in pending])
        sleep(0.05)
        return recommend(pending)

    it.recommend_in_steps = slow_recommend  # type: ignore[method-assign]
    expensive = [{"user": "expensive", "diversify": 1.0, "deadline_ms": 600_000}] * 64
    with TestClient(create_app(it)) as client, ThreadPoolExecutor(1) as pool:
        many = pool.submit(client.post, "/v1/recommend/batch", json={"requests": expensive})
        while not batches:
            sleep(0.01)
        assert client.post("/v1/recommend", json={"user": "u1"}).status_code == 200
        result = schemas.BatchResponse.model_validate_json(many.result().text)
    assert len(result.responses) == 64
    assert all(one.source == "model" for one in result.responses)
    assert len(batches[0]) == MAX_EXPENSIVE_ROWS
    assert any("u1" in batch for batch in batches[1:-1]), "between the chunks, not after them"


def test_errors_in_a_batch_of_one_name_its_index(client: TestClient) -> None:
    for request in ({"k": 0}, {"k": 999}, {"model": "missing"}, {"filter": {"year": {"any": ["x"]}}}):
        response = client.post("/v1/recommend/batch", json={"requests": [request]})
        (field,) = response.json()["fields"]
        assert (response.status_code, field.startswith("requests[0].")) == (422, True)


HEADERS = [
    ("Origin", "http://["), ("Origin", "http://a]b"), ("Origin", "null"), ("Origin", ""), ("Host", "[::1"),
    ("Host", ""), ("Host", "localhost:abc"), ("Host", "a:b:c"), ("Range", "bytes=" + "0-0," * 5_000),
    ("Range", "bytes=-"), ("Range", "bytes=9-1"), ("Range", "bytes=99999999999999999999-"),
    ("If-Modified-Since", "yesterday"), ("If-Modified-Since", "Sun, 99 Nov 9999 99:99:99 GMT"),
    ("If-None-Match", '"' * 5_000), ("If-Range", "x"),
    ("Upgrade", "websocket"), ("Upgrade", "h2c"), ("Expect", "nothing"), ("Cookie", "a=" + "b" * 20_000),
    ("X-Forwarded-Host", "a[b"), ("Forwarded", 'for="["'), ("Content-Type", "application/json; charset=\xff"),
    ("Content-Type", "application/json; charset=utf-7"), ("Sec-Fetch-Site", "\xff"), ("Authorization", "\xff"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), HEADERS, ids=range(len(HEADERS)))
def test_malformed_headers(client: TestClient, name: str, value: str) -> None:
    header = (name.encode(), value.encode("latin-1"))
    content_type = [] if name == "Content-Type" else [(b"content-type", b"application/json")]
    for method, path in (
        ("POST", "/v1/recommend"),
        ("GET", "/v1/models"),
        ("GET", "/page/docs.js"),
        ("GET", "/nowhere"),
    ):
        body = b"{}" if method == "POST" else None
        response = client.request(method, path, headers=[header, *content_type], content=body)
        assert response.status_code in (200, 206, 304, 400, 403, 404, 415, 416), response.text
        if response.status_code in (403, 404):
            assert schemas.ErrorResponse.model_validate_json(response.text).request_id


def test_model_errors_are_not_validation_errors() -> None:
    it = service("ease")

    def score(*_: Any) -> Any:
        raise ValueError("queries: request of alice")

    with TestClient(create_app(it), raise_server_exceptions=False) as client:
        invalid = client.post("/v1/explain", json={"item": "i1", "filter": {"year": {"any": ["x"]}}})
        assert (invalid.status_code, list(invalid.json()["fields"])) == (422, ["filter.year"])
        model: Any = it.models.active.artifact.engine.model
        original, model.score = model.score, score
        response = client.post("/v1/explain", json={"item": "i1", "history": ["i2"]})
        model.score = original
        assert (response.status_code, schemas.ErrorResponse.model_validate_json(response.text).error) == (
            500,
            "internal_error",
        )
        assert "alice" not in response.text
        assert client.post("/v1/explain", json={"item": "i1", "history": ["i2"]}).status_code == 200


def test_models_with_invalid_metadata_are_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = dict.fromkeys(("name", "key", "version", "engine_note"), "ease")
    fields = {"format": FORMAT, **texts, "engine": "native", "last_sequence": 0, "input_columns": [], "sha256": {}}
    invalid = {"trained": 5, "data": ["x"], "metrics": {"b": None, "c": {}, "d": 10**400, "ndcg": 0.5}}
    for name, metadata in {"invalid": invalid, "none": None, "list": [1], "text": {"metrics": "text"}}.items():
        (tmp_path / name).mkdir()
        manifest = {**fields, "name": name, "uses_query_time": False, "metadata": metadata}
        write_checked_json(tmp_path / name / MANIFEST, manifest)
    with TestClient(create_app(service("ease", library=tmp_path)), raise_server_exceptions=False) as client:
        models = schemas.ModelList.model_validate_json(client.get("/v1/models").text).models
        assert {one.name: one.metrics for one in models} == {"ease": {}, "invalid": {"ndcg": 0.5}, "text": {}}
    for name in ("none", "list"):
        assert f"the manifest of model {name} cannot be read" in caplog.text


def test_only_a_full_queue_rejects_requests() -> None:
    it = service("ease", queue_size=2)
    recommend, resume, entered = it.recommend_in_steps, threading.Event(), threading.Event()

    def blocking_recommend(pending: Any) -> Any:
        entered.set()
        resume.wait(60)
        return recommend(pending)

    it.recommend_in_steps = blocking_recommend  # type: ignore[method-assign]
    with TestClient(create_app(it)) as client, ThreadPoolExecutor(8) as pool:

        def send() -> Any:
            return client.post("/v1/recommend", json={"user": "u1", "deadline_ms": 600_000})

        first = pool.submit(send)
        entered.wait(60)
        others = [pool.submit(send) for _ in range(6)]
        for n_rejected, _ in enumerate(as_completed(others, timeout=60), 1):  # two wait, four are rejected immediately
            if n_rejected == 4:
                resume.set()
        responses = [first.result(), *(one.result() for one in others)]
    assert sorted(one.status_code for one in responses) == [200, 200, 200, 503, 503, 503, 503]
    for one in responses:
        if one.status_code == 503:
            assert schemas.ErrorResponse.model_validate_json(one.text).error == "overloaded"
            assert int(one.headers["retry-after"]) >= 1
        else:
            assert schemas.RecommendResponse.model_validate_json(one.text).source == "model"
