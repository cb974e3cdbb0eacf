"""Off-policy evaluation of simulated impressions, where the value of every policy is known."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest

import segue
from segue.core.bundle import TrainedModel
from segue.core.examples.list_policies import plackett_luce, top_k
from segue.core.types import Queries
from segue.data.simulator import ImpressionSettings, SimulatedImpressions

CANDIDATES, POSITIONS, TEMPERATURE = 8, 3, 3.0
ESTIMATORS = ("ips", "clipped_ips", "snips", "dm", "dr", "pbm")


@cache
def world() -> tuple[SimulatedImpressions, TrainedModel]:
    data = segue.load("simulated?users=1500&items=100&max_length=60&seed=3")
    settings = ImpressionSettings(candidates=CANDIDATES, positions=POSITIONS, temperature=2.0, examination=0.7)
    return SimulatedImpressions.of(data, settings), segue.train("item_knn", data)


@cache
def target() -> Any:
    """Return the probabilities of the model as a policy, ``(Q, C, K)``."""
    simulated, trained = world()
    queries = Queries.of_users(np.arange(simulated.dataset.n_users, dtype=np.int32), simulated.dataset.histories)
    scores = trained.model.score(queries, simulated.candidates_QC.astype(np.int32))
    return plackett_luce(scores, POSITIONS, TEMPERATURE)


def test_lists_are_drawn_with_their_propensities() -> None:
    simulated, _ = world()
    query = np.zeros(20_000, np.int64)
    shown, clicks = simulated.sample(query, np.random.default_rng(0))
    drawn = np.zeros((CANDIDATES, POSITIONS))
    np.add.at(drawn, (shown, np.arange(POSITIONS)), 1 / len(query))
    np.testing.assert_allclose(drawn, simulated.propensity_QCK[0], atol=0.015)
    values = simulated.values_by_query(simulated.propensity_QCK)
    assert clicks.sum(1).mean() == pytest.approx(values[0], abs=0.02)
    assert simulated.value(simulated.propensity_QCK) == pytest.approx(values.mean())
    np.testing.assert_allclose(simulated.propensity_QCK.sum(1), 1)


def test_settings_have_an_effect() -> None:
    simulated, _ = world()
    base, data = simulated.settings, simulated.dataset
    tables = {
        name: SimulatedImpressions.of(data, base.model_copy(update={name: value})).table()
        for name, value in (("candidates", 9), ("positions", 2), ("temperature", 1.0), ("attraction", 0.9),
                            ("examination", 0.0), ("seed", 1))
    }  # fmt: skip
    for name, table in tables.items():
        assert not table.equals(simulated.table()), name
    assert SimulatedImpressions.of(data, base).table().equals(simulated.table())
    with pytest.raises(ValueError, match=r"candidates: got 2, expected 3 \(positions\) to 100 \(items\)"):
        SimulatedImpressions.of(data, ImpressionSettings(candidates=2))


def test_a_model_is_evaluated_from_the_log() -> None:
    """Weights are those of its softmax over the candidates, and the intervals contain its value."""
    simulated, trained = world()
    options: Any = {"temperature": TEMPERATURE, "candidates": simulated.candidate_table()}
    found = segue.evaluate_policy(
        simulated.table(), trained, **options, reward_model="logistic_regression",
        position_propensities=simulated.examination_K,
    )  # fmt: skip
    assert tuple(found) == ESTIMATORS
    truth = simulated.value(target())
    logged = simulated.value(simulated.propensity_QCK)
    assert truth > logged + 0.03
    for name in ("ips", "clipped_ips", "snips", "dr", "pbm"):
        assert found[name].low <= truth <= found[name].high, name
        assert found.differences[name].low <= truth - logged <= found.differences[name].high, name
    assert found.logged.low <= logged <= found.logged.high
    assert found.overlap["item_position"].mean_weight.mean == pytest.approx(1, abs=0.05)
    assert found.overlap["pbm"].effective_sample_size > found.overlap["item_position"].effective_sample_size


def test_a_column_with_the_same_probabilities_gives_the_same() -> None:
    simulated, trained = world()
    log = simulated.table()
    queries, columns = np.nonzero(np.ones_like(simulated.candidates_QC))
    cells = {f"model_{k + 1}": target()[queries, columns, k] for k in range(POSITIONS)}
    by_candidate = simulated.candidate_table().with_columns(**{name: pl.Series(one) for name, one in cells.items()})
    log = log.join(by_candidate, ["query", "item"], "left", maintain_order="left")
    names = [pl.col(f"model_{k + 1}") for k in range(POSITIONS)]
    log = log.with_columns(model=pl.concat_list(names).list.get(pl.col("position") - 1))
    long = by_candidate.unpivot(on=list(cells), index=["query", "item"], variable_name="position", value_name="model")
    long = long.with_columns(pl.col("position").str.strip_prefix("model_").cast(pl.Int64))
    options: Any = {"reward_model": "logistic_regression", "position_propensities": simulated.examination_K.tolist()}
    one = segue.evaluate_policy(log, "model", candidates=long, **options)
    other = segue.evaluate_policy(
        log, trained, temperature=TEMPERATURE, candidates=simulated.candidate_table(), **options
    )
    for name in ESTIMATORS:
        assert (one[name].mean, one[name].low) == pytest.approx(
            (other[name].mean, other[name].low), abs=1e-4, nan_ok=True
        ), name
    pair = segue.evaluate_policy(log, trained, baseline="model", temperature=TEMPERATURE,
                                 candidates=simulated.candidate_table(), estimators=["snips"])  # fmt: skip
    assert pair.differences["snips"].mean == pytest.approx(0, abs=1e-4)
    assert pair.differences["snips"].high - pair.differences["snips"].low < 1e-3


def test_estimated_position_propensities() -> None:
    simulated, trained = world()
    options: Any = {"temperature": TEMPERATURE, "candidates": simulated.candidate_table(), "estimators": ["pbm"]}
    given = segue.evaluate_policy(simulated.table(), trained, position_propensities=simulated.examination_K, **options)
    for method in ("items", "clicks"):
        found = segue.evaluate_policy(simulated.table(), trained, position_propensities=method, **options)
        assert found["pbm"].mean == pytest.approx(given["pbm"].mean, abs=0.02)
        assert found["pbm"].mean != given["pbm"].mean


def test_the_best_items_in_order_need_more_overlap_than_this_log_has() -> None:
    simulated, trained = world()
    with pytest.raises(ValueError, match=r"the log says too little about item_knn: effective sample size [\d.]+ of"):
        segue.evaluate_policy(simulated.table().head(900), trained, candidates=simulated.candidate_table())
    found = segue.evaluate_policy(
        simulated.table(), trained, candidates=simulated.candidate_table(), estimators=["ips"]
    )
    queries = Queries.of_users(np.arange(simulated.dataset.n_users, dtype=np.int32), simulated.dataset.histories)
    scores = trained.model.score(queries, simulated.candidates_QC.astype(np.int32))
    truth = simulated.value(top_k(scores, POSITIONS))
    assert found["ips"].low <= truth <= found["ips"].high
