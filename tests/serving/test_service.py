"""What the service answers is what the model would, with what came in since; in trouble it is still well made."""

from collections.abc import Sequence
from dataclasses import replace
from time import monotonic
from typing import Any

import numpy as np
import pytest

from segue.core import bundle
from segue.core.recommend import recommend
from segue.core.types import Events, Queries
from segue.serving import schemas
from segue.serving.artifacts.artifact import publish
from segue.serving.model_registry import Shelf
from segue.serving.monitoring.metrics import Metrics
from segue.serving.service import Refused, Service, Timed
from segue.serving.settings import Serving
from segue.serving.stores.open import open_store
from segue.serving.stores.store import Event, Memory, StoreError
from segue.testing.training import train_small
from tests.serving.world import service, shop

KEYS = ("ease", "ials", "gru4rec", "sasrec")


def asked(it: Service, *questions: schemas.Question, seconds: float = 60.0) -> list[Any]:
    until = monotonic() + seconds
    return it.answer([Timed(question, until) for question in questions])


def ids(answer: schemas.Answer) -> list[str]:
    return [item.id for item in answer.items]


def offline(it: Service, histories: Sequence[list[int]], users: Sequence[int] | None, k: int) -> list[list[str]]:
    ready = it.shelf.active
    events = Events.of([list(row) for row in histories])
    queries = Queries.anonymous(events) if users is None else Queries.of_users(np.array(users, np.int32), events)
    lists = recommend(ready.publication.bundle.model, queries, k)
    return [ready.catalogue.ids(lists.items[row, : lists.lengths[row]]) for row in range(len(histories))]


@pytest.mark.parametrize("key", KEYS)
def test_known_users_are_answered_as_offline(key: str) -> None:
    it, data = service(key), shop()
    rows = [data.histories.block(user, user + 1).items.tolist() for user in range(20)]
    answers = asked(it, *(schemas.Question(user=f"u{user}", k=5) for user in range(20)))
    assert [ids(answer) for answer in answers] == offline(it, rows, range(20), 5)
    assert {answer.step for answer in answers} == {"model"}
    assert not any(answer.unknown.user for answer in answers)
    assert [answer.removed["history"] for answer in answers] == [len(set(row)) for row in rows]


@pytest.mark.parametrize("key", KEYS)
def test_a_history_that_is_sent_is_answered_as_offline_alone_or_with_others(key: str) -> None:
    it = service(key)
    rows = [[1, 2, 3], [], [25], list(range(20, 39))]
    questions = [schemas.Question(history=[f"i{item}" for item in row], k=4) for row in rows]
    expected = offline(it, rows, None, 4)
    assert [ids(answer) for answer in asked(it, *questions)] == expected
    assert [ids(asked(it, question)[0]) for question in questions] == expected


@pytest.mark.parametrize("key", KEYS)
def test_the_very_next_answer_knows_what_happened(key: str) -> None:
    it, data = service(key), shop()
    before = data.histories.block(3, 4).items.tolist()
    asked(it, schemas.Question(user="u3"))
    for item in (0, 21, 5):
        assert it.take([Event("u3", f"i{item}", 100)]) == [True]
        before.append(item)
        (answer,) = asked(it, schemas.Question(user="u3", k=6))
        assert [ids(answer)] == offline(it, [before], [3], 6)
    it.take([Event("new", "i30", 100), Event("new", "i31", 100)])
    (answer,) = asked(it, schemas.Question(user="new", k=6))
    assert answer.unknown.user
    assert [ids(answer)] == offline(it, [[30, 31]], None, 6)


def test_who_is_forgotten_is_somebody_new() -> None:
    it = service("gru4rec")
    it.take([Event("u3", "i1", 100)])
    asked(it, schemas.Question(user="u3"))
    assert it.store.forget("u3") == 1
    (answer,) = asked(it, schemas.Question(user="u3", k=6))
    assert answer.unknown.user
    assert answer.removed == {}
    assert [ids(answer)] == offline(it, [[]], None, 6)


def test_rules_hold_alone_and_in_a_batch_with_others() -> None:
    it = service("sasrec")
    plain = schemas.Question(history=["i1"], k=10)
    comedies = schemas.Question(history=["i1"], k=10, where={"genres": schemas.Condition(any=["Comedy"])})
    few = schemas.Question(history=["i1"], k=10, most={"genres": 1})
    pinned = schemas.Question(history=["i1"], k=5, pins=[schemas.Pin(item="i39", place=2)], deny=["i2", "nix"])
    together = asked(it, plain, comedies, few, pinned)
    for answer, question in zip(together, (plain, comedies, few, pinned), strict=True):
        assert ids(answer) == ids(asked(it, question)[0])
    assert all(int(item[1:]) % 3 == 0 for item in ids(together[1]))
    assert together[1].removed["where"] == 26
    assert sorted(int(item[1:]) % 3 for item in ids(together[2])) == [0, 1, 2]
    assert ids(together[3])[1] == "i39"
    assert together[3].items[1].pinned
    assert "i2" not in ids(together[3])
    assert together[3].unknown.items == ["nix"]


