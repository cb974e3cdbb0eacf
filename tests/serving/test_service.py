"""The service returns what the model returns offline, with new events, and degrades through the fallback chain."""

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest

from segue.core import bundle
from segue.core.recommend import recommend
from segue.core.types import Events, Queries
from segue.serving import schemas
from segue.serving.artifacts.artifact import build_artifact
from segue.serving.model_registry import ModelRegistry
from segue.serving.monitoring.metrics import Metrics
from segue.serving.ranking.scorer import RenderedResponse
from segue.serving.scheduling.steps import run_steps
from segue.serving.service import InvalidRequest, PendingRequest, Service
from segue.serving.settings import ServingSettings
from segue.serving.stores.open import open_store
from segue.serving.stores.store import Event, StoreError, UserState
from segue.testing.training import train_small
from tests.serving.world import service, shop

KEYS = ("ease", "ials", "gru4rec", "sasrec")


def respond(svc: Service, *requests: schemas.RecommendRequest, seconds: float = 60.0) -> list[Any]:
    deadline = monotonic() + seconds
    return svc.recommend([PendingRequest(request, deadline) for request in requests])


def ids(response: schemas.RecommendResponse) -> list[str]:
    return [item.id for item in response.items]


def offline(svc: Service, histories: Sequence[list[int]], users: Sequence[int] | None, k: int) -> list[list[str]]:
    model = svc.models.active
    events = Events.of([list(row) for row in histories])
    queries = Queries.anonymous(events) if users is None else Queries.of_users(np.array(users, np.int32), events)
    lists = recommend(model.artifact.bundle.model, queries, k)
    return [model.catalog.ids(lists.items[row, : lists.lengths[row]]) for row in range(len(histories))]


@pytest.mark.parametrize("key", KEYS)
def test_known_users_get_offline_recommendations(key: str) -> None:
    svc, data = service(key), shop()
    rows = [data.histories.rows_between(user, user + 1).items.tolist() for user in range(20)]
    responses = respond(svc, *(schemas.RecommendRequest(user=f"u{user}", k=5) for user in range(20)))
    assert [ids(response) for response in responses] == offline(svc, rows, range(20), 5)
    assert {response.source for response in responses} == {"model"}
    assert not any(response.unknown.user for response in responses)
    assert [response.filtered_counts["seen"] for response in responses] == [len(set(row)) for row in rows]


@pytest.mark.parametrize("key", KEYS)
def test_sent_histories_get_offline_recommendations_alone_and_batched(key: str) -> None:
    svc = service(key)
    rows = [[1, 2, 3], [], [25], list(range(20, 39))]
    requests = [schemas.RecommendRequest(history=[f"i{item}" for item in row], k=4) for row in rows]
    expected = offline(svc, rows, None, 4)
    assert [ids(response) for response in respond(svc, *requests)] == expected
    assert [ids(respond(svc, request)[0]) for request in requests] == expected


@pytest.mark.parametrize("key", KEYS)
def test_new_events_affect_the_next_response(key: str) -> None:
    svc, data = service(key), shop()
    before = data.histories.rows_between(3, 4).items.tolist()
    respond(svc, schemas.RecommendRequest(user="u3"))
    for item in (0, 21, 5):
        assert svc.append_events([Event("u3", f"i{item}", 100)]) == [True]
        before.append(item)
        (response,) = respond(svc, schemas.RecommendRequest(user="u3", k=6))
        assert [ids(response)] == offline(svc, [before], [3], 6)
    svc.append_events([Event("new", "i30", 100), Event("new", "i31", 100)])
    (response,) = respond(svc, schemas.RecommendRequest(user="new", k=6))
    assert response.unknown.user
    assert [ids(response)] == offline(svc, [[30, 31]], None, 6)


def test_deleted_user_is_unknown() -> None:
    svc = service("gru4rec")
    svc.append_events([Event("u3", "i1", 100)])
    respond(svc, schemas.RecommendRequest(user="u3"))
    assert svc.store.delete_user("u3").events == 1
    (response,) = respond(svc, schemas.RecommendRequest(user="u3", k=6))
    assert response.unknown.user
    assert response.filtered_counts == {}
    assert [ids(response)] == offline(svc, [[]], None, 6)


