"""Responses and explanations are ready at about their deadline, and rules that exclude items always hold."""

from __future__ import annotations

import time
from collections.abc import Generator
from functools import partial
from time import monotonic
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from segue.core.types import Events, Queries
from segue.serving import schemas
from segue.serving.api import recommend as recommend_module
from segue.serving.api.recommend import is_expensive
from segue.serving.app import create_app
from segue.serving.explain import leave_one_out
from segue.serving.explain.explain import explain_in_steps
from segue.serving.explain.leave_one_out import compute_attributions, compute_attributions_in_steps
from segue.serving.rules.compile import compile_rules
from segue.serving.scheduling.steps import StepTimer, run_steps
from segue.serving.service import PendingRequest, Service
from tests.serving.world import service

EXPENSIVE: list[dict[str, Any]] = [
    {"k": 20, "diversify": 0.5},
    {"k": 20, "max_per_value": {"genres": 4}},
    {"k": 20, "diversify": 0.3, "max_per_value": {"genres": 5, "year": 1}, "deny": ["i1", "i2"]},
    {"k": 5, "pins": [{"item": "i7", "position": 2}], "boosts": [{"filter": {"genres": "War"}, "factor": 3}]},
    {"k": 40, "diversify": 0.9, "include_seen": True},
    {"k": 3},
]


def expensive_requests(user: int = 0) -> list[schemas.RecommendRequest]:
    return [
        schemas.RecommendRequest.model_validate({"user": f"u{user + row}", **fields})
        for row, fields in enumerate(EXPENSIVE)
    ]


def pending(requests: list[schemas.RecommendRequest], seconds: float = 600) -> list[PendingRequest]:
    return [PendingRequest(request, monotonic() + seconds) for request in requests]


def notes_of(response: schemas.RecommendResponse) -> str:
    return "; ".join(response.notes)


def collect(results: dict[int, Any], output: Any) -> None:
    results.update(output or ())


@pytest.mark.parametrize("key", ["ease", "sasrec", "gru4rec"])
def test_results_are_the_same_however_the_work_is_interrupted(key: str) -> None:
    svc = service(key)
    expected = svc.recommend(pending(expensive_requests()))
    other = svc.recommend(pending(expensive_requests(20)))
    running = [svc.recommend_in_steps(pending(expensive_requests(user))) for user in (0, 20)]
    results: list[dict[int, Any]] = [{}, {}]
    n_steps = 0
    while any(running):
        for index, steps in enumerate(running):
            if steps is not None:
                try:
                    collect(results[index], next(steps))
                    n_steps += 1
                except StopIteration:
                    running[index] = None  # type: ignore[call-overload]
        svc.recommend(pending([schemas.RecommendRequest(user="u50")]))
    assert n_steps > 40
    for found, wanted in zip(results, (expected, other), strict=True):
        assert [found[row] for row in range(len(EXPENSIVE))] == wanted


def test_results_do_not_depend_on_the_size_of_the_groups() -> None:
    svc = service("ease")
    results: dict[int, Any] = {}
    for output in svc.run_jobs(pending(expensive_requests()), 2):
        collect(results, output)
    assert [results[row] for row in range(len(EXPENSIVE))] == svc.recommend(pending(expensive_requests()))


def test_a_streaming_model_reads_a_long_history_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    svc = service("gru4rec")
    history: list[Any] = [f"i{item}" for item in np.random.default_rng(1).integers(40, size=1_000)]
    request = schemas.RecommendRequest(history=history, include_seen=True)
    n_pauses = sum(output is None for output in svc.recommend_in_steps(pending([request])))
    assert n_pauses > 1_000 / 128
    (found,) = svc.recommend(pending([request]))
    monkeypatch.setattr("segue.serving.ranking.long_history.LONG_HISTORY", 10_000)
    (whole,) = svc.recommend(pending([request]))
    assert isinstance(found, schemas.RecommendResponse)
    assert isinstance(whole, schemas.RecommendResponse)
    assert [item.id for item in found.items] == [item.id for item in whole.items]
    assert [item.score for item in found.items] == pytest.approx([item.score for item in whole.items], abs=1e-5)


def late_after(svc: Service, monkeypatch: pytest.MonkeyPatch, n_readings: int) -> None:
    """Let time pass the deadlines of all requests once the clock has been read ``n_readings`` times."""
    readings = iter(range(1_000_000))
    clock = SimpleNamespace(monotonic=lambda: 0.0 if next(readings) < n_readings else 1e6)
    monkeypatch.setattr("segue.serving.service.time", clock)
    monkeypatch.setattr("segue.serving.ranking.scorer.time", clock)


