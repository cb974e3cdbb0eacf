"""Whoever sends nonsense, or much of it, or half of it, learns what is wrong with it; the others are answered."""

import json
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from starlette.testclient import TestClient

from segue.serving import schemas
from segue.serving.app import create
from segue.serving.ranking.scorer import Timed
from tests.serving import rich_world
from tests.serving.world import service


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create(service("sasrec", "ease")), raise_server_exceptions=False) as found:
        yield found


def test_a_wrong_method_learns_all_right_ones(client: TestClient) -> None:
    for path, methods in {
        "/v1/users/a%2Fb": "DELETE, GET",
        "/v1/items/i1/similar": "GET",
        "/v1/events": "POST",
        "/docs": "GET",
    }.items():
        answer = client.request("PUT", path)
        assert (answer.status_code, answer.headers["allow"]) == (405, methods), path


def test_numbers_that_are_whole_however_they_are_written(client: TestClient) -> None:
    answer = client.post("/v1/recommend", content='{"k": 3.0, "time": 1e9, "most": {"genres": 1.0}}', headers=JSON)
    assert (answer.status_code, len(answer.json()["items"])) == (200, 3)
    for k in ("2.5", "true", '"3"', "1e400", "[3]", "null"):
        assert client.post("/v1/recommend", content=f'{{"k": {k}}}', headers=JSON).status_code in (400, 422), k


def test_the_description_tells_the_limits_that_hold() -> None:
    it = service("ease", most_k=12, most_history=3, most_questions=2, most_events=4)
    with TestClient(create(it)) as small:
        schemas: Any = small.get("/openapi.json").json()["components"]["schemas"]
        question = schemas["Question"]["properties"]
        assert (question["k"]["minimum"], question["k"]["maximum"]) == (1, 12)
        assert schemas["Pin"]["properties"]["place"]["maximum"] == 1000
        assert question["history"]["anyOf"][0]["maxItems"] == 3
        assert schemas["WhyQuestion"]["properties"]["k"]["maximum"] == 12
        assert schemas["Questions"]["properties"]["questions"]["maxItems"] == 2
        assert schemas["Events"]["properties"]["events"]["maxItems"] == 4
        event = {"user": "u1", "item": "i1"}
        for path, good, bad in (
            ("recommend", {"k": 12}, {"k": 13}),
            ("recommend", {"history": ["i1"] * 3}, {"history": ["i1"] * 4}),
            ("explain", {"item": "i1", "history": ["i1"] * 3}, {"item": "i1", "history": ["i1"] * 4}),
            ("recommend/batch", {"questions": [{}] * 2}, {"questions": [{}] * 3}),
            ("events/batch", {"events": [event] * 4}, {"events": [event] * 5}),
        ):
            assert small.post(f"/v1/{path}", content=json.dumps(good), headers=JSON).status_code == 200
            assert small.post(f"/v1/{path}", content=json.dumps(bad), headers=JSON).status_code == 422


JSON = {"Content-Type": "application/json"}

KEYS = {str(key): 1 for key in range(150_000)}
FLOODS: dict[str, tuple[str, Any]] = {
    "nothing asked very often": ("recommend/batch", {"questions": [{}] * 600_000}),
    "events of nobody": ("events/batch", {"events": [{}] * 600_000}),
    "wrong ids": ("recommend", {"allow": [1] * 900_000}),
    "wrong histories": ("recommend", {"history": [{}] * 90_000}),
    "wrong features": ("recommend", {"profile": {"age": [{}] * 600_000}}),
    "wrong lists in many questions": ("recommend/batch", {"questions": [{"deny": [1] * 1_000}] * 900}),
    "strange keys": ("recommend", KEYS),
    "strange keys in a list": ("events/batch", {"events": [KEYS]}),
    "many quotas": ("recommend", {"most": KEYS}),
}


@pytest.mark.parametrize("name", FLOODS)
def test_what_is_wrong_a_thousand_times_is_told_once(client: TestClient, name: str) -> None:
    path, told = FLOODS[name]
    body = json.dumps(told, separators=(",", ":"))
    assert len(body) < 2_000_000
    answer = client.post(f"/v1/{path}", content=body, headers=JSON)
    assert answer.status_code == 422
    assert len(answer.json()["fields"]) <= 9