def test_rules_apply_alone_and_batched() -> None:
    svc = service("sasrec")
    plain = schemas.RecommendRequest(history=["i1"], k=10)
    comedies = schemas.RecommendRequest(history=["i1"], k=10, filter={"genres": schemas.Condition(any=["Comedy"])})
    few = schemas.RecommendRequest(history=["i1"], k=10, max_per_value={"genres": 1})
    pinned = schemas.RecommendRequest(
        history=["i1"], k=5, pins=[schemas.Pin(item="i39", position=2)], deny=["i2", "nix"]
    )
    batched = respond(svc, plain, comedies, few, pinned)
    for response, request in zip(batched, (plain, comedies, few, pinned), strict=True):
        assert ids(response) == ids(respond(svc, request)[0])
    assert all(int(item[1:]) % 3 == 0 for item in ids(batched[1]))
    assert batched[1].filtered_counts["filter"] == 26
    assert sorted(int(item[1:]) % 3 for item in ids(batched[2])) == [0, 1, 2]
    assert ids(batched[3])[1] == "i39"
    assert batched[3].items[1].pinned
    assert "i2" not in ids(batched[3])
    assert batched[3].unknown.items == ["nix"]


def test_default_rules_apply_to_every_response() -> None:
    svc = service("ease", default_rules={"deny": ["i2"], "filter": {"year": {"max": 2009}}})
    (response,) = respond(svc, schemas.RecommendRequest(history=["i1"], k=40, include_seen=True))
    assert set(ids(response)) == {f"i{item}" for item in range(20)} - {"i2"}


def test_unknown_inputs_are_reported() -> None:
    svc = service("sasrec")
    (response,) = respond(svc, schemas.RecommendRequest(history=["i1", "nix", "i2"], profile={"age": 3}))
    assert response.unknown == schemas.UnknownInputs(items=["nix"], features=["age"])
    assert ids(response) == ids(respond(svc, schemas.RecommendRequest(history=["i1", "i2"]))[0])


def test_unknown_model_rejects_only_its_request() -> None:
    svc = service("ease")
    good, bad = respond(
        svc, schemas.RecommendRequest(history=["i1"]), schemas.RecommendRequest(history=["i1"], model="sasrex")
    )
    assert len(good.items) == 10
    assert isinstance(bad, InvalidRequest)
    assert bad.field == "model"


class Broken:
    """An engine's model that fails."""

    def __init__(self, model: Any) -> None:
        self.schema, self.scale, self.vectors, self.bias = model.schema, model.scale, model.vectors, model.bias

    def encode(self, queries: Queries) -> Any:
        raise RuntimeError("the engine is gone")

    def score(self, queries: Queries, candidates: Any = None) -> Any:
        raise RuntimeError("the engine is gone")


class Engine:
    name = "broken"

    def __init__(self, model: Any) -> None:
        self.model = Broken(model)


def with_broken_engine(svc: Service) -> Service:
    object.__setattr__(svc.models.active.artifact, "engine", Engine(svc.models.active.artifact.engine.model))
    return svc


def test_engine_failure_runs_the_fallback_chain() -> None:
    svc = with_broken_engine(service("sasrec"))
    known, empty, ruled = respond(
        svc,
        schemas.RecommendRequest(history=["i1", "i2"], k=5),
        schemas.RecommendRequest(history=[], k=5),
        schemas.RecommendRequest(
            history=["i1"], k=5, deny=["i3"], filter={"genres": schemas.Condition(any=["Comedy"])}
        ),
    )
    assert [response.source for response in (known, empty, ruled)] == ["neighbors", "popular", "neighbors"]
    assert all(int(item[1:]) < 20 for item in ids(known))  # users stay in their half of the catalog
    assert all(int(item[1:]) % 3 == 0 and item != "i3" for item in ids(ruled))
    for response in (known, empty, ruled):
        assert len(response.items) == 5
        assert any("failed" in note for note in response.notes)
        schemas.RecommendResponse.model_validate_json(response.model_dump_json())


