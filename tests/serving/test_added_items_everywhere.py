"""Added items with the approximate index, every store, several processes, item search and rules at the same time."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from segue.serving.app import create_app
from segue.serving.artifacts.ann_index import ApproximateIndex
from segue.serving.artifacts.artifact import build_artifact
from segue.serving.server import build_service
from segue.serving.service import Service
from segue.serving.settings import ServingSettings
from tests.folders import new_folder
from tests.serving.text_world import TOPICS, new_item, trained, world

HISTORIES = [["i0", "i2", "i4"], ["i1", "i3"], [], ["new0", "i0"], ["i5", "other"]]


@cache
def folder(key: str, index_above: int) -> Path:
    out = new_folder() / f"{key.replace(' ', '-')}-{index_above}"
    build_artifact("model", trained(key), world().histories, out, engine="native", index_above=index_above)
    return out


def service(key: str, store: str, index_above: int) -> Service:
    return build_service([folder(key, index_above)], store, None, ServingSettings(deadline_ms=60_000))


def body(item: dict[str, Any]) -> dict[str, Any]:
    features = {name: value for name, value in item.items() if name not in ("id", "title")}
    return {"id": item["id"], "title": item.get("title"), "features": features}


def post(client: Any, *items: dict[str, Any]) -> Any:
    answer = client.post("/v1/items", json={"items": [body(one) for one in items]})
    assert answer.status_code == 200, answer.text
    return answer.json()


def ranked(client: Any, **rules: Any) -> list[list[tuple[str, float]]]:
    """Return the items and scores of all histories."""
    requests = [{"history": history, "k": 6, **rules} for history in HISTORIES]
    found = client.post("/v1/recommend/batch", json={"requests": requests}).json()["responses"]
    assert {one["source"] for one in found} == {"model"}
    return [[(item["id"], item["score"]) for item in one["items"]] for one in found]


def assert_same(one: list[list[tuple[str, float]]], other: list[list[tuple[str, float]]]) -> None:
    for found, expected in zip(one, other, strict=True):
        assert [item for item, _ in found] == [item for item, _ in expected]
        np.testing.assert_allclose(
            [score for _, score in found], [score for _, score in expected], rtol=1e-4, atol=1e-5
        )


def test_two_processes_with_the_approximate_index_answer_as_one_with_the_exact(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("usearch", reason="the extra 'ann' is not installed")
    monkeypatch.setattr("segue.serving.artifacts.ann_index.EXACT_SCAN_SHARE", 100.0)
    first, second, exact = (
        service("fusion", address, 1),
        service("fusion", address, 1),
        service("fusion", "memory:", 10**9),
    )
    assert isinstance(first.models.active.artifact.index, ApproximateIndex)
    with (
        TestClient(create_app(first)) as one,
        TestClient(create_app(second)) as two,
        TestClient(create_app(exact)) as oracle,
    ):

        def check() -> None:
            for process in (first, second):
                process.added_items.update()  # with a server as store, a loop does so every second
            for rules in ({}, {"deny": ["new0"]}, {"filter": {"year": {"min": 1995}}}, {"include_seen": True}):
                expected = ranked(oracle, **rules)
                assert_same(ranked(one, **rules), expected)
                assert_same(ranked(two, **rules), expected)
            for query in ("Moonrise", "Sunset", "new1", "Title 3"):
                listed = [client.get("/v1/items", params={"query": query}).json() for client in (one, two, oracle)]
                assert listed[0] == listed[1] == listed[2]

        items = [
            {
                **new_item([*TOPICS][number % 2]),
                "id": f"new{number}",
                "title": f"Moonrise {number}",
                "year": 1990 + number,
            }
            for number in range(6)
        ]
        for target in (one, oracle):
            post(target, *items[:4])
        check()
        assert [one["id"] for one in two.get("/v1/items?query=moonrise").json()["items"]] == [
            f"new{n}" for n in range(4)
        ]
        for target in (two, oracle):  # the other process replaces one, and an item of the catalog
            post(target, {**items[1], "title": "Sunset", "plot": items[0]["plot"]}, {**items[5], "id": "i3"})
        check()
        assert [one["id"] for one in one.get("/v1/items?query=sunset").json()["items"]] == ["new1"]
        for target in (one, oracle):
            assert target.delete("/v1/items/new0").status_code == 200
            assert target.delete("/v1/items/i3").status_code == 200
        for target in (two, oracle):
            post(target, items[0], items[4])
        check()
    with TestClient(create_app(service("fusion", address, 1))) as restarted:
        assert {"new0", "new1", "new2", "new3", "new4"} <= {
            one["id"] for one in restarted.get("/v1/items?query=&limit=100").json()["items"]
        }


def test_what_a_model_does_not_read_is_refused_and_not_ignored() -> None:
    """Reviews have a sentiment only where the log is prepared; a text that nothing reads must not look accepted."""
    with TestClient(create_app(service("content", "memory:", 10**9))) as client:
        for path, sent, field in (
            ("items", {"items": [body(new_item(review="Great!"))]}, "items[0].features.review"),
            ("events", {"user": "u", "item": "i1", "review": "Great!"}, "review"),
            ("events", {"user": "u", "item": "i1", "context": {"review": "Great!"}}, "context.review"),
            ("recommend", {"history": [{"item": "i1", "review": "Great!"}]}, "history[0]"),
        ):
            answer = client.post(f"/v1/{path}", json=sent)
            assert answer.status_code == 422, answer.text
            assert any(name.startswith(field) for name in answer.json()["fields"]), answer.text
