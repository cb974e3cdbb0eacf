"""Explanations of models whose scores are known."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from segue.core.model import Factored
from segue.core.types import Codes, DataSchema, Events, Queries
from segue.serving import schemas
from segue.serving.explain.explain import explain
from segue.serving.explain.leave_one_out import compute_attributions
from segue.serving.rules.rerank import compile_rules
from segue.testing import clusters
from segue.testing.training import train_small
from tests.serving.reference_rules import make_catalog

MODEL_INFO = schemas.ModelInfo(name="one", key="linear", version="0" * 12, engine="native")

FILMS = make_catalog(
    {
        "title": ["Alien", "Brazil", "Cube", "Dune", "Eraserhead", "Fargo"],
        "genres": [["Horror", "War"], ["Comedy"], ["Horror"], ["War"], ["Horror"], ["Comedy"]],
        "year": [1979, 1985, 1997, 1984, 1977, None],
        "in_stock": [True, True, False, True, True, True],
    }
)

LIKES = np.array(  # what an event with the row's item adds to the score of the column's item
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
    """A model whose scores are sums over the events of the history."""

    def __init__(self, scale: str = "score", likes: Any = LIKES) -> None:
        self.scale, self.likes = scale, likes
        self.schema = DataSchema(1, len(likes))

    def score(self, queries: Queries, candidates: Codes | None = None) -> Any:
        counts = np.zeros((len(queries), len(self.likes)), np.float32)
        np.add.at(counts, (queries.history.rows, queries.history.items), 1)
        scores = counts @ self.likes
        return scores if candidates is None else np.take_along_axis(scores, candidates, axis=1)


class LinearFactored(Linear):
    """The same, as a factored model."""

    vectors = np.eye(6, dtype=np.float32)
    bias = np.zeros(6, np.float32)

    def encode(self, queries: Queries) -> Any:
        return super().score(queries)


class FixedNeighbors:
    def nearest(self, code: int, k: int) -> Any:
        return np.array([5, 1, 0], np.int32)[:k], np.array([0.9, 0.6, 0.3], np.float32)[:k]


def query(history: list[int]) -> Queries:
    return Queries.anonymous(Events.of([history]))


def explain_item(
    item: int | str,
    history: list[int],
    k: int = 2,
    model: Any = None,
    default_rules: schemas.Rules | None = None,
    **rules: Any,
) -> schemas.Explanation:
    compiled = compile_rules(schemas.Rules.model_validate(rules), default_rules or schemas.Rules(), FILMS)
    return explain(model or Linear(), query(history), item, compiled, k, False, FILMS, FixedNeighbors(), MODEL_INFO)


def texts(explanation: schemas.Explanation, kind: str) -> list[str]:
    return [reason.text for reason in explanation.reasons if reason.kind == kind]


@pytest.mark.parametrize("model", [Linear(), LinearFactored()])
def test_attributions_of_history_items(model: Linear) -> None:
    assert isinstance(model, Factored) == (type(model) is LinearFactored)
    found = explain_item(4, [0, 1, 0, 2], model=model)
    assert [(one.id, one.title, one.contribution) for one in found.attributions] == [
        ("i0", "Alien", 3.0),  # both events
        ("i2", "Cube", 1.0),
        ("i1", "Brazil", -0.5),
    ]
    assert found.item == schemas.RecommendedItem(id="i4", title="Eraserhead", score=3.5)
    assert texts(found, "attribution") == [
        "its score is raised by 'Alien' (+3), 'Cube' (+1)",
        "its score is lowered by 'Brazil' (-0.5)",
    ]


def test_only_the_newest_events_are_left_out() -> None:
    history = [0] * 30 + [1] * 30 + [2] * 25
    items, contributions = compute_attributions(Linear(), query(history), 4)
    assert (items.tolist(), contributions.tolist()) == ([2, 1], [25.0, -15.0])
    assert "only the newest 50 of 85 history events were left out in turn" in texts(
        explain_item(4, history), "attribution"
    )


def test_unfactored_models_are_scored_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.serving.explain.leave_one_out.MAX_BLOCK_SCORES", 12)
    items, contributions = compute_attributions(Linear(), query([0, 1, 2]), 4)
    assert (items.tolist(), contributions.tolist()) == ([2, 1, 0], [1.0, -0.5, 1.5])


def test_profile_and_time_are_kept_in_reduced_queries() -> None:
    class CheckingModel(Linear):
        def score(self, queries: Queries, candidates: Codes | None = None) -> Any:
            assert queries.times is not None
            assert queries.profile is not None
            assert (queries.times == 7).all()
            assert queries.profile["age"].to_list() == [30] * len(queries)
            assert queries.known.all()
            assert (queries.users == 3).all()
            return super().score(queries, candidates)

    history = Events.of([[0, 1]])
    queries = Queries(history, np.array([3]), np.array([True]), np.array([7]), pl.DataFrame({"age": [30]}))
    rules = compile_rules(schemas.Rules(), schemas.Rules(), FILMS)
    found = explain(CheckingModel(), queries, 4, rules, 2, False, FILMS, None, MODEL_INFO)
    assert [one.contribution for one in found.attributions] == [1.5, -0.5]


def test_recommended_item() -> None:
    found = explain_item(2, [0])
    assert (found.recommended, found.position, found.rules) == (True, 1, {})
    assert texts(found, "rank") == ["rank 1 of 5 eligible items"]
    assert found.shared_features == {"genres": ["Horror"]}
    assert texts(found, "features") == ["genres Horror (shared with 1 history item)"]
    assert [(one.id, one.similarity) for one in found.neighbors] == [("i0", pytest.approx(0.3))]
    assert texts(found, "neighbors") == ["often co-occurs with 'Alien' of the history"]


def test_item_below_the_list() -> None:
    found = explain_item(4, [0])
    assert (found.recommended, found.position) == (False, 3)
    assert texts(found, "rank") == [
        "not recommended: by score alone it would rank 3 of 5, and 2 items were requested; its score 1.5 is 0.5 below "
        "the last of them"
    ]


@pytest.mark.parametrize(
    ("item", "rules", "rule", "text"),
    [
        (0, {}, "seen", "it is in the history, and include_seen is false"),
        (2, {"deny": ["i2"]}, "deny", "request: it is denied"),
        (2, {"allow": ["i1", "i3"]}, "allow", "request: 2 items are allowed, and this is not one of them"),
        (2, {"filter": {"year": {"max": 1990}}}, "filter", "request: year is 1997, expected at most 1990"),
        (5, {"filter": {"year": {"min": 1990.5}}}, "filter", "request: year is unknown, expected at least 1990.5"),
        (
            2,
            {"filter": {"genres": {"none": ["Horror"], "any": ["War", "Comedy"]}, "in_stock": {"any": [True]}}},
            "filter",
            "request: genres is Horror, expected one of War, Comedy and not Horror; request: in_stock is false, "
            "expected true",
        ),
        (2, {"filter": {"color": {"any": ["red"]}}}, "filter", "request: color is unknown, expected red"),
        (2, {"filter": {"title": {"any": ["Dune"]}}}, "filter", "request: title is Cube, expected Dune"),
    ],
)
def test_excluding_rules(item: int, rules: dict[str, Any], rule: str, text: str) -> None:
    found = explain_item(item, [0], **rules)
    assert (found.recommended, found.position) == (False, None)
    assert found.rules == {rule: text}
    assert texts(found, "rule") == [f"{rule}: {text}"]
    assert texts(found, "rank")[0].startswith("not recommended: excluded by a rule; without the rule it would rank ")
    if rules:
        own = explain_item(item, [0], default_rules=schemas.Rules.model_validate(rules)).rules[rule]
        assert own == text.replace("request", "default rules")


def test_full_quota() -> None:
    found = explain_item(4, [0], k=3, max_per_value={"genres": 1})
    assert (found.recommended, found.position) == (False, 3)
    assert found.rules == {"max_per_value": "the list already holds 1 with genres Horror, the maximum"}
    assert "but rules put other items above it" in texts(found, "rank")[0]
    below = explain_item(4, [0], k=1, max_per_value={"genres": 1})
    assert below.rules == {}  # its score does not suffice anyway


def test_boosts() -> None:
    rules = {"boosts": [{"filter": {"genres": {"any": ["Comedy"]}}, "factor": 1000.0}]}
    found = explain_item(1, [0], model=Linear("logit"), **rules)
    assert (found.recommended, found.position) == (True, 1)
    assert found.rules == {"boosts": "its score changes by +6.91, its rank from 4 to 1"}
    shares = np.exp(LIKES[0, 1:] + np.log([1000, 1, 1, 1, 1000]))
    assert found.item.probability == pytest.approx(shares[0] / shares.sum(), rel=1e-5)
    assert explain_item(2, [0], model=Linear("logit"), **rules).rules == {}


def test_diversity() -> None:
    up, down = (explain_item(item, [0], deny=["i3"], diversify=1.0) for item in (1, 4))
    assert (up.recommended, up.position) == (True, 2)
    assert up.rules == {"diversify": "it ranks 2 instead of 3, for a more diverse list"}
    assert (down.recommended, down.position) == (False, 2)
    assert down.rules == {"diversify": "items that are less similar to those above them rank before it"}


def test_pins() -> None:
    pinned = explain_item(5, [0], pins=[{"item": "i5", "position": 2}])
    assert (pinned.recommended, pinned.position, pinned.item.pinned) == (True, 2, True)
    assert pinned.rules == {"pins": "it is pinned to position 2"}
    assert "by score alone it would rank 5 of 5" in texts(pinned, "rank")[0]
    again = explain_item(0, [0], pins=[{"item": "i0", "position": 1}])
    assert (again.recommended, again.position) == (True, 1)
    other = explain_item(3, [0], pins=[{"item": "i5", "position": 1}])
    assert (other.recommended, other.position) == (False, 2)
    assert other.rules == {"pins": "1 position is taken by a pinned item"}
    no = explain_item(5, [0], pins=[{"item": "i5", "position": 1}], deny=["i5"])
    assert no.rules["pins"] == "it is pinned to position 1, but another rule excludes it"
    far = explain_item(5, [0], pins=[{"item": "i5", "position": 9}])
    assert far.rules == {"pins": "it is pinned to position 9, beyond the 2 requested items"}


def test_unknown_item_and_empty_history() -> None:
    found = explain_item("x", [0])
    assert (found.recommended, found.position, found.item.id) == (False, None, "x")
    assert texts(found, "unknown") == ["'x' is not in the catalog of this model"]
    empty = explain_item(3, [])
    assert (empty.attributions, empty.shared_features, empty.neighbors, empty.position) == ([], {}, [], 4)
    assert texts(empty, "unknown") == ["the history is empty: the model has nothing to go by"]
    assert texts(explain_item(4, [3]), "attribution") == ["no single item of the history changes its score"]


def test_exactly_one_query() -> None:
    rules = compile_rules(schemas.Rules(), schemas.Rules(), FILMS)
    with pytest.raises(ValueError, match="got 2 queries, expected 1"):
        explain(Linear(), Queries.anonymous(Events.of([[0], [1]])), 0, rules, 2, False, FILMS, None, MODEL_INFO)


def test_trained_model_attributes_to_the_same_cluster() -> None:
    world = clusters()
    model = train_small("ease", world.train)
    half = world.train.n_items // 2
    items = make_catalog({"id": world.train.items.ids})
    history = [0, 1, half, 2]
    found = explain(
        model,
        query(history),
        5,
        compile_rules(schemas.Rules(), schemas.Rules(), items),
        3,
        False,
        items,
        None,
        MODEL_INFO,
    )
    changes = {one.id: one.contribution for one in found.attributions}
    assert all(changes[f"i{code}"] > changes[f"i{half}"] for code in (0, 1, 2))
    assert found.recommended