def test_fallback_model_precedes_neighbors() -> None:
    svc = service("sasrec", "ease", fallback="ease")
    with_broken_engine(svc)
    (response,) = respond(svc, schemas.RecommendRequest(user="u1", k=5))
    assert response.source == "fallback"
    assert response.model.name == "ease"
    assert ids(response) == ids(respond(svc, schemas.RecommendRequest(user="u1", k=5, model="ease"))[0])


def test_tight_deadline_uses_a_cheaper_source() -> None:
    svc = service("sasrec")
    respond(svc, schemas.RecommendRequest(history=["i1"]))
    (response,) = respond(svc, schemas.RecommendRequest(history=["i1"]), seconds=-1.0)
    assert response.source == "popular"
    assert any("deadline" in note for note in response.notes)
    assert respond(svc, schemas.RecommendRequest(history=["i1"]))[0].source == "model"


def test_unavailable_store_is_reported_and_tolerated(monkeypatch: pytest.MonkeyPatch) -> None:
    svc = service("gru4rec")

    def gone(*_: Any) -> Any:
        raise StoreError("gone")

    for name in ("recent_events", "get_states", "events_after", "append"):
        monkeypatch.setattr(svc.store, name, gone)
    known, sent = respond(svc, schemas.RecommendRequest(user="u3", k=5), schemas.RecommendRequest(history=["i1"], k=5))
    assert len(known.items) == 5
    assert any("store" in note for note in known.notes)
    assert [ids(sent)] == offline(svc, [[1]], None, 5)
    with pytest.raises(StoreError):
        svc.append_events([Event("u3", "i1", 0)])


def test_streaming_model_continues_from_stored_state() -> None:
    svc = service("gru4rec")
    version = svc.models.active.info.version
    respond(svc, schemas.RecommendRequest(user="u3"))
    (first,) = svc.store.get_states(["u3"], version)
    assert first is not None
    svc.append_events([Event("u3", "i1", 0), Event("u3", "outside", 0), Event("u3", "i2", 0)])
    run_steps(svc.update_user_states(["u3", "u4"]))
    (second, other) = svc.store.get_states(["u3", "u4"], version)
    assert second is not None
    assert other is not None
    assert second.last_sequence > first.last_sequence
    assert len(second.data) == len(first.data)
    svc.store.put_states({"u3": type(second)(version, second.last_sequence + 1, b"nonsense")})
    (response,) = respond(svc, schemas.RecommendRequest(user="u3", k=5))  # an unreadable state is recomputed
    before = shop().histories.rows_between(3, 4).items.tolist()
    assert [ids(response)] == offline(svc, [[*before, 1, 2]], [3], 5)


def test_states_that_were_not_updated_for_a_long_time_are_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    svc = service("gru4rec")
    now = 1_800_000_000.0
    monkeypatch.setattr(time, "time", lambda: now - 86_400 * svc.settings.state_days - 60)
    respond(svc, schemas.RecommendRequest(user="u3"))
    monkeypatch.setattr(time, "time", lambda: now)
    respond(svc, schemas.RecommendRequest(user="u1"), schemas.RecommendRequest(user="u2"))
    svc.store.put_states({"u1": UserState("model of another service", 0, b"x")})
    assert svc.prune_states() == 1
    version = svc.models.active.info.version
    assert [one is not None for one in svc.store.get_states(["u1", "u2", "u3"], version)] == [True, True, False]
    assert svc.store.get_states(["u1"], "model of another service") != [None]


