"""Item2vec: scores by hand, weights of events, items without events, interruption, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Dataset, Events, Queries
from segue.testing import dataset, train_small
from segue.training.train import Training, train

N_ITEMS = 12


def log(seed: int = 0) -> Dataset:
    """Return histories in which the last two items of the catalog do not occur."""
    rng = np.random.default_rng(seed)
    return dataset(
        Events.of([rng.integers(N_ITEMS - 2, size=n).tolist() for n in rng.integers(2, 12, size=30)]), N_ITEMS
    )


LOG = log()


def fit(**settings: Any) -> Any:
    return train_small("item2vec", LOG, **{"embedding_dim": 8, "iterations": 5, "learning_rate": 0.2, **settings})


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: NDArray[np.float32] = vectors / np.where(norms > 0, norms, 1)
    return found


def ask(*rows: list[int]) -> Queries:
    return Queries.anonymous(Events.of(rows))


@pytest.mark.parametrize("popularity_weight", [0.0, 0.6])
def test_conditional_scores_are_those_of_the_formula(popularity_weight: float) -> None:
    model = fit(half_life=2.0, popularity_weight=popularity_weight)
    weights = np.exp2(-np.array([2, 1, 0]) / 2.0)
    query = weights @ model.inputs_ID[[4, 1, 4]] / weights.sum()
    counts = np.bincount(LOG.histories.items, minlength=N_ITEMS) ** model.config.sampler_alpha
    noise = np.maximum(counts, counts[counts > 0].min()) / counts.sum()
    expected = query @ model.outputs_ID.T + popularity_weight * np.log(noise)
    np.testing.assert_allclose(model.score(ask([4, 1, 4]))[0], expected, rtol=1e-4, atol=1e-5)


def test_cosine_scores_are_the_mean_cosine() -> None:
    model = fit(scoring="cosine", half_life=None)
    cosines = unit(model.inputs_ID) @ unit(model.inputs_ID).T
    np.testing.assert_allclose(model.score(ask([4, 1, 4]))[0], cosines[[4, 1, 4]].mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.similar(np.array([3])), cosines[[3]], rtol=1e-4, atol=1e-5)


def test_without_half_life_the_order_does_not_matter() -> None:
    model = fit(half_life=None)
    scores = model.score(ask([1, 5, 9], [9, 5, 1]))
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5)


def test_items_without_events_are_ignored_in_histories_and_similar_to_nothing() -> None:
    model = fit(half_life=None)
    np.testing.assert_array_equal(model.score(ask([3, 10, 4, 11])), model.score(ask([3, 4])))
    assert not model.similar(np.array([10], np.int32)).any()


@pytest.mark.parametrize("scoring", ["conditional", "cosine"])
def test_a_history_without_known_items_is_scored_as_the_mean_event(scoring: str) -> None:
    model = fit(scoring=scoring, half_life=None)
    everything = ask(LOG.histories.items.tolist())
    for row in ([], [10, 11]):
        np.testing.assert_allclose(model.score(ask(row)), model.score(everything), rtol=1e-4, atol=1e-5)


def test_very_old_events_have_finite_weights() -> None:
    model = fit(half_life=0.01)
    history = [5, *[10] * 40]  # the only known item is the oldest event
    np.testing.assert_allclose(model.score(ask(history)), model.score(ask([5])), rtol=1e-4, atol=1e-5)


def test_pairs_with_later_items_know_the_direction() -> None:
    rows = [[0, 1, 2], [3, 4, 5]] * 60
    settings = {"embedding_dim": 8, "iterations": 20, "learning_rate": 0.2, "window": 1, "half_life": 1.0}
    for pairs, is_directed in (("later", True), ("both", False)):
        model = train_small("item2vec", dataset(Events.of(rows), 6), pairs=pairs, **settings)
        scores = model.score(ask([1]))[0]
        assert (scores[2] > scores[0] + 1.0) == is_directed


def test_an_interrupted_training_resumes_bit_identically(tmp_path: Path) -> None:
    kind: Any = model_class("item2vec")
    config = kind.Config(embedding_dim=8, iterations=4)
    whole = train("item2vec", config, Training(), LOG, Run(3), None)
    run = Run(3, tmp_path)
    log_metrics = run.log

    def stop_after_two(step: int, values: Any) -> None:
        log_metrics(step, values)
        run.interrupted = step == 2

    run.log = stop_after_two  # type: ignore[method-assign]
    with pytest.raises(Exception, match="interrupted after iteration"):
        train("item2vec", config, Training(), LOG, run, None)
    resumed = train("item2vec", config, Training(), LOG, Run(3, tmp_path), None)
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(resumed.arrays()[name], array)
    losses = [line["loss"] for line in Run(3, tmp_path).history()]
    assert len(losses) == 4


def test_a_divergent_learning_rate_is_named() -> None:
    with pytest.raises(ValueError, match=r"item2vec\.learning_rate: got 1e\+30, and training diverged"):
        fit(learning_rate=1e30, iterations=20)


def test_the_popularity_weight_belongs_to_conditional_scoring() -> None:
    kind: Any = model_class("item2vec")
    with pytest.raises(ValueError, match=r"popularity_weight: got 0\.3, which only scoring='conditional' uses"):
        kind.Config(scoring="cosine", popularity_weight=0.3)


def test_several_threads_train_a_model_of_the_same_quality() -> None:
    rows = [(np.random.default_rng(n).permutation(6)[:5] + 6 * (n % 2)).tolist() for n in range(80)]
    model = train_small(
        "item2vec", dataset(Events.of(rows), 12), num_threads=2, iterations=20, learning_rate=0.2, embedding_dim=8
    )
    best = np.argsort(-model.score(ask([0, 1], [6, 7])), axis=1)[:, :6]
    assert (best // 6 == [[0], [1]]).all()
