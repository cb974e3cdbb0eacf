"""A retriever and a click-through model as one recommender."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import segue
from segue.core import bundle
from segue.core.examples.fields import Examples
from segue.core.recommend import recommend
from segue.core.registry import builtin_models, model_class
from segue.core.run import Run
from segue.core.types import Dataset, Events, Queries
from segue.evaluation.click_metrics import auc
from segue.features.new_items import add_items, check_can_add
from segue.models.hybrid import ranker as ranker_module
from segue.models.hybrid.ranker import Ranker
from segue.solvers.two_stage.held_out_events import choose_weight, hold_out, mean_ndcg
from segue.testing import dataset, with_features, with_knowledge
from segue.testing.training import SMALL
from segue.training.settings import Training
from segue.training.train import train
from tests.serving.world import shop

BOOSTING = {"iterations": 6, "min_examples": 2, "num_leaves": 4, "validate_every": 3}
SETTINGS = {"gradient_boosting": BOOSTING}


def fit(data: Dataset, **values: Any) -> Ranker:
    model = train("ranker", {"settings": SETTINGS, **values}, Training(), data, Run(0))
    assert isinstance(model, Ranker)
    return model


@cache
def small() -> Ranker:
    return fit(shop(), num_candidates=8)


def noise(n_users: int = 80, n_items: int = 40) -> Dataset:
    """Users with random items: the last event of a user cannot be predicted."""
    rng = np.random.default_rng(0)
    return dataset(Events.of([rng.permutation(n_items)[:8].tolist() for _ in range(n_users)]), n_items)


def record_examples(monkeypatch: pytest.MonkeyPatch) -> list[Examples]:
    """Return a list that receives the examples from which the ranker learns."""
    found: list[Examples] = []
    train_part = Run.train_part

    def record(self: Run, key: str, settings: Any, data: Any, validate: Any, name: str) -> Any:
        if isinstance(data, Examples):
            found.append(data)
        return train_part(self, key, settings, data, validate, name)

    monkeypatch.setattr(Run, "train_part", record)
    return found


MEMORY = {"retriever": "ials", "num_candidates": 40, "settings": SETTINGS | {"ials": {"embedding_dim": 20}}}
"""A retriever that remembers the events of its training."""


def test_candidates_are_out_of_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores of a retriever that was trained on the held-out events would give the answer away."""
    found = record_examples(monkeypatch)
    fit(noise(), **MEMORY)

    def leak(*arguments: Any) -> Any:
        return replace(hold_out(*arguments), earlier=arguments[0].histories)

    monkeypatch.setattr(ranker_module, "hold_out", leak)
    fit(noise(), **MEMORY)
    areas = []
    for one in found:
        assert one.labels is not None
        names = [field.name for field in one.fields if field.kind == "number"]
        areas.append(auc(one.labels, one.numbers[:, names.index("retrieval.score")]))
    honest, leaked = areas
    assert abs(honest - 0.5) < 0.12
    assert leaked > 0.8


def test_examples_are_the_queries_before_held_out_events(monkeypatch: pytest.MonkeyPatch) -> None:
    found = record_examples(monkeypatch)
    rows = [[0, 1, 2, 3], [4, 5], [3], [2, 0, 1]]
    data = dataset(Events.of(rows), 6)
    model = fit(data, retriever="popular", num_targets=2, num_candidates=6, max_history=2)
    assert model.retriever is not None
    (learn,) = found
    assert learn.labels is not None
    assert learn.users is not None
    # user 0: 2 after (0, 1), 3 after (1, 2); user 1: 5 after (4); user 3: 0 after (2), 1 after (2, 0)
    expected = {0: (2, [0, 1], [3]), 1: (3, [1, 2], []), 2: (5, [4], []), 3: (0, [2], [1]), 4: (1, [2, 0], [])}
    lists = learn.lists["history"]
    seen = {0: [0, 1], 1: [0, 1, 2], 2: [4], 3: [2], 4: [2, 0]}
    assert set(learn.users.tolist()) < set(expected)  # some validate
    known = set(np.concatenate([[0, 1], [4], [3], [2]]).tolist())  # items of the other events
    for query in np.unique(learn.users).tolist():
        target, history, later = expected[query]
        own = np.flatnonzero(learn.users == query)
        assert learn.labels[own].sum() == 1
        assert len(own) == 6 - len(seen[query]) - len(later)
        for row in own:
            items = lists.items[lists.offsets[row] : lists.offsets[row + 1]]
            assert items.tolist() == [item + 2 if item in known else 1 for item in history]
            if learn.labels[row]:
                assert learn.codes[row, 1] == (target + 2 if target in known else 1)