def test_requests_with_unknown_users_do_not_grow_the_store(tmp_path: Path) -> None:
    svc = service("gru4rec", store=f"sqlite:///{tmp_path / 'store.db'}")
    store = svc.store
    respond(svc, schemas.RecommendRequest(user="u1"))
    before = store.size_bytes()
    users = [f"unknown {number}" for number in range(100)]
    respond(svc, *(schemas.RecommendRequest(user=user) for user in users))
    store.delete_user("u2")
    respond(svc, schemas.RecommendRequest(user="u2"))  # in the training data, but deleted
    version = svc.models.active.info.version
    assert store.get_states([*users, "u2"], version) == [None] * 101
    assert store.get_states(["u1"], version) != [None]
    svc.append_events([Event("unknown 1", "i1", 0)])
    respond(svc, *(schemas.RecommendRequest(user=user) for user in users))
    states = store.get_states(users, version)
    assert [user for user, state in zip(users, states, strict=True) if state] == ["unknown 1"]
    assert store.size_bytes() < before + 100_000
    svc.close()


def test_failed_state_write_is_tolerated(monkeypatch: pytest.MonkeyPatch) -> None:
    svc = service("gru4rec")
    expected = respond(svc, schemas.RecommendRequest(user="u3", k=5))
    svc.append_events([Event("u3", "outside", 0)])

    def gone(*_: Any) -> Any:
        raise StoreError("gone")

    monkeypatch.setattr(svc.store, "put_states", gone)
    (response,) = respond(svc, schemas.RecommendRequest(user="u3", k=5))
    assert (ids(response), response.source) == (ids(expected[0]), "model")


def test_activation_fails_if_the_store_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    svc = service("ease", "sasrec")

    def gone(*_: Any) -> Any:
        raise StoreError("gone")

    monkeypatch.setattr(svc.store, "put_setting", gone)
    with pytest.raises(StoreError):
        svc.models.activate("sasrec")
    assert svc.models.active.info.name == "ease"
    assert svc.models.previous is None


def test_previous_model_survives_a_restart(tmp_path: Any) -> None:
    address = f"sqlite:///{tmp_path / 'store.sqlite'}"
    one = service("ease", "sasrec", store=address)
    one.models.activate("sasrec")
    one.models.activate("ease")
    again = service("ease", "sasrec", store=address)
    assert (again.models.active.info.name, again.models.previous) == ("ease", "sasrec")


def test_activation_and_rollback_reach_other_processes(tmp_path: Any) -> None:
    address = f"sqlite:///{tmp_path / 'store.sqlite'}"
    one, other = service("ease", "sasrec", store=address), service("ease", "sasrec", store=address)
    assert one.models.activate("sasrec").info.name == "sasrec"
    assert respond(one, schemas.RecommendRequest(history=["i1"]))[0].model.name == "sasrec"
    assert other.models.active.info.name == "ease"
    other.models.sync_active()
    assert other.models.active.info.name == "sasrec"
    assert other.models.rollback().info.name == "ease"
    one.models.sync_active()
    assert one.models.active.info.name == "ease"
    assert service("sasrec", "ease", store=address).models.active.info.name == "ease"
    with pytest.raises(ValueError, match="did you mean 'sasrec'"):
        one.models.activate("sasrek")
    assert one.models.active.info.name == "ease"


def test_default_rules_that_do_not_fit_reject_the_model() -> None:
    with pytest.raises(ValueError, match="year"):
        service("ease", default_rules={"filter": {"year": {"any": ["long ago"]}}})


def test_large_catalog_uses_the_ann_index(tmp_path: Any) -> None:
    data = shop()
    trained = bundle.create("bpr", train_small("bpr", data), data)
    build_artifact("bpr", trained, data.histories, tmp_path / "bpr", index_above=10)
    store = open_store("memory:")
    svc = Service(ModelRegistry([tmp_path / "bpr"], store), store, ServingSettings(deadline_ms=60_000), Metrics())
    assert svc.models.active.artifact.index is not None
    exact = service("bpr")
    for request in (
        schemas.RecommendRequest(user="u1", k=5),
        schemas.RecommendRequest(history=["i1", "i2"], k=5, include_seen=True),
        schemas.RecommendRequest(history=["i1"], k=5, filter={"genres": schemas.Condition(any=["Comedy"])}),
        schemas.RecommendRequest(history=["i1"], k=5, max_per_value={"genres": 2}),
    ):
        assert ids(respond(svc, request)[0]) == ids(respond(exact, request)[0])


