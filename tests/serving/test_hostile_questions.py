"""Whatever is asked, an answer is JSON as the interface describes it, or a fault; and what it says holds together."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from segue.serving import schemas
from segue.serving.app import create
from tests.serving import rich_world
from tests.serving.world import service

ANSWERS: dict[str, type[schemas.Wire]] = {
    "recommend": schemas.Answer,
    "recommend/batch": schemas.Answers,
    "explain": schemas.Explanation,
    "events": schemas.Taken,
    "events/batch": schemas.Taken,
}


@pytest.fixture(scope="module")
def plain() -> Iterator[TestClient]:
    it = service("sasrec", "ease", "ials", "gru4rec", fallback="ease")
    with TestClient(create(it), raise_server_exceptions=False) as found:
        yield found


@pytest.fixture(scope="module")
def rich() -> Iterator[TestClient]:
    with TestClient(create(rich_world.service("sasrec", "gru4rec")), raise_server_exceptions=False) as found:
        yield found


def strict(text: str) -> Any:
    """JSON as RFC 8259 has it: no ``NaN``, no key twice."""

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        told = dict(found)
        assert len(told) == len(found)
        return told

    def constant(name: str) -> Any:
        raise AssertionError(name)

    return json.loads(text, parse_constant=constant, object_pairs_hook=pairs)


def told(client: TestClient, path: str, body: str) -> Any:
    """What is answered, read strictly; none for a fault."""
    answer = client.post(f"/v1/{path}", content=body.encode(), headers={"Content-Type": "application/json"})
    strict(answer.text)
    if answer.status_code == 200:
        return ANSWERS[path].model_validate_json(answer.text)
    assert answer.status_code in (400, 404, 413, 422), answer.text
    fault = schemas.Fault.model_validate_json(answer.text)
    assert fault.request_id == answer.headers["x-request-id"]
    assert "Traceback" not in answer.text
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
    ["user", "item", "history", "profile", "k", "repeats", "time", "model", "deadline_ms", "allow", "deny",
     "where", "boosts", "most", "diversify", "pins", "questions", "events", "action", "value", "key", "any",
     "none", "min", "max", "factor", "place"]
)  # fmt: skip
JSON = st.recursive(
    SCALARS, lambda part: st.lists(part, max_size=4) | st.dictionaries(FIELDS | TEXTS, part, max_size=5), max_leaves=12
)
FULL: dict[str, Any] = {
    "user": "u1", "history": ["i1", {"item": "i2", "action": "view", "value": 3.5, "time": 9}], "profile": {"age": 30},
    "k": 5, "repeats": True, "time": 10, "model": "sasrec", "deadline_ms": 600_000, "allow": ["i1", "i2", "i3"],
    "deny": ["i3"], "where": {"genres": {"any": ["War"], "none": ["Drama"]}, "year": {"min": 1, "max": 9999}},
    "boosts": [{"where": {"genres": {"any": ["War"]}}, "factor": 2.0}], "most": {"genres": 3}, "diversify": 0.5,
    "pins": [{"item": "i4", "place": 2}],
}  # fmt: skip
EVENT: dict[str, Any] = {"user": "u1", "item": "i1", "action": "view", "value": 1.0, "time": 5, "key": "a"}
GOOD: dict[str, Any] = {
    "recommend": FULL,
    "recommend/batch": {"questions": [{"user": "u1"}, FULL]},
    "explain": {**FULL, "item": "i5"},
    "events": EVENT,
    "events/batch": {"events": [EVENT, EVENT]},
}


@st.composite
def spoilt(draw: st.DrawFn) -> tuple[str, Any]:
    """A good request in which one place, wherever it is, holds something else."""
    path = draw(st.sampled_from(sorted(GOOD)))
    whole = json.loads(json.dumps(GOOD[path]))
    part: Any = whole
    while True:
        key = draw(st.sampled_from(sorted(part) if isinstance(part, dict) else range(len(part))))
        if isinstance(part[key], dict | list) and part[key] and draw(st.booleans()):
            part = part[key]
            continue
        part[key] = draw(JSON)
        return path, whole


@given(st.sampled_from(sorted(ANSWERS)), JSON)
def test_any_json_is_answered(plain: TestClient, path: str, body: Any) -> None:
    told(plain, path, json.dumps(body))


@settings(max_examples=150)
@given(spoilt())
def test_any_value_anywhere_is_answered(rich: TestClient, asked: tuple[str, Any]) -> None:
    told(rich, asked[0], json.dumps(asked[1]))


@given(st.binary(max_size=60))
def test_any_bytes_are_answered(plain: TestClient, body: bytes) -> None:
    answer = plain.post("/v1/recommend", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400, 422)


@pytest.mark.parametrize("path", sorted(GOOD))
def test_what_they_are_made_of_is_good(plain: TestClient, rich: TestClient, path: str) -> None:
    assert told(plain, path, json.dumps(GOOD[path])) is not None
    assert told(rich, path, json.dumps(GOOD[path])) is not None


ITEMS = st.integers(0, 41).map(lambda code: f"i{code}")
VALUES = st.sampled_from([-1e15, -1.0, 0.0, 5e-324, 0.5, 5.0, 1e15])
TIMES = st.sampled_from([-(2**53), -1, 0, 1_700_000_000, 2**53])
EVENTS = st.fixed_dictionaries(
    {"item": ITEMS}, optional={"value": VALUES, "time": TIMES, "action": st.sampled_from(["view", "purchase", "nix"])}
)
CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "genres": st.sampled_from([{"any": ["War"]}, {"none": ["War", "Drama"]}, {"any": ["nix"]}, {}]),
        "year": st.sampled_from(
            [{"min": 2000}, {"max": -1e308}, {"any": [1990, 1991.0, 10**300]}, {"min": 1995, "max": 2020}]
        ),
        "title": st.just({"none": ["Title 3"]}),
        "shoe": st.sampled_from([{"any": [1]}, {}]),
    },
)
FACTORS = st.sampled_from([5e-324, 1e-10, 0.5, 1.0, 3.0, 1000.0])
QUESTIONS = st.fixed_dictionaries(
    {"k": st.sampled_from([1, 2, 10, 39, 40, 200]), "deadline_ms": st.just(600_000)},
    optional={
        "user": st.sampled_from(["u1", "u2", "u59", "nobody", "\U0001f600" * 256]),
        "history": st.lists(ITEMS | EVENTS, max_size=60),
        "profile": st.fixed_dictionaries(
            {}, optional={"age": VALUES, "city": WORDS, "tastes": st.lists(WORDS, max_size=3)}
        ),
        "repeats": st.booleans(),
        "time": TIMES,
        "allow": st.lists(ITEMS, max_size=30),
        "deny": st.lists(ITEMS, max_size=30),
        "where": CONDITIONS,
        "boosts": st.lists(st.fixed_dictionaries({"where": CONDITIONS, "factor": FACTORS}), max_size=30),
        "most": st.dictionaries(st.sampled_from(["genres", "year", "title", "shoe"]), st.integers(1, 30), max_size=3),
        "diversify": st.sampled_from([0.0, 5e-324, 0.5, 1.0]),
        "pins": st.lists(
            st.fixed_dictionaries({"item": ITEMS, "place": st.sampled_from([1, 2, 3, 40, 1000])}), max_size=12
        ),
    },
)


def coherent(question: dict[str, Any], answer: schemas.Answer) -> None:
    ids = [item.id for item in answer.items]
    assert len(set(ids)) == len(ids) <= question["k"]
    assert answer.step == "model", answer.notes
    pinned = {pin["item"] for pin in question.get("pins", [])}
    assert {item.id for item in answer.items if item.pinned} <= pinned
    assert not set(ids) & set(question.get("deny", []))
    assert "allow" not in question or set(ids) <= set(question["allow"])
    chances = [item.probability for item in answer.items]
    assert all(chance is None for chance in chances) or all(0 <= chance <= 1 + 1e-5 for chance in chances)  # type: ignore[operator]
    assert sum(chance or 0.0 for chance in chances) <= 1 + 1e-4
    assert all(count > 0 for count in answer.removed.values())
    if not question.get("most") and not question.get("diversify"):
        scores = [item.score for item in answer.items if not item.pinned]
        assert scores == sorted(scores, reverse=True)


@settings(max_examples=40)
@given(st.lists(QUESTIONS, min_size=1, max_size=4), st.data())
def test_answers_hold_together(plain: TestClient, rich: TestClient, questions: list[dict[str, Any]], data: Any) -> None:
    for client, models in ((plain, ["sasrec", "ease", "ials", "gru4rec"]), (rich, ["sasrec", "gru4rec"])):
        asked = [{**question, "model": data.draw(st.sampled_from(models))} for question in questions]
        answers = told(client, "recommend/batch", json.dumps({"questions": asked}))
        assert answers is not None
        for question, answer in zip(asked, answers.answers, strict=True):
            coherent(question, answer)
        item = data.draw(ITEMS)
        told(client, "explain", json.dumps({**asked[0], "item": item}))


@given(
    st.lists(EVENTS, min_size=1, max_size=5),
    st.sampled_from(["u1", "u2", "nobody"]),
    st.sampled_from(["sasrec", "gru4rec"]),
)
def test_any_events_leave_people_who_can_be_answered(
    rich: TestClient, events: list[dict[str, Any]], user: str, model: str
) -> None:
    sent = json.dumps({"events": [{**event, "user": user} for event in events]})
    assert told(rich, "events/batch", sent).accepted == len(events)
    schemas.Person.model_validate_json(rich.get(f"/v1/users/{user}").text)
    question = {"user": user, "model": model, "k": 5, "deadline_ms": 600_000}
    coherent(question, told(rich, "recommend", json.dumps(question)))


@given(TEXTS | st.text(max_size=40), st.sampled_from(["items", "users"]))
def test_any_text_is_searched_for(plain: TestClient, text: str, what: str) -> None:
    answer = plain.get(f"/v1/{what}", params={"query": text.encode("utf-8", "replace").decode(), "limit": 5})
    if len(text) > 256:
        assert answer.status_code == 422
    elif what == "items":
        assert len(schemas.Items.model_validate_json(answer.text).items) <= 5
    else:
        assert len(schemas.Persons.model_validate_json(answer.text).users) <= 5