@pytest.mark.parametrize("n_readings", [0, 1, 2, 3, 4, 6, 8, 12, 20])
@pytest.mark.parametrize("fields", EXPENSIVE)
def test_late_requests_are_answered_with_all_rules_that_exclude_items(
    fields: dict[str, Any], n_readings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    svc = service("ease", default_rules={"deny": ["i3"], "filter": {"year": {"min": 1995}}})
    request = schemas.RecommendRequest.model_validate({"user": "u1", **fields})
    seen = {f"i{item}" for item in svc.query_builder.build(svc.models.active.artifact, [request]).queries.history.items}
    late_after(svc, monkeypatch, n_readings)
    (response,) = svc.recommend([PendingRequest(request, 1.0)])
    assert isinstance(response, schemas.RecommendResponse)
    items = [item.id for item in response.items]
    assert items
    assert len(items) == len(set(items)) <= request.k
    assert not {"i0", "i1", "i2", "i3", "i4"} & set(items)
    assert request.include_seen or not seen & set(items)
    if request.pins:
        assert items[1] == "i7"
    if not response.notes and request.diversify:
        assert response.source == "model"
    svc.close()


def test_late_quotas_and_diversity_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    svc = service("ease")
    late_after(svc, monkeypatch, 0)
    request = schemas.RecommendRequest.model_validate(
        {"user": "u1", "k": 10, "diversify": 0.5, "max_per_value": {"genres": 2}}
    )
    (response,) = svc.recommend([PendingRequest(request, 1.0)])
    assert isinstance(response, schemas.RecommendResponse)
    assert response.source == "popular"
    assert "max_per_value and diversify: not applied: the deadline has passed" in notes_of(response)
    assert len(response.items) == 10
    assert "segue_deadline_misses_total 1.0" in svc.metrics.render()[0].decode()


def test_the_deadline_is_checked_within_the_last_source(monkeypatch: pytest.MonkeyPatch) -> None:
    svc = service("ease")
    clock = SimpleNamespace(now=0.0)
    time = SimpleNamespace(monotonic=lambda: clock.now)
    monkeypatch.setattr("segue.serving.service.time", time)
    monkeypatch.setattr("segue.serving.ranking.scorer.time", time)
    monkeypatch.setattr(svc._latencies, "can_meet_deadline", lambda load, seconds: False)
    monkeypatch.setattr("segue.serving.rules.mmr.POSITIONS_PER_STEP", 1)
    request = schemas.RecommendRequest.model_validate({"user": "u1", "k": 20, "diversify": 0.5})
    n_steps_late = 0
    for output in svc.recommend_in_steps([PendingRequest(request, 1.0)]):
        n_steps_late += clock.now > 1.0
        clock.now += 0.1
        if output:
            ((_, response),) = output
    assert response.source == "popular"
    assert "diversify: not applied" in notes_of(response)
    assert n_steps_late <= 5


def test_a_response_in_time_applies_all_rules() -> None:
    svc = service("ease")
    for response in svc.recommend(pending(expensive_requests())):
        assert isinstance(response, schemas.RecommendResponse)
        assert response.source == "model"
        assert "deadline" not in notes_of(response)


def test_a_long_history_gives_the_same_explanation_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.serving.ranking.long_history.LONG_HISTORY", 10_000)
    whole, _ = explain_until(1_000_000, "gru4rec")
    monkeypatch.setattr("segue.serving.ranking.long_history.LONG_HISTORY", 10)
    found, _ = explain_until(1_000_000, "gru4rec")
    assert found.item.score == pytest.approx(whole.item.score, abs=1e-5)
    assert (found.position, found.rules) == (whole.position, whole.rules)


LONG = np.random.default_rng(0).integers(40, size=150).astype(np.int32)


@pytest.mark.parametrize("start", [0, 100, 145, 149, 150])
def test_attributions_from_states_equal_those_from_whole_histories(start: int) -> None:
    artifact = service("gru4rec").models.active.artifact
    queries = Queries.anonymous(Events.of([LONG[start:].tolist()]))
    expected = compute_attributions(artifact.engine.model, queries, 7)
    found = run_steps(compute_attributions_in_steps(artifact.engine.model, queries, 7, artifact.streaming_model))
    assert found[0].tolist() == expected[0].tolist()
    np.testing.assert_allclose(found[1], expected[1], atol=1e-5)


def test_states_read_the_beginning_of_a_history_once(monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = service("gru4rec").models.active.artifact
    history = np.concatenate([np.arange(20).repeat(50), np.arange(20, 40)]).astype(np.int32)
    history[-50:] = np.arange(20, 40).repeat(3)[:50]  # 1,000 events of other items come first
    model, n_events = artifact.streaming_model, []
    step = type(model).step

    def count(self: Any, state: Any, events: Any) -> Any:
        n_events.append(events.size)
        return step(self, state, events)

    monkeypatch.setattr(type(model), "step", count)
    queries = Queries.anonymous(Events.of([history.tolist()]))
    run_steps(compute_attributions_in_steps(artifact.engine.model, queries, 7, model))
    assert sum(n_events) < 4 * len(history)  # not once for each of 17 items
    assert max(n_events) <= leave_one_out.STEP_EVENTS + 18 * leave_one_out.MIN_STEP_LENGTH


def explain_until(n_pauses: int, key: str = "ease") -> tuple[schemas.Explanation, int]:
    """Explain an item with a deadline after some pauses; return the explanation and the number of all pauses."""
    model = service(key).models.active
    request = schemas.RecommendRequest(history=[f"i{item}" for item in LONG], diversify=0.4, deny=["i9"])
    rules = compile_rules(request, schemas.Rules(), model.catalog)
    queries = Queries.anonymous(Events.of([LONG.tolist()]))
    count = [0]
    streaming = model.artifact.streaming_model if model.artifact.supports_streaming else None
    steps: Generator[None, None, schemas.Explanation] = explain_in_steps(
        model.artifact.engine.model, queries, 9, rules, 10, True, model.catalog, model.artifact.neighbors, model.info,
        streaming, lambda: count[0] >= n_pauses,
    )  # fmt: skip
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value, count[0]
        count[0] += 1


@pytest.mark.parametrize("key", ["ease", "gru4rec"])
def test_a_late_explanation_is_incomplete_and_says_so(key: str) -> None:
    whole, n_pauses = explain_until(1_000_000, key)
    assert not whole.notes
    assert len(whole.attributions) > 20
    assert n_pauses > 5
    for late in range(0, n_pauses, 2):
        found, n_run = explain_until(late, key)
        assert n_run <= late + 4
        assert found.rules["deny"] == whole.rules["deny"]
        assert found.item == whole.item
        if len(found.attributions) < len(whole.attributions):
            assert any("attributions: only" in note for note in found.notes)


def test_only_cheap_requests_are_plain() -> None:
    request = partial(schemas.RecommendRequest, user="u1")
    assert not is_expensive(request())
    few_rules = {"genres": schemas.Condition(any=["War"])}
    assert not is_expensive(request(history=["i1"] * 200, deny=["i2"], filter=few_rules, k=50))
    for fields in (
        {"diversify": 0.1}, {"max_per_value": {"genres": 1}}, {"pins": [{"item": "i1", "position": 1}]}, {"k": 200},
        {"boosts": [{"filter": {"genres": "War"}, "factor": 2}]}, {"history": ["i1"] * 300}, {"deny": ["i1"] * 1_001},
        {"filter": {f"feature {n}": 1 for n in range(5)}},
    ):  # fmt: skip
        assert is_expensive(schemas.RecommendRequest.model_validate({"user": "u1", **fields})), fields


def test_a_timer_leaves_out_pauses() -> None:
    now = [0.0]

    def work() -> Generator[None, None, str]:
        now[0] += 1.0
        yield
        now[0] += 2.0
        return "done"

    timer = StepTimer(lambda: now[0])
    steps = timer.run(work())
    next(steps)
    now[0] += 100.0
    assert run_steps(steps) == "done"
    assert timer.seconds == 3.0


def test_batches_and_explanations_give_the_same_answers_over_http() -> None:
    svc = service("sasrec")
    requests = [{"user": f"u{row}", **fields} for row, fields in enumerate(EXPENSIVE)]
    with TestClient(create_app(svc)) as client:
        alone = [client.post("/v1/recommend", json={**one, "deadline_ms": 60_000}).json() for one in requests]
        body = {"requests": [{**one, "deadline_ms": 60_000} for one in requests]}
        together = client.post("/v1/recommend/batch", json=body)
        for found, expected in zip(together.json()["responses"], alone, strict=True):
            assert [item["id"] for item in found["items"]] == [item["id"] for item in expected["items"]]
            assert {**found, "items": []} == {**expected, "items": []}
        assert schemas.BatchResponse.model_validate_json(together.text).responses
        item = alone[0]["items"][0]["id"]
        why = client.post("/v1/explain", json={**requests[0], "item": item, "deadline_ms": 60_000}).json()
        assert (why["position"], why["notes"]) == (1, [])
        late = client.post("/v1/explain", json={"history": ["i1"] * 40, "item": "i2", "deadline_ms": 1}).json()
        assert late["item"]["id"] == "i2"


@pytest.mark.parametrize(("fields", "seconds"), [({}, 300.0), ({"deadline_ms": 200_000}, 200.0)])
def test_explanations_have_five_deadlines_by_default(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, int], seconds: float
) -> None:
    checks: list[Any] = []

    def keep_check(*arguments: Any) -> Any:
        checks.append(arguments[-1])
        return explain_in_steps(*arguments)

    monkeypatch.setattr(recommend_module, "explain_in_steps", keep_check)
    with TestClient(create_app(service("ease", deadline_ms=60_000))) as client:
        start = monotonic()
        body = {"history": ["i1"], "item": "i2", **fields}
        assert client.post("/v1/explain", json=body).status_code == 200
        end = monotonic()
    (is_late,) = checks
    for now, expected in ((start + seconds - 0.01, False), (end + seconds + 0.01, True)):
        with monkeypatch.context() as patch:
            patch.setattr(time, "monotonic", lambda now=now: now)
            assert is_late() is expected