def test_model_with_times_gets_a_time_known_mask(tmp_path: Any) -> None:
    data = shop()
    times = np.arange(data.histories.size, dtype=np.int64) * 3600
    timed = data.with_histories(replace(data.histories, times=times))
    trained = bundle.create("gru4rec", train_small("gru4rec", timed, inputs=("gap",)), timed)
    build_artifact("gru4rec", trained, timed.histories, tmp_path / "gru4rec")
    store = open_store("memory:")
    svc = Service(ModelRegistry([tmp_path / "gru4rec"], store), store, ServingSettings(deadline_ms=60_000), Metrics())
    assert svc.models.active.artifact.input_columns == ("times",)
    last = int(timed.histories.rows_between(1, 2).times[-1])
    plain = respond(svc, schemas.RecommendRequest(user="u1", k=40))[0]
    queries = Queries.of_users(np.array([1], np.int32), timed.histories.rows_between(1, 2))
    lists = recommend(trained.model, queries, 40)
    assert ids(plain) == svc.models.active.catalog.ids(lists.items[0, : lists.lengths[0]])
    svc.append_events([Event("u1", "i3", last + 60)])
    soon = respond(svc, schemas.RecommendRequest(user="u1", k=40))[0]
    assert {item.id: item.score for item in soon.items} != {item.id: item.score for item in plain.items}
    sent = schemas.RecommendRequest(history=["i1", schemas.HistoryEvent(item="i2", time=5), "i4"])
    history = svc.query_builder.build(svc.models.active.artifact, [sent]).queries.history
    assert history.context["time_known"].tolist() == [False, True, False]


def test_rendered_responses_are_those_of_objects() -> None:
    """Responses of expensive requests are kept as text: many objects would make garbage collection slow."""
    it = service("sasrec", "ease")
    requests = [schemas.RecommendRequest(user=f"u{n}", k=5, diversify=n / 10) for n in range(6)]
    pending = [PendingRequest(request, float("inf")) for request in requests]
    rendered = [replace(one, is_rendered=True) for one in pending]
    for expected, found in zip(it.recommend(pending), it.recommend(rendered), strict=True):
        assert isinstance(expected, schemas.RecommendResponse)
        assert found == RenderedResponse(
            expected.model_dump_json(), expected.source, [item.id for item in expected.items]
        )


def rerank_service(folder: Path) -> Service:
    """Create a service whose model reranks popular items by a language model."""
    from segue.testing.language_models import save_tiny_language_model

    data = shop()
    titles = [f"Title {item}" for item in range(40)]
    language_model = str(save_tiny_language_model(folder / "language_model", titles))
    model = train_small("llm", data, base="popular", language_model=language_model, weight=1.0, candidates=6)
    trained = bundle.create("llm", model, data)
    build_artifact("llm", trained, data.histories, folder / "artifact", engine="native", n_golden=8)
    store = open_store("memory:")
    return Service(ModelRegistry([folder / "artifact"], store), store, ServingSettings(deadline_ms=60_000), Metrics())


def test_a_reranker_answers_as_offline_and_falls_back_in_time(tmp_path: Path) -> None:
    svc = rerank_service(tmp_path)
    rows = [[1, 2, 3], [25]]
    requests = [schemas.RecommendRequest(history=[f"i{item}" for item in row], k=6) for row in rows]
    in_time = respond(svc, *requests)
    assert [ids(response) for response in in_time] == offline(svc, rows, None, 6)
    assert not any(response.notes for response in in_time)
    model: Any = svc.models.active.artifact.engine.model
    original = model.config
    model.config = original.model_copy(update={"time_budget_ms": 1e-6})
    late = respond(svc, *requests)
    assert [ids(response) for response in late] != [ids(response) for response in in_time]
    assert [response.source for response in late] == ["model", "model"]
    assert {note for response in late for note in response.notes} == {"not reranked: the time did not suffice"}
    text = svc.metrics.render()[0].decode()
    assert re.search(r'segue_rerank_fallbacks_total{.*limit="time".*} 2\.0', text)
    model.weight = 0.0
    assert [ids(response) for response in respond(svc, *requests)] == [ids(response) for response in late]
