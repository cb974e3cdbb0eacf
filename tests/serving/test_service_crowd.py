"""One question, one user, one folder does not spoil the others; who is forgotten stays so."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.testclient import TestClient

from segue.core import bundle
from segue.serving import schemas
from segue.serving.api import recommend
from segue.serving.app import create
from segue.serving.artifacts.artifact import publish
from segue.serving.experiments.assignment import Experiments
from segue.serving.model_registry import Shelf
from segue.serving.monitoring.metrics import Metrics
from segue.serving.service import Refused, Service, Timed
from segue.serving.settings import Serving
from segue.serving.stores.open import open_store
from segue.serving.stores.store import Event
from segue.testing.training import train_small
from tests.serving.world import published, service, shop


def asked(it: Service, *questions: schemas.Question) -> list[Any]:
    return it.answer([Timed(question, monotonic() + 60) for question in questions])


def scores(answer: schemas.Answer) -> dict[str, float]:
    return {item.id: round(item.score, 4) for item in answer.items}


def test_a_folder_under_another_name_refuses_its_question_alone(tmp_path: Path) -> None:
    shutil.copytree(published("ease"), tmp_path / "renamed")
    it = service("sasrec", library=tmp_path)
    good, bad = asked(it, schemas.Question(history=["i1"]), schemas.Question(history=["i1"], model="renamed"))
    assert isinstance(bad, Refused)
    assert len(good.items) == 10
    assert [ready.version.name for ready in it.shelf.opened()] == ["sasrec"]


def test_a_history_that_is_sent_stands_for_all_that_is_known_of_a_user() -> None:
    it = service("bpr")  # whose people have factors of their own, which a history does not change
    it.store.forget("u3")
    nobody, sent = asked(it, schemas.Question(history=["i1"]), schemas.Question(user="u3", history=["i1"]))
    assert scores(sent) == scores(nobody)


def test_what_came_in_after_forgetting_is_known_to_a_newer_publication(tmp_path: Path) -> None:
    kept = open_store("memory:")
    kept.forget("u3")
    kept.append([Event("u3", "i30", 1), Event("u3", "i31", 2)])
    data = shop()
    publish("ease", bundle.of("ease", train_small("ease", data), data), data.histories, tmp_path / "ease", place=3)
    it = Service(Shelf([tmp_path / "ease"], kept), kept, Serving(), Metrics())
    there, sent = asked(it, schemas.Question(user="u3"), schemas.Question(history=["i30", "i31"]))
    assert scores(there) == scores(sent)


def test_a_state_of_before_forgetting_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    it = service("gru4rec")
    asked(it, schemas.Question(user="u3"))
    memories = it.store.memories
    it.take([Event("u3", "i1", 1)])

    def meanwhile(*given: Any) -> Any:
        found = memories(*given)
        monkeypatch.setattr(it.store, "memories", memories)
        it.store.forget("u3")
        it.take([Event("u3", "i30", 1)])
        return found

    monkeypatch.setattr(it.store, "memories", meanwhile)
    asked(it, schemas.Question(user="u3"))
    there, sent = asked(it, schemas.Question(user="u3"), schemas.Question(history=["i30"]))
    assert scores(there) == scores(sent)


@pytest.mark.parametrize("route", ["recommend", "explain"])
def test_models_are_opened_away_from_who_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, route: str) -> None:
    shutil.copytree(published("ease"), tmp_path / "ease")
    it = service("sasrec", library=tmp_path)
    threads: list[str] = []
    add = it.shelf._add

    def noted(*given: Any) -> None:
        threads.append(threading.current_thread().name)
        add(*given)

    monkeypatch.setattr(it.shelf, "_add", noted)
    question = {"user": "u1", "model": "ease"} | ({"item": "i1"} if route == "explain" else {})
    with TestClient(create(it)) as client:
        for _ in range(2):
            assert client.post(f"/v1/{route}", json=question).json()["model"]["name"] == "ease"
    assert [name.rpartition("_")[0] for name in threads] == ["segue-opening"]


def test_a_model_whose_files_cannot_be_read_fails_its_question_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    it = service("sasrec")
    find = it.shelf.find

    def lost(name: str | None) -> Any:
        if name == "lost":
            raise PermissionError(name)
        return find(name)

    monkeypatch.setattr(it.shelf, "find", lost)
    good, bad = asked(it, schemas.Question(history=["i1"]), schemas.Question(history=["i1"], model="lost"))
    assert isinstance(bad, PermissionError)
    assert len(good.items) == 10


def plan(folder: Path, shadow: str | None = None) -> Path:
    variants = {"control": {"model": "sasrec", "share": 0.5}, "other": {"model": "ease", "share": 0.5}}
    (folder / "plan.json").write_text(
        json.dumps({"experiments": [{"name": "a", "variants": variants} | ({"shadow": shadow} if shadow else {})]})
    )
    return folder / "plan.json"


def test_why_is_asked_of_the_model_that_answers_the_user(tmp_path: Path) -> None:
    it = service("sasrec", "ease")
    with TestClient(create(it, experiments=Experiments(plan(tmp_path), it.shelf.find))) as client:
        for user in range(8):
            answer = client.post("/v1/recommend", json={"user": f"u{user}"}).json()
            why = client.post("/v1/explain", json={"user": f"u{user}", "item": answer["items"][0]["id"]}).json()
            assert (why["model"], why["place"]) == (answer["model"], 1)


def test_what_was_shown_waits_for_a_silent_store_within_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recommend, "MOST_EXPOSING", 3)
    it, speaks, kept = service("sasrec", "ease"), threading.Event(), []
    monkeypatch.setattr(it.store, "expose", lambda exposures: (speaks.wait(60), kept.extend(exposures)))
    failed: list[str] = []
    monkeypatch.setattr(it.metrics, "error", failed.append)
    with TestClient(create(it, experiments=Experiments(plan(tmp_path, "ease"), it.shelf.find))) as client:
        for user in range(8):
            assert client.post("/v1/recommend", json={"user": f"u{user}"}).status_code == 200
        speaks.set()
    assert (len(kept), failed) == (3, ["exposure"] * 5)


def test_the_end_does_not_wait_for_a_silent_store_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it, speaks, spoken = service("sasrec", "ease", drain_seconds=0), threading.Event(), []
    monkeypatch.setattr(it.store, "expose", lambda exposures: spoken.append(speaks.wait(60)))
    with TestClient(create(it, experiments=Experiments(plan(tmp_path), it.shelf.find))) as client:
        client.post("/v1/recommend", json={"user": "u1"})
    assert not spoken, "the store is still silent"
    speaks.set()


def test_answers_of_shadows_are_not_counted_among_those_that_are_shown() -> None:
    it = service("sasrec")
    question = schemas.Question(user="u1", k=5)
    for unseen in (False, True, True):
        assert len(it.answer([Timed(question, monotonic() + 60, unseen)])[0].items) == 5
    assert len(it.answer([Timed(question, monotonic() + 60, unseen) for unseen in (True, False)])) == 2
    told = it.metrics.text()[0].decode()
    for line in (
        'segue_answers_total{cause="none",step="model"} 2.0',
        'segue_questions_total{user="known"} 2.0',
        'segue_served_items_total{model="sasrec"} 10.0',
    ):
        assert line in told


class Failing:
    """An engine whose model fails."""

    name = "failing"

    def __init__(self, model: Any, encode: Any) -> None:
        self.model = SimpleNamespace(domain=model.domain, vectors=model.vectors, bias=model.bias, encode=encode)
        self.model.score = encode


def failing(it: Service, encode: Any) -> Service:
    publication = it.shelf.active.publication
    object.__setattr__(publication, "engine", Failing(publication.engine.model, encode))
    return it


def fails(queries: Any) -> Any:
    raise RuntimeError("the engine is gone")


def test_a_fallback_that_cannot_be_asked_is_a_step_down(monkeypatch: pytest.MonkeyPatch) -> None:
    it = failing(service("sasrec", "ease", fallback="ease"), fails)
    ask = it.people.ask

    def without(publication: Any, questions: Any, **more: Any) -> Any:
        if publication.name == "ease":
            raise OSError("no such file")
        return ask(publication, questions, **more)

    monkeypatch.setattr(it.people, "ask", without)
    answers = asked(it, schemas.Question(history=["i1"]), schemas.Question(history=["i2"]))
    assert [answer.step for answer in answers] == ["neighbours"] * 2
    assert 'segue_questions_total{user="none"} 2.0' in it.metrics.text()[0].decode()


def test_what_fails_is_not_tried_again_when_it_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [monotonic()]

    def slow(queries: Any) -> Any:
        clock[0] += 0.3
        raise RuntimeError("the engine is gone")

    it = failing(service("sasrec"), slow)
    for place in ("service", "attempts"):
        monkeypatch.setattr(f"segue.serving.{place}.time", SimpleNamespace(monotonic=lambda: clock[0]))
    begun = clock[0]
    answers = it.answer([Timed(schemas.Question(history=["i1"]), begun + 0.5)] * 8)
    assert {answer.step for answer in answers} <= {"neighbours", "popular"}
    assert clock[0] - begun < 0.7  # all together, and one half