CLICK_MODELS = [key for key in builtin_models() if model_class(key).reads_examples]
TINY = {**SMALL, **BOOSTING, "iterations": 3, "epochs": 1, "embedding_dim": 4, "hidden": (4,), "attention_hidden": (4,)}


def tiny(key: str) -> dict[str, Any]:
    kind = model_class(key)
    names = {*kind.Config.model_fields, *(Training.model_fields if hasattr(kind, "objective") else ())}
    found = {}
    for name, value in TINY.items():
        if name in names:
            try:
                kind.Config.model_validate({name: value} if name in kind.Config.model_fields else {})
            except ValueError:
                continue
            found[name] = value
    return found


def check_lists(model: Any, data: Dataset) -> None:
    history = data.histories.take(np.arange(4))
    queries = Queries(
        Events(np.append(history.offsets, [history.offsets[-1]] * 2), history.items),
        np.array([0, 1, 2, 3, 4, 0], np.int32),
        np.array([True] * 5 + [False]),
    )
    lists = recommend(model, queries, data.n_items)
    assert np.isfinite(lists.scores).all()
    for row in range(6):
        items = lists.items[row, : lists.lengths[row]].tolist()
        seen = set(queries.history.take(np.array([row])).items.tolist())
        assert sorted([*items, *seen]) == list(range(data.n_items))


@pytest.mark.parametrize("key", CLICK_MODELS)
def test_any_click_through_model_orders_candidates(key: str) -> None:
    data = with_features(noise(30, 12))
    model = fit(data, ranker=key, num_candidates=6, settings={key: tiny(key)})
    assert type(model.ranker) is model_class(key)
    check_lists(model, data)
    queries = Queries.of_users(np.arange(3, dtype=np.int32), data.histories.take(np.arange(3)))
    assert not np.array_equal(model.score(queries), model._retrieve(queries))


RETRIEVERS = ("content", "gru4rec", "hybrid", "ials", "item_knn", "lightkg", "popular", "deepfm")


@pytest.mark.parametrize("key", RETRIEVERS)
def test_models_of_all_kinds_retrieve(key: str) -> None:
    data = with_knowledge(with_features(noise(30, 12)))
    model = fit(data, retriever=key, num_candidates=6, settings=SETTINGS | {key: tiny(key)})
    check_lists(model, data)


def test_items_that_are_no_candidates_follow_in_the_order_of_the_retriever() -> None:
    model, data = small(), shop()
    queries = Queries.of_users(np.arange(5, dtype=np.int32), data.histories.take(np.arange(5)))
    retrieved = model._retrieve(queries)
    candidates, is_valid = model._candidates(retrieved, queries)
    assert is_valid.all()
    scores = model.score(queries)
    for row in range(5):
        others = np.setdiff1d(np.arange(data.n_items), candidates[row])
        assert scores[row, others].max() < scores[row, candidates[row]].min()
        order = others[np.argsort(-retrieved[row, others], kind="stable")]
        assert (np.diff(scores[row, order]) <= 1e-6).all()
        own = np.setdiff1d(np.argsort(-retrieved[row], kind="stable"), data.histories.take(np.array([row])).items)
        assert len(own) >= 8


def test_the_weight_of_the_retriever_is_the_best_on_held_out_queries() -> None:
    rng = np.random.default_rng(0)
    labels_NC = np.zeros((50, 20), np.float32)
    labels_NC[np.arange(50), rng.integers(20, size=50)] = 1
    none = np.zeros((1000, 0), np.float32)
    examples = Examples(
        (), none.astype(np.int32), none, {}, labels=labels_NC.ravel(), users=np.repeat(np.arange(50), 20)
    )
    noise_T = rng.normal(size=1000).astype(np.float32)
    assert choose_weight(examples, examples.labels, noise_T) == 0.0
    assert choose_weight(examples, noise_T, 3 * examples.labels) >= 3.0
    assert mean_ndcg(examples, examples.labels) == 1.0


def test_equal_logits_are_no_order() -> None:
    """A constant ranker must not get the credit of the retriever, in whose order the candidates are."""
    labels_NC = np.eye(3, 20, dtype=np.float32)
    none = np.zeros((60, 0), np.float32)
    examples = Examples(
        (), none.astype(np.int32), none, {}, labels=labels_NC.ravel(), users=np.repeat(np.arange(3), 20)
    )
    constant_T, scores_T = np.zeros(60, np.float32), np.tile(-np.arange(20.0, dtype=np.float32), 3)
    assert mean_ndcg(examples, constant_T) == 0.0
    assert choose_weight(examples, constant_T, scores_T) > 0.0


def rows_of(events: Events) -> list[list[int]]:
    return [part.tolist() for part in np.split(events.items, events.offsets[1:-1])]


