"""Compare metrics with trec_eval (through pytrec_eval and ir-measures) on random rankings and on lists."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from segue.core.types import Codes, DataSchema, Events, HeldOut, Queries, Ranks, Scores
from segue.evaluation import metrics
from segue.evaluation.evaluate import EvaluationResult, evaluate, evaluate_lists

pytest.importorskip("pytrec_eval", reason="needs pytrec_eval, which ir-measures installs")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    ir_measures = pytest.importorskip("ir_measures", reason="needs ir-measures")

N, N_ITEMS = 200, 60
WITH_CUTOFF = tuple(getattr(metrics, name) for name in metrics.__all__ if name not in ("auc", "r_precision"))
ALL_METRICS = (*WITH_CUTOFF, metrics.r_precision)


class Random:
    schema = DataSchema(N, N_ITEMS)

    def __init__(self) -> None:
        self.table = np.random.default_rng(0).permuted(np.tile(np.arange(N_ITEMS, dtype=np.float32), (N, 1)), axis=1)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        return self.table[queries.users]


@pytest.fixture(scope="module")
def held_out() -> HeldOut:
    """Random histories with 1 to 20 targets per user outside the history."""
    rng = np.random.default_rng(1)
    orders = rng.permuted(np.tile(np.arange(N_ITEMS), (N, 1)), axis=1)
    n_seen, n_targets = rng.integers(0, 20, N), rng.integers(1, 21, N)
    history = Events.of([row[:s] for row, s in zip(orders, n_seen, strict=True)])
    targets = Events.of([row[s : s + t] for row, s, t in zip(orders, n_seen, n_targets, strict=True)])
    return HeldOut(Queries.of_users(np.arange(N, dtype=np.int32), history), targets)


def trec_eval_metrics(run: dict[str, dict[str, float]], held_out: HeldOut, k: int) -> dict[str, np.ndarray]:
    """Compute trec_eval's values per query; rescale MAP from the divisor *relevant* to min(k, relevant)."""
    from ir_measures import AP, RR, P, R, Rprec, Success, nDCG

    qrels = {
        str(n): {str(item): 1 for item in held_out.targets.rows_between(n, n + 1).items} for n in range(len(held_out))
    }
    names = {
        "recall": R @ k,
        "precision": P @ k,
        "hit_rate": Success @ k,
        "mrr": RR @ k,
        "ndcg": nDCG @ k,
        "map": AP @ k,
        "r_precision": Rprec,
    }
    values = {name: np.zeros(len(held_out)) for name in names}
    actual = ir_measures.iter_calc(list(names.values()), qrels, run)
    by_measure = {str(measure): name for name, measure in names.items()}
    for row in actual:
        values[by_measure[str(row.measure)]][int(row.query_id)] = row.value
    relevant = held_out.targets.lengths
    values["map"] = values["map"] * relevant / np.minimum(k, relevant)
    total = values["precision"] + values["recall"]
    values["f1"] = 2 * values["precision"] * values["recall"] / np.where(total > 0, total, 1)
    return values


@pytest.mark.parametrize("k", [5, 10])
def test_random_rankings(held_out: HeldOut, k: int) -> None:
    model = Random()
    ours = evaluate(model, held_out, (5, 10), ALL_METRICS)
    history = held_out.queries.history
    run = {
        str(n): {
            str(item): float(model.table[n, item])
            for item in np.setdiff1d(np.arange(N_ITEMS), history.rows_between(n, n + 1).items)
        }
        for n in range(N)
    }
    compare(ours, trec_eval_metrics(run, held_out, k), k)


@pytest.mark.parametrize("k", [5, 10])
def test_recommendation_lists(held_out: HeldOut, k: int) -> None:
    """Lists of 0 to 12 items."""
    lists = evaluate(Random(), held_out, (12,)).top
    lengths = np.random.default_rng(2).integers(0, 13, N)
    lists = type(lists)(lists.items, lists.scores, lengths)
    ours = evaluate_lists(lists, held_out, (5, 10), ALL_METRICS)
    run = {
        str(n): {str(item): float(-rank) for rank, item in enumerate(lists.items[n, : lengths[n]])} for n in range(N)
    }
    compare(ours, trec_eval_metrics(run, held_out, k), k)


def compare(ours: EvaluationResult, expected: dict[str, np.ndarray], k: int) -> None:
    for name, values in expected.items():
        found = ours.values[name if name == "r_precision" else f"{name}@{k}"]
        np.testing.assert_allclose(found, values, atol=1e-9, err_msg=name)


def test_a_reversed_ranking_gives_other_values(held_out: HeldOut) -> None:
    """Check that the comparisons above can fail."""
    ours = evaluate(Random(), held_out, (10,), ALL_METRICS)
    reversed_ranks: Ranks = Ranks(
        held_out.targets.offsets,
        np.arange(held_out.targets.size),
        np.zeros(held_out.targets.size, np.int64),
        np.full(N, held_out.targets.size + 1),
        ours.top,
    )
    for metric in WITH_CUTOFF:
        assert not np.allclose(metric(reversed_ranks, 10), ours.values[f"{metric.__name__}@10"])
