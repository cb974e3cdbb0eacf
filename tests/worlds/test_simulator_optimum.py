"""Compare models with the best attainable NDCG, which is known in the simulated world.

In theory, the optimum given the hidden state is at least the optimum given the log, which is at least the optimum given
item sequences alone. In a world of sequels and tastes, sequential models beat item-based models, item-based models beat
popularity, and popularity beats random recommendations. No model exceeds the optimum of its inputs.
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
BASELINES = ("random", "popular", "item_knn", "ease")
"""Each uses more information than the previous one."""
SEQUENTIAL = ("sasrec", "gru4rec", "lstm", "xlstm")
MODELS = {"ease": {"l2": 50.0}} | {key: {"embedding_dim": 32, "max_length": 40, "dropout": 0.1} for key in SEQUENTIAL}
TRAINING = Training(epochs=8, batch_size=32, learning_rate=0.01, schedule="one_cycle")


@cache
def world() -> tuple[Split, BayesOptimalRecommender, OracleRecommender]:
    data = SimulatedWorld.build(SETTINGS).dataset()
    return split(data, SplitSettings()), BayesOptimalRecommender(data), OracleRecommender(data)


@cache
def expected(key: str) -> NDArray[np.float64]:
    """Compute the expected NDCG@10 of each query under the choice model of the simulator."""
    data_split, optimal, _ = world()
    model = train(key, MODELS.get(key, {}), TRAINING, data_split.train, Run(0))
    return expected_ndcg(optimal, model, data_split.test.queries)


@cache
def bounds() -> tuple[float, float, float]:
    """Compute the best attainable NDCG given item sequences, the whole log, and the hidden state."""
    data_split, optimal, oracle = world()
    queries = data_split.test.queries
    items_only = BayesOptimalRecommender(SimulatedWorld.build(SETTINGS).dataset(), inputs=())
    pairs = ((optimal, items_only), (optimal, optimal), (oracle, oracle))
    items, log, hidden = (float(expected_ndcg(truth, model, queries).mean()) for truth, model in pairs)
    return items, log, hidden


def is_significantly_better(better: NDArray[np.float64], worse: NDArray[np.float64]) -> bool:
    difference = better - worse
    return bool(difference.mean() > 3 * difference.std() / len(difference) ** 0.5)


def test_more_inputs_give_a_higher_bound() -> None:
    items, log, hidden = bounds()
    assert items <= log <= hidden
    assert items > 0.5


@pytest.mark.parametrize(("worse", "better"), list(pairwise(BASELINES)))
def test_each_baseline_beats_the_previous_one(worse: str, better: str) -> None:
    assert is_significantly_better(expected(better), expected(worse))


@pytest.mark.parametrize("key", SEQUENTIAL)
def test_sequential_models_beat_ease(key: str) -> None:
    assert is_significantly_better(expected(key), expected("ease"))


@pytest.mark.parametrize("key", [*BASELINES, *SEQUENTIAL])
def test_no_model_exceeds_the_bound(key: str) -> None:
    assert expected(key).mean() < bounds()[0]


def test_relative_ndcg_of_every_model() -> None:
    relative_ndcg = {key: float(expected(key).mean()) / bounds()[0] for key in (*BASELINES, *SEQUENTIAL)}
    assert (
        relative_ndcg["random"]
        < 0.2
        < relative_ndcg["popular"]
        < 0.5
        < relative_ndcg["item_knn"]
        < relative_ndcg["ease"]
    )
    assert min(relative_ndcg[key] for key in SEQUENTIAL) > 0.85, relative_ndcg