def test_profiles_count_and_nobody_s_changes_how_another_s_is_read() -> None:
    told = [{"age": 30}, {"city": "Oslo"}, {"tastes": ["jazz"]}, {"tastes": "folk"}, {"face": [1, 2, 3.5]}, {}]
    wrong: list[dict[str, Any]] = [
        {"age": "30"}, {"age": True}, {"age": 1e300}, {"age": 10**400}, {"age": [1]}, {"city": ["Oslo"]},
        {"face": [1, 2]}, {"face": 1}, {"face": [1, 2, "x"]}, {"face": [1, 2, 1e16]},
    ]  # fmt: skip
    for model in ("sasrec", "gru4rec"):
        with TestClient(create(rich_world.service(model))) as client:
            alone = [client.post("/v1/recommend", json={"user": "u1", "profile": one}).json() for one in told]
            assert len({answer["items"][0]["score"] for answer in alone}) == len(told), "each is heard"
            assert not any(answer["unknown"]["features"] for answer in alone)
            odd = [{"city": 5}, {"city": True}, {"tastes": [1, True, 2.5, "x"]}, {"tastes": []}]
            questions = [{"user": "u1", "profile": one} for one in (*odd, *told)]
            answers = client.post("/v1/recommend/batch", json={"questions": questions}).json()["answers"]
            for answer, other in zip(answers[4:], alone, strict=True):
                assert answer["items"][0]["score"] == pytest.approx(other["items"][0]["score"], abs=1e-5)
            for one in wrong:
                answer = client.post("/v1/recommend/batch", json={"questions": [{"profile": one}, {"user": "u1"}]})
                (name,) = one
                assert (answer.status_code, list(answer.json()["fields"])) == (422, [f"questions[0].profile.{name}"])
                why = client.post("/v1/explain", json={"profile": one, "item": "i1"})
                assert (why.status_code, list(why.json()["fields"])) == (422, [f"profile.{name}"])


def test_what_fails_for_one_question_fails_for_no_other() -> None:
    it = service("sasrec")
    by_model, ask = it._scoring.by_model, it.people.ask

    def scored(group: Any) -> Any:
        if any(question.user == "poison" for question in group.questions):
            raise ValueError("poison")
        return by_model(group)

    def asked(publication: Any, questions: Any, **more: Any) -> Any:
        if any(question.user == "worse" for question in questions):
            raise RuntimeError("worse")
        return ask(publication, questions, **more)

    it._scoring.by_model, it.people.ask = scored, asked  # type: ignore[method-assign]
    users = ["u1", "poison", "u2", "worse", "u3", "u4", "poison"]
    questions = [Timed(schemas.Question(user=user), monotonic() + 60) for user in users]
    found: list[Any] = it.answer(questions)
    assert isinstance(found[3], RuntimeError)
    del found[3], users[3]
    assert [one.step for one in found] == ["popular" if user == "poison" else "model" for user in users]
    it.store.close()


def test_what_takes_long_for_many_is_no_sign_for_one() -> None:
    it = service("ease")
    by_model = it._scoring.by_model

    def scored(group: Any) -> Any:
        if len(group.timed) > 1 or not group.rules[0].plain:
            sleep(0.3)
        return by_model(group)

    it._scoring.by_model = scored  # type: ignore[method-assign]
    plain, ruled = schemas.Question(user="u1"), schemas.Question(user="u1", diversify=0.5)
    it.answer([Timed(plain, monotonic() + 60)] * 60)
    it.answer([Timed(ruled, monotonic() + 60)])
    found: list[Any] = [it.answer([Timed(question, monotonic() + 0.2)])[0] for question in (ruled, plain)]
    assert [answer.step for answer in found] == ["neighbours", "model"]
    it.store.close()


def test_a_great_many_heavy_questions_let_others_through() -> None:
    it = service("ease", batch=16)
    sizes = []
    answer = it.answer

    def slowly(asked: Any) -> Any:
        sizes.append([one.question.user for one in asked])
        sleep(0.05)
        return answer(asked)

    it.answer = slowly  # type: ignore[method-assign]
    heavy = [{"user": "heavy", "diversify": 1.0, "deadline_ms": 600_000}] * 64
    with TestClient(create(it)) as client, ThreadPoolExecutor(1) as pool:
        many = pool.submit(client.post, "/v1/recommend/batch", json={"questions": heavy})
        while not sizes:
            sleep(0.01)
        assert client.post("/v1/recommend", json={"user": "u1"}).status_code == 200
        told = schemas.Answers.model_validate_json(many.result().text)
    assert len(told.answers) == 64
    assert all(one.step == "model" for one in told.answers)
    assert len(sizes[0]) == 2
    assert any("u1" in slice_ for slice_ in sizes[1:-1]), "among the slices, not after them"


