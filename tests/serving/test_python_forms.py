"""REST accepts the forms of conditions and seen items that Python accepts, with the same meaning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

import segue
from segue.core import bundle
from segue.core.messages import SegueWarning
from segue.serving.app import create_app
from tests.serving import world


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(world.service("ease"))) as one:
        yield one


def recommend(client: TestClient, **body: Any) -> list[str]:
    response = client.post("/v1/recommend", json={"k": 40, **body})
    assert response.status_code == 200, response.text
    return [item["id"] for item in response.json()["items"]]


CONDITIONS: list[dict[str, Any]] = [
    {"genres": "War"},
    {"genres": ["War", "Drama"]},
    {"genres": {"any": ["War"]}},
    {"genres": {"none": ["War"]}},
    {"year": 1995},
    {"year": 1995.0},
    {"year": [1995, 1996]},
    {"year": {"min": 1995, "max": 2001}},
    {"genres": "War", "year": {"max": 2001}},
    {"title": "Title 7"},
]


@pytest.mark.parametrize("condition", CONDITIONS, ids=str)
def test_conditions_mean_the_same_as_in_python(client: TestClient, condition: dict[str, Any]) -> None:
    model = bundle.load(world.artifact_folder("ease") / "bundle")
    expected = segue.recommend(model, histories=[["i1"]], k=40, filter=condition)["item_id"].to_list()
    assert recommend(client, history=["i1"], filter=condition) == expected != []
    conditions = {
        name: part if isinstance(part, dict) else {"any": part if isinstance(part, list) else [part]}
        for name, part in condition.items()
    }
    assert recommend(client, history=["i1"], boosts=[{"filter": condition, "factor": 3}]) == recommend(
        client, history=["i1"], boosts=[{"filter": conditions, "factor": 3}]
    )


def test_values_that_no_item_has_are_reported_in_python_too(client: TestClient) -> None:
    model = bundle.load(world.artifact_folder("ease") / "bundle")
    with pytest.warns(SegueWarning, match="^filter=: genres: no item has the value 'war'$"):
        segue.recommend(model, histories=[["i1"]], filter={"genres": ["war", "War"]})
    with pytest.warns(SegueWarning, match=r"^rules=: boosts\[0\].filter.genres: no item has the value 'war'$"):
        segue.recommend(
            model, histories=[["i1"]], rules={"boosts": [{"filter": {"genres": {"any": ["war"]}}, "factor": 2}]}
        )


@pytest.mark.parametrize(
    ("condition", "field"),
    [
        (None, "filter.genres"),
        ([], "filter.genres.any"),
        ([None], "filter.genres.any[0]"),
        ({"some": ["War"]}, "filter.genres.some"),
        (7, "filter.genres"),
        ({"any": "War"}, "filter.genres.any"),
    ],
)
def test_malformed_conditions_are_rejected(client: TestClient, condition: Any, field: str) -> None:
    response = client.post("/v1/recommend", json={"filter": {"genres": condition}})
    assert response.status_code == 422
    assert [name for name in response.json()["fields"] if name.startswith(field)], response.text


@pytest.mark.parametrize("path", ["recommend", "explain", "recommend/batch"])
def test_exclude_seen_is_the_opposite_of_include_seen(client: TestClient, path: str) -> None:
    def send(**options: Any) -> Any:
        request = {"user": "u1", "k": 40, **options, **({"item": "i3"} if path == "explain" else {})}
        response = client.post(f"/v1/{path}", json={"requests": [request]} if path.endswith("batch") else request)
        return response.json() if response.status_code == 200 else response.status_code

    included, excluded = send(include_seen=True), send()
    assert included != excluded
    assert send(exclude_seen=False) == send(exclude_seen=False, include_seen=True) == included
    assert send(exclude_seen=True) == send(exclude_seen=None) == send(include_seen=False) == excluded
    assert send(exclude_seen=True, include_seen=True) == 422
    assert send(exclude_seen=False, include_seen=False) == 422
    assert send(exclude_seen="no") == 422
    assert send(exclude_seen=0) == 422


def test_a_contradiction_names_both_fields(client: TestClient) -> None:
    error = client.post("/v1/recommend", json={"exclude_seen": True, "include_seen": True}).json()
    assert "include_seen and exclude_seen contradict each other" in error["message"]


def test_openapi_documents_the_forms(client: TestClient) -> None:
    properties = client.get("/openapi.json").json()["components"]["schemas"]["RecommendRequest"]["properties"]
    assert {option.get("type") for option in properties["exclude_seen"]["anyOf"]} == {"boolean", "null"}
    options = properties["filter"]["additionalProperties"]["anyOf"]
    assert {option.get("type", "object") for option in options} == {
        "object", "string", "boolean", "integer", "number", "array",
    }  # fmt: skip
