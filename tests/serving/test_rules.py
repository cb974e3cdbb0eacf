"""Reranked lists match a reference reference; without rules they match ``recommend``."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.core.recommend import recommend
from segue.core.types import DataSchema, Events, Queries
from segue.serving import schemas
from segue.serving.catalog.catalog import Catalog
from segue.serving.rules import mmr
from segue.serving.rules.rerank import RankedList, compile_rules, rerank
from tests.serving.reference_rules import ReferenceRules, make_catalog

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


def condition(values: st.SearchStrategy[Any], bounds: bool = False) -> st.SearchStrategy[schemas.Condition]:
    value_lists = st.one_of(st.none(), st.lists(values, min_size=1, max_size=2))
    number = st.one_of(st.none(), st.integers(0, 4).map(float)) if bounds else st.none()
    return st.builds(schemas.Condition, any=value_lists, none=value_lists, min=number, max=number)


FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "genres": condition(st.sampled_from([*GENRES, "Western"])),
        "series": condition(st.sampled_from(["a", "b"])),
        "price": condition(st.sampled_from([0, 1.0, 2, 2.5]), bounds=True),
        "in_stock": condition(st.booleans()),
        "color": condition(st.just("red")),
    },
)

IDS = st.integers(0, 30).map(lambda code: f"i{code}")

RULES = st.builds(
    schemas.Rules,
    allow=st.one_of(st.none(), st.none(), st.lists(IDS, min_size=5, max_size=30)),
    deny=st.lists(IDS, max_size=4),
    filter=st.one_of(st.just({}), st.just({}), FILTERS),
    boosts=st.lists(st.builds(schemas.Boost, filter=FILTERS, factor=st.sampled_from([0.1, 2.0, 30.0])), max_size=2),
    max_per_value=st.dictionaries(
        st.sampled_from(["genres", "series", "price", "color"]), st.integers(1, 3), max_size=2
    ),
    diversify=st.sampled_from([0.0, 0.0, 0.3, 0.8, 1.0]),
    pins=st.lists(st.builds(schemas.Pin, item=IDS, position=st.integers(1, 8)), max_size=3),
)


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    rows = [{"id": f"i{code}", **row} for code, row in enumerate(draw(st.lists(ROW, min_size=1, max_size=25)))]
    n = len(rows)
    scores = draw(st.lists(st.integers(-5, 5).map(lambda x: x / 2), min_size=n, max_size=n))
    return {
        "rows": rows,
        "scores": np.array(scores, np.float32),
        "seen": draw(st.lists(st.integers(0, n - 1), max_size=6)),
        "rules": (draw(RULES), draw(st.one_of(st.just(schemas.Rules()), RULES))),
        "k": draw(st.integers(1, 8)),
        "include_seen": draw(st.booleans()),
        "is_logit": draw(st.booleans()),
        "vectors": np.random.default_rng(n).standard_normal((n, 3)).astype(np.float32) if draw(st.booleans()) else None,
    }


def rerank_request(request: dict[str, Any], items: Catalog) -> RankedList:
    return rerank(
        request["scores"],
        np.array(request["seen"], np.int32),
        compile_rules(*request["rules"], items),
        request["k"],
        include_seen=request["include_seen"],
        is_logit=request["is_logit"],
        catalog=items,
        vectors_ID=request["vectors"],
    )


def check(request: dict[str, Any], pool: int = 256) -> None:
    items = make_catalog(pl.DataFrame(request["rows"], schema={"id": pl.String, **TYPES}))
    before = request["scores"].copy()
    found = rerank_request(request, items)
    reference = ReferenceRules(**request, pool=pool)
    free = found.codes[~found.pinned].tolist()
    expected = reference.ranked_list(follow=free)
    assert list(zip(found.codes.tolist(), found.pinned.tolist(), strict=True)) == expected
    np.testing.assert_array_equal(request["scores"], before)
    np.testing.assert_allclose(found.scores, [reference.score[code] for code, _ in expected], rtol=1e-6, atol=1e-6)
    assert (found.probabilities is not None) == request["is_logit"]
    if found.probabilities is not None:
        np.testing.assert_allclose(
            found.probabilities, [reference.probability[code] for code, _ in expected], rtol=1e-4
        )
    for rule in ("allow", "deny", "filter"):
        assert found.filtered_counts.get(rule, 0) == sum(rule in out for out in reference.excluded.values())
    assert found.filtered_counts.get("max_per_value", 0) == reference.count_skipped(free)
    excluded = set() if request["include_seen"] else set(request["seen"]) - set(found.codes.tolist())
    assert found.filtered_counts.get("seen", 0) == len(excluded)


@given(requests())
def test_lists_match_the_reference(request: dict[str, Any]) -> None:
    check(request)


def dense_request(rng: np.random.Generator) -> dict[str, Any]:
    """Build a request with many interacting rules, which Hypothesis rarely generates."""
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
        pins = [
            schemas.Pin(item=f"i{rng.integers(n)}", position=int(rng.integers(1, 8))) for _ in range(rng.integers(3))
        ]
        rules.append(
            schemas.Rules(
                deny=[f"i{rng.integers(n)}"],
                boosts=[schemas.Boost(filter=where, factor=float(rng.choice([0.2, 3.0])))]
                if rng.random() < 0.3
                else [],
                max_per_value={name: int(rng.integers(1, 3)) for name in ("genres", "series") if rng.random() < 0.5},
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
        "include_seen": bool(rng.random() < 0.3),
        "is_logit": bool(rng.random() < 0.5),
        "vectors": rng.standard_normal((n, 3)).astype(np.float32) if rng.random() < 0.5 else None,
    }


@pytest.mark.parametrize("pool", [2, 256])
def test_many_rules_match_the_reference(pool: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmr, "POOL_SIZE", pool)  # with 2: quotas exhaust the pool, and it is refilled
    for seed in range(240):
        request = dense_request(np.random.default_rng(seed))
        if pool == 2:
            request["k"] = min(request["k"], 3)
            for code in np.argsort(-request["scores"])[:12]:
                request["rows"][code]["genres"] = ["War"]
        check(request, pool)


class Fixed:
    """A recommender with fixed scores."""

    def __init__(self, scores_NI: Any, scale: str) -> None:
        self.scores_NI, self.scale = scores_NI, scale
        self.schema = DataSchema(1, scores_NI.shape[1])

    def score(self, queries: Queries, candidates: Any = None) -> Any:
        return self.scores_NI


@given(requests())
def test_without_rules_it_equals_recommend(request: dict[str, Any]) -> None:
    model = Fixed(request["scores"][None], "logit" if request["is_logit"] else "score")
    allow = [f"i{code}" for code in range(0, len(request["rows"]), 2)]
    for rule_set in (schemas.Rules(), schemas.Rules(allow=allow)):
        items = make_catalog({"id": [row["id"] for row in request["rows"]]})
        rules = compile_rules(rule_set, schemas.Rules(), items)
        assert rules.is_trivial
        found = rerank_request({**request, "rules": (rule_set, schemas.Rules())}, items)
        queries = Queries.anonymous(Events.of([request["seen"]]))
        best = recommend(model, queries, request["k"], exclude_seen=not request["include_seen"], allowed=rules.allowed)
        count = int(best.lengths[0])
        assert found.codes.tolist() == best.items[0, :count].tolist()
        np.testing.assert_array_equal(found.scores, best.scores[0, :count])
        if best.probabilities is not None:
            np.testing.assert_array_equal(found.probabilities, best.probabilities[0, :count])


FILMS = make_catalog(
    {
        "title": ["Alien", "Brazil", "Cube", "Dune", "Eraserhead", "Fargo"],
        "genres": [["Horror"], ["Comedy"], ["Horror"], ["War"], ["Horror"], ["Comedy"]],
        "year": [1979, 1985, 1997, 1984, 1977, None],
    }
)
SCORES = np.array([6, 5, 4, 3, 2, 1], np.float32)
NONE = np.zeros(0, np.int32)


def rank(k: int = 4, seen: Any = NONE, default_rules: schemas.Rules | None = None, **rules: Any) -> RankedList:
    compiled = compile_rules(schemas.Rules.model_validate(rules), default_rules or schemas.Rules(), FILMS)
    return rerank(SCORES, seen, compiled, k, include_seen=False, is_logit=True, catalog=FILMS, vectors_ID=None)


def ids(found: RankedList) -> list[str]:
    return [f"{code}*" if pinned else f"{code}" for code, pinned in zip(found.codes, found.pinned, strict=True)]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"allow": ["i5", "i3", "i9"]}, ["3", "5"]),
        ({"allow": []}, []),
        ({"deny": ["i0", "i0", "x"]}, ["1", "2", "3", "4"]),
        ({"filter": {"year": {"min": 1980, "max": 1990}}}, ["1", "3"]),
        ({"filter": {"year": {"none": [1979]}}}, ["1", "2", "3", "4"]),
        ({"filter": {"nothing": {"any": [1]}}}, []),
        ({"filter": {"nothing": {"none": [1]}}}, ["0", "1", "2", "3"]),
        ({"max_per_value": {"genres": 1}}, ["0", "1", "3"]),
        ({"max_per_value": {"genres": 2}}, ["0", "1", "2", "3"]),
        ({"max_per_value": {"nothing": 1}}, ["0", "1", "2", "3"]),
        ({"diversify": 1.0}, ["0", "1", "3", "2"]),
        ({"boosts": [{"filter": {"genres": {"any": ["War"]}}, "factor": 1000.0}]}, ["3", "0", "1", "2"]),
        ({"pins": [{"item": "i5", "position": 2}]}, ["0", "5*", "1", "2"]),
        ({"pins": [{"item": "i5", "position": 2}, {"item": "i4", "position": 2}]}, ["0", "5*", "4*", "1"]),
        ({"pins": [{"item": "i5", "position": 9}]}, ["0", "1", "2", "3"]),
        ({"pins": [{"item": "i5", "position": 9}], "allow": ["i0", "i5"]}, ["0", "5*"]),
        ({"pins": [{"item": "i5", "position": 1}], "deny": ["i5"]}, ["0", "1", "2", "3"]),
        ({"pins": [{"item": "i1", "position": 4}], "max_per_value": {"genres": 1}}, ["0", "3", "1*"]),
    ],
)
def test_each_rule(rules: dict[str, Any], expected: list[str]) -> None:
    assert ids(rank(**rules)) == expected


def test_request_rules_and_default_rules_both_apply() -> None:
    default_rules = schemas.Rules.model_validate(
        {
            "allow": ["i0", "i1", "i2", "i3"],
            "deny": ["i0"],
            "filter": {"year": {"max": 1990}},
            "pins": [{"item": "i3", "position": 1}],
        }
    )
    assert ids(rank(default_rules=default_rules)) == ["3*", "1"]
    assert ids(rank(default_rules=default_rules, pins=[{"item": "i1", "position": 1}])) == ["1*", "3*"]
    both = compile_rules(
        schemas.Rules(max_per_value={"genres": 3}, diversify=0.2),
        schemas.Rules(max_per_value={"genres": 2}, diversify=0.1),
        FILMS,
    )
    assert (both.max_per_value, both.diversify) == ((("genres", 2),), 0.2)


def test_seen_pins_are_shown_with_probability_zero() -> None:
    found = rank(seen=np.array([0, 1], np.int32), pins=[{"item": "i0", "position": 2}])
    assert ids(found) == ["2", "0*", "3", "4"]
    assert found.filtered_counts == {"seen": 1}
    assert found.probabilities is not None
    assert found.probabilities[1] == 0.0
    shares = np.exp(SCORES[2:]) / np.exp(SCORES[2:]).sum()
    np.testing.assert_allclose(found.probabilities[[0, 2, 3]], shares[:3], rtol=1e-6)


def test_boost_multiplies_the_probability() -> None:
    plain, boosted = rank(k=6), rank(k=6, boosts=[{"filter": {"genres": {"any": ["War"]}}, "factor": 3.0}])
    assert plain.probabilities is not None
    assert boosted.probabilities is not None
    odds = dict(zip(plain.codes.tolist(), plain.probabilities.tolist(), strict=True))
    total = sum(share * (3 if code == 3 else 1) for code, share in odds.items())
    for code, share in zip(boosted.codes.tolist(), boosted.probabilities.tolist(), strict=True):
        assert share == pytest.approx(odds[code] * (3 if code == 3 else 1) / total, rel=1e-5)


def test_boost_orders_equal_scores() -> None:
    rules = compile_rules(
        schemas.Rules.model_validate({"boosts": [{"filter": {"genres": {"any": ["War"]}}, "factor": 2.0}]}),
        schemas.Rules(),
        FILMS,
    )
    found = rerank(
        np.zeros(6, np.float32), NONE, rules, 2, include_seen=False, is_logit=False, catalog=FILMS, vectors_ID=None
    )
    assert found.codes.tolist() == [3, 0]


def test_unknown_inputs_are_reported() -> None:
    compiled = compile_rules(
        schemas.Rules.model_validate(
            {
                "allow": ["i0", "x", "y"],
                "deny": ["x", "z"],
                "pins": [{"item": "p", "position": 1}],
                "filter": {"color": {"any": ["red"]}},
                "max_per_value": {"size": 1},
                "boosts": [{"filter": {"weight": {"min": 1.0}}, "factor": 2.0}],
            }
        ),
        schemas.Rules(deny=["hidden"]),
        FILMS,
    )
    assert compiled.unknown_items == ("x", "y", "z", "p")
    assert compiled.unknown_features == ("color", "weight", "size")
    assert "'color': the catalog has no such feature" in compiled.notes[0]
    assert compiled.filtered_counts == {"allow": 5, "filter": 6}


def test_forbidden_pin_is_reported() -> None:
    found = rank(pins=[{"item": "i5", "position": 1}], deny=["i5"])
    assert found.notes == ("pins: 'i5' is not shown: another rule excludes it",)
    assert rank(default_rules=schemas.Rules(pins=[schemas.Pin(item="i5", position=1)], deny=["i5"])).notes == ()


def test_short_and_empty_lists_have_a_note() -> None:
    assert rank(allow=["i0"]).notes == ("only 1 item left to recommend",)
    found = rank(allow=[])
    assert len(found.codes) == len(found.scores) == len(found.pinned) == 0
    assert found.notes == ("no items left to recommend",)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"filter": {"year": {"any": ["x"]}}}, r"filter\.year: got 'x', but the feature holds numbers"),
        ({"filter": {"year": {"any": [True]}}}, r"filter\.year: got True, but the feature holds numbers"),
        (
            {"filter": {"genres": {"min": 1.0}}},
            r"filter\.genres: min 1\.0 requires a feature of numbers, .* lists of texts",
        ),
        (
            {"boosts": [{"filter": {"title": {"any": [3]}}, "factor": 2.0}]},
            r"boosts\.0\.filter\.title: got 3, .* texts",
        ),
    ],
)
def test_values_of_the_wrong_type_are_rejected(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rank(**rules)
    with pytest.raises(ValueError, match=r"default_rules\." + message):
        rank(default_rules=schemas.Rules.model_validate(rules))


def test_diversity_falls_back_to_features_or_reports_none() -> None:
    empty = make_catalog({"id": ["a", "b"]})
    rules = compile_rules(schemas.Rules(diversify=0.5), schemas.Rules(), empty)
    found = rerank(
        np.array([1, 2], np.float32), NONE, rules, 2, include_seen=False, is_logit=False, catalog=empty, vectors_ID=None
    )
    assert found.codes.tolist() == [1, 0]
    assert found.notes == (
        "diversify: not applied: the model has no item vectors and the catalog has no features to compare",
    )


def test_compiled_rules_are_cached_per_rules() -> None:
    rules = {"deny": ["i0"], "filter": {"year": {"any": [1979]}}}
    default_rules = schemas.Rules()
    one = compile_rules(schemas.Rules.model_validate(rules), default_rules, FILMS)
    assert (
        compile_rules(schemas.RecommendRequest.model_validate({**rules, "user": "u", "k": 3}), default_rules, FILMS)
        is one
    )
    assert not hasattr(one.request_rules, "user")
    for other in ({"deny": ["i0"]}, {**rules, "allow": []}, {**rules, "filter": {"year": {"any": [1979.5]}}}):
        assert compile_rules(schemas.Rules.model_validate(other), default_rules, FILMS) is not one
    assert compile_rules(schemas.Rules(allow=["i0"]), default_rules, FILMS) is not compile_rules(
        schemas.Rules(deny=["i0"]), default_rules, FILMS
    )


def test_number_of_conditions_is_limited() -> None:
    boost = {"filter": {"year": {"min": 1.0}, "title": {"any": ["Alien"]}}, "factor": 2.0}
    assert len(rank(boosts=[boost] * 50).codes) == 4
    with pytest.raises(ValueError, match="boosts: got 101 conditions together with 'filter', expected at most 100"):
        rank(boosts=[boost] * 50, filter={"year": {"min": 1.0}})


def test_k_below_one_is_rejected() -> None:
    with pytest.raises(ValueError, match="k: got 0"):
        rank(k=0)


def test_items_that_join_the_pool_keep_scale_and_similarities(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mmr, "POOL_SIZE", 8)
    items = make_catalog({"kind": ["a"] * 8 + ["b", "c"]})
    vectors = np.tile(np.array([[1, 0]], np.float32), (10, 1))
    vectors[8:] = [[2, 2 * 3**0.5], [0, 1]]  # a cosine of 1/2 with the first, and of 0
    scores = np.array([100, 99, 98, 97, 96, 95, 94, 93, 20, 19], np.float32)
    compiled = compile_rules(schemas.Rules(max_per_value={"kind": 1}, diversify=0.5), schemas.Rules(), items)
    found = rerank(scores, NONE, compiled, 2, include_seen=False, is_logit=False, catalog=items, vectors_ID=vectors)
    assert found.codes.tolist() == [0, 9]  # relevance is a seventh lower, similarity a half
