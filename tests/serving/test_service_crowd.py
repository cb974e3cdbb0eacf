"""One question, one user, one folder does not spoil the others; who is forgotten stays so."""

from __future__ import annotations

import shutil
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from segue.core import bundle
from segue.serving import wire
from segue.serving.metrics import Metrics
from segue.serving.publication import publish
from segue.serving.service import Refused, Service, Timed
from segue.serving.settings import Serving
from segue.serving.shelf import Shelf
from segue.serving.stores.opening import open_store
from segue.serving.stores.store import Event
from segue.testing.training import train_small
from tests.serving.world import published, service, shop


def asked(it: Service, *questions: wire.Question) -> list[Any]:
    return it.answer([Timed(question, monotonic() + 60) for question in questions])


def scores(answer: wire.Answer) -> dict[str, float]:
    return {item.id: round(item.score, 4) for item in answer.items}


def test_a_folder_under_another_name_refuses_its_question_alone(tmp_path: Path) -> None:
    shutil.copytree(published("ease"), tmp_path / "renamed")
    it = service("sasrec", library=tmp_path)
    good, bad = asked(it, wire.Question(history=["i1"]), wire.Question(history=["i1"], model="renamed"))
    assert isinstance(bad, Refused)
    assert len(good.items) == 10
    assert [ready.version.name for ready in it.shelf.opened()] == ["sasrec"]


def test_a_history_that_is_sent_stands_for_all_that_is_known_of_a_user() -> None:
    it = service("bpr")  # whose people have factors of their own, which a history does not change
    it.store.forget("u3")
    nobody, sent = asked(it, wire.Question(history=["i1"]), wire.Question(user="u3", history=["i1"]))
    assert scores(sent) == scores(nobody)


def test_what_came_in_after_forgetting_is_known_to_a_newer_publication(tmp_path: Path) -> None:
    kept = open_store("memory:")
    kept.forget("u3")
    kept.append([Event("u3", "i30", 1), Event("u3", "i31", 2)])
    data = shop()
    publish("ease", bundle.of("ease", train_small("ease", data), data), data.histories, tmp_path / "ease", place=3)
    it = Service(Shelf([tmp_path / "ease"], kept), kept, Serving(), Metrics())
    there, sent = asked(it, wire.Question(user="u3"), wire.Question(history=["i30", "i31"]))
    assert scores(there) == scores(sent)


def test_a_state_of_before_forgetting_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    it = service("gru4rec")
    asked(it, wire.Question(user="u3"))
    memories = it.store.memories
    it.take([Event("u3", "i1", 1)])

    def meanwhile(*given: Any) -> Any:
        found = memories(*given)
        monkeypatch.setattr(it.store, "memories", memories)
        it.store.forget("u3")
        it.take([Event("u3", "i30", 1)])
        return found

    monkeypatch.setattr(it.store, "memories", meanwhile)
    asked(it, wire.Question(user="u3"))
    there, sent = asked(it, wire.Question(user="u3"), wire.Question(history=["i30"]))
    assert scores(there) == scores(sent)


def test_a_model_whose_files_cannot_be_read_fails_its_question_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    it = service("sasrec")
    find = it.shelf.find

    def lost(name: str | None) -> Any:
        if name == "lost":
            raise PermissionError(name)
        return find(name)

    monkeypatch.setattr(it.shelf, "find", lost)
    good, bad = asked(it, wire.Question(history=["i1"]), wire.Question(history=["i1"], model="lost"))
    assert isinstance(bad, PermissionError)
    assert len(good.items) == 10