def test_the_only_question_of_a_batch_is_named_like_others(client: TestClient) -> None:
    for question in ({"k": 0}, {"k": 999}, {"model": "nix"}, {"where": {"year": {"any": ["x"]}}}):
        answer = client.post("/v1/recommend/batch", json={"questions": [question]})
        (field,) = answer.json()["fields"]
        assert (answer.status_code, field.startswith("questions[0].")) == (422, True)


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
def test_headers_of_all_kinds_do_no_harm(client: TestClient, name: str, value: str) -> None:
    header = (name.encode(), value.encode("latin-1"))
    json_too = [] if name == "Content-Type" else [(b"content-type", b"application/json")]
    for method, path in (
        ("POST", "/v1/recommend"),
        ("GET", "/v1/models"),
        ("GET", "/page/docs.js"),
        ("GET", "/nowhere"),
    ):
        body = b"{}" if method == "POST" else None
        answer = client.request(method, path, headers=[header, *json_too], content=body)
        assert answer.status_code in (200, 206, 304, 400, 403, 404, 415, 416), answer.text
        if answer.status_code in (403, 404):
            assert schemas.Fault.model_validate_json(answer.text).request_id


def test_a_model_that_fails_is_not_taken_for_a_wrong_question() -> None:
    it = service("ease")

    def score(*_: Any) -> Any:
        raise ValueError(f"queries: {wire.Question.__name__} of alice")

    with TestClient(create(it), raise_server_exceptions=False) as client:
        wrong = client.post("/v1/explain", json={"item": "i1", "where": {"year": {"any": ["x"]}}})
        assert (wrong.status_code, list(wrong.json()["fields"])) == (422, ["where.year"])
        model: Any = it.shelf.active.publication.engine.model
        own, model.score = model.score, score
        answer = client.post("/v1/explain", json={"item": "i1", "history": ["i2"]})
        model.score = own
        assert (answer.status_code, schemas.Fault.model_validate_json(answer.text).error) == (500, "failed")
        assert "alice" not in answer.text
        assert client.post("/v1/explain", json={"item": "i1", "history": ["i2"]}).status_code == 200


def test_whatever_is_written_of_a_model_it_is_listed(tmp_path: Path) -> None:
    odd = {"trained": 5, "data": ["x"], "metrics": {"a": math.nan, "b": None, "c": {}, "d": 10**400, "ndcg": 0.5}}
    for name, facts in {"odd": odd, "none": None, "list": [1], "text": {"metrics": "much"}}.items():
        (tmp_path / name).mkdir()
        about = {"key": "ease", "version": 1, "engine": "native", "facts": facts}
        (tmp_path / name / "publication.json").write_text(json.dumps(about))
    with TestClient(create(service("ease", library=tmp_path)), raise_server_exceptions=False) as client:
        found = schemas.Models.model_validate_json(client.get("/v1/models").text).models
        assert {one.name: one.metrics for one in found} == {
            "ease": {}, "list": {}, "none": {}, "odd": {"ndcg": 0.5}, "text": {}
        }  # fmt: skip


def test_only_a_full_queue_turns_good_questions_away() -> None:
    it = service("ease", waiting=2)
    answer, held, entered = it.answer, threading.Event(), threading.Event()

    def waits(asked: Any) -> Any:
        entered.set()
        held.wait(60)
        return answer(asked)

    it.answer = waits  # type: ignore[method-assign]
    with TestClient(create(it)) as client, ThreadPoolExecutor(8) as pool:

        def ask() -> Any:
            return client.post("/v1/recommend", json={"user": "u1", "deadline_ms": 600_000})

        first = pool.submit(ask)
        entered.wait(60)
        others = [pool.submit(ask) for _ in range(6)]
        for turned, _ in enumerate(as_completed(others, timeout=60), 1):  # two wait, four come back at once
            if turned == 4:
                held.set()
        told = [first.result(), *(one.result() for one in others)]
    assert sorted(one.status_code for one in told) == [200, 200, 200, 503, 503, 503, 503]
    for one in told:
        if one.status_code == 503:
            assert schemas.Fault.model_validate_json(one.text).error == "busy"
            assert int(one.headers["retry-after"]) >= 1
        else:
            assert schemas.Answer.model_validate_json(one.text).step == "model"