def test_the_ranker_learns_from_target_actions() -> None:
    rows = [[0, 1, 2, 3, 4], [5, 1], [3, 2, 1], [4]]
    actions = np.array([0, 1, 0, 1, 0, 1, 0, 0, 1, 0, 1], np.int32)  # 1: bought
    data = dataset(Events.of(rows), 6)
    events = replace(data.histories, actions=actions)
    data = replace(data, histories=events, actions=("view", "buy"), target=1)
    found = hold_out(data, 2, 100, np.random.default_rng(0))
    assert found.events.tolist() == [1, 3, 8]
    assert found.targets.tolist() == [1, 3, 2]
    assert rows_of(found.queries.history) == [[0], [0, 1, 2], [3]]
    assert rows_of(found.earlier) == [[0], [5, 1], [3], [4]]
    assert rows_of(found.later) == [[2, 3, 4], [4], [1]]


def test_a_ranker_that_learns_nothing_leaves_the_order_of_the_retriever(tmp_path: Path) -> None:
    data = shop()
    model = fit(data, retrieval_weight=1e6)
    alone: Any = train("ease", {}, Training(), data, Run(0))
    queries = Queries.of_users(np.arange(9, dtype=np.int32), data.histories.take(np.arange(9)))
    expected = recommend(alone, queries, 5).items
    np.testing.assert_array_equal(recommend(model, queries, 5).items, expected)
    assert not np.array_equal(recommend(fit(data, retrieval_weight=0.0), queries, 5).items, expected)
    bundle.save(tmp_path / "saved", bundle.create("ranker", model, data))
    restored: Any = bundle.load(tmp_path / "saved").model
    np.testing.assert_array_equal(restored.score(queries), model.score(queries))


FAST = (
    "ctr_factorization_machine",
    "dcn_v2",
    "deepfm",
    "dlrm",
    "gradient_boosting",
    "logistic_regression",
    "wide_deep",
)


@pytest.mark.parametrize("inputs", [(), ("item_features", "user_features", "history", "retrieval")])
@pytest.mark.parametrize("key", FAST)
def test_candidates_that_are_scored_fast_have_the_same_scores(key: str, inputs: tuple[str, ...]) -> None:
    data = with_features(noise(30, 12))
    model = fit(data, ranker=key, num_candidates=6, inputs=inputs, settings={key: tiny(key)})
    queries = Queries(data.histories.take(np.arange(5)), np.arange(5, dtype=np.int32), np.arange(5) != 2)
    fast = model.score(queries)
    assert model._scorer
    model._scorer = False
    np.testing.assert_allclose(model.score(queries), fast, rtol=1e-4, atol=1e-5)


def test_seen_items_are_candidates_where_users_return_to_items() -> None:
    rng = np.random.default_rng(0)
    rows = [(np.append([0, 1], rng.integers(2, size=7)) + 2 * (user % 5)).tolist() for user in range(40)]
    data = dataset(Events.of(rows), 10)
    model = fit(data, num_candidates=3, retrieve_seen=True)
    queries = Queries.of_users(np.arange(10, dtype=np.int32), data.histories.take(np.arange(10)))
    candidates, _ = model._candidates(model._retrieve(queries), queries)
    assert all({2 * (n % 5), 2 * (n % 5) + 1} <= set(candidates[n].tolist()) for n in range(10))
    assert set(recommend(model, queries, 3, exclude_seen=False).items[0].tolist()) == set(candidates[0].tolist())
    assert fit(data, num_candidates=3).training_notes == (
        "ranker: none of the last events of 40 users is among the 3 candidates of 'ease'; candidates keep the "
        "order of the retriever",
        "the input 'repeats' has no numbers with retrieve_seen=false, as items of the history are no candidates; 280 "
        "of 360 events repeat an item of the user",
    )


def test_filters_and_short_candidate_lists_still_fill_the_list() -> None:
    trained = bundle.create("ranker", small(), shop())
    arguments: dict[str, Any]
    for arguments in ({"users": ["u1"]}, {"histories": [["i1", "i2"]]}, {"histories": [[]]}):
        found = segue.recommend(trained, k=12, filter={"genres": "Comedy"}, **arguments)
        assert len(found) == len(set(found["item_id"])) >= 9
        assert all(int(item[1:]) % 3 == 0 for item in found["item_id"])
        assert found["score"].is_sorted(descending=True)
        limited = segue.recommend(trained, k=5, allow=["i0", "i30", "i39"], **arguments)
        assert set(limited["item_id"]) == {"i0", "i30", "i39"}


def test_explanations_name_the_effect_of_the_history() -> None:
    trained = bundle.create("ranker", small(), shop())
    best = segue.recommend(trained, histories=[["i1", "i2", "i3"]], k=1)["item_id"][0]
    found = segue.explain(trained, history=["i1", "i2", "i3"], item=best)
    assert found.rank == 1
    assert len(found.attributions) == 3


