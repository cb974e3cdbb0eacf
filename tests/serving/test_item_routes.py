"""Items that are added through the API: recommended in the next answer, by every process that shares the store."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from segue.core import bundle
from segue.serving.app import create_app
from segue.serving.artifacts.ann_index import ApproximateIndex
from segue.serving.artifacts.artifact import build_artifact
from segue.serving.auth.api_keys import ApiKeys
from segue.serving.catalog.added_items import AddedItems
from segue.serving.server import build_service
from segue.serving.service import Service
from segue.serving.settings import ServingSettings
from segue.testing import train_small
from tests.folders import new_folder
from tests.serving.text_world import EXTENSIBLE, N_ITEMS, ODD_TEXTS, new_item, trained, world

SPACE, KITCHEN = [f"i{item}" for item in range(0, 16, 2)], [f"i{item}" for item in range(1, 16, 2)]


@cache
def folder(key: str, **options: Any) -> Path:
    model = trained(key) if key in (*EXTENSIBLE, "recurrent fusion") else None
    if model is None:
        model = bundle.create(key, train_small(key, world()), world())
    out = new_folder() / key.replace(" ", "-")
    build_artifact(key.replace(" ", "-"), model, world().histories, out, engine="native", **options)
    return out


def service(*keys: str, store: str = "memory:", **settings: Any) -> Service:
    return build_service(
        [folder(key) for key in keys], store, None, ServingSettings(**{"deadline_ms": 60_000, **settings})
    )


@pytest.fixture
def client() -> Any:
    with TestClient(create_app(service("content"))) as one:
        yield one


def body(item: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {name: item[name] for name in ("id", "title") if name in item}
    return {**fields, "features": {name: value for name, value in item.items() if name not in fields}}


def post(client: Any, *items: dict[str, Any]) -> Any:
    return client.post("/v1/items", json={"items": [body(item) for item in items]})


def recommended(client: Any, history: list[str], k: int = 5, **more: Any) -> list[str]:
    response = client.post("/v1/recommend", json={"history": history, "k": k, **more})
    assert response.status_code == 200, response.text
    assert response.json()["source"] == "model"
    return [item["id"] for item in response.json()["items"]]


@pytest.mark.parametrize("key", EXTENSIBLE)
def test_an_item_is_recommended_in_the_next_answer(key: str) -> None:
    with TestClient(create_app(service(key))) as client:
        assert "new" not in recommended(client, SPACE)
        answer = post(client, new_item("space"), {**new_item("kitchen"), "id": "other"})
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"added": 2, "replaced": 0, "models": [key], "other_models": [], "notes": []}
        assert "new" in recommended(client, SPACE)
        assert "other" in recommended(client, KITCHEN)
        assert "other" not in recommended(client, SPACE)
        (title,) = [
            one["title"]
            for one in client.post("/v1/recommend", json={"history": SPACE, "allow": ["new"]}).json()["items"]
        ]
        assert title == "New"


def test_with_every_store(store: Any, new_address: Callable[[str], str]) -> None:
    address = new_address(store.name) if store.name != "sqlite" else new_address("sqlite")
    with TestClient(create_app(service("content", store=address))) as client:
        assert post(client, new_item()).json()["added"] == 1
        assert "new" in recommended(client, SPACE)
        assert client.delete("/v1/items/new").status_code == 200
        assert "new" not in recommended(client, SPACE, k=20)
        assert client.delete("/v1/items/new").status_code == 404


def test_items_survive_a_restart(address: str) -> None:
    with TestClient(create_app(service("content", store=address))) as client:
        assert post(client, new_item(), {**new_item("kitchen"), "id": "other"}).status_code == 200
        before = recommended(client, SPACE, k=20)
    with TestClient(create_app(service("content", store=address))) as client:
        assert recommended(client, SPACE, k=20) == before
        assert "new" in before


def test_another_process_has_the_item_in_its_next_answer(new_address: Callable[[str], str]) -> None:
    address = new_address("sqlite")
    first, second = service("content", store=address), service("content", store=address)
    with TestClient(create_app(first)) as one, TestClient(create_app(second)) as two:
        post(one, new_item())
        assert "new" in recommended(two, SPACE)
        assert two.get("/v1/items/new").json()["features"]["plot"] == new_item()["plot"]
        post(two, {**new_item("kitchen"), "id": "new"})
        assert "new" in recommended(one, KITCHEN)
        assert "new" not in recommended(one, SPACE)
        two.delete("/v1/items/new")
        assert one.get("/v1/items/new").status_code == 404
    assert first.models.active.items_sequence == second.models.active.items_sequence == 3


def test_users_and_events_are_described_with_the_current_items(new_address: Callable[[str], str]) -> None:
    address = new_address("sqlite")
    with (
        TestClient(create_app(service("content", store=address))) as one,
        TestClient(create_app(service("content", store=address))) as two,
    ):
        post(one, new_item())
        event = {"user": "u", "item": "new"}
        assert two.post("/v1/events", json=event).json()["unknown_items"] == []
        assert [event["title"] for event in two.get("/v1/users/u").json()["events"]] == ["New"]
        one.delete("/v1/items/new")
        assert [event["title"] for event in two.get("/v1/users/u").json()["events"]] == [None]
        post(one, new_item(title="Newer"))
        assert [event["title"] for event in two.get("/v1/users/u").json()["events"]] == ["Newer"]


def test_a_process_with_a_server_as_store_adopts_items_in_the_background(new_address: Callable[[str], str]) -> None:
    address = new_address("redis")
    one, two = service("content", store=address), service("content", store=address)
    one.added_items.put([_batch(new_item())])
    assert "new" not in _ids(two)
    two.added_items.update()
    assert "new" in _ids(two)
    for each in (one, two):
        each.close()


def _batch(*items: dict[str, Any]) -> Any:
    from segue.serving.catalog.added_items import ItemBatch

    return ItemBatch(items, float("inf"))


def _ids(one: Service) -> list[str]:
    return one.models.active.artifact.bundle.items.ids.to_list()


def test_processes_order_items_in_the_same_way(new_address: Callable[[str], str]) -> None:
    """The codes of items are part of recurrent states, which processes share."""
    address = new_address("sqlite")
    one = service("recurrent fusion", store=address)
    one.added_items.put([_batch(new_item(), {**new_item(), "id": "second"}, {**new_item(), "id": "third"})])
    one.added_items.put([_batch({**new_item("kitchen"), "id": "second"})])
    one.added_items.delete("new")
    two = service("recurrent fusion", store=address)
    assert _ids(one) == _ids(two)
    assert _ids(one)[N_ITEMS:] == ["second", "third"]
    assert one.models.active.artifact.state_hash == two.models.active.artifact.state_hash
    one.close()
    two.close()


def test_events_of_a_new_item_are_used_and_states_are_computed_again() -> None:
    it = service("recurrent fusion")
    with TestClient(create_app(it)) as client:
        for item in ("i0", "new"):
            assert client.post("/v1/events", json={"user": "ann", "item": item}).status_code == 200
        ranked = client.post("/v1/recommend", json={"user": "ann", "k": 20}).json()
        assert ranked["unknown"]["items"] == ["new"]
        post(client, new_item())
        ranked = client.post("/v1/recommend", json={"user": "ann", "k": 30}).json()
        assert ranked["source"] == "model"
        assert ranked["unknown"]["items"] == []
        assert "new" not in [item["id"] for item in ranked["items"]]
        expected = client.post("/v1/recommend", json={"history": ["i0", "new"], "k": 30}).json()
        np.testing.assert_allclose(
            [item["score"] for item in ranked["items"]], [item["score"] for item in expected["items"]], atol=1e-5
        )


def test_an_item_of_the_catalog_is_replaced_and_restored(client: Any) -> None:
    before, shown = recommended(client, SPACE, k=20), client.get("/v1/items/i1").json()
    answer = post(client, {**new_item("space"), "id": "i1"})
    assert answer.json() == {"added": 0, "replaced": 1, "models": ["content"], "other_models": [], "notes": []}
    assert client.get("/v1/items/i1").json()["features"]["year"] is None
    assert "i1" in recommended(client, SPACE)
    assert client.delete("/v1/items/i1").json() == {"id": "i1"}
    assert recommended(client, SPACE, k=20) == before
    assert client.get("/v1/items/i1").json() == shown


def test_rules_search_and_explanations_know_the_item(client: Any) -> None:
    post(client, new_item(year=2024, tags=["new", "short"], title="A Journey"))
    assert recommended(client, SPACE, filter={"year": {"min": 2000}}) == ["new"]
    assert "new" not in recommended(client, SPACE, deny=["new"])
    assert recommended(client, KITCHEN, pins=[{"item": "new", "position": 1}])[0] == "new"
    assert [one["id"] for one in client.get("/v1/items?query=journey").json()["items"]] == ["new"]
    assert client.get("/v1/items/new/similar").json()["items"] == []
    explanation = client.post("/v1/explain", json={"history": SPACE, "item": "new"}).json()
    assert explanation["recommended"]
    assert explanation["item"]["title"] == "A Journey"
    assert "new" not in recommended(client, [*SPACE, "new"], k=30)
    assert "new" in recommended(client, [*SPACE, "new"], k=30, include_seen=True)


@pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS.keys())
def test_odd_texts(client: Any, text: str) -> None:
    answer = post(client, {"id": "new", "title": text[:500], "plot": text})
    assert answer.status_code == 200, answer.text
    assert len(recommended(client, SPACE, k=30)) == N_ITEMS - len(SPACE) + 1
    shown = client.get("/v1/items/new").json()["features"]["plot"]
    assert shown == text if len(text) <= 1024 else text.startswith(shown[:-1])
    assert client.get("/v1/items?query=rocket").status_code == 200


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"id": ""}, "items[0].id"),
        ({"id": "a\x00"}, "items[0].id"),
        ({"id": "x" * 257}, "items[0].id"),
        ({"features": {}}, "items[0].id"),
        ({"id": "n", "plot": "x"}, "items[0].plot"),
        ({"id": "n", "title": 5}, "items[0].title"),
        ({"id": "n", "features": {"plto": "secret"}}, "items[0].features.plto"),
        ({"id": "n", "features": {"year": "secret"}}, "items[0].features.year"),
        ({"id": "n", "features": {"tags": "secret"}}, "items[0].features.tags"),
        ({"id": "n", "features": {"text_vector": [1.0]}}, "items[0].features.text_vector"),
        ({"id": "n", "features": {"released": "secret"}}, "items[0].features.released"),
        ({"id": "n", "features": {"title": "secret"}}, "items[0]"),
    ],
)  # fmt: skip
def test_an_invalid_item_names_its_field(client: Any, item: dict[str, Any], field: str) -> None:
    answer = client.post("/v1/items", json={"items": [item]})
    assert answer.status_code == 422, answer.text
    assert any(name.startswith(field) for name in answer.json()["fields"]), answer.text
    assert "secret" not in answer.text
    assert client.get("/v1/items?query=&limit=1000").json()["items"].__len__() == N_ITEMS


def test_one_invalid_item_refuses_the_request_but_not_others(client: Any) -> None:
    answer = post(client, new_item(), {"id": "bad", "year": "x"})
    assert list(answer.json()["fields"]) == ["items[1].features.year"]
    assert "new" not in recommended(client, SPACE, k=30)
    it = service("content")
    results = it.added_items.put([_batch({"id": "bad", "year": "x"}), _batch(new_item())])
    assert isinstance(results[0], ValueError)
    assert results[1].added == 1  # type: ignore[union-attr]


def _fail_on_bad_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every model fail to be extended with items whose id begins with ``bad``."""
    from segue.models.content.content import Content

    extend = Content.with_items

    def with_items(self: Any, codes: Any, table: Any) -> Any:
        if table["id"].str.starts_with("bad").any():
            raise ValueError("features: got inf, expected a finite number")
        return extend(self, codes, table)

    monkeypatch.setattr(Content, "with_items", with_items)


