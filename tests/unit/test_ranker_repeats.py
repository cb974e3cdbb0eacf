"""A ranker where users return to items: candidates and numbers of the history."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.core import bundle
from segue.core.run import Run
from segue.core.types import Dataset, Events, Feature, Queries
from segue.data.splits import SplitSettings, split
from segue.evaluation.evaluate import evaluate
from segue.models.hybrid.ranker import Ranker
from segue.solvers.two_stage.candidate_numbers import REPEATS, RETRIEVAL, CandidatePairs, choose_candidates
from segue.testing import dataset
from segue.training.settings import Training
from segue.training.train import train

BOOSTING = {"gradient_boosting": {"iterations": 6, "min_examples": 2, "num_leaves": 4, "validate_every": 3}}
PLACE = Feature("place", "category", categories=("home", "away"))


def favorites(n_users: int = 60, n_items: int = 30) -> Dataset:
    """Users who choose one item at home and another one elsewhere, seldom others; the pairs of items are random."""
    rng = np.random.default_rng(0)
    own = np.array([rng.permutation(n_items)[:2] for _ in range(n_users)])
    places = rng.integers(2, size=(n_users, 12))
    items = np.take_along_axis(own, places, axis=1)
    is_other = rng.random(items.shape) < 0.2
    items = np.where(is_other, rng.integers(n_items, size=items.shape), items)
    columns: Any = {"place": places.ravel().astype(np.int32)}
    histories = replace(Events.of(items.tolist()), context=columns, values=np.ones(items.size, np.float32))
    data = dataset(histories, n_items)
    return replace(data, header={**data.header, "context": {"place": list(PLACE.categories)}})


def fit(data: Dataset, **values: Any) -> Ranker:
    config = {"settings": BOOSTING, "num_candidates": 8, "retrieve_seen": True, **values}
    model = train("ranker", config, Training(), data, Run(0))
    assert isinstance(model, Ranker)
    return model


def test_items_of_the_history_are_candidates_before_others() -> None:
    scores = np.array([[5.0, 4.0, 3.0, 2.0, 1.0], [5.0, 4.0, 3.0, 2.0, 1.0]], np.float32)
    queries = Queries.anonymous(Events.of([[4, 2, 4], []]))
    candidates, is_valid = choose_candidates(scores, queries, 3, retrieve_seen=True)
    assert candidates.tolist() == [[0, 2, 4], [0, 1, 2]]  # in the order of the retriever
    assert is_valid.all()
    candidates, _ = choose_candidates(scores, queries, 1, retrieve_seen=True)
    assert candidates.tolist() == [[2], [0]]  # more items of the history than candidates: the best of them
    candidates, is_valid = choose_candidates(scores, queries, 4, retrieve_seen=False)
    assert candidates[0, :3].tolist() == [0, 1, 3]
    assert is_valid.tolist() == [[True, True, True, False], [True] * 4]


def numbers(queries: Queries, candidates: list[list[int]]) -> Any:
    found = np.array(candidates, np.int32)
    rows, columns = np.nonzero(np.ones_like(found))
    scores = np.zeros((len(queries), 6), np.float32)
    pairs = CandidatePairs(queries, scores, found, rows, columns)
    return pairs.numbers(
        REPEATS, np.zeros(6, np.float32), 2, (PLACE, Feature("heat", "number"), Feature("device", "category"))
    )


def test_numbers_of_repeats_count_events_values_and_equal_context() -> None:
    context: Any = {
        "place": np.array([0, 1, 0, -1, 1], np.int32),
        "device": np.array([2, 2, 1, 2, 0], np.int32),
        "heat": np.ones(5, np.float32),
    }
    values = np.array([2.0, 3.0, np.nan, -1.0, 4.0], np.float32)
    history = replace(Events.of([[3, 3, 5, 3], [1]]), context=context, values=values)
    queries = replace(
        Queries.anonymous(history),
        context={"place": np.array([0, -1], np.int32), "device": np.array([2, -1], np.int32)},
    )
    found = numbers(queries, [[3, 0], [1, 3]])
    last = np.log(2) / np.log(3) * 2 - 1
    # item 3: three of four events, values 2 + 3, context equal in both, one and one of two columns
    expected = [[np.log(4), np.log1p(np.log(3) + np.log(4)), np.log1p(1 + 1 / 2 + 1 / 2), -1, -1, -1, 3 / 4]]
    expected += [[0, 0, 0, last, last, last, 0]]
    # no context of the second query is known
    expected += [[np.log(2), np.log1p(np.log(5)), 0, -1, -1, -1, 1], [0, 0, 0, last, last, last, 0]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_numbers_of_repeats_are_finite_without_values_and_context() -> None:
    found = numbers(Queries.anonymous(Events.of([[3, 3], []])), [[3, 0], [1, 3]])
    np.testing.assert_allclose(found[:, 0], [np.log(3), 0, 0, 0], rtol=1e-6)
    np.testing.assert_array_equal(found[:, -1], [1, 0, 0, 0])
    assert not found[:, 1:3].any()


def test_popularity_ranks_candidates_that_were_chosen_equally_often() -> None:
    found = np.array([[0, 1, 2, 3]], np.int32)
    queries, rows = Queries.anonymous(Events.of([[2, 3, 3]])), np.zeros(4, np.int64)
    pairs = CandidatePairs(queries, np.zeros((1, 4), np.float32), found, rows, np.arange(4))
    numbers: Any = pairs.numbers(REPEATS, np.array([1, 2, 0, 0], np.float32), 4, ())
    assert np.argsort(numbers[:, 3]).tolist() == [3, 2, 1, 0]
    assert np.argsort(numbers[:, 4]).tolist() == [1, 0, 2, 3]  # without values


def test_repeats_are_inputs_where_items_of_the_history_are_candidates() -> None:
    data = favorites()
    cases: dict[str, dict[str, Any]]
    cases = {"seen": {}, "unseen": {"retrieve_seen": False}, "other": {"inputs": ("retrieval",)}}
    names = {}
    for key, values in cases.items():
        ranker: Any = fit(data, **values).ranker
        names[key] = [one.name for one in ranker.schema.fields if one.kind == "number"]
    assert names == {"seen": [*RETRIEVAL, *REPEATS], "unseen": list(RETRIEVAL), "other": list(RETRIEVAL)}


def test_repeats_without_candidates_of_the_history_are_noted() -> None:
    def notes(data: Dataset, **values: Any) -> list[str]:
        return [note for note in fit(data, **values).training_notes if "'repeats' has no numbers" in note]

    data = favorites()
    (note,) = notes(data, retrieve_seen=False)
    assert "with retrieve_seen=false, as items of the history are no candidates" in note
    assert f"of {data.histories.size:,} events repeat an item of the user" in note
    assert not notes(data)
    assert not notes(data, retrieve_seen=False, inputs=("retrieval",))


@pytest.mark.parametrize("key", ["gradient_boosting", "logistic_regression"])
@pytest.mark.parametrize("inputs", [("repeats",), ("context", "history", "retrieval", "repeats")])
def test_scores_with_repeats_are_the_same_in_parts_and_after_loading(
    key: str, inputs: tuple[str, ...], tmp_path: Path
) -> None:
    data = favorites()
    model = fit(data, ranker=key, inputs=inputs, settings={name: one for name, one in BOOSTING.items() if name == key})
    histories = data.histories.take(np.arange(5))
    context = {"place": np.array([0, 1, -1, 0, 1], np.int32)}
    queries = replace(Queries.of_users(np.arange(5, dtype=np.int32), histories), context=context)
    fast = model.score(queries)
    single = np.concatenate([model.score(queries.rows_between(row, row + 1)) for row in range(5)])
    np.testing.assert_allclose(single, fast, rtol=1e-4, atol=1e-5)
    bundle.save(tmp_path / "saved", bundle.create("ranker", model, data))
    restored: Any = bundle.load(tmp_path / "saved").model
    np.testing.assert_array_equal(restored.score(queries), fast)
    assert model._scorer
    model._scorer = False
    np.testing.assert_allclose(model.score(queries), fast, rtol=1e-4, atol=1e-5)


def test_the_choice_in_the_same_context_is_found_by_repeats_alone() -> None:
    """Half of the targets are the item that the user chose most; the place decides which one."""
    parts = split(favorites(150), SplitSettings(use_query_context=True))
    found = {}
    for inputs in (("retrieval",), ("retrieval", "context", "repeats")):
        settings = {"gradient_boosting": {"min_examples": 5, "num_leaves": 8}}
        model = fit(parts.train, inputs=inputs, num_targets=4, settings=settings)
        found[inputs] = float(evaluate(model, parts.test, ks=(1,), exclude_seen=False).values["hit_rate@1"].mean())
    without, with_repeats = found.values()
    assert with_repeats > 0.65
    assert with_repeats > without + 0.2
