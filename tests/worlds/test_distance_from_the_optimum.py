"""In the simulated world the best attainable NDCG is known: who stands where, and how far from perfect.

Theory says: whoever sees the hidden state is at least as good as the best who sees the log, who is at least as good as
the best who sees item sequences alone. Below that bound, in a world of sequels and tastes, those who read order and
person beat those who read the set of items, those beat popularity, and that beats chance. Nobody beats the bound.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from segue.core.run import Run
from segue.core.types import Split
from segue.data.simulator import (
    BayesOptimalRecommender,
    OracleRecommender,
    SimulatedWorld,
    SimulatorSettings,
    expected_ndcg,
)
from segue.data.splits import SplitSettings, split
from segue.training.train import Training, train

SETTINGS = SimulatorSettings(
    users=1000, items=60, seed=3, mean_length=16, max_length=40, appetites=1, tastes=3, focus=3.0, drift=0.01,
    session_drift=0.05, series=0.7, sequels=0.6, popularity=0.8, novelty=0.2,
)  # fmt: skip
LADDER = ("random", "popular", "item_knn", "ease")
"""Each has one reason more than the one before to be right."""
SEQUENTIAL = ("sasrec", "gru4rec", "lstm", "xlstm")
MODELS = {"ease": {"l2": 50.0}} | {key: {"embedding_dim": 32, "max_length": 40, "dropout": 0.1} for key in SEQUENTIAL}
TRAINING = Training(epochs=8, batch_size=32, learning_rate=0.01, schedule="one_cycle")


@cache
def world() -> tuple[Split, BayesOptimalRecommender, OracleRecommender]:
    data = SimulatedWorld.build(SETTINGS).dataset()
    return split(data, SplitSettings()), BayesOptimalRecommender(data), OracleRecommender(data)


@cache
def expected(key: str) -> NDArray[np.float64]:
    """Expected NDCG@10 of each question, drawn by the law of the log."""
    parts, optimal, _ = world()
    model = train(key, MODELS.get(key, {}), TRAINING, parts.train, Run(0))
    return expected_ndcg(optimal, model, parts.test.queries)


@cache
def bounds() -> tuple[float, float, float]:
    """Best attainable: with item sequences alone, with the whole log, with the hidden state."""
    parts, optimal, oracle = world()
    queries = parts.test.queries
    alone = BayesOptimalRecommender(SimulatedWorld.build(SETTINGS).dataset(), inputs=())
    pairs = ((optimal, alone), (optimal, optimal), (oracle, oracle))
    items, log, hidden = (float(expected_ndcg(truth, model, queries).mean()) for truth, model in pairs)
    return items, log, hidden


def clearly(better: NDArray[np.float64], worse: NDArray[np.float64]) -> bool:
    difference = better - worse
    return bool(difference.mean() > 3 * difference.std() / len(difference) ** 0.5)


def test_more_inputs_give_a_higher_bound() -> None:
    items, log, hidden = bounds()
    assert items <= log <= hidden
    assert items > 0.5


@pytest.mark.parametrize(("worse", "better"), list(pairwise(LADDER)))
def test_each_reason_helps(worse: str, better: str) -> None:
    assert clearly(expected(better), expected(worse))


@pytest.mark.parametrize("key", SEQUENTIAL)
def test_who_reads_the_order_beats_who_does_not(key: str) -> None:
    assert clearly(expected(key), expected("ease"))


@pytest.mark.parametrize("key", [*LADDER, *SEQUENTIAL])
def test_nobody_beats_the_bound(key: str) -> None:
    assert expected(key).mean() < bounds()[0]


def test_how_far_from_perfect() -> None:
    reached = {key: float(expected(key).mean()) / bounds()[0] for key in (*LADDER, *SEQUENTIAL)}
    assert reached["random"] < 0.2 < reached["popular"] < 0.5 < reached["item_knn"] < reached["ease"]
    assert min(reached[key] for key in SEQUENTIAL) > 0.85, reached