def test_a_saved_model_has_the_features_and_context_of_both_models(tmp_path: Path) -> None:
    data = with_context(with_features(noise(30, 12)))
    gru = {"inputs": ("user_features", "context", "query_context"), **tiny("gru4rec")}
    model = fit(data, retriever="gru4rec", inputs=("item_features",), settings=SETTINGS | {"gru4rec": gru})
    assert [one.name for one in model.schema.item_features] == ["group", "vector"]
    assert [one.name for one in model.schema.user_features] == ["group", "vector"]
    assert [one.name for one in model.schema.event_context] == ["device", "heat"]
    assert not model.own_schema.user_features
    bundle.save(tmp_path / "saved", bundle.create("ranker", model, data))
    loaded: Any = bundle.load(tmp_path / "saved").model
    queries = replace(
        Queries.of_users(np.arange(4, dtype=np.int32), data.histories.take(np.arange(4))),
        context={"device": np.array([0, 1, -1, 0], np.int32), "heat": np.array([1, np.nan, 2, 3], np.float32)},
    )
    np.testing.assert_array_equal(loaded.score(queries), model.score(queries))


def with_context(data: Dataset) -> Dataset:
    """Add a device and a temperature to each event."""
    size = data.histories.size
    context = {"device": np.arange(size, dtype=np.int32) % 2, "heat": (np.arange(size) % 5).astype(np.float32)}
    header = {**data.header, "context": {"device": ["phone", "tv"], "heat": None}}
    return replace(data, histories=replace(data.histories, context=context), header=header)


def test_items_can_be_added_if_the_retriever_reads_features() -> None:
    data = shop()
    with pytest.raises(ValueError, match="cannot be added to a model of 'ranker'"):
        check_can_add(bundle.create("ranker", small(), data))
    model = fit(data, retriever="content", num_candidates=10)
    trained = bundle.create("ranker", model, data)
    new = pl.DataFrame({"id": ["new"], "title": ["Title new"], "genres": [["War"]], "year": [2003]})
    extended = add_items(trained, new)
    assert extended.model.schema.n_items == 41
    assert "new" in segue.recommend(extended, histories=[["i2", "i5", "i14"]], k=10)["item_id"].to_list()
    queries = Queries.of_users(np.arange(3, dtype=np.int32), data.histories.take(np.arange(3)))
    before, after = model.score(queries), extended.model.score(queries)
    assert after.shape == (3, 41)
    assert np.isfinite(after).all()
    assert np.corrcoef(after[:, :40].ravel(), before.ravel())[0, 1] > 0.9


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"retriever": "llm"}, "retriever: got 'llm', expected a model other than ranker, llm and the ranker"),
        (
            {"ranker": "ease", "retriever": "popular"},
            "ranker: got 'ease', expected a click-through model such as deepfm",
        ),
        ({"settings": {"bpr": {}}}, "settings: got settings of 'bpr', which is neither retriever nor ranker"),
        ({"retrieval_weight": 2.0, "inputs": ()}, "retrieval_weight: got 2 without the input 'retrieval'"),
        ({"propensities": (1.0, 0.5)}, "propensities: got some without 'position'"),
        ({"propensities": (1.0, 0.0), "position": "place"}, "propensities: got 0.0 at position 2, expected more than"),
        ({"retrieval_weight": -1.0}, "retrieval_weight"),
        ({"position": "place"}, "model.position: 'place' is no context column of 'world'"),
        ({"settings": {"ease": {"l3": 1}}}, "settings.ease.l3: unknown key, did you mean 'l2'"),
        ({"retriever": "eas"}, "'eas'"),
    ],
)
def test_settings_that_do_not_fit_are_errors(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train("ranker", values, Training(), noise(20, 10), Run(0))


def test_text_is_no_position() -> None:
    log = pl.DataFrame({"user_id": list("aabb"), "item_id": list("xyyx"), "place": ["top", "left", "top", "left"]})
    data = segue.load(log, columns={"context": ["place"]})
    with pytest.raises(ValueError, match=r"model\.position: column 'place' has '(top|left)', expected whole numbers"):
        train("ranker", {"position": "place"}, Training(), data, Run(0))


@pytest.mark.filterwarnings("ignore:train. there are no validation rows")
def test_a_model_of_a_table_cannot_be_served(tmp_path: Path) -> None:
    table = pl.DataFrame({"click": [0, 1, 1, 0] * 5, "user": [1, 2, 3, 4] * 5})
    segue.train_clicks("logistic_regression", table, label="click").save(tmp_path / "clicks")
    for function in (segue.export, segue.open):
        with pytest.raises(ValueError, match="is a click-through model of a table of examples, which has no catalog"):
            function(tmp_path / "clicks")
