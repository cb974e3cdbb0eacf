"""Explanations, in worlds where it is known why."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from segue.core.model import Factored
from segue.core.types import Codes, Domain, Events, Queries
from segue.serving import schemas
from segue.serving.explain.explain import explain
from segue.serving.explain.leave_one_out import influences
from segue.serving.rules.rerank import applied
from segue.testing import clusters
from segue.testing.training import train_small
from tests.serving.catalogues import catalogue

VERSION = schemas.Version(name="one", key="linear", version="0" * 12, engine="native")

FILMS = catalogue(
    {
        "title": ["Alien", "Brazil", "Cube", "Dune", "Eraserhead", "Fargo"],
        "genres": [["Horror", "War"], ["Comedy"], ["Horror"], ["War"], ["Horror"], ["Comedy"]],
        "year": [1979, 1985, 1997, 1984, 1977, None],
        "in_stock": [True, True, False, True, True, True],
    }
)

LIKES = np.array(  # what an event with the item of the row adds to that of the column
    [
        [0.0, 0.5, 3.0, 2.0, 1.5, -1.0],
        [0.0, 0.0, 0.0, 0.0, -0.5, 4.0],
        [0.0, 0.0, 0.0, 0.25, 1.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    ],
    np.float32,
)


class Linear:
    """The score of an item is a sum over the events of the history."""

    def __init__(self, scale: str = "score", likes: Any = LIKES) -> None:
        self.scale, self.likes = scale, likes
        self.domain = Domain(1, len(likes))

    def score(self, queries: Queries, candidates: Codes | None = None) -> Any:
        counts = np.zeros((len(queries), len(self.likes)), np.float32)
        np.add.at(counts, (queries.history.rows, queries.history.items), 1)
        scores = counts @ self.likes
        return scores if candidates is None else np.take_along_axis(scores, candidates, axis=1)


class LinearFactored(Linear):
    """The same, as vectors."""

    vectors = np.eye(6, dtype=np.float32)
    bias = np.zeros(6, np.float32)

    def encode(self, queries: Queries) -> Any:
        return super().score(queries)


class Near:
    def of(self, code: int, k: int) -> Any:
        return np.array([5, 1, 0], np.int32)[:k], np.array([0.9, 0.6, 0.3], np.float32)[:k]


def query(history: list[int]) -> Queries:
    return Queries.anonymous(Events.of([history]))


def told(
    item: int | str,
    history: list[int],
    k: int = 2,
    model: Any = None,
    standing: schemas.Rules | None = None,
    **rules: Any,
) -> schemas.Explanation:
    both = applied(schemas.Rules.model_validate(rules), standing or schemas.Rules(), FILMS)
    return explain(model or Linear(), query(history), item, both, k, False, FILMS, Near(), VERSION)


def texts(explanation: schemas.Explanation, kind: str) -> list[str]:
    return [reason.text for reason in explanation.reasons if reason.kind == kind]


@pytest.mark.parametrize("model", [Linear(), LinearFactored()])
def test_each_item_of_the_history_did_what_it_did(model: Linear) -> None:
    assert isinstance(model, Factored) == (type(model) is LinearFactored)
    found = told(4, [0, 1, 0, 2], model=model)
    assert [(one.id, one.title, one.change) for one in found.influences] == [
        ("i0", "Alien", 3.0),  # both times
        ("i2", "Cube", 1.0),
        ("i1", "Brazil", -0.5),
    ]
    assert found.item == schemas.Ranked(id="i4", title="Eraserhead", score=3.5)
    assert texts(found, "influence") == [
        "its score is raised by 'Alien' (+3), 'Cube' (+1)",
        "its score is lowered by 'Brazil' (-0.5)",
    ]


def test_only_the_newest_events_are_left_out_but_all_count() -> None:
    history = [0] * 30 + [1] * 30 + [2] * 25
    left, changes = influences(Linear(), query(history), 4)
    assert (left.tolist(), changes.tolist()) == ([2, 1], [25.0, -15.0])
    assert "of 85 events of the history the newest 50 were left out in turn" in texts(told(4, history), "influence")


def test_a_model_that_scores_the_whole_catalogue_is_asked_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.serving.explain.leave_one_out.BLOCK_SCORES", 12)
    left, changes = influences(Linear(), query([0, 1, 2]), 4)
    assert (left.tolist(), changes.tolist()) == ([2, 1, 0], [1.0, -0.5, 1.5])


def test_profiles_and_times_stay_with_who_asks() -> None:
    class Looking(Linear):
        def score(self, queries: Queries, candidates: Codes | None = None) -> Any:
            assert queries.times is not None
            assert queries.profile is not None
            assert (queries.times == 7).all()
            assert queries.profile["age"].to_list() == [30] * len(queries)
            assert queries.known.all()
            assert (queries.users == 3).all()
            return super().score(queries, candidates)

    history = Events.of([[0, 1]])
    asked = Queries(history, np.array([3]), np.array([True]), np.array([7]), pl.DataFrame({"age": [30]}))
    rules = applied(schemas.Rules(), schemas.Rules(), FILMS)
    found = explain(Looking(), asked, 4, rules, 2, False, FILMS, None, VERSION)
    assert [one.change for one in found.influences] == [1.5, -0.5]


def test_recommended_and_what_speaks_for_it() -> None:
    found = told(2, [0])
    assert (found.recommended, found.place, found.rules) == (True, 1, {})
    assert texts(found, "rank") == ["place 1 of 5 that may be recommended"]
    assert found.shared == {"genres": ["Horror"]}
    assert texts(found, "features") == ["genres Horror (as 1 of the history)"]
    assert [(one.id, one.likeness) for one in found.neighbours] == [("i0", pytest.approx(0.3))]
    assert texts(found, "neighbours") == ["people often have it together with 'Alien' of the history"]


def test_below_the_last() -> None:
    found = told(4, [0])
    assert (found.recommended, found.place) == (False, 3)
    assert texts(found, "rank") == [
        "not recommended: by its score alone it has place 3 of 5, and 2 were asked for: its score 1.5 is 0.5 below the "
        "last of those"
    ]


@pytest.mark.parametrize(
    ("item", "rules", "rule", "text"),
    [
        (0, {}, "history", "it is in the history, and repeats were not asked for"),
        (2, {"deny": ["i2"]}, "deny", "the question denies it"),
        (2, {"allow": ["i1", "i3"]}, "allow", "the question allows 2 items, and it is none of them"),
        (2, {"where": {"year": {"max": 1990}}}, "where", "year is 1997, the question wants at most 1990"),
        (5, {"where": {"year": {"min": 1990.5}}}, "where", "year is not known, the question wants at least 1990.5"),
        (
            2,
            {"where": {"genres": {"none": ["Horror"], "any": ["War", "Comedy"]}, "in_stock": {"any": [True]}}},
            "where",
            "genres is Horror, the question wants one of War, Comedy and not Horror; in_stock is false, the question "
            "wants true",
        ),
        (2, {"where": {"colour": {"any": ["red"]}}}, "where", "colour is not known, the question wants red"),
        (2, {"where": {"title": {"any": ["Dune"]}}}, "where", "title is Cube, the question wants Dune"),
    ],
)
def test_what_keeps_it_out(item: int, rules: dict[str, Any], rule: str, text: str) -> None:
    found = told(item, [0], **rules)
    assert (found.recommended, found.place) == (False, None)
    assert found.rules == {rule: text}
    assert texts(found, "rule") == [f"{rule}: {text}"]
    assert texts(found, "rank")[0].startswith("not recommended: a rule keeps it out; without that it would have place ")
    if rules:
        own = told(item, [0], standing=schemas.Rules.model_validate(rules)).rules[rule]
        assert own == text.replace("the question", "the service")


def test_a_full_quota() -> None:
    found = told(4, [0], k=3, most={"genres": 1})
    assert (found.recommended, found.place) == (False, 3)
    assert found.rules == {"most": "of genres Horror the answer holds 1 already, and no more may be"}
    assert "but rules put others before it" in texts(found, "rank")[0]
    below = told(4, [0], k=1, most={"genres": 1})
    assert below.rules == {}  # it would not have been there anyway


def test_boosts() -> None:
    rules = {"boosts": [{"where": {"genres": {"any": ["Comedy"]}}, "factor": 1000.0}]}
    found = told(1, [0], model=Linear("logit"), **rules)
    assert (found.recommended, found.place) == (True, 1)
    assert found.rules == {"boosts": "its score is changed by +6.91, from place 4 to 1"}
    shares = np.exp(LIKES[0, 1:] + np.log([1000, 1, 1, 1, 1000]))
    assert found.item.probability == pytest.approx(shares[0] / shares.sum(), rel=1e-5)
    assert told(2, [0], model=Linear("logit"), **rules).rules == {}


def test_diversity() -> None:
    up, down = (told(item, [0], deny=["i3"], diversify=1.0) for item in (1, 4))
    assert (up.recommended, up.place) == (True, 2)
    assert up.rules == {"diversify": "it has place 2, not 3, so that neighbours in the list differ"}
    assert (down.recommended, down.place) == (False, 2)
    assert down.rules == {"diversify": "others that are less like those above them go before it"}


def test_pins() -> None:
    pinned = told(5, [0], pins=[{"item": "i5", "place": 2}])
    assert (pinned.recommended, pinned.place, pinned.item.pinned) == (True, 2, True)
    assert pinned.rules == {"pins": "it is pinned to place 2"}
    assert "by its score alone it has place 5 of 5" in texts(pinned, "rank")[0]
    again = told(0, [0], pins=[{"item": "i0", "place": 1}])
    assert (again.recommended, again.place) == (True, 1)
    other = told(3, [0], pins=[{"item": "i5", "place": 1}])
    assert (other.recommended, other.place) == (False, 2)
    assert other.rules == {"pins": "1 of the places is taken by an item that is pinned"}
    no = told(5, [0], pins=[{"item": "i5", "place": 1}], deny=["i5"])
    assert no.rules["pins"] == "it is pinned to place 1, but another rule forbids it"
    far = told(5, [0], pins=[{"item": "i5", "place": 9}])
    assert far.rules == {"pins": "it is pinned to place 9, which an answer of 2 does not reach"}


def test_an_unknown_item_and_nobody_known() -> None:
    found = told("x", [0])
    assert (found.recommended, found.place, found.item.id) == (False, None, "x")
    assert texts(found, "unknown") == ["'x' is not in the catalogue of this model"]
    empty = told(3, [])
    assert (empty.influences, empty.shared, empty.neighbours, empty.place) == ([], {}, [], 4)
    assert texts(empty, "unknown") == ["nothing is known of who asks: there is no event that the model can go by"]
    assert texts(told(4, [3]), "influence") == ["no single item of the history changes its score"]


def test_one_question_at_a_time() -> None:
    rules = applied(schemas.Rules(), schemas.Rules(), FILMS)
    with pytest.raises(ValueError, match="got 2 queries, expected 1"):
        explain(Linear(), Queries.anonymous(Events.of([[0], [1]])), 0, rules, 2, False, FILMS, None, VERSION)


def test_a_trained_model_goes_by_items_of_the_same_half() -> None:
    world = clusters()
    model = train_small("ease", world.train)
    half = world.train.n_items // 2
    items = catalogue({"id": world.train.items.ids})
    history = [0, 1, half, 2]
    found = explain(
        model, query(history), 5, applied(schemas.Rules(), schemas.Rules(), items), 3, False, items, None, VERSION
    )
    changes = {one.id: one.change for one in found.influences}
    assert all(changes[f"i{code}"] > changes[f"i{half}"] for code in (0, 1, 2))
    assert found.recommended