def test_standing_rules_hold_for_every_answer() -> None:
    it = service("ease", rules={"deny": ["i2"], "where": {"year": {"max": 2009}}})
    (answer,) = asked(it, schemas.Question(history=["i1"], k=40, repeats=True))
    assert set(ids(answer)) == {f"i{item}" for item in range(20)} - {"i2"}


def test_what_is_unknown_is_told() -> None:
    it = service("sasrec")
    (answer,) = asked(it, schemas.Question(history=["i1", "nix", "i2"], profile={"age": 3}))
    assert answer.unknown == schemas.Unknown(items=["nix"], features=["age"])
    assert ids(answer) == ids(asked(it, schemas.Question(history=["i1", "i2"]))[0])


def test_a_model_that_there_is_not_refuses_its_question_alone() -> None:
    it = service("ease")
    good, bad = asked(it, schemas.Question(history=["i1"]), schemas.Question(history=["i1"], model="sasrex"))
    assert len(good.items) == 10
    assert isinstance(bad, Refused)
    assert bad.field == "model"


class Broken:
    """An engine's model that fails."""

    def __init__(self, model: Any) -> None:
        self.domain, self.scale, self.vectors, self.bias = model.domain, model.scale, model.vectors, model.bias

    def encode(self, queries: Queries) -> Any:
        raise RuntimeError("the engine is gone")

    def score(self, queries: Queries, candidates: Any = None) -> Any:
        raise RuntimeError("the engine is gone")


class Engine:
    name = "broken"

    def __init__(self, model: Any) -> None:
        self.model = Broken(model)


def broken(it: Service) -> Service:
    object.__setattr__(it.shelf.active.publication, "engine", Engine(it.shelf.active.publication.engine.model))
    return it


def test_an_engine_that_fails_leads_down_the_ladder() -> None:
    it = broken(service("sasrec"))
    told, nobody, ruled = asked(
        it,
        schemas.Question(history=["i1", "i2"], k=5),
        schemas.Question(history=[], k=5),
        schemas.Question(history=["i1"], k=5, deny=["i3"], where={"genres": schemas.Condition(any=["Comedy"])}),
    )
    assert [answer.step for answer in (told, nobody, ruled)] == ["neighbours", "popular", "neighbours"]
    assert all(int(item[1:]) < 20 for item in ids(told))  # people stay in their half
    assert all(int(item[1:]) % 3 == 0 and item != "i3" for item in ids(ruled))
    for answer in (told, nobody, ruled):
        assert len(answer.items) == 5
        assert any("failed" in note for note in answer.notes)
        schemas.Answer.model_validate_json(answer.model_dump_json())


def test_a_fallback_answers_before_neighbours_do() -> None:
    it = service("sasrec", "ease", fallback="ease")
    broken(it)
    (answer,) = asked(it, schemas.Question(user="u1", k=5))
    assert answer.step == "fallback"
    assert answer.model.name == "ease"
    assert ids(answer) == ids(asked(it, schemas.Question(user="u1", k=5, model="ease"))[0])


def test_a_deadline_that_is_near_is_kept_by_a_cheaper_step() -> None:
    it = service("sasrec")
    asked(it, schemas.Question(history=["i1"]))
    (answer,) = asked(it, schemas.Question(history=["i1"]), seconds=-1.0)
    assert answer.step == "popular"
    assert any("in time" in note for note in answer.notes)
    assert asked(it, schemas.Question(history=["i1"]))[0].step == "model"


def test_a_store_that_is_gone_is_told_and_does_not_stop_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    it = service("gru4rec")

    def gone(*_: Any) -> Any:
        raise StoreError("gone")

    for name in ("kept", "memories", "since", "append"):
        monkeypatch.setattr(it.store, name, gone)
    known, sent = asked(it, schemas.Question(user="u3", k=5), schemas.Question(history=["i1"], k=5))
    assert len(known.items) == 5
    assert any("store" in note for note in known.notes)
    assert [ids(sent)] == offline(it, [[1]], None, 5)
    with pytest.raises(StoreError):
        it.take([Event("u3", "i1", 0)])


def test_a_streaming_model_goes_on_from_what_it_remembers() -> None:
    it = service("gru4rec")
    version = it.shelf.active.version.version
    asked(it, schemas.Question(user="u3"))
    (first,) = it.store.memories(["u3"], version)
    assert first is not None
    it.take([Event("u3", "i1", 0), Event("u3", "outside", 0), Event("u3", "i2", 0)])
    it.follow(["u3", "u4"])
    (second, other) = it.store.memories(["u3", "u4"], version)
    assert second is not None
    assert other is not None
    assert second.last > first.last
    assert len(second.data) == len(first.data)
    it.store.remember({"u3": type(second)(version, second.last + 1, b"nonsense")})
    (answer,) = asked(it, schemas.Question(user="u3", k=5))  # what cannot be read is made anew
    before = shop().histories.block(3, 4).items.tolist()
    assert [ids(answer)] == offline(it, [[*before, 1, 2]], [3], 5)


