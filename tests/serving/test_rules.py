"""Rules: lists by rules are what a slow reading of each rule gives, and without rules what ``recommend`` gives."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.core.recommend import recommend
from segue.core.types import Domain, Events, Queries
from segue.serving import schemas
from segue.serving.catalog.catalog import Catalogue
from segue.serving.rules import mmr
from segue.serving.rules.rerank import Picked, applied, pick
from tests.serving.catalogues import Slow, catalogue

GENRES = ["Comedy", "Drama", "War"]

NUMBERS = st.one_of(st.none(), st.integers(0, 4).map(float), st.just(float("nan")))

ROW = st.fixed_dictionaries(
    {
        "genres": st.one_of(st.none(), st.lists(st.sampled_from(GENRES), unique=True, max_size=3)),
        "series": st.one_of(st.none(), st.sampled_from(["a", "b", "c"])),
        "price": NUMBERS,
        "in_stock": st.one_of(st.none(), st.booleans()),
    }
)

TYPES = {"genres": pl.List(pl.String), "series": pl.String, "price": pl.Float64, "in_stock": pl.Boolean}


def condition(own: st.SearchStrategy[Any], bounds: bool = False) -> st.SearchStrategy[schemas.Condition]:
    listed = st.one_of(st.none(), st.lists(own, min_size=1, max_size=2))
    number = st.one_of(st.none(), st.integers(0, 4).map(float)) if bounds else st.none()
    return st.builds(schemas.Condition, any=listed, none=listed, min=number, max=number)


WHERE = st.fixed_dictionaries(
    {},
    optional={
        "genres": condition(st.sampled_from([*GENRES, "Western"])),
        "series": condition(st.sampled_from(["a", "b"])),
        "price": condition(st.sampled_from([0, 1.0, 2, 2.5]), bounds=True),
        "in_stock": condition(st.booleans()),
        "colour": condition(st.just("red")),
    },
)

IDS = st.integers(0, 30).map(lambda code: f"i{code}")

RULES = st.builds(
    schemas.Rules,
    allow=st.one_of(st.none(), st.none(), st.lists(IDS, min_size=5, max_size=30)),
    deny=st.lists(IDS, max_size=4),
    where=st.one_of(st.just({}), st.just({}), WHERE),
    boosts=st.lists(st.builds(schemas.Boost, where=WHERE, factor=st.sampled_from([0.1, 2.0, 30.0])), max_size=2),
    most=st.dictionaries(st.sampled_from(["genres", "series", "price", "colour"]), st.integers(1, 3), max_size=2),
    diversify=st.sampled_from([0.0, 0.0, 0.3, 0.8, 1.0]),
    pins=st.lists(st.builds(schemas.Pin, item=IDS, place=st.integers(1, 8)), max_size=3),
)


@st.composite
def asked(draw: st.DrawFn) -> dict[str, Any]:
    rows = [{"id": f"i{code}", **row} for code, row in enumerate(draw(st.lists(ROW, min_size=1, max_size=25)))]
    n = len(rows)
    scores = draw(st.lists(st.integers(-5, 5).map(lambda x: x / 2), min_size=n, max_size=n))
    return {
        "rows": rows,
        "scores": np.array(scores, np.float32),
        "seen": draw(st.lists(st.integers(0, n - 1), max_size=6)),
        "rules": (draw(RULES), draw(st.one_of(st.just(schemas.Rules()), RULES))),
        "k": draw(st.integers(1, 8)),
        "repeats": draw(st.booleans()),
        "logits": draw(st.booleans()),
        "vectors": np.random.default_rng(n).standard_normal((n, 3)).astype(np.float32) if draw(st.booleans()) else None,
    }


def picked(question: dict[str, Any], items: Catalogue) -> Picked:
    return pick(
        question["scores"],
        np.array(question["seen"], np.int32),
        applied(*question["rules"], items),
        question["k"],
        repeats=question["repeats"],
        logits=question["logits"],
        catalogue=items,
        vectors_ID=question["vectors"],
    )


def check(question: dict[str, Any], pool: int = 256) -> None:
    items = catalogue(pl.DataFrame(question["rows"], schema={"id": pl.String, **TYPES}))
    before = question["scores"].copy()
    found = picked(question, items)
    slow = Slow(**question, pool=pool)
    free = found.codes[~found.pinned].tolist()
    expected = slow.listed(follow=free)
    assert list(zip(found.codes.tolist(), found.pinned.tolist(), strict=True)) == expected
    np.testing.assert_array_equal(question["scores"], before)
    np.testing.assert_allclose(found.scores, [slow.score[code] for code, _ in expected], rtol=1e-6, atol=1e-6)
    assert (found.probabilities is not None) == question["logits"]
    if found.probabilities is not None:
        np.testing.assert_allclose(found.probabilities, [slow.share[code] for code, _ in expected], rtol=1e-4)
    for rule in ("allow", "deny", "where"):
        assert found.removed.get(rule, 0) == sum(rule in out for out in slow.out.values())
    assert found.removed.get("most", 0) == slow.passed(free)
    gone = set() if question["repeats"] else set(question["seen"]) - set(found.codes.tolist())
    assert found.removed.get("history", 0) == len(gone)


@given(asked())
def test_lists_are_what_each_rule_says(question: dict[str, Any]) -> None:
    check(question)


def dense(rng: np.random.Generator) -> dict[str, Any]:
    """A question in which many rules meet: what Hypothesis, which likes it simple, seldom comes upon."""
    n = int(rng.integers(8, 30))
    rows = [
        {
            "id": f"i{code}",
            "genres": None if rng.random() < 0.1 else rng.choice(GENRES, rng.integers(0, 3), replace=False).tolist(),
            "series": [None, "a", "b", "c", "d"][rng.integers(5)],
            "price": [None, float("nan"), 1.0, 2.0][rng.integers(4)],
            "in_stock": [None, True, False][rng.integers(3)],
        }
        for code in range(n)
    ]
    rules = []
    for _ in range(2):
        where = {"genres": schemas.Condition(any=[str(rng.choice(GENRES))])}
        pins = [schemas.Pin(item=f"i{rng.integers(n)}", place=int(rng.integers(1, 8))) for _ in range(rng.integers(3))]
        rules.append(
            schemas.Rules(
                deny=[f"i{rng.integers(n)}"],
                boosts=[schemas.Boost(where=where, factor=float(rng.choice([0.2, 3.0])))] if rng.random() < 0.3 else [],
                most={name: int(rng.integers(1, 3)) for name in ("genres", "series") if rng.random() < 0.5},
                diversify=float(rng.choice([0.0, 0.4, 1.0])),
                pins=pins,
            )
        )
    return {
        "rows": rows,
        "scores": (rng.integers(-6, 6, n) / 2).astype(np.float32),
        "seen": rng.integers(n, size=3).tolist(),
        "rules": tuple(rules),
        "k": int(rng.integers(1, 8)),
        "repeats": bool(rng.random() < 0.3),
        "logits": bool(rng.random() < 0.5),
        "vectors": rng.standard_normal((n, 3)).astype(np.float32) if rng.random() < 0.5 else None,
    }


@pytest.mark.parametrize("pool", [2, 256])
def test_many_rules_at_once(pool: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmr, "POOL", pool)  # of two: quotas leave none of it, and the next best join
    for seed in range(240):
        question = dense(np.random.default_rng(seed))
        if pool == 2:
            question["k"] = min(question["k"], 3)
            for code in np.argsort(-question["scores"])[:12]:
                question["rows"][code]["genres"] = ["War"]
        check(question, pool)


class Fixed:
    """A recommender with given scores."""

    def __init__(self, scores_NI: Any, scale: str) -> None:
        self.scores_NI, self.scale = scores_NI, scale
        self.domain = Domain(1, scores_NI.shape[1])

    def score(self, queries: Queries, candidates: Any = None) -> Any:
        return self.scores_NI


@given(asked())
def test_without_rules_it_is_recommend(question: dict[str, Any]) -> None:
    model = Fixed(question["scores"][None], "logit" if question["logits"] else "score")
    allow = [f"i{code}" for code in range(0, len(question["rows"]), 2)]
    for own in (schemas.Rules(), schemas.Rules(allow=allow)):
        items = catalogue({"id": [row["id"] for row in question["rows"]]})
        rules = applied(own, schemas.Rules(), items)
        assert rules.plain
        found = picked({**question, "rules": (own, schemas.Rules())}, items)
        queries = Queries.anonymous(Events.of([question["seen"]]))
        best = recommend(model, queries, question["k"], repeats=question["repeats"], allowed=rules.allowed)
        count = int(best.lengths[0])
        assert found.codes.tolist() == best.items[0, :count].tolist()
        np.testing.assert_array_equal(found.scores, best.scores[0, :count])
        if best.probabilities is not None:
            np.testing.assert_array_equal(found.probabilities, best.probabilities[0, :count])


FILMS = catalogue(
    {
        "title": ["Alien", "Brazil", "Cube", "Dune", "Eraserhead", "Fargo"],
        "genres": [["Horror"], ["Comedy"], ["Horror"], ["War"], ["Horror"], ["Comedy"]],
        "year": [1979, 1985, 1997, 1984, 1977, None],
    }
)
SCORES = np.array([6, 5, 4, 3, 2, 1], np.float32)
NONE = np.zeros(0, np.int32)


def listed(k: int = 4, seen: Any = NONE, standing: schemas.Rules | None = None, **rules: Any) -> Picked:
    told = applied(schemas.Rules.model_validate(rules), standing or schemas.Rules(), FILMS)
    return pick(SCORES, seen, told, k, repeats=False, logits=True, catalogue=FILMS, vectors_ID=None)


def ids(found: Picked) -> list[str]:
    return [f"{code}*" if pinned else f"{code}" for code, pinned in zip(found.codes, found.pinned, strict=True)]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"allow": ["i5", "i3", "i9"]}, ["3", "5"]),
        ({"allow": []}, []),
        ({"deny": ["i0", "i0", "x"]}, ["1", "2", "3", "4"]),
        ({"where": {"year": {"min": 1980, "max": 1990}}}, ["1", "3"]),
        ({"where": {"year": {"none": [1979]}}}, ["1", "2", "3", "4"]),
        ({"where": {"nothing": {"any": [1]}}}, []),
        ({"where": {"nothing": {"none": [1]}}}, ["0", "1", "2", "3"]),
        ({"most": {"genres": 1}}, ["0", "1", "3"]),
        ({"most": {"genres": 2}}, ["0", "1", "2", "3"]),
        ({"most": {"nothing": 1}}, ["0", "1", "2", "3"]),
        ({"diversify": 1.0}, ["0", "1", "3", "2"]),
        ({"boosts": [{"where": {"genres": {"any": ["War"]}}, "factor": 1000.0}]}, ["3", "0", "1", "2"]),
        ({"pins": [{"item": "i5", "place": 2}]}, ["0", "5*", "1", "2"]),
        ({"pins": [{"item": "i5", "place": 2}, {"item": "i4", "place": 2}]}, ["0", "5*", "4*", "1"]),
        ({"pins": [{"item": "i5", "place": 9}]}, ["0", "1", "2", "3"]),
        ({"pins": [{"item": "i5", "place": 9}], "allow": ["i0", "i5"]}, ["0", "5*"]),
        ({"pins": [{"item": "i5", "place": 1}], "deny": ["i5"]}, ["0", "1", "2", "3"]),
        ({"pins": [{"item": "i1", "place": 4}], "most": {"genres": 1}}, ["0", "3", "1*"]),
    ],
)
def test_each_rule(rules: dict[str, Any], expected: list[str]) -> None:
    assert ids(listed(**rules)) == expected


def test_rules_of_the_question_and_standing_ones_both_hold() -> None:
    standing = schemas.Rules.model_validate(
        {
            "allow": ["i0", "i1", "i2", "i3"],
            "deny": ["i0"],
            "where": {"year": {"max": 1990}},
            "pins": [{"item": "i3", "place": 1}],
        }
    )
    assert ids(listed(standing=standing)) == ["3*", "1"]
    assert ids(listed(standing=standing, pins=[{"item": "i1", "place": 1}])) == ["1*", "3*"]
    both = applied(
        schemas.Rules(most={"genres": 3}, diversify=0.2), schemas.Rules(most={"genres": 2}, diversify=0.1), FILMS
    )
    assert (both.most, both.diversify) == ((("genres", 2),), 0.2)


def test_pins_are_shown_though_the_history_holds_them_with_no_share_of_the_probability() -> None:
    found = listed(seen=np.array([0, 1], np.int32), pins=[{"item": "i0", "place": 2}])
    assert ids(found) == ["2", "0*", "3", "4"]
    assert found.removed == {"history": 1}
    assert found.probabilities is not None
    assert found.probabilities[1] == 0.0
    shares = np.exp(SCORES[2:]) / np.exp(SCORES[2:]).sum()
    np.testing.assert_allclose(found.probabilities[[0, 2, 3]], shares[:3], rtol=1e-6)


def test_a_boost_multiplies_the_probability() -> None:
    plain, moved = listed(k=6), listed(k=6, boosts=[{"where": {"genres": {"any": ["War"]}}, "factor": 3.0}])
    assert plain.probabilities is not None
    assert moved.probabilities is not None
    odds = dict(zip(plain.codes.tolist(), plain.probabilities.tolist(), strict=True))
    total = sum(share * (3 if code == 3 else 1) for code, share in odds.items())
    for code, share in zip(moved.codes.tolist(), moved.probabilities.tolist(), strict=True):
        assert share == pytest.approx(odds[code] * (3 if code == 3 else 1) / total, rel=1e-5)


def test_a_boost_of_equal_scores_still_orders() -> None:
    rules = applied(
        schemas.Rules.model_validate({"boosts": [{"where": {"genres": {"any": ["War"]}}, "factor": 2.0}]}),
        schemas.Rules(),
        FILMS,
    )
    found = pick(np.zeros(6, np.float32), NONE, rules, 2, repeats=False, logits=False, catalogue=FILMS, vectors_ID=None)
    assert found.codes.tolist() == [3, 0]


def test_what_is_unknown_is_told() -> None:
    told = applied(
        schemas.Rules.model_validate(
            {
                "allow": ["i0", "x", "y"],
                "deny": ["x", "z"],
                "pins": [{"item": "p", "place": 1}],
                "where": {"colour": {"any": ["red"]}},
                "most": {"size": 1},
                "boosts": [{"where": {"weight": {"min": 1.0}}, "factor": 2.0}],
            }
        ),
        schemas.Rules(deny=["hidden"]),
        FILMS,
    )
    assert told.unknown_items == ("x", "y", "z", "p")
    assert told.unknown_features == ("colour", "weight", "size")
    assert "'colour': the catalogue has no such feature" in told.notes[0]
    assert told.removed == {"allow": 5, "where": 6}


def test_a_pin_that_another_rule_forbids_is_told() -> None:
    found = listed(pins=[{"item": "i5", "place": 1}], deny=["i5"])
    assert found.notes == ("pins: 'i5' is not shown: another rule forbids it",)
    assert listed(standing=schemas.Rules(pins=[schemas.Pin(item="i5", place=1)], deny=["i5"])).notes == ()


def test_a_short_list_says_so_and_an_empty_one_is_no_fault() -> None:
    assert listed(allow=["i0"]).notes == ("only 1 item was left to recommend",)
    found = listed(allow=[])
    assert len(found.codes) == len(found.scores) == len(found.pinned) == 0
    assert found.notes == ("nothing was left to recommend",)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"where": {"year": {"any": ["x"]}}}, r"where\.year: got 'x', the catalogue holds numbers there"),
        ({"where": {"year": {"any": [True]}}}, r"where\.year: got True, the catalogue holds numbers"),
        ({"where": {"genres": {"min": 1.0}}}, r"where\.genres: min 1\.0 asks for numbers.* lists of texts"),
        (
            {"boosts": [{"where": {"title": {"any": [3]}}, "factor": 2.0}]},
            r"boosts\.0\.where\.title: got 3, .* texts there",
        ),
    ],
)
def test_what_a_feature_cannot_hold_is_refused(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        listed(**rules)
    with pytest.raises(ValueError, match="standing rules: " + message):
        listed(standing=schemas.Rules.model_validate(rules))


def test_lists_differ_by_features_where_there_are_no_vectors_and_say_when_there_is_nothing() -> None:
    bare = catalogue({"id": ["a", "b"]})
    rules = applied(schemas.Rules(diversify=0.5), schemas.Rules(), bare)
    found = pick(
        np.array([1, 2], np.float32), NONE, rules, 2, repeats=False, logits=False, catalogue=bare, vectors_ID=None
    )
    assert found.codes.tolist() == [1, 0]
    assert found.notes == ("diversify: neither the model nor the catalogue tells which items are alike",)


def test_what_was_worked_out_is_kept_for_the_same_rules_alone() -> None:
    rules = {"deny": ["i0"], "where": {"year": {"any": [1979]}}}
    standing = schemas.Rules()
    one = applied(schemas.Rules.model_validate(rules), standing, FILMS)
    assert applied(schemas.Question.model_validate({**rules, "user": "u", "k": 3}), standing, FILMS) is one
    assert not hasattr(one.own, "user")
    for other in ({"deny": ["i0"]}, {**rules, "allow": []}, {**rules, "where": {"year": {"any": [1979.5]}}}):
        assert applied(schemas.Rules.model_validate(other), standing, FILMS) is not one
    assert applied(schemas.Rules(allow=["i0"]), standing, FILMS) is not applied(
        schemas.Rules(deny=["i0"]), standing, FILMS
    )


def test_a_question_may_not_look_at_the_catalogue_as_often_as_it_likes() -> None:
    boost = {"where": {"year": {"min": 1.0}, "title": {"any": ["Alien"]}}, "factor": 2.0}
    assert len(listed(boosts=[boost] * 50).codes) == 4
    with pytest.raises(ValueError, match="boosts: 101 conditions with those of 'where', expected at most 100"):
        listed(boosts=[boost] * 50, where={"year": {"min": 1.0}})


def test_k_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="k: got 0"):
        listed(k=0)


def test_what_joins_the_pool_is_measured_as_the_first_of_it_and_against_all_above(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mmr, "POOL", 8)
    items = catalogue({"kind": ["a"] * 8 + ["b", "c"]})
    vectors = np.tile(np.array([[1, 0]], np.float32), (10, 1))
    vectors[8:] = [[2, 2 * 3**0.5], [0, 1]]  # a cosine of 1/2 with the first, and of 0
    scores = np.array([100, 99, 98, 97, 96, 95, 94, 93, 20, 19], np.float32)
    told = applied(schemas.Rules(most={"kind": 1}, diversify=0.5), schemas.Rules(), items)
    found = pick(scores, NONE, told, 2, repeats=False, logits=False, catalogue=items, vectors_ID=vectors)
    assert found.codes.tolist() == [0, 9]  # a seventh less in relevance, half less in likeness