def test_an_item_that_no_model_can_be_extended_with_is_refused(
    client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _fail_on_bad_items(monkeypatch)
    answer = post(client, new_item(), {**new_item(), "id": "bad"})
    assert answer.status_code == 409
    assert "nothing was changed" in answer.json()["message"]
    assert "items cannot be added to model content: ValueError" in caplog.text
    assert client.get("/v1/items/new").status_code == 404
    assert post(client, new_item()).json()["models"] == ["content"]
    assert "new" in recommended(client, SPACE)
    it = service("content")
    results = it.added_items.put([_batch({**new_item(), "id": "bad"}), _batch(new_item())])
    assert isinstance(results[0], ValueError)
    assert results[1].models == ("content",)  # type: ignore[union-attr]


def test_an_item_that_overflows_its_column_is_refused(client: Any) -> None:
    answer = post(client, new_item(rating=1e300))
    assert answer.status_code == 422, answer.text
    assert "items[0].features.rating" in answer.json()["fields"]
    assert post(client, new_item()).json()["models"] == ["content"]
    assert "new" in recommended(client, SPACE)


def test_stored_items_that_a_model_cannot_be_extended_with_are_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    it = service("content")
    _fail_on_bad_items(monkeypatch)
    content = json.dumps({"features": {}, "vectors": {}})
    stored = {f"{name}{n}": content for n in range(4) for name in ("good", "bad")}
    it.store.put_items(stored)
    it.added_items.update()
    assert _ids(it)[N_ITEMS:] == [f"good{n}" for n in range(4)]
    results = it.added_items.put([_batch(new_item())])
    assert results[0].models == ("content",)  # type: ignore[union-attr]
    assert _ids(it)[N_ITEMS:] == [*(f"good{n}" for n in range(4)), "new"]
    assert caplog.text.count("model content: 4 added items are left out") == 1
    for name in (*stored, "new"):
        if not name.startswith("bad"):
            it.added_items.delete(name)
    assert _ids(it)[N_ITEMS:] == []
    it.close()


def test_models_without_the_change_are_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    it = service("content", "fusion")
    it.added_items.put([_batch(new_item())])
    update = it.added_items._update
    monkeypatch.setattr(
        it.added_items, "_update", lambda model: None if model.info.name == "content" else update(model)
    )
    (result,) = it.added_items.put([_batch({**new_item(), "id": "later"})])
    assert (result.models, result.other_models) == (("fusion",), ("content",))  # type: ignore[union-attr]
    it.close()


def test_duplicates_in_one_request_are_rejected(client: Any) -> None:
    answer = post(client, new_item(), new_item())
    assert answer.json()["fields"] == {"items[1].id": "got a text, expected an id that occurs once"}


def test_an_id_with_slashes_is_removed(client: Any) -> None:
    for item in ("a/b", "a/similar", "similar"):
        assert post(client, {**new_item(), "id": item}).status_code == 200
    assert client.delete("/v1/items/a/similar").status_code == 405
    assert client.delete("/v1/items/a%2Fsimilar").json() == {"id": "a/similar"}
    assert client.delete("/v1/items/a/b").json() == {"id": "a/b"}
    assert client.delete("/v1/items/similar").json() == {"id": "similar"}


def test_limits() -> None:
    with TestClient(create_app(service("content", max_batch_items=2, max_added_items=3))) as client:
        items = [{**new_item(), "id": f"n{n}"} for n in range(4)]
        assert post(client, *items[:3]).json()["fields"] == {"items": "got 3, expected at most 2"}
        assert post(client, *items[:2]).status_code == 200
        refused = post(client, *items[2:])
        assert refused.status_code == 409
        assert "holds at most 3 (serving.max_added_items)" in refused.json()["message"]
        assert post(client, items[0], items[2]).json() == {
            "added": 1,
            "replaced": 1,
            "models": ["content"],
            "other_models": [],
            "notes": [],
        }
        long = post(client, *[{**one, "plot": "x" * 20_000} for one in items])  # is read in steps
        assert long.json()["fields"] == {"items": "got 4, expected at most 2"}


def test_errors_about_texts_say_what_is_wrong(client: Any) -> None:
    assert post(client, new_item(title="x" * 1024)).status_code == 200
    error = post(client, new_item(title="x" * 1025))
    assert error.status_code == 422
    assert error.json()["fields"] == {
        "items[0].title": "String should have at most 1024 characters, got text of 1025 characters"
    }
    body = '{"items": [{"id": "a", "features": {"plot": "\\ud800", "tags": ["\\udfff"], "year": "x"}}]}'
    headers = {"Content-Type": "application/json"}
    assert client.post("/v1/items", content=body, headers=headers).json()["fields"] == {
        "items[0].features.plot": "got a text, expected a text without lone surrogates",
        "items[0].features.tags": "got a list of 1 text, expected a list of texts without lone surrogates",
        "items[0].features.year": "got a text, expected a whole number (Int64)",
    }
    wrong = post(client, new_item(tags=[1, 2])).json()["fields"]
    assert wrong == {"items[0].features.tags": "got a list of 2 numbers, expected a list of texts"}


def test_numbers_outside_of_their_range_in_training_are_noted(client: Any) -> None:
    answer = post(client, new_item(rating=1e15, year=1995), {**new_item(rating=-7.5), "id": "other"}).json()
    expected = "rating: 1e+15 and 1 more outside of 0 to 2, the range in training; scored as the nearest"
    assert answer["notes"] == [expected]
    assert client.get("/v1/items/new").json()["features"]["rating"] == 1e15
    post(client, {**new_item(rating=2.0, year=1995), "id": "twin"})
    ranked = client.post("/v1/recommend", json={"history": SPACE, "allow": ["new", "twin"]}).json()["items"]
    assert ranked[0]["score"] == pytest.approx(ranked[1]["score"])


def test_items_that_waited_too_long_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    it = service("content", items_timeout_ms=60_000)
    deadlines: list[float] = []
    put = it.added_items.put

    def put_late(batches: Any) -> Any:
        deadlines.extend(batch.deadline for batch in batches)
        return put([replace(batch, deadline=0.0) for batch in batches])

    monkeypatch.setattr(it.added_items, "put", put_late)
    with TestClient(create_app(it)) as client:
        answer = post(client, new_item())
        assert answer.status_code == 503
        assert "nothing was changed" in answer.json()["message"]
        assert len(it.added_items) == 0
    with_default = service("content")
    monkeypatch.setattr(with_default.added_items, "put", put_late)
    with TestClient(create_app(with_default)) as client:
        post(client, new_item())
    assert deadlines[0] - deadlines[1] > 20  # 60 and 30 seconds


def test_models_that_represent_items_by_events_refuse_with_the_models_that_do_not() -> None:
    with TestClient(create_app(service("popular"))) as client:
        answer = post(client, new_item())
        assert answer.status_code == 409
        assert "content, fusion, maml or two_tower" in answer.json()["message"]
        assert client.get("/v1/items/new").status_code == 404
    with TestClient(create_app(service("content", "popular"))) as client:
        assert post(client, new_item()).json() == {
            "added": 1,
            "replaced": 0,
            "models": ["content"],
            "other_models": ["popular"],
            "notes": [],
        }
        assert "new" not in recommended(client, SPACE, k=30, model="popular")
        assert "new" in recommended(client, SPACE)


def test_several_models_have_the_item() -> None:
    with TestClient(create_app(service("content", "fusion"))) as client:
        assert post(client, new_item()).json()["models"] == ["content", "fusion"]
        for name in ("content", "fusion"):
            assert "new" in recommended(client, SPACE, model=name)
        assert client.post("/v1/models/fusion/activate").status_code == 200
        assert "new" in recommended(client, SPACE)
        post(client, {**new_item(), "id": "later"})
        assert {"new", "later"} < set(recommended(client, SPACE, k=6))


def test_a_model_that_is_loaded_later_has_the_items(tmp_path: Path) -> None:
    shutil.copytree(folder("fusion"), tmp_path / "fusion")
    it = build_service([folder("content")], "memory:", tmp_path, ServingSettings(deadline_ms=60_000))
    with TestClient(create_app(it)) as client:
        assert post(client, new_item()).json()["models"] == ["content"]
        assert "new" in recommended(client, SPACE, model="fusion")
        assert it.models.find("fusion").items_sequence == 1


def test_concurrent_posts_are_all_stored() -> None:
    it = service("content")
    answers: list[Any] = []
    with TestClient(create_app(it)) as client:

        def work(number: int) -> None:
            answers.extend(post(client, {**new_item(), "id": f"{number}-{n}"}) for n in range(4))
            recommended(client, SPACE)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [one.status_code for one in answers] == [200] * 24
        assert sum(one.json()["added"] for one in answers) == 24
        shown = client.get("/v1/items?query=&limit=1000").json()["items"]
        assert len(shown) == N_ITEMS + 24
        metrics = client.get("/metrics").text
        assert 'segue_item_changes_total{operation="put"} 24.0' in metrics
        assert "segue_added_items 24.0" in metrics


def test_scopes(tmp_path: Path) -> None:
    from segue.serving.auth.api_keys import create_key

    path = tmp_path / "keys.json"
    tokens = {scope: create_key(path, scope, [scope]) for scope in ("recommend", "read", "write", "admin")}
    with TestClient(create_app(service("content"), keys=ApiKeys(path))) as client:
        for scope, token in tokens.items():
            headers = {"authorization": f"Bearer {token}"}
            answer = client.post("/v1/items", json={"items": [body(new_item())]}, headers=headers)
            assert answer.status_code == (200 if scope == "write" else 403)
            answer = client.delete("/v1/items/new", headers=headers)
            assert answer.status_code == (200 if scope == "write" else 403)


def test_a_failing_store_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from segue.serving.stores.store import StoreError

    it = service("content")

    def fail(items: Any) -> None:
        raise StoreError("sqlite: cannot store items")

    with TestClient(create_app(it)) as client:
        monkeypatch.setattr(it.store.wrapped, "put_items", fail)
        answer = post(client, new_item())
        assert answer.status_code == 503
        assert "nothing was changed" in answer.json()["message"]
        assert "new" not in recommended(client, SPACE, k=30)


def test_the_approximate_index_finds_new_and_replaced_items() -> None:
    pytest.importorskip("usearch", reason="the extra 'ann' is not installed")
    rng = np.random.default_rng(0)
    from segue.serving.artifacts.ann_index import ExactIndex

    vectors = rng.normal(size=(3_000, 8)).astype(np.float32)
    index = ApproximateIndex.build(ExactIndex(vectors), threads=1)
    query = rng.normal(size=(1, 8)).astype(np.float32)
    query /= np.linalg.norm(query)
    extended = np.concatenate([vectors, 50 * query])
    extended[7] = 60 * query
    extended[int(index.search(query, 1).items[0, 0])] = -query  # its place in the graph is now wrong
    changed = np.array([7, 3_000, int(index.search(query, 1).items[0, 0])])
    found = index.with_items(ExactIndex(extended), changed).search(query, 10).items[0].tolist()
    assert found[:2] == [7, 3_000]
    assert found == ExactIndex(extended).search(query, 10).items[0].tolist()
    assert index.search(query, 10).items[0].max() < 3_000


def test_the_index_of_an_artifact_is_extended(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("usearch", reason="the extra 'ann' is not installed")
    monkeypatch.setattr("segue.serving.artifacts.ann_index.EXACT_SCAN_SHARE", 100.0)
    it = build_service([folder("fusion", index_above=1)], "memory:", None, ServingSettings(deadline_ms=60_000))
    assert isinstance(it.models.active.artifact.index, ApproximateIndex)
    with TestClient(create_app(it)) as client:
        post(client, new_item())
        assert "new" in recommended(client, SPACE)
        assert isinstance(it.models.active.artifact.index, ApproximateIndex)


def test_a_missing_encoder_is_one_line_at_the_start_and_refuses_items(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Any, index: int) -> Any:
        raise ValueError("text.options.model: no folder and no installed package 'x'; install it with: pip install x")

    monkeypatch.setattr("segue.features.text.encode_items.ItemTexts._encoder", fail)
    with caplog.at_level("WARNING", "segue.serving"):
        it = service("content")
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "model content: the text of new items cannot be encoded: text.options.model: no folder and no installed "
        "package 'x'; install it with: pip install x"
    ]
    with TestClient(create_app(it)) as client:
        answer = post(client, new_item())
        assert answer.status_code == 409
        assert "install" not in answer.text
        assert recommended(client, SPACE)


def test_an_item_stored_without_vectors_is_encoded_by_a_process_that_needs_them(
    new_address: Callable[[str], str],
) -> None:
    """As for a model with another encoder, which was not loaded when the item was added."""
    address = new_address("sqlite")
    one = service("content", store=address)
    content = json.dumps({"features": {"plot": new_item()["plot"], "other": 1}, "vectors": {}})
    one.store.put_items({"new": content, "broken": "{"})
    with TestClient(create_app(one)) as client:
        assert "new" not in recommended(client, SPACE, k=30)  # nothing is encoded while a request waits
        one.added_items.update()
        assert "new" in recommended(client, SPACE)
        assert client.get("/v1/items/broken").status_code == 404


def test_deleted_users_keep_added_items_and_added_items_keep_deleted_users() -> None:
    with TestClient(create_app(service("content"))) as client:
        post(client, new_item())
        client.post("/v1/events", json={"user": "ann", "item": "new"})
        assert client.delete("/v1/users/ann").json()["deleted_events"] == 1
        assert "new" in recommended(client, SPACE)


def test_refreshing_is_cheap_without_changes() -> None:
    it = service("content")
    it.added_items.put([_batch(new_item())])
    model = it.models.active
    for _ in range(3):
        it.added_items.refresh()
    assert it.models.active is model
    assert isinstance(it.added_items, AddedItems)