def test_what_models_of_before_remember_is_deleted() -> None:
    it = service("gru4rec")
    it.follow(["u1", "u2"])
    it.store.remember({user: Memory("of before", 0, b"x") for user in ("u1", "u2", "u3")})
    assert it.tidy() == 3
    version = it.shelf.active.version.version
    assert [one is not None for one in it.store.memories(["u1", "u2", "u3"], version)] == [True, True, False]


def test_a_state_that_cannot_be_kept_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    it = service("gru4rec")
    expected = asked(it, schemas.Question(user="u3", k=5))
    it.take([Event("u3", "outside", 0)])

    def gone(*_: Any) -> Any:
        raise StoreError("gone")

    monkeypatch.setattr(it.store, "remember", gone)
    (answer,) = asked(it, schemas.Question(user="u3", k=5))
    assert (ids(answer), answer.step) == (ids(expected[0]), "model")


def test_what_cannot_be_kept_is_not_activated(monkeypatch: pytest.MonkeyPatch) -> None:
    it = service("ease", "sasrec")

    def gone(*_: Any) -> Any:
        raise StoreError("gone")

    monkeypatch.setattr(it.store, "put", gone)
    with pytest.raises(StoreError):
        it.shelf.activate("sasrec")
    assert it.shelf.active.version.name == "ease"
    assert it.shelf.previous is None


def test_the_model_before_is_known_after_a_restart(tmp_path: Any) -> None:
    address = f"sqlite:///{tmp_path / 'store.sqlite'}"
    one = service("ease", "sasrec", store=address)
    one.shelf.activate("sasrec")
    one.shelf.activate("ease")
    again = service("ease", "sasrec", store=address)
    assert (again.shelf.active.version.name, again.shelf.previous) == ("ease", "sasrec")


def test_models_change_and_change_back_and_others_follow(tmp_path: Any) -> None:
    address = f"sqlite:///{tmp_path / 'store.sqlite'}"
    one, other = service("ease", "sasrec", store=address), service("ease", "sasrec", store=address)
    assert one.shelf.activate("sasrec").version.name == "sasrec"
    assert asked(one, schemas.Question(history=["i1"]))[0].model.name == "sasrec"
    assert other.shelf.active.version.name == "ease"
    other.shelf.follow()
    assert other.shelf.active.version.name == "sasrec"
    assert other.shelf.rollback().version.name == "ease"
    one.shelf.follow()
    assert one.shelf.active.version.name == "ease"
    assert service("sasrec", "ease", store=address).shelf.active.version.name == "ease"
    with pytest.raises(ValueError, match="did you mean 'sasrec'"):
        one.shelf.activate("sasrek")
    assert one.shelf.active.version.name == "ease"


def test_standing_rules_that_do_not_fit_refuse_the_model() -> None:
    with pytest.raises(ValueError, match="year"):
        service("ease", rules={"where": {"year": {"any": ["long ago"]}}})


def test_a_large_catalogue_is_searched_by_its_index(tmp_path: Any) -> None:
    data = shop()
    trained = bundle.of("bpr", train_small("bpr", data), data)
    publish("bpr", trained, data.histories, tmp_path / "bpr", index_above=10)
    kept = open_store("memory:")
    it = Service(Shelf([tmp_path / "bpr"], kept), kept, Serving(), Metrics())
    assert it.shelf.active.publication.index is not None
    exact = service("bpr")
    for question in (
        schemas.Question(user="u1", k=5),
        schemas.Question(history=["i1", "i2"], k=5, repeats=True),
        schemas.Question(history=["i1"], k=5, where={"genres": schemas.Condition(any=["Comedy"])}),
        schemas.Question(history=["i1"], k=5, most={"genres": 2}),
    ):
        assert ids(asked(it, question)[0]) == ids(asked(exact, question)[0])


def test_a_model_that_reads_times_is_told_which_are_real(tmp_path: Any) -> None:
    data = shop()
    times = np.arange(data.histories.size, dtype=np.int64) * 3600
    timed = data.having(replace(data.histories, times=times))
    trained = bundle.of("gru4rec", train_small("gru4rec", timed, inputs=("gap",)), timed)
    publish("gru4rec", trained, timed.histories, tmp_path / "gru4rec")
    kept = open_store("memory:")
    it = Service(Shelf([tmp_path / "gru4rec"], kept), kept, Serving(), Metrics())
    assert it.shelf.active.publication.columns == ("times",)
    last = int(timed.histories.block(1, 2).times[-1])
    plain = asked(it, schemas.Question(user="u1", k=40))[0]
    queries = Queries.of_users(np.array([1], np.int32), timed.histories.block(1, 2))
    lists = recommend(trained.model, queries, 40)
    assert ids(plain) == it.shelf.active.catalogue.ids(lists.items[0, : lists.lengths[0]])
    it.take([Event("u1", "i3", last + 60)])
    soon = asked(it, schemas.Question(user="u1", k=40))[0]
    assert {item.id: item.score for item in soon.items} != {item.id: item.score for item in plain.items}
    sent = schemas.Question(history=["i1", schemas.Given(item="i2", time=5), "i4"])
    history = it.people.ask(it.shelf.active.publication, [sent]).queries.history
    assert history.context["time_known"].tolist() == [False, True, False]
